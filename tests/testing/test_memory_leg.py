"""Memory legs: a byte pipe under the leg contract, in order whatever the clock does, with faults on demand."""

from __future__ import annotations

import random

import pytest

from phantom import limits
from phantom.errors import NetworkError, PhantomError
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual
from phantom.testing.memory_leg import MemoryLeg, memory_leg_pair
from phantom.transport.legs.base import Leg, LegOwner


class Owner:
    """Collects what arrives, sends what is queued; consumes at most ``takes`` bytes a call."""

    read_size = limits.READ_WINDOW
    batch_size = 1000

    def __init__(self, leg: MemoryLeg | None = None) -> None:
        self.leg = leg
        self.got = b""
        self.calls: list[int] = []
        self.queue: list[bytes] = []
        self.blocked: list[bool] = []
        self.lost: list[PhantomError | None] = []
        self.takes = 1 << 30

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        assert not self.lost
        at = min(end, start + self.takes)
        self.got += view[start:at]
        self.calls.append(end - start)
        return at

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        while self.queue and at + len(self.queue[0]) <= cap:
            data = self.queue.pop(0)
            view[at : at + len(data)] = data
            at += len(data)
        return at

    def leg_blocked(self, blocked: bool) -> None:
        self.blocked.append(blocked)

    def leg_lost(self, error: PhantomError | None) -> None:
        self.lost.append(error)


class Ends:
    def __init__(self, latency: float = 0.0, capacity: int = limits.LEG_QUEUE_CAP) -> None:
        self.runtime = SimulatedRuntime()
        self.legs = memory_leg_pair(self.runtime, latency=latency, capacity=capacity)
        self.owners = (Owner(self.legs[0]), Owner(self.legs[1]))
        for leg, owner in zip(self.legs, self.owners, strict=True):
            leg.start(owner)

    def send(self, data: bytes, end: int = 0) -> None:
        self.owners[end].queue.append(data)
        self.legs[end].flush()

    async def pass_time(self, seconds: float = 1.0) -> None:
        await self.runtime.sleep(seconds)


def virtual(test):  # type: ignore[no-untyped-def]
    """Runs an async test in virtual time."""

    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


@virtual
async def test_the_contract() -> None:
    ends = Ends()
    for leg, label in zip(ends.legs, ("memory:server", "memory:client"), strict=True):
        typed: Leg = leg
        owner: LegOwner = ends.owners[0]
        assert (typed.name, typed.proves_address, typed.peer_addr) == ("memory", True, label)
        assert owner.batch_size == 1000


@virtual
async def test_bytes_arrive_after_the_latency() -> None:
    ends = Ends(latency=0.25)
    ends.send(b"there")
    ends.send(b"back", 1)
    await ends.pass_time(0.2499)
    assert ends.owners[1].got == b""
    await ends.pass_time(0.0002)
    assert (ends.owners[1].got, ends.owners[0].got) == (b"there", b"back")
    assert [leg.bytes_sent for leg in ends.legs] == [5, 4]


@virtual
async def test_batches_of_one_instant_overtook_each_other() -> None:
    for latency in (0.0, 0.1):
        ends = Ends(latency=latency)
        for number in range(50):
            ends.send(bytes([number]))
        await ends.pass_time()
        assert ends.owners[1].got == bytes(range(50))


@virtual
async def test_what_the_owner_leaves_comes_again_with_more() -> None:
    ends = Ends()
    ends.owners[1].takes = 3
    ends.send(b"abcde")
    await ends.pass_time()
    ends.send(b"fg")
    await ends.pass_time()
    assert ends.owners[1].got == b"abcdef"
    assert ends.owners[1].calls == [5, 4]


@virtual
async def test_nothing_is_delivered_while_paused() -> None:
    ends = Ends()
    ends.legs[1].pause()
    ends.send(b"one")
    ends.send(b"two")
    await ends.pass_time()
    assert ends.owners[1].calls == []
    ends.legs[1].resume()
    assert ends.owners[1].got == b"onetwo"


