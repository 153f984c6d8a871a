"""The calls of StreamService by generated stubs alone, as a client in another language makes them (surface §15)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

import phantom
from phantom import limits
from phantom.api.stream import PhantomStream
from phantom.errors import StreamResetError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_MESSAGE_CAP, SIDECAR_STREAM_WINDOW, KiB
from phantom.sidecar._generated.v1 import session_pb2, sidecar_pb2, stream_pb2
from phantom.sidecar.handles import StreamHandle
from phantom.sidecar.server import Sidecar
from tests.sidecar.conftest import Start, detail_of, until
from tests.sidecar.test_services import Client, Peer, fails, opened


@dataclass
class Rig:
    """A session of the sidecar, the peer's end of it, and the calls on streams."""

    running: Sidecar
    client: Client
    ref: session_pb2.SessionRef
    theirs: phantom.PhantomSession

    async def do(self, method: str, _timeout: float | None = None, **fields: Any) -> Any:
        request = getattr(stream_pb2, f"StreamService{method}Request")(**fields)
        return await self.client.do(getattr(self.client.stream, method), request, _timeout)

    async def open(self, **fields: Any) -> tuple[stream_pb2.Stream, PhantomStream]:
        """A stream of the sidecar, and the peer's end of it."""
        stream = (await self.do("Open", session=self.ref, **fields)).stream
        return stream, await self.theirs.accept_stream(20.0)

    async def recv(self, ref: stream_pb2.StreamRef, ack: int) -> stream_pb2.StreamData:
        piece: stream_pb2.StreamData = (await self.do("Recv", stream=ref, ack=ack)).piece
        return piece

    def handle(self, ref: stream_pb2.StreamRef) -> StreamHandle:
        return self.running.core.leases.find(ref.handle, StreamHandle)

    @property
    def held(self) -> int:
        return self.running.core.leases.get(self.client.lease_id).counts["stream"]


@asynccontextmanager
async def rig(start: Start, peer: Peer, **config: Any) -> AsyncIterator[Rig]:
    async with start() as running, opened(running) as client, peer(**config) as listener:
        ref = await client.connect(listener)
        yield Rig(running, client, ref, (await listener.accept()).session)


