"""The simulated runtime: one clock for everything, no threads."""

from __future__ import annotations

import threading

from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual


def test_both_clocks_follow_the_loop() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        other = SimulatedRuntime(epoch=0.0)
        assert (runtime.monotonic(), runtime.wall_clock(), other.wall_clock()) == (0.0, 1_800_000_000.0, 0.0)
        await runtime.sleep(90.5)
        assert (runtime.monotonic(), runtime.wall_clock(), other.wall_clock()) == (90.5, 1_800_000_090.5, 90.5)

    run_virtual(main())


def test_work_for_threads_is_done_in_place() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        assert await runtime.in_thread(threading.get_ident) == threading.get_ident()
        assert runtime.monotonic() == 0.0

    run_virtual(main())
