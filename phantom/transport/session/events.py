"""Events of the engine, only what is rare (architecture §4), and the hook for whoever watches every packet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from phantom.crypto.hybrid_sign import HybridVerifyingKey
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


Event = StateChanged | Rekeyed | PathChanged | ClientAuthenticated


class SessionObserver(Protocol):
    """Watches the packets of one session (qlog). Times are seconds of the engine's clock, sizes are bytes.

    ``word`` is the flag word of §10.4, ``length`` the whole encoded packet. Without an observer a batch costs one
    compare.
    """

    def packet_sent(
        self, now: float, path_id: int, epoch: int, stream_id: int, sequence: int, word: int, length: int
    ) -> None:
        """A packet was sealed into the leg's buffer."""

    def packet_received(
        self, now: float, path_id: int, epoch: int, stream_id: int, sequence: int, word: int, length: int
    ) -> None:
        """A packet opened and passed its replay window."""

    def packet_dropped(self, now: float, path_id: int, length: int, trigger: str) -> None:
        """A packet was dropped; ``trigger`` is the name of the drop counter that moved."""

    def packet_lost(self, now: float, path_id: int, stream_id: int, index: int, trigger: str) -> None:
        """A segment is due again: ``trigger`` is ``reordering_threshold``, ``time_threshold``, ``pto_expired`` or
        ``refused``."""

    def metrics_updated(
        self,
        now: float,
        path_id: int,
        smoothed_rtt: float,
        min_rtt: float,
        rtt_variance: float,
        congestion_window: int,
        bytes_in_flight: int,
    ) -> None:
        """After a batch of acknowledgements."""
