"""Sessions of version 1 (wire-native §13; surface §11.1, the V1 cases), engine against engine and against a hand."""

from __future__ import annotations

from struct import unpack_from
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.crypto.aead import CipherSuite
from phantom.crypto.providers import get_provider
from phantom.errors import (
    BusyError,
    ConnectionClosedError,
    FrameTooLargeError,
    NonceExhaustedError,
    ProtocolViolationError,
    SessionClosingError,
    SessionDeadError,
    StreamClosedError,
    StreamError,
    StreamLimitError,
    UnsupportedError,
    ValidationError,
)
from phantom.transport.packet import flags
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.header import Packet, decode, encode
from phantom.transport.packet.protection import ALL_SUITES, ProtectionLimits, ProtectionV1
from phantom.transport.session import connection_v1
from phantom.transport.session.connection import SessionSettings
from phantom.transport.session.connection_v1 import ConnectionV1
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import Path
from phantom.transport.session.states import ConnectionState, Phase
from phantom.transport.session.stream_states import StreamState
from phantom.transport.session.streams import Stream

SECRET, SESSION = b"\x11" * 32, b"\x88" * 32
KiB, MiB = limits.KiB, limits.MiB
CAP = limits.RECV_BACKLOG_CAP


def protection(initiator: bool, counters: DropCounters | None = None, **guards: Any) -> ProtectionV1:
    return ProtectionV1(
        initiator,
        SESSION,
        bytearray(SECRET),
        send_suite=CipherSuite.AES_256_GCM,
        provider=get_provider(),
        receive_suites=ALL_SUITES,
        counters=counters or DropCounters(),
        limits=ProtectionLimits(**guards),
    )


