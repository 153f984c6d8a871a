"""Each invariant notices what it is there for: a run is spoiled by hand, and must be caught by that name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phantom import limits
from phantom.crypto.aead import CipherSuite
from phantom.crypto.providers import get_provider
from phantom.testing.simulator import Flow, InvariantViolationError, Link, Plan, VirtualTime, World
from phantom.testing.simulator.endpoint import Endpoint
from phantom.testing.simulator.invariants import INVARIANTS, View, check
from phantom.testing.simulator.seal_watch import SealWatch
from phantom.transport.session.states import Phase

LINK = Link(rate=8, latency=0.05)


def running(**options: Any) -> World:
    """A world in the middle of a transfer both ways, checked so far."""
    options = {"flows": (Flow(sender="both", total=400_000, size=3_000),), **options}
    world = World(Plan("spoiled", "", "pipe", LINK, LINK, settings={"bulk_chunk": 4096}, **options), 1)
    for session in world.sessions:
        for end in session.ends:
            end.react()
    world.clock.run(0.2)
    conn = view_of(world).conn
    assert conn.session_stream.outstanding.segments
    assert conn.session_stream.received
    return world


def view_of(world: World) -> View:
    return world.sessions[0].views[0]


def spoil_queued(view: View) -> None:
    view.conn.queued += 1


def spoil_acknowledged_too_far(view: View) -> None:
    view.other.conn.session_stream.reassembly.next_index = view.conn.session_stream.outstanding.base - 1


def spoil_flushed(view: View) -> None:
    view.conn.session_stream.outstanding.ahead = -1


def spoil_outstanding_segments(view: View) -> None:
    view.settings = view.other.settings.__class__(send_segments=1)


def spoil_sent_over_the_limit(view: View) -> None:
    credit = view.conn.session_stream.send_limit
    credit.limit = credit.sent - 1


def spoil_reorder_store(view: View) -> None:
    view.conn.session_stream.reassembly.stored = limits.MAX_REORDER_BYTES + 1


def spoil_received_over_the_window(view: View) -> None:
    stream = view.conn.session_stream
    stream.received = stream.window.limit + view.settings.bulk_chunk + 1


def spoil_huge_window(view: View) -> None:
    view.conn.session_stream.window.limit = view.conn.session_stream.received + limits.RECV_WINDOW_CEILING + 1


def spoil_credit_nobody_gave(view: View) -> None:
    view.conn.session_stream.send_limit.limit = view.other.conn.session_stream.window.limit + 1


def spoil_limit_that_falls(view: View) -> None:
    view.conn.session_stream.window.limit -= 1


def spoil_cursor_that_falls(view: View) -> None:
    view.conn.session_stream.reassembly.next_index -= 1


def spoil_acked_that_falls(view: View) -> None:
    view.marks["acknowledged bytes"] = view.conn.acked + 1


def spoil_epoch_that_falls(view: View) -> None:
    view.marks["the epoch"] = 1


def spoil_epoch_beyond_its_byte(view: View) -> None:
    view.protection.epoch = 256


def spoil_more_rekeys_than_epochs(view: View) -> None:
    view.protection.epoch = 1
    view.protection.rekeys_local = 2


def spoil_timer_after_the_end(view: View) -> None:
    view.conn.phase = Phase.CLOSED

    class Restless:
        phase = Phase.CLOSED

        def next_timer(self) -> float:
            return 1.0

        def __getattr__(self, name: str) -> Any:
            return getattr(conn, name)

    conn, view.conn = view.conn, Restless()  # type: ignore[assignment]


def spoil_timer_at_no_time(view: View) -> None:
    class Timeless:
        def next_timer(self) -> float:
            return float("nan")

        def __getattr__(self, name: str) -> Any:
            return getattr(conn, name)

    conn, view.conn = view.conn, Timeless()  # type: ignore[assignment]


def spoil_negative_count(view: View) -> None:
    view.conn.queued_messages = -1


def spoil_negative_store(view: View) -> None:
    view.conn.session_stream.pending_acks = -1


def spoil_negative_memory(view: View) -> None:
    view.memory.charged = -1


def spoil_violation_between_honest_ends(view: View) -> None:
    view.counters.protocol_violation += 1


def spoil_damage_on_a_clean_link(view: View) -> None:
    view.counters.malformed += 1


def spoil_replay_on_a_clean_link(view: View) -> None:
    view.counters.replay_rejected += 1


def spoil_account(view: View) -> None:
    view.memory.charged += 1


def spoil_hard_bound(view: View) -> None:
    view.memory._accounts["a leak"] = (view.memory.capacity * 2, 0)  # type: ignore[index]
    view.memory.charged += view.memory.capacity * 2


SPOILED: list[tuple[Callable[[View], None], str, str]] = [
    (spoil_queued, "conservation", "queued"),
    (spoil_acknowledged_too_far, "conservation", "the peer has"),
    (spoil_flushed, "conservation", "flushed"),
    (spoil_outstanding_segments, "bounds", "outstanding"),
    (spoil_sent_over_the_limit, "bounds", "over the limit"),
    (spoil_reorder_store, "bounds", "reorder store"),
    (spoil_received_over_the_window, "bounds", "over the window"),
    (spoil_huge_window, "bounds", "of window"),
    (spoil_credit_nobody_gave, "peer limit", "the peer gave"),
    (spoil_limit_that_falls, "monotone", "window limit of stream 1 fell"),
    (spoil_cursor_that_falls, "monotone", "cursor of stream 1 fell"),
    (spoil_acked_that_falls, "monotone", "acknowledged bytes fell"),
    (spoil_epoch_that_falls, "epochs", "fell"),
    (spoil_epoch_beyond_its_byte, "epochs", "256"),
    (spoil_more_rekeys_than_epochs, "epochs", "2 rekeys"),
    (spoil_timer_at_no_time, "timers", "nan"),
    (spoil_negative_count, "counters", "queued"),
    (spoil_negative_store, "counters", "stream 1"),
    (spoil_negative_memory, "counters", "memory"),
    (spoil_violation_between_honest_ends, "drops", "protocol_violation"),
    (spoil_damage_on_a_clean_link, "drops", "malformed"),
    (spoil_replay_on_a_clean_link, "drops", "replays"),
    (spoil_account, "memory", "sums"),
    (spoil_hard_bound, "memory", "charged"),
]


@pytest.mark.parametrize(("spoil", "name", "text"), SPOILED, ids=[spoil.__name__[6:] for spoil, _, _ in SPOILED])
def test_what_was_spoiled_is_noticed(spoil: Callable[[View], None], name: str, text: str) -> None:
    world = running()
    view = view_of(world)
    check(view)
    spoil(view)
    with pytest.raises(InvariantViolationError, match=text) as caught:
        check(view)
    assert caught.value.invariant == name
    assert "client at 0." in str(caught.value)


def test_a_session_that_is_over_has_no_timer_and_no_account() -> None:
    world = running()
    view = view_of(world)
    view.conn.abort(limits_error())
    view.end.react()
    check(view)
    view.memory._accounts[view.conn] = (0, 0)
    with pytest.raises(InvariantViolationError, match="still charged"):
        check(view)
    del view.memory._accounts[view.conn]
    view.conn.close_copies = 0  # as after the last copy of CLOSE
    spoil_timer_after_the_end(view)
    with pytest.raises(InvariantViolationError, match="has a timer"):
        INVARIANTS["timers"](view)


def limits_error() -> Any:
    from phantom.errors import ProtocolViolationError

    return ProtocolViolationError("for the test")


def test_what_the_network_explains_is_no_violation() -> None:
    world = running()
    view = view_of(world)
    view.damage = view.copies = True
    view.counters.malformed = view.counters.decrypt_failed = view.counters.replay_rejected = 3
    check(view)
    view.damage, view.epochs = False, True
    view.counters.malformed = 0
    check(view)


def test_a_run_ends_at_the_first_violation_and_names_it() -> None:
    plan = Plan("spoiled", "", "pipe", LINK, LINK, flows=(Flow(total=100_000),))
    world = World(plan, 1)
    world.clock.at(0.1, lambda: spoil_queued(view_of(world)))
    outcome = world.play()
    assert not outcome.ok
    assert outcome.invariant == "conservation"
    assert "client at 0.1" in outcome.failure


def test_an_exception_of_the_engine_is_a_failure_with_its_traceback() -> None:
    world = World(Plan("spoiled", "", "pipe", LINK, LINK, flows=(Flow(total=100_000),)), 1)

    def explode() -> None:
        raise RuntimeError("a bug")

    world.clock.at(0.1, explode)
    outcome = world.play()
    assert (outcome.invariant, outcome.failure) == ("no exception", "RuntimeError: a bug")
    assert "in explode" in outcome.traceback


# --- nonces ----------------------------------------------------------------------------------------------------------

NONCE = bytes(range(12))


def seal(watch: SealWatch, nonce: bytes, key: bytes = b"k" * 32) -> None:
    aead = watch.aead(CipherSuite.AES_256_GCM, key)
    aead.encrypt_into(nonce, b"data", b"aad", bytearray(20))


def test_a_nonce_that_comes_back_is_noticed_even_from_another_object_with_the_key() -> None:
    watch = SealWatch(get_provider())
    seal(watch, NONCE)
    seal(watch, NONCE, b"q" * 32)
    with pytest.raises(InvariantViolationError) as caught:
        seal(watch, NONCE)
    assert caught.value.invariant == "nonce"


def test_a_sequence_that_goes_back_is_noticed() -> None:
    watch = SealWatch(get_provider())
    later = NONCE[:7] + bytes((7, 8, 9, 11, 11))
    seal(watch, later)
    with pytest.raises(InvariantViolationError, match="nonce"):
        seal(watch, NONCE)
    seal(watch, NONCE[:6] + b"\xff" + NONCE[7:])  # another stream


def test_the_engine_under_watch_cannot_seal_twice_under_one_sequence() -> None:
    world = running()
    end, protection = world.sessions[0].ends[0], world.sessions[0].protections[0]
    protection._sequences[1] -= 1
    end.conn.send_message(b"once more")
    with pytest.raises(InvariantViolationError) as caught:
        end.react()
        world.clock.run(0.5)
    assert caught.value.invariant == "nonce"


def test_opening_is_not_watched() -> None:
    watch = SealWatch(get_provider())
    aead = watch.aead(CipherSuite.AES_256_GCM, b"k" * 32)
    sealed = bytearray(20)
    aead.encrypt_into(NONCE, b"data", b"aad", sealed)
    for _ in range(2):
        out = bytearray(4)
        assert aead.decrypt_into(NONCE, sealed, b"aad", out) == 4
        assert out == b"data"


# --- order, repetition, the driver ------------------------------------------------------------------------------------


def played(spoil: Callable[[World], None], **options: Any) -> Any:
    world = World(Plan("spoiled", "", "pipe", LINK, LINK, flows=(Flow(total=200_000, size=9_000),), **options), 1)
    world.clock.at(0.12, lambda: spoil(world))
    return world.play()


def test_a_message_out_of_order_is_noticed() -> None:
    def swap(world: World) -> None:
        messages = world.sessions[0].ends[1].conn.messages
        messages.append(b"never sent")

    outcome = played(swap)
    assert outcome.invariant == "order"
    assert "where message" in outcome.failure


def test_a_message_too_many_is_noticed() -> None:
    world = World(Plan("spoiled", "", "pipe", LINK, LINK, flows=(Flow(total=9_000, size=9_000),), idle=0.0), 1)
    world.clock.at(0.001, lambda: world.sessions[0].ends[1].conn.messages.append(b""))
    outcome = world.play()
    assert outcome.invariant == "order"


def test_bytes_read_beyond_what_was_sent_are_noticed() -> None:
    world = running()
    flow = world.sessions[0].traffic[0]
    with pytest.raises(InvariantViolationError) as caught:
        flow._was_read(flow.sent + 1)
    assert caught.value.invariant == "twice"


class Spinner:
    """A connection whose timer is always due."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def next_timer(self) -> float:
        return 0.5

    def handle_timer(self, now: float) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


