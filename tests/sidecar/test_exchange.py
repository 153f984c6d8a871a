"""Exchange as its protocol has it: credits, chunks, acknowledgements, and what breaks the rules (surface §15)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

import phantom
from phantom import limits
from phantom.limits import ITEM_OVERHEAD, SIDECAR_CHUNK, SIDECAR_CHUNK_MIN, SIDECAR_MESSAGE_CAP, SIDECAR_WINDOW, MiB
from phantom.sidecar import services
from phantom.sidecar._generated.v1.session_pb2 import (
    Chunk,
    ClientFrame,
    Credit,
    ExchangeOpen,
    ExchangeRequest,
    ExchangeResponse,
    RecvRequest,
    ServerFrame,
    SessionRef,
)
from phantom.sidecar.exchange import Exchange
from phantom.sidecar.handles import SessionHandle
from tests.sidecar.conftest import Start, detail_of, until
from tests.sidecar.test_services import Client, Peer, fails, opened


@dataclass
class Rig:
    """A session of the sidecar, the peer's end of it, and the handle that the sidecar has for it."""

    client: Client
    ref: SessionRef
    theirs: phantom.PhantomSession
    handle: SessionHandle

    async def open(self, **fields: object) -> Wire:
        wire = Wire(self.client.session.Exchange(metadata=self.client.metadata))
        await wire.write(open=ExchangeOpen(session=self.ref, **fields))  # type: ignore[arg-type]
        return wire


@dataclass
class Wire:
    """The call, frame by frame."""

    call: grpc.aio.StreamStreamCall[ExchangeRequest, ExchangeResponse]

    async def write(self, **frame: object) -> None:
        await self.call.write(ExchangeRequest(frame=ClientFrame(**frame)))  # type: ignore[arg-type]

    async def read(self) -> ServerFrame:
        response = await self.call.read()
        assert isinstance(response, ExchangeResponse), await self.call.code()
        return response.frame

    async def opened(self) -> Wire:
        assert (await self.read()).opened.window == SIDECAR_WINDOW
        return self

    async def drain(self) -> None:
        """Reads until the call ends."""
        while await self.call.read() is not grpc.aio.EOF:
            pass

    async def message(self) -> tuple[int, bytes]:
        """The chunks of one message, put together."""
        parts = []
        while True:
            chunk = (await self.read()).chunk
            parts.append(chunk.data)
            if not chunk.more:
                return chunk.seq, b"".join(parts)


@asynccontextmanager
async def rig(start: Start, peer: Peer, **config: object) -> AsyncIterator[Rig]:
    async with start() as running, opened(running) as client, peer(**config) as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        yield Rig(client, ref, theirs, running.core.session(ref))


