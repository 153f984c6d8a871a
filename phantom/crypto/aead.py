"""The two AEAD suites of packet protection (wire-native §2, §11.7)."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Final, Protocol

from phantom.crypto.wipe import BytesLike
from phantom.errors import ValidationError
from phantom.limits import AEAD_KEY_LEN

if TYPE_CHECKING:
    from phantom.crypto.providers import Provider

if sys.platform == "emscripten":

    class InvalidTag(Exception):  # noqa: N818 - the name it has in ``cryptography``, which does not exist in a page
        """A packet does not open."""
else:
    from cryptography.exceptions import InvalidTag

__all__ = ["AEAD_FAILURE", "Aead", "CipherSuite", "new_aead"]

AEAD_FAILURE: Final = InvalidTag
"""What ``decrypt`` and ``decrypt_into`` raise when a packet does not open, whatever the reason."""


class CipherSuite(enum.IntEnum):
    """The suites by number. The number is not on the wire; configuration, negotiated values and test vectors use it."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2

    @property
    def label(self) -> str:
        """``aes-256-gcm`` or ``chacha20-poly1305``."""
        return _LABELS[self]


_LABELS: Final = {CipherSuite.AES_256_GCM: "aes-256-gcm", CipherSuite.CHACHA20_POLY1305: "chacha20-poly1305"}


class Aead(Protocol):
    """One key of one suite: 12-byte nonce, 16-byte tag behind the ciphertext. Safe to share between threads.

    ``buf`` must have exactly ``len(data) + 16`` bytes (sealing) or ``len(data) - 16`` (opening); it may overlap
    ``data`` only if both start at the same byte.
    """

    def encrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, /) -> bytes:
        """Ciphertext and tag."""

    def decrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, /) -> bytes:
        """The plaintext; AEAD_FAILURE if ``data`` does not open."""

    def encrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview, /
    ) -> int:
        """Like ``encrypt`` into ``buf``; the number of bytes written."""

    def decrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview, /
    ) -> int:
        """Like ``decrypt`` into ``buf``; the number of bytes written."""


def new_aead(suite: CipherSuite, key: BytesLike, provider: Provider) -> Aead:
    """The provider's own AEAD object for ``key`` (32 B, else ValidationError); nothing is wrapped around it."""
    if len(key) != AEAD_KEY_LEN:
        raise ValidationError(f"a key of {suite.label} has {AEAD_KEY_LEN} bytes, this one {len(key)}")
    return provider.aead(suite, key)
