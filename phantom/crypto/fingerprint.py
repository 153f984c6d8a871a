"""The fingerprint of a verifying key, the short form of a pin (wire-native §2.8)."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from phantom.crypto.wipe import BytesLike
from phantom.errors import ValidationError

__all__ = ["FINGERPRINT_PREFIX", "fingerprint_digest", "format_fingerprint", "parse_fingerprint"]

FINGERPRINT_PREFIX: Final = "phantom1:"
# 52 characters carry 260 bits: the last one may only be a multiple of 16, so that each digest has one spelling.
_FORM: Final = re.compile(r"phantom1:([a-z2-7]{51}[aq])")


def fingerprint_digest(flat_key: BytesLike) -> bytes:
    """The 32 bytes of a flat verifying key (1984 B) that its fingerprint spells."""
    digest = hashlib.sha256(b"phantom-pin-v1")
    digest.update(flat_key)
    return digest.digest()


def format_fingerprint(digest: BytesLike) -> str:
    """``phantom1:`` and 52 characters of lower-case base32 for the 32 bytes."""
    return FINGERPRINT_PREFIX + base64.b32encode(digest).decode("ascii").rstrip("=").lower()


def parse_fingerprint(text: str) -> bytes:
    """The 32 bytes that a fingerprint spells; ValidationError unless it is what ``format_fingerprint`` writes."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValidationError(
            "a fingerprint is 'phantom1:' and 52 lower-case letters and digits 2-7; copy it whole from 'phantom pubkey'"
        )
    return base64.b32decode(match[1].upper() + "====")
