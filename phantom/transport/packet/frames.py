"""Plaintext codecs: SACK, WINDOW_UPDATE, COALESCED, padding, CONTROL (wire-native §14.4, §14.6, §14.7, §15).

Decoders take a buffer and the bounds of the plaintext in it, copy nothing but what they deliver, and raise only
MalformedFrame; the caller drops the packet and counts it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from phantom.crypto.wipe import BytesLike
from phantom.limits import MAX_COALESCED, MAX_SACK_RANGES

__all__ = [
    "MalformedFrame",
    "decode_coalesced",
    "decode_control",
    "decode_sack",
    "decode_window",
    "encode_close",
    "encode_coalesced",
    "encode_sack",
    "encode_window",
    "pad",
    "pade",
    "trailer_length",
    "unpad",
]

CLOSE_SUBTYPE: Final = 0x01
IGNORED: Final = -1
V2_OVERHEAD: Final = 69  # bytes a packet adds to its plaintext
PAD_FIELD: Final = 2

_U16: Final = struct.Struct(">H")
_U32_MAX: Final = 2**32 - 1
_WINDOW: Final = struct.Struct(">Q")
_SACK: Final = struct.Struct(">IIHI")  # largest_acked, ack_delay_us, range_count, first_len
_RANGE: Final = struct.Struct(">II")  # gap, len
_CLOSE: Final = struct.Struct(">BH")


class MalformedFrame(ValueError):  # noqa: N818 - a verdict on the peer's bytes, not an error of ours
    """The plaintext is not what its flags announce."""


# --- SACK (§14.4) ---------------------------------------------------------------------------------------------------


def encode_sack(cursor: int, islands: Sequence[tuple[int, int]], ack_delay_us: int) -> bytes:
    """SACK of all indices below ``cursor`` and of the inclusive ranges ``islands``.

    Islands ascend, lie above the cursor and neither touch it nor each other. Of more than 32 ranges the 31 highest and
    the lowest are sent. ``ack_delay_us`` saturates at u32. Raises ValueError if there is nothing to acknowledge.
    """
    delay = min(ack_delay_us, _U32_MAX)
    if not islands:
        if cursor <= 0:
            raise ValueError("nothing to acknowledge")
        return _SACK.pack(cursor - 1, delay, 1, cursor - 1)
    ranges = islands if cursor <= 0 else [(0, cursor - 1), *islands]
    if len(ranges) > MAX_SACK_RANGES:
        ranges = [ranges[0], *ranges[1 - MAX_SACK_RANGES :]]
    low, high = ranges[-1]
    out = [_SACK.pack(high, delay, len(ranges), high - low)]
    for below, top in reversed(ranges[:-1]):
        out.append(_RANGE.pack(low - 1 - top, top - below))
        low = below
    return b"".join(out)


def decode_sack(data: BytesLike, start: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    """``(ack_delay_us, ranges)``; ranges are inclusive (low, high), descend and neither touch nor overlap.

    Raises MalformedFrame for no range, more than 32, a gap of 0, an underflow, a short or a longer plaintext.
    """
    if end - start < _SACK.size:
        raise MalformedFrame("a SACK is at least 14 bytes")
    high, delay, count, width = _SACK.unpack_from(data, start)
    if not 1 <= count <= MAX_SACK_RANGES or end - start != _SACK.size + _RANGE.size * (count - 1):
        raise MalformedFrame("range_count does not fit")
    low = high - width
    ranges = [(low, high)]
    for at in range(start + _SACK.size, end, _RANGE.size):
        gap, width = _RANGE.unpack_from(data, at)
        high = low - 1 - gap
        low = high - width
        if gap == 0:
            raise MalformedFrame("ranges touch")
        ranges.append((low, high))
    if low < 0:  # ranges descend, so the last one is the lowest
        raise MalformedFrame("a range below index 0")
    return delay, ranges


# --- WINDOW_UPDATE (§14.6) ------------------------------------------------------------------------------------------


def encode_window(limit: int) -> bytes:
    """The 8 bytes of a cumulative limit, in reliable application bytes since the start of the stream."""
    return _WINDOW.pack(limit)


def decode_window(data: BytesLike, start: int, end: int) -> int:
    """The cumulative limit; MalformedFrame unless there are exactly 8 bytes."""
    if end - start != _WINDOW.size:
        raise MalformedFrame("a window update is 8 bytes")
    return int(_WINDOW.unpack_from(data, start)[0])


# --- COALESCED (§14.7) ----------------------------------------------------------------------------------------------


def encode_coalesced(parts: Sequence[BytesLike]) -> bytes:
    """A bundle of at most 256 payloads of at most 65535 bytes each; ValueError beyond that."""
    if len(parts) > MAX_COALESCED or any(len(part) > 0xFFFF for part in parts):
        raise ValueError("a bundle holds at most 256 payloads of at most 65535 bytes")
    out: list[BytesLike] = [_U16.pack(len(parts))]
    for part in parts:
        out += (_U16.pack(len(part)), part)
    return b"".join(out)


def decode_coalesced(data: BytesLike, start: int, end: int) -> list[bytes]:
    """The payloads in order, empty ones left out; MalformedFrame rejects the whole bundle."""
    at = start + _U16.size
    if at > end:
        raise MalformedFrame("a bundle has a count")
    count = _U16.unpack_from(data, start)[0]
    if count > MAX_COALESCED:
        raise MalformedFrame("more than 256 payloads")
    parts = []
    for _ in range(count):
        begin = at + _U16.size
        if begin > end:
            raise MalformedFrame("fewer payloads than counted")
        at = begin + _U16.unpack_from(data, at)[0]
        if at > end:
            raise MalformedFrame("a payload beyond the bundle")
        if at > begin:
            parts.append(bytes(data[begin:at]))
    if at != end:
        raise MalformedFrame("bytes behind the last payload")
    return parts


# --- padding (§15.4) ------------------------------------------------------------------------------------------------


def pade(length: int) -> int:
    """``length`` rounded up to its PADÉ bucket: the mantissa keeps as many bits as the exponent has digits."""
    if length <= 2:
        return length
    exponent = length.bit_length() - 1
    step = 1 << max(exponent - exponent.bit_length(), 0)
    return (length + step - 1) & -step


def trailer_length(inner_length: int, max_shaped_wire: int) -> int:
    """Bytes of the padding trailer for an inner plaintext; 0 means that the packet is sent unpadded, PADDED clear."""
    wire = inner_length + V2_OVERHEAD
    target = min(pade(wire + PAD_FIELD), max_shaped_wire)
    return target - wire if target >= wire + PAD_FIELD else 0


def pad(inner: BytesLike, max_shaped_wire: int) -> bytes | None:
    """The padded plaintext, or None if the packet is to be sent unpadded."""
    trailer = trailer_length(len(inner), max_shaped_wire)
    if not trailer:
        return None
    return b"".join((inner, bytes(trailer - PAD_FIELD), _U16.pack(trailer - PAD_FIELD)))


def unpad(data: BytesLike, start: int, end: int) -> int:
    """End of the inner plaintext of a PADDED packet; MalformedFrame if the trailer is cut. The fill is not checked."""
    field = end - PAD_FIELD
    if field < start:
        raise MalformedFrame("no padding trailer")
    inner_end = field - int(_U16.unpack_from(data, field)[0])
    if inner_end < start:
        raise MalformedFrame("more padding than plaintext")
    return inner_end


# --- CONTROL (§15.1) ------------------------------------------------------------------------------------------------


def encode_close(code: int) -> bytes:
    """The CLOSE frame for an error code (0 = normal end), unpadded."""
    return _CLOSE.pack(CLOSE_SUBTYPE, code) if code else bytes((CLOSE_SUBTYPE,))


def decode_control(data: BytesLike, start: int, end: int) -> int:
    """The code of a CLOSE, 0 if it has none or a body of another length; -1 for everything that is to be dropped."""
    if end <= start or data[start] != CLOSE_SUBTYPE:
        return IGNORED
    return int(_CLOSE.unpack_from(data, start)[1]) if end - start == _CLOSE.size else 0
