"""Application streams from end to end (wire-native §14, §15.6): opening, data, ends, reset and stop, limits."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import (
    ConnectionClosedError,
    SessionClosingError,
    StreamClosedError,
    StreamLimitError,
    StreamResetError,
    ValidationError,
)
from phantom.transport.packet import flags, frames
from phantom.transport.session.control import encode_stream_reset, encode_stream_stop
from phantom.transport.session.stream_states import StreamState
from phantom.transport.session.streams import Stream
from tests.transport.session.engines import (
    Engine,
    Pair,
    client_with_peer,
    indices,
    pattern,
    sacked,
    server_with_peer,
    words,
)

KiB, MiB = limits.KiB, limits.MiB


def drain(engine: Engine, stream: Stream, now: float = 0.0) -> bytes:
    """Everything that can be read now."""
    out = []
    while data := engine.conn.read(stream, now):
        out.append(data)
    return b"".join(out)


def opened(pair: Pair, *, by_client: bool = True, priority: int = 0) -> tuple[Stream, Stream]:
    """A stream as both ends have it: the opener's first."""
    one, other = pair.ends if by_client else pair.ends[::-1]
    stream = one.conn.open_stream(priority, 0.0)
    pair.move(0.0)
    accepted = other.conn.accept_stream(0.0)
    assert accepted is not None
    assert accepted.id == stream.id
    return stream, accepted


# --- opening (§14.1, §14.3) ------------------------------------------------------------------------------------------


