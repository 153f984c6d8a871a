"""A runtime on a loop whose time is simulated: see ``phantom.testing.clock``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from phantom.runtime.aio import AsyncioRuntime

__all__ = ["SimulatedRuntime"]

T = TypeVar("T")


class SimulatedRuntime(AsyncioRuntime):
    """Wall clock = ``epoch`` + the loop's time; work for threads is done in place, so that runs repeat exactly."""

    __slots__ = ()

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        super().__init__(lambda: epoch + self._loop.time())

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Calls ``function`` at once."""
        return function()
