"""Invariants of live sessions by name: rows 38, 40, 41, 54, 55, 56, 66 and 67 of wire-native Appendix A, and the groups
"receive path", "ending" and "flow control" of surface §11.2. At the engine; what the API adds is tested there.
"""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import (
    ConnectionClosedError,
    ProtocolViolationError,
    SessionClosingError,
    StreamLimitError,
    StreamResetError,
)
from phantom.transport.packet import flags
from phantom.transport.packet.header import Packet, decode, encode
from phantom.transport.session.connection import Connection
from phantom.transport.session.control import encode_stream_reset, encode_stream_stop
from phantom.transport.session.paths import DATAGRAM
from phantom.transport.session.states import Phase
from phantom.transport.session.stream_states import StreamState
from phantom.transport.session.streams import Stream
from tests.transport.session.engines import (
    SESSION,
    Engine,
    Pair,
    Peer,
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


def phase(engine: Engine) -> Phase:
    return engine.conn.phase


def may_open(conn: Connection) -> bool:
    return conn.may_open


def accepted(engine: Engine) -> Stream:
    stream = engine.conn.accept_stream(0.0)
    assert stream is not None
    return stream


def control(peer: Peer, index: int, *messages: bytes) -> bytes:
    return peer.data(index, b"".join(messages), stream_id=0)


def clear(word: int, plaintext: bytes = b"", stream_id: int = 1) -> bytes:
    """A packet that nobody sealed."""
    return framed(encode(Packet(2, SESSION, stream_id, 9, word & ~flags.ENCRYPTED, plaintext)))


# --- receive path (surface §11.2) -------------------------------------------------------------------------------------


def test_receive_path_forged_unencrypted_data_with_fin_neither_delivers_nor_half_closes() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"first", stream_id=3))
    stream = accepted(engine)
    for index in (1, 2):
        peer.give(clear(flags.DATA_FIN, index.to_bytes(4, "big") + b"forged", 3))
        peer.give(clear(flags.DATA_FIN, b"", 3))
    assert engine.counted() == {"unencrypted_dropped": 4}
    peer.give(peer.data(1, b"second", stream_id=3), peer.data(2, b"third", stream_id=3))
    assert engine.conn.read(stream, 0.0) == b"firstsecondthird"
    assert stream.state is StreamState.OPEN


def test_receive_path_a_forged_unencrypted_close_does_not_end_the_session() -> None:
    engine, _ = server_with_peer()
    Peer(engine).give(clear(flags.CLOSE, b"\x01", 0))
    assert phase(engine) is Phase.ESTABLISHED
    assert engine.counted() == {"unencrypted_dropped": 1}


@pytest.mark.parametrize("version", [1, 3, 0, 255])
def test_receive_path_a_foreign_version_is_dropped_before_flags_are_read(version: int) -> None:
    engine, peer = server_with_peer()
    frame = bytearray(peer.close())
    frame[4] = version
    peer.give(bytes(frame))
    assert phase(engine) is Phase.ESTABLISHED
    assert engine.counted() in ({"wrong_version": 1}, {"malformed": 1})


def test_receive_path_replayed_keepalive_and_close_are_refused() -> None:
    engine, peer = server_with_peer()
    ping = peer.ping()
    peer.give(ping)
    assert words(peer.see()) == [flags.PONG]
    peer.give(ping)
    assert peer.see() == []
    close = peer.close(7)
    peer.give(close)
    assert phase(engine) is Phase.DRAINING
    due = engine.conn.next_timer()
    peer.give(close, now=0.1)
    assert engine.conn.next_timer() == due
    assert engine.counted() == {"replay_rejected": 2}


def test_receive_path_flags_of_keepalive_and_close_overlap_no_other() -> None:
    bits = [
        flags.RELIABLE, flags.ACK, flags.FIN, flags.UNRELIABLE, flags.PRIORITY, flags.ENCRYPTED, flags.COMPRESSED,
        flags.CONTROL, flags.REKEY, flags.PATH_VALIDATION, flags.COALESCED, flags.WINDOW_UPDATE, flags.KEEPALIVE,
        flags.PADDED, flags.COVER,
    ]  # fmt: skip
    assert len({bit.bit_length() for bit in bits}) == len(bits)
    assert all(bit & (bit - 1) == 0 for bit in bits)


# --- ending (surface §11.2; rows 40, 41, 67) --------------------------------------------------------------------------


def test_row40_data_that_a_close_overtook_is_still_delivered_and_the_session_ends_within_a_bound() -> None:
    engine, peer = server_with_peer()
    first, second = peer.data(0, message(b"first")), peer.data(1, message(b"second"))
    peer.give(peer.close(), second, first)
    assert engine.read(0.0) == [b"first", b"second"]
    end = engine.conn.next_timer()
    assert end is not None
    assert end <= limits.DRAIN_MAX
    engine.conn.handle_timer(end)
    assert phase(engine) is Phase.CLOSED


