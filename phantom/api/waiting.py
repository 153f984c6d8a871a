"""FIFO queues of tasks that wait for one kind of progress. Every wait goes through the runtime's timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from phantom.errors import PhantomTimeoutError
from phantom.runtime.base import Runtime

__all__ = ["Deadline", "StreamWaits", "WaitQueue"]


class Deadline:
    """A point in time made of a timeout in seconds (None = never), for calls that wait several times."""

    __slots__ = ("_at", "_runtime", "_timeout")

    def __init__(self, runtime: Runtime, timeout: float | None) -> None:
        self._runtime = runtime
        self._timeout = timeout
        self._at = None if timeout is None else runtime.monotonic() + timeout

    @property
    def left(self) -> float | None:
        """Seconds left, at least 0; None if there is no limit."""
        return None if self._at is None else max(0.0, self._at - self._runtime.monotonic())

    def error(self, what: str) -> PhantomTimeoutError:
        """The error for ``what`` not having happened in time."""
        return PhantomTimeoutError(f"{what} within {self._timeout:g} s")


class WaitQueue:
    """Waiters, first in first out.

    A waiter stays in the queue until its ``wait`` returns, so whoever comes later queues behind it. Waking marks the
    first waiters; one that is cancelled after it was marked passes its turn on.
    """

    __slots__ = ("_queue", "_runtime")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queue: list[asyncio.Future[None]] | None = None  # few wait, and an empty deque takes 760 bytes

    def __bool__(self) -> bool:
        return bool(self._queue)

    async def wait(self, deadline: Deadline, what: str, among: list[asyncio.Future[None]] | None = None) -> None:
        """Waits for a turn; PhantomTimeoutError saying ``what`` did not happen when the deadline passes.

        While it waits it is also ``among`` those who can be given a turn out of order (``StreamWaits``).
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._queue is None:
            self._queue = []
        self._queue.append(future)
        if among is not None:
            among.append(future)
        timer = None
        left = deadline.left
        if left is not None:
            timer = self._runtime.call_at(
                self._runtime.monotonic() + left, lambda: _expire(future, deadline.error(what))
            )
        try:
            await future
        except BaseException:
            self._queue.remove(future)
            if _has_turn(future):
                self._pass_on()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if among is not None:
                among.remove(future)
        self._queue.remove(future)

    def wake(self, count: int) -> None:
        """Sees to it that the first ``count`` waiters have their turn."""
        if not self._queue:
            return
        for future in self._queue:
            if count <= 0:
                return
            if not future.done():
                future.set_result(None)
            if _has_turn(future):  # who gave up in this same turn needs none
                count -= 1

    def _pass_on(self) -> None:
        for future in self._queue or ():
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """Gives every waiter its turn."""
        self.wake(len(self._queue or ()))


class StreamWaits:
    """Who waits for one stream; the engine keeps this record with the stream (``Stream.user``)."""

    __slots__ = ("readers", "watch", "writers")

    def __init__(self, runtime: Runtime) -> None:
        self.readers = WaitQueue(runtime)
        self.writers: list[asyncio.Future[None]] = []  # those in the session's queue who write to this stream
        self.watch: Callable[[], None] | None = None  # called whenever the stream changed, instead of a reader

    def wake_writers(self) -> None:
        """The sending half ended: whoever waits to write has a turn now, and learns why."""
        for future in self.writers:
            if not future.done():
                future.set_result(None)


def _has_turn(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _expire(future: asyncio.Future[None], error: PhantomTimeoutError) -> None:
    if not future.done():
        future.set_exception(error)
