"""An AEAD that encrypts nothing, for simulations that move much data (architecture §4, §10).

It copies, and puts a checksum where the tag belongs: a packet under another key, epoch or nonce, and one that a
simulated network damaged, fail to open as they would in earnest. It hides nothing and stops nobody, so only code that
shows a simulated runtime gets one; the engine of the API refuses it under every other.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from typing import Any, Final

from phantom.crypto.aead import AEAD_FAILURE, CipherSuite
from phantom.crypto.providers import NULL_AEAD, Provider, get_provider
from phantom.crypto.wipe import BytesLike
from phantom.errors import ConfigError
from phantom.limits import AEAD_NONCE_LEN, AEAD_TAG_LEN
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import VirtualClockLoop
from phantom.testing.virtual_time import VirtualTime

__all__ = ["NullAead", "null_aead_provider"]

_TAG: Final = struct.Struct(">III4x")
_SUITE_MARK: Final = {suite: bytes((suite,)) for suite in CipherSuite}


class NullAead:
    """Shape of an AEAD object (``phantom.crypto.aead.Aead``); the tag is three CRC-32: of key and nonce, of associated
    data, of the data."""

    __slots__ = ("_mark",)

    def __init__(self, suite: CipherSuite, key: BytesLike) -> None:
        self._mark = zlib.crc32(key, zlib.crc32(_SUITE_MARK[suite]))

    def _tag(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None) -> bytes:
        return _TAG.pack(
            zlib.crc32(nonce, self._mark), zlib.crc32(associated_data or b"", len(nonce)), zlib.crc32(data, len(data))
        )

    def encrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview
    ) -> int:
        """Copies ``data`` into ``buf`` and puts 16 bytes of checksum behind; the number of bytes written."""
        size = len(data)
        if len(buf) != size + AEAD_TAG_LEN or len(nonce) != AEAD_NONCE_LEN:
            raise ValueError("buffer or nonce of a wrong length")
        buf[size:] = self._tag(nonce, data, associated_data)
        buf[:size] = data
        return size + AEAD_TAG_LEN

    def decrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview
    ) -> int:
        """The inverse; AEAD_FAILURE if key, nonce, associated data or data are not those of the sender."""
        size = len(data) - AEAD_TAG_LEN
        if size < 0:
            raise AEAD_FAILURE
        with memoryview(data) as whole:
            plain, tag = whole[:size], whole[size:]
            if tag != self._tag(nonce, plain, associated_data):
                raise AEAD_FAILURE
            buf[:] = plain
        return size

    def encrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None) -> bytes:
        """The copy and its checksum."""
        out = bytearray(len(data) + AEAD_TAG_LEN)
        self.encrypt_into(nonce, data, associated_data, out)
        return bytes(out)

    def decrypt(self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None) -> bytes:
        """The copy, if the checksum holds."""
        out = bytearray(max(0, len(data) - AEAD_TAG_LEN))
        self.decrypt_into(nonce, data, associated_data, out)
        return bytes(out)


class _NullAeadProvider:
    """Everything but the AEAD comes from a real provider."""

    name: Final = NULL_AEAD

    def __init__(self, real: Provider) -> None:
        self._real = real

    def aead(self, suite: CipherSuite, key: BytesLike) -> NullAead:
        return NullAead(suite, key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def null_aead_provider(runtime: object, real: Provider | None = None) -> Provider:
    """A crypto provider whose packets are readable by everyone; the handshake is that of ``real`` (default: auto).

    ``runtime`` is the :class:`~phantom.testing.SimulatedRuntime` or the
    :class:`~phantom.testing.simulator.VirtualTime` that everything under it will run on; ConfigError for any other.
    """
    if not isinstance(runtime, SimulatedRuntime | VirtualTime):
        raise ConfigError(
            f"the null AEAD protects nothing and runs on simulated time only, not on {type(runtime).__name__}"
        )
    if isinstance(runtime, SimulatedRuntime) and not isinstance(asyncio.get_running_loop(), VirtualClockLoop):
        raise ConfigError("the null AEAD runs on simulated time only, and the clock of this loop is real")
    provider: Provider = _NullAeadProvider(real or get_provider())
    return provider
