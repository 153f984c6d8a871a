"""The control stream's messages (wire-native §15.6): codec, framing, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.errors import ProtocolViolationError
from phantom.transport.packet.counters import DropCounters
from phantom.transport.session.control import (
    AuthResult,
    ClientAuth,
    ControlAssembler,
    ControlMessage,
    StreamReset,
    StreamStop,
    encode_auth_result,
    encode_client_auth,
    encode_stream_reset,
    encode_stream_stop,
)

KEY, SIGNATURE = bytes(range(248)) * 8, bytes(3373)
AUTH = ClientAuth(KEY, SIGNATURE)


def assembler() -> ControlAssembler:
    return ControlAssembler(DropCounters())


def unassigned(kind: int, size: int = 0) -> bytes:
    return (1 + size).to_bytes(4, "big") + bytes((kind,)) + b"\x5a" * size


def encoded(message: ControlMessage) -> bytes:
    match message:
        case StreamReset():
            return encode_stream_reset(*message)
        case StreamStop():
            return encode_stream_stop(*message)
        case ClientAuth():
            return encode_client_auth(*message)
    return encode_auth_result(*message)


u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
messages = st.one_of(
    st.builds(StreamReset, u16, u32, u16),
    st.builds(StreamStop, u16, u16),
    st.just(AUTH),
    st.builds(AuthResult, st.integers(0, 255)),
)


@pytest.mark.parametrize(
    ("message", "image"),
    [
        (StreamReset(3, 17, 42), "0000000901000300000011002a"),
        (StreamStop(4, 7), "000000050200040007"),
        (AuthResult(0), "000000020400"),
        (AuthResult(2), "000000020402"),
    ],
)
def test_messages_have_the_bytes_of_appendix_b(message: ControlMessage, image: str) -> None:
    assert encoded(message) == bytes.fromhex(image)
    assert assembler().feed(bytes.fromhex(image)) == [message]


def test_client_auth_is_the_flat_key_and_the_flat_signature() -> None:
    image = encoded(AUTH)
    assert len(image) == 5362
    assert image == (5358).to_bytes(4, "big") + b"\x03" + KEY + SIGNATURE
    assert assembler().feed(image) == [AUTH]
    assert repr(AUTH) == "ClientAuth(...)"


@given(st.lists(st.one_of(messages, st.tuples(st.sampled_from((0, 5, 127, 255)), st.integers(0, 700)))), st.data())
def test_any_segmentation_gives_the_same_messages(sent: list[object], data: st.DataObject) -> None:
    stream = b"".join(unassigned(*m) if type(m) is tuple else encoded(m) for m in sent)  # type: ignore[arg-type]
    expected = [m for m in sent if type(m) is not tuple]
    counters = DropCounters()
    control = ControlAssembler(counters)
    got: list[ControlMessage] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, min(len(stream) - at, 3000)))
        got += control.feed(memoryview(stream)[at : at + step])
        at += step
        assert control.consumed == at
        assert control.charged <= 5361 + limits.ITEM_OVERHEAD
    assert got == expected
    assert control.charged == 0
    assert counters.snapshot() == dict(DropCounters().snapshot(), unknown_control=len(sent) - len(expected))


@pytest.mark.parametrize("step", [1, 7, 16388])
def test_unassigned_types_are_skipped_and_counted_without_being_kept(step: int) -> None:
    counters = DropCounters()
    control = ControlAssembler(counters)
    stream = unassigned(0x7F, limits.CONTROL_MESSAGE_MAX - 1) + encode_stream_stop(4, 7)
    got: list[ControlMessage] = []
    for at in range(0, len(stream), step):
        got += control.feed(stream[at : at + step])
        assert control.charged <= 9 + limits.ITEM_OVERHEAD
    assert got == [StreamStop(4, 7)]
    assert counters.unknown_control == 1


@pytest.mark.parametrize("length", [0, limits.CONTROL_MESSAGE_MAX + 1, 0xFFFFFFFF, 0x09000000])
def test_a_length_out_of_bounds_is_refused_before_its_type_is_there(length: int) -> None:
    control = assembler()
    assert control.feed(length.to_bytes(4, "big")[:3]) == []
    with pytest.raises(ProtocolViolationError, match="must have 1 to 16384"):
        control.feed(length.to_bytes(4, "big")[3:])


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("off", [-1, 1])
def test_a_body_of_the_wrong_size_is_refused_before_it_is_there(kind: int, off: int) -> None:
    length = {1: 9, 2: 5, 3: 5358, 4: 2}[kind] + off
    control = assembler()
    assert control.feed(length.to_bytes(4, "big")) == []
    with pytest.raises(ProtocolViolationError, match=f"type {kind} with {length} bytes"):
        control.feed(bytes((kind,)))


def test_a_good_message_in_front_does_not_save_a_bad_one() -> None:
    with pytest.raises(ProtocolViolationError):
        assembler().feed(encode_stream_stop(61, 0) + bytes(4))


def test_the_largest_message_is_allowed_and_one_byte_more_is_not() -> None:
    assert assembler().feed(unassigned(9, limits.CONTROL_MESSAGE_MAX - 1)) == []
    with pytest.raises(ProtocolViolationError):
        assembler().feed(unassigned(9, limits.CONTROL_MESSAGE_MAX))


def test_an_unfinished_message_is_charged_until_it_is_dropped() -> None:
    control = assembler()
    assert control.charged == 0
    control.feed(encoded(AUTH)[:1000])
    assert control.charged == 1000 + limits.ITEM_OVERHEAD
    control.drop()
    assert control.charged == 0
