"""Acknowledgement and loss recovery (wire-native §14.4, §14.5, §14.9), alone and in the engine."""

from __future__ import annotations

import itertools
import random

import pytest

from phantom import limits
from phantom.transport.packet import flags
from phantom.transport.session.reliability import OutstandingSegments, RttEstimator, Segment
from phantom.transport.session.states import Phase
from tests.transport.session.engines import (
    Engine,
    Peer,
    client_with_peer,
    indices,
    message,
    pattern,
    sacked,
    server_with_peer,
    words,
)

KiB, MiB = limits.KiB, limits.MiB
ACK = flags.ACK_WORD

# --- the estimator ---------------------------------------------------------------------------------------------------


def test_before_the_first_sample_placeholders_stand() -> None:
    estimator = RttEstimator()
    assert (estimator.srtt, estimator.min_rtt, estimator.rto, estimator.pto) == (0.15, 0.1, 3.0, pytest.approx(0.3))
    estimator = RttEstimator(1.0, 0.2)
    assert estimator.rto == 1.0


def test_rfc_6298() -> None:
    estimator = RttEstimator(1.0, 0.2)
    estimator.sample(0.4)
    assert (estimator.srtt, estimator.rttvar, estimator.min_rtt) == (0.4, 0.2, 0.4)
    assert estimator.rto == pytest.approx(0.4 + 4 * 0.2)
    estimator.sample(0.8)
    assert estimator.rttvar == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert estimator.srtt == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)
    for _ in range(200):
        estimator.sample(0.01)
    assert estimator.rto == pytest.approx(0.2)  # the floor
    estimator = RttEstimator(1.0, 0.0)
    for _ in range(200):
        estimator.sample(0.5)
    assert estimator.rto == pytest.approx(0.501)  # 4 RTTVAR is at least a millisecond


def test_the_floor_of_a_byte_pipe_and_the_backoff() -> None:
    estimator = RttEstimator()
    estimator.sample(0.02)
    assert estimator.rto == 3.0
    seen = []
    for backoff in range(limits.RTO_MAX_BACKOFF + 1):
        estimator.backoff = backoff
        seen.append(estimator.rto)
    assert seen == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]


def test_the_ack_delay_is_subtracted_only_down_to_the_minimum() -> None:
    one, other = RttEstimator(), RttEstimator()
    for estimator in (one, other):
        estimator.sample(0.1)
    one.sample(0.2, 0.1)
    other.sample(0.1)
    assert one.srtt == pytest.approx(other.srtt)
    one.sample(0.2, 0.1001)  # would go below: ignored entirely
    other.sample(0.2)
    assert one.srtt == pytest.approx(other.srtt)
    one.sample(0.3, 4000.0)
    other.sample(0.3)
    assert one.srtt == pytest.approx(other.srtt)
    assert one.min_rtt == 0.1


def test_the_probe_timeout() -> None:
    estimator = RttEstimator()
    estimator.sample(0.01)
    assert estimator.pto == 0.2
    estimator = RttEstimator()
    estimator.sample(0.5)
    assert estimator.pto == 1.5


# --- the send buffer against a model ---------------------------------------------------------------------------------


def test_outstanding_segments_against_a_model(rng: random.Random) -> None:
    for _ in range(100):
        outstanding = OutstandingSegments()
        sizes: list[int] = []
        acked: set[int] = set()
        named: set[int] = set()
        for _ in range(rng.randint(1, 40)):
            for _ in range(rng.randint(0, 8)):
                assert outstanding.next_index == len(sizes)
                sizes.append(rng.randint(1, 100))
                segment = Segment([b"x"], sizes[-1], 0)
                segment.sends = 1
                outstanding.add(segment)
            if not sizes:
                continue
            edges = sorted(rng.sample(range(len(sizes)), min(len(sizes), rng.choice((1, 2, 4, 6)))))
            ranges = [(edges[0], edges[0])]
            for low, high in itertools.pairwise(edges):
                if low > ranges[-1][1] + 1:
                    ranges.append((low, high if rng.random() < 0.5 else low))
            ranges = [r for r, after in itertools.zip_longest(ranges, ranges[1:]) if not after or r[1] < after[0] - 1]
            if rng.random() < 0.5:
                ranges[0] = (0, ranges[0][1])
            ranges.reverse()
            new = {i for low, high in ranges for i in range(low, high + 1)} - acked
            freed, sample = outstanding.acknowledge(ranges)
            assert freed == sum(sizes[i] for i in new)
            assert (sample is not None) == (ranges[0][1] in new)
            assert sample is None or sample.size == sizes[ranges[0][1]]
            acked |= new
            base = next((i for i in range(len(sizes)) if i not in acked), len(sizes))
            assert (outstanding.base, outstanding.next_index) == (base, len(sizes))
            assert outstanding.bytes == sum(size for i, size in enumerate(sizes) if i not in acked)
            assert outstanding.ahead == sum(sizes[i] for i in acked if i > base)
            largest = ranges[0][1]
            assert outstanding.refused(largest) == [i for i in range(largest) if i not in acked | named]
            named |= set(range(largest))


