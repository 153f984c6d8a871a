"""The engine as a whole: establishment, dispatch (wire-native §12), counters, guards, what it keeps."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from phantom import limits
from phantom.errors import (
    CipherSuiteUnavailableError,
    EpochExhaustedError,
    FrameTooLargeError,
    NonceExhaustedError,
    ProtocolViolationError,
    SessionDeadError,
)
from phantom.transport.packet import flags
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.states import Phase
from phantom.transport.session.streams import session_stream
from tests.transport.session.engines import (
    AES,
    CHACHA,
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
CLOSES = [flags.CLOSE] * 3

# --- establishment (§6.4) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initiator", [True, False])
def test_the_first_packet_is_the_window(initiator: bool) -> None:
    engine = Engine(initiator)
    assert engine.conn.wants_to_send
    (seen,) = Peer(engine).see()
    assert (seen.word, seen.stream_id, int.from_bytes(seen.plaintext, "big")) == (flags.WINDOW_WORD, 1, MiB)
    assert not engine.conn.wants_to_send


@pytest.mark.parametrize("options", [{"recv_window": 64 * KiB}, {"memory": ReceiveMemory(64 * KiB)}])
def test_an_initiator_that_grants_nothing_more_sends_a_ping(options: dict[str, object]) -> None:
    engine = Engine(True, **options)
    assert words(Peer(engine).see()) == [flags.PING]
    engine = Engine(False, **options)
    assert not engine.conn.wants_to_send


def test_the_suites_of_both_directions_may_differ() -> None:
    pair = Pair(client={"suite": AES}, server={"suite": CHACHA})
    for engine, other in (pair.ends, pair.ends[::-1]):
        engine.conn.send_message(pattern(100 * KiB))
        pair.move(0.0)
        assert other.got == [pattern(100 * KiB)]
    assert pair.client.conn.protection.receive_suite is CHACHA
    assert pair.server.conn.protection.receive_suite is AES


def test_a_pinned_suite_that_the_peer_does_not_send_ends_the_session_with_code_17() -> None:
    pair = Pair(client={"suite": CHACHA}, server={"suite": AES, "receive": (AES,)})
    pair.client.conn.send_message(b"not delivered")
    pair.run(0.0, 1.0)
    assert isinstance(pair.server.conn.error, CipherSuiteUnavailableError)
    assert pair.server.got == []
    assert pair.client.conn.peer_code == 17


# --- dispatch --------------------------------------------------------------------------------------------------------


def test_what_is_dropped_and_counted() -> None:
    engine, peer = server_with_peer()
    data = (0).to_bytes(4, "big") + message(b"no")
    cases = {
        "malformed": [
            peer.seal(flags.DATA, b"abc"),
            peer.seal(flags.DATA | flags.COMPRESSED, data),
            peer.seal(flags.DATA | flags.PADDED, b"\1"),
            peer.seal(flags.DATA | flags.PADDED, b"\xff\xff"),
            peer.seal(flags.WINDOW_WORD, bytes(7)),
            peer.seal(flags.WINDOW_WORD, bytes(9)),
            peer.seal(flags.CHALLENGE, bytes(31), stream_id=0),
            peer.seal(flags.CHALLENGE, bytes(33), stream_id=0),
        ],
        "protocol_violation": [
            peer.seal(flags.UNRELIABLE_WORD, b"unreliable on stream 1"),
            peer.seal(flags.UNRELIABLE_WORD | flags.FIN, b""),
            peer.seal(flags.ENCRYPTED, b"neither"),
            peer.seal(flags.COALESCED_WORD, b"\0\1\0\1x"),
            peer.seal(flags.COALESCED_WORD | flags.RELIABLE, data),
            peer.data(0, b"", stream_id=0),
            peer.data(0, b"x", flags.DATA_FIN, stream_id=0),
            peer.data(0, b"own parity", stream_id=2),
            peer.data(1, b"", stream_id=65535),
            peer.data(0, b""),  # an announcement, which stream 1 does not take
            peer.data(5, b""),
        ],
        "path_gated": [
            peer.seal(flags.DATA, data, path_id=1),
            peer.seal(flags.ACK_WORD, bytes(14), path_id=9),
            peer.seal(flags.PING, stream_id=0, path_id=255),
            peer.seal(flags.CHALLENGE, bytes(32), stream_id=0, path_id=1),
            peer.seal(flags.ATTACH_UDP, bytes(34), stream_id=0, path_id=1),
        ],
        "wrong_version": [framed(b"\1" + bytes(49))],
        "wrong_session": [framed(b"\2" + bytes(44) + b"\0\0\0\x10" + bytes(20))],
    }
    for name, frames in cases.items():
        before = engine.counted().get(name, 0)
        for frame in frames:
            peer.give(frame)
        assert engine.counted()[name] == before + len(frames), name
    assert set(engine.counted()) == set(cases)
    peer.give(peer.seal(flags.COVER_WORD, bytes(40), stream_id=0))
    peer.give(peer.seal(flags.COVER | flags.CHALLENGE, bytes(32), stream_id=0))
    assert peer.see() == []
    assert engine.conn.session_stream.reassembly.next_index == 0
    assert engine.conn.phase is Phase.ESTABLISHED
    peer.give(peer.data(0, message(b"genuine")))
    assert engine.read(0.0) == [b"genuine"]


def test_unencrypted_packets_are_dropped_whatever_they_carry() -> None:
    engine, peer = server_with_peer()
    for count, frame in enumerate((peer.data(0, b""), peer.data(0, b"", flags.DATA_FIN), peer.close(), peer.ping()), 1):
        clear = bytearray(frame)
        clear[4 + 40] &= ~flags.ENCRYPTED
        peer.give(bytes(clear))
        assert engine.counted() == {"unencrypted_dropped": count}
    assert not engine.conn.confirmed
    peer.give(peer.data(0, message(b"one")), peer.data(1, message(b"two")))
    assert engine.read(0.0) == [b"one", b"two"]


def test_a_waiting_reader_meets_the_message_limit() -> None:
    engine, peer = server_with_peer(max_message=1000)
    engine.conn.reader_waits = True
    peer.give(peer.data(0, message(b"fine") + (1001).to_bytes(4, "big") + b"..."))
    assert isinstance(engine.conn.error, ProtocolViolationError)
    assert engine.read(0.0) == [b"fine"]


def test_a_waiting_reader_gets_what_would_otherwise_lie_unsplit() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"one") + message(b"two")))
    assert not engine.conn.messages
    engine.conn.reader_waits = True
    peer.give(peer.data(1, message(b"three")))
    assert list(engine.conn.messages) == [b"one", b"two", b"three"]
    assert engine.conn.progress


def test_padded_and_otherwise_flagged_data_is_data() -> None:
    engine, peer = server_with_peer()
    body = b"\0\0\0\0" + message(b"padded")
    peer.give(peer.seal(flags.DATA | flags.PADDED, body + bytes(30) + b"\0\x1e"))
    peer.give(peer.data(1, message(b"urgent"), flags.DATA | flags.PRIORITY))
    peer.give(peer.data(2, message(b"reserved bit"), flags.DATA | 0x8000))
    assert engine.read(0.0) == [b"padded", b"urgent", b"reserved bit"]
    assert engine.counted() == {}


def test_a_replayed_packet_is_refused() -> None:
    engine, peer = server_with_peer()
    frames = [peer.data(0, message(b"once")), peer.ping(), peer.window(MiB)]
    for _ in range(3):
        peer.give(*frames)
    assert engine.counters.replay_rejected == 6
    assert engine.read(0.0) == [b"once"]


# --- frames (§21.1) --------------------------------------------------------------------------------------------------


def test_a_frame_may_be_cut_anywhere() -> None:
    engine, peer = server_with_peer()
    frame = peer.data(0, message(b"whole"))
    for at in range(len(frame) - 1):
        peer.give(frame[at : at + 1])
        assert engine.rest == frame[: at + 1]
    peer.give(frame[-1:])
    assert engine.rest == b""
    assert engine.read(0.0) == [b"whole"]


@pytest.mark.parametrize("declared", [70_001, 1 << 20, 2**32 - 1])
def test_a_frame_over_the_cap_fails_the_leg_before_its_body_is_there(declared: int) -> None:
    engine, peer = server_with_peer(frame_cap=70_000)
    with pytest.raises(FrameTooLargeError, match=str(declared)):
        peer.give(peer.data(0, message(b"before")), declared.to_bytes(4, "big"))
    assert engine.conn.confirmed
    engine.conn.path_lost(0.0)
    assert engine.read(0.0) == [b"before"]


def test_a_frame_over_the_cap_left_views_of_the_lent_window() -> None:
    engine, peer = server_with_peer(frame_cap=70_000)
    with pytest.raises(FrameTooLargeError):
        peer.give(peer.data(0, (60_000).to_bytes(4, "big") + b"part"), (1 << 30).to_bytes(4, "big"))
    assert [type(part) for part in engine.conn.assembler._parts] == [bytes]


def test_a_frame_at_the_cap_is_taken() -> None:
    engine, peer = server_with_peer(frame_cap=70_000)
    size = 70_000 - 73 - 4
    peer.give(peer.data(0, message(pattern(size))))
    assert engine.read(0.0) == [pattern(size)]


def test_sixty_four_empty_frames_in_a_row_are_ignored() -> None:
    engine, peer = server_with_peer()
    peer.give(bytes(4 * 64))
    with pytest.raises(FrameTooLargeError, match="floods"):
        peer.give(bytes(4))
    assert engine.conn.phase is Phase.ESTABLISHED  # whoever drives it ends the leg


def test_empty_frames_that_were_not_in_a_row_ended_the_leg_and_others_did_not() -> None:
    engine, peer = server_with_peer()
    peer.give(bytes(4 * 40), peer.ping(), bytes(4 * 60))
    with pytest.raises(FrameTooLargeError):
        peer.give(bytes(4 * 5))
    engine, peer = server_with_peer()
    for _ in range(10):
        peer.give(bytes(4 * 64), peer.ping())
    assert engine.conn.phase is Phase.ESTABLISHED


# --- exhaustion (§11.6) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guards", [{"soft_seals": 20}, {"soft_bytes": 200_000}, {"sequence_watermark": 20}])
def test_the_session_rekeys_by_itself_without_loss(guards: dict[str, int], rng: random.Random) -> None:
    pair = Pair(guards=guards)
    sent: dict[Engine, list[bytes]] = {engine: [] for engine in pair.ends}
    for number in range(300):
        for engine in pair.ends:
            data = pattern(rng.choice((0, 10, 5000, 70_000)), number)
            engine.conn.send_message(data)
            sent[engine].append(data)
        if rng.random() < 0.5:
            pair.run(number * 0.01, number * 0.01 + 0.005)
    pair.run(3.0, 4.0)
    assert pair.server.got == sent[pair.client]
    assert pair.client.got == sent[pair.server]
    assert pair.client.conn.protection.epoch >= 5
    assert pair.client.conn.protection.epoch == pair.server.conn.protection.epoch
    assert pair.client.counted() == pair.server.counted() == {}
    assert [engine.conn.unacknowledged for engine in pair.ends] == [0, 0]
    assert [engine.conn.stats.retransmissions for engine in pair.ends] == [0, 0]


def test_data_that_crosses_a_rekey_opens_under_the_previous_epoch() -> None:
    pair = Pair()
    pair.move(0.0)
    pair.server.conn.send_message(b"in flight")
    flying = pair.server.emit(0.0)
    pair.client.protection.rekey(0.0)
    pair.client.conn.send_message(b"under the new epoch")
    pair.server.take(pair.client.emit(0.0), 0.0)
    pair.client.take(flying, 0.0)
    assert pair.client.read(0.0) == [b"in flight"]
    assert pair.server.read(0.0) == [b"under the new epoch"]
    pair.run(0.0, 1.0)
    assert not pair.client.protection.unconfirmed
    assert pair.server.protection.epoch == 1


def test_a_timer_forgets_the_previous_epoch() -> None:
    pair = Pair()
    pair.move(0.0)
    pair.client.protection.rekey(0.0)
    pair.client.conn.send_message(b"under the new epoch")
    pair.move(0.0)
    assert [engine.protection._previous is None for engine in pair.ends] == [False, False]
    for engine in pair.ends:
        engine.conn.handle_timer(5.0)
    assert [engine.protection._previous is None for engine in pair.ends] == [True, True]


@pytest.mark.parametrize(("watermark", "last"), [(10, 3), (4, 255)])
def test_the_last_epoch_ends_the_session_and_says_so(watermark: int, last: int) -> None:
    pair = Pair(guards={"sequence_watermark": watermark, "max_epoch": last})
    received = 0
    for number in range(2000):
        if pair.client.conn.phase.over:
            break
        pair.client.conn.send_message(b"%d" % number)
        pair.run(float(number), number + 0.5)
        received = len(pair.server.got)
    assert isinstance(pair.client.conn.error, EpochExhaustedError)
    assert pair.client.conn.error.code == 27
    assert pair.client.protection.epoch == last
    pair.run(3000.0, 3001.0)
    assert pair.server.conn.peer_code == 27
    assert pair.server.got == [b"%d" % number for number in range(received)]
    assert received >= last
    assert pair.client.conn.unacknowledged > 0


def test_without_a_key_left_the_session_ends_in_silence() -> None:
    engine, _ = client_with_peer(guards={"max_invocations": 10})
    for number in range(20):
        engine.conn.send_message(b"%d" % number)
        engine.emit(0.0)
    assert isinstance(engine.conn.error, NonceExhaustedError)
    assert engine.conn.phase is Phase.CLOSED
    assert not engine.conn.wants_to_send
    assert engine.conn.protection._closed
    assert engine.emit(1.0) == b""


def test_what_was_sealed_before_the_keys_ran_out_was_thrown_away() -> None:
    engine, peer = client_with_peer(guards={"max_invocations": 6})
    peer.give(peer.window(MiB))
    for _ in range(10):
        engine.conn.send_message(pattern(64 * KiB))
    assert indices(peer.see()) == [0, 1, 2, 3, 4]
    assert isinstance(engine.conn.error, NonceExhaustedError)


def test_exhaustion_in_a_session_frame_ends_the_session_too() -> None:
    engine, peer = server_with_peer(guards={"max_invocations": 3})
    peer.give(*(peer.ping() for _ in range(3)))
    assert not engine.conn.phase.over
    engine.emit(0.0)
    assert isinstance(engine.conn.error, NonceExhaustedError)
    assert not engine.conn.wants_to_send


def test_too_many_opens_under_one_key_end_the_session() -> None:
    engine, peer = server_with_peer(guards={"max_invocations": 5})
    peer.give(*(peer.ping() for _ in range(8)))
    assert isinstance(engine.conn.error, NonceExhaustedError)


def test_too_many_forgeries_end_the_session_with_code_39() -> None:
    engine, peer = server_with_peer(guards={"max_forgeries": 10})
    frame = bytearray(peer.data(0, message(b"x")))
    frame[-10] ^= 1
    peer.give(*[bytes(frame)] * 9)
    assert engine.conn.phase is Phase.ESTABLISHED
    peer.give(bytes(frame))
    assert isinstance(engine.conn.error, ProtocolViolationError)
    assert words(peer.see()) == CLOSES


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_without_room_for_session_frames_leaves_them_owed() -> None:
    engine, peer = client_with_peer()
    buf = bytearray(200_000)
    peer.give(peer.ping())
    assert engine.conn.fill(0, buf, memoryview(buf), 100, 4000, 0.0) == 100
    assert engine.conn.wants_to_send
    assert words(peer.see()) == [flags.PONG]
    engine.conn.abort(SessionDeadError("enough"))
    assert engine.conn.fill(0, buf, memoryview(buf), 100, 4000, 0.0) == 100
    assert engine.conn.wants_to_send
    end = engine.conn.fill(0, buf, memoryview(buf), 100, 5000, 0.0)
    assert words(peer.open(bytes(buf[100:end]))) == CLOSES
    assert not engine.conn.wants_to_send


def test_a_segment_that_does_not_fit_waits_for_the_next_batch() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(MiB))
    for _ in range(3):
        engine.conn.send_message(pattern(50_000))
    data = engine.emit(0.0, 0)
    assert len(split_frames(data)) == 3
    assert indices(peer.open(data)) == [0, 1, 2]


def test_streams_of_equal_priority_take_turns() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(MiB))
    other = session_stream(3, budget=64 * KiB, recv_window=MiB, recv_segments=32)
    for _ in range(3):
        engine.conn.send_message(pattern(60_000))
        other.add_message(pattern(20_000))
    engine.conn.make_ready(other)
    seen = peer.see()
    assert [(packet.stream_id, len(packet.plaintext)) for packet in seen] == [
        (1, 60_008),
        (3, 60_016),
        (1, 60_008),
        (1, 60_008),
    ]


def test_a_resend_joins_what_is_queued_already() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(MiB))
    for _ in range(4):
        engine.conn.send_message(pattern(60_000))
    buf = bytearray(140_000)
    end = engine.conn.fill(0, buf, memoryview(buf), 0, 140_000, 0.0)
    assert indices(peer.open(bytes(buf[:end]))) == [0, 1]
    peer.give(peer.sack((1, 1)))
    assert indices(peer.see()) == [0, 2, 3]


def test_path_0_answers_a_challenge_and_takes_no_answer() -> None:
    engine, peer = server_with_peer()
    challenge = pattern(32, 9)
    peer.give(peer.seal(flags.CHALLENGE, challenge, stream_id=0))
    (answer,) = peer.see()
    assert (answer.word, answer.stream_id, answer.plaintext) == (flags.RESPONSE, 0, challenge)
    peer.give(peer.seal(flags.RESPONSE, challenge, stream_id=0))
    assert peer.see() == []
    assert engine.counted() == {}


# --- what it counts and keeps ----------------------------------------------------------------------------------------


def test_statistics() -> None:
    pair = Pair()
    for number in range(5):
        pair.client.conn.send_message(bytes(number))
    pair.run(0.0, 1.0)
    client, server = pair.client.conn.stats, pair.server.conn.stats
    sent, received = pair.wire[::2], pair.wire[1::2]
    assert client.bytes_sent == server.bytes_recv == sum(map(len, sent))
    assert server.bytes_sent == client.bytes_recv == sum(map(len, received))
    assert client.packets_sent == server.packets_recv == sum(len(split_frames(data)) for data in sent)
    assert server.packets_sent == client.packets_recv == sum(len(split_frames(data)) for data in received)
    assert (client.messages_sent, client.retransmissions) == (5, 0)
    assert pair.client.conn.written == pair.client.conn.acked == 10 + 5 * 4


def test_the_send_buffer_takes_the_write_that_crosses_its_cap() -> None:
    engine, peer = client_with_peer()
    for _ in range(4):
        assert engine.conn.has_room
        engine.conn.send_message(pattern(MiB))
    assert not engine.conn.has_room  # the prefixes count
    assert engine.conn.queued_messages == 4
    peer.give(peer.window(2 * MiB))
    peer.see()
    assert engine.conn.has_room
    assert 2 * MiB < engine.conn.queued <= 2 * MiB + 64 * KiB + 16
    assert engine.conn.queued_messages == 3
    assert engine.conn.unacknowledged == 4 * MiB + 16


def test_keys_and_buffers_go_with_the_session() -> None:
    for end in ("lost", "abort", "close"):
        engine, peer = client_with_peer(close_timeout=0.0)
        peer.give(peer.data(3, bytes(1000)))
        for _ in range(20):
            engine.conn.send_message(pattern(20_000))
            engine.emit(0.0)
        secret = engine.protection._secret
        if end == "lost":
            engine.conn.path_lost(1.0)
        elif end == "abort":
            engine.conn.abort(SessionDeadError("enough"))
        else:
            engine.conn.close(0, 1.0)
            engine.conn.handle_timer(1.0)
        engine.emit(1.0)
        assert secret == bytes(32)
        stream = engine.conn.session_stream
        assert not stream.has_queued
        assert not stream.outstanding.segments
        assert stream.reassembly.store is None
        assert engine.conn.unacknowledged == 20 * 20_004


def test_a_close_that_cannot_leave_kept_the_keys() -> None:
    engine, _ = client_with_peer()
    secret = engine.protection._secret
    engine.conn.close(0, 0.0)
    assert engine.conn.wants_to_send
    engine.conn.path_lost(0.0)  # the leg is gone before the batch is asked for
    assert secret == bytes(32)
    assert not engine.conn.wants_to_send


def test_an_ended_session_is_not_kept_on_the_account() -> None:
    memory = ReceiveMemory(MiB)
    engine, peer = server_with_peer(memory=memory)
    peer.give(peer.data(0, message(b"x")), peer.close())
    engine.conn.handle_timer(1.0)
    assert not memory._accounts
    assert not memory._held


# --- bad input after the handshake -----------------------------------------------------------------------------------


def state(engine: Engine) -> object:
    """What garbage must leave alone."""
    conn, p = engine.conn, engine.protection
    stream = conn.session_stream
    return (
        conn.phase,
        conn.peer_code,
        conn.unacknowledged,
        stream.reassembly.next_index,
        dict(stream.reassembly.store or {}),
        stream.outstanding.base,
        stream.send_limit.limit,
        conn.assembler.consumed,
        list(conn.messages),
        conn.path.last_seen,
        conn.path.estimator.srtt,
        p.epoch,
        p.receive_suite,
        dict(p._sequences),
    )


def test_every_flipped_bit_is_a_dropped_packet(rng: random.Random) -> None:
    engine, peer = server_with_peer()
    engine.conn.send_message(b"outstanding")
    engine.emit(0.0)
    peer.give(peer.data(0, message(b"first")), peer.data(2, message(b"early")))
    engine.read(0.0)
    engine.emit(0.0)
    genuine = [
        (peer.data(1, message(b"data")), 8),
        (peer.sack((0, 0)), 1),
        (peer.window(1 << 30), 1),
        (peer.close(3), 1),
        (peer.ping(), 1),
    ]
    before = state(engine)
    for frame, bits in genuine:
        for byte in range(4, len(frame)):
            for bit in range(8) if bits == 8 else (rng.randrange(8),):
                bad = bytearray(frame)
                bad[byte] ^= 1 << bit
                peer.give(bytes(bad), now=1.0)
                assert state(engine) == before
    dropped = engine.counted()
    assert set(dropped) <= {"decrypt_failed", "malformed", "wrong_session", "wrong_version", "unencrypted_dropped"}
    for frame, _ in genuine[:-2]:
        peer.give(frame, now=2.0)
    assert engine.read(2.0) == [b"data", b"early"]
    assert engine.conn.unacknowledged == 0
    assert engine.conn.session_stream.send_limit.limit > MiB


def test_truncated_and_extended_frames_are_dropped() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.ping())
    frame = peer.data(0, message(b"genuine"))[4:]
    before = state(engine)
    for size in range(1, len(frame)):
        peer.give(framed(frame[:size]))
    for tail in (b"\0", bytes(4), bytes(1200)):
        peer.give(framed(frame + tail))
    assert state(engine) == before
    peer.give(framed(frame))
    assert engine.read(0.0) == [b"genuine"]


def test_random_frames_between_genuine_ones(rng: random.Random) -> None:
    engine, peer = server_with_peer()
    sent = []
    for number in range(200):
        garbage = []
        for _ in range(rng.randrange(6)):
            frame = bytearray(rng.randbytes(rng.choice((1, 16, 68, 69, 70, 100, 1500))))
            if rng.random() < 0.7:  # as far as one can get without a key
                frame[:45] = (b"\2" + b"\x88" * 32 + rng.randbytes(12))[: len(frame)]
                if rng.random() < 0.8 and len(frame) >= 69:
                    frame[45:49] = (len(frame) - 53).to_bytes(4, "big")
                    frame[-4:] = bytes(4)
                    frame[40] |= flags.ENCRYPTED
            garbage.append(framed(bytes(frame)))
        sent.append(pattern(rng.choice((0, 30, 3000)), number))
        peer.give(*garbage, peer.data(number, message(sent[-1])), now=number * 0.01)
        engine.emit(number * 0.01)
    assert engine.read(3.0) == sent
    assert engine.protection.epoch == 0
    assert engine.counters.decrypt_failed > 100


def test_an_authentic_peer_that_breaks_every_rule_costs_bounded_memory(rng: random.Random) -> None:
    memory = ReceiveMemory(4 * MiB)
    engine, peer = server_with_peer(memory=memory)
    bodies = [b"", b"\1", bytes(3), bytes(4), bytes(8), bytes(14), b"\xff" * 14, bytes(400), b"\0\xff" + b"\0\0" * 200]
    gc.collect()
    tracemalloc.start()
    base, _ = tracemalloc.get_traced_memory()
    for _ in range(6000):
        word = flags.ENCRYPTED | rng.getrandbits(16) & ~(flags.CONTROL | flags.REKEY)
        peer.give(peer.seal(word, rng.choice(bodies), stream_id=rng.choice((0, 1, 2, 3, rng.getrandbits(16)))))
        peer.protection.nonces.clear()
        assert not engine.emit(0.0) or True
        engine.protection.nonces.clear()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert engine.conn.phase is Phase.ESTABLISHED or isinstance(engine.conn.error, ProtocolViolationError)
    assert memory.charged < 4 * MiB
    assert peak - base < 8 * MiB


def test_a_peer_that_ignores_the_window_is_refused_and_charged_no_more() -> None:
    memory = ReceiveMemory(64 * MiB)
    for first in (0, 1):  # in order, or all behind a gap
        engine, peer = server_with_peer(memory=memory, recv_window=256 * KiB)
        for index in range(first, 100):
            peer.give(peer.data(index, bytes(4) * 4000))
            engine.emit(0.0)
        window = engine.conn.session_stream.window.limit - engine.conn.assembler.consumed
        assert window <= 256 * KiB
        held = engine.conn.assembler.run_bytes + engine.conn.session_stream.reassembly.stored
        assert held <= window + 16_000
        assert engine.conn.phase is Phase.ESTABLISHED
        engine.conn.path_lost(0.0)


def test_every_stream_id_of_the_space_costs_bounded_memory() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.ping())
    gc.collect()
    tracemalloc.start()
    base, _ = tracemalloc.get_traced_memory()
    for stream_id in range(2, 65536, 7):
        engine.take(peer.data(0, b"open", stream_id=stream_id), 0.0)
    peer.protection.nonces.clear()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used - base < 4 * MiB
    own = len(range(2, 65536, 14))
    assert (engine.counters.protocol_violation, engine.counters.replay_rejected) == (own, 0)
    assert len(engine.conn.streams) == limits.MAX_STREAMS
    peer.give(peer.data(0, message(b"stream 1 goes on")))
    assert engine.read(0.0) == [b"stream 1 goes on"]
