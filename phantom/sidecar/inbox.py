"""What a session or a stream gave and its client has not acknowledged yet (surface §15).

A message, or a piece of a stream, leaves it once and is kept here until the client names its number, so a call that is
cancelled, or a connection that breaks after the answer was written, loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from phantom.errors import ValidationError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_WINDOW

__all__ = ["Inbox"]

_T = TypeVar("_T", bound=bytes | None)


class Inbox(Generic[_T]):
    """Numbers from 1 what ``receive`` gives, and keeps ``most`` bytes of it and no more than one further thing.

    None is the end of a stream. One task at a time may wait in :meth:`get`.
    """

    __slots__ = ("_acked", "_bytes", "_kept", "_most", "_receive", "_room")

    def __init__(self, receive: Callable[[], Awaitable[_T]], most: int = SIDECAR_WINDOW) -> None:
        self._receive = receive
        self._most = most
        self._kept: deque[_T] = deque()
        self._acked = 0  # the kept ones are _acked + 1, _acked + 2 ...
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def ack(self, seq: int) -> int:
        """Drops what the client has, up to ``seq``, and returns the number it has: a later one if it said so before.

        ValidationError for a number that was never given.
        """
        if seq > self._acked + len(self._kept):
            raise ValidationError(f"number {seq} is acknowledged, but {self._acked + len(self._kept)} was the last one")
        while self._acked < seq:
            self._acked += 1
            self._bytes -= _cost(self._kept.popleft())
        if self._bytes < self._most:
            self._room.set()
        return self._acked

    async def get(self, after: int) -> _T:
        """Number ``after + 1``; ``after`` is what :meth:`ack` returned, or one more after each.

        Waits while ``most`` bytes are kept and for ``receive``; raises what that raises.
        """
        index = after - self._acked
        while index >= len(self._kept):
            await self._room.wait()
            given = await self._receive()
            self._kept.append(given)
            self._bytes += _cost(given)
            if self._bytes >= self._most:
                self._room.clear()
            index = after - self._acked
        return self._kept[index]


def _cost(given: bytes | None) -> int:
    return len(given or b"") + ITEM_OVERHEAD
