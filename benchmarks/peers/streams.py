"""Phantom's rows over streams: any number at once, one way or both, and the messages of both directions at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import phantom
from benchmarks.harness import Meter, Reported, Sample
from benchmarks.peers.common import messages, run
from benchmarks.peers.session import UNLIMITED

_PATIENCE = 30.0  # s


def server(reported: Reported, *, streams: int, both: bool = False, loop: str = "asyncio", **arguments: Any) -> Sample:
    """Reads every stream that comes to its end; with ``both`` it sends as much as the client meanwhile.

    ``streams`` 0 means messages in place of streams.
    """

    async def main() -> Sample:
        async with phantom.listen("tcp://127.0.0.1:0", config=UNLIMITED) as listener:
            reported(listener.urls[0])
            session = (await listener.accept(_PATIENCE)).session
            return await _work(session, streams=streams, sends=both, receives=True, opens=False, **arguments)

    return run(main(), loop)


def client(address: str, *, streams: int, both: bool = False, loop: str = "asyncio", **arguments: Any) -> Sample:
    """Opens the streams and writes to all of them for the time, until all of it is acknowledged."""

    async def main() -> Sample:
        async with phantom.connect(address) as session:
            return await _work(session, streams=streams, sends=True, receives=both, opens=True, **arguments)

    return run(main(), loop)


async def _work(
    session: phantom.PhantomSession,
    *,
    streams: int,
    sends: bool,
    receives: bool,
    opens: bool,
    size: int,
    seconds: float,
    **_: Any,
) -> Sample:
    pipes: list[phantom.PhantomStream | phantom.PhantomSession] = [session]
    if streams and opens:
        pipes = [await session.open_stream() for _ in range(streams)]
    elif streams:
        pipes = [await session.accept_stream(_PATIENCE) for _ in range(streams)]
    ring = messages(size)
    sent = received = 0
    meter = Meter()

    async def write(pipe: phantom.PhantomStream | phantom.PhantomSession) -> None:
        nonlocal sent
        send = pipe.send if isinstance(pipe, phantom.PhantomSession) else pipe.send_reliable
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for message in ring:
                await send(message)
            sent += size * len(ring)
        await (send(b"") if isinstance(pipe, phantom.PhantomSession) else pipe.finish())

    async def read(pipe: phantom.PhantomStream | phantom.PhantomSession) -> None:
        nonlocal received
        while data := await pipe.recv():
            received += len(data)

    await asyncio.gather(
        *(write(pipe) for pipe in pipes if sends),
        *(read(pipe) for pipe in pipes if receives),
    )
    await session.flush_queue(_PATIENCE)
    meter.payload = received if receives else sent
    sample = meter.stop(messages=(sent + received) / size)
    if not opens:
        await session.disconnect(timeout=_PATIENCE)
    return sample
