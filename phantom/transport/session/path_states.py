"""The states of a path and their transitions (wire-native §18.2), as data.

Path 0 is the handshake leg: Validated from the start and never challenged.
"""

from __future__ import annotations

import enum

__all__ = ["PATH_TRANSITIONS", "PathState", "PathTrigger"]


class PathState(enum.Enum):
    """Where a path is; only a Validated one is chosen for sending, a Suspended one is still accepted on receipt."""

    UNVALIDATED = "unvalidated"
    VALIDATING = "validating"
    VALIDATED = "validated"
    SUSPENDED = "suspended"
    FAILED = "failed"


class PathTrigger(enum.Enum):
    """What moves a path from one state to the next."""

    CHALLENGE_SENT = "a challenge was sent"
    RIGHT_RESPONSE = "the peer answered the challenge"
    WRONG_RESPONSE = "the peer's answer is wrong"
    UNANSWERED = "three challenges stayed unanswered"
    LEG_LOST = "the leg ended or failed"
    SILENT = "nothing is heard on a datagram leg"
    SILENT_PIPE = "nothing is heard on a byte pipe"
    HEARD = "an authentic packet came on it"
    EVICTED = "a newer path took its place"
    SESSION_ENDED = "the session ended"
    ATTACHED = "attached again, on a new leg"


PATH_TRANSITIONS: dict[tuple[PathState, PathTrigger], PathState] = {
    (PathState.UNVALIDATED, PathTrigger.CHALLENGE_SENT): PathState.VALIDATING,
    (PathState.UNVALIDATED, PathTrigger.LEG_LOST): PathState.FAILED,
    (PathState.VALIDATING, PathTrigger.RIGHT_RESPONSE): PathState.VALIDATED,
    (PathState.VALIDATING, PathTrigger.WRONG_RESPONSE): PathState.FAILED,
    (PathState.VALIDATING, PathTrigger.UNANSWERED): PathState.FAILED,
    (PathState.VALIDATING, PathTrigger.LEG_LOST): PathState.FAILED,
    (PathState.VALIDATED, PathTrigger.LEG_LOST): PathState.FAILED,
    (PathState.VALIDATED, PathTrigger.SILENT): PathState.SUSPENDED,
    (PathState.VALIDATED, PathTrigger.SILENT_PIPE): PathState.FAILED,
    (PathState.SUSPENDED, PathTrigger.HEARD): PathState.VALIDATED,
    (PathState.SUSPENDED, PathTrigger.LEG_LOST): PathState.FAILED,
    (PathState.SUSPENDED, PathTrigger.EVICTED): PathState.FAILED,
    (PathState.SUSPENDED, PathTrigger.SESSION_ENDED): PathState.FAILED,
    (PathState.FAILED, PathTrigger.ATTACHED): PathState.UNVALIDATED,
}
