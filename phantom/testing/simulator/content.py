"""What simulated applications send: bytes that follow from their place, so that a reader knows what must come."""

from __future__ import annotations

from typing import Final

__all__ = ["content", "matches"]

# A prime period: no shift by a segment, a window or a message looks like the real place.
_PERIOD: Final = 8191
_BLOCK: Final = bytes((i * 167 + (i >> 8) * 59 + (i * i >> 5)) & 0xFF for i in range(_PERIOD)) * 9
_SPAN: Final = len(_BLOCK) - _PERIOD


def content(salt: int, offset: int, size: int) -> bytes:
    """``size`` bytes of the endless sequence ``salt`` from ``offset`` on."""
    start = (offset + salt * 1031) % _PERIOD
    if size <= _SPAN:
        return _BLOCK[start : start + size]
    parts = []
    while size:
        piece = min(size, _SPAN)
        parts.append(_BLOCK[start : start + piece])
        start = (start + piece) % _PERIOD
        size -= piece
    return b"".join(parts)


def matches(salt: int, offset: int, data: bytes) -> bool:
    """Are these the bytes of the sequence ``salt`` from ``offset`` on?"""
    return data == content(salt, offset, len(data))
