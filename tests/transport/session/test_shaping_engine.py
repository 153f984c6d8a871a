"""Bundles, padding, cover traffic, jitter and the observer in the engine (wire-native §14.7, §15.4, §15.5)."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.transport.packet import flags, frames
from phantom.transport.session.paths import DATAGRAM
from tests.transport.session.engines import (
    Engine,
    Pair,
    client_with_peer,
    framed,
    message,
    pattern,
    server_with_peer,
    split_frames,
    words,
)
from tests.transport.session.test_stream_life import drain, opened

KiB = limits.KiB


# --- bundles ---------------------------------------------------------------------------------------------------------


def test_a_lone_chunk_leaves_at_once_when_nothing_is_in_flight() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    peer.give(peer.sack((0, 0), stream_id=3))
    for chunk in (b"one", b"two"):  # both in one turn of the program
        engine.conn.write_unreliable(stream, chunk, 0.0)
    (seen,) = peer.see()
    assert (seen.word, seen.plaintext) == (flags.COALESCED_WORD, frames.encode_coalesced([b"one", b"two"]))
    engine.conn.write_unreliable(stream, b"three", 0.0)
    (seen,) = peer.see()
    assert (seen.word, seen.plaintext) == (flags.UNRELIABLE_WORD, b"three")


def test_a_bundle_waits_half_a_millisecond_at_most_while_something_is_in_flight() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()  # the announcement is in flight
    engine.conn.write_unreliable(stream, b"one", 1.0)
    assert peer.see(1.0) == []
    assert engine.conn.urgent
    assert engine.conn.next_timer() == pytest.approx(1.0005)
    engine.conn.write_unreliable(stream, b"two", 1.0004)
    engine.tick(1.0005)
    (seen,) = peer.see(1.0005)
    assert seen.plaintext == frames.encode_coalesced([b"one", b"two"])
    assert not engine.conn.urgent


def test_a_bundle_leaves_when_the_last_thing_in_flight_is_acknowledged() -> None:
    engine, peer = client_with_peer()
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    engine.conn.write_unreliable(stream, b"one", 0.0)
    peer.give(peer.sack((0, 0), stream_id=3))
    assert words(peer.see()) == [flags.UNRELIABLE_WORD]


@pytest.mark.parametrize(("size", "count"), [(0, 256), (400, 3)])
def test_a_full_bundle_leaves_at_once(size: int, count: int) -> None:
    engine, peer = client_with_peer(profile=DATAGRAM)
    stream = engine.conn.open_stream(0, 0.0)
    peer.see()
    for i in range(count):
        if i < count - 1 or size:
            assert not [p for p in peer.see() if p.word & flags.UNRELIABLE] or i == count - 1
        engine.conn.write_unreliable(stream, bytes(max(size, 1)), 0.0)
    seen = [p for p in peer.see() if p.word & flags.UNRELIABLE]
    assert seen
    assert all(len(p.plaintext) <= limits.BUNDLE_UDP for p in seen)


def test_a_chunk_of_the_largest_size_is_a_packet_of_its_own() -> None:
    engine, _ = client_with_peer(profile=DATAGRAM)
    stream = engine.conn.open_stream(0, 0.0)
    assert stream.max_unreliable_size == 1130
    engine.conn.write_unreliable(stream, bytes(1130), 0.0)
    engine.conn.write_unreliable(stream, b"x", 0.0)
    frames_seen = split_frames(engine.emit(0.0))
    assert max(map(len, frames_seen)) == 1199


# --- padding, cover, jitter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [None, DATAGRAM])
def test_pade_hides_sizes_and_changes_nothing_else(profile: object) -> None:
    both = {"padding": "pade"} | ({} if profile is None else {"profile": profile})
    pair = Pair(**both)
    stream, accepted = opened(pair)
    sizes = [0, 1, 17, 700, 1100, 40_000, 300_000]
    for size in sizes:
        pair.client.conn.send_message(pattern(size))
    pair.client.conn.write(stream, pattern(200 * KiB))
    pair.client.conn.write_unreliable(stream, b"unreliable", 0.0)
    got = b""
    for step in range(200):
        now = pair.run(step * 0.05, step * 0.05 + 0.05)
        got += drain(pair.server, accepted, now)
    assert pair.server.got == [pattern(size) for size in sizes]
    assert len(got) == 200 * KiB + 10
    lengths = {len(frame) for data in pair.wire for frame in split_frames(data)}
    shaped = pair.client.conn.path.profile.shaped_wire
    assert all(length == frames.pade(length) or length >= shaped for length in lengths)
    assert not any(engine.counted() for engine in pair.ends)


def test_cover_leaves_when_nothing_else_did_and_is_dropped() -> None:
    pair = Pair(client={"cover_interval": 0.5, "keepalive_interval": None}, server={"keepalive_interval": None})
    pair.move(0.0)
    assert pair.client.conn.next_timer() == 0.5
    pair.client.tick(0.5)
    data = pair.client.emit(0.5)
    assert len(split_frames(data)) == 1
    pair.server.take(data, 0.5)
    assert pair.server.counted() == {}
    assert pair.server.emit(0.5) == b""
    assert pair.client.conn.next_timer() == 1.0
    pair.client.conn.send_message(b"something else")
    pair.move(0.9)
    assert pair.client.conn.next_timer() is not None
    pair.client.tick(1.0)
    assert pair.client.emit(1.0) == b""


def test_cover_is_padded() -> None:
    engine, peer = client_with_peer(cover_interval=0.5)
    engine.conn.handle_timer(0.5)
    (frame,) = split_frames(engine.emit(0.5))
    (seen,) = peer.open(framed(frame), 0.5)
    assert (seen.word, seen.stream_id) == (flags.COVER_WORD, 0)
    assert frames.unpad(seen.plaintext, 0, len(seen.plaintext)) == 0


def test_jitter_delays_and_never_reorders() -> None:
    pair = Pair(jitter=0.01)
    pair.run(0.0, 0.1)
    for number in range(50):
        pair.client.conn.send_message(pattern(2 * KiB, number))
    assert pair.client.conn.wants_to_send
    assert pair.client.conn.urgent
    pair.run(0.1, 2.0)
    assert pair.server.got == [pattern(2 * KiB, number) for number in range(50)]
    pair.client.conn.close(0, 2.0)
    pair.run(2.0, 4.0)
    assert pair.server.conn.phase.over
    assert pair.server.conn.peer_code == 0


# --- the observer ----------------------------------------------------------------------------------------------------


class Log:
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: self.calls.append((name, *arguments))

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


def watched(engine: Engine) -> Log:
    log = Log()
    engine.conn.observer = log  # type: ignore[assignment]
    return log


def test_the_observer_hears_of_every_packet_sent_and_received() -> None:
    pair = Pair()
    logs = [watched(engine) for engine in pair.ends]
    stream, _ = opened(pair)
    pair.client.conn.send_message(b"hello")
    pair.client.conn.write(stream, b"12345678")
    pair.move(0.0)
    sent, received = logs[0].of("packet_sent"), logs[1].of("packet_received")
    assert len(sent) == pair.client.conn.stats.packets_sent
    assert [call[1:8] for call in sent] == [call[1:8] for call in received]
    data = [call for call in sent if call[3] == flags.DATA]
    assert (data[-1][4], data[-1][5], data[-1][6], data[-1][8]) in {(3, 1, 8, 1), (1, 0, 9, 1)}
    assert logs[0].of("stream_changed")[0][1:] == (3, "idle", "open")
    pair.run(0.0, 0.1)
    assert logs[0].of("packets_acked")
    assert logs[0].of("metrics_updated")


def test_the_observer_hears_of_drops_losses_keys_and_states() -> None:
    engine, peer = server_with_peer()
    log = watched(engine)
    frame = bytearray(peer.data(0, message(b"x")))
    frame[-9] ^= 1
    peer.give(bytes(frame))
    assert log.of("packet_dropped") == [(0.0, "decrypt_failed")]
    engine.conn.send_message(b"lost")
    peer.see()
    engine.tick(3.0)
    peer.see(3.0)
    assert log.of("packet_lost") == [(3.0, 1, 0, "pto_expired")]
    assert log.of("packet_sent")[-1][8] == 2
    engine.conn.rekey(3.0)
    assert log.of("key_updated") == [(3.0, 1, False)]
    engine.conn.close(0, 3.0)
    assert log.of("state_changed")[0][1:3] == ("established", "closing")
    peer.give(peer.data(0, message(b"split"))[:20])
    assert engine.rest
