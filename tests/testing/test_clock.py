"""The virtual clock: time passes only when nothing else can happen."""

from __future__ import annotations

import asyncio
import socket

import pytest

from phantom.testing.clock import DeadlockError, VirtualClockLoop, run_virtual


def test_a_day_passes_at_once_and_timers_fire_in_order() -> None:
    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        assert loop.time() == 0.0
        seen: list[tuple[float, str]] = []

        async def nap(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((round(loop.time(), 6), name))

        await asyncio.gather(nap("day", 86_400), nap("blink", 0.001), nap("hour", 3600), nap("now", 0))
        return seen

    assert run_virtual(main()) == [(0.0, "now"), (0.001, "blink"), (3600.0, "hour"), (86_400.0, "day")]


def test_years_pass_beyond_the_longest_wait_of_a_selector() -> None:
    async def main() -> float:
        await asyncio.sleep(10 * 365 * 86_400)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(10 * 365 * 86_400)


def test_work_comes_before_time() -> None:
    async def main() -> int:
        turns = 0
        sleeper = asyncio.create_task(asyncio.sleep(0.000001))
        while not sleeper.done() and turns < 1000:
            turns += 1
            if turns < 100:
                await asyncio.sleep(0)  # there is something to do: the timer waits
                assert asyncio.get_running_loop().time() == 0.0
            else:
                await sleeper
        return turns

    assert run_virtual(main()) == 100


def test_timeouts_are_virtual() -> None:
    async def wait() -> None:
        async with asyncio.timeout(50.0):
            await asyncio.Event().wait()

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(50.0)


def test_what_can_never_happen_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="all tasks wait"):
        run_virtual(main())


def test_real_descriptors_are_served() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            for sock in (one, other):
                sock.setblocking(False)
            asyncio.get_running_loop().call_later(5.0, one.send, b"hello")
            data = await loop.sock_recv(other, 100)
            assert loop.time() == pytest.approx(5.0)
            return data

    assert run_virtual(main()) == b"hello"


def test_what_the_program_raises_comes_out() -> None:
    async def main() -> None:
        await asyncio.sleep(1.0)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_virtual(main())
