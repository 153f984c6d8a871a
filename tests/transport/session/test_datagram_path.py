"""Datagram paths: early loss, one probe an RTO, congestion window and pacer, repeated PINGs, Suspended, spaced CLOSE
(wire-native §14.5, §14.9, §15.2, §15.3, §18.2, §19.3)."""

from __future__ import annotations

import itertools

import pytest

from phantom import limits
from phantom.errors import SessionDeadError
from phantom.transport.packet import flags
from phantom.transport.session.events import PathChanged, StateChanged
from phantom.transport.session.path_states import PATH_TRANSITIONS, PathState, PathTrigger
from phantom.transport.session.paths import DATAGRAM, KCP, Path, embedded_profile
from phantom.transport.session.reliability import Segment, SentPackets
from phantom.transport.session.states import ConnectionState, Phase
from tests.transport.session.engines import (
    Engine,
    Pair,
    Peer,
    client_with_peer,
    indices,
    message,
    pattern,
    server_with_peer,
    split_frames,
    words,
)

KiB, MiB = limits.KiB, limits.MiB
BUDGET = limits.SEGMENT_BUDGET_UDP


def sender(count: int = 8, *, at: float = 0.0) -> tuple[Engine, Peer]:
    """A client that has ``count`` full segments of stream 1 on their way."""
    engine, peer = client_with_peer(profile=DATAGRAM, keepalive_interval=None)
    peer.give(peer.window(16 * MiB))
    for number in range(count):
        engine.conn.send_message(pattern(BUDGET - 4, number))
    seen = peer.see(at)
    while len(indices(seen)) < count:  # the congestion window begins with four packets
        sent = len(indices(seen))
        peer.give(peer.sack((0, sent - 1)), now=at)
        seen += peer.see(at)
    return engine, peer


# --- the record of transmissions -------------------------------------------------------------------------------------


def record(count: int) -> tuple[SentPackets, list[Segment]]:
    sent, segments = SentPackets(), []
    for index in range(count):
        segment = Segment([b"\0\0\0\0"], 1, 0)
        segment.sent_at = float(index)
        sent.add(None, index, segment)  # type: ignore[arg-type]
        segments.append(segment)
    return sent, segments


def arrive(sent: SentPackets, segment: Segment) -> None:
    segment.acked = True
    sent.acknowledged(segment)


def test_three_later_acknowledgements_are_a_loss_and_two_are_not() -> None:
    sent, segments = record(6)
    for index in (1, 2):
        arrive(sent, segments[index])
    assert sent.lost(2.0, 100.0) == []
    arrive(sent, segments[3])
    assert [(one.index, one.trigger) for one in sent.lost(2.0, 100.0)] == [(0, "reordering_threshold")]
    assert sent.lost(2.0, 100.0) == []  # each is named once
    assert sent.oldest() is not None


def test_one_later_acknowledgement_and_time_are_a_loss() -> None:
    sent, segments = record(3)
    assert sent.loss_at(5.0) is None
    arrive(sent, segments[2])
    assert sent.loss_at(5.0) == 5.0
    assert sent.lost(4.9, 5.0) == []
    assert [(one.index, one.trigger) for one in sent.lost(5.0, 5.0)] == [(0, "time_threshold")]
    assert sent.loss_at(5.0) == 6.0
    sent.drop()
    assert sent.oldest() is None


def test_a_later_transmission_of_the_same_segment_starts_anew() -> None:
    sent, segments = record(2)
    sent.add(None, 0, segments[0])  # type: ignore[arg-type]
    arrive(sent, segments[1])
    assert sent.lost(100.0, 1.0) == []  # its second copy left behind segment 1
    oldest = sent.oldest()
    assert oldest is not None
    assert oldest[1:] == (0, segments[0])


# --- loss in the engine ----------------------------------------------------------------------------------------------


def test_a_gap_of_three_is_repaired_at_once_and_a_smaller_one_after_a_while() -> None:
    engine, peer = sender(4)
    peer.give(peer.sack((1, 2)), now=0.1)
    assert indices(peer.see(0.1)) == []
    due = engine.conn.next_timer()
    assert due == pytest.approx(9 / 8 * 0.1)
    peer.give(peer.sack((1, 3)), now=0.11)
    assert indices(peer.see(0.11)) == [0]


