"""The default provider: OpenSSL through the ``cryptography`` library. Handles are that library's own key objects."""

# ruff: noqa: D102 - the methods are documented at Provider
from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from phantom.crypto.aead import Aead, CipherSuite
from phantom.crypto.providers import Handle
from phantom.crypto.rng import RngProvider
from phantom.crypto.wipe import BytesLike
from phantom.errors import KemFailedError
from phantom.limits import ML_KEM_SEED_LEN

__all__ = ["OpenSslProvider", "has_post_quantum"]

_AEADS: Final[dict[CipherSuite, type[AESGCM | ChaCha20Poly1305]]] = {
    CipherSuite.AES_256_GCM: AESGCM,
    CipherSuite.CHACHA20_POLY1305: ChaCha20Poly1305,
}


def has_post_quantum() -> bool:
    """Whether the OpenSSL behind ``cryptography`` has ML-KEM-768 and ML-DSA-65; it makes a key of each to find out."""
    try:
        MLKEM768PrivateKey.generate()
        MLDSA65PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


class OpenSslProvider:
    """All primitives from OpenSSL."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return "openssl"

    @property
    def seeded(self) -> bool:
        return True

    def aead(self, suite: CipherSuite, key: BytesLike) -> Aead:
        return _AEADS[suite](key)

    def x25519_private(self, sk: BytesLike) -> Handle:
        return X25519PrivateKey.from_private_bytes(sk)

    def x25519_public(self, sk: Handle) -> bytes:
        public: bytes = sk.public_key().public_bytes_raw()
        return public

    def x25519_exchange(self, sk: Handle, pk: bytes) -> bytearray:
        try:
            return bytearray(sk.exchange(X25519PublicKey.from_public_bytes(pk)))
        except ValueError as exc:
            raise KemFailedError from exc

    def ml_kem_keypair(self, seed: BytesLike) -> tuple[Handle, bytes]:
        key = MLKEM768PrivateKey.from_seed_bytes(seed)
        return key, key.public_key().public_bytes_raw()

    def ml_kem_generate(self, rng: RngProvider) -> tuple[Handle, bytes]:
        return self.ml_kem_keypair(rng.fill_bytes(ML_KEM_SEED_LEN))

    def ml_kem_encapsulate(self, ek: BytesLike) -> tuple[bytes, bytearray]:
        try:
            secret, ciphertext = MLKEM768PublicKey.from_public_bytes(ek).encapsulate()
        except ValueError as exc:
            raise KemFailedError from exc
        return ciphertext, bytearray(secret)

    def ml_kem_decapsulate(self, key: Handle, ct: BytesLike) -> bytearray:
        return bytearray(key.decapsulate(ct))

    def ed25519_private(self, seed: BytesLike) -> Handle:
        return Ed25519PrivateKey.from_private_bytes(seed)

    def ed25519_public(self, key: Handle) -> bytes:
        public: bytes = key.public_key().public_bytes_raw()
        return public

    def ed25519_sign(self, key: Handle, message: BytesLike) -> bytes:
        signature: bytes = key.sign(message)
        return signature

    def ed25519_verifier(self, pk: BytesLike) -> Handle:
        return Ed25519PublicKey.from_public_bytes(bytes(pk))

    def ed25519_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        return _verifies(key, message, signature)

    def ml_dsa_private(self, seed: BytesLike) -> Handle:
        return MLDSA65PrivateKey.from_seed_bytes(seed)

    def ml_dsa_generate(self) -> Handle:
        return MLDSA65PrivateKey.generate()

    def ml_dsa_public(self, key: Handle) -> bytes:
        public: bytes = key.public_key().public_bytes_raw()
        return public

    def ml_dsa_sign(self, key: Handle, message: BytesLike) -> bytes:
        signature: bytes = key.sign(message)
        return signature

    def ml_dsa_verifier(self, pk: BytesLike) -> Handle:
        return MLDSA65PublicKey.from_public_bytes(bytes(pk))

    def ml_dsa_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        return _verifies(key, message, signature)


def _verifies(key: Handle, message: BytesLike, signature: BytesLike) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
