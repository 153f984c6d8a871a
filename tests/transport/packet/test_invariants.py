"""The security invariants of wire-native Appendix A that packet protection alone can hold, by row."""

from __future__ import annotations

import random
from typing import Any

import pytest

from phantom.crypto.aead import new_aead
from phantom.crypto.kdf import traffic_keys
from phantom.crypto.providers import get_provider
from phantom.errors import EpochExhaustedError, NonceExhaustedError
from phantom.transport.packet import flags, protection
from phantom.transport.packet.frames import MalformedFrame, encode_close, pad, pade, unpad
from phantom.transport.packet.header import Packet, encode, encode_header
from phantom.transport.packet.protection import nonce_v2
from tests.transport.packet.support import AES, SECRET, SESSION, counts, feed, make, pair, seal, state


def locked_pair(version: int = 2, **options: Any) -> tuple[Any, Any]:
    """Both ends have heard each other: the fast path is in use."""
    p, q = pair(version, **options)
    assert feed(q, seal(p)) is not None
    assert feed(p, seal(q)) is not None
    return p, q


def advanced(epochs: int, **options: Any) -> Any:
    """An initiator that has gone ahead by some epochs, all unconfirmed."""
    p = make(2, True, **options)
    for _ in range(epochs):
        p._advance()
    return p


def by_hand(*, version: int = 2, word: int = flags.DATA, plaintext: bytes = b"\0\0\0\0data", epoch: int = 0) -> bytes:
    """A packet of the initiator at epoch 0 with any header, sealed outside of the class under test."""
    keys = traffic_keys(SECRET, AES)
    bare = Packet(version, SESSION, 1, 0, word, b"", epoch=epoch)
    nonce = nonce_v2(int.from_bytes(keys.prefix, "big"), epoch, 1, 0, 0)
    sealed = new_aead(AES, keys.send, get_provider()).encrypt(nonce, plaintext, encode_header(bare))
    return encode(Packet(version, SESSION, 1, 0, word, sealed, epoch=epoch))


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("plaintext", [b"", b"\0\0\0\0data"])
@pytest.mark.parametrize("word", [flags.RELIABLE, flags.RELIABLE | flags.FIN, flags.ACK, flags.CONTROL, 0])
def test_row18_no_plaintext_after_the_handshake(word: int, plaintext: bytes, ready: bool) -> None:
    q = locked_pair()[1] if ready else make(2, False)
    before, old = state(q), counts(q)
    for frame in (
        encode(Packet(2, SESSION, 1, 7, word, plaintext)),  # in clear
        by_hand(word=word, plaintext=plaintext),  # even if it is sealed
    ):
        assert feed(q, frame) is None
    assert counts(q) == old | {"unencrypted_dropped": 2}
    assert state(q) == before
    v1 = make(1, False)
    assert feed(v1, encode(Packet(1, SESSION, 1, 7, word & 0xFF, plaintext))) is None
    assert counts(v1) == {"unencrypted_dropped": 1}


@pytest.mark.parametrize("ready", [False, True])
def test_row19_every_header_bit_is_authenticated(ready: bool) -> None:
    p, q = locked_pair() if ready else pair()
    frame = seal(p, stream_id=5, path_id=2, ack_delay=9)
    for bit in range(45 * 8):
        before, old = state(q), counts(q)
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        assert feed(q, bytes(flipped)) is None
        assert state(q) == before
        new = {name: n - old.get(name, 0) for name, n in counts(q).items() if n != old.get(name, 0)}
        where = bit // 8
        clear_encrypted = where == 40 and flipped[40] == frame[40] ^ 0x20
        expected = (
            {"malformed", "wrong_version"} if where == 0
            else {"wrong_session"} if where < 33
            else {"unencrypted_dropped"} if clear_encrypted
            else {"decrypt_failed"}
        )  # fmt: skip
        assert sum(new.values()) == 1
        assert set(new) <= expected
    assert feed(q, frame) is not None


