"""Two engines under a hostile hand: hypothesis chooses what applications do and what the network does, in any order.

After every step the invariants of the simulator hold at both ends; when the network is honest again everything that was
written arrives, in order, once, and both ends close. What is read is compared with what was written as it comes.
"""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from phantom.errors import StreamClosedError, StreamResetError
from phantom.testing.simulator import DatagramLink, Link, Plan, World
from phantom.testing.simulator.content import content, matches
from phantom.testing.simulator.invariants import check
from phantom.transport.session.states import Phase

END = st.integers(0, 1)
STOPPED = "stopped"


class Held(DatagramLink):
    """A link that hands over what it is told to, when it is told to."""

    __slots__ = ("held",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.held.append(data)
        del self.held[:-400]

    def deliver(self, data: bytes) -> None:
        assert self.receiver is not None
        self.receiver(data)


class Sent:
    """What went into one stream, and how it ended at the writer."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.written = 0
        self.finished = False
        self.reset: int | None = None


class Got:
    """What came out of it at the reader."""

    def __init__(self, stream: Any, writer: Sent, salt: int) -> None:
        self.stream, self.writer, self.salt = stream, writer, salt
        self.read = 0
        self.ended: object = None


class Machine(RuleBasedStateMachine):
    """See the module."""

    @initialize(seed=st.integers(0, 2**16), damage=st.booleans(), small=st.booleans())
    def begin(self, seed: int, damage: bool, small: bool) -> None:
        link = Link(latency=0.01, duplicate=0.1, corrupt=0.1 if damage else 0.0)
        options: dict[str, Any] = {"recv_window": 65_536, "recv_segments": 64} if small else {}
        options["max_streams"] = 8
        plan = Plan("machine", up=link, down=link, settings=options, guards={"soft_seals": 50})
        self.world = World(plan, seed)
        self.ends = self.world.sessions[0].ends
        self.views = self.world.sessions[0].views
        self.links = []
        for end, receiver in zip(self.ends, self.ends[::-1], strict=True):
            held = Held(self.world.clock, random.Random(seed), link)
            held.receiver = receiver.receive
            end.link = held
            end.application = None
            self.links.append(held)
        self.damage = damage
        self.rng = random.Random(seed)
        self.messages: tuple[list[int], list[int]] = ([], [])  # sizes sent by each end
        self.received = [0, 0]  # messages that came out at each end
        self.sent: tuple[dict[int, Sent], dict[int, Sent]] = ({}, {})  # by the writer's end: (opener's) streams
        self.got: tuple[dict[int, Got], dict[int, Got]] = ({}, {})
        self.live = True
        for end in self.ends:
            end.react()

    # --- applications -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(at=END, size=st.sampled_from((0, 1, 100, 1122, 1123, 5000, 40_000)))
    def send_message(self, at: int, size: int) -> None:
        conn = self.ends[at].conn
        if conn.accepts_writes and conn.has_room:
            conn.send_message(content(len(self.messages[at]), 0, size))
            self.messages[at].append(size)
            self.ends[at].react()

    @rule(at=END)
    def read_messages(self, at: int) -> None:
        conn, sizes = self.ends[at].conn, self.messages[1 - at]
        while conn.messages or conn.refill(self.world.clock.now):
            message, number = conn.messages.popleft(), self.received[at]
            assert number < len(sizes)
            assert len(message) == sizes[number]
            assert matches(number, 0, message)
            self.received[at] += 1
        self.ends[at].react()

    @precondition(lambda self: self.live)
    @rule(at=END, priority=st.integers(0, 2))
    def open_stream(self, at: int, priority: int) -> None:
        conn = self.ends[at].conn
        if conn.accepts_writes and conn.may_open:
            stream = conn.open_stream(priority, self.world.clock.now)
            assert stream.id not in self.sent[at]
            self.sent[at][stream.id] = Sent(stream)
            self.ends[at].react()

    def _pick(self, table: dict[int, Any], pick: int) -> Any:
        return list(table.values())[pick % len(table)] if table else None

    @precondition(lambda self: self.live)
    @rule(at=END, pick=st.integers(0, 50), size=st.sampled_from((1, 1126, 1127, 9000)), unreliable=st.booleans())
    def write(self, at: int, pick: int, size: int, unreliable: bool) -> None:
        end, sent = self.ends[at], self._pick(self.sent[at], pick)
        if sent is None or not end.conn.accepts_writes or not end.conn.has_room:
            return
        try:
            end.conn.write(sent.stream, content(sent.stream.id, sent.written, size))
        except (StreamClosedError, StreamResetError):
            reader = self.got[1 - at].get(sent.stream.id)
            assert sent.finished or sent.reset is not None or (reader is not None and reader.ended == STOPPED)
        else:
            assert not sent.finished
            assert sent.reset is None
            sent.written += size
        end.react()

    @precondition(lambda self: self.live)
    @rule(at=END, pick=st.integers(0, 50))
    def finish(self, at: int, pick: int) -> None:
        end, sent = self.ends[at], self._pick(self.sent[at], pick)
        if sent is not None and not sent.stream.own_ended and end.conn.accepts_writes:
            end.conn.finish(sent.stream)
            sent.finished = True
            end.react()

    @precondition(lambda self: self.live)
    @rule(at=END, pick=st.integers(0, 50))
    def finish_the_other_half(self, at: int, pick: int) -> None:
        end, got = self.ends[at], self._pick(self.got[at], pick)
        if got is not None and not got.stream.own_ended and end.conn.accepts_writes:
            end.conn.finish(got.stream)
            end.react()

    @precondition(lambda self: self.live)
    @rule(at=END, pick=st.integers(0, 50), code=st.integers(0, 9))
    def reset(self, at: int, pick: int, code: int) -> None:
        end, sent = self.ends[at], self._pick(self.sent[at], pick)
        if sent is not None and sent.reset is None and not sent.stream.own_ended and end.conn.accepts_writes:
            end.conn.reset(sent.stream, code)
            sent.reset = code
            end.react()

    @rule(at=END)
    def accept(self, at: int) -> None:
        conn = self.ends[at].conn
        while conn.accepted and (stream := conn.accept_stream(self.world.clock.now)) is not None:
            assert stream.id in self.sent[1 - at]
            assert stream.id not in self.got[at]
            self.got[at][stream.id] = Got(stream, self.sent[1 - at][stream.id], stream.id)
        self.ends[at].react()

    @rule(at=END, pick=st.integers(0, 50))
    def read(self, at: int, pick: int) -> None:
        got = self._pick(self.got[at], pick)
        if got is not None:
            self._read(at, got)

    def _read(self, at: int, got: Got) -> None:
        conn, now = self.ends[at].conn, self.world.clock.now
        while got.ended is None:
            try:
                data = conn.read(got.stream, now)
            except StreamResetError as error:
                got.ended = error.reset_code
                break
            if data is None:
                assert got.writer.finished
                assert got.read == got.writer.written
                got.ended = "end"
            elif data:
                assert got.read + len(data) <= got.writer.written
                assert matches(got.salt, got.read, data)
                got.read += len(data)
            else:
                break
        assert got.ended in (None, "end", STOPPED, got.writer.reset)
        self.ends[at].react()

    @precondition(lambda self: self.live)
    @rule(at=END, pick=st.integers(0, 50))
    def stop(self, at: int, pick: int) -> None:
        got = self._pick(self.got[at], pick)
        if got is not None and got.ended is None and self.ends[at].conn.accepts_writes:
            self.ends[at].conn.stop(got.stream, 7)
            got.ended = STOPPED
            self.ends[at].react()

    @precondition(lambda self: self.live)
    @rule(at=END)
    def rekey(self, at: int) -> None:
        end = self.ends[at]
        if end.conn.accepts_writes and self.views[at].protection.epoch < 200:
            end.conn.rekey(self.world.clock.now)
            end.react()

    # --- the network --------------------------------------------------------------------------------------------------

    @rule(at=END, count=st.integers(1, 20), pick=st.integers(0, 400))
    def deliver(self, at: int, count: int, pick: int) -> None:
        held = self.links[at].held
        for _ in range(min(count, len(held))):
            self.links[at].deliver(held.pop(pick % len(held)))

    @rule(at=END, pick=st.integers(0, 400))
    def double(self, at: int, pick: int) -> None:
        held = self.links[at].held
        if held:
            self.links[at].deliver(held[pick % len(held)])

    @rule(at=END, pick=st.integers(0, 400), count=st.integers(1, 5))
    def lose(self, at: int, pick: int, count: int) -> None:
        held = self.links[at].held
        start = pick % (len(held) + 1)
        del held[start : start + count]

    @precondition(lambda self: self.damage)
    @rule(at=END, pick=st.integers(0, 400), bit=st.integers(0, 8 * 1200))
    def damage_one(self, at: int, pick: int, bit: int) -> None:
        held = self.links[at].held
        if held:
            data = bytearray(held.pop(pick % len(held)))
            data[(bit >> 3) % len(data)] ^= 1 << (bit & 7)
            self.links[at].deliver(bytes(data))

    @rule(seconds=st.sampled_from((0.001, 0.03, 0.2)))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.run(self.world.clock.now + seconds)

    @rule()
    def everything_arrives(self) -> None:
        self._settle(3)

    def _settle(self, rounds: int) -> None:
        for _ in range(rounds):
            for link in self.links:
                waiting, link.held = link.held, []
                for data in waiting:
                    link.deliver(data)

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "world"):
            return
        for view in self.views:
            check(view)
            conn = view.conn
            if conn.phase is Phase.DEAD:
                self.live = False
            else:
                assert conn.error is None, conn.error

    def teardown(self) -> None:
        """The network is honest from here on: all of it arrives."""
        if not hasattr(self, "world"):
            return
        clock = self.world.clock
        for _ in range(400):
            if any(end.conn.phase.over for end in self.ends):
                return  # silence took the session before: the network was held too long
            self._settle(1)
            for at in (0, 1):
                self.accept(at)
                self.read_messages(at)
                for got in self.got[at].values():
                    self._read(at, got)
            check(self.views[0])
            check(self.views[1])
            if not any(link.held for link in self.links):
                if all(channel.quiet for end in self.ends for channel in end.conn.channels()):
                    break
                clock.run(clock.now + 0.05)
        for at in (0, 1):
            assert self.received[at] == len(self.messages[1 - at])
            for stream_id, sent in self.sent[1 - at].items():
                got = self.got[at].get(stream_id)
                if got is None or got.ended == STOPPED or sent.reset is not None:
                    continue
                assert got.read == sent.written
                assert got.ended == ("end" if sent.finished else None)
        self.ends[0].conn.close(0, clock.now)
        self.ends[0].react()
        for _ in range(200):
            self._settle(1)
            clock.run(clock.now + 0.05)
        for view in self.views:
            check(view)
            assert view.conn.phase.over
            assert view.memory.charged == view.memory.credit == 0


TestEngines = Machine.TestCase
TestEngines.settings = settings(max_examples=60, stateful_step_count=40)
