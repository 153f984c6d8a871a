"""BLAKE3, HKDF-SHA-256 and HMAC-SHA-256 from the libraries ``blake3`` and ``cryptography``."""

from __future__ import annotations

from struct import Struct
from typing import Final

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from phantom.crypto.wipe import BytesLike

__all__ = [
    "blake3_derive_key",
    "blake3_hash",
    "blake3_keyed_hash",
    "expand_into",
    "extract_expand_into",
    "keyed_hmac",
    "search",
]

_SHA256: Final = SHA256()
_U64LE: Final = Struct("<Q")


def blake3_hash(data: BytesLike) -> bytes:
    """32 bytes of BLAKE3."""
    return blake3(data).digest()


def blake3_keyed_hash(key: BytesLike, data: BytesLike) -> bytes:
    """32 bytes of BLAKE3 keyed with exactly 32 bytes."""
    return blake3(data, key=key).digest()


def blake3_derive_key(context: str, material: BytesLike) -> bytes:
    """32 bytes of BLAKE3 in derive-key mode."""
    return blake3(material, derive_key_context=context).digest()


def extract_expand_into(salt: BytesLike | None, ikm: BytesLike, info: bytes, out: bytearray) -> None:
    """HKDF-SHA-256 fills ``out``; ValueError unless it has 1 to 8160 bytes."""
    HKDF(_SHA256, len(out), None if salt is None else bytes(salt), info).derive_into(ikm, out)


def expand_into(prk: BytesLike, info: bytes, out: bytearray) -> None:
    """HKDF-Expand fills ``out``; ValueError unless it has 1 to 8160 bytes."""
    HKDFExpand(_SHA256, len(out), info).derive_into(prk, out)


def keyed_hmac(key: BytesLike) -> HMAC:
    """HMAC-SHA-256 of ``key``: ``copy`` it, then ``update`` and ``finalize`` the copy."""
    return HMAC(key, _SHA256)


def search(nonce: bytes, difficulty: int, start: int, end: int) -> int | None:
    """The first value from ``start`` to ``end`` whose BLAKE3(nonce || u64le) has ``difficulty`` leading zero bits."""
    # A digest has enough zero bits iff it sorts before the limit; no digest of 32 bytes reaches 33 times 0xff.
    limit = (1 << (256 - difficulty)).to_bytes(32, "big") if difficulty > 0 else b"\xff" * 33
    pack = _U64LE.pack
    for candidate in range(start, end):
        if blake3(nonce + pack(candidate)).digest() < limit:
            return candidate
    return None