def test_a_timer_that_spins_is_noticed() -> None:
    world = running()
    end = world.sessions[0].ends[0]
    end.conn = Spinner(end.conn)
    world.clock.after_step = None
    with pytest.raises(InvariantViolationError, match="one instant") as caught:
        end.react()
        world.clock.run(1.0)
    assert caught.value.invariant == "timers"


class Babbler:
    """A connection that has something to send for ever."""

    phase = Phase.ESTABLISHED
    wants_to_send = True
    accepts_writes = False

    class path:
        id = 0

    def fill(self, path_id: int, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        buf[0:8] = b"\0\0\0\4long"
        return 8

    def next_timer(self) -> None:
        return None

    def next_event(self) -> None:
        return None

    def receive(self, *window: Any) -> int:
        return 0


def babbling() -> Endpoint:
    import random

    from phantom.testing.simulator import DatagramLink

    clock = VirtualTime()
    return Endpoint("babbler", clock, Babbler(), DatagramLink(clock, random.Random(1), Link()), 1024)  # type: ignore[arg-type]


def test_an_engine_that_never_stops_filling_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phantom.testing.simulator.endpoint._FILLS", 50)
    with pytest.raises(InvariantViolationError, match="at one instant"):
        babbling().react()


def test_a_frame_that_overruns_its_batch_is_noticed() -> None:
    end = babbling()
    end.conn.fill = lambda *_: 7
    with pytest.raises(InvariantViolationError, match="too late"):
        end.react()


def test_a_datagram_that_is_not_taken_whole_is_noticed() -> None:
    end = babbling()
    with pytest.raises(InvariantViolationError, match="of a datagram"):
        end.receive(b"datagram")
