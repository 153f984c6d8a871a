"""Counters of everything that is dropped without an answer (wire-native §23)."""

from __future__ import annotations

from typing import Final

__all__ = ["DropCounters"]

_NAMES: Final = (
    "malformed",
    "wrong_version",
    "wrong_session",
    "unencrypted_dropped",
    "decrypt_failed",
    "replay_rejected",
    "path_gated",
    "protocol_violation",
    "backlog",
    "unknown_control",
)


class DropCounters:
    """One integer a reason; a session owns one and whoever drops a packet adds to it.

    Not synchronised: all users run in the task of their session.
    """

    __slots__ = _NAMES

    def __init__(self) -> None:
        self.malformed = 0
        self.wrong_version = 0
        self.wrong_session = 0
        self.unencrypted_dropped = 0
        self.decrypt_failed = 0
        self.replay_rejected = 0
        self.path_gated = 0
        self.protocol_violation = 0
        self.backlog = 0
        self.unknown_control = 0

    def snapshot(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in _NAMES}
