"""The provider of a page: noble through the bridge, synchronous (``phantom.crypto.bridge``).

Private keys and AEAD keys live in JavaScript arrays that are overwritten when their handle goes. Randomness is the
operating system's, handed over. Nothing here is constant-time by promise: noble aims at it, the engine compiles as it
likes.
"""

# ruff: noqa: D102 - the methods are documented at Provider
from __future__ import annotations

from typing import Any

from phantom.crypto.aead import AEAD_FAILURE, Aead, CipherSuite
from phantom.crypto.bridge import Arrays, Secret, take
from phantom.crypto.providers import Handle
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.crypto.wipe import BytesLike
from phantom.errors import KemFailedError
from phantom.limits import (
    AEAD_NONCE_LEN,
    AEAD_TAG_LEN,
    ED25519_SIG_LEN,
    ML_DSA_SIG_LEN,
    ML_KEM_CT_LEN,
    ML_KEM_EK_LEN,
    ML_KEM_SEED_LEN,
)

__all__ = ["BrowserProvider"]

_RANDOM_LEN = 32  # of an encapsulation, and of a hedged signature


class _Scratch:
    """What every packet passes through; one set for all sessions of the page, which has one thread."""

    __slots__ = ("aad", "input", "nonce", "output")

    def __init__(self, bridge: Any) -> None:
        self.nonce = bridge.bytes(AEAD_NONCE_LEN)
        self.aad = Arrays(bridge)
        self.input = Arrays(bridge)
        self.output = Arrays(bridge)


class _BridgeAead:
    """One key on the other side; wiped there when this object goes."""

    __slots__ = ("_key", "_open", "_scratch", "_seal")

    def __init__(self, key: Any, scratch: _Scratch) -> None:
        self._key = key
        self._seal = key.seal
        self._open = key.open
        self._scratch = scratch

    def __del__(self) -> None:
        self._key.wipe()

    def _sealed(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None) -> Any:
        scratch = self._scratch
        scratch.nonce.assign(nonce)
        output = scratch.output.room(len(data) + AEAD_TAG_LEN)
        self._seal(scratch.nonce, scratch.aad.copy(associated_data or b""), scratch.input.copy(data), output)
        return output

    def _opened(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None) -> Any:
        if len(data) < AEAD_TAG_LEN:
            raise AEAD_FAILURE
        scratch = self._scratch
        scratch.nonce.assign(nonce)
        output = scratch.output.room(len(data) - AEAD_TAG_LEN)
        if not self._open(scratch.nonce, scratch.aad.copy(associated_data or b""), scratch.input.copy(data), output):
            raise AEAD_FAILURE
        return output

    def encrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, /) -> bytes:
        sealed: bytes = self._sealed(nonce, data, associated_data).to_bytes()
        return sealed

    def decrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, /) -> bytes:
        opened: bytes = self._opened(nonce, data, associated_data).to_bytes()
        return opened

    def encrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview, /
    ) -> int:
        self._sealed(nonce, data, associated_data).assign_to(buf)
        return len(buf)

    def decrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview, /
    ) -> int:
        opened = self._opened(nonce, data, associated_data)
        if buf:
            opened.assign_to(buf)
        return len(buf)


