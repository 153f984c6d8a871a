"""Where the primitives come from (architecture §6).

A provider binds libraries and nothing else. Its keys are opaque handles: parsed once by the provider that made them,
held by ``HybridKemKeyPair``, ``HybridSigningKey`` and ``HybridVerifyingKey``, and understood by no other provider.
"""

from __future__ import annotations

import sys
from typing import Any, Final, Protocol, TypeAlias

from phantom.crypto.aead import Aead, CipherSuite
from phantom.crypto.rng import RngProvider
from phantom.crypto.wipe import BytesLike
from phantom.errors import ConfigError

__all__ = ["NULL_AEAD", "PROVIDER_NAMES", "Handle", "Provider", "get_provider"]

Handle: TypeAlias = Any  # a parsed key, meaningful only to the provider that returned it


class Provider(Protocol):
    """The primitives of wire-native §2, synchronous and stateless; safe to share between threads.

    Lengths are the caller's duty except where an error is named: the hybrid key objects check them.
    """

    @property
    def name(self) -> str:
        """``openssl``, ``pqcrypto`` or ``browser``."""

    @property
    def seeded(self) -> bool:
        """Whether ``ml_kem_keypair`` and ``ml_dsa_private`` work, i.e. whether this host can sign with stored keys."""

    def aead(self, suite: CipherSuite, key: BytesLike) -> Aead:
        """The AEAD object of a 32-byte key."""

    def x25519_private(self, sk: BytesLike) -> Handle:
        """Parse 32 private bytes (RFC 7748 clamping happens inside)."""

    def x25519_public(self, sk: Handle) -> bytes:
        """The 32 public bytes."""

    def x25519_exchange(self, sk: Handle, pk: bytes) -> bytearray:
        """The 32-byte shared secret; KemFailedError if it would be all zero."""

    def ml_kem_keypair(self, seed: BytesLike) -> tuple[Handle, bytes]:
        """The key of the 64-byte seed d || z (FIPS 203) and its 1184-byte ek; UnsupportedError unless ``seeded``."""

    def ml_kem_generate(self, rng: RngProvider) -> tuple[Handle, bytes]:
        """A fresh key and its 1184-byte ek; UnsupportedError for an injected ``rng`` where not ``seeded``."""

    def ml_kem_encapsulate(self, ek: BytesLike) -> tuple[bytes, bytearray]:
        """Ciphertext (1088 B) and shared secret (32 B); KemFailedError if ``ek`` fails the checks of FIPS 203 §7.2."""

    def ml_kem_decapsulate(self, key: Handle, ct: BytesLike) -> bytearray:
        """The 32-byte shared secret; a bad ciphertext gives another secret, not an error (implicit rejection)."""

    def ed25519_private(self, seed: BytesLike) -> Handle:
        """Parse a 32-byte seed."""

    def ed25519_public(self, key: Handle) -> bytes:
        """The 32 public bytes."""

    def ed25519_sign(self, key: Handle, message: BytesLike) -> bytes:
        """A 64-byte signature (deterministic)."""

    def ed25519_verifier(self, pk: BytesLike) -> Handle:
        """Parse 32 public bytes; any bytes parse, a point that is none verifies nothing."""

    def ed25519_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        """Whether the 64-byte signature is valid; S >= L is refused (RFC 8032)."""

    def ml_dsa_private(self, seed: BytesLike) -> Handle:
        """The key of a 32-byte seed (FIPS 204); UnsupportedError unless ``seeded``."""

    def ml_dsa_generate(self) -> Handle:
        """A key that was never stored and cannot be: for self-tests and second opinions."""

    def ml_dsa_public(self, key: Handle) -> bytes:
        """The 1952 public bytes."""

    def ml_dsa_sign(self, key: Handle, message: BytesLike) -> bytes:
        """A 3309-byte signature: pure mode, empty context, hedged."""

    def ml_dsa_verifier(self, pk: BytesLike) -> Handle:
        """Parse 1952 public bytes."""

    def ml_dsa_verify(self, key: Handle, message: BytesLike, signature: BytesLike) -> bool:
        """Whether the signature (3309 B) is valid in pure mode with an empty context."""


PROVIDER_NAMES: Final = ("auto", "openssl", "pqcrypto", "browser")
_IN_PAGE: Final = sys.platform == "emscripten"
NULL_AEAD: Final = "null-aead"  # phantom.testing has it; refused by every runtime but the simulated one
_loaded: dict[str, Provider] = {}


def get_provider(name: str = "auto") -> Provider:
    """The provider of that name, one object a process.

    ``auto`` is ``browser`` in Pyodide, ``openssl`` where the OpenSSL behind the ``cryptography`` library has ML-KEM and
    ML-DSA, else ``pqcrypto``.
    ConfigError for an unknown name and for one that this host cannot serve; it says what to install.
    """
    provider = _loaded.get(name)
    if provider is None:
        provider = _loaded[name] = _load(name)
    return provider


def _load(name: str) -> Provider:
    # Imported on use: a library may be absent, and a caller that asks for one provider must not pay for the other.
    if name not in PROVIDER_NAMES:
        raise ConfigError(f"unknown crypto provider {name!r}; the providers are {', '.join(PROVIDER_NAMES)}")
    if name == "browser" or (name == "auto" and _IN_PAGE):
        from phantom.crypto.bridge import page_bridge
        from phantom.crypto.providers.browser import BrowserProvider

        return BrowserProvider(page_bridge())
    if _IN_PAGE:
        raise ConfigError(f"the crypto provider {name!r} does not exist in a page; use 'auto' or 'browser'")
    from phantom.crypto.providers.openssl import OpenSslProvider, has_post_quantum

    if name != "pqcrypto" and has_post_quantum():
        return OpenSslProvider()
    if name == "openssl":
        raise ConfigError(
            "the OpenSSL behind the installed 'cryptography' has no ML-KEM-768 or ML-DSA-65;"
            " install a 'cryptography' wheel (it brings OpenSSL >= 3.5) or the extra 'pqcrypto'"
        )
    try:
        from phantom.crypto.providers.pqcrypto import PqcryptoProvider
    except ImportError as exc:
        raise ConfigError("the crypto provider 'pqcrypto' is not installed; install the extra 'pqcrypto'") from exc
    return PqcryptoProvider(seeded=has_post_quantum())
