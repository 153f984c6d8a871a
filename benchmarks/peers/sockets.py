"""TCP and TLS 1.3 in Python: what a user would otherwise pick, and what a session adds to a bare connection."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import importlib
import socket
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.harness import KiB, Meter, Reported, Sample
from benchmarks.peers.common import messages, percentiles, run

_READ = 256 * KiB
_CIPHER = "TLS_AES_256_GCM_SHA384"
_workshop = tempfile.TemporaryDirectory(prefix="phantom-bench-")


@cache
def certificate() -> tuple[str, str]:
    """A self-signed certificate and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    folder = Path(_workshop.name)
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def server_tls(tls: bool) -> ssl.SSLContext | None:
    """TLS 1.3 as a server, or nothing."""
    if not tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*certificate())
    return context


def client_tls(tls: bool) -> ssl.SSLContext | None:
    """TLS 1.3 as a client that checks nothing: what is measured is the data path."""
    if not tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _listening(reported: Reported) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    reported(str(listening.getsockname()[1]))
    return listening


def _check(cipher: object) -> None:
    if not isinstance(cipher, tuple) or cipher[0] != _CIPHER:
        raise RuntimeError(f"TLS took {cipher}, not {_CIPHER}")


# --- blocking sockets -------------------------------------------------------------------------------------------------


def blocking_server(reported: Reported, *, tls: bool, **_: Any) -> Sample:
    with _listening(reported) as listening:
        accepted, _address = listening.accept()
    context = server_tls(tls)
    sock: socket.socket = context.wrap_socket(accepted, server_side=True) if context else accepted
    if isinstance(sock, ssl.SSLSocket):
        _check(sock.cipher())
    buffer = bytearray(_READ)
    sock.recv_into(buffer)
    meter = Meter()
    with contextlib.suppress(ssl.SSLError), sock:
        while count := sock.recv_into(buffer):
            meter.payload += count
    return meter.stop()


def blocking_client(address: str, *, size: int, seconds: float, tls: bool, **_: Any) -> Sample:
    plain = socket.create_connection(("127.0.0.1", int(address)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = client_tls(tls)
    sock: socket.socket = context.wrap_socket(plain) if context else plain
    ring, meter = messages(size), Meter()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for message in ring:
            sock.sendall(message)
        meter.payload += len(ring) * size
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            sock = sock.unwrap()
    sock.close()
    return meter.stop()


# --- asyncio streams --------------------------------------------------------------------------------------------------


def stream_server(reported: Reported, *, tls: bool, loop: str = "asyncio", echo: bool = False, **_: Any) -> Sample:
    async def main() -> Sample:
        done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if tls:
                _check(writer.get_extra_info("cipher"))
            await reader.read(0 if echo else _READ)
            meter = Meter()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while data := await reader.read(_READ):
                    meter.payload += len(data)
                    if echo:
                        writer.write(data)
            sample = meter.stop()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()
                await writer.wait_closed()
            done.set_result(sample)

        served = await asyncio.start_server(serve, sock=_listening(reported), limit=_READ, ssl=server_tls(tls))
        async with served:
            return await done

    return run(main(), loop)


def stream_client(
    address: str, *, size: int, seconds: float, tls: bool, loop: str = "asyncio", echo: bool = False, **_: Any
) -> Sample:
    async def main() -> Sample:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address), ssl=client_tls(tls))
        ring, latencies, clock = messages(size), [], time.perf_counter
        meter = Meter()
        now = clock()
        end = now + seconds
        while now < end:
            if echo:
                writer.write(ring[0])
                await reader.readexactly(size)
                then, now = now, clock()
                latencies.append(now - then)
                continue
            for message in ring:
                writer.write(message)
                await writer.drain()
            meter.payload += len(ring) * size
            now = clock()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        return meter.stop(messages=len(latencies), **(percentiles(latencies) if echo else {}))

    return run(main(), loop)


# --- asyncio protocols ------------------------------------------------------------------------------------------------


class _Receiver(asyncio.BufferedProtocol):
    def __init__(self, done: asyncio.Future[Sample], tls: bool) -> None:
        self._done = done
        self._tls = tls
        self._buffer = bytearray(_READ)
        self._meter: Meter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._tls:
            _check(transport.get_extra_info("cipher"))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._meter is None:
            self._meter = Meter()
        else:
            self._meter.payload += nbytes

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result((self._meter or Meter()).stop())


