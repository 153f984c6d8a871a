"""Calls on the hot path, by name: ``python -m benchmarks.calls`` prints the table that docs/performance.md shows.

Both ends of a session over TCP run in one process under ``sys.setprofile``. A number is calls for each packet, Python
functions and those in C alike, rounded; what is called less than once in two packets is left out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from types import FrameType
from typing import Any

import phantom
from benchmarks.harness import KiB

_COUNT = {64: 64_000, 64 * KiB: 1500}
_LEAST = 0.5


async def counted(size: int, *, stream: bool) -> tuple[Counter[str], int]:
    """Calls by name while messages (or one stream's writes) of ``size`` bytes go one way, and the packets they took."""
    calls: Counter[str] = Counter()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if "/phantom/" in code.co_filename or "asyncio" in code.co_filename:
                calls[code.co_qualname] += 1
        elif event == "c_call":
            calls[f"{argument.__qualname__} (C)"] += 1

    async with phantom.listen("tcp://127.0.0.1:0") as listener:
        async with phantom.connect(listener.urls[0]) as client:
            server = (await listener.accept(10)).session
            await server.await_ready(10)
            pipe = await client.open_stream() if stream else client
            write = pipe.send_reliable if isinstance(pipe, phantom.PhantomStream) else pipe.send
            payload = bytes(size)

            async def read() -> None:
                left = _COUNT[size] * size
                source = await server.accept_stream(10) if stream else server
                while left:
                    left -= len(await source.recv(10) or b"")

            reading = asyncio.ensure_future(read())
            await write(payload)
            before = client.metrics_snapshot().packets_sent
            sys.setprofile(watch)
            for _ in range(_COUNT[size] - 1):
                await write(payload)
            await reading
            sys.setprofile(None)
            packets = client.metrics_snapshot().packets_sent - before
            await client.flush_queue(10)
        await server.disconnect()
    return calls, packets


def table(calls: Counter[str], packets: int) -> list[str]:
    """The rows of one case, the most frequent first."""
    rows = [(count / packets, name) for name, count in calls.items() if count / packets >= _LEAST]
    return [f"| `{name}` | {rate:.2f} |" for rate, name in sorted(rows, reverse=True)]


def main() -> None:
    """All cases."""
    for size, stream in ((64 * KiB, False), (64 * KiB, True), (64, False)):
        calls, packets = asyncio.run(counted(size, stream=stream))
        what = "on a stream" if stream else "messages"
        total = sum(calls.values()) / packets
        print(
            f"\n{size} B, {what}: {total:.0f} calls a packet, {packets} packets\n\n| call | per packet |\n| --- | --- |"
        )
        print("\n".join(table(calls, packets)))


if __name__ == "__main__":
    main()
