"""ML-KEM and ML-DSA from the ``pqcrypto`` package; everything else as in the ``openssl`` provider.

What ``pqcrypto`` 1.0 offers is random key generation, encapsulation, decapsulation and signing with expanded private
keys (2400 and 4032 bytes), and verification. It has no key generation from a seed, and Phantom stores seeds only. So:

* a handshake's ephemeral ML-KEM key, every encapsulation and every ML-DSA verification are done by ``pqcrypto``, with
  randomness from the operating system;
* a key that is *given* as a seed (a stored signing key; a KEM key under an injected ``RngProvider``) is derived and
  used by OpenSSL where that has the algorithm (``seeded``), and is UnsupportedError where it has not.

On a host whose OpenSSL lacks both, this provider therefore connects to pinned servers, but cannot listen or present a
client identity. Expanded private keys are immutable ``bytes`` inside a handle and cannot be wiped, only released.
"""

# ruff: noqa: D102 - the methods are documented at Provider
from __future__ import annotations

from pqcrypto.kem import ml_kem_768
from pqcrypto.sign import ml_dsa_65

from phantom.crypto.providers import Handle
from phantom.crypto.providers.openssl import OpenSslProvider
from phantom.crypto.rng import RngProvider, SystemRng
from phantom.crypto.wipe import BytesLike
from phantom.errors import KemFailedError, UnsupportedError

__all__ = ["ExpandedKey", "PqcryptoProvider"]


class ExpandedKey:
    """A private key that ``pqcrypto`` generated. It has no repr of its own content."""

    __slots__ = ("public", "secret")

    def __init__(self, public: bytes, secret: bytes) -> None:
        self.public = public
        self.secret = secret


class PqcryptoProvider(OpenSslProvider):
    """Which library does what is said above. ``seeded``: whether OpenSSL here can derive keys from seeds."""

    __slots__ = ("_seeded",)

    def __init__(self, *, seeded: bool) -> None:
        self._seeded = seeded

    @property
    def name(self) -> str:
        return "pqcrypto"

    @property
    def seeded(self) -> bool:
        return self._seeded

    def _require_seeds(self) -> None:
        if not self._seeded:
            raise UnsupportedError(
                "neither 'pqcrypto' nor this host's OpenSSL can derive a key from a stored seed; to listen or to"
                " present an identity, install a 'cryptography' wheel (it brings OpenSSL >= 3.5)"
            )

    def ml_kem_keypair(self, seed: BytesLike) -> tuple[Handle, bytes]:
        self._require_seeds()
        return super().ml_kem_keypair(seed)

    def ml_kem_generate(self, rng: RngProvider) -> tuple[Handle, bytes]:
        if not isinstance(rng, SystemRng):
            return super().ml_kem_generate(rng)
        public, secret = ml_kem_768.keygen()
        return ExpandedKey(public, secret), public

    def ml_kem_encapsulate(self, ek: BytesLike) -> tuple[bytes, bytearray]:
        try:
            ciphertext, secret = ml_kem_768.encaps(bytes(ek))
        except ValueError as exc:
            raise KemFailedError from exc
        return ciphertext, bytearray(secret)

    def ml_kem_decapsulate(self, key: Handle, ct: BytesLike) -> bytearray:
        if not isinstance(key, ExpandedKey):
            return super().ml_kem_decapsulate(key, ct)
        return bytearray(ml_kem_768.decaps(key.secret, bytes(ct)))

    def ml_dsa_private(self, seed: BytesLike) -> Handle:
        self._require_seeds()
        return super().ml_dsa_private(seed)

    def ml_dsa_generate(self) -> Handle:
        return ExpandedKey(*ml_dsa_65.keygen())

    def ml_dsa_public(self, key: Handle) -> bytes:
        return key.public if isinstance(key, ExpandedKey) else super().ml_dsa_public(key)

    def ml_dsa_sign(self, key: Handle, message: BytesLike) -> bytes:
        if not isinstance(key, ExpandedKey):
            return super().ml_dsa_sign(key, message)
        signature: bytes = ml_dsa_65.sign(key.secret, bytes(message))
        return signature

    def ml_dsa_verifier(self, pk: BytesLike) -> Handle:
        return bytes(pk)

    def ml_dsa_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        try:
            ml_dsa_65.verify(key, bytes(message), bytes(signature))
        except ValueError:  # InvalidSignatureError is one; so is a wrong length
            return False
        return True
