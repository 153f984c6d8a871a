"""How a session ends (wire-native §15.1, §15.2, §20.3, §24): nothing is lost silently, and both ends say why."""

from __future__ import annotations

import itertools

import pytest

from phantom import limits
from phantom.errors import (
    BusyError,
    ConnectionClosedError,
    HandshakeTimeoutError,
    NetworkError,
    ProtocolViolationError,
    SessionClosingError,
    SessionDeadError,
)
from phantom.transport.packet import flags, frames
from phantom.transport.session.events import StateChanged
from phantom.transport.session.states import TRANSITIONS, ConnectionState, Phase, Trigger
from tests.transport.session.engines import (
    Engine,
    Pair,
    client_with_peer,
    message,
    pattern,
    sacked,
    server_with_peer,
    split_frames,
    words,
)

KiB, MiB = limits.KiB, limits.MiB
CLOSES = [flags.CLOSE] * 3


def events(engine: Engine) -> list[tuple[ConnectionState, ConnectionState]]:
    found = []
    while (event := engine.conn.next_event()) is not None:
        assert isinstance(event, StateChanged)
        assert event.reason
        found.append((event.old, event.new))
    assert not engine.conn.has_events
    return found


CONNECTED, MIGRATING, DRAINING, CLOSED, DEAD = (
    ConnectionState.CONNECTED,
    ConnectionState.MIGRATING,
    ConnectionState.DRAINING,
    ConnectionState.CLOSED,
    ConnectionState.DEAD,
)

# --- the table -------------------------------------------------------------------------------------------------------


def test_the_public_codes_are_those_of_the_specification() -> None:
    assert {state.name: state.value for state in ConnectionState} == {
        "CONNECTING": 0,
        "CLASSICAL_READY": 1,
        "PQC_UPGRADING": 2,
        "PQC_READY": 3,
        "CONNECTED": 4,
        "FAILED": 5,
        "CLOSED": 6,
        "MIGRATING": 7,
        "DEAD": 8,
        "DRAINING": 9,
    }


def test_every_live_phase_can_end_and_no_ended_one_moves() -> None:
    for phase in Phase:
        leaving = {trigger for (old, trigger) in TRANSITIONS if old is phase}
        assert bool(leaving) != phase.over
        if not phase.over:
            assert {Trigger.PATH_LOST, Trigger.ERROR} <= leaving
            assert all(TRANSITIONS[phase, end].over for end in (Trigger.PATH_LOST, Trigger.ERROR))
    assert [phase.public for phase in Phase] == [CONNECTED, MIGRATING, DRAINING, DRAINING, CLOSED, DEAD]


# --- closing ---------------------------------------------------------------------------------------------------------


def test_an_idle_session_closes_at_once_with_three_padded_copies() -> None:
    engine, peer = client_with_peer()
    engine.conn.close(7, 1.0)
    assert engine.conn.phase is Phase.CLOSED
    data = engine.emit(1.0)
    assert [len(frame) for frame in split_frames(data)] == [80, 80, 80]
    seen = peer.open(data)
    assert words(seen) == CLOSES
    assert {packet.stream_id for packet in seen} == {0}
    for packet in seen:
        end = frames.unpad(packet.plaintext, 0, len(packet.plaintext))
        assert frames.decode_control(packet.plaintext, 0, end) == 7
    assert events(engine) == [(CONNECTED, DRAINING), (DRAINING, CLOSED)]
    assert engine.emit(2.0) == b""
    assert not engine.conn.wants_to_send
    assert engine.conn.next_timer() is None
    with pytest.raises(ConnectionClosedError, match="this side"):
        engine.conn.check_sendable()


def test_a_normal_close_carries_no_code() -> None:
    engine, peer = client_with_peer()
    engine.conn.close(0, 0.0)
    data = engine.emit(0.0)
    assert [len(frame) for frame in split_frames(data)] == [72, 72, 72]
    assert {packet.plaintext[:1] + packet.plaintext[-2:] for packet in peer.open(data)} == {b"\x01\0\0"}


