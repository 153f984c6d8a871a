"""The asyncio runtime: tasks that stay alive, timers, clocks, threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from phantom.errors import ClockError
from phantom.runtime import AsyncioRuntime, Runtime, Task, Timer


async def test_it_needs_a_running_loop_and_serves_the_protocol() -> None:
    runtime: Runtime = AsyncioRuntime()
    assert runtime.monotonic() == pytest.approx(asyncio.get_running_loop().time(), abs=1.0)
    assert runtime.wall_clock() == pytest.approx(time.time(), abs=60.0)
    with pytest.raises(RuntimeError):
        await asyncio.to_thread(AsyncioRuntime)


async def test_tasks_are_kept_alive_and_named() -> None:
    runtime = AsyncioRuntime()
    ended = asyncio.Event()

    async def work() -> None:
        await runtime.sleep(0)
        gc.collect()
        ended.set()

    task: Task = runtime.spawn(work(), "phantom-test")
    assert isinstance(task, asyncio.Task)
    assert task.get_name() == "phantom-test"
    assert not task.done()
    await ended.wait()
    await runtime.sleep(0)
    assert task.done()
    assert not runtime._tasks
    assert not task.cancel()


async def test_a_cancelled_task_is_forgotten() -> None:
    runtime = AsyncioRuntime()
    task = runtime.spawn(runtime.sleep(3600.0), "phantom-sleeper")
    assert task.cancel()
    await runtime.sleep(0)
    await runtime.sleep(0)
    assert task.done()
    assert not runtime._tasks


async def test_timers_fire_in_order_unless_they_are_cancelled() -> None:
    runtime = AsyncioRuntime()
    fired: list[str] = []
    done = asyncio.Event()
    now = runtime.monotonic()
    never: Timer = runtime.call_at(now + 0.001, lambda: fired.append("never"))
    runtime.call_at(now + 0.003, done.set)
    runtime.call_at(now + 0.002, lambda: fired.append("later"))
    runtime.call_soon(lambda: fired.append("soon"))
    skipped = runtime.call_soon(lambda: fired.append("skipped"))
    skipped.cancel()
    never.cancel()
    await done.wait()
    assert fired == ["soon", "later"]


async def test_a_timeout_ends_a_wait() -> None:
    runtime = AsyncioRuntime()

    async def wait() -> None:
        async with runtime.timeout(0.001):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
    async with runtime.timeout(60.0):
        await runtime.sleep(0)


async def test_work_runs_off_the_loop() -> None:
    runtime = AsyncioRuntime()
    assert await runtime.in_thread(threading.get_ident) != threading.get_ident()

    def fail() -> None:
        raise LookupError("there")

    with pytest.raises(LookupError, match="there"):
        await runtime.in_thread(fail)


async def test_a_clock_before_1970_is_refused() -> None:
    assert AsyncioRuntime(lambda: 0.0).wall_clock() == 0.0
    with pytest.raises(ClockError, match="1970"):
        AsyncioRuntime(lambda: -0.5).wall_clock()