def test_ids_of_both_ends() -> None:
    pair = Pair()
    assert [pair.client.conn.open_stream(0, 0.0).id for _ in range(3)] == [3, 5, 7]
    assert [pair.server.conn.open_stream(0, 0.0).id for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize("by_client", [True, False])
def test_a_stream_without_data_is_announced_and_the_other_end_speaks_first(by_client: bool) -> None:
    pair = Pair()
    stream, accepted = opened(pair, by_client=by_client)
    one, other = pair.ends if by_client else pair.ends[::-1]
    other.conn.write(accepted, b"I speak first")
    pair.move(0.0)
    assert one.conn.read(stream, 0.0) == b"I speak first"
    assert one.conn.read(stream, 0.0) == b""
    assert not any(engine.counted() for engine in pair.ends)


def test_the_announcement_is_one_empty_segment_unless_something_was_written() -> None:
    engine, peer = client_with_peer()
    engine.conn.open_stream(0, 0.0)
    second = engine.conn.open_stream(0, 0.0)
    engine.conn.write(second, b"data")
    seen = peer.see()
    assert [(p.word, p.stream_id, p.plaintext) for p in seen if p.word == flags.DATA] == [
        (flags.DATA, 3, bytes(4)),
        (flags.DATA, 5, bytes(4) + b"data"),
    ]
    assert peer.see() == []


def test_the_openers_window_follows_the_segment_that_opens() -> None:
    engine, peer = client_with_peer()
    engine.conn.open_stream(0, 0.0)
    seen = peer.see()
    assert words(seen) == [flags.DATA, flags.WINDOW_WORD]
    assert {p.stream_id for p in seen} == {3}


def test_priorities_are_u32() -> None:
    engine, _ = client_with_peer()
    for wrong in (-1, 2**32):
        with pytest.raises(ValidationError):
            engine.conn.open_stream(wrong, 0.0)
    stream = engine.conn.open_stream(2**32 - 1, 0.0)
    assert stream.priority == 2**32 - 1
    with pytest.raises(ValidationError):
        engine.conn.set_priority(stream, 2**32)


# --- data ------------------------------------------------------------------------------------------------------------


def test_bytes_both_ways_and_the_end_of_both_halves() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    client, server = pair.client.conn, pair.server.conn
    client.write(stream, pattern(3 * MiB))
    server.write(accepted, pattern(100 * KiB, 7))
    client.finish(stream)
    got = bytearray()
    for _ in range(100):
        pair.move(0.0)
        got += drain(pair.server, accepted)
    assert bytes(got) == pattern(3 * MiB)
    assert server.read(accepted, 0.0) is None
    assert accepted.state is StreamState.HALF_CLOSED_REMOTE
    assert stream.state is StreamState.HALF_CLOSED_LOCAL
    assert drain(pair.client, stream) == pattern(100 * KiB, 7)
    server.finish(accepted)
    pair.move(0.0)
    assert client.read(stream, 0.0) is None
    assert [s.state for s in (stream, accepted)] == [StreamState.CLOSED] * 2
    assert not client.streams
    assert not server.streams
    assert client.unacknowledged == server.unacknowledged == 0
    assert client.stream_charge == server.stream_charge == client.credit == server.credit == server.excess == 0


def test_the_fin_rides_on_the_last_data_or_goes_alone() -> None:
    engine, peer = client_with_peer()
    one, two = engine.conn.open_stream(0, 0.0), engine.conn.open_stream(0, 0.0)
    engine.conn.write(one, b"last words")
    engine.conn.finish(one)
    engine.conn.finish(one)
    engine.conn.finish(two)
    data = [(p.word, p.stream_id, p.plaintext[4:]) for p in peer.see() if p.word & flags.RELIABLE]
    assert data == [(flags.DATA_FIN, 3, b"last words"), (flags.DATA_FIN, 5, b"")]
    engine.conn.open_stream(0, 0.0)
    peer.see()
    assert peer.see() == []


def test_nothing_is_written_behind_the_end() -> None:
    engine, _ = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.finish(stream)
    with pytest.raises(StreamClosedError):
        engine.conn.write(stream, b"late")
    with pytest.raises(StreamClosedError):
        engine.conn.write_unreliable(stream, b"late", 0.0)


def test_an_empty_write_sends_nothing() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    engine.conn.write(stream, b"")
    engine.conn.write_unreliable(stream, b"", 0.0)
    assert peer.see() == []


def test_small_reliable_pieces_are_read_together_and_large_ones_alone() -> None:
    engine, peer = server_with_peer()
    peer.give(*(peer.data(i, b"ab", stream_id=3) for i in range(10)))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert engine.conn.read(stream, 0.0) == b"ab" * 10
    peer.give(peer.data(10, pattern(40 * KiB), stream_id=3), peer.data(11, b"ab", stream_id=3))
    assert engine.conn.read(stream, 0.0) == pattern(40 * KiB)
    assert engine.conn.read(stream, 0.0) == b"ab"


def test_a_segment_of_a_stream_in_order_is_counted_touched_and_acknowledged_late() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    engine.conn.touched = None
    engine.conn.progress = False
    peer.see()
    engine.tick(0.025)
    peer.see(0.025)
    peer.give(peer.data(1, b"y", stream_id=3), now=1.0)
    assert engine.conn.touched == [stream]
    assert engine.conn.progress
    assert [p for p in peer.see(1.0) if p.word == flags.ACK_WORD] == []
    assert engine.conn.next_timer() == pytest.approx(1.025)
    engine.tick(1.025)
    (ack,) = peer.see(1.025)
    assert sacked(ack)[1] == [(0, 1)]
    assert ack.stream_id == 3


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_opener_keeps_to_the_limit_and_goes_on_when_a_stream_is_closed() -> None:
    pair = Pair(max_streams=3)
    streams = [pair.client.conn.open_stream(0, 0.0) for _ in range(3)]
    assert not pair.client.conn.may_open
    with pytest.raises(StreamLimitError):
        pair.client.conn.open_stream(0, 0.0)
    pair.move(0.0)
    accepted = [pair.server.conn.accept_stream(0.0) for _ in range(3)]
    assert pair.server.conn.accept_stream(0.0) is None
    assert accepted[0] is not None
    pair.client.conn.finish(streams[0])
    pair.server.conn.finish(accepted[0])
    pair.move(0.0)
    assert pair.client.conn.may_open
    assert pair.client.conn.open_stream(0, 0.0).id == 9


def test_one_stream_more_than_the_limit_is_refused_unacknowledged() -> None:
    engine, peer = server_with_peer(max_streams=2)
    peer.give(*(peer.data(0, b"x", stream_id=i) for i in (3, 5, 7)))
    assert sorted(engine.conn.streams) == [3, 5]
    assert {p.stream_id for p in peer.see()} == {3, 5}
    peer.give(peer.seal(flags.UNRELIABLE_WORD, b"x", stream_id=7))
    assert sorted(engine.conn.streams) == [3, 5]
    # The peer half of one ends: the next is taken, up to twice the limit that are not Closed.
    peer.give(peer.data(1, b"", flags.DATA_FIN, stream_id=3), peer.data(0, b"x", stream_id=7))
    peer.give(peer.data(1, b"", flags.DATA_FIN, stream_id=5), peer.data(0, b"x", stream_id=9))
    peer.give(peer.data(1, b"", flags.DATA_FIN, stream_id=7), peer.data(0, b"x", stream_id=11))
    assert sorted(engine.conn.streams) == [3, 5, 7, 9]


def test_ids_run_out() -> None:
    engine, _ = client_with_peer(max_streams=40_000)
    table = engine.conn.stream_table()
    table._next_own = 65535
    assert engine.conn.open_stream(0, 0.0).id == 65535
    assert engine.conn.may_open  # waiting would not help
    with pytest.raises(StreamLimitError):
        engine.conn.open_stream(0, 0.0)


def test_a_closed_stream_is_acknowledged_again_for_a_minute_and_never_comes_back() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3), peer.data(1, b"", flags.DATA_FIN, stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    engine.conn.finish(stream)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    assert stream.state is StreamState.CLOSED
    assert engine.conn.read(stream, 0.0) == b"x"
    peer.give(peer.data(1, b"", flags.DATA_FIN, stream_id=3), now=59.0)
    (ack,) = peer.see(59.0)
    assert (ack.word, ack.stream_id, sacked(ack)[1]) == (flags.ACK_WORD, 3, [(0, 1)])
    peer.give(peer.data(0, b"x", stream_id=3), now=60.0)
    peer.give(peer.seal(flags.UNRELIABLE_WORD, b"x", stream_id=3), now=60.0)
    assert [p for p in peer.see(60.0) if p.stream_id == 3] == []
    assert engine.conn.accept_stream(60.0) is None
    assert engine.counted() == {}


def test_acks_and_windows_of_streams_that_do_not_exist_create_nothing() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.sack((0, 0), stream_id=3), peer.window(MiB, stream_id=3), peer.window(MiB, stream_id=0))
    peer.give(peer.sack((0, 0), stream_id=0))
    assert not engine.conn.streams
    assert engine.counted() == {}


