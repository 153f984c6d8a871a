"""Pins: which server keys a client accepts (wire-native §2.8, surface §1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from phantom.crypto.compare import constant_time_equal
from phantom.crypto.fingerprint import FINGERPRINT_PREFIX, fingerprint_digest, format_fingerprint, parse_fingerprint
from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.wipe import BytesLike
from phantom.errors import ConfigError, ValidationError
from phantom.limits import VERIFYING_KEY_LEN

__all__ = ["Pin", "PinSet", "Pins", "parse_fingerprint"]

Pin: TypeAlias = str | BytesLike | HybridVerifyingKey
Pins: TypeAlias = Pin | Sequence[Pin]
_SEQUENCE_LIKE_PINS: Final = (str, bytes, bytearray, memoryview)


class PinSet:
    """One or more pins, of which a server key must match one; immutable and hashable. There is no empty set."""

    __slots__ = ("_digests",)

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(dict.fromkeys(digests))

    @classmethod
    def parse(cls, pins: Pins | None) -> PinSet:
        """From a fingerprint, 3968 hex digits, the flat key (1984 B), a key object, or a sequence of these.

        ConfigError if there is no pin at all, ValidationError if one is malformed.
        """
        if pins is None or (isinstance(pins, Sequence) and len(pins) == 0):
            raise ConfigError("no pin: pass the server's fingerprint ('phantom1:...') or its verifying key")
        if isinstance(pins, _SEQUENCE_LIKE_PINS) or not isinstance(pins, Sequence):
            return cls([_digest(pins)])
        return cls([_digest(pin) for pin in pins])

    def matches(self, flat_key: BytesLike) -> bool:
        """Whether the flat key (1984 B) is pinned; each pin is compared, whichever matches."""
        digest = fingerprint_digest(flat_key)
        matched = False
        for pinned in self._digests:
            matched |= constant_time_equal(pinned, digest)
        return matched

    def fingerprints(self) -> tuple[str, ...]:
        """The pins as fingerprints, in the given order, each once."""
        return tuple(format_fingerprint(digest) for digest in self._digests)

    def __eq__(self, other: object) -> bool:
        return set(self._digests) == set(other._digests) if isinstance(other, PinSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._digests))

    def __repr__(self) -> str:
        return f"PinSet({', '.join(self.fingerprints())})"


def _digest(pin: object) -> bytes:
    if isinstance(pin, HybridVerifyingKey):
        return pin.fingerprint_digest()
    if isinstance(pin, str):
        if pin.startswith(FINGERPRINT_PREFIX):
            return parse_fingerprint(pin)
        if len(pin) != 2 * VERIFYING_KEY_LEN:
            raise ValidationError(
                f"a pin in text is a fingerprint ('phantom1:' and 52 characters) or {2 * VERIFYING_KEY_LEN} hex digits"
            )
        return HybridVerifyingKey.from_hex(pin).fingerprint_digest()
    if isinstance(pin, bytes | bytearray | memoryview):
        return HybridVerifyingKey.from_bytes(pin).fingerprint_digest()
    raise ValidationError(f"a pin is text, bytes or a verifying key, not a {type(pin).__name__}")
