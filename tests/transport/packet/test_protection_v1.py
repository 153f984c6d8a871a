"""ProtectionV1: strict counter, retransmissions, duplicate filter (wire-native §11.3, §13.2-13.5)."""

from __future__ import annotations

import pytest

from phantom.errors import ConnectionClosedError, NonceExhaustedError, StreamError, StreamLimitError
from phantom.transport.packet import flags
from phantom.transport.packet.header import decode
from phantom.transport.packet.protection import PacketProtection
from tests.transport.packet.support import AES, CHACHA, counts, feed, make, pair, seal, state


def again(p: object, plaintext: bytes, sequence: int, stream_id: int = 1, word: int = flags.DATA) -> bytes:
    buf = bytearray(len(plaintext) + 66)
    end = p.seal_again(buf, memoryview(buf), 0, stream_id, word, plaintext, len(plaintext), sequence)  # type: ignore[attr-defined]
    return bytes(buf[:end])


def test_known_answers_of_appendix_b() -> None:
    p = make(1, True)
    frame = again(p, b"ping", 1)
    assert frame[46:-4].hex() == "fb17a7fa9126ec2734589e53ff82e69f88796480"
    assert len(frame) == 70
    frame = seal(make(1, False), (1).to_bytes(4, "big"), flags=flags.ACK_WORD)
    assert frame[46:-4].hex() == "b0643f5dfa212828efb26f69c4a48cc48eb26981"


def test_capabilities() -> None:
    p: PacketProtection = make(1, True)
    assert (p.version, p.header_len, p.overhead, p.epoch) == (1, 42, 66, 0)
    assert not p.supports_rekey
    assert not p.supports_paths
    assert not p.unconfirmed
    assert not p.must_rekey(1, 0)
    assert p.grace_end is None
    before = state(p)
    p.rekey(0.0)
    p.set_srtt(1.0)
    p.expire(1.0)
    assert state(p) == before


@pytest.mark.parametrize("suite", [AES, CHACHA])
def test_every_field_arrives(suite: object) -> None:
    p, q = make(1, True, suite=suite), make(1, False)  # type: ignore[arg-type]
    for sequence in range(3):
        frame = seal(p, b"x" * sequence, stream_id=3, flags=flags.ACK_WORD, ack_delay=99)
        assert p.sent_sequence == sequence
        assert feed(q, frame, path_of_leg=4) == b"x" * sequence
        assert (q.stream_id, q.sequence, q.path_id, q.ack_delay, q.fresh) == (3, sequence, 4, 99, True)
    assert seal(p, stream_id=5) != b""
    assert p.sent_sequence == 0, "one sequence for each stream"
    assert q.receive_suite is suite


def test_the_ack_delay_saturates() -> None:
    assert decode(seal(make(1, True), flags=flags.ACK_WORD, ack_delay=2**20)).ack_delay == 65535


def test_a_retransmission_is_reported_as_not_fresh() -> None:
    p, q = pair(1)
    assert feed(q, seal(p, b"data")) == b"data"
    assert q.fresh
    assert feed(q, again(p, b"data", 0)) == b"data"
    assert not q.fresh
    assert q.sequence == 0
    assert counts(q) == {"replay_rejected": 1}
    assert feed(q, seal(p, b"more")) == b"more"
    assert q.fresh


def test_a_duplicate_that_is_not_reliable_is_dropped() -> None:
    p, q = pair(1)
    feed(q, seal(p, bytes(4), flags=flags.ACK_WORD))
    assert feed(q, again(p, bytes(4), 0, word=flags.ACK_WORD)) is None
    assert counts(q) == {"replay_rejected": 1}
    assert feed(q, seal(p)) is not None, "the counter has moved all the same"


def test_a_stream_more_than_the_bound_is_dropped_and_never_acknowledged() -> None:
    p, q = make(1, True), make(1, False, max_replay_streams=2)
    assert feed(q, seal(p, stream_id=1)) is not None
    assert feed(q, seal(p, stream_id=3)) is not None
    assert feed(q, seal(p, stream_id=5)) is None
    assert counts(q) == {"replay_rejected": 1}
    assert feed(q, seal(p, stream_id=3)) is not None


def test_a_sender_does_not_open_a_stream_more_than_the_bound() -> None:
    p = make(1, True, max_replay_streams=2)
    seal(p, stream_id=1)
    seal(p, stream_id=3)
    before = state(p)
    with pytest.raises(StreamLimitError):
        seal(p, stream_id=5)
    assert state(p) == before
    seal(p, stream_id=3)


def test_a_stream_ends_with_its_sequences() -> None:
    p = make(1, True, v1_max_sequence=2)
    for _ in range(3):
        seal(p)
    with pytest.raises(StreamError):
        seal(p)
    seal(p, stream_id=3)


def test_packets_out_of_order_do_not_open() -> None:
    p, q = pair(1)
    first, second = seal(p), seal(p)
    assert feed(q, second) is None
    assert feed(q, first) is not None
    assert feed(q, first) is None, "a replay has the wrong counter"
    assert feed(q, second) is not None
    assert counts(q) == {"decrypt_failed": 2}


def test_thirty_two_failed_opens_in_a_row_break_the_session() -> None:
    p, q = pair(1)
    garbage = seal(make(1, True, secret=b"?" * 32))
    short = garbage[:42] + bytes.fromhex("0000000f") + bytes(15) + bytes(4)
    for _ in range(31):
        feed(q, garbage)
    assert not q.broken
    assert feed(q, seal(p)) is not None
    for _ in range(31):
        feed(q, short)
    assert not q.broken
    feed(q, short)
    assert q.broken
    assert counts(q) == {"decrypt_failed": 63}


def test_the_limits_of_a_key_that_cannot_be_replaced() -> None:
    p, q = make(1, True, max_invocations=2), make(1, False, max_invocations=3)
    for _ in range(2):
        feed(q, seal(p))
    with pytest.raises(NonceExhaustedError):
        seal(p)
    p = make(1, True)
    seal(p)
    seal(p)
    assert feed(q, seal(p)) is not None
    with pytest.raises(NonceExhaustedError):
        feed(q, seal(p))


def test_the_byte_limit_ends_a_v1_session_in_either_direction() -> None:
    p, q = make(1, True, soft_bytes=20), make(1, False, soft_bytes=20)
    other = make(1, True)
    for _ in range(2):
        feed(q, seal(p, bytes(10)))
        seal(other)
    with pytest.raises(NonceExhaustedError):
        seal(p, b"x")
    with pytest.raises(NonceExhaustedError):
        feed(q, seal(other))


def test_close_refuses() -> None:
    p, q = pair(1)
    frame = seal(p)
    q.close()
    assert feed(q, frame) is None
    with pytest.raises(ConnectionClosedError):
        seal(q)
    assert counts(q) == {}
