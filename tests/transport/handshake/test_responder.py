from __future__ import annotations

from typing import Any

import pytest

from phantom.crypto.hybrid_kem import encapsulate
from phantom.crypto.pow import solve
from phantom.crypto.providers import get_provider
from phantom.errors import ClockError, ConfigError, RngError
from phantom.transport.handshake import Close, Established, Gate, Send, Source
from phantom.transport.handshake import responder as module
from phantom.transport.handshake.messages import (
    ClientHello,
    HelloRetryRequest,
    PowSolution,
    ServerHello,
    ServerReject,
    Unsupported,
    decode_reply,
)
from phantom.transport.handshake.responder import TRANSITIONS, Event, State
from tests.transport.handshake.support import (
    HINT,
    MASTER,
    SERVER_KEY,
    TCP,
    UDP,
    UNIX,
    answer,
    drain,
    first_hello,
    flip,
    h,
    handshake,
    initiator,
    responder,
    vectors,
)

HELLO = first_hello()
V1_HELLO = first_hello(version=1)
V3_HELLO = first_hello(resumption=HINT)


def changed(frame: bytes = HELLO, **fields: Any) -> bytes:
    """The hello with other fields."""
    hello = ClientHello.decode(frame)
    values = {name: getattr(hello, name) for name in ClientHello.__slots__} | fields
    return ClientHello(**values).encode()


def with_cookie(gate: Gate, source: Source = TCP, frame: bytes = HELLO, **fields: Any) -> bytes:
    return changed(frame, cookie=gate.issue_cookie(source, UNIX), **fields)


def retry_of(events: list[Any]) -> HelloRetryRequest:
    (event,) = events
    assert isinstance(event, Send)
    reply = decode_reply(event.frame)
    assert isinstance(reply, HelloRetryRequest)
    return reply


def refusal_of(events: list[Any]) -> tuple[ServerReject, Close]:
    send, close = events
    reply = decode_reply(send.frame)
    assert isinstance(reply, ServerReject)
    return reply, close


