"""Flow control (wire-native §14.6): limits, growth, silly windows, persist probes."""

from __future__ import annotations

import random

from phantom import limits
from phantom.transport.packet import flags
from phantom.transport.session.flow_control import ReceiveWindow, SendLimit
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.states import Phase
from tests.transport.session.engines import (
    HUGE,
    Engine,
    Pair,
    Peer,
    Seen,
    client_with_peer,
    framed,
    indices,
    message,
    pattern,
    server_with_peer,
    split_frames,
    words,
)

KiB, MiB = limits.KiB, limits.MiB
FIRST = 64 * KiB


def sizes(seen: list[Seen]) -> list[int]:
    return [len(packet.plaintext) - 4 for packet in seen if packet.word & flags.RELIABLE]


def limits_in(seen: list[Seen]) -> list[int]:
    return [int.from_bytes(packet.plaintext, "big") for packet in seen if packet.word & flags.WINDOW_UPDATE]


# --- the sender's limit ----------------------------------------------------------------------------------------------


def test_the_limit_only_rises_and_is_clamped() -> None:
    limit = SendLimit()
    assert limit.room == FIRST
    for lower in (0, 1, FIRST - 1, FIRST):
        assert not limit.raise_to(lower)
    assert limit.raise_to(FIRST + 1)
    assert limit.raise_to(2**64 - 1)
    assert limit.limit == limits.MAX_SEND_WINDOW
    limit.sent = 1000
    assert not limit.raise_to(limits.MAX_SEND_WINDOW)
    assert limit.raise_to(2**64 - 1)
    assert limit.room == limits.MAX_SEND_WINDOW


def test_cuts_are_never_silly() -> None:
    limit = SendLimit()
    limit.sent = FIRST - 10_000
    assert limit.may_cut(65_536, outstanding=False)
    assert not limit.may_cut(65_536, outstanding=True)  # below a quarter of the largest room seen
    limit.sent = FIRST - 16_384
    assert limit.may_cut(65_536, outstanding=True)
    limit.raise_to(MiB)
    limit.sent = MiB - 16_384
    assert not limit.may_cut(65_536, outstanding=True)
    limit.sent = MiB
    assert not limit.may_cut(65_536, outstanding=False)


def test_no_more_leaves_than_the_limit_allows() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(MiB))
    sent = sum(sizes(peer.see()))
    assert sent == FIRST  # the second segment, cut to 0, waits
    limit = FIRST
    while engine.conn.queued:
        limit += 100_000
        peer.give(peer.sack((0, engine.conn.session_stream.outstanding.next_index - 1)), peer.window(limit))
        sent += sum(sizes(peer.see()))
        assert sent <= limit
    assert sent == MiB + 4


def test_a_segment_is_cut_to_the_window_when_nothing_is_outstanding() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(64 * KiB))  # with its prefix four bytes more than the window
    engine.conn.send_message(b"next")
    seen = peer.see()
    assert sizes(seen) == [FIRST]
    peer.give(peer.window(FIRST + 100))
    assert sizes(peer.see()) == [4, 8]
    server, other = server_with_peer()
    other.give(*(other.seal(packet.word, packet.plaintext) for packet in seen))
    assert server.read(0.0) == []


def test_what_the_window_would_cut_too_small_waits_for_acknowledgement() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(4 * 65_540 + 5000))
    for _ in range(6):
        engine.conn.send_message(pattern(64 * KiB))
    assert sizes(peer.see()) == [65_540] * 4
    assert not engine.conn.wants_to_send
    peer.give(peer.sack((0, 2)))
    assert sizes(peer.see()) == []
    peer.give(peer.sack((0, 3)))
    assert sizes(peer.see()) == [5000]
    peer.give(peer.sack((0, 4)), peer.window(HUGE))
    assert sizes(peer.see()) == [60_540, 65_540]


def test_a_small_segment_that_fits_is_not_held_back() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(60_000))
    peer.see()
    engine.conn.send_message(pattern(1000))
    assert sizes(peer.see()) == [1004]


