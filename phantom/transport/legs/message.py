"""A leg over a transport that a user supplies: whole messages through three coroutines (surface §1.5).

Each frame is one message; the length prefixes of windows and batches are added and taken off here. One task reads,
one writes; a slow transport holds back the session's sending, since a batch is filled only when the last was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from struct import Struct

from phantom import limits
from phantom.errors import FrameTooLargeError, NetworkError, PhantomError
from phantom.observability.log import logger
from phantom.transport.legs.base import LegOwner, LegRuntime, SessionTransport, Task

__all__ = ["MessageLeg"]

_U32 = Struct(">I")
_BATCHES_AHEAD = 2


class MessageLeg:
    """Adapts a SessionTransport to the leg contract. All calls in the thread of its loop."""

    __slots__ = (
        "_batches",
        "_closed",
        "_ended",
        "_idle",
        "_lost",
        "_reader",
        "_resumed",
        "_runtime",
        "_transport",
        "_wanted",
        "_writer",
        "name",
        "owner",
        "peer_addr",
    )

    proves_address = True

    def __init__(self, transport: SessionTransport, runtime: LegRuntime, peer_addr: str) -> None:
        self._transport = transport
        self._runtime = runtime
        self.name = str(getattr(transport, "leg", "embedded"))
        self.peer_addr = peer_addr
        self.owner: LegOwner | None = None
        self._batches: deque[bytes] = deque()
        self._wanted = asyncio.Event()  # there is a batch to send
        self._idle = asyncio.Event()  # there is none
        self._idle.set()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._lost = False  # the owner was told, or has closed
        self._ended = False  # the transport is being closed
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """True once the transport is closed."""
        return self._closed.is_set()

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
        """Takes what the owner has now, up to two batches ahead of the transport."""
        owner = self.owner
        while owner is not None and not self._lost and len(self._batches) < _BATCHES_AHEAD:
            if not self._fill(owner):
                return

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` what the owner still has is taken now and sent within LINGER."""
        already, self._lost = self._lost, True
        if not linger or self._writer is None:
            self._finish()
        elif not already:
            owner = self.owner
            while owner is not None and self._fill(owner):
                pass
            self._runtime.spawn(self._linger(), "phantom-message-linger")

    async def wait_closed(self) -> None:
        """Returns when the transport is closed."""
        await self._closed.wait()

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with self._runtime.timeout(limits.LINGER):
                await self._idle.wait()
        self._finish()

    def _fill(self, owner: LegOwner) -> bool:
        buf = bytearray(owner.batch_size)
        end = owner.leg_fill(buf, memoryview(buf), 0, len(buf))
        if end == 0:
            return False
        self._batches.append(bytes(memoryview(buf)[:end]))
        if self._idle.is_set():
            self._idle.clear()
            self._wanted.set()
            owner.leg_blocked(True)
        return True

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
        except Exception as error:  # noqa: BLE001 - whatever a user's transport raises ends its leg, and nothing else
            self._end(_failure(error))

    async def _write(self) -> None:
        try:
            while True:
                if not self._batches:
                    self._emptied()
                    await self._wanted.wait()
                batch = self._batches[0]
                at = 0
                while at < len(batch):
                    stop = at + 4 + _U32.unpack_from(batch, at)[0]
                    await self._transport.send_bytes(batch[at + 4 : stop])
                    at = stop
                self._batches.popleft()
                self.flush()
        except Exception as error:  # noqa: BLE001 - as above
            self._end(_failure(error))

    def _emptied(self) -> None:
        self._wanted.clear()
        if not self._idle.is_set():
            self._idle.set()
            if self.owner is not None and not self._lost:
                self.owner.leg_blocked(False)

    def _end(self, error: PhantomError | None) -> None:
        told, self._lost = self._lost, True
        if not told and self.owner is not None:
            self.owner.leg_lost(error)
        self._finish()

    def _finish(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._idle.set()  # nobody lingers for what will not be sent any more
        for task in (self._reader, self._writer):
            if task is not None:
                task.cancel()
        self._runtime.spawn(self._close(), "phantom-message-close")

    async def _close(self) -> None:
        try:
            async with self._runtime.timeout(limits.CLOSE_FLUSH_TIMEOUT):
                await self._transport.close()
        except Exception as error:  # noqa: BLE001 - as above; there is nobody left to tell
            logger.debug("a transport did not close: %s", type(error).__name__)
        finally:
            self._closed.set()


def _failure(error: Exception) -> PhantomError:
    if isinstance(error, PhantomError):
        return error
    failure = NetworkError(f"the transport failed: {str(error) or type(error).__name__}")
    failure.__cause__ = error
    return failure
