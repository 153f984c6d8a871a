"""Rekeying against loss, forgery and each other (wire-native §16; surface §11.2, "Rekey"; Appendix A rows 24 to 30)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.crypto.kdf import next_traffic_secret
from phantom.errors import EpochExhaustedError
from phantom.transport.packet import flags, protection
from phantom.transport.packet.header import Packet, decode, encode
from tests.transport.packet.support import SECRET, SESSION, counts, feed, make, pair, seal, state


def secret_of(epoch: int) -> bytes:
    secret = bytearray(SECRET)
    for _ in range(epoch):
        secret = next_traffic_secret(secret)
    return bytes(secret)


def talking(**options: Any) -> tuple[Any, Any]:
    """Both ends have heard each other."""
    p, q = pair(**options)
    assert feed(q, seal(p)) is not None
    assert feed(p, seal(q)) is not None
    return p, q


def forged(epoch: int, word: int = flags.DATA | flags.REKEY) -> bytes:
    return encode(Packet(2, SESSION, 1, 9, word, random.Random(epoch).randbytes(30), epoch=epoch))


# --- surface §11.2, the rekey group -----------------------------------------------------------------------------------


def test_rekey_the_receiver_follows_one_authentic_step() -> None:
    p, q = talking()
    p.rekey(0.0)
    assert feed(q, seal(p)) is not None
    assert (q.epoch, q.rekeys_peer, q.unconfirmed) == (1, 1, False)
    assert p._secret == q._secret == secret_of(1)


@pytest.mark.parametrize("steps", [1, 2, 16])
def test_rekey_a_forged_one_commits_nothing(steps: int) -> None:
    p, q = talking()
    before = state(q)
    for now in range(20):
        assert feed(q, forged(steps), float(now)) is None
        assert state(q) == before
    assert counts(q) == {"decrypt_failed": 20}
    assert feed(q, seal(p), 20.0) is not None
    assert feed(p, seal(q), 20.0) is not None


def test_rekey_a_flipped_bit_of_a_real_one_commits_nothing() -> None:
    p, q = talking()
    p.rekey(0.0)
    frame = seal(p)
    before = state(q)
    for at in range(45 + 4, len(frame) - 4):
        changed = bytearray(frame)
        changed[at] ^= 1
        assert feed(q, bytes(changed)) is None
        assert state(q) == before
    assert feed(q, frame) is not None
    assert q.epoch == 1


def test_rekey_the_sender_repeats_the_flag_until_the_peer_is_seen_at_the_new_epoch() -> None:
    p, q = talking()
    stale = seal(q)
    p.rekey(0.0)
    assert all(decode(seal(p)).flags & flags.REKEY for _ in range(100))
    assert feed(p, stale) is not None  # from before: proves nothing
    assert decode(seal(p)).flags & flags.REKEY
    assert feed(q, seal(p)) is not None
    assert feed(p, seal(q)) is not None
    assert not decode(seal(p)).flags & flags.REKEY
    assert not decode(seal(q)).flags & flags.REKEY


@pytest.mark.parametrize("lost", [1, 10, 2000])
def test_rekey_the_loss_of_the_first_packets_survives(lost: int) -> None:
    p, q = talking()
    p.rekey(0.0)
    for _ in range(lost):
        seal(p)
    assert feed(q, seal(p)) is not None
    assert q.epoch == 1


def test_rekey_both_directions_are_readable_while_the_signal_is_lost() -> None:
    p, q = talking()
    p.rekey(0.0)
    seal(p)  # lost
    for now in (1.0, 100.0, 36_000.0):  # unconfirmed, the previous state does not expire (§16.5)
        assert feed(p, seal(q), now) is not None
    assert feed(q, seal(p), 36_001.0) is not None
    assert feed(p, seal(q), 36_001.0) is not None
    late = seal(make(2, False))  # epoch 0, sequence 0: an old packet
    assert feed(p, late, 36_001.1) is None
    assert counts(p)["replay_rejected"] == 1, "within the grace the old windows are still there"
    assert feed(p, late, 36_003.5) is None
    assert counts(p)["decrypt_failed"] == 1


@pytest.mark.parametrize(
    ("threshold", "sends"),
    [({"soft_seals": 8}, 8), ({"soft_bytes": 64}, 8), ({"sequence_watermark": 8}, 8)],
    ids=["seals", "bytes", "sequence"],
)
def test_rekey_a_threshold_triggers_one_and_it_starts_again_from_zero(threshold: dict[str, int], sends: int) -> None:
    p, q = pair(**threshold)
    for epoch in range(4):
        for _ in range(sends):
            frame = seal(p, bytes(8))
            assert decode(frame).epoch == p.epoch == epoch
            assert feed(q, frame) is not None
            assert feed(p, seal(q, b"")) is not None  # confirms
        assert p.rekeys_local + p.rekeys_peer == epoch
    assert p.epoch == q.epoch == 3


def test_rekey_a_voluntary_one_waits_for_the_last_to_be_confirmed() -> None:
    p, q = pair(soft_seals=4)
    frames = [seal(p) for _ in range(20)]
    assert {decode(frame).epoch for frame in frames} == {0, 1}
    for frame in frames:
        assert feed(q, frame) is not None
    assert feed(p, seal(q)) is not None
    assert decode(seal(p)).epoch == 2


def test_rekey_concurrent_ones_keep_epoch_and_key_depth_equal() -> None:
    p, q = talking()
    for epoch in range(1, 40):
        p.rekey(0.0)
        q.rekey(0.0)
        crossing = seal(p), seal(q)
        assert feed(q, crossing[0]) is not None
        assert feed(p, crossing[1]) is not None
        assert p.epoch == q.epoch == epoch
        assert p._secret == q._secret == secret_of(epoch)
        assert not p.unconfirmed
        assert not q.unconfirmed


def test_rekey_one_end_a_step_ahead_of_a_concurrent_one() -> None:
    p, q = talking(sequence_watermark=4)
    frame = [seal(p) for _ in range(8)][-1]  # forced twice, unheard
    q.rekey(0.0)
    answer = seal(q)
    assert (p.epoch, q.epoch) == (2, 1)
    assert feed(p, answer) is not None, "the previous state opens it"
    assert p.unconfirmed
    assert feed(q, frame) is not None
    assert (q.epoch, q.unconfirmed) == (2, False)
    assert feed(p, seal(q)) is not None
    assert p._secret == q._secret == secret_of(2)


def test_rekey_epoch_255_fails_closed() -> None:
    p, q = talking(soft_seals=2)
    for epoch in range(1, 256):
        p.rekey(0.0)
        assert feed(q, seal(p)) is not None
        assert feed(p, seal(q)) is not None
        assert (p.epoch, q.epoch) == (epoch, epoch)
    before = state(p)
    with pytest.raises(EpochExhaustedError):
        p.rekey(0.0)
    assert state(p) == before
    assert feed(q, seal(p)) is not None
    with pytest.raises(EpochExhaustedError):
        seal(p)  # the third under this key
    assert p.epoch == 255
    assert feed(q, forged(255)) is None


def test_rekey_the_previous_state_is_never_sealed_under_and_one_alone_is_kept() -> None:
    p, q = talking()
    stragglers = []
    for epoch in range(1, 5):
        stragglers.append(seal(p))
        p.rekey(0.0)
        frame = seal(p)
        assert decode(frame).epoch == epoch
        assert feed(q, frame) is not None
        answer = seal(q)
        assert decode(answer).epoch == epoch
        assert feed(p, answer) is not None
        assert [feed(q, old) is not None for old in stragglers] == [False] * (epoch - 1) + [True]
        stragglers[-1] = seal(make(2, True))  # of epoch 0, for the next rounds


def test_rekey_forced_catch_up_costs_ten_derivations_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = talking()
    derived: list[float] = []
    now = 0.0

    def counting(secret: bytearray) -> bytearray:
        derived.append(now)
        return next_traffic_secret(secret)

    monkeypatch.setattr(protection, "next_traffic_secret", counting)
    for i in range(3000):
        now = i / 1000
        feed(q, forged(2), now)
    assert len(derived) == 3 * 10 * 2  # ten candidates of two steps in each of three seconds
    assert q.epoch == 0
    assert feed(q, seal(p), now) is not None


# --- Appendix A rows 24 and 29, as a property -------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("send", "send", "send", "deliver", "deliver", "copy", "lose", "rekey")),
        st.booleans(),
        st.integers(0, 7),
    ),
    max_size=150,
)


@given(STEPS)
def test_row29_rekeying_loses_nothing_but_what_two_epochs_ago_was_sent(steps: list[tuple[str, bool, int]]) -> None:
    """Any loss, order and number of copies; both ends rekey when they like. What is genuine opens unless it is a copy,
    or was sent under a state that the receiver no longer keeps; never a nonce twice; equal epochs have equal secrets.
    """
    ends = pair(sequence_watermark=40)
    wires: tuple[list[bytes], list[bytes]] = ([], [])  # towards each end
    opened: set[bytes] = set()
    nonces: set[tuple[bool, int, int]] = set()
    for what, side, at in steps:
        sender, receiver, wire = ends[side], ends[not side], wires[not side]
        if what == "rekey":
            sender.rekey(0.0)
        elif what == "send":
            frame = seal(sender, bytes((side, at)))
            packet = decode(frame)
            nonce = (side, packet.epoch, packet.sequence)
            assert nonce not in nonces
            nonces.add(nonce)
            assert bool(packet.flags & flags.REKEY) == sender.unconfirmed
            wire.append(frame)
        elif wire:
            frame = wire[at % len(wire)]
            if what != "copy":
                wire.remove(frame)
            if what == "lose":
                continue
            epoch = decode(frame).epoch
            kept = receiver._previous is not None and receiver._previous.epoch == epoch
            readable = frame not in opened and (epoch >= receiver.epoch or kept)
            assert (feed(receiver, frame) is not None) == readable
            opened.add(frame)
            assert receiver.epoch >= epoch
        if ends[0].epoch == ends[1].epoch:
            assert ends[0]._secret == ends[1]._secret
    assert sum(counts(end).get("malformed", 0) for end in ends) == 0
