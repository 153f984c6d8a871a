"""Identities: the hybrid signing key of a server and its verifying key (surface §1.4)."""

from __future__ import annotations

from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey

__all__ = ["HybridSigningKey", "HybridVerifyingKey", "generate_signing_key", "verifying_key_from_signing_key"]


def generate_signing_key() -> HybridSigningKey:
    """A new key, which passed a sign-then-verify check. Raises CryptoError if it did not."""
    return HybridSigningKey.generate()


def verifying_key_from_signing_key(seed: bytes | bytearray | memoryview) -> bytes:
    """The flat verifying key (1984 bytes) of a 64-byte seed. Raises ValidationError for another length."""
    with HybridSigningKey.from_bytes(seed) as key:
        return key.verifying_key().to_bytes()