def test_row20_one_opaque_error(caplog: pytest.LogCaptureFixture) -> None:
    p, q = locked_pair()
    genuine = seal(p)

    def changed(at: int, value: int = 1) -> bytes:
        frame = bytearray(genuine)
        frame[at] ^= value
        return bytes(frame)

    failures = {
        "key": seal(make(2, True, secret=b"?" * 32)),
        "tag": changed(-5),
        "ciphertext": changed(50),
        "AAD only": changed(42),
        "nonce": changed(38),
        "epoch": changed(43),
        "epoch far ahead": changed(43, 0x80),
        "short": encode(Packet(2, SESSION, 1, 9, flags.DATA, bytes(15))),
        "empty": encode(Packet(2, SESSION, 1, 9, flags.DATA, b"")),
        "rekey": by_hand(word=flags.DATA | flags.REKEY, epoch=1),
    }
    before = state(q)
    results = set()
    for frame in failures.values():
        buf = bytearray(frame)
        results.add(q.open(buf, memoryview(buf), 0, len(buf), 0, 0.0))
    assert results == {-1}
    assert counts(q) == {"decrypt_failed": len(failures)}
    assert state(q) == before
    assert not caplog.records
    assert feed(q, genuine) is not None


def test_row21_acknowledgements_are_authenticated() -> None:
    p, q = locked_pair()
    sack = bytes.fromhex("0000000000000000000100000000")
    clear = encode(Packet(2, SESSION, 1, 5, flags.ACK, sack))
    foreign = seal(make(2, True, session_id=b"\x99" * 32), sack, flags=flags.ACK_WORD)
    relabelled = foreign[:1] + SESSION + foreign[33:]
    other_secret = seal(make(2, True, secret=b"?" * 32), sack, flags=flags.ACK_WORD)
    assert [feed(q, frame) for frame in (clear, foreign, relabelled, other_secret)] == [None] * 4
    assert counts(q) == {"unencrypted_dropped": 1, "wrong_session": 1, "decrypt_failed": 2}
    assert feed(q, seal(p, sack, flags=flags.ACK_WORD)) == sack


@pytest.mark.parametrize("version", [1, 2])
def test_row22_replay_is_checked_after_the_open(version: int) -> None:
    p, q = locked_pair(version)
    frame = seal(p)
    huge = bytearray(frame)
    huge[35:39] = (2**32 - 1).to_bytes(4, "big")
    before = state(q)
    assert feed(q, bytes(huge)) is None
    assert state(q) == before, "no window moved"
    assert feed(q, frame) is not None
    assert feed(q, frame) is None
    assert counts(q) == {"decrypt_failed": 1, "replay_rejected": 1} if version == 2 else {"decrypt_failed": 2}


def test_row22_an_unauthenticated_packet_makes_no_window() -> None:
    _, q = locked_pair()
    forger = make(2, True, secret=b"?" * 32)
    for stream in range(50):
        assert feed(q, seal(forger, stream_id=stream)) is None
    assert set(q._receiving.windows.table) == {1 << 8}


def test_row23_windows_are_exact_and_one_a_path() -> None:
    p, q = locked_pair()
    lagging = [seal(p, path_id=1) for _ in range(3)]
    ahead = [seal(p, path_id=2) for _ in range(5000)]
    high = 3 + len(ahead)  # locked_pair has sent sequence 0
    assert feed(q, ahead[-1]) is not None
    assert q.sequence == high
    assert feed(q, ahead[-1 - 1023]) is not None, "high - 1023 is accepted"
    assert feed(q, ahead[-1 - 1024]) is None, "high - 1024 is refused"
    assert feed(q, ahead[-1]) is None
    assert [feed(q, frame) is not None for frame in lagging] == [True] * 3
    assert counts(q) == {"replay_rejected": 2}


