"""A virtual clock for asyncio programs: timers fire in order without waiting, so a day passes in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["DeadlockError", "VirtualClockLoop", "run_virtual"]

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """Every task waits and no timer is left: nothing can ever happen again."""


class _VirtualSelector(selectors.DefaultSelector):
    """Polls real descriptors without waiting; where it would have waited, time advances."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise DeadlockError("all tasks wait, and no timer is left")
        self.now += max(0.0, timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` starts at 0 and advances only when there is nothing else to do."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        # A timer fires before time() + resolution, which must be more than time() for years to come, or none fires.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Runs ``main`` as asyncio.run does, in virtual time. Raises DeadlockError when everything waits for ever."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
