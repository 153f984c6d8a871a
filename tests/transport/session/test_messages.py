"""Messages on stream 1 (wire-native §14.2): what goes in as one comes out as one, whatever the segments were."""

from __future__ import annotations

import itertools
import random

import pytest

from phantom import limits
from phantom.errors import ProtocolViolationError
from phantom.transport.packet import flags
from phantom.transport.session.messages import MessageAssembler, message_prefix
from phantom.transport.session.states import Phase
from tests.transport.session.engines import (
    Pair,
    client_with_peer,
    message,
    pattern,
    server_with_peer,
    split_frames,
    words,
)

KiB, MiB = limits.KiB, limits.MiB
CAP = limits.RECV_BACKLOG_CAP

# Every size at which something changes: nothing, the small path, a segment, the first window, the large ones.
EDGES = (0, 4, 2048, 4096, 64 * KiB, 128 * KiB, 1 * MiB, 16 * MiB)
SIZES = sorted({size + step for size in EDGES for step in (-5, -4, -1, 0, 1, 4) if 0 <= size + step <= 16 * MiB})


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    pair = Pair()
    data = pattern(size)
    for engine, other in (pair.ends, pair.ends[::-1]):
        engine.conn.send_message(data)
        pair.move(0.0)
        assert other.got == [data]
        assert engine.conn.queued == engine.conn.queued_messages == 0
    pair.run(0.0, 1.0)  # the delayed acknowledgements
    assert [engine.conn.unacknowledged for engine in pair.ends] == [0, 0]
    assert pair.client.memory.charged == pair.server.memory.charged == 0


@pytest.mark.parametrize("chunk", [1024, 1 * MiB])
def test_messages_around_another_segment_size_arrive_whole(chunk: int) -> None:
    pair = Pair(bulk_chunk=chunk)
    sent = [pattern(size, salt) for salt, size in enumerate((chunk - 4, chunk - 1, chunk, chunk + 1, 3 * chunk, 0))]
    for data in sent:
        pair.client.conn.send_message(data)
    pair.move(0.0)
    assert pair.server.got == sent


def test_one_message_of_the_segment_size_is_one_packet() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(MiB))
    engine.conn.send_message(pattern(64 * KiB))
    assert [len(packet.plaintext) for packet in peer.see()] == [4 + 4 + 64 * KiB]


