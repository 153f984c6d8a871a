"""ProtectionV2: wire images, guards, rekey, suite lock-in. The numbered invariants are in test_invariants."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phantom.crypto.kdf import next_traffic_secret
from phantom.errors import (
    CipherSuiteUnavailableError,
    ConnectionClosedError,
    EpochExhaustedError,
    InternalError,
    NonceExhaustedError,
)
from phantom.transport.packet import flags, protection
from phantom.transport.packet.frames import pad
from phantom.transport.packet.header import decode, encode
from phantom.transport.packet.protection import PacketProtection, nonce_v1, nonce_v2
from tests.transport.packet.support import AES, CHACHA, SECRET, counts, feed, make, pair, seal, state

# --- wire images -----------------------------------------------------------------------------------------------------


def test_known_answers_of_appendix_b() -> None:
    p = make(2, True)
    frame = seal(p, b"\0\0\0\0ping")
    assert frame[49:-4].hex() == "5867b2b0a54f677e48621c1291c3c54ec3f609d2cc654e3c"
    assert hashlib.sha256(frame).hexdigest() == "63d50a8f5cf96577193113cc960a8609aa059abb10e8c92af163df0a6ae41612"
    assert len(frame) == 77
    p.rekey(0.0)
    frame = seal(p, b"\0\0\0\1pong")
    assert frame[39:41].hex() == "0121"
    assert frame[49:-4].hex() == "5ceb8b894ffee830e6bf0c91d08951e44ef553cf7485c0ca"
    frame = seal(make(2, True, suite=CHACHA), b"\0\0\0\0ping")
    assert frame[49:-4].hex() == "732bd2a69b39ce499f72835914e0a253ad5a33b0cd9922ed"
    sack = bytes.fromhex("0000000000000000000100000000")
    frame = seal(make(2, False), sack, flags=flags.ACK_WORD)
    assert frame[49:-4].hex() == "fe85c0a3281435adf2d834a38eddaf8a6af256a037a76d7638fa43da8521"


def test_the_attach_datagram_of_appendix_b() -> None:
    plaintext = b"\xaa" * 32 + bytes(1096) + (1096).to_bytes(2, "big")
    frame = seal(make(2, True), plaintext, stream_id=0, flags=flags.ATTACH_UDP, path_id=1)
    assert len(frame) == 1199
    assert hashlib.sha256(frame).hexdigest() == "b1c2374ad995a753af24790ef56f4b13edc98b2c4b8b76ce89d79b704eaf1f6d"


def test_the_nonces_of_section_11() -> None:
    assert nonce_v1(0x01020304, 5).hex() == "010203040000000000000005"
    assert nonce_v2(0x01020304, 0xFF, 0xFFFE, 0xFFFFFFFD, 0xFC).hex() == "01020304fffffefffffffdfc"


@pytest.mark.parametrize("suite", [AES, CHACHA])
@pytest.mark.parametrize("initiator", [True, False])
def test_every_field_arrives(initiator: bool, suite: Any) -> None:
    p, q = make(2, initiator, suite=suite), make(2, not initiator)
    for i, (stream, word, path, delay) in enumerate(
        [
            (1, flags.DATA, 0, 0),
            (65535, flags.ACK_WORD, 254, 321),
            (0, 0x8000 | flags.PING, 255, 0),
            (1, flags.DATA, 3, 0),
        ]
    ):
        frame = seal(p, bytes([i]) * i, stream_id=stream, flags=word, path_id=path, ack_delay=delay)
        assert feed(q, frame, path_of_leg=77) == bytes([i]) * i
        assert (q.stream_id, q.path_id, q.ack_delay, q.sequence, q.fresh) == (stream, path, delay, int(i == 3), True)
        assert decode(frame).flags == word
    assert counts(q) == {}


def test_sealing_in_place_gives_the_same_bytes() -> None:
    p, q = make(2, True), make(2, True)
    buf = bytearray(200)
    view = memoryview(buf)
    buf[58:62] = b"data"
    end = p.seal(buf, view, 9, 1, flags.DATA, 0, view[58:62], 4)
    assert bytes(buf[9:end]) == seal(q, b"data")


def test_the_ack_delay_saturates() -> None:
    p, q = pair()
    feed(q, seal(p, flags=flags.ACK_WORD, ack_delay=70_000))
    assert q.ack_delay == 65535


def test_capabilities() -> None:
    p: PacketProtection = make(2, True)
    assert (p.version, p.header_len, p.overhead) == (2, 45, 69)
    assert p.supports_rekey
    assert p.supports_paths
    assert (p.epoch, p.send_suite, p.receive_suite, p.unconfirmed) == (0, AES, None, False)


def test_extensions_are_authenticated_and_ignored() -> None:
    # No sender of ours makes them, so the packet is sealed by hand.
    from phantom.crypto.aead import new_aead
    from phantom.crypto.kdf import traffic_keys
    from phantom.crypto.providers import get_provider
    from phantom.transport.packet.header import Packet, encode_header
    from tests.transport.packet.support import SESSION

    keys = traffic_keys(SECRET, AES)
    packet = Packet(2, SESSION, 1, 0, flags.DATA, bytes(20), extensions=b"later")
    nonce = nonce_v2(int.from_bytes(keys.prefix, "big"), 0, 1, 0, 0)
    aead = new_aead(AES, keys.send, get_provider())
    payload = aead.encrypt(nonce, b"data", encode_header(packet) + b"later")
    frame = encode(Packet(2, SESSION, 1, 0, flags.DATA, payload, extensions=b"later"))
    q = make(2, False)
    assert feed(q, frame[:-1] + b"R") is None
    assert feed(q, frame) == b"data"
    assert counts(q) == {"decrypt_failed": 1}


# --- guards (§11.6) --------------------------------------------------------------------------------------------------


def test_the_stream_bound_forces_a_rekey() -> None:
    p = make(2, True, max_replay_streams=3)
    for stream in (1, 3, 5, 3, 1):
        seal(p, stream_id=stream)
    assert p.epoch == 0
    frame = seal(p, stream_id=7)
    assert (p.epoch, decode(frame).epoch, decode(frame).sequence) == (1, 1, 0)


def test_the_bound_on_pairs_forces_a_rekey() -> None:
    p = make(2, True, max_replay_windows=2)
    seal(p, path_id=0)
    seal(p, path_id=1)
    seal(p, path_id=0)
    assert p.epoch == 0
    seal(p, path_id=2)
    assert p.epoch == 1


def test_the_bounds_are_those_of_the_receiver() -> None:
    """A sender that has come to its bound is heard all the same."""
    p, q = pair(max_replay_streams=2, max_replay_windows=3)
    for stream, path in [(1, 0), (1, 1), (3, 0), (3, 1), (5, 0), (7, 0), (9, 0)]:
        assert feed(q, seal(p, stream_id=stream, path_id=path)) is not None
    assert counts(q) == {}


def test_seals_beyond_the_soft_limit_rekey_once_confirmed() -> None:
    p, q = pair(soft_seals=3)
    frames = [seal(p) for _ in range(4)]
    assert [decode(f).epoch for f in frames] == [0, 0, 0, 1]
    more = [seal(p) for _ in range(10)]
    assert {decode(f).epoch for f in more} == {1}, "a voluntary rekey does not start while unconfirmed"
    for frame in frames + more:
        assert feed(q, frame) is not None
    feed(p, seal(q))
    assert not p.unconfirmed
    assert decode(seal(p)).epoch == 2


def test_bytes_beyond_the_soft_limit_rekey() -> None:
    p, q = pair(soft_bytes=20)
    assert [decode(seal(p, bytes(10))).epoch for _ in range(3)] == [0, 0, 1]
    feed(p, seal(q, b"x"))
    assert p.unconfirmed, "a packet of the old epoch confirms nothing"


def test_the_last_epoch_ends_at_the_soft_limit() -> None:
    p = make(2, True, soft_seals=2, max_epoch=0)
    seal(p)
    seal(p)
    before = state(p)
    for _ in range(3):
        with pytest.raises(EpochExhaustedError):
            seal(p)
    assert state(p) == before


def test_the_hard_limit_holds_while_a_rekey_waits_for_confirmation() -> None:
    p = make(2, True, soft_seals=1, max_invocations=4)
    seal(p)
    for _ in range(4):
        seal(p)
    with pytest.raises(NonceExhaustedError):
        seal(p)


def test_opening_ends_at_the_hard_limit() -> None:
    p, q = make(2, True), make(2, False, max_invocations=3)
    for _ in range(3):
        assert feed(q, seal(p)) is not None
    with pytest.raises(NonceExhaustedError):
        feed(q, seal(p))


def test_the_hard_limit_holds_before_lock_in_too() -> None:
    q = make(2, False, max_invocations=3)
    garbage = seal(make(2, True, secret=b"?" * 32))
    assert feed(q, garbage) is None
    with pytest.raises(NonceExhaustedError):
        feed(q, garbage)


def test_failed_opens_are_counted_until_they_are_too_many() -> None:
    q = make(2, False, max_forgeries=3)
    garbage = seal(make(2, True, secret=b"?" * 32))
    for n in range(3):
        assert not q.forgeries_exceeded
        assert q.failed_opens == n
        feed(q, garbage)
    assert q.forgeries_exceeded
    assert counts(q) == {"decrypt_failed": 3}


# --- rekey (§16) -----------------------------------------------------------------------------------------------------


def test_a_local_rekey() -> None:
    p, q = pair()
    feed(q, seal(p))
    old = p._secret
    p.rekey(0.0)
    assert (p.epoch, p.unconfirmed, p.rekeys_local, p.rekeys_peer) == (1, True, 1, 0)
    assert bytes(old) == bytes(32)
    frame = seal(p)
    assert (decode(frame).sequence, decode(frame).flags) == (0, flags.DATA | flags.REKEY)
    assert feed(q, frame) is not None
    assert (q.epoch, q.unconfirmed, q.rekeys_local, q.rekeys_peer) == (1, False, 0, 1)
    assert feed(p, seal(q)) is not None
    assert not p.unconfirmed
    assert decode(seal(p)).flags == flags.DATA


def test_a_rekey_asked_for_while_unconfirmed_does_nothing() -> None:
    p = make(2, True)
    p.rekey(0.0)
    before = state(p)
    p.rekey(0.0)
    assert state(p) == before


def test_a_forced_rekey_may_start_while_unconfirmed() -> None:
    p, q = pair(sequence_watermark=2)
    frames = [seal(p) for _ in range(6)]
    assert [decode(f).epoch for f in frames] == [0, 0, 1, 1, 2, 2]
    assert [feed(q, f) is not None for f in frames] == [True] * 6
    assert q.rekeys_peer == 2


def test_both_ends_rekey_at_once() -> None:
    p, q = pair()
    p.rekey(0.0)
    q.rekey(0.0)
    crossing = seal(p), seal(q)
    assert feed(q, crossing[0]) is not None
    assert feed(p, crossing[1]) is not None
    assert (p.epoch, q.epoch, p.unconfirmed, q.unconfirmed) == (1, 1, False, False)


def test_the_previous_state_lives_for_three_srtt() -> None:
    for srtt, grace in [(0.01, 0.2), (0.3, 0.9), (5.0, 2.0)]:
        p, q = pair()
        q.set_srtt(srtt)
        feed(q, seal(p))
        late = [seal(p) for _ in range(3)]
        p.rekey(0.0)
        assert feed(q, seal(p), 10.0) is not None
        assert feed(q, late[0], 10.0 + grace - 0.001) is not None
        assert feed(q, seal(p), 10.0 + grace - 0.001) is not None, "does not prolong it"
        assert feed(q, late[1], 10.0 + grace) is None
        assert counts(q) == {"decrypt_failed": 1}
        assert q._previous is None


def test_the_grace_ends_with_the_next_packet_or_tick() -> None:
    for end in ("packet", "tick"):
        p, q = pair()
        feed(q, seal(p))
        p.rekey(0.0)
        feed(q, seal(p), 1.0)
        q.expire(1.1)
        assert q._previous is not None
        if end == "packet":
            feed(q, seal(p), 9.0)
        else:
            q.expire(9.0)
        assert q._previous is None
        assert not q._transition


def test_the_grace_runs_for_the_end_that_rekeyed_from_the_confirmation_on() -> None:
    p, q = pair()
    feed(p, seal(q))
    late = [seal(q) for _ in range(3)]
    p.rekey(0.0)
    feed(q, seal(p))
    assert feed(p, late[0], 7200.0) is not None, "while unconfirmed it does not expire"
    p.expire(7200.0)
    assert feed(p, seal(q), 7200.0) is not None
    assert feed(p, late[1], 7200.1) is not None
    assert feed(p, late[2], 7203.0) is None


def test_a_rekey_during_the_grace_keeps_one_previous_state_only() -> None:
    p, q = pair()
    feed(q, seal(p))
    oldest = seal(p)
    p.rekey(0.0)
    feed(q, seal(p))
    middle = seal(p)
    feed(p, seal(q))
    p.rekey(0.0)
    feed(q, seal(p))
    assert feed(q, oldest) is None
    assert feed(q, middle) is not None


def test_a_replayed_packet_of_the_previous_epoch_meets_its_old_window() -> None:
    p, q = pair()
    first = seal(p)
    feed(q, first)
    p.rekey(0.0)
    feed(q, seal(p))
    assert feed(q, first) is None
    assert counts(q) == {"replay_rejected": 1}


def test_what_a_jump_skipped_is_never_opened() -> None:
    p, q = pair(sequence_watermark=1)
    frames = [seal(p) for _ in range(6)]
    assert feed(q, frames[0]) is not None
    assert feed(q, frames[5]) is not None
    assert q.epoch == 5
    assert feed(q, frames[3]) is None
    assert q.rekeys_peer == 1


def test_the_bound_on_windows_holds_for_the_first_packet_of_an_epoch_too() -> None:
    p, q = make(2, True), make(2, False, max_replay_windows=0)
    p.rekey(0.0)
    assert feed(q, seal(p)) is None
    assert (q.epoch, counts(q)) == (1, {"replay_rejected": 1})


# --- suites (§11.7) --------------------------------------------------------------------------------------------------


def test_each_direction_locks_its_suite() -> None:
    p, q = make(2, True, suite=AES), make(2, False, suite=CHACHA)
    assert feed(q, seal(p, b"\0\0\0\0one")) == b"\0\0\0\0one"
    assert feed(p, seal(q, b"\0\0\0\0two")) == b"\0\0\0\0two"
    assert (p.receive_suite, q.receive_suite) == (CHACHA, AES)
    p.rekey(0.0)
    assert feed(q, seal(p)) is not None
    assert feed(p, seal(q)) is not None


def test_after_lock_in_the_other_suite_does_not_open() -> None:
    q = make(2, False)
    assert feed(q, seal(make(2, True, suite=CHACHA))) is not None
    other = make(2, True, suite=AES)
    seal(other)
    before = state(q)
    assert feed(q, seal(other)) is None
    assert state(q) == before


def test_the_first_packet_may_be_of_a_later_epoch_or_of_the_previous_one() -> None:
    p, q = make(2, True, suite=CHACHA), make(2, False)
    p.rekey(0.0)
    assert feed(q, seal(p, b"forward")) == b"forward"
    p, q = make(2, True, suite=CHACHA), make(2, False)
    old = seal(p, b"late"), seal(p, b"later")
    q.rekey(0.0)
    assert feed(q, old[0]) == b"late"
    assert feed(q, old[1]) == b"later"
    feed(p, seal(q))
    assert feed(q, seal(p, b"now")) == b"now"


def test_a_failed_trial_leaves_the_suite_open() -> None:
    q = make(2, False)
    forged = bytearray(seal(make(2, True, suite=CHACHA)))
    forged[60] ^= 1
    assert feed(q, bytes(forged)) is None
    assert q.receive_suite is None
    assert feed(q, seal(make(2, True, suite=CHACHA))) is not None


def test_a_pinned_suite_that_is_not_the_peers_ends_the_session_by_name() -> None:
    q = make(2, False, suite=CHACHA, receive=(AES,))
    frame = seal(make(2, True, suite=CHACHA), b"secret")
    buf = bytearray(frame)
    with pytest.raises(CipherSuiteUnavailableError, match="chacha20-poly1305"):
        q.open(buf, memoryview(buf), 0, len(buf), 0, 0.0)
    assert b"secret" not in buf, "nothing is delivered"
    assert q.receive_suite is None


def test_a_candidate_is_overwritten_when_the_diagnosis_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytearray] = []
    p, q = make(2, True, suite=CHACHA), make(2, False, receive=(AES,))
    p.rekey(0.0)

    def keep(secret: bytearray) -> bytearray:
        derived.append(next_traffic_secret(secret))
        return derived[-1]

    monkeypatch.setattr(protection, "next_traffic_secret", keep)
    with pytest.raises(CipherSuiteUnavailableError):
        feed(q, seal(p))
    assert [bytes(secret) for secret in derived] == [bytes(32)]
    assert q.epoch == 0


def test_a_pinned_suite_that_is_the_peers_locks() -> None:
    q = make(2, False, suite=CHACHA, receive=(AES,))
    assert feed(q, seal(make(2, True, suite=AES))) is not None
    assert q.receive_suite is AES


# --- end -------------------------------------------------------------------------------------------------------------


def test_close_wipes_and_refuses() -> None:
    p, q = pair()
    feed(q, seal(p))
    p.rekey(0.0)
    feed(q, seal(p))
    assert q._previous is not None
    late, secret = seal(p), q._secret
    q.close()
    assert bytes(secret) == bytes(32)
    assert q._previous is None
    assert feed(q, late) is None
    assert counts(q) == {}
    for call in (lambda: seal(q), lambda: q.rekey(0.0), lambda: q._encrypt(b"", b"", b"", bytearray())):
        with pytest.raises(ConnectionClosedError):
            call()


def test_the_secret_given_stays_its_owners() -> None:
    from phantom.crypto.providers import get_provider
    from phantom.transport.packet.counters import DropCounters
    from phantom.transport.packet.protection import ProtectionV2

    secret = bytearray(SECRET)
    p = ProtectionV2(True, bytes(32), secret, send_suite=AES, provider=get_provider(), counters=DropCounters())
    p.rekey(0.0)
    assert p._secret == next_traffic_secret(secret)
    p.close()
    assert secret == SECRET


def test_padding_and_coalescing_do_not_concern_protection() -> None:
    p, q = pair()
    padded = pad(b"\1", 65536)
    assert padded is not None
    assert feed(q, seal(p, padded, stream_id=0, flags=flags.CLOSE)) == padded


# --- resting ---------------------------------------------------------------------------------------------------------


def locked_pair() -> tuple[Any, Any]:
    p, q = pair()
    feed(q, seal(p, b"0"))
    feed(p, seal(q, b"0"))
    return p, q


def test_a_session_that_rested_goes_on_where_it_was() -> None:
    for _ in range(2):
        p, q = locked_pair()
        for number in range(1, 4):
            for one in (p, q):
                one.rest()
                assert one.resting
            assert feed(q, seal(p, b"%d" % number)) == b"%d" % number
            assert q.sequence == number
            assert not p.resting
            assert not q.resting
            assert feed(p, seal(q, b"back")) == b"back"


def test_resting_images_are_those_of_a_session_that_never_rested() -> None:
    one, other = locked_pair()[0], locked_pair()[0]
    one.rest()
    assert seal(one, b"same") == seal(other, b"same")


def test_forgeries_and_replays_meet_a_resting_session_like_any() -> None:
    p, q = locked_pair()
    frame = seal(p, b"once")
    feed(q, frame)
    q.rest()
    assert feed(q, frame) is None
    assert counts(q) == {"replay_rejected": 1}
    q.rest()
    assert feed(q, frame[:60] + bytes([frame[60] ^ 1]) + frame[61:]) is None
    assert counts(q) == {"replay_rejected": 1, "decrypt_failed": 1}


def test_a_resting_session_follows_a_rekey_and_makes_one() -> None:
    p, q = locked_pair()
    late = seal(p, b"late")
    q.rest()
    p.rest()
    p.rekey(0.0)
    assert feed(q, seal(p, b"new epoch")) == b"new epoch"
    assert feed(q, late) == b"late"  # the previous state was woken before its secret went
    assert feed(p, seal(q, b"confirmed")) == b"confirmed"
    assert p.epoch == q.epoch == 1


def test_no_rest_before_lock_in_during_a_rekey_or_after_the_end() -> None:
    p, q = pair()
    p.rest()
    assert not p.resting
    p, q = locked_pair()
    p.rekey(0.0)
    p.rest()
    assert not p.resting
    feed(q, seal(p, b"x"))
    q.rest()  # its previous state is still in grace
    assert not q.resting
    q.close()
    q.rest()
    assert not q.resting
    v1 = make(1, True)
    v1.rest()
    assert v1.resting


def test_the_guard_of_bytes_is_back_after_a_rest() -> None:
    p, q = pair(soft_bytes=10)
    feed(q, seal(p, b"0"))
    feed(p, seal(q, b"0"))
    p.rest()
    seal(p, bytes(5))
    assert p.epoch == 0
    seal(p, bytes(20))
    seal(p, b"beyond")
    assert p.epoch == 1


def test_ciphers_that_rest_do_nothing() -> None:
    with pytest.raises(InternalError):
        protection._resting(b"", b"", b"", bytearray())