async def test_bytes_go_both_ways_and_halves_end(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open(priority=7)
        assert (stream.id, stream.priority) == (theirs.stream_id, 7)
        assert stream.max_unreliable_size == theirs.max_unreliable_size
        await side.do("Send", stream=stream.ref, data=b"out")
        await side.do("Send", stream=stream.ref, data=b"")
        assert await theirs.recv() == b"out"
        await side.do("Finish", stream=stream.ref)
        await side.do("Finish", stream=stream.ref)
        assert await theirs.recv() is None
        await theirs.send_reliable(b"back")
        assert await side.recv(stream.ref, 0) == stream_pb2.StreamData(seq=1, data=b"back")
        await theirs.finish()
        assert await side.recv(stream.ref, 1) == stream_pb2.StreamData(seq=2, end_of_stream=True)
        assert await side.recv(stream.ref, 1) == stream_pb2.StreamData(seq=2, end_of_stream=True)
        assert await side.recv(stream.ref, 2) == stream_pb2.StreamData(seq=3, end_of_stream=True)
        async with fails("FAILED_PRECONDITION", 34):
            await side.do("Send", stream=stream.ref, data=b"late")


async def test_receiving_loses_nothing_to_cancellation(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        waiting = asyncio.ensure_future(side.recv(stream.ref, 0))
        await until(lambda: side.handle(stream.ref).receiving._current is not None)
        waiting.cancel()
        await theirs.send_reliable(b"first")
        assert (await side.recv(stream.ref, 0)).data == b"first"
        assert (await side.recv(stream.ref, 0)).data == b"first"  # nobody has acknowledged it
        await theirs.send_reliable(b"second")
        assert (await side.recv(stream.ref, 1)).data == b"second"
        async with fails("INVALID_ARGUMENT", 6, "number 9 is acknowledged, but 2"):
            await side.recv(stream.ref, 9)


async def test_a_newer_receive_ends_the_older(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        older = asyncio.ensure_future(side.recv(stream.ref, 0))
        await until(lambda: side.handle(stream.ref).receiving._current is not None)
        newer = asyncio.ensure_future(side.recv(stream.ref, 0))
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call receives from this stream"):
            await older
        await theirs.send_reliable(b"x")
        assert (await newer).data == b"x"


async def test_streams_of_the_peer_are_given_until_they_are_acknowledged(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        first = await side.theirs.open_stream()
        accepted = (await side.do("Accept", session=side.ref)).accepted
        assert (accepted.seq, accepted.stream.id) == (1, first.stream_id)
        assert (await side.do("Accept", session=side.ref)).accepted == accepted
        second = await side.theirs.open_stream()
        later = (await side.do("Accept", session=side.ref, ack=1)).accepted
        assert (later.seq, later.stream.id) == (2, second.stream_id)
        await side.do("Release", stream=later.stream.ref)
        third = await side.theirs.open_stream()  # what was given back is not given again
        assert (await side.do("Accept", session=side.ref, ack=1)).accepted.stream.id == third.stream_id
        async with fails("INVALID_ARGUMENT", 6, "stream 9 is acknowledged, but 3"):
            await side.do("Accept", session=side.ref, ack=9)


async def test_accept_waits_and_ends_with_the_session(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        handle = side.running.core.session(side.ref)
        older = asyncio.ensure_future(side.do("Accept", session=side.ref))
        await until(lambda: handle.accepting._current is not None)
        newer = asyncio.ensure_future(side.do("Accept", session=side.ref))
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call accepts"):
            await older
        await side.theirs.disconnect(5)
        async with fails("FAILED_PRECONDITION", 14):
            await newer
        assert side.held == 0


async def test_reset_and_stop_carry_their_codes(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        await side.do("Send", stream=stream.ref, data=b"x")
        assert await theirs.recv() == b"x"
        await side.do("Reset", stream=stream.ref, code=7)
        with pytest.raises(StreamResetError) as reset:
            await theirs.recv()
        assert reset.value.reset_code == 7
        theirs.reset(9)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await side.recv(stream.ref, 0)
        assert failed.value.code().name == "ABORTED"
        assert (detail_of(failed.value).code, detail_of(failed.value).reset_code) == (42, 9)
        other, end = await side.open()
        await side.do("Send", stream=other.ref, data=b"x")
        assert await end.recv() == b"x"
        await side.do("Stop", stream=other.ref, code=11)
        with pytest.raises(StreamResetError) as stopped:
            while True:
                await end.send_reliable(b"unwanted")
                await asyncio.sleep(0)
        assert stopped.value.reset_code == 11
        for call in ("Reset", "Stop"):
            async with fails("INVALID_ARGUMENT", 6, "65535"):
                await side.do(call, stream=other.ref, code=65536)


async def test_priority_and_unreliable_pieces(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        await side.do("SetPriority", stream=stream.ref, priority=9)
        assert side.handle(stream.ref).stream.priority == 9
        await side.do("Send", stream=stream.ref, data=b"one", unreliable=True)
        await side.do("Send", stream=stream.ref, data=b"two", unreliable=True)
        assert [await theirs.recv(), await theirs.recv()] == [b"one", b"two"]
        async with fails("INVALID_ARGUMENT", 6, "unreliable send"):
            too_much = bytes(min(stream.max_unreliable_size + 1, SIDECAR_MESSAGE_CAP))
            await side.do("Send", stream=stream.ref, data=too_much, unreliable=True)


async def test_limits(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(start, peer) as side:
        for _ in range(limits.MAX_STREAMS):
            await side.do("Open", session=side.ref)
        async with fails("RESOURCE_EXHAUSTED", 33):
            await side.do("Open", session=side.ref, no_wait=True)
        assert side.held == limits.MAX_STREAMS
        monkeypatch.setattr(StreamHandle, "most", limits.MAX_STREAMS)
        async with fails("RESOURCE_EXHAUSTED", 3, "streams"):
            await side.do("Open", session=side.ref)
        some = next(iter(side.running.core.session(side.ref).streams))
        async with fails("RESOURCE_EXHAUSTED", 38, "1048576"):
            ref = stream_pb2.StreamRef(handle=some.number)
            await side.do("Send", stream=ref, data=bytes(SIDECAR_MESSAGE_CAP + 1))


async def test_handles_that_are_not_known(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, _ = await side.open()
        await side.do("Release", stream=stream.ref)
        for method in ("Send", "Recv", "SetPriority", "Finish", "Reset", "Stop", "Release"):
            async with fails("NOT_FOUND", 13, "no such stream"):
                await side.do(method, stream=stream.ref)
        async with fails("NOT_FOUND", 13, "no such stream"):
            await side.do("Finish", stream=stream_pb2.StreamRef(handle=side.ref.handle))  # of another kind
        async with fails("NOT_FOUND", 13, "no such session"):
            await side.do("Open", session=session_pb2.SessionRef(handle=stream.ref.handle))


@pytest.mark.parametrize("before", [False, True], ids=["open-already", "not-open-yet"])
async def test_an_open_whose_answer_never_came_is_given_up(start: Start, peer: Peer, before: bool) -> None:
    async with rig(start, peer) as side:
        if not before:
            await side.do("Open", session=side.ref, opening=1)
        await side.do("Release", session=side.ref, opening=1)
        if before:
            async with fails("FAILED_PRECONDITION", 34, "gave the stream up"):
                await side.do("Open", session=side.ref, opening=1)
        assert side.held == 0
        second = (await side.do("Open", session=side.ref, opening=2)).stream
        assert second.id == 5
        theirs = await side.theirs.accept_stream(20.0)
        while theirs.stream_id != second.id:  # the first was announced or not; if so, it was reset
            with pytest.raises(StreamResetError):
                await theirs.recv()
            theirs = await side.theirs.accept_stream(20.0)


async def test_release_before_the_end_resets_and_stops(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        await side.do("Send", stream=stream.ref, data=b"x")
        assert await theirs.recv() == b"x"
        await theirs.send_reliable(b"not all")
        assert (await side.recv(stream.ref, 0)).data == b"not all"
        waits = side.running.core.waits._waits
        before = len(waits)
        waiting = asyncio.ensure_future(side.recv(stream.ref, 1))
        await until(lambda: len(waits) > before)
        assert side.held == 1
        await side.do("Release", stream=stream.ref)
        assert side.held == 0
        async with fails("NOT_FOUND", 13, "released"):
            await waiting
        with pytest.raises(StreamResetError):
            await theirs.recv()
        with pytest.raises(StreamResetError):
            while True:
                await theirs.send_reliable(b"unwanted")
                await asyncio.sleep(0)


async def test_release_of_a_finished_half_delivers_it(start: Start, peer: Peer) -> None:
    data = os.urandom(4 << 20)  # more than arrives before the peer reads
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        for at in range(0, len(data), 1 << 20):
            await side.do("Send", stream=stream.ref, data=data[at : at + (1 << 20)])
        await side.do("Finish", stream=stream.ref)
        await side.do("Release", stream=stream.ref)  # the peer's half was not read to its end: that one is stopped
        parts = [part async for part in theirs]
        assert b"".join(parts) == data


async def test_release_after_the_end_finishes(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        await side.do("Send", stream=stream.ref, data=b"all")
        await theirs.finish()
        assert (await side.recv(stream.ref, 0)).end_of_stream
        await side.do("Release", stream=stream.ref)
        assert [part async for part in theirs] == [b"all"]


async def test_the_end_of_a_session_frees_its_streams(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, _ = await side.open()
        await side.do("Open", session=side.ref)
        assert side.held == 2
        await side.client.do(side.client.session.Disconnect, session_pb2.DisconnectRequest(session=side.ref))
        assert side.held == 0
        async with fails("NOT_FOUND", 13):
            await side.do("Finish", stream=stream.ref)


async def test_a_lease_says_how_many_streams_it_holds_and_ends_them(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener:
        async with opened(running) as client:
            ref = await client.connect(listener)
            theirs = (await listener.accept()).session
            await client.do(client.stream.Open, stream_pb2.StreamServiceOpenRequest(session=ref))
            await theirs.accept_stream()
            keeping = client.sidecar.KeepLease(metadata=client.metadata)
            await keeping.write(sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=client.lease_id)))
            state = (await keeping.read()).state
            assert (state.sessions, state.streams) == (1, 1)
        with pytest.raises(phantom.errors.ConnectionClosedError):
            await theirs.recv()


# --- Exchange ---------------------------------------------------------------------------------------------------------


@dataclass
class Wire:
    """The call, frame by frame."""

    call: Any

    async def write(self, **frame: Any) -> None:
        request = stream_pb2.StreamServiceExchangeRequest(frame=stream_pb2.StreamClientFrame(**frame))
        await self.call.write(request)

    async def read(self) -> stream_pb2.StreamServerFrame:
        response = await self.call.read()
        assert isinstance(response, stream_pb2.StreamServiceExchangeResponse), await self.call.code()
        return response.frame

    async def chunk(self) -> stream_pb2.StreamChunk:
        """The next chunk, credits skipped."""
        while not (frame := await self.read()).HasField("chunk"):
            pass
        return frame.chunk

    async def settled(self, *, least: int, grant: bool = False) -> tuple[int, int]:
        """Reads until nothing more comes; the cost of the chunks and the number of the last.

        Every answer to a question for credit comes behind the chunks that were written before.
        """
        got = seq = quiet = 0
        while got < least or quiet < 20:
            await self.write(credit=session_pb2.Credit())
            quiet += 1
            while (frame := await self.read()).HasField("chunk"):
                size = len(frame.chunk.data) + ITEM_OVERHEAD
                got, seq, quiet = got + size, frame.chunk.seq, 0
                if grant:
                    await self.write(credit=session_pb2.Credit(bytes=size))
        return got, seq


async def exchange(side: Rig, ref: stream_pb2.StreamRef, **fields: Any) -> Wire:
    wire = Wire(side.client.stream.Exchange(metadata=side.client.metadata))
    await wire.write(open=stream_pb2.StreamExchangeOpen(stream=ref, **fields))
    return wire


async def test_an_exchange_ends_when_both_halves_have(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        wire = await exchange(side, stream.ref)
        assert (await wire.read()).opened.window == SIDECAR_STREAM_WINDOW
        await wire.write(chunk=stream_pb2.StreamChunk(data=b"a piece", unreliable=True))
        assert await theirs.recv() == b"a piece"
        await wire.write(chunk=stream_pb2.StreamChunk(data=b"all", end_of_stream=True))
        assert (await wire.read()).credit == session_pb2.Credit(bytes=10 + 2 * ITEM_OVERHEAD, ack=2)
        assert [part async for part in theirs] == [b"all"]
        await theirs.send_reliable(b"back")
        assert await wire.chunk() == stream_pb2.StreamChunk(data=b"back", seq=1)
        await theirs.finish()
        assert await wire.chunk() == stream_pb2.StreamChunk(end_of_stream=True, seq=2)
        assert await wire.call.read() is grpc.aio.EOF
        assert (await wire.call.code()).name == "OK"


async def test_an_exchange_moves_much_within_its_windows(start: Start, peer: Peer) -> None:
    data = os.urandom(6 << 20)
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        wire = await exchange(side, stream.ref, window=limits.SIDECAR_STREAM_WINDOW_MIN)
        credit = (await wire.read()).opened.window

        async def send() -> None:
            await theirs.send_reliable(data)
            await theirs.finish()

        sending = asyncio.ensure_future(send())
        received, unpaid, largest = bytearray(), 0, 0
        while True:
            chunk = await wire.chunk()
            if chunk.end_of_stream:
                break
            received += chunk.data
            unpaid += len(chunk.data) + ITEM_OVERHEAD
            largest = max(largest, unpaid)
            if unpaid > 128 * KiB:
                await wire.write(credit=session_pb2.Credit(bytes=unpaid, ack=chunk.seq))
                unpaid = 0
        assert received == data
        assert largest <= limits.SIDECAR_STREAM_WINDOW_MIN
        await sending
        reading = asyncio.ensure_future(_all(theirs))
        at = 0
        while at < len(data):
            size = min(256 * KiB, len(data) - at)
            while credit < size + ITEM_OVERHEAD:
                credit += (await wire.read()).credit.bytes
            credit -= size + ITEM_OVERHEAD
            await wire.write(
                chunk=stream_pb2.StreamChunk(data=data[at : at + size], end_of_stream=at + size == len(data))
            )
            at += size
        assert await reading == data
        while await wire.call.read() is not grpc.aio.EOF:
            pass
        assert (await wire.call.code()).name == "OK"


async def _all(stream: PhantomStream) -> bytes:
    return b"".join([part async for part in stream])


async def test_an_exchange_without_credit_sends_nothing(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        wire = await exchange(side, stream.ref, window=limits.SIDECAR_STREAM_WINDOW_MIN)
        await wire.read()
        await theirs.send_reliable(bytes(2 << 20))
        got, _ = await wire.settled(least=64 * KiB)
        assert got <= limits.SIDECAR_STREAM_WINDOW_MIN
        wire.call.cancel()


async def test_an_exchange_keeps_little_of_what_is_not_acknowledged(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        wire = await exchange(side, stream.ref)
        await wire.read()
        sending = asyncio.ensure_future(theirs.send_reliable(bytes(8 << 20)))
        got, seq = await wire.settled(least=SIDECAR_STREAM_WINDOW, grant=True)
        assert got <= SIDECAR_STREAM_WINDOW + 256 * KiB + ITEM_OVERHEAD
        await wire.write(credit=session_pb2.Credit(ack=seq))
        assert (await wire.chunk()).seq == seq + 1
        await sending
        wire.call.cancel()


async def test_an_exchange_that_only_sends_leaves_receiving_alone(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        receiving = asyncio.ensure_future(side.recv(stream.ref, 0))
        wire = await exchange(side, stream.ref, send_only=True)
        await wire.read()
        await wire.write(chunk=stream_pb2.StreamChunk(data=b"out"))
        await wire.write(credit=session_pb2.Credit())  # asks what was taken
        assert (await wire.read()).credit.ack == 1
        await wire.call.done_writing()
        while await wire.call.read() is not grpc.aio.EOF:
            pass
        assert (await wire.call.code()).name == "OK"
        assert await theirs.recv() == b"out"
        await theirs.send_reliable(b"in")
        assert (await receiving).data == b"in"


@pytest.mark.parametrize(
    ("frames", "code", "text"),
    [
        ([], 6, "opens it"),
        ([{"chunk": stream_pb2.StreamChunk(data=b"x")}], 6, "opens it"),
        ([{"open": {"window": 1000}}], 6, "window"),
        ([{"open": {"window": SIDECAR_STREAM_WINDOW + 1}}], 6, "window"),
        ([{"open": {"ack": 5}}], 6, "number 5 is acknowledged"),
        ([{"open": {}}, {"open": {}}], 6, "chunks and credits"),
        ([{"open": {}}, {"credit": session_pb2.Credit(bytes=1)}], 6, "credit were granted"),
        (
            [
                {"open": {}},
                {"chunk": stream_pb2.StreamChunk(end_of_stream=True)},
                {"chunk": stream_pb2.StreamChunk(data=b"late")},
            ],
            34,
            "behind the end",
        ),
    ],
    ids=["nothing", "no-open", "small", "large", "ack", "twice", "credit", "after-the-end"],
)
async def test_a_client_that_breaks_a_rule(
    start: Start, peer: Peer, frames: list[dict[str, Any]], code: int, text: str
) -> None:
    async with rig(start, peer) as side:
        stream, _ = await side.open()
        wire = Wire(side.client.stream.Exchange(metadata=side.client.metadata))
        for frame in frames:
            if isinstance(frame.get("open"), dict):
                frame = {"open": stream_pb2.StreamExchangeOpen(stream=stream.ref, **frame["open"])}
            await wire.write(**frame)
        if not frames:
            await wire.call.done_writing()
        last = stream_pb2.StreamServerFrame()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                last = await wire.read()
        detail = detail_of(caught.value)
        assert detail.code == code
        assert text in detail.message
        if last.HasField("failed"):  # unless another frame was cut off by the failure
            assert last.failed == detail


async def test_an_exchange_on_a_stream_that_is_reset_says_so(start: Start, peer: Peer) -> None:
    async with rig(start, peer) as side:
        stream, theirs = await side.open()
        wire = await exchange(side, stream.ref)
        await wire.read()
        theirs.reset(77)
        frame = await wire.read()
        assert (frame.failed.code, frame.failed.reset_code) == (StreamResetError.code, 77)