def test_row40_a_forged_close_is_ignored() -> None:
    engine, peer = server_with_peer()
    close = bytearray(peer.close())
    close[-6] ^= 1
    peer.give(bytes(close))
    assert phase(engine) is Phase.ESTABLISHED
    assert engine.counted() == {"decrypt_failed": 1}


@pytest.mark.parametrize("subtype", [None, 0, 2, 3, 127, 255])
def test_row41_an_unknown_control_subtype_never_reaches_recv(subtype: int | None) -> None:
    engine, peer = server_with_peer()
    body = b"" if subtype is None else bytes((subtype,)) + b"body"
    for stream_id in (0, 1, 3):
        peer.give(peer.seal(flags.CLOSE_V1, body, stream_id=stream_id))
    assert engine.read(0.0) == []
    assert not engine.conn.streams
    assert phase(engine) is Phase.ESTABLISHED
    assert engine.counted() == {}


def test_ending_a_draining_session_refuses_everything_queues_nothing_and_has_no_error() -> None:
    engine, peer = server_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.give(peer.close(5))
    queued = engine.conn.queued
    for refused in (
        engine.conn.check_sendable,
        lambda: engine.conn.write(stream, b"x"),
        lambda: engine.conn.open_stream(0, 0.0),
    ):
        with pytest.raises(SessionClosingError) as closing:
            refused()
        assert closing.value.peer_code == 5
    assert engine.conn.queued == queued
    assert not engine.conn.accepts_writes
    assert engine.conn.error is None
    engine.conn.close(0, 0.0)  # does nothing more
    assert phase(engine) is Phase.DRAINING
    assert all(word & flags.ACK for word in words(peer.see()))


def test_ending_the_peers_close_code_is_readable() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.close(1234))
    engine.conn.handle_timer(10.0)
    error = engine.conn.end_error()
    assert isinstance(error, ConnectionClosedError)
    assert error.peer_code == 1234


def test_row67_a_close_with_much_queued_delivers_it_all() -> None:
    pair = Pair()
    sent = [pattern(MiB, salt) for salt in range(16)]
    for data in sent:
        pair.client.conn.send_message(data)
    pair.client.conn.close(0, 0.0)
    pair.run(0.0, 60.0)
    assert pair.server.got == sent
    assert pair.client.conn.unacknowledged == 0


def test_row67_a_peer_that_stops_acknowledging_makes_the_close_report_what_is_left() -> None:
    engine, _ = client_with_peer()
    engine.conn.send_message(bytes(1000))
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    now = 0.0
    while (due := engine.conn.next_timer()) is not None and now < 100:
        now = due
        engine.conn.handle_timer(now)
        engine.emit(now)
    error = engine.conn.end_error()
    assert isinstance(error, ConnectionClosedError)
    assert error.unacknowledged == 1004
    assert now <= limits.CLOSE_FLUSH_TIMEOUT + 0.1


def test_row67_a_close_during_closing_drains() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"x")
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    peer.give(peer.data(0, message(b"late")), peer.close())
    assert phase(engine) is Phase.DRAINING
    assert engine.read(0.0) == [b"late"]


# --- flow control (surface §11.2; row 38) -----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2**64 - 1, 2**63, 1 << 40])
def test_row38_a_limit_without_end_is_clamped_to_one_send_window(limit: int) -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(limit))
    assert engine.conn.session_stream.send_limit.limit == limits.MAX_SEND_WINDOW
    for lower in (0, 1, 65536):
        peer.give(peer.window(lower))
    assert engine.conn.session_stream.send_limit.limit == limits.MAX_SEND_WINDOW


def test_flow_control_new_data_keeps_within_window_and_congestion_window_and_what_waits_debits_nothing() -> None:
    engine = Engine(True, profile=DATAGRAM)
    peer = Peer(engine)
    peer.see()
    engine.conn.send_message(bytes(200 * KiB))
    sent = [p for p in peer.see() if p.word & flags.RELIABLE]
    congestion = engine.conn.path.congestion
    assert congestion is not None
    assert 0 < congestion.inflight <= congestion.window
    data = sum(len(p.plaintext) - 4 for p in sent)
    assert engine.conn.session_stream.send_limit.sent == data
    assert engine.conn.queued == 200 * KiB + 4 - data


