"""Long waits that another call may end with an error of its choice."""

from __future__ import annotations

import asyncio

import pytest

from phantom.errors import BusyError, NetworkError
from phantom.sidecar.waits import Turn, Wait, Waits


async def _wait(scope: Wait, entered: asyncio.Event) -> None:
    with scope:
        entered.set()
        await asyncio.get_running_loop().create_future()


async def _started(scope: Wait) -> asyncio.Task[None]:
    entered = asyncio.Event()
    task = asyncio.create_task(_wait(scope, entered))
    await entered.wait()
    return task


async def test_newer_call_ends_the_older_one() -> None:
    turn = Turn(Waits(), "a newer call receives")
    older = turn.take()
    task = await _started(older)
    newer = turn.take()
    with pytest.raises(BusyError, match="a newer call receives"):
        await task
    assert turn.is_latest(newer)
    assert not turn.is_latest(older)


async def test_a_turn_is_ended_with_an_error_of_choice() -> None:
    turn = Turn(Waits(), "newer")
    turn.end(NetworkError("nobody waits yet"))
    task = await _started(turn.take())
    turn.end(NetworkError("gone"))
    with pytest.raises(NetworkError, match="gone"):
        await task


async def test_scope_that_is_over_is_not_disturbed() -> None:
    turn = Turn(Waits(), "newer")
    with turn.take():
        pass
    with turn.take():  # the one before is over: nothing to interrupt, and this task is not cancelled
        await asyncio.sleep(0)


async def test_cancellation_from_elsewhere_goes_through() -> None:
    task = await _started(Waits().scope())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_wins_over_an_interruption_of_the_same_moment() -> None:
    scope = Waits().scope()
    task = await _started(scope)
    scope.interrupt(BusyError())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_second_interruption_changes_nothing() -> None:
    scope = Waits().scope()
    task = await _started(scope)
    scope.interrupt(BusyError("first"))
    scope.interrupt(NetworkError("second"))
    with pytest.raises(BusyError, match="first"):
        await task


async def test_task_goes_on_after_an_interruption() -> None:
    waits = Waits()
    entered = asyncio.Event()

    async def work() -> str:
        scope = waits.scope()
        try:
            await _wait(scope, entered)
        except NetworkError:
            await asyncio.sleep(0)
            return "went on"
        return "not interrupted"

    task = asyncio.create_task(work())
    await entered.wait()
    waits.stop()
    assert await task == "went on"


async def test_error_of_the_body_is_not_hidden() -> None:
    scope = Waits().scope()
    entered = asyncio.Event()

    async def work() -> None:
        with scope:
            try:
                entered.set()
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise ValueError("from the cleanup") from None

    task = asyncio.create_task(work())
    await entered.wait()
    scope.interrupt(BusyError())
    with pytest.raises(ValueError, match="from the cleanup"):
        await task


async def test_stopping_ends_every_wait_and_refuses_new_ones() -> None:
    waits = Waits()
    tasks = [await _started(waits.scope()) for _ in range(3)]
    waits.stop()
    for task in tasks:
        with pytest.raises(NetworkError, match="shutting down"):
            await task
    with pytest.raises(NetworkError, match="shutting down"):
        waits.scope()
    with pytest.raises(NetworkError, match="shutting down"):
        Turn(waits, "newer").take()
