"""The one place where secrets are compared (wire-native §0.7)."""

from __future__ import annotations

import hmac

from phantom.crypto.wipe import BytesLike

__all__ = ["constant_time_equal"]


def constant_time_equal(a: BytesLike, b: BytesLike) -> bool:
    """Whether ``a`` and ``b`` hold the same bytes, in a time that depends on their lengths only."""
    return hmac.compare_digest(a, b)
