"""The packet container, V1 and V2 (wire-native §10.1-10.3).

``header || payload_len u32be || payload || ext_len u32be || extensions``; the header starts with the version byte and
``session_id``. This is the general codec for what is rare: other epochs, extensions, diagnosis, tests.
``protection`` packs and parses the common packet itself, with the same two structs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from phantom.limits import MAX_EXTENSIONS, SESSION_ID_LEN, V1_HEADER_LEN, V2_HEADER_LEN, VERSION_1, VERSION_2

__all__ = ["LEN_FIELD", "V1_IMAGE", "V2_IMAGE", "MalformedPacket", "Packet", "decode", "encode", "encode_header"]

# version||session_id, stream_id, sequence, flags, ack_delay, payload_len
V1_IMAGE: Final = struct.Struct(">33sHIBHI")
# version||session_id, stream_id, sequence, flags<<16 | ack_delay, epoch<<8 | path_id, payload_len
V2_IMAGE: Final = struct.Struct(">33sHIIHI")
LEN_FIELD: Final = 4


class MalformedPacket(ValueError):  # noqa: N818 - a verdict on the peer's bytes, not an error of ours
    """The frame is no packet container; counted as ``malformed``, never raised to applications."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One container. ``payload`` is ciphertext with its tag; V1 has ``epoch`` and ``path_id`` 0."""

    version: int
    session_id: bytes
    stream_id: int
    sequence: int
    flags: int
    payload: bytes | memoryview
    ack_delay: int = 0
    epoch: int = 0
    path_id: int = 0
    extensions: bytes = b""


def _image(packet: Packet) -> bytes:
    if len(packet.session_id) != SESSION_ID_LEN:
        raise ValueError("session_id is 32 bytes")
    ident = bytes((packet.version,)) + packet.session_id
    size = len(packet.payload)
    try:
        if packet.version == VERSION_1:
            if packet.epoch or packet.path_id:
                raise ValueError("a V1 packet has neither epoch nor path_id")
            return V1_IMAGE.pack(ident, packet.stream_id, packet.sequence, packet.flags, packet.ack_delay, size)
        if packet.version != VERSION_2:
            raise ValueError("no such packet version")
        if not (0 <= packet.ack_delay <= 0xFFFF and 0 <= packet.path_id <= 0xFF):
            raise ValueError("ack_delay or path_id is out of range")
        word, place = packet.flags << 16 | packet.ack_delay, packet.epoch << 8 | packet.path_id
        return V2_IMAGE.pack(ident, packet.stream_id, packet.sequence, word, place, size)
    except struct.error as e:
        raise ValueError(f"a packet field is out of range: {e}") from None


def encode_header(packet: Packet) -> bytes:
    """The 42 or 45 bytes of the header image; followed by the extensions it is the AAD (wire-native §11.2).

    Raises ValueError if a field does not fit.
    """
    return _image(packet)[:-LEN_FIELD]


def encode(packet: Packet) -> bytes:
    """The whole container. Raises ValueError if a field does not fit."""
    if len(packet.extensions) > MAX_EXTENSIONS:
        raise ValueError("more than 1024 bytes of extensions")
    ext_len = len(packet.extensions).to_bytes(LEN_FIELD, "big")
    return b"".join((_image(packet), packet.payload, ext_len, packet.extensions))


def decode(frame: bytes | memoryview) -> Packet:
    """Parse one frame; ``payload`` is a slice of ``frame`` (no copy for a memoryview).

    Raises MalformedPacket for an unknown version, a short frame, a length beyond the frame, more than 1024 bytes of
    extensions, or a leftover byte.
    """
    size = len(frame)
    version = frame[0] if size else 0
    if version == VERSION_2:
        at = V2_HEADER_LEN + LEN_FIELD
    elif version == VERSION_1:
        at = V1_HEADER_LEN + LEN_FIELD
    else:
        raise MalformedPacket("unknown version")
    if size < at + LEN_FIELD:
        raise MalformedPacket("shorter than the fixed parts")
    epoch = path_id = 0
    if version == VERSION_2:
        ident, stream_id, sequence, word, place, payload_len = V2_IMAGE.unpack_from(frame)
        flags, ack_delay = word >> 16, word & 0xFFFF
        epoch, path_id = place >> 8, place & 0xFF
    else:
        ident, stream_id, sequence, flags, ack_delay, payload_len = V1_IMAGE.unpack_from(frame)
    tail = at + payload_len
    if tail > size - LEN_FIELD:
        raise MalformedPacket("payload_len beyond the frame")
    ext = tail + LEN_FIELD
    ext_len = int.from_bytes(frame[tail:ext], "big")
    if ext_len > MAX_EXTENSIONS or ext + ext_len != size:
        raise MalformedPacket("ext_len does not fit the frame")
    return Packet(
        version, ident[1:], stream_id, sequence, flags, frame[at:tail], ack_delay, epoch, path_id, bytes(frame[ext:])
    )
