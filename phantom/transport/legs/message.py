"""A leg over a transport that a user supplies: whole messages through three coroutines (surface §1.5).

Each frame is one message; the length prefixes of windows and batches are added and taken off here. One task reads,
one writes; a slow transport holds back the session's sending, since a batch is filled only when the last was taken.
"""

from __future__ import annotations

import asyncio
from struct import Struct

from phantom import limits
from phantom.errors import FrameTooLargeError, NetworkError, PhantomError
from phantom.runtime.base import Runtime, Task
from phantom.transport.legs.base import LegOwner, SessionTransport

__all__ = ["MessageLeg"]

_U32 = Struct(">I")


class MessageLeg:
    """Adapts a SessionTransport to the leg contract. All calls in the thread of its loop."""

    __slots__ = (
        "_closed",
        "_lost",
        "_paused",
        "_reader",
        "_resumed",
        "_runtime",
        "_transport",
        "_wanted",
        "_writer",
        "_writing",
        "name",
        "owner",
        "peer_addr",
    )

    proves_address = True

    def __init__(self, transport: SessionTransport, runtime: Runtime, peer_addr: str) -> None:
        self._transport = transport
        self._runtime = runtime
        self.name = str(getattr(transport, "leg", "embedded"))
        self.peer_addr = peer_addr
        self.owner: LegOwner | None = None
        self._wanted = asyncio.Event()  # the owner may have something to send
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._writing = False
        self._paused = False
        self._lost = False
        self._closed = asyncio.Event()

    def start(self, owner: LegOwner) -> None:
        """Starts both tasks."""
        self.owner = owner
        self._reader = self._runtime.spawn(self._read(), "phantom-message-read")
        self._writer = self._runtime.spawn(self._write(), "phantom-message-write")

    def pause(self) -> None:
        """Stops handing messages to the owner."""
        self._resumed.clear()

    def resume(self) -> None:
        """Goes on."""
        self._resumed.set()

    def flush(self) -> None:
        """Lets the writing task ask the owner."""
        self._wanted.set()

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` what the owner still has is sent first, within LINGER."""
        if self._lost and not linger:
            self._finish()
            return
        already, self._lost = self._lost, True
        if already:
            return
        if linger and self._writer is not None:
            self._runtime.spawn(self._linger(), "phantom-message-linger")
        else:
            self._finish()

    async def wait_closed(self) -> None:
        """Returns when the transport is closed."""
        await self._closed.wait()

    async def _linger(self) -> None:
        try:
            async with self._runtime.timeout(limits.LINGER):
                while self._writing:
                    await self._runtime.sleep(0)
                while await self._send_batch():
                    pass
        except (TimeoutError, OSError, PhantomError):
            pass
        self._finish()

    async def _read(self) -> None:
        try:
            while not self._lost:
                message = await self._transport.recv_bytes()
                if not message:
                    self._end(None)
                    return
                if len(message) > limits.ABSOLUTE_FRAME_CAP:
                    self._end(
                        FrameTooLargeError(
                            f"a message of {len(message)} bytes arrived; the limit is {limits.ABSOLUTE_FRAME_CAP}"
                        )
                    )
                    return
                await self._resumed.wait()
                buf = bytearray(_U32.pack(len(message)) + message)
                if self.owner is not None and not self._lost:
                    self.owner.leg_received(buf, memoryview(buf), 0, len(buf))
        except (OSError, PhantomError) as error:
            self._end(error if isinstance(error, PhantomError) else NetworkError(f"the transport failed: {error}"))

    async def _write(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while await self._send_batch():
                    pass
        except (OSError, PhantomError) as error:
            self._end(error if isinstance(error, PhantomError) else NetworkError(f"the transport failed: {error}"))

    async def _send_batch(self) -> bool:
        """Sends what the owner has now, frame by frame; False if there was nothing."""
        owner = self.owner
        if owner is None:
            return False
        buf = bytearray(owner.batch_size)
        view = memoryview(buf)
        end = owner.leg_fill(buf, view, 0, len(buf))
        at = 0
        self._writing = True
        try:
            while at < end:
                stop = at + 4 + _U32.unpack_from(buf, at)[0]
                await self._transport.send_bytes(bytes(view[at + 4 : stop]))
                at = stop
        finally:
            self._writing = False
        return end > 0

    def _end(self, error: PhantomError | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self.owner is not None:
            self.owner.leg_lost(error)
        self._finish()

    def _finish(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        for task in (self._reader, self._writer):
            if task is not None:
                task.cancel()
        self._runtime.spawn(self._transport.close(), "phantom-message-close")