class Untouched:
    """A signing key that must not be needed."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the signing key was asked for {name}")


# --- the first frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [b"", b"\3", b"\xff" * 100, b"GET / HTTP/1.1\r\n"])
def test_a_first_frame_that_is_nothing_closes_and_counts(frame: bytes) -> None:
    gate = Gate(MASTER)
    server = responder(gate)
    assert answer(server, frame) == [Close(True, "not a hello")]
    assert gate.reputation.violations(TCP.key, 0.0) == 1
    assert server.state is State.CLOSED
    assert gate.inflight == 0


def test_an_attach_for_an_unknown_session_closes_silently_and_counts_nothing() -> None:
    gate = Gate(MASTER)
    assert answer(responder(gate), b"\2" + bytes(100)) == [Close(False, "attach for an unknown session")]
    assert len(gate.reputation) == 0
    assert gate.inflight == 0


@pytest.mark.parametrize("frame", [b"\2" + bytes(100), b"\7", b""])
def test_only_a_hello_may_follow_a_retry(frame: bytes) -> None:
    gate = Gate(MASTER, cookie="always")
    server = responder(gate)
    retry_of(answer(server, HELLO))
    (close,) = answer(server, frame)
    assert close.violation
    assert gate.reputation.violations(TCP.key, 0.0) == 1


@pytest.mark.parametrize("frame", [HELLO[:-1], HELLO + b"\0", b"\0", b"\1", flip(HELLO, 33), flip(HELLO, 3242, 2)])
def test_an_undecodable_hello_closes_silently_and_counts(frame: bytes) -> None:
    gate = Gate(MASTER)
    assert answer(responder(gate), frame) == [Close(True, "undecodable hello")]
    assert gate.reputation.violations(TCP.key, 0.0) == 1


# --- a handshake ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openssl", "pqcrypto"])
def test_an_idle_tcp_server_answers_the_first_hello(name: str) -> None:
    gate = Gate(MASTER)
    gate.reputation.record("elsewhere", 0.0)
    server = responder(gate, provider=get_provider(name))
    assert gate.inflight == 1
    send, established = answer(server, HELLO)
    assert len(send.frame) == 7743
    result = established.result
    assert (result.initiator, result.version, result.packet_version, result.retries) == (False, 2, 2, 0)
    assert (result.bytes_received, result.bytes_sent) == (3245, 7743)
    assert server.state is State.ESTABLISHED
    assert gate.inflight == 0
    assert len(gate.reputation) == 1


def test_the_server_key_package_is_fresh_each_time() -> None:
    replies = [decode_reply(answer(responder(), HELLO)[0].frame) for _ in range(2)]
    packages = {reply.server_key_package for reply in replies if isinstance(reply, ServerHello)}
    assert len(packages) == 2


def test_a_completed_handshake_clears_the_violations_of_its_source() -> None:
    gate = Gate(MASTER)
    gate.reputation.record(TCP.key, 0.0)
    assert None not in handshake(initiator(), responder(gate))
    assert len(gate.reputation) == 0


def test_frames_after_the_end_are_ignored() -> None:
    server = responder()
    answer(server, HELLO)
    assert answer(server, HELLO) == []
    closed = responder()
    answer(closed, b"")
    assert answer(closed, HELLO) == []
    closed.oversized(0.0)
    closed.expire(0.0)
    assert drain(closed) == []


def test_an_unusable_key_package_closes_silently_and_counts_nothing() -> None:
    gate = Gate(MASTER)
    package = ClientHello.decode(HELLO).client_key_package
    low_order = changed(client_key_package=bytes(32) + package[32:])
    bad_modulus = changed(client_key_package=package[:36] + b"\xff" * 1184)
    for frame in (low_order, bad_modulus):
        assert answer(responder(gate), frame) == [Close(False, "unusable key package")]
    assert len(gate.reputation) == gate.inflight == 0


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", vectors("handshake_messages", "negative", stage="server-S3"))
def test_versions_that_disagree_with_their_envelope_get_the_recorded_reject(entry: dict[str, Any]) -> None:
    gate = Gate(MASTER)
    server = responder(gate, supported_version=3)
    send, close = answer(server, h(entry["frame"]))
    assert send.frame.hex() == entry["server_reply"]
    assert close == Close(True, "version and envelope disagree")
    assert gate.reputation.violations(TCP.key, 0.0) == 1


def test_version_1_at_a_default_server_is_told_our_highest_and_is_no_violation() -> None:
    gate = Gate(MASTER)
    reject, close = refusal_of(answer(responder(gate), V1_HELLO))
    assert reject == ServerReject(1, 2)
    assert close == Close(False, "version not accepted")
    assert len(gate.reputation) == 0


def test_version_1_is_accepted_where_it_is_configured() -> None:
    send, established = answer(responder(accept_versions={1, 2}), V1_HELLO)
    assert isinstance(decode_reply(send.frame), ServerHello)
    assert established.result.packet_version == 1


def test_a_v3_hello_is_answered_unsupported_and_counts_as_a_round() -> None:
    server = responder()
    for _ in range(3):
        (send,) = answer(server, V3_HELLO)
        assert decode_reply(send.frame) == Unsupported()
    assert answer(server, V3_HELLO) == [Close(True, "too many retry rounds")]


def test_a_resuming_client_comes_back_with_version_2() -> None:
    at_client, at_server = handshake(initiator(resumption=HINT), responder())
    assert at_client is not None
    assert at_server is not None
    assert (at_client.version, at_client.early_data_accepted, at_server.retries) == (2, None, 1)
    assert at_client.shared_secret == at_server.shared_secret


@pytest.mark.parametrize("versions", [set(), {1}, {3}, {2, 3}, {1, 2, 3}, {0, 2}])
def test_other_sets_of_versions_are_a_wrong_configuration(versions: set[int]) -> None:
    with pytest.raises(ConfigError):
        responder(accept_versions=versions)


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_made_up_cookie_gets_a_retry_with_a_fresh_one_never_success() -> None:
    gate = Gate(MASTER, cookie="always")
    server = responder(gate, key=Untouched())
    retry = retry_of(answer(server, changed(cookie=bytes(32))))
    assert retry.challenge is None
    assert retry.cookie is not None
    assert gate.check_cookie(TCP, retry.cookie, UNIX)
    assert gate.counters.cookies_mismatch == 1


def test_a_cookie_nobody_demands_is_not_looked_at() -> None:
    gate = Gate(MASTER)
    assert isinstance(answer(responder(gate), changed(cookie=bytes(32)))[1], Established)
    assert gate.counters.cookies_mismatch == gate.counters.cookies_ok == 0


def test_cookie_and_work_are_demanded_together_and_shown_together() -> None:
    gate = Gate(MASTER, cookie="always", load_tiers=[(0, 8)])
    server = responder(gate)
    retry = retry_of(answer(server, HELLO))
    assert retry.cookie is not None
    assert retry.challenge is not None
    nonce = retry.challenge.nonce
    work = PowSolution(nonce, solve(nonce, 8, 0, 1 << 16) or 0)
    send, _ = answer(server, changed(cookie=retry.cookie, pow_solution=work))
    assert isinstance(decode_reply(send.frame), ServerHello)
    assert gate.counters.pow_solved == {8: 1}
    # The nonce is spent: genuine, so no violation, but a new challenge is due.
    again = retry_of(answer(responder(gate), with_cookie(gate, pow_solution=work)))
    assert again.cookie is None
    assert again.challenge is not None
    assert again.challenge.nonce != nonce
    assert len(gate.reputation) == 0


def test_a_solution_beside_a_bad_cookie_is_not_spent() -> None:
    gate = Gate(MASTER, cookie="always", load_tiers=[(0, 4)])
    server = responder(gate)
    retry = retry_of(answer(server, HELLO))
    assert retry.challenge is not None
    work = PowSolution(retry.challenge.nonce, solve(retry.challenge.nonce, 4, 0, 1 << 16) or 0)
    retry = retry_of(answer(server, changed(cookie=bytes(32), pow_solution=work)))
    assert retry.challenge is None
    send, _ = answer(server, changed(cookie=retry.cookie, pow_solution=work))
    assert isinstance(decode_reply(send.frame), ServerHello)


def test_forged_work_is_a_violation_and_gets_a_new_challenge() -> None:
    gate = Gate(MASTER, load_tiers=[(0, 4)], cookie_tier=5)
    server = responder(gate, key=Untouched())
    retry = retry_of(answer(server, changed(pow_solution=PowSolution(bytes(32), 0))))
    assert retry.challenge is not None
    assert gate.reputation.violations(TCP.key, 0.0) == 1
    assert gate.counters.pow_rejected == {4: 1}


def test_the_demand_is_that_of_the_counts_before_this_hello() -> None:
    gate = Gate(MASTER, load_tiers=[(1, 4)])
    assert isinstance(answer(responder(gate), HELLO)[1], Established)
    assert gate.load_tier(0.0) == 4
    retry = retry_of(answer(responder(gate), HELLO))
    assert retry.challenge is not None


def test_nothing_before_the_gate_needs_the_signing_key() -> None:
    gate = Gate(MASTER, cookie="always", load_tiers=[(0, 8)])
    for frame in (b"", b"\2", HELLO, V1_HELLO, V3_HELLO, HELLO[:-1], changed(version=9)):
        answer(responder(gate, key=Untouched()), frame)
    with pytest.raises(AssertionError, match="asked for"):
        answer(responder(Gate(MASTER), key=Untouched()), HELLO)


@pytest.mark.parametrize("hello", [HELLO, V3_HELLO])
def test_three_retries_are_given_then_the_leg_closes(hello: bytes) -> None:
    gate = Gate(MASTER, cookie="always")
    server = responder(gate)
    for _ in range(3):
        assert isinstance(answer(server, hello)[0], Send)
    assert answer(server, hello) == [Close(True, "too many retry rounds")]
    assert gate.reputation.violations(TCP.key, 0.0) == 1


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max_inflight": 1}, {"max_inflight_per_source": 1}])
def test_over_the_limit_a_hello_is_told_busy_and_an_attach_nothing(limits: dict[str, int]) -> None:
    gate = Gate(MASTER, **limits)  # type: ignore[arg-type]
    holder = responder(gate)
    assert holder.in_flight
    late, attaching, broken = (responder(gate, key=Untouched()) for _ in range(3))
    assert not late.in_flight
    reject, close = refusal_of(answer(late, HELLO))
    assert reject == ServerReject(2, 2)
    assert close == Close(False, "at the handshake or session limit")
    assert answer(attaching, b"\2") == [Close(False, "attach for an unknown session")]
    assert answer(broken, b"\3") == [Close(True, "not a hello")]
    assert gate.inflight == 1
    holder.close()
    assert gate.inflight == 0


def test_a_slot_that_came_free_meanwhile_is_taken() -> None:
    gate = Gate(MASTER, max_inflight=1)
    first, second = responder(gate), responder(gate)
    first.close()
    assert isinstance(answer(second, HELLO)[1], Established)
    assert gate.inflight == 0


def test_at_a_session_limit_a_hello_is_told_busy_before_any_signature() -> None:
    asked: list[Source] = []

    def full(source: Source) -> bool:
        asked.append(source)
        return False

    gate = Gate(MASTER, session_room=full, cookie="always")
    reject, close = refusal_of(answer(responder(gate, key=Untouched()), HELLO))
    assert (reject.code, close.violation) == (2, False)
    assert asked == [TCP]


def test_a_refused_hello_is_counted_all_the_same() -> None:
    gate = Gate(MASTER, max_inflight=0, load_tiers=[(1, 4)])
    answer(responder(gate), HELLO)
    assert gate.load_tier(0.0) == 4


# --- legs that prove no address ---------------------------------------------------------------------------------------


def test_a_datagram_hello_without_a_cookie_gets_a_retry_and_leaves_nothing() -> None:
    gate = Gate(MASTER, load_tiers=[(1, 4)], max_inflight=0, session_room=lambda source: False)
    server = responder(gate, UDP, key=Untouched())
    for frame in (HELLO, changed(cookie=bytes(32))):
        retry = retry_of(answer(server, frame))
        assert retry.cookie is not None
        assert retry.challenge is None
    assert gate.load_tier(0.0) == gate.inflight == 0


def test_a_datagram_hello_with_a_cookie_is_counted_and_holds_a_slot() -> None:
    gate = Gate(MASTER, load_tiers=[(1, 4), (2, 8)])
    server = responder(gate, UDP)
    assert not server.in_flight
    send, _ = answer(server, with_cookie(gate, UDP))
    assert isinstance(decode_reply(send.frame), ServerHello)
    assert gate.load_tier(0.0) == 4
    waiting = responder(gate, UDP)
    retry = retry_of(answer(waiting, with_cookie(gate, UDP)))
    assert retry.cookie is None
    assert retry.challenge is not None
    assert waiting.in_flight


@pytest.mark.parametrize("full", ["handshakes", "sessions"])
def test_a_datagram_hello_is_told_busy_only_with_a_cookie(full: str) -> None:
    gate = Gate(MASTER, max_inflight=0) if full == "handshakes" else Gate(MASTER, session_room=lambda source: False)
    server = responder(gate, UDP, key=Untouched())
    retry_of(answer(server, HELLO))
    reject, close = refusal_of(answer(server, with_cookie(gate, UDP)))
    assert (reject.code, close.violation) == (2, False)
    assert gate.inflight == 0


def test_a_datagram_source_is_charged_once_it_has_shown_a_cookie() -> None:
    gate = Gate(MASTER, load_tiers=[(0, 8)])
    server = responder(gate, UDP)
    retry_of(answer(server, with_cookie(gate, UDP)))
    assert answer(server, b"\0") == [Close(True, "undecodable hello")]
    assert gate.reputation.violations(UDP.key, 0.0) == 1
    forger = responder(gate, UDP)
    retry_of(answer(forger, with_cookie(gate, UDP, pow_solution=PowSolution(bytes(32), 0))))
    assert gate.reputation.violations(UDP.key, 0.0) == 2


# --- time and ends ----------------------------------------------------------------------------------------------------


def test_reads_and_the_whole_have_deadlines() -> None:
    gate = Gate(MASTER, cookie="always")
    server = responder(gate)
    assert server.deadline(0.0) == float("inf")
    server.start(100.0)
    assert server.deadline(100.0) == 105.0
    answer(server, HELLO, 104.0)
    assert server.deadline(104.0) == 109.0
    answer(server, HELLO, 108.0)
    assert server.deadline(108.0) == 110.0


def test_after_a_challenge_the_client_has_all_the_time_that_is_left() -> None:
    server = responder(Gate(MASTER, load_tiers=[(0, 4)]))
    server.start(100.0)
    answer(server, HELLO, 101.0)
    assert server.deadline(101.0) == 110.0


def test_after_unsupported_the_next_hello_is_due_soon() -> None:
    server = responder(read_timeout=1.0, handshake_deadline=7.0)
    server.start(100.0)
    answer(server, V3_HELLO, 100.5)
    assert server.deadline(100.5) == 101.5
    answer(server, HELLO, 101.0)
    assert server.deadline(101.0) == float("inf")


def test_silence_is_no_violation_but_a_stall_is() -> None:
    gate = Gate(MASTER)
    silent, stalled, waiting = (responder(gate) for _ in range(3))
    silent.expire(5.0)
    assert drain(silent) == [Close(False, "handshake timeout without a byte")]
    stalled.expire(5.0, heard=True)
    assert drain(stalled) == [Close(True, "handshake timeout")]
    answer(waiting, V3_HELLO)
    waiting.expire(5.0)
    assert drain(waiting) == [Close(True, "handshake timeout")]
    assert gate.reputation.violations(TCP.key, 5.0) == 2
    assert gate.inflight == 0


def test_an_oversized_frame_is_a_violation() -> None:
    gate = Gate(MASTER)
    server = responder(gate)
    server.oversized(0.0)
    assert drain(server) == [Close(True, "frame too large")]
    second = responder(gate)
    answer(second, V3_HELLO)
    second.oversized(0.0)
    assert drain(second) == [Close(True, "frame too large")]
    assert gate.reputation.violations(TCP.key, 0.0) == 2


def test_close_gives_back_the_slot_once_and_wipes_what_nobody_took() -> None:
    gate = Gate(MASTER)
    server = responder(gate)
    server.receive(HELLO, 0.0, UNIX)
    result = server._events[1].result  # type: ignore[union-attr]
    assert any(result.shared_secret)
    server.close()
    server.close()
    assert not any(result.shared_secret)
    assert not any(result.resumption_secret)
    assert server.next_event() is None
    assert gate.inflight == 0


def test_a_failure_of_the_host_closes_wipes_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: list[bytearray] = []
    real = encapsulate

    def recorded(*args: Any) -> tuple[bytes, bytearray]:
        ciphertext, secret = real(*args)
        secrets.append(secret)
        return ciphertext, secret

    class Broken:
        def verifying_key(self) -> None:
            raise RngError

    monkeypatch.setattr(module, "encapsulate", recorded)
    gate = Gate(MASTER)
    server = responder(gate, key=Broken())
    with pytest.raises(RngError):
        server.receive(HELLO, 0.0, UNIX)
    assert secrets == [bytearray(32)]
    assert server.state is State.CLOSED
    assert gate.inflight == 0


def test_a_clock_before_1970_is_raised() -> None:
    server = responder(Gate(MASTER, cookie="always"))
    with pytest.raises(ClockError):
        server.receive(HELLO, 0.0, -1.0)
    assert server.state is State.CLOSED


def test_the_table_names_every_state_and_event() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.ESTABLISHED, State.CLOSED}
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {state for state, _ in TRANSITIONS.values()} == set(State) - {State.AWAIT_FIRST}


def test_the_result_keeps_its_secrets_out_of_its_repr() -> None:
    _, established = answer(responder(), HELLO)
    text = repr(established)
    for secret in (established.result.shared_secret, established.result.resumption_secret):
        assert repr(bytes(secret))[2:-1] not in text
        assert bytes(secret).hex() not in text
    assert "frame" not in repr(Send(b"frame"))


def test_the_signature_is_over_the_transcript_and_nothing_else() -> None:
    signed: list[bytes] = []

    class Recording:
        def verifying_key(self) -> Any:
            return SERVER_KEY.verifying_key()

        def _sign_raw(self, message: bytes) -> bytes:
            signed.append(message)
            return SERVER_KEY._sign_raw(message)

    _, established = answer(responder(key=Recording()), HELLO)
    assert signed == [established.result.transcript_hash]
