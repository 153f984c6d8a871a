"""Acknowledgement and loss recovery of reliable segments (wire-native §14.4, §14.5, §14.9).

``OutstandingSegments`` holds what one stream has sent; ``RttEstimator`` is the RFC 6298 state of one path.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from phantom import limits
from phantom.transport.packet import flags as flag

__all__ = ["OutstandingSegments", "RttEstimator", "Segment"]


class RttEstimator:
    """SRTT, RTTVAR, minimum and RTO of one path, in seconds (RFC 6298, Karn's rule at the caller).

    The first sample replaces the placeholders. ``rto_floor`` and ``rto_initial`` are those of the path's leg.
    """

    __slots__ = ("_floor", "_initial", "backoff", "min_rtt", "rttvar", "sampled", "srtt")

    def __init__(
        self,
        rto_initial: float = limits.RTO_INITIAL_PIPE,
        rto_floor: float = limits.RTO_FLOOR_PIPE,
        initial_srtt: float = limits.INITIAL_SRTT,
    ) -> None:
        self.srtt = initial_srtt
        self.rttvar = 0.0
        self.min_rtt = limits.INITIAL_MIN_RTT
        self.sampled = False
        self.backoff = 0
        self._initial = rto_initial
        self._floor = rto_floor

    def sample(self, rtt: float, ack_delay: float = 0.0) -> None:
        """One round trip; ``ack_delay`` is subtracted only if the result stays above the minimum (§14.5)."""
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
    def pto(self) -> float:
        """The probe timeout of §20.1."""
        return max(limits.PTO_FLOOR, 3 * self.min_rtt)


class Segment:
    """One reliable segment: ``parts`` is its plaintext, ``stream_offset`` first; ``size`` counts its data bytes."""

    __slots__ = ("acked", "ends", "parts", "sends", "sent_at", "size", "word")

    def __init__(self, parts: list[Any], size: int, ends: int) -> None:
        self.parts = parts
        self.size = size
        self.ends = ends  # messages that end in it
        self.word = flag.DATA
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

    def acknowledge(self, ranges: list[tuple[int, int]]) -> tuple[int, Segment | None]:
        """Applies SACK ranges (low, high), descending. Returns the bytes newly acknowledged and, if the largest index
        was newly acknowledged, its segment (for an RTT sample)."""
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
        if islands:  # one pass over the queue, whatever the peer puts into its SACK
            walk, at = iter(segments), self.base
            for low, high in reversed(ranges[:islands]):
                for segment in islice(walk, low - at, high + 1 - at):
                    if not segment.acked:
                        segment.acked = True
                        segment.parts = []
                        freed += segment.size
                        self.ahead += segment.size
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
