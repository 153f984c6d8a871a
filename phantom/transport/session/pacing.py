"""The pacer of one path: a token bucket that releases bursts, not single packets (wire-native §19.3).

A wake-up costs Python more than a packet does. So while there are tokens everything may leave at once, and once they
are spent the pacer names the moment at which a worthwhile burst has gathered, not the next packet.
"""

from __future__ import annotations

from typing import Final

from phantom import limits

__all__ = ["Pacer"]

UNLIMITED: Final = 1 << 62


class Pacer:
    """Tokens are bytes; ``rate`` in bytes/s, None = unlimited. Session frames bypass it (§19.3): they never ask."""

    __slots__ = ("_burst_time", "_rate", "_tokens", "_updated")

    def __init__(self, now: float) -> None:
        self._rate: float | None = None
        self._burst_time = 0.0
        self._tokens = float(limits.PACER_BUCKET)
        self._updated = now

    def set_rate(self, rate: float | None, min_rtt: float, now: float) -> None:
        """The rate from ``now`` on, not below the floor; what was earned at the old one is kept.

        Bursts are worth a quarter of ``min_rtt`` at most: a longer one would not fit into the window and leave it idle.
        """
        self._refill(now)
        self._rate = None if rate is None else max(rate, limits.PACER_FLOOR)
        self._burst_time = min(limits.PACER_BURST, min_rtt / 4)

    def available(self, now: float) -> int:
        """Bytes that may leave now; 0 or less: wait until :meth:`release_at`."""
        self._refill(now)
        return UNLIMITED if self._rate is None else int(self._tokens)

    def spend(self, size: int) -> None:
        """``size`` bytes have left, padding included."""
        if self._rate is not None:
            self._tokens -= size

    def release_at(self, size: int, now: float) -> float:
        """When to ask again for a packet of ``size`` bytes: once a burst has gathered, 50 ms from now at the latest."""
        self._refill(now)
        rate = self._rate
        if rate is None:
            return now
        burst = min(max(size, rate * self._burst_time), limits.PACER_BUCKET)
        return now + min(max(0.0, burst - self._tokens) / rate, limits.PACER_MAX_WAIT)

    def _refill(self, now: float) -> None:
        if self._rate is not None and now > self._updated:
            self._tokens = min(limits.PACER_BUCKET, self._tokens + (now - self._updated) * self._rate)
        self._updated = max(self._updated, now)
