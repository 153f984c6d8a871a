from __future__ import annotations

from typing import Any

import pytest

from phantom.crypto.hybrid_kem import HybridKemKeyPair
from phantom.crypto.kdf import resumption_secret
from phantom.crypto.pins import PinSet
from phantom.crypto.providers import get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import (
    ConfigError,
    HandshakeError,
    HandshakeTimeoutError,
    KemFailedError,
    PhantomError,
    PowDifficultyTooHighError,
    PowExhaustedError,
    ProtocolRejectedError,
    RetryLimitError,
    RngError,
    SerializationError,
    ServerBusyError,
    ServerIdentityMismatchError,
    SessionIdMismatchError,
    SignatureInvalidError,
    ValidationError,
)
from phantom.transport.handshake import Established, Gate, Initiator, SolveChallenge, solve_budget_exceeded
from phantom.transport.handshake.initiator import TRANSITIONS, Event, State
from phantom.transport.handshake.messages import (
    ClientHello,
    HelloRetryRequest,
    PowChallenge,
    PowSolution,
    ServerReject,
    Unsupported,
    decode_reply,
)
from phantom.transport.handshake.transcript import transcript_hash
from tests.transport.handshake.support import (
    HINT,
    MASTER,
    OTHER_KEY,
    PROVIDER,
    SERVER_KEY,
    drain,
    flip,
    handshake,
    initiator,
    responder,
    sent,
    server_hello,
)

COOKIE = HelloRetryRequest(None, b"c" * 32).encode()
CHALLENGE = HelloRetryRequest(PowChallenge(b"n" * 32, 4), None).encode()
BOTH = HelloRetryRequest(PowChallenge(b"n" * 32, 4), b"c" * 32).encode()
NEITHER = HelloRetryRequest(None, None).encode()
FIELDS = ("client_key_package", "client_verify_key", "nonce", "version", "resume_session_id", "early_data", "envelope")


def started(**changes: Any) -> tuple[Initiator, bytes]:
    client = initiator(**changes)
    client.start(100.0)
    return client, sent(client)


def refused(client: Initiator, frame: bytes, error: type[PhantomError], match: str | None = None) -> None:
    """The frame ends the handshake with exactly this error, and the keys are gone."""
    with pytest.raises(error, match=match) as caught:
        client.receive(frame, 100.0)
    assert caught.type is error
    assert client.state is State.FAILED
    assert drain(client) == []
    with pytest.raises(ValidationError, match="wiped"):
        client._key_pair.decapsulate(bytes(1124))


# --- the first hello --------------------------------------------------------------------------------------------------


def test_a_client_offers_version_2_with_fresh_keys_and_nothing_else() -> None:
    (_, first), (_, second) = started(), started()
    one, two = ClientHello.decode(first), ClientHello.decode(second)
    assert (one.version, one.envelope, one.cookie, one.pow_solution, one.resume_session_id) == (2, 0, None, None, None)
    assert len(first) == 3245
    for name in FIELDS[:3]:
        assert getattr(one, name) != getattr(two, name)


def test_version_1_is_offered_only_by_choice() -> None:
    assert ClientHello.decode(started(version=1)[1]).version == 1


@pytest.mark.parametrize("version", [0, 3, 4])
def test_other_versions_are_a_wrong_configuration(version: int) -> None:
    with pytest.raises(ConfigError):
        initiator(version=version)


def test_version_1_cannot_resume() -> None:
    with pytest.raises(ConfigError):
        initiator(version=1, resumption=HINT)


def test_a_hint_makes_a_v3_hello() -> None:
    hello = ClientHello.decode(started(resumption=HINT)[1])
    assert (hello.version, hello.envelope, hello.resume_session_id) == (3, 1, HINT.session_id)
    assert hello.early_data is not None
    assert len(hello.early_data) == len(HINT.early_data) + 16


def test_prepared_keys_are_used() -> None:
    pair = HybridKemKeyPair.generate(PROVIDER, SYSTEM_RNG)
    key = OTHER_KEY.verifying_key().encoded
    hello = ClientHello.decode(started(key_pair=pair, verify_key=key, nonce=b"n" * 32)[1])
    assert (hello.client_key_package, hello.client_verify_key, hello.nonce) == (pair.public, key, b"n" * 32)


def test_a_host_that_cannot_derive_keys_from_seeds_still_connects() -> None:
    from phantom.crypto.providers.pqcrypto import PqcryptoProvider

    client = initiator(provider=PqcryptoProvider(seeded=False))
    assert None not in handshake(client, responder())


