"""Peers that do what they like on real sockets: a client, a server, and a relay between honest ends.

Both know the handshake and may go through it, so that what they do afterwards is done with real keys.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import phantom
from phantom.crypto.aead import CipherSuite
from phantom.crypto.pins import PinSet
from phantom.crypto.pow import solve
from phantom.crypto.providers import get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.transport.handshake import Close, Established, Gate, Initiator, Responder, Send, SolveChallenge, Source
from phantom.transport.handshake.events import HandshakeResult
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import ProtectionV2
from tests.calm import PATIENCE, reset

HELLO = 3245  # bytes of a first hello
REPLY = 7743  # and of the answer that establishes


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


class Opened(NamedTuple):
    """A packet of the other side."""

    word: int
    stream_id: int
    plaintext: bytes


class Peer:
    """A plain connection, with keys once it went through a handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.protection: ProtectionV2 | None = None
        self.result: HandshakeResult | None = None

    async def send(self, data: bytes) -> None:
        """May find the other side gone, which is no failure of a hostile peer."""
        try:
            self.writer.write(data)
            async with asyncio.timeout(PATIENCE):
                await self.writer.drain()
        except OSError:
            pass

    async def frame(self) -> bytes:
        """The next frame; b"" at the end of the stream or after a reset."""
        try:
            async with asyncio.timeout(PATIENCE):
                length = struct.unpack(">I", await self.reader.readexactly(4))[0]
                return await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return b""

    async def read_to_the_end(self) -> bytes:
        """All that still comes; a reset counts as an end."""
        found = bytearray()
        try:
            async with asyncio.timeout(PATIENCE):
                while data := await self.reader.read(1 << 16):
                    found += data
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
        return bytes(found)

    def half_close(self) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write_eof()

    def reset(self) -> None:
        reset(self.writer.get_extra_info("socket"), close=self.writer.transport.abort)

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def establish(self, result: HandshakeResult) -> None:
        self.result = result
        self.protection = ProtectionV2(
            result.initiator,
            result.session_id,
            result.shared_secret,
            send_suite=CipherSuite.AES_256_GCM,
            provider=get_provider(),
            counters=DropCounters(),
        )

    def seal(self, word: int, plaintext: bytes = b"", *, stream_id: int = 1, path_id: int = 0) -> bytes:
        """One packet, without its length prefix."""
        p = self.protection
        assert p is not None
        buf = bytearray(len(plaintext) + p.overhead)
        end = p.seal(buf, memoryview(buf), 0, stream_id, word, path_id, plaintext, len(plaintext))
        return bytes(buf[:end])

    def open(self, frame: bytes) -> Opened:
        p = self.protection
        assert p is not None
        buf = bytearray(frame)
        word = p.open(buf, memoryview(buf), 0, len(buf), 0, 0.0)
        assert word >= 0, "an honest end sent what does not open"
        return Opened(word, p.stream_id, bytes(buf[p.plain_start : p.plain_end]))

    async def opened(self, wanted: int) -> Opened:
        """The next packet that has all bits of ``wanted``."""
        while True:
            frame = await self.frame()
            assert frame, "the other side ended the connection"
            packet = self.open(frame)
            if packet.word & wanted == wanted:
                return packet


# --- a client ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def hostile_client(listener: phantom.PhantomListener) -> AsyncIterator[Peer]:
    host, _, port = listener.local_addr.rpartition(":")
    peer = Peer(*await asyncio.open_connection(host, int(port)))
    try:
        yield peer
    finally:
        await peer.close()


def initiator(listener: phantom.PhantomListener) -> Initiator:
    return Initiator(PinSet.parse(listener.verifying_key_bytes()), provider=get_provider(), rng=SYSTEM_RNG)


def first_hello(listener: phantom.PhantomListener) -> bytes:
    client = initiator(listener)
    client.start(0.0)
    event = client.next_event()
    assert isinstance(event, Send)
    return event.frame


async def client_handshake(peer: Peer, listener: phantom.PhantomListener) -> bytes:
    """An honest handshake; the last frame of the server."""
    client = initiator(listener)
    client.start(0.0)
    reply = b""
    while True:
        event = client.next_event()
        if isinstance(event, Send):
            await peer.send(framed(event.frame))
            reply = await peer.frame()
            client.receive(reply, 0.0)
        elif isinstance(event, SolveChallenge):
            client.solved(solve(event.nonce, event.difficulty, 0, 1 << 24), 0.0)
        else:
            assert isinstance(event, Established)
            peer.establish(event.result)
            return reply


