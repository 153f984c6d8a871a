"""The hybrid key exchange X25519 + ML-KEM-768 (wire-native §§2.1, 2.2, 2.6).

Both secrets go through one HKDF, so the result is secret as long as either algorithm holds.
"""

from __future__ import annotations

from typing import Final

from phantom.crypto.compare import constant_time_equal
from phantom.crypto.kdf import combine
from phantom.crypto.providers import Handle, Provider
from phantom.crypto.rng import RngProvider
from phantom.crypto.wipe import BytesLike, wipe
from phantom.errors import KemFailedError, SerializationError, ValidationError
from phantom.limits import CIPHERTEXT_LEN, KEY_PACKAGE_LEN, ML_KEM_CT_LEN, ML_KEM_EK_LEN, ML_KEM_SEED_LEN, X25519_LEN

__all__ = ["HybridKemKeyPair", "combine", "encapsulate", "fresh_public"]

_VEC: Final = X25519_LEN + 4  # where the ML-KEM half starts, behind its u32le length
_EK_LEN_FIELD: Final = ML_KEM_EK_LEN.to_bytes(4, "little")
_CT_LEN_FIELD: Final = ML_KEM_CT_LEN.to_bytes(4, "little")
_ZERO_SECRET: Final = bytes(X25519_LEN)


def _split(encoded: BytesLike, length: int, length_field: bytes, what: str) -> tuple[bytes, memoryview]:
    view = memoryview(encoded)
    if len(view) != length or view[X25519_LEN:_VEC] != length_field:
        raise SerializationError(f"a {what} has {length} bytes and the inner length {length - _VEC}")
    return bytes(view[:X25519_LEN]), view[_VEC:]


def _exchange(provider: Provider, sk: Handle, pk: bytes) -> bytearray:
    secret = provider.x25519_exchange(sk, pk)
    if constant_time_equal(secret, _ZERO_SECRET):  # libraries differ in whether they check this
        raise KemFailedError
    return secret


def _combine_and_wipe(ss_x: bytearray, ss_pq: bytearray) -> bytearray:
    shared = combine(ss_x, ss_pq)
    wipe(ss_x, ss_pq)
    return shared


class HybridKemKeyPair:
    """An ephemeral key pair. Not for concurrent use with ``wipe``."""

    __slots__ = ("_ml_kem", "_provider", "_x25519", "public")

    public: bytes
    """The encoded HybridKeyPackage, 1220 bytes."""

    def __init__(self, provider: Provider, x25519: Handle, ml_kem: Handle, ek: bytes) -> None:
        self._provider = provider
        self._x25519 = x25519
        self._ml_kem = ml_kem
        self.public = provider.x25519_public(x25519) + _EK_LEN_FIELD + ek

    @classmethod
    def generate(cls, provider: Provider, rng: RngProvider) -> HybridKemKeyPair:
        """A fresh pair; draws 32 bytes for X25519, then (``openssl``) 64 for ML-KEM."""
        x25519 = provider.x25519_private(rng.fill_bytes(X25519_LEN))
        return cls(provider, x25519, *provider.ml_kem_generate(rng))

    @classmethod
    def from_seeds(cls, provider: Provider, x25519_sk: BytesLike, ml_kem_seed: BytesLike) -> HybridKemKeyPair:
        """The pair of given secrets, 32 B and 64 B (d || z).

        ValidationError for other lengths; UnsupportedError where the provider is not ``seeded``.
        """
        if len(x25519_sk) != X25519_LEN or len(ml_kem_seed) != ML_KEM_SEED_LEN:
            raise ValidationError(f"the seeds of a key pair have {X25519_LEN} and {ML_KEM_SEED_LEN} bytes")
        return cls(provider, provider.x25519_private(x25519_sk), *provider.ml_kem_keypair(ml_kem_seed))

    def decapsulate(self, ciphertext: BytesLike) -> bytearray:
        """The 32-byte shared secret of an encoded HybridCiphertext (1124 B).

        SerializationError for a wrong length; KemFailedError for an X25519 point of low order. A damaged ML-KEM half
        gives a different secret without error, and shows as SessionIdMismatchError. ValidationError after ``wipe``.
        """
        if self._x25519 is None:
            raise ValidationError("this key pair was wiped")
        pk, ct = _split(ciphertext, CIPHERTEXT_LEN, _CT_LEN_FIELD, "hybrid ciphertext")
        ss_x = _exchange(self._provider, self._x25519, pk)
        return _combine_and_wipe(ss_x, self._provider.ml_kem_decapsulate(self._ml_kem, ct))

    def wipe(self) -> None:
        """Release the private halves, which the library then clears. Idempotent."""
        self._x25519 = self._ml_kem = None


def encapsulate(provider: Provider, key_package: BytesLike, rng: RngProvider) -> tuple[bytes, bytearray]:
    """The encoded HybridCiphertext (1124 B) for an encoded HybridKeyPackage (1220 B), and the shared secret (32 B).

    Draws 32 bytes from ``rng`` for the X25519 ephemeral; ML-KEM's randomness is its library's. SerializationError for a
    wrong length, KemFailedError for a low-order point or an ML-KEM key that FIPS 203 refuses.
    """
    pk, ek = _split(key_package, KEY_PACKAGE_LEN, _EK_LEN_FIELD, "hybrid key package")
    ephemeral = provider.x25519_private(rng.fill_bytes(X25519_LEN))
    ss_x = _exchange(provider, ephemeral, pk)
    ct, ss_pq = provider.ml_kem_encapsulate(ek)
    return provider.x25519_public(ephemeral) + _CT_LEN_FIELD + ct, _combine_and_wipe(ss_x, ss_pq)


def fresh_public(provider: Provider, rng: RngProvider) -> bytes:
    """A key package (1220 B) whose private half is gone: what a responder puts where the message wants one."""
    return HybridKemKeyPair.generate(provider, rng).public
