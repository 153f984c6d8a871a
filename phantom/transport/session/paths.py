"""A path: one leg of the session under its path id, with estimator and liveness (wire-native §18.1, §20.1)."""

from __future__ import annotations

from phantom import limits
from phantom.transport.session.reliability import RttEstimator

__all__ = ["Path"]


class Path:
    """State of one path; times are seconds of the engine's clock."""

    __slots__ = (
        "_ping_sent_at",
        "blocked",
        "drained_at",
        "estimator",
        "id",
        "last_ping_at",
        "last_seen",
        "leg",
        "live",
        "outstanding_since",
        "silence_floor",
        "unanswered_pings",
    )

    def __init__(self, path_id: int, leg: str, *, now: float, silence_floor: float) -> None:
        self.id = path_id
        self.leg = leg
        self.silence_floor = silence_floor
        self.estimator = RttEstimator()
        self.live = True
        self.last_seen = now
        self.last_ping_at = now
        self.blocked = False  # bytes wait in the leg's write queue
        self.drained_at = now
        self.outstanding_since: float | None = None
        self.unanswered_pings = 0
        self._ping_sent_at = 0.0

    def ping_sent(self, now: float) -> None:
        """A PING left on this path; unanswered, it counts as outstanding data (§15.3)."""
        self.unanswered_pings += 1
        self._ping_sent_at = self.last_ping_at = now
        self.mark_outstanding(now)

    def pong_received(self, now: float) -> None:
        """A sample is taken only if exactly one PING was unanswered (§15.3)."""
        if self.unanswered_pings == 1:
            self.estimator.sample(now - self._ping_sent_at)
        self.unanswered_pings = 0

    def mark_outstanding(self, now: float) -> None:
        """Something that the peer must answer is on its way."""
        if self.outstanding_since is None:
            self.outstanding_since = now

    def silent_at(self) -> float | None:
        """When this path counts as silent: outstanding data and nothing authentic heard (§20.1)."""
        if self.outstanding_since is None:
            return None
        patience = max(limits.PTO_COUNT * self.estimator.pto, self.silence_floor)
        return max(self.last_seen, self.outstanding_since) + patience

    def drain_time(self) -> float:
        """Length of the draining period (§15.2)."""
        return min(limits.DRAIN_MAX, max(limits.DRAIN_MIN, 3 * self.estimator.srtt))
