"""Phantom's own rows: everything through the public API, asyncio (any loop) and blocking."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import phantom
from benchmarks.harness import Meter, Reported, Sample
from benchmarks.peers.common import messages, percentiles, run
from benchmarks.peers.idle import resident
from phantom import blocking

# The rows are made of many short sessions from one address: no limit and no proof of work may stand in their way.
UNLIMITED = phantom.PhantomConfig(
    max_sessions=0, max_sessions_per_ip=0, max_inflight_handshakes=65536, max_inflight_per_source=65536, load_tiers=()
)
_PATIENCE = 30.0  # s
_SETTLE, _QUIET = 2.0, 3.0  # s until sessions are idle; s in which they are watched


# --- asyncio ----------------------------------------------------------------------------------------------------------


def server(reported: Reported, *, loop: str = "asyncio", **_: Any) -> Sample:
    """Receives until an empty message."""

    async def main() -> Sample:
        async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
            reported(listener.urls[0])
            session = (await listener.accept(_PATIENCE)).session
            await session.recv()
            meter, count, payload, recv = Meter(), 0, 0, session.recv
            while message := await recv():
                payload += len(message)
                count += 1
            meter.payload = payload
            sample = meter.stop(messages=count)
            await session.disconnect()
            return sample

    return run(main(), loop)


def client(address: str, *, size: int, seconds: float, loop: str = "asyncio", **_: Any) -> Sample:
    """Sends messages of ``size`` bytes for ``seconds``, until all of it is acknowledged."""

    async def main() -> Sample:
        async with phantom.connect(address) as session:
            ring, count, send = messages(size), 0, session.send
            meter = Meter()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                for message in ring:
                    await send(message)
                count += len(ring)
            await send(b"")
            await session.flush_queue(_PATIENCE)
            meter.payload = count * size
            return meter.stop(messages=count)

    return run(main(), loop)


def echo_server(reported: Reported, *, loop: str = "asyncio", **_: Any) -> Sample:
    """Sends every message back until an empty one."""

    async def main() -> Sample:
        async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
            reported(listener.urls[0])
            session = (await listener.accept(_PATIENCE)).session
            meter, count, recv, send = Meter(), 0, session.recv, session.send
            while message := await recv():
                await send(message)
                count += 1
            sample = meter.stop(messages=count)
            await session.disconnect()
            return sample

    return run(main(), loop)


def echo_client(address: str, *, size: int, seconds: float, loop: str = "asyncio", **_: Any) -> Sample:
    """One message there and back at a time."""

    async def main() -> Sample:
        async with phantom.connect(address) as session:
            message, latencies, recv, send, clock = os.urandom(size), [], session.recv, session.send, time.perf_counter
            meter = Meter()
            now = clock()
            end = now + seconds
            while now < end:
                await send(message)
                await recv()
                then, now = now, clock()
                latencies.append(now - then)
            meter.payload = len(latencies) * size
            sample = meter.stop(messages=len(latencies), **percentiles(latencies))
            await send(b"")
            return sample

    return run(main(), loop)


# --- blocking ---------------------------------------------------------------------------------------------------------


def blocking_server(reported: Reported, **_: Any) -> Sample:
    """As :func:`server`."""
    with blocking.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
        reported(listener.urls[0])
        session = listener.accept(_PATIENCE).session
        session.recv(_PATIENCE)
        meter, count, recv = Meter(), 0, session.recv
        while message := recv(_PATIENCE):
            meter.payload += len(message)
            count += 1
        sample = meter.stop(messages=count)
        session.disconnect(timeout=_PATIENCE)
        return sample


def blocking_client(address: str, *, size: int, seconds: float, **_: Any) -> Sample:
    """As :func:`client`."""
    with blocking.connect(address, timeout=_PATIENCE) as session:
        ring, count, send = messages(size), 0, session.send
        meter = Meter()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for message in ring:
                send(message, _PATIENCE)
            count += len(ring)
        send(b"", _PATIENCE)
        session.flush_queue(_PATIENCE)
        meter.payload = count * size
        return meter.stop(messages=count)


def blocking_echo_server(reported: Reported, **_: Any) -> Sample:
    """As :func:`echo_server`."""
    with blocking.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
        reported(listener.urls[0])
        session = listener.accept(_PATIENCE).session
        meter, count = Meter(), 0
        while message := session.recv(_PATIENCE):
            session.send(message, _PATIENCE)
            count += 1
        sample = meter.stop(messages=count)
        session.disconnect(timeout=_PATIENCE)
        return sample


def blocking_echo_client(address: str, *, size: int, seconds: float, **_: Any) -> Sample:
    """As :func:`echo_client`."""
    with blocking.connect(address, timeout=_PATIENCE) as session:
        message, latencies, clock = os.urandom(size), [], time.perf_counter
        meter = Meter()
        now = clock()
        end = now + seconds
        while now < end:
            session.send(message, _PATIENCE)
            session.recv(_PATIENCE)
            then, now = now, clock()
            latencies.append(now - then)
        meter.payload = len(latencies) * size
        sample = meter.stop(messages=len(latencies), **percentiles(latencies))
        session.send(b"", _PATIENCE)
        return sample


# --- handshakes -------------------------------------------------------------------------------------------------------


def handshake_server(reported: Reported, *, connections: int, loop: str = "asyncio", **_: Any) -> Sample:
    """Accepts ``connections`` sessions; each ends when its client leaves."""

    async def main() -> Sample:
        async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
            reported(listener.urls[0])
            await _ended((await listener.accept(_PATIENCE)).session)
            meter = Meter()
            for _ in range(connections):
                await _ended((await listener.accept(_PATIENCE)).session)
            return meter.stop(messages=connections)

    return run(main(), loop)


async def _ended(session: phantom.PhantomSession) -> None:
    async for _ in session:
        pass
    await session.disconnect()


def handshake_client(address: str, *, connections: int, loop: str = "asyncio", **_: Any) -> Sample:
    """Connects and leaves, one session after the other; the first one warms up."""

    async def main() -> Sample:
        async with phantom.connect(address):
            pass
        meter = Meter()
        for _ in range(connections):
            async with phantom.connect(address):
                pass
        return meter.stop(messages=connections)

    return run(main(), loop)


# --- idle sessions ----------------------------------------------------------------------------------------------------


def idle_server(reported: Reported, *, size: int, loop: str = "asyncio", **_: Any) -> Sample:
    """Holds ``size`` sessions: bytes are what the process grew by, CPU that of a time in which nothing happens."""

    async def main() -> Sample:
        async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
            reported(listener.urls[0])
            before = resident()
            return await _rest([(await listener.accept(_PATIENCE)).session for _ in range(size)], before)

    return run(main(), loop)


def idle_client(address: str, *, size: int, loop: str = "asyncio", **_: Any) -> Sample:
    """The same, as the other end."""

    async def main() -> Sample:
        before = resident()
        return await _rest([await phantom.connect(address) for _ in range(size)], before)

    return run(main(), loop)


async def _rest(held: list[phantom.PhantomSession], before: int) -> Sample:
    await asyncio.sleep(_SETTLE)
    meter = Meter()
    await asyncio.sleep(_QUIET)
    meter.payload = resident() - before
    return meter.stop(messages=len(held))


async def accept_idle(reported: Reported, held: list[object], kind: str) -> None:
    """Accepts sessions and keeps them."""
    async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
        reported(listener.urls[0])
        while True:
            held.append((await listener.accept()).session)


async def open_idle(address: str, _kind: str) -> object:
    """One session with it."""
    return await phantom.connect(address)
