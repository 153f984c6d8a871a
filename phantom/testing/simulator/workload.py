"""What simulated applications do, and the ledger of what they sent: whatever is read is compared with it at once."""

from __future__ import annotations

import abc
import random
from collections.abc import Callable
from typing import Any, Final

from phantom.errors import PhantomError, StreamLimitError, StreamResetError
from phantom.testing.simulator.content import content, matches
from phantom.testing.simulator.endpoint import Endpoint
from phantom.testing.simulator.errors import InvariantViolationError
from phantom.testing.simulator.plan import Flow
from phantom.transport.session.stream_states import StreamState

__all__ = ["Application", "MessageFlow", "StreamFlow", "Traffic", "UnreliableFlow"]

_RESET_CODE: Final = 4711
_STOP_CODE: Final = 815
_BURST: Final = 64  # writes of a flow in one turn of its application


class Traffic(abc.ABC):
    """One direction of one flow: its writer, its reader and the ledger in between."""

    def __init__(self, flow: Flow, writer: Endpoint, reader: Endpoint, rng: random.Random, salt: int) -> None:
        self.flow = flow
        self.writer = writer
        self.reader = reader
        self.clock = writer.clock
        self.salt = salt
        self._rng = rng
        self.left = flow.total
        self.sent = 0  # bytes accepted by the engine
        self.read = 0  # bytes that the reader took
        self.first_sent: float | None = None
        self.last_read = 0.0
        self._next_write = flow.start
        self._next_read = 0.0
        self._write_planned = self._read_planned = False
        self._write_soon(flow.start)

    @property
    def done(self) -> bool:
        """True once everything was read that was sent, and all of it was sent."""
        return not self.left and self.read == self.sent

    # --- pace ---------------------------------------------------------------------------------------------------------

    def _size(self) -> int:
        flow = self.flow
        size = flow.size
        if flow.spread:
            size = max(1, round(size * (1 + flow.spread * (2 * self._rng.random() - 1))))
        return min(size, self.left)

    def _write_soon(self, when: float) -> None:
        if not self._write_planned:
            self._write_planned = True
            self.clock.at(when, self._write_now)

    def _write_now(self) -> None:
        self._write_planned = False
        self.writer.react()

    def _read_soon(self, when: float) -> None:
        if not self._read_planned:
            self._read_planned = True
            self.clock.at(when, self._read_now)

    def _read_now(self) -> None:
        self._read_planned = False
        self.reader.react()

    @abc.abstractmethod
    def write(self) -> None:
        """The writer's turn."""

    def may_read(self) -> bool:
        """Is it the reader's time? If not, it is called when it is."""
        flow, now = self.flow, self.clock.now
        when = self._next_read
        if flow.read_off:
            at = now % (flow.read_on + flow.read_off)
            if at >= flow.read_on:
                when = max(when, now + flow.read_on + flow.read_off - at)
        if when > now:
            self._read_soon(when)
            return False
        return True

    def _was_read(self, size: int) -> None:
        now = self.clock.now
        self.read += size
        self.last_read = now
        if self.flow.read_rate:
            self._next_read = max(now, self._next_read) + size / self.flow.read_rate
        if self.read > self.sent:
            raise InvariantViolationError("twice", f"{self.reader.name} has read {self.read} bytes of {self.sent}")

    def _wrong(self, what: str) -> InvariantViolationError:
        return InvariantViolationError("order", f"{self.reader.name} read {what}")

    def _may_write(self) -> bool:
        conn = self.writer.conn
        return bool(conn.accepts_writes and conn.has_room)

    @abc.abstractmethod
    def read_turn(self) -> None:
        """The reader's turn."""


class _Paced(Traffic):
    """One write after the other, as fast as the engine has room or as the flow says."""

    def write(self) -> None:
        """The writer's turn."""
        now, flow = self.clock.now, self.flow
        burst = _BURST
        while self.left and self._may_write():
            if self._next_write > now:
                self._write_soon(self._next_write)
                return
            if not burst:
                self._write_soon(now)
                return
            burst -= 1
            if self.first_sent is None:
                self.first_sent = now
            self._write_one()
            if flow.interval:
                self._next_write = max(self._next_write, now - flow.interval) + flow.interval

    @abc.abstractmethod
    def _write_one(self) -> None:
        """One write, of :meth:`_size` bytes."""


