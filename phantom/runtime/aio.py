"""The asyncio runtime, for asyncio's own loops and uvloop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from phantom.errors import ClockError
from phantom.runtime.base import Task, Timer

__all__ = ["AsyncioRuntime"]

T = TypeVar("T")


class AsyncioRuntime:
    """Clock, tasks and timers of the running event loop. Make it inside the loop; not thread safe."""

    __slots__ = ("_loop", "_tasks", "_wall")

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wall = wall_clock

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task:
        """Runs ``coroutine`` as a task of the loop and keeps it alive until it ends."""
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def sleep(self, seconds: float) -> None:
        """asyncio.sleep."""
        await asyncio.sleep(seconds)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """loop.call_at."""
        return self._loop.call_at(when, callback)

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        """loop.call_soon."""
        return self._loop.call_soon(callback)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """asyncio.timeout."""
        return asyncio.timeout(seconds)

    def monotonic(self) -> float:
        """The loop's clock, in seconds."""
        return self._loop.time()

    def wall_clock(self) -> float:
        """Seconds since 1970; ClockError before it."""
        now = self._wall()
        if now < 0:
            raise ClockError
        return now

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Runs ``function`` in a worker thread."""
        return await asyncio.to_thread(function)