def test_early_loss_by_time() -> None:
    engine, peer = sender(4)
    peer.give(peer.sack((1, 1)), now=0.1)
    assert indices(peer.see(0.1)) == []
    engine.tick(0.1125)
    assert indices(peer.see(0.1125)) == [0]
    assert engine.conn.stats.retransmissions == 1


def test_an_acknowledged_first_copy_is_not_taken_for_the_second() -> None:
    """A late packet that was sent again in vain made all that is in flight look overtaken by it."""
    engine, peer = sender(8)
    peer.give(peer.sack((0, 3)), now=0.1)
    congestion = engine.conn.path.congestion
    assert congestion is not None
    congestion.inflight -= MiB  # room for all of it
    engine.conn.path.estimator.min_rtt = 0.1
    for number in range(4):
        engine.conn.send_message(pattern(BUDGET - 4, number))
    engine.conn.resend(engine.conn.session_stream, [4, 5, 6])
    seen = indices(peer.see(0.1))
    assert seen == [4, 5, 6, 8, 9, 10, 11]
    peer.give(peer.sack((0, 6)), now=0.11)  # a tenth of the round trip later: of the first copies
    assert indices(peer.see(0.11)) == []
    assert engine.conn.stats.retransmissions == 3


def test_a_timeout_sends_one_segment_and_backs_off_though_the_window_is_full() -> None:
    engine, peer = sender(4)
    path = engine.conn.path
    assert path.congestion is not None
    engine.conn.send_message(pattern(BUDGET - 4))
    assert indices(peer.see()) == []  # the window is full
    assert engine.conn.gated
    due = engine.conn.next_timer()
    assert due == 1.0
    engine.tick(1.0)
    assert indices(peer.see(1.0)) == [0]
    assert path.estimator.rto == 2.0
    engine.conn.handle_timer(1.9)
    assert indices(peer.see(1.9)) == []  # one in a timeout, not one for each segment that is late
    peer.give(peer.sack((0, 3)), now=1.95)
    assert path.estimator.backoff == 0
    assert path.estimator.srtt == 1.95  # segment 3 left once


def test_datagrams_are_acknowledged_every_second_segment() -> None:
    engine, peer = server_with_peer(profile=DATAGRAM)
    peer.give(peer.data(0, message(b"a")))
    assert [p for p in peer.see() if p.word == flags.ACK_WORD] == []
    peer.give(peer.data(1, message(b"b")))
    assert words(peer.see()).count(flags.ACK_WORD) == 1
    peer.give(peer.data(2, message(b"c"), stream_id=3))
    assert engine.conn.streams


# --- congestion window and pacer -------------------------------------------------------------------------------------


def test_new_data_leaves_only_within_the_window_and_what_is_withheld_debits_nothing() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    peer.give(peer.window(16 * MiB))
    for _ in range(50):
        engine.conn.send_message(bytes(BUDGET - 4))
    assert len(indices(peer.see())) == limits.MIN_CWND // (BUDGET + 73)
    sent = engine.conn.session_stream.send_limit.sent
    congestion = engine.conn.path.congestion
    assert congestion is not None
    assert congestion.inflight <= congestion.window
    assert not engine.conn.wants_to_send
    assert engine.conn.session_stream.send_limit.sent == sent == engine.conn.written - engine.conn.queued
    peer.give(peer.sack((0, 0)), now=0.05)
    assert engine.conn.wants_to_send
    assert indices(peer.see(0.05))


def test_a_retransmission_ignores_the_limit_of_the_receiver_and_obeys_the_window() -> None:
    engine, peer = sender(8)
    peer.give(peer.sack((0, 6)), now=0.1)
    credit = engine.conn.session_stream.send_limit
    credit.limit = sent = credit.sent  # no room for anything new
    congestion = engine.conn.path.congestion
    assert congestion is not None
    congestion.inflight += MiB  # as if much else were on its way
    engine.conn.resend(engine.conn.session_stream, [7])
    assert indices(peer.see(0.2)) == []
    congestion.inflight -= MiB
    engine.conn.gated = False
    assert indices(peer.see(0.2)) == [7]
    assert credit.sent == sent


def test_a_reset_takes_its_segments_out_of_flight() -> None:
    pair = Pair(profile=DATAGRAM)
    stream = pair.client.conn.open_stream(0, 0.0)
    pair.run(0.0, 0.1)
    congestion = pair.client.conn.path.congestion
    assert congestion is not None
    pair.client.conn.write(stream, pattern(4 * KiB))
    pair.client.emit(0.1)
    assert congestion.inflight > 4 * KiB
    pair.client.conn.reset(stream, 0)
    assert congestion.inflight == 0


