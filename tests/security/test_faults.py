"""Bad input and faults on real sockets, against a listener and, mirrored, against ``connect``.

Whatever a peer does, this side answers with the typed error of surface §3 or with the silence that the wire
specification asks for, nothing stays behind, and the listener goes on serving others: every test ends with both checks.
"""

from __future__ import annotations

import asyncio
import random
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import phantom
from phantom import errors, limits
from phantom.config import PhantomConfig
from phantom.security.reputation import Reputation
from phantom.transport.handshake import Send
from phantom.transport.handshake.messages import HelloRetryRequest
from phantom.transport.packet import flags, frames
from phantom.transport.packet.header import Packet, encode
from phantom.transport.session.reliability import RttEstimator
from tests.calm import PATIENCE, echoes, nothing_left, turns, until
from tests.security.hostile import (
    HELLO,
    REPLY,
    Alter,
    Peer,
    answer,
    client_handshake,
    cutting,
    first_hello,
    flipping,
    framed,
    hostile_client,
    hostile_server,
    initiator,
    relay,
    server_handshake,
    swallowing,
)

SHORT = 0.5  # s, handshake timeouts of tests that wait for one; honest handshakes keep it on a busy machine
PATIENT = PhantomConfig(handshake_timeout=5.0)
HASTY = PhantomConfig(handshake_timeout=SHORT, keepalive_interval=1.0, silence_floor=0.3)


@dataclass
class Siege:
    """A listener that echoes, and how its sessions ended."""

    listener: phantom.PhantomListener
    ended: list[phantom.PhantomError | None] = field(default_factory=list)
    sessions: list[phantom.PhantomSession] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return self.listener.metrics_snapshot().handshakes_failure