def test_flow_control_a_retransmission_ignores_the_window_and_debits_nothing() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(bytes(limits.INITIAL_STREAM_WINDOW - 4))
    assert indices(peer.see()) == [0]
    credit = engine.conn.session_stream.send_limit
    assert credit.room == 0
    engine.conn.handle_timer(limits.RTO_INITIAL_PIPE)
    assert indices(peer.see(limits.RTO_INITIAL_PIPE)) == [0]
    assert credit.sent == limits.INITIAL_STREAM_WINDOW
    assert credit.room == 0


def test_flow_control_a_retransmission_obeys_the_congestion_window_but_for_one_probe() -> None:
    engine = Engine(True, profile=DATAGRAM)
    peer = Peer(engine)
    peer.see()
    engine.conn.send_message(bytes(100 * KiB))
    first = indices(peer.see())
    assert len(first) > 1
    now = 0.0
    for _ in range(3):
        due = engine.conn.next_timer()
        assert due is not None
        now = max(now, due)
        engine.conn.handle_timer(now)
        seen = [p for p in peer.see(now) if p.word & flags.RELIABLE]
        congestion = engine.conn.path.congestion
        assert congestion is not None
        assert congestion.inflight <= congestion.window + 1400
        if seen:
            return
    pytest.fail("nothing was sent again")


def test_flow_control_the_zero_window_probe_carries_no_payload() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(bytes(limits.INITIAL_STREAM_WINDOW - 4))
    engine.conn.send_message(b"waits")
    top = max(indices(peer.see()))
    peer.give(peer.sack((0, top)))
    assert peer.see() == []
    due = engine.conn.next_timer()
    assert due is not None
    engine.conn.handle_timer(due)
    (probe,) = peer.see(due)
    assert probe.word & ~flags.REKEY == flags.DATA
    assert probe.plaintext == top.to_bytes(4, "big")


def test_flow_control_the_reorder_store_is_bounded_in_bytes_with_a_missing_head() -> None:
    engine, peer = server_with_peer()
    for index in range(1, 2000):
        peer.give(peer.data(index, bytes(8 * KiB)))
    reassembly = engine.conn.session_stream.reassembly
    assert reassembly.stored <= engine.conn.session_stream.window.limit + 8 * KiB
    assert engine.conn.charged() <= 2 * MiB
    assert phase(engine) is Phase.ESTABLISHED


@pytest.mark.parametrize("batch", [1, 50])
def test_flow_control_windows_of_one_session_are_bounded_together(batch: int) -> None:
    bound = 4 * MiB
    engine, peer = server_with_peer(session_recv_window=bound)
    opening = [peer.data(0, b"x", stream_id=stream_id) for stream_id in range(3, 103, 2)]
    for at in range(0, 50, batch):
        peer.give(*opening[at : at + batch])
    peer.see()  # the windows are told
    streams = list(engine.conn.streams.values())
    assert len(streams) == 50
    assert streams[0].window.limit > limits.INITIAL_STREAM_WINDOW
    assert sum(max(0, s.window.limit - s.consumed - limits.INITIAL_STREAM_WINDOW) for s in streams) <= bound


def test_flow_control_a_message_larger_than_the_window_arrives() -> None:
    pair = Pair(recv_window=64 * KiB)
    data = pattern(2 * MiB)
    pair.client.conn.send_message(data)
    pair.run(0.0, 30.0)
    assert pair.server.got == [data]


# --- row 54: every queued item is charged -----------------------------------------------------------------------------


def test_row54_unread_empty_messages_are_charged_and_bounded() -> None:
    engine, peer = server_with_peer()
    for index in range(100):
        peer.give(peer.data(index, bytes(4) * 10_000))  # ten thousand empty messages in each segment
    assert len(engine.conn.messages) * limits.ITEM_OVERHEAD <= limits.RECV_BACKLOG_CAP + limits.ITEM_OVERHEAD
    assert engine.conn.charged() >= limits.ITEM_OVERHEAD * len(engine.conn.messages)


def test_row54_unread_chunks_of_a_byte_are_charged_and_the_newest_dropped() -> None:
    engine, peer = server_with_peer()
    bundle = (256).to_bytes(2, "big") + b"\0\1z" * 256
    for _ in range(100):
        peer.give(peer.seal(flags.COALESCED_WORD, bundle, stream_id=3))
    assert engine.conn.backlog <= limits.RECV_BACKLOG_CAP
    held = limits.RECV_BACKLOG_CAP // (1 + limits.ITEM_OVERHEAD)
    assert engine.counted() == {"backlog": 100 * 256 - held}


# --- row 55: reset and stop create nothing and lose nothing else ------------------------------------------------------


