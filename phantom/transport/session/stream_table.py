"""The application streams of one session by id: parities, limits, tombstones (wire-native §14.1, §14.8)."""

from __future__ import annotations

import enum

from phantom import limits
from phantom.errors import StreamLimitError
from phantom.transport.session.streams import Stream

__all__ = ["Claim", "StreamTable"]

_MAX_ID = 65535


class Claim(enum.Enum):
    """What a data packet's stream id means to an end that has no such stream."""

    NEW = "the peer may open it"
    OVER = "it has existed, or still has a tombstone"
    FOREIGN = "of this end's parity, and never opened"
    FULL = "one stream more than the limit"


class StreamTable:
    """``streams`` holds those that are not Closed. Ids ascend by 2 and never come back."""

    __slots__ = (
        "_most",
        "_next_own",
        "_parity",
        "_retired",
        "_tombstones",
        "own",
        "peer_listed",
        "peer_speaking",
        "streams",
    )

    def __init__(self, *, initiator: bool, most: int = limits.MAX_STREAMS) -> None:
        self.streams: dict[int, Stream] = {}
        self.own = 0  # opened here, not Closed
        self.peer_listed = 0  # opened by the peer, not Closed
        self.peer_speaking = 0  # of those, the ones whose peer half has not ended
        self._parity = 1 if initiator else 0
        self._next_own = 3 if initiator else 2
        self._most = most
        self._tombstones: dict[int, tuple[int, float]] = {}  # id -> final index, end; oldest first
        self._retired = bytearray()  # one bit for each id of the peer's that was closed

    @property
    def may_open(self) -> bool:
        """False while the opener's limit is reached; ids that have run out are no reason to wait."""
        return self.own < self._most or self._next_own > _MAX_ID

    def next_id(self) -> int:
        """The id of a stream that is opened now; StreamLimitError if there is none."""
        if self._next_own > _MAX_ID:
            raise StreamLimitError("the session has used all its stream ids; open another session")
        if self.own >= self._most:
            raise StreamLimitError(f"{self._most} streams are open; finish or reset one first")
        return self._next_own

    def add_own(self, stream: Stream) -> None:
        """A stream was opened here under :meth:`next_id`."""
        self._next_own = stream.id + 2
        self.own += 1
        self.streams[stream.id] = stream

    def add_peer(self, stream: Stream) -> None:
        """The peer opened a stream."""
        self.peer_listed += 1
        self.peer_speaking += 1
        self.streams[stream.id] = stream

    def claim(self, stream_id: int) -> Claim:
        """Judges the id of a data packet for which :attr:`streams` has nothing (ids 0 and 1 never come here)."""
        if stream_id & 1 == self._parity:
            return Claim.OVER if stream_id < self._next_own else Claim.FOREIGN
        if stream_id in self._tombstones or self._is_retired(stream_id):
            return Claim.OVER
        if self.peer_speaking >= self._most or self.peer_listed >= 2 * self._most:
            return Claim.FULL
        return Claim.NEW

    def peer_half_ended(self, stream: Stream) -> None:
        """The peer's FIN has passed, or it reset its half."""
        if not stream.opened_here:
            self.peer_speaking -= 1

    def close(self, stream: Stream, now: float) -> None:
        """The stream is Closed: a tombstone takes its place, and its id stays retired."""
        del self.streams[stream.id]
        if stream.opened_here:
            self.own -= 1
        else:
            self.peer_listed -= 1
            self._retire(stream.id)
        self.forget(now)
        self._tombstones[stream.id] = (stream.reassembly.final_index, now + limits.STREAM_TOMBSTONE)

    def tombstone(self, stream_id: int, now: float) -> int | None:
        """How many segments of a Closed stream are acknowledged when they come again; None once that is over."""
        found = self._tombstones.get(stream_id)
        return found[0] if found is not None and now < found[1] else None

    def forget(self, now: float) -> None:
        """Drops the tombstones that have stood long enough."""
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            if now < self._tombstones[oldest][1]:
                break
            del self._tombstones[oldest]

    def drop(self) -> None:
        """The session is over."""
        for stream in self.streams.values():
            stream.drop()
        self._tombstones.clear()

    def _is_retired(self, stream_id: int) -> bool:
        at = stream_id >> 1
        return at >> 3 < len(self._retired) and bool(self._retired[at >> 3] >> (at & 7) & 1)

    def _retire(self, stream_id: int) -> None:
        at = stream_id >> 1
        if at >> 3 >= len(self._retired):
            self._retired.extend(bytes((at >> 3) + 1 - len(self._retired)))
        self._retired[at >> 3] |= 1 << (at & 7)
