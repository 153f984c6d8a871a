"""Replay windows (wire-native §17). Consulted only after a packet has opened."""

from __future__ import annotations

from typing import Final

from phantom.limits import MAX_REPLAY_STREAMS, MAX_REPLAY_WINDOWS, REPLAY_WINDOW_BITS

__all__ = ["ReplayWindow", "ReplayWindows"]

_MASK: Final = (1 << REPLAY_WINDOW_BITS) - 1


class ReplayWindow:
    """The 1024-bit window of RFC 4303 §3.4.3, stored inverted: bit i of ``gaps`` means that high - i is still missing.

    In order and without loss ``gaps`` stays 0 and costs nothing. ``high`` is -1 before the first value.
    """

    __slots__ = ("gaps", "high")

    def __init__(self) -> None:
        self.high: int = -1
        self.gaps: int = 0

    def accept(self, sequence: int) -> bool:
        """Mark ``sequence`` as seen; False for a duplicate and for anything below high - 1023."""
        ahead = sequence - self.high
        if ahead > 0:
            if ahead < REPLAY_WINDOW_BITS:
                self.gaps = (self.gaps << ahead | (1 << ahead) - 2) & _MASK
            else:
                self.gaps = _MASK ^ 1
            self.high = sequence
            return True
        if ahead <= -REPLAY_WINDOW_BITS:
            return False
        bit = 1 << -ahead
        if not self.gaps & bit:
            return False
        self.gaps ^= bit
        return True


class ReplayWindows:
    """The windows of one receive state, one per (stream_id, path_id), bounded as §17.3 demands.

    A window is made by the first packet that needs it. ``table`` maps ``stream_id << 8 | path_id`` to its window, for
    callers that treat the in-order case themselves.
    """

    __slots__ = ("_max_streams", "_max_windows", "_streams", "table")

    def __init__(self, max_streams: int = MAX_REPLAY_STREAMS, max_windows: int = MAX_REPLAY_WINDOWS) -> None:
        self.table: dict[int, ReplayWindow] = {}
        self._streams: set[int] = set()
        self._max_streams = max_streams
        self._max_windows = max_windows

    def accept(self, stream_id: int, path_id: int, sequence: int) -> bool:
        """Mark ``sequence`` as seen; False for a replay, and for a packet that would need one window or stream more."""
        key = stream_id << 8 | path_id
        window = self.table.get(key)
        if window is None:
            if len(self.table) >= self._max_windows:
                return False
            if stream_id not in self._streams:
                if len(self._streams) >= self._max_streams:
                    return False
                self._streams.add(stream_id)
            window = self.table[key] = ReplayWindow()
        return window.accept(sequence)
