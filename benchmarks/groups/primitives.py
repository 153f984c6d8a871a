"""What the cryptography costs here, bare, through the library that Phantom uses: CPU microseconds of one call."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from benchmarks.harness import KiB, Options, Row, announce, cpu_per_call

GROUP = "primitives"
CASE = "CPU"
QUANTITY = "µs"
RECORD_SIZES = (64, 1 * KiB, 16 * KiB, 64 * KiB, 256 * KiB)


class Keys:
    """One key of each kind, and what the other side would send for it."""

    def __init__(self) -> None:
        self.message = os.urandom(32)  # a transcript hash
        self.x25519 = x25519.X25519PrivateKey.generate()
        self.x25519_public = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
        self.ml_kem = mlkem.MLKEM768PrivateKey.generate()
        self.ml_kem_public = self.ml_kem.public_key().public_bytes_raw()
        self.ml_kem_ciphertext = mlkem.MLKEM768PublicKey.from_public_bytes(self.ml_kem_public).encapsulate()[1]
        self.ed25519 = ed25519.Ed25519PrivateKey.generate()
        self.ed25519_public = self.ed25519.public_key().public_bytes_raw()
        self.ed25519_signature = self.ed25519.sign(self.message)
        self.ml_dsa = mldsa.MLDSA65PrivateKey.generate()
        self.ml_dsa_public = self.ml_dsa.public_key().public_bytes_raw()
        self.ml_dsa_signature = self.ml_dsa.sign(self.message)


def asymmetric(keys: Keys) -> dict[str, Callable[[], Any]]:
    """Every asymmetric operation of a handshake as the wire needs it: keys arrive as bytes and leave as bytes."""
    return {
        "X25519 key pair": lambda: (
            x25519.X25519PrivateKey.from_private_bytes(os.urandom(32)).public_key().public_bytes_raw()
        ),
        "X25519 exchange": lambda: keys.x25519.exchange(x25519.X25519PublicKey.from_public_bytes(keys.x25519_public)),
        "ML-KEM-768 key pair": lambda: (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(os.urandom(64)).public_key().public_bytes_raw()
        ),
        "ML-KEM-768 encapsulate": lambda: mlkem.MLKEM768PublicKey.from_public_bytes(keys.ml_kem_public).encapsulate(),
        "ML-KEM-768 decapsulate": lambda: keys.ml_kem.decapsulate(keys.ml_kem_ciphertext),
        "Ed25519 key pair": lambda: (
            ed25519.Ed25519PrivateKey.from_private_bytes(os.urandom(32)).public_key().public_bytes_raw()
        ),
        "Ed25519 sign": lambda: keys.ed25519.sign(keys.message),
        "Ed25519 verify": lambda: ed25519.Ed25519PublicKey.from_public_bytes(keys.ed25519_public).verify(
            keys.ed25519_signature, keys.message
        ),
        "ML-DSA-65 key pair": lambda: (
            mldsa.MLDSA65PrivateKey.from_seed_bytes(os.urandom(32)).public_key().public_bytes_raw()
        ),
        "ML-DSA-65 sign": lambda: keys.ml_dsa.sign(os.urandom(32)),
        "ML-DSA-65 verify": lambda: mldsa.MLDSA65PublicKey.from_public_bytes(keys.ml_dsa_public).verify(
            keys.ml_dsa_signature, keys.message
        ),
    }


def symmetric() -> dict[str, Callable[[], Any]]:
    """Both suites at record sizes, sealing into a buffer that is there."""
    calls: dict[str, Callable[[], Any]] = {}
    nonce, aad = os.urandom(12), os.urandom(45)
    ciphers: dict[str, AESGCM | ChaCha20Poly1305] = {
        "AES-256-GCM": AESGCM(os.urandom(32)),
        "ChaCha20-Poly1305": ChaCha20Poly1305(os.urandom(32)),
    }
    for label, cipher in ciphers.items():
        for size in RECORD_SIZES:
            work = (nonce, os.urandom(size), aad, bytearray(size + 16))
            calls[f"{label} seal {size} B"] = functools.partial(cipher.encrypt_into, *work)
    return calls


def measure(options: Options) -> list[Row]:
    """All of them, round after round."""
    calls = asymmetric(Keys()) | symmetric()
    rows = {name: Row(GROUP, CASE, name, {QUANTITY: []}) for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            # signing repeats itself at random until it succeeds: only many calls have a mean
            seconds = options.seconds / 2 if "sign" in name else options.seconds / 40
            rows[name].values[QUANTITY].append(cpu_per_call(call, seconds))
    for row in rows.values():
        announce(row)
    return list(rows.values())