def test_many_small_messages_share_packets() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.window(16 * MiB))
    for _ in range(10_000):
        engine.conn.send_message(b"x" * 64)
    packets = peer.see()
    assert len(packets) == -(-10_000 * 68 // (64 * KiB // 68 * 68))
    assert sum(len(packet.plaintext) - 4 for packet in packets) == 10_000 * 68


def test_a_prefix_may_be_cut_anywhere() -> None:
    stream = b"".join(message(data) for data in (b"", b"one", b"x" * 5000, b"", b"y" * 3))
    for first, second in itertools.product((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4)):
        engine, peer = server_with_peer()
        cuts = [0, first, first + second, first + second + 5001, len(stream)]
        for index, (start, stop) in enumerate(itertools.pairwise(cuts)):
            peer.give(peer.data(index, stream[start:stop]))
        assert engine.read(0.0) == [b"", b"one", b"x" * 5000, b"", b"y" * 3]


def test_a_stream_of_single_bytes_is_understood() -> None:
    engine, peer = server_with_peer()
    stream = message(b"abc") + message(b"") + message(b"z" * 3000)
    peer.give(*(peer.data(index, stream[index : index + 1]) for index in range(len(stream))))
    assert engine.read(0.0) == [b"abc", b"", b"z" * 3000]
    assert engine.memory.charged == 0


def test_a_declared_length_above_the_limit_ends_the_session_with_code_39() -> None:
    for length in (1001, 2**32 - 1):
        engine, peer = server_with_peer(max_message=1000)
        peer.give(peer.data(0, message(b"m" * 1000) + length.to_bytes(4, "big")))
        engine.conn.refill(0.0)
        assert isinstance(engine.conn.error, ProtocolViolationError)
        assert str(length) in str(engine.conn.error)
        assert engine.conn.phase is Phase.CLOSED
        assert list(engine.conn.messages) == [b"m" * 1000]
        ack, *closes = peer.see()
        assert words([ack, *closes]) == [flags.ACK_WORD, *[flags.CLOSE] * 3]
        assert {packet.plaintext[:3] for packet in closes} == {b"\x01\x00\x27"}
        assert engine.memory.charged == engine.memory.credit == 0


def test_nothing_is_buffered_for_a_message_above_the_limit() -> None:
    engine, peer = server_with_peer(max_message=5000)
    peer.give(peer.data(0, (5001).to_bytes(4, "big") + b"x" * 4000))
    assert isinstance(engine.conn.error, ProtocolViolationError)
    assert engine.conn.assembler.charged == 0
    assert not engine.conn.messages


def test_what_followed_a_message_above_the_limit_was_read_as_messages() -> None:
    engine, peer = server_with_peer(max_message=1000)
    peer.give(peer.data(0, message(b"good") + (1001).to_bytes(4, "big") + b"x"), peer.data(1, message(b"not one")))
    assert engine.read(0.0) == [b"good"]
    assert engine.read(0.0) == []
    assert isinstance(engine.conn.end_error(), ProtocolViolationError)


def test_the_peer_of_a_sender_above_the_limit_learns_code_39() -> None:
    pair = Pair(server={"max_message": 100_000})
    pair.client.conn.send_message(pattern(100_000))
    pair.client.conn.send_message(pattern(100_001))
    pair.run(0.0, 1.0)
    assert pair.server.got == [pattern(100_000)]
    assert pair.client.conn.peer_code == ProtocolViolationError.code
    assert pair.client.conn.phase is Phase.CLOSED


def test_the_backlog_closes_the_window_and_reading_opens_it() -> None:
    pair = Pair()
    total = 40
    for number in range(total):
        pair.client.conn.send_message(pattern(256 * KiB, number))
    now = pair.run(0.0, 30.0, reading=False)
    server, client = pair.server, pair.client
    waiting = sum(len(data) + 64 for data in server.conn.messages)
    assert CAP < waiting <= CAP + 256 * KiB + 64
    assert server.conn.assembler.blocked
    assert client.conn.queued > 5 * MiB  # what the window does not take stays here
    assert server.memory.charged == server.conn.assembler.charged <= waiting + 3 * MiB
    pair.run(now, now + 10.0)
    assert server.got == [pattern(256 * KiB, number) for number in range(total)]
    assert client.conn.queued == client.conn.unacknowledged == 0


def test_more_than_a_quarter_of_the_window_is_split_unasked() -> None:
    engine, peer = server_with_peer(recv_window=64 * KiB)
    small = message(b"x" * 60)
    peer.give(peer.data(0, small * 256))  # 16 KiB
    assert not engine.conn.messages
    peer.give(peer.data(1, small))
    assert len(engine.conn.messages) == 257
    assert engine.conn.assembler.run_bytes == 0


def test_a_message_that_was_begun_completes_whatever_waits() -> None:
    pair = Pair()
    pair.client.conn.send_message(pattern(16 * MiB))
    pair.client.conn.send_message(b"next")
    pair.run(0.0, 10.0, reading=False)
    assert list(pair.server.conn.messages) == [pattern(16 * MiB)]
    assert pair.server.read(10.0) == [pattern(16 * MiB), b"next"]


def test_fin_ends_the_messages_and_drops_the_unfinished_one() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(b"whole") + (9000).to_bytes(4, "big") + b"half"))
    peer.give(peer.data(1, b"more of the half", flags.DATA_FIN))
    assert engine.read(0.0) == [b"whole"]
    assert engine.conn.assembler.finished
    assert engine.conn.assembler.charged == 0
    peer.give(peer.data(2, b"behind the end"))
    assert engine.counted() == {"protocol_violation": 1}
    assert engine.conn.phase is Phase.ESTABLISHED