@pytest.mark.parametrize("stream_id", [0, 1, 2, 3, 4, 65535])
def test_row55_reset_and_stop_of_what_is_not_there_are_ignored(stream_id: int) -> None:
    engine, peer = server_with_peer()
    peer.give(control(peer, 0, encode_stream_reset(stream_id, 5, 1), encode_stream_stop(stream_id, 1)))
    assert not engine.conn.streams
    assert phase(engine) is Phase.ESTABLISHED
    assert engine.counted() == {}
    peer.give(peer.data(0, message(b"still")))
    assert engine.read(0.0) == [b"still"]


def test_row55_a_reset_harms_no_other_stream_and_gives_slot_and_credit_back() -> None:
    engine, peer = server_with_peer(max_streams=2)
    peer.give(peer.data(0, bytes(1000), stream_id=3), peer.data(0, b"other", stream_id=5))
    doomed, other = accepted(engine), accepted(engine)
    peer.give(peer.data(0, b"x", stream_id=7))
    assert 7 not in engine.conn.streams  # no slot
    held = engine.conn.charged()
    peer.give(control(peer, 0, encode_stream_reset(3, 4, 9)))
    assert engine.conn.charged() <= held - 1000
    with pytest.raises(StreamResetError) as reset:
        engine.conn.read(doomed, 0.0)
    assert reset.value.reset_code == 9
    peer.give(peer.data(0, b"x", stream_id=7), peer.data(1, b" lives", stream_id=5))
    assert 7 in engine.conn.streams
    assert engine.conn.read(other, 0.0) == b"other lives"
    peer.give(peer.data(1, b"straggler", stream_id=3))
    assert engine.counted() == {}
    assert doomed.chunks is None


def test_row55_a_reset_behind_the_end_of_a_half_is_ignored() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"all of it", flags.DATA_FIN, stream_id=3))
    stream = accepted(engine)
    peer.give(control(peer, 0, encode_stream_reset(3, 1, 9)))
    assert engine.conn.read(stream, 0.0) == b"all of it"
    assert engine.conn.read(stream, 0.0) is None
    assert engine.counted() == {}


# --- row 56: the control stream's framing is strict -------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bytes(4), id="length 0"),
        pytest.param((16385).to_bytes(4, "big"), id="length 16385"),
        pytest.param(b"\0\0\0\x08\1" + bytes(7), id="body of a reset too short"),
        pytest.param(b"\0\0\0\x06\2" + bytes(5), id="body of a stop too long"),
    ],
)
def test_row56_wrong_framing_ends_the_session_with_code_39(content: bytes) -> None:
    engine, peer = server_with_peer()
    peer.give(control(peer, 0, content))
    assert isinstance(engine.conn.error, ProtocolViolationError)
    assert engine.conn.close_code == ProtocolViolationError.code == 39


def test_row56_a_fin_is_dropped_and_an_unassigned_type_skipped() -> None:
    engine, peer = server_with_peer()
    peer.give(
        peer.data(0, b"", flags.DATA_FIN, stream_id=0),
        peer.data(0, encode_stream_stop(3, 1), flags.DATA_FIN, stream_id=0),
    )
    assert engine.counted() == {"protocol_violation": 2}
    peer.give(control(peer, 0, b"\0\0\0\x03\x7fab", encode_stream_stop(3, 1)))
    assert engine.counted() == {"protocol_violation": 2, "unknown_control": 1}
    assert phase(engine) is Phase.ESTABLISHED


# --- row 66: no stream starves ----------------------------------------------------------------------------------------


def test_row66_each_of_256_bulk_streams_is_served_within_one_round_and_the_257th_waits_and_then_works() -> None:
    pair = Pair(bulk_chunk=1024)
    client, server = pair.client.conn, pair.server.conn
    streams = [client.open_stream(0, 0.0) for _ in range(256)]
    assert not may_open(client)
    with pytest.raises(StreamLimitError):
        client.open_stream(0, 0.0)
    for stream in streams:
        client.write(stream, bytes(8 * KiB))
    data = pair.client.emit(0.0)
    packets = [decode(frame) for frame in split_frames(data)]
    bulk = [packet.stream_id for packet in packets if packet.flags & flags.RELIABLE]
    assert len(bulk) > 1000
    for start in range(0, len(bulk) - 256, 256):
        assert len(set(bulk[start : start + 256])) == 256
    pair.server.take(data, 0.0)
    for stream in streams:
        client.finish(stream)
    pair.run(0.0, 1.0)
    assert not may_open(client)
    taken = server.accept_stream(1.0)
    assert taken is not None
    while server.read(taken, 1.0):
        pass
    server.finish(taken)
    pair.run(1.0, 2.0)
    assert may_open(client)
    late = client.open_stream(0, 2.0)
    client.write(late, b"257")
    pair.run(2.0, 3.0)
    assert late.id in server.streams
