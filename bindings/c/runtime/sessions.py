"""Sessions for any number of threads, at the price of as few hand-overs between threads as can be.

A hand-over to the loop thread and back costs some 100 µs, a message 1 µs. So a thread that sends leaves its message in
the outbox and wakes the loop only if it is not on its way already; a thread that receives takes what the engine has
split, straight from the engine's own queue, and waits only when there is nothing. What both count on is that one
operation on a deque, and a look at a number, are atomic between threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from _thread import LockType, allocate_lock
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

from bindings.c.generated.phantom_c import SessionEvent, SessionEventKind, SessionNextEventResult
from phantom import limits
from phantom.api.waiting import Deadline, WaitQueue
from phantom.errors import ConnectionClosedError, PhantomTimeoutError, SessionClosingError, ValidationError
from phantom.transport.session.events import Rekeyed, StateChanged

if TYPE_CHECKING:
    from bindings.c.runtime.loop_thread import LoopThread
    from phantom.api.session import PhantomSession
    from phantom.runtime.base import Runtime
    from phantom.transport.session.connection import Connection
    from phantom.transport.session.messages import MessageAssembler

__all__ = ["ThreadSession"]

_WORK_PER_TURN: Final = limits.MiB  # bytes that one look into the outbox moves on
_MOST_QUEUED: Final = limits.SEND_BUFFER_CAP // 2  # bytes: messages are copies here, and leave the processor's cache
_RESUME: Final = _MOST_QUEUED // 2  # a thread that waited for room then works for a while, and not for one batch


class ThreadSession:
    """An established session. Made in the loop thread; methods without a leading underscore are for any thread."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_assembler",
        "_closing",
        "_conn",
        "_driver",
        "_emptied",
        "_ended",
        "_events",
        "_first_event",
        "_held",
        "_loop",
        "_lost",
        "_messages",
        "_most",
        "_outbox",
        "_pushed",
        "_readers",
        "_scheduled",
        "_sending",
        "_session",
        "_state",
        "_taken",
        "_writers",
    )

    def __init__(self, loop: LoopThread, session: PhantomSession) -> None:
        """Held once. The session is established and has no other reader or writer from now on."""
        driver = session._driver
        assert driver is not None
        self._loop = loop
        self._session = session
        self._driver = driver
        self._conn: Connection = driver.conn
        self._assembler = driver.conn.assembler
        self._messages = driver.messages
        self._most = max(limits.MAX_MESSAGE, session._config.max_message)
        self._held = 1
        self._closing = False  # by this side: nothing more is taken into the outbox
        self._ended = False  # with the library
        # What waits to be sent. Senders add under the lock, the loop thread alone takes away.
        self._sending = allocate_lock()
        self._outbox: deque[bytes] = deque()
        self._pushed = 0
        self._taken = 0
        self._lost = False  # messages that the session's end overtook
        self._scheduled = False  # the loop is about to look into the outbox
        self._emptied = WaitQueue(session._runtime)
        self._asked = False  # the loop is about to look for messages
        self._readers = _Readers(session._runtime, driver.conn.assembler)
        self._writers = _Writers(session._runtime, self)
        driver.readers = self._readers
        driver.writers = self._writers
        driver.conn.reader_waits = True  # a thread may look at any time: what arrives is split at once
        self._state = int(session.state)  # as told by events
        self._first_event: int | None = self._state
        self._events = session.events()

    # --- handles ------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """One more handle, or outcome, has it. Under the lock of whoever counts."""
        self._held += 1

    def let_go(self) -> bool:
        """One fewer; True for the last one."""
        self._held -= 1
        return self._held == 0

    def discard(self) -> None:
        """Nobody has it any more: it is closed in the background, unless it is already."""
        if not self._conn.phase.over:
            try:
                self._loop.post(self._close_in_background)
            except ConnectionClosedError:
                return  # the library has ended, and all sessions with it

    def _close_in_background(self) -> None:
        self._session._runtime.spawn(self._discarded(), "phantom-release")

    async def _discarded(self) -> None:
        await self._disconnect(0, limits.CLOSE_FLUSH_TIMEOUT)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def session(self) -> PhantomSession:
        """For looks at what changes in one step."""
        return self._session

    @property
    def queued(self) -> int:
        """Messages not yet handed to the leg in full."""
        return len(self._outbox) + self._conn.queued_messages

    @property
    def unacknowledged(self) -> int:
        """Bytes that the peer has not acknowledged."""
        return self._pushed - self._taken + self._conn.unacknowledged

    @property
    def peer_code(self) -> int | None:
        """The code of the peer's CLOSE."""
        return self._conn.peer_code

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: memoryview, timeout: float | None) -> None:
        """Queues one message; waits while more than 2 MiB are queued. Errors as those of the asyncio API."""
        size = len(data)
        if size > self._most:
            raise ValidationError(f"the message has {size} bytes; the limit is {self._most}")
        payload = bytes(data)
        sending = self._sending
        if not sending.acquire(False):
            begun = monotonic()
            if not sending.acquire(timeout=-1 if timeout is None else timeout):
                raise _full(timeout)
            timeout = None if timeout is None else max(0.0, timeout - (monotonic() - begun))
        try:
            conn = self._conn
            if self._closing or self._ended or not conn.accepts_writes:
                self._check_sendable()
            if self._pushed - self._taken + conn.queued > _MOST_QUEUED:
                self._wait_for_room(timeout)
            self._outbox.append(payload)
            self._pushed += size
        finally:
            sending.release()
        if not self._scheduled:
            self._scheduled = True
            self._loop.post(self._send_on)

    def _check_sendable(self) -> None:
        if self._ended:
            raise ConnectionClosedError("the library was ended by phantom_fini")
        self._conn.check_sendable()
        if self._closing:
            raise SessionClosingError("the session is being closed by this side")

    @property
    def _too_much(self) -> bool:
        return self._pushed - self._taken + self._conn.queued > _MOST_QUEUED

    @property
    def _may_resume(self) -> bool:
        return self._pushed - self._taken + self._conn.queued <= _RESUME

    def _wait_for_room(self, timeout: float | None) -> None:
        """One thread at a time: the others wait for the lock that it has."""
        until = None if timeout is None else monotonic() + timeout
        while True:
            turn = _turn()
            self._writers.turn = turn
            # looked at again: it may have gone before anybody could have seen the turn
            in_time = not self._too_much or turn.acquire(timeout=_left(until))
            self._writers.turn = None
            self._check_sendable()
            if not self._too_much:
                return
            if not in_time:
                raise _full(timeout)

    def _send_on(self) -> None:
        """In the loop thread: hands the outbox to the engine, as far as that takes it."""
        self._scheduled = False
        conn, outbox, driver = self._conn, self._outbox, self._driver
        moved = 0
        while outbox:
            if not conn.accepts_writes:
                self._drop_outbox()
                break
            if not conn.has_room:
                return  # the engine calls when it has
            data = outbox.popleft()
            driver.queue(data)
            self._taken += len(data)
            moved += len(data)
            if moved >= _WORK_PER_TURN and outbox:
                self._send_soon()
                return
        self._emptied.wake_all()
        if conn.has_room:
            self._writers.wake_streams()
        if self._may_resume or not conn.accepts_writes:
            self._writers.give_turn()

    def _send_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._session._runtime.call_soon(self._send_on)

    def _drop_outbox(self) -> None:
        self._lost = True
        self._outbox.clear()

    async def _hand_over(self, deadline: Deadline, what: str) -> None:
        """Waits until the engine has everything that was sent so far."""
        self._send_on()
        while self._outbox:
            await self._emptied.wait(deadline, what)

    def flush(self, timeout: float | None) -> int:
        """Waits until the peer acknowledged everything; the number of bytes it waited for."""
        return self._loop.run(self._flush(timeout))

    async def _flush(self, timeout: float | None) -> int:
        deadline = Deadline(self._session._runtime, timeout)
        waited = self.unacknowledged
        await self._hand_over(deadline, "the peer did not acknowledge everything")
        await self._session.flush_queue(deadline.left)
        return waited

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> bytes:
        """The next message. After the end what was delivered, then the error; PhantomTimeoutError."""
        messages = self._messages
        try:
            message = messages.popleft()
        except IndexError:
            message = self._wait_for_message(timeout)
        self._conn.stats.messages_recv += 1
        if not messages:
            # The engine holds back what comes while it counts much as unread. A message that arrives at this very
            # moment may go uncounted until the queue is empty again; waiting for the loop would cost far more.
            self._assembler.charge = 0
            if self._assembler.run_bytes:
                self._ask()
        return message

    def _wait_for_message(self, timeout: float | None) -> bytes:
        until = None if timeout is None else monotonic() + timeout
        messages, readers, conn = self._messages, self._readers, self._conn
        turn = _turn()
        while True:
            readers.turns.append(turn)
            over = conn.phase.over  # before the look: what was delivered is there once it is over
            ready = bool(messages)
            if not ready:
                if self._ended:
                    readers.leave(turn)
                    raise ConnectionClosedError("the library was ended by phantom_fini")
                if over and not self._assembler.run_bytes:
                    readers.leave(turn)
                    raise conn.end_error()
                if self._assembler.run_bytes:
                    self._ask()
                ready = turn.acquire(timeout=_left(until))
            readers.leave(turn)
            try:
                message = messages.popleft()
            except IndexError:  # another thread was faster, or time is up, or this is the end
                if not ready:
                    raise PhantomTimeoutError(f"no message arrived within {timeout:g} s") from None
                turn = _turn()
                continue
            readers.serve(len(messages))  # the turn may have been for another message than this
            return message

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._loop.post(self._refill)

    def _refill(self) -> None:
        """In the loop thread: splits what the engine holds back."""
        self._asked = False
        if not self._messages:
            self._driver.refill()
        self._readers.wake(len(self._messages))
        if self._conn.phase.over:
            self._readers.wake_all()

    # --- events -------------------------------------------------------------------------------------------------------

    def next_event(self, timeout: float | None) -> SessionNextEventResult:
        """The next change of state; at first the state that it was in when it was made."""
        event = self._loop.run(self._next_event(timeout, states_only=True))
        return SessionNextEventResult(event.state, event.reason)

    def next_event_ex(self, timeout: float | None) -> SessionEvent:
        """The next event of any kind; at first the state that it was in when it was made."""
        return self._loop.run(self._next_event(timeout, states_only=False))

    async def _next_event(self, timeout: float | None, *, states_only: bool) -> SessionEvent:
        if self._first_event is not None:
            first, self._first_event = self._first_event, None
            return SessionEvent(SessionEventKind.STATE_CHANGED, first, self._session.negotiated.epoch, False, "")
        try:
            async with asyncio.timeout(timeout):
                async for event in self._events:
                    if isinstance(event, StateChanged):
                        self._state = int(event.new)
                        kind, epoch, by_peer = SessionEventKind.STATE_CHANGED, self._session.negotiated.epoch, False
                    elif states_only or not isinstance(event, Rekeyed):
                        continue
                    else:
                        kind, epoch, by_peer = SessionEventKind.REKEYED, event.epoch, event.by_peer
                    return SessionEvent(kind, self._state, epoch, by_peer, event.reason)
        except TimeoutError:
            raise PhantomTimeoutError(f"nothing happened to the session within {timeout:g} s") from None
        raise ConnectionClosedError("the session has ended; there are no more events")

    # --- the end ------------------------------------------------------------------------------------------------------

    def disconnect(self, code: int, timeout: float | None) -> bool:
        """Flushes, closes, releases the transport; whether the peer acknowledged everything."""
        if not 0 <= code <= 0xFFFF:
            raise ValidationError("a close code is a number from 0 to 65535")
        return self._loop.run(self._disconnect(code, timeout))

    async def _disconnect(self, code: int, timeout: float | None) -> bool:
        self._closing = True
        deadline = Deadline(self._session._runtime, timeout)
        try:
            await self._hand_over(deadline, "")
        except PhantomTimeoutError:
            self._drop_outbox()
        acknowledged = await self._session.disconnect(code, deadline.left)
        return acknowledged and not self._lost

    async def end(self, timeout: float) -> bool:
        """In the loop thread, the library ends: threads that wait return, what is owed is sent within the time."""
        self._ended = True
        self._readers.wake_all()
        self._writers.give_turn()
        over = self._conn.phase.over
        return await self._disconnect(0, timeout) or over


