"""The FakeTLS leg on real sockets: against itself, against a peer made by hand, and against what is no peer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from phantom import limits
from phantom.crypto.providers import get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import NetworkError, PhantomError
from phantom.runtime import AsyncioRuntime
from phantom.transport.legs import faketls_records as records
from phantom.transport.legs.faketls import Disguise, FakeTlsLeg
from phantom.transport.legs.tcp import TcpLeg, connect_tcp
from tests.calm import PATIENCE, until
from tests.transport.legs.support import Owner, Peer, TurnedClock, frame, tcp_pair

pytestmark = pytest.mark.usefixtures("loop_kind")

DISGUISE = Disguise("www.google.com", 0x0303, get_provider())
SIZES = [0, 1, 100, 16379, 16380, 16381, 16384, 32764, 65536, 200_000, 3 * limits.MiB]


@asynccontextmanager
async def pair(
    client: Owner | None = None, server: Owner | None = None, *, other: Disguise = DISGUISE
) -> AsyncIterator[tuple[FakeTlsLeg, Owner, FakeTlsLeg, Owner]]:
    """Both ends, started, each with its owner."""
    runtime = AsyncioRuntime()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = await connect_tcp("127.0.0.1", listening.getsockname()[1], runtime, PATIENCE)
        far = TcpLeg(listening.accept()[0], runtime)
    one, two = client or Owner(), server or Owner()
    there = FakeTlsLeg(far, other, runtime, client=False)
    here = FakeTlsLeg(near, DISGUISE, runtime, client=True)
    try:
        there.start(two)
        here.start(one)
        yield here, one, there, two
    finally:
        here.close(linger=False)
        there.close(linger=False)


def send(leg: FakeTlsLeg, owner: Owner, *messages: bytes) -> None:
    owner.out.extend(map(frame, messages))
    owner.batch_size = max(owner.batch_size, *(len(message) + 4 for message in messages))
    leg.flush()


async def test_messages_of_every_size_arrive_both_ways() -> None:
    messages = [bytes(i * 31 & 255 for i in range(size)) for size in SIZES]
    async with pair() as (here, one, there, two):
        assert here.name == there.name == "faketls"
        assert here.proves_address
        assert here.peer_addr.startswith("127.0.0.1:")
        send(here, one, *messages)
        send(there, two, *messages)
        await two.until(lambda: len(two.frames) == len(messages))
        await one.until(lambda: len(one.frames) == len(messages))
        assert one.frames == two.frames == messages
        here.close(linger=True)
        await two.until(lambda: two.lost)
        assert two.lost == [None]
        there.close(linger=True)
        await asyncio.gather(here.wait_closed(), there.wait_closed())
        assert here.closed
        assert one.lost == []


async def test_what_is_sent_before_a_lingering_close_arrives() -> None:
    async with pair() as (here, one, _, two):
        send(here, one, b"hello")
        await two.until(lambda: two.frames)
        one.out.append(frame(b"last words" * 10_000))
        one.batch_size = 200_000
        here.close(linger=True)
        await two.until(lambda: two.lost)
        assert two.frames == [b"hello", b"last words" * 10_000]


async def test_a_receiver_that_stops_stops_the_sender() -> None:
    async with pair() as (here, one, there, two):
        there.pause()
        for _ in range(1000):
            one.out.append(frame(bytes(60_000)))
        there.resume()
        await one.until(lambda: one.fills)
        there.pause()
        await one.until(lambda: one.blocked and one.blocked[-1])
        seen = len(two.frames)
        there.resume()
        await two.until(lambda: len(two.frames) == 1000)
        assert seen < 1000
        assert one.blocked[-1] is False
        assert here._said == b""


async def test_an_owner_that_pauses_within_a_window_gets_the_rest_later() -> None:
    class Slow(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            asked_in_pause.append(there._paused)
            at = super().leg_received(buf, view, start, end)
            if at > start:
                there.pause()
            return at

    asked_in_pause: list[bool] = []
    slow = Slow(read_size=1)  # one window holds one record or a few
    messages = [bytes([n]) * 40_000 for n in range(20)]
    async with pair(server=slow) as (here, one, there, _):
        send(here, one, *messages)
        async with asyncio.timeout(PATIENCE):
            while len(slow.frames) < 20:
                await slow.until(lambda: there._paused)
                there.resume()
        assert slow.frames == messages
        assert not any(asked_in_pause)


async def test_what_the_owner_left_is_offered_again_and_to_a_new_owner() -> None:
    class Picky(Owner):
        """Takes one frame, then nothing more."""

        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            if self.frames:
                return start
            stop = start + 4 + struct.unpack_from(">I", buf, start)[0]
            super().leg_received(buf, view, start, min(stop, end))
            there.pause()
            return min(stop, end)

    picky, next_one = Picky(), Owner()
    async with pair(server=picky) as (here, one, there, _):
        send(here, one, b"first", b"second", b"third")
        await picky.until(lambda: picky.frames)
        send(here, one, b"fourth" * 20_000)
        there.owner = next_one
        there.resume()
        await next_one.until(lambda: len(next_one.frames) == 3)
        assert picky.frames + next_one.frames == [b"first", b"second", b"third", b"fourth" * 20_000]


async def test_an_owner_is_replaced_within_a_delivery() -> None:
    next_one, first = Owner(), Owner()
    async with pair(server=first) as (here, one, there, _):

        def replace(_: bytes) -> None:
            there.owner = next_one

        first.on_frame = replace
        first.leg_received = one_frame(first)  # type: ignore[method-assign]
        send(here, one, b"first", b"second")
        await next_one.until(lambda: next_one.frames)
        assert (first.frames, next_one.frames) == ([b"first"], [b"second"])


def one_frame(owner: Owner) -> Any:
    def receive(buf: bytearray, view: memoryview, start: int, end: int) -> int:
        stop = start + 4 + struct.unpack_from(">I", buf, start)[0]
        return Owner.leg_received(owner, buf, view, start, stop)

    return receive


async def test_nothing_of_the_owner_leaves_before_the_hellos() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        here = FakeTlsLeg(leg, DISGUISE, AsyncioRuntime(), client=True)
        owner.out.append(frame(b"early"))
        here.start(owner)
        sent = records.parse_client_hello(await hello_of(peer))
        assert len(owner.out) == 1
        await peer.send(records.server_hello(sent, 0x0303, SYSTEM_RNG))
        assert await peer.read(6) == records.CHANGE_CIPHER_SPEC
        assert (await peer.read(5)).hex() == f"170303{5 + 4 + 17:04x}"


async def hello_of(peer: Peer) -> bytes:
    header = await peer.read(5)
    return header + await peer.read(int.from_bytes(header[3:], "big"))


@asynccontextmanager
async def greeted(
    runtime: AsyncioRuntime | None = None,
) -> AsyncIterator[tuple[Peer, Owner, FakeTlsLeg, records.RecordSealer]]:
    """A server's leg behind its hellos, the peer at the other end, and what that seals with."""
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        there = FakeTlsLeg(leg, DISGUISE, runtime or AsyncioRuntime(), client=False)
        there.start(owner)
        hello, sent = records.client_hello("www.google.com", 0x0303, SYSTEM_RNG, DISGUISE.provider)
        await peer.send(hello)
        records.parse_server_hello(await hello_of(peer), sent)
        assert await peer.read(6) == records.CHANGE_CIPHER_SPEC
        sealer, _ = records.record_pair("www.google.com", 0x0303, DISGUISE.provider, client=True)
        yield peer, owner, there, sealer