def test_fin_behind_a_backlog_drops_the_unfinished_message_once_it_comes_up() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, message(pattern(CAP))))
    peer.see()
    peer.give(peer.data(1, message(b"last") + (9000).to_bytes(4, "big") + b"half"))
    peer.give(peer.data(2, b"", flags.DATA_FIN))
    assert engine.read(0.0) == [pattern(CAP), b"last"]
    assert engine.memory.charged == 0


# --- the assembler alone ---------------------------------------------------------------------------------------------


def feed(assembler: MessageAssembler, *segments: bytes) -> None:
    """One batch: every segment out of one window, which is scribbled over at its end."""
    buf = bytearray(b"".join(segments))
    view, at = memoryview(buf), 0
    for segment in segments:
        assembler.feed(buf, view, at, at + len(segment))
        at += len(segment)
    assembler.settle()
    buf[:] = b"\xdd" * len(buf)


def read(assembler: MessageAssembler) -> list[bytes]:
    found = []
    while assembler.messages or assembler.refill():
        found.append(assembler.messages.popleft())
    return found


def test_random_messages_in_random_pieces(rng: random.Random) -> None:
    for _ in range(100):
        assembler = MessageAssembler(50_000)
        sizes = [rng.choice((0, 1, 3, 4, 60, 2047, 2048, 2049, 9000, 50_000)) for _ in range(rng.randint(1, 12))]
        sent = [pattern(size, salt) for salt, size in enumerate(sizes)]
        stream = b"".join(map(message, sent))
        got: list[bytes] = []
        at = 0
        while at < len(stream):
            pieces = []
            for _ in range(rng.randint(1, 4)):
                size = rng.choice((1, 2, 3, 4, 5, 68, 2052, 9004, 30_000))
                if rng.random() < 0.5 and len(stream) - at >= 4:
                    size = 4 + int.from_bytes(stream[at : at + 4], "big")  # sometimes a message exactly
                pieces.append(stream[at : at + size])
                at += size
            if rng.random() < 0.2:
                for piece in pieces:
                    assembler.feed_bytes(piece)
            else:
                feed(assembler, *filter(None, pieces))
            if rng.random() < 0.3:
                assembler.split()
            if rng.random() < 0.3:
                got += read(assembler)
            parts = sum(map(len, assembler._parts))
            assert assembler._parts_size == parts
            assert assembler.run_bytes == sum(map(len, assembler._runs or ()))
        got += read(assembler)
        assert got == sent
        assert assembler.consumed == len(stream)
        assert assembler.charged == 0


def test_charges_count_every_item() -> None:
    assembler = MessageAssembler()
    feed(assembler, message(b"whole"))
    assert assembler.charged == 5 + 64
    feed(assembler, b"\0\0\0\5ab", b"cde")
    assert assembler.charged == 5 + 64 + (6 + 64) + (3 + 64)
    assert assembler.split()
    assert assembler.charged == 2 * (5 + 64)
    feed(assembler, message_prefix(5000), b"x" * 100)
    assert assembler.charged == 2 * (5 + 64) + (100 + 64)
    read(assembler)
    assert assembler.charged == 100 + 64  # of the message that was begun


def test_only_an_empty_queue_gives_its_charge_back() -> None:
    assembler = MessageAssembler()
    feed(assembler, message(b"one"), message(b"two") + message(b""))
    assert assembler.refill()
    assert list(assembler.messages) == [b"one", b"two", b""]
    assert assembler.charged == 6 + 3 * 64


