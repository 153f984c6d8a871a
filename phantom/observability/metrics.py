"""The snapshot that sessions and listeners give without any telemetry library (surface §5.2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["HandshakeCounters", "MetricsSnapshot"]


class HandshakeCounters:
    """Handshakes of one listener or client; plain integers."""

    __slots__ = ("failure", "latency_count", "latency_ns_sum", "success")

    def __init__(self) -> None:
        self.success = 0
        self.failure = 0
        self.latency_ns_sum = 0
        self.latency_count = 0

    def succeeded(self, seconds: float) -> None:
        """One handshake completed after ``seconds``."""
        self.success += 1
        self.latency_ns_sum += int(seconds * 1e9)
        self.latency_count += 1


@dataclass(slots=True)
class MetricsSnapshot:
    """Counts since the start of a session or listener; a listener's includes its ended sessions.

    Bytes are bytes on the leg. ``dropped_total`` has the reasons of wire-native §23; ``rtt_us_path_0`` is 0 before the
    first sample.
    """

    packets_sent: int = 0
    packets_recv: int = 0
    bytes_sent: int = 0
    bytes_recv: int = 0
    messages_sent: int = 0
    messages_recv: int = 0
    retransmissions: int = 0
    encrypt_count: int = 0
    decrypt_count: int = 0
    rtt_us_path_0: int = 0
    active_sessions: int = 0
    handshakes_success: int = 0
    handshakes_failure: int = 0
    handshake_latency_ns_sum: int = 0
    handshake_latency_count: int = 0
    replay_rejected_total: int = 0
    aead_failure_total: int = 0
    unencrypted_dropped_total: int = 0
    dropped_total: dict[str, int] = field(default_factory=dict)
    uptime_secs: float = 0.0
    active_streams: int = 0
    rekeys_local_total: int = 0
    rekeys_peer_total: int = 0

    def as_dict(self) -> dict[str, object]:
        """All fields by name, ready for JSON."""
        return asdict(self)

    def add(self, other: MetricsSnapshot) -> None:
        """Adds the traffic and security counts of a session to those of its listener."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.dropped_total.items():
            self.dropped_total[reason] = self.dropped_total.get(reason, 0) + count


_SUMMED = (
    "packets_sent",
    "packets_recv",
    "bytes_sent",
    "bytes_recv",
    "messages_sent",
    "messages_recv",
    "retransmissions",
    "encrypt_count",
    "decrypt_count",
    "replay_rejected_total",
    "aead_failure_total",
    "unencrypted_dropped_total",
    "active_streams",
    "rekeys_local_total",
    "rekeys_peer_total",
)