def sealed(sealer: records.RecordSealer, chunk: bytes) -> bytes:
    out = bytearray(len(chunk) + records.OVERHEAD)
    sealer.seal(memoryview(bytearray(chunk + b"\0")), 0, len(chunk), memoryview(out), 0)
    return bytes(out)


async def test_bytes_may_come_one_by_one() -> None:
    async with greeted() as (peer, owner, _, sealer):
        stream = records.CHANGE_CIPHER_SPEC + sealed(sealer, frame(b"a")[:3]) + sealed(sealer, b"")
        for byte in stream + sealed(sealer, frame(b"a")[3:] + frame(b"b")):
            await peer.send(bytes((byte,)))
        await owner.until(lambda: len(owner.frames) == 2)
        assert owner.frames == [b"a", b"b"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x28", "an alert"),
        (b"\x16\x03\x03\x00\x20", "type 22"),
        (b"\x17\x03\x03\x00\x10", "16 bytes"),
        (b"\x17\x03\x03\x41\x01", "16641 bytes"),
        (b"\x17\x03\x03\x00\x20" + bytes(32), "does not open"),
        (b"GET / HTTP/1.1\r\n", "type 71"),
        (records.CHANGE_CIPHER_SPEC * 2, "change_cipher_spec"),
    ],
    ids=["alert", "hello", "short", "long", "forged", "garbage", "ccs"],
)
async def test_what_breaks_the_rules_ends_the_leg_behind_what_was_good(bad: bytes, why: str) -> None:
    async with greeted() as (peer, owner, there, sealer):
        await peer.send(sealed(sealer, frame(b"good")) + bad + sealed(sealer, frame(b"never")))
        await owner.until(lambda: owner.lost)
        assert owner.frames == [b"good"]
        assert isinstance(owner.lost[0], NetworkError)
        assert why in str(owner.lost[0])
        await there.wait_closed()
        assert there.closed


