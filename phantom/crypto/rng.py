"""The seam for randomness: everything that needs unpredictable bytes takes an ``RngProvider``."""

from __future__ import annotations

import os
from typing import Final, Protocol

from phantom.errors import RngError

__all__ = ["SYSTEM_RNG", "RngProvider", "SystemRng"]


class RngProvider(Protocol):
    """A source of cryptographically secure random bytes."""

    def fill_bytes(self, n: int) -> bytes:
        """Exactly ``n`` fresh random bytes; RngError if the source cannot give them."""


class SystemRng:
    """The operating system's generator: no state here, no fallback; a failure is RngError, never weaker bytes."""

    __slots__ = ()

    def fill_bytes(self, n: int) -> bytes:
        """Exactly ``n`` bytes of ``os.urandom``; RngError if it fails."""
        try:
            data = os.urandom(n)
        except (OSError, NotImplementedError) as exc:
            raise RngError("the operating system gave no random bytes") from exc
        if len(data) != n:
            raise RngError("the operating system gave too few random bytes")
        return data


SYSTEM_RNG: Final = SystemRng()