@pytest.fixture
def no_grudges(monkeypatch: pytest.MonkeyPatch) -> None:
    """All peers of a test have one address; what one did must not make the next one work for it."""
    monkeypatch.setattr(Reputation, "record", lambda *_: None)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed, and lost packets are repeated, sooner than on a real network."""
    monkeypatch.setattr(limits, "PTO_FLOOR", 0.01)
    monkeypatch.setattr(limits, "INITIAL_MIN_RTT", 0.001)
    monkeypatch.setattr(RttEstimator.__init__, "__defaults__", (0.02, 0.02))


pytestmark = pytest.mark.usefixtures("no_grudges", "hasty")


@asynccontextmanager
async def besieged(key: phantom.HybridSigningKey, config: PhantomConfig = PATIENT) -> AsyncIterator[Siege]:
    """An echoing listener, whole again after the block."""

    async def echo(session: phantom.PhantomSession) -> None:
        error: phantom.PhantomError | None = None
        try:
            async for message in session:
                await session.send(message)
        except phantom.PhantomError as raised:
            error = raised
        await session.disconnect()
        siege.ended.append(error)

    async def accept(tasks: asyncio.TaskGroup) -> None:
        async for outcome in siege.listener:
            siege.sessions.append(outcome.session)
            tasks.create_task(echo(outcome.session))

    async with phantom.listen("127.0.0.1:0", key=key, config=config) as listener, asyncio.TaskGroup() as tasks:
        siege = Siege(listener)
        acceptor = tasks.create_task(accept(tasks))
        await echoes(listener)
        siege.ended.clear()
        siege.sessions.clear()
        async with nothing_left(listener):
            yield siege
        await echoes(listener)
        listener.shutdown()
        await acceptor


async def _connect_fails(target: str, key: phantom.HybridSigningKey, config: PhantomConfig = PATIENT) -> Exception:
    with pytest.raises(phantom.PhantomError) as caught:
        session = await phantom.connect(target, key.verifying_key(), config=config, timeout=PATIENCE)
        await session.disconnect()
    return caught.value


# --- in transit: the handshake (Appendix A rows 3, 4, 8) --------------------------------------------------------------

CLOSED = (errors.NetworkError,)
SIGNATURE = (errors.SignatureInvalidError,)
REJECTED = (errors.ProtocolRejectedError,)
MALFORMED = (errors.SerializationError,)

HELLO_REGIONS: dict[str, tuple[int, tuple[type[Exception], ...]]] = {
    "envelope": (0, CLOSED),
    "X25519 key": (1, SIGNATURE),
    "end of the X25519 key": (32, SIGNATURE),
    "length of the ML-KEM key": (36, CLOSED),
    "ML-KEM key": (700, (*SIGNATURE, *CLOSED)),  # altered, it may be no key at all
    "seed of the ML-KEM key": (1220, SIGNATURE),
    "Ed25519 key": (1221, SIGNATURE),
    "length of the ML-DSA key": (1256, CLOSED),
    "ML-DSA key": (1257, SIGNATURE),
    "end of the ML-DSA key": (3208, SIGNATURE),
    "nonce": (3209, SIGNATURE),
    "end of the nonce": (3240, SIGNATURE),
    "version": (3241, REJECTED),
    "cookie tag": (3242, CLOSED),
    "work tag": (3243, CLOSED),
    "resume tag": (3244, CLOSED),
}


@pytest.mark.parametrize("region", HELLO_REGIONS)
async def test_a_bit_of_the_hello_flipped_in_transit(server_key: Any, region: str) -> None:
    at, expected = HELLO_REGIONS[region]
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, c2s=flipping(4 + at)) as target:
            error = await _connect_fails(target, server_key)
        assert type(error) in expected
    assert error.final is (type(error) is not errors.NetworkError)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bit", [2, 3])
async def test_row03_a_version_lowered_in_transit(server_key: Any, bit: int) -> None:
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, c2s=flipping(4 + 3241, bit)) as target:
            error = await _connect_fails(target, server_key)
        assert type(error) is errors.ProtocolRejectedError
        assert error.supported_version == 2


REPLY_REGIONS: dict[str, tuple[int, tuple[type[Exception], ...]]] = {
    "kind": (0, MALFORMED),
    "envelope": (1, MALFORMED),
    "X25519 key": (2, SIGNATURE),
    "length of the ML-KEM key": (37, MALFORMED),
    "ML-KEM key": (1000, SIGNATURE),
    "X25519 ciphertext": (1222, SIGNATURE),
    "length of the ML-KEM ciphertext": (1257, MALFORMED),
    "ML-KEM ciphertext": (2000, SIGNATURE),
    "Ed25519 key": (2346, (errors.ServerIdentityMismatchError,)),
    "length of the ML-DSA key": (2381, MALFORMED),
    "ML-DSA key": (3000, (errors.ServerIdentityMismatchError,)),
    "Ed25519 signature": (4334, SIGNATURE),
    "length of the ML-DSA signature": (4401, MALFORMED),
    "ML-DSA signature": (6000, SIGNATURE),
    "end of the ML-DSA signature": (7710, SIGNATURE),
    "session id": (7711, SIGNATURE),
    "end of the session id": (7742, SIGNATURE),
}


@pytest.mark.parametrize("region", REPLY_REGIONS)
async def test_a_bit_of_the_reply_flipped_in_transit(server_key: Any, region: str) -> None:
    at, expected = REPLY_REGIONS[region]
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, s2c=flipping(4 + at)) as target:
            error = await _connect_fails(target, server_key)
        assert type(error) in expected
        await until(lambda: siege.ended)
        assert type(siege.ended[0]) is errors.SessionDeadError
        assert "before its first packet" in str(siege.ended[0])


@pytest.mark.parametrize("byte", range(4))
@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_a_length_of_the_handshake_flipped_in_transit(server_key: Any, direction: str, byte: int) -> None:
    async with besieged(server_key, HASTY) as siege:
        ways: dict[str, Alter] = {direction: flipping(byte, 0x10)}
        async with relay(siege.listener.local_addr, **ways) as target:
            error = await _connect_fails(target, server_key, HASTY)
        expected: dict[tuple[str, int], tuple[type[Exception], ...]] = {
            ("s2c", 0): (errors.FrameTooLargeError,),
            ("s2c", 1): (errors.FrameTooLargeError,),
            ("s2c", 2): (errors.SerializationError,),  # 0x1e3f became 0x0e3f: cut short
            ("s2c", 3): (errors.SerializationError,),
            ("c2s", 0): CLOSED,
            ("c2s", 1): CLOSED,
            ("c2s", 2): (errors.HandshakeTimeoutError, *CLOSED),  # it waits for bytes that never come
            ("c2s", 3): (errors.HandshakeTimeoutError, *CLOSED),
        }
        assert type(error) in expected[direction, byte]


@pytest.mark.parametrize(
    ("direction", "at"),
    [("c2s", at) for at in (0, 1, 4, 5, 1000, 3248, 3249)] + [("s2c", at) for at in (0, 1, 4, 5, 1000, 7746, 7747)],
)
async def test_a_connection_cut_anywhere_in_the_handshake(server_key: Any, direction: str, at: int) -> None:
    ways: dict[str, Alter] = {direction: cutting(at)}
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, **ways) as target:
            if at < 4 + (HELLO if direction == "c2s" else REPLY):
                assert type(await _connect_fails(target, server_key)) is errors.NetworkError
            else:
                session = await phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE)
                with pytest.raises(phantom.SessionDeadError):
                    await session.recv(PATIENCE)


@pytest.mark.parametrize("at", [0, 2, 4, 100, 3248])
async def test_a_hello_that_never_comes_whole(server_key: Any, at: int) -> None:
    async with besieged(server_key, HASTY) as siege:
        async with relay(siege.listener.local_addr, c2s=swallowing(at)) as target:
            error = await _connect_fails(target, server_key, HASTY)
            assert type(error) in (errors.HandshakeTimeoutError, errors.NetworkError)
        await until(lambda: siege.failures == 1)


@pytest.mark.parametrize("at", [0, 2, 4, 100, 7746])
async def test_a_reply_that_never_comes_whole(server_key: Any, at: int) -> None:
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, s2c=swallowing(at)) as target:
            error = await _connect_fails(target, server_key, HASTY)
        assert type(error) is errors.HandshakeTimeoutError


async def test_a_handshake_byte_by_byte_is_a_handshake(server_key: Any) -> None:
    async with besieged(server_key) as siege, hostile_client(siege.listener) as peer:
        client = initiator(siege.listener)
        client.start(0.0)
        event = client.next_event()
        assert isinstance(event, Send)
        for byte in framed(event.frame):
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        client.receive(await peer.frame(), 0.0)


# --- in transit: the session ------------------------------------------------------------------------------------------


class NextChunk:
    """Once armed, changes one byte of the next chunk that passes."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.bit = 1
        self.seen = 0

    def __call__(self, offset: int, data: bytes) -> bytes:
        if self.at is None or not data:
            return data
        found = bytearray(data)
        found[self.at] ^= self.bit
        self.at = None
        self.seen += 1
        return bytes(found)


