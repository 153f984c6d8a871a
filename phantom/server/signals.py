"""The two signals that ask a program to end, and the one that asks it to read its files again (surface §6)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["hangup", "termination"]

_ASKING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def termination() -> Iterator[asyncio.Event]:
    """An event that is set by the first SIGTERM or SIGINT; a second one ends the process at once (status 128 + signal).

    Not by the default action: the kernel spares process 1 of a container from that. Both are unblocked, since a program
    that starts this one from a thread with blocked signals hands the mask down. Main thread only.
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

    before = {number: signal.signal(number, on_signal) for number in _ASKING}
    masked = signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield asked
    finally:
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def hangup(reread: Callable[[], None]) -> Iterator[None]:
    """Calls ``reread`` in the running loop for each SIGHUP, where there is such a signal. Main thread only."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(reread)

    before = signal.signal(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
