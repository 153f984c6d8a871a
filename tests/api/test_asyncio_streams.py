"""The drop-ins for asyncio's streams: what is the same, and what the how-to says differs."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.api import asyncio_streams
from phantom.config import PhantomConfig
from tests.calm import PATIENCE, nothing_left, turns, until
from tests.docs.conftest import environment

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "http_over_phantom"
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def _serving(key: Any, handler: Handler = _echo, **how: Any) -> AsyncIterator[phantom.Server]:
    async with nothing_left(), await phantom.start_server(handler, "127.0.0.1:0", key=key, **how) as server:
        yield server
        server.close_clients()


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


# --- the same ---------------------------------------------------------------------------------------------------------


async def test_lines_halves_and_close(server_key: Any) -> None:
    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        writer.write(b"one\n")
        writer.writelines([b"two\n", bytearray(b"three\n"), memoryview(b"")])
        await writer.drain()
        assert [await reader.readline() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
        assert writer.can_write_eof()
        writer.write(b"last words")
        writer.write_eof()
        writer.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            writer.write(b"more")
        assert await reader.read() == b"last words"
        assert reader.at_eof()
        await _end(writer)
        assert writer.is_closing()
        writer.close()
        writer.write(b"dropped")


async def test_large_transfers_both_ways_pause_and_resume(server_key: Any) -> None:
    data = bytes(range(256)) * (6 << 12)  # 6 MiB: more than the session's send buffer takes
    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0], limit=1024)
        transport = writer.transport
        writer.write(data)
        writer.write(data)
        assert transport.get_write_buffer_size() > 0
        writer.write_eof()

        async def drained() -> None:
            await writer.drain()
            assert transport.get_write_buffer_size() <= transport.get_write_buffer_limits()[0]

        received, _ = await asyncio.gather(reader.read(), drained())
        assert received == data * 2
        await _end(writer)


async def test_a_slow_reader_makes_drain_wait(server_key: Any) -> None:
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await go_on.wait()
        await _echo(reader, writer)

    config = PhantomConfig(recv_window=1 << 20)
    async with _serving(server_key, slow, config=config) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        await begun.wait()
        written = 0

        async def fill() -> None:
            nonlocal written
            for _ in range(20):
                writer.write(bytes(1 << 20))
                written += 1 << 20
                await writer.drain()
            writer.write_eof()

        filling = asyncio.ensure_future(fill())
        await until(lambda: writer.transport.get_write_buffer_size())
        await turns(300)
        assert not filling.done()
        assert written <= limits.SEND_BUFFER_CAP + (4 << 20)
        go_on.set()
        size = 0
        while data := await reader.read(1 << 20):
            size += len(data)
        await filling
        assert size == 20 << 20
        await _end(writer)


async def test_the_transport_keeps_asyncios_contract(server_key: Any) -> None:
    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        transport: Any = writer.transport
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        writer.write(b"held back")
        await turns(100)
        assert not reader._buffer  # type: ignore[attr-defined]
        transport.resume_reading()
        transport.resume_reading()
        assert await reader.readexactly(9) == b"held back"
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        with pytest.raises(ValueError, match="high"):
            transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(TypeError, match="bytes"):
            transport.write("text")
        session = writer.get_extra_info("phantom_session")
        assert isinstance(session, phantom.PhantomSession)
        assert writer.get_extra_info("phantom_stream").stream_id == 3
        assert writer.get_extra_info("peername") == ("127.0.0.1", int(server.listener.local_addr.rpartition(":")[2]))
        assert writer.get_extra_info("sslcontext") is None
        assert transport.get_protocol() is writer.transport.get_protocol()
        assert "3" in repr(transport)
        await _end(writer)


def test_the_name_of_a_peer_that_has_no_port() -> None:
    assert asyncio_streams._name("[::1]:443") == ("::1", 443)
    assert asyncio_streams._name("memory") == "memory"


async def test_another_protocol_can_take_over(server_key: Any) -> None:
    class Recorder(asyncio.Protocol):
        def __init__(self) -> None:
            self.data = b""
            self.end: list[Any] = []

        def data_received(self, data: bytes) -> None:
            self.data += data

        def eof_received(self) -> bool:
            self.end.append("eof")
            return False  # close

        def connection_lost(self, exc: Exception | None) -> None:
            self.end.append(exc)

    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        recorder = Recorder()
        transport: Any = writer.transport
        transport.set_protocol(recorder)
        writer.write(b"for the recorder")
        writer.write_eof()
        await until(lambda: len(recorder.end) == 2)
        assert recorder.data == b"for the recorder"
        assert recorder.end == ["eof", None]
        assert not reader.at_eof()


async def test_many_streams_of_one_session_are_pairs_of_their_own(server_key: Any) -> None:
    async with _serving(server_key) as server, phantom.connect(server.urls[0]) as session:
        streams = [await session.open_stream() for _ in range(20)]
        for stream in streams:
            await stream.send_reliable(b"%d" % stream.stream_id)
            await stream.finish()
        for stream in streams:
            assert b"".join([chunk async for chunk in stream]) == b"%d" % stream.stream_id


async def test_a_plain_callback_gets_the_pair_too(server_key: Any) -> None:
    pairs: list[Pair] = []
    async with _serving(server_key, lambda reader, writer: pairs.append((reader, writer))) as server:  # type: ignore[arg-type,return-value]
        reader, writer = await phantom.open_connection(server.urls[0])
        await until(lambda: pairs)
        pairs[0][1].write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await _end(writer)


# --- what differs -----------------------------------------------------------------------------------------------------


async def test_abort_resets_and_a_reset_is_a_connection_reset_error(server_key: Any) -> None:
    pairs: list[Pair] = []
    begun = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pairs.append((reader, writer))
        begun.set()

    async with _serving(server_key, hold) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        await begun.wait()
        pairs[0][1].transport.abort()
        pairs[0][1].transport.abort()
        with pytest.raises(ConnectionResetError) as caught:
            await reader.read(1)
        assert isinstance(caught.value, phantom.StreamResetError)
        assert caught.value.reset_code == 0
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        await writer.get_extra_info("phantom_session").disconnect()


async def test_a_stopped_writer_learns_it_from_drain_and_can_still_read(server_key: Any) -> None:
    stopped = asyncio.Event()

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"no, thank you")
        await _end(writer)
        stopped.set()

    async with _serving(server_key, answer_early) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        writer.write(b"x")
        await stopped.wait()
        with pytest.raises(ConnectionResetError) as caught:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        assert isinstance(caught.value, phantom.StreamResetError)
        assert await reader.read() == b"no, thank you"
        await _end(writer)


async def test_a_stop_while_the_writer_is_paused_lets_it_go(server_key: Any) -> None:
    go_on = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await _end(writer)

    async with _serving(server_key, refuse) as server:
        _, writer = await phantom.open_connection(server.urls[0])

        async def fill() -> None:
            while True:
                writer.write(bytes(1 << 20))
                await writer.drain()

        filling = asyncio.ensure_future(fill())
        await until(lambda: writer.transport.get_write_buffer_size())
        go_on.set()
        with pytest.raises(ConnectionResetError):
            await filling
        assert writer.transport.get_write_buffer_size() == 0
        await _end(writer)


async def test_wait_closed_of_the_client_ends_the_session(server_key: Any) -> None:
    async with _serving(server_key) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        session = writer.get_extra_info("phantom_session")
        writer.write(b"acknowledged first")
        await _end(writer)
        assert session.state is phantom.ConnectionState.CLOSED
        assert session._driver.conn.unacknowledged == 0


async def test_wait_closed_raises_when_something_was_not_acknowledged(server_key: Any) -> None:
    config = PhantomConfig(close_timeout=0.0)

    async def unlucky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await _echo(reader, writer)

    async with _serving(server_key, unlucky) as server:
        _, writer = await phantom.open_connection(server.urls[0], config=config)
        writer.write(bytes(100_000))
        writer.close()
        with pytest.raises(ConnectionResetError) as caught:
            await writer.wait_closed()
        assert isinstance(caught.value, phantom.ConnectionClosedError)
        assert caught.value.unacknowledged


@pytest.mark.parametrize("code", [0, 7])
async def test_the_end_of_the_session_ends_its_streams(server_key: Any, code: int) -> None:
    pairs: list[Pair] = []
    begun = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pairs.append((reader, writer))
        begun.set()

    async with _serving(server_key, hold) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        await begun.wait()
        await writer.get_extra_info("phantom_session").disconnect(code)
        reader, other = pairs[0]
        with pytest.raises(ConnectionResetError) as caught:
            await reader.read(1)
        assert isinstance(caught.value, phantom.ConnectionClosedError)
        assert caught.value.peer_code == code
        with pytest.raises(ConnectionError):
            other.write(b"x")
            await other.drain()


async def test_a_session_that_ends_behind_the_last_byte_ends_a_transport_without_an_error(server_key: Any) -> None:
    closed = asyncio.Event()

    async def read_and_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"all there is"
        await writer.wait_closed()
        writer.write(b"dropped")
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        closed.set()

    async with _serving(server_key, read_and_wait) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        writer.write(b"all there is")
        await _end(writer)
        await asyncio.wait_for(closed.wait(), PATIENCE)


async def test_close_sends_what_waits_in_the_transport(server_key: Any) -> None:
    received = asyncio.get_running_loop().create_future()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(len(await reader.read()))
        await _end(writer)

    async with _serving(server_key, count) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        writer.write(bytes(10 << 20))
        writer.write(bytes(10 << 20))
        assert writer.transport.get_write_buffer_size()
        await _end(writer)
        assert await received == 20 << 20


async def test_a_lost_leg_ends_a_writer_that_is_paused(server_key: Any) -> None:
    pairs: list[Pair] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pairs.append((reader, writer))

    async with _serving(server_key, hold) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        await until(lambda: pairs)

        async def fill() -> None:
            while True:
                writer.write(bytes(1 << 20))
                await writer.drain()

        filling = asyncio.ensure_future(fill())
        await until(lambda: writer.transport.get_write_buffer_size() > 65536)
        await turns()
        writer.get_extra_info("phantom_session")._driver.leg_lost(None)
        with pytest.raises(ConnectionError):
            await filling
        with pytest.raises(ConnectionAbortedError) as caught:
            await reader.read()
        assert isinstance(caught.value, phantom.SessionDeadError)
        with pytest.raises(ConnectionAbortedError):
            await writer.wait_closed()
        pairs[0][1].close()


async def test_another_protocol_loses_its_connection_when_the_peer_stops_it(server_key: Any) -> None:
    lost: list[Any] = []

    class Writer(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("phantom_stream").stop(5)

    async with _serving(server_key, refuse) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        transport: Any = writer.transport
        transport.set_protocol(Writer())
        await until(lambda: lost)
        assert isinstance(lost[0], ConnectionResetError)
        assert lost[0].reset_code == 5


async def test_a_session_without_its_stream_is_not_left_behind(
    server_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[phantom.PhantomSession] = []

    async def refuse(session: phantom.PhantomSession, **_: Any) -> Any:
        made.append(session)
        raise phantom.StreamLimitError

    async with _serving(server_key) as server:
        monkeypatch.setattr(phantom.PhantomSession, "open_stream", refuse)
        with pytest.raises(phantom.StreamLimitError):
            await phantom.open_connection(server.urls[0])
        assert made[0]._driver.conn.phase.over  # type: ignore[union-attr]


async def test_closing_clients_lets_what_is_queued_arrive(server_key: Any) -> None:
    begun = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(100_000))
        begun.set()

    async with _serving(server_key, greet) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        await begun.wait()
        server.close_clients()
        assert len(await reader.read()) == 100_000
        await _end(writer)


async def test_a_lost_connection_is_a_connection_error(server_key: Any) -> None:
    lost = asyncio_streams._as_connection_error(phantom.SessionDeadError("gone"))
    assert isinstance(lost, ConnectionAbortedError)
    assert isinstance(lost, phantom.SessionDeadError)
    busy = phantom.BusyError("others stay as they are")
    assert asyncio_streams._as_connection_error(busy) is busy


async def test_no_tls_on_top(server_key: Any) -> None:
    import ssl

    async with _serving(server_key) as server:
        _, writer = await phantom.open_connection(server.urls[0])
        with pytest.raises(TypeError, match="start_tls"):
            await writer.start_tls(ssl.create_default_context())
        await _end(writer)


async def test_errors_of_connecting_are_those_of_connect(server_key: Any, other_key: Any) -> None:
    async with _serving(server_key) as server:
        with pytest.raises(phantom.ServerIdentityMismatchError):
            await phantom.open_connection(f"tcp://{server.listener.local_addr}", other_key.verifying_key())
        with pytest.raises(phantom.ConfigError):
            await phantom.open_connection("tcp://127.0.0.1:1")
        with pytest.raises(ValueError, match="Limit"):
            await phantom.open_connection(server.urls[0], limit=0)
        with pytest.raises(TypeError):
            await phantom.open_connection(server.urls[0], ssl=True)


async def test_a_writer_that_is_dropped_is_closed_with_a_warning(server_key: Any) -> None:
    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        session = writer.get_extra_info("phantom_session")
        if sys.version_info >= (3, 11, 5):
            with pytest.warns(ResourceWarning, match="unclosed"):
                del reader, writer
        else:
            writer.close()
            del reader, writer
        await until(lambda: session.state is phantom.ConnectionState.CLOSED)


# --- the server -------------------------------------------------------------------------------------------------------


async def test_closing_refuses_new_sessions_and_streams_and_waits_for_the_open_ones(server_key: Any) -> None:
    server = await phantom.start_server(_echo, "127.0.0.1:0", key=server_key)
    idle = await phantom.connect(server.urls[0])
    busy = await phantom.connect(server.urls[0])
    stream = await busy.open_stream()
    await stream.send_reliable(b"x")
    assert await stream.recv(PATIENCE) == b"x"
    await until(lambda: len(server._sessions) == 2)
    assert server.is_serving()
    assert server.sockets
    assert server.get_loop() is asyncio.get_running_loop()
    assert server.urls[0] in repr(server)
    url = server.urls[0]
    server.close()
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await idle.recv(PATIENCE)
    assert caught.value.peer_code == phantom.ConnectionClosedError.code
    with pytest.raises(phantom.NetworkError):
        await phantom.connect(url)
    late = await busy.open_stream()
    with pytest.raises(phantom.StreamResetError):
        await late.recv(PATIENCE)
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns()
    assert not waiting.done()
    await stream.finish()
    assert await stream.recv(PATIENCE) is None
    await waiting
    for session in (idle, busy):
        await session.disconnect()


async def test_aborting_clients_resets_their_streams(server_key: Any) -> None:
    async with _serving(server_key) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        server.abort_clients()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await writer.get_extra_info("phantom_session").disconnect()


async def test_serving_begins_when_it_is_told_to_and_ends_with_its_task(server_key: Any) -> None:
    server = await phantom.start_server(_echo, "127.0.0.1:0", key=server_key, start_serving=False)
    assert not server.is_serving()
    serving = asyncio.ensure_future(server.serve_forever())
    reader, writer = await phantom.open_connection(server.urls[0])
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    with pytest.raises(RuntimeError, match="served already"):
        await server.serve_forever()
    await _end(writer)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="closed"):
        await server.serve_forever()


async def test_close_ends_serve_forever_as_asyncios_does(server_key: Any) -> None:
    server = await phantom.start_server(_echo, "127.0.0.1:0", key=server_key)
    serving = asyncio.ensure_future(server.serve_forever())
    await turns()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_failing_callback_is_reported_and_closes_its_stream(server_key: Any) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ZeroDivisionError

    async with _serving(server_key, fail) as server:
        reader, writer = await phantom.open_connection(server.urls[0])
        if sys.version_info >= (3, 12) or hasattr(asyncio.StreamReaderProtocol, "_replace_writer"):
            await until(lambda: reported)
            assert isinstance(reported[0]["exception"], ZeroDivisionError)
            assert await reader.read() == b""
        await _end(writer)


# --- the example ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client", "server"])
def test_the_versions_of_the_example_differ_by_one_line(name: str) -> None:
    plain = (EXAMPLE / f"{name}.py").read_text().splitlines()
    moved = (EXAMPLE / f"{name}_phantom.py").read_text().splitlines()
    changed = [line for line in difflib.ndiff(plain, moved) if line[0] in "+-"]
    assert len(changed) == 2
    assert [re.sub(r"from (\w+) import", "", line[2:]).strip() for line in changed] == [
        "open_connection" if name == "client" else "start_server"
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True], ids=["plain", "phantom"])
async def test_both_versions_of_the_example_run(moved: bool) -> None:
    suffix = "_phantom" if moved else ""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(EXAMPLE / f"server{suffix}.py"),
        *(["127.0.0.1:0"] if moved else ["127.0.0.1", "0"]),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        assert server.stdout is not None
        line = (await asyncio.wait_for(server.stdout.readline(), PATIENCE)).decode()
        if moved:
            address = re.findall(r"phantom://[^ >]+", line)[:1]
        else:
            address = list(re.findall(r"laddr=\('([\d.]+)', (\d+)\)", line)[0])
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLE / f"client{suffix}.py"),
            *address,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        output, _ = await asyncio.wait_for(client.communicate(), PATIENCE)
        assert client.returncode == 0
        assert output.decode().splitlines() == ["you asked for /hello", "AS LOUD AS YOU CAN"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await server.wait()