class _Sender(asyncio.Protocol):
    def __init__(self, done: asyncio.Future[Sample], size: int, seconds: float) -> None:
        self._done = done
        self._seconds = seconds
        self._size = size
        self._ring = messages(size)
        self._paused = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=max(_READ, self._size))
        self._meter = Meter()
        self._end = time.perf_counter() + self._seconds
        self._pump()

    def _pump(self) -> None:
        at, count, ring, write = 0, len(self._ring), self._ring, self._transport.write
        while not self._paused and not self._closing:
            write(ring[at % count])
            at += 1
            if at % count == 0 or at * self._size > _READ:
                self._closing = time.perf_counter() > self._end
        self._meter.payload += at * self._size
        if self._closing:
            # not from within resume_writing: asyncio of Python 3.11 would call connection_lost twice
            asyncio.get_running_loop().call_soon(self._transport.close)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._closing:
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(self._meter.stop())


def protocol_server(
    reported: Reported, *, tls: bool, loop: str = "asyncio", aiofastnet: bool = False, **_: Any
) -> Sample:
    async def main() -> Sample:
        here = asyncio.get_running_loop()
        done: asyncio.Future[Sample] = here.create_future()
        create = _fast("create_server", here) if aiofastnet else here.create_server
        served = await create(lambda: _Receiver(done, tls), sock=_listening(reported), ssl=server_tls(tls))
        async with served:
            return await done

    return run(main(), loop)


def protocol_client(
    address: str,
    *,
    size: int,
    seconds: float,
    tls: bool,
    loop: str = "asyncio",
    aiofastnet: bool = False,
    **_: Any,
) -> Sample:
    async def main() -> Sample:
        here = asyncio.get_running_loop()
        done: asyncio.Future[Sample] = here.create_future()
        create = _fast("create_connection", here) if aiofastnet else here.create_connection
        await create(lambda: _Sender(done, size, seconds), "127.0.0.1", int(address), ssl=client_tls(tls))
        return await done

    return run(main(), loop)


def _fast(name: str, loop: asyncio.AbstractEventLoop) -> Callable[..., Awaitable[Any]]:
    """The same call of aiofastnet, which replaces the loop's transports."""
    function: Callable[..., Awaitable[Any]] = getattr(importlib.import_module("aiofastnet"), name)
    return functools.partial(function, loop)


# --- handshakes -------------------------------------------------------------------------------------------------------


def handshake_server(reported: Reported, *, connections: int, loop: str = "asyncio", **_: Any) -> Sample:
    async def main() -> Sample:
        finished: asyncio.Queue[None] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await reader.read()
                writer.close()
                await writer.wait_closed()
            finished.put_nowait(None)

        served = await asyncio.start_server(serve, sock=_listening(reported), ssl=server_tls(tls=True))
        async with served:
            await finished.get()
            meter = Meter()
            for _ in range(connections):
                await finished.get()
            return meter.stop(messages=connections)

    return run(main(), loop)


def handshake_client(address: str, *, connections: int, loop: str = "asyncio", **_: Any) -> Sample:
    async def once(context: ssl.SSLContext | None) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", int(address), ssl=context)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def main() -> Sample:
        context = client_tls(tls=True)
        await once(context)
        meter = Meter()
        for _ in range(connections):
            await once(context)
        return meter.stop(messages=connections)

    return run(main(), loop)


# --- idle connections -------------------------------------------------------------------------------------------------


async def accept_idle(reported: Reported, held: list[object], kind: str) -> None:
    """Accepts connections and keeps them (``kind``: tls or tcp)."""

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read(1)

    served = await asyncio.start_server(keep, sock=_listening(reported), ssl=server_tls(kind == "tls"))
    await served.serve_forever()


async def open_idle(address: str, kind: str) -> object:
    """One connection to it."""
    return await asyncio.open_connection("127.0.0.1", int(address), ssl=_idle_tls(kind == "tls"))


@cache
def _idle_tls(tls: bool) -> ssl.SSLContext | None:
    return client_tls(tls)
