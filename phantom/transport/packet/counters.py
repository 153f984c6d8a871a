"""Counters of everything that is dropped without an answer (wire-native §23)."""

from __future__ import annotations

__all__ = ["DropCounters"]


class DropCounters:
    """One integer a reason; a session owns one and whoever drops a packet adds to it.

    Not synchronised: all users run in the task of their session.
    """

    __slots__ = (
        "backlog",
        "decrypt_failed",
        "malformed",
        "path_gated",
        "protocol_violation",
        "replay_rejected",
        "unencrypted_dropped",
        "unknown_control",
        "wrong_session",
        "wrong_version",
    )

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
        return {name: getattr(self, name) for name in self.__slots__}
