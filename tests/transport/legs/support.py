"""A clock that the test turns, and an owner that writes down what a leg does."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from phantom import limits
from phantom.errors import PhantomError
from phantom.runtime import AsyncioRuntime
from phantom.transport.legs.tcp import TcpLeg, connect_tcp
from tests.calm import PATIENCE


class TaskLoop(asyncio.SelectorEventLoop):
    """A loop like Windows' default one: readiness callbacks are not offered, the sock_* coroutines are.

    asyncio itself removes what it has watched by number; a leg would hand in its socket. What is cancelled when its
    socket is closed has been forgotten by then on Windows.
    """

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def remove_reader(self, fd: Any) -> bool:
        if not isinstance(fd, int):
            raise NotImplementedError
        with contextlib.suppress(OSError):
            return super().remove_reader(fd)
        return False

    def remove_writer(self, fd: Any) -> bool:
        if not isinstance(fd, int):
            raise NotImplementedError
        with contextlib.suppress(OSError):
            return super().remove_writer(fd)
        return False


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class TurnedClock(AsyncioRuntime):
    """Time stands still until the test turns it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:  # type: ignore[override]
        timer = _Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    @property
    def armed(self) -> list[float]:
        """Seconds until each timer that is still to run."""
        return sorted(when - self.now for when, _, timer in self._timers if timer.callback is not None)

    def turn(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self.now = until


class Owner:
    """Consumes whole frames (or, with ``whole=False``, every byte) and sends what the test puts into ``out``."""

    def __init__(self, *, read_size: int = limits.READ_WINDOW, batch_size: int = 65536, whole: bool = True) -> None:
        self.read_size = read_size
        self.batch_size = batch_size
        self.whole = whole
        self.out: deque[bytes] = deque()
        self.frames: list[bytes] = []
        self.calls: list[tuple[int, int]] = []  # window sizes, offered bytes
        self.offered = 0  # bytes in the last window that were not consumed
        self.fills: list[int] = []
        self.blocked: list[bool] = []
        self.lost: list[PhantomError | None] = []
        self.on_frame: Callable[[bytes], None] = lambda frame: None
        self.on_lost: Callable[[], None] = lambda: None
        self._news = asyncio.Event()

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        assert view.obj is buf
        self.calls.append((len(buf), end - start))
        at = start
        while end - at >= 4:
            stop = at + 4 + struct.unpack_from(">I", buf, at)[0]
            if stop > end:
                break
            self.frames.append(bytes(view[at + 4 : stop]))
            at = stop
            self.on_frame(self.frames[-1])
        if not self.whole:
            at = end
        self.offered = end - at
        self._news.set()
        return at

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        assert len(buf) >= cap
        start = at
        while self.out and at + len(self.out[0]) <= cap:
            data = self.out.popleft()
            view[at : at + len(data)] = data
            at += len(data)
        if at > start:
            self.fills.append(at - start)
        return at

    def leg_blocked(self, blocked: bool) -> None:
        self.blocked.append(blocked)
        self._news.set()

    def leg_lost(self, error: PhantomError | None) -> None:
        self.lost.append(error)
        self.on_lost()
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for news that make ``condition`` true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()


def frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Peer:
    """The plain socket at the other end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.sock, data)

    async def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, fewer at the end of the stream."""
        found = bytearray()
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                data = await self._loop.sock_recv(self.sock, min(count - len(found), 1 << 20))
                if not data:
                    break
                found += data
        return bytes(found)

    async def read_all(self) -> bytes:
        return await self.read(1 << 40)


@asynccontextmanager
async def tcp_pair(
    runtime: AsyncioRuntime | None = None, *, host: str = "127.0.0.1", small: bool = False
) -> AsyncIterator[tuple[TcpLeg, Peer]]:
    """A leg connected to a plain socket; ``small``: the kernel takes only some kilobytes of what nobody reads."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        if small:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        leg = await connect_tcp(host, server.getsockname()[1], runtime or AsyncioRuntime(), PATIENCE)
        if small:
            leg._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock, _ = server.accept()
    with sock:
        try:
            yield leg, Peer(sock)
        finally:
            leg.close(linger=False)