# --- when the engine acknowledges ------------------------------------------------------------------------------------


def acks(peer: Peer, now: float) -> list[list[tuple[int, int]]]:
    return [sacked(packet)[1] for packet in peer.see(now) if packet.word == ACK]


def test_in_order_segments_are_acknowledged_after_25_ms() -> None:
    engine, peer = server_with_peer(keepalive_interval=None)
    peer.give(peer.data(0, message(b"a")), now=1.0)
    assert acks(peer, 1.0) == []
    assert engine.conn.next_timer() == pytest.approx(1.025)
    peer.give(peer.data(1, message(b"b")), now=1.02)
    assert engine.conn.next_timer() == pytest.approx(1.025)  # since the first
    engine.conn.handle_timer(1.0249)
    assert acks(peer, 1.0249) == []
    engine.conn.handle_timer(1.025)
    seen = peer.see(1.03)
    assert words(seen) == [ACK]
    assert sacked(seen[0]) == (30_000, [(0, 1)])
    assert engine.conn.next_timer() is None
    peer.give(peer.data(2, message(b"c")), now=5.0)
    assert engine.conn.next_timer() == pytest.approx(5.025)


def test_every_sixteenth_segment_is_acknowledged_at_once() -> None:
    engine, peer = server_with_peer()
    peer.give(*(peer.data(i, message(b"x")) for i in range(15)))
    assert acks(peer, 0.0) == []
    peer.give(peer.data(15, message(b"x")))
    assert acks(peer, 0.0) == [[(0, 15)]]
    peer.give(*(peer.data(i, message(b"x")) for i in range(16, 60)))
    assert acks(peer, 0.0) == [[(0, 59)]]  # one for the batch
    assert engine.read(0.0) == [b"x"] * 60


@pytest.mark.parametrize(
    ("first", "then", "ranges"),
    [
        ([0], (2, b"out of order", flags.DATA), [(2, 2), (0, 0)]),
        ([0, 2], (1, b"fills a gap", flags.DATA), [(0, 2)]),
        ([1], (0, b"fills a gap", flags.DATA), [(0, 1)]),
        ([0, 1], (1, b"duplicate", flags.DATA), [(0, 1)]),
        ([0, 3], (3, b"duplicate", flags.DATA), [(3, 3), (0, 0)]),
        ([0], (0, b"", flags.DATA), [(0, 0)]),  # empty: a persist probe
        ([0], (1, b"last", flags.DATA_FIN), [(0, 1)]),
        ([0], (1, b"", flags.DATA_FIN), [(0, 1)]),
    ],
)
def test_what_is_acknowledged_at_once(
    first: list[int], then: tuple[int, bytes, int], ranges: list[tuple[int, int]]
) -> None:
    _, peer = server_with_peer()
    peer.give(*(peer.data(i, message(b"")) for i in first), now=1.0)
    peer.see(1.0)
    index, data, word = then
    peer.give(peer.data(index, message(data) if data else b"", word), now=1.0)
    assert acks(peer, 1.0) == [ranges]


def test_acknowledgements_leave_before_a_pong() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"a")), peer.ping())
    assert words(peer.see()) == [ACK, flags.PONG]
    peer.give(peer.ping())
    assert words(peer.see()) == [flags.PONG]
    peer.give(*(peer.ping() for _ in range(100)))
    assert words(peer.see()) == [flags.PONG] * 8
    assert engine.conn.phase is Phase.ESTABLISHED


def test_acknowledgements_are_never_reliable_nor_acknowledged() -> None:
    engine, peer = server_with_peer()
    engine.conn.send_message(b"x")
    assert words(peer.see()) == [flags.DATA]
    peer.give(*[peer.sack((0, 0))] * 1, peer.window(MiB))
    assert peer.see() == []
    assert engine.conn.unacknowledged == 0


def test_more_islands_than_fit_leave_out_the_middle() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"")), *(peer.data(2 * i, b"even") for i in range(1, 41)))
    (ranges,) = acks(peer, 0.0)
    assert len(ranges) == limits.MAX_SACK_RANGES
    assert ranges == [(2 * i, 2 * i) for i in range(40, 9, -1)] + [(0, 0)]
    assert engine.conn.session_stream.reassembly.next_index == 1


