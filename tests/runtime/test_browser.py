"""The runtime of a page: no timer so short that the page has no turn, no threads."""

from __future__ import annotations

import asyncio
import threading

from phantom.runtime import AsyncioRuntime, default_runtime
from phantom.runtime.browser import SHORTEST_TIMER, BrowserRuntime


def _run(main) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(main())


def test_timers_are_not_too_short() -> None:
    async def main() -> None:
        runtime = BrowserRuntime()
        now = runtime.monotonic()
        for when in (now - 1, now, now + 0.001):
            timer = runtime.call_at(when, lambda: None)
            assert timer.when() >= now + SHORTEST_TIMER  # type: ignore[attr-defined]
            timer.cancel()
        timer = runtime.call_at(now + 5, lambda: None)
        assert now + 4.9 < timer.when() <= now + 5.1  # type: ignore[attr-defined]
        timer.cancel()

    _run(main)


def test_sleeping_gives_the_page_its_turn() -> None:
    async def main() -> None:
        runtime = BrowserRuntime()
        asked: list[float] = []
        loop = asyncio.get_running_loop()
        real = loop.call_later

        def call_later(delay, *args, **options):  # type: ignore[no-untyped-def]
            asked.append(delay)
            return real(delay, *args, **options)

        loop.call_later = call_later  # type: ignore[method-assign]
        await runtime.sleep(0)
        assert asked == []
        await runtime.sleep(0.001)
        assert asked == [SHORTEST_TIMER]
        await runtime.sleep(0.01)
        assert asked[1:] == [0.01]

    _run(main)


def test_work_for_threads_is_done_in_place_after_a_turn() -> None:
    async def main() -> None:
        turns: list[str] = []
        asyncio.get_running_loop().call_soon(turns.append, "the page")

        def work() -> threading.Thread:
            turns.append("work")
            return threading.current_thread()

        assert await BrowserRuntime().in_thread(work) is threading.current_thread()
        assert turns == ["the page", "work"]

    _run(main)


def test_elsewhere_the_default_is_asyncio() -> None:
    async def main() -> None:
        assert type(default_runtime()) is AsyncioRuntime

    _run(main)