def test_the_pacer_holds_a_burst_back_and_says_until_when() -> None:
    engine, peer = sender(8)
    path = engine.conn.path
    assert path.pacer is not None
    peer.give(peer.sack((0, 7)), now=0.0)
    path.pacer.set_rate(10_000.0, 0.1, 0.0)
    path.pacer.spend(64 * KiB)
    may, at = path.may_send(1199, 0.0)
    assert not may
    assert at is not None
    assert 0.0 < at <= limits.PACER_MAX_WAIT
    engine.conn.send_message(bytes(1000))
    assert indices(peer.see()) == []
    assert engine.conn.urgent
    due = engine.conn.next_timer()
    assert due is not None
    assert due <= limits.PACER_MAX_WAIT
    engine.tick(due)
    assert engine.conn.wants_to_send


def test_kcp_has_a_window_but_no_early_loss() -> None:
    engine, peer = client_with_peer(profile=KCP)
    assert engine.conn.path.congestion is not None
    assert engine.conn.path.sent is None
    assert engine.conn.budget == 16384
    peer.give(peer.window(16 * MiB))
    for number in range(2):
        engine.conn.send_message(pattern(16 * KiB, number))
    assert indices(peer.see()) == [0]  # larger than the smallest window: alone
    peer.give(peer.sack((0, 0)), now=0.05)
    assert indices(peer.see(0.05)) == [1]


def test_an_embedded_leg_takes_what_fits_its_buffer() -> None:
    profile = embedded_profile(8192)
    engine, peer = client_with_peer(profile=profile)
    engine.conn.send_message(pattern(5000))
    stream = engine.conn.open_stream(0, 0.0)
    engine.conn.write_unreliable(stream, bytes(stream.max_unreliable_size), 0.0)
    lengths = [len(frame) for frame in split_frames(engine.emit(0.0))]
    assert max(lengths) == 8192
    assert Peer(engine)
    assert peer


def test_a_message_and_its_prefix_fit_a_datagram() -> None:
    for size in (BUDGET - 4, BUDGET - 3, BUDGET, BUDGET + 1, 3 * BUDGET):
        pair = Pair(profile=DATAGRAM)
        pair.client.conn.send_message(pattern(size))
        pair.client.conn.send_message(b"x")
        pair.run(0.0, 2.0)
        assert pair.server.got == [pattern(size), b"x"]
        assert max(len(f) for data in pair.wire for f in split_frames(data)) <= limits.SEGMENT_BUDGET_UDP + 73


# --- liveness --------------------------------------------------------------------------------------------------------


def test_an_unanswered_ping_is_repeated() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM, keepalive_interval=60.0)
    engine.conn.path.estimator.sample(0.05)
    assert engine.conn.next_timer() == limits.KEEPALIVE_MAX_DATAGRAM  # whatever is configured
    engine.tick(20.0)
    assert words(peer.see(20.0)) == [flags.PING]
    assert engine.conn.next_timer() == pytest.approx(20.2)
    engine.tick(20.2)
    assert words(peer.see(20.2)) == [flags.PING]
    peer.give(peer.pong(), now=20.3)
    assert engine.conn.path.estimator.srtt == 0.05  # of which PING?
    assert engine.conn.next_timer() == pytest.approx(40.3)


def test_a_ping_that_waits_for_the_leg_is_not_asked_for_again() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    engine.conn.owe_ping()
    assert words(peer.see()) == [flags.PING]
    engine.conn.path_blocked(True, 0.0)
    due = engine.conn.next_timer()
    assert due == pytest.approx(engine.conn.path.estimator.pto)
    engine.conn.handle_timer(due)
    assert engine.conn.pings_owed
    later = engine.conn.next_timer()
    assert later is not None
    assert later > due  # else the timer would spin until the leg takes it
    assert words(peer.see(due)) == [flags.PING]


