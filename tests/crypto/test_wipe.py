from __future__ import annotations

import array
import ctypes

import pytest

from phantom.crypto.wipe import wipe


def test_the_memory_itself_is_overwritten() -> None:
    secret = bytearray(b"secret" * 10)
    memory = (ctypes.c_char * len(secret)).from_buffer(secret)
    wipe(secret)
    assert memory.raw == bytes(60)
    assert secret == bytes(60)


def test_several_buffers_and_parts_of_one() -> None:
    first, second = bytearray(b"aaaa"), bytearray(b"bbbb")
    wipe(first, memoryview(second)[1:3])
    assert (first, second) == (bytes(4), b"b\0\0b")
    wipe()
    wipe(bytearray())


def test_a_view_of_larger_items() -> None:
    words = array.array("I", [1, 2, 3])
    wipe(memoryview(words))
    assert words.tolist() == [0, 0, 0]


def test_what_cannot_be_overwritten_is_an_error() -> None:
    with pytest.raises(TypeError):
        wipe(memoryview(b"constant"))
