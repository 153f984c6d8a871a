"""Sessions of version 1 through the public API (wire-native §1.2, §1.4, §13), over memory legs and over TCP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import phantom
from phantom.config import PhantomConfig
from phantom.errors import ConfigError, ConnectionClosedError, ProtocolRejectedError, UnsupportedError
from phantom.testing.sessions import SessionPair, session_pair
from tests.calm import PATIENCE, until

OFFERS = PhantomConfig(offer_version=1)
ACCEPTS = PhantomConfig(accept_versions=frozenset({1, 2}))
MiB = 1 << 20


async def pair(key: Any, **options: Any) -> SessionPair:
    return await session_pair(key=key, client_config=OFFERS, server_config=ACCEPTS, timeout=PATIENCE, **options)


async def send_all(session: Any, texts: list[bytes]) -> None:
    for text in texts:
        await session.send(text)


async def read_all(stream: Any) -> bytes:
    data = b""
    while piece := await stream.recv(PATIENCE):
        data += piece
    return data


async def test_a_session_of_version_1_is_made_by_configuration_alone(server_key: Any) -> None:
    both = await pair(server_key)
    assert both.client.negotiated.version == both.server.negotiated.version == 1
    await both.client.send(b"hello")
    assert await both.server.recv(PATIENCE) == b"hello"
    await both.server.send(bytes(300_000))
    assert await both.client.recv(PATIENCE) == bytes(300_000)
    await both.close()
    newer = await session_pair(key=server_key, server_config=ACCEPTS)
    assert newer.client.negotiated.version == 2
    await newer.close()


async def test_a_server_that_does_not_name_version_1_refuses_it(server_key: Any) -> None:
    with pytest.raises(ProtocolRejectedError) as refused:
        await session_pair(key=server_key, client_config=OFFERS, timeout=PATIENCE)
    assert refused.value.supported_version == 2


async def test_messages_and_streams_over_tcp(server_key: Any) -> None:
    texts = [bytes([i]) * (i * 40_000) for i in range(12)]

    async def serve(listener: Any) -> None:
        session = (await listener.accept(PATIENCE)).session
        for _ in texts:
            await session.send(await session.recv(PATIENCE))
        stream = await session.accept_stream(PATIENCE)
        while data := await stream.recv(PATIENCE):
            await stream.send_reliable(data)
        await stream.finish()
        with pytest.raises(ConnectionClosedError):
            await session.recv(PATIENCE)

    async with phantom.listen("tcp://127.0.0.1:0", key=server_key, config=ACCEPTS) as listener:
        serving = asyncio.create_task(serve(listener))
        session = await phantom.connect(listener.urls[0], config=OFFERS)
        assert session.negotiated.version == 1
        sending = asyncio.create_task(send_all(session, texts))
        assert [await session.recv(PATIENCE) for _ in texts] == texts
        await sending
        stream = await session.open_stream()
        writing = asyncio.create_task(stream.send_reliable(bytes(3 * MiB)))
        got = 0
        while got < 3 * MiB:
            piece = await stream.recv(PATIENCE)
            assert piece is not None
            got += len(piece)
        await writing
        await stream.finish()
        assert await stream.recv(PATIENCE) is None
        assert await session.disconnect()
        await serving


@pytest.mark.parametrize("leg", ["memory", "tcp", "ws"])
async def test_a_reader_that_is_slow_stops_the_leg_and_nothing_is_lost(server_key: Any, leg: str) -> None:
    texts = [bytes([i]) * 400_000 for i in range(40)]
    listener = None
    if leg == "memory":
        both = await pair(server_key)
        client, server = both.client, both.server
    else:
        listener = await phantom.listen(f"{leg}://127.0.0.1:0", key=server_key, config=ACCEPTS)
        client = await phantom.connect(listener.urls[0], config=OFFERS)
        server = (await listener.accept(PATIENCE)).session
    conn: Any = server._driver.conn  # type: ignore[union-attr]
    sending = asyncio.create_task(send_all(client, texts))
    await until(lambda: not conn.reading)
    assert conn.assembler.charge <= MiB + 800_000  # and not the 16 MB that are on their way
    assert [await server.recv(PATIENCE) for _ in texts] == texts
    await sending
    await client.flush_queue(PATIENCE)
    await until(lambda: conn.reading)
    await client.disconnect()
    await server.disconnect()
    if listener is not None:
        listener.shutdown()


async def test_who_stops_reading_messages_can_still_flush_what_it_sends(server_key: Any) -> None:
    both = await pair(server_key)
    texts = [bytes([i]) * 400_000 for i in range(3)]
    await send_all(both.client, texts)
    conn: Any = both.server._driver.conn  # type: ignore[union-attr]
    await until(lambda: not conn.reading)
    assert [await both.server.recv(PATIENCE) for _ in texts] == texts
    await both.server.send(b"answer")  # and its acknowledgement lies in a leg that nobody reads
    await both.server.flush_queue(PATIENCE)
    await both.close()


async def test_what_version_1_lacks_says_so(server_key: Any) -> None:
    both = await pair(server_key)
    stream = await both.client.open_stream()
    with pytest.raises(UnsupportedError):
        await both.client.rekey()
    with pytest.raises(UnsupportedError):
        stream.reset(1)
    with pytest.raises(UnsupportedError):
        stream.stop(1)
    assert both.client.export_keying_material("test", 32) == both.server.export_keying_material("test", 32)
    await both.close()


async def test_a_close_is_heard_with_its_code_and_what_was_sent_before_it(server_key: Any) -> None:
    both = await pair(server_key)
    await both.client.send(b"last words")
    assert await both.client.disconnect()
    assert await both.server.recv(PATIENCE) == b"last words"
    with pytest.raises(ConnectionClosedError) as closed:
        await both.server.recv(PATIENCE)
    assert closed.value.peer_code == 0
    both.listener.shutdown()


async def test_the_end_of_the_leg_is_the_end_of_the_session(server_key: Any) -> None:
    both = await pair(server_key)
    both.client_leg.cut()
    with pytest.raises(phantom.PhantomError):
        await both.server.recv(PATIENCE)
    both.listener.shutdown()


async def test_streams_both_ways_at_once(server_key: Any) -> None:
    both = await pair(server_key)

    async def echo(session: Any, count: int) -> None:
        for _ in range(count):
            stream = await session.accept_stream(PATIENCE)
            await stream.send_reliable((await read_all(stream))[::-1])
            await stream.finish()

    async def ask(session: Any, text: bytes) -> None:
        stream = await session.open_stream()
        await stream.send_reliable(text)
        await stream.finish()
        assert await read_all(stream) == text[::-1]

    async with asyncio.TaskGroup() as group:
        group.create_task(echo(both.server, 20))
        group.create_task(echo(both.client, 20))
        for i in range(20):
            group.create_task(ask(both.client, b"c%d" % i * 1000))
            group.create_task(ask(both.server, b"s%d" % i * 1000))
    await both.close()


async def test_an_identity_is_never_offered_to_version_1(server_key: Any) -> None:
    identity = phantom.HybridSigningKey.generate()
    pin = server_key.verifying_key()
    with pytest.raises(ConfigError, match="version 1"):
        phantom.connect("tcp://127.0.0.1:1", pin, identity=identity, config=OFFERS)


async def test_a_server_that_requires_identities_refuses_version_1_whatever_it_names(server_key: Any) -> None:
    everybody = phantom.ClientPolicy.required(lambda key: True)
    async with phantom.listen("tcp://127.0.0.1:0", key=server_key, clients=everybody, config=ACCEPTS) as listener:
        with pytest.raises(ProtocolRejectedError) as refused:
            await phantom.connect(listener.urls[0], config=OFFERS)
        assert refused.value.supported_version == 2


async def test_a_server_that_asks_for_identities_takes_version_1_without_one(server_key: Any) -> None:
    optional = phantom.ClientPolicy.optional()
    async with phantom.listen("tcp://127.0.0.1:0", key=server_key, clients=optional, config=ACCEPTS) as listener:
        session = await phantom.connect(listener.urls[0], config=OFFERS)
        outcome = await listener.accept(PATIENCE)
        assert outcome.client_identity is None
        await session.send(b"hello")
        assert await outcome.session.recv(PATIENCE) == b"hello"
        await session.disconnect()