class BrowserProvider:
    """All primitives from noble. Handles of private keys are ``Secret``, those of public keys their bytes."""

    __slots__ = ("_bridge", "_first", "_key", "_scratch", "_second")

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self._scratch = _Scratch(bridge)
        self._key = Arrays(bridge)
        self._first = Arrays(bridge)
        self._second = Arrays(bridge)

    @property
    def name(self) -> str:
        return "browser"

    @property
    def seeded(self) -> bool:
        return True

    def _private(self, derive: Any, seed: BytesLike) -> Secret:
        secret = Secret(derive(self._key.copy(seed)))
        self._key.wipe()
        return secret

    def aead(self, suite: CipherSuite, key: BytesLike) -> Aead:
        box = _BridgeAead(self._bridge.aead(int(suite), self._key.copy(key)), self._scratch)
        self._key.wipe()
        return box

    def x25519_private(self, sk: BytesLike) -> Handle:
        return self._private(self._bridge.x25519_private, sk)

    def x25519_public(self, sk: Handle) -> bytes:
        return _public(sk)

    def x25519_exchange(self, sk: Handle, pk: bytes) -> bytearray:
        shared = self._bridge.x25519_exchange(sk.key, self._first.copy(pk))
        if shared is None:
            raise KemFailedError
        return take(shared)

    def ml_kem_keypair(self, seed: BytesLike) -> tuple[Handle, bytes]:
        secret = self._private(self._bridge.ml_kem_private, seed)
        return secret, _public(secret)

    def ml_kem_generate(self, rng: RngProvider) -> tuple[Handle, bytes]:
        return self.ml_kem_keypair(rng.fill_bytes(ML_KEM_SEED_LEN))

    def ml_kem_encapsulate(self, ek: BytesLike) -> tuple[bytes, bytearray]:
        if len(ek) != ML_KEM_EK_LEN:
            raise KemFailedError
        both = self._bridge.ml_kem_encapsulate(self._first.copy(ek), self._key.copy(SYSTEM_RNG.fill_bytes(_RANDOM_LEN)))
        self._key.wipe()
        if both is None:
            raise KemFailedError
        made = take(both)
        secret = made[ML_KEM_CT_LEN:]
        ciphertext = bytes(memoryview(made)[:ML_KEM_CT_LEN])
        made[ML_KEM_CT_LEN:] = bytes(len(secret))
        return ciphertext, secret

    def ml_kem_decapsulate(self, key: Handle, ct: BytesLike) -> bytearray:
        return take(self._bridge.ml_kem_decapsulate(key.key, self._first.copy(ct)))

    def ed25519_private(self, seed: BytesLike) -> Handle:
        return self._private(self._bridge.ed25519_private, seed)

    def ed25519_public(self, key: Handle) -> bytes:
        return _public(key)

    def ed25519_sign(self, key: Handle, message: BytesLike) -> bytes:
        signature: bytes = self._bridge.ed25519_sign(key.key, self._first.copy(message)).to_bytes()
        return signature

    def ed25519_verifier(self, pk: BytesLike) -> Handle:
        return bytes(pk)

    def ed25519_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        return len(signature) == ED25519_SIG_LEN and self._verifies(
            self._bridge.ed25519_verify, key, message, signature
        )

    def ml_dsa_private(self, seed: BytesLike) -> Handle:
        return self._private(self._bridge.ml_dsa_private, seed)

    def ml_dsa_generate(self) -> Handle:
        return self.ml_dsa_private(SYSTEM_RNG.fill_bytes(_RANDOM_LEN))

    def ml_dsa_public(self, key: Handle) -> bytes:
        return _public(key)

    def ml_dsa_sign(self, key: Handle, message: BytesLike) -> bytes:
        random = self._key.copy(SYSTEM_RNG.fill_bytes(_RANDOM_LEN))
        signature: bytes = self._bridge.ml_dsa_sign(key.key, self._first.copy(message), random).to_bytes()
        self._key.wipe()
        return signature

    def ml_dsa_verifier(self, pk: BytesLike) -> Handle:
        return bytes(pk)

    def ml_dsa_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        return len(signature) == ML_DSA_SIG_LEN and self._verifies(self._bridge.ml_dsa_verify, key, message, signature)

    def _verifies(self, verify: Any, key: bytes, message: BytesLike, signature: BytesLike) -> bool:
        return bool(verify(self._key.copy(key), self._first.copy(message), self._second.copy(signature)))


def _public(secret: Secret) -> bytes:
    public: bytes = secret.key.public_key.to_bytes()
    return public
