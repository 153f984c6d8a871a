"""Which suite this host seals with by default (wire-native §11.7)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from phantom.crypto.aead import CipherSuite

__all__ = ["aes_accelerated", "default_suite"]

_CPUINFO: Final = Path("/proc/cpuinfo")
# The name of the line that lists a core's flags -> the flags that mean AES and carry-less multiplication in hardware.
_ACCELERATION: Final = {"flags": {"aes", "pclmulqdq"}, "Features": {"aes", "pmull"}}


def _read_acceleration(cpuinfo: Path) -> bool | None:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    cores = []
    for line in lines:
        name, _, value = line.partition(":")
        wanted = _ACCELERATION.get(name.strip())
        if wanted is not None:
            cores.append(wanted <= set(value.split()))
    return all(cores) if cores else None  # cores may differ (big.LITTLE), and a thread may run on any of them


@functools.cache
def aes_accelerated() -> bool | None:
    """Whether every CPU core has the AES and carry-less multiplication instructions; None where that cannot be read."""
    return _read_acceleration(_CPUINFO)


def default_suite(provider_name: str) -> CipherSuite:
    """AES-256-GCM with AES acceleration, else ChaCha20-Poly1305; where that is unknown, AES with ``openssl`` only.

    ``browser`` never uses such instructions, whatever the CPU has.
    """
    if provider_name == "browser":
        return CipherSuite.CHACHA20_POLY1305
    accelerated = aes_accelerated()
    if accelerated is None:
        accelerated = provider_name == "openssl"
    return CipherSuite.AES_256_GCM if accelerated else CipherSuite.CHACHA20_POLY1305
