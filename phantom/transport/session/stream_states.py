"""The states of a stream and their transitions (wire-native §14.8, §15.6), as data.

A half ends when its FIN is queued or it is reset (ours), or when the peer's FIN has passed or the peer reset it. Closed
needs both ends *and* that every own segment is acknowledged; after an own reset, the STREAM_RESET message.
"""

from __future__ import annotations

import enum

__all__ = ["STREAM_TRANSITIONS", "StreamState", "StreamTrigger"]


class StreamState(enum.Enum):
    """Where a stream is. A stream whose halves both ended keeps the first end's name until it is Closed."""

    OPEN = "open"
    HALF_CLOSED_LOCAL = "half closed (local)"
    HALF_CLOSED_REMOTE = "half closed (remote)"
    CLOSED = "closed"


class StreamTrigger(enum.Enum):
    """What moves a stream from one state to the next."""

    OWN_ENDED = "own FIN queued, or own half reset"
    PEER_ENDED = "the peer's FIN passed, or the peer reset its half"
    SETTLED = "both halves ended, and every own segment or the own reset is acknowledged"


STREAM_TRANSITIONS: dict[tuple[StreamState, StreamTrigger], StreamState] = {
    (StreamState.OPEN, StreamTrigger.OWN_ENDED): StreamState.HALF_CLOSED_LOCAL,
    (StreamState.OPEN, StreamTrigger.PEER_ENDED): StreamState.HALF_CLOSED_REMOTE,
    (StreamState.HALF_CLOSED_LOCAL, StreamTrigger.SETTLED): StreamState.CLOSED,
    (StreamState.HALF_CLOSED_REMOTE, StreamTrigger.SETTLED): StreamState.CLOSED,
}
