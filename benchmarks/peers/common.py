"""What all peers share: event loops, payloads, percentiles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from benchmarks.harness import MiB

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T], loop: str) -> T:
    """Runs ``coroutine`` on asyncio's own loop or on uvloop."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run(coroutine)
    return asyncio.run(coroutine)


def messages(size: int) -> list[bytes]:
    """About 1 MiB of different messages, so that no row lives on one cache line."""
    return [os.urandom(size) for _ in range(max(1, min(4096, MiB // size)))]


def percentiles(latencies: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds of latencies in seconds."""
    latencies.sort()
    count = len(latencies)
    return {"p50": latencies[count // 2] * 1e6, "p99": latencies[count * 99 // 100] * 1e6}
