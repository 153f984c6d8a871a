"""How writes become segments (wire-native §14.2, §21.2): references, budgets, message ends, cuts."""

from __future__ import annotations

import random

from phantom import limits
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.streams import SLOT, Stream, session_stream
from tests.transport.session.engines import message, pattern

CHUNK = 1024


def stream(budget: int = CHUNK) -> Stream:
    return session_stream(1, budget=budget, recv_window=limits.MAX_RECV_WINDOW, recv_segments=32)


def segments(of: Stream) -> list[tuple[bytes, int, int]]:
    """Everything that waits: bytes, size, messages that end in it."""
    found = []
    while (segment := of.peek()) is not None:
        assert of.peek() is segment
        assert of.pop() is segment
        assert segment.parts[0] is SLOT
        data = b"".join(segment.parts[1:])
        assert len(data) == segment.size
        found.append((data, segment.size, segment.ends))
    assert not of.has_queued
    return found


def test_nothing_waits_at_first() -> None:
    one = stream()
    assert one.peek() is None
    assert not one.has_queued
    assert isinstance(one.reassembly, Reassembly)
    assert one.send_limit.room == limits.INITIAL_STREAM_WINDOW


def test_small_messages_share_a_segment_up_to_the_budget() -> None:
    one = stream()
    for _ in range(20):
        assert one.add_message(b"x" * 96) == 100
    assert one.has_queued
    assert [(size, ends) for _, size, ends in segments(one)] == [(1000, 10), (1000, 10)]


def test_a_message_that_fits_the_budget_is_never_cut() -> None:
    one = stream()
    one.add_message(b"a" * 10)
    one.add_message(b"b" * CHUNK)  # its prefix does not count
    one.add_message(b"c" * 10)
    assert segments(one) == [
        (message(b"a" * 10), 14, 1),
        (message(b"b" * CHUNK), CHUNK + 4, 1),
        (message(b"c" * 10), 14, 1),
    ]


def test_a_large_message_is_cut_by_the_budget_and_its_tail_shares() -> None:
    one = stream()
    one.add_message(b"a")
    one.add_message(pattern(2 * CHUNK + 10))
    one.add_message(b"z")
    found = segments(one)
    assert [(size, ends) for _, size, ends in found] == [(5, 1), (CHUNK + 4, 0), (CHUNK, 0), (15, 2)]
    assert b"".join(data for data, _, _ in found) == message(b"a") + message(pattern(2 * CHUNK + 10)) + message(b"z")
    assert max(size for _, size, _ in found) <= CHUNK + limits.CHUNK_SLACK


def test_a_message_just_over_the_budget_miscounted_the_tail_before_it() -> None:
    for over in range(1, 6):
        one = stream()
        for number in range(3):
            one.add_message(pattern(CHUNK + over, number))
        found = segments(one)
        assert b"".join(data for data, _, _ in found) == b"".join(message(pattern(CHUNK + over, n)) for n in range(3))


def test_messages_whose_prefixes_alone_exceed_the_budget_share() -> None:
    one = stream()
    for _ in range(4):
        one.add_message(b"q" * (CHUNK // 4))
    assert [(size, ends) for _, size, ends in segments(one)] == [(CHUNK + 16, 4)]
    for _ in range(200):
        one.add_message(b"12345")
    assert max(size for _, size, _ in segments(one)) <= CHUNK + limits.CHUNK_SLACK


def test_an_exact_multiple_of_the_budget_has_no_empty_tail() -> None:
    one = stream()
    one.add_message(pattern(3 * CHUNK))
    assert [(size, ends) for _, size, ends in segments(one)] == [(CHUNK + 4, 0), (CHUNK, 0), (CHUNK, 1)]


def test_parts_are_references() -> None:
    one, data = stream(), pattern(5000)
    one.add_message(data)
    first = one.pop() if one.peek() else None
    assert first is not None
    assert first.parts[2].obj is data
    whole = pattern(100)
    one = stream()
    one.add_message(whole)
    segment = one.peek()
    assert segment is not None
    assert segment.parts[2] is whole


def test_what_is_written_after_a_look_is_another_segment() -> None:
    one = stream()
    one.add_message(b"a")
    one.peek()
    one.add_message(b"b")
    assert [data for data, _, _ in segments(one)] == [message(b"a"), message(b"b")]


def test_a_cut_splits_anywhere_and_keeps_the_ends_behind() -> None:
    for room in (1, 3, 4, 5, 13, 14, 19):
        one = stream()
        for number in range(4):
            one.add_message(bytes([number]))
        one.peek()
        one.cut(room)
        found = segments(one)
        assert [(size, ends) for _, size, ends in found] == [(room, 0), (20 - room, 4)]
        assert b"".join(data for data, _, _ in found) == b"".join(message(bytes([number])) for number in range(4))


def test_random_writes_keep_every_byte_and_every_end(rng: random.Random) -> None:
    for _ in range(50):
        one, written, ends, got = stream(rng.choice((16, 100, CHUNK))), b"", 0, b""
        total_ends = 0
        for _ in range(rng.randint(1, 30)):
            data = pattern(rng.choice((0, 1, 15, 16, 17, 100, 3000)), rng.randrange(256))
            assert one.add_message(data) == len(data) + 4
            written += message(data)
            total_ends += 1
            while rng.random() < 0.4 and (segment := one.peek()) is not None:
                if segment.size > 1 and rng.random() < 0.3:
                    one.cut(rng.randrange(1, segment.size))
                    continue
                one.pop()
                assert 0 < segment.size <= one.budget + limits.CHUNK_SLACK
                got += b"".join(segment.parts)[4:]
                ends += segment.ends
        for data, _, more in segments(one):
            got += data
            ends += more
        assert got == written
        assert ends == total_ends


def test_a_drop_forgets_both_halves() -> None:
    one = stream()
    one.add_message(pattern(5000))
    one.peek()
    one.outstanding.add(one.pop())
    one.reassembly.segment(4, b"early", room=100)
    one.drop()
    assert one.peek() is None
    assert not one.outstanding.segments
    assert one.reassembly.store is None
