"""Acknowledgement and loss recovery of reliable segments (wire-native §14.4, §14.5, §14.9).

``OutstandingSegments`` holds what one stream has sent; ``RttEstimator`` is the RFC 6298 state of one path.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from phantom import limits
from phantom.transport.packet import flags as flag

if TYPE_CHECKING:
    from phantom.transport.session.congestion import SendStamp
    from phantom.transport.session.streams import Channel

__all__ = ["LostSegment", "OutstandingSegments", "RttEstimator", "Segment", "SentPackets"]


class RttEstimator:
    """SRTT, RTTVAR, minimum and RTO of one path, in seconds (RFC 6298, Karn's rule at the caller).

    The first sample replaces the placeholders. ``rto_floor`` and ``rto_initial`` are those of the path's leg.
    """

    __slots__ = ("_floor", "_initial", "backoff", "latest", "min_rtt", "rttvar", "sampled", "srtt")

    def __init__(
        self,
        rto_initial: float = limits.RTO_INITIAL_PIPE,
        rto_floor: float = limits.RTO_FLOOR_PIPE,
        initial_srtt: float = limits.INITIAL_SRTT,
    ) -> None:
        self.srtt = initial_srtt
        self.rttvar = 0.0
        self.latest = 0.0
        self.min_rtt = limits.INITIAL_MIN_RTT
        self.sampled = False
        self.backoff = 0
        self._initial = rto_initial
        self._floor = rto_floor

    def sample(self, rtt: float, ack_delay: float = 0.0) -> None:
        """One round trip; ``ack_delay`` is subtracted only if the result stays above the minimum (§14.5)."""
        self.latest = rtt
        if not self.sampled:
            self.sampled = True
            self.srtt = self.min_rtt = rtt
            self.rttvar = rtt / 2
            return
        self.min_rtt = min(self.min_rtt, rtt)
        adjusted = rtt - ack_delay
        if adjusted < self.min_rtt:
            adjusted = rtt
        self.rttvar += (abs(self.srtt - adjusted) - self.rttvar) / 4
        self.srtt += (adjusted - self.srtt) / 8

    @property
    def rto(self) -> float:
        """The retransmission timeout with its backoff."""
        base = max(self._floor, self.srtt + max(0.001, 4 * self.rttvar)) if self.sampled else self._initial
        return min(limits.RTO_CEILING, base * (1 << self.backoff))

    @property
    def patience(self) -> float:
        """How long a segment may take once a later transmission was acknowledged (§14.9)."""
        return limits.LOSS_TIME * max(self.srtt, self.latest)

    @property
    def pto(self) -> float:
        """The probe timeout of §20.1."""
        return max(limits.PTO_FLOOR, 3 * self.min_rtt)


class Segment:
    """One reliable segment: ``parts`` is its plaintext, ``stream_offset`` first; ``size`` counts its data bytes."""

    __slots__ = ("acked", "ends", "number", "parts", "sends", "sent_at", "size", "stamp", "word")

    def __init__(self, parts: list[Any], size: int, ends: int) -> None:
        self.parts = parts
        self.size = size
        self.ends = ends  # messages that end in it
        self.word = flag.DATA
        self.number = -1  # of its last transmission on a datagram path
        self.stamp: SendStamp | None = None  # while it counts as in flight for congestion control
        self.sent_at = 0.0
        self.sends = 0
        self.acked = False


_NO_SEGMENTS: deque[Segment] = deque(maxlen=0)  # an empty deque takes 760 bytes; idle streams share this one


class OutstandingSegments:
    """Segments sent and not yet acknowledged, by index; ``base`` is the lowest index still held."""

    __slots__ = ("_judged", "ahead", "base", "bytes", "segments")

    def __init__(self) -> None:
        self.base = 0
        self._judged = 0  # indices below it were acknowledged, or named as refused
        self.bytes = 0
        self.ahead = 0  # bytes acknowledged beyond the first gap
        self.segments = _NO_SEGMENTS

    @property
    def next_index(self) -> int:
        """Index of the next new segment."""
        return self.base + len(self.segments)

    def add(self, segment: Segment) -> None:
        """A segment was sent for the first time under :attr:`next_index`."""
        if self.segments is _NO_SEGMENTS:
            self.segments = deque()
        self.segments.append(segment)
        self.bytes += segment.size

    def acknowledge(
        self, ranges: list[tuple[int, int]], newly: list[Segment] | None = None
    ) -> tuple[int, Segment | None]:
        """Applies SACK ranges (low, high), descending. Returns the bytes newly acknowledged and, if the largest index
        was newly acknowledged, its segment (for an RTT sample). ``newly`` gets every newly acknowledged segment."""
        segments = self.segments
        sample: Segment | None = None
        freed = 0
        largest = ranges[0][1]
        if largest >= self.base and not segments[largest - self.base].acked:
            sample = segments[largest - self.base]
        islands = len(ranges)
        while islands and ranges[islands - 1][0] <= self.base:
            islands -= 1
            high = ranges[islands][1]
            while segments and self.base <= high:
                segment = segments.popleft()
                self.base += 1
                if segment.acked:
                    self.ahead -= segment.size
                else:
                    freed += segment.size
                    if newly is not None:
                        newly.append(segment)
        if islands:  # one pass over the queue, whatever the peer puts into its SACK
            walk, at = iter(segments), self.base
            for low, high in reversed(ranges[:islands]):
                for segment in islice(walk, low - at, high + 1 - at):
                    if not segment.acked:
                        segment.acked = True
                        segment.parts = []
                        freed += segment.size
                        self.ahead += segment.size
                        if newly is not None:
                            newly.append(segment)
                at = high + 1
        while segments and segments[0].acked:
            self.ahead -= segments.popleft().size
            self.base += 1
        if not segments:
            self.segments = _NO_SEGMENTS
        self.bytes -= freed
        return freed, sample

    def drop(self) -> None:
        """The session is over: forgets what was not acknowledged."""
        self.segments = _NO_SEGMENTS

    def abandon(self, *, keep_first: bool) -> int:
        """The half was reset: nothing of it is repeated any more; returns the bytes given up.

        With ``keep_first`` the segment of index 0 stays due until it is acknowledged.
        """
        lost = self.bytes
        for segment in self.segments:
            if keep_first and not self.base and segment is self.segments[0]:
                lost -= segment.size
                continue
            segment.acked = True
            segment.parts = []
        if keep_first and not self.base and self.segments:
            self.ahead = sum(segment.size for segment in self.segments) - self.segments[0].size
            self.bytes = self.segments[0].size
            return lost
        self.base = self.next_index
        self.segments = _NO_SEGMENTS
        self.bytes = self.ahead = 0
        return lost

    def refused(self, largest: int) -> list[int]:
        """Indices below ``largest`` that are not acknowledged: on a byte pipe the receiver refused them (§14.9).

        Each is named once; from then on it is the timer's.
        """
        first = max(self.base, self._judged)
        if largest <= first:
            return []
        self._judged = largest
        skip = first - self.base
        suspects = islice(self.segments, skip, largest - self.base)
        return [index for index, segment in enumerate(suspects, first) if not segment.acked and segment.sends == 1]


@dataclass(frozen=True, slots=True)
class LostSegment:
    """A segment that is due again, and why."""

    channel: Channel
    index: int
    segment: Segment
    trigger: str


class SentPackets:
    """The transmissions of one datagram path in their order, for early loss detection (§14.9).

    An entry counts until its segment is acknowledged or sent again. A segment is lost when three later transmissions
    were acknowledged, or one and some time has passed.
    """

    __slots__ = ("_acked", "_entries", "_next")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, Channel, int, Segment]] = deque()
        self._next = 0
        self._acked = [-1, -1, -1]  # the largest numbers acknowledged, descending

    def add(self, channel: Channel, index: int, segment: Segment) -> None:
        """One more transmission."""
        segment.number = self._next
        self._entries.append((self._next, channel, index, segment))
        self._next += 1

    def acknowledged(self, segment: Segment) -> None:
        """The segment, sent last under its number, has arrived."""
        acked, number = self._acked, segment.number
        if number > acked[2] and number not in acked:
            acked[2] = number
            acked.sort(reverse=True)

    def oldest(self) -> tuple[Channel, int, Segment] | None:
        """The first transmission that nothing is known of."""
        entries = self._entries
        while entries:
            number, channel, index, segment = entries[0]
            if not segment.acked and segment.number == number:
                return channel, index, segment
            entries.popleft()
        return None

    def loss_at(self, patience: float) -> float | None:
        """When the oldest transmission counts as lost although no more is acknowledged."""
        oldest = self.oldest()
        if oldest is None or oldest[2].number >= self._acked[0]:
            return None
        return oldest[2].sent_at + patience

    def lost(self, now: float, patience: float) -> list[LostSegment]:
        """The segments that are lost by now; each is named once."""
        entries, kept, found = self._entries, [], []
        newest, third = self._acked[0], self._acked[2]
        while entries and entries[0][0] < newest:
            number, channel, index, segment = entry = entries.popleft()
            if segment.acked or segment.number != number:
                continue
            if number < third:
                found.append(LostSegment(channel, index, segment, "reordering_threshold"))
            elif now >= segment.sent_at + patience:
                found.append(LostSegment(channel, index, segment, "time_threshold"))
            else:
                kept.append(entry)
        entries.extendleft(reversed(kept))
        return found

    def drop(self) -> None:
        """Nothing is waited for any more."""
        self._entries.clear()