# --- unreliable data (§14.7) -----------------------------------------------------------------------------------------


def test_unreliable_chunks_stay_whole_and_open_a_stream() -> None:
    pair = Pair()
    stream = pair.client.conn.open_stream(0, 0.0)
    for chunk in (b"one", b"two", pattern(limits.BUNDLE_PIPE)):
        pair.client.conn.write_unreliable(stream, chunk, 0.0)
    with pytest.raises(ValidationError):
        pair.client.conn.write_unreliable(stream, bytes(limits.BUNDLE_PIPE + 1), 0.0)
    pair.move(0.0)
    accepted = pair.server.conn.accept_stream(0.0)
    assert accepted is not None
    got = [pair.server.conn.read(accepted, 0.0) for _ in range(4)]
    assert got == [b"one", b"two", pattern(limits.BUNDLE_PIPE), b""]
    assert pair.server.conn.backlog == 0
    assert pair.client.conn.queued == 0


def test_a_fin_on_unreliable_data_closes_the_receive_side() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.seal(flags.UNRELIABLE_WORD | flags.FIN, b"bye", stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert [engine.conn.read(stream, 0.0) for _ in range(2)] == [b"bye", None]


def test_unreliable_chunks_beyond_the_backlog_are_dropped_and_counted() -> None:
    engine, peer = server_with_peer()
    size = 64 * KiB - limits.ITEM_OVERHEAD
    for _ in range(20):
        peer.give(peer.seal(flags.UNRELIABLE_WORD, bytes(size), stream_id=3))
    assert engine.counted() == {"backlog": 4}
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    engine.conn.read(stream, 0.0)
    peer.give(peer.seal(flags.UNRELIABLE_WORD, bytes(size), stream_id=3))
    assert engine.counted() == {"backlog": 4}


def test_bundles_are_rejected_whole() -> None:
    engine, peer = server_with_peer()
    for bundle in (b"\0", b"\0\2\0\1x", b"\0\1\0\1xy", b"\1\1" + b"\0\1x" * 257):
        peer.give(peer.seal(flags.COALESCED_WORD, bundle, stream_id=3))
    assert engine.counted() == {"malformed": 4}
    assert not engine.conn.streams
    peer.give(peer.seal(flags.COALESCED_WORD, frames.encode_coalesced([b"a", b"", b"c"]), stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    assert [engine.conn.read(stream, 0.0) for _ in range(3)] == [b"a", b"c", b""]


# --- reset and stop (§15.6) ------------------------------------------------------------------------------------------


def test_a_reset_drops_what_waits_and_discards_what_is_unread() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    client, server = pair.client.conn, pair.server.conn
    client.write(stream, b"never read")
    pair.move(0.0)
    client.write(stream, pattern(8 * MiB))
    client.reset(stream, 77)
    assert (client.queued, client.unacknowledged) == (len(encode_stream_reset(3, 0, 0)), 0)
    pair.move(0.0)
    with pytest.raises(StreamResetError) as caught:
        server.read(accepted, 0.0)
    assert caught.value.reset_code == 77
    assert server.read(accepted, 0.0) is None
    with pytest.raises(StreamClosedError):
        client.write(stream, b"more")
    with pytest.raises(StreamClosedError):
        client.finish(stream)
    server.finish(accepted)
    pair.run(0.0, 0.1)
    assert stream.state is accepted.state is StreamState.CLOSED
    assert server.stream_charge == server.credit == 0


def test_a_stream_that_is_reset_while_it_waits_for_a_window_asks_for_it_no_more() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.write(stream, bytes(2 * limits.INITIAL_STREAM_WINDOW))
    last = max(indices([packet for packet in peer.see() if packet.stream_id == stream.id]))
    peer.give(peer.sack((0, last), stream_id=stream.id))
    assert peer.see() == []
    assert stream.blocked
    engine.conn.reset(stream, 5)
    peer.see()
    assert not engine.conn.stalled
    assert not stream.ready
    engine.conn.handle_timer(60.0)
    assert [packet for packet in peer.see(60.0) if packet.stream_id == stream.id] == []


def test_a_closed_stream_that_was_reset_over_a_gap_is_charged_for_nothing() -> None:
    engine, peer = server_with_peer()
    peer.give(*(peer.data(index, b"early", stream_id=3) for index in (1, 3)))
    assert engine.conn.charged() > 2 * limits.ITEM_OVERHEAD
    peer.give(peer.data(0, encode_stream_reset(3, 5, 1), stream_id=0))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    peer.give(peer.data(2, b"late", stream_id=3), peer.data(5, b"beyond", stream_id=3))
    acks = [sacked(packet)[1] for packet in peer.see() if packet.stream_id == 3 and packet.word & flags.ACK]
    assert acks[-1] == [(1, 3)], "what came is told, and no more"
    assert engine.counted() == {"protocol_violation": 1}
    engine.conn.finish(stream)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    assert stream.state is StreamState.CLOSED
    assert engine.conn.stream_charge == 0


def test_streams_that_nobody_accepts_are_bounded_though_they_are_closed() -> None:
    engine, peer = server_with_peer(max_streams=4)
    for count in range(20):
        stream_id = 3 + 2 * count
        peer.give(
            peer.data(0, b"x", flags.DATA_FIN, stream_id=stream_id),
            peer.data(count, encode_stream_stop(stream_id, 0), stream_id=0),
        )
        own = indices([packet for packet in peer.see() if packet.stream_id == 0 and packet.plaintext])
        if own:
            peer.give(peer.sack((0, max(own)), stream_id=0))
    assert not engine.conn.streams
    assert len(engine.conn.accepted or ()) == 8
    assert engine.conn.accept_stream(0.0) is not None
    peer.give(peer.data(0, b"x", stream_id=3 + 2 * 20))
    assert len(engine.conn.accepted or ()) == 8


def test_a_stop_ends_the_writer() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    client, server = pair.client.conn, pair.server.conn
    client.write(stream, pattern(100 * KiB))
    pair.move(0.0)
    server.stop(accepted, 5)
    server.stop(accepted, 6)
    assert server.stream_charge == 0
    with pytest.raises(StreamClosedError):
        server.read(accepted, 0.0)
    pair.move(0.0)
    for call in (lambda: client.write(stream, b"x"), lambda: client.finish(stream)):
        with pytest.raises(StreamResetError) as caught:
            call()
        assert caught.value.reset_code == 5
    assert stream.write_ended
    server.finish(accepted)
    pair.run(0.0, 0.1)
    assert stream.state is accepted.state is StreamState.CLOSED


def test_until_the_answer_comes_a_stopped_half_is_acknowledged_discarded_and_consumed() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"x", stream_id=3))
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    engine.conn.stop(stream, 1)
    peer.see()
    for index in range(1, 11):
        peer.give(peer.data(index, bytes(60 * KiB), stream_id=3))
    assert stream.consumed == 1 + 600 * KiB
    assert not stream.chunks
    assert engine.conn.stream_charge == 0
    seen = peer.see()
    assert [sacked(p)[1] for p in seen if p.word == flags.ACK_WORD and p.stream_id == 3] == []
    engine.tick(0.025)
    assert [sacked(p)[1] for p in peer.see(0.025) if p.word == flags.ACK_WORD] == [[(0, 10)]]
    limit = [int.from_bytes(p.plaintext, "big") for p in seen if p.word == flags.WINDOW_WORD][-1]
    assert limit == stream.consumed + MiB


def test_an_opener_resets_only_what_the_peer_has() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.write(stream, b"first")
    peer.see()
    engine.conn.write(stream, b"second")
    engine.conn.reset(stream, 9)
    assert peer.see() == []  # nothing is known to exist there
    assert engine.conn.next_timer() == pytest.approx(3.0)
    engine.tick(3.0)
    assert indices(peer.see(3.0)) == [0]  # segment 0 is repeated
    peer.give(peer.sack((0, 0), stream_id=3), now=3.0)
    (message,) = [p for p in peer.see(3.0) if p.stream_id == 0]
    assert message.plaintext == bytes(4) + encode_stream_reset(3, 1, 9)


def test_a_stream_of_which_nothing_was_sent_ends_locally() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.write(stream, b"never sent")
    engine.conn.reset(stream, 9)
    assert peer.see() == []
    assert stream.state is StreamState.CLOSED
    assert engine.conn.queued == engine.conn.unacknowledged == 0
    assert engine.conn.read(stream, 0.0) is None


def test_a_stop_waits_until_the_stream_is_known_to_exist() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.stop(stream, 4)
    assert [p.stream_id for p in peer.see() if p.word & flags.RELIABLE] == [3]
    peer.give(peer.sack((0, 0), stream_id=3))
    (message,) = [p for p in peer.see() if p.stream_id == 0]
    assert message.plaintext == bytes(4) + encode_stream_stop(3, 4)


def test_codes_are_u16() -> None:
    engine, _ = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    for wrong in (-1, 65536):
        with pytest.raises(ValidationError):
            engine.conn.reset(stream, wrong)
        with pytest.raises(ValidationError):
            engine.conn.stop(stream, wrong)


# --- the session's end -----------------------------------------------------------------------------------------------


def test_a_close_flushes_streams_their_ends_and_their_resets() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    second, other = opened(pair)
    client, server = pair.client.conn, pair.server.conn
    client.write(stream, pattern(300 * KiB))
    client.finish(stream)
    client.write(second, b"dropped")
    client.reset(second, 3)
    client.close(0, 0.0)
    with pytest.raises(SessionClosingError):
        client.open_stream(0, 0.0)
    with pytest.raises(SessionClosingError):
        client.write(stream, b"x")
    pair.run(0.0, 10.0)
    assert drain(pair.server, accepted) == pattern(300 * KiB)
    assert server.read(accepted, 10.0) is None
    with pytest.raises(StreamResetError):
        server.read(other, 10.0)
    assert client.unacknowledged == 0


def test_a_stream_that_the_session_outlived_not_says_so() -> None:
    pair = Pair()
    stream, accepted = opened(pair)
    pair.client.conn.write(stream, b"arrived")
    pair.move(0.0)
    pair.server.conn.path_lost(0.0)
    assert pair.server.conn.read(accepted, 0.0) == b"arrived"
    with pytest.raises(type(pair.server.conn.end_error())):
        pair.server.conn.read(accepted, 0.0)
    pair.client.conn.close(0, 0.0)
    pair.run(0.0, 10.0)
    with pytest.raises(ConnectionClosedError):
        pair.client.conn.read(stream, 10.0)
    for call in ("finish", "reset", "stop"):
        args = () if call == "finish" else (0,)
        getattr(pair.client.conn, call)(stream, *args)
    pair.client.conn.set_priority(stream, 5)


def test_forged_packets_open_nothing() -> None:
    engine, peer = server_with_peer()
    frame = bytearray(peer.data(0, b"x", stream_id=3))
    frame[-9] ^= 1
    peer.give(bytes(frame))
    assert engine.counted() == {"decrypt_failed": 1}
    assert not engine.conn.streams