class MessageFlow(_Paced):
    """Messages of stream 1. One flow of messages a direction, for they have no sender's name on them."""

    def __init__(self, flow: Flow, writer: Endpoint, reader: Endpoint, rng: random.Random, salt: int) -> None:
        super().__init__(flow, writer, reader, rng, salt)
        self._sizes: list[int] = []
        self._number = 0

    def _write_one(self) -> None:
        size = self._size()
        self.writer.conn.send_message(content(self.salt + len(self._sizes), 0, size))
        self._sizes.append(size)
        self.sent += size
        self.left -= size

    def read_turn(self) -> None:
        """Takes messages and compares each with the one that must come."""
        conn = self.reader.conn
        while self.may_read() and (conn.messages or conn.refill(self.clock.now)):
            message = conn.messages.popleft()
            number = self._number
            if number >= len(self._sizes):
                raise self._wrong(f"message {number}, which was never sent")
            if len(message) != self._sizes[number] or not matches(self.salt + number, 0, message):
                raise self._wrong(f"{len(message)} bytes where message {number} of {self._sizes[number]} bytes belongs")
            self._number += 1
            self._was_read(len(message))
        conn.reader_waits = not conn.messages


class _StreamLedger:
    """One stream from its writer to its reader."""

    __slots__ = (
        "cut_at",
        "ended",
        "finished",
        "left",
        "read",
        "replied",
        "reset",
        "stop_at",
        "stopped",
        "stream",
        "taken",
        "written",
    )

    def __init__(self, stream: Any, size: int, cut_at: int | None, stop_at: int | None) -> None:
        self.stream = stream  # at the writer
        self.taken: Any = None  # at the reader, once accepted
        self.left = size
        self.written = 0
        self.read = 0
        self.cut_at = cut_at  # bytes written when the writer resets it
        self.stop_at = stop_at  # bytes read when the reader stops it
        self.finished = False
        self.replied = False  # the reader has ended its own half
        self.reset = False
        self.stopped = False
        self.ended = False  # the reader has seen the end, whichever