def test_without_the_prefix_islands_alone_are_reported() -> None:
    _, peer = server_with_peer()
    peer.give(peer.data(5, b"five"), peer.data(4, b"four"), peer.data(2, b"two"))
    assert acks(peer, 0.0) == [[(4, 5), (2, 2)]]


# --- what the engine does with acknowledgements ----------------------------------------------------------------------


def sender(segments: int, now: float = 0.0, **settings: object) -> tuple[Engine, Peer]:
    """A client with so many segments outstanding, one message each."""
    engine, peer = client_with_peer(**settings)
    for number in range(segments):
        engine.conn.send_message(bytes([number]) * 1000)
        assert indices(peer.see(now)) == [number]
    return engine, peer


def test_an_acknowledged_byte_is_progress() -> None:
    engine, peer = sender(3)
    assert engine.conn.unacknowledged == 3012
    engine.conn.progress = False
    peer.give(peer.sack((1, 2)))
    assert engine.conn.unacknowledged == 1004
    assert (engine.conn.acked, engine.conn.flushed) == (2008, 0)
    assert engine.conn.progress
    engine.conn.progress = False
    peer.give(peer.sack((1, 2)))
    assert not engine.conn.progress
    peer.give(peer.sack((0, 2)))
    assert engine.conn.unacknowledged == 0
    assert engine.conn.flushed == 3012
    assert engine.conn.path.outstanding_since is None


@pytest.mark.parametrize("ranges", [[(0, 3)], [(3, 3)], [(2**32 - 1, 2**32 - 1), (0, 1)]])
def test_an_acknowledgement_of_what_was_never_sent_is_ignored(ranges: list[tuple[int, int]]) -> None:
    engine, peer = sender(3)
    peer.give(peer.sack(*ranges))
    assert engine.conn.unacknowledged == 3012
    assert engine.counted() == {"protocol_violation": 1}


def test_malformed_and_foreign_acknowledgements_retire_nothing() -> None:
    engine, peer = sender(3)
    peer.give(peer.seal(ACK, b""), peer.seal(ACK, bytes(13)), peer.seal(ACK, bytes(15)))
    peer.give(peer.seal(ACK, bytes(9) + b"\2" + bytes(12)))  # gap 0
    assert engine.counted() == {"malformed": 4}
    peer.give(peer.sack((0, 2), stream_id=3), peer.sack((0, 2), stream_id=0), peer.window(MiB, stream_id=3))
    clear = bytearray(peer.sack((0, 2)))
    clear[4 + 40] &= ~flags.ENCRYPTED
    stranger = Peer(engine, secret=b"\x77" * 32)
    peer.give(bytes(clear), stranger.sack((0, 2)))
    assert engine.conn.unacknowledged == 3012
    assert not engine.conn.path.estimator.sampled
    assert engine.counted() == {"malformed": 4, "unencrypted_dropped": 1, "decrypt_failed": 1}


def test_an_ack_ignores_fin() -> None:
    engine, peer = sender(1)
    body = bytes(9) + b"\1" + bytes(4)
    peer.give(peer.seal(ACK | flags.FIN, body))
    assert engine.conn.unacknowledged == 0
    assert not engine.conn.assembler.finished


def test_the_sample_is_that_of_the_largest_and_bounded_by_the_ack_delay() -> None:
    engine, peer = sender(2)
    estimator = engine.conn.path.estimator
    peer.give(peer.sack((0, 0), delay_us=10_000), now=0.1)
    assert estimator.srtt == 0.1
    assert engine.protection._srtt == 0.1
    peer.give(peer.sack((0, 0)), now=0.7)  # nothing new: no sample
    assert estimator.srtt == 0.1
    peer.give(peer.sack((0, 1), delay_us=20_000), now=0.14)
    assert estimator.srtt == pytest.approx(0.1 + 0.02 / 8)


def test_refused_segments_are_resent_once_and_in_order() -> None:
    engine, peer = sender(6)
    peer.give(peer.sack((4, 4), (2, 2)))
    seen = peer.see(0.1)
    assert indices(seen) == [0, 1, 3]  # 5 may still be on its way
    assert [packet.plaintext[8:] for packet in seen] == [bytes([n]) * 1000 for n in (0, 1, 3)]
    assert engine.conn.stats.retransmissions == 3
    peer.give(peer.sack((4, 4), (2, 2)))  # they are not lost because of this
    assert peer.see(0.2) == []
    peer.give(peer.sack((0, 5)))
    assert engine.conn.unacknowledged == 0
    assert peer.see(9.0) == []


def test_what_the_timer_resent_is_not_resent_for_an_acknowledgement_that_it_could_not_have_met() -> None:
    engine, peer = sender(3)
    engine.conn.handle_timer(3.0)
    assert indices(peer.see(3.0)) == [0]
    peer.give(peer.sack((2, 2)), now=3.1)
    assert indices(peer.see(3.1)) == [1]


