"""Which stream is served next (wire-native §19.1): strict priority, round robin among equals.

Streams wait in one queue a rank. The rank of an application stream is its priority; the control stream ranks above all
of them. A stream that cannot send leaves its queue and is added again when that changes.
"""

from __future__ import annotations

from collections import deque

from phantom.transport.session.streams import Channel

__all__ = ["Scheduler"]


class Scheduler:
    """``top`` is the queue of the highest rank; whoever serves works on it: pops what cannot send, rotates it."""

    __slots__ = ("_lower", "rank", "top")

    def __init__(self) -> None:
        self.top: deque[Channel] | None = None  # an empty deque takes 760 bytes
        self.rank = 0  # of ``top``
        self._lower: dict[int, deque[Channel]] | None = None

    def __bool__(self) -> bool:
        return bool(self.top) or bool(self._lower)

    def add(self, channel: Channel) -> None:
        """The channel can send; it comes behind its equals."""
        rank, top = channel.rank, self.top
        if not top:
            if self._lower:
                self.descend()
                self.add(channel)
                return
            self.top = deque((channel,))
            self.rank = rank
            return
        if rank == self.rank:
            top.append(channel)
            return
        if self._lower is None:
            self._lower = {}
        if rank > self.rank:
            self._lower[self.rank] = top
            self.top = deque((channel,))
            self.rank = rank
        elif rank in self._lower:
            self._lower[rank].append(channel)
        else:
            self._lower[rank] = deque((channel,))

    def descend(self) -> bool:
        """``top`` ran empty: goes to the next lower rank; False if nobody waits."""
        lower = self._lower
        if not lower:
            self.top = None
            return False
        self.rank = max(lower)
        self.top = lower.pop(self.rank)
        if not lower:
            self._lower = None
        return True

    def move(self, channel: Channel, rank: int) -> None:
        """Another rank for a channel that waits here."""
        if channel.rank == self.rank and self.top and channel in self.top:
            self.top.remove(channel)
        elif self._lower and channel.rank in self._lower:
            queue = self._lower[channel.rank]
            queue.remove(channel)
            if not queue:
                del self._lower[channel.rank]
        channel.rank = rank
        self.add(channel)

    def clear(self) -> None:
        """Nothing more is sent."""
        self.top = self._lower = None
