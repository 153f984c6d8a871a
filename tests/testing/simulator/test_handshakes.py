"""Handshakes over datagrams: fragments, resends, replies that are repeated and never made anew."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from phantom.api.identity import HybridSigningKey
from phantom.crypto.pins import PinSet
from phantom.crypto.providers import get_provider
from phantom.errors import HandshakeTimeoutError, ServerIdentityMismatchError
from phantom.testing.simulator import DatagramLink, Link, Plan, VirtualTime, World
from phantom.testing.simulator.handshakes import Assembly, HandshakeClient, HandshakeServer, SeededRng, fragments
from phantom.transport.handshake.gate import Gate, Source

TOKEN = b"t" * 16
RNG = SeededRng(random.Random(5))
KEY = HybridSigningKey(RNG.fill_bytes(64))


def anyone(token: bytes, packet_id: int) -> bool:
    return True


def test_a_frame_survives_its_fragments_in_any_order_and_number() -> None:
    frame = random.Random(1).randbytes(5000)
    chunks = fragments(TOKEN, 3, frame)
    assert [len(chunk) for chunk in chunks] == [1229, 1229, 1229, 1229, 229]
    assembly = Assembly()
    for place in (4, 2, 2, 0, 4, 1):
        assert assembly.take(chunks[place], anyone) == (None, place)
    assert assembly.take(chunks[3], anyone) == (frame, 3)


def test_a_repeated_index_does_not_overwrite() -> None:
    assembly = Assembly()
    good, bad = fragments(TOKEN, 0, b"a" * 1300), fragments(TOKEN, 0, b"b" * 1300)
    assembly.take(good[0], anyone)
    assembly.take(bad[0], anyone)
    assert assembly.take(good[1], anyone)[0] == b"a" * 1300


def test_another_message_replaces_an_unfinished_one() -> None:
    assembly = Assembly()
    assembly.take(fragments(TOKEN, 0, b"a" * 1300)[0], anyone)
    assert assembly.take(fragments(TOKEN, 1, b"short")[0], anyone)[0] == b"short"
    assert assembly.packet_id == 1


HEAD = fragments(TOKEN, 0, b"x" * 1300)[0]


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        HEAD[:20],
        b"\2" + HEAD[1:],
        HEAD[:-1],
        HEAD + b"y",
        HEAD[:21] + b"\5\0" + HEAD[23:],
        HEAD[:23] + b"\0\0" + HEAD[25:],
        HEAD[:23] + b"\x11\0" + HEAD[25:],
        HEAD[:25] + (100).to_bytes(4, "little") + b"x" * 100,
        HEAD[:23] + b"\1\0" + (1201).to_bytes(4, "little") + b"x" * 1201,
    ],
    ids=["empty", "short", "kind", "cut", "longer", "index", "no chunks", "17 chunks", "small first", "large"],
)
def test_what_is_no_fragment_is_dropped(datagram: bytes) -> None:
    assert Assembly().take(datagram, anyone) == (None, -1)


def test_chunks_that_disagree_about_their_number_are_dropped() -> None:
    assembly = Assembly()
    assembly.take(HEAD, anyone)
    assert assembly.take(fragments(TOKEN, 0, b"z" * 2500)[1], anyone) == (None, -1)
    assert assembly.take(fragments(TOKEN, 9, b"z")[0], lambda token, packet_id: packet_id == 0) == (None, -1)


class Meeting:
    """One client and one server on their links, as the world puts them together."""

    def __init__(self, up: Link, down: Link, *, pin: HybridSigningKey = KEY, seed: int = 3) -> None:
        self.clock = VirtualTime()
        rng, provider = SeededRng(random.Random(seed)), get_provider()
        self.up = DatagramLink(self.clock, random.Random(seed + 1), up)
        self.down = DatagramLink(self.clock, random.Random(seed + 2), down)
        gate = Gate(rng.fill_bytes(32), rng=rng)
        source = Source("192.0.2.7", proves_address=False)
        self.client = HandshakeClient(self.clock, self.up, PinSet.parse(pin.verifying_key()), provider, rng)
        self.server = HandshakeServer(self.clock, self.down, KEY, gate, source, provider, rng)
        self.up.receiver, self.down.receiver = self.server.receive, self.client.receive

    def meet(self, until: float = 30.0) -> Meeting:
        self.client.start()
        self.clock.run(until)
        return self


def test_two_round_trips_make_a_session() -> None:
    meeting = Meeting(Link(latency=0.05), Link(latency=0.05)).meet(1.0)
    client, server = meeting.client, meeting.server
    assert client.error is None
    assert client.result is not None
    assert server.result is not None
    assert client.result.session_id == server.result.session_id
    assert client.result.shared_secret == server.result.shared_secret
    assert client.seconds == pytest.approx(0.2)  # a cookie first: the address is not proven
    assert client.result.retries == 1
    assert (server.sessions, server.repeats) == (1, 0)


def test_a_lost_reply_is_repeated_and_never_made_anew() -> None:
    meeting = Meeting(Link(latency=0.01), Link(latency=0.01))
    lost: list[bytes] = []
    deliver: Callable[[bytes], None] = meeting.client.receive

    def lossy(datagram: bytes) -> None:
        answers_hello = datagram[17] == 1
        if answers_hello and len(lost) < 10:  # the whole first reply of seven chunks, and a part of the second
            lost.append(datagram)
        else:
            deliver(datagram)

    meeting.down.receiver = lossy
    meeting.meet()
    assert meeting.client.result is not None
    assert meeting.server.sessions == 1
    assert meeting.server.repeats == 2
    assert 0.5 < meeting.client.seconds < 0.6  # two resends of the hello, 250 ms apart


def test_repeats_are_at_most_one_in_200_ms() -> None:
    meeting = Meeting(Link(latency=0.01), Link(latency=0.01))
    replies: list[float] = []
    real = meeting.client.receive
    meeting.down.receiver = lambda datagram: replies.append(meeting.clock.now) if datagram[17] == 1 else real(datagram)
    meeting.meet(3.0)
    bursts = sorted(set(replies))
    assert len(bursts) > 5
    assert min(later - earlier for earlier, later in zip(bursts, bursts[1:], strict=False)) >= 0.2  # noqa: RUF007


def test_a_server_that_never_answers_is_given_up_after_the_deadline() -> None:
    meeting = Meeting(Link(loss=1.0), Link()).meet()
    assert isinstance(meeting.client.error, HandshakeTimeoutError)
    assert meeting.client.seconds == pytest.approx(10.0)
    assert meeting.client.datagrams == pytest.approx(3 * 40, abs=6)
    meeting.client.receive(b"too late")


def test_another_key_than_the_pinned_one_is_refused() -> None:
    other = HybridSigningKey(SeededRng(random.Random(9)).fill_bytes(64))
    meeting = Meeting(Link(), Link(), pin=other).meet(1.0)
    assert isinstance(meeting.client.error, ServerIdentityMismatchError)


def test_what_is_no_hello_closes_the_server() -> None:
    meeting = Meeting(Link(), Link())
    meeting.server.receive(fragments(TOKEN, 0, b"\7nonsense")[0])
    assert meeting.server.closed == "not a hello"
    assert meeting.server.result is None


def test_a_plan_of_handshakes_says_how_many_completed() -> None:
    plan = Plan("h", up=Link(latency=0.02, loss=0.2, burst=2), down=Link(latency=0.02), handshakes=5, sessions=0)
    outcome = World(plan, 4).play()
    assert outcome.ok
    assert outcome.handshakes == 5
    assert 0.08 <= outcome.slowest < 10
    dead = World(Plan("h", down=Link(loss=1.0), handshakes=2, sessions=0), 4).play()
    assert dead.invariant == "handshake"
    assert dead.failure.startswith("0 of 2 handshakes completed")


def test_ends_with_different_secrets_are_noticed() -> None:
    world = World(Plan("h", handshakes=1, sessions=0), 1)

    def meddle() -> None:
        world._handshakes[0][1].result.shared_secret[0] ^= 1  # type: ignore[union-attr]

    world.clock.at(0.035, meddle)
    assert "different secrets" in world.play().failure


def test_two_sessions_of_one_hello_are_noticed() -> None:
    world = World(Plan("h", handshakes=1, sessions=0), 1)

    def meddle() -> None:
        world._handshakes[0][1].sessions = 2

    world.clock.at(0.035, meddle)
    assert "2 sessions" in world.play().failure


def test_proof_of_work_is_not_simulated() -> None:
    meeting = Meeting(Link(), Link())
    rng = SeededRng(random.Random(1))
    gate = Gate(rng.fill_bytes(32), rng=rng, load_tiers=((0, 8),))
    source = Source("192.0.2.9", proves_address=False)
    server = HandshakeServer(meeting.clock, meeting.down, KEY, gate, source, get_provider(), rng)
    meeting.up.receiver = server.receive
    meeting.meet(2.0)
    assert "proof of work" in str(meeting.client.error)
