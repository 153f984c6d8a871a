"""Liveness of the one path (wire-native §15.3, §20): keepalive, silence, round trips of PINGs."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import NetworkError, SessionDeadError
from phantom.transport.packet import flags
from phantom.transport.session.paths import Path
from phantom.transport.session.states import Phase
from tests.transport.session.engines import Pair, client_with_peer, message, pattern, server_with_peer, words


def path(now: float = 0.0) -> Path:
    return Path(0, "tcp", now=now, silence_floor=30.0)


# --- the path alone --------------------------------------------------------------------------------------------------


def test_a_sample_needs_exactly_one_unanswered_ping() -> None:
    one = path()
    one.ping_sent(1.0)
    one.pong_received(1.25)
    assert one.estimator.srtt == 0.25
    one.ping_sent(2.0)
    one.ping_sent(3.0)
    one.pong_received(3.001)  # of which?
    one.pong_received(3.002)  # nobody asked
    assert (one.estimator.srtt, one.unanswered_pings) == (0.25, 0)


def test_silence_needs_something_outstanding_and_nothing_heard() -> None:
    one = path(5.0)
    assert one.silent_at() is None
    one.mark_outstanding(100.0)
    assert one.silent_at() == 130.0
    one.mark_outstanding(110.0)
    assert one.silent_at() == 130.0
    one.last_seen = 120.0
    assert one.silent_at() == 150.0
    one.estimator.sample(4.0)
    assert one.silent_at() == 120.0 + 5 * 12.0  # 5 PTO, PTO = 3 min_rtt


def test_the_drain_time() -> None:
    for srtt, drain in ((0.001, 0.2), (0.1, 0.3), (9.0, 0.6)):
        one = path()
        one.estimator.sample(srtt)
        assert one.drain_time() == pytest.approx(drain)


# --- in the engine ---------------------------------------------------------------------------------------------------


def test_an_idle_session_pings_once_per_interval() -> None:
    engine, peer = client_with_peer(keepalive_interval=15.0)
    now = 0.0
    for _ in range(10):
        assert engine.conn.next_timer() == now + 15.0
        engine.conn.handle_timer(now + 14.9)
        assert peer.see(now + 14.9) == []
        now += 15.0
        engine.conn.handle_timer(now)
        engine.conn.handle_timer(now)
        seen = peer.see(now)
        assert words(seen) == [flags.PING]
        assert (seen[0].stream_id, seen[0].plaintext) == (0, b"")
        peer.give(peer.pong(), now=now)
    # What arrives puts the next one off.
    peer.give(peer.data(0, message(b"x")), now=now + 10.0)
    engine.conn.handle_timer(now + 10.1)
    engine.emit(now + 10.1)
    assert engine.conn.next_timer() == now + 25.0


def test_idle_hours_cost_one_ping_an_interval() -> None:
    pair = Pair()
    pair.run(0.0, 4 * 3600.0)
    for engine in pair.ends:
        assert engine.conn.phase is Phase.ESTABLISHED
        assert engine.conn.stats.packets_sent <= 3 + 2 * 4 * 240  # a PING and a PONG every 15 s


def test_without_an_interval_nothing_is_ever_sent() -> None:
    pair = Pair(keepalive_interval=None)
    pair.run(0.0, 10.0)
    assert [engine.conn.next_timer() for engine in pair.ends] == [None, None]
    sent = [engine.conn.stats.packets_sent for engine in pair.ends]
    pair.run(10.0, 1e6)
    assert [engine.conn.stats.packets_sent for engine in pair.ends] == sent
    pair.client.conn.send_message(b"still there")
    pair.move(1e6)
    assert pair.server.got == [b"still there"]


def test_no_keepalive_while_data_is_outstanding_or_after_the_end_began() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"x")
    engine.emit(1.0)
    engine.conn.path.blocked = True  # no retransmission either
    engine.conn.handle_timer(20.0)
    assert peer.see(20.0) == []
    engine, peer = server_with_peer()
    peer.give(peer.close(), now=1.0)
    assert engine.conn.next_timer() == pytest.approx(1.45)


def test_unanswered_data_and_nothing_heard_for_thirty_seconds_is_the_end() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"is anybody there")
    engine.emit(1.0)
    for now in (4.0, 10.0, 22.0, 30.999):
        engine.conn.handle_timer(now)
        engine.emit(now)
    assert engine.conn.phase is Phase.ESTABLISHED
    assert engine.conn.next_timer() == 31.0
    engine.conn.handle_timer(31.0)
    assert engine.conn.phase is Phase.DEAD
    assert isinstance(engine.conn.error, SessionDeadError)
    assert isinstance(engine.conn.error.__cause__, NetworkError)
    assert "31 s" in str(engine.conn.error)
    peer.give(peer.sack((0, 0)), now=31.1)
    assert engine.conn.unacknowledged == 20


def test_whatever_is_heard_puts_the_end_off() -> None:
    engine, peer = client_with_peer(silence_floor=10.0)
    engine.conn.send_message(b"x")
    engine.emit(0.0)
    for now in range(5, 100, 5):
        peer.give(peer.ping(), now=float(now))
        engine.conn.handle_timer(float(now))
        engine.emit(float(now))
    assert engine.conn.phase is Phase.ESTABLISHED
    forged = bytearray(peer.ping())
    forged[-9] ^= 1
    peer.give(bytes(forged), now=104.9)  # hearsay does not count
    engine.conn.handle_timer(105.0)
    assert engine.conn.phase is Phase.DEAD


def test_an_unanswered_ping_counts_as_outstanding() -> None:
    engine, peer = client_with_peer()
    engine.conn.handle_timer(15.0)
    assert words(peer.see(15.0)) == [flags.PING]
    engine.conn.handle_timer(44.9)
    assert peer.see(44.9) == []  # not repeated on a byte pipe
    engine.conn.handle_timer(45.0)
    assert engine.conn.phase is Phase.DEAD


def test_a_pong_and_an_acknowledgement_settle_what_is_outstanding() -> None:
    engine, peer = client_with_peer()
    engine.conn.send_message(b"x")
    engine.emit(0.0)
    peer.give(peer.data(0, message(pattern(1000))), now=0.0)
    engine.conn.handle_timer(15.0)
    engine.emit(15.0)
    assert engine.conn.path.outstanding_since == 0.0
    peer.give(peer.pong(), now=16.0)  # answers nothing; the data are still out
    assert engine.conn.path.outstanding_since == 0.0
    peer.give(peer.sack((0, 0)), now=16.0)
    assert engine.conn.path.outstanding_since is None
    assert engine.conn.path.silent_at() is None


def test_a_closing_session_ends_when_its_path_is_silent() -> None:
    engine, _ = client_with_peer(silence_floor=2.0)
    engine.conn.send_message(b"x")
    engine.emit(0.0)
    engine.conn.close(0, 0.0)
    engine.emit(0.0)
    engine.conn.handle_timer(2.0)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.conn.unacknowledged == 5


def test_the_path_of_a_blocked_leg() -> None:
    engine, _ = client_with_peer()
    engine.conn.path_blocked(True, 1.0)
    assert engine.conn.path.blocked
    engine.conn.path_blocked(False, 2.0)
    assert (engine.conn.path.blocked, engine.conn.path.drained_at) == (False, 2.0)
    assert limits.KEEPALIVE_INTERVAL == 15.0


# --- resting ---------------------------------------------------------------------------------------------------------


def test_an_idle_session_rests_and_goes_on() -> None:
    pair = Pair()
    pair.move(0.0)
    for engine in (pair.client, pair.server):
        assert engine.conn.rest_at() == limits.REST_AFTER
        engine.conn.handle_timer(0.5)
        assert not engine.protection.resting
        engine.conn.handle_timer(1.0)
        assert engine.protection.resting
        assert engine.conn.rest_at() is None
    pair.client.conn.send_message(b"awake")
    pair.move(2.0, reading=False)
    assert pair.server.read(2.0) == [b"awake"]


def test_a_session_that_has_something_to_send_does_not_rest() -> None:
    pair = Pair()
    pair.move(0.0)
    pair.client.conn.send_message(b"waits for the leg")
    pair.client.conn.handle_timer(1.0)
    assert not pair.client.protection.resting
    assert pair.client.conn.rest_at() == 2.0  # and asks again no sooner


def test_a_session_that_is_over_has_no_rest_to_wait_for() -> None:
    pair = Pair()
    pair.move(0.0)
    pair.client.conn.path_lost(0.0)
    assert pair.client.conn.rest_at() is None
