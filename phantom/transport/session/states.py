"""The states of an established session and their transitions (wire-native §20.3, §24), as data.

A session starts Established. It is Migrating while it has no Validated path but may get one; writes are queued.

Closing and Draining both show as ``DRAINING`` to users; an error that ends the session
sends CLOSE with its code and goes straight to Closed. A session that loses its only leg is Dead.
"""

from __future__ import annotations

import enum

__all__ = ["TRANSITIONS", "ConnectionState", "Phase", "Trigger"]


class ConnectionState(enum.IntEnum):
    """Public state codes (§20.3). 1 to 3 are kept for API compatibility and never entered."""

    CONNECTING = 0
    CLASSICAL_READY = 1
    PQC_UPGRADING = 2
    PQC_READY = 3
    CONNECTED = 4
    FAILED = 5
    CLOSED = 6
    MIGRATING = 7
    DEAD = 8
    DRAINING = 9


class Phase(enum.Enum):
    """Where an established session is."""

    ESTABLISHED = "established"
    MIGRATING = "migrating"
    CLOSING = "closing"
    DRAINING = "draining"
    CLOSED = "closed"
    DEAD = "dead"

    @property
    def public(self) -> ConnectionState:
        """The state shown to users."""
        return _PUBLIC[self]

    @property
    def over(self) -> bool:
        """True once nothing more is sent or received."""
        return self in (Phase.CLOSED, Phase.DEAD)


_PUBLIC = {
    Phase.ESTABLISHED: ConnectionState.CONNECTED,
    Phase.MIGRATING: ConnectionState.MIGRATING,
    Phase.CLOSING: ConnectionState.DRAINING,
    Phase.DRAINING: ConnectionState.DRAINING,
    Phase.CLOSED: ConnectionState.CLOSED,
    Phase.DEAD: ConnectionState.DEAD,
}


class Trigger(enum.Enum):
    """What moves a session from one phase to the next."""

    LOCAL_CLOSE = "close() was called"
    CLOSE_RECEIVED = "the peer closed the session"
    FLUSH_ENDED = "everything is acknowledged, or the flush gave up"
    DRAIN_ENDED = "the draining time is over"
    PATH_LOST = "the connection was lost"
    PATH_SILENT = "no path is Validated, one is Suspended"
    PATH_BACK = "a path is Validated again"
    GAVE_UP = "no path came back in time"
    ERROR = "an error ended the session"


TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    (Phase.ESTABLISHED, Trigger.LOCAL_CLOSE): Phase.CLOSING,
    (Phase.ESTABLISHED, Trigger.CLOSE_RECEIVED): Phase.DRAINING,
    (Phase.ESTABLISHED, Trigger.PATH_LOST): Phase.DEAD,
    (Phase.ESTABLISHED, Trigger.ERROR): Phase.CLOSED,
    (Phase.ESTABLISHED, Trigger.PATH_SILENT): Phase.MIGRATING,
    (Phase.MIGRATING, Trigger.PATH_BACK): Phase.ESTABLISHED,
    (Phase.MIGRATING, Trigger.GAVE_UP): Phase.DEAD,
    (Phase.MIGRATING, Trigger.PATH_LOST): Phase.DEAD,
    (Phase.MIGRATING, Trigger.LOCAL_CLOSE): Phase.CLOSING,
    (Phase.MIGRATING, Trigger.CLOSE_RECEIVED): Phase.DRAINING,
    (Phase.MIGRATING, Trigger.ERROR): Phase.CLOSED,
    (Phase.CLOSING, Trigger.FLUSH_ENDED): Phase.CLOSED,
    (Phase.CLOSING, Trigger.CLOSE_RECEIVED): Phase.DRAINING,
    (Phase.CLOSING, Trigger.PATH_LOST): Phase.CLOSED,
    (Phase.CLOSING, Trigger.ERROR): Phase.CLOSED,
    (Phase.DRAINING, Trigger.DRAIN_ENDED): Phase.CLOSED,
    (Phase.DRAINING, Trigger.PATH_LOST): Phase.CLOSED,
    (Phase.DRAINING, Trigger.ERROR): Phase.CLOSED,
}