def test_lower_and_repeated_limits_have_no_effect() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(200_000))
    peer.see()
    peer.give(peer.sack((0, 0)), *(peer.window(limit) for limit in (0, 1, FIRST, FIRST)))
    assert sizes(peer.see()) == []
    peer.give(peer.window(FIRST + 70_000), peer.window(FIRST))
    assert sizes(peer.see()) == [4, 65_536]
    assert engine.conn.session_stream.send_limit.room == 70_000 - 65_540


def test_a_limit_without_end_allows_one_send_window() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(2**64 - 1))
    for _ in range(5):
        engine.conn.send_message(pattern(16 * MiB))
    total = 0
    for _ in range(200):
        seen = peer.see()
        total += sum(sizes(seen))
        if seen:
            peer.give(peer.sack((0, indices(seen)[-1])))
    assert 64 * MiB - 65_540 < total <= 64 * MiB
    peer.give(peer.window(2**64 - 1))
    peer.see()
    assert engine.conn.queued == 0


def test_retransmissions_are_not_counted_again() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(60_000))
    peer.see()
    engine.conn.handle_timer(3.0)
    assert len(peer.see(3.0)) == 1
    assert engine.conn.session_stream.send_limit.room == FIRST - 60_004


# --- persist probes --------------------------------------------------------------------------------------------------


def blocked(**settings: object) -> tuple[Engine, Peer]:
    """A sender with data, without room, with everything acknowledged."""
    engine, peer = client_with_peer(keepalive_interval=None, **settings)
    engine.conn.send_message(pattern(200_000))
    peer.see()
    peer.give(peer.sack((0, 0)), now=1.0)
    assert peer.see(1.0) == []
    return engine, peer


def test_a_blocked_sender_probes_once_per_timeout() -> None:
    engine, peer = blocked()
    due = engine.conn.next_timer()
    assert due == 1.0 + engine.conn.path.estimator.rto
    for _ in range(5):
        engine.conn.handle_timer(due - 0.01)
        assert not engine.conn.wants_to_send
        engine.conn.handle_timer(due)
        (probe,) = peer.see(due)
        assert (probe.word, probe.plaintext) == (flags.DATA, bytes(4))  # the highest acknowledged index, empty
        assert engine.conn.session_stream.outstanding.next_index == 1
        assert not engine.conn.session_stream.outstanding.segments  # not tracked
        assert engine.conn.next_timer() == due + 3.0
        due += 3.0
    peer.give(peer.window(HUGE), now=due)
    assert sum(sizes(peer.see(due))) == 200_004 - FIRST
    assert engine.conn.next_timer() is not None


def test_no_probe_before_anything_is_acknowledged_or_while_something_is_outstanding() -> None:
    engine, peer = client_with_peer(keepalive_interval=None)
    engine.conn.send_message(pattern(200_000))
    peer.see()
    engine.conn.handle_timer(2.9)
    assert peer.see(2.9) == []
    engine.conn.handle_timer(3.0)
    assert [len(p.plaintext) for p in peer.see(3.0)] == [4 + FIRST]  # the segment itself, again
    engine, _ = blocked()
    engine.conn.path_blocked(True, 1.0)
    assert engine.conn.next_timer() is None


def test_a_probe_is_answered_by_ack_and_limit() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"x" * 100)))
    engine.read(0.0)
    assert peer.see() == []
    peer.give(peer.data(0, b""))
    seen = peer.see()
    assert words(seen) == [flags.ACK_WORD, flags.WINDOW_WORD]
    assert limits_in(seen) == [104 + MiB]
    assert engine.read(0.0) == []
    assert engine.conn.session_stream.reassembly.next_index == 1


