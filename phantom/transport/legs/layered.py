"""A leg on top of a leg: what travels below is not the frames themselves (TLS records, WebSocket messages).

A layer is the owner of the leg below it and a leg to the owner above. It turns windows of bytes from below into windows
of what the owner takes, and batches of the owner into bytes for below.
"""

from __future__ import annotations

from phantom.errors import PhantomError
from phantom.transport.legs.base import Leg, LegOwner

__all__ = ["LayeredLeg"]


class LayeredLeg:
    """The common part: starting, stopping, waiting, the end, and what the owner left over.

    A subclass gives ``leg_received`` (calling :meth:`_hand`), ``leg_fill``, ``read_size`` and ``batch_size``.
    """

    __slots__ = ("_lower", "_lost", "_paused", "_rest", "name", "owner", "peer_addr")

    proves_address = True

    def __init__(self, lower: Leg, name: str) -> None:
        self._lower = lower
        self.name = name
        self.peer_addr = lower.peer_addr
        self.owner: LegOwner | None = None
        self._rest: bytearray | None = None  # for the owner, who could not take it yet
        self._paused = False
        self._lost = False  # the owner was told, or has closed

    @property
    def closed(self) -> bool:
        """True once every resource is released."""
        return self._lower.closed

    def start(self, owner: LegOwner) -> None:
        """Begins to read."""
        self.owner = owner
        self._lower.start(self)
        self._again()

    def pause(self) -> None:
        """Stops reading while the owner is not able to take more; what has arrived stays."""
        self._paused = True
        self._lower.pause()

    def resume(self) -> None:
        """Hands the owner what was left, then reads again."""
        self._paused = False
        self._again()
        if not self._paused:
            self._lower.resume()

    def _again(self) -> bool:
        """Hands the owner what it left before, unless it is paused; False if there is still some left."""
        rest = self._rest
        if rest is None or self._paused:
            return rest is None
        self._rest = None
        return self._hand(rest, memoryview(rest), 0, len(rest))

    def flush(self) -> None:
        """Fills and sends until nothing is due or the transport is full."""
        self._lower.flush()

    def close(self, *, linger: bool) -> None:
        """Ends the leg; the owner hears nothing more. With ``linger`` what it has to say leaves first."""
        self._lost = True
        self._rest = None
        self._lower.close(linger=linger)

    async def wait_closed(self) -> None:
        """Returns when every resource is released."""
        await self._lower.wait_closed()

    def _hand(self, buf: bytearray, view: memoryview, start: int, end: int) -> bool:
        """The owner takes what is in ``buf[start:end]``; what it leaves is kept, and False means that there is some."""
        at = start
        while self.owner is not None and not self._lost:
            owner = self.owner
            at = owner.leg_received(buf, view, at, end)
            if self.owner is owner:  # a new owner takes what the old one left
                break
        if self._lost:
            return False
        if at < end:
            self._rest = buf[at:end]
        return at == end

    # --- the owner of the leg below ---------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        """As much as the owner wants."""
        return self.owner.read_size if self.owner is not None else 0

    @property
    def batch_size(self) -> int:
        """Room for the largest packet of the owner."""
        raise NotImplementedError

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """Bytes came from below."""
        raise NotImplementedError

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """Bytes may leave below."""
        raise NotImplementedError

    def leg_blocked(self, blocked: bool) -> None:
        """Bytes wait below, or none do any more."""
        if self.owner is not None:
            self.owner.leg_blocked(blocked)

    def leg_lost(self, error: PhantomError | None) -> None:
        """The leg below is gone."""
        if not self._lost:
            self._lost = True
            if self.owner is not None:
                self.owner.leg_lost(error)

    def _fail(self, error: PhantomError, *, linger: bool = False) -> None:
        """The rules of this layer were broken: with ``linger`` its last words leave; the owner hears why."""
        if self._lost:
            return
        self._lost = True
        self._rest = None
        owner, self.owner = self.owner, None
        if linger:
            self._lower.flush()
        self._lower.close(linger=linger)
        if owner is not None:
            owner.leg_lost(error)
