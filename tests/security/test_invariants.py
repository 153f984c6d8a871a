"""The base set of negative tests (surface §11.1), by number: at the engine or on real sockets, whichever says more.

Numbers 20 and 21 ask for the validation of a second path, which this version does not have; 19 and 22 hold for the one
path that there is.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

import phantom
from phantom.config import PhantomConfig
from phantom.crypto.compare import constant_time_equal
from phantom.crypto.hybrid_kem import HybridKemKeyPair
from phantom.crypto.providers import get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import EpochExhaustedError, NonceExhaustedError, PhantomError
from phantom.runtime import AsyncioRuntime
from phantom.transport.handshake.messages import ClientHello, HelloRetryRequest, decode_reply
from phantom.transport.packet import flags
from phantom.transport.packet.header import MalformedPacket, Packet, decode, encode
from tests.calm import PATIENCE, nothing_left
from tests.security.hostile import first_hello, framed, hostile_client, relay
from tests.transport.packet.support import SESSION, counts, feed, make, pair, seal, state
from tests.transport.session.engines import framed as with_prefix
from tests.transport.session.engines import server_with_peer, words

TEXT = b"\0\0\0\0the text that nobody else may read"


def _flipped(frame: bytes, at: int, bit: int = 1) -> bytes:
    return frame[:at] + bytes([frame[at] ^ bit]) + frame[at + 1 :]


def test_base_01_a_flipped_ciphertext_bit_of_version_1_fails_to_open() -> None:
    p, q = pair(1)
    frame = seal(p, TEXT)
    for at in range(42 + 4, len(frame) - 4):
        assert feed(q, _flipped(frame, at)) is None
        q = make(1, False)  # a failed open in a row is counted, and 32 break a session of version 1
    assert feed(q, frame) == TEXT


@pytest.mark.parametrize("version", [1, 2])
def test_base_02_the_header_is_authenticated(version: int) -> None:
    p, q = pair(version)
    frame = seal(p, TEXT, stream_id=3)
    changed = _flipped(frame, 34)
    assert decode(changed).stream_id == 2
    assert feed(q, changed) is None
    assert counts(q) == {"decrypt_failed": 1}


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\1", b"\2", b"\xff" * 60, bytes(100), b"\2" + bytes(51)])
def test_base_03_garbage_gives_the_parser_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode(garbage)
    q = make(2, False)
    assert feed(q, garbage) is None
    assert sum(counts(q).values()) == 1


def test_base_04_the_comparison_of_cookies() -> None:
    cookie = bytes(range(32))
    assert constant_time_equal(cookie, bytearray(cookie))
    assert not constant_time_equal(cookie, _flipped(cookie, 31))
    assert not constant_time_equal(cookie, cookie[:31])


async def test_base_05_a_client_that_pins_another_key(server_key: Any, other_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        async with nothing_left(listener):
            for pin in (other_key.verifying_key(), [other_key.verifying_key().fingerprint()]):
                with pytest.raises(phantom.ServerIdentityMismatchError) as caught:
                    await phantom.connect(listener.local_addrs[0], pin, timeout=PATIENCE)
                assert server_key.verifying_key().fingerprint() in str(caught.value)
                accepted = (await listener.accept(PATIENCE)).session
                with pytest.raises(phantom.SessionDeadError, match="pins another key"):
                    await accepted.recv(PATIENCE)


def test_base_06_invocations_are_counted_from_zero_and_have_a_ceiling() -> None:
    p = make(2, True)
    assert p._seals == 0
    for count in range(1, 6):
        seal(p)
        assert p._seals == count
    once = make(1, True, max_invocations=3)
    for _ in range(3):
        seal(once)
    with pytest.raises(NonceExhaustedError):
        seal(once)
    twice = make(2, True, max_invocations=3)
    for _ in range(3):
        seal(twice)
    with pytest.raises(NonceExhaustedError):
        seal(twice)


async def test_base_07_a_made_up_cookie_gets_a_retry_with_a_fresh_one(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, config=PhantomConfig(cookie="always")) as listener:
        hello = ClientHello.decode(first_hello(listener))
        issued = set()
        for made_up in (bytes(32), b"\xff" * 32, random.Random(7).randbytes(32)):
            async with hostile_client(listener) as peer:
                await peer.send(framed(replace(hello, cookie=made_up).encode()))
                reply = decode_reply(await peer.frame())
                assert isinstance(reply, HelloRetryRequest)
                assert reply.cookie not in (None, made_up)
                issued.add(reply.cookie)
        assert len(issued) == 1, "one address, one bucket of time, one cookie"
        assert not listener._sessions


def test_base_08_two_keys_are_different() -> None:
    provider = get_provider()
    with phantom.generate_signing_key() as one, phantom.generate_signing_key() as other:
        assert one.to_bytes() != other.to_bytes()
        assert one.verifying_key() != other.verifying_key()
    packages = {HybridKemKeyPair.generate(provider, SYSTEM_RNG).public for _ in range(3)}
    assert len(packages) == 3


async def test_base_09_what_is_sent_arrives_and_is_not_on_the_wire(server_key: Any, echo_server: Any) -> None:
    captured = bytearray()

    def capture(offset: int, data: bytes) -> bytes:
        captured.extend(data)
        return data

    message = b"the text that nobody else may read" * 50
    async with echo_server() as listener, relay(listener.local_addr, c2s=capture, s2c=capture) as target:
        async with phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE) as session:
            await session.send(message)
            assert await session.recv(PATIENCE) == message
            session_id = bytes.fromhex(session.id)
    assert len(captured) > 2 * len(message)
    assert captured.count(session_id) > 2, "the wire was seen"
    assert all(message[at : at + 12] not in captured for at in range(34))
    p, q = pair()
    frame = seal(p, TEXT)
    assert TEXT[4:16] not in frame
    assert feed(q, frame) == TEXT


def test_base_10_a_second_packet_of_version_1_with_the_same_sequence() -> None:
    p, q = pair(1)
    frame = seal(p, TEXT)
    assert feed(q, frame) == TEXT
    assert q.fresh
    again = bytearray(frame)
    p.seal_again(again, memoryview(again), 0, 1, flags.DATA, TEXT, len(TEXT), 0)
    assert bytes(again) != frame
    assert feed(q, bytes(again)) == TEXT, "to be acknowledged again"
    assert not q.fresh, "and not to be delivered"
    assert counts(q) == {"replay_rejected": 1}, "counted once"
    assert feed(q, bytes(again)) is None, "the same bytes open once"


def test_base_11_a_flipped_ciphertext_bit_of_version_2_fails_to_open() -> None:
    p, q = pair(2)
    frame = seal(p, TEXT)
    before = state(q)
    for at in range(45 + 4, len(frame) - 4):
        for bit in (1, 0x80):
            assert feed(q, _flipped(frame, at, bit)) is None
    assert state(q) == before
    assert counts(q) == {"decrypt_failed": 2 * (len(TEXT) + 16)}
    assert feed(q, frame) == TEXT


def test_base_12_a_changed_epoch_and_a_changed_path_fail() -> None:
    p, q = pair(2)
    frame = seal(p, TEXT)
    packet = decode(frame)
    for changed in (replace(packet, epoch=1), replace(packet, epoch=255), replace(packet, path_id=1)):
        assert feed(q, encode(changed)) is None
    assert counts(q) == {"decrypt_failed": 3}
    assert feed(q, frame) == TEXT


def test_base_13_ciphertext_of_version_1_never_opens_as_version_2() -> None:
    p, q = make(1, True), make(2, False)
    packet = decode(seal(p, TEXT))
    assert feed(q, encode(packet)) is None
    for sequence in range(3):
        assert feed(q, encode(replace(packet, version=2, sequence=sequence))) is None
    assert counts(q) == {"wrong_version": 1, "decrypt_failed": 3}


def test_base_14_a_duplicate_is_refused_and_versions_share_nothing() -> None:
    p, q = pair(2)
    frame = seal(p, TEXT)
    assert feed(q, frame) == TEXT
    assert feed(q, frame) is None
    assert counts(q) == {"replay_rejected": 1}
    v1_sender, v1_receiver = pair(1)
    assert feed(v1_receiver, seal(v1_sender, TEXT)) == TEXT, "the sequence was used, but not in this session"
    assert counts(v1_receiver) == {}


def test_base_15_a_tampered_packet_disturbs_neither_itself_nor_the_next() -> None:
    p, q = pair(2)
    first, second = seal(p, TEXT), seal(p, TEXT + b"2")
    assert feed(q, _flipped(first, 60)) is None
    assert feed(q, _flipped(second, 40)) is None
    assert feed(q, first) == TEXT
    assert feed(q, second) == TEXT + b"2"


def test_base_16_after_a_rekey_old_ciphertext_fails_once_the_grace_is_over() -> None:
    p, q = pair(2)
    assert feed(q, seal(p, TEXT), now=0.0) == TEXT
    assert feed(p, seal(q, TEXT), now=0.0) == TEXT
    old, straggler = seal(p, TEXT), seal(p, TEXT)
    p.rekey(0.0)
    assert p.epoch == 1
    assert feed(q, seal(p, TEXT), now=0.0) == TEXT
    assert q.epoch == 1
    assert feed(p, seal(q, TEXT), now=0.0) == TEXT
    assert feed(q, straggler, now=0.1) == TEXT, "within the grace"
    q.expire(10.0)
    assert feed(q, old, now=10.0) is None
    assert feed(q, seal(p, TEXT), now=10.0) == TEXT


def test_base_17_the_ratchet_goes_to_epoch_5_and_never_back() -> None:
    p, q = pair(2)
    feed(q, seal(p, TEXT))
    feed(p, seal(q, TEXT))
    earlier = []
    for epoch in range(1, 6):
        earlier.append(seal(p, TEXT))
        p.rekey(0.0)
        assert feed(q, seal(p, TEXT), now=epoch * 10.0) == TEXT
        assert feed(p, seal(q, TEXT), now=epoch * 10.0) == TEXT
        assert (p.epoch, q.epoch) == (epoch, epoch)
    before = state(q)
    for frame in earlier[:4]:
        assert feed(q, frame, now=100.0) is None
    assert (q.epoch, state(q)["_secret"]) == (5, before["_secret"])


def test_base_18_at_the_last_epoch_a_rekey_is_an_error_and_changes_nothing() -> None:
    p = make(2, True)
    for _ in range(255):
        p._advance()
    assert p.epoch == 255
    before = state(p)
    for _ in range(2):
        with pytest.raises(EpochExhaustedError):
            p._advance()
    assert state(p) == before
    assert seal(p)


def test_base_19_path_0_serves_from_the_start_and_no_other_path_has_state() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, b"\0\0\0\1a"))
    assert engine.read(0.0) == [b"a"]
    peer.give(peer.data(1, b"\0\0\0\1b", path_id=5), peer.data(1, b"\0\0\0\1b", path_id=255))
    assert engine.read(0.0) == []
    assert engine.counted() == {"path_gated": 2}
    assert engine.conn.path.id == 0
    peer.give(peer.data(1, b"\0\0\0\1c"))
    assert engine.read(0.0) == [b"c"]


def test_base_22_an_answer_to_no_challenge_creates_nothing() -> None:
    engine, peer = server_with_peer()
    peer.see()
    peer.give(
        peer.seal(flags.RESPONSE, bytes(32), stream_id=0),
        peer.seal(flags.RESPONSE, bytes(32), stream_id=0, path_id=3),
        peer.seal(flags.CHALLENGE, bytes(32), stream_id=0, path_id=3),
        peer.seal(flags.CHALLENGE, bytes(31), stream_id=0),
    )
    assert words(peer.see()) == [], "nothing is answered"
    assert engine.conn.path.id == 0
    assert engine.counted() == {"path_gated": 2, "malformed": 1}  # an answer on path 0 is ignored: nobody asked
    assert engine.conn.error is None


def test_base_23_a_packet_of_version_2_survives_encoding() -> None:
    word = flags.DATA | flags.REKEY
    packet = Packet(2, SESSION, 0xABCD, 0x12345678, word, b"sealed", epoch=7, path_id=9, ack_delay=0x4321)
    assert decode(encode(packet)) == packet
    assert (decode(encode(packet)).epoch, decode(encode(packet)).path_id) == (7, 9)
    assert decode(encode(packet)).flags & flags.REKEY


def test_base_24_a_packet_of_version_1_survives_encoding() -> None:
    packet = Packet(1, SESSION, 0xABCD, 0x12345678, flags.DATA | flags.FIN, b"sealed")
    found = decode(encode(packet))
    assert found == packet
    assert (found.session_id, found.stream_id, found.flags, bytes(found.payload)) == (
        SESSION,
        0xABCD,
        flags.DATA | flags.FIN,
        b"sealed",
    )


# --- Appendix A rows that only a whole session can hold ---------------------------------------------------------------


@pytest.mark.parametrize("call", ["send", "recv", "await_ready", "flush_queue", "last_error"])
async def test_pin_problems_are_told_apart_by_type_on_every_call(server_key: Any, other_key: Any, call: str) -> None:
    from phantom.api.connecting import connect_with_transport
    from phantom.testing.memory_leg import memory_leg_pair
    from phantom.testing.sessions import memory_listener
    from phantom.transport.handshake.gate import Source

    runtime = AsyncioRuntime()
    listener = memory_listener(server_key, runtime=runtime)
    near, far = memory_leg_pair(runtime)
    listener.serve_leg(far, Source("127.0.0.1"), "memory")
    session = connect_with_transport("memory", near, other_key.verifying_key(), runtime=runtime)
    with pytest.raises(phantom.ServerIdentityMismatchError):
        await session.await_ready(PATIENCE)
    calls: dict[str, Any] = {
        "send": lambda: session.send(b"x"),
        "recv": lambda: session.recv(PATIENCE),
        "await_ready": lambda: session.await_ready(PATIENCE),
        "flush_queue": lambda: session.flush_queue(PATIENCE),
    }
    if call == "last_error":
        assert type(session.last_error()) is phantom.ServerIdentityMismatchError
    else:
        with pytest.raises(phantom.ServerIdentityMismatchError):
            await calls[call]()
    await session.disconnect()
    await listener.drain(0.0)


async def test_row01_no_entry_point_connects_without_a_pin() -> None:
    from phantom import blocking

    class Transport:
        touched = False

        async def send_bytes(self, data: bytes) -> None:
            self.touched = True

        async def recv_bytes(self) -> bytes:
            self.touched = True
            return b""

        async def close(self) -> None:
            self.touched = True

    transport = Transport()
    for pin in (None, [], "", b"", b"short", "phantom1:", "0" * 3967, 5):
        for attempt in (
            lambda pin=pin: phantom.connect("tcp://127.0.0.1:1", pin),
            lambda pin=pin: phantom.connect_pinned("127.0.0.1", 1, pin),
            lambda pin=pin: phantom.PhantomSession.connect_with_transport("x", transport, pin),
            lambda pin=pin: blocking.connect("tcp://127.0.0.1:1", pin, timeout=1),
            lambda pin=pin: blocking.connect_pinned("127.0.0.1", 1, pin, timeout=1),
        ):
            with pytest.raises((phantom.ConfigError, phantom.ValidationError)):
                attempt()
    await asyncio.sleep(0)
    assert not transport.touched


def test_row45_what_a_session_is_fed_raises_nothing_foreign(rng: random.Random) -> None:
    engine, peer = server_with_peer()
    for _ in range(300):
        try:
            engine.take(with_prefix(rng.randbytes(rng.randrange(1, 200))), 0.0)
        except PhantomError:
            pytest.fail("garbage in a session is dropped")
    peer.give(peer.data(0, b"\0\0\0\1a"))
    assert engine.read(0.0) == [b"a"]
