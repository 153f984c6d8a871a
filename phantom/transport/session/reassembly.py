"""Reassembly of reliable segments into an ordered byte stream (wire-native §14.3, §14.4).

Segments carry a gap-free index per stream. In order they pass straight through (``connection`` only moves the
cursor); everything else comes here: duplicates, gaps, announcements, FIN.
"""

from __future__ import annotations

import enum
from bisect import bisect_right

from phantom import limits
from phantom.transport.packet import frames

__all__ = ["Reassembly", "Verdict"]


_EMPTY: list[int] = []  # idle streams share it; nothing is ever put into it
_NOTHING: list[bytes] = []


class Verdict(enum.Enum):
    """What became of a segment, and whether it is acknowledged."""

    DELIVERED = "delivered"  # the cursor moved; see Reassembly.take()
    BUFFERED = "buffered"  # waits for a gap to fill
    DUPLICATE = "duplicate"  # acknowledged again, discarded
    REFUSED = "refused"  # over a bound; not acknowledged, the sender repeats it
    VIOLATION = "violation"  # breaks a rule of §14.3; dropped, counted, not acknowledged

    @property
    def acknowledged(self) -> bool:
        """True if the index enters the next SACK."""
        return self not in (Verdict.REFUSED, Verdict.VIOLATION)


class Reassembly:
    """Receive side of one stream: the in-order cursor, the store of early segments, the FIN.

    ``max_segments`` and ``max_bytes`` bound the store (§14.3); ``announcements`` tells that an empty segment at index 0
    is the opener's announcement (application streams only). Not task safe; owned by one connection.
    """

    __slots__ = (
        "_announcements",
        "_discards",
        "_highs",
        "_lows",
        "_max_bytes",
        "_max_segments",
        "_ready",
        "fin_index",
        "next_index",
        "store",
        "stored",
    )

    def __init__(
        self,
        *,
        announcements: bool = False,
        max_segments: int = limits.MAX_REORDER_SEGMENTS,
        max_bytes: int = limits.MAX_REORDER_BYTES,
    ) -> None:
        self.next_index = 0
        self.store: dict[int, bytes] | None = None
        self.stored = 0
        self._lows: list[int] = _EMPTY  # of the islands in the store
        self._highs: list[int] = _EMPTY
        self.fin_index: int | None = None
        self._announcements = announcements
        self._discards = False  # the peer reset its half: indices are still acknowledged, their bytes dropped
        self._max_segments = max_segments
        self._max_bytes = max_bytes
        self._ready: list[bytes] = _NOTHING

    @property
    def finished(self) -> bool:
        """True once the cursor has passed the FIN."""
        return self.fin_index is not None and self.next_index > self.fin_index

    @property
    def final_index(self) -> int:
        """Number of indices the peer ever used, as far as is known."""
        return self.next_index if self.fin_index is None else self.fin_index + 1

    @property
    def charged(self) -> int:
        """Bytes of the store charged to receive memory (§14.11)."""
        return self.stored + limits.ITEM_OVERHEAD * len(self.store) if self.store else 0

    def drop(self) -> None:
        """Forgets the early segments."""
        self.store = None
        self.stored = 0
        self._lows = self._highs = _EMPTY

    @property
    def top(self) -> int:
        """One more than the highest index received, in order or not."""
        return self._highs[-1] + 1 if self._highs else self.next_index

    def reset(self, final_index: int) -> bool:
        """The peer abandoned its half after ``final_index`` indices (§15.6); False if that contradicts what came."""
        if final_index < self.top or (self.fin_index is not None and final_index <= self.fin_index):
            return False
        self._discards = True
        self.fin_index = final_index - 1
        self.stored = 0
        self._ready = _NOTHING
        if self.store is not None:
            self.store = dict.fromkeys(self.store, b"")
        return True

    def segment(self, index: int, data: bytes, *, room: int, fin: bool = False) -> Verdict:
        """Takes one segment (any order, any number of copies) and says what became of it.

        ``room`` is the advertised limit less what arrived in order, in bytes: the store and one segment more fit in.
        """
        if index < self.next_index:
            return self._known(index, fin)
        if self.store is not None and index in self.store:
            return self._known(index, fin)
        if self._breaks_a_rule(index, data, fin):
            return Verdict.VIOLATION
        if self._discards:
            data = b""
        if data and self.stored >= room:
            return Verdict.REFUSED
        if index != self.next_index and not self._has_room(len(data)):
            return Verdict.REFUSED
        if fin:
            self.fin_index = index
        if index != self.next_index:
            if self.store is None:
                self.store = {}
            self.store[index] = data
            self.stored += len(data)
            self._note(index)
            return Verdict.BUFFERED
        if self._ready is _NOTHING:
            self._ready = []
        if data:
            self._ready.append(data)
        self.next_index += 1
        self._drain()
        return Verdict.DELIVERED

    def take(self) -> list[bytes]:
        """The in-order pieces that became deliverable since the last call."""
        ready, self._ready = self._ready, _NOTHING
        return ready

    def islands(self) -> list[tuple[int, int]]:
        """Ranges (low, high) of the store, ascending, inclusive, not touching: the lowest and as many of the highest
        as a SACK takes."""
        lows, highs, most = self._lows, self._highs, limits.MAX_SACK_RANGES
        if len(lows) <= most:
            return list(zip(lows, highs, strict=True))
        return [(lows[0], highs[0]), *zip(lows[-most:], highs[-most:], strict=True)]

    def sack(self, ack_delay_us: int) -> bytes:
        """SACK plaintext of §14.4 for the present state; at least one segment must have been acknowledged."""
        return frames.encode_sack(self.next_index, self.islands(), ack_delay_us)

    def _known(self, index: int, fin: bool) -> Verdict:
        moved_fin = fin and self.fin_index != index
        return Verdict.VIOLATION if moved_fin else Verdict.DUPLICATE

    def _breaks_a_rule(self, index: int, data: bytes, fin: bool) -> bool:
        if self.fin_index is not None and (index > self.fin_index or (fin and index != self.fin_index)):
            return True
        if fin and self._highs and index < self._highs[-1]:
            return True
        return not data and not fin and not (self._announcements and index == 0)

    def _has_room(self, size: int) -> bool:
        held = len(self.store) if self.store is not None else 0
        return held < self._max_segments and self.stored + size <= self._max_bytes

    def _note(self, index: int) -> None:
        """Keeps the islands of the store: sorting it for each SACK would let a peer buy work with small packets."""
        if self._lows is _EMPTY:
            self._lows, self._highs = [], []
        lows, highs = self._lows, self._highs
        at = bisect_right(lows, index)
        joins_above = at < len(lows) and lows[at] == index + 1
        if at and highs[at - 1] == index - 1:
            highs[at - 1] = highs[at] if joins_above else index
            if joins_above:
                del lows[at], highs[at]
        elif joins_above:
            lows[at] = index
        else:
            lows.insert(at, index)
            highs.insert(at, index)

    def _drain(self) -> None:
        store = self.store
        if store is None:
            return
        while self.next_index in store:
            data = store.pop(self.next_index)
            self.stored -= len(data)
            if data:
                self._ready.append(data)
            self.next_index += 1
        if self._lows[0] < self.next_index:
            del self._lows[0], self._highs[0]
        if not store:
            self.store = None
            self._lows = self._highs = _EMPTY
