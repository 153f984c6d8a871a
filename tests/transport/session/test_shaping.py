"""Traffic shaping (wire-native §15.4, §15.5): padding, cover, jitter."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.crypto.rng import SYSTEM_RNG
from phantom.transport.packet import frames
from phantom.transport.session.shaping import JitterQueue, Shaper

U32 = struct.Struct(">I")


class Scripted:
    """Gives one uniform number after another."""

    def __init__(self, *shares: float) -> None:
        self.shares = list(shares)

    def fill_bytes(self, n: int) -> bytes:
        assert n == 4
        return U32.pack(int(self.shares.pop(0) * 2**32))


def is_full(queue: JitterQueue) -> bool:
    return queue.full


def framed(*bodies: bytes) -> memoryview:
    return memoryview(bytearray(b"".join(U32.pack(len(body)) + body for body in bodies)))


def drain(queue: JitterQueue, now: float, cap: int = 1 << 20) -> bytes:
    buffer = bytearray(cap)
    return bytes(buffer[: queue.pop_into(memoryview(buffer), 0, cap, now)])


# --- padding ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 70_000), st.sampled_from((limits.MAX_SHAPED_WIRE_UDP, limits.MAX_SHAPED_WIRE_PIPE)))
def test_padded_packets_have_the_size_of_a_bucket_or_are_not_padded(length: int, wire: int) -> None:
    trailer = Shaper(pade=True, cover_interval=None, shaped_wire=wire).trailer(length)
    packet = length + 69 + trailer
    if trailer:
        assert trailer >= 2
        assert packet == min(frames.pade(length + 69 + 2), wire)
        assert packet <= wire
    else:
        assert min(frames.pade(length + 69 + 2), wire) < length + 69 + 2


def test_without_the_policy_only_what_is_always_padded_is() -> None:
    shaper = Shaper(pade=False, cover_interval=None, shaped_wire=65536)
    assert shaper.trailer(100) == 0
    assert shaper.trailer(3, always=True) == 80 - 72  # a CLOSE with its code


# --- cover ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [None, 0.0])
def test_cover_is_off_unless_an_interval_is_given(interval: float | None) -> None:
    assert Shaper(pade=True, cover_interval=interval, shaped_wire=65536).cover_at(10.0) is None


def test_cover_is_due_when_nothing_else_left_for_so_long() -> None:
    assert Shaper(pade=False, cover_interval=0.5, shaped_wire=65536).cover_at(10.0) == 10.5


# --- jitter -----------------------------------------------------------------------------------------------------------


def test_each_frame_waits_its_random_time() -> None:
    queue = JitterQueue(0.1, Scripted(0.5))
    window = framed(b"one")
    queue.push(window, 0, len(window), 1.0)
    assert queue.next_at() == 1.05
    assert drain(queue, 1.049) == b""
    assert drain(queue, 1.05) == bytes(window)
    assert queue.next_at() is None
    assert queue.size == 0


def test_a_frame_with_a_shorter_wait_does_not_overtake() -> None:
    queue = JitterQueue(0.1, Scripted(1 - 2**-32, 0.0, 0.5))
    window = framed(b"first", b"second")
    queue.push(window, 0, len(window), 0.0)
    third = framed(b"third")
    queue.push(third, 0, len(third), 0.01)
    assert drain(queue, 0.06) == b""
    assert drain(queue, 0.1) == bytes(window) + bytes(third)


def test_frames_leave_as_far_as_they_fit() -> None:
    queue = JitterQueue(0.1, Scripted(0.0, 0.0))
    window = framed(b"12345678", b"abcdefgh")
    queue.push(window, 0, len(window), 0.0)
    assert drain(queue, 1.0, cap=11) == b""
    assert drain(queue, 1.0, cap=23) == bytes(window[:12])
    assert queue.size == 12
    assert drain(queue, 1.0) == bytes(window[12:])


def test_what_waits_is_a_copy_and_bounded() -> None:
    queue = JitterQueue(0.1, SYSTEM_RNG)
    window = framed(bytes(limits.LEG_QUEUE_CAP - 5))
    expected = bytes(window)
    queue.push(window, 0, len(window), 0.0)
    assert not is_full(queue)
    window[:] = bytes(len(window))
    small = framed(b"")
    queue.push(small, 0, 4, 0.0)
    assert is_full(queue)
    assert drain(queue, 0.1) == expected + bytes(small)
    assert not is_full(queue)


@given(
    st.lists(st.tuples(st.floats(0, 0.05), st.lists(st.binary(max_size=40), max_size=4)), max_size=30),
    st.integers(50, 200),
)
def test_jitter_never_reorders_and_never_holds_longer_than_it_says(
    steps: list[tuple[float, list[bytes]]], cap: int
) -> None:
    queue, now = JitterQueue(0.02, SYSTEM_RNG), 0.0
    sent, got = b"", b""
    for gap, bodies in steps:
        now += gap
        due = queue.next_at()
        assert due is None or due <= now + 0.02
        got += drain(queue, now, cap)
        assert sent.startswith(got)
        window = framed(*bodies)
        queue.push(window, 0, len(window), now)
        sent += bytes(window)
        assert queue.size == len(sent) - len(got)
    now += 0.02
    while queue.next_at() is not None:
        got += drain(queue, now, cap)
    assert got == sent
