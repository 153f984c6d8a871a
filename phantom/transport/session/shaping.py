"""Traffic shaping: padding, cover traffic and jitter (wire-native §15.4, §15.5); all off by default."""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from phantom import limits
from phantom.transport.packet.frames import trailer_length

if TYPE_CHECKING:
    from phantom.crypto.rng import RngProvider

__all__ = ["JitterQueue", "Shaper"]

_U32: Final = Struct(">I")
_SPAN: Final = 1 << 32


class Shaper:
    """What the two policies of a session ask of each packet and of silence.

    ``pade``: padding follows PADÉ, else there is none; CLOSE, COVER and the attach frame are padded whatever it says.
    ``cover_interval`` in seconds: something leaves at least that often; None or 0: never for its own sake.
    ``shaped_wire`` is MAX_SHAPED_WIRE of the path's kind of leg.
    """

    __slots__ = ("cover_interval", "pade", "shaped_wire")

    def __init__(self, *, pade: bool, cover_interval: float | None, shaped_wire: int) -> None:
        self.pade = pade
        self.cover_interval = cover_interval or None
        self.shaped_wire = shaped_wire

    def trailer(self, inner_length: int, *, always: bool = False) -> int:
        """Bytes of the padding trailer for an inner plaintext (its last two are the length field); 0 = PADDED clear."""
        return trailer_length(inner_length, self.shaped_wire) if self.pade or always else 0

    def cover_at(self, last_sent: float) -> float | None:
        """When a COVER packet is due if nothing else leaves until then."""
        return None if self.cover_interval is None else last_sent + self.cover_interval


class JitterQueue:
    """Frames that wait a uniform random time of 0 to ``jitter`` seconds each, and leave in the order they came.

    A frame whose own time is over waits for the one in front of it; so jitter never reorders. Frames keep the length
    prefix of the leg's buffer. Bounded by whoever fills it: ask :attr:`full` first.
    """

    __slots__ = ("_frames", "_jitter", "_last", "_rng", "size")

    def __init__(self, jitter: float, rng: RngProvider) -> None:
        self._jitter = jitter
        self._rng = rng
        self._frames: deque[tuple[float, bytes]] = deque()
        self._last = 0.0
        self.size = 0  # bytes that wait

    @property
    def full(self) -> bool:
        """True while as much waits as a leg's write queue may hold: seal no more."""
        return self.size >= limits.LEG_QUEUE_CAP

    def push(self, view: memoryview, start: int, end: int, now: float) -> None:
        """Takes the sealed frames ``view[start:end]``, each behind its length; copies them."""
        at = start
        while at < end:
            stop = at + _U32.size + _U32.unpack_from(view, at)[0]
            self._last = max(self._last, now + self._jitter * self._uniform())
            self._frames.append((self._last, bytes(view[at:stop])))
            at = stop
        self.size += end - start

    def pop_into(self, view: memoryview, at: int, cap: int, now: float) -> int:
        """Moves the frames that are due into ``view[at:cap]`` as far as they fit; returns the end offset."""
        frames = self._frames
        while frames and frames[0][0] <= now:
            frame = frames[0][1]
            if at + len(frame) > cap:
                break
            view[at : at + len(frame)] = frame
            at += len(frame)
            self.size -= len(frame)
            frames.popleft()
        return at

    def next_at(self) -> float | None:
        """When the frame in front is due; None while nothing waits."""
        return self._frames[0][0] if self._frames else None

    def _uniform(self) -> float:
        return int.from_bytes(self._rng.fill_bytes(4), "big") / _SPAN
