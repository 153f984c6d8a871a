"""The two signals that ask a program to end (surface §6)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

__all__ = ["termination"]


@contextlib.contextmanager
def termination() -> Iterator[asyncio.Event]:
    """An event that is set by the first SIGTERM or SIGINT; a second one ends the process at once (status 128 + signal).

    Not by the default action: the kernel spares process 1 of a container from that. Main thread only.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            os._exit(128 + number)
        first = False
        loop.call_soon_threadsafe(asked.set)  # wakes the loop as well, which may sleep for hours

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
