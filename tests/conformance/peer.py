"""The other end of a case: the asyncio API in the runner's own process, and servers that no Phantom server would be."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phantom.crypto.hybrid_kem import encapsulate, fresh_public
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.kdf import session_id
from phantom.crypto.providers import get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.transport.handshake.borsh import vec
from phantom.transport.handshake.messages import (
    ClientHello,
    HelloRetryRequest,
    PowChallenge,
    ServerHello,
    ServerReject,
)
from phantom.transport.handshake.transcript import transcript_hash
from tests.conformance.drivers.python import Python

_PIECE = 64 * 1024


def _hello(frame: bytes, key: HybridSigningKey, change: Callable[[ServerHello], ServerHello]) -> bytes:
    """The reply to a client's hello, signed after ``change``."""
    hello = ClientHello.decode(frame)
    provider = get_provider()
    ciphertext, secret = encapsulate(provider, hello.client_key_package, SYSTEM_RNG)
    draft = change(
        ServerHello(
            fresh_public(provider, SYSTEM_RNG),
            ciphertext,
            key.verifying_key().encoded,
            bytes(3377),
            session_id(secret, hello.nonce),
        )
    )
    flat = key._sign_raw(transcript_hash(frame, draft.encode()))
    return dataclasses.replace(draft, signature=flat[:64] + vec(flat[64:])).encode()


def _bad_signature(frame: bytes, key: HybridSigningKey) -> bytes:
    reply = bytearray(_hello(frame, key, lambda draft: draft))
    reply[-100] ^= 1  # within the signature of ML-DSA
    return bytes(reply)


_REPLIES: dict[str, Callable[[bytes, HybridSigningKey], bytes]] = {
    "garbage": lambda _frame, _key: b"HTTP/1.1 400 Bad Request",
    "version": lambda _frame, _key: ServerReject(1, 2).encode(),
    "busy": lambda _frame, _key: ServerReject(2, 2).encode(),
    "signature": _bad_signature,
    "session_id": lambda frame, key: _hello(frame, key, lambda draft: dataclasses.replace(draft, session_id=bytes(32))),
    "key_exchange": lambda frame, key: _hello(
        frame, key, lambda draft: dataclasses.replace(draft, ciphertext=bytes(32) + draft.ciphertext[32:])
    ),
    "empty_retry": lambda _frame, _key: HelloRetryRequest(None, None).encode(),
    "endless_retry": lambda _frame, _key: HelloRetryRequest(None, bytes(32)).encode(),
    "work": lambda _frame, _key: HelloRetryRequest(PowChallenge(bytes(32), 60), None).encode(),
}


class Peer(Python):
    """A driver that can also be a server that no Phantom server would be, and a bad network."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.AsyncExitStack()

    async def do_reset(self) -> None:
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await super().do_reset()
        await stack.aclose()

    async def do_list_of_clients(self, pins: str) -> dict[str, Any]:
        """A file of authorised clients: its path."""
        path = Path(self._stack.enter_context(tempfile.TemporaryDirectory()), "clients")
        path.write_text("# who may come in\n" + "".join(f"{pin} a client\n" for pin in pins.split()))
        return {"path": str(path)}

    async def do_refused(self) -> dict[str, Any]:
        """A port at which nobody listens: bound, so that nobody else takes it, and not listening."""
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        return self._address(sock)

    async def do_silent(self) -> dict[str, Any]:
        """A server that takes connections and says nothing; its port is also one that is in use."""
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        return self._address(sock)

    async def do_hostile(self, name: str, kind: str) -> dict[str, Any]:
        """A server whose every reply is of one kind, under a key that clients may pin."""
        key = HybridSigningKey.generate()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                    if kind == "oversized":
                        writer.write((1 << 30).to_bytes(4, "big"))
                    else:
                        reply = _REPLIES[kind](frame, key)
                        writer.write(len(reply).to_bytes(4, "big") + reply)
                    await writer.drain()

        return {**await self._serve(serve), "fingerprint": key.verifying_key().fingerprint()}

    async def do_relay(self, name: str, to: str) -> dict[str, Any]:
        """A relay to ``HOST:PORT`` that can be held (``hold``, ``let_go``) and cut (``cut``)."""
        host, _, port = to.rpartition(":")
        relay = self.things[name] = Relay()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(host, int(port))
            relay.writers += [writer, there[1]]
            try:
                with contextlib.suppress(ConnectionError):
                    await asyncio.gather(relay.copy(reader, there[1]), relay.copy(there[0], writer))
            finally:
                there[1].transport.abort()

        return await self._serve(serve)

    async def do_hold(self, relay: str) -> None:
        """Carries nothing from now on, in either direction."""
        self.things[relay].open.clear()

    async def do_let_go(self, relay: str) -> None:
        """Carries again."""
        self.things[relay].open.set()

    async def do_cut(self, relay: str) -> None:
        """Resets both connections."""
        for writer in self.things[relay].writers:
            writer.transport.abort()

    async def _serve(self, serve: Callable[..., Any]) -> dict[str, Any]:
        tasks: set[asyncio.Task[None]] = set()

        def began(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def one() -> None:
                try:
                    await serve(reader, writer)
                finally:
                    writer.transport.abort()

            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def end() -> None:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        server = await asyncio.start_server(began, "127.0.0.1", 0, limit=_PIECE)
        self._stack.push_async_callback(end)
        return self._address(server.sockets[0])

    def _address(self, sock: Any) -> dict[str, Any]:
        host, port = sock.getsockname()
        return {"address": f"{host}:{port}", "port": port}


class Relay:
    """A connection that can be held."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.writers: list[asyncio.StreamWriter] = []

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side ends."""
        while True:
            await self.open.wait()
            data = await reader.read(_PIECE)
            await self.open.wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
