"""The runtime of a page: asyncio on Pyodide's loop, which has timers of its own kind and no threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from phantom.runtime.aio import AsyncioRuntime
from phantom.runtime.base import Timer

__all__ = ["SHORTEST_TIMER", "BrowserRuntime"]

T = TypeVar("T")

SHORTEST_TIMER: Final = 0.004
"""Seconds. What Pyodide is asked to do within 2 ms it does at once, again and again, ahead of every event of the page:
a loop of such waits starves the very socket it waits for."""


class BrowserRuntime(AsyncioRuntime):
    """Timers are at least 4 ms away; work for threads is done in place, one slice a turn."""

    __slots__ = ()

    async def sleep(self, seconds: float) -> None:
        """Waits; 0 gives up the turn, anything else takes at least 4 ms."""
        await asyncio.sleep(max(seconds, SHORTEST_TIMER) if seconds > 0 else 0)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """loop.call_later, not before 4 ms have passed."""
        return self._loop.call_later(max(when - self._loop.time(), SHORTEST_TIMER), callback)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Calls ``function`` here, after the page has had a turn."""
        await asyncio.sleep(SHORTEST_TIMER)
        return function()
