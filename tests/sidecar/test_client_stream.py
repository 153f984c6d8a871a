"""Streams and keys: one program on both, the package ``phantom`` and the client of the sidecar (surface §14)."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.errors import (
    ConnectionClosedError,
    PhantomTimeoutError,
    StreamClosedError,
    StreamLimitError,
    StreamResetError,
    UnsupportedError,
    ValidationError,
)
from phantom.sidecar.client import Api, SidecarClient, SidecarSession, SidecarStream
from phantom.transport.session.events import Rekeyed
from tests.sidecar.conftest import Start, until

ANY = "tcp://127.0.0.1:0"
Open = Callable[[], Any]


@pytest.fixture(params=["phantom", "sidecar"])
def api_of(request: pytest.FixtureRequest, start: Start) -> Open:
    """``async with api_of() as api``: what the program runs on."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Api]:
        if request.param == "phantom":
            yield phantom
            return
        async with start() as running, SidecarClient(running.ready.address) as client:
            yield client

    return opened


@asynccontextmanager
async def pair(api: Api) -> AsyncIterator[tuple[phantom.PhantomSession, phantom.PhantomSession]]:
    async with api.listen(ANY) as listener:
        session = await api.connect(listener.urls[0], timeout=20.0)
        theirs = (await listener.accept(20.0)).session
        try:
            yield session, theirs
        finally:
            await asyncio.gather(session.disconnect(timeout=0.0), theirs.disconnect(timeout=0.0))


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
async def test_a_stream_both_ways(api_of: Open, size: int) -> None:
    data = os.urandom(size)
    async with api_of() as api, pair(api) as (session, theirs):
        async with await session.open_stream(priority=5) as mine:
            assert (mine.stream_id, mine.priority) == (3, 5)
            await mine.send_reliable(memoryview(data))
        other = await theirs.accept_stream(20.0)
        assert other.stream_id == 3
        assert b"".join([piece async for piece in other]) == data
        await other.send_reliable(bytearray(b"back"))
        await other.finish()
        assert await mine.recv(20.0) == b"back"
        assert await mine.recv(20.0) is None
        assert await mine.recv(20.0) is None
        with pytest.raises(StreamClosedError):
            await mine.send_reliable(b"late")