def test_close_flushes_everything_first() -> None:
    pair = Pair()
    pair.client.conn.send_message(pattern(8 * MiB))
    pair.client.conn.send_message(b"last")
    pair.client.conn.close(0, 0.0)
    with pytest.raises(SessionClosingError):
        pair.client.conn.check_sendable()
    assert not pair.client.conn.accepts_writes
    pair.client.conn.close(9, 0.0)  # no effect
    pair.move(0.0)
    assert pair.server.got == [pattern(8 * MiB), b"last"]
    assert pair.client.conn.unacknowledged == 0
    assert pair.client.conn.phase is Phase.CLOSED
    assert pair.server.conn.phase is Phase.DRAINING
    assert pair.server.conn.peer_code == 0
    assert pair.run(0.0, 1.0) == 1.0
    assert pair.server.conn.phase is Phase.CLOSED
    assert events(pair.server) == [(CONNECTED, DRAINING), (DRAINING, CLOSED)]
    with pytest.raises(ConnectionClosedError, match="the peer closed it") as closed:
        pair.server.conn.check_sendable()
    assert (closed.value.peer_code, closed.value.unacknowledged) == (0, 0)


def test_a_ping_behind_the_last_segment_brings_the_last_acknowledgement() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"last")
    engine.conn.close(0, 0.0)
    assert words(peer.open(engine.batch(0.0, 0))) == [flags.DATA, flags.PING]
    assert words(peer.see()) == []
    # Queued data that the window holds back is not passed by the PING.
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(100 * KiB))
    engine.conn.close(0, 0.0)
    assert words(peer.see()) == [flags.DATA]
    peer.give(peer.window(MiB))
    assert words(peer.see()) == [flags.DATA, flags.DATA, flags.PING]


def test_the_flush_gives_up_after_five_seconds_without_a_newly_acknowledged_byte() -> None:
    engine, peer = client_with_peer()
    for _ in range(3):
        engine.conn.send_message(pattern(20_000))
        engine.emit(0.0)  # three segments
    engine.conn.close(0, 0.0)
    assert engine.conn.next_timer() <= 5.0
    engine.conn.handle_timer(4.9)
    peer.give(peer.sack((0, 0)), now=4.9)
    engine.conn.handle_timer(9.8)
    assert engine.conn.phase is Phase.CLOSING
    peer.give(peer.sack((0, 0)), now=9.85)  # nothing new
    engine.emit(9.85)
    engine.conn.handle_timer(9.9)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.conn.unacknowledged == 40_008
    assert words(peer.see(9.9))[-3:] == CLOSES
    assert engine.conn.end_error().unacknowledged == 40_008


def test_the_flush_begins_with_the_close_not_with_the_last_acknowledgement() -> None:
    engine, _ = client_with_peer()
    engine.conn.send_message(b"late")
    engine.emit(99.0)
    engine.conn.close(0, 100.0)
    engine.conn.handle_timer(101.0)
    assert engine.conn.phase is Phase.CLOSING
    engine.conn.handle_timer(105.0)
    assert engine.conn.phase is Phase.CLOSED


def test_close_timeout_caps_the_whole() -> None:
    for by_argument in (True, False):
        engine, peer = client_with_peer(close_timeout=None if by_argument else 2.0)
        engine.conn.send_message(b"data")
        engine.emit(0.0)
        engine.conn.close(0, 1.0, 2.0 if by_argument else None)
        assert engine.conn.next_timer() == 3.0
        engine.conn.handle_timer(2.99)
        assert engine.conn.phase is Phase.CLOSING
        engine.conn.handle_timer(3.0)
        assert engine.conn.phase is Phase.CLOSED
        assert words(peer.see(3.0))[-3:] == CLOSES


def test_a_later_close_could_not_shorten_the_flush() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"data")
    engine.emit(0.0)
    engine.conn.close(5, 0.0)
    engine.conn.close(6, 1.0, 100.0)
    engine.conn.close(7, 1.0, 2.0)
    engine.conn.close(8, 1.0, 3.0)
    engine.conn.close(9, 1.0)
    assert engine.conn.next_timer() == 3.0
    engine.conn.handle_timer(3.0)
    assert engine.conn.phase is Phase.CLOSED
    assert peer.see(3.0)[-1].plaintext[:3] == b"\x01\0\5"
    engine.conn.close(7, 4.0, 0.0)
    assert engine.conn.next_timer() is None


