"""What happens seldom: bounds of a session, ends of indices and nonces, memory of streams, marks of a flush."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import EpochExhaustedError, ProtocolViolationError, StreamClosedError, StreamError, StreamResetError
from phantom.transport.packet import flags
from phantom.transport.session.control import encode_stream_reset, encode_stream_stop
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import DATAGRAM
from phantom.transport.session.states import Phase
from phantom.transport.session.stream_states import StreamState
from tests.transport.session.engines import (
    Pair,
    client_with_peer,
    indices,
    message,
    pattern,
    sacked,
    server_with_peer,
    split_frames,
    words,
)
from tests.transport.session.test_stream_life import opened

KiB, MiB = limits.KiB, limits.MiB


# --- flushing --------------------------------------------------------------------------------------------------------


def test_a_flush_waits_for_what_was_queued_before_it_on_every_stream() -> None:
    engine, peer = client_with_peer()
    conn = engine.conn
    stream = conn.open_stream(0, 0.0)
    peer.see()
    conn.write(stream, b"before")
    conn.send_message(b"before")
    mark = conn.flush_mark()
    assert mark.waiting == 16
    peer.see()
    conn.write(stream, b"after")
    assert not conn.flush_done(mark)
    peer.give(peer.sack((0, 0)))
    assert not conn.flush_done(mark)
    peer.give(peer.sack((0, 1), stream_id=3))
    assert conn.flush_done(mark)  # what came later is still to be sent
    assert conn.unacknowledged == 5


def test_a_reset_gives_up_what_a_flush_waits_for_and_an_end_of_the_session_does_not() -> None:
    engine, peer = client_with_peer()
    conn = engine.conn
    stream = conn.open_stream(0, 0.0)
    conn.write(stream, b"given up")
    peer.see()
    mark = conn.flush_mark()
    conn.reset(stream, 0)
    assert conn.flush_done(mark)
    conn.send_message(b"lost")
    peer.see()
    mark = conn.flush_mark()
    conn.path_lost(0.0)
    assert not conn.flush_done(mark)


def test_a_fin_on_stream_1_ends_the_messages_of_the_peer() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"last") + b"\0\0\0\5un", flags.DATA_FIN))
    assert engine.conn.progress
    assert not engine.conn.messages_ended
    assert engine.read(0.0) == [b"last"]
    assert engine.conn.messages_ended
    engine.conn.send_message(b"this side may go on")
    assert indices(peer.see()) == [0]


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_outstanding_bytes_of_all_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SEND_WINDOW", 256 * KiB)
    engine, peer = client_with_peer()
    streams = [engine.conn.open_stream(0, 0.0) for _ in range(3)]
    peer.see()
    for stream in streams:
        peer.give(peer.sack((0, 0), stream_id=stream.id), peer.window(16 * MiB, stream_id=stream.id))
        engine.conn.write(stream, pattern(256 * KiB))
    assert len(indices(peer.see())) == 4
    assert engine.conn.outstanding == 256 * KiB
    assert not engine.conn.wants_to_send
    peer.give(peer.sack((0, 1), stream_id=3))  # one segment more for whoever waits, on whatever stream
    assert len(indices(peer.see())) == 1
    assert engine.conn.outstanding == 256 * KiB


def test_segments_per_stream_are_bounded() -> None:
    engine, peer = client_with_peer(send_segments=32)
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    for _ in range(40):
        engine.conn.write(stream, b"x" * 100)
        peer.see()
    assert len(stream.outstanding.segments) == 32


def test_a_stream_whose_indices_are_exhausted_is_reset_and_the_session_lives() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    stream.outstanding.base = 2**32 - 1
    engine.conn.write(stream, b"one too many")
    (reset,) = [p for p in peer.see() if p.stream_id == 0]
    assert reset.plaintext[4:] == encode_stream_reset(3, 2**32 - 1, StreamError.code)
    assert stream.write_ended
    assert engine.conn.phase is Phase.ESTABLISHED


@pytest.mark.parametrize(("control", "error"), [(False, StreamError), (True, ProtocolViolationError)])
def test_without_indices_on_streams_0_and_1_there_is_no_session(control: bool, error: type[Exception]) -> None:
    engine, _ = client_with_peer()
    channel = engine.conn.open_control() if control else engine.conn.session_stream
    channel.outstanding.base = 2**32
    if control:
        engine.conn.send_control(encode_stream_stop(2, 0))
    else:
        engine.conn.send_message(b"x")
    engine.emit(0.0)
    assert isinstance(engine.conn.error, error)


def test_a_window_update_of_the_control_stream_follows_its_bytes() -> None:
    engine, peer = server_with_peer()
    stops = encode_stream_stop(9, 0) * 500  # of no stream: nothing happens
    for index in range(8):
        peer.give(peer.data(index, stops, stream_id=0))
    seen = [p for p in peer.see() if p.stream_id == 0 and p.word == flags.WINDOW_WORD]
    assert int.from_bytes(seen[-1].plaintext, "big") == 8 * len(stops) + 64 * KiB
    assert engine.counted() == {}


def test_many_acknowledgements_do_not_overflow_a_small_buffer() -> None:
    engine, peer = server_with_peer()
    for stream_id in range(3, 403, 2):
        peer.give(peer.data(0, b"x", flags.DATA_FIN, stream_id=stream_id))
    size = 8 * KiB
    buf = bytearray(size + 64)
    acks = []
    while engine.conn.wants_to_send:
        end = engine.conn.fill(0, buf, memoryview(buf), 0, size, 0.0)
        assert 0 < end <= size
        acks += [p.stream_id for p in peer.open(bytes(buf[:end])) if p.word == flags.ACK_WORD]
    assert sorted(acks) == list(range(3, 403, 2))


def test_many_tombstones_do_not_overflow_a_small_buffer() -> None:
    engine, peer = server_with_peer()
    for stream_id in range(3, 203, 2):
        peer.give(peer.data(0, b"x", flags.DATA_FIN, stream_id=stream_id))
        stream = engine.conn.accept_stream(0.0)
        assert stream is not None
        engine.conn.finish(stream)
        peer.see()
        peer.give(peer.sack((0, 0), stream_id=stream_id))
    assert not engine.conn.streams
    for stream_id in range(3, 203, 2):
        peer.give(peer.data(0, b"x", flags.DATA_FIN, stream_id=stream_id))
    size = 8 * KiB
    buf = bytearray(size + 64)
    acks = []
    while engine.conn.wants_to_send:
        end = engine.conn.fill(0, buf, memoryview(buf), 0, size, 0.0)
        assert 0 < end <= size
        acks += [p.stream_id for p in peer.open(bytes(buf[:end])) if p.word == flags.ACK_WORD]
    assert sorted(acks) == list(range(3, 203, 2))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_new_streams_are_refused_while_memory_is_used_up_and_windows_open_when_it_is_not() -> None:
    memory = ReceiveMemory(512 * KiB)
    engine, peer = server_with_peer(memory=memory)
    peer.give(*(peer.data(0, bytes(60 * KiB), stream_id=stream_id) for stream_id in range(3, 21, 2)))
    assert memory.used_up
    peer.see()
    peer.give(peer.data(0, b"refused", stream_id=21))
    assert sorted(engine.conn.streams) == list(range(3, 21, 2))
    assert [p for p in peer.see() if p.stream_id == 21] == []
    for _ in range(2):
        stream = engine.conn.accept_stream(0.0)
        assert stream is not None
        assert engine.conn.read(stream, 0.0) == bytes(60 * KiB)
    assert not memory.used_up
    assert {p.stream_id for p in peer.see() if p.word == flags.WINDOW_WORD} >= {3, 5}
    peer.give(peer.data(0, b"taken", stream_id=21))
    assert 21 in engine.conn.streams


def test_a_session_ended_for_its_memory_drops_what_streams_hold() -> None:
    memory = ReceiveMemory(256 * KiB)
    engine, peer = server_with_peer(memory=memory)
    peer.give(*(peer.data(0, bytes(60 * KiB), stream_id=stream_id) for stream_id in range(3, 13, 2)))
    assert engine.conn.phase.over
    assert engine.conn.close_code == 3
    assert memory.charged == memory.credit == 0
    assert engine.conn.stream_charge == 0


def test_windows_of_streams_share_the_session() -> None:
    engine, peer = server_with_peer(session_recv_window=3 * MiB)
    peer.see()
    for stream_id in (3, 5, 7):
        peer.give(peer.data(0, b"x", stream_id=stream_id))
    peer.see()
    excess = [max(0, s.window.limit - s.consumed - 64 * KiB) for s in engine.conn.streams.values()]
    assert engine.conn.excess == sum(excess)
    assert sum(excess) + engine.conn.session_stream.window.limit - 64 * KiB <= 3 * MiB
    assert excess[0] > excess[-1]  # each takes at most half of what is free


def test_stopping_a_stream_that_has_ended_gives_back_what_was_unread() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, bytes(1000), flags.DATA_FIN, stream_id=3))
    peer.give(peer.seal(flags.UNRELIABLE_WORD, b"chunk", stream_id=5))
    ended, other = engine.conn.accept_stream(0.0), engine.conn.accept_stream(0.0)
    assert ended is not None
    assert other is not None
    assert engine.conn.stream_charge == 1000 + 5 + 2 * limits.ITEM_OVERHEAD
    engine.conn.stop(ended, 0)
    engine.conn.stop(other, 0)
    assert engine.conn.stream_charge == engine.conn.backlog == 0
    assert engine.conn.read(ended, 0.0) is None
    with pytest.raises(StreamClosedError):
        engine.conn.read(other, 0.0)
    peer.give(peer.seal(flags.UNRELIABLE_WORD, b"late", stream_id=5))
    assert engine.conn.stream_charge == 0


def test_unread_data_is_charged_until_it_is_read_also_when_the_stream_is_closed() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    pair.client.conn.write(stream, bytes(1000))
    pair.client.conn.finish(stream)
    pair.server.conn.finish(accepted)
    pair.run(0.0, 0.1)
    assert accepted.state is StreamState.CLOSED
    assert accepted.readable
    assert pair.server.memory.charged == 1000 + limits.ITEM_OVERHEAD
    assert pair.server.conn.read(accepted, 0.1) == bytes(1000)
    assert pair.server.memory.charged == 0


# --- resets that contradict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [0, 1, 2])
def test_a_reset_below_what_has_come_is_a_violation_and_changes_nothing(final: int) -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3), peer.data(2, b"z", stream_id=3))
    peer.give(peer.data(0, encode_stream_reset(3, final, 9), stream_id=0))
    assert engine.counted() == {"protocol_violation": 1}
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert engine.conn.read(stream, 0.0) == b"x"
    peer.give(peer.data(1, encode_stream_reset(3, 3, 9), stream_id=0))
    with pytest.raises(StreamResetError):
        engine.conn.read(stream, 0.0)
    peer.give(peer.data(2, encode_stream_reset(3, 9, 9), stream_id=0))  # the half has ended: nothing happens
    assert engine.counted() == {"protocol_violation": 1}


def test_a_reset_of_a_stream_that_nobody_accepted_frees_what_it_holds() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, bytes(500), stream_id=3), peer.seal(flags.UNRELIABLE_WORD, b"chunk", stream_id=3))
    peer.give(peer.data(0, encode_stream_reset(3, 1, 9), stream_id=0))
    assert engine.conn.stream_charge == limits.ITEM_OVERHEAD
    assert engine.conn.backlog == 0
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert engine.conn.stream_charge == 0


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_second_forced_rekey_waits_one_rto_for_the_peer() -> None:
    engine, _ = client_with_peer(guards={"sequence_watermark": 4}, profile=DATAGRAM)
    for _ in range(20):
        engine.conn.send_message(b"x" * 1000)
    engine.emit(0.0)
    assert engine.conn.epoch == 1
    assert engine.conn.protection.unconfirmed
    congestion = engine.conn.path.congestion
    assert congestion is not None
    congestion.inflight -= MiB  # it is not the window that holds back
    engine.conn.gated = False
    engine.emit(0.0)
    assert engine.conn.epoch == 1  # not two steps ahead
    assert engine.conn.gated
    assert engine.conn.release_at == engine.conn.rekeyed_at + engine.conn.path.estimator.rto
    engine.conn.handle_timer(engine.conn.release_at)
    engine.emit(engine.conn.release_at)
    assert engine.conn.epoch > 1


def test_a_local_rekey_is_followed_confirmed_and_told() -> None:
    pair = Pair()
    pair.move(0.0)
    client, server = pair.client.conn, pair.server.conn
    assert client.rekey(0.0) == 1
    assert client.rekey(0.0) is None  # while the peer has not followed
    client.progress = False
    pair.move(0.0)
    assert client.progress
    assert (client.epoch, server.epoch) == (1, 1)
    events = [conn.next_event() for conn in (client, server)]
    assert [(type(e).__name__, getattr(e, "epoch", 0), getattr(e, "by_peer", None)) for e in events] == [
        ("Rekeyed", 1, False),
        ("Rekeyed", 1, True),
    ]
    assert server.rekey(1.0) == 2


def test_epoch_255_fails_closed() -> None:
    engine, _ = client_with_peer(guards={"max_epoch": 0})
    with pytest.raises(EpochExhaustedError):
        engine.conn.rekey(0.0)
    assert engine.conn.epoch == 0


def test_what_was_sealed_before_the_nonces_ran_out_still_leaves() -> None:
    """An ACK, a window and a PONG owed in one batch: the failure of the third lost the first two."""
    engine, peer = server_with_peer(guards={"max_invocations": 3, "soft_seals": 1 << 40})
    peer.give(peer.data(0, message(b"x") * 1), peer.ping())
    engine.conn.owe_window(engine.conn.session_stream)
    data = engine.emit(0.0)
    assert engine.conn.phase.over
    assert len(split_frames(data)) == 2
    assert flags.ACK_WORD in words(peer.open(data))


# --- guards that nothing above would miss ----------------------------------------------------------------------------


def test_a_reset_after_the_end_is_ignored() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"all of it", flags.DATA_FIN, stream_id=3))
    for index, final in enumerate((1, 2)):
        peer.give(peer.data(index, encode_stream_reset(3, final, 9), stream_id=0))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert [engine.conn.read(stream, 0.0) for _ in range(2)] == [b"all of it", None]
    assert engine.counted() == {}


def test_a_stop_after_the_end_is_answered_with_nothing() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    engine.conn.write(stream, b"all of it")
    engine.conn.finish(stream)
    peer.see()
    peer.give(peer.data(0, encode_stream_stop(3, 9), stream_id=0))
    assert [p for p in peer.see() if p.stream_id == 0 and p.word & flags.RELIABLE] == []
    assert stream.failure is None
    # What waits is dropped, though: the FIN behind it has not left.
    peer.give(peer.data(0, b"x", stream_id=5))
    other = engine.conn.accept_stream(0.0)
    assert other is not None
    engine.conn.write(other, pattern(200 * KiB))
    engine.conn.finish(other)
    peer.see()
    peer.give(peer.data(1, encode_stream_stop(5, 9), stream_id=0))
    (reset,) = [p for p in peer.see() if p.stream_id == 0 and p.word & flags.RELIABLE]
    assert reset.plaintext[4:9] == encode_stream_reset(5, 0, 9)[:5]
    peer.give(peer.data(2, encode_stream_stop(5, 8), stream_id=0))  # once is enough
    assert [p for p in peer.see() if p.stream_id == 0 and p.word & flags.RELIABLE] == []


def test_a_stream_takes_one_segment_more_than_its_window() -> None:
    engine, peer = server_with_peer(recv_window=64 * KiB)
    peer.give(*(peer.data(i, bytes(40 * KiB), stream_id=3) for i in range(3)))
    stream = engine.conn.streams[3]
    assert stream.received == 80 * KiB
    assert stream.reassembly.next_index == 2
    peer.see()
    peer.give(peer.data(2, bytes(40 * KiB), stream_id=3))
    assert [p for p in peer.see() if p.word == flags.ACK_WORD] == []


def test_an_acknowledgement_of_what_was_never_sent_is_a_violation() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 1), stream_id=3))
    assert engine.counted() == {"protocol_violation": 1}
    assert not stream.proven


def test_what_comes_after_a_reset_is_acknowledged_and_discarded() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3), peer.data(0, encode_stream_reset(3, 3, 9), stream_id=0))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    with pytest.raises(StreamResetError):
        engine.conn.read(stream, 0.0)
    peer.see()
    peer.give(peer.data(2, b"z", stream_id=3), peer.data(1, b"y", stream_id=3))
    assert engine.conn.read(stream, 0.0) is None
    assert engine.conn.stream_charge == 0
    acks = [sacked(p)[1] for p in peer.see() if p.word == flags.ACK_WORD and p.stream_id == 3]
    assert acks == [[(0, 2)]]


def test_jittered_packets_of_a_lost_leg_are_forgotten() -> None:
    pair = Pair(jitter=0.01)
    pair.client.conn.send_message(bytes(1000))
    pair.client.emit(0.0)
    assert pair.client.conn.jitter is not None
    assert pair.client.conn.jitter.size
    pair.client.conn.path_lost(0.0)
    assert pair.client.emit(0.0) == b""
    assert not pair.client.conn.wants_to_send
    assert pair.client.conn.next_timer() is None


def test_the_window_of_an_opener_is_told_again_where_the_first_one_may_have_come_too_early() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    assert [p.stream_id for p in peer.see() if p.word == flags.WINDOW_WORD] == [3]
    engine, peer = client_with_peer()
    engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    assert peer.see() == []
