"""Reassembly (wire-native §14.3) against a model, and its bounds."""

from __future__ import annotations

import random

import pytest

from phantom import limits
from phantom.transport.packet import frames
from phantom.transport.session.reassembly import Reassembly, Verdict

ANY = 1 << 40
D, B, DUP, R, V = Verdict.DELIVERED, Verdict.BUFFERED, Verdict.DUPLICATE, Verdict.REFUSED, Verdict.VIOLATION


def take(reassembly: Reassembly, *segments: tuple[int, bytes] | tuple[int, bytes, bool]) -> list[Verdict]:
    return [reassembly.segment(i, data, room=ANY, fin=bool(fin)) for i, data, *fin in segments]


def test_only_accepted_segments_are_acknowledged() -> None:
    assert [v.acknowledged for v in (D, B, DUP, R, V)] == [True, True, True, False, False]


def test_any_order_and_any_copies_give_the_stream(rng: random.Random) -> None:
    for _ in range(300):
        pieces = [rng.randbytes(rng.randint(1, 5)) for _ in range(rng.randint(1, 30))]
        arrivals = [i for i in range(len(pieces)) for _ in range(rng.choice((1, 1, 2)))]
        rng.shuffle(arrivals)
        reassembly, seen, got = Reassembly(), set(), b""
        for i in arrivals:
            verdict = reassembly.segment(i, pieces[i], room=ANY)
            if i in seen:
                assert verdict is DUP
            else:
                first_gap = min(set(range(len(pieces) + 1)) - seen)
                assert verdict is (D if i == first_gap else B)
            seen.add(i)
            got += b"".join(reassembly.take())
            waiting = {j for j in seen if j >= reassembly.next_index}
            assert set(reassembly.store or {}) == waiting
            assert reassembly.stored == sum(len(pieces[j]) for j in waiting)
            assert reassembly.charged == reassembly.stored + limits.ITEM_OVERHEAD * len(waiting)
            assert {j for low, high in reassembly.islands() for j in range(low, high + 1)} == waiting
            _, ranges = frames.decode_sack(sack := reassembly.sack(0), 0, len(sack))
            assert {j for low, high in ranges for j in range(low, high + 1)} == seen
        assert got == b"".join(pieces)
        assert reassembly.store is None
        assert not reassembly.finished


def test_of_many_islands_the_lowest_and_the_highest_are_told(rng: random.Random) -> None:
    indices = [2 * i for i in range(1, 200)]
    rng.shuffle(indices)
    reassembly = Reassembly()
    for index in indices:
        reassembly.segment(index, b"x", room=ANY)
    _, ranges = frames.decode_sack(sack := reassembly.sack(0), 0, len(sack))
    assert ranges == [(2 * i, 2 * i) for i in range(199, 168, -1)] + [(2, 2)]
    take(reassembly, (0, b"x"))
    _, ranges = frames.decode_sack(sack := reassembly.sack(0), 0, len(sack))
    assert ranges == [(2 * i, 2 * i) for i in range(199, 168, -1)] + [(0, 0)]


def test_the_store_is_bounded_in_entries_and_bytes() -> None:
    reassembly = Reassembly(max_segments=3, max_bytes=100)
    assert take(reassembly, (1, b"x"), (2, b"x"), (3, b"x"), (4, b"x"), (3, b"x")) == [B, B, B, R, DUP]
    assert take(reassembly, (0, b"x")) == [D]
    assert take(reassembly, (5, bytes(60)), (6, bytes(41)), (7, bytes(40))) == [B, R, B]
    assert take(reassembly, (4, bytes(5000))) == [D]  # what is next is always taken
    assert (reassembly.next_index, reassembly.stored) == (6, 40)


def test_a_missing_head_does_not_open_the_window_further() -> None:
    reassembly = Reassembly()
    assert reassembly.segment(1, bytes(60), room=100) is B
    assert reassembly.segment(2, bytes(60), room=100) is B  # one segment more than the window
    assert reassembly.segment(3, bytes(1), room=100) is R
    assert reassembly.segment(0, bytes(1), room=100) is R
    assert reassembly.segment(0, bytes(1), room=121) is D
    assert reassembly.segment(3, b"", room=0, fin=True) is D  # costs nothing
    assert reassembly.finished


@pytest.mark.parametrize("announcements", [True, False])
def test_empty_segments(announcements: bool) -> None:
    reassembly = Reassembly(announcements=announcements)
    assert take(reassembly, (1, b"")) == [V]
    assert take(reassembly, (0, b"")) == [D if announcements else V]
    take(reassembly, (0, b"x"))
    assert take(reassembly, (0, b""), (1, b""), (2, b"")) == [DUP, V, V]


def test_the_end_takes_effect_when_the_cursor_passes_it() -> None:
    reassembly = Reassembly()
    assert take(reassembly, (2, b"", True)) == [B]
    assert not reassembly.finished
    assert take(reassembly, (3, b"x"), (2, b"", True), (1, b"", True), (4, b"", True)) == [V, DUP, V, V]
    assert take(reassembly, (1, b"b"), (0, b"a")) == [B, D]
    assert reassembly.take() == [b"a", b"b"]
    assert reassembly.finished
    assert take(reassembly, (2, b"", True), (1, b"b"), (3, b"more"), (3, b"", True)) == [DUP, DUP, V, V]
    assert take(reassembly, (1, b"b", True)) == [V]  # a second end, elsewhere


def test_an_end_below_what_has_arrived_is_a_violation() -> None:
    reassembly = Reassembly()
    take(reassembly, (0, b"x"), (5, b"x"))
    assert take(reassembly, (0, b"x", True), (3, b"", True)) == [V, V]
    assert reassembly.fin_index is None
    assert take(reassembly, (6, b"data with its end", True)) == [B]


def test_a_drop_forgets_the_store() -> None:
    reassembly = Reassembly()
    take(reassembly, (3, b"x"), (5, b"y"))
    reassembly.drop()
    assert (reassembly.store, reassembly.stored, reassembly.islands()) == (None, 0, [])