def test_a_closing_session_goes_on_receiving_and_answering() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"owed")
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    engine.emit(0.0)
    peer.give(peer.data(0, message(b"still welcome")), peer.ping())
    assert words(peer.see()) == [flags.ACK_WORD, flags.PONG]
    assert engine.read(0.0) == [b"still welcome"]
    peer.give(*(peer.data(1 + i, message(bytes(40_000))) for i in range(20)))
    engine.read(0.0)
    assert flags.WINDOW_WORD in words(peer.see())


def test_both_close_at_once() -> None:
    pair = Pair()
    for engine in pair.ends:
        engine.conn.send_message(pattern(300 * KiB))
        engine.conn.close(3, 0.0)
    now = pair.run(0.0, 2.0)
    assert now == 2.0
    # Whoever is through first sends CLOSE; that ends the other's flush, which knows what it did not get through.
    assert sorted(engine.conn.unacknowledged > 0 for engine in pair.ends) == [False, True]
    for engine, other in (pair.ends, pair.ends[::-1]):
        assert other.got == ([] if engine.conn.unacknowledged else [pattern(300 * KiB)])
        assert engine.conn.phase is Phase.CLOSED
        assert events(engine) == [(CONNECTED, DRAINING), (DRAINING, CLOSED)]
        assert engine.memory.charged == engine.memory.credit == 0


# --- draining --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("code", [0, 1, 39, 0xFFFF])
def test_close_is_taken_padded_and_unpadded(code: int, padded: bool) -> None:
    engine, peer = server_with_peer()
    peer.give(peer.close(code, padded=padded))
    assert (engine.conn.phase, engine.conn.peer_code) == (Phase.DRAINING, code)
    with pytest.raises(SessionClosingError) as refused:
        engine.conn.check_sendable()
    assert refused.value.peer_code == code
    assert engine.conn.error is None


@pytest.mark.parametrize("body", [b"\x01\x05", b"\x01\0\0\5", b"\x01" + bytes(100)])
def test_a_close_with_a_body_of_another_length_counts_with_code_0(body: bytes) -> None:
    engine, peer = server_with_peer()
    peer.give(peer.seal(flags.CLOSE_V1, body, stream_id=0))
    assert engine.conn.peer_code == 0


def test_unknown_control_frames_are_consumed() -> None:
    engine, peer = server_with_peer()
    for subtype in (0, *range(2, 256)):
        peer.give(peer.seal(flags.CLOSE_V1, bytes((subtype,)) + b"\0\1", stream_id=subtype))
    peer.give(peer.seal(flags.CLOSE_V1, b"", stream_id=0), peer.seal(flags.CLOSE, b"\0\0", stream_id=0))
    assert engine.conn.phase is Phase.ESTABLISHED
    assert engine.read(0.0) == []
    assert peer.see() == []  # never answered, never acknowledged
    assert engine.conn.session_stream.reassembly.next_index == 0
    peer.give(peer.data(0, message(b"alive")))
    assert engine.read(0.0) == [b"alive"]


@pytest.mark.parametrize(("srtt", "drain"), [(0.01, 0.2), (0.1, 0.3), (1.0, 0.6)])
def test_the_draining_time_is_three_srtt_clamped_and_never_extended(srtt: float, drain: float) -> None:
    engine, peer = server_with_peer()
    engine.conn.path.estimator.sample(srtt)
    peer.give(peer.close(), now=10.0)
    assert engine.conn.next_timer() == pytest.approx(10.0 + drain)
    peer.give(peer.close(5), peer.close(5), now=10.15)
    assert engine.conn.peer_code == 0
    engine.conn.handle_timer(10.0 + drain - 0.001)
    assert engine.conn.phase is Phase.DRAINING
    engine.conn.handle_timer(10.0 + drain)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.emit(11.0) == b""  # torn down without a CLOSE of its own


def test_data_that_the_close_overtook_is_delivered_and_acknowledged() -> None:
    engine, peer = server_with_peer()
    late = peer.data(0, message(b"overtaken"))
    peer.give(peer.data(1, message(b"early")), peer.close(), now=1.0)
    peer.give(late, now=1.1)
    assert engine.read(1.1) == [b"overtaken", b"early"]
    seen = peer.see(1.1)
    assert words(seen) == [flags.ACK_WORD]
    assert sacked(seen[0])[1] == [(0, 1)]
    engine.conn.handle_timer(1.6)
    assert engine.conn.phase is Phase.CLOSED
    peer.give(peer.data(2, message(b"too late")), now=1.7)
    assert engine.read(1.7) == []


