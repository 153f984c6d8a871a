"""Services to forward to, and both ends of a forwarding in one loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import phantom
from phantom.server.forward_client import ForwardClient
from phantom.server.forward_serving import ForwardHandler, parse_targets
from phantom.server.forward_wire import Place, ended
from phantom.server.service import Server, ServerSettings
from tests.calm import turns

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, then ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def service(serve: Serve = echo, **options: Any) -> AsyncIterator[str]:
    """``HOST:PORT`` of a TCP service."""
    writers: list[asyncio.StreamWriter] = []

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)

    server = await asyncio.start_server(kept, "127.0.0.1", 0, backlog=1024, **options)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await turns()
        for writer in writers:
            writer.transport.abort()
            await ended(writer)


@asynccontextmanager
async def serving(key: phantom.HybridSigningKey, *targets: str, **options: Any) -> AsyncIterator[Server]:
    """A server that forwards to ``targets``; ``options`` for the handler, ``settings`` for the server."""
    settings = options.pop("settings", {})
    handler = ForwardHandler(parse_targets(targets), **options)
    addresses = settings.pop("addresses", ("127.0.0.1:0",))
    server = await Server.start(ServerSettings(addresses=addresses, handler=handler, grace=0.0, **settings), key)
    try:
        yield server
    finally:
        await server.drain()


@asynccontextmanager
async def forwarding(url: str, name: str = "", listen: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[Any]:
    """A client of it: ``.status.listening`` is where to connect."""
    identity = options.pop("identity", None)

    async def session() -> phantom.PhantomSession:
        return await phantom.connect(url, identity=identity, timeout=10)

    client = ForwardClient(Place.parse(listen, listening=True), session, name=name, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.drain(0.0)


async def opened(client: ForwardClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the listening end."""
    return await Place.parse(client.status.listening).connect()


async def exchanged(client: ForwardClient, data: bytes) -> bytes:
    """Sends all, ends its half, and reads to the end."""
    reader, writer = await opened(client)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    _, got = await asyncio.gather(send(), reader.read())
    writer.close()
    return got