def test_a_lost_window_update_is_made_up_for() -> None:
    pair = Pair()
    pair.move(0.0)
    lost = 0
    sent = [pattern(300_000, i) for i in range(30)]
    for data in sent:
        pair.client.conn.send_message(data)
    now = 0.0
    while len(pair.server.got) < len(sent):
        pair.server.take(pair.client.emit(now), now)
        pair.server.read(now)
        out = pair.server.emit(now)
        kept = b""
        for frame in split_frames(out):
            if frame[39:41] == flags.WINDOW_WORD.to_bytes(2, "big"):
                lost += 1
                if lost % 2:
                    continue
            kept += framed(frame)
        pair.client.take(kept, now)
        if not pair.client.conn.wants_to_send:
            now += 1.0
            pair.client.tick(now)
            pair.server.tick(now)
        assert now < 100.0
    assert pair.server.got == sent
    assert lost > 2


# --- the receiver's window -------------------------------------------------------------------------------------------


def test_the_window_doubles_when_a_whole_one_goes_within_two_round_trips() -> None:
    window = ReceiveWindow(16 * MiB)
    window.open_first(HUGE, 0.0)
    assert window.window == MiB
    window.observe(MiB - 1, HUGE, 0.1, 0.2)
    assert window.window == MiB
    window.observe(MiB, HUGE, 0.1, 0.2)
    assert window.window == 2 * MiB
    window.observe(3 * MiB, HUGE, 0.1, 0.41)  # too slow
    assert window.window == 2 * MiB
    window.observe(5 * MiB, HUGE, 0.1, 0.6)
    assert window.window == 4 * MiB
    for step in range(1, 20):
        window.observe(5 * MiB + step * 16 * MiB, HUGE, 0.1, 0.6)
    assert window.window == 16 * MiB


def test_growth_takes_at_most_half_of_what_is_free() -> None:
    for free, grown in ((2 * (MiB - FIRST), MiB), (2 * (MiB - FIRST) - 1, FIRST), (0, FIRST), (-1, FIRST)):
        window = ReceiveWindow()
        window.open_first(free, 0.0)
        assert window.window == grown
    window = ReceiveWindow(FIRST)
    window.open_first(HUGE, 0.0)
    assert window.window == FIRST


def test_when_an_update_is_due() -> None:
    window = ReceiveWindow()
    assert not window.due(32 * KiB - 1, creeping=False)
    assert window.due(32 * KiB, creeping=False)
    window.open_first(HUGE, 0.0)
    assert window.due(0, creeping=False)  # it grew
    assert window.advertise(0, creeping=False) == MiB
    assert not window.due(128 * KiB - 1, creeping=False)  # 1/8
    assert window.due(128 * KiB, creeping=False)
    assert window.advertise(128 * KiB, creeping=False) == MiB + 128 * KiB


def test_a_creeping_window_never_takes_back() -> None:
    window = ReceiveWindow()
    window.open_first(HUGE, 0.0)
    window.advertise(0, creeping=False)
    assert window.advertise(0, creeping=True) == MiB  # the answer to a probe
    assert not window.due(MiB - FIRST, creeping=True)
    assert window.advertise(MiB - FIRST, creeping=True) == MiB
    assert window.due(MiB - FIRST + 32 * KiB, creeping=True)
    assert window.advertise(MiB, creeping=True) == MiB + FIRST
    assert window.due(MiB, creeping=False)  # all of it again, once there is memory
    assert window.advertise(MiB, creeping=False) == 2 * MiB


def test_the_advertised_limit_never_decreases(rng: random.Random) -> None:
    for _ in range(50):
        window = ReceiveWindow(rng.choice((FIRST, MiB, 16 * MiB)))
        consumed = now = last = 0
        for _ in range(100):
            consumed += rng.randrange(0, 300_000)
            now += rng.random() / 10
            window.observe(consumed, rng.randrange(0, 64 * MiB), 0.05, now)
            creeping = rng.random() < 0.3
            if window.due(consumed, creeping=creeping):
                limit = window.advertise(consumed, creeping=creeping)
                assert limit >= max(last, consumed + FIRST)
                assert limit <= max(last, consumed + window.window)
                last = limit


