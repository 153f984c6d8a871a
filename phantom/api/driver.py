"""Drives one session engine on one leg: buffers, timers, waiting tasks (architecture §4).

The driver is the leg's owner. The first message of a loop turn leaves at once; what follows in the same turn is
gathered until the turn ends or a batch is full (notes of the data path: docs/architecture).
"""

from __future__ import annotations

from collections.abc import Callable

from phantom import limits
from phantom.api.waiting import Deadline, WaitQueue
from phantom.errors import FrameTooLargeError, PhantomError
from phantom.runtime.base import Runtime, Timer
from phantom.transport.legs.base import Leg
from phantom.transport.session.connection import Connection
from phantom.transport.session.states import Phase

__all__ = ["SessionDriver"]

_LOW_WATER = limits.SEND_BUFFER_CAP - limits.SEND_BATCH  # waiting writers resume one batch below the cap
_FAIR_BYTES = limits.MiB  # a writer that never waits yields to the loop this often


class SessionDriver:
    """One established session at work. All calls in the thread of its loop; no call blocks."""

    __slots__ = (
        "_ended",
        "_gathering",
        "_leg",
        "_now",
        "_on_change",
        "_runtime",
        "_scheduled",
        "_since_yield",
        "_timer",
        "_timer_at",
        "acknowledged",
        "admission",
        "conn",
        "confirmed",
        "messages",
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

    async def room(self, deadline: Deadline) -> None:
        """Waits until the send buffer takes another message; raises what a write would."""
        conn = self.conn
        if self._since_yield >= _FAIR_BYTES:
            self._since_yield = 0
            await self._runtime.sleep(0)
        conn.check_sendable()
        while self.writers or not conn.has_room:
            await self.writers.wait(deadline, "the peer takes no more data; nothing could be queued")
            conn.check_sendable()
            if conn.has_room:
                break

    def queue(self, data: bytes) -> None:
        """Queues one message and lets it leave: at once, with its batch, or at the end of this turn."""
        conn = self.conn
        conn.send_message(data)
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
        if not self._scheduled:
            self._scheduled = True
            self._runtime.call_soon(self._turn_ends)

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
            for queue in (self.readers, self.writers, self.acknowledged, self.confirmed, self.over):
                queue.wake_all()
        else:
            if self.readers:
                if not conn.messages:
                    conn.refill(self._now)
                self.readers.wake(len(conn.messages))
            self.acknowledged.wake_all()
            if conn.confirmed:
                self.confirmed.wake_all()
            if self.writers and (conn.queued <= _LOW_WATER or not conn.accepts_writes):
                self.writers.wake_all() if not conn.accepts_writes else self.writers.wake(1)
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

    def _woken(self) -> None:
        self._runtime.call_soon(self._settle)

    def _arm(self) -> None:
        """A timer that fires early costs less than one that is moved for every packet; and no deadline that traffic
        sets is closer than MAX_ACK_DELAY, so an earlier timer will ask for it in time."""
        if self._timer is not None and self._timer_at <= self._now + limits.MAX_ACK_DELAY:
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