class _Readers(WaitQueue):
    """In the place of the engine's queue of readers: threads, each behind a lock of its own."""

    __slots__ = ("_assembler", "turns")

    def __init__(self, runtime: Runtime, assembler: MessageAssembler) -> None:
        super().__init__(runtime)
        self._assembler = assembler
        self.turns: deque[LockType] = deque()

    def __bool__(self) -> bool:
        return bool(self.turns)

    def serve(self, count: int) -> None:
        """Gives the first ``count`` threads their turn."""
        turns = self.turns
        while count > 0 and turns:
            try:
                turn = turns.popleft()
            except IndexError:
                return
            turn.release()
            count -= 1

    def wake(self, count: int) -> None:
        """The engine has ``count`` messages. If each has a thread that waits for it, they are as good as read."""
        if count <= len(self.turns):
            self._assembler.charge = 0
        self.serve(count)

    def wake_all(self) -> None:
        """Gives every thread its turn."""
        self.serve(len(self.turns))

    def leave(self, turn: LockType) -> None:
        """A thread gives up waiting, whether it was given a turn meanwhile or not."""
        with contextlib.suppress(ValueError):
            self.turns.remove(turn)


class _Writers(WaitQueue):
    """In the place of the engine's queue of writers: the outbox, and the one thread that waits for room in it.

    Writes of streams wait in the queue itself.
    """

    __slots__ = ("_of", "turn")

    def __init__(self, runtime: Runtime, of: ThreadSession) -> None:
        super().__init__(runtime)
        self._of = of
        self.turn: LockType | None = None

    def __bool__(self) -> bool:
        return self.turn is not None or bool(self._of._outbox) or super().__bool__()

    def wake(self, count: int) -> None:
        """The engine has room."""
        if self._of._outbox or self._of._may_resume:
            self._of._send_soon()
        super().wake(count)

    def wake_all(self) -> None:
        """The engine has ended, or takes no more."""
        if self:
            self._of._send_soon()
        super().wake_all()

    def wake_streams(self) -> None:
        """There is room for a write of a stream, which waits as tasks do."""
        super().wake(1)

    def give_turn(self) -> None:
        """Lets the thread that waits look again."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()


def _turn() -> LockType:
    turn = allocate_lock()
    turn.acquire()
    return turn


def _left(until: float | None) -> float:
    return -1 if until is None else max(0.0, until - monotonic())


def _full(timeout: float | None) -> PhantomTimeoutError:
    return PhantomTimeoutError(
        f"the peer takes no more data; nothing could be queued within {timeout:g} s"
        if timeout is not None
        else "the peer takes no more data"
    )