class StreamFlow(Traffic):
    """Bytes on streams that the writer opens one after the other, some of which end early."""

    def __init__(self, flow: Flow, writer: Endpoint, reader: Endpoint, rng: random.Random, salt: int) -> None:
        super().__init__(flow, writer, reader, rng, salt)
        self._unopened = flow.streams
        self._each = max(1, flow.total // flow.streams)
        self.left = flow.total if flow.streams > 1 else self._each
        self.ledgers: dict[int, _StreamLedger] = {}
        self.abandoned = 0  # bytes that a reset or a stop made void
        self.resets_seen = 0
        self.stops = 0
        self.ends_seen = 0

    @property
    def done(self) -> bool:
        """True once every stream was opened and the reader has seen how each ended."""
        return not self._unopened and all(map(self._over, self.ledgers.values()))

    def _over(self, ledger: _StreamLedger) -> bool:
        """The reader has seen the end, or never will: a stream of which nothing left before its reset ends unheard."""
        unheard = ledger.reset and ledger.taken is None and not ledger.stream.outstanding.next_index
        ledger.ended = ledger.ended or (unheard and ledger.stream.state is StreamState.CLOSED)
        return ledger.ended

    def write(self) -> None:
        """Opens what may be opened and writes on what is open, a write each in turn."""
        now = self.clock.now
        if now < self.flow.start:
            self._write_soon(self.flow.start)
            return
        self._open(now)
        if self._next_write > now:
            self._write_soon(self._next_write)
            return
        burst, moved = _BURST, True
        while moved and burst:
            moved = False
            for stream_id, ledger in self.ledgers.items():
                if not ledger.left or ledger.reset or ledger.ended or not self._may_write():
                    continue
                if self.first_sent is None:
                    self.first_sent = now
                self._write_on(stream_id, ledger)
                burst -= 1
                moved = not self.flow.interval
        if self.flow.interval and self._wants_to_write():
            self._next_write = now + self.flow.interval
            self._write_soon(self._next_write)
        elif moved:
            self._write_soon(now)

    def _wants_to_write(self) -> bool:
        return self._unopened > 0 or any(ledger.left and not ledger.reset for ledger in self.ledgers.values())

    def _open(self, now: float) -> None:
        flow, conn, rng = self.flow, self.writer.conn, self._rng
        live = sum(not self._over(ledger) for ledger in self.ledgers.values())
        while self._unopened and live < flow.parallel and conn.accepts_writes and conn.may_open:
            try:
                stream = conn.open_stream(flow.priority, now)
            except StreamLimitError as error:
                raise InvariantViolationError("streams", f"may_open was true, and then: {error}") from error
            size = (
                self._each
                if not flow.spread
                else max(1, round(self._each * (1 + flow.spread * (2 * rng.random() - 1))))
            )
            cut = rng.randrange(size) if rng.random() < flow.reset else None
            stop = rng.randrange(size) if cut is None and rng.random() < flow.stop else None
            if stream.id in self.ledgers:
                raise InvariantViolationError("streams", f"stream {stream.id} was opened twice")
            self.ledgers[stream.id] = _StreamLedger(stream, size, cut, stop)
            self._unopened -= 1
            live += 1

    def _write_on(self, stream_id: int, ledger: _StreamLedger) -> None:
        conn = self.writer.conn
        size = min(self.flow.size, ledger.left)
        if ledger.cut_at is not None and ledger.written + size > ledger.cut_at:
            ledger.reset = True
            self.abandoned += ledger.left
            ledger.left = 0
            conn.reset(ledger.stream, _RESET_CODE)
            return
        try:
            conn.write(ledger.stream, content(self.salt + stream_id, ledger.written, size))
        except StreamResetError as error:
            if ledger.stop_at is None or error.reset_code != _STOP_CODE:
                raise self._wrong(f"{error} on stream {stream_id}, which nobody stopped") from error
            self.abandoned += ledger.left
            ledger.left = 0
            ledger.reset = True
            return
        ledger.written += size
        ledger.left -= size
        self.sent += size
        if not ledger.left:
            ledger.finished = True
            conn.finish(ledger.stream)

    def accept(self, stream: Any) -> bool:
        """A stream that the reader's end accepted; True if it is one of this flow."""
        ledger = self.ledgers.get(stream.id)
        if ledger is None:
            return False
        if ledger.taken is not None:
            raise self._wrong(f"stream {stream.id}, accepted a second time")
        ledger.taken = stream
        if stream.id & 2:  # its other half carries nothing: some say so at once, some when they have read all
            self._end_reply(ledger)
        return True

    def _end(self, ledger: _StreamLedger) -> None:
        """The reader has seen the end: there is room for another stream."""
        ledger.ended = True
        self._end_reply(ledger)
        self._write_soon(self.clock.now)

    def _end_reply(self, ledger: _StreamLedger) -> None:
        if not ledger.replied and self.reader.conn.accepts_writes:
            ledger.replied = True
            self.reader.conn.finish(ledger.taken)

    def read_turn(self) -> None:
        """Reads what is there on every accepted stream and compares it."""
        for stream_id, ledger in self.ledgers.items():
            if ledger.taken is not None and not ledger.ended:
                self._read_on(stream_id, ledger)

    def _read_on(self, stream_id: int, ledger: _StreamLedger) -> None:
        conn, now = self.reader.conn, self.clock.now
        while not ledger.ended and self.may_read():
            try:
                data = conn.read(ledger.taken, now)
            except StreamResetError as error:
                self._saw_reset(stream_id, ledger, error)
                return
            except PhantomError:
                if conn.phase.over:
                    return
                raise
            if data is None:
                if not ledger.finished or ledger.read != ledger.written:
                    raise self._wrong(f"the end of stream {stream_id} after {ledger.read} of {ledger.written} bytes")
                self._end(ledger)
                self.ends_seen += 1
                return
            if not data:
                return
            if ledger.read + len(data) > ledger.written:
                raise self._wrong(f"{ledger.read + len(data)} bytes of stream {stream_id}, of {ledger.written} written")
            if not matches(self.salt + stream_id, ledger.read, data):
                raise self._wrong(f"wrong bytes on stream {stream_id} at {ledger.read}")
            ledger.read += len(data)
            self._was_read(len(data))
            if ledger.stop_at is not None and not ledger.stopped and ledger.read > ledger.stop_at:
                ledger.stopped = True  # nothing more is read from it
                conn.stop(ledger.taken, _STOP_CODE)
                self._end(ledger)
                self.stops += 1

    def _saw_reset(self, stream_id: int, ledger: _StreamLedger, error: StreamResetError) -> None:
        if not ledger.reset or error.reset_code != _RESET_CODE:
            raise self._wrong(f"a reset with code {error.reset_code} of stream {stream_id}, which nobody reset")
        self._end(ledger)
        self.resets_seen += 1


class UnreliableFlow(_Paced):
    """Chunks without a promise: some may be missing, none comes twice or changed."""

    def __init__(self, flow: Flow, writer: Endpoint, reader: Endpoint, rng: random.Random, salt: int) -> None:
        super().__init__(flow, writer, reader, rng, salt)
        self._stream: Any = None
        self._taken: Any = None
        self._number = 0
        self._missing: set[int] = set()
        self._sizes: list[int] = []
        self._over = False

    @property
    def done(self) -> bool:
        """True once everything was sent; nobody waits for what may be lost."""
        return self._over

    def _may_write(self) -> bool:
        conn = self.writer.conn
        return bool(conn.accepts_writes and conn.has_room and (self._stream is not None or conn.may_open))

    def _write_one(self) -> None:
        conn, now = self.writer.conn, self.clock.now
        if self._stream is None:
            self._stream = conn.open_stream(self.flow.priority, now)
        size = max(4, min(self._size(), self._stream.max_unreliable_size))
        number = len(self._sizes)
        data = number.to_bytes(4, "big") + content(self.salt + number, 0, size - 4)
        conn.write_unreliable(self._stream, data, now)
        self._sizes.append(size)
        self._missing.add(number)
        self.sent += size
        self.left = max(0, self.left - size)
        if not self.left:
            self._over = True
            conn.finish(self._stream)

    def accept(self, stream: Any) -> bool:
        """A stream that the reader's end accepted; True if it is this one."""
        if self._stream is None or stream.id != self._stream.id:
            return False
        self._taken = stream
        if self.reader.conn.accepts_writes:
            self.reader.conn.finish(stream)  # nothing comes back
        return True

    def read_turn(self) -> None:
        """Takes chunks and strikes them off the list."""
        conn, now = self.reader.conn, self.clock.now
        while self._taken is not None and self.may_read():
            try:
                data = conn.read(self._taken, now)
            except PhantomError:
                if conn.phase.over:
                    return
                raise
            if not data:
                return
            number = int.from_bytes(data[:4], "big")
            if number not in self._missing:
                raise InvariantViolationError("twice", f"{self.reader.name} read chunk {number} twice, or never sent")
            self._missing.discard(number)
            if len(data) != self._sizes[number] or not matches(self.salt + number, 0, data[4:]):
                raise self._wrong(f"chunk {number} changed")
            self._was_read(len(data))


_FLOWS: Final[dict[str, type[Traffic]]] = {"messages": MessageFlow, "streams": StreamFlow, "unreliable": UnreliableFlow}


class Application:
    """The application at one end: readers first, then writers."""

    def __init__(self, end: Endpoint) -> None:
        self.end = end
        self.writers: list[Traffic] = []
        self.readers: list[Traffic] = []
        self._turns: list[Callable[[], None]] = []
        end.application = self.turn

    def turn(self) -> None:
        """Whatever happened: reads what is there, writes what there is room for."""
        conn = self.end.conn
        while conn.accepted and (stream := conn.accept_stream(self.end.clock.now)) is not None:
            if not any(isinstance(flow, StreamFlow | UnreliableFlow) and flow.accept(stream) for flow in self.readers):
                raise InvariantViolationError(
                    "streams", f"{self.end.name} accepted stream {stream.id}, which nobody opened"
                )
        conn.touched = None
        for flow in self.readers:
            flow.read_turn()
        if conn.accepts_writes:
            for flow in self.writers:
                flow.write()


def traffic(flow: Flow, client: Application, server: Application, rng: random.Random, salt: int) -> list[Traffic]:
    """The directions of ``flow``, entered at the applications of both ends."""
    made = []
    pairs = {"client": ((client, server),), "server": ((server, client),), "both": ((client, server), (server, client))}
    for number, (writer, reader) in enumerate(pairs[flow.sender]):
        one = _FLOWS[flow.kind](flow, writer.end, reader.end, random.Random(rng.getrandbits(64)), salt + 7919 * number)
        writer.writers.append(one)
        reader.readers.append(one)
        made.append(one)
    return made