# Offsets in a frame with its prefix: 45 bytes of header, the payload's length, payload and tag, the extensions' length.
SESSION_REGIONS: dict[str, tuple[int, int]] = {
    "version": (4, 1),
    "version of the other kind": (4, 3),
    "session id": (5, 1),
    "end of the session id": (36, 0x80),
    "stream": (38, 2),
    "sequence": (42, 1),
    "high sequence": (39, 0x80),
    "flags": (44, 4),
    "encrypted flag": (44, 0x20),
    "high flags": (43, 1),
    "ack delay, epoch or path": (45, 1),
    "epoch or path": (47, 1),
    "path": (48, 1),
    "length of the payload": (52, 1),
    "first sealed byte": (53, 1),
    "middle": (70, 0x80),
    "start of the tag": (-20, 1),
    "end of the tag": (-5, 1),
    "length of the extensions": (-1, 1),
}


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
@pytest.mark.parametrize("region", SESSION_REGIONS)
async def test_a_bit_of_a_packet_flipped_in_transit_costs_one_repetition(
    server_key: Any, direction: str, region: str
) -> None:
    chunk = NextChunk()
    ways: dict[str, Alter] = {direction: chunk}
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, **ways) as target:
            client = await phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE)
            await client.send(b"before")
            assert await client.recv(PATIENCE) == b"before"
            await client.flush_queue(PATIENCE)
            server = siege.sessions[0]
            await server.flush_queue(PATIENCE)
            sender, receiver = (client, server) if direction == "c2s" else (server, client)
            dropped = sum(receiver.metrics_snapshot().dropped_total.values())
            chunk.at, chunk.bit = SESSION_REGIONS[region]
            await sender.send(b"altered on its way, repeated, and received once")
            assert await client.recv(PATIENCE) == b"altered on its way, repeated, and received once"
            assert chunk.seen == 1
            assert sum(receiver.metrics_snapshot().dropped_total.values()) == dropped + 1
            assert sender.metrics_snapshot().retransmissions >= 1
            assert await client.disconnect() is True
        assert siege.ended == [None]


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
@pytest.mark.parametrize(("at", "bit"), [(0, 0x80), (1, 0x40), (2, 1), (3, 1), (3, 0x40)])
async def test_a_length_of_the_session_flipped_in_transit_ends_it(
    server_key: Any, direction: str, at: int, bit: int
) -> None:
    chunk = NextChunk()
    ways: dict[str, Alter] = {direction: chunk}
    config = PhantomConfig(silence_floor=0.3)
    async with besieged(server_key, config) as siege:
        async with relay(siege.listener.local_addr, **ways) as target:
            client = await phantom.connect(target, server_key.verifying_key(), config=config, timeout=PATIENCE)
            await client.send(b"before")
            assert await client.recv(PATIENCE) == b"before"
            await client.flush_queue(PATIENCE)
            await siege.sessions[0].flush_queue(PATIENCE)
            chunk.at, chunk.bit = at, bit
            await client.send(b"x" * 300)
            with pytest.raises(phantom.SessionDeadError):
                while True:
                    assert await client.recv(PATIENCE) == b"x" * 300
        await until(lambda: siege.ended)
        assert type(siege.ended[0]) is errors.SessionDeadError


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_a_bulk_transfer_through_a_relay_that_flips_now_and_then(
    server_key: Any, direction: str, rng: random.Random
) -> None:
    """Only bytes behind the length prefixes: what a checksum of TCP let through, not a broken framing."""
    state = {"prefix": b"", "left": 0, "flips": 0}

    def alter(offset: int, data: bytes) -> bytes:
        found = bytearray(data)
        at = 0
        while at < len(found):
            if not state["left"]:
                need = 4 - len(state["prefix"])  # type: ignore[arg-type]
                state["prefix"] += bytes(found[at : at + need])  # type: ignore[operator]
                at += min(need, len(found) - at)
                if len(state["prefix"]) == 4:  # type: ignore[arg-type]
                    state["left"] = struct.unpack(">I", state["prefix"])[0]  # type: ignore[arg-type]
                    state["prefix"] = b""
                continue
            size = min(state["left"], len(found) - at)  # type: ignore[type-var]
            if offset + at > 20_000 and rng.random() < 0.1:
                found[at + rng.randrange(size)] ^= 1 << rng.randrange(8)  # type: ignore[arg-type]
                state["flips"] += 1  # type: ignore[operator]
            at += size  # type: ignore[operator]
            state["left"] -= size  # type: ignore[operator]
        return bytes(found)

    ways: dict[str, Alter] = {direction: alter}
    messages = [rng.randbytes(rng.randrange(1, 60_000)) for _ in range(60)]
    async with besieged(server_key) as siege:
        async with relay(siege.listener.local_addr, **ways) as target:
            client = await phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE)

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            sending = asyncio.ensure_future(send())
            for message in messages:
                assert await client.recv(PATIENCE) == message
            await sending
            assert state["flips"]
            await client.disconnect()


# --- a hostile client -------------------------------------------------------------------------------------------------

BEFORE = ["connected", "in the prefix", "after the prefix", "in the hello"]
UNCONFIRMED = ["after the hello", "in the reply", "after the reply", "in the first packet"]
ESTABLISHED = ["after the first packet", "in a packet", "after a message"]
ACTIONS = [pytest.param("stalls", marks=pytest.mark.slow), "half-closes", "closes", "resets", "floods"]


