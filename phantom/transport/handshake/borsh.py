"""The Borsh subset of the handshake (wire-native §0.6): little-endian, no padding, nothing left over.

Writing is one ``struct`` call or a concatenation at the place of use; only reading needs care, and ``Reader`` takes it.
"""

from __future__ import annotations

import struct
from typing import Final

from phantom.errors import SerializationError

__all__ = ["Reader", "option", "vec"]

_U32: Final = struct.Struct("<I")


def vec(data: bytes) -> bytes:
    """``Vec<u8>``: length as u32le, then the bytes."""
    return _U32.pack(len(data)) + data


def option(body: bytes | None) -> bytes:
    """``Option<T>`` of an already encoded T."""
    return b"\0" if body is None else b"\1" + body


class Reader:
    """Reads values off the front of one frame; every failure is a ``SerializationError``.

    Lengths are compared with what is there before anything is copied. Not for sharing between tasks.
    """

    __slots__ = ("_at", "_frame")

    def __init__(self, frame: bytes, at: int = 0) -> None:
        self._frame = frame
        self._at = at

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        end = self._at + length
        if end > len(self._frame):
            raise SerializationError(f"handshake message truncated at byte {len(self._frame)}")
        data = self._frame[self._at : end]
        self._at = end
        return data

    def u8(self) -> int:
        """One byte as a number."""
        return self.take(1)[0]

    def flag(self) -> bool:
        """A bool, or the tag of an option: 0 or 1 and nothing else."""
        value = self.u8()
        if value > 1:
            raise SerializationError(f"handshake message: {value} where only 0 or 1 may stand")
        return value == 1

    def sized(self, head: int, body: int) -> bytes:
        """``head`` raw bytes and a ``Vec<u8>`` of exactly ``body`` bytes, as they stand (head || length || body)."""
        data = self.take(head + _U32.size + body)
        (length,) = _U32.unpack_from(data, head)
        if length != body:
            raise SerializationError(f"handshake message: a field of {length} bytes instead of {body}")
        return data

    def optional(self, length: int) -> bytes | None:
        """``Option<[u8; length]>``."""
        return self.take(length) if self.flag() else None

    def end(self) -> None:
        """Refuse anything left over."""
        if self._at != len(self._frame):
            raise SerializationError(f"handshake message: {len(self._frame) - self._at} bytes too many")
