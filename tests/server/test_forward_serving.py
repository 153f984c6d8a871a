"""serve --forward-to: targets, who may reach them, and what the server answers a stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import pytest

import phantom
from phantom import ConfigError, StreamResetError, ValidationError
from phantom.server.forward_serving import check_exposed, parse_targets
from phantom.server.forward_wire import Place, Reset, opening
from tests.calm import until
from tests.server.forwarding import service, serving


@pytest.fixture(scope="module")
def key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "phantom")


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


# --- the command line's words -----------------------------------------------------------------------------------------


def test_the_first_target_is_the_default_one() -> None:
    web, db = Place("h", 80), Place(path="/run/a=b")
    assert parse_targets(["h:80"]) == {"": web}
    assert parse_targets(["web=h:80", "db=unix:/run/a=b"]) == {"": web, "web": web, "db": db}
    assert parse_targets(["unix:/run/a=b", "web=h:80"]) == {"": db, "web": web}


@pytest.mark.parametrize("texts", [["h:80", "h:81"], ["a=h:80", "a=h:81"]])
def test_targets_need_names_of_their_own(texts: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_targets(texts)


@pytest.mark.parametrize("text", ["a b=h:80", "a=h", "h", "a=", "a=unix:", "=h:80x"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_targets([text])


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", ":1", "10.0.0.1:1", "[::]:1", "example.org:1", "wss://[2001:db8::1]:1/x"]
)
def test_an_open_address_needs_a_word(address: str) -> None:
    with pytest.raises(ConfigError, match="--allow-anyone"):
        check_exposed(["127.0.0.1:1", address], allowed=False)
    check_exposed([address], allowed=True)


def test_loopback_needs_none() -> None:
    check_exposed(["127.0.0.1:1", "[::1]:1", "localhost:1", "ws://127.9.9.9:1"], allowed=False)


# --- streams ----------------------------------------------------------------------------------------------------------


async def answered(session: phantom.PhantomSession, data: bytes, *, finish: bool = False) -> bytes:
    """What the server sends to a stream that begins with ``data``."""
    stream = await session.open_stream()
    await stream.send_reliable(data)
    if finish:
        await stream.finish()
    got = b""
    async for chunk in stream:
        got += chunk
    return got


async def reset_code(session: phantom.PhantomSession, data: bytes, *, finish: bool = False) -> int:
    with pytest.raises(StreamResetError) as reset:
        await answered(session, data, finish=finish)
    return reset.value.reset_code


async def test_a_named_target_and_the_default_one(key: phantom.HybridSigningKey) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with service() as first, service(hello) as second, serving(key, first, f"hi={second}") as server:
        async with phantom.connect(server.urls[0]) as session:
            assert await answered(session, opening("") + b"abc", finish=True) == b"\0abc"
            assert await answered(session, opening("hi")) == b"\0hello"


@pytest.mark.parametrize("data", [b"\x00", b"\x01\x02", b"\x02\x01 "], ids=["empty", "version 2", "a bad name"])
async def test_a_malformed_opening(key: phantom.HybridSigningKey, data: bytes) -> None:
    async with service() as target, serving(key, target) as server, phantom.connect(server.urls[0]) as session:
        assert await reset_code(session, data) == Reset.MALFORMED
        assert await answered(session, opening("") + b"on", finish=True) == b"\0on"


async def test_half_an_opening(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target) as server, phantom.connect(server.urls[0]) as session:
        assert await reset_code(session, b"\x09\x01", finish=True) == Reset.MALFORMED


async def test_an_opening_that_does_not_come(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target, opening_timeout=0.0) as server:
        async with phantom.connect(server.urls[0]) as session:
            assert await reset_code(session, b"\x09") == Reset.MALFORMED


async def test_an_unknown_target(key: phantom.HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with service() as target, serving(key, target) as server, phantom.connect(server.urls[0]) as session:
        assert await reset_code(session, opening("nope")) == Reset.UNKNOWN_TARGET
    assert [record.fields for record in caplog.records if hasattr(record, "fields") and "code" in record.fields] == [
        {"code": "unknown_target"}
    ]


async def test_a_target_that_is_down(key: phantom.HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    target = closed_port()
    async with serving(key, target) as server, phantom.connect(server.urls[0]) as session:
        assert await reset_code(session, opening("") + b"data") == Reset.TARGET_DOWN
    assert target in caplog.text


async def test_a_target_that_does_not_accept(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target, connect_timeout=0.0) as server:
        async with phantom.connect(server.urls[0]) as session:
            assert await reset_code(session, opening("")) == Reset.TARGET_SLOW


async def test_the_limit_of_connections(key: phantom.HybridSigningKey) -> None:
    async with service() as target, serving(key, target, most=1) as server:
        async with phantom.connect(server.urls[0]) as session:
            held = await session.open_stream()
            await held.send_reliable(opening(""))
            assert await held.recv() == b"\0"
            assert await reset_code(session, opening("")) == Reset.LIMIT
            await held.finish()
            assert await held.recv() is None
            await until(lambda: not server._handler.active)  # type: ignore[attr-defined]
            assert await answered(session, opening(""), finish=True) == b"\0"


async def test_a_client_that_vanishes_resets_its_targets(key: phantom.HybridSigningKey) -> None:
    ends: asyncio.Queue[type] = asyncio.Queue()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError as error:
            ends.put_nowait(type(error))
        finally:
            writer.close()

    async with service(waits) as target, serving(key, target, rest=0.0) as server:
        session = await phantom.connect(server.urls[0])
        for _ in range(5):
            stream = await session.open_stream()
            await stream.send_reliable(opening("") + b"x")
            assert await stream.recv() == b"\0"
        session._leg.close(linger=False)  # type: ignore[union-attr]
        assert [await ends.get() for _ in range(5)] == [ConnectionResetError] * 5
        with contextlib.suppress(phantom.PhantomError):
            await session.disconnect(timeout=0)


async def test_what_a_client_had_sent_before_its_close_arrives(key: phantom.HybridSigningKey) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(await reader.read())
        writer.close()

    async with service(takes) as target, serving(key, target) as server:
        async with phantom.connect(server.urls[0]) as session:
            stream = await session.open_stream()
            await stream.send_reliable(opening("") + bytes(300_000))
            await stream.finish()
        assert await got.get() == bytes(300_000)