# --- the reply --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openssl", "pqcrypto"])
def test_a_server_hello_establishes(name: str) -> None:
    client, hello = started(provider=get_provider(name))
    reply = server_hello(hello)
    client.receive(reply, 101.0)
    (event,) = drain(client)
    assert isinstance(event, Established)
    result = event.result
    assert (result.initiator, result.version, result.packet_version) == (True, 2, 2)
    assert (result.early_data_accepted, result.retries) == (None, 0)
    assert (result.bytes_sent, result.bytes_received) == (3245, 7743)
    assert result.peer_key == SERVER_KEY.verifying_key()
    assert result.resumption_secret == resumption_secret(result.shared_secret)
    assert result.client_nonce == ClientHello.decode(hello).nonce
    assert client.state is State.ESTABLISHED
    assert client.deadline(101.0) == float("inf")


@pytest.mark.parametrize("verdict", [True, False])
def test_a_v3_reply_carries_the_verdict(verdict: bool) -> None:
    client, hello = started(resumption=HINT)
    client.receive(server_hello(hello, verdict=verdict), 101.0)
    (event,) = drain(client)
    assert (event.result.version, event.result.packet_version) == (3, 2)
    assert event.result.early_data_accepted is verdict


def test_a_v1_handshake_gives_v1_packets() -> None:
    at_client, at_server = handshake(initiator(version=1), responder(accept_versions={1, 2}))
    assert at_client is not None
    assert at_server is not None
    assert at_client.packet_version == at_server.packet_version == 1
    assert at_client.version == at_server.version == 1


def test_identity_comes_before_everything_else() -> None:
    client, hello = started(pins=PinSet.parse(OTHER_KEY.verifying_key()))
    forged = flip(server_hello(hello), 7743 - 40)
    own, pinned = SERVER_KEY.verifying_key().fingerprint(), OTHER_KEY.verifying_key().fingerprint()
    refused(client, forged, ServerIdentityMismatchError, f"{own}, pinned is {pinned}")


def test_any_of_several_pins_will_do() -> None:
    client, hello = started(pins=PinSet.parse([OTHER_KEY.verifying_key(), SERVER_KEY.verifying_key().fingerprint()]))
    client.receive(server_hello(hello), 101.0)
    assert client.state is State.ESTABLISHED


def test_a_bad_signature_is_found_before_the_key_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    client, hello = started()

    def unexpected(*args: object) -> None:
        raise AssertionError("decapsulated")

    monkeypatch.setattr(HybridKemKeyPair, "decapsulate", unexpected)
    with pytest.raises(SignatureInvalidError):
        client.receive(flip(server_hello(hello), 2), 100.0)
    assert client.state is State.FAILED


def test_a_low_order_point_is_kem_failed() -> None:
    client, hello = started()
    draft = server_hello(hello)
    low_order = draft[:1222] + bytes(32) + draft[1254:]
    reply = decode_reply(low_order)
    signed = transcript_hash(hello, low_order)
    flat = SERVER_KEY._sign_raw(signed)
    at = 2 + 1220 + 1124 + 1988
    frame = low_order[:at] + flat[:64] + low_order[at + 64 : at + 68] + flat[64:] + low_order[at + 3377 :]
    assert reply != decode_reply(frame)
    refused(client, frame, KemFailedError)


def test_a_foreign_session_id_is_refused_and_the_secret_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    client, hello = started()
    secrets: list[bytearray] = []
    real = HybridKemKeyPair.decapsulate

    def recorded(pair: HybridKemKeyPair, ciphertext: bytes) -> bytearray:
        secrets.append(real(pair, ciphertext))
        return secrets[-1]

    with monkeypatch.context() as patch:
        patch.setattr(HybridKemKeyPair, "decapsulate", recorded)
        with pytest.raises(SessionIdMismatchError):
            client.receive(server_hello(hello, own_id=b"i" * 32), 100.0)
    assert secrets == [bytearray(32)]
    assert client.state is State.FAILED


# --- rejects ----------------------------------------------------------------------------------------------------------


def test_an_unspoken_version_is_told_with_what_to_do() -> None:
    client, _ = started()
    with pytest.raises(ProtocolRejectedError, match="version 2; the highest it names is 3: upgrade") as caught:
        client.receive(ServerReject(1, 3).encode(), 100.0)
    assert (caught.value.reject_code, caught.value.supported_version, caught.value.final) == (1, 3, True)


def test_a_busy_server_is_its_own_error() -> None:
    refused(started()[0], ServerReject(2, 2).encode(), ServerBusyError)


@pytest.mark.parametrize("code", [0, 3, 200])
def test_reserved_codes_are_a_generic_refusal(code: int) -> None:
    client, _ = started(resumption=HINT)
    with pytest.raises(ProtocolRejectedError, match=f"code {code}") as caught:
        client.receive(ServerReject(code, 2).encode(), 100.0)
    assert caught.value.reject_code == code


