"""The key schedule (wire-native §3).

Three constructions that look alike and must not be mixed up: full HKDF (Extract+Expand), Expand-only on a secret that
is already uniform, and BLAKE3 in derive-key mode. Derived secrets are ``bytearray`` so that their owner can wipe them.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from phantom.crypto.aead import CipherSuite
from phantom.crypto.digests import blake3_derive_key, blake3_keyed_hash, expand_into, extract_expand_into
from phantom.crypto.wipe import BytesLike, wipe
from phantom.errors import KeyDerivationError, ValidationError
from phantom.limits import AEAD_NONCE_LEN, NONCE_PREFIX_LEN

__all__ = [
    "MAX_EXPORT_LEN",
    "MAX_EXPORT_NAME_LEN",
    "TrafficKeys",
    "auth_context",
    "blake3_derive",
    "blake3_keyed",
    "combine",
    "early_binding",
    "early_key_nonce",
    "export",
    "faketls_keys",
    "faketls_seed",
    "hkdf_expand",
    "hkdf_extract_expand",
    "hour_secret",
    "next_traffic_secret",
    "resumption_secret",
    "session_id",
    "session_key",
    "traffic_keys",
]

MAX_EXPORT_LEN: Final = 8160  # bytes, 255 SHA-256 blocks
MAX_EXPORT_NAME_LEN: Final = 255  # bytes
_DIRECTION_LABELS: Final = {
    CipherSuite.AES_256_GCM: ("phantom-aes-send-v1", "phantom-aes-recv-v1"),
    CipherSuite.CHACHA20_POLY1305: ("phantom-cc20-send-v1", "phantom-cc20-recv-v1"),
}


def _extract_expand(salt: BytesLike | None, ikm: BytesLike, info: bytes, length: int) -> bytearray:
    out = bytearray(length)
    try:
        extract_expand_into(salt, ikm, info, out)
    except ValueError as exc:
        raise KeyDerivationError(f"HKDF-SHA-256 cannot give {length} bytes") from exc
    return out


def _expand(prk: BytesLike, info: bytes, length: int) -> bytearray:
    out = bytearray(length)
    try:
        expand_into(prk, info, out)
    except ValueError as exc:
        raise KeyDerivationError(f"HKDF-SHA-256 cannot give {length} bytes") from exc
    return out


def hkdf_extract_expand(salt: BytesLike | None, ikm: BytesLike, info: bytes, length: int) -> bytes:
    """Full HKDF-SHA-256 (RFC 5869); ``salt`` None is 32 zero bytes. KeyDerivationError unless 1 <= length <= 8160."""
    return bytes(_extract_expand(salt, ikm, info, length))


def hkdf_expand(prk: BytesLike, info: bytes, length: int) -> bytes:
    """HKDF-Expand alone: ``prk`` must already be uniform. KeyDerivationError unless 1 <= length <= 8160."""
    return bytes(_expand(prk, info, length))


def blake3_derive(label: str, key_material: BytesLike) -> bytes:
    """32 bytes of BLAKE3 in derive-key mode with ``label`` as the context string."""
    return blake3_derive_key(label, key_material)


def blake3_keyed(key: BytesLike, data: BytesLike) -> bytes:
    """32 bytes of BLAKE3 keyed with exactly 32 bytes (the MAC of proof-of-work challenges, wire-native §8.5)."""
    return blake3_keyed_hash(key, data)


def combine(ss_x: BytesLike, ss_pq: BytesLike) -> bytearray:
    """The hybrid shared secret (32 B) of the X25519 and the ML-KEM secret, 32 B each (wire-native §2.6)."""
    ikm = bytearray(ss_x)
    ikm += ss_pq
    shared = _extract_expand(None, ikm, b"HybridKEM_X25519_Kyber768", 32)
    wipe(ikm)
    return shared


class TrafficKeys(NamedTuple):
    """The AEAD keys of one suite and epoch by label (32 B each) and the nonce prefix (4 B) that both share.

    The initiator seals with ``send`` and opens with ``recv``, the responder the other way round (wire-native §3.2).
    """

    send: bytearray
    recv: bytearray
    prefix: bytearray

    def wipe(self) -> None:
        """Overwrite all three."""
        wipe(self.send, self.recv, self.prefix)

    def __repr__(self) -> str:
        return "TrafficKeys(...)"


def traffic_keys(traffic_secret: BytesLike, suite: CipherSuite) -> TrafficKeys:
    """Both direction keys and the nonce prefix of ``traffic_secret[e]`` (32 B)."""
    send, recv = _DIRECTION_LABELS[suite]
    return TrafficKeys(
        bytearray(blake3_derive(send, traffic_secret)),
        bytearray(blake3_derive(recv, traffic_secret)),
        bytearray(blake3_derive("phantom-nonce-pfx-v1", traffic_secret)[:NONCE_PREFIX_LEN]),
    )


def next_traffic_secret(traffic_secret: BytesLike) -> bytearray:
    """``traffic_secret[e+1]`` (32 B) from ``traffic_secret[e]``."""
    return _expand(traffic_secret, b"phantom-rekey-v1", 32)


def session_id(shared_secret: BytesLike, client_nonce: BytesLike) -> bytes:
    """The public 32-byte id of the session."""
    digest = hashlib.sha256(b"phantom-session-id-v1")
    digest.update(shared_secret)
    digest.update(client_nonce)
    return digest.digest()


def session_key(traffic_secret: BytesLike) -> bytearray:
    """``session_key[e]`` (32 B); that of epoch 0 is the exporter root, none is a packet key."""
    return _expand(traffic_secret, b"phantom-transport-key", 32)


def resumption_secret(shared_secret: BytesLike) -> bytearray:
    """The secret half (32 B) of a resumption hint."""
    return _extract_expand(None, shared_secret, b"phantom-resumption-secret-v1", 32)


def early_key_nonce(resumption_secret: BytesLike, client_nonce: BytesLike) -> tuple[bytearray, bytes]:
    """The AES-256-GCM key (32 B, used as it is) and nonce (12 B) of one early-data blob (wire-native §3.3)."""
    key = _extract_expand(client_nonce, resumption_secret, b"phantom-early-data-key-v3", 32)
    nonce = hkdf_extract_expand(client_nonce, resumption_secret, b"phantom-early-data-nonce-v3", AEAD_NONCE_LEN)
    return key, nonce


def early_binding(key_package: BytesLike, verify_key: BytesLike, version: int) -> bytes:
    """What ties early data to its hello (32 B), from the encoded key package (1220 B) and verifying key (1988 B)."""
    digest = hashlib.sha256(b"phantom-early-bind-v1")
    digest.update(key_package)
    digest.update(verify_key)
    digest.update(bytes((version,)))
    return digest.digest()


def export(session_key0: BytesLike, name: bytes, length: int) -> bytes:
    """Keying material for the application (wire-native §3.5) from ``session_key[0]``.

    ValidationError unless ``name`` has at most 255 bytes and 1 <= length <= 8160.
    """
    if len(name) > MAX_EXPORT_NAME_LEN:
        raise ValidationError(f"an exporter label has at most {MAX_EXPORT_NAME_LEN} bytes, this one {len(name)}")
    if not 1 <= length <= MAX_EXPORT_LEN:
        raise ValidationError(f"exported keying material has 1 to {MAX_EXPORT_LEN} bytes, not {length}")
    return hkdf_expand(session_key0, b"phantom-exporter-v1" + bytes((len(name),)) + name, length)


def auth_context(session_key0: BytesLike) -> bytearray:
    """The 32 secret bytes that tie a client's signature to one session (wire-native §15.7)."""
    return _expand(session_key0, b"phantom-client-auth-v1", 32)


def faketls_seed(sni: str, version: int) -> bytes:
    """The public ``outer_seed`` of a FakeTLS leg: what both ends derive from is known to everybody (§21.6)."""
    return b"phantom-faketls-outer-v1" + version.to_bytes(2, "big") + sni.encode("ascii")


def faketls_keys(outer_seed: BytesLike) -> tuple[bytes, bytes, bytes]:
    """Record keys of client and server (32 B each) and the nonce prefix (4 B); no secrets, as the seed is none."""
    return (
        blake3_derive("phantom-faketls-c2s-v1", outer_seed),
        blake3_derive("phantom-faketls-s2c-v1", outer_seed),
        blake3_derive("phantom-faketls-pfx-v1", outer_seed)[:NONCE_PREFIX_LEN],
    )


def hour_secret(master_secret: BytesLike, hour: int) -> bytearray:
    """The secret (32 B) behind the cookies and challenges of one hour; ``hour`` = unix seconds // 3600."""
    return _extract_expand(None, master_secret, b"phantom-pow-cookie-v1" + hour.to_bytes(8, "big"), 32)
