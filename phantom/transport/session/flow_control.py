"""Flow control of one stream: the send limit and the auto-tuned receive window (wire-native §14.6)."""

from __future__ import annotations

from phantom import limits

__all__ = ["ReceiveWindow", "SendLimit"]


class SendLimit:
    """How many reliable bytes the peer takes: cumulative, monotone, clamped to bytes sent + MAX_SEND_WINDOW."""

    __slots__ = ("limit", "sent", "span")

    def __init__(self) -> None:
        self.limit = limits.INITIAL_STREAM_WINDOW
        self.sent = 0
        self.span = limits.INITIAL_STREAM_WINDOW  # the largest room ever seen

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def raise_to(self, limit: int) -> bool:
        """A WINDOW_UPDATE arrived; True if it made room. Lower or repeated limits have no effect."""
        limit = min(limit, self.sent + limits.MAX_SEND_WINDOW)
        if limit <= self.limit:
            return False
        self.limit = limit
        self.span = max(self.span, limit - self.sent)
        return True

    def may_cut(self, wanted: int, *, outstanding: bool) -> bool:
        """May a segment of ``wanted`` bytes be cut to :attr:`room`? Avoids silly windows (§14.6)."""
        room = self.room
        if room <= 0:
            return False
        return not outstanding or room >= min(wanted, self.span >> 2)


class ReceiveWindow:
    """What this side advertises for one stream: consumed + window, never decreasing.

    Bounds come from outside on each decision: ``free`` is the smaller of the session's and the process's remaining
    receive memory (§14.6), of which one stream's excess takes at most half.
    """

    __slots__ = ("_ceiling", "_epoch_time", "epoch_at", "limit", "reported", "window")

    def __init__(self, ceiling: int = limits.MAX_RECV_WINDOW) -> None:
        self.limit = limits.INITIAL_STREAM_WINDOW
        self.window = limits.INITIAL_STREAM_WINDOW
        self.reported = 0  # consumed when the last update was decided
        self._ceiling = ceiling
        self.epoch_at = limits.INITIAL_STREAM_WINDOW  # consumed count that ends the current whole window
        self._epoch_time = 0.0

    def open_first(self, free: int, now: float) -> None:
        """Raises the window to FIRST_WINDOW when the stream comes to exist or the session is established."""
        self._grow(min(limits.FIRST_WINDOW, self._ceiling), free)
        self.epoch_at = self.window
        self._epoch_time = now

    def observe(self, consumed: int, free: int, rtt: float, now: float) -> None:
        """After each batch: doubles the window when a whole one was consumed within two round trips."""
        if consumed < self.epoch_at:
            return
        if now - self._epoch_time <= 2 * rtt:
            self._grow(min(self.window * 2, self._ceiling), free)
        self.epoch_at = consumed + self.window
        self._epoch_time = now

    def due(self, consumed: int, *, creeping: bool) -> bool:
        """Is a WINDOW_UPDATE due: unreported consumption at its threshold, or a window that grew?"""
        window = min(self.window, limits.INITIAL_STREAM_WINDOW) if creeping else self.window
        unreported = consumed + window - self.limit
        if unreported >= limits.WINDOW_UPDATE_MIN and unreported >= window >> 3:
            return True
        return not creeping and self.limit < self.reported + self.window

    def advertise(self, consumed: int, *, creeping: bool) -> int:
        """The limit to send now; ``creeping`` while RECV_MEMORY is used up: consumed + the initial window, no more."""
        window = min(self.window, limits.INITIAL_STREAM_WINDOW) if creeping else self.window
        self.limit = max(self.limit, consumed + window)
        self.reported = consumed
        return self.limit

    def _grow(self, window: int, free: int) -> None:
        if window - limits.INITIAL_STREAM_WINDOW <= free // 2:
            self.window = max(self.window, window)