def test_row25_the_sequence_never_reaches_the_watermark() -> None:
    p, q = pair(sequence_watermark=8)
    seen = []
    for _ in range(30):
        assert feed(q, seal(p)) is not None
        seen.append((q.epoch, q.sequence))
    assert seen == [(i // 8, i % 8) for i in range(30)], "a rekey precedes each 9th packet"


def test_row25_the_watermark_is_one_of_each_stream() -> None:
    p = make(2, True, sequence_watermark=4)
    for _ in range(4):
        seal(p, stream_id=1)
        seal(p, stream_id=3)
    assert p.epoch == 0
    seal(p, stream_id=5)
    assert p.epoch == 0
    seal(p, stream_id=3)
    assert p.epoch == 1


def test_row26_the_epoch_never_wraps() -> None:
    p, q = pair(sequence_watermark=1)
    for epoch in range(256):
        assert feed(q, seal(p)) is not None
        assert p.epoch == q.epoch == epoch
    before = state(p)
    with pytest.raises(EpochExhaustedError):
        seal(p)
    with pytest.raises(EpochExhaustedError):
        p.rekey(0.0)
    assert state(p) == before
    assert feed(q, seal(p, stream_id=3)) is not None, "what needs no further epoch is still sent"


def test_row27_a_forged_epoch_cannot_desync() -> None:
    p, q = locked_pair()
    rng = random.Random(1)
    before = state(q)
    now = 0.0
    for steps in range(1, 21):
        for word in (flags.DATA, flags.DATA | flags.REKEY):
            frame = encode(Packet(2, SESSION, 1, 1, word, rng.randbytes(30), epoch=steps))
            now += 1.0
            assert feed(q, frame, now) is None
            assert state(q) == before
            assert feed(q, seal(p), now) is not None
            before = state(q)
    assert q.epoch == 0
    assert counts(q) == {"decrypt_failed": 40}


def test_row28_catch_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert feed(make(2, False), seal(advanced(16))) is not None
    q = make(2, False)
    derived: list[int] = []
    derive = protection.next_traffic_secret
    monkeypatch.setattr(protection, "next_traffic_secret", lambda secret: derived.append(1) or derive(secret))
    ahead = advanced(17)
    derived.clear()
    assert feed(q, seal(ahead)) is None
    for steps in range(1, 18):
        assert feed(q, encode(Packet(2, SESSION, 1, 1, flags.DATA, bytes(30), epoch=steps))) is None
    assert derived == [], "neither beyond 16 epochs nor without REKEY is anything derived"
    assert (q.epoch, counts(q)) == (0, {"decrypt_failed": 18})


def test_row30_old_keys_vanish() -> None:
    p, q = locked_pair()
    late = seal(p), seal(p)
    secrets = [q._secret]
    p.rekey(0.0)
    assert feed(q, seal(p), 100.0) is not None
    secrets.append(q._secret)
    assert bytes(secrets[0]) == bytes(32), "the old secret is overwritten"
    assert feed(q, late[0], 100.1) is not None
    q.expire(102.0)
    assert q._previous is None
    assert feed(q, late[1], 102.0) is None
    assert counts(q) == {"decrypt_failed": 1}
    q.close()
    assert bytes(secrets[1]) == bytes(32)


def test_row30_a_failed_candidate_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    _, q = locked_pair()
    derived: list[bytearray] = []
    derive = protection.next_traffic_secret

    def keep(secret: bytearray) -> bytearray:
        derived.append(derive(secret))
        return derived[-1]

    monkeypatch.setattr(protection, "next_traffic_secret", keep)
    assert feed(q, encode(Packet(2, SESSION, 1, 1, flags.DATA | flags.REKEY, bytes(30), epoch=5))) is None
    assert [bytes(secret) for secret in derived] == [bytes(32)] * 5


def test_row31_nonce_exhaustion() -> None:
    p = make(2, True, max_invocations=2)
    seal(p)
    seal(p)
    before = state(p)
    with pytest.raises(NonceExhaustedError):
        seal(p)
    assert state(p) == before
    p = make(2, True, soft_bytes=8)
    seal(p, bytes(8))
    seal(p, bytes(8))
    assert p.epoch == 1, "V2 rekeys at the byte limit"
    p = make(1, True, soft_bytes=8)
    seal(p, bytes(8))
    with pytest.raises(NonceExhaustedError):
        seal(p, bytes(8))


@pytest.mark.parametrize("version", [1, 2])
def test_row32_failed_opens_do_not_desync(version: int) -> None:
    p, q = pair(version)
    rng = random.Random(2)
    delivered = 0
    for i in range(1000):
        garbage = bytearray(seal(make(version, True)))
        for _ in range(3):
            garbage[rng.randrange(len(garbage))] ^= rng.randrange(1, 256)
        assert feed(q, bytes(garbage)) is None
        if i % 20 == 0:
            assert feed(q, seal(p, bytes([i % 256]))) == bytes([i % 256])
            delivered += 1
    assert delivered == 50
    assert not q.broken


@pytest.mark.parametrize("ready", [False, True])
def test_row33_versions_are_isolated(ready: bool) -> None:
    ends = {n: locked_pair(n) if ready else pair(n) for n in (1, 2)}
    for mine, other in ((1, 2), (2, 1)):
        q = ends[mine][1]
        before, old = state(q), counts(q)
        foreign = seal(ends[other][0])
        assert feed(q, foreign) is None
        assert counts(q) == old | {"wrong_version": 1}
        assert state(q) == before
    # The ciphertext of one in the container of the other: same secret, same sequence, another nonce and AAD.
    payload = seal(make(2, True))[49:-4]
    q = make(1, False)
    assert feed(q, encode(Packet(1, SESSION, 1, 0, flags.DATA, payload))) is None
    payload = seal(make(1, True))[46:-4]
    assert feed(make(2, False), encode(Packet(2, SESSION, 1, 0, flags.DATA, payload))) is None


@pytest.mark.parametrize("version", [1, 2])
def test_row34_directions_are_isolated(version: int) -> None:
    for ready in (False, True):
        p, _ = locked_pair(version) if ready else pair(version)
        before, old = state(p), counts(p)
        own = seal(p)
        after = state(p)
        assert feed(p, own) is None
        assert counts(p) == old | {"decrypt_failed": 1}
        assert state(p) == after != before


def test_row42_padding_lies_inside_the_aead() -> None:
    p, q = locked_pair()
    for inner in (b"", encode_close(0), encode_close(39), bytes(300)):
        padded = pad(inner, 65536)
        assert padded is not None
        frame = seal(p, padded, stream_id=0, flags=flags.CLOSE)
        assert len(frame) == pade(len(frame)), "the packet has the size of a bucket"
        flipped = bytearray(frame)
        flipped[39] ^= 0x20
        assert feed(q, bytes(flipped)) is None, "PADDED cannot be cleared in transit"
        plaintext = feed(q, frame)
        assert plaintext is not None
        assert plaintext[: unpad(plaintext, 0, len(plaintext))] == inner
    with pytest.raises(MalformedFrame):
        unpad(b"abc\0\4", 0, 5)


def test_row44_secrets_are_never_printed() -> None:
    for version in (1, 2):
        p = make(version, True)
        shown = repr(p) + str(p) + repr(p._receiving)
        for secret in (SECRET.hex(), repr(SECRET), traffic_keys(SECRET, AES).send.hex()):
            assert secret not in shown
        assert "aes-256-gcm" in shown


def test_row46_a_suite_mismatch_heals() -> None:
    from tests.transport.packet.support import CHACHA

    p, q = make(2, True, suite=AES), make(2, False, suite=CHACHA)
    for _ in range(3):
        assert feed(q, seal(p)) is not None
        assert feed(p, seal(q)) is not None
    assert (p.receive_suite, q.receive_suite) == (CHACHA, AES)


def test_row65_forced_catch_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = locked_pair()
    receivers: list[int] = []
    build = protection._Keys.receiver

    def counting(self: Any, secret: bytearray, epoch: int, locked: Any) -> Any:
        receivers.append(epoch)
        return build(self, secret, epoch, locked)

    monkeypatch.setattr(protection._Keys, "receiver", counting)
    for i in range(1000):
        epoch = 2 + i % 15
        frame = encode(Packet(2, SESSION, 1, 1, flags.DATA | flags.REKEY, bytes(30), epoch=epoch))
        assert feed(q, frame, i / 1000) is None
    assert len(receivers) == 10
    p.rekey(0.0)
    assert feed(q, seal(p), 0.9995) is not None, "a single step is not limited"
