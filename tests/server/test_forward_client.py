"""phantom forward, both ends in one loop with real sockets: what a service and its client notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import logging
import os
import random
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.server import forward_client
from phantom.server.forward_client import ForwardClient
from phantom.server.forward_wire import Place, ended
from tests.calm import open_descriptors, reset, until
from tests.server.forwarding import exchanged, forwarding, opened, service, serving
from tests.server.test_forward_serving import closed_port


@pytest.fixture(scope="module")
def key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "phantom")


# --- what arrives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
async def test_bytes_go_both_ways_and_half_close_is_kept(key: phantom.HybridSigningKey, size: int) -> None:
    data = random.Random(size).randbytes(size)
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        assert await exchanged(client, data) == data
        await until(lambda: not client.status.connections)
        assert (client.status.bytes_out, client.status.bytes_in) == (size, size)
        assert (client.status.refused, client.status.reset) == (0, 0)


async def test_the_answer_may_begin_after_the_question_has_ended(key: phantom.HybridSigningKey) -> None:
    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read())).encode())
        writer.close()
        await ended(writer)

    async with service(counts) as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        assert await exchanged(client, bytes(1_000_000)) == b"1000000"


async def test_a_service_that_speaks_first(key: phantom.HybridSigningKey) -> None:
    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.write(b"got " + await reader.readline())
        writer.close()
        await ended(writer)

    async with service(greets) as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        reader, writer = await opened(client)
        assert await reader.readline() == b"SSH-2.0-x\r\n"
        writer.write(b"hi\n")
        assert await reader.read() == b"got hi\n"
        writer.close()
        await ended(writer)


async def test_named_targets(key: phantom.HybridSigningKey) -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"second")
        writer.close()
        await ended(writer)

    async with service() as first, service(says) as second, serving(key, f"a={first}", f"b={second}") as server:
        async with forwarding(server.urls[0], "b") as client:
            assert await exchanged(client, b"") == b"second"
        async with forwarding(server.urls[0]) as client:
            assert await exchanged(client, b"first") == b"first"


async def test_a_web_server(key: phantom.HybridSigningKey) -> None:
    def do_post(self: Any) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    silent = {"do_POST": do_post, "protocol_version": "HTTP/1.1", "log_message": lambda *_: None}
    pages = type("Pages", (http.server.BaseHTTPRequestHandler,), silent)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), pages)
    threading.Thread(target=web.serve_forever).start()

    def requests(place: str) -> list[bytes]:
        connection = http.client.HTTPConnection(place)
        replies = []
        for number in range(20):
            connection.request("POST", "/", b"ab" * number * 5000)
            replies.append(connection.getresponse().read())
        connection.close()
        return replies

    try:
        async with serving(key, f"127.0.0.1:{web.server_address[1]}") as server, forwarding(server.urls[0]) as client:
            replies = await asyncio.to_thread(requests, client.status.listening)
        assert replies == [b"ba" * number * 5000 for number in range(20)]
    finally:
        await asyncio.to_thread(web.shutdown)
        web.server_close()


async def test_unix_sockets_at_both_ends(key: phantom.HybridSigningKey, tmp_path: Path) -> None:
    behind, front = tmp_path / "behind", tmp_path / "front"
    unix = await asyncio.start_unix_server(_shout, behind)
    async with serving(key, f"unix:{behind}") as server:
        async with forwarding(server.urls[0], listen=f"unix:{front}") as client:
            assert stat.S_IMODE(os.stat(front).st_mode) == 0o600
            assert await exchanged(client, b"abc") == b"ABC"
            with pytest.raises(phantom.NetworkError, match="cannot listen"):
                async with forwarding(server.urls[0], listen=f"unix:{front}"):
                    pass
            assert await exchanged(client, b"still") == b"STILL"
        assert not front.exists()
        front.touch()
        with pytest.raises(phantom.NetworkError):
            async with forwarding(server.urls[0], listen=f"unix:{front}"):
                pass
        assert front.exists()
    unix.close()


async def _shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    writer.close()
    await ended(writer)


async def test_a_dead_socket_in_its_place_is_replaced(key: phantom.HybridSigningKey, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with service() as target, serving(key, target) as server:
        async with forwarding(server.urls[0], listen=f"unix:{path}") as client:
            assert await exchanged(client, b"abc") == b"abc"
            path.unlink()  # somebody else did: the end does not mind


async def test_a_port_in_use(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server:
        with pytest.raises(phantom.NetworkError, match="cannot listen on"):
            async with forwarding(server.urls[0], listen=target):
                pass


# --- resets -----------------------------------------------------------------------------------------------------------


async def test_a_reset_by_the_service_reaches_the_client(key: phantom.HybridSigningKey) -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer.get_extra_info("socket"), writer.transport.abort)

    async with service(resets) as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        reader, writer = await opened(client)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await ended(writer)
        await until(lambda: client.status.reset == 1)


async def test_a_reset_by_the_client_reaches_the_service(key: phantom.HybridSigningKey) -> None:
    end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        try:
            await reader.read()
            end.set_result("end")
        except ConnectionResetError:
            end.set_result("reset")
        writer.close()
        await ended(writer)

    async with service(waits) as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        reader, writer = await opened(client)
        await reader.readexactly(1)
        reset(writer.get_extra_info("socket"), writer.transport.abort)
        assert await end == "reset"
        await until(lambda: client.status.reset == 1)


async def refused(client: ForwardClient) -> None:
    """A connection that the client's end resets before anything comes."""
    with contextlib.suppress(BrokenPipeError):
        reader, writer = await opened(client)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await ended(writer)


