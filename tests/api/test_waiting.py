"""WaitQueue: first in first out, and no turn is ever lost, whoever gives up when."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from phantom.api.waiting import Deadline, WaitQueue
from phantom.errors import PhantomTimeoutError
from phantom.runtime import AsyncioRuntime
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual


def _queue() -> tuple[AsyncioRuntime, WaitQueue]:
    runtime = AsyncioRuntime()
    return runtime, WaitQueue(runtime)


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_turns_are_given_in_the_order_of_waiting() -> None:
    runtime, queue = _queue()
    order: list[int] = []

    async def wait(number: int) -> None:
        await queue.wait(Deadline(runtime, None), "x")
        order.append(number)

    assert not queue
    queue.wake(1)
    queue.wake_all()
    tasks = [asyncio.ensure_future(wait(number)) for number in range(5)]
    await _turns()
    assert queue
    queue.wake(0)
    await _turns()
    assert order == []
    queue.wake(2)
    queue.wake(2)  # they have their turn already; waking is no promise to more of them
    await _turns()
    assert order == [0, 1]
    queue.wake_all()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert not queue


async def test_who_was_woken_stays_in_the_queue_until_it_runs() -> None:
    runtime, queue = _queue()
    waiting = asyncio.ensure_future(queue.wait(Deadline(runtime, None), "x"))
    await _turns(1)
    queue.wake(1)
    assert queue, "whoever comes now queues behind it"
    await waiting
    assert not queue


async def test_giving_up_before_ones_turn_costs_nobody_anything() -> None:
    runtime, queue = _queue()
    tasks = [asyncio.ensure_future(queue.wait(Deadline(runtime, None), "x")) for _ in range(3)]
    await _turns(1)
    tasks[0].cancel()
    await _turns()
    queue.wake(1)
    await tasks[1]
    assert not tasks[2].done()
    queue.wake(1)
    await tasks[2]


@pytest.mark.parametrize("victims", [v for n in (1, 2) for v in itertools.combinations(range(3), n)])
async def test_a_turn_is_passed_on_when_its_holder_gives_up(victims: tuple[int, ...]) -> None:
    runtime, queue = _queue()
    tasks = [asyncio.ensure_future(queue.wait(Deadline(runtime, None), "x")) for _ in range(4)]
    await _turns(1)
    queue.wake(2)
    for victim in victims:  # in the same turn in which they were woken
        tasks[victim].cancel()
    await _turns()
    served = sum(task.done() and not task.cancelled() for task in tasks)
    assert served == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not queue


@pytest.mark.parametrize("gives_up", ["cancelled", "timed out"])
async def test_a_turn_went_to_one_who_gave_up_in_the_same_turn(gives_up: str) -> None:
    runtime, queue = _queue()
    first, second = (asyncio.ensure_future(queue.wait(Deadline(runtime, None), "x")) for _ in range(2))
    await _turns(1)
    if gives_up == "cancelled":
        first.cancel()
    else:
        assert queue._queue is not None
        queue._queue[0].set_exception(PhantomTimeoutError("x"))
    queue.wake(1)
    async with asyncio.timeout(5):
        await second
    with pytest.raises((asyncio.CancelledError, PhantomTimeoutError)):
        await first


async def test_the_timeout_says_what_did_not_happen() -> None:
    runtime, queue = _queue()
    with pytest.raises(PhantomTimeoutError, match=r"^no parcel came within 0\.01 s$"):
        await queue.wait(Deadline(runtime, 0.01), "no parcel came")
    with pytest.raises(PhantomTimeoutError):
        await queue.wait(Deadline(runtime, 0), "nothing")
    with pytest.raises(TimeoutError):
        await queue.wait(Deadline(runtime, -5), "nothing")
    assert not queue


async def test_a_timeout_and_a_cancellation_in_the_same_turn() -> None:
    runtime, queue = _queue()
    task = asyncio.ensure_future(queue.wait(Deadline(runtime, None), "x"))
    await _turns(1)
    assert queue._queue is not None
    queue._queue[0].set_exception(PhantomTimeoutError("x"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not queue


async def test_a_turn_that_came_first_wins_over_the_timeout() -> None:
    runtime, queue = _queue()
    task = asyncio.ensure_future(queue.wait(Deadline(runtime, 0.0), "x"))
    await asyncio.sleep(0)
    queue.wake(1)
    await task


async def test_no_wait_leaves_a_timer_behind() -> None:
    runtime, queue = _queue()
    loop = asyncio.get_running_loop()
    served = asyncio.ensure_future(queue.wait(Deadline(runtime, 1000), "x"))
    cancelled = asyncio.ensure_future(queue.wait(Deadline(runtime, 1000), "x"))
    await _turns()
    queue.wake(1)
    cancelled.cancel()
    await asyncio.gather(served, cancelled, return_exceptions=True)
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]


def test_deadlines_are_points_in_time() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        never, soon = Deadline(runtime, None), Deadline(runtime, 2.0)
        assert never.left is None
        assert soon.left == 2.0
        await runtime.sleep(1.5)
        assert soon.left == pytest.approx(0.5)
        await runtime.sleep(1.5)
        assert soon.left == 0.0
        assert str(soon.error("it did not happen")) == "it did not happen within 2 s"
        queue = WaitQueue(runtime)
        begun = runtime.monotonic()
        with pytest.raises(PhantomTimeoutError):
            await queue.wait(Deadline(runtime, 3600), "an hour passed in no time, and the news came")
        assert runtime.monotonic() - begun == pytest.approx(3600)

    run_virtual(main())
