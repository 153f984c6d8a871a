"""Properties of packet codecs, replay windows and packet protection (wire-native §10-17)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.security.replay import ReplayWindow
from phantom.transport.packet import flags, protection
from phantom.transport.packet.frames import (
    MalformedFrame,
    decode_coalesced,
    decode_control,
    decode_sack,
    decode_window,
    encode_coalesced,
    encode_sack,
    pad,
    pade,
    trailer_length,
    unpad,
)
from phantom.transport.packet.header import MalformedPacket, Packet, decode, encode
from tests.transport.packet.support import AES, CHACHA, counts, feed, make, seal, state

U8 = st.integers(0, 2**8 - 1)
U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)

PACKETS = st.one_of(
    st.builds(
        Packet,
        version=st.just(1),
        session_id=st.binary(min_size=32, max_size=32),
        stream_id=U16,
        sequence=U32,
        flags=U8,
        payload=st.binary(max_size=200),
        ack_delay=U16,
        extensions=st.binary(max_size=1024),
    ),
    st.builds(
        Packet,
        version=st.just(2),
        session_id=st.binary(min_size=32, max_size=32),
        stream_id=U16,
        sequence=U32,
        flags=U16,
        payload=st.binary(max_size=200),
        ack_delay=U16,
        epoch=U8,
        path_id=U8,
        extensions=st.binary(max_size=1024),
    ),
)


@given(PACKETS)
def test_a_packet_keeps_every_field(packet: Packet) -> None:
    frame = encode(packet)
    assert decode(frame) == packet
    assert encode(decode(frame)) == frame


@given(PACKETS, st.data())
def test_no_prefix_and_no_longer_frame_is_a_packet(packet: Packet, data: st.DataObject) -> None:
    frame = encode(packet)
    cut = data.draw(st.integers(0, len(frame) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=40))
    for other in (frame[:cut], frame + tail):
        with pytest.raises(MalformedPacket):
            decode(other)


# --- decoders and foreign exceptions (Appendix A row 45) -------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Random bytes, or a good encoding with some bytes replaced, removed or added."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=400))
    raw = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 4))):
        if not raw:
            break
        at = draw(st.integers(0, len(raw) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                raw[at] = draw(U8)
            case 1:
                del raw[at]
            case _:
                raw.insert(at, draw(U8))
    return bytes(raw)


@given(mutated(PACKETS.map(encode)))
def test_row45_the_container_decoder_raises_nothing_foreign(frame: bytes) -> None:
    try:
        packet = decode(frame)
    except MalformedPacket:
        return
    assert encode(packet) == frame


@given(st.sampled_from([1, 2]), mutated(st.integers(1, 2).map(lambda v: seal(make(v, True), b"\0\0\0\0data"))))
def test_row45_protection_raises_nothing_foreign(version: int, frame: bytes) -> None:
    """Whatever arrives is either opened or dropped with one count."""
    q = make(version, False)
    plaintext = feed(q, frame)
    assert sum(counts(q).values()) == (plaintext is None)


ISLANDS = st.lists(st.integers(1, 50), min_size=2, max_size=120).map(
    lambda steps: [(sum(steps[:i]) + i, sum(steps[: i + 1]) + i - 1) for i in range(1, len(steps), 2)]
)  # every second interval is an island, the others are gaps


@given(mutated(ISLANDS.map(lambda islands: encode_sack(1, islands, 7))))
def test_row45_the_sack_decoder_raises_nothing_foreign(raw: bytes) -> None:
    try:
        delay, ranges = decode_sack(raw, 0, len(raw))
    except MalformedFrame:
        return
    assert 1 <= len(ranges) <= 32
    assert all(0 <= low <= high < 2**32 for low, high in ranges)
    assert all(a[0] > b[1] + 1 for a, b in itertools.pairwise(ranges)), "descending, not touching"
    ascending = ranges[::-1]
    cursor = ascending[0][1] + 1 if ascending[0][0] == 0 else 0
    assert encode_sack(cursor, ascending[1:] if cursor else ascending, delay) == raw


@given(mutated(st.lists(st.binary(max_size=20), max_size=20).map(encode_coalesced)))
def test_row45_the_bundle_decoder_raises_nothing_foreign(raw: bytes) -> None:
    try:
        parts = decode_coalesced(raw, 0, len(raw))
    except MalformedFrame:
        return
    assert len(raw) >= 2 + sum(len(part) + 2 for part in parts)


@given(st.binary(max_size=80))
def test_row45_the_other_decoders_raise_nothing_foreign(raw: bytes) -> None:
    for decoder in (decode_window, unpad):
        try:
            assert decoder(raw, 0, len(raw)) >= 0
        except MalformedFrame:
            continue
    assert -1 <= decode_control(raw, 0, len(raw)) <= 65535


# --- frames ----------------------------------------------------------------------------------------------------------


@given(ISLANDS, st.booleans(), U32)
def test_a_sack_tells_exactly_what_was_received(islands: list[tuple[int, int]], prefix: bool, delay: int) -> None:
    cursor = 1 if prefix else 0
    islands = [(low + 1, high + 1) for low, high in islands]
    raw = encode_sack(cursor, islands, delay)
    every = [(0, 0), *islands] if prefix else islands
    expected = every if len(every) <= 32 else [every[0], *every[-31:]]
    assert decode_sack(b"!" + raw, 1, 1 + len(raw)) == (delay, expected[::-1])
    assert len(raw) == 14 + 8 * (len(expected) - 1)


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_a_bundle_keeps_its_payloads(parts: list[bytes]) -> None:
    raw = encode_coalesced(parts)
    assert decode_coalesced(raw, 0, len(raw)) == [part for part in parts if part]


@given(st.integers(0, 70_000), st.sampled_from([1184, 65536]))
def test_padding_hits_its_bucket_and_comes_off_again(size: int, shaped: int) -> None:
    trailer = trailer_length(size, shaped)
    wire = size + 69
    if not trailer:
        assert wire + 2 > min(pade(wire + 2), shaped)
        return
    assert wire + trailer == min(pade(wire + 2), shaped)
    padded = pad(bytes(size), shaped)
    assert padded is not None
    assert len(padded) == size + trailer
    assert unpad(padded, 0, len(padded)) == size


@given(st.integers(0, 2**24))
def test_pade_never_shrinks_and_adds_at_most_an_eighth(length: int) -> None:
    padded = pade(length)
    assert length <= padded <= max(length * 1.12, length + 8)
    assert pade(padded) == padded


# --- replay windows (§17) --------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 3000), st.integers(0, 2**32 - 1)), max_size=300))
def test_row23_the_window_agrees_with_a_set(sequences: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for sequence in sequences:
        high = max(seen, default=-1)
        expected = sequence not in seen and sequence > high - 1024
        assert window.accept(sequence) is expected
        if expected:
            seen.add(sequence)
        assert window.high == max(seen)


@given(st.lists(st.integers(1, 5000), max_size=300))
def test_rising_sequences_are_always_accepted(steps: list[int]) -> None:
    window, sequence = ReplayWindow(), -1
    for step in steps:
        sequence += step
        assert window.accept(sequence)
        assert not window.accept(sequence)


# --- protection ------------------------------------------------------------------------------------------------------

SUITES = st.sampled_from([AES, CHACHA])


@given(
    st.sampled_from([1, 2]),
    SUITES,
    st.booleans(),
    U16,
    st.binary(max_size=100),
    U16,
    U8,
    st.integers(0, 360 - 1),
    st.data(),
)
def test_row19_every_flipped_bit_is_refused(
    version: int,
    suite: Any,
    ready: bool,
    stream_id: int,
    plaintext: bytes,
    delay: int,
    path_id: int,
    bit: int,
    data: st.DataObject,
) -> None:
    p, q = make(version, True, suite=suite), make(version, False)
    if ready:
        feed(q, seal(p))
    frame = seal(p, plaintext, stream_id=stream_id, path_id=path_id, ack_delay=delay)
    before, dropped = state(q), sum(counts(q).values())
    for place in (bit % (8 * p.header_len), data.draw(st.integers(0, 8 * len(frame) - 1))):
        flipped = bytearray(frame)
        flipped[place // 8] ^= 0x80 >> place % 8
        assert feed(q, bytes(flipped)) is None
        dropped += 1
        assert sum(counts(q).values()) == dropped
        assert state(q) == before
    assert feed(q, frame) == plaintext


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["data", "ack", "window", "path", "rekey", "forced", "heard"]),
            st.booleans(),
            st.sampled_from([0, 1, 2, 3]),
            st.sampled_from([0, 1, 2]),
        ),
        min_size=1,
        max_size=120,
    ),
    SUITES,
)
def test_row24_no_nonce_repeats(steps: list[tuple[str, bool, int, int]], suite: Any) -> None:
    used: set[tuple[bytes, bytes]] = set()
    build = protection.new_aead

    def recording(suite: Any, key: bytes, provider: Any) -> Any:
        aead, name = build(suite, key, provider), bytes(key)

        class Recorder:
            decrypt_into = staticmethod(aead.decrypt_into)

            @staticmethod
            def encrypt_into(nonce: bytes, data: Any, aad: Any, out: Any) -> int:
                assert (name, nonce) not in used
                used.add((name, nonce))
                return aead.encrypt_into(nonce, data, aad, out)

        return Recorder

    words = {"data": flags.DATA, "ack": flags.ACK_WORD, "window": flags.WINDOW_WORD, "path": flags.CHALLENGE}
    sealed = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protection, "new_aead", recording)
        ends = [
            make(2, initiator, suite=suite, sequence_watermark=5, max_replay_windows=4, soft_seals=30)
            for initiator in (True, False)
        ]
        for what, side, stream_id, path_id in steps:
            p, q = ends[side], ends[not side]
            if what == "rekey":
                p.rekey(0.0)
            elif what == "forced":
                p._advance()
            else:
                word = words.get(what, flags.DATA)
                frame = seal(p, stream_id=stream_id, path_id=path_id, flags=word)
                sealed += 1
                if what == "heard":
                    feed(q, frame)
        assert len(used) == sealed


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.booleans(), st.integers(0, 2)),
            st.tuples(st.just("deliver"), st.booleans(), st.integers(0, 10)),
            st.tuples(st.just("copy"), st.booleans(), st.integers(0, 10)),
            st.tuples(st.just("rekey"), st.booleans(), st.integers(0, 0)),
            st.tuples(st.just("wait"), st.booleans(), st.integers(0, 3)),
        ),
        max_size=150,
    )
)
def test_whatever_order_packets_come_in_each_is_delivered_once_at_most(steps: list[tuple[str, bool, int]]) -> None:
    """Reordering, copies, loss and rekeys of both ends: never a wrong plaintext, never twice, never stuck."""
    ends = [make(2, True), make(2, False, suite=CHACHA)]
    flying: list[list[tuple[int, bytes]]] = [[], []]
    delivered: list[set[int]] = [set(), set()]
    number, now = 0, 0.0
    for what, side, n in steps:
        p, q = ends[side], ends[not side]
        queue = flying[side]
        if what == "send":
            number += 1
            flying[side].append((number, seal(p, number.to_bytes(8, "big"), path_id=n)))
        elif what == "rekey":
            p.rekey(now)
        elif what == "wait":
            now += n
        elif queue:
            at = n % len(queue)
            sent, frame = queue[at] if what == "copy" else queue.pop(at)
            plaintext = feed(q, frame, now)
            if plaintext is not None:
                assert plaintext == sent.to_bytes(8, "big")
                assert sent not in delivered[side]
                delivered[side].add(sent)
    # The end that is ahead is heard by the other one, and then both are at its epoch.
    ahead = max((0, 1), key=lambda i: ends[i].epoch)
    if abs(ends[0].epoch - ends[1].epoch) <= 16:
        now += 5.0
        assert feed(ends[1 - ahead], seal(ends[ahead], b"fresh"), now) == b"fresh"
        assert ends[0].epoch == ends[1].epoch
        assert feed(ends[ahead], seal(ends[1 - ahead], b"answer"), now) == b"answer"
        assert not ends[ahead].unconfirmed
