"""A page without a browser: what the bridge of ``bindings/wasm/src/noble.ts`` offers, on native libraries.

It shows what Python asks of it and what becomes of secrets; whether noble is right is for tests/bindings/wasm.
"""

from __future__ import annotations

import os
from typing import Any

from blake3 import blake3

from phantom.crypto import pow as proof_of_work
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite
from phantom.crypto.providers import get_provider
from phantom.errors import KemFailedError

NATIVE = get_provider("openssl")


class Array:
    """A Uint8Array."""

    def __init__(self, data: bytearray | memoryview) -> None:
        self.data = memoryview(data)

    @property
    def length(self) -> int:
        return len(self.data)

    byteLength = length  # noqa: N815 - the name it has in JavaScript

    def assign(self, data: Any) -> None:
        if len(data) != len(self.data):
            raise ValueError("cannot assign from a buffer of another size")
        self.data[:] = bytes(data)

    def assign_to(self, buffer: Any) -> None:
        if len(buffer) != len(self.data):
            raise ValueError("cannot assign to a buffer of another size")
        memoryview(buffer)[:] = self.data

    def to_bytes(self) -> bytes:
        return bytes(self.data)

    def fill(self, value: int) -> None:
        self.data[:] = bytes((value,)) * len(self.data)

    def subarray(self, start: int, end: int) -> Array:
        return Array(self.data[start:end])


def array(data: Any) -> Array:
    return Array(bytearray(data))


class Key:
    def __init__(self, secret: Any, public: bytes = b"") -> None:
        self.secret: Any = secret
        self.public_key = array(public)
        self.wiped = 0

    def wipe(self) -> None:
        self.wiped += 1


class AeadKey(Key):
    def seal(self, nonce: Array, aad: Array, data: Array, output: Array) -> None:
        output.assign(self.secret.encrypt(nonce.to_bytes(), data.to_bytes(), aad.to_bytes()))

    def open(self, nonce: Array, aad: Array, data: Array, output: Array) -> bool:
        assert data.length == output.length + 16
        try:
            output.assign(self.secret.decrypt(nonce.to_bytes(), data.to_bytes(), aad.to_bytes()))
        except AEAD_FAILURE:
            return False
        return True


class Bridge:
    """Remembers the keys it made, the arrays it was given, and those with secrets that it gave."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.made: list[Array] = []
        self.given: list[Array] = []

    def bytes(self, length: int) -> Array:
        self.made.append(array(length))
        return self.made[-1]

    def _key(self, key: Any) -> Any:
        self.keys.append(key)
        return key

    def _give(self, data: Any) -> Array:
        self.given.append(array(data))
        return self.given[-1]

    def aead(self, suite: int, key: Array) -> Any:
        return self._key(AeadKey(NATIVE.aead(CipherSuite(suite), key.to_bytes())))

    def x25519_private(self, key: Array) -> Any:
        handle = NATIVE.x25519_private(key.to_bytes())
        return self._key(Key(handle, NATIVE.x25519_public(handle)))

    def x25519_exchange(self, key: Key, peer: Array) -> Array | None:
        try:
            return self._give(NATIVE.x25519_exchange(key.secret, peer.to_bytes()))
        except KemFailedError:
            return None

    def ed25519_private(self, seed: Array) -> Any:
        handle = NATIVE.ed25519_private(seed.to_bytes())
        return self._key(Key(handle, NATIVE.ed25519_public(handle)))

    def ed25519_sign(self, key: Key, message: Array) -> Array:
        return array(NATIVE.ed25519_sign(key.secret, message.to_bytes()))

    def ed25519_verify(self, key: Array, message: Array, signature: Array) -> bool:
        verifier = NATIVE.ed25519_verifier(key.to_bytes())
        return NATIVE.ed25519_verify(verifier, message.to_bytes(), signature.to_bytes())

    def ml_kem_private(self, seed: Array) -> Any:
        return self._key(Key(*NATIVE.ml_kem_keypair(seed.to_bytes())))

    def ml_kem_encapsulate(self, key: Array, random: Array) -> Array | None:
        assert random.length == 32
        assert any(random.data)
        try:
            ciphertext, secret = NATIVE.ml_kem_encapsulate(key.to_bytes())
        except KemFailedError:
            return None
        return self._give(ciphertext + secret)

    def ml_kem_decapsulate(self, key: Key, ciphertext: Array) -> Array:
        return self._give(NATIVE.ml_kem_decapsulate(key.secret, ciphertext.to_bytes()))

    def ml_dsa_private(self, seed: Array) -> Any:
        handle = NATIVE.ml_dsa_private(seed.to_bytes())
        return self._key(Key(handle, NATIVE.ml_dsa_public(handle)))

    def ml_dsa_sign(self, key: Key, message: Array, random: Array) -> Array:
        assert random.length == 32
        assert any(random.data)
        return array(NATIVE.ml_dsa_sign(key.secret, message.to_bytes()))

    def ml_dsa_verify(self, key: Array, message: Array, signature: Array) -> bool:
        verifier = NATIVE.ml_dsa_verifier(key.to_bytes())
        return NATIVE.ml_dsa_verify(verifier, message.to_bytes(), signature.to_bytes())

    def blake3(self, data: Array) -> Array:
        return self._give(blake3(data.to_bytes()).digest())

    def blake3_keyed(self, key: Array, data: Array) -> Array:
        return self._give(blake3(data.to_bytes(), key=key.to_bytes()).digest())

    def blake3_derive(self, context: Array, material: Array) -> Array:
        return self._give(blake3(material.to_bytes(), derive_key_context=context.to_bytes().decode()).digest())

    def solve(self, nonce: Array, difficulty: int, low: int, high: int, count: int) -> int:
        start = low | high << 32
        found = proof_of_work.solve(nonce.to_bytes(), difficulty, start, count)
        return -1 if found is None else found - start

    @property
    def secrets_left(self) -> int:
        """Arrays with secrets that were given and not overwritten."""
        return sum(any(one.data) for one in self.given)


def secret(length: int = 32) -> bytes:
    return os.urandom(length - 1) + b"\x01"
