"""Client identities end to end (surface §11.2; wire-native §15.7 and rows 57 to 59 of its Appendix A).

A hostile client here is an honest one whose identity signs something else, or whose engine says something else. After
each attack the listener holds nothing of it, and an honest client gets in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.api.connecting import connect_with_transport
from phantom.api.listener import PhantomListener
from phantom.config import PhantomConfig
from phantom.crypto.rng import SYSTEM_RNG
from phantom.runtime import AsyncioRuntime
from phantom.testing import memory_leg_pair, run_virtual
from phantom.testing.memory_leg import MemoryLeg
from phantom.transport.handshake.gate import Source
from phantom.transport.legs.tcp import connect_tcp
from phantom.transport.session.client_auth import ClientAuthResponder
from phantom.transport.session.control import encode_auth_result, encode_client_auth
from tests.calm import PATIENCE, at_rest, turns, until

ED25519_SIGNATURE = 64


@pytest.fixture(scope="module")
def alice() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(scope="module")
def mallory() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@dataclass
class House:
    """A listener with a policy, and whom it let in."""

    listener: phantom.PhantomListener
    guests: list[phantom.AcceptOutcome] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.listener.urls[0]

    async def is_empty_again(self) -> None:
        await until(lambda: at_rest(self.listener))
        assert self.listener._withheld == {}

    async def lets_in(self, key: phantom.HybridSigningKey) -> None:
        async with phantom.connect(self.url, identity=key, timeout=PATIENCE) as session:
            await session.send(b"honest")
            assert await session.recv(PATIENCE) == b"honest"
        assert self.guests[-1].client_identity == key.verifying_key()


@asynccontextmanager
async def house(policy: phantom.ClientPolicy, **arguments: Any) -> AsyncIterator[House]:
    """An echo server; everything that reaches its application is written down."""
    async with phantom.listen("127.0.0.1:0", clients=policy, **arguments) as listener:
        place = House(listener)
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(_accept(place, tasks))
            yield place
            await listener.drain(1.0)
            await accepting


async def _accept(place: House, tasks: asyncio.TaskGroup) -> None:
    async for outcome in place.listener:
        place.guests.append(outcome)
        tasks.create_task(_echo(place, outcome.session))


async def _echo(place: House, session: phantom.PhantomSession) -> None:
    with suppress(phantom.PhantomError):
        async for message in session:
            place.heard.append(message)
            await session.send(message)
    await session.disconnect()


def only(*keys: phantom.HybridSigningKey) -> phantom.ClientPolicy:
    return phantom.ClientPolicy.required(phantom.AuthorizedClients.from_pins([key.verifying_key() for key in keys]))


class Forger(phantom.HybridSigningKey):
    """Says it is somebody, and signs as it is told."""

    __slots__ = ("claims", "forge", "signed")

    def __init__(
        self,
        key: phantom.HybridSigningKey,
        forge: Callable[[bytes], bytes] = lambda signature: signature,
        claims: phantom.HybridSigningKey | None = None,
    ) -> None:
        super().__init__(key.to_bytes())
        self.forge = forge
        self.claims = claims
        self.signed: list[bytes] = []

    def verifying_key(self) -> phantom.HybridVerifyingKey:
        return super().verifying_key() if self.claims is None else self.claims.verifying_key()

    def _sign_raw(self, message: Any) -> bytes:
        self.signed.append(bytes(message))
        return self.forge(super()._sign_raw(message))


def flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(signature: bytes) -> bytes:
        return signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]

    return flip


# --- row 57: the identity is bound to transcript and secret -----------------------------------------------------------

WRONG: dict[str, Callable[[phantom.HybridSigningKey, phantom.HybridSigningKey], phantom.HybridSigningKey]] = {
    "first half": lambda alice, mallory: Forger(alice, flipped(3)),
    "second half": lambda alice, mallory: Forger(alice, flipped(ED25519_SIGNATURE + 9)),
    "of another key": lambda alice, mallory: Forger(mallory, claims=alice),
    "one half of another key": lambda alice, mallory: Forger(
        alice, lambda good: good[:ED25519_SIGNATURE] + mallory._sign_raw(b"x")[ED25519_SIGNATURE:]
    ),
}


@pytest.mark.parametrize("policy", ["required", "optional"])
@pytest.mark.parametrize("forgery", WRONG.values(), ids=WRONG)
async def test_wa57_a_wrong_signature_is_refused(
    alice: phantom.HybridSigningKey, mallory: phantom.HybridSigningKey, forgery: Any, policy: str
) -> None:
    async with house(only(alice) if policy == "required" else phantom.ClientPolicy.optional()) as place:
        with pytest.raises(phantom.ClientAuthError, match="refused this client's identity"):
            await phantom.connect(place.url, identity=forgery(alice, mallory), timeout=PATIENCE)
        await place.is_empty_again()
        assert place.heard == []
        assert [outcome.client_identity for outcome in place.guests] == []
        await place.lets_in(alice)


async def test_wa57_a_proof_from_another_session_is_refused(alice: phantom.HybridSigningKey) -> None:
    """Recorded by the client itself, so that it is as good as a recording can be."""
    recorded: list[bytes] = []

    def replay(signature: bytes) -> bytes:
        recorded.append(signature)
        return recorded[0]

    thief = Forger(alice, replay)
    async with house(only(alice)) as place:
        async with phantom.connect(place.url, identity=thief, timeout=PATIENCE):
            pass  # the first time it is the signature of this very session
        with pytest.raises(phantom.ClientAuthError):
            await phantom.connect(place.url, identity=thief, timeout=PATIENCE)
        assert thief.signed[0] != thief.signed[1]
        await place.is_empty_again()
        await place.lets_in(alice)


async def test_wa57_a_proof_given_to_one_server_is_worth_nothing_at_another(alice: phantom.HybridSigningKey) -> None:
    """What a dishonest server learns from its client it cannot use elsewhere."""
    given: list[bytes] = []
    victim = Forger(alice, lambda signature: given.append(signature) or signature)
    async with house(only(alice)) as dishonest, house(only(alice)) as target:
        async with phantom.connect(dishonest.url, identity=victim, timeout=PATIENCE):
            pass
        with pytest.raises(phantom.ClientAuthError):
            await phantom.connect(target.url, identity=Forger(alice, lambda _: given[0]), timeout=PATIENCE)
        assert target.guests == []


async def test_wa57_what_is_signed_is_the_label_the_transcript_and_a_secret(alice: phantom.HybridSigningKey) -> None:
    witness = Forger(alice)
    async with house(only(alice)) as place:
        async with phantom.connect(place.url, identity=witness, timeout=PATIENCE):
            pass
    (message,) = witness.signed
    assert message.startswith(b"phantom-client-auth-v1")
    assert len(message) == 22 + 32 + 32


@pytest.mark.parametrize(
    "message",
    [
        lambda key: encode_client_auth(key.verifying_key().to_bytes(), bytes(3373)),
        lambda key: encode_auth_result(0),
    ],
    ids=["a second CLIENT_AUTH", "AUTH_RESULT from the client"],
)
async def test_wa57_what_a_client_may_not_say_ends_the_session(
    alice: phantom.HybridSigningKey, message: Callable[[phantom.HybridSigningKey], bytes]
) -> None:
    async with house(only(alice)) as place:
        session = await phantom.connect(place.url, identity=alice, timeout=PATIENCE)
        await until(lambda: place.guests)
        _say(session, message(alice))
        with pytest.raises(phantom.ConnectionClosedError) as closed:
            await session.recv(PATIENCE)
        assert closed.value.peer_code == phantom.ProtocolViolationError.code
        await session.disconnect()
        await until(lambda: place.guests[0].session.last_error() is not None)
        assert isinstance(place.guests[0].session.last_error(), phantom.ProtocolViolationError)
        await place.is_empty_again()
        await place.lets_in(alice)


@pytest.mark.parametrize(
    "message",
    [
        lambda key: encode_client_auth(key.verifying_key().to_bytes(), bytes(3373)),
        lambda key: encode_auth_result(0),
        lambda key: encode_auth_result(3),
    ],
    ids=["CLIENT_AUTH from the server", "a second AUTH_RESULT", "an unknown AUTH_RESULT"],
)
async def test_wa57_what_a_server_may_not_say_ends_the_session(
    alice: phantom.HybridSigningKey, message: Callable[[phantom.HybridSigningKey], bytes]
) -> None:
    async with house(only(alice)) as place:
        session = await phantom.connect(place.url, identity=alice, timeout=PATIENCE)
        await until(lambda: place.guests)
        _say(place.guests[0].session, message(alice))
        with pytest.raises(phantom.ProtocolViolationError):
            await session.recv(PATIENCE)
        await session.disconnect()


def _say(session: phantom.PhantomSession, message: bytes) -> None:
    """Puts a message on the control stream, as an engine without rules would."""
    driver = session._driver
    assert driver is not None
    driver.conn.send_control(message)
    driver._settle()


# --- row 58: nothing surfaces before acceptance -----------------------------------------------------------------------


async def test_wa58_data_first_ends_the_session_and_reaches_nobody(alice: phantom.HybridSigningKey) -> None:
    async with house(only(alice)) as place:
        session = await phantom.connect(place.url, timeout=PATIENCE)  # it has no identity, and does not know yet
        await session.send(b"let me in")
        with pytest.raises(phantom.ClientAuthError, match="requires a client identity"):
            await session.recv(PATIENCE)
        with pytest.raises(phantom.ClientAuthError):
            await session.send(b"again")
        assert isinstance(session.last_error(), phantom.ClientAuthError)
        await session.disconnect()
        await place.is_empty_again()
        assert (place.guests, place.heard) == ([], [])
        await place.lets_in(alice)


def test_wa58_data_first_ends_the_session_at_once(alice: phantom.HybridSigningKey) -> None:
    async def scenario() -> None:
        server, client, _ = _virtual_pair(only(alice))
        await client.send(b"let me in")
        with pytest.raises(phantom.ClientAuthError, match="requires a client identity"):
            await client.recv(2)
        await client.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "unreliable"])
def test_wa58_no_stream_surfaces_before_acceptance(alice: phantom.HybridSigningKey, reliable: bool) -> None:
    async def scenario() -> None:
        server, client, _ = _virtual_pair(only(alice))
        stream = await client.open_stream()
        if reliable:
            await stream.send_reliable(b"let me in")
        else:
            await stream.send_unreliable(b"let me in")
        with pytest.raises(phantom.ClientAuthError, match="requires a client identity"):
            await stream.recv(2)
        with pytest.raises(phantom.PhantomTimeoutError):
            await server.accept(5)
        await client.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


def test_wa58_streams_opened_while_the_verdict_is_out_arrive_after_it(alice: phantom.HybridSigningKey) -> None:
    async def scenario() -> None:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def ask(key: phantom.HybridVerifyingKey) -> bool:
            return await verdict

        server, client, _ = _virtual_pair(phantom.ClientPolicy.required(ask), identity=alice)
        stream = await client.open_stream()
        await stream.send_reliable(b"patient")
        await stream.finish()
        await asyncio.sleep(3)
        (withheld,) = server._withheld
        assert withheld._driver is not None
        assert withheld._driver.conn.active_streams == 0, "nothing but the identity has left the client"
        verdict.set_result(True)
        session = (await server.accept(5)).session
        arrived = await session.accept_stream(5)
        assert await arrived.recv(5) == b"patient"
        assert await arrived.recv(5) is None
        await arrived.finish()
        await client.disconnect()
        await session.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


async def test_the_drop_ins_take_identities_too(alice: phantom.HybridSigningKey) -> None:
    greeted: list[phantom.HybridVerifyingKey | None] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted.append(writer.get_extra_info("phantom_session").peer_identity())
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await phantom.start_server(greet, "127.0.0.1:0", clients=only(alice))
    async with server:
        url = server.urls[0]
        reader, writer = await phantom.open_connection(url, identity=alice, timeout=PATIENCE)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
    assert greeted == [alice.verifying_key()]


async def test_wa58_version_1_which_has_no_identities_is_refused(alice: phantom.HybridSigningKey) -> None:
    both = PhantomConfig(accept_versions=frozenset({1, 2}))
    old = PhantomConfig(offer_version=1)
    async with house(only(alice), config=both) as place:
        with pytest.raises(phantom.ProtocolRejectedError):
            await phantom.connect(place.url, config=old, timeout=PATIENCE)
        await place.is_empty_again()
        assert place.guests == []
        await place.lets_in(alice)
    with pytest.raises(phantom.ConfigError, match="an identity needs version 2"):
        phantom.connect("127.0.0.1:1", alice.verifying_key(), identity=alice, config=old)


async def test_wa58_optional_takes_version_1_as_a_client_without_identity() -> None:
    both = PhantomConfig(accept_versions=frozenset({1, 2}))
    async with house(phantom.ClientPolicy.optional(), config=both) as place:
        async with phantom.connect(place.url, config=PhantomConfig(offer_version=1), timeout=PATIENCE) as session:
            await session.send(b"old")
            assert await session.recv(PATIENCE) == b"old"
        assert [outcome.client_identity for outcome in place.guests] == [None]


def test_wa58_silence_ends_the_session_at_the_handshake_deadline(alice: phantom.HybridSigningKey) -> None:
    async def scenario() -> None:
        server, client, _ = _virtual_pair(only(alice))
        begun = asyncio.get_running_loop().time()
        await client.await_ready(5)
        with pytest.raises(phantom.ClientAuthError, match="requires a client identity"):
            await client.recv()
        assert asyncio.get_running_loop().time() - begun == pytest.approx(10.0, abs=1.0)
        await client.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


def test_wa58_nothing_surfaces_before_acceptance(alice: phantom.HybridSigningKey) -> None:
    """The verdict takes its time: until it is there, accept waits, the slot is held, the client is Connecting."""

    async def scenario() -> None:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asked: list[phantom.HybridVerifyingKey] = []

        async def ask(key: phantom.HybridVerifyingKey) -> bool:
            asked.append(key)
            return await verdict

        server, client, _ = _virtual_pair(phantom.ClientPolicy.required(ask), identity=alice)
        await client.send(b"early")
        await asyncio.sleep(3)
        assert asked == [alice.verifying_key()]
        assert not server._accepted
        assert len(server._withheld) == server._gate.inflight == 1
        assert client.state is phantom.ConnectionState.CONNECTING
        assert not client.is_data_ready()
        with pytest.raises(phantom.PhantomTimeoutError):
            await server.accept(1)
        with pytest.raises(phantom.PhantomTimeoutError):
            await client.await_ready(1)
        (withheld,) = server._withheld
        assert withheld._driver is not None
        assert not withheld._driver.messages
        assert withheld._driver.conn.session_stream.received == 0, "no data left before AUTH_RESULT"

        verdict.set_result(True)
        await client.await_ready(5)
        assert client.state is phantom.ConnectionState.CONNECTED
        outcome = await server.accept(5)
        assert outcome.client_identity == outcome.session.peer_identity() == alice.verifying_key()
        assert await outcome.session.recv(5) == b"early"
        assert (server._withheld, server._gate.inflight) == ({}, 0)
        await client.disconnect()
        await outcome.session.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


def test_wa58_withheld_sessions_count_among_the_handshakes_in_flight(alice: phantom.HybridSigningKey) -> None:
    """Or clients without an identity could fill a server for nothing."""

    async def scenario() -> None:
        config = PhantomConfig(max_inflight_handshakes=2, max_inflight_per_source=2)
        server, first, _ = _virtual_pair(only(alice), config=config)
        second = _another(server)
        await first.await_ready(5)
        await second.await_ready(5)
        third = _another(server)
        with pytest.raises(phantom.ServerBusyError):
            await third.await_ready(5)
        await asyncio.sleep(11)  # the two are gone
        fourth = _another(server, identity=alice)
        await fourth.await_ready(5)
        outcome = await server.accept(5)
        for session in (first, second, fourth, outcome.session):
            await session.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


async def test_wa58_optional_shows_everybody_and_who_they_are(alice: phantom.HybridSigningKey) -> None:
    async with house(phantom.ClientPolicy.optional()) as place:
        await place.lets_in(alice)
        async with phantom.connect(place.url, timeout=PATIENCE) as session:
            await session.send(b"nobody")
            assert await session.recv(PATIENCE) == b"nobody"
        assert [outcome.client_identity for outcome in place.guests] == [alice.verifying_key(), None]
        assert place.guests[1].session.peer_identity() is None


def test_optional_does_not_keep_those_waiting_who_begin_with_something_else() -> None:
    """On a byte pipe an identity would have come first; so no second is lost on waiting for one."""

    async def scenario() -> None:
        server, client, _ = _virtual_pair(phantom.ClientPolicy.optional())
        outcome = await server.accept(0.9)
        assert outcome.client_identity is None
        await client.disconnect()
        await outcome.session.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


async def test_none_surfaces_no_identity_and_accepts_who_has_one(alice: phantom.HybridSigningKey) -> None:
    async with house(phantom.ClientPolicy.none()) as place:
        forged = Forger(alice, flipped(0))
        async with phantom.connect(place.url, identity=forged, timeout=PATIENCE) as session:
            await session.send(b"anybody")
            assert await session.recv(PATIENCE) == b"anybody"
        assert [outcome.client_identity for outcome in place.guests] == [None]
        assert place.guests[0].session.peer_identity() is None


# --- row 59: refused and missing identities are typed -----------------------------------------------------------------


async def _connect(place: House, key: phantom.HybridSigningKey) -> None:
    await phantom.connect(place.url, identity=key, timeout=PATIENCE)


async def _connect_pinned(place: House, key: phantom.HybridSigningKey) -> None:
    host, _, port = place.listener.local_addr.rpartition(":")
    pin = place.listener.verifying_key_bytes()
    await phantom.connect_pinned(host, int(port), pin, identity=key, timeout=PATIENCE)


async def _over_transport(place: House, key: phantom.HybridSigningKey, then: str) -> None:
    host, _, port = place.listener.local_addr.rpartition(":")
    leg = await connect_tcp(host, int(port), AsyncioRuntime(), PATIENCE)
    session = connect_with_transport("server", leg, place.listener.verifying_key_bytes(), identity=key)
    try:
        if then == "await_ready":
            await session.await_ready(PATIENCE)
        elif then == "recv":
            await session.recv(PATIENCE)
        elif then == "flush_queue":
            await session.send(b"queued")
            await session.flush_queue(PATIENCE)
        else:
            await until(lambda: session.state is phantom.ConnectionState.FAILED)
            error = session.last_error()
            assert error is not None
            raise error
    finally:
        await session.disconnect()
        assert session.state is phantom.ConnectionState.FAILED


async def _blocking(place: House, key: phantom.HybridSigningKey) -> None:
    from phantom import blocking

    await asyncio.to_thread(blocking.connect, place.url, identity=key, timeout=PATIENCE)


ENTRIES: dict[str, Callable[[House, phantom.HybridSigningKey], Awaitable[None]]] = {
    "connect": _connect,
    "connect_pinned": _connect_pinned,
    "await_ready": lambda place, key: _over_transport(place, key, "await_ready"),
    "recv": lambda place, key: _over_transport(place, key, "recv"),
    "flush_queue": lambda place, key: _over_transport(place, key, "flush_queue"),
    "last_error": lambda place, key: _over_transport(place, key, "last_error"),
    "blocking": _blocking,
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
async def test_wa59_a_refused_identity_is_error_43_on_every_entry_point(
    alice: phantom.HybridSigningKey, mallory: phantom.HybridSigningKey, entry: Any
) -> None:
    async with house(only(alice)) as place:
        with pytest.raises(phantom.ClientAuthError) as refused:
            await entry(place, mallory)
        assert (refused.value.code, refused.value.final, refused.value.retryable) == (43, True, False)
        await place.is_empty_again()
        assert place.guests == []
        assert place.listener.metrics_snapshot().handshakes_failure == 1


def test_wa59_a_close_with_code_43_counts_when_the_result_was_lost(
    alice: phantom.HybridSigningKey, mallory: phantom.HybridSigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(ClientAuthResponder, "take_outgoing", lambda self: b"")
        server, client, _ = _virtual_pair(only(alice), identity=mallory)
        with pytest.raises(phantom.ClientAuthError, match="refused"):
            await client.await_ready(9)
        assert client.state is phantom.ConnectionState.FAILED
        await client.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


def test_wa59_no_answer_at_all_is_a_handshake_timeout(alice: phantom.HybridSigningKey) -> None:
    async def scenario() -> None:
        never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def ask(key: phantom.HybridVerifyingKey) -> bool:
            return await never

        patient = PhantomConfig(handshake_timeout=60.0)
        server, client, _ = _virtual_pair(phantom.ClientPolicy.required(ask), identity=alice, config=patient)
        with pytest.raises(phantom.HandshakeTimeoutError):
            await client.await_ready()
        assert client.state is phantom.ConnectionState.FAILED
        never.set_result(False)
        await client.disconnect()
        await _is_empty(server)

    run_virtual(scenario())


# --- the verdict ------------------------------------------------------------------------------------------------------


async def _raising(key: phantom.HybridVerifyingKey) -> bool:
    raise RuntimeError("the database is gone")


def _raising_at_once(key: phantom.HybridVerifyingKey) -> bool:
    raise RuntimeError("the database is gone")


async def _says_yes(key: phantom.HybridVerifyingKey) -> Any:
    return "yes"


@pytest.mark.parametrize("ask", [_raising, _raising_at_once, _says_yes, lambda key: None, lambda key: "yes"])
async def test_only_a_verdict_of_true_lets_somebody_in(
    alice: phantom.HybridSigningKey, caplog: pytest.LogCaptureFixture, ask: Any
) -> None:
    async with house(phantom.ClientPolicy.required(ask)) as place:
        with pytest.raises(phantom.ClientAuthError):
            await phantom.connect(place.url, identity=alice, timeout=PATIENCE)
        await place.is_empty_again()
    assert ("the function that authorises clients failed" in caplog.text) == (ask in (_raising, _raising_at_once))


async def test_a_verdict_that_comes_too_late_changes_nothing(alice: phantom.HybridSigningKey) -> None:
    verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def ask(key: phantom.HybridVerifyingKey) -> bool:
        return await verdict

    async with house(phantom.ClientPolicy.required(ask)) as place:
        connecting = asyncio.ensure_future(phantom.connect(place.url, identity=alice, timeout=PATIENCE)._connect())
        await until(lambda: place.listener._withheld)
        await turns(200)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await until(lambda: not place.listener._withheld)
        verdict.set_result(True)
        await place.is_empty_again()
        assert place.guests == []


async def test_a_listener_that_shuts_down_leaves_no_withheld_session(alice: phantom.HybridSigningKey) -> None:
    never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def ask(key: phantom.HybridVerifyingKey) -> bool:
        return await never

    async with house(phantom.ClientPolicy.required(ask)) as place:
        connecting = asyncio.ensure_future(phantom.connect(place.url, identity=alice, timeout=PATIENCE)._connect())
        await until(lambda: place.listener._withheld)
        place.listener.shutdown()
        with pytest.raises(phantom.PhantomError):
            await connecting
        await place.is_empty_again()
        never.cancel()


async def test_edits_of_the_file_take_effect_and_a_broken_one_does_not(
    alice: phantom.HybridSigningKey, mallory: phantom.HybridSigningKey, tmp_path: Path
) -> None:
    path = tmp_path / "clients"
    path.write_text(alice.verifying_key().fingerprint())
    policy = phantom.ClientPolicy.required(phantom.AuthorizedClients.from_file(path))
    async with house(policy) as place:
        await place.lets_in(alice)
        with pytest.raises(phantom.ClientAuthError):
            await _connect(place, mallory)
        path.write_text(mallory.verifying_key().fingerprint() + " welcome")
        await place.lets_in(mallory)
        with pytest.raises(phantom.ClientAuthError):
            await _connect(place, alice)
        path.write_text("phantom1:broken")
        await place.lets_in(mallory)


@pytest.mark.parametrize("bad", ["a name", b"seed", 5], ids=repr)
def test_an_identity_is_a_key(bad: Any) -> None:
    pin = "phantom1:" + "a" * 52
    with pytest.raises(phantom.ValidationError, match="an identity is a HybridSigningKey"):
        phantom.connect("127.0.0.1:1", pin, identity=bad)


def test_a_closed_identity_is_told_before_any_connection() -> None:
    with phantom.generate_signing_key() as key:
        pin = key.verifying_key()
    with pytest.raises(phantom.ValidationError, match="closed"):
        phantom.connect("127.0.0.1:1", pin, identity=key)


async def test_an_identity_closed_in_the_middle_is_a_typed_failure(alice: phantom.HybridSigningKey) -> None:
    async with house(only(alice)) as place:
        with phantom.HybridSigningKey.from_bytes(alice.to_bytes()) as short_lived:
            connecting = phantom.connect(place.url, identity=short_lived, timeout=PATIENCE)
        with pytest.raises(phantom.ValidationError, match="closed"):
            await connecting
        await place.is_empty_again()


def test_a_policy_is_a_policy() -> None:
    with pytest.raises(phantom.ValidationError, match="clients is a ClientPolicy"):
        phantom.listen("127.0.0.1:0", clients="required")  # type: ignore[arg-type]


# --- in virtual time --------------------------------------------------------------------------------------------------


def _virtual_pair(
    policy: phantom.ClientPolicy,
    *,
    identity: phantom.HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
) -> tuple[PhantomListener, phantom.PhantomSession, MemoryLeg]:
    """A listener with ``policy`` and a client that is connecting to it, in memory."""
    runtime = AsyncioRuntime()
    server = PhantomListener(phantom.generate_signing_key(), config or PhantomConfig(), runtime, SYSTEM_RNG, policy)
    client, server_leg = _dial(server, identity)
    return server, client, server_leg


def _another(server: PhantomListener, identity: phantom.HybridSigningKey | None = None) -> phantom.PhantomSession:
    return _dial(server, identity)[0]


def _dial(
    server: PhantomListener, identity: phantom.HybridSigningKey | None
) -> tuple[phantom.PhantomSession, MemoryLeg]:
    client_leg, server_leg = memory_leg_pair(server._runtime, latency=0.01)
    server.serve_leg(server_leg, Source("127.0.0.1"), "client")
    client = connect_with_transport(
        "server", client_leg, server.verifying_key_bytes(), identity=identity, runtime=server._runtime
    )
    return client, server_leg


async def _is_empty(server: PhantomListener) -> None:
    await asyncio.sleep(5)
    assert server._withheld == {}
    assert not server._sessions
    assert server._gate.inflight == 0
    server.shutdown()