# --- a server ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _accepting(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[tuple[str, list[asyncio.Task[None]]]]:
    """Runs ``serve`` for every connection; yields ``tcp://HOST:PORT`` and the tasks, which are cancelled at the end."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    async def one(sock: socket.socket) -> None:
        peer = Peer(*await asyncio.open_connection(sock=sock))
        try:
            await serve(peer)
        finally:
            await peer.close()

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(server)
            tasks.append(loop.create_task(one(sock)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        acceptor = loop.create_task(accept())
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}", tasks
        finally:
            for task in (acceptor, *tasks):
                task.cancel()
            await asyncio.gather(acceptor, *tasks, return_exceptions=True)


@asynccontextmanager
async def hostile_server(behave: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Gives each client to ``behave`` and closes behind it; yields ``tcp://HOST:PORT``. Its failures are raised."""
    async with _accepting(behave) as (target, tasks):
        yield target
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*tasks)


def answer(key: phantom.HybridSigningKey, hello: bytes) -> tuple[bytes, HandshakeResult]:
    """What an honest server says to a hello."""
    server = Responder(key, Gate(bytes(32)), Source("127.0.0.1"), provider=get_provider(), rng=SYSTEM_RNG)
    server.start(0.0)
    server.receive(hello, 0.0, 1_800_000_000.0)
    sent, done = server.next_event(), server.next_event()
    assert isinstance(sent, Send)
    assert isinstance(done, Established), done if isinstance(done, Close) else ""
    return sent.frame, done.result


async def server_handshake(peer: Peer, key: phantom.HybridSigningKey) -> None:
    """An honest handshake."""
    reply, result = answer(key, await peer.frame())
    await peer.send(framed(reply))
    peer.establish(result)


# --- in between -------------------------------------------------------------------------------------------------------

Alter = Callable[[int, bytes], bytes]
"""Given the offset of a chunk in its direction and the chunk; what is passed on. May raise CutError."""


class CutError(Exception):
    """Ends the relayed connection, both ways, behind the bytes that it carries."""


def untouched(offset: int, data: bytes) -> bytes:
    return data


def flipping(at: int, bit: int = 1) -> Alter:
    """Changes one bit of the byte at that offset of the stream."""

    def alter(offset: int, data: bytes) -> bytes:
        if not offset <= at < offset + len(data):
            return data
        found = bytearray(data)
        found[at - offset] ^= bit
        return bytes(found)

    return alter


def cutting(at: int) -> Alter:
    """Ends the connection at that offset."""

    def alter(offset: int, data: bytes) -> bytes:
        if offset + len(data) > at:
            raise CutError(data[: at - offset])
        return data

    return alter


def swallowing(at: int) -> Alter:
    """Passes nothing on from that offset."""
    return lambda offset, data: data[: max(0, at - offset)]


@asynccontextmanager
async def relay(target: str, *, c2s: Alter = untouched, s2c: Alter = untouched) -> AsyncIterator[str]:
    """A relay in front of ``HOST:PORT``; yields its own ``tcp://HOST:PORT``."""
    host, _, port = target.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, alter: Alter) -> None:
        offset = 0
        while data := await reader.read(1 << 16):
            try:
                writer.write(alter(offset, data))
            except CutError as cut:
                writer.write(cut.args[0])
                raise
            offset += len(data)
            await writer.drain()
        if not writer.transport.is_closing():
            writer.write_eof()

    async def serve(near: Peer) -> None:
        far = Peer(*await asyncio.open_connection(host, int(port)))
        pumps = [
            asyncio.ensure_future(pump(near.reader, far.writer, c2s)),
            asyncio.ensure_future(pump(far.reader, near.writer, s2c)),
        ]
        try:
            with suppress(OSError, CutError):
                await asyncio.gather(*pumps)
        finally:
            far.writer.close()  # at once: this may be the end of the test, which waits for nothing
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await far.close()

    async with _accepting(serve) as (target_of_relay, _):
        yield target_of_relay