def test_updates_come_every_eighth_of_the_window() -> None:
    engine, peer = server_with_peer(recv_window=MiB)
    updates = []
    for index in range(64):
        peer.give(peer.data(index, message(pattern(32 * KiB - 4))))
        engine.read(0.0)
        updates += limits_in(peer.see())
    assert len(updates) == 64 // 4
    assert updates[0] == MiB + 128 * KiB
    assert updates == sorted(updates)


def test_the_window_of_a_slow_reader_does_not_move() -> None:
    engine, peer = server_with_peer(recv_window=MiB)
    index = received = 0
    while engine.conn.session_stream.received + 32 * KiB <= engine.conn.session_stream.window.limit:
        peer.give(peer.data(index, message(pattern(32 * KiB - 4))))
        received += 32 * KiB
        index += 1
        peer.see()
    assert received <= 2 * MiB + 64 * KiB  # the backlog, and a window behind it
    assert engine.memory.charged >= received
    engine.read(0.0)
    assert limits_in(peer.see()) == [received + MiB]


def test_windows_grow_under_load_up_to_the_ceiling_and_not_without() -> None:
    for rtt, ceiling, expected in ((0.01, 4 * MiB, 4 * MiB), (0.01, MiB, MiB)):
        pair = Pair(recv_window=ceiling)
        pair.client.conn.send_message(pattern(16 * MiB))
        now = 0.0
        while not pair.server.got:
            pair.server.take(pair.client.emit(now), now)
            now += rtt / 2
            pair.server.read(now)
            pair.client.take(pair.server.emit(now), now)
            now += rtt / 2
            for engine in pair.ends:
                engine.tick(now)
        assert pair.server.conn.session_stream.window.window == expected
    engine, peer = server_with_peer()
    for index in range(64):  # a window a minute
        peer.give(peer.data(index, message(pattern(60_000))), now=index * 4.0)
        engine.read(index * 4.0)
        peer.see(index * 4.0)
    assert engine.conn.session_stream.window.window == MiB


def test_a_pure_receiver_asks_for_a_round_trip_once() -> None:
    engine, peer = server_with_peer()
    pings = 0
    for index in range(20):
        peer.give(peer.data(index, message(pattern(30_000))), now=1.0 + index)
        engine.read(1.0 + index)
        seen = words(peer.see(1.0 + index))
        pings += seen.count(flags.PING)
        assert (flags.PING in seen) == (index == 8)  # the first 256 KiB
    peer.give(peer.pong(), now=22.5)
    assert engine.conn.path.estimator.srtt == 22.5 - 9.0
    assert engine.protection._srtt == 22.5 - 9.0
    assert pings == 1


def test_the_session_bound_holds_the_window_down() -> None:
    engine, peer = server_with_peer(session_recv_window=3 * MiB)
    for index in range(200):
        peer.give(peer.data(index, message(pattern(60_000))))
        engine.read(0.0)
        peer.see()
    assert engine.conn.session_stream.window.window == MiB  # 2 MiB would be more than half of 3


def test_idle_sessions_leave_room_for_newcomers() -> None:
    memory = ReceiveMemory(16 * MiB)
    windows = []
    for _ in range(20):
        engine, peer = server_with_peer(memory=memory)
        for index in range(80):
            peer.give(peer.data(index, message(pattern(60_000))))
            engine.read(0.0)
            peer.see()
        windows.append(engine.conn.session_stream.window.window)
        assert memory.charged + memory.credit <= 16 * MiB
    assert windows[0] == 4 * MiB
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] >= FIRST
    engine, peer = server_with_peer(memory=memory)
    peer.give(peer.data(0, message(b"served all the same")))
    assert engine.read(0.0) == [b"served all the same"]


def test_window_updates_for_other_streams_create_nothing() -> None:
    engine, peer = server_with_peer()
    before = engine.conn.session_stream.send_limit.limit
    for stream_id in (0, 2, 3, 65535):
        peer.give(peer.window(HUGE, stream_id))
    assert engine.conn.session_stream.send_limit.limit == before
    assert engine.counted() == {}
    assert engine.conn.phase is Phase.ESTABLISHED
