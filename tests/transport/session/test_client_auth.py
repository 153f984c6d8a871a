"""Client authentication (wire-native §15.7): both tables, the signature, what is wiped, what is never done."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from phantom import limits
from phantom.crypto import kdf
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.errors import ClientAuthError, HandshakeTimeoutError, ProtocolViolationError
from phantom.transport.packet.counters import DropCounters
from phantom.transport.session.client_auth import (
    INITIATOR_TRANSITIONS,
    RESPONDER_TRANSITIONS,
    ClientAuthentication,
    ClientAuthInitiator,
    ClientAuthPolicy,
    ClientAuthRequested,
    ClientAuthResponder,
    InitiatorEvent,
    InitiatorState,
    ResponderEvent,
    ResponderState,
)
from phantom.transport.session.control import AuthResult, ClientAuth, ControlAssembler, encode_auth_result

NONE, OPTIONAL, REQUIRED = ClientAuthPolicy
S, E = ResponderState, ResponderEvent
TRANSCRIPT = b"\x7a" * 32
CONTEXT = kdf.auth_context(bytes(32))


@functools.cache
def identity(salt: int = 1) -> HybridSigningKey:
    return HybridSigningKey.from_bytes(bytes((salt,)) * 64)


def binding(transcript: bytes = TRANSCRIPT, context: bytes | bytearray = CONTEXT) -> bytearray:
    return bytearray(transcript) + context


def proof(key: HybridSigningKey | None = None, bound: bytearray | None = None) -> ClientAuth:
    outgoing = ClientAuthInitiator(bound or binding(), key or identity(), now=0.0).take_outgoing()
    (message,) = ControlAssembler(DropCounters()).feed(outgoing)
    assert isinstance(message, ClientAuth)
    return message


@functools.cache
def good() -> ClientAuth:
    return proof()


def initiator(key: HybridSigningKey | None = None, **options: Any) -> ClientAuthInitiator:
    return ClientAuthInitiator(binding(), key, now=0.0, **options)


def responder(policy: ClientAuthPolicy, **options: Any) -> ClientAuthResponder:
    return ClientAuthResponder(binding(), policy, now=0.0, **options)


# Functions, because a type checker believes what it was once told of a property.
def admitted(end: ClientAuthentication) -> bool:
    return end.admitted


def takes(end: ClientAuthentication) -> bool:
    return end.takes_data


def known(end: ClientAuthResponder) -> HybridVerifyingKey | None:
    return end.identity


def state(end: ClientAuthInitiator | ClientAuthResponder) -> InitiatorState | ResponderState:
    return end.state


def answer(end: ClientAuthResponder) -> int | None:
    outgoing = end.take_outgoing()
    if not outgoing:
        return None
    assert outgoing[:-1] == encode_auth_result(0)[:-1]
    assert end.take_outgoing() == b""
    return outgoing[-1]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


# --- what is signed ---------------------------------------------------------------------------------------------------


def test_the_client_signs_the_label_the_transcript_and_the_context_and_nothing_else() -> None:
    message = good()
    signed = b"phantom-client-auth-v1" + TRANSCRIPT + bytes(CONTEXT)
    assert len(signed) == 86
    assert message.verifying_key == identity().verifying_key().to_bytes()
    assert identity().verifying_key()._verify_raw(signed, message.signature)


def test_both_ends_wipe_the_secret_bytes() -> None:
    bound = binding()
    ClientAuthInitiator(bound, identity(), now=0.0)
    assert bound == bytes(64)
    bound = binding()
    ClientAuthInitiator(bound, None, now=0.0)
    assert bound == bytes(64)
    bound = binding()
    ClientAuthResponder(bound, NONE, now=0.0)
    assert bound == bytes(64)
    for accepted in (True, False):
        bound = binding()
        end = ClientAuthResponder(bound, REQUIRED, now=0.0)
        end.on_message(good(), 0.0)
        assert bound != bytes(64)
        end.verdict(accepted, 0.0)
        assert bound == bytes(64)


def test_closing_wipes_what_an_unsettled_exchange_keeps_and_accepts_nothing_after_it() -> None:
    bound = binding()
    end = ClientAuthResponder(bound, OPTIONAL, now=0.0)
    end.close()
    end.close()
    assert bound == bytes(64)
    end.on_message(good(), 0.0)
    assert state(end) is S.REFUSED
    initiator().close()  # keeps nothing


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(lambda: proof(bound=binding(transcript=b"\x7b" * 32)), id="another transcript"),
        pytest.param(lambda: proof(bound=binding(context=kdf.auth_context(b"\x01" * 32))), id="another secret"),
        pytest.param(lambda: proof(bound=bytearray(CONTEXT) + TRANSCRIPT), id="parts swapped"),
        pytest.param(lambda: ClientAuth(identity(2).verifying_key().to_bytes(), good().signature), id="another key"),
        pytest.param(lambda: good()._replace(signature=flipped(good().signature, 0)), id="Ed25519 half"),
        pytest.param(lambda: good()._replace(signature=flipped(good().signature, 3372)), id="ML-DSA half"),
        pytest.param(lambda: good()._replace(verifying_key=flipped(good().verifying_key, 1983)), id="ML-DSA key"),
        pytest.param(lambda: good()._replace(signature=bytes(3373)), id="no signature"),
        pytest.param(
            lambda: good()._replace(signature=identity()._sign_raw(TRANSCRIPT)), id="the server's form: a bare hash"
        ),
        pytest.param(
            lambda: good()._replace(
                signature=identity().sign(b"phantom-client-auth-v1" + bytes(binding()), context=b"")
            ),
            id="the application's form",
        ),
    ],
)
@pytest.mark.parametrize("policy", [OPTIONAL, REQUIRED])
def test_invariant_57_an_identity_of_elsewhere_is_refused(policy: ClientAuthPolicy, message: Any) -> None:
    end = responder(policy)
    end.on_message(message(), 0.0)
    assert (state(end), answer(end), end.next_request(), end.identity) == (S.REFUSED, 1, None, None)
    assert isinstance(end.error, ClientAuthError)
    assert not admitted(end)
    assert not takes(end)


# --- the responder ----------------------------------------------------------------------------------------------------


def test_policy_none_accepts_unread_and_shows_no_identity() -> None:
    end = responder(NONE)
    assert admitted(end)
    assert end.deadline() is None
    end.on_message(good()._replace(signature=bytes(3373)), 0.0)
    assert (state(end), answer(end), end.identity, end.error) == (S.ACCEPTED, 0, None, None)
    assert end.next_request() is None
    assert admitted(end)


@pytest.mark.parametrize("policy", [OPTIONAL, REQUIRED])
def test_the_policy_is_asked_once_for_a_key_that_proved_itself(policy: ClientAuthPolicy) -> None:
    end = responder(policy)
    assert not admitted(end)
    end.on_message(good(), 0.0)
    assert answer(end) is None  # not before the verdict
    request = end.next_request()
    assert request == ClientAuthRequested(identity().verifying_key())
    assert end.next_request() is None
    assert not admitted(end)
    assert known(end) is None
    end.verdict(True, 0.1)
    assert (answer(end), known(end), end.error) == (0, identity().verifying_key(), None)
    assert admitted(end)
    assert takes(end)
    assert end.deadline() is None


def test_an_identity_that_the_policy_refuses_is_told_so() -> None:
    end = responder(REQUIRED)
    end.on_message(good(), 0.0)
    end.verdict(False, 0.0)
    assert (state(end), answer(end), end.identity) == (S.REFUSED, 1, None)
    assert end.next_request() is None  # settled: nobody needs to be asked any more
    assert isinstance(end.error, ClientAuthError)
    assert end.error.code == 43
    end.verdict(True, 0.0)
    assert state(end) is S.REFUSED


def test_invariant_58_required_ends_with_data_first() -> None:
    end = responder(REQUIRED)
    end.on_first_packet(0.0)  # a PING first is allowed
    assert state(end) is S.REQUIRED
    end.on_data(0.0)
    assert (state(end), answer(end)) == (S.REFUSED, 2)
    end.on_data(0.0)
    assert not takes(end)
    assert answer(end) is None


def test_invariant_58_required_ends_with_data_before_the_verdict() -> None:
    end = responder(REQUIRED)
    end.on_message(good(), 0.0)
    end.on_data(0.0)
    assert (state(end), answer(end), end.next_request()) == (S.REFUSED, 2, None)


def test_invariant_58_required_ends_with_silence() -> None:
    end = responder(REQUIRED, timeout=10.0)
    assert end.deadline() == 10.0
    end.expire(9.99)
    assert state(end) is S.REQUIRED
    end.expire(10.0)
    assert (state(end), answer(end), end.deadline()) == (S.REFUSED, 2, None)
    end.on_message(good(), 11.0)  # it was on its way: no second answer, nothing verified
    assert (state(end), answer(end)) == (S.REFUSED, None)


def test_optional_is_shown_after_a_second_and_an_identity_may_still_come() -> None:
    end = responder(OPTIONAL)
    assert end.deadline() == limits.OPTIONAL_AUTH_WAIT
    end.expire(0.5)
    assert not admitted(end)
    end.expire(1.0)
    assert admitted(end)
    assert state(end) is S.OPEN
    assert end.deadline() is None
    end.on_message(good(), 3600.0)
    assert admitted(end)
    assert state(end) is S.JUDGING_OPEN
    assert end.deadline() == 3600.0 + limits.HANDSHAKE_DEADLINE
    end.verdict(True, 3600.0)
    assert end.identity == identity().verifying_key()


@pytest.mark.parametrize("sign", ["on_data", "on_first_packet"])
def test_optional_is_shown_at_once_when_no_identity_comes_first(sign: str) -> None:
    end = responder(OPTIONAL)
    getattr(end, sign)(0.0)
    assert admitted(end)
    assert answer(end) is None


def test_optional_is_shown_while_a_verdict_takes_its_time() -> None:
    end = responder(OPTIONAL, timeout=10.0)
    end.on_message(good(), 0.5)
    assert end.deadline() == 1.0
    end.on_first_packet(0.6)  # not the first any more: means nothing
    assert not admitted(end)
    end.expire(1.0)
    assert admitted(end)
    assert end.deadline() == 10.5
    end.expire(10.5)
    assert (state(end), answer(end)) == (S.REFUSED, 1)
    assert not admitted(end)


def test_optional_is_shown_when_data_overtakes_the_verdict() -> None:
    end = responder(OPTIONAL)
    end.on_message(good(), 0.0)
    end.on_data(0.1)
    assert admitted(end)
    assert state(end) is S.JUDGING_OPEN
    end.verdict(False, 0.2)
    assert (state(end), answer(end)) == (S.REFUSED, 1)


def test_a_verdict_that_never_comes_refuses() -> None:
    for policy in (OPTIONAL, REQUIRED):
        end = responder(policy, timeout=5.0)
        end.on_message(good(), 4.0)
        end.expire(9.0)
        assert (state(end), answer(end)) == (S.REFUSED, 1)


def test_early_data_that_was_accepted_shows_an_optional_session_at_once() -> None:
    assert responder(OPTIONAL, surfaced=True).state is S.OPEN
    assert responder(NONE, surfaced=True).state is S.UNASKED


def test_required_is_shown_early_only_on_the_strength_of_a_ticket_with_an_identity() -> None:
    assert responder(REQUIRED, surfaced=True).state is S.REQUIRED
    vouched = identity().verifying_key().fingerprint_digest()
    end = responder(REQUIRED, vouched=vouched, timeout=10.0)
    assert admitted(end)
    assert end.deadline() == 10.0
    end.on_data(0.0)
    assert admitted(end)
    end.on_message(good(), 0.0)
    assert admitted(end)
    end.verdict(True, 0.0)
    assert (answer(end), end.identity) == (0, identity().verifying_key())


def test_invariant_60_another_identity_behind_a_ticket_is_refused() -> None:
    end = responder(REQUIRED, vouched=identity(2).verifying_key().fingerprint_digest())
    end.on_message(good(), 0.0)
    assert (state(end), answer(end), admitted(end)) == (S.REFUSED, 1, False)


def test_invariant_60_a_ticket_does_not_replace_the_proof() -> None:
    end = responder(REQUIRED, vouched=identity().verifying_key().fingerprint_digest(), timeout=10.0)
    end.expire(10.0)
    assert (state(end), answer(end)) == (S.REFUSED, 2)
    end = responder(REQUIRED, vouched=identity().verifying_key().fingerprint_digest(), timeout=10.0)
    end.on_message(good(), 1.0)
    end.verdict(False, 1.0)  # revoked meanwhile
    assert (state(end), answer(end)) == (S.REFUSED, 1)


@pytest.mark.parametrize("policy", [NONE, OPTIONAL, REQUIRED])
def test_a_second_client_auth_ends_the_session(policy: ClientAuthPolicy) -> None:
    end = responder(policy)
    end.on_message(good(), 0.0)
    with pytest.raises(ProtocolViolationError):
        end.on_message(good(), 0.0)


@pytest.mark.parametrize("policy", [NONE, OPTIONAL, REQUIRED])
@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_an_auth_result_from_the_initiator_ends_the_session(policy: ClientAuthPolicy, code: int) -> None:
    with pytest.raises(ProtocolViolationError):
        responder(policy).on_message(AuthResult(code), 0.0)


def test_verification_happens_once_and_only_where_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    verify = HybridVerifyingKey._verify_raw

    def counted(self: HybridVerifyingKey, message: Any, signature: Any) -> bool:
        calls.append(bytes(message))
        return verify(self, message, signature)

    monkeypatch.setattr(HybridVerifyingKey, "_verify_raw", counted)
    responder(NONE).on_message(good(), 0.0)
    assert calls == []
    end = responder(OPTIONAL)
    end.on_message(good(), 0.0)
    with pytest.raises(ProtocolViolationError):
        end.on_message(good(), 0.0)
    assert calls == [b"phantom-client-auth-v1" + bytes(binding())]


def test_a_close_means_nothing_more_to_the_responder() -> None:
    assert responder(REQUIRED).on_close(43) is None


# --- the initiator ----------------------------------------------------------------------------------------------------


def test_a_client_without_an_identity_sends_nothing_and_waits_for_nothing() -> None:
    end = initiator()
    assert admitted(end)
    assert takes(end)
    assert end.take_outgoing() == b""
    assert end.deadline() is None
    assert end.on_close(0) is None
    assert ClientAuthInitiator(None, None, now=0.0).admitted


def test_a_client_with_an_identity_is_admitted_by_the_server() -> None:
    end = initiator(identity(), timeout=10.0)
    assert not admitted(end)
    assert takes(end)
    assert len(end.take_outgoing()) == 5362
    assert end.take_outgoing() == b""
    assert end.deadline() == 10.0
    end.expire(9.9)
    end.on_message(AuthResult(0), 5.0)
    assert admitted(end)
    assert end.deadline() is None
    end.expire(11.0)  # too late to matter
    assert end.on_close(43) is None  # a later CLOSE is no AUTH_RESULT


@pytest.mark.parametrize(("code", "text"), [(1, "refused this client"), (2, "requires a client identity")])
def test_invariant_59_a_refused_and_a_missing_identity_are_told_apart(code: int, text: str) -> None:
    end = initiator(identity())
    with pytest.raises(ClientAuthError, match=text):
        end.on_message(AuthResult(code), 0.0)
    assert not admitted(end)
    assert end.on_close(43) is None  # it has been said


def test_invariant_59_a_server_that_demands_an_identity_ends_an_anonymous_session() -> None:
    end = initiator()
    with pytest.raises(ClientAuthError, match="requires a client identity"):
        end.on_message(AuthResult(2), 5.0)
    assert not admitted(end)


def test_invariant_59_close_43_stands_for_a_lost_auth_result() -> None:
    error = initiator(identity()).on_close(43)
    assert isinstance(error, ClientAuthError)
    assert "refused this client" in str(error)
    error = initiator().on_close(43)
    assert isinstance(error, ClientAuthError)
    assert "requires" in str(error)


@pytest.mark.parametrize("code", [0, 1])
def test_a_verdict_nobody_asked_for_ends_the_session(code: int) -> None:
    with pytest.raises(ProtocolViolationError):
        initiator().on_message(AuthResult(code), 0.0)


@pytest.mark.parametrize("code", [3, 255])
@pytest.mark.parametrize("key", [1, None])
def test_an_unknown_verdict_ends_the_session(code: int, key: int | None) -> None:
    with pytest.raises(ProtocolViolationError):
        initiator(identity(key) if key else None).on_message(AuthResult(code), 0.0)


@pytest.mark.parametrize("second", [0, 1, 2])
def test_a_second_verdict_ends_the_session(second: int) -> None:
    end = initiator(identity())
    end.on_message(AuthResult(0), 0.0)
    with pytest.raises(ProtocolViolationError):
        end.on_message(AuthResult(second), 0.0)


@pytest.mark.parametrize("key", [1, None])
def test_a_client_auth_from_the_responder_ends_the_session(key: int | None) -> None:
    with pytest.raises(ProtocolViolationError):
        initiator(identity(key) if key else None).on_message(good(), 0.0)


def test_a_server_that_does_not_answer_the_identity_times_out() -> None:
    end = initiator(identity(), timeout=10.0)
    with pytest.raises(HandshakeTimeoutError):
        end.expire(10.0)
    assert not admitted(end)


def test_what_only_the_other_role_does_means_nothing_here() -> None:
    end = initiator(identity())
    end.on_data(0.0)
    end.on_first_packet(0.0)
    end.verdict(True, 0.0)
    assert end.next_request() is None
    assert state(end) is InitiatorState.AUTHENTICATING


# --- the tables -------------------------------------------------------------------------------------------------------


def test_every_state_of_both_tables_is_reached_and_the_last_ones_are_never_left() -> None:
    assert {state for state, _ in INITIATOR_TRANSITIONS.values()} == {InitiatorState.ADMITTED, InitiatorState.FAILED}
    assert {event for _, event in INITIATOR_TRANSITIONS} == set(InitiatorEvent)
    assert {event for _, event in RESPONDER_TRANSITIONS} == set(ResponderEvent)
    reached = {state for state, _ in RESPONDER_TRANSITIONS.values()}
    assert reached | {S.UNASKED, S.WAITING, S.REQUIRED, S.VOUCHED} == set(S)
    assert not {state for state, _ in RESPONDER_TRANSITIONS} & {S.ACCEPTED, S.REFUSED}


@pytest.mark.parametrize("state", S, ids=lambda state: state.name)
@pytest.mark.parametrize("event", E, ids=lambda event: event.name)
def test_no_event_shows_a_session_that_policy_required_withholds(state: ResponderState, event: ResponderEvent) -> None:
    withheld = {S.REQUIRED, S.JUDGING_REQUIRED, S.REFUSED}
    after = RESPONDER_TRANSITIONS.get((state, event), (state, None))[0]
    if state in withheld:
        assert after in withheld or (state is S.JUDGING_REQUIRED and event is E.YES)


def test_nothing_secret_is_shown() -> None:
    key = identity().verifying_key()
    assert key.to_hex()[:32] not in repr(ClientAuthRequested(key))
    assert repr(good()) == "ClientAuth(...)"
