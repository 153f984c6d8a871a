"""Events of the engine, only what is rare (architecture §4), and the hook for whoever watches every packet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.transport.session.client_auth import ClientAuthRequested
from phantom.transport.session.path_states import PathState
from phantom.transport.session.states import ConnectionState

__all__ = ["ClientAuthenticated", "Event", "PathChanged", "Rekeyed", "SessionObserver", "StateChanged"]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The public state of the session changed."""

    old: ConnectionState
    new: ConnectionState
    reason: str


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """The session is at a new epoch; ``by_peer`` tells whose rekey it was (§16)."""

    epoch: int
    by_peer: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PathChanged:
    """A path changed its state (§18.2)."""

    path_id: int
    leg: str
    old: PathState
    new: PathState
    reason: str


@dataclass(frozen=True, slots=True)
class ClientAuthenticated:
    """The client proved this identity and was accepted (§15.7)."""

    key: HybridVerifyingKey
    reason: str = "the client proved its identity"


Event = StateChanged | Rekeyed | PathChanged | ClientAuthenticated | ClientAuthRequested


class SessionObserver(Protocol):
    """Watches one session packet by packet (qlog). Times are seconds of the engine's clock, sizes bytes.

    ``word`` is the flag word of §10.4, ``wire`` the whole encoded packet; ``index`` and ``size`` are segment index and
    stream bytes of reliable data, else 0. Without an observer a batch costs one compare.
    """

    def packet_sent(
        self,
        now: float,
        path_id: int,
        sequence: int,
        word: int,
        stream_id: int,
        index: int,
        size: int,
        wire: int,
        sends: int,
    ) -> None:
        """A packet was sealed into the leg's buffer; ``sends`` is 1 for a new segment, more for a retransmission."""

    def packet_received(
        self, now: float, path_id: int, sequence: int, word: int, stream_id: int, index: int, size: int, wire: int
    ) -> None:
        """A packet opened and passed its replay window."""

    def packets_acked(self, now: float, stream_id: int, ranges: Sequence[tuple[int, int]], ack_delay_us: int) -> None:
        """An acknowledgement arrived: inclusive ranges of segment indices, descending."""

    def packet_lost(self, now: float, stream_id: int, index: int, trigger: str) -> None:
        """A segment is due again: ``reordering_threshold``, ``time_threshold``, ``pto_expired`` or ``refused``."""

    def packet_dropped(self, now: float, counter: str) -> None:
        """A packet was dropped; the name of the drop counter."""

    def metrics_updated(
        self,
        now: float,
        min_rtt: float,
        srtt: float,
        latest_rtt: float,
        rttvar: float,
        cwnd: int,
        in_flight: int,
        packets_in_flight: int,
        pacing_rate: float,
    ) -> None:
        """After acknowledgements; seconds, bytes, bytes a second; 0 is unknown."""

    def congestion_state_updated(self, now: float, old: str, new: str) -> None:
        """The congestion controller changed its state."""

    def key_updated(self, now: float, epoch: int, by_peer: bool) -> None:
        """The session is at a new epoch."""

    def state_changed(self, now: float, old: str, new: str, reason: str) -> None:
        """The phase of the session changed (values of ``Phase``)."""

    def stream_changed(self, now: float, stream_id: int, old: str, new: str) -> None:
        """A stream changed its state (names of ``StreamState``, lower case; ``idle`` before the first)."""
