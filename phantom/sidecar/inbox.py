"""Messages of a session that its client has not acknowledged yet (surface §15).

A message leaves the session once and is kept here until the client names its number, so a call that is cancelled, or a
connection that breaks after the answer was written, loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from phantom.errors import ValidationError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_WINDOW

__all__ = ["Inbox"]


class Inbox:
    """Numbers from 1 what ``receive`` gives. One task at a time may wait in :meth:`get`."""

    __slots__ = ("_acked", "_bytes", "_kept", "_receive", "_room")

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._kept: deque[bytes] = deque()
        self._acked = 0  # the kept ones are _acked + 1, _acked + 2 ...
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def ack(self, seq: int) -> int:
        """Drops what the client has, up to ``seq``, and returns the number it has: a later one if it said so before.

        ValidationError for a number that was never given.
        """
        if seq > self._acked + len(self._kept):
            raise ValidationError(
                f"message {seq} is acknowledged, but {self._acked + len(self._kept)} was the last one"
            )
        while self._acked < seq:
            self._acked += 1
            self._bytes -= len(self._kept.popleft()) + ITEM_OVERHEAD
        if self._bytes < SIDECAR_WINDOW:
            self._room.set()
        return self._acked

    async def get(self, after: int) -> bytes:
        """Message ``after + 1``; ``after`` is what :meth:`ack` returned, or one more after each message.

        Waits while more than 4 MiB are kept and for the session; raises what its ``recv`` raises.
        """
        index = after - self._acked
        while index >= len(self._kept):
            await self._room.wait()
            message = await self._receive()
            self._kept.append(message)
            self._bytes += len(message) + ITEM_OVERHEAD
            if self._bytes >= SIDECAR_WINDOW:
                self._room.clear()
            index = after - self._acked
        return self._kept[index]
