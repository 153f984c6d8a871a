"""connect: pins first, then the network, then the handshake; every failure typed (surface §14)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import phantom
from phantom.api.connecting import connect_with_transport
from phantom.config import PhantomConfig
from phantom.runtime import AsyncioRuntime
from phantom.testing.memory_leg import memory_leg_pair
from phantom.testing.sessions import memory_listener
from phantom.transport.handshake.gate import Source


async def test_a_pinned_url_connects_and_echoes(echo_server: Any) -> None:
    async with echo_server() as listener, phantom.connect(listener.urls[0], timeout=10) as session:
        await session.send(b"hello")
        assert await session.recv(5) == b"hello"
        assert session.state is phantom.ConnectionState.CONNECTED
        assert session.peer_identity() is not None
        assert session.negotiated.leg == "tcp"
        assert session.negotiated.version == 2
        assert session.handshake.bytes_sent == 3245
        assert session.handshake.bytes_received == 7743
        assert session.handshake.retries == 0


async def test_awaiting_gives_the_session(echo_server: Any) -> None:
    async with echo_server() as listener:
        session = await phantom.connect(listener.urls[0], timeout=10)
        assert len(bytes.fromhex(session.id)) == 32
        assert await session.disconnect() is True


@pytest.mark.parametrize("form", ["fingerprint", "hex", "bytes", "key", "several"])
async def test_every_form_of_pin_works(echo_server: Any, server_key: Any, other_key: Any, form: str) -> None:
    key = server_key.verifying_key()
    pins: dict[str, Any] = {
        "fingerprint": key.fingerprint(),
        "hex": key.to_hex(),
        "bytes": key.to_bytes(),
        "key": key,
        "several": [other_key.verifying_key(), key.fingerprint()],
    }
    async with echo_server() as listener:
        host, _, port = listener.local_addr.rpartition(":")
        async with phantom.connect_pinned(host, int(port), pins[form], timeout=10) as session:
            await session.send(b"x")
            assert await session.recv(5) == b"x"


async def test_a_wrong_pin_is_final_and_typed(echo_server: Any, other_key: Any) -> None:
    async with echo_server() as listener:
        with pytest.raises(phantom.ServerIdentityMismatchError) as caught:
            await phantom.connect(listener.local_addrs[0], other_key.verifying_key(), timeout=10)
    assert caught.value.code == 20
    assert caught.value.final


@pytest.mark.parametrize(
    ("target", "pin", "error"),
    [
        ("tcp://127.0.0.1:1", None, phantom.ConfigError),
        ("tcp://127.0.0.1:1", [], phantom.ConfigError),
        ("tcp://127.0.0.1:1", "phantom1:short", phantom.ValidationError),
        ("tcp://127.0.0.1:1", b"short", phantom.ValidationError),
        ("tcp://127.0.0.1:70000", "0" * 3968, phantom.ValidationError),
        ("gopher://127.0.0.1:1", "0" * 3968, phantom.ValidationError),
        ("kcp://127.0.0.1:1", "0" * 3968, phantom.UnsupportedError),
        ("phantom://phantom1:xx@127.0.0.1:1", None, phantom.ValidationError),
    ],
)
def test_arguments_are_checked_before_any_io(target: str, pin: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        phantom.connect(target, pin)


def test_a_pin_that_contradicts_the_url_is_refused(server_key: Any, other_key: Any) -> None:
    url = f"phantom://{server_key.verifying_key().fingerprint()}@127.0.0.1:1"
    with pytest.raises(phantom.ConfigError):
        phantom.connect(url, other_key.verifying_key())
    assert phantom.connect(url, server_key.verifying_key()) is not None


def test_timeout_must_be_positive(server_key: Any) -> None:
    with pytest.raises(phantom.ValidationError):
        phantom.connect("tcp://127.0.0.1:1", server_key.verifying_key(), timeout=0)


async def test_a_refused_port_is_a_network_error(server_key: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(phantom.NetworkError, match="cannot connect"):
        await phantom.connect_pinned("127.0.0.1", port, server_key.verifying_key(), timeout=5)


async def test_an_unknown_host_is_a_network_error(server_key: Any) -> None:
    with pytest.raises(phantom.NetworkError, match="cannot resolve"):
        await phantom.connect_pinned("no.such.host.invalid", 1, server_key.verifying_key(), timeout=20)


async def _one_connection(handler: Any) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    return server, f"tcp://{host}:{port}"


async def test_a_silent_server_times_out_with_what_to_do(server_key: Any) -> None:
    waiting = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await waiting.wait()
        writer.close()

    server, target = await _one_connection(silent)
    async with server:
        with pytest.raises(phantom.PhantomTimeoutError, match="did not complete the handshake"):
            await phantom.connect(target, server_key.verifying_key(), timeout=0.2)
        config = PhantomConfig(handshake_timeout=0.2)
        with pytest.raises(phantom.HandshakeTimeoutError):
            await phantom.connect(target, server_key.verifying_key(), config=config, timeout=10)
        waiting.set()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", phantom.NetworkError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", phantom.FrameTooLargeError),
        (b"\0\0\0\0", phantom.SerializationError),
        (b"\0\0\0\1\7", phantom.SerializationError),
        (b"\0\0\0\7\2PRJ1\2\2", phantom.ServerBusyError),
        (b"\0\0\0\7\2PRJ1\1\2", phantom.ProtocolRejectedError),
        (b"\0\0\0\4\1\0\0\0", phantom.HandshakeError),
    ],
)
async def test_a_server_that_is_none_gives_a_typed_error(server_key: Any, reply: bytes, error: type[Exception]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        writer.write(reply)
        writer.write_eof()
        await reader.read()
        writer.close()

    server, target = await _one_connection(answer)
    async with server:
        with pytest.raises(error) as caught:
            await phantom.connect(target, server_key.verifying_key(), timeout=10)
    assert type(caught.value) is error


async def test_cancelling_a_connect_leaves_nothing(server_key: Any) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        gone.set()
        writer.close()

    server, target = await _one_connection(watch)
    async with server:
        task = asyncio.ensure_future(phantom.connect(target, server_key.verifying_key(), timeout=10)._connect())
        await asyncio.wait_for(arrived.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)


async def test_client_first_messages_are_queued_and_flushed_in_order(server_key: Any) -> None:
    runtime = AsyncioRuntime()
    listener = memory_listener(server_key, runtime=runtime)
    near, far = memory_leg_pair(runtime)
    session = connect_with_transport("memory", near, server_key.verifying_key(), runtime=runtime)
    assert session.state is phantom.ConnectionState.CONNECTING
    assert not session.is_data_ready()
    assert session.id == ""
    with pytest.raises(phantom.ConnectionClosedError):
        _ = session.negotiated
    for number in range(20):
        await session.send(b"%d" % number)
    assert session.queued_count() == 20
    listener.serve_leg(far, Source("127.0.0.1"), "memory")
    outcome = await listener.accept(5)
    assert [await outcome.session.recv(5) for _ in range(20)] == [b"%d" % number for number in range(20)]
    await session.flush_queue(5)
    assert session.queued_count() == 0
    assert await session.disconnect() is True
    await outcome.session.disconnect()
    listener.shutdown()


async def test_before_establishment_send_waits_above_one_mebibyte(server_key: Any) -> None:
    runtime = AsyncioRuntime()
    near, _far = memory_leg_pair(runtime)
    session = connect_with_transport("memory", near, server_key.verifying_key(), runtime=runtime)
    await session.send(bytes(600_000))
    with pytest.raises(phantom.PhantomTimeoutError, match="nothing was queued"):
        await session.send(bytes(600_000), timeout=0.01)
    assert session.queued_count() == 1
    with pytest.raises(phantom.PhantomTimeoutError):
        await session.recv(timeout=0.01)
    with pytest.raises(phantom.PhantomTimeoutError):
        await session.await_ready(timeout=0.01)
    assert await session.disconnect() is False
    for call in (session.send(b"x"), session.recv(), session.await_ready(), session.flush_queue()):
        with pytest.raises(phantom.ConnectionClosedError):
            await call
    assert session.state is phantom.ConnectionState.FAILED


async def test_leaving_before_establishment_says_that_messages_are_lost(server_key: Any) -> None:
    near, _far = memory_leg_pair(AsyncioRuntime())
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        async with connect_with_transport("memory", near, server_key.verifying_key()) as session:
            await session.send(b"never")
    assert caught.value.unacknowledged > 0


async def test_a_session_over_a_supplied_message_transport(server_key: Any) -> None:
    class QueueTransport:
        leg = "embedded"

        def __init__(self, inbox: asyncio.Queue[bytes], outbox: asyncio.Queue[bytes]) -> None:
            self.inbox, self.outbox = inbox, outbox

        async def send_bytes(self, data: bytes) -> None:
            await self.outbox.put(data)

        async def recv_bytes(self) -> bytes:
            return await self.inbox.get()

        async def close(self) -> None:
            await self.outbox.put(b"")

    from phantom.transport.legs.message import MessageLeg

    one: asyncio.Queue[bytes] = asyncio.Queue()
    two: asyncio.Queue[bytes] = asyncio.Queue()
    runtime = AsyncioRuntime()
    listener = memory_listener(server_key, runtime=runtime)
    listener.serve_leg(MessageLeg(QueueTransport(one, two), runtime, "queue"), Source("embedded"), "queue")
    session = phantom.PhantomSession.connect_with_transport(
        "queue", QueueTransport(two, one), server_key.verifying_key()
    )
    outcome = await listener.accept(5)
    big = bytes(range(256)) * 4096
    await session.send(big)
    assert await outcome.session.recv(5) == big
    await outcome.session.send(b"back")
    assert await session.recv(5) == b"back"
    assert session.negotiated.leg == "embedded"
    assert await session.disconnect() is True
    await outcome.session.disconnect()
    listener.shutdown()
