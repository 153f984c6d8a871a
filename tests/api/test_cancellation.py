"""Cancelling any call at any moment: nothing acknowledged is lost, nothing stays behind, the rest goes on.

A call is run again and again, each time cancelled one step later, until it completes untouched. Steps are counted in
three ways: turns of the loop since it began; its own suspensions, struck while it waits; and the same, struck when what
it waited for has just happened.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.api.connecting import connect_with_transport
from phantom.config import PhantomConfig
from phantom.runtime import AsyncioRuntime
from phantom.testing.memory_leg import memory_leg_pair
from phantom.testing.sessions import SessionPair, memory_listener, session_pair
from phantom.transport.handshake.gate import Source
from tests.calm import PATIENCE, echoes, nothing_left, turns, until

_struck_calls: list[int] = []


@pytest.fixture(autouse=True)
def every_call_was_struck_at_least_once() -> Iterator[None]:
    _struck_calls.clear()
    yield
    assert _struck_calls


WAYS = ["turns", "while waiting", "when woken"]
MOST = 1_000_000  # steps, far beyond any call


@types.coroutine
def _struck(coroutine: Coroutine[Any, Any, Any], at: int, woken: bool) -> Generator[Any, Any, Any]:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    caught: BaseException | None = None
    for step in itertools.count(1):
        try:
            waits_for = coroutine.send(None) if caught is None else coroutine.throw(caught)
        except StopIteration as stop:
            return stop.value
        caught = None
        if step == at + 1:
            if woken and waits_for is not None:
                waits_for.add_done_callback(lambda _: task.cancel())
            else:
                loop.call_soon(task.cancel)
        try:
            yield waits_for
        except BaseException as error:
            caught = error
    raise AssertionError


async def _as_coroutine(call: Awaitable[Any]) -> Any:
    return await call


async def _cancelled(call: Awaitable[Any], way: str, at: int, meanwhile: Callable[[], None] = lambda: None) -> Any:
    """Runs the call, cancelling it at step ``at``; its result, or the CancelledError it ended with."""

    async def run() -> Any:
        return await _struck(_as_coroutine(call), at, way == "when woken")

    task = asyncio.ensure_future(_as_coroutine(call) if way == "turns" else run())
    await asyncio.sleep(0)
    meanwhile()
    if way == "turns":
        for _ in range(at):
            if task.done():
                break
            await asyncio.sleep(0)
        else:
            task.cancel()
    async with asyncio.timeout(PATIENCE):
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        _struck_calls.append(at)
    elif isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _was_cancelled(outcome: object) -> bool:
    return isinstance(outcome, asyncio.CancelledError)


def _steps(way: str) -> Iterator[int]:
    """Each of the first ones; then, as a call that waits for the clock takes very many turns, ever fewer of them."""
    at = 0
    while at < MOST:
        yield at
        at += 1 + (at // 4 if way == "turns" and at > 50 else 0)


pytestmark = pytest.mark.parametrize("way", WAYS)


async def test_listen(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        async with nothing_left():
            listener = await _cancelled(phantom.listen("127.0.0.1:0", "localhost:0", key=server_key), way, at)
            if not _was_cancelled(listener):
                listener.shutdown()
            gc.collect()  # a socket that only the collector closes is a leak, and a warning is an error here
        if not _was_cancelled(listener):
            break


async def test_connect(echo_server: Any, way: str) -> None:
    async with echo_server() as listener:
        await echoes(listener)
        for at in _steps(way):
            async with nothing_left(listener):
                session = await _cancelled(phantom.connect(listener.urls[0], timeout=PATIENCE), way, at)
                if not _was_cancelled(session):
                    await session.send(b"x")
                    assert await session.recv(PATIENCE) == b"x"
                    await session.disconnect()
            if not _was_cancelled(session):
                break
            await echoes(listener)


async def test_connect_with_cookie_and_proof_of_work(echo_server: Any, way: str) -> None:
    config = PhantomConfig(cookie="always", load_tiers=((0, 6),))
    async with echo_server(config=config) as listener:
        await echoes(listener)
        for at in _steps(way):
            async with nothing_left(listener):
                session = await _cancelled(phantom.connect(listener.urls[0], timeout=PATIENCE), way, at)
                if not _was_cancelled(session):
                    assert session.handshake.retries == 1
                    await session.disconnect()
            if not _was_cancelled(session):
                break
        await echoes(listener)


async def test_everything_a_client_does_over_a_socket(echo_server: Any, way: str) -> None:
    big = bytes(300_000)

    async def client(url: str) -> str:
        async with phantom.connect(url, timeout=PATIENCE) as session:
            await session.await_ready(PATIENCE)
            await session.send(big)
            await session.flush_queue(PATIENCE)
            assert await session.recv(PATIENCE) == big
            await session.send(b"bye")
        return "done"

    async with echo_server() as listener:
        for at in _steps(way):
            async with nothing_left(listener):
                outcome = await _cancelled(client(listener.urls[0]), way, at)
            if not _was_cancelled(outcome):
                assert outcome == "done"
                break
        await echoes(listener)


async def test_accept_loses_no_session(server_key: phantom.HybridSigningKey, way: str) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        for at in _steps(way):
            async with nothing_left(listener):
                connecting = asyncio.ensure_future(_as_coroutine(phantom.connect(listener.urls[0], timeout=PATIENCE)))
                first = await _cancelled(listener.accept(PATIENCE), way, at)
                outcome = await listener.accept(PATIENCE) if _was_cancelled(first) else first
                client = await connecting
                assert client.id == outcome.session.id
                await client.send(b"found")
                assert await outcome.session.recv(PATIENCE) == b"found"
                await asyncio.gather(client.disconnect(), outcome.session.disconnect())
            if not _was_cancelled(first):
                break


async def test_an_acceptor_cancelled_as_its_session_comes_passes_it_on(
    server_key: phantom.HybridSigningKey, way: str
) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        for at in _steps(way):
            waiting: list[asyncio.Future[Any]] = []
            first = asyncio.ensure_future(_cancelled(listener.accept(PATIENCE), way, at))
            await turns(2)
            waiting.append(asyncio.ensure_future(listener.accept(PATIENCE)))
            client = await phantom.connect(listener.urls[0], timeout=PATIENCE)
            await until(lambda waiting=waiting, first=first: waiting[0].done() or first.done())
            outcome = await first
            if _was_cancelled(outcome):
                outcome = await waiting[0]
            waiting[0].cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert outcome.session.id == client.id
            await client.disconnect()
            await outcome.session.disconnect()
            if not _was_cancelled(await first):
                break


async def _pair(key: phantom.HybridSigningKey, **arguments: Any) -> SessionPair:
    return await session_pair(key=key, **arguments)


async def test_recv_loses_nothing_and_repeats_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    sent = itertools.count()
    expected = itertools.count()
    for at in _steps(way):

        async def send() -> None:
            for _ in range(3):
                await pair.client.send(b"%d" % next(sent))
                await turns(2)

        sending = asyncio.ensure_future(send())
        first = await _cancelled(pair.server.recv(PATIENCE), way, at)
        await sending
        got = [] if _was_cancelled(first) else [first]
        got += [await pair.server.recv(PATIENCE) for _ in range(3 - len(got))]
        assert got == [b"%d" % next(expected) for _ in range(3)]
        if not _was_cancelled(first):
            break
    assert not pair.server._driver.messages
    await pair.close()


async def test_one_reader_of_several_cancelled(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    for at in _steps(way):
        victim = asyncio.ensure_future(_cancelled(pair.server.recv(PATIENCE), way, at))
        await turns(1)
        others = [asyncio.ensure_future(pair.server.recv(PATIENCE)) for _ in range(2)]
        await turns(1)
        for number in range(3):
            await pair.client.send(b"%d" % number)
        outcome = await victim
        got = [] if _was_cancelled(outcome) else [outcome]
        got += await asyncio.gather(*others)
        if _was_cancelled(outcome):
            got.append(await pair.server.recv(PATIENCE))
        assert got == [b"0", b"1", b"2"]
        if not _was_cancelled(outcome):
            break
    await pair.close()


async def _filled(session: phantom.PhantomSession) -> int:
    """Sends until nothing more fits; the number of messages."""
    for count in itertools.count():
        try:
            await session.send(b"fill" * 100_000, timeout=0.001 if count > 10 else PATIENCE)
        except phantom.PhantomTimeoutError:
            return count
    raise AssertionError


async def test_send_queues_all_or_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        pair = await _pair(server_key)
        pair.client_leg.stall()
        count = await _filled(pair.client)
        outcome = await _cancelled(pair.client.send(b"the one"), way, at, pair.client_leg.unstall)
        behind = asyncio.ensure_future(pair.client.send(b"behind"))
        got = [await pair.server.recv(PATIENCE) for _ in range(count)]
        assert got == [b"fill" * 100_000] * count
        if not _was_cancelled(outcome):
            assert await pair.server.recv(PATIENCE) == b"the one"
        assert await pair.server.recv(PATIENCE) == b"behind"
        await behind
        await pair.close()
        if not _was_cancelled(outcome):
            break


async def test_send_before_readiness_queues_all_or_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        runtime = AsyncioRuntime()
        listener = memory_listener(server_key, runtime=runtime)
        near, far = memory_leg_pair(runtime)
        session = connect_with_transport("memory", near, server_key.verifying_key(), runtime=runtime)
        await session.send(bytes(1_000_000))
        outcome = await _cancelled(
            session.send(bytes(100_000)),
            way,
            at,
            lambda listener=listener, far=far: listener.serve_leg(far, Source("127.0.0.1"), "memory"),
        )
        accepted = await listener.accept(PATIENCE)
        await session.send(b"behind")
        sizes = [1_000_000] if _was_cancelled(outcome) else [1_000_000, 100_000]
        assert [len(await accepted.session.recv(PATIENCE)) for _ in sizes] == sizes
        assert await accepted.session.recv(PATIENCE) == b"behind"
        await asyncio.gather(session.disconnect(), accepted.session.disconnect())
        listener.shutdown()
        if not _was_cancelled(outcome):
            break


@pytest.mark.slow
async def test_flush_queue_is_only_a_wait(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    for at in _steps(way):
        await pair.client.send(b"flushed" * 10_000)
        outcome = await _cancelled(pair.client.flush_queue(PATIENCE), way, at)
        assert await pair.server.recv(PATIENCE) == b"flushed" * 10_000
        assert await pair.client.flush_queue(PATIENCE) >= 0
        assert pair.client._driver.conn.unacknowledged == 0
        if not _was_cancelled(outcome):
            break
    await pair.close()


async def test_await_ready_is_only_a_wait(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        runtime = AsyncioRuntime()
        listener = memory_listener(server_key, runtime=runtime)
        near, far = memory_leg_pair(runtime)
        session = connect_with_transport("memory", near, server_key.verifying_key(), runtime=runtime)
        listener.serve_leg(far, Source("127.0.0.1"), "memory")
        outcome = await _cancelled(session.await_ready(PATIENCE), way, at)
        accepted = await listener.accept(PATIENCE)
        await accepted.session.await_ready(PATIENCE)
        await session.await_ready(PATIENCE)
        await session.send(b"x")
        assert await accepted.session.recv(PATIENCE) == b"x"
        await asyncio.gather(session.disconnect(), accepted.session.disconnect())
        listener.shutdown()
        if not _was_cancelled(outcome):
            break


async def test_await_ready_of_an_accepted_session(server_key: phantom.HybridSigningKey, way: str) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        for at in _steps(way):
            connecting = asyncio.ensure_future(_as_coroutine(phantom.connect(listener.urls[0], timeout=PATIENCE)))
            accepted = await listener.accept(PATIENCE)
            outcome = await _cancelled(accepted.session.await_ready(PATIENCE), way, at)
            await accepted.session.await_ready(PATIENCE)
            client = await connecting
            await asyncio.gather(client.disconnect(), accepted.session.disconnect())
            if not _was_cancelled(outcome):
                break


async def test_a_cancelled_disconnect_closes_and_loses_nothing_acknowledged(echo_server: Any, way: str) -> None:
    async with echo_server() as listener:
        for at in _steps(way):
            async with nothing_left(listener):
                session = await phantom.connect(listener.urls[0], timeout=PATIENCE)
                await session.send(b"acknowledged")
                await session.flush_queue(PATIENCE)
                await session.send(bytes(200_000))
                outcome = await _cancelled(session.disconnect(), way, at)
                if not _was_cancelled(outcome):
                    assert outcome is True
                else:
                    assert session.state in (phantom.ConnectionState.CLOSED, phantom.ConnectionState.DEAD)
                with pytest.raises(phantom.ConnectionClosedError):
                    await session.send(b"x")
                await session.disconnect()
                assert session.last_error() is None
            if not _was_cancelled(outcome):
                break


async def test_a_cancelled_drain_still_ends_every_session(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        listener = await phantom.listen("127.0.0.1:0", key=server_key)
        async with nothing_left(listener):
            clients = [await phantom.connect(listener.urls[0], timeout=PATIENCE) for _ in range(2)]
            accepted = [(await listener.accept(PATIENCE)).session for _ in clients]
            outcome = await _cancelled(listener.drain(1.0), way, at)
            assert listener.is_shutting_down()
            listener.shutdown()
            for session in (*accepted, *clients):
                await session.disconnect()
        if not _was_cancelled(outcome):
            break


async def test_iterating_is_only_a_wait(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    for at in _steps(way):

        async def first() -> bytes:
            async for message in pair.server:
                return message
            raise AssertionError

        sending = asyncio.ensure_future(pair.client.send(b"one"))
        outcome = await _cancelled(first(), way, at)
        await sending
        if not _was_cancelled(outcome):
            assert outcome == b"one"
            break
        assert await pair.server.recv(PATIENCE) == b"one"
    await pair.close()


async def test_no_event_is_lost(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        pair = await _pair(server_key)
        stream = pair.server.events()

        async def first(stream: Any = stream) -> Any:
            return await anext(stream)

        closing = asyncio.ensure_future(pair.client.disconnect(5))
        outcome = await _cancelled(first(), way, at)
        states = [] if _was_cancelled(outcome) else [outcome.new]
        states += [event.new async for event in stream]
        assert states == [phantom.ConnectionState.DRAINING, phantom.ConnectionState.CLOSED]
        await closing
        await pair.close()
        if not _was_cancelled(outcome):
            break


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_open_stream_opens_all_or_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    mine = [await pair.client.open_stream() for _ in range(limits.MAX_STREAMS)]
    theirs = [await pair.server.accept_stream(PATIENCE) for _ in mine]
    for at in _steps(way):
        here, there = mine.pop(0), theirs.pop(0)

        def free(here: Any = here, there: Any = there) -> None:
            here._finish()
            there._finish()

        outcome = await _cancelled(pair.client.open_stream(timeout=PATIENCE), way, at, free)
        stream = await pair.client.open_stream(timeout=PATIENCE) if _was_cancelled(outcome) else outcome
        with pytest.raises(phantom.StreamLimitError):
            await pair.client.open_stream(wait=False)
        mine.append(stream)
        theirs.append(await pair.server.accept_stream(PATIENCE))
        assert theirs[-1].stream_id == stream.stream_id
        if not _was_cancelled(outcome):
            break
    await pair.close()


async def test_accept_stream_takes_all_or_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    for at in _steps(way):
        opening = asyncio.ensure_future(pair.client.open_stream())
        outcome = await _cancelled(pair.server.accept_stream(PATIENCE), way, at)
        here = await opening
        there = await pair.server.accept_stream(PATIENCE) if _was_cancelled(outcome) else outcome
        assert here.stream_id == there.stream_id
        if not _was_cancelled(outcome):
            break
    await pair.close()


async def test_a_stream_send_queues_all_or_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    for at in _steps(way):
        pair = await _pair(server_key)
        here = await pair.client.open_stream()
        there = await pair.server.accept_stream(PATIENCE)
        pair.client_leg.stall()
        filled = 0
        while pair.client._driver.conn.has_room:
            await here.send_reliable(bytes(400_000))
            filled += 400_000
        reading: list[asyncio.Future[bytes]] = []

        def go_on(pair: SessionPair = pair, there: Any = there, reading: list[Any] = reading) -> None:
            pair.client_leg.unstall()
            reading.append(asyncio.ensure_future(_all_of(there)))

        outcome = await _cancelled(here.send_reliable(b"the one"), way, at, go_on)
        await here.send_reliable(b"behind")
        await here.finish()
        expected = b"behind" if _was_cancelled(outcome) else b"the onebehind"
        assert (await reading[0])[filled:] == expected
        await pair.close()
        if not _was_cancelled(outcome):
            break


async def _all_of(stream: phantom.PhantomStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_a_stream_recv_loses_nothing(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    here = await pair.client.open_stream()
    there = await pair.server.accept_stream(PATIENCE)
    for at in _steps(way):
        sending = asyncio.ensure_future(here.send_reliable(b"%4d" % at))
        outcome = await _cancelled(there.recv(PATIENCE), way, at)
        await sending
        got = await there.recv(PATIENCE) if _was_cancelled(outcome) else outcome
        assert got == b"%4d" % at
        if not _was_cancelled(outcome):
            break
    await pair.close()


async def test_iterating_over_a_stream_is_only_a_wait(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    here = await pair.client.open_stream()
    there = await pair.server.accept_stream(PATIENCE)
    for at in _steps(way):

        async def first() -> bytes:
            async for chunk in there:
                return chunk
            raise AssertionError

        sending = asyncio.ensure_future(here.send_reliable(b"one"))
        outcome = await _cancelled(first(), way, at)
        await sending
        if not _was_cancelled(outcome):
            assert outcome == b"one"
            break
        assert await there.recv(PATIENCE) == b"one"
    await pair.close()


async def test_a_cancelled_rekey_has_happened_or_not(server_key: phantom.HybridSigningKey, way: str) -> None:
    pair = await _pair(server_key)
    epoch = 0
    for at in _steps(way):
        first = await pair.client.rekey(PATIENCE)
        assert first == epoch + 1
        outcome = await _cancelled(pair.client.rekey(PATIENCE), way, at)
        epoch = pair.client.negotiated.epoch
        assert epoch == first + (0 if _was_cancelled(outcome) else 1)
        await pair.client.send(b"x")
        assert await pair.server.recv(PATIENCE) == b"x"
        if not _was_cancelled(outcome):
            break
    await pair.close()


@pytest.mark.slow
async def test_open_connection_leaves_nothing_behind(server_key: phantom.HybridSigningKey, way: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()

    server = await phantom.start_server(echo, "127.0.0.1:0", key=server_key)
    for at in _steps(way):
        async with nothing_left(server.listener):
            outcome = await _cancelled(phantom.open_connection(server.urls[0], timeout=PATIENCE), way, at)
            if not _was_cancelled(outcome):
                reader, writer = outcome
                writer.write(b"x")
                writer.write_eof()
                assert await reader.read() == b"x"
                writer.close()
                await writer.wait_closed()
        if not _was_cancelled(outcome):
            break
    server.close()
    await server.wait_closed()