def frames_of(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        length = unpack_from(">I", data, at)[0]
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def framed(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(4, "big") + packet for packet in packets)


class End:
    """One engine; whether its leg is read, and what waits there."""

    def __init__(
        self,
        initiator: bool,
        memory: ReceiveMemory | None = None,
        guards: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.counters = DropCounters()
        self.memory = memory or ReceiveMemory()
        self.held: list[bool] = []
        self.inbox = bytearray()
        self.conn = ConnectionV1(
            protection(initiator, self.counters, **(guards or {})),
            initiator=initiator,
            path=Path(0, "memory", now=0.0),
            settings=SessionSettings(**settings),
            memory=self.memory,
            counters=self.counters,
            now=0.0,
        )
        self.conn.hold = self.held.append

    def out(self, now: float = 0.0, room: int = 300_000) -> bytes:
        """Everything that leaves, batch by batch."""
        gone = b""
        buffer = bytearray(room)
        while True:
            end = self.conn.fill(0, buffer, memoryview(buffer), 0, room, now)
            if not end:
                return gone
            gone += buffer[:end]

    def into(self, data: bytes, now: float = 0.0) -> None:
        """Bytes arrive in the leg, and are taken as far as the engine reads."""
        self.inbox += data
        buffer = bytearray(self.inbox)
        at = self.conn.receive(0, buffer, memoryview(buffer), 0, len(buffer), now)
        for place in range(len(buffer)):
            buffer[place] = 0xEE  # the window was only lent
        del self.inbox[:at]

    @property
    def dropped(self) -> dict[str, int]:
        return {name: n for name, n in self.counters.snapshot().items() if n}

    @property
    def messages(self) -> list[bytes]:
        got = list(self.conn.messages)
        self.conn.messages.clear()
        return got


class Pair:
    def __init__(self, **options: Any) -> None:
        self.client, self.server = End(True, **options), End(False, **options)

    def move(self, now: float = 0.0) -> None:
        """Both ways until nothing more leaves."""
        while True:
            there, back = self.client.out(now), self.server.out(now)
            if not there and not back:
                return
            self.server.into(there, now)
            self.client.into(back, now)


class Hand:
    """The peer of one engine, packet by packet."""

    def __init__(self, initiator: bool = True) -> None:
        self.protection = protection(initiator)

    def packet(self, plaintext: bytes, stream_id: int = 1, word: int = flags.DATA) -> bytes:
        buffer = bytearray(len(plaintext) + self.protection.overhead + 4)
        end = self.protection.seal(buffer, memoryview(buffer), 0, stream_id, word, 0, plaintext, len(plaintext))
        return bytes(buffer[:end])

    def again(self, plaintext: bytes, sequence: int, stream_id: int = 1, word: int = flags.DATA) -> bytes:
        buffer = bytearray(len(plaintext) + self.protection.overhead + 4)
        view = memoryview(buffer)
        end = self.protection.seal_again(buffer, view, 0, stream_id, word, plaintext, len(plaintext), sequence)
        return bytes(buffer[:end])

    def opened(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(stream, flags, plaintext) of each frame."""
        found = []
        for frame in frames_of(data):
            buffer = bytearray(frame)
            word = self.protection.open(buffer, memoryview(buffer), 0, len(buffer), 0, 0.0)
            assert word >= 0
            plain = bytes(buffer[self.protection.plain_start : self.protection.plain_end])
            found.append((self.protection.stream_id, word, plain))
        return found


# Functions, because a type checker believes what it was once told of an attribute.
def phase(end: End) -> Phase:
    return end.conn.phase


def where(stream: Stream) -> StreamState:
    return stream.state


def used_up(memory: ReceiveMemory) -> bool:
    return memory.used_up


def reads(end: End) -> bool:
    return end.conn.reading


def may_open(end: End) -> bool:
    return end.conn.may_open


def message(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def server_and_hand(**options: Any) -> tuple[End, Hand]:
    return End(False, **options), Hand(True)


def client_and_hand(**options: Any) -> tuple[End, Hand]:
    return End(True, **options), Hand(False)


def accepted(end: End) -> Stream:
    stream = end.conn.accept_stream(0.0)
    assert stream is not None
    return stream


def acks(opened: list[tuple[int, int, bytes]]) -> list[tuple[int, int]]:
    """(stream, sequence) of the acknowledgements; there must be nothing else."""
    assert all(word == flags.ACK_WORD and len(plain) == 4 for _, word, plain in opened)
    return [(stream, int.from_bytes(plain, "big")) for stream, _, plain in opened]


# --- messages and bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65532, 65536, 65537, 300_000, MiB])
def test_messages_arrive_whole_both_ways(size: int) -> None:
    pair = Pair()
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for end, other in ((pair.client, pair.server), (pair.server, pair.client)):
        end.conn.send_message(data)
        end.conn.send_message(b"next")
        pair.move()
        got = other.messages
        other.conn.refill(0.0)  # beyond a mebibyte of unread messages none is begun
        pair.move()
        assert got + other.messages == [data, b"next"]
        assert (end.conn.unacknowledged, end.conn.queued, end.conn.queued_messages) == (0, 0, 0)
        assert end.conn.outstanding == 0
        other.conn.refill(0.0)


def test_a_message_longer_than_every_bound_arrives() -> None:
    pair = Pair()
    data = bytes(5 * MiB)
    pair.client.conn.send_message(data)
    pair.move()
    assert pair.server.messages == [data]


def test_a_packet_is_the_bytes_and_nothing_else() -> None:
    client, hand = client_and_hand()
    client.conn.send_message(b"hello")
    stream = client.conn.open_stream(0, 0.0)
    client.conn.write(stream, b"bytes")
    out = client.out()
    assert [len(frame) for frame in frames_of(out)] == [66 + 9, 66 + 5]
    assert hand.opened(out) == [(1, 0x21, message(b"hello")), (3, 0x21, b"bytes")]


def test_an_idle_client_sends_nothing_and_its_session_is_ready_at_once() -> None:
    pair = Pair()
    assert pair.client.out() == pair.server.out() == b""
    for end in (pair.client, pair.server):
        assert end.conn.confirmed
        assert end.conn.next_timer() is None
        assert end.conn.rest_at() is None


# --- acknowledgement and retransmission (§13.3) -----------------------------------------------------------------------


def test_each_reliable_packet_is_acknowledged_by_one_of_its_own() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"a")), hand.packet(b"", 3), hand.packet(b"x", 3, flags.DATA_FIN)))
    out = server.out()
    assert [len(frame) for frame in frames_of(out)] == [70, 70, 70]
    assert acks(hand.opened(out)) == [(1, 0), (3, 0), (3, 1)]
    assert server.messages == [b"a"]


def test_acknowledgements_draw_from_the_counter_of_their_stream() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"a")), hand.packet(message(b"b"))))
    server.conn.send_message(b"c")
    packets = [decode(frame) for frame in frames_of(server.out())]
    assert [(p.flags, p.sequence) for p in packets] == [(0x22, 0), (0x22, 1), (0x21, 2)]
    server.into(framed(hand.packet((2).to_bytes(4, "big"), word=flags.ACK_WORD)))
    assert server.conn.unacknowledged == 0


def test_acknowledgements_for_what_was_never_sent_or_is_already_are_ignored() -> None:
    client, hand = client_and_hand()
    client.conn.send_message(b"one")
    client.conn.send_message(b"two")
    client.out()
    before = client.conn.unacknowledged

    def ack(sequence: int, stream_id: int = 1) -> bytes:
        return framed(hand.packet(sequence.to_bytes(4, "big"), stream_id, flags.ACK_WORD))

    client.into(ack(7) + ack(2**32 - 1) + ack(0, 3))
    assert client.conn.unacknowledged == before
    client.into(ack(0) + ack(0))
    assert client.conn.unacknowledged == 0  # both messages went in one packet
    assert client.dropped == {}


@pytest.mark.parametrize("plaintext", [b"", bytes(3), bytes(5)])
def test_an_acknowledgement_of_another_length_is_dropped(plaintext: bytes) -> None:
    client, hand = client_and_hand()
    client.conn.send_message(b"one")
    client.out()
    client.into(framed(hand.packet(plaintext, word=flags.ACK_WORD)))
    assert client.dropped == {"malformed": 1}
    assert client.conn.unacknowledged


def test_a_retransmission_has_the_old_sequence_the_same_bytes_and_the_next_counter() -> None:
    client, hand = client_and_hand()
    client.conn.send_message(b"lost")
    first = client.out(0.0)
    assert client.conn.next_timer() == limits.RTO_INITIAL_PIPE
    client.conn.handle_timer(2.9)
    assert client.out(2.9) == b""
    client.conn.handle_timer(3.0)
    again = client.out(3.0)
    assert [decode(f).sequence for f in frames_of(first + again)] == [0, 0]
    assert first != again
    assert hand.opened(first + again) == [(1, 0x21, message(b"lost"))] * 2
    assert not hand.protection.fresh
    assert client.conn.stats.retransmissions == 1
    due = client.conn.next_timer()
    assert due == 3.0 + 2 * limits.RTO_INITIAL_PIPE  # doubled
    client.into(framed(hand.packet(bytes(4), word=flags.ACK_WORD)), 4.0)
    assert not client.conn.path.estimator.sampled  # Karn: which of the two was it
    assert client.conn.next_timer() is None


def test_the_timer_waits_for_the_legs_queue() -> None:
    client, _ = client_and_hand()
    client.conn.send_message(b"x")
    client.out(0.0)
    client.conn.path_blocked(True, 0.0)
    assert client.conn.next_timer() is None
    client.conn.handle_timer(100.0)
    assert client.out(100.0) == b""
    client.conn.path_blocked(False, 100.0)
    assert client.conn.next_timer() == 103.0


def test_what_was_acknowledged_meanwhile_is_not_sent_again() -> None:
    client, hand = client_and_hand()
    stream = client.conn.open_stream(0, 0.0)
    for text in (b"a", b"b"):
        client.conn.write(stream, text)
        client.out(0.0)
    client.conn.handle_timer(3.0)
    client.into(framed(hand.packet(bytes(4), 3, flags.ACK_WORD)), 3.0)
    assert client.out(3.0) == b""
    client.into(framed(hand.packet((1).to_bytes(4, "big"), 3, flags.ACK_WORD)), 3.1)
    assert client.conn.unacknowledged == 0
    assert client.conn.path.estimator.sampled


def test_an_acknowledgement_out_of_order_keeps_the_sequences_right() -> None:
    client, hand = client_and_hand()
    for text in (b"a", b"b", b"c"):
        client.conn.send_message(text)
        client.out(0.0)
    client.into(framed(hand.packet((1).to_bytes(4, "big"), word=flags.ACK_WORD)), 0.1)
    assert client.conn.flushed == 0
    client.conn.handle_timer(client.conn.next_timer() or 0.0)
    again = client.out(4.0)
    assert [decode(f).sequence for f in frames_of(again)] == [0]
    client.into(framed(hand.packet(bytes(4), word=flags.ACK_WORD)), 4.1)
    assert client.conn.flushed == 10
    client.conn.handle_timer(client.conn.next_timer() or 0.0)
    assert [decode(f).sequence for f in frames_of(client.out(20.0))] == [2]


def test_a_retransmission_that_does_not_fit_waits_for_the_next_batch() -> None:
    client, _ = client_and_hand()
    client.conn.send_message(bytes(1000))
    client.out(0.0)
    client.conn.handle_timer(3.0)
    buffer = bytearray(500)
    assert client.conn.fill(0, buffer, memoryview(buffer), 0, 500, 3.0) == 0
    assert client.conn.wants_to_send
    assert len(frames_of(client.out(3.0))) == 1


# --- duplicates (§13.4; surface §11.1 case 10) ------------------------------------------------------------------------


def test_base_10_a_duplicate_is_not_delivered_counted_once_and_acknowledged_again() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"once"))))
    server.into(framed(hand.again(message(b"once"), 0)))
    assert server.messages == [b"once"]
    assert server.dropped == {"replay_rejected": 1}
    assert acks(hand.opened(server.out())) == [(1, 0), (1, 0)]


def test_a_duplicate_on_a_stream_that_is_closed_is_acknowledged_again() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"x", 3, flags.DATA_FIN)))
    stream = accepted(server)
    server.conn.finish(stream)
    hand.opened(server.out())
    server.into(framed(hand.packet((1).to_bytes(4, "big"), 3, flags.ACK_WORD)))
    assert where(stream) is StreamState.CLOSED
    server.into(framed(hand.again(b"x", 0, 3, flags.DATA_FIN)))
    assert acks(hand.opened(server.out())) == [(3, 0)]


def test_a_duplicate_of_the_fin_ends_nothing_twice() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"x", 3, flags.DATA_FIN), hand.again(b"x", 0, 3, flags.DATA_FIN)))
    stream = accepted(server)
    assert server.conn.read(stream, 0.0) == b"x"
    assert server.conn.read(stream, 0.0) is None
    assert server.conn.stream_table().peer_speaking == 0


# --- streams ----------------------------------------------------------------------------------------------------------


def test_streams_carry_bytes_both_ways_and_end_by_fin() -> None:
    pair = Pair()
    near = pair.client.conn.open_stream(0, 0.0)
    assert near.id == 3
    pair.client.conn.write(near, b"question")
    pair.client.conn.finish(near)
    pair.move()
    far = accepted(pair.server)
    assert (far.id, pair.server.conn.read(far, 0.0), pair.server.conn.read(far, 0.0)) == (3, b"question", None)
    assert where(far) is StreamState.HALF_CLOSED_REMOTE
    pair.server.conn.write(far, bytes(200_000))
    pair.server.conn.finish(far)
    pair.move()
    got = b""
    while (piece := pair.client.conn.read(near, 0.0)) is not None:
        got += piece
    assert got == bytes(200_000)
    pair.move()
    assert where(near) is StreamState.CLOSED
    assert where(far) is StreamState.CLOSED
    assert pair.client.conn.active_streams == pair.server.conn.active_streams == 0


def test_a_stream_opened_without_data_is_heard_of_and_the_other_end_speaks_first() -> None:
    pair = Pair()
    near = pair.server.conn.open_stream(0, 0.0)
    assert near.id == 2
    pair.move()
    far = accepted(pair.client)
    pair.client.conn.write(far, b"welcome")
    pair.move()
    assert pair.server.conn.read(near, 0.0) == b"welcome"
    assert pair.client.conn.accept_stream(0.0) is None


def test_an_empty_packet_with_fin_ends_a_stream() -> None:
    pair = Pair()
    near = pair.client.conn.open_stream(0, 0.0)
    pair.client.conn.write(near, b"all")
    pair.move()
    pair.client.conn.finish(near)
    pair.client.conn.finish(near)
    pair.move()
    far = accepted(pair.server)
    assert pair.server.conn.read(far, 0.0) == b"all"
    assert pair.server.conn.read(far, 0.0) is None
    with pytest.raises(StreamClosedError):
        pair.client.conn.write(near, b"more")


def test_unreliable_chunks_are_packets_of_their_own_and_never_acknowledged() -> None:
    pair = Pair()
    near = pair.client.conn.open_stream(0, 0.0)
    for chunk in (b"one", b"two", b""):
        pair.client.conn.write_unreliable(near, chunk, 0.0)
    out = pair.client.out()
    assert [(decode(f).flags, len(f)) for f in frames_of(out)] == [(0x28, 69), (0x28, 69), (0x21, 66)]
    pair.server.into(out)
    assert [decode(f).flags for f in frames_of(pair.server.out())] == [0x22]  # of the announcement
    far = accepted(pair.server)
    assert [pair.server.conn.read(far, 0.0) for _ in range(3)] == [b"one", b"two", b""]
    with pytest.raises(ValidationError):
        pair.client.conn.write_unreliable(near, bytes(near.max_unreliable_size + 1), 0.0)


def test_an_unreliable_chunk_that_does_not_fit_waits_for_the_next_batch() -> None:
    client, hand = client_and_hand()
    stream = client.conn.open_stream(0, 0.0)
    hand.opened(client.out())
    client.conn.write_unreliable(stream, bytes(1000), 0.0)
    buffer = bytearray(900)
    assert client.conn.fill(0, buffer, memoryview(buffer), 0, 900, 0.0) == 0
    assert hand.opened(client.out()) == [(3, 0x28, bytes(1000))]
    assert client.conn.queued == 0


def test_an_unreliable_chunk_may_carry_the_end() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"last", 3, flags.UNRELIABLE_WORD | flags.FIN)))
    stream = accepted(server)
    assert server.conn.read(stream, 0.0) == b"last"
    assert server.conn.read(stream, 0.0) is None
    server.into(framed(hand.packet(b"late", 3, flags.UNRELIABLE_WORD)))
    assert server.conn.read(stream, 0.0) is None


def test_unreliable_chunks_beyond_the_backlog_are_dropped_and_counted() -> None:
    server, hand = server_and_hand()
    chunk = bytes(65536)
    for _ in range(20):
        server.conn.reading = True
        server.into(framed(hand.packet(chunk, 3, flags.UNRELIABLE_WORD)))
    assert server.conn.backlog <= CAP
    assert server.dropped["backlog"] >= 1


def test_strict_priority_and_round_robin_among_equals() -> None:
    client, hand = client_and_hand(bulk_chunk=1024)
    low, high, other = (client.conn.open_stream(p, 0.0) for p in (0, 5, 5))
    for stream in (low, high, other):
        client.conn.write(stream, bytes(3 * 1024))
    order = [stream_id for stream_id, _, _ in hand.opened(client.out())]
    assert order == [high.id, other.id] * 3 + [low.id] * 3


def test_reset_stop_and_rekey_do_not_exist() -> None:
    pair = Pair()
    stream = pair.client.conn.open_stream(0, 0.0)
    with pytest.raises(UnsupportedError, match="version 1"):
        pair.client.conn.reset(stream, 1)
    with pytest.raises(UnsupportedError, match="version 1"):
        pair.client.conn.stop(stream, 1)
    with pytest.raises(UnsupportedError, match="version 1"):
        pair.client.conn.rekey(0.0)
    conn = pair.client.conn
    assert (conn.supports_streams, conn.supports_reset, conn.supports_rekey, conn.supports_paths) == (
        True,
        False,
        False,
        False,
    )


@pytest.mark.parametrize("word", [flags.DATA, flags.UNRELIABLE_WORD])
def test_data_on_a_stream_of_ones_own_that_was_never_opened_ends_the_session(word: int) -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"x", 2, word)))
    assert isinstance(server.conn.error, ProtocolViolationError)
    assert hand.opened(server.out()) == [(0, 0xA0, b"\x01\x00\x27")]  # and the packet is not acknowledged


def test_one_stream_more_than_the_limit_ends_the_session() -> None:
    server, hand = server_and_hand(max_streams=2)
    server.into(framed(*(hand.packet(b"x", 3 + 2 * i) for i in range(2))))
    assert phase(server) is Phase.ESTABLISHED
    server.into(framed(hand.packet(b"x", 7)))
    assert isinstance(server.conn.error, ProtocolViolationError)
    assert "more than 2 streams" in str(server.conn.error)


def test_the_opener_keeps_to_the_limit_and_gets_slots_back() -> None:
    pair = Pair(max_streams=2)
    first, second = (pair.client.conn.open_stream(0, 0.0) for _ in range(2))
    assert not may_open(pair.client)
    with pytest.raises(StreamLimitError):
        pair.client.conn.open_stream(0, 0.0)
    pair.client.conn.finish(first)
    pair.move()
    far = accepted(pair.server)
    pair.server.conn.finish(far)
    pair.move()
    assert may_open(pair.client)
    assert pair.client.conn.open_stream(0, 0.0).id == second.id + 2


def test_a_session_has_1024_stream_ids_in_its_life() -> None:
    pair = Pair(max_streams=2000)
    for _ in range(511):
        pair.client.conn.open_stream(0, 0.0)
        pair.server.conn.open_stream(0, 0.0)
    pair.move()
    for end in (pair.client, pair.server):
        with pytest.raises(StreamLimitError, match="open another session"):
            end.conn.open_stream(0, 0.0)
        assert phase(end) is Phase.ESTABLISHED
        assert end.dropped == {}


def test_a_stream_whose_sequences_are_used_up_is_dead_and_the_others_live() -> None:
    client, hand = client_and_hand(guards={"v1_max_sequence": 1})
    dying, living = (client.conn.open_stream(0, 0.0) for _ in range(2))
    for text in (b"0", b"1", b"2"):
        client.conn.write(dying, text)
        hand.opened(client.out())
    with pytest.raises(StreamError):
        client.conn.write(dying, b"3")
    assert phase(client) is Phase.ESTABLISHED
    client.conn.write(living, b"here")
    assert hand.opened(client.out()) == [(living.id, 0x21, b"here")]
    assert client.conn.queued == 0
    assert client.conn.unacknowledged == 4  # what the living one waits for
    assert client.conn.outstanding == 4
    assert dying in (client.conn.touched or ())


def test_stream_1_used_up_ends_the_session() -> None:
    client, _ = client_and_hand(guards={"v1_max_sequence": 0})
    client.conn.send_message(b"0")
    client.out()
    client.conn.send_message(b"1")
    client.out()
    assert isinstance(client.conn.error, StreamError)


def test_an_acknowledgement_that_cannot_be_sealed_ends_only_the_own_half_of_its_stream() -> None:
    server, hand = server_and_hand(guards={"v1_max_sequence": 1})
    server.into(framed(hand.packet(b"a", 3)))
    stream = accepted(server)
    server.conn.finish(stream)
    server.out()
    server.into(framed(hand.packet((1).to_bytes(4, "big"), 3, flags.ACK_WORD), hand.packet(b"b", 3)))
    assert server.out() == b""
    assert phase(server) is Phase.ESTABLISHED
    assert server.conn.read(stream, 0.0) == b"ab"


@pytest.mark.parametrize("on_stream", [False, True])
def test_nonces_used_up_end_the_session_with_their_error(on_stream: bool) -> None:
    client, _ = client_and_hand(guards={"soft_bytes": 10})
    stream = client.conn.open_stream(0, 0.0)
    while phase(client) is Phase.ESTABLISHED:
        if on_stream:
            client.conn.write(stream, b"123456")
        else:
            client.conn.send_message(b"123456")
        client.out()
    assert isinstance(client.conn.error, NonceExhaustedError)
    assert phase(client) is Phase.CLOSED


# --- violations and nonsense ------------------------------------------------------------------------------------------


def test_data_on_stream_0_is_dropped_unacknowledged() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"\0\0\0\5\2\0\3\0\0", 0), hand.packet(b"x", 0, flags.UNRELIABLE_WORD)))
    assert server.dropped == {"protocol_violation": 2}
    assert server.out() == b""
    assert phase(server) is Phase.ESTABLISHED


def test_unreliable_data_on_stream_1_is_dropped() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"x"), 1, flags.UNRELIABLE_WORD)))
    assert server.dropped == {"protocol_violation": 1}
    assert server.messages == []


def test_a_compressed_packet_is_dropped() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"x"), 1, flags.DATA | flags.COMPRESSED)))
    assert server.dropped == {"malformed": 1}
    assert server.out() == b""


def test_data_behind_the_end_is_acknowledged_counted_and_not_delivered() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"x", 3, flags.DATA_FIN), hand.packet(b"y", 3)))
    stream = accepted(server)
    assert server.conn.read(stream, 0.0) == b"x"
    assert server.conn.read(stream, 0.0) is None
    server.into(framed(hand.packet(message(b"m"), 1, flags.DATA_FIN), hand.packet(message(b"n"))))
    assert server.messages == [b"m"]
    assert server.dropped == {"protocol_violation": 2}
    assert acks(hand.opened(server.out())) == [(3, 0), (3, 1), (1, 0), (1, 1)]


def test_fin_on_stream_1_ends_the_messages_and_discards_an_unfinished_one() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(message(b"whole") + b"\0\0\0\x09half", 1, flags.DATA_FIN)))
    assert server.messages == [b"whole"]
    assert server.conn.refill(0.0) is False
    assert server.conn.charged() == 0


def test_a_message_over_the_limit_ends_the_session() -> None:
    server, hand = server_and_hand(max_message=100)
    server.into(framed(hand.packet((101).to_bytes(4, "big"))))
    assert isinstance(server.conn.error, ProtocolViolationError)


def test_a_message_over_the_limit_behind_a_full_backlog_ends_the_session_when_its_turn_comes() -> None:
    server, hand = server_and_hand(max_message=2 * MiB)
    full = message(bytes(CAP)) + (2 * MiB + 1).to_bytes(4, "big")
    server.into(framed(*(hand.packet(full[at : at + 60_000]) for at in range(0, len(full), 60_000))))
    assert phase(server) is Phase.ESTABLISHED
    assert [len(m) for m in server.messages] == [CAP]
    assert not server.conn.refill(0.0)
    assert isinstance(server.conn.error, ProtocolViolationError)


def test_a_batch_may_end_within_a_frame() -> None:
    server, hand = server_and_hand()
    whole = framed(hand.packet(message(b"a")), hand.packet(message(b"b")))
    for at in range(len(whole)):
        server.into(whole[at : at + 1])
    assert server.messages == [b"a", b"b"]
    assert not server.inbox


def test_garbage_costs_one_count_each_and_32_in_a_row_end_the_session() -> None:
    server, hand = server_and_hand()
    junk = hand.packet(message(b"x"))[:-8] + bytes(8)
    hand = Hand(True)
    server.into(framed(*([junk] * 31), hand.packet(message(b"real")), *([junk] * 31)))
    assert server.messages == [b"real"]
    assert phase(server) is Phase.ESTABLISHED
    assert server.dropped == {"decrypt_failed": 62}
    server.into(framed(junk))
    assert isinstance(server.conn.error, ProtocolViolationError)


def test_frames_of_no_session_are_dropped() -> None:
    server, hand = server_and_hand()
    packet = hand.packet(message(b"real"))
    newer, foreign, bare = Packet(2, SESSION, 1, 0, flags.DATA, bytes(40)), bytes(32), flags.RELIABLE
    server.into(
        framed(
            encode(newer),
            encode(Packet(1, foreign, 1, 0, flags.DATA, bytes(40))),
            encode(Packet(1, SESSION, 1, 0, bare, message(b"clear"))),
            packet[:30],
            packet,
        )
    )
    assert server.dropped == {"wrong_version": 1, "wrong_session": 1, "unencrypted_dropped": 1, "malformed": 1}
    assert server.messages == [b"real"]


def test_frames_that_break_the_leg() -> None:
    server, _ = server_and_hand(frame_cap=70_000)
    with pytest.raises(FrameTooLargeError, match="70001"):
        server.into((70_001).to_bytes(4, "big"))
    flooded, _ = server_and_hand()
    with pytest.raises(FrameTooLargeError, match="empty frames"):
        flooded.into(bytes(4 * (limits.MAX_EMPTY_FRAMES + 1)))


def test_empty_frames_between_packets_are_no_flood() -> None:
    server, hand = server_and_hand()
    for _ in range(3):
        server.into(bytes(4 * limits.MAX_EMPTY_FRAMES) + framed(hand.packet(message(b"x"))))
    assert server.messages == [b"x"] * 3


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_flushes_and_sends_one_close_unpadded() -> None:
    pair = Pair()
    pair.client.conn.send_message(b"last words")
    pair.client.conn.close(0, 0.0)
    with pytest.raises(SessionClosingError):
        pair.client.conn.check_sendable()
    out = pair.client.out()
    assert len(frames_of(out)) == 1
    pair.server.into(out)
    pair.client.into(pair.server.out())
    closing = pair.client.out()
    assert [(decode(f).flags, len(f)) for f in frames_of(closing)] == [(0xA0, 67)]
    assert phase(pair.client) is Phase.CLOSED
    pair.server.into(closing)
    assert phase(pair.server) is Phase.DRAINING
    assert pair.server.messages == [b"last words"]
    assert pair.server.conn.next_timer() == pytest.approx(3 * limits.INITIAL_SRTT)
    pair.server.conn.handle_timer(1.0)
    assert phase(pair.server) is Phase.CLOSED
    assert isinstance(pair.server.conn.end_error(), ConnectionClosedError)
    assert pair.server.conn.next_timer() is None
    pair.server.conn.handle_timer(2.0)


def test_a_draining_session_still_acknowledges_and_delivers() -> None:
    server, hand = server_and_hand()
    server.conn.send_message(b"never leaves")
    server.into(framed(hand.packet(b"\x01", 0, flags.CLOSE_V1), hand.packet(message(b"late"))))
    assert server.messages == [b"late"]
    assert acks(hand.opened(server.out())) == [(1, 0)]
    server.into(framed(hand.packet(b"\x01\0\0", 0, flags.CLOSE_V1)))
    assert phase(server) is Phase.DRAINING


def test_a_close_that_names_nothing_is_dropped_and_one_with_a_code_tells_it() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"", 0, flags.CLOSE_V1), hand.packet(b"\x07", 0, flags.CLOSE_V1)))
    assert phase(server) is Phase.ESTABLISHED
    server.into(framed(hand.packet(b"\x01\x00\x0e", 0, flags.CLOSE_V1)))
    assert server.conn.peer_code == 14


def test_a_flush_that_makes_no_progress_gives_up() -> None:
    client, _ = client_and_hand()
    client.conn.send_message(b"x")
    client.out(0.0)
    client.conn.close(0, 0.0)
    assert client.conn.next_timer() == limits.RTO_INITIAL_PIPE
    client.conn.handle_timer(limits.CLOSE_FLUSH_TIMEOUT)
    assert phase(client) is Phase.CLOSED
    assert client.conn.unacknowledged == 5
    patient, _ = client_and_hand()
    patient.conn.send_message(b"x")
    patient.out(0.0)
    patient.conn.close(0, 0.0, timeout=1.0)
    assert patient.conn.next_timer() == 1.0
    patient.conn.handle_timer(1.0)
    assert phase(patient) is Phase.CLOSED


def test_silence_does_not_end_a_session_and_the_end_of_its_leg_does() -> None:
    client, _ = client_and_hand()
    client.conn.send_message(b"x")
    client.out(0.0)
    for now in range(0, 3600, 10):
        client.conn.handle_timer(float(now))
        client.out(float(now))
    assert phase(client) is Phase.ESTABLISHED
    client.conn.path_lost(3600.0)
    assert phase(client) is Phase.DEAD
    assert isinstance(client.conn.end_error(), SessionDeadError)


def test_what_arrived_can_be_read_after_the_end() -> None:
    server, hand = server_and_hand()
    server.into(framed(hand.packet(b"bytes", 3), hand.packet(message(b"m"))))
    stream = accepted(server)
    server.conn.path_lost(1.0)
    assert server.conn.read(stream, 1.0) == b"bytes"
    with pytest.raises(SessionDeadError):
        server.conn.read(stream, 1.0)
    assert server.messages == [b"m"]
    assert not server.conn.refill(1.0)
    server.into(framed(hand.packet(message(b"n"))))
    assert server.messages == []
    assert not server.inbox


class Watching:
    """An observer that remembers the streams."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, str]] = []

    def stream_changed(self, now: float, stream_id: int, old: str, new: str) -> None:
        self.seen.append((stream_id, old, new))


def test_an_observer_hears_of_the_peers_streams() -> None:
    server, hand = server_and_hand()
    watching: Any = Watching()
    server.conn.observer = watching
    server.into(framed(hand.packet(b"x", 3)))
    assert watching.seen == [(3, "idle", "open")]


def test_abort_says_why() -> None:
    client, hand = client_and_hand()
    client.conn.abort(BusyError("enough"))
    assert hand.opened(client.out()) == [(0, 0xA0, b"\x01\x00\x03")]
    assert client.out() == b""
    assert client.conn.has_events
    event: Any = client.conn.next_event()
    assert event.new is ConnectionState.CLOSED


def test_jitter_holds_every_packet_back_a_while_and_keeps_their_order() -> None:
    client, hand = client_and_hand(jitter=0.05)
    texts = [b"%d" % i for i in range(20)]
    got: list[bytes] = []
    now = 0.0
    for text in texts:
        client.conn.send_message(text)
        assert client.out(now) == b""
        due = client.conn.next_timer()
        assert due is not None
        assert now <= due <= now + 0.05
        now = due
        client.conn.handle_timer(now)
        got += [plain[4:] for _, _, plain in hand.opened(client.out(now))]
    now += 0.05
    client.conn.handle_timer(now)
    assert got + [plain[4:] for _, _, plain in hand.opened(client.out(now))] == texts
    assert client.conn.next_timer() is not None  # of the retransmission


def test_jitter_does_not_hold_the_last_words_back() -> None:
    client, hand = client_and_hand(jitter=10.0)
    client.conn.send_message(b"first")
    client.out(0.0)
    client.conn.abort(BusyError("enough"))
    assert [word for _, word, _ in hand.opened(client.out(0.0))] == [0x21, 0xA0]


def test_jitter_seals_nothing_while_its_queue_is_full() -> None:
    client, hand = client_and_hand(jitter=0.01)
    client.conn.send_message(bytes(2 * MiB))
    assert client.out(0.0) == b""
    assert client.conn.queued > MiB
    now, size = 0.0, 0
    while size < 2 * MiB:
        now += 0.01
        client.conn.handle_timer(now)
        size += sum(len(plain) for _, _, plain in hand.opened(client.out(now)))
    assert size == 2 * MiB + 4


# --- bounds and back-pressure (§13.6) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "settings"), [("segments", {"send_segments": 32}), ("bytes", {})])
def test_what_may_be_outstanding_is_bounded_and_goes_on_with_the_acknowledgements(
    bound: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if bound == "bytes":
        monkeypatch.setattr(limits, "MAX_PENDING_BYTES", 32 * 1024)
    client, hand = client_and_hand(bulk_chunk=1024, **settings)
    stream = client.conn.open_stream(0, 0.0)
    client.conn.write(stream, bytes(40 * 1024))
    assert len(hand.opened(client.out())) == 32
    assert not client.conn.wants_to_send
    client.conn.write(stream, b"more")
    assert client.out() == b""
    client.into(framed(*(hand.packet(i.to_bytes(4, "big"), 3, flags.ACK_WORD) for i in range(4))))
    assert len(hand.opened(client.out())) == 4


def test_the_session_as_a_whole_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SEND_WINDOW", 8 * 1024)
    client, hand = client_and_hand(bulk_chunk=1024)
    for _ in range(2):
        client.conn.write(client.conn.open_stream(0, 0.0), bytes(8 * 1024))
    assert len(hand.opened(client.out())) == 8
    client.into(framed(hand.packet(bytes(4), 3, flags.ACK_WORD)))
    assert len(hand.opened(client.out())) == 1


def test_a_leg_is_not_read_while_the_application_does_not() -> None:
    pair = Pair()
    texts = [bytes([i]) * 200_000 for i in range(12)]
    for text in texts:
        pair.client.conn.send_message(text)
    pair.move()
    assert pair.server.held == [True]
    assert not reads(pair.server)
    waiting = len(pair.server.inbox)
    assert waiting > MiB
    assert pair.server.conn.assembler.charge <= CAP + 200_064 + 65_536
    got = pair.server.messages
    pair.server.conn.refill(0.0)
    assert pair.server.held == [True, False]
    while len(got) < len(texts):
        pair.server.into(b"")
        pair.move()
        got += pair.server.messages
        pair.server.conn.refill(0.0)
    assert got == texts
    assert pair.client.conn.unacknowledged == 0


def test_a_reader_that_never_finds_the_queue_empty_kept_the_leg_from_being_read() -> None:
    server, hand = server_and_hand()
    server.into(framed(*(hand.packet(message(bytes(60_000))) for _ in range(20))), 1.0)
    assert not reads(server)
    due = server.conn.next_timer()
    assert due == pytest.approx(1.1)
    server.conn.handle_timer(1.1)
    assert not reads(server)  # nothing was read
    for _ in range(5):
        server.conn.messages.popleft()
    server.conn.handle_timer(1.15)
    assert not reads(server)  # not yet looked
    server.conn.handle_timer(1.25)
    assert reads(server)
    assert server.held == [True, False]
    server.into(framed(hand.packet(message(b"x"))), 1.3)
    assert server.conn.messages[-1] == b"x"


def test_a_stream_that_nobody_reads_stops_the_leg_too() -> None:
    pair = Pair()
    near = pair.client.conn.open_stream(0, 0.0)
    pair.client.conn.write(near, bytes(2 * MiB))
    pair.move()
    assert not reads(pair.server)
    far = accepted(pair.server)
    got = 0
    while got < 2 * MiB:
        piece = pair.server.conn.read(far, 0.0)
        assert piece is not None
        got += len(piece)
        if reads(pair.server):
            pair.server.into(b"")
            pair.move()
    assert pair.server.held[-1] is False
    assert pair.client.conn.unacknowledged == 0


def test_a_peer_that_sends_and_takes_no_answer_is_read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_v1, "_MOST_ACKS", 8)
    server, hand = server_and_hand()
    server.into(framed(*(hand.packet(message(b"x")) for _ in range(20))))
    assert not reads(server)
    assert server.held == [True]
    assert acks(hand.opened(server.out())) == [(1, number) for number in range(8)]
    assert reads(server)
    assert server.held == [True, False]
    assert len(server.messages) == 8


def test_an_unfinished_message_never_stops_the_leg() -> None:
    pair = Pair()
    pair.client.conn.send_message(bytes(4 * MiB))
    pair.move()
    assert pair.server.held in ([], [True])
    assert [len(m) for m in pair.server.messages] == [4 * MiB]


def test_used_up_receive_memory_stops_every_leg_that_assembles_nothing() -> None:
    memory = ReceiveMemory(100_000)
    server, hand = server_and_hand(memory=memory)
    other = End(False, memory=memory)
    woken: list[int] = []
    server.conn.wake = lambda: woken.append(1)
    other_hand = Hand(True)
    other.into(framed(other_hand.packet(message(bytes(50_000))), other_hand.packet(message(bytes(51_000)))))
    assert used_up(memory)
    server.into(framed(hand.packet(message(b"x"))))
    assert server.inbox
    assert server.held == [True]
    assert other.messages != []
    other.conn.refill(0.0)
    assert not used_up(memory)
    assert server.held == [True, False]
    assert woken
    server.into(b"")
    assert server.messages == [b"x"]


def test_used_up_receive_memory_lets_a_begun_message_come_to_its_end() -> None:
    memory = ReceiveMemory(100_000)
    server, hand = server_and_hand(memory=memory)
    data = message(bytes(102_000))
    for at in range(0, len(data), 34_001):
        server.into(framed(hand.packet(data[at : at + 34_001])))
    assert [len(m) for m in server.messages] == [102_000]


def test_memory_that_stays_used_up_ends_the_session_that_holds_most() -> None:
    memory = ReceiveMemory(100_000)
    server, hand = server_and_hand(memory=memory)
    server.into(framed(hand.packet(message(bytes(50_000))), hand.packet(message(bytes(51_000)))), 1.0)
    while (due := server.conn.next_timer()) is not None and due < 1.0 + limits.RECV_MEMORY_PATIENCE:
        server.conn.handle_timer(due)
        assert server.conn.error is None
    assert due == 1.0 + limits.RECV_MEMORY_PATIENCE
    server.conn.handle_timer(due)
    assert isinstance(server.conn.error, BusyError)
    assert memory.charged == 0


def test_without_a_driver_nobody_is_told_to_hold_the_leg() -> None:
    server, hand = server_and_hand()
    server.conn.hold = None
    server.into(framed(*(hand.packet(message(bytes(60_000))) for _ in range(20))))
    assert not reads(server)


def test_acknowledgements_that_do_not_fit_wait() -> None:
    server, hand = server_and_hand()
    server.into(framed(*(hand.packet(message(b"x")) for _ in range(50))))
    buffer = bytearray(1000)
    end = server.conn.fill(0, buffer, memoryview(buffer), 0, 1000, 0.0)
    assert 0 < end <= 1000
    assert server.conn.wants_to_send
    rest = server.out()
    assert len(acks(hand.opened(bytes(buffer[:end]) + rest))) == 50


def test_the_window_is_only_lent() -> None:
    server, hand = server_and_hand()
    whole = message(bytes(range(250)) * 400)
    for at in range(0, len(whole), 30_000):
        server.into(framed(hand.packet(whole[at : at + 30_000])))  # the harness overwrites what it lent
    assert server.messages == [whole[4:]]


def test_a_reader_that_waits_gets_what_arrives_behind_a_full_backlog() -> None:
    server, hand = server_and_hand()
    server.conn.reader_waits = True
    server.into(framed(hand.packet(message(b"a") + message(b"b")[:3]), hand.packet(message(b"b")[3:])))
    assert server.messages == [b"a", b"b"]


# --- in a row ---------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("message", "write", "open", "finish", "move", "time")),
        st.booleans(),
        st.integers(0, 70_000),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_both_ends_do_everything_arrives_in_order(steps: list[tuple[str, bool, int]]) -> None:
    pair = Pair(bulk_chunk=4096, max_streams=4)
    ends = (pair.client, pair.server)
    said: tuple[list[bytes], list[bytes]] = ([], [])
    heard: tuple[list[bytes], list[bytes]] = ([], [])
    opened: tuple[list[Stream], list[Stream]] = ([], [])
    taken: tuple[list[Stream], list[Stream]] = ([], [])
    wrote: dict[int, bytes] = {}
    read: dict[int, bytes] = {}
    now = 0.0
    for what, side, size in steps:
        conn, text = ends[side].conn, bytes([size % 251]) * size
        if what == "message":
            said[side].append(text)
            conn.send_message(text)
        elif what == "open" and conn.may_open:
            opened[side].append(conn.open_stream(size, now))
        elif what == "move":
            pair.move(now)
        elif what == "time":
            now += size / 10_000
            for end in ends:
                end.conn.handle_timer(now)
        elif opened[side]:
            stream = opened[side][size % len(opened[side])]
            if what == "finish":
                conn.finish(stream)
            elif not stream.write_ended:
                conn.write(stream, text)
                wrote[stream.id] = wrote.get(stream.id, b"") + text
    for _ in range(100):
        pair.move(now)
        for side, end in zip((False, True), ends, strict=True):
            heard[not side].extend(end.messages)
            end.conn.refill(now)
            while (fresh := end.conn.accept_stream(now)) is not None:
                taken[side].append(fresh)
                read[fresh.id] = b""
            for stream in taken[side]:
                while piece := end.conn.read(stream, now):
                    read[stream.id] += piece
            end.into(b"", now)
    assert heard == said
    assert {stream_id: data for stream_id, data in read.items() if data} == {
        stream_id: data for stream_id, data in wrote.items() if data
    }
    assert sorted(read) == sorted(stream.id for side in opened for stream in side)
    for end in ends:
        assert end.conn.unacknowledged == 0
        assert end.conn.outstanding == 0
        assert end.dropped == {}
