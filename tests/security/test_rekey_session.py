"""Rekeying of live sessions (wire-native §16; surface §11.2, "Rekey"; Appendix A rows 24, 26, 29, 61), at the engine.

Every engine records the nonces it seals under and fails when one comes back (row 24).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.crypto import kdf
from phantom.errors import EpochExhaustedError, ValidationError
from phantom.transport.packet import flags
from phantom.transport.packet.header import Packet, decode, encode
from phantom.transport.session.events import Rekeyed
from phantom.transport.session.paths import DATAGRAM
from phantom.transport.session.states import Phase
from tests.transport.session.engines import (
    SESSION,
    Engine,
    Pair,
    framed,
    pattern,
    server_with_peer,
    split_frames,
)


def rekeyed(engine: Engine) -> list[tuple[int, bool]]:
    """The Rekeyed events since the last look."""
    found = []
    while (event := engine.conn.next_event()) is not None:
        if isinstance(event, Rekeyed):
            found.append((event.epoch, event.by_peer))
    return found


def epochs(pair: Pair) -> tuple[int, int]:
    return pair.client.conn.epoch, pair.server.conn.epoch


def established() -> Pair:
    pair = Pair()
    pair.run(0.0, 1.0)
    return pair


def test_rekey_of_an_idle_session_is_followed_and_confirmed_at_once() -> None:
    pair = established()
    assert pair.client.conn.rekey(1.0) == 1
    pair.move(1.0)
    assert epochs(pair) == (1, 1)
    assert not pair.client.protection.unconfirmed
    assert rekeyed(pair.client) == [(1, False)]
    assert rekeyed(pair.server) == [(1, True)]
    pair.server.conn.send_message(b"under the new keys")
    pair.move(1.0)
    assert pair.client.got == [b"under the new keys"]


def test_rekey_while_the_last_one_is_unconfirmed_waits() -> None:
    pair = established()
    assert pair.client.conn.rekey(1.0) == 1
    assert pair.client.conn.rekey(1.0) is None
    pair.move(1.0)
    assert pair.client.conn.rekey(1.0) == 2


def test_rekey_whose_first_packets_are_lost_is_followed_with_the_next() -> None:
    pair = established()
    pair.client.conn.rekey(1.0)
    lost = pair.client.emit(1.0)
    assert lost
    assert epochs(pair) == (1, 0)
    pair.server.conn.send_message(b"meanwhile")
    pair.client.take(pair.server.emit(1.1), 1.1)
    assert pair.client.read(1.1) == [b"meanwhile"]  # the previous receive state
    pair.client.conn.send_message(b"next")
    later = pair.client.emit(1.2)
    assert all(decode(frame).flags & flags.REKEY for frame in split_frames(later))
    pair.server.take(later, 1.2)
    assert pair.server.read(1.2) == [b"next"]
    assert epochs(pair) == (1, 1)


def test_rekey_at_both_ends_at_once_keeps_epoch_and_key_depth_equal() -> None:
    pair = established()
    for epoch in range(1, 20):
        now = 1.0 + epoch
        for engine in pair.ends:
            assert engine.conn.rekey(now) == epoch
            engine.conn.send_message(b"%d" % epoch)
        pair.move(now)
        assert epochs(pair) == (epoch, epoch)
        assert pair.client.protection._secret == pair.server.protection._secret
    assert pair.client.got == pair.server.got == [b"%d" % epoch for epoch in range(1, 20)]
    assert pair.client.counted() == pair.server.counted() == {}


@pytest.mark.parametrize("steps", [1, 2, 16, 200])
def test_rekey_that_is_forged_changes_nothing_but_a_counter(steps: int) -> None:
    engine, peer = server_with_peer()
    word = flags.DATA | flags.REKEY
    forged = encode(Packet(2, SESSION, 1, 0, word, random.Random(steps).randbytes(40), epoch=steps))
    peer.give(framed(forged))
    assert engine.conn.epoch == 0
    assert rekeyed(engine) == []
    assert engine.counted() == {"decrypt_failed": 1}
    peer.give(peer.data(0, b"\0\0\0\4real"))
    assert engine.read(0.0) == [b"real"]


def test_rekey_at_the_last_epoch_is_refused_and_the_session_lives() -> None:
    pair = Pair(guards={"max_epoch": 3})
    pair.run(0.0, 1.0)
    for epoch in (1, 2, 3):
        assert pair.client.conn.rekey(float(epoch)) == epoch
        pair.move(float(epoch))
    with pytest.raises(EpochExhaustedError):
        pair.client.conn.rekey(4.0)
    assert pair.client.conn.phase is Phase.ESTABLISHED
    pair.client.conn.send_message(b"still here")
    pair.move(4.0)
    assert pair.server.got == [b"still here"]
    assert epochs(pair) == (3, 3)


def test_rekey_that_must_come_at_the_last_epoch_closes_the_session() -> None:
    pair = Pair(guards={"max_epoch": 1, "soft_seals": 30})
    pair.run(0.0, 1.0)
    now = 1.0
    while not pair.client.conn.phase.over and now < 200:
        pair.client.conn.send_message(b"x")
        pair.move(now)
        now += 1.0
    assert isinstance(pair.client.conn.error, EpochExhaustedError)
    assert epochs(pair) == (1, 1)


# --- row 29: rekey loses nothing --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_row29_rekeying_under_load_and_reordering_loses_nothing(seed: int, spread: int) -> None:
    """Both ends talk and rekey; packets come in any order within ``spread`` of them. Byte-exact, and no timeout."""
    rng = random.Random(seed)
    pair = Pair(profile=DATAGRAM, bulk_chunk=1024)
    now = 0.0
    pair.move(now)
    sent: dict[Engine, list[bytes]] = {engine: [] for engine in pair.ends}
    wires: dict[Engine, list[bytes]] = {engine: [] for engine in pair.ends}  # on the way from each
    for turn in range(30):
        now += 0.01
        for engine in pair.ends:
            if rng.random() < 0.5:
                text = pattern(rng.randrange(3000), turn)
                sent[engine].append(text)
                engine.conn.send_message(text)
            flying = {decode(frame).epoch for wire in wires.values() for frame in wire}
            if rng.random() < 0.3 and flying <= {engine.conn.epoch}:  # one step at a time: two would be one too many
                engine.conn.rekey(now)
            wires[engine] += split_frames(engine.emit(now))
        for one, other in (pair.ends, pair.ends[::-1]):
            wire = wires[one]
            while len(wire) > (spread if turn < 29 else 0):
                other.take(framed(wire.pop(rng.randrange(min(spread, len(wire))))), now)
            other.read(now)
    for _ in range(4):
        now += 0.03
        for engine in pair.ends:
            engine.tick(now)
        pair.move(now)
    assert pair.server.got == sent[pair.client]
    assert pair.client.got == sent[pair.server]
    assert [engine.conn.unacknowledged for engine in pair.ends] == [0, 0]
    assert [engine.conn.path.estimator.backoff for engine in pair.ends] == [0, 0]
    assert pair.client.protection._secret == pair.server.protection._secret


# --- row 61: the exporter ---------------------------------------------------------------------------------------------

ROOT = b"\x52" * 32


def test_row61_the_exporter_agrees_over_rekeys_and_separates() -> None:
    pair = Pair(root=ROOT)
    pair.run(0.0, 1.0)
    conn = pair.client.conn
    first = conn.export(b"test", 32)
    assert first == pair.server.conn.export(b"test", 32) == kdf.export(ROOT, b"test", 32)
    conn.rekey(1.0)
    pair.move(1.0)
    assert conn.export(b"test", 32) == pair.server.conn.export(b"test", 32) == first
    others = {conn.export(b"tes", 32), conn.export(b"test\0", 32), conn.export(b"", 32), conn.export(b"Test", 32)}
    assert len(others | {first}) == 5
    assert Engine(True, root=b"\x53" * 32).conn.export(b"test", 32) != first
    assert bytes(kdf.auth_context(ROOT)) not in {
        conn.export(name, 32) for name in (b"", b"phantom-client-auth-v1", b"client-auth")
    }


@pytest.mark.parametrize(("name", "length"), [(bytes(256), 32), (b"x", 0), (b"x", 8161)])
def test_row61_the_exporter_refuses_what_has_no_meaning(name: bytes, length: int) -> None:
    with pytest.raises(ValidationError):
        Engine(True, root=ROOT).conn.export(name, length)


def test_row61_the_root_is_wiped_with_the_session() -> None:
    engine = Engine(True, root=ROOT)
    root = engine.conn.root
    assert root is not None
    assert bytes(root) == ROOT
    engine.conn.path_lost(0.0)
    assert bytes(root) == bytes(32)