def test_silence_suspends_the_path_and_a_packet_resumes_it() -> None:
    engine, peer = sender(4)
    now = 0.0
    while engine.conn.phase is Phase.ESTABLISHED:
        due = engine.conn.next_timer()
        assert due is not None
        now = due
        engine.tick(now)
        peer.see(now)
    assert now == limits.SILENCE_FLOOR_DATAGRAM
    assert engine.conn.path.state is PathState.SUSPENDED
    events = [engine.conn.next_event() for _ in range(2)]
    assert isinstance(events[0], PathChanged)
    assert (events[0].old, events[0].new) == (PathState.VALIDATED, PathState.SUSPENDED)
    assert isinstance(events[1], StateChanged)
    assert events[1].new is ConnectionState.MIGRATING
    # Writes are queued; only PINGs leave, at pauses that double to five seconds.
    engine.conn.send_message(b"queued meanwhile")
    pings = []
    while now < 20.0:
        due = engine.conn.next_timer()
        assert due is not None
        now = due
        engine.tick(now)
        seen = words(peer.see(now))
        assert seen in ([], [flags.PING])
        pings += [now] * len(seen)
    gaps = [b - a for a, b in itertools.pairwise(pings)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == limits.SUSPENDED_PING_MAX
    peer.give(peer.pong(), now=20.0)
    assert engine.conn.phase is Phase.ESTABLISHED
    assert engine.conn.path.state is PathState.VALIDATED
    got = peer.see(20.0)
    assert indices(got)[0] == 0  # what was on its way is due at once
    events = [engine.conn.next_event() for _ in range(2)]
    assert [type(event) for event in events] == [PathChanged, StateChanged]


def test_a_session_that_hears_nothing_for_its_timeout_is_dead() -> None:
    engine, peer = sender(4)
    now = 0.0
    while not engine.conn.phase.over:
        due = engine.conn.next_timer()
        assert due is not None
        now = due
        engine.tick(now)
        peer.see(now)
    assert now == limits.SILENCE_FLOOR_DATAGRAM + limits.MIGRATION_IDLE
    assert isinstance(engine.conn.error, SessionDeadError)
    assert engine.conn.next_timer() is None
    engine, peer = client_with_peer(profile=DATAGRAM, session_timeout=0.0)
    engine.conn.send_message(b"x")
    peer.see()
    engine.tick(1.0)
    peer.see(1.0)
    engine.conn.handle_timer(2.0)
    assert engine.conn.phase is Phase.DEAD


def test_a_session_closed_while_suspended_ends_without_the_peer() -> None:
    engine, peer = sender(4)
    engine.conn.handle_timer(limits.SILENCE_FLOOR_DATAGRAM)
    peer.see(2.0)
    engine.conn.close(0, 2.0)
    engine.conn.handle_timer(2.0 + limits.CLOSE_FLUSH_TIMEOUT)
    assert engine.conn.phase is Phase.CLOSED
    assert words(peer.see(7.0))[-1] == flags.CLOSE
    assert engine.conn.unacknowledged


# --- CLOSE -----------------------------------------------------------------------------------------------------------


def test_copies_of_close_are_spaced() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    engine.conn.path.estimator.sample(0.04)
    engine.conn.close(7, 1.0)
    assert engine.conn.phase is Phase.CLOSED
    assert engine.conn.lingering
    left = []
    now: float | None = 1.0
    while now is not None:
        engine.conn.handle_timer(now)
        left += [(now, word) for word in words(peer.see(now))]
        now = engine.conn.next_timer()
    assert left == [(pytest.approx(1.0 + i * 0.01), flags.CLOSE) for i in range(3)]
    assert not engine.conn.lingering


def test_the_gap_between_copies_is_bounded() -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    engine.conn.path.estimator.sample(4.0)
    engine.conn.close(0, 1.0)
    peer.see(1.0)
    assert engine.conn.next_timer() == pytest.approx(1.02)


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_states_of_a_path() -> None:
    path = Path(0, "udp", now=0.0, profile=DATAGRAM)
    assert path.state is PathState.VALIDATED
    assert not path.move(PathTrigger.HEARD)
    assert path.move(PathTrigger.SILENT)
    assert path.silent_at() is None
    assert path.move(PathTrigger.HEARD)
    for state in PathState:
        leaving = {trigger for old, trigger in PATH_TRANSITIONS if old is state}
        assert leaving
        if state is not PathState.FAILED:
            assert PathTrigger.LEG_LOST in leaving
            assert PATH_TRANSITIONS[state, PathTrigger.LEG_LOST] is PathState.FAILED


def test_a_path_without_congestion_control_sends_as_it_likes() -> None:
    assert Path(0, "tcp", now=0.0).may_send(1 << 30, 0.0) == (True, None)
