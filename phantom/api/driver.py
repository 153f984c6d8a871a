"""Drives one session engine on one leg: buffers, timers, waiting tasks (architecture §4).

The driver is the leg's owner. The first message of a loop turn leaves at once; what follows in the same turn is
gathered until the turn ends or a batch is full (notes of the data path: docs/architecture).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from phantom import limits
from phantom.api.waiting import Deadline, StreamWaits, WaitQueue
from phantom.errors import FrameTooLargeError, PhantomError, StreamLimitError
from phantom.runtime.base import Runtime, Timer
from phantom.transport.legs.base import Leg
from phantom.transport.session.connection import Connection
from phantom.transport.session.states import Phase
from phantom.transport.session.streams import Stream

__all__ = ["SessionDriver"]

_LOW_WATER = limits.SEND_BUFFER_CAP - limits.SEND_BATCH  # waiting writers resume one batch below the cap
_FAIR_BYTES = limits.MiB  # a writer that never waits yields to the loop this often


class SessionDriver:
    """One established session at work. All calls in the thread of its loop; no call blocks."""

    __slots__ = (
        "_ended",
        "_gathering",
        "_leg",
        "_loop",
        "_now",
        "_on_change",
        "_runtime",
        "_scheduled",
        "_since_yield",
        "_timer",
        "_timer_at",
        "_waited_for",
        "acceptors",
        "acknowledged",
        "admission",
        "conn",
        "confirmed",
        "given_back",
        "messages",
        "openers",
        "over",
        "posted",
        "readers",
        "writers",
    )

    def __init__(self, conn: Connection, leg: Leg, runtime: Runtime, on_change: Callable[[], None]) -> None:
        self.conn = conn
        self.messages = conn.messages
        self._leg = leg
        self._runtime = runtime
        self._on_change = on_change  # there are events, or the session is over
        self.readers = WaitQueue(runtime)
        self.writers = WaitQueue(runtime)
        self.acknowledged = WaitQueue(runtime)
        self.confirmed = WaitQueue(runtime)
        self.over = WaitQueue(runtime)
        self.openers: WaitQueue | None = None  # made when somebody waits: most sessions have no streams
        self.acceptors: WaitQueue | None = None
        self._waited_for: set[StreamWaits] | None = None  # streams with waiters, whom the session's end wakes
        self.given_back: deque[Stream] | None = None  # accepted, and the caller was interrupted before it had them
        self._loop = asyncio.get_running_loop()
        self.admission: Callable[[], None] | None = None  # called once: the session may be used, or is over before that
        self.posted: Callable[[], None] | None = None  # brings in what other threads have posted
        self._gathering = False
        self._scheduled = False
        self._since_yield = 0
        self._now = runtime.monotonic()  # at the last call of the leg or the timer
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._ended = False
        conn.wake = self._woken

    def start(self) -> None:
        """Takes the leg over and sends what establishment owes (§6.4)."""
        self._leg.owner = self
        self._settle()

    # --- for the API --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """Queues one message at once; False if the writer has to wait first, or to be told that it cannot write."""
        conn = self.conn
        if (
            conn.queued > limits.SEND_BUFFER_CAP
            or self._since_yield >= _FAIR_BYTES
            or conn.phase is not Phase.ESTABLISHED
            or self.writers
        ):
            return False
        self.queue(data)
        return True

    @property
    def runtime(self) -> Runtime:
        """Clock, tasks and timers."""
        return self._runtime

    @property
    def may_write(self) -> bool:
        """True if a write is queued at once; False if it has to wait first, or to be told that it cannot be."""
        conn = self.conn
        return (
            conn.queued <= limits.SEND_BUFFER_CAP
            and self._since_yield < _FAIR_BYTES
            and conn.phase is Phase.ESTABLISHED
            and not self.writers
        )

    async def room(self, deadline: Deadline, stream: Stream | None = None) -> None:
        """Waits until the send buffer takes another write; raises what a write would.

        Returns early when the sending half of ``stream`` has ended: the write itself will say how.
        """
        conn = self.conn
        conn.check_sendable()
        among = None if stream is None else self.waits_of(stream).writers
        yields = self._since_yield >= _FAIR_BYTES
        if yields:  # in the queue as well, so that nobody overtakes
            self._since_yield = 0
            self._runtime.call_soon(self._next_writer)
        while yields or self.writers or not conn.has_room:
            if stream is not None and stream.write_ended:
                break
            yields = False
            await self.writers.wait(deadline, "the peer takes no more data; nothing could be queued", among)
            conn.check_sendable()
            if conn.has_room:
                break

    def _next_writer(self) -> None:
        if self.conn.has_room:
            self.writers.wake(1)

    def queue(self, data: bytes, stream: Stream | None = None, *, reliable: bool = True) -> None:
        """Queues one message, or one write of ``stream``, and lets it leave: at once, with its batch, or at the end
        of this turn. Raises what the stream raises."""
        conn = self.conn
        if stream is None:
            conn.send_message(data)
        else:
            try:
                if reliable:
                    conn.write(stream, data)
                else:
                    conn.write_unreliable(stream, data, self._runtime.monotonic())
            except PhantomError:
                if self.writers:  # the turn that this one had is another's
                    self._next_writer()
                raise
        self._since_yield += len(data)
        if self.writers and conn.queued <= _LOW_WATER:  # not before this one counts, or the next would wait again, last
            self.writers.wake(1)
        if not self._gathering:
            self._gathering = True  # until this turn ends, or the next one begins with bytes that arrive
            self._leg.flush()
            self._arm()
            return
        if conn.queued >= limits.SEND_BATCH and not conn.path.blocked and conn.wants_to_send:
            self._leg.flush()
        self._soon()

    def refill(self) -> bool:
        """The message queue is empty: splits what waits; True if there is a message now."""
        conn = self.conn
        found = conn.refill(self._runtime.monotonic())
        if conn.wants_to_send or conn.phase.over:
            self._settle()
        return found

    def close(self, code: int, timeout: float | None) -> None:
        """Begins an orderly close."""
        if self.posted is not None:
            self.posted()
        self._now = self._runtime.monotonic()
        self.conn.close(code, self._now, timeout)
        self._drop_timer()  # the new deadline may be the next one
        self._settle()

    def abort(self, error: PhantomError) -> None:
        """Ends the session at once; CLOSE carries the error's code."""
        self.conn.abort(error)
        self._settle()

    def client_verdict(self, accepted: bool) -> None:
        """Whether the client that has proved its identity may come in (§15.7)."""
        self.conn.client_verdict(accepted, self._runtime.monotonic())
        self._woken()

    def abandon(self) -> None:
        """Nobody holds the session: ends it without a word and without lingering."""
        self.leg_lost(None)
        self._leg.close(linger=False)

    # --- streams ------------------------------------------------------------------------------------------------------

    async def open_stream(self, priority: int, wait: bool, deadline: Deadline) -> Stream:
        """A new stream of this side, announced when this turn ends. Raises StreamLimitError, or what a write would."""
        conn = self.conn
        conn.check_sendable()
        while self.openers or not conn.may_open:
            if not wait:
                raise StreamLimitError(f"{limits.MAX_STREAMS} streams of this side are open; finish some, or wait")
            if self.openers is None:
                self.openers = WaitQueue(self._runtime)
            await self.openers.wait(deadline, "no open stream ended, and no more may be opened")
            conn.check_sendable()
            if conn.may_open:
                break
        try:
            stream = conn.open_stream(priority, self._runtime.monotonic())
        finally:
            if self.openers and conn.may_open:
                self.openers.wake(1)
        self._soon()
        return stream

    async def accept_stream(self, deadline: Deadline) -> Stream:
        """The next stream that the peer opened; once there is none, what ended the session."""
        conn = self.conn
        waited = False
        while True:
            if waited or not self.acceptors:
                stream = self.given_back.popleft() if self.given_back else conn.accept_stream(self._runtime.monotonic())
                if stream is not None:
                    if self.acceptors and (conn.accepted or self.given_back):
                        self.acceptors.wake(1)
                    if conn.wants_to_send:
                        self._settle()
                    return stream
                if conn.phase.over:
                    if self.acceptors:
                        self.acceptors.wake_all()
                    raise conn.end_error()
            if self.acceptors is None:
                self.acceptors = WaitQueue(self._runtime)
            await self.acceptors.wait(deadline, "no stream arrived")
            waited = True

    def give_back(self, stream: Stream) -> None:
        """The caller of :meth:`accept_stream` never got it: the next one does."""
        if self.given_back is None:
            self.given_back = deque()
        self.given_back.append(stream)
        if self.acceptors:
            self.acceptors.wake(1)

    def waits_of(self, stream: Stream) -> StreamWaits:
        """The record of who waits for ``stream``."""
        waits = stream.user
        if waits is None:
            waits = stream.user = StreamWaits(self._runtime)
        assert isinstance(waits, StreamWaits)
        return waits

    def read(self, stream: Stream) -> bytes | None:
        """What the stream has: bytes, b"" if nothing is there yet, None at its end. Raises as ``Connection.read``."""
        conn = self.conn
        chunk = conn.read(stream, self._runtime.monotonic())
        if conn.wants_to_send or conn.progress:
            self._settle()
        return chunk

    async def readable(self, waits: StreamWaits, deadline: Deadline) -> None:
        """Waits for a turn to read one stream."""
        self.watch(waits)
        try:
            await waits.readers.wait(deadline, "nothing arrived on the stream")
        finally:
            if not waits.readers and waits.watch is None:
                self.unwatch(waits)

    def watch(self, waits: StreamWaits) -> None:
        """From now on the end of the session wakes those who wait for this stream."""
        if self._waited_for is None:
            self._waited_for = set()
        self._waited_for.add(waits)

    def unwatch(self, waits: StreamWaits) -> None:
        """Nobody waits for this stream any more."""
        if self._waited_for is not None:
            self._waited_for.discard(waits)
            if not self._waited_for:
                self._waited_for = None

    def set_priority(self, stream: Stream, priority: int) -> None:
        """The next packet of the stream is scheduled by ``priority``."""
        self.conn.set_priority(stream, priority)

    def finish_stream(self, stream: Stream) -> None:
        """Queues the end of the sending half."""
        if not stream.write_ended:
            self.conn.check_sendable()
        self.conn.finish(stream)
        self._half_ended(stream)

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Abandons the sending half."""
        self.conn.reset(stream, code)
        self._half_ended(stream)

    def stop_stream(self, stream: Stream, code: int) -> None:
        """Asks the peer to abandon its half; what is there of it goes."""
        self.conn.stop(stream, code)
        self._forget_unread(stream)
        self._soon()

    def conclude_stream(self, stream: Stream) -> None:
        """Nothing more is written: finishes the sending half unless it is over."""
        if not stream.write_ended and self.conn.accepts_writes:
            self.finish_stream(stream)

    def abandon_stream(self, stream: Stream) -> None:
        """Nothing more is written or read: resets what is not finished, stops the peer's half."""
        conn = self.conn
        if not conn.accepts_writes:
            return
        if conn.supports_reset:
            if not stream.write_ended:
                self.reset_stream(stream, 0)
            self.stop_stream(stream, 0)
        else:  # a version-1 session can but finish, and let go of whatever comes
            self.conclude_stream(stream)
            self.waits_of(stream).watch = partial(self._forget_unread, stream)
            self._forget_unread(stream)

    def _forget_unread(self, stream: Stream) -> None:
        """Nobody reads the peer's half any more: what it holds is given back to the window and to receive memory."""
        now = self._runtime.monotonic()
        with suppress(PhantomError):  # it was reset, or is stopped: there is nothing left
            while self.conn.read(stream, now):
                pass

    def stream_dropped(self, stream: Stream, *, read_out: bool) -> None:
        """The last reference of the application is gone. Called by the collector, in any thread and at any moment."""
        if self._ended or (read_out and stream.write_ended):
            return
        verb = self.conclude_stream if read_out else self.abandon_stream
        with suppress(RuntimeError):  # the loop is closed, and so is the session
            self._loop.call_soon_threadsafe(verb, stream)

    def _half_ended(self, stream: Stream) -> None:
        if isinstance(stream.user, StreamWaits):
            stream.user.wake_writers()
        self._soon()

    def _stream_changed(self, stream: Stream) -> None:
        waits = stream.user
        if isinstance(waits, StreamWaits):
            if stream.write_ended:
                waits.wake_writers()
            if stream.readable:
                waits.readers.wake(1)  # which passes on what it leaves
            if waits.watch is not None:
                waits.watch()

    async def rekey(self, deadline: Deadline) -> int:
        """Changes the keys of both directions; the new epoch. Waits until the peer has confirmed the last change."""
        conn = self.conn
        conn.check_sendable()
        while (epoch := conn.rekey(self._runtime.monotonic())) is None:
            await self.acknowledged.wait(deadline, "the peer did not confirm the last change of keys")
            conn.check_sendable()
        self._settle()
        return epoch

    # --- the leg's owner ----------------------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        """A whole window: established sessions read as much as there is."""
        return limits.READ_WINDOW

    @property
    def batch_size(self) -> int:
        """Room for the largest packet and a few session frames."""
        return self.conn.batch_size

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """Bytes arrived (LegOwner)."""
        self._gathering = False
        conn = self.conn
        self._now = now = self._runtime.monotonic()
        try:
            at = conn.receive(conn.path.id, buf, view, start, end, now)
        except FrameTooLargeError as error:
            conn.path_lost(now, error)
            at = end
        self._settle()
        return at

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """A batch may leave (LegOwner)."""
        conn = self.conn
        self._now = now = self._runtime.monotonic()
        end = conn.fill(conn.path.id, buf, view, at, cap, now)
        if self.writers and conn.queued <= _LOW_WATER:
            self.writers.wake(1)
        if conn.progress:  # filling found the session unable to go on
            self._woken()
        return end

    def leg_blocked(self, blocked: bool) -> None:
        """Bytes wait in the leg, or none do any more (LegOwner)."""
        self.conn.path_blocked(blocked, self._runtime.monotonic())
        if not blocked:
            self._arm()

    def leg_lost(self, error: PhantomError | None) -> None:
        """The leg is gone (LegOwner)."""
        self.conn.path_lost(self._runtime.monotonic(), error)
        self._settle()

    # --- after every call ---------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        conn = self.conn
        if conn.progress:
            conn.progress = False
            self._wake()
        if conn.wants_to_send:
            self._leg.flush()
        if conn.phase.over:
            self._end()
        else:
            self._arm()

    def _wake(self) -> None:
        conn = self.conn
        if conn.phase.over:
            for queue in (
                self.readers,
                self.writers,
                self.acknowledged,
                self.confirmed,
                self.over,
                self.openers,
                self.acceptors,
            ):
                if queue is not None:
                    queue.wake_all()
            for waits in tuple(self._waited_for or ()):
                waits.readers.wake_all()
                if waits.watch is not None:
                    waits.watch()
        else:
            if self.readers:
                if not conn.messages:
                    conn.refill(self._now)
                self.readers.wake(len(conn.messages)) if not conn.messages_ended else self.readers.wake_all()
            self.acknowledged.wake_all()
            if conn.confirmed:
                self.confirmed.wake_all()
            if self.writers and (conn.queued <= _LOW_WATER or not conn.accepts_writes):
                self.writers.wake_all() if not conn.accepts_writes else self.writers.wake(1)
            if self.openers is not None and (conn.may_open or not conn.accepts_writes):
                self.openers.wake(1) if conn.accepts_writes else self.openers.wake_all()
            if self.acceptors is not None and conn.accepted:
                self.acceptors.wake(1)
        if conn.touched is not None:
            touched, conn.touched = conn.touched, None
            for stream in touched:
                self._stream_changed(stream)
        if conn.has_events:
            self._on_change()
        if self.admission is not None and (conn.admitted or conn.phase.over):
            admission, self.admission = self.admission, None
            admission()

    def _turn_ends(self) -> None:
        self._gathering = self._scheduled = False
        if self.conn.wants_to_send:
            self._leg.flush()
            self._settle()
        elif self.conn.urgent:  # what was queued waits for company, or for its time
            self._arm()

    def _soon(self) -> None:
        """What is queued leaves when this turn ends."""
        if not self._scheduled:
            self._scheduled = True
            self._runtime.call_soon(self._turn_ends)

    def _woken(self) -> None:
        self._runtime.call_soon(self._settle)

    def _arm(self) -> None:
        """A timer that fires early costs less than one that is moved for every packet; and no deadline that traffic
        sets is closer than MAX_ACK_DELAY unless the engine says so, so an earlier timer will ask for it in time."""
        if self._timer is not None and self._timer_at <= self._now + limits.MAX_ACK_DELAY and not self.conn.urgent:
            return
        due, rest = self.conn.next_timer(), self.conn.rest_at()
        if rest is not None and (due is None or rest < due):
            due = rest
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._runtime.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._now = now = self._runtime.monotonic()
        self.conn.handle_timer(now)
        self._settle()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._drop_timer()
        self._leg.close(linger=self.conn.path.live)
        self.conn.protection.close()  # the leg has taken what there was to say
        self._on_change()