def test_unread_messages_survive_the_end() -> None:
    engine, peer = server_with_peer()
    peer.give(*(peer.data(i, message(pattern(60_000, i))) for i in range(17)), peer.close())
    engine.conn.handle_timer(1.0)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.memory.charged == 0
    assert engine.read(2.0) == [pattern(60_000, i) for i in range(17)]


def test_a_draining_session_sent_what_it_had_queued() -> None:
    engine, peer = server_with_peer()
    engine.conn.send_message(pattern(200 * KiB))
    peer.see()
    engine.conn.send_message(b"more")
    peer.give(peer.window(MiB), peer.close(), peer.data(0, message(b"x")), peer.ping())
    assert words(peer.see()) == [flags.ACK_WORD]  # nothing but acknowledgements
    assert not engine.conn.wants_to_send
    assert engine.conn.next_timer() > 0.0
    assert engine.conn.unacknowledged == 200 * KiB + 4 + 8
    engine.conn.handle_timer(1.0)
    assert engine.conn.end_error().unacknowledged == 200 * KiB + 12


def test_a_draining_session_does_not_probe_and_hears_acknowledgements() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(pattern(100 * KiB))
    peer.see()
    peer.give(peer.sack((0, 0)), now=1.0)
    assert peer.see(1.0) == []  # blocked now
    peer.give(peer.close(), now=1.0)
    engine.conn.handle_timer(1.1)
    assert peer.see(1.1) == []
    assert engine.conn.next_timer() == pytest.approx(1.0 + engine.conn.path.drain_time())
    engine, peer = client_with_peer()
    engine.conn.check_sendable()
    engine.conn.send_message(pattern(100 * KiB))
    peer.see()
    peer.give(peer.close(), peer.window(MiB), peer.sack((0, 0)), now=1.0)
    assert engine.conn.unacknowledged == 100 * KiB + 4 - 64 * KiB
    assert peer.see(1.0) == []


def test_a_draining_session_spun_on_its_retransmission_timer() -> None:
    engine, peer = server_with_peer()
    engine.conn.send_message(b"never acknowledged")
    engine.emit(0.0)
    peer.give(peer.close(), now=2.9)  # the timeout of the segment falls into the draining time
    engine.conn.handle_timer(3.0)
    assert engine.conn.next_timer() == pytest.approx(2.9 + 3 * 0.15)
    assert engine.conn.path.estimator.backoff == 0
    assert engine.emit(3.0) == b""


def test_a_draining_session_opens_no_window_and_pings_nobody() -> None:
    engine, peer = client_with_peer()
    engine.conn.handle_timer(15.0)  # a PING is due
    peer.give(peer.close(), now=15.0)
    assert peer.see(15.0) == []
    peer.give(*(peer.data(i, message(pattern(60_000))) for i in range(17)), now=15.1)
    assert len(engine.read(15.1)) == 17
    assert words(peer.see(15.1)) == [flags.ACK_WORD]


def test_a_close_while_closing_leads_to_draining() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"owed")
    engine.conn.send_message(pattern(100 * KiB))
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    peer.give(peer.window(MiB), peer.close(14), now=1.0)
    assert engine.conn.phase is Phase.DRAINING
    assert peer.see(1.0) == []
    peer.give(peer.data(0, message(b"behind")), now=1.1)
    assert words(peer.see(1.2)) == []
    engine.conn.handle_timer(1.125)
    assert words(peer.see(1.2)) == [flags.ACK_WORD]
    engine.conn.handle_timer(1.6)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.read(1.6) == [b"behind"]
    assert engine.emit(1.6) == b""
    assert engine.conn.end_error().peer_code == 14


