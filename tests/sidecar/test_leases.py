"""What a client opened is closed when it goes (surface §15)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from phantom import limits
from phantom.errors import BusyError, SessionNotFoundError, ValidationError
from phantom.sidecar.leases import Handle, Leases
from phantom.sidecar.waits import Waits


class Timers:
    """``call_later`` whose time the test tells."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], object], Timer]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer()
        self.due.append((delay, callback, timer))
        return timer

    def pending(self) -> list[float]:
        return [delay for delay, _, timer in self.due if not timer.cancelled]

    def fire(self) -> None:
        due, self.due = self.due, []
        for _, callback, timer in due:
            if not timer.cancelled:
                callback()


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Thing(Handle):
    kind = "thing"
    most = 2

    def __init__(self) -> None:
        self.closed_with: list[int] = []

    async def close(self, code: int) -> None:
        self.closed_with.append(code)


class Other(Thing):
    kind = "other"

    async def close(self, code: int) -> None:
        raise RuntimeError("cannot")


def _leases() -> tuple[Leases, Timers]:
    timers = Timers()
    return Leases(Waits(), timers.call_later), timers


def _fill(leases: Leases, lease_id: int) -> Thing:
    with leases.slot(lease_id, Thing) as slot:
        return slot.fill(Thing())


async def test_lease_that_nobody_keeps_ends_after_its_grace() -> None:
    leases, timers = _leases()
    lease = leases.open(30.0)
    thing = _fill(leases, lease.id)
    assert timers.pending() == [30.0]
    timers.fire()
    await leases.close()
    assert thing.closed_with == [14]
    for number, kind in ((thing.number, Thing), (0, Thing)):
        with pytest.raises(SessionNotFoundError):
            leases.find(number, kind)
    with pytest.raises(SessionNotFoundError, match="no such lease"):
        leases.get(lease.id)


async def test_stream_keeps_a_lease_and_its_end_starts_the_grace_anew() -> None:
    leases, timers = _leases()
    lease = leases.open(0.5)
    assert timers.pending() == [limits.LEASE_GRACE]  # time to begin
    with leases.keep(lease):
        assert timers.pending() == []
    assert timers.pending() == [0.5]
    await leases.close()
    assert timers.pending() == []


async def test_newer_stream_takes_over_before_the_older_one_ended() -> None:
    leases, timers = _leases()
    lease = leases.open(1.0)
    entered = asyncio.Event()

    async def older() -> None:
        with leases.keep(lease):
            entered.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(older())
    await entered.wait()
    with leases.keep(lease):
        with pytest.raises(BusyError, match="took over"):
            await task
        assert timers.pending() == []  # the end of the older one does not end the lease
    assert timers.pending() == [1.0]
    await leases.close()


async def test_release_ends_a_lease_at_once_and_in_order() -> None:
    leases, timers = _leases()
    lease = leases.open(60.0)
    thing = _fill(leases, lease.id)
    with leases.keep(lease):
        await leases.end(lease, 0)
    assert thing.closed_with == [0]
    assert timers.pending() == []
    await leases.end(lease, 0)
    assert thing.closed_with == [0]
    assert lease.counts["thing"] == 0


@pytest.mark.parametrize("grace", [-0.1, 60.1])
async def test_grace_has_limits(grace: float) -> None:
    leases, _ = _leases()
    with pytest.raises(ValidationError, match="0 to 60 s"):
        leases.open(grace)


async def test_leases_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LEASES", 2)
    leases, _ = _leases()
    first = leases.open(1.0)
    leases.open(1.0)
    with pytest.raises(BusyError, match="limit of 2 leases"):
        leases.open(1.0)
    await leases.end(first, 0)
    leases.open(1.0)
    await leases.close()


async def test_handles_of_a_lease_are_limited_those_being_made_included() -> None:
    leases, _ = _leases()
    lease = leases.open(1.0)
    thing = _fill(leases, lease.id)
    with leases.slot(lease.id, Thing), pytest.raises(BusyError, match="limit of 2 things"):
        leases.slot(lease.id, Thing)
    _fill(leases, lease.id)  # the slot that was not filled is free again
    with pytest.raises(BusyError):
        leases.slot(lease.id, Thing)
    leases.forget(thing)
    leases.forget(thing)
    assert lease.counts["thing"] == 1
    assert not leases.holds(thing)
    _fill(leases, lease.id)
    await leases.close()


async def test_other_leases_and_kinds_do_not_count() -> None:
    leases, _ = _leases()
    one, two = leases.open(1.0), leases.open(1.0)
    for lease in (one, one, two, two):
        _fill(leases, lease.id)
    with leases.slot(one.id, Other):
        pass
    await leases.close()


async def test_number_that_is_taken_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, _ = _leases()
    lease = leases.open(1.0)
    numbers = iter([0, 5, 5, 6])
    monkeypatch.setattr("secrets.randbits", lambda _: next(numbers))
    assert [_fill(leases, lease.id).number for _ in range(2)] == [5, 6]
    await leases.close()


async def test_number_names_one_kind_only() -> None:
    leases, _ = _leases()
    thing = _fill(leases, leases.open(1.0).id)
    assert leases.find(thing.number, Thing) is thing
    assert 0 < thing.number < 2**63
    with pytest.raises(SessionNotFoundError, match="no such other"):
        leases.find(thing.number, Other)
    await leases.close()


async def test_lease_that_ended_while_something_was_being_made_closes_it() -> None:
    leases, timers = _leases()
    lease = leases.open(1.0)
    thing = Thing()
    with leases.slot(lease.id, Thing) as slot:
        timers.fire()
        with pytest.raises(SessionNotFoundError, match="the lease ended"):
            slot.fill(thing)
    await leases.close()
    assert thing.closed_with == [14]
    assert lease.counts["thing"] == 0


async def test_one_that_cannot_be_closed_keeps_no_other_open(caplog: pytest.LogCaptureFixture) -> None:
    leases, _ = _leases()
    lease = leases.open(1.0)
    with leases.slot(lease.id, Other) as slot:
        slot.fill(Other())
    thing = _fill(leases, lease.id)
    with caplog.at_level(logging.WARNING, "phantom"):
        await leases.end(lease, 0)
    assert thing.closed_with == [0]
    assert caplog.messages == ["closing a other failed: RuntimeError"]


async def test_timers_of_the_loop_are_the_default() -> None:
    leases = Leases(Waits())
    ended = asyncio.Event()

    class Watched(Thing):
        async def close(self, code: int) -> None:
            ended.set()

    lease = leases.open(0.0)
    with leases.slot(lease.id, Watched) as slot:
        slot.fill(Watched())
    with leases.keep(lease):
        pass
    await ended.wait()
    await leases.close()
