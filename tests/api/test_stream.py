"""PhantomStream: halves, resets, limits, order, back-pressure, priorities (surface §1.2, §11.2 "Streams", "Ending")."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import phantom
from phantom import limits
from phantom.api.shared import process_memory
from phantom.config import PhantomConfig
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual
from phantom.testing.sessions import session_pair
from phantom.transport.session.streams import Stream
from tests.calm import PATIENCE, turns, until

_KEY = phantom.generate_signing_key()
Ends = tuple[phantom.PhantomSession, phantom.PhantomSession]
Sessions = Callable[..., AbstractAsyncContextManager[Ends]]


@pytest.fixture(params=["memory", "tcp"])
def sessions(request: pytest.FixtureRequest, server_key: Any) -> Sessions:
    """``async with sessions() as (client, server)``, over a leg in memory and over TCP."""

    @asynccontextmanager
    async def in_memory(**configs: Any) -> AsyncIterator[Ends]:
        pair = await session_pair(key=server_key, **configs)
        yield pair.client, pair.server
        await pair.close()

    @asynccontextmanager
    async def over_tcp(client_config: Any = None, server_config: Any = None) -> AsyncIterator[Ends]:
        async with phantom.listen("127.0.0.1:0", key=server_key, config=server_config) as listener:
            client = await phantom.connect(listener.urls[0], config=client_config)
            server = (await listener.accept(PATIENCE)).session
            yield client, server
            await client.disconnect()
            await server.disconnect()

    return in_memory if request.param == "memory" else over_tcp


async def _both(client: phantom.PhantomSession, server: phantom.PhantomSession, **how: Any) -> Any:
    """A stream that the client opened, at both ends."""
    here = await client.open_stream(**how)
    return here, await server.accept_stream(PATIENCE)


async def _all(stream: phantom.PhantomStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


# --- bytes and halves -------------------------------------------------------------------------------------------------


async def test_one_opened_without_data_is_accepted_and_the_other_end_speaks_first(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        for opener, other in ((client, server), (server, client)):
            here = await opener.open_stream()
            there = await other.accept_stream(PATIENCE)
            assert there.stream_id == here.stream_id
            await there.send_reliable(b"220 ready")
            assert await here.recv(PATIENCE) == b"220 ready"
            for stream in (here, there):
                await stream.finish()
            assert await here.recv(PATIENCE) is None
            assert await there.recv(PATIENCE) is None


async def test_ids_have_the_parity_of_their_opener_and_ascend(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        assert [(await client.open_stream()).stream_id for _ in range(3)] == [3, 5, 7]
        assert [(await server.open_stream()).stream_id for _ in range(3)] == [2, 4, 6]


async def test_bytes_arrive_in_order_whatever_the_writes_were(sessions: Sessions) -> None:
    sizes = [1, 0, 70_000, 3, 262_144, 65_536, 0, 5, 1 << 20]
    data = random.Random(7).randbytes(sum(sizes))
    async with sessions() as (client, server):
        here, there = await _both(client, server)

        async def write() -> None:
            at = 0
            for size in sizes:
                await here.send_reliable(memoryview(data)[at : at + size])
                at += size
            await here.finish()

        received, _ = await asyncio.gather(_all(there), write())
        assert received == data
        assert await there.recv() is None
        assert await there.recv() is None


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    writes=strategies.lists(strategies.tuples(strategies.integers(0, 200_000), strategies.booleans()), max_size=12),
    reads=strategies.integers(0, 5),
)
def test_whatever_is_written_is_read_in_the_same_order(writes: list[tuple[int, bool]], reads: int) -> None:
    """Reliable bytes arrive all and in order; on a byte pipe every unreliable chunk does too, whole."""

    async def main() -> None:
        pair = await session_pair(key=_KEY, runtime=SimulatedRuntime(), latency=0.01)
        here, there = await _both(pair.client, pair.server)
        reliable, chunks = b"", []
        marks = itertools.count(1)

        async def write() -> None:
            nonlocal reliable
            for size, whole in writes:
                data = next(marks).to_bytes(2, "big") * (size // 2)
                if whole:
                    data = data[: here.max_unreliable_size]
                    chunks.extend([data] if data else [])
                    await here.send_unreliable(data)
                else:
                    reliable += data
                    await here.send_reliable(data)
            await here.finish()

        writing = asyncio.ensure_future(write())
        got = [chunk async for chunk in _slowly(there, reads)]
        await writing
        left = list(chunks)
        bytes_read = b""
        for chunk in got:
            if left and chunk == left[0] and not reliable.startswith(bytes_read + chunk):
                left.pop(0)
            elif reliable.startswith(bytes_read + chunk):
                bytes_read += chunk
            else:
                raise AssertionError("a chunk that nobody sent")
        assert bytes_read == reliable
        assert left == []
        await pair.close()

    run_virtual(main())


async def _slowly(stream: phantom.PhantomStream, turns_each: int) -> AsyncIterator[bytes]:
    async for chunk in stream:
        await turns(turns_each)
        yield chunk


async def test_each_half_ends_on_its_own(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        await here.send_reliable(b"request")
        await here.finish()
        await here.finish()
        assert await _all(there) == b"request"
        with pytest.raises(phantom.StreamClosedError):
            await here.send_reliable(b"more")
        with pytest.raises(phantom.StreamClosedError):
            await here.send_unreliable(b"more")
        await there.send_reliable(b"answer")
        await there.finish()
        assert await _all(here) == b"answer"
        await until(lambda: not client.metrics_snapshot().active_streams)
        await until(lambda: not server.metrics_snapshot().active_streams)


async def test_messages_and_streams_share_a_session(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        await client.send(b"a message")
        await here.send_reliable(b"bytes")
        await client.send(b"another")
        assert await server.recv(PATIENCE) == b"a message"
        assert await there.recv(PATIENCE) == b"bytes"
        assert await server.recv(PATIENCE) == b"another"


async def test_mutable_input_is_copied_and_bad_input_refused(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    data = bytearray(b"before")
    pair.client_leg.stall()
    await here.send_reliable(data)
    data[:] = b"after!"
    pair.client_leg.unstall()
    assert await there.recv(PATIENCE) == b"before"
    with pytest.raises(phantom.ValidationError, match="bytes"):
        await here.send_reliable("text")  # type: ignore[arg-type]
    for code in (-1, 65536, "1", None):
        for verb in (here.reset, here.stop):
            with pytest.raises(phantom.ValidationError, match="65535"):
                verb(code)  # type: ignore[arg-type]
    for priority in (-1, 1 << 32, 0.5):
        with pytest.raises(phantom.ValidationError, match="priority"):
            await here.set_priority(priority)  # type: ignore[arg-type]
        with pytest.raises(phantom.ValidationError, match="priority"):
            await pair.client.open_stream(priority=priority)  # type: ignore[arg-type]
    assert "3" in repr(here)
    await pair.close()


async def test_an_unreliable_send_is_a_chunk_of_its_own(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        most = here.max_unreliable_size
        sent = [b"one", b"two", bytes(most)]
        for chunk in sent:
            await here.send_unreliable(chunk)
        with pytest.raises(phantom.ValidationError, match=str(most)):
            await here.send_unreliable(bytes(most + 1))
        assert [await there.recv(PATIENCE) for _ in sent] == sent


def test_an_unreliable_send_waits_for_company_half_a_millisecond_at_most(server_key: Any) -> None:
    async def main() -> None:
        pair = await session_pair(key=server_key, runtime=SimulatedRuntime(), latency=0.04)
        here, there = await _both(pair.client, pair.server)
        loop = asyncio.get_running_loop()
        for _ in range(5):
            await there.send_reliable(b"to be acknowledged within 25 ms")
            assert await here.recv(5)
            begun = loop.time()
            await here.send_reliable(b"in flight")
            await turns(3)
            await here.send_unreliable(b"held")
            assert await there.recv(5) == b"in flight"
            assert await there.recv(5) == b"held"
            assert loop.time() - begun < 0.04 + 2 * limits.BUNDLE_DELAY
            await asyncio.sleep(1)
        await pair.close()

    run_virtual(main())


async def test_256_streams_each_way_at_once(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        payloads = random.Random(5)

        async def talk(session: phantom.PhantomSession) -> None:
            async with await session.open_stream() as stream:
                data = payloads.randbytes(payloads.randrange(1, 3000))
                await stream.send_reliable(data)
                await stream.finish()
                assert await _all(stream) == data

        async def echo(session: phantom.PhantomSession) -> None:
            async with await session.accept_stream(PATIENCE) as stream:
                async for chunk in stream:
                    await stream.send_reliable(chunk)

        calls = [
            job(session) for session in (client, server) for job in (talk, echo) for _ in range(limits.MAX_STREAMS)
        ]
        await asyncio.gather(*calls)
        await until(lambda: not client.metrics_snapshot().active_streams)


async def test_1000_short_streams_one_after_the_other(sessions: Sessions) -> None:
    async with sessions() as (client, server):

        async def serve() -> None:
            for _ in range(1000):
                async with await server.accept_stream(PATIENCE) as stream:
                    await stream.send_reliable(await _all(stream))

        serving = asyncio.ensure_future(serve())
        for number in range(1000):
            async with await client.open_stream(timeout=PATIENCE) as stream:
                await stream.send_reliable(b"%d" % number)
                await stream.finish()
                assert await _all(stream) == b"%d" % number
        await serving
        assert stream.stream_id == 3 + 2 * 999
        await until(lambda: not server.metrics_snapshot().active_streams)


# --- the limit --------------------------------------------------------------------------------------------------------


async def test_wait_false_at_the_limit_is_stream_limit_error(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        mine = [await client.open_stream(wait=False) for _ in range(limits.MAX_STREAMS)]
        with pytest.raises(phantom.StreamLimitError, match="256"):
            await client.open_stream(wait=False)
        await server.open_stream(wait=False)  # each side has its own limit
        waiting = [asyncio.ensure_future(client.open_stream()) for _ in range(3)]
        await turns()
        waiting[1].cancel()
        for there in [await server.accept_stream(PATIENCE) for _ in range(2)]:
            await there.finish()
        for here in mine[:2]:
            await here.finish()
            assert await here.recv(PATIENCE) is None
        ids = [(await waiting[number]).stream_id for number in (0, 2)]
        assert ids == sorted(ids)
        with pytest.raises(phantom.StreamLimitError):
            await client.open_stream(wait=False)


async def test_all_who_wait_get_the_slots_that_become_free_together(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    mine = [await pair.client.open_stream(wait=False) for _ in range(limits.MAX_STREAMS)]
    theirs = [await pair.server.accept_stream(PATIENCE) for _ in range(3)]
    for stream in mine[:3]:
        await stream.finish()
    for stream in theirs:
        assert await stream.recv(PATIENCE) is None
    await pair.client.flush_queue(PATIENCE)
    waiting = [asyncio.ensure_future(pair.client.open_stream()) for _ in range(3)]
    await turns()
    for stream in theirs:
        stream._finish()
    await turns(1)
    pair.server_leg.stall()  # nothing that comes later wakes anybody
    opened = [await asyncio.wait_for(opening, PATIENCE) for opening in waiting]
    assert [stream.stream_id for stream in opened] == [3 + 2 * (limits.MAX_STREAMS + number) for number in range(3)]
    pair.server_leg.unstall()
    await pair.close()


async def test_when_the_ids_are_used_up_opening_says_so_and_does_not_wait(sessions: Sessions) -> None:
    async with sessions() as (client, _):
        client._driver.conn.stream_table()._next_own = 65535  # type: ignore[union-attr]
        last = await client.open_stream()
        assert last.stream_id == 65535
        for wait in (True, False):
            with pytest.raises(phantom.StreamLimitError, match="session"):
                await client.open_stream(wait=wait, timeout=PATIENCE)


def test_waiting_for_a_slot_has_its_deadline(server_key: Any) -> None:
    async def main() -> None:
        pair = await session_pair(key=server_key, runtime=SimulatedRuntime())
        mine = [await pair.client.open_stream() for _ in range(limits.MAX_STREAMS)]
        with pytest.raises(phantom.PhantomTimeoutError, match="within 3 s"):
            await pair.client.open_stream(timeout=3)
        with pytest.raises(phantom.StreamLimitError):
            await pair.client.open_stream(wait=False, timeout=3)
        assert len(mine) == limits.MAX_STREAMS
        await pair.close()

    run_virtual(main())


async def test_a_session_that_ends_wakes_whoever_waits(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        mine = [await client.open_stream() for _ in range(limits.MAX_STREAMS)]
        calls = [
            asyncio.ensure_future(call)
            for call in (
                client.open_stream(),
                client.open_stream(),
                client.accept_stream(),
                client.accept_stream(),
                mine[0].recv(),
                mine[0].recv(),
                mine[1].recv(),
            )
        ]
        await turns()
        await server.disconnect(7)
        for call in calls:
            with pytest.raises(phantom.ConnectionClosedError):
                await call


# --- reset, stop, leaving, dropping -----------------------------------------------------------------------------------


async def test_reset_surfaces_its_code_and_discards_unread_data(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        await here.send_reliable(b"never read")
        await client.flush_queue(PATIENCE)
        here.reset(77)
        here.reset(78)
        await until(lambda: there._stream.readable and not there._stream.chunks)
        for _ in range(2):
            with pytest.raises(phantom.StreamResetError) as caught:
                await there.recv(PATIENCE)
            assert caught.value.reset_code == 77
        with pytest.raises(phantom.StreamClosedError):
            await here.send_reliable(b"more")
        with pytest.raises(phantom.StreamClosedError):
            await here.finish()
        await there.send_reliable(b"the other half lives")
        await there.finish()
        assert await _all(here) == b"the other half lives"


async def test_a_reset_wakes_every_reader(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        readers = [asyncio.ensure_future(there.recv()) for _ in range(3)]
        await turns()
        here.reset(5)
        for reader in readers:
            with pytest.raises(phantom.StreamResetError):
                await reader


async def test_stop_ends_the_writer(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        there.stop(9)
        there.stop(10)
        await until(lambda: here._stream.write_ended)
        for call in (here.send_reliable, here.send_unreliable):
            with pytest.raises(phantom.StreamResetError) as caught:
                await call(b"unwanted")
            assert caught.value.reset_code == 9
        with pytest.raises(phantom.StreamResetError):
            await here.finish()
        with pytest.raises(phantom.StreamClosedError):
            await there.recv()
        await there.send_reliable(b"the other half lives")
        assert await here.recv(PATIENCE) == b"the other half lives"


async def test_stop_wakes_a_writer_that_waits_for_room(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, _there = await _both(pair.client, pair.server)
    other, its_peer = await _both(pair.client, pair.server)
    pair.client_leg.stall()
    while pair.client._driver.conn.has_room:
        await other.send_reliable(bytes(1 << 20))
    waiting = asyncio.ensure_future(here.send_reliable(b"unwanted"))
    behind = asyncio.ensure_future(other.send_reliable(b"x"))
    await turns()
    assert not waiting.done()
    here.reset(1)
    with pytest.raises(phantom.StreamClosedError):
        await waiting
    await turns()
    assert not behind.done()
    pair.client_leg.unstall()
    reading = asyncio.ensure_future(_all(its_peer))
    await behind
    await other.finish()
    assert (await reading)[-1:] == b"x"
    await pair.close()


async def test_the_peers_stop_wakes_a_writer_that_waits_for_room(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    other, its_peer = await _both(pair.client, pair.server)
    pair.client_leg.stall()
    while pair.client._driver.conn.has_room:
        await other.send_reliable(bytes(1 << 20))
    waiting = asyncio.ensure_future(here.send_reliable(b"unwanted"))
    await turns()
    assert not waiting.done()
    there.stop(9)
    with pytest.raises(phantom.StreamResetError) as caught:
        await asyncio.wait_for(waiting, PATIENCE)
    assert caught.value.reset_code == 9
    pair.client_leg.unstall()
    its_peer.stop()
    await pair.close()


async def test_stop_discards_what_arrives_without_holding_the_window(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        reader = asyncio.ensure_future(there.recv())
        await turns()
        there.stop()
        with pytest.raises(phantom.StreamClosedError):
            await reader
        with pytest.raises(phantom.StreamResetError):
            for _ in range(1000):
                await here.send_reliable(bytes(65536), PATIENCE)
        await client.flush_queue(PATIENCE)
        assert not process_memory(PhantomConfig()).charged


async def test_leaving_by_an_exception_sends_both(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here = await client.open_stream()
        await here.send_reliable(b"half of it")
        there = await server.accept_stream(PATIENCE)
        with pytest.raises(ZeroDivisionError):
            async with here:
                raise ZeroDivisionError
        with pytest.raises(phantom.StreamResetError):
            await _all(there)
        await until(lambda: there._stream.write_ended)
        with pytest.raises(phantom.StreamResetError):
            await there.send_reliable(b"nobody reads this")
        with pytest.raises(phantom.StreamClosedError):
            await here.recv()


async def test_leaving_normally_finishes_and_reading_goes_on(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        async with await client.open_stream() as here:
            await here.send_reliable(b"all of it")
        async with await server.accept_stream(PATIENCE) as there:
            assert await _all(there) == b"all of it"
            await there.send_reliable(b"thanks")
        assert await _all(here) == b"thanks"


async def test_leaving_raises_nothing_when_the_session_is_over(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        async with await client.open_stream() as left, await client.open_stream() as stopped:
            (await server.accept_stream(PATIENCE)).stop()
            (await server.accept_stream(PATIENCE)).stop()
            await until(lambda: stopped._stream.write_ended)
            await client.disconnect()
        assert left.stream_id == 3


async def test_dropping_an_unread_stream_resets_and_stops(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        await here.send_reliable(b"the beginning")
        assert await there.recv(PATIENCE) == b"the beginning"
        del here
        with pytest.raises(phantom.StreamResetError):
            await there.recv(PATIENCE)
        await until(lambda: there._stream.write_ended)
        with pytest.raises(phantom.StreamResetError):
            await there.send_reliable(b"nobody reads this")


async def test_dropping_a_stream_read_to_its_end_finishes(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        await there.finish()
        await here.send_reliable(b"all of it")
        assert await here.recv(PATIENCE) is None
        del here
        assert await _all(there) == b"all of it"


async def test_dropping_a_finished_stream_leaves_what_was_sent_alone(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        async with here:
            await here.send_reliable(bytes(200_000))
        del here
        assert len(await _all(there)) == 200_000
        await until(lambda: there._stream.write_ended)  # nobody would read the answer


async def test_dropping_a_finished_stream_does_not_reset_what_has_not_left_yet(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    pair.client_leg._in_flight += 1 << 30  # the leg takes nothing for now
    async with here:
        await here.send_reliable(bytes(200_000))
    del here
    await turns()
    pair.client_leg._in_flight -= 1 << 30
    pair.client_leg._blocked = False
    pair.client._driver.leg_blocked(False)
    pair.client_leg.flush()
    assert len(await _all(there)) == 200_000
    await pair.close()


@pytest.mark.parametrize("how", ["dropped", "left by an exception", "stopped", "closed"])
async def test_what_nobody_will_read_is_not_charged_any_more(sessions: Sessions, how: str) -> None:
    async with sessions() as (client, server):
        memory = process_memory(PhantomConfig())
        here, there = await _both(client, server)
        await here.send_reliable(bytes(100_000))
        await here.finish()
        await client.flush_queue(PATIENCE)
        assert memory.charged >= 100_000
        if how == "left by an exception":
            with pytest.raises(ZeroDivisionError):
                async with there:
                    raise ZeroDivisionError
        elif how == "stopped":
            there.stop()
        elif how == "closed":
            async with there:
                pass
        del there
        await until(lambda: not memory.charged)
        assert not server._driver.conn.stream_charge  # type: ignore[union-attr]


async def test_dropping_works_from_any_thread_and_for_the_collector(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        holder = [here]
        del here
        thread = threading.Thread(target=holder.clear)
        thread.start()
        await asyncio.to_thread(thread.join)
        with pytest.raises(phantom.StreamResetError):
            await there.recv(PATIENCE)
        cycle: list[Any] = [(await _both(client, server))[0]]
        cycle.append(cycle)
        left = server._driver.conn
        del cycle
        gc.collect()
        await until(lambda: left.active_streams == 0 or not left.has_events)


def test_dropping_after_the_loop_is_gone_is_silent(server_key: Any) -> None:
    async def main() -> phantom.PhantomStream:
        pair = await session_pair(key=server_key)
        here, _ = await _both(pair.client, pair.server)
        return here

    stream = asyncio.run(main())
    del stream
    gc.collect()


# --- waiting, order, cancellation -------------------------------------------------------------------------------------


async def test_readers_of_one_stream_are_served_in_order(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        readers = [asyncio.ensure_future(there.recv()) for _ in range(4)]
        await turns()
        readers[1].cancel()
        for number in range(3):
            await here.send_reliable(b"%d" % number)
            reader = readers[(0, 2, 3)[number]]
            assert await asyncio.wait_for(reader, PATIENCE) == b"%d" % number
        behind = [asyncio.ensure_future(there.recv()) for _ in range(3)]
        await turns()
        await here.finish()
        assert await asyncio.gather(*behind) == [None, None, None]


async def test_a_reader_that_comes_when_another_was_woken_does_not_overtake_it(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    first = asyncio.ensure_future(there.recv())
    await turns()
    await here.send_reliable(b"1")
    while not there._stream.readable:
        await asyncio.sleep(0)
    assert not first.done()
    late = there.recv()
    late.send(None)  # its first step, before the first reader runs: it waits, and raises no StopIteration
    late.close()
    assert await first == b"1"
    await pair.close()


async def test_a_write_for_other_reasons_does_not_change_the_order_of_readers(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        readers = [asyncio.ensure_future(there.recv()) for _ in range(3)]
        await turns()
        here.stop(3)  # touches the peer's stream, which has nothing to read
        await until(lambda: there._stream.write_ended)
        await turns()
        for number in range(3):
            await here.send_reliable(b"%d" % number)
            assert await asyncio.wait_for(readers[number], PATIENCE) == b"%d" % number


async def test_acceptors_are_served_in_order_and_a_cancelled_one_loses_nothing(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        acceptors = [asyncio.ensure_future(server.accept_stream()) for _ in range(4)]
        await turns()
        acceptors[1].cancel()
        opened = [await client.open_stream() for _ in range(3)]
        accepted = [await asyncio.wait_for(acceptors[number], PATIENCE) for number in (0, 2, 3)]
        assert [stream.stream_id for stream in accepted] == [stream.stream_id for stream in opened]


def test_every_wait_has_its_deadline(server_key: Any) -> None:
    async def main() -> None:
        pair = await session_pair(key=server_key, runtime=SimulatedRuntime())
        here, there = await _both(pair.client, pair.server)
        with pytest.raises(phantom.PhantomTimeoutError, match="arrived on the stream within 2 s"):
            await there.recv(timeout=2)
        with pytest.raises(phantom.PhantomTimeoutError, match="no stream arrived within 2 s"):
            await pair.server.accept_stream(timeout=2)
        pair.client_leg.stall()
        while pair.client._driver.conn.has_room:
            await here.send_reliable(bytes(1 << 20))
        before = pair.client._driver.conn.queued
        for call in (here.send_reliable, here.send_unreliable):
            with pytest.raises(phantom.PhantomTimeoutError, match="nothing could be queued within 2 s"):
                await call(b"late", timeout=2)
        assert pair.client._driver.conn.queued == before
        pair.client_leg.unstall()
        await pair.client.disconnect(timeout=0)
        await pair.close()

    run_virtual(main())


async def test_a_stream_send_cancelled_while_waiting_queues_nothing(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    pair.client_leg.stall()
    sent = 0
    while pair.client._driver.conn.has_room:
        await here.send_reliable(bytes(1 << 20))
        sent += 1 << 20
    waiting = [asyncio.ensure_future(here.send_reliable(bytes([65 + number]) * 5)) for number in range(3)]
    await turns()
    waiting[1].cancel()
    await turns()
    pair.client_leg.unstall()
    reading = asyncio.ensure_future(_all(there))
    await asyncio.gather(*waiting, return_exceptions=True)
    await here.finish()
    received = await reading
    assert received[sent:] == b"AAAAACCCCC"
    await pair.close()


# --- back-pressure and priorities -------------------------------------------------------------------------------------


async def test_a_slow_reader_stops_its_writer_and_memory_stays_bounded(sessions: Sessions) -> None:
    config = PhantomConfig(recv_window=1 << 20)
    async with sessions(client_config=config, server_config=config) as (client, server):
        here, there = await _both(client, server)
        memory = process_memory(PhantomConfig())
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(40):
                await here.send_reliable(bytes(1 << 20))
                written += 1 << 20
            await here.finish()

        writing = asyncio.ensure_future(write())
        await until(lambda: memory.charged >= 1 << 20)
        await turns(200)
        assert not writing.done()
        assert written <= limits.SEND_BUFFER_CAP + 4 * (1 << 20)
        assert memory.charged <= (1 << 20) + limits.BULK_CHUNK + 64 * limits.ITEM_OVERHEAD
        other, its_peer = await _both(client, server)  # others go on meanwhile
        assert len(await _all(there)) == 40 << 20
        await writing
        await other.finish()
        assert await its_peer.recv(PATIENCE) is None
        await until(lambda: not memory.charged)


async def test_a_blocked_stream_does_not_block_the_others(sessions: Sessions) -> None:
    config = PhantomConfig(recv_window=1 << 20)
    async with sessions(client_config=config, server_config=config) as (client, server):
        here, _there = await _both(client, server, priority=10)
        await here.send_reliable(bytes(3 << 20))  # three times its window
        other, its_peer = await _both(client, server)
        for number in range(50):
            await other.send_reliable(b"%d" % number)
            assert await its_peer.recv(PATIENCE) == b"%d" % number
        here.reset()  # or leaving would wait for what nobody reads


@pytest.mark.parametrize("moved", [False, True], ids=["as opened", "moved while it waits"])
async def test_higher_priorities_are_served_first_and_equals_in_turn(
    server_key: Any, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    arrived = Stream.arrived

    def note(stream: Stream, piece: bytes) -> None:
        order.append(stream.id)
        arrived(stream, piece)

    monkeypatch.setattr(Stream, "arrived", note)
    pair = await session_pair(key=server_key)
    priorities = {"low": 1, "one": 5, "two": 5, "high": 9}
    streams = {name: await pair.client.open_stream(priority=priority) for name, priority in priorities.items()}
    there = {stream.stream_id: stream for stream in [await pair.server.accept_stream(PATIENCE) for _ in streams]}
    await turns()
    pair.client._driver.leg_blocked(True)
    pair.client_leg._blocked = True
    pair.client_leg._in_flight += 1 << 30  # the leg takes nothing for now
    for stream in streams.values():
        await stream.send_reliable(bytes(3 * limits.BULK_CHUNK))
    if moved:
        await streams["low"].set_priority(10)
        assert streams["low"].priority == 10
    pair.client_leg._in_flight -= 1 << 30
    pair.client_leg._blocked = False
    pair.client._driver.leg_blocked(False)
    pair.client_leg.flush()
    await pair.client.flush_queue(PATIENCE)
    low, one, two, high = (stream.stream_id for stream in streams.values())
    middle = [one, two] * 3
    assert order == ([low] * 3 + [high] * 3 + middle if moved else [high] * 3 + middle + [low] * 3)
    assert len(there) == 4
    await pair.close()


# --- the session's end ------------------------------------------------------------------------------------------------


async def test_a_draining_session_refuses_every_write_and_queues_nothing(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    here, there = await _both(pair.client, pair.server)
    leg: Any = pair.client_leg
    put = leg._put
    leg._put = lambda data: None if data is None else put(data)  # its end would end the draining at once
    await here.send_reliable(b"overtaken")
    await pair.client.disconnect(3)
    await until(lambda: pair.server.state is phantom.ConnectionState.DRAINING)
    queued = pair.server._driver.conn.queued
    for call in (
        pair.server.send(b"late"),
        there.send_reliable(b"late"),
        there.send_unreliable(b"late"),
        there.finish(),
        pair.server.open_stream(),
        pair.server.rekey(),
    ):
        with pytest.raises(phantom.SessionClosingError):
            await call
    assert pair.server._driver.conn.queued == queued
    assert not pair.server.is_data_ready()
    assert pair.server.last_error() is None
    assert await there.recv(PATIENCE) == b"overtaken"
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await there.recv(PATIENCE)
    assert caught.value.peer_code == 3
    await pair.close()


async def test_what_arrived_is_read_after_the_end(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        here, there = await _both(client, server)
        late = await client.open_stream()
        await late.send_reliable(b"not even accepted")
        await late.finish()
        await here.send_reliable(b"not read yet")
        await client.disconnect()
        await until(lambda: server.state is phantom.ConnectionState.CLOSED)
        assert await there.recv() == b"not read yet"
        with pytest.raises(phantom.ConnectionClosedError):
            await there.recv()
        accepted = await server.accept_stream()
        assert await _all(accepted) == b"not even accepted"
        with pytest.raises(phantom.ConnectionClosedError):
            await server.accept_stream()
        with pytest.raises(phantom.ConnectionClosedError):
            await server.open_stream()


async def test_leaving_the_session_raises_when_stream_bytes_were_not_acknowledged(server_key: Any) -> None:
    pair = await session_pair(key=server_key, client_config=PhantomConfig(close_timeout=0.0))
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        async with pair.client:
            here = await pair.client.open_stream()
            pair.client_leg.stall()
            await here.send_reliable(bytes(1000))
    assert caught.value.unacknowledged >= 1000
    await pair.close()


async def test_the_end_of_the_peers_messages_wakes_whoever_reads_them_and_streams_go_on(server_key: Any) -> None:
    pair = await session_pair(key=server_key)
    await pair.server.send(b"the last one")
    readers = [asyncio.ensure_future(pair.client.recv()) for _ in range(3)]
    assert await asyncio.wait_for(readers[0], PATIENCE) == b"the last one"
    driver: Any = pair.client._driver
    driver.conn.assembler.finish()  # a FIN on stream 1, which this library never sends (§14.2)
    driver.conn.progress = True
    driver._settle()
    for reader in (*readers[1:], asyncio.ensure_future(pair.client.recv())):
        with pytest.raises(phantom.ConnectionClosedError, match="no more messages"):
            await asyncio.wait_for(reader, PATIENCE)
    here, there = await _both(pair.client, pair.server)
    await there.send_reliable(b"streams go on")
    assert await here.recv(PATIENCE) == b"streams go on"
    await pair.close()


async def test_streams_wait_for_the_session_to_be_established(server_key: Any) -> None:
    from phantom.api.connecting import connect_with_transport
    from phantom.runtime import AsyncioRuntime
    from phantom.testing.memory_leg import memory_leg_pair
    from phantom.testing.sessions import memory_listener
    from phantom.transport.handshake.gate import Source

    listener = memory_listener(server_key)
    here, there = memory_leg_pair(AsyncioRuntime())
    client = connect_with_transport("memory", here, server_key.verifying_key())
    await client.send(b"queued early")
    opening = asyncio.ensure_future(client.open_stream())
    accepting = asyncio.ensure_future(client.accept_stream())
    with pytest.raises(phantom.ConnectionClosedError):
        client.export_keying_material("early")
    await turns()
    assert not opening.done()
    listener.serve_leg(there, Source("127.0.0.1"), "memory")
    stream = await asyncio.wait_for(opening, PATIENCE)
    server = (await listener.accept(PATIENCE)).session
    assert (await server.accept_stream(PATIENCE)).stream_id == stream.stream_id
    assert await server.recv(PATIENCE) == b"queued early"
    accepting.cancel()
    await client.disconnect()
    await server.disconnect()
    listener.shutdown()


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_rekey_gives_the_new_epoch_and_both_ends_say_so(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        mine, theirs = client.events(), server.events()
        for epoch in (1, 2, 3):
            assert await client.rekey(PATIENCE) == epoch
            await client.send(b"under new keys")
            assert await server.recv(PATIENCE) == b"under new keys"
            assert client.negotiated.epoch == server.negotiated.epoch == epoch
        for events, by_peer in ((mine, False), (theirs, True)):
            for epoch in (1, 2, 3):
                event = await asyncio.wait_for(anext(events), PATIENCE)
                assert isinstance(event, phantom.Rekeyed)
                assert (event.epoch, event.by_peer) == (epoch, by_peer)
                assert event.reason
        assert client.metrics_snapshot().rekeys_local_total == 3
        assert server.metrics_snapshot().rekeys_peer_total == 3


async def test_at_the_last_epoch_rekey_raises_and_the_session_goes_on(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        for epoch in range(1, limits.MAX_EPOCH + 1):
            assert await client.rekey(PATIENCE) == epoch
        with pytest.raises(phantom.EpochExhaustedError):
            await client.rekey(PATIENCE)
        await client.send(b"still here")
        assert await server.recv(PATIENCE) == b"still here"


def test_a_rekey_that_the_peer_does_not_confirm_has_its_deadline(server_key: Any) -> None:
    async def main() -> None:
        pair = await session_pair(key=server_key, runtime=SimulatedRuntime())
        pair.server_leg.stall()
        assert await pair.client.rekey(5) == 1
        with pytest.raises(phantom.PhantomTimeoutError, match="confirm"):
            await pair.client.rekey(5)
        pair.server_leg.unstall()
        assert await pair.client.rekey(5) == 2
        await pair.close()

    run_virtual(main())


async def test_both_ends_export_the_same_bytes_and_each_session_its_own(sessions: Sessions) -> None:
    async with sessions() as (client, server):
        exported = client.export_keying_material("channel binding", 64)
        assert len(exported) == 64
        assert server.export_keying_material("channel binding", 64) == exported
        assert client.export_keying_material("another", 64) != exported
        assert client.export_keying_material("channel binding") == exported[:32]  # as HKDF expands
        await client.rekey(PATIENCE)
        assert client.export_keying_material("channel binding", 64) == exported
        for label, length in (("x" * 256, 32), ("é" * 128, 32), ("x", 0), ("x", 8161)):
            with pytest.raises(phantom.ValidationError):
                client.export_keying_material(label, length)
        with pytest.raises(phantom.ValidationError):
            client.export_keying_material(b"bytes")  # type: ignore[arg-type]
        async with sessions() as (other, _):
            assert other.export_keying_material("channel binding", 64) != exported


# --- version 1 --------------------------------------------------------------------------------------------------------


async def test_a_version_1_session_has_streams_and_no_reset_and_no_rekey(sessions: Sessions) -> None:
    configs = {
        "client_config": PhantomConfig(offer_version=1),
        "server_config": PhantomConfig(accept_versions=frozenset({1, 2})),
    }
    async with sessions(**configs) as (client, server):
        assert client.negotiated.version == server.negotiated.version == 1
        await client.send(b"a message")
        assert await server.recv(PATIENCE) == b"a message"
        here = await client.open_stream(priority=3)
        await here.send_reliable(bytes(300_000))
        there = await server.accept_stream(PATIENCE)
        for verb in (here.reset, here.stop):
            with pytest.raises(phantom.UnsupportedError):
                verb()
        with pytest.raises(phantom.UnsupportedError):
            await client.rekey(PATIENCE)
        with pytest.raises(ZeroDivisionError):
            async with here:
                raise ZeroDivisionError  # all that version 1 can do is finish
        assert await _all(there) == bytes(300_000)
        del here
        await there.send_reliable(b"answer")
        await there.finish()
        assert client.export_keying_material("label") == server.export_keying_material("label")
        assert await client.flush_queue(PATIENCE) >= 0


async def test_what_comes_on_a_dropped_version_1_stream_does_not_hold_the_session_up(server_key: Any) -> None:
    pair = await session_pair(
        key=server_key,
        client_config=PhantomConfig(offer_version=1),
        server_config=PhantomConfig(accept_versions=frozenset({1, 2})),
    )
    here, there = await _both(pair.client, pair.server)
    await here.send_reliable(b"x")
    assert await there.recv(PATIENCE) == b"x"
    del there
    for _ in range(4):
        await here.send_reliable(bytes(1 << 20), PATIENCE)
        await pair.client.send(b"goes on")
        assert await pair.server.recv(PATIENCE) == b"goes on"
    await here.finish()
    await until(lambda: not pair.server._driver.conn.stream_charge)  # type: ignore[union-attr]
    await pair.close()
