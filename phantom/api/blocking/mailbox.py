"""What goes between blocking callers and the loop thread: most calls leave or find it here and wait for no one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from phantom import limits
from phantom.api.blocking.loop_thread import call_soon, run
from phantom.errors import PhantomError, PhantomTimeoutError

if TYPE_CHECKING:
    from phantom.api.session import PhantomSession
    from phantom.transport.session.streams import Stream

__all__ = ["Inbox", "Mailbox"]

T = TypeVar("T")

_CAPACITY = limits.MiB  # bytes that lie here before the loop takes them


class Inbox(Generic[T]):
    """What was fetched from the loop thread and not read yet, in order, for any number of threads."""

    __slots__ = ("_items", "_reading")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._reading = threading.Lock()

    def take(
        self, fetch: Callable[[deque[T], float | None], Coroutine[Any, Any, None]], timeout: float | None, what: str
    ) -> T:
        """The next item; ``fetch`` brings at least one, on the loop thread, or raises. None is the last: it stays."""
        if not self._reading.acquire(timeout=-1 if timeout is None else timeout):
            raise PhantomTimeoutError(f"{what} within {timeout:g} s")
        try:
            items = self._items
            if not items:
                run(fetch(items, timeout))
            item = items[0]
            if item is None:
                return item
            try:
                items.popleft()
            except BaseException:  # the interrupt of a signal, after the fact
                items.appendleft(item)
                raise
            return item
        finally:
            self._reading.release()

    @property
    def unread(self) -> bool:
        """True if something of the peer waits here."""
        items = self._items
        return bool(items) and items[0] is not None


class Mailbox:
    """What goes out of one established session, messages and streams alike, for any number of threads; in order.

    What lies here was accepted under the same conditions as by the session itself, and belongs to it before anything
    that a later call does there.
    """

    __slots__ = ("_driver", "_inbox", "_lock", "_outbox", "_session", "_size")

    def __init__(self, session: PhantomSession) -> None:
        driver = session._driver
        assert driver is not None, "blocking sessions are established"
        self._session = session
        self._driver = driver
        self._inbox: Inbox[bytes] = Inbox()
        self._outbox: list[bytes | tuple[bytes, Stream] | Callable[[], None]] = []
        self._size = 0
        self._lock = threading.Lock()
        driver.posted = self._deliver

    def post(self, data: bytes, stream: Stream | None = None) -> bool:
        """Takes a message, or a reliable write of ``stream``, if the session would queue it at once.

        False: ask the session, which waits or raises.
        """
        driver, size = self._driver, len(data) + limits.ITEM_OVERHEAD
        conn = driver.conn
        with self._lock:
            if (
                self._size + size > _CAPACITY
                or self._size + conn.queued > limits.SEND_BUFFER_CAP
                or driver.writers
                or not conn.accepts_writes
                or (stream is not None and stream.write_ended)
            ):
                return False
            if not self._outbox:
                call_soon(self._deliver)  # before it lies here: an interrupt in between does no harm
            self._outbox.append(data if stream is None else (data, stream))
            self._size += size
        return True

    def post_verb(self, verb: Callable[[], None]) -> None:
        """Does ``verb`` on the loop thread, behind what was posted before; nobody waits for it."""
        with self._lock:
            if not self._outbox:
                call_soon(self._deliver)
            self._outbox.append(verb)

    def _deliver(self) -> None:
        """Loop thread: hands the session what was posted."""
        with self._lock:
            posted, self._outbox, self._size = self._outbox, [], 0
        driver = self._driver
        for item in posted:
            if isinstance(item, bytes):
                if driver.conn.accepts_writes:
                    driver.queue(item)
                else:
                    driver.conn.written += len(item) + 4  # was accepted, will never be acknowledged
                continue
            try:
                if isinstance(item, tuple):
                    driver.queue(*item)
                else:
                    item()
            except PhantomError:  # the stream or the session ended meanwhile, which the next call on it says
                pass

    def take(self, timeout: float | None) -> bytes:
        """The next message; raises what ``recv`` of the session raises."""
        return self._inbox.take(self._session._recv_into, timeout, "no message arrived")
