"""Watches every seal of a simulated end: no key meets a nonce twice, sequences only rise (wire-native §11.4, §11.5).

It stands between the engine and its AEAD objects, so it sees what is really sealed, whatever the engine believes.
"""

from __future__ import annotations

from typing import Any

from phantom.crypto.aead import Aead, CipherSuite
from phantom.crypto.providers import Provider
from phantom.crypto.wipe import BytesLike
from phantom.testing.simulator.errors import InvariantViolationError

__all__ = ["SealWatch"]

# Key -> nonce up to the sequence (prefix, epoch, stream; in V1 prefix and the upper half of the counter) -> the rest.
_Ledger = dict[bytes, dict[bytes, bytes]]


class _WatchedAead:
    __slots__ = ("_decrypt", "_encrypt", "_last")

    def __init__(self, inner: Aead, last: dict[bytes, bytes]) -> None:
        self._encrypt = inner.encrypt_into
        self._decrypt = inner.decrypt_into
        self._last = last

    def encrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview
    ) -> int:
        head, tail = bytes(nonce[:7]), bytes(nonce[7:])
        before = self._last.get(head)
        if before is not None and tail <= before:
            raise InvariantViolationError(
                "nonce", f"sealed under nonce {head.hex()}{tail.hex()} after {head.hex()}{before.hex()} with one key"
            )
        self._last[head] = tail
        return self._encrypt(nonce, data, associated_data, buf)

    def decrypt_into(
        self, nonce: BytesLike, data: BytesLike, associated_data: BytesLike | None, buf: bytearray | memoryview
    ) -> int:
        return self._decrypt(nonce, data, associated_data, buf)


class SealWatch:
    """A provider around ``inner`` whose AEAD objects raise InvariantViolationError on a nonce that does not rise.

    One ledger for both ends of a session sees a key that both would seal with, too.
    """

    def __init__(self, inner: Provider) -> None:
        self._inner = inner
        self._ledger: _Ledger = {}

    def aead(self, suite: CipherSuite, key: BytesLike) -> _WatchedAead:
        """The inner AEAD object of ``key``, watched; a key made anew continues where it was."""
        return _WatchedAead(self._inner.aead(suite, key), self._ledger.setdefault(bytes((suite,)) + bytes(key), {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