@virtual
async def test_a_new_owner_gets_what_the_old_one_left() -> None:
    ends = Ends()
    heir = Owner()

    class Handover(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            ends.legs[1].owner = heir
            return start + 2

    ends.legs[1].owner = Handover()
    ends.send(b"abcd")
    await ends.pass_time()
    assert heir.got == b"cd"


@virtual
async def test_an_owner_may_pause_and_resume_from_within() -> None:
    ends = Ends()
    got: list[bytes] = []

    class Turns(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            got.append(bytes(view[start : start + 1]))
            ends.legs[1].pause()
            ends.legs[1].resume()
            return start + 1

    ends.legs[1].owner = Turns()
    ends.send(b"abc")
    await ends.pass_time()
    assert got == [b"a", b"b", b"c"]


@virtual
async def test_bytes_wait_for_an_owner() -> None:
    runtime = SimulatedRuntime()
    one, other = memory_leg_pair(runtime)
    one.send_raw(b"early")
    one.flush()  # nobody owns it: nothing happens
    one.close(linger=False)
    await runtime.sleep(1.0)
    owner = Owner()
    other.start(owner)
    assert owner.got == b"early"
    assert owner.lost == [None]


@virtual
async def test_a_full_pipe_blocks_its_sender() -> None:
    ends = Ends(latency=0.1, capacity=2500)
    owner = ends.owners[0]
    owner.queue = [bytes([i]) * 1000 for i in range(6)]  # one batch takes it all
    for number in range(4):
        owner.queue.append(bytes([number]) * limits.SEND_BATCH)
    ends.legs[0].flush()
    ends.legs[0].flush()
    assert owner.blocked == [True]
    assert len(owner.queue) == 4
    await ends.pass_time(0.15)
    assert owner.blocked == [True, False, True]
    assert len(owner.queue) == 3
    await ends.pass_time()
    assert owner.blocked == [True, False] * (len(owner.blocked) // 2)
    assert not owner.queue
    assert len(ends.owners[1].got) == 6000 + 4 * limits.SEND_BATCH


@virtual
async def test_close_is_seen_behind_what_was_sent() -> None:
    for linger in (True, False):
        ends = Ends(latency=0.1)
        ends.send(b"sent")
        ends.owners[0].queue = [b"last"]
        assert not ends.legs[0].closed
        ends.legs[0].close(linger=linger)
        assert ends.legs[0].closed
        ends.legs[0].close(linger=linger)
        await ends.legs[0].wait_closed()
        assert ends.owners[1].lost == []
        await ends.pass_time()
        assert ends.owners[1].got == (b"sentlast" if linger else b"sent")
        assert ends.owners[1].lost == [None]
        assert ends.owners[0].lost == []  # who closes hears nothing more
        ends.send(b"nobody listens")
        ends.send(b"to either", 1)
        await ends.pass_time()
        assert ends.owners[1].got == (b"sentlast" if linger else b"sent")
        assert ends.owners[0].got == b""


@virtual
async def test_the_last_words_of_a_blocked_leg_were_lost() -> None:
    ends = Ends(latency=0.1, capacity=10)
    ends.send(bytes(100))
    ends.send(b"CLOSE")
    assert ends.owners[0].queue == [b"CLOSE"]
    ends.legs[0].close(linger=True)
    await ends.pass_time()
    assert ends.owners[1].got == bytes(100) + b"CLOSE"


@virtual
async def test_the_end_overtook_what_a_paused_end_had_not_read() -> None:
    ends = Ends()
    ends.legs[1].pause()
    ends.send(b"first")
    ends.legs[0].close(linger=True)
    await ends.pass_time()
    assert ends.owners[1].lost == []
    ends.legs[1].resume()
    assert (ends.owners[1].got, ends.owners[1].lost) == (b"first", [None])


@virtual
async def test_a_cut_fails_both_ends_at_once() -> None:
    ends = Ends(latency=0.1)
    ends.send(b"on its way")
    ends.legs[0].cut()
    ends.legs[1].cut()
    for owner in ends.owners:
        assert [type(error) for error in owner.lost] == [NetworkError]
    await ends.pass_time()
    assert ends.owners[1].got == b""
    for leg in ends.legs:
        leg.close(linger=True)
        await leg.wait_closed()
    await ends.pass_time()
    assert [len(owner.lost) for owner in ends.owners] == [1, 1]


@virtual
async def test_a_leg_may_be_cut_before_anybody_owns_it() -> None:
    runtime = SimulatedRuntime()
    MemoryLeg(runtime, 0.0, 100, "alone").cut()
    one, other = memory_leg_pair(runtime)
    one.cut()
    owner = Owner()
    other.start(owner)
    one.send_raw(b"gone")
    await runtime.sleep(1.0)
    assert (owner.got, owner.lost) == (b"", [])


@virtual
async def test_a_stall_keeps_everything_in_order() -> None:
    ends = Ends(latency=0.1)
    ends.send(b"0")
    ends.legs[0].stall()
    ends.legs[0].stall()
    for number in range(1, 9):
        ends.send(b"%d" % number)
        ends.legs[0].stall()
    ends.send(b"back", 1)
    await ends.pass_time(60.0)
    assert (ends.owners[1].got, ends.owners[0].got) == (b"0", b"back")
    ends.legs[0].close(linger=True)
    await ends.pass_time(60.0)
    assert ends.owners[1].lost == []  # not even the end arrives
    ends.legs[0].unstall()
    await ends.pass_time(0.15)
    assert (ends.owners[1].got, ends.owners[1].lost) == (b"012345678", [None])


@virtual
async def test_a_tap_sees_and_changes_batches() -> None:
    ends = Ends()
    seen: list[bytes] = []

    def tap(data: bytes) -> bytes:
        seen.append(data)
        return data.upper() * 2

    ends.legs[0].tap = tap
    ends.send(b"abc")
    ends.legs[0].send_raw(b"raw")
    await ends.pass_time()
    assert seen == [b"abc", b"raw"]
    assert ends.owners[1].got == b"ABCABCRAWRAW"
    assert ends.legs[0].bytes_sent == 12


@virtual
async def test_an_owner_that_ends_the_leg_while_it_fills_is_asked_no_more() -> None:
    ends = Ends()

    class Quitter(Owner):
        def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
            ends.legs[0].close(linger=False)
            view[at] = 1
            return at + 1

    quitter = Quitter()
    ends.legs[0].owner = quitter
    ends.legs[0].flush()
    assert quitter.blocked == []


@pytest.mark.parametrize("seed", range(10))
def test_random_traffic_is_never_reordered(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        ends = Ends(latency=rng.choice((0.0, 0.01)), capacity=rng.choice((100, 5000)))
        sent = b""
        for _ in range(200):
            data = rng.randbytes(rng.randint(1, 300))
            ends.send(data)
            sent += data
            choice = rng.random()
            if choice < 0.1:
                ends.legs[1].pause()
            elif choice < 0.3:
                ends.legs[1].resume()
            elif choice < 0.35:
                ends.legs[0].stall()
            elif choice < 0.5:
                ends.legs[0].unstall()
            ends.owners[1].takes = rng.choice((1, 50, 1 << 30))
            if rng.random() < 0.3:
                await ends.pass_time(rng.choice((0.0, 0.005)))
        ends.owners[1].takes = 1 << 30
        ends.legs[0].unstall()
        ends.legs[0].close(linger=True)
        ends.legs[1].resume()
        await ends.pass_time(10.0)
        assert ends.owners[1].got == sent
        assert ends.owners[1].lost == [None]

    run_virtual(main())
