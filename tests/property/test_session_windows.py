"""Properties of flow control and of the receive-memory account (wire-native §14.6, §14.11)."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from phantom import limits
from phantom.transport.session.flow_control import ReceiveWindow, SendLimit
from phantom.transport.session.memory import ReceiveMemory

MiB = limits.MiB
STEPS = st.lists(
    st.tuples(st.integers(0, 4 * MiB), st.integers(-MiB, 64 * MiB), st.floats(0, 1), st.booleans()), max_size=30
)


@given(st.sampled_from((64 * 1024, MiB, 16 * MiB)), STEPS)
def test_credit_never_exceeds_the_cap_nor_shrinks(ceiling: int, steps: list[tuple[int, int, float, bool]]) -> None:
    window = ReceiveWindow(ceiling)
    window.open_first(64 * MiB, 0.0)
    consumed, now, last = 0, 0.0, limits.INITIAL_STREAM_WINDOW
    for more, free, elapsed, creeping in steps:
        consumed += min(more, last - consumed)  # an honest peer sends no more than it may
        now += elapsed
        before = window.window
        window.observe(consumed, free, 0.1, now)
        assert window.window - limits.INITIAL_STREAM_WINDOW <= max(before - limits.INITIAL_STREAM_WINDOW, free // 2)
        if window.due(consumed, creeping=creeping):
            limit = window.advertise(consumed, creeping=creeping)
            assert last <= limit <= max(last, consumed + ceiling)
            if creeping:
                assert limit <= max(last, consumed + limits.INITIAL_STREAM_WINDOW)
            last = limit
        assert not window.due(consumed, creeping=creeping)
        assert window.limit == last
        # whoever has used up its credit is told of more
        if consumed == last:
            assert window.due(consumed, creeping=True)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 100 * MiB)), max_size=30))
def test_a_sender_honours_at_most_one_window_more(steps: list[tuple[int, int]]) -> None:
    limit, highest = SendLimit(), limits.INITIAL_STREAM_WINDOW
    for announced, wanted in steps:
        before = limit.limit
        raised = limit.raise_to(announced)
        highest = max(highest, announced)
        assert raised == (limit.limit > before)
        assert before <= limit.limit <= min(highest, max(before, limit.sent + limits.MAX_SEND_WINDOW))
        assert 0 <= limit.room <= limits.MAX_SEND_WINDOW
        if wanted <= limit.room:
            limit.sent += wanted
        elif limit.may_cut(wanted, outstanding=False):
            assert limit.room > 0
            limit.sent += limit.room


class Session:
    """A holder whose charges the test decides."""

    def __init__(self, memory: ReceiveMemory) -> None:
        self.memory = memory
        self.charge = 0
        self.ended = False
        self.held = False

    def recount(self, *, exact: bool) -> int:
        return self.charge

    def end_busy(self) -> None:
        assert not self.ended
        self.ended = True

    def memory_freed(self) -> None:
        assert not self.memory.used_up
        self.held = False


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 400), st.integers(0, 500), st.floats(0, 3), st.booleans()),
        max_size=60,
    )
)
@example([(0, 400, 0, 0.0, False), (1, 400, 0, 0.0, False), (2, 300, 0, 0.0, False), (3, 0, 0, 3.0, True)] * 2)
@example([*((who, 350, 0, 0.0, False) for who in range(3)), (3, 0, 0, 3.0, True), (3, 0, 0, 3.0, True)])
def test_the_account_is_exact_and_bounded(steps: list[tuple[int, int, int, float, bool]]) -> None:
    memory = ReceiveMemory(1000)
    sessions = [Session(memory) for _ in range(10)]
    now, live = 0.0, {}
    for who, charge, credit, elapsed, leaves in steps:
        now += elapsed
        deadline = memory.deadline()
        if deadline is not None and now >= deadline:
            memory.enforce(now)  # as the timer of every session does
        session = sessions[who]
        if session.ended:
            continue
        if leaves:
            memory.release(session)
            live.pop(who, None)
        else:
            session.charge = charge
            live[who] = (charge, credit)
            memory.report(session, charge, credit, now)
            session.held = memory.used_up and not session.ended
        live = {index: value for index, value in live.items() if not sessions[index].ended}
        assert memory.charged == sum(charge for charge, _ in live.values())
        assert memory.credit == sum(credit for _, credit in live.values())
        assert memory.charged * 8 < 1000 * 9
        assert memory.used_up == (memory.charged >= 1000)
        assert (memory.deadline() is None) == (not memory.used_up)
        assert memory.deadline() is None or memory.deadline() > now
        if not memory.used_up:
            assert not any(sessions[index].held for index in live)
