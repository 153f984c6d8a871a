"""A path: one leg of the session under its path id, with estimator and liveness (wire-native §18.1, §20.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from phantom import limits
from phantom.transport.session.congestion import CongestionControl
from phantom.transport.session.pacing import Pacer
from phantom.transport.session.path_states import PATH_TRANSITIONS, PathState, PathTrigger
from phantom.transport.session.reliability import RttEstimator, SentPackets

__all__ = [
    "BYTE_PIPE",
    "DATAGRAM",
    "EMBEDDED",
    "FAKETLS",
    "KCP",
    "LegProfile",
    "Path",
    "embedded_profile",
    "profile_of",
]


@dataclass(frozen=True, slots=True)
class LegProfile:
    """What the kind of leg decides (§14.5-14.9, §15.2-15.4, §19.3, §20.1, §21.2). Sizes in bytes, times in s."""

    name: str
    datagram: bool = False  # packets may be lost, doubled, reordered
    rto_initial: float = limits.RTO_INITIAL_PIPE
    rto_floor: float = limits.RTO_FLOOR_PIPE
    initial_srtt: float = limits.INITIAL_SRTT
    ack_every: int = limits.ACK_EVERY_PIPE
    budget: int = limits.BULK_CHUNK_MAX  # application bytes of a segment; `bulk_chunk` may be less
    slack: int = limits.CHUNK_SLACK  # length prefixes of stream 1 beyond the budget
    bundle: int = limits.BUNDLE_PIPE  # of a COALESCED plaintext, and of the largest unreliable chunk
    shaped_wire: int = limits.MAX_SHAPED_WIRE_PIPE
    congestion: bool = False  # congestion window and pacer gate sending; False: they only watch
    silence_floor: float = limits.SILENCE_FLOOR_PIPE
    silence_alone: float = limits.SILENCE_FLOOR_PIPE_ONLY_PATH  # with no other Validated path
    recv_window: int = limits.MAX_RECV_WINDOW  # ceiling of one stream's window
    keepalive_max: float | None = None
    ping_repeats: bool = False  # an unanswered PING goes out again each PTO
    close_spacing: bool = False


BYTE_PIPE = LegProfile("pipe")
DATAGRAM = LegProfile(
    "datagram",
    datagram=True,
    rto_initial=limits.RTO_INITIAL_UDP,
    rto_floor=limits.RTO_FLOOR_UDP,
    ack_every=limits.ACK_EVERY_DATAGRAM,
    budget=limits.SEGMENT_BUDGET_UDP,
    slack=0,
    bundle=limits.BUNDLE_UDP,
    shaped_wire=limits.MAX_SHAPED_WIRE_UDP,
    congestion=True,
    silence_floor=limits.SILENCE_FLOOR_DATAGRAM,
    silence_alone=limits.SILENCE_FLOOR_DATAGRAM,
    recv_window=limits.MAX_RECV_WINDOW_DATAGRAM,
    keepalive_max=limits.KEEPALIVE_MAX_DATAGRAM,
    ping_repeats=True,
    close_spacing=True,
)
FAKETLS = replace(BYTE_PIPE, name="faketls")
KCP = LegProfile(
    "kcp",
    initial_srtt=limits.INITIAL_SRTT_KCP,
    budget=limits.SEGMENT_BUDGET_KCP,
    bundle=limits.BUNDLE_KCP,
    congestion=True,
    silence_floor=limits.SILENCE_FLOOR_DATAGRAM,
    silence_alone=limits.SILENCE_FLOOR_DATAGRAM,
    recv_window=limits.MAX_RECV_WINDOW_DATAGRAM,
    keepalive_max=limits.KEEPALIVE_MAX_DATAGRAM,
)


def embedded_profile(buffer: int = limits.EMBEDDED_BUFFER) -> LegProfile:
    """The profile of an embedded leg with a receive buffer of ``buffer`` bytes (§21.2, §21.8)."""
    return replace(
        BYTE_PIPE,
        name="embedded",
        budget=min(limits.SEGMENT_BUDGET_EMBEDDED, buffer - 73),
        slack=0,
        bundle=buffer - 69,
        shaped_wire=min(limits.MAX_SHAPED_WIRE_PIPE, buffer),
        silence_floor=limits.SILENCE_FLOOR_EMBEDDED,
        silence_alone=limits.SILENCE_FLOOR_EMBEDDED,
    )


EMBEDDED = embedded_profile()
_BY_LABEL = {FAKETLS.name: FAKETLS}


def profile_of(leg: str) -> LegProfile:
    """The profile of a leg with the label ``leg``; one that has none of its own is a byte pipe."""
    return _BY_LABEL.get(leg, BYTE_PIPE)


class Path:
    """State of one path; times are seconds of the engine's clock. ``silence_floor`` overrides the profile's."""

    __slots__ = (
        "_ping_sent_at",
        "blocked",
        "congestion",
        "drained_at",
        "estimator",
        "id",
        "last_ping_at",
        "last_seen",
        "leg",
        "live",
        "outstanding_since",
        "pacer",
        "profile",
        "rto_at",
        "sent",
        "silence_floor",
        "state",
        "suspended_pto",
        "unanswered_pings",
    )

    def __init__(
        self,
        path_id: int,
        leg: str,
        *,
        now: float,
        profile: LegProfile = BYTE_PIPE,
        silence_floor: float | None = None,
    ) -> None:
        self.id = path_id
        self.leg = leg
        self.profile = profile
        self.silence_floor = profile.silence_alone if silence_floor is None else silence_floor
        self.estimator = RttEstimator(profile.rto_initial, profile.rto_floor, profile.initial_srtt)
        self.state = PathState.VALIDATED  # path 0 is the handshake leg (§18.1)
        self.congestion = CongestionControl(now) if profile.congestion else None
        self.pacer = Pacer(now) if profile.congestion else None
        self.sent = SentPackets() if profile.datagram else None
        self.rto_at = now  # when the retransmission timer fired last
        self.suspended_pto = 0.0  # until the next PING while Suspended
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

    def may_send(self, wire: int, now: float) -> tuple[bool, float | None]:
        """May a packet of ``wire`` bytes leave: congestion window and pacer (§19.3)? If not, when to ask again; None
        after an acknowledgement."""
        congestion, pacer = self.congestion, self.pacer
        if congestion is None or pacer is None:
            return True, None
        if wire > congestion.room and congestion.inflight:
            return False, None
        if wire > pacer.available(now):
            return False, max(pacer.release_at(wire, now), now + limits.PACER_MIN_WAIT)
        return True, None

    def move(self, trigger: PathTrigger) -> bool:
        """Takes a transition if the table has it; True if the state changed."""
        new = PATH_TRANSITIONS.get((self.state, trigger))
        if new is None:
            return False
        self.state = new
        return True

    def ping_again_at(self) -> float | None:
        """When an unanswered PING is repeated (§15.3), or a Suspended path is tried again (§18.2)."""
        if self.state is PathState.SUSPENDED:
            return self.last_ping_at + self.suspended_pto
        if self.profile.ping_repeats and self.unanswered_pings:
            return self.last_ping_at + self.estimator.pto
        return None

    def silent_at(self) -> float | None:
        """When this path counts as silent: outstanding data and nothing authentic heard (§20.1)."""
        if self.outstanding_since is None or self.state is not PathState.VALIDATED:
            return None
        patience = max(limits.PTO_COUNT * self.estimator.pto, self.silence_floor)
        return max(self.last_seen, self.outstanding_since) + patience

    def drain_time(self) -> float:
        """Length of the draining period (§15.2)."""
        return min(limits.DRAIN_MAX, max(limits.DRAIN_MIN, 3 * self.estimator.srtt))
