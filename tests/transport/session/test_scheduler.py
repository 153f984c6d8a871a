"""Strict priority, round robin among equals, live re-prioritisation (wire-native §19.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.transport.packet import flags
from phantom.transport.session.control import encode_stream_stop
from phantom.transport.session.scheduler import Scheduler
from phantom.transport.session.streams import CONTROL_RANK, Channel, Stream, session_stream
from tests.transport.session.engines import Engine, Peer, Seen, client_with_peer, pattern, server_with_peer

KiB, MiB = limits.KiB, limits.MiB


def channel(number: int, rank: int) -> Channel:
    one = session_stream(number, budget=1024, recv_window=MiB, recv_segments=32)
    one.rank = rank
    return one


def served(scheduler: Scheduler) -> list[int]:
    """Serves everything once, taking each from its queue."""
    order = []
    while scheduler.top or scheduler.descend():
        assert scheduler.top
        order.append(scheduler.top.popleft().id)
    return order


@given(st.lists(st.integers(0, 5), max_size=30))
def test_higher_ranks_go_first_and_equals_in_the_order_they_came(ranks: list[int]) -> None:
    scheduler = Scheduler()
    for number, rank in enumerate(ranks):
        scheduler.add(channel(number, rank))
    assert bool(scheduler) == bool(ranks)
    assert served(scheduler) == sorted(range(len(ranks)), key=lambda number: (-ranks[number], number))
    assert not scheduler


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), min_size=1, max_size=40), st.data())
def test_a_moved_channel_waits_once_behind_its_new_equals(adds: list[tuple[int, int]], data: st.DataObject) -> None:
    scheduler = Scheduler()
    channels = [channel(number, rank) for number, (rank, _) in enumerate(adds)]
    for one in channels:
        scheduler.add(one)
    expected = list(channels)
    for _ in range(5):
        one = data.draw(st.sampled_from(channels))
        scheduler.move(one, data.draw(st.integers(0, 4)))
        expected.remove(one)
        expected.append(one)
    assert served(scheduler) == [one.id for one in sorted(expected, key=lambda one: -one.rank)]


def test_what_is_added_while_the_top_ran_empty_keeps_its_rank() -> None:
    scheduler = Scheduler()
    scheduler.add(channel(1, 5))
    scheduler.add(channel(2, 3))
    assert scheduler.top
    scheduler.top.popleft()
    scheduler.add(channel(3, 1))
    assert served(scheduler) == [2, 3]


def test_a_cleared_scheduler_is_empty() -> None:
    scheduler = Scheduler()
    for rank in (1, 2):
        scheduler.add(channel(rank, rank))
    scheduler.clear()
    assert not scheduler
    assert served(scheduler) == []


# --- in the engine ---------------------------------------------------------------------------------------------------


def data_of(seen: list[Seen]) -> list[int]:
    return [p.stream_id for p in seen if p.word & flags.RELIABLE]


def busy(*priorities: int) -> tuple[Engine, Peer, list[Stream]]:
    """Streams of these priorities with plenty to send and room for it."""
    engine, peer = client_with_peer()
    streams = [engine.conn.open_stream(priority, 0.0) for priority in priorities]
    peer.see()
    for stream in streams:
        peer.give(peer.sack((0, 0), stream_id=stream.id), peer.window(16 * MiB, stream_id=stream.id))
        engine.conn.write(stream, pattern(640 * KiB))
    return engine, peer, streams


def batch(engine: Engine, peer: Peer, segments: int) -> list[int]:
    size = segments * (64 * KiB + 77)
    buf = bytearray(size)
    end = engine.conn.fill(0, buf, memoryview(buf), 0, size, 0.0)
    return data_of(peer.open(bytes(buf[:end])))


def test_the_highest_priority_is_served_alone_and_equals_take_turns() -> None:
    engine, peer, (low, high, other) = busy(1, 9, 9)
    assert batch(engine, peer, 4) == [high.id, other.id] * 2
    engine.conn.set_priority(low, 10)
    assert batch(engine, peer, 2) == [low.id] * 2
    engine.conn.set_priority(low, 0)
    engine.conn.set_priority(other, 8)
    assert batch(engine, peer, 3) == [high.id] * 3


def test_a_blocked_high_priority_does_not_block_lower_ones() -> None:
    engine, peer = client_with_peer()
    high, low = engine.conn.open_stream(9, 0.0), engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=high.id), peer.sack((0, 0), stream_id=low.id))
    engine.conn.write(high, pattern(640 * KiB))
    engine.conn.write(low, pattern(60 * KiB))
    assert data_of(peer.see()) == [high.id, low.id]
    engine.conn.set_priority(high, 3)  # while it is out of the list
    peer.give(peer.window(128 * KiB, stream_id=high.id))
    assert data_of(peer.see()) == [high.id]


def test_the_session_stream_has_priority_0_and_the_control_stream_is_above_all() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3), peer.window(16 * MiB, stream_id=3), peer.window(16 * MiB))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    engine.conn.set_priority(stream, 2**32 - 1)
    engine.conn.send_message(pattern(40 * KiB))
    engine.conn.write(stream, pattern(100 * KiB))
    engine.conn.stop(stream, 1)
    seen = peer.see()
    assert data_of(seen) == [0, 3, 3, 1]
    assert next(p for p in seen if p.stream_id == 0).plaintext[4:] == encode_stream_stop(3, 1)
    assert engine.conn.open_control().rank == CONTROL_RANK


def test_what_becomes_urgent_waits_for_no_more_than_the_batch_that_is_gone() -> None:
    """§21.3: a slow pipe takes one batch at a time; the engine decides what is next only when it is asked again."""
    engine, peer, (low, high) = busy(0, 1)
    engine.conn.ready.move(high, 0)
    first = batch(engine, peer, 4)
    assert set(first) == {low.id, high.id}
    engine.conn.path_blocked(True, 0.0)  # the leg asks again only when it is empty
    engine.conn.set_priority(high, 7)
    engine.conn.path_blocked(False, 0.5)
    assert batch(engine, peer, 4) == [high.id] * 4