def test_forged_and_replayed_closes_are_ignored() -> None:
    engine, peer = server_with_peer()
    genuine = peer.close(1)
    for byte, bit in itertools.product(range(4, len(genuine)), (0, 3, 7)):
        forged = bytearray(genuine)
        forged[byte] ^= 1 << bit
        peer.give(bytes(forged))
    stranger = Pair(secret=b"\x77" * 32).client
    stranger.conn.close(0, 0.0)
    peer.give(stranger.emit(0.0))
    clear = bytearray(genuine)
    clear[4 + 40] &= ~flags.ENCRYPTED
    peer.give(bytes(clear))
    assert engine.conn.phase is Phase.ESTABLISHED
    assert not engine.conn.confirmed
    # A replay meets the window: here of the other direction's copies, and of a CLOSE that has ended its session.
    peer.give(genuine)
    assert engine.conn.phase is Phase.DRAINING
    replayed = engine.counters.replay_rejected
    peer.give(genuine)
    assert engine.counters.replay_rejected == replayed + 1


def test_the_end_of_the_stream_ends_the_drain_early() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"bye")), peer.close())
    engine.conn.path_lost(0.1)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.conn.error is None
    assert engine.read(0.1) == [b"bye"]
    engine.conn.path_lost(0.2)
    assert engine.conn.phase is Phase.CLOSED


# --- the leg goes ----------------------------------------------------------------------------------------------------


def test_a_lost_leg_is_dead_in_a_live_session() -> None:
    cause = NetworkError("reset")
    engine, _ = client_with_peer()
    engine.conn.send_message(b"lost")
    engine.conn.path_lost(1.0, cause)
    assert engine.conn.phase is Phase.DEAD
    assert isinstance(engine.conn.error, SessionDeadError)
    assert engine.conn.error.__cause__ is cause
    assert "reset" in str(engine.conn.error)
    assert events(engine) == [(CONNECTED, DEAD)]
    assert engine.conn.next_timer() is None
    assert engine.emit(1.0) == b""
    engine.conn.handle_timer(99.0)
    with pytest.raises(SessionDeadError):
        engine.conn.check_sendable()


def test_a_client_that_leaves_before_its_first_packet_may_pin_another_key() -> None:
    engine, _ = server_with_peer()
    engine.conn.path_lost(1.0)
    assert "pins another key" in str(engine.conn.error)


def test_a_lost_leg_closes_a_closing_session() -> None:
    engine, _ = client_with_peer()
    engine.conn.send_message(b"lost")
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    engine.conn.path_lost(1.0)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.conn.error is None
    assert engine.conn.unacknowledged == 8
    assert events(engine) == [(CONNECTED, DRAINING), (DRAINING, CLOSED)]


# --- errors that end a session ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BusyError("full"), ProtocolViolationError("broken")])
def test_an_error_is_told_to_the_peer_by_its_code(error: BusyError | ProtocolViolationError) -> None:
    pair = Pair()
    pair.client.conn.send_message(b"unacknowledged")
    pair.client.emit(0.0)
    pair.client.conn.abort(error)
    pair.client.conn.abort(ConnectionClosedError("later"))
    pair.run(0.0, 1.0)
    assert pair.client.conn.end_error() is error
    assert pair.server.conn.peer_code == error.code
    assert [engine.conn.phase for engine in pair.ends] == [Phase.CLOSED] * 2
    assert str(error.code) in str(pair.server.conn.end_error())
    assert events(pair.client) == [(CONNECTED, CLOSED)]


def test_a_client_that_proves_nothing_is_dropped_after_ten_seconds() -> None:
    engine, peer = server_with_peer()
    assert not engine.conn.confirmed
    assert engine.conn.next_timer() == 10.0
    forged = bytearray(peer.ping())
    forged[-9] ^= 1
    peer.give(bytes(forged), now=9.0)
    engine.conn.handle_timer(9.99)
    assert engine.conn.phase is Phase.ESTABLISHED
    engine.conn.handle_timer(10.0)
    assert isinstance(engine.conn.error, HandshakeTimeoutError)
    assert engine.conn.phase is Phase.DEAD
    assert engine.emit(10.0) == b""


def test_the_first_packet_that_opens_confirms_the_client() -> None:
    engine, peer = server_with_peer()
    engine.conn.progress = False
    peer.give(peer.ping(), now=9.9)
    assert engine.conn.confirmed
    assert engine.conn.progress
    engine.conn.handle_timer(10.0)
    assert engine.conn.phase is Phase.ESTABLISHED
    assert Engine(True).conn.confirmed
