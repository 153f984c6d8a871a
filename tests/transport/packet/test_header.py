from __future__ import annotations

from dataclasses import replace

import pytest

from phantom.transport.packet.header import MalformedPacket, Packet, decode, encode, encode_header

SESSION = b"\x88" * 32
V1 = Packet(1, SESSION, 1, 2, 0x21, b"x" * 20, 1500)
V2 = Packet(2, SESSION, 0xFFFF, 2**32 - 1, 0xFFFF, b"x" * 20, 0xFFFF, 255, 254, b"ext")


def test_the_v1_image() -> None:
    header = b"\x01" + SESSION + bytes.fromhex("0001000000022105dc")
    assert encode_header(V1) == header
    assert len(header) == 42
    assert encode(V1) == header + bytes.fromhex("00000014") + b"x" * 20 + bytes(4)


def test_the_v2_image() -> None:
    header = b"\x02" + SESSION + bytes.fromhex("fffffffffffffffffffffffe")
    assert encode_header(V2) == header
    assert len(header) == 45
    assert encode(V2) == header + bytes.fromhex("00000014") + b"x" * 20 + bytes.fromhex("00000003") + b"ext"


@pytest.mark.parametrize("packet", [V1, V2, replace(V1, payload=b""), replace(V2, extensions=b"e" * 1024)])
def test_decode_inverts_encode(packet: Packet) -> None:
    frame = encode(packet)
    assert decode(frame) == packet
    parsed = decode(memoryview(frame))
    assert isinstance(parsed.payload, memoryview), "no copy of the payload"
    assert bytes(parsed.payload) == packet.payload


@pytest.mark.parametrize("packet", [V1, V2, replace(V2, payload=b"", extensions=b"")])
def test_every_prefix_and_every_leftover_byte_is_malformed(packet: Packet) -> None:
    frame = encode(packet)
    for n in range(len(frame)):
        with pytest.raises(MalformedPacket):
            decode(frame[:n])
    with pytest.raises(MalformedPacket):
        decode(frame + b"\0")


@pytest.mark.parametrize("version", [0, 3, 255])
def test_an_unknown_version_is_malformed(version: int) -> None:
    with pytest.raises(MalformedPacket, match="version"):
        decode(bytes([version]) + encode(V2)[1:])


@pytest.mark.parametrize("length", [21, 2**31, 2**32 - 1])
def test_a_payload_length_beyond_the_frame_is_malformed(length: int) -> None:
    frame = bytearray(encode(replace(V2, extensions=b"")))
    frame[45:49] = length.to_bytes(4, "big")
    with pytest.raises(MalformedPacket, match="payload_len"):
        decode(bytes(frame))


@pytest.mark.parametrize("ext_len", [1, 2**32 - 1])
def test_an_extension_length_beyond_the_frame_is_malformed(ext_len: int) -> None:
    frame = encode(replace(V2, extensions=b""))[:-4] + ext_len.to_bytes(4, "big")
    with pytest.raises(MalformedPacket, match="ext_len"):
        decode(frame)


def test_more_than_1024_bytes_of_extensions_are_malformed_and_never_sent() -> None:
    with pytest.raises(ValueError, match="1024"):
        encode(replace(V2, extensions=b"e" * 1025))
    frame = encode(replace(V2, extensions=b""))[:-4] + (1025).to_bytes(4, "big") + b"e" * 1025
    with pytest.raises(MalformedPacket, match="ext_len"):
        decode(frame)


@pytest.mark.parametrize(
    ("packet", "change"),
    [
        (V1, {"version": 3}),
        (V1, {"epoch": 1}),
        (V1, {"path_id": 1}),
        (V1, {"flags": 0x100}),
        (V1, {"ack_delay": 0x10000}),
        (V1, {"session_id": b"short"}),
        (V2, {"stream_id": 0x10000}),
        (V2, {"sequence": 2**32}),
        (V2, {"flags": 0x10000}),
        (V2, {"ack_delay": 0x10000}),
        (V2, {"ack_delay": -1}),
        (V2, {"path_id": 256}),
        (V2, {"path_id": -1}),
        (V2, {"epoch": 256}),
    ],
)
def test_a_field_that_does_not_fit_is_not_encoded(packet: Packet, change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        encode(replace(packet, **change))  # type: ignore[arg-type]
