"""WebSocket frames: what is written is read, by us and by an independent library; what breaks the rules is refused."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.transport.legs import websocket_frames as ws
from phantom.transport.legs.websocket_frames import FrameError, FrameReader

KEY = b"\x37\xfa\x21\x3d"
SIZES = st.one_of(st.integers(0, 140), st.sampled_from([125, 126, 127, 128, 65535, 65536, 65537]))


class Taken:
    """What the reader hands on; ``stop_after`` runs it takes no more, ``cap`` bytes a message."""

    def __init__(self, *, stop_after: int = 1 << 30, cap: int = 1 << 30) -> None:
        self.messages: list[bytes] = []
        self.announced: list[int] = []
        self.stop_after = stop_after
        self.cap = cap

    def hand(self, buf: bytearray, view: memoryview, start: int, end: int) -> bool:
        assert 0 <= start < end <= len(buf)
        assert view.obj is buf
        at = start
        while at < end:
            size = struct.unpack_from(">I", buf, at)[0]
            self.messages.append(bytes(view[at + 4 : at + 4 + size]))
            at += 4 + size
        assert at == end, "whole frames only"
        self.stop_after -= 1
        return self.stop_after > 0

    def announce(self, size: int) -> bool:
        self.announced.append(size)
        return size <= self.cap


def written(messages: list[bytes], *, masked: bool, key: bytes = KEY) -> bytes:
    source = b"".join(struct.pack(">I", len(message)) + message for message in messages)
    out = bytearray(len(source) + ws.MASK_OVERHEAD * len(messages) + 8)
    mask: Callable[[int], bytes] | None = (lambda _: key) if masked else None
    end = ws.write_frames(memoryview(source), len(source), out, memoryview(out), 0, mask)
    return bytes(out[:end])


def raw(first: int, payload: bytes = b"", *, masked: bool = True, size: bytes | None = None) -> bytes:
    """One frame with any first byte; ``size``: the length field in other than its proper form."""
    length = len(payload)
    if size is None:
        size = (
            bytes((length,))
            if length < 126
            else b"\x7e" + struct.pack(">H", length)
            if length < 65536
            else b"\x7f" + struct.pack(">Q", length)
        )
    if not masked:
        return bytes((first,)) + size + payload
    return bytes((first, size[0] | 0x80)) + size[1:] + KEY + ws.apply_mask(payload, KEY)


def read(data: bytes, taken: Taken, reader: FrameReader, cuts: list[int] | None = None) -> bytes:
    """Feeds ``data`` in pieces as a leg does: what was not taken stands before the next piece. The bytes left."""
    rest = b""
    for start, end in zip([0, *(cuts or [])], [*(cuts or []), len(data)], strict=True):
        window = bytearray(rest + data[start:end])
        at = reader.read(window, memoryview(window), 0, len(window), taken.hand, taken.announce)
        rest = bytes(window[at:])
    return rest


@given(
    messages=st.lists(SIZES.map(lambda n: bytes(i * 7 & 255 for i in range(n))), max_size=12),
    masked=st.booleans(),
    data=st.data(),
)
def test_what_is_written_is_read(messages: list[bytes], masked: bool, data: st.DataObject) -> None:
    stream = written(messages, masked=masked)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    taken = Taken()
    assert read(stream, taken, FrameReader(masked=masked), cuts) == b""
    assert taken.messages == messages


@given(payload=st.binary(max_size=300), mask=st.binary(min_size=4, max_size=4))
def test_both_ways_of_masking_agree_and_undo_themselves(payload: bytes, mask: bytes) -> None:
    assert ws.pure_mask(payload, mask) == ws.apply_mask(payload, mask)
    assert ws.pure_mask(ws.pure_mask(payload, mask), mask) == payload


@given(messages=st.lists(SIZES.map(bytes), max_size=6), masked=st.booleans())
def test_an_independent_library_reads_what_is_written(messages: list[bytes], masked: bool) -> None:
    from websockets.frames import Frame, Opcode
    from websockets.streams import StreamReader

    stream = StreamReader()
    stream.feed_data(written(messages, masked=masked))
    stream.feed_eof()
    for message in messages:
        found: Frame | None = None
        parser = Frame.parse(stream.read_exact, mask=masked)
        try:
            while True:
                next(parser)
        except StopIteration as end:
            found = end.value
        assert found is not None
        assert (found.opcode, found.fin, bytes(found.data)) == (Opcode.BINARY, True, message)
    assert not stream.buffer


def test_a_key_of_zeros_leaves_the_data_as_they_are() -> None:
    assert written([b"as it is"], masked=True, key=bytes(4)) == b"\x82\x88" + bytes(4) + b"as it is"
    taken = Taken()
    assert read(written([b"as it is"], masked=True, key=bytes(4)), taken, FrameReader(masked=True)) == b""
    assert taken.messages == [b"as it is"]


# --- the rare frames --------------------------------------------------------------------------------------------------


def test_fragments_become_one_message_with_control_frames_in_between() -> None:
    stream = (
        raw(0x02, b"one ")
        + raw(0x89, b"are you there?")
        + raw(0x00, b"two ")
        + raw(0x8A, b"an answer to nothing")
        + raw(0x00)
        + raw(0x80, b"three")
        + raw(0x82, b"next")
    )
    for cuts in ([], list(range(1, len(stream)))):
        taken, reader = Taken(), FrameReader(masked=True)
        assert read(stream, taken, reader, cuts) == b""
        assert taken.messages == [b"one two three", b"next"]
        assert reader.ping == b"are you there?"


def test_only_the_latest_ping_is_to_be_answered() -> None:
    reader = FrameReader(masked=True)
    read(raw(0x89, b"first") + raw(0x89, b"last"), Taken(), reader)
    assert reader.ping == b"last"


def test_text_is_ignored_until_there_is_too_much_of_it() -> None:
    taken, reader = Taken(), FrameReader(masked=True)
    text = raw(0x01, b"he") + raw(0x00, b"ll") + raw(0x80, b"o")
    assert read(text * limits.MAX_WEBSOCKET_TEXTS + raw(0x82, b"data") + text, taken, reader) == b""
    assert (taken.messages, reader.texts) == ([b"data"], 1)
    with pytest.raises(FrameError) as caught:
        read(raw(0x81) * limits.MAX_WEBSOCKET_TEXTS, taken, reader)
    assert caught.value.code == 1003


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", 1005), (b"\x03\xe8", 1000), (b"\x03\xe9going away", 1001), (b"\x0b\xb8", 3000), (b"\x13\x87", 4999)],
)
def test_a_close_ends_the_reading(payload: bytes, code: int) -> None:
    taken, reader = Taken(), FrameReader(masked=True)
    left = read(raw(0x82, b"before") + raw(0x88, payload) + raw(0x82, b"after"), taken, reader)
    assert (taken.messages, reader.closed) == ([b"before"], code)
    assert left == raw(0x82, b"after")


VIOLATIONS = {
    "unmasked client": (raw(0x82, b"x", masked=False), True, 1002),
    "masked server": (raw(0x82, b"x"), False, 1002),
    "first reserved bit": (raw(0xC2, b"x"), True, 1002),
    "second reserved bit": (raw(0xA2, b"x"), True, 1002),
    "third reserved bit": (raw(0x92, b"x"), True, 1002),
    "reserved bit of a ping": (raw(0xC9, b"x"), True, 1002),
    "data opcode 3": (raw(0x83), True, 1002),
    "data opcode 7": (raw(0x87), True, 1002),
    "control opcode 11": (raw(0x8B), True, 1002),
    "control opcode 15": (raw(0x8F), True, 1002),
    "fragmented ping": (raw(0x09, b"x"), True, 1002),
    "long ping": (raw(0x89, bytes(126)), True, 1002),
    "long close": (raw(0x88, bytes(126)), True, 1002),
    "continuation of nothing": (raw(0x80, b"x"), True, 1002),
    "continuation after the end": (raw(0x02) + raw(0x80) + raw(0x80), True, 1002),
    "message within a message": (raw(0x02, b"x") + raw(0x82, b"y"), True, 1002),
    "text within a message": (raw(0x02, b"x") + raw(0x81, b"y"), True, 1002),
    "message within a text": (raw(0x01, b"x") + raw(0x82, b"y"), True, 1002),
    "16-bit length for a short one": (raw(0x82, b"x", size=b"\x7e\0\x01"), True, 1002),
    "64-bit length for a short one": (raw(0x82, b"x", size=b"\x7f" + bytes(7) + b"\x01"), True, 1002),
    "64-bit length for a middling one": (raw(0x82, bytes(300), size=b"\x7f" + bytes(6) + b"\x01\x2c"), True, 1002),
    "negative length": (raw(0x82, b"x", size=b"\x7f\x80" + bytes(7)), True, 1002),
    "close with one byte": (raw(0x88, b"\x03"), True, 1002),
    "close 999": (raw(0x88, struct.pack(">H", 999)), True, 1002),
    "close 1004": (raw(0x88, struct.pack(">H", 1004)), True, 1002),
    "close 1005": (raw(0x88, struct.pack(">H", 1005)), True, 1002),
    "close 1006": (raw(0x88, struct.pack(">H", 1006)), True, 1002),
    "close 1015": (raw(0x88, struct.pack(">H", 1015)), True, 1002),
    "close 2999": (raw(0x88, struct.pack(">H", 2999)), True, 1002),
    "close 5000": (raw(0x88, struct.pack(">H", 5000)), True, 1002),
    "close with a reason that is no text": (raw(0x88, b"\x03\xe8\xff"), True, 1007),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_of_rfc_6455_is_refused_with_its_code(name: str) -> None:
    data, masked, code = VIOLATIONS[name]
    taken, reader = Taken(), FrameReader(masked=masked)
    with pytest.raises(FrameError) as caught:
        read(raw(0x82, b"before", masked=masked) + data, taken, reader)
    assert caught.value.code == code
    assert b"y" not in taken.messages


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_long_message_is_announced_before_its_body_is_there() -> None:
    head = raw(0x82, bytes(200_000))[:14]
    taken = Taken()
    assert read(raw(0x82, b"whole") + head, taken, FrameReader(masked=True)) == head
    assert (taken.messages, taken.announced) == ([b"whole"], [200_000])
    short = raw(0x82, bytes(limits.HANDSHAKE_FRAME_CAP))[:20]
    assert read(short, taken, FrameReader(masked=True)) == short
    assert taken.announced == [200_000]


def test_fragments_are_announced_with_all_that_they_would_become() -> None:
    taken, reader = Taken(cap=100_000), FrameReader(masked=True)
    piece = raw(0x02, bytes(60_000))
    more = raw(0x00, bytes(60_000))
    assert read(piece + more[:14], taken, reader) == more[:14]
    assert taken.announced == [120_000]
    assert read(more, taken, reader) == more, "it is not taken: the receiver has ended"
    assert taken.messages == []


def test_reading_stops_where_nothing_more_can_be_taken() -> None:
    stream = raw(0x82, b"one") + raw(0x89, b"ping") + raw(0x82, b"two")
    taken, reader = Taken(stop_after=1), FrameReader(masked=True)
    assert read(stream, taken, reader) == stream[len(raw(0x82, b"one")) :]
    assert (taken.messages, reader.ping) == ([b"one"], None)
    taken, reader = Taken(stop_after=1), FrameReader(masked=True)
    assert read(raw(0x02, b"o") + raw(0x80, b"ne") + raw(0x82, b"two"), taken, reader) == raw(0x82, b"two")
    taken, reader = Taken(stop_after=1), FrameReader(masked=False)
    short = raw(0x82, b"one", masked=False)
    assert read(short + raw(0x82, b"two", masked=False), taken, reader) == raw(0x82, b"two", masked=False)
    assert taken.messages == [b"one"]
    taken, reader = Taken(stop_after=1), FrameReader(masked=False)
    shorts = raw(0x82, b"t", masked=False) + raw(0x82, b"u", masked=False)
    assert read(raw(0x82, bytes(200), masked=False) + shorts, taken, reader) == shorts


@given(data=st.binary(max_size=400), masked=st.booleans())
def test_garbage_is_read_or_refused(data: bytes, masked: bool) -> None:
    taken, reader = Taken(), FrameReader(masked=masked)
    with contextlib.suppress(FrameError):
        read(data, taken, reader, [len(data) // 2])
    assert sum(map(len, taken.messages)) <= len(data)


@pytest.mark.parametrize("masked", [True, False])
def test_control_frames_are_written_in_the_form_of_their_side(masked: bool) -> None:
    mask = (lambda _: KEY) if masked else None
    reader = FrameReader(masked=masked)
    read(ws.control_frame(ws.PING, b"hello", mask), Taken(), reader)
    assert reader.ping == b"hello"
    read(ws.close_frame(1001, mask), Taken(), reader)
    assert reader.closed == 1001