# --- retries ----------------------------------------------------------------------------------------------------------


def test_a_cookie_is_sent_back_and_nothing_else_changes() -> None:
    client, first = started()
    client.receive(COOKIE, 101.0)
    one, two = ClientHello.decode(first), ClientHello.decode(sent(client))
    assert (two.cookie, two.pow_solution) == (b"c" * 32, None)
    assert [getattr(one, name) for name in FIELDS] == [getattr(two, name) for name in FIELDS]


def test_a_v3_hello_survives_a_retry_byte_for_byte() -> None:
    client, first = started(resumption=HINT)
    client.receive(BOTH, 101.0)
    (event,) = drain(client)
    assert isinstance(event, SolveChallenge)
    client.solved(7, 102.0)
    one, two = ClientHello.decode(first), ClientHello.decode(sent(client))
    assert [getattr(one, name) for name in FIELDS] == [getattr(two, name) for name in FIELDS]
    assert (two.cookie, two.pow_solution) == (b"c" * 32, PowSolution(b"n" * 32, 7))


def test_a_challenge_is_handed_out_and_its_solution_sent() -> None:
    client, _ = started()
    client.receive(CHALLENGE, 103.0)
    assert drain(client) == [SolveChallenge(b"n" * 32, 4, 110.0)]
    assert client.state is State.SOLVING
    assert client.deadline(103.0) == 110.0
    client.solved(2**64 - 1, 104.0)
    assert ClientHello.decode(sent(client)).pow_solution == PowSolution(b"n" * 32, 2**64 - 1)
    assert client.deadline(104.0) == 109.0


def test_what_a_retry_does_not_bring_is_kept() -> None:
    client, _ = started()
    client.receive(COOKIE, 101.0)
    drain(client)
    client.receive(CHALLENGE, 101.0)
    drain(client)
    client.solved(1, 101.0)
    kept = ClientHello.decode(sent(client))
    assert (kept.cookie, kept.pow_solution) == (b"c" * 32, PowSolution(b"n" * 32, 1))
    client.receive(HelloRetryRequest(None, b"d" * 32).encode(), 101.0)
    kept = ClientHello.decode(sent(client))
    assert (kept.cookie, kept.pow_solution) == (b"d" * 32, PowSolution(b"n" * 32, 1))


def test_three_retries_are_followed_and_the_fourth_is_fatal() -> None:
    client, _ = started()
    for _ in range(3):
        client.receive(COOKIE, 101.0)
        sent(client)
    refused(client, COOKIE, RetryLimitError)


def test_a_retry_that_asks_for_nothing_is_fatal() -> None:
    refused(started()[0], NEITHER, HandshakeError)


@pytest.mark.parametrize("difficulty", [25, 255])
def test_a_difficulty_over_24_is_refused_before_any_hashing(difficulty: int) -> None:
    frame = HelloRetryRequest(PowChallenge(bytes(32), difficulty), b"c" * 32).encode()
    refused(started()[0], frame, PowDifficultyTooHighError, f"{difficulty} bits")


def test_an_unsolvable_challenge_is_exhausted() -> None:
    client, _ = started()
    client.receive(CHALLENGE, 101.0)
    with pytest.raises(PowExhaustedError):
        client.solved(None, 101.0)
    assert client.state is State.FAILED


def test_a_challenge_that_takes_too_long_is_refused() -> None:
    client, _ = started()
    client.receive(CHALLENGE, 101.0)
    with pytest.raises(PowDifficultyTooHighError, match=r"7\.5 s"):
        client.too_slow(102.5)
    assert client.state is State.FAILED


def test_the_budget_is_three_times_the_expected_work() -> None:
    assert not solve_budget_exceeded(16, 1e-6, 0.2)
    assert solve_budget_exceeded(16, 1e-6, 0.19)
    assert solve_budget_exceeded(0, 1e-6, 0.0)
    assert solve_budget_exceeded(24, 0.4e-6, 10.0)


def test_no_frame_may_come_while_the_client_is_solving() -> None:
    client, hello = started()
    client.receive(CHALLENGE, 101.0)
    refused(client, server_hello(hello), HandshakeError, "solving")


def test_a_solution_nobody_asked_for_is_an_error() -> None:
    client, _ = started()
    with pytest.raises(HandshakeError):
        client.solved(1, 100.0)


# --- falling back -----------------------------------------------------------------------------------------------------


