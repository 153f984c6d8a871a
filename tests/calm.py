"""What must be as before when a test is through with a peer: descriptors, tasks, sessions, slots, charged memory."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import phantom
from phantom.api.shared import process_memory
from phantom.config import PhantomConfig

PATIENCE = 20.0  # s; no wait takes a noticeable part of it


def open_descriptors() -> int:
    """How many this process has; 0 where nothing tells."""
    return next((len(os.listdir(path)) for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), 0)


def reset(sock: socket.socket, close: Callable[[], object] | None = None) -> None:
    """Closes with RST: the linger option, a pair of ints or on Windows of shorts, is set to no time at all."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    (close or sock.close)()


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop turn until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Lets everything happen that needs no outside help."""
    for _ in range(count):
        await asyncio.sleep(0)


def at_rest(listener: phantom.PhantomListener) -> bool:
    """True when the listener has no peer left, in any stage."""
    return not (
        listener._sessions
        or listener._handshakes
        or listener._accepted
        or listener._turns
        or listener._per_source
        or listener._gate.inflight
        or any(not leg.closed for leg in listener._lingering)
    )


@asynccontextmanager
async def nothing_left(*listeners: phantom.PhantomListener) -> AsyncIterator[None]:
    """Around a block: what it opened, spawned, held or was charged is gone soon after it."""
    memory = process_memory(PhantomConfig())
    descriptors, tasks, charged, credit = open_descriptors(), asyncio.all_tasks(), memory.charged, memory.credit
    yield
    await until(lambda: all(at_rest(listener) for listener in listeners))
    await until(lambda: asyncio.all_tasks() <= tasks)
    await until(lambda: open_descriptors() <= descriptors)
    assert (memory.charged, memory.credit) == (charged, credit)


async def echoes(listener: phantom.PhantomListener, message: bytes = b"is anybody there?") -> None:
    """An honest client gets its echo."""
    async with phantom.connect(listener.urls[0], timeout=PATIENCE) as session:
        await session.send(message)
        assert await session.recv(PATIENCE) == message
