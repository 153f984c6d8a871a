"""What the library needs from whatever runs it (surface §1.6). Every task and timer goes through one of these."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

__all__ = ["Runtime", "Task", "Timer"]

T = TypeVar("T")


class Task(Protocol):
    """A spawned task that can be aborted."""

    def cancel(self) -> bool:
        """Asks the task to end; False if it already has."""

    def done(self) -> bool:
        """True once it has ended."""


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """It will not run."""


class Runtime(Protocol):
    """Injectable clock, tasks and timers. All methods are called in the thread of the event loop."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task:
        """Runs ``coroutine`` beside the caller; the runtime keeps it alive."""

    async def sleep(self, seconds: float) -> None:
        """Waits, in the time of :meth:`monotonic`."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Runs ``callback`` once :meth:`monotonic` reaches ``when``."""

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        """Runs ``callback`` in the next turn of the loop."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled and raises TimeoutError after ``seconds``."""

    def monotonic(self) -> float:
        """Seconds of a clock that never steps."""

    def wall_clock(self) -> float:
        """Seconds since 1970. Raises ClockError if the host says otherwise."""

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Runs ``function`` off the loop where there are threads, and in place elsewhere."""