def test_unsupported_leads_to_a_version_2_hello_under_a_fresh_nonce() -> None:
    client, first = started(resumption=HINT)
    client.receive(BOTH, 101.0)
    drain(client)
    client.solved(9, 101.0)
    drain(client)
    client.receive(Unsupported().encode(), 102.0)
    one, two = ClientHello.decode(first), ClientHello.decode(frame := sent(client))
    assert (two.version, two.envelope, two.resume_session_id, two.early_data) == (2, 0, None, None)
    assert two.nonce != one.nonce
    assert (two.client_key_package, two.client_verify_key) == (one.client_key_package, one.client_verify_key)
    assert (two.cookie, two.pow_solution) == (b"c" * 32, PowSolution(b"n" * 32, 9))
    client.receive(server_hello(frame), 103.0)
    (event,) = drain(client)
    assert (event.result.version, event.result.early_data_accepted, event.result.retries) == (2, None, 2)


def test_unsupported_twice_is_fatal() -> None:
    client, _ = started(resumption=HINT)
    client.receive(Unsupported().encode(), 101.0)
    drain(client)
    refused(client, Unsupported().encode(), HandshakeError)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resuming", [False, True])
@pytest.mark.parametrize("kind", ["V12", "V3", "Unsupported"])
def test_the_acceptance_table_of_5_2(kind: str, resuming: bool) -> None:
    client, hello = started(resumption=HINT if resuming else None)
    frames = {
        "V12": server_hello(hello),
        "V3": server_hello(hello, verdict=False),
        "Unsupported": Unsupported().encode(),
    }
    if (kind, resuming) in (("V12", False), ("V3", True), ("Unsupported", True)):
        client.receive(frames[kind], 100.0)
        assert drain(client)
    else:
        refused(client, frames[kind], HandshakeError)


def test_the_table_names_every_state_and_event() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.ESTABLISHED, State.FAILED}
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {state for state, _ in TRANSITIONS.values()} == set(State) - {State.IDLE}


def test_frames_before_start_and_after_the_end_are_errors() -> None:
    hello = started()[1]
    refused(initiator(), server_hello(hello), HandshakeError)
    client, hello = started()
    reply = server_hello(hello)
    client.receive(reply, 100.0)
    refused(client, reply, HandshakeError)


# --- time and ends ----------------------------------------------------------------------------------------------------


def test_each_reply_and_the_whole_have_a_deadline() -> None:
    client = initiator()
    assert client.deadline(0.0) == float("inf")
    client.start(100.0)
    assert client.deadline(100.0) == 105.0
    client.receive(COOKIE, 104.0)
    assert client.deadline(104.0) == 109.0
    client.receive(COOKIE, 108.0)
    assert client.deadline(108.0) == 110.0
    with pytest.raises(HandshakeTimeoutError, match="did not finish"):
        client.expire(110.0)
    assert client.state is State.FAILED


def test_a_silent_server_is_a_timeout() -> None:
    client, _ = started(read_timeout=60.0, handshake_deadline=60.0)
    assert client.deadline(100.0) == 160.0
    client, _ = started()
    with pytest.raises(HandshakeTimeoutError, match="did not answer"):
        client.expire(105.0)


def test_abort_wipes_what_nobody_took() -> None:
    client, hello = started()
    client.receive(server_hello(hello), 100.0)
    result = client._events[0].result  # type: ignore[union-attr]
    assert any(result.shared_secret)
    client.abort()
    client.abort()
    assert not any(result.shared_secret)
    assert not any(result.resumption_secret)
    assert client.next_event() is None


def test_abort_before_start_and_with_unsent_frames_is_harmless() -> None:
    initiator().abort()
    client = initiator()
    client.start(0.0)
    client.abort()
    assert client.next_event() is None


def test_garbage_is_a_serialization_error_and_ends_it() -> None:
    refused(started()[0], b"HTTP/1.1 400 Bad Request", SerializationError, "is it a Phantom server")


def test_a_failing_random_source_ends_the_fall_back() -> None:
    class Broken:
        def fill_bytes(self, n: int) -> bytes:
            raise RngError

    with pytest.raises(RngError):
        initiator(rng=Broken())
    client, _ = started(resumption=HINT)
    client._rng = Broken()
    with pytest.raises(RngError):
        client.receive(Unsupported().encode(), 100.0)
    assert client.state is State.FAILED


def test_a_whole_handshake_with_cookie_and_work() -> None:
    gate = Gate(MASTER, cookie="always", load_tiers=[(0, 8)])
    at_client, at_server = handshake(initiator(), responder(gate))
    assert at_client is not None
    assert at_server is not None
    assert at_client.shared_secret == at_server.shared_secret
    assert at_client.session_id == at_server.session_id
    assert at_client.transcript_hash == at_server.transcript_hash
    assert at_client.resumption_secret == at_server.resumption_secret
    assert at_client.client_nonce == at_server.client_nonce
    assert (at_client.bytes_sent, at_client.bytes_received) == (at_server.bytes_received, at_server.bytes_sent)
    assert at_client.retries == at_server.retries == 1
    assert at_server.peer_key is None
