from __future__ import annotations

import pytest

from phantom.errors import SerializationError
from phantom.transport.handshake.borsh import Reader, option, vec


def test_writes_the_subset_of_0_6() -> None:
    assert vec(b"abc") == b"\3\0\0\0abc"
    assert vec(b"") == b"\0\0\0\0"
    assert option(None) == b"\0"
    assert option(b"x") == b"\1x"


def test_reads_what_it_wrote() -> None:
    reader = Reader(b"\7" + b"\1" + b"\0" + option(b"ab") + option(None) + b"hh" + vec(b"xyz"))
    assert reader.u8() == 7
    assert reader.flag() is True
    assert reader.flag() is False
    assert reader.optional(2) == b"ab"
    assert reader.optional(2) is None
    assert reader.sized(2, 3) == b"hh" + vec(b"xyz")
    reader.end()


@pytest.mark.parametrize("tag", [2, 3, 255])
def test_a_bool_or_tag_is_0_or_1(tag: int) -> None:
    with pytest.raises(SerializationError):
        Reader(bytes((tag,))).flag()
    with pytest.raises(SerializationError):
        Reader(bytes((tag, 0, 0))).optional(2)


@pytest.mark.parametrize("frame", [b"", b"\1", b"\1a"])
def test_truncation_is_refused(frame: bytes) -> None:
    with pytest.raises(SerializationError):
        Reader(frame).optional(2)


@pytest.mark.parametrize("length", [2, 4, 0xFFFFFFFF])
def test_a_length_field_must_have_its_one_value(length: int) -> None:
    with pytest.raises(SerializationError):
        Reader(b"h" + length.to_bytes(4, "little") + b"xyz").sized(1, 3)


def test_nothing_may_be_left_over() -> None:
    reader = Reader(b"ab")
    reader.take(1)
    with pytest.raises(SerializationError, match="1 bytes too many"):
        reader.end()