def test_a_retransmission_is_counted_as_one_packet() -> None:
    engine, peer = sender(2)
    sent = engine.conn.stats.packets_sent
    peer.give(peer.sack((1, 1)))
    assert len(peer.see()) == 1
    assert engine.conn.stats.packets_sent == sent + 1


def test_a_segment_of_many_messages_is_resent_as_it_was() -> None:
    engine, peer = client_with_peer()
    for number in range(40):
        engine.conn.send_message(bytes([number]) * number)
    (first,) = peer.see()
    engine.conn.send_message(b"second")
    peer.see()
    peer.give(peer.sack((1, 1)))
    (again,) = peer.see()
    assert again.plaintext == first.plaintext


def test_the_retransmission_timer_backs_off_and_karn_holds() -> None:
    engine, peer = sender(2)
    conn = engine.conn
    now, waits = 0.0, []
    for _ in range(4):
        due = conn.next_timer()
        assert due is not None
        waits.append(due - now)
        now = due
        conn.handle_timer(now)
        assert indices(peer.see(now)) == [0]  # one at a time, the lowest
        peer.give(peer.ping(), now=now)  # the path is not silent
        peer.see(now)
    assert waits == [3.0, 6.0, 12.0, 24.0]
    conn.handle_timer(now + 1)
    peer.give(peer.sack((0, 0)), now=now + 1)
    assert not conn.path.estimator.sampled  # it was sent more than once
    assert conn.path.estimator.backoff == 0
    assert conn.next_timer() <= now + 1  # the second was sent long ago
    conn.handle_timer(now + 1)
    assert indices(peer.see(now + 1)) == [1]


def test_the_timer_starts_when_the_legs_queue_is_empty() -> None:
    engine, peer = client_with_peer(keepalive_interval=None)
    peer.give(peer.window(MiB))
    engine.conn.send_message(b"x")
    engine.conn.path_blocked(True, 0.0)
    engine.emit(0.0)
    assert engine.conn.next_timer() == 30.0  # silence alone
    engine.conn.handle_timer(20.0)
    assert not engine.conn.wants_to_send
    engine.conn.path_blocked(False, 20.0)
    assert engine.conn.next_timer() == 23.0


def test_a_resend_waits_for_a_batch_with_room() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(MiB))
    for _ in range(3):
        engine.conn.send_message(pattern(60_000))
    engine.emit(0.0)
    peer.give(peer.sack((2, 2)))
    buf = bytearray(70_000)
    end = engine.conn.fill(0, buf, memoryview(buf), 0, 70_000, 0.0)
    assert indices(peer.open(bytes(buf[:end]))) == [0]
    assert indices(peer.see()) == [1]


def test_a_stale_resend_stopped_what_was_queued_behind_it() -> None:
    engine, peer = sender(2)
    peer.give(peer.sack((1, 1)))
    peer.give(peer.sack((0, 1)))  # before the batch could be filled
    engine.conn.send_message(b"next")
    assert indices(peer.see()) == [2]
    assert not engine.conn.wants_to_send


def test_what_was_acknowledged_while_its_resend_waited_is_not_resent() -> None:
    engine, peer = sender(5)
    peer.give(peer.sack((4, 4)))
    peer.give(peer.sack((4, 4), (1, 2)))
    assert indices(peer.see()) == [0, 3]
    assert engine.conn.stats.retransmissions == 2


def test_the_number_of_outstanding_segments_is_bounded() -> None:
    engine, peer = sender(32, send_segments=32)
    engine.conn.send_message(b"one too many")
    assert peer.see() == []
    assert not engine.conn.wants_to_send
    engine.conn.send_message(b"and another")
    assert not engine.conn.wants_to_send  # a write must not try again in vain
    peer.give(peer.sack((0, 0)))
    assert indices(peer.see()) == [32]


def test_the_outstanding_bytes_are_bounded() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(1 << 40))
    for _ in range(10):
        engine.conn.send_message(pattern(4 * MiB))
    peer.see()
    assert engine.conn.session_stream.outstanding.bytes <= limits.MAX_PENDING_BYTES
    assert engine.conn.session_stream.outstanding.bytes > limits.MAX_PENDING_BYTES - 70_000
    peer.give(peer.sack((0, 15)))
    assert len(peer.see()) == 16


def test_running_out_of_indices_ends_the_session() -> None:
    engine, peer = client_with_peer()
    engine.conn.session_stream.outstanding.base = 2**32 - 1
    engine.conn.send_message(b"the last one")
    assert indices(peer.see()) == [2**32 - 1]
    engine.conn.send_message(b"one more")
    assert words(peer.see()) == [flags.CLOSE] * 3
    assert engine.conn.error is not None
    assert engine.conn.error.code == 12
