"""BLAKE3 from noble; HKDF-SHA-256 (RFC 5869) on the HMAC that Python has compiled in, which is cheaper than to cross.

The arrays that held key material on the other side are overwritten after each call.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

from phantom.crypto.bridge import Arrays, page_bridge
from phantom.crypto.wipe import BytesLike

__all__ = [
    "KeyedHmac",
    "blake3_derive_key",
    "blake3_hash",
    "blake3_keyed_hash",
    "expand_into",
    "extract_expand_into",
    "keyed_hmac",
    "search",
]

_HASH_LEN: Final = 32
_MAX_LEN: Final = 255 * _HASH_LEN
_U32: Final = 0xFFFF_FFFF
_held: list[Arrays] = []


def _hashed(call: str, first: BytesLike | None, data: BytesLike) -> bytes:
    bridge = page_bridge()
    if not _held:
        _held.extend((Arrays(bridge), Arrays(bridge)))
    arrays = [held.copy(given) for held, given in zip(_held, (first, data), strict=True) if given is not None]
    digest: Any = getattr(bridge, call)(*arrays)
    for held in _held:
        held.wipe()
    out: bytes = digest.to_bytes()
    digest.fill(0)
    return out


def blake3_hash(data: BytesLike) -> bytes:
    """32 bytes of BLAKE3."""
    return _hashed("blake3", None, data)


def blake3_keyed_hash(key: BytesLike, data: BytesLike) -> bytes:
    """32 bytes of BLAKE3 keyed with exactly 32 bytes; ValueError for another key."""
    if len(key) != _HASH_LEN:
        raise ValueError(f"a key of BLAKE3 has {_HASH_LEN} bytes, this one {len(key)}")
    return _hashed("blake3_keyed", key, data)


def blake3_derive_key(context: str, material: BytesLike) -> bytes:
    """32 bytes of BLAKE3 in derive-key mode."""
    return _hashed("blake3_derive", context.encode(), material)


def extract_expand_into(salt: BytesLike | None, ikm: BytesLike, info: bytes, out: bytearray) -> None:
    """HKDF-SHA-256 fills ``out``; ValueError unless it has 1 to 8160 bytes."""
    prk = hmac.digest(bytes(_HASH_LEN) if salt is None else bytes(salt), ikm, "sha256")
    expand_into(prk, info, out)


def expand_into(prk: BytesLike, info: bytes, out: bytearray) -> None:
    """HKDF-Expand fills ``out``; ValueError unless it has 1 to 8160 bytes."""
    if not 1 <= len(out) <= _MAX_LEN:
        raise ValueError(f"HKDF-SHA-256 gives 1 to {_MAX_LEN} bytes")
    key = bytes(prk)
    block = b""
    for at in range(0, len(out), _HASH_LEN):
        block = hmac.digest(key, block + info + bytes((at // _HASH_LEN + 1,)), "sha256")
        out[at : at + _HASH_LEN] = block[: len(out) - at]


class KeyedHmac:
    """HMAC-SHA-256 with the verbs of ``cryptography``."""

    __slots__ = ("_state",)

    def __init__(self, state: hmac.HMAC) -> None:
        self._state = state

    def copy(self) -> KeyedHmac:
        """A second one with the same state."""
        return KeyedHmac(self._state.copy())

    def update(self, data: BytesLike) -> None:
        """Takes more of the message."""
        self._state.update(data)

    def finalize(self) -> bytes:
        """The 32 bytes."""
        return self._state.digest()


def keyed_hmac(key: BytesLike) -> KeyedHmac:
    """HMAC-SHA-256 of ``key``: ``copy`` it, then ``update`` and ``finalize`` the copy."""
    return KeyedHmac(hmac.new(bytes(key), digestmod="sha256"))


def search(nonce: bytes, difficulty: int, start: int, end: int) -> int | None:
    """The first value from ``start`` to ``end`` whose BLAKE3(nonce || u64le) has ``difficulty`` leading zero bits."""
    bridge = page_bridge()
    count = max(0, end - start)
    offset = int(bridge.solve(Arrays(bridge).copy(nonce), difficulty, start & _U32, start >> 32, count))
    return None if offset < 0 else start + offset
