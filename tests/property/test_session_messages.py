"""Properties of message framing, reassembly and acknowledgement (wire-native §14)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.errors import ProtocolViolationError
from phantom.transport.packet import frames
from phantom.transport.session.messages import MessageAssembler
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.reliability import OutstandingSegments, Segment
from phantom.transport.session.streams import session_stream
from tests.transport.session.engines import message

MESSAGES = st.lists(
    st.binary(max_size=40) | st.integers(2040, 5000).map(lambda size: bytes([size & 0xFF]) * size), max_size=8
)
CUTS = st.lists(st.integers(1, 3000), min_size=1, max_size=30)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    found, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found.append(stream[at : at + size])
        at += size
        turn += 1
    return found


@given(MESSAGES, CUTS, st.data())
def test_messages_survive_any_segmentation(messages: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    assembler, got = MessageAssembler(), []
    for piece in pieces(b"".join(map(message, messages)), cuts):
        buf = bytearray(piece)
        if data.draw(st.booleans()):
            assembler.feed_bytes(bytes(piece))
        else:
            assembler.feed(buf, memoryview(buf), 0, len(buf))
        if data.draw(st.booleans()):
            assembler.settle()
            assembler.split()
        else:
            assembler.settle()
        buf[:] = b"\xdd" * len(buf)
    while assembler.messages or assembler.refill():
        got.append(assembler.messages.popleft())
    assert got == messages
    assert assembler.charged == 0


@given(st.binary(max_size=200), CUTS, st.integers(0, 50))
def test_any_bytes_are_messages_or_a_violation(stream: bytes, cuts: list[int], most: int) -> None:
    assembler = MessageAssembler(most)
    try:
        for piece in pieces(stream, cuts):
            assembler.feed(bytearray(piece), memoryview(bytearray(piece)), 0, len(piece))
            assembler.settle()
            assembler.split()
    except ProtocolViolationError:
        pass
    assert all(len(data) <= most for data in assembler.messages)
    assert b"".join(map(message, assembler.messages)) == stream[: sum(len(data) + 4 for data in assembler.messages)]
    assert assembler._parts_size <= most
    assert assembler.charged <= len(stream) + limits.ITEM_OVERHEAD * (len(stream) + 2)


@given(MESSAGES, st.integers(16, 2000), st.lists(st.integers(1, 5000), max_size=10))
def test_writes_become_segments_without_loss(messages: list[bytes], budget: int, cuts: list[int]) -> None:
    stream = session_stream(1, budget=budget, recv_window=limits.MiB, recv_segments=32)
    assert sum(map(stream.add_message, messages)) == sum(len(data) + 4 for data in messages)
    got, ends = b"", 0
    while (segment := stream.peek()) is not None:
        if cuts and (room := cuts.pop()) < segment.size:
            stream.cut(room)
            continue
        stream.pop()
        assert 0 < segment.size <= budget + limits.CHUNK_SLACK
        got += b"".join(segment.parts[1:])
        ends += segment.ends
    assert got == b"".join(map(message, messages))
    assert ends == len(messages)


@given(st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=4)), max_size=80), st.integers(0, 60))
def test_reassembly_delivers_the_first_copy_in_order_within_its_bounds(
    arrivals: list[tuple[int, bytes]], room: int
) -> None:
    reassembly, taken, got, received = Reassembly(max_segments=8, max_bytes=20), {}, [], 0
    for index, data in arrivals:
        if reassembly.segment(index, data, room=room - received).acknowledged:
            taken.setdefault(index, data)
        for piece in reassembly.take():
            got.append(piece)
            received += len(piece)
        assert len(reassembly.store or ()) <= 8
        assert reassembly.stored <= 20
        assert received + reassembly.stored <= max(0, room) + 4  # the window, and one segment
        if taken:
            _, ranges = frames.decode_sack(sack := reassembly.sack(7), 0, len(sack))
            assert {i for low, high in ranges for i in range(low, high + 1)} == set(taken)
    assert got == [taken[index] for index in range(reassembly.next_index)]


@given(st.integers(1, 60), st.lists(st.sets(st.integers(0, 59), min_size=1), max_size=8))
def test_acknowledgements_in_any_order_retire_each_byte_once(sent: int, acks: list[set[int]]) -> None:
    outstanding, acked, freed = OutstandingSegments(), set(), 0
    for index in range(sent):
        segment = Segment([b""], index + 1, 0)
        segment.sends = 1
        outstanding.add(segment)
    for ack in acks:
        indices = {index for index in ack if index < sent}
        if not indices:
            continue
        ranges: list[tuple[int, int]] = []
        for index in sorted(indices, reverse=True):
            if ranges and ranges[-1][0] == index + 1:
                ranges[-1] = (index, ranges[-1][1])
            else:
                ranges.append((index, index))
        freed += outstanding.acknowledge(ranges)[0]
        acked |= indices
        assert freed == sum(index + 1 for index in acked)
        assert outstanding.bytes == sum(range(1, sent + 1)) - freed
        assert all(index not in acked for index in outstanding.refused(ranges[0][1]))