async def test_messages_go_both_ways(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        for data in (b"", b"x", bytes(1000)):
            await wire.write(chunk=Chunk(data=data))
            assert await side.theirs.recv() == data
            await side.theirs.send(data)
        assert [await wire.message() for _ in range(3)] == [(1, b""), (2, b"x"), (3, bytes(1000))]
        wire.call.cancel()


async def test_16_mib_go_both_ways_whole(start: Start, peer: Peer) -> None:
    big = os.urandom(16 * MiB)
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        credit = SIDECAR_WINDOW
        largest = 0
        receiving = asyncio.create_task(side.theirs.recv())
        for at in range(0, len(big), SIDECAR_CHUNK):
            while credit < SIDECAR_CHUNK + ITEM_OVERHEAD:
                credit += (await wire.read()).credit.bytes
            credit -= SIDECAR_CHUNK + ITEM_OVERHEAD
            more = at + SIDECAR_CHUNK < len(big)
            await wire.write(chunk=Chunk(data=big[at : at + SIDECAR_CHUNK], more=more))
        received = await receiving
        assert hashlib.sha256(received).digest() == hashlib.sha256(big).digest()
        await side.theirs.send(received)
        digest, more = hashlib.sha256(), True
        while more:
            frame = await wire.read()
            if frame.HasField("credit"):
                continue
            digest.update(frame.chunk.data)
            largest = max(largest, len(frame.chunk.data))
            more = frame.chunk.more
            await wire.write(credit=Credit(bytes=len(frame.chunk.data) + ITEM_OVERHEAD))
        assert digest.digest() == hashlib.sha256(big).digest()
        assert largest == SIDECAR_CHUNK
        wire.call.cancel()


async def test_credit_comes_back_as_the_session_takes_messages(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        chunk = Chunk(data=bytes(SIDECAR_CHUNK))
        for _ in range(4):
            await wire.write(chunk=chunk)
        assert (await wire.read()).credit == Credit(bytes=4 * (SIDECAR_CHUNK + ITEM_OVERHEAD), ack=4)
        for _ in range(3):  # less than what is granted unasked
            await wire.write(chunk=Chunk(data=b"x"))
        await wire.write(credit=Credit())
        assert (await wire.read()).credit == Credit(bytes=3 * (1 + ITEM_OVERHEAD), ack=7)
        wire.call.cancel()


async def test_end_of_the_clients_half_is_acknowledged_and_messages_go_on_to_arrive(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        await wire.write(credit=Credit())
        await wire.write(chunk=Chunk(data=b"a"))
        await wire.write(chunk=Chunk(data=b"b"))
        await wire.call.done_writing()
        acknowledged = 0
        while acknowledged < 2:
            acknowledged = (await wire.read()).credit.ack
        assert [await side.theirs.recv() for _ in range(2)] == [b"a", b"b"]
        await side.theirs.send(b"still open")
        assert await wire.message() == (1, b"still open")
        await side.theirs.disconnect(9)
        async with fails("FAILED_PRECONDITION", 14):
            await wire.drain()


async def test_exchange_that_only_sends_ends_well_and_leaves_receiving_alone(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        receiving = asyncio.ensure_future(side.client.do(side.client.session.Recv, RecvRequest(session=side.ref)))
        await until(lambda: side.handle.receiving._current is not None)
        wire = await (await side.open(send_only=True, ack=77)).opened()
        await wire.write(chunk=Chunk(data=b"a", more=True))
        await wire.write(credit=Credit(bytes=0, ack=77))
        await wire.write(chunk=Chunk(data=b"b"))
        await wire.call.done_writing()
        credit = Credit()
        while (response := await wire.call.read()) is not grpc.aio.EOF:
            credit = response.frame.credit  # type: ignore[union-attr]
        assert credit.ack == 1
        assert await wire.call.code() is grpc.StatusCode.OK
        assert await side.theirs.recv() == b"ab"
        await side.theirs.send(b"for recv")
        assert (await receiving).message.data == b"for recv"  # type: ignore[attr-defined]


async def test_message_that_is_not_acknowledged_is_given_again(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        for data in (b"a", b"b", b"c"):
            await side.theirs.send(data)
        wire = await (await side.open()).opened()
        assert [(await wire.message())[1] for _ in range(3)] == [b"a", b"b", b"c"]
        await wire.write(credit=Credit(bytes=1, ack=1))
        await until(lambda: side.handle.inbox._acked == 1)
        wire.call.cancel()  # as if the connection broke: b and c may not have arrived
        wire = await (await side.open(ack=1)).opened()
        assert [await wire.message() for _ in range(2)] == [(2, b"b"), (3, b"c")]
        wire.call.cancel()
        reply = await side.client.do(side.client.session.Recv, RecvRequest(session=side.ref, ack=2))
        assert reply.message.data == b"c"  # type: ignore[attr-defined]


async def test_newer_exchange_takes_over(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        older = await (await side.open()).opened()
        await until(lambda: side.handle.receiving._current is not None)
        newer = await (await side.open()).opened()
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call"):
            await older.drain()
        await side.theirs.send(b"x")
        assert await newer.message() == (1, b"x")
        newer.call.cancel()


async def test_slow_client_stalls_the_sender_and_fills_no_memory(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        message = os.urandom(SIDECAR_CHUNK)
        sent = 0
        with pytest.raises(phantom.PhantomTimeoutError):
            for _ in range(1024):
                await side.theirs.send(message, timeout=0.5)
                sent += 1
        assert sent < 256  # 64 MiB: every buffer on the way has a bound
        assert side.handle.inbox._bytes <= SIDECAR_WINDOW + len(message) + ITEM_OVERHEAD
        got, cost = 0, SIDECAR_CHUNK + ITEM_OVERHEAD
        sending = asyncio.create_task(side.theirs.send(b"the last one"))
        while True:  # it all arrives, once the client takes it
            seq, data = await wire.message()
            got += 1
            assert seq == got
            if data == b"the last one":
                break
            assert data == message
            await wire.write(credit=Credit(bytes=cost, ack=seq))
        assert got == sent + 1
        await sending
        wire.call.cancel()


async def test_no_frame_follows_one_that_was_cut_off(start: Start, peer: Peer) -> None:
    stuck = asyncio.Event()

    async def write(_frame: ExchangeResponse) -> None:
        stuck.set()
        await asyncio.get_running_loop().create_future()

    async def requests() -> AsyncIterator[ExchangeRequest]:
        await asyncio.get_running_loop().create_future()
        yield ExchangeRequest()

    async with rig(start, peer) as side:
        await side.theirs.send(b"x")
        exchange = Exchange(side.handle, ExchangeOpen(), write)
        running = asyncio.create_task(exchange.run(requests()))
        await stuck.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not exchange.whole


async def test_failure_is_told_in_a_frame_unless_one_was_cut_off(
    start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_: object) -> None:
        raise phantom.SessionDeadError("gone")

    async with rig(start, peer) as side:
        for whole in (True, False):
            monkeypatch.setattr(services, "Exchange", lambda *_, whole=whole: SimpleNamespace(run=run, whole=whole))
            wire = await (await side.open()).opened()
            if whole:
                assert (await wire.read()).failed.code == 37
            async with fails("UNAVAILABLE", 37, "gone"):
                assert await wire.call.read() is grpc.aio.EOF
        monkeypatch.undo()


async def test_no_chunk_is_sent_beyond_the_credit(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open(window=2 * SIDECAR_CHUNK_MIN)).opened()
        message = os.urandom(3 * SIDECAR_CHUNK_MIN)
        await side.theirs.send(message)
        first = (await wire.read()).chunk
        assert (len(first.data), first.more) == (2 * SIDECAR_CHUNK_MIN - ITEM_OVERHEAD, True)
        await wire.write(credit=Credit(bytes=ITEM_OVERHEAD))  # not enough for the smallest chunk while more is queued
        await wire.write(chunk=Chunk(data=b"x"))
        await wire.write(credit=Credit())
        assert (await wire.read()).credit.ack == 1  # and no chunk before it
        await wire.write(credit=Credit(bytes=2 * SIDECAR_CHUNK_MIN - ITEM_OVERHEAD))
        second = (await wire.read()).chunk
        assert (first.data + second.data, second.more) == (message, False)
        wire.call.cancel()


async def test_slow_session_stalls_the_client(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE_CLOSE_TIMEOUT", 0.0)
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        credit, sent = SIDECAR_WINDOW, 0
        try:
            async with asyncio.timeout(0.5):  # the peer reads nothing: credit stops coming
                while sent < 256 * MiB:
                    while credit < SIDECAR_CHUNK + ITEM_OVERHEAD:
                        credit += (await wire.read()).credit.bytes
                    credit -= SIDECAR_CHUNK + ITEM_OVERHEAD
                    sent += SIDECAR_CHUNK
                    await wire.write(chunk=Chunk(data=bytes(SIDECAR_CHUNK)))
        except TimeoutError:
            pass
        assert sent < 64 * MiB


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([{}], "chunks and credits"),
        ([{"open": ExchangeOpen()}], "chunks and credits"),
        ([{"credit": Credit(bytes=1)}], "bytes of credit"),
        ([{"credit": Credit(bytes=0, ack=5)}], "number 5 is acknowledged"),
        ([{"chunk": Chunk(more=True)}], "empty"),
        ([{"chunk": Chunk(data=bytes(SIDECAR_MESSAGE_CAP + 1))}], "exceeds the credit"),
    ],
)
async def test_client_that_breaks_a_rule(start: Start, peer: Peer, frames: list[dict[str, object]], text: str) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        for frame in frames:
            await wire.write(**frame)
        async with fails("INVALID_ARGUMENT", 6, text):
            await wire.drain()
        await side.theirs.send(b"the session goes on")
        reply = await side.client.do(side.client.session.Recv, RecvRequest(session=side.ref))
        assert reply.message.data == b"the session goes on"  # type: ignore[attr-defined]


async def test_chunks_beyond_the_credit(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(start, peer) as side:

        async def stall(_data: bytes) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(side.handle, "session", SimpleNamespace(send=stall))
        wire = await side.open(send_only=True)
        frames = aiter(wire.call)
        assert (await anext(frames)).frame.opened.window == SIDECAR_WINDOW
        # The sidecar ends the call while this side writes, and grpc.aio then forgets the status: the last frame has it.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(32):
                await wire.write(chunk=Chunk(data=bytes(SIDECAR_MESSAGE_CAP // 2)))
        failed = (await anext(frames)).frame.failed
        assert failed.code == 6
        assert "exceeds the credit" in failed.message
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("opening", "code", "text"),
    [
        ({"window": 1}, 6, "window"),
        ({"window": SIDECAR_WINDOW + 1}, 6, "window"),
        ({"ack": 3}, 6, "number 3 is acknowledged"),
    ],
)
async def test_opening_that_is_refused(start: Start, peer: Peer, opening: dict[str, int], code: int, text: str) -> None:
    async with rig(start, peer) as side:
        wire = await side.open(**opening)
        async with fails("INVALID_ARGUMENT", code, text):
            await wire.drain()


async def test_exchange_without_a_session(start: Start) -> None:
    async with start() as running, opened(running) as client:
        wire = Wire(client.session.Exchange(metadata=client.metadata))
        await wire.write(open=ExchangeOpen(session=SessionRef(handle=1)))
        async with fails("NOT_FOUND", 13):
            await wire.drain()
        wire = Wire(client.session.Exchange(metadata=client.metadata))
        await wire.write(chunk=Chunk(data=b"x"))
        async with fails("INVALID_ARGUMENT", 6, "opens it"):
            await wire.drain()
        wire = Wire(client.session.Exchange(metadata=client.metadata))
        await wire.call.done_writing()
        async with fails("INVALID_ARGUMENT", 6, "opens it"):
            await wire.drain()


async def test_message_over_the_limit_of_the_session(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(start, peer) as side:
        monkeypatch.setattr(side.handle, "max_message", 3 * SIDECAR_CHUNK)
        wire = await (await side.open()).opened()
        for _ in range(4):
            await wire.write(chunk=Chunk(data=bytes(SIDECAR_CHUNK), more=True))
        async with fails("INVALID_ARGUMENT", 6, f"more than {3 * SIDECAR_CHUNK} bytes"):
            await wire.drain()
        wire = await (await side.open()).opened()
        await wire.write(chunk=Chunk(data=b"the session goes on"))
        assert await side.theirs.recv() == b"the session goes on"
        wire.call.cancel()


async def test_peer_that_closes_while_chunks_are_under_way(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        wire = await (await side.open()).opened()
        await wire.write(chunk=Chunk(data=b"half", more=True))
        await side.theirs.send(b"last words")
        await side.theirs.disconnect(3)
        assert await wire.message() == (1, b"last words")
        failed = (await wire.read()).failed
        assert (failed.code, failed.peer_code) == (14, 3)  # told in a frame too: a client that writes sees no status
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.drain()
        assert (detail_of(caught.value).code, detail_of(caught.value).peer_code) == (14, 3)


async def test_client_that_vanishes_leaves_nothing_running(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            wire = await (await side.open()).opened()
            await wire.write(chunk=Chunk(data=b"half", more=True))
            wire.call.cancel()
        await until(lambda: len(asyncio.all_tasks()) <= before)
        await side.theirs.send(b"x")
        reply = await side.client.do(side.client.session.Recv, RecvRequest(session=side.ref))
        assert reply.message.data == b"x"  # type: ignore[attr-defined]