async def refused_or_reset(client: ForwardClient) -> None:
    """A connection that says something and is reset."""
    reader, writer = await opened(client)
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await ended(writer)


async def test_a_target_that_is_down(key: phantom.HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(key, closed_port()) as server, forwarding(server.urls[0]) as client:
        await refused(client)
        await until(lambda: client.status.refused == 1)
        assert client.status.reset == 0
    codes = [
        record.fields for record in caplog.records if record.name == "phantom.forward" and hasattr(record, "fields")
    ]
    assert codes == [{"code": "target_down"}]


async def test_more_connections_than_allowed(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0], most=1) as client:
        reader, writer = await opened(client)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        await refused(client)
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        writer.close()
        await ended(writer)


async def test_a_server_that_does_not_forward(key: phantom.HybridSigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(session: phantom.PhantomSession) -> None:
        while True:
            stream = await session.accept_stream()
            await stream.send_reliable(b"something else")
            await stream.finish()

    async def ends(session: phantom.PhantomSession) -> None:
        while True:
            await (await session.accept_stream()).finish()

    for handler in (answers, ends):
        settings = phantom.server.service.ServerSettings(addresses=("127.0.0.1:0",), handler=handler, grace=0.0)
        server = await phantom.server.service.Server.start(settings, key)
        async with forwarding(server.urls[0]) as client:
            await refused(client)
            await until(lambda client=client: client.status.reset == 1)
        await server.drain()


# --- many -------------------------------------------------------------------------------------------------------------


async def test_500_connections_at_once(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        ends = await asyncio.gather(*(opened(client) for _ in range(500)))
        for number, (_, writer) in enumerate(ends):
            writer.write(number.to_bytes(2))
        replies = await asyncio.gather(*(reader.readexactly(2) for reader, _ in ends))
        assert replies == [number.to_bytes(2) for number in range(500)]
        assert client.status.connections == 500
        assert client.status.sessions >= 2  # one session has 256 streams
        for _, writer in ends:
            writer.close()
            await ended(writer)
        await until(lambda: not client.status.connections and client.status.sessions == 1)
        assert (client.status.refused, client.status.reset) == (0, 0)


@pytest.mark.slow
async def test_2000_short_connections_leave_nothing_behind(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        assert await exchanged(client, b"warm") == b"warm"
        await until(lambda: not server._handler.active)  # type: ignore[attr-defined]
        before = open_descriptors()

        async def some(number: int) -> None:
            for at in range(100):
                data = f"{number} {at}".encode()
                assert await exchanged(client, data) == data

        await asyncio.gather(*map(some, range(20)))
        await until(lambda: not client.status.connections and not server._handler.active)  # type: ignore[attr-defined]
        await until(lambda: open_descriptors() <= before)
        assert client.status.accepted == 2001
        assert (client.status.refused, client.status.reset) == (0, 0)


async def test_those_who_do_not_read_hold_up_nobody_and_memory_is_bounded(key: phantom.HybridSigningKey) -> None:
    """Both ways: 40 connections whose readers do not read, and one that goes on."""
    release = asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"e":
            writer.write(await reader.read())
            writer.close()
            await ended(writer)
            return
        with contextlib.suppress(OSError):
            while not release.is_set():
                writer.write(bytes(65536))
                await writer.drain()
        writer.transport.abort()

    async def push(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()

    async with service(floods) as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        ends = [await asyncio.open_connection(*client.status.listening.split(":"), limit=1024) for _ in range(40)]
        pushing = []
        for _, writer in ends:
            writer.write(b"f")
            pushing.append(asyncio.ensure_future(push(writer)))
        for _ in range(3):
            assert await exchanged(client, b"e" + bytes(1_000_000)) == bytes(1_000_000)
        (link,) = client._links
        sides = [link.session, *server._listener._sessions]
        assert all(side._driver.conn.queued <= phantom.limits.SEND_BUFFER_CAP for side in sides)
        release.set()
        for task in pushing:
            task.cancel()
        for _, writer in ends:
            writer.transport.abort()


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_connections_of_a_dead_session_are_reset_and_new_ones_get_another(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target, rest=0.0) as server:
        async with forwarding(server.urls[0], backoff=0.0, rest=0.0) as client:
            held, writer = await opened(client)
            writer.write(b"a")
            assert await held.readexactly(1) == b"a"
            next(iter(server._listener._sessions))._leg.close(linger=False)
            with pytest.raises(ConnectionResetError):
                await held.read()
            writer.close()
            await ended(writer)
            assert await exchanged(client, b"again") == b"again"
            assert client.status.reset == 1


async def test_attempts_go_on_until_the_server_is_back(key: phantom.HybridSigningKey) -> None:
    attempts = 0
    async with service() as target, serving(key, target) as server:

        async def session() -> phantom.PhantomSession:
            nonlocal attempts
            attempts += 1
            if 1 < attempts < 5:
                raise phantom.NetworkError("nobody there")
            return await phantom.connect(server.urls[0])

        client = ForwardClient(Place("127.0.0.1", 0), session, backoff=0.0, rest=0.0)
        await client.start()
        next(iter(server._listener._sessions))._leg.close(linger=False)
        await until(lambda: not client._links)
        assert await exchanged(client, b"back") == b"back"
        assert attempts == 5
        await client.drain(0.0)


async def test_without_a_session_in_time_a_connection_is_refused(key: phantom.HybridSigningKey) -> None:
    async with service() as target:
        async with serving(key, target) as server, forwarding(server.urls[0], patience=0.0, backoff=1e6) as client:
            await client._links[0].session.disconnect()
            await until(lambda: not client._links)
            await refused(client)
            assert client.status.refused == 1


async def test_a_session_that_runs_out_of_ids_has_a_successor(
    key: phantom.HybridSigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_client, "_RETIRE_AT", 9)
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        first = client._links[0].session
        held, writer = await opened(client)
        writer.write(b"a")
        assert await held.readexactly(1) == b"a"
        for _ in range(6):
            assert await exchanged(client, b"x") == b"x"
        assert client._links[-1].session is not first
        assert first._driver.conn.table._next_own == 11  # those after the ninth id went to the successor
        writer.write(b"b")
        assert await held.readexactly(1) == b"b"  # the first goes on as long as it is needed
        assert first.state is phantom.ConnectionState.CONNECTED
        writer.write_eof()
        assert await held.read() == b""
        writer.close()
        await ended(writer)
        await until(lambda: first.state is phantom.ConnectionState.CLOSED and len(client._links) == 1)
        assert (client.status.refused, client.status.reset) == (0, 0)


async def test_an_identity_that_is_taken_off_the_list_ends_the_client(
    key: phantom.HybridSigningKey, tmp_path: Path
) -> None:
    own = phantom.generate_signing_key()
    path = tmp_path / "clients"
    path.write_text(own.verifying_key().fingerprint())
    settings = {"authorized": phantom.AuthorizedClients.from_file(path)}
    async with service() as target, serving(key, target, settings=settings) as server:
        with pytest.raises(phantom.ClientAuthError):
            async with forwarding(server.urls[0], identity=phantom.generate_signing_key()):
                pass
        async with forwarding(server.urls[0], rest=0.0) as client:  # with none it learns so from the end of its session
            await refused_or_reset(client)
            with pytest.raises(phantom.ClientAuthError):
                await client.failed
        async with forwarding(server.urls[0], identity=own, backoff=0.0, rest=0.0) as client:
            assert await exchanged(client, b"in") == b"in"
            held, writer = await opened(client)
            writer.write(b"a")
            assert await held.readexactly(1) == b"a"
            path.write_text("")
            with pytest.raises(phantom.ClientAuthError):
                await client.failed
            with pytest.raises(ConnectionResetError):
                await held.read()
            writer.close()
            await ended(writer)


async def test_the_end_waits_for_connections_and_then_resets_them(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server, forwarding(server.urls[0]) as client:
        held, writer = await opened(client)
        writer.write(b"a")
        assert await held.readexactly(1) == b"a"
        ending = asyncio.ensure_future(client.drain(60.0))
        await until(lambda: not client._server.is_serving())
        writer.write(b"b")
        writer.write_eof()
        assert await held.read() == b"b"
        await ending
        writer.close()
        await ended(writer)
    async with service() as target, serving(key, target) as server:
        async with forwarding(server.urls[0]) as client:
            held, writer = await opened(client)
            writer.write(b"a")
            assert await held.readexactly(1) == b"a"
        with pytest.raises(ConnectionResetError):
            await held.read()
        writer.close()
        await ended(writer)
