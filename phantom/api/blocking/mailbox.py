"""Messages between blocking callers and the loop thread: most calls leave or find them here and wait for no one."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from phantom import limits
from phantom.api.blocking.loop_thread import call_soon, run
from phantom.errors import PhantomTimeoutError

if TYPE_CHECKING:
    from phantom.api.session import PhantomSession

__all__ = ["Mailbox"]

_CAPACITY = limits.MiB  # bytes that lie here before the loop takes them


class Mailbox:
    """Both directions of one established session, for any number of threads; order is kept in each.

    A message that goes out is accepted under the same conditions as by the session itself, and belongs to it before
    anything that a later call does there. One that comes in was taken from the session's queue together with all that
    were there, at most RECV_BACKLOG_CAP bytes and one message.
    """

    __slots__ = ("_driver", "_inbox", "_lock", "_outbox", "_reading", "_session", "_size")

    def __init__(self, session: PhantomSession) -> None:
        driver = session._driver
        assert driver is not None, "blocking sessions are established"
        self._session = session
        self._driver = driver
        self._inbox: deque[bytes] = deque()
        self._reading = threading.Lock()
        self._outbox: list[bytes] = []
        self._size = 0
        self._lock = threading.Lock()
        driver.posted = self._deliver

    def post(self, message: bytes) -> bool:
        """Takes a message if the session would queue it at once; False: ask the session, which waits or raises."""
        driver, size = self._driver, len(message) + limits.ITEM_OVERHEAD
        conn = driver.conn
        with self._lock:
            if (
                self._size + size > _CAPACITY
                or self._size + conn.queued > limits.SEND_BUFFER_CAP
                or driver.writers
                or not conn.accepts_writes
            ):
                return False
            if not self._outbox:
                call_soon(self._deliver)  # before the message lies here: an interrupt in between does no harm
            self._outbox.append(message)
            self._size += size
        return True

    def _deliver(self) -> None:
        """Loop thread: hands the session what was posted."""
        with self._lock:
            messages, self._outbox, self._size = self._outbox, [], 0
        driver = self._driver
        for message in messages:
            if driver.conn.accepts_writes:
                driver.queue(message)
            else:
                driver.conn.written += len(message) + 4  # was accepted, will never be acknowledged

    def take(self, timeout: float | None) -> bytes:
        """The next message; raises what ``recv`` of the session raises."""
        if not self._reading.acquire(timeout=-1 if timeout is None else timeout):
            raise PhantomTimeoutError(f"no message arrived within {timeout:g} s")
        try:
            inbox = self._inbox
            if not inbox:
                run(self._session._recv_into(inbox, timeout))
            message = inbox[0]
            try:
                inbox.popleft()
            except BaseException:  # the interrupt of a signal, after the fact
                inbox.appendleft(message)
                raise
            return message
        finally:
            self._reading.release()