async def test_64_empty_records_end_the_leg() -> None:
    async with greeted() as (peer, owner, _, sealer):
        await peer.send(b"".join(sealed(sealer, b"") for _ in range(64)))
        await owner.until(lambda: owner.lost)
        assert "64 records in a row were empty" in str(owner.lost[0])


@pytest.mark.parametrize("client", [False, True])
@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03\x01\x00\x05\x0e\x00\x00\x01\x00"]
)
async def test_another_protocol_is_refused(client: bool, said: bytes) -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        FakeTlsLeg(leg, DISGUISE, AsyncioRuntime(), client=client).start(owner)
        await peer.send(said)
        await owner.until(lambda: owner.lost)
        assert isinstance(owner.lost[0], NetworkError)
        assert "FakeTLS" in str(owner.lost[0])


async def test_both_ends_must_have_the_same_name() -> None:
    other = Disguise("www.example.org", 0x0303, DISGUISE.provider)
    async with pair(other=other) as (here, one, _, two):
        send(here, one, b"hello")
        await two.until(lambda: two.lost)
        assert "the same faketls_sni" in str(two.lost[0])
        await one.until(lambda: one.lost)


@pytest.mark.parametrize("client", [False, True])
async def test_a_hello_that_does_not_come_in_time(client: bool) -> None:
    clock = TurnedClock()
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        FakeTlsLeg(leg, DISGUISE, clock, client=client).start(owner)
        await peer.send(b"\x16\x03\x03\x01")
        clock.turn(4.9)
        assert owner.lost == []
        clock.turn(0.2)
        assert "no TLS hello came within 5 s" in str(owner.lost[0])
        assert clock.armed == []


async def test_the_timer_ends_with_the_hellos_and_with_the_leg() -> None:
    clock = TurnedClock()
    async with greeted(clock) as (_, _, there, _):
        assert clock.armed == []
        there.close(linger=False)
    async with tcp_pair() as (leg, _):
        early = FakeTlsLeg(leg, DISGUISE, clock, client=True)
        early.start(Owner())
        assert clock.armed == [5.0]
        early.close(linger=False)
        assert clock.armed == []


@pytest.mark.parametrize("client", [False, True])
async def test_an_end_before_the_hellos_is_an_error(client: bool) -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        FakeTlsLeg(leg, DISGUISE, AsyncioRuntime(), client=client).start(owner)
        peer.sock.close()
        await owner.until(lambda: owner.lost)
        assert isinstance(owner.lost[0], NetworkError)
        assert "FakeTLS hellos" in str(owner.lost[0]) or "reset" in str(owner.lost[0]).lower()


async def test_a_spent_counter_ends_the_leg() -> None:
    async with pair() as (here, one, _, two):
        send(here, one, b"first")
        await two.until(lambda: two.frames)
        here._sealer.counter = limits.FAKETLS_MAX_RECORDS
        send(here, one, b"second")
        await one.until(lambda: one.lost)
        assert "all the records" in str(one.lost[0])
        assert two.frames == [b"first"]


async def test_an_owner_that_closes_within_a_delivery_hears_nothing_more() -> None:
    async with greeted() as (peer, owner, there, sealer):
        owner.on_frame = lambda _: there.close(linger=False)
        await peer.send(b"".join(sealed(sealer, frame(b"x" * 16_000)) for _ in range(80)))
        await until(lambda: there.closed)
        errors: list[PhantomError | None] = owner.lost
        assert errors == []


async def test_a_hello_waits_for_room_in_the_batch() -> None:
    async with tcp_pair() as (leg, _):
        here = FakeTlsLeg(leg, DISGUISE, AsyncioRuntime(), client=True)
        buf = bytearray(2000)
        assert here.leg_fill(buf, memoryview(buf), 0, 100) == 0
        assert here.leg_fill(buf, memoryview(buf), 0, 2000) == len(here._said) or here._said == b""
        assert buf[:1] == b"\x16"
        assert here.batch_size >= 1024