async def _reach(step: str, peer: Peer, listener: phantom.PhantomListener) -> None:
    """Behaves until that step of handshake and session."""
    if step == "connected":
        return
    client = initiator(listener)
    client.start(0.0)
    event = client.next_event()
    assert isinstance(event, Send)
    hello = framed(event.frame)
    cut = {"in the prefix": 2, "after the prefix": 4, "in the hello": 1000}.get(step, len(hello))
    await peer.send(hello[:cut])
    if step in BEFORE or step == "after the hello":
        return
    if step == "in the reply":
        await peer.reader.readexactly(100)
        return
    client.receive(await peer.frame(), 0.0)
    done = client.next_event()
    assert done is not None
    peer.establish(done.result)  # type: ignore[union-attr]
    if step == "after the reply":
        return
    first = framed(peer.seal(flags.PING, stream_id=0))
    await peer.send(first[:20] if step == "in the first packet" else first)
    if step in ("in the first packet", "after the first packet"):
        return
    message = framed(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\2hi"))
    if step == "in a packet":
        await peer.send(message[:30])
        return
    await peer.send(message)
    assert (await peer.opened(flags.DATA)).plaintext == bytes(4) + b"\0\0\0\2hi"


async def _act(action: str, peer: Peer, rng: random.Random) -> None:
    if action == "stalls":
        await peer.read_to_the_end()
    elif action == "half-closes":
        peer.half_close()
        await peer.read_to_the_end()
    elif action == "resets":
        peer.reset()
    elif action == "floods":
        await peer.send(rng.randbytes(1 << 20))
        await peer.read_to_the_end()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("steps", [BEFORE, UNCONFIRMED, ESTABLISHED], ids=["before", "unconfirmed", "established"])
async def test_a_client_that_misbehaves_at_any_step(server_key: Any, steps: list[str], action: str, seed: int) -> None:
    async with besieged(server_key, HASTY if action == "stalls" else PATIENT) as siege:

        async def attack(number: int, step: str) -> None:
            async with hostile_client(siege.listener) as peer:
                await _reach(step, peer, siege.listener)
                await _act(action, peer, random.Random(seed + number))

        async with asyncio.TaskGroup() as tasks:
            for number, step in enumerate(steps):
                tasks.create_task(attack(number, step))
            tasks.create_task(echoes(siege.listener, b"meanwhile"))
        await until(lambda: len(siege.ended) + siege.failures == len(steps) + 1)
        ends = [type(error) for error in siege.ended if error is not None]
        if steps is UNCONFIRMED and action == "stalls":
            assert ends == [errors.HandshakeTimeoutError] * len(steps)
        else:
            assert set(ends) <= {errors.SessionDeadError}
        # Who resets behind the hello may be gone before the answer leaves, and is no session then.
        least = 0 if steps is BEFORE else len(steps) - (steps is UNCONFIRMED and action == "resets")
        assert least <= len(ends) <= (0 if steps is BEFORE else len(steps))


@pytest.mark.parametrize(
    ("first", "violation"),
    [
        (b"", True),
        (b"\3", True),
        (b"\x16\3\1", True),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"\xff" * 100, True),
        (b"\0", True),
        (b"\1" + bytes(3000), True),
        (b"\2" + bytes(200), False),  # an attach that names no session here: honest after a restart (§8.4)
        (b"\2", False),
    ],
)
async def test_a_first_frame_that_is_none_closes_silently(
    server_key: Any, first: bytes, violation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(Reputation, "record", lambda _self, key, _now: recorded.append(key))
    async with besieged(server_key) as siege:
        async with hostile_client(siege.listener) as peer:
            await peer.send(framed(first))
            assert await peer.read_to_the_end() == b""
        await until(lambda: siege.failures == 1)
    assert recorded == (["127.0.0.1"] if violation else [])


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\x0c\xad", b"\0\0\x0c\xad" + bytes(1000)])
async def test_who_stalls_after_a_byte_is_remembered_and_who_says_nothing_is_not(
    server_key: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(Reputation, "record", lambda _self, key, _now: recorded.append(key))
    async with besieged(server_key, HASTY) as siege:
        async with hostile_client(siege.listener) as peer:
            await peer.send(sent)
            assert await peer.read_to_the_end() == b""
        await until(lambda: siege.failures == 1)
    assert recorded == (["127.0.0.1"] if sent else [])


@pytest.mark.parametrize("length", [65537, 2**24, 2**31, 2**32 - 1])
async def test_row39_a_length_prefix_forces_no_allocation(server_key: Any, length: int) -> None:
    async with besieged(server_key) as siege:
        tracemalloc.start()
        try:
            async with hostile_client(siege.listener) as before, hostile_client(siege.listener) as after:
                await client_handshake(after, siege.listener)
                await after.send(framed(after.seal(flags.PING, stream_id=0)))
                for peer in (before, after):
                    prefix = max(length, limits.ESTABLISHED_FRAME_CAP + 1) if peer is after else length
                    await peer.send(struct.pack(">I", prefix) + bytes(1000))
                    await peer.read_to_the_end()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 << 20
        await until(lambda: siege.ended)
        assert type(siege.ended[0]) is errors.SessionDeadError
        assert type(siege.ended[0].__cause__) is errors.FrameTooLargeError


async def test_many_silent_and_half_hellos_hold_little_and_end_in_time(server_key: Any) -> None:
    async with besieged(server_key, HASTY.replace(max_inflight_per_source=100)) as siege:
        async with asyncio.TaskGroup() as tasks:

            async def hold(number: int) -> None:
                async with hostile_client(siege.listener) as peer:
                    await peer.send(framed(bytes(65536))[: number * 1000])
                    await peer.read_to_the_end()

            for number in range(60):
                tasks.create_task(hold(number))
            await turns(5)
            await echoes(siege.listener, b"meanwhile")
        await until(lambda: siege.failures == 60)


async def test_a_hello_sent_again_makes_another_session_and_helps_nobody(server_key: Any) -> None:
    async with besieged(server_key) as siege:
        hello = first_hello(siege.listener)
        ids = set()
        for _ in range(3):
            async with hostile_client(siege.listener) as peer:
                await peer.send(framed(hello))
                ids.add((await peer.frame())[-32:])
        assert len(ids) == 3, "the key exchange is fresh each time"
        await until(lambda: len(siege.ended) == 3)
        assert {type(error) for error in siege.ended} == {errors.SessionDeadError}


async def test_more_retries_than_three_end_the_connection(server_key: Any) -> None:
    async with besieged(server_key, PhantomConfig(cookie="always")) as siege:
        async with hostile_client(siege.listener) as peer:
            hello = first_hello(siege.listener)
            await peer.send(framed(hello, hello, hello, hello, hello, hello))
            for _ in range(3):
                assert (await peer.frame())[:1] == b"\1"
            assert await peer.read_to_the_end() == b""
        assert siege.failures == 1


async def test_only_a_hello_may_follow_a_retry(server_key: Any) -> None:
    async with besieged(server_key, PhantomConfig(cookie="always")) as siege:
        for second in (b"\2" + bytes(100), b"\7", b"", bytes(70_000)):
            async with hostile_client(siege.listener) as peer:
                await peer.send(framed(first_hello(siege.listener)))
                assert (await peer.frame())[:1] == b"\1"
                await peer.send(framed(second))
                assert await peer.read_to_the_end() == b""
        assert siege.failures == 4


async def test_who_misbehaved_has_to_show_a_cookie_and_work(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        async with hostile_client(listener) as peer:
            await peer.send(framed(b"\7"))
            await peer.read_to_the_end()
        async with phantom.connect(listener.urls[0], timeout=PATIENCE) as session:
            assert session.handshake.retries == 1
        await listener.drain(1)


async def _echo_of(peer: Peer, number: int) -> bytes:
    """Segment ``number`` of the other side, behind what it repeats because nobody acknowledges."""
    while True:
        plaintext = (await peer.opened(flags.DATA)).plaintext
        if int.from_bytes(plaintext[:4], "big") == number:
            return plaintext[8:]


# --- a hostile peer in a session, with real keys ----------------------------------------------------------------------


def _by_hand(peer: Peer, word: int, payload: bytes, *, version: int = 2, session_id: bytes | None = None) -> bytes:
    """A packet in clear, whatever its flags say."""
    assert peer.result is not None
    return encode(Packet(version, session_id or peer.result.session_id, 1, 7, word, payload))


def _nuisances(peer: Peer, last: bytes, genuine: bytes) -> dict[str, tuple[bytes, str]]:
    """Frames that must change nothing, with the counter each is counted in."""
    sealed = bytearray(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\1x"))
    broken = bytes(sealed[:-5]) + bytes([sealed[-5] ^ 1]) + bytes(sealed[-4:])
    sack = bytes.fromhex("0000000000000000000100000000")
    return {
        "a second hello": (bytes(HELLO), "malformed"),
        "a reject": (b"\2PRJ1\1\2", "malformed"),
        "the own packet of the other side": (last, "decrypt_failed"),
        "a packet again": (genuine, "replay_rejected"),
        "a broken tag": (broken, "decrypt_failed"),
        "data in clear": (_by_hand(peer, flags.RELIABLE, bytes(5)), "unencrypted_dropped"),
        "data and FIN in clear": (_by_hand(peer, flags.RELIABLE | flags.FIN, bytes(5)), "unencrypted_dropped"),
        "an empty FIN in clear": (_by_hand(peer, flags.FIN, b""), "unencrypted_dropped"),
        "an ACK in clear": (_by_hand(peer, flags.ACK, sack), "unencrypted_dropped"),
        "a CLOSE in clear": (_by_hand(peer, flags.CONTROL, b"\1"), "unencrypted_dropped"),
        "a packet of version 1": (_by_hand(peer, flags.RELIABLE, bytes(30), version=1), "wrong_version"),
        "a packet of another session": (_by_hand(peer, flags.DATA, bytes(30), session_id=b"?" * 32), "wrong_session"),
        "no payload at all": (_by_hand(peer, flags.DATA, b""), "decrypt_failed"),
        "a short frame": (b"\2", "malformed"),
        "a tail too many": (genuine + b"\0", "malformed"),
        "a frame of zeros": (bytes(100), "malformed"),
    }


async def _is_not_disturbed(
    peer: Peer, session: phantom.PhantomSession, last: bytes, message: Callable[[int], Any]
) -> None:
    genuine = peer.seal(flags.PING, stream_id=0)
    await peer.send(framed(genuine))
    for number, (name, (frame, counter)) in enumerate(_nuisances(peer, last, genuine).items()):
        before = session.metrics_snapshot().dropped_total
        await peer.send(framed(frame))
        await message(number)
        after = session.metrics_snapshot().dropped_total
        assert {key: count - before[key] for key, count in after.items() if count != before[key]} == {counter: 1}, name


async def test_a_server_is_not_disturbed_by_frames_that_are_none_of_the_session(server_key: Any) -> None:
    async with besieged(server_key) as siege, hostile_client(siege.listener) as peer:
        await client_handshake(peer, siege.listener)
        await peer.send(framed(peer.seal(flags.PING, stream_id=0)))
        last = await peer.frame()
        peer.open(last)
        await until(lambda: siege.sessions)

        async def message(number: int) -> None:
            plaintext = number.to_bytes(4, "big") + b"\0\0\0\1" + bytes([number])
            await peer.send(framed(peer.seal(flags.DATA, plaintext)))
            assert await _echo_of(peer, number) == bytes([number])

        await _is_not_disturbed(peer, siege.sessions[0], last, message)
        await peer.send(framed(peer.seal(flags.CLOSE, frames.pad(frames.encode_close(0), 65536) or b"", stream_id=0)))
        peer.half_close()
        await peer.read_to_the_end()
        await until(lambda: siege.ended)
        assert siege.ended == [None]


async def test_a_client_is_not_disturbed_by_frames_that_are_none_of_the_session(server_key: Any) -> None:
    done = asyncio.Event()
    sessions: list[phantom.PhantomSession] = []

    async def behave(peer: Peer) -> None:
        await server_handshake(peer, server_key)
        last = await peer.frame()
        peer.open(last)
        await until(lambda: sessions)

        async def message(number: int) -> None:
            plaintext = number.to_bytes(4, "big") + b"\0\0\0\1" + bytes([number])
            await peer.send(framed(peer.seal(flags.DATA, plaintext)))
            assert await sessions[0].recv(PATIENCE) == bytes([number])

        try:
            await _is_not_disturbed(peer, sessions[0], last, message)
        finally:
            done.set()
        await peer.read_to_the_end()

    async with nothing_left(), hostile_server(behave) as target:
        sessions.append(await phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE))
        await done.wait()
        await sessions[0].disconnect()


@pytest.mark.parametrize("what", ["PINGs", "empty frames between", "acknowledgements", "duplicates"])
async def test_a_flood_of_small_packets_costs_the_server_nothing_lasting(server_key: Any, what: str) -> None:
    async with besieged(server_key) as siege, hostile_client(siege.listener) as peer:
        await client_handshake(peer, siege.listener)
        message = framed(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\2hi"))
        await peer.send(message)
        assert (await peer.opened(flags.DATA)).plaintext[8:] == b"hi"
        sack = bytes.fromhex("0000000000000000000100000000")
        tracemalloc.start()
        try:
            for _ in range(20):
                if what == "PINGs":
                    flood = framed(*(peer.seal(flags.PING, stream_id=0) for _ in range(500)))
                elif what == "empty frames between":
                    flood = (bytes(4 * 60) + framed(peer.seal(flags.PONG, stream_id=0))) * 1 + b""
                elif what == "acknowledgements":
                    flood = framed(*(peer.seal(flags.ACK_WORD, sack) for _ in range(500)))
                else:
                    flood = framed(*(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\2hi") for _ in range(500)))
                await peer.send(flood)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 << 20
        second = (1).to_bytes(4, "big") + b"\0\0\0\1!"
        await peer.send(framed(peer.seal(flags.DATA, second)))
        while (await peer.opened(flags.DATA)).plaintext != second:
            pass
        assert siege.ended == []


async def test_a_message_over_the_limit_ends_the_session_by_name(server_key: Any) -> None:
    async with besieged(server_key) as siege, hostile_client(siege.listener) as peer:
        await client_handshake(peer, siege.listener)
        await peer.send(framed(peer.seal(flags.DATA, bytes(4) + struct.pack(">I", limits.MAX_MESSAGE + 1))))
        close = await peer.opened(flags.CONTROL)
        end = frames.unpad(close.plaintext, 0, len(close.plaintext))
        assert frames.decode_control(close.plaintext, 0, end) == 39
        peer.half_close()
        await peer.read_to_the_end()
        await until(lambda: siege.ended)
        assert type(siege.ended[0]) is errors.ProtocolViolationError


async def test_a_client_that_never_reads_is_told_why_it_was_closed(server_key: Any) -> None:
    """CLOSE waits behind what the kernel does not take; it was forgotten there."""
    sessions: list[phantom.PhantomSession] = []

    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        async with nothing_left(listener), hostile_client(listener) as peer:
            await client_handshake(peer, listener)
            await peer.send(framed(peer.seal(flags.WINDOW_WORD, (1 << 25).to_bytes(8, "big"))))
            sessions.append((await listener.accept(PATIENCE)).session)
            await sessions[0].await_ready(PATIENCE)
            await sessions[0].send(bytes(limits.MAX_MESSAGE))
            await until(lambda: sessions[0]._driver is not None and sessions[0]._driver.conn.path.blocked)
            assert sessions[0]._driver is not None
            sessions[0]._driver.abort(phantom.BusyError("enough"))
            with pytest.raises(phantom.BusyError):
                await sessions[0].recv(PATIENCE)
            while not (packet := await peer.opened(flags.ENCRYPTED)).word & flags.CONTROL:
                pass
            end = frames.unpad(packet.plaintext, 0, len(packet.plaintext))
            assert frames.decode_control(packet.plaintext, 0, end) == 3


# --- a hostile server -------------------------------------------------------------------------------------------------

SERVER_STEPS = {
    "accepted": 0,
    "in the hello": 0,
    "after the hello": 0,
    "in the prefix": 2,
    "after the prefix": 4,
    "in the reply": 4000,
    "at the last byte": 4 + REPLY - 1,
}
SERVER_ESTABLISHED = ["after the reply", "after the first packet", "in a packet", "after a message"]


async def _reach_as_server(step: str, peer: Peer, key: phantom.HybridSigningKey) -> None:
    if step == "accepted":
        return
    if step == "in the hello":
        await peer.reader.readexactly(100)
        return
    hello = await peer.frame()
    reply, result = answer(key, hello)
    if step in SERVER_STEPS:
        await peer.send(framed(reply)[: SERVER_STEPS[step]])
        result.wipe()
        return
    await peer.send(framed(reply))
    peer.establish(result)
    if step == "after the reply":
        return
    await peer.frame()
    message = framed(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\2hi"))
    if step == "in a packet":
        await peer.send(message[:30])
    elif step == "after a message":
        await peer.send(message)


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_server_that_misbehaves_before_it_is_known(server_key: Any, action: str, seed: int) -> None:
    async def attack(number: int, step: str) -> None:
        async def behave(peer: Peer) -> None:
            await _reach_as_server(step, peer, server_key)
            await _act(action, peer, random.Random(seed + number))

        async with hostile_server(behave) as target:
            error = await _connect_fails(target, server_key, HASTY)
        if action == "stalls":
            assert type(error) is errors.HandshakeTimeoutError, step
        elif action != "floods":
            assert type(error) is errors.NetworkError, step
        else:
            assert isinstance(error, (errors.RemoteError, errors.TransportError)), step
            assert not isinstance(error, errors.ServerIdentityMismatchError) or step == "in the reply"

    async with nothing_left(), asyncio.TaskGroup() as tasks:
        for number, step in enumerate(SERVER_STEPS):
            tasks.create_task(attack(number, step))


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_server_that_misbehaves_in_the_session(server_key: Any, action: str, seed: int) -> None:
    async def attack(number: int, step: str) -> None:
        async def behave(peer: Peer) -> None:
            await _reach_as_server(step, peer, server_key)
            await _act(action, peer, random.Random(seed + number))

        async with hostile_server(behave) as target:
            with pytest.raises(phantom.SessionDeadError):
                session = await phantom.connect(target, server_key.verifying_key(), config=HASTY, timeout=PATIENCE)
                try:
                    while await session.recv(PATIENCE) == b"hi":
                        pass
                finally:
                    assert isinstance(session.last_error(), phantom.SessionDeadError)
                    assert session.state is phantom.ConnectionState.DEAD
                    assert await session.disconnect() is True

    async with nothing_left(), asyncio.TaskGroup() as tasks:
        for number, step in enumerate(SERVER_ESTABLISHED):
            tasks.create_task(attack(number, step))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", errors.SerializationError),
        (b"\0", errors.SerializationError),
        (b"\0\2", errors.HandshakeError),  # Unsupported, and no V3 hello was sent
        (b"\1", errors.SerializationError),
        (b"\1\0\0\0", errors.HandshakeError),  # a retry that does not say what for
        (b"\2PRJ1\1\2", errors.ProtocolRejectedError),
        (b"\2PRJ1\2\2", errors.ServerBusyError),
        (b"\2PRJ1\7\2", errors.ProtocolRejectedError),
        (b"\2PRJ2\1\2", errors.SerializationError),
        (b"\3", errors.SerializationError),
        (b"\xff" * 50, errors.SerializationError),
    ],
)
async def test_row08_a_reply_that_is_ambiguous_is_fatal(
    server_key: Any, reply: bytes, error: type[phantom.PhantomError]
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.frame()
        await peer.send(framed(reply))
        await peer.read_to_the_end()

    async with nothing_left(), hostile_server(behave) as target:
        assert type(await _connect_fails(target, server_key)) is error


@pytest.mark.parametrize("tail", [b"\0", b"x" * 1000])
async def test_row08_a_byte_behind_the_reply_is_fatal(server_key: Any, tail: bytes) -> None:
    async def behave(peer: Peer) -> None:
        reply, result = answer(server_key, await peer.frame())
        result.wipe()
        await peer.send(framed(reply + tail))
        await peer.read_to_the_end()

    async with nothing_left(), hostile_server(behave) as target:
        assert type(await _connect_fails(target, server_key)) is errors.SerializationError


async def test_a_server_that_asks_for_ever_is_left(server_key: Any) -> None:
    asked = 0

    async def behave(peer: Peer) -> None:
        nonlocal asked
        while await peer.frame():
            asked += 1
            await peer.send(framed(HelloRetryRequest(None, bytes(32)).encode()))

    async with nothing_left(), hostile_server(behave) as target:
        assert type(await _connect_fails(target, server_key)) is errors.RetryLimitError
    assert asked == 4


async def test_an_impostor_with_the_reply_of_another_handshake(server_key: Any) -> None:
    recorded: list[bytes] = []

    async def behave(peer: Peer) -> None:
        hello = await peer.frame()
        if not recorded:
            reply, result = answer(server_key, hello)
            result.wipe()
            recorded.append(reply)
        await peer.send(framed(recorded[0]))
        await peer.read_to_the_end()

    async with nothing_left(), hostile_server(behave) as target:
        session = await phantom.connect(target, server_key.verifying_key(), timeout=PATIENCE)
        await session.disconnect()
        assert type(await _connect_fails(target, server_key)) is errors.SignatureInvalidError


# --- random frames ----------------------------------------------------------------------------------------------------


def _mutant(rng: random.Random, genuine: bytes) -> bytes:
    """Random bytes, or a genuine frame that was cut, stretched, flipped or shuffled."""
    while (frame := _attempt(rng, genuine)) == genuine:
        pass
    return frame


def _attempt(rng: random.Random, genuine: bytes) -> bytes:
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.choice((1, 2, 5, 53, 69, 70, 500, 5000)))
    if kind == 1:
        return genuine[: rng.randrange(1, len(genuine))]
    if kind == 2:
        return genuine + rng.randbytes(rng.choice((1, 4, 16, 1000)))
    if kind == 3:
        found = bytearray(genuine)
        for _ in range(rng.choice((1, 1, 2, 8))):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
        return bytes(found)
    if kind == 4:
        half = rng.randrange(len(genuine))
        return genuine[half:] + genuine[:half]
    if kind == 5:
        return bytes([rng.randrange(256)]) + genuine[1:]
    return genuine[:1] + bytes(len(genuine) - 1)


@pytest.mark.parametrize("cookie", ["auto", "always"])
async def test_random_frames_before_the_handshake(server_key: Any, rng: random.Random, cookie: str) -> None:
    config = PhantomConfig(cookie=cookie, max_inflight_per_source=64)
    async with besieged(server_key, config) as siege:

        async def attack(frame: bytes) -> None:
            async with hostile_client(siege.listener) as peer:
                if cookie == "always":
                    await peer.send(framed(hello))
                    assert (await peer.frame())[:1] == b"\1"
                await peer.send(framed(frame))
                peer.half_close()
                reply = await peer.read_to_the_end()
                assert reply == b"" or reply[4] in (0, 1, 2)

        hello = first_hello(siege.listener)
        for _ in range(10):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(20):
                    tasks.create_task(attack(_mutant(rng, hello)))


async def test_random_frames_before_the_first_packet(server_key: Any, rng: random.Random) -> None:
    async with besieged(server_key) as siege:
        for _ in range(5):
            async with hostile_client(siege.listener) as peer:
                await client_handshake(peer, siege.listener)
                genuine = peer.seal(flags.PING, stream_id=0)
                await peer.send(framed(*(_mutant(rng, genuine) for _ in range(100))))
                await peer.send(framed(peer.seal(flags.DATA, bytes(4) + b"\0\0\0\2hi")))
                assert (await peer.opened(flags.DATA)).plaintext[8:] == b"hi"


@pytest.mark.parametrize("sealed", [False, True])
async def test_random_frames_in_the_session(server_key: Any, rng: random.Random, sealed: bool) -> None:
    """Sealed or not: with real keys the plaintext and the flags are random instead."""
    async with besieged(server_key) as siege, hostile_client(siege.listener) as peer:
        await client_handshake(peer, siege.listener)
        harmless = [
            flags.ENCRYPTED | word
            for word in (
                flags.ACK,
                flags.WINDOW_UPDATE,
                flags.KEEPALIVE,
                flags.PATH_VALIDATION,
                flags.COVER,
                flags.COALESCED,
                flags.COMPRESSED,
                flags.UNRELIABLE,
                flags.PADDED | flags.ACK,
                flags.PADDED | flags.COVER,
            )
        ]
        for number in range(20):
            if sealed:
                frames_ = [
                    peer.seal(
                        rng.choice(harmless),
                        rng.randbytes(rng.choice((0, 1, 4, 8, 14, 32, 100))),
                        stream_id=rng.choice((0, 1, 1, 2, 3, 65535)),
                        path_id=rng.choice((0, 0, 1, 255)),
                    )
                    for _ in range(30)
                ]
            else:
                genuine = peer.seal(flags.DATA, number.to_bytes(4, "big") + b"\0\0\0\1x")
                frames_ = [_mutant(rng, genuine) for _ in range(30)]
            await peer.send(framed(*frames_))
            plaintext = number.to_bytes(4, "big") + b"\0\0\0\1" + bytes([number])
            await peer.send(framed(peer.seal(flags.DATA, plaintext)))
            assert await _echo_of(peer, number) == bytes([number])


async def test_random_frames_after_a_close(server_key: Any, rng: random.Random) -> None:
    async with besieged(server_key) as siege:
        for _ in range(5):
            async with hostile_client(siege.listener) as peer:
                await client_handshake(peer, siege.listener)
                plaintext = frames.pad(frames.encode_close(0), limits.MAX_SHAPED_WIRE_PIPE)
                assert plaintext is not None
                close = peer.seal(flags.CLOSE, plaintext, stream_id=0)
                await peer.send(framed(close, close, *(_mutant(rng, close) for _ in range(50))))
                peer.half_close()
                await peer.read_to_the_end()
        await until(lambda: len(siege.ended) == 5)
        assert siege.ended == [None] * 5


@pytest.mark.parametrize("established", [False, True])
async def test_random_bytes_without_any_framing(server_key: Any, rng: random.Random, established: bool) -> None:
    async with besieged(server_key) as siege:

        async def attack(data: bytes) -> None:
            async with hostile_client(siege.listener) as peer:
                if established:
                    await client_handshake(peer, siege.listener)
                    await peer.send(framed(peer.seal(flags.PING, stream_id=0)))
                await peer.send(data)
                peer.half_close()
                await peer.read_to_the_end()

        for _ in range(10):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(5):
                    tasks.create_task(attack(rng.randbytes(rng.choice((1, 3, 4, 5, 100, 5000, 70_000)))))


async def test_random_replies_to_connect(server_key: Any, rng: random.Random) -> None:
    async def behave(peer: Peer) -> None:
        reply, result = answer(server_key, await peer.frame())
        result.wipe()
        await peer.send(framed(_mutant(rng, reply)))
        peer.half_close()
        await peer.read_to_the_end()

    async with nothing_left(), hostile_server(behave) as target:
        for _ in range(40):
            try:
                session = await phantom.connect(target, server_key.verifying_key(), config=HASTY, timeout=PATIENCE)
            except (errors.RemoteError, errors.TransportError):
                continue
            await session.disconnect()
            pytest.fail("no altered reply may be accepted")
