"""Signing keys that the sidecar keeps, and those of this program on their way to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from phantom.api.clients import ClientPolicy
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.wipe import wipe

if TYPE_CHECKING:
    from phantom.sidecar.client import SidecarClient

__all__ = ["ANYBODY", "SidecarKey", "lent"]

ANYBODY: Final = ClientPolicy.none()


@dataclass(frozen=True, slots=True)
class SidecarKey:
    """A signing key that the sidecar keeps: this program has its handle and its public half."""

    handle: int
    public: HybridVerifyingKey

    def verifying_key(self) -> HybridVerifyingKey:
        """The public half, as that of :class:`HybridSigningKey`."""
        return self.public


@asynccontextmanager
async def lent(
    client: SidecarClient, key: HybridSigningKey | SidecarKey | None
) -> AsyncGenerator[SidecarKey | None, None]:
    """The key as the sidecar has it; one of this program is given to it while the block runs."""
    if not isinstance(key, HybridSigningKey):
        yield key
        return
    seed = key.to_bytes()
    try:
        imported = await client.import_sidecar_key(seed)
    finally:
        wipe(seed)
    try:
        yield imported
    finally:
        await client.drop_sidecar_key(imported)  # who uses it has a copy
