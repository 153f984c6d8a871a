"""Early data: the blob of a V3 hello, sealed and opened (wire-native §§3.1, 9.4, 9.5).

AES-256-GCM whatever suite the session uses, one key and nonce per (resumption secret, client nonce), and the session
id, client nonce and early binding as associated data: the blob opens in the hello it was made for and in no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.kdf import early_binding, early_key_nonce
from phantom.crypto.wipe import wipe
from phantom.errors import ValidationError
from phantom.limits import AEAD_TAG_LEN, EARLY_DATA_MAX_LEN, SESSION_ID_LEN, VERSION_3

if TYPE_CHECKING:
    from phantom.crypto.providers import Provider

__all__ = ["Resumption", "open_early_data", "seal_early_data"]

_SECRET_LEN: Final = 32


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a client needs to offer version 3: the hint of an earlier session with the same server, and early data.

    ``session_id`` and ``resumption_secret`` have 32 bytes, ``early_data`` at most 16384 (``ValidationError``). Good
    for one attempt (wire-native §9.1).
    """

    session_id: bytes
    resumption_secret: bytes | bytearray = field(repr=False)
    early_data: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if len(self.session_id) != SESSION_ID_LEN or len(self.resumption_secret) != _SECRET_LEN:
            raise ValidationError("a resumption hint has a session id and a resumption secret of 32 bytes each")
        if len(self.early_data) > EARLY_DATA_MAX_LEN:
            raise ValidationError(f"early data: {len(self.early_data)} bytes; at most {EARLY_DATA_MAX_LEN} fit")


def seal_early_data(
    provider: Provider, resumption: Resumption, client_nonce: bytes, key_package: bytes, verify_key: bytes
) -> bytes:
    """The sealed blob (plaintext + 16 bytes) for a version-3 hello with this nonce and these encoded keys."""
    key, nonce = early_key_nonce(resumption.resumption_secret, client_nonce)
    aad = resumption.session_id + client_nonce + early_binding(key_package, verify_key, VERSION_3)
    try:
        return new_aead(CipherSuite.AES_256_GCM, key, provider).encrypt(nonce, resumption.early_data, aad)
    finally:
        wipe(key)


def open_early_data(
    provider: Provider,
    resumption_secret: bytes | bytearray,
    session_id: bytes,
    client_nonce: bytes,
    key_package: bytes,
    verify_key: bytes,
    version: int,
    blob: bytes,
) -> bytearray | None:
    """The plaintext, or None for every blob that does not belong into this hello. A blob of impossible length costs no
    cryptography."""
    if not AEAD_TAG_LEN <= len(blob) <= EARLY_DATA_MAX_LEN + AEAD_TAG_LEN:
        return None
    key, nonce = early_key_nonce(resumption_secret, client_nonce)
    aad = session_id + client_nonce + early_binding(key_package, verify_key, version)
    plaintext = bytearray(len(blob) - AEAD_TAG_LEN)
    try:
        new_aead(CipherSuite.AES_256_GCM, key, provider).decrypt_into(nonce, blob, aad, plaintext)
    except AEAD_FAILURE:
        return None
    finally:
        wipe(key)
    return plaintext