@pytest.mark.parametrize("held", [False, True])
def test_no_message_is_begun_while_blocked(held: bool) -> None:
    assembler = MessageAssembler()
    feed(assembler, message(pattern(CAP if not held else 10)))
    assembler.held = held
    assert assembler.blocked
    consumed = assembler.consumed
    for piece in (message(b"small"), message(pattern(5000))):
        feed(assembler, piece)
        assembler.feed_bytes(piece)
    assembler.split()
    assert (len(assembler.messages), assembler.consumed) == (1, consumed)
    assembler.held = False
    assert read(assembler)[1:] == [b"small", b"small", pattern(5000), pattern(5000)]


def test_blocking_stops_in_the_middle_of_a_run() -> None:
    assembler = MessageAssembler()
    one = message(pattern(1500))
    feed(assembler, one * 2000)
    assert assembler.split()
    assert len(assembler.messages) == CAP // (1500 + 64) + 1
    assert not assembler.split() or assembler.blocked
    assert read(assembler) == [pattern(1500)] * 2000


def test_a_large_message_blocks_the_one_behind_it_in_the_same_segment() -> None:
    assembler = MessageAssembler()
    feed(assembler, message(pattern(CAP)) + message(pattern(3000)), message(b"third"))
    assert len(assembler.messages) == 1
    assert assembler.run_bytes == 3004 + 9
    assert read(assembler) == [pattern(CAP), pattern(3000), b"third"]


def test_a_held_assembler_began_the_message_behind_the_one_it_completed() -> None:
    assembler = MessageAssembler()
    assembler.feed_bytes((9).to_bytes(4, "big") + b"begun")
    assembler.split()
    assembler.held = True
    assembler.feed_bytes(b"rest" + message(b"small") + (5000).to_bytes(4, "big"))
    assembler.split()
    assert list(assembler.messages) == [b"begunrest"]
    assert assembler.consumed == 13
    assembler.held = False
    assert read(assembler) == [b"begunrest", b"small"]


def test_many_tiny_pieces_of_a_message_cost_no_more_than_their_bytes() -> None:
    for by_window in (True, False):
        assembler = MessageAssembler()
        feed(assembler, message_prefix(1 << 20))
        data = pattern(20_000)
        for at in range(len(data)):
            if by_window:
                feed(assembler, data[at : at + 1])
            else:
                assembler.feed_bytes(data[at : at + 1])
                assembler.split()
        assert len(assembler._parts) <= 4
        assert assembler.charged == 20_000 + 64
        feed(assembler, pattern(1 << 20)[20_000:])
        assert read(assembler) == [pattern(1 << 20)]


def test_nothing_is_split_that_nobody_waits_for() -> None:
    assembler = MessageAssembler()
    feed(assembler, message(b"a") * 3)
    assert not assembler.messages
    assert assembler.run_bytes == 15
    assert assembler.refill()
    assert not MessageAssembler().refill()


def test_a_whole_message_above_a_small_limit_was_let_through() -> None:
    for stream in (message(b"x" * 1001), message(b"ok") + message(b"x" * 1001) + message(b"ok")):
        assembler = MessageAssembler(1000)
        feed(assembler, stream)
        with pytest.raises(ProtocolViolationError, match="1001"):
            assembler.split()
        assert list(assembler.messages) in ([], [b"ok"])


@pytest.mark.parametrize("prefix_in", [0, 1, 2, 3, 4])
def test_the_limit_holds_however_the_prefix_arrives(prefix_in: int) -> None:
    stream = (70_000).to_bytes(4, "big")
    assembler = MessageAssembler(69_999)
    with pytest.raises(ProtocolViolationError, match="70000"):
        for piece in filter(None, (stream[:prefix_in], stream[prefix_in:] + b"x" * 10)):
            feed(assembler, piece)
        assembler.split()
    assert not assembler._parts


def test_the_engine_never_sends_fin_on_stream_1() -> None:
    pair = Pair()
    pair.client.conn.send_message(b"last")
    pair.client.conn.close(0, 0.0)
    pair.run(0.0, 1.0)
    assert not any(frame[40] & flags.FIN for data in pair.wire for frame in split_frames(data) if data)
