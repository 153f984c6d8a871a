"""A pair of connected legs in memory: a byte pipe with latency, a bounded queue, and faults on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from phantom import limits
from phantom.errors import NetworkError, PhantomError
from phantom.runtime.base import Runtime
from phantom.transport.legs.base import LegOwner

__all__ = ["MemoryLeg", "memory_leg_pair"]

Tap = Callable[[bytes], bytes]


class MemoryLeg:
    """One end of an in-memory byte pipe under the leg contract. All calls in the thread of its loop.

    ``tap`` sees, and may change, every batch that leaves this end. ``stall`` keeps what is sent until ``unstall``;
    ``cut`` breaks both ends at once, as a dead network does not: use ``stall`` for silence.
    """

    name = "memory"
    proves_address = True

    def __init__(self, runtime: Runtime, latency: float, capacity: int, peer_addr: str) -> None:
        self._runtime = runtime
        self._latency = latency
        self._capacity = capacity
        self.peer_addr = peer_addr
        self.owner: LegOwner | None = None
        self.tap: Tap | None = None
        self.peer: MemoryLeg | None = None
        self.bytes_sent = 0
        self._rest = bytearray()  # what the owner has not consumed
        self._wire: deque[bytes | None] = deque()  # on its way from this end; None is its end
        self._in_flight = 0  # bytes on the wire or held
        self._held: list[bytes | None] | None = None  # while stalled
        self._blocked = False
        self._paused = False
        self._delivering = False
        self._again = False  # something changed during a delivery
        self._at_end = False  # the peer closed; nothing follows
        self._lost = False
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._closed.is_set()

    def start(self, owner: LegOwner) -> None:
        """Begins to deliver to ``owner``."""
        self.owner = owner
        self._deliver(b"")

    def pause(self) -> None:
        """Keeps what arrives until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Delivers what was kept."""
        self._paused = False
        self._deliver(b"")

    def flush(self) -> None:
        """Takes batches from the owner while the pipe has room."""
        if self._fill(self._capacity) or self._blocked or self._lost or self.owner is None:
            return
        self._blocked = True
        self.owner.leg_blocked(True)

    def _fill(self, room: float) -> bool:
        """Takes batches until ``room`` bytes are on their way; True if the owner has no more."""
        owner = self.owner
        while owner is not None and self._in_flight < room and not self._lost:
            buf = bytearray(max(owner.batch_size, limits.SEND_BATCH))
            end = owner.leg_fill(buf, memoryview(buf), 0, len(buf))
            if end == 0:
                return True
            self.send_raw(bytes(memoryview(buf)[:end]))
        return False

    def send_raw(self, data: bytes) -> None:
        """Puts bytes on the pipe as they are, past the owner: for hostile input."""
        if self.tap is not None:
            data = self.tap(data)
        self._in_flight += len(data)
        self.bytes_sent += len(data)
        self._put(data)

    def stall(self) -> None:
        """From now on nothing of what is sent arrives."""
        self._held = self._held or []

    def unstall(self) -> None:
        """What was kept arrives, in order."""
        held, self._held = self._held or [], None
        for data in held:
            self._put(data)

    def cut(self) -> None:
        """Both ends fail with NetworkError."""
        for end in (self, self.peer):
            if end is not None:
                end._lose(NetworkError("the connection failed: cut"))

    def close(self, *, linger: bool) -> None:
        """Ends this end; the peer sees the end of the stream behind what is on its way."""
        if self._closed.is_set():
            return
        if linger:
            self._fill(float("inf"))  # last words leave even where nothing else would
        self._lost = True
        self._closed.set()
        self._put(None)

    async def wait_closed(self) -> None:
        """Returns when this end is closed."""
        await self._closed.wait()

    def _put(self, data: bytes | None) -> None:
        """Timers of one instant fire in any order, so the wire keeps its own."""
        if self._held is not None:
            self._held.append(data)
            return
        self._wire.append(data)
        self._runtime.call_at(self._runtime.monotonic() + self._latency, self._arrive)

    def _arrive(self) -> None:
        data = self._wire.popleft()
        assert self.peer is not None
        if data is None:
            self.peer._at_end = True
            data = b""
        self._in_flight -= len(data)
        self.peer._deliver(data)
        if self._blocked and self._in_flight < self._capacity and self.owner is not None and not self._lost:
            self._blocked = False
            self.owner.leg_blocked(False)
            self.flush()

    def _deliver(self, data: bytes) -> None:
        if self._lost:
            return
        self._rest += data
        self._again = True
        if self._delivering:
            return
        self._delivering = True
        while self._again and self._rest and self.owner is not None and not self._paused and not self._lost:
            owner, window = self.owner, self._rest
            self._rest = bytearray()
            self._again = False
            with memoryview(window) as view:
                at = owner.leg_received(window, view, 0, len(window))
            self._rest = window[at:] + self._rest
            if self.owner is not owner:  # a new owner takes what the old one left
                self._again = True
        self._delivering = False
        if self._at_end and self.owner is not None and not self._paused:
            self._lose(None)

    def _lose(self, error: PhantomError | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self.owner is not None:
            self.owner.leg_lost(error)


def memory_leg_pair(
    runtime: Runtime, *, latency: float = 0.0, capacity: int = limits.LEG_QUEUE_CAP
) -> tuple[MemoryLeg, MemoryLeg]:
    """Two connected legs; ``latency`` in seconds each way, ``capacity`` the bytes on the way before a sender blocks."""
    one = MemoryLeg(runtime, latency, capacity, "memory:server")
    other = MemoryLeg(runtime, latency, capacity, "memory:client")
    one.peer, other.peer = other, one
    return one, other