async def test_reset_and_stop(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        mine = await session.open_stream()
        await mine.send_reliable(b"x")
        other = await theirs.accept_stream(20.0)
        assert await other.recv() == b"x"
        mine.reset(7)
        with pytest.raises(StreamClosedError):
            await mine.send_reliable(b"late")
        for _ in range(2):  # it stays so
            with pytest.raises(StreamResetError) as caught:
                await other.recv(20.0)
            assert caught.value.reset_code == 7
        mine.stop(9)
        with pytest.raises(StreamClosedError, match="stopped"):
            await mine.recv()
        with pytest.raises(StreamResetError) as caught:
            while True:
                await other.send_reliable(b"unwanted")
                await asyncio.sleep(0)
        assert caught.value.reset_code == 9
        for verb in (mine.reset, mine.stop):
            with pytest.raises(ValidationError, match="65535"):
                verb(65536)


async def test_leaving_the_block_by_an_exception_resets_and_stops(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        with pytest.raises(ZeroDivisionError):
            async with await session.open_stream() as mine:
                await mine.send_reliable(b"x")
                other = await theirs.accept_stream(20.0)
                assert await other.recv() == b"x"
                raise ZeroDivisionError
        with pytest.raises(StreamResetError):
            await other.recv(20.0)


async def test_a_stream_that_nobody_has_any_more_is_given_up(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        mine = await session.open_stream()
        await mine.send_reliable(b"x")
        other = await theirs.accept_stream(20.0)
        assert await other.recv() == b"x"
        del mine
        gc.collect()
        with pytest.raises(StreamResetError):
            await other.recv(20.0)


async def test_priority_and_unreliable_pieces(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        mine = await session.open_stream()
        await mine.set_priority(9)
        assert mine.priority == 9
        await mine.send_unreliable(b"one")
        await mine.send_unreliable(b"two")
        other = await theirs.accept_stream(20.0)
        assert [await other.recv(20.0), await other.recv(20.0)] == [b"one", b"two"]
        with pytest.raises(ValidationError, match="unreliable send"):
            await mine.send_unreliable(bytes(mine.max_unreliable_size + 1))
        for wrong in (-1, 1 << 32):
            with pytest.raises(ValidationError, match="priority"):
                await mine.set_priority(wrong)
            with pytest.raises(ValidationError, match="priority"):
                await session.open_stream(priority=wrong)
        with pytest.raises(ValidationError, match="bytes"):
            await mine.send_reliable("text")  # type: ignore[arg-type]


async def test_out_of_time_and_cancelled_nothing_is_lost(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        with pytest.raises(PhantomTimeoutError):
            await theirs.accept_stream(0.01)
        mine = await session.open_stream()
        other = await theirs.accept_stream(20.0)
        with pytest.raises(PhantomTimeoutError):
            await other.recv(0.01)
        waiting = asyncio.create_task(other.recv())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        accepting = asyncio.create_task(theirs.accept_stream())
        await asyncio.sleep(0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        await mine.send_reliable(b"later")
        second = await session.open_stream()
        assert await other.recv(20.0) == b"later"
        assert (await theirs.accept_stream(20.0)).stream_id == second.stream_id


async def test_the_limit_of_streams(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, _):
        streams = [await session.open_stream() for _ in range(limits.MAX_STREAMS)]
        assert len(streams) == limits.MAX_STREAMS
        with pytest.raises(StreamLimitError):
            await session.open_stream(wait=False)
        with pytest.raises(PhantomTimeoutError):
            await session.open_stream(timeout=0.05)


async def test_the_end_of_the_session_ends_what_waits(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        mine = await session.open_stream()
        await mine.send_reliable(b"x")
        other = await theirs.accept_stream(20.0)
        assert await other.recv() == b"x"
        waiting = [asyncio.create_task(mine.recv()), asyncio.create_task(session.accept_stream())]
        await asyncio.sleep(0)
        await theirs.disconnect(5)
        for task in waiting:
            with pytest.raises(ConnectionClosedError) as caught:
                await task
            assert caught.value.peer_code == 5


async def test_keys_change_and_data_flows(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs):
        await session.send(b"x")
        assert await theirs.recv(20.0) == b"x"
        events, others = session.events(), theirs.events()
        assert await session.rekey(20.0) == 1
        await session.send(b"after")
        assert await theirs.recv(20.0) == b"after"
        rekeyed = await anext(events)
        assert isinstance(rekeyed, Rekeyed)
        assert (rekeyed.epoch, rekeyed.by_peer, bool(rekeyed.reason)) == (1, False, True)
        theirs_rekeyed = await anext(others)
        assert isinstance(theirs_rekeyed, Rekeyed)
        assert (theirs_rekeyed.epoch, theirs_rekeyed.by_peer) == (1, True)
        assert session.negotiated.epoch == theirs.negotiated.epoch == 1


async def test_a_session_of_version_1_has_no_reset_and_no_change_of_keys(api_of: Open) -> None:
    config = phantom.PhantomConfig(offer_version=1, accept_versions=frozenset({1, 2}))
    async with api_of() as api, api.listen(ANY, config=config) as listener:
        session = await api.connect(listener.urls[0], config=config, timeout=20.0)
        theirs = (await listener.accept(20.0)).session
        mine = await session.open_stream()
        for verb in (mine.reset, mine.stop):
            with pytest.raises(UnsupportedError):
                verb()
        with pytest.raises(UnsupportedError):
            await session.rekey(20.0)
        await mine.send_reliable(b"all")
        del mine, verb
        gc.collect()  # given up unread: it can but finish
        other = await theirs.accept_stream(20.0)
        assert [piece async for piece in other] == [b"all"]
        for end in (session, theirs):
            await end.disconnect(timeout=0.0)
        with pytest.raises(ConnectionClosedError):
            await session.accept_stream()
        with pytest.raises(ConnectionClosedError):
            await session.open_stream()


# --- what only a stream elsewhere can meet ----------------------------------------------------------------------------


async def test_both_ends_have_the_same_keying_material(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, client.listen(ANY) as listener:
        async with phantom.connect(listener.urls[0]) as theirs:
            session: Any = (await listener.accept(20.0)).session
            await theirs.send(b"x")
            assert await session.recv(20.0) == b"x"
            assert await session.keying_material("a label", 48) == theirs.export_keying_material("a label", 48)
            assert len(await session.keying_material("a label")) == 32
            with pytest.raises(UnsupportedError, match=r"await session\.keying_material"):
                session.export_keying_material("a label")
            for wrong in (0, 8161):
                with pytest.raises(ValidationError, match="8160"):
                    await session.keying_material("x", wrong)
            with pytest.raises(ValidationError, match="text"):
                await session.keying_material(b"x")
            with pytest.raises(ValidationError):
                await session.keying_material("x" * 256)


async def test_handles_go_when_their_streams_do(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, pair(client) as (session, theirs):
        counts = running.core.leases.get(client.lease_id).counts
        mine = await session.open_stream()
        other = await theirs.accept_stream()
        assert isinstance(mine, SidecarStream)
        assert (counts["stream"], repr(mine)) == (2, "<SidecarStream 3>")
        del mine, other
        gc.collect()
        await until(lambda: counts["stream"] == 0)


async def test_opens_that_are_cancelled_leave_no_handle(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, pair(client) as (session, theirs):
        counts = running.core.leases.get(client.lease_id).counts
        for _ in range(50):
            opening = asyncio.create_task(session.open_stream())
            await until(lambda: counts["stream"] == 1)  # the answer is on its way
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await until(lambda: counts["stream"] == 0)
        for turns in range(50):  # at any other moment
            opening = asyncio.create_task(session.open_stream())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
        del opening
        gc.collect()
        await session.send(b"after all of it")
        assert await theirs.recv(20.0) == b"after all of it"
        await until(lambda: counts["stream"] == 0)


async def test_a_stream_outlives_its_client_quietly(start: Start) -> None:
    async with start() as running:
        async with SidecarClient(running.ready.address) as client, pair(client) as (session, _):
            stream = await session.open_stream()
        stream.reset()
        with pytest.raises(phantom.RuntimeInitError, match="not open"):
            await stream.recv()
        async with stream:
            pass
        del stream
        gc.collect()


async def test_a_send_that_is_out_of_time_is_out_of_the_sidecars_hands(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    overtaken = SidecarSession.overtaken

    async def counted(session: SidecarSession) -> None:
        asked.append(session)
        await overtaken(session)

    monkeypatch.setattr(SidecarSession, "overtaken", counted)
    async with start() as running, SidecarClient(running.ready.address) as client, client.listen(ANY) as listener:
        async with phantom.connect(listener.urls[0]) as theirs:
            session = (await listener.accept(20.0)).session
            stream = await session.open_stream()
            sent = 0
            with pytest.raises(PhantomTimeoutError, match="did not confirm"):  # the peer reads nothing
                while True:
                    await stream.send_reliable(bytes(1 << 20), 0.5)
                    sent += 1
            assert asked == [session]
            other = await theirs.accept_stream(20.0)
            await stream.finish()
            size = 0
            async for piece in other:
                size += len(piece)
            assert size == sent << 20
