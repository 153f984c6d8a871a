"""The client's side of Exchange: nothing is lost to cancellation, and memory is bounded (surface §15)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import phantom
from phantom import limits
from phantom.errors import ConnectionClosedError, NetworkError, PhantomTimeoutError
from phantom.limits import SIDECAR_CHUNK, SIDECAR_WINDOW, MiB
from phantom.sidecar.client import SidecarClient, SidecarSession
from tests.sidecar.conftest import Start, until

Peer = Callable[..., phantom.Binding]


@asynccontextmanager
async def connected(start: Start, peer: Peer) -> AsyncIterator[tuple[SidecarSession, phantom.PhantomSession]]:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        yield session, (await listener.accept()).session


async def test_many_messages_both_ways_in_order(start: Start, peer: Peer) -> None:
    count = 3000
    async with connected(start, peer) as (session, theirs), session.exchange() as exchange:

        async def echo() -> None:
            for _ in range(count):
                await theirs.send(await theirs.recv())

        async def send() -> None:
            for number in range(count):
                await exchange.send(number.to_bytes(4, "big"))

        echoing, sending = asyncio.create_task(echo()), asyncio.create_task(send())
        for number in range(count):
            assert await exchange.recv() == number.to_bytes(4, "big")
        await asyncio.gather(echoing, sending)


async def test_16_mib_both_ways_at_once(start: Start, peer: Peer) -> None:
    big = os.urandom(16 * MiB)
    async with connected(start, peer) as (session, theirs), session.exchange() as exchange:
        received, _, back, _ = await asyncio.gather(
            theirs.recv(), exchange.send(memoryview(big)), exchange.recv(), theirs.send(big)
        )
        for message in (received, back):
            assert hashlib.sha256(message).digest() == hashlib.sha256(big).digest()
        await theirs.send(b"and more follows")  # the large one was acknowledged
        assert await exchange.recv() == b"and more follows"


async def test_large_message_does_not_stop_what_follows(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs), session.exchange() as exchange:
        for _ in range(4):
            sending = asyncio.create_task(theirs.send(bytes(6 * MiB)))
            assert len(await exchange.recv()) == 6 * MiB
            await sending


async def test_cancelled_calls_leave_the_exchange_whole(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs), session.exchange() as exchange:
        got = []
        turn = 0
        while len(got) < 50:
            turn += 1
            receiving = asyncio.create_task(exchange.recv())
            await theirs.send(turn.to_bytes(2, "big"))
            for _ in range(turn % 19):
                await asyncio.sleep(0)
            if turn % 2:
                receiving.cancel()
            try:
                got.append(await receiving)
            except asyncio.CancelledError:
                continue
        assert got == [number.to_bytes(2, "big") for number in range(1, 51)]


async def test_send_that_is_cancelled_while_it_waits_queues_nothing(
    start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASE_CLOSE_TIMEOUT", 0.0)
    async with connected(start, peer) as (session, theirs), session.exchange() as exchange:
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1024:
                async with asyncio.timeout(0.5):
                    await exchange.send(sent.to_bytes(2, "big") + bytes(SIDECAR_CHUNK))
                sent += 1
        assert sent < 256  # the peer reads nothing: every buffer on the way has a bound
        assert exchange._outgoing_bytes <= SIDECAR_WINDOW + SIDECAR_CHUNK + 128
        for number in range(sent):
            assert (await theirs.recv())[:2] == number.to_bytes(2, "big")
        await exchange.send(b"the next one")
        assert await theirs.recv() == b"the next one"


async def test_leaving_the_block_waits_until_everything_was_taken(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs):
        async with session.exchange() as exchange:
            for number in range(100):
                await exchange.send(bytes([number]))
        assert await session.disconnect()
        assert [await theirs.recv() for _ in range(100)] == [bytes([number]) for number in range(100)]


async def test_leaving_by_an_exception_does_not_wait(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, _):
        with pytest.raises(ValueError, match="mine"):
            async with session.exchange() as exchange:
                await exchange.send(bytes(MiB))
                raise ValueError("mine")


async def test_what_was_not_received_in_the_block_comes_later(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs):
        for number in range(5):
            await theirs.send(bytes([number]))
        async with session.exchange() as exchange:
            assert [await exchange.recv() for _ in range(2)] == [b"\x00", b"\x01"]
            await until(lambda: len(exchange._incoming) == 3)  # arrived, and nobody took them
        assert [await session.recv() for _ in range(3)] == [b"\x02", b"\x03", b"\x04"]


@pytest.mark.parametrize("code", [0, 4])
async def test_iteration_ends_as_that_of_a_session(start: Start, peer: Peer, code: int) -> None:
    async with connected(start, peer) as (session, theirs):
        await theirs.send(b"a")
        await theirs.disconnect(code)
        got = []
        async with session.exchange() as exchange:

            async def collect() -> None:
                async for message in exchange:
                    got.append(message)

            if code:
                with pytest.raises(ConnectionClosedError) as caught:
                    await collect()
                assert caught.value.peer_code == code
            else:
                await collect()
        assert got == [b"a"]


async def test_session_that_ended_is_told_to_everyone(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs):
        async with session.exchange() as exchange:
            await theirs.disconnect(2)
            for call in (exchange.recv, lambda: exchange.send(b"x")):
                with pytest.raises(ConnectionClosedError) as caught:
                    await call()
                assert caught.value.peer_code == 2
            await exchange.flush()  # nothing was sent: nothing is missing
        with pytest.raises(ConnectionClosedError):
            async with session.exchange() as exchange:
                await exchange.send(b"taken by nobody")


async def test_send_only_leaves_receiving_to_recv(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, theirs), session.exchange(send_only=True) as exchange:
        receiving = asyncio.create_task(session.recv())
        await exchange.send(b"out")
        assert await theirs.recv() == b"out"
        await theirs.send(b"in")
        assert await receiving == b"in"


async def test_sidecar_that_stops(start: Start, peer: Peer) -> None:
    running = start()
    await running.start()
    async with peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        async with session.exchange() as exchange:
            await until(lambda: len(running.core.waits._waits) == 3)
            await running.stop()
            with pytest.raises(NetworkError, match="shutting down"):
                await exchange.recv()


async def test_call_that_the_sidecar_ends_well(start: Start, peer: Peer) -> None:
    async with connected(start, peer) as (session, _), session.exchange(send_only=True) as exchange:
        await exchange.flush()
        await until(lambda: exchange._credit > 0)
        await exchange._call.done_writing()
        with pytest.raises(ConnectionClosedError, match="ended the exchange"):
            await exchange.recv()


async def test_large_send_out_of_time(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE_CLOSE_TIMEOUT", 0.0)
    async with connected(start, peer) as (session, _):
        with pytest.raises(PhantomTimeoutError, match=r"did not confirm the message within 0\.3 s"):
            for _ in range(64):
                await session.send(bytes(2 * MiB), timeout=0.3)
