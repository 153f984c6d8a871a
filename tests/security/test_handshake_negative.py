"""The handshake's rows of wire-native Appendix A (WA-n), each failing when its guard is taken away, and the randomised
rounds of surface §11.4."""

from __future__ import annotations

import ast
import itertools
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.kdf import traffic_keys
from phantom.crypto.pins import PinSet
from phantom.crypto.pow import leading_zero_bits, solve
from phantom.errors import (
    ConfigError,
    HandshakeError,
    HandshakeTimeoutError,
    PhantomError,
    PowDifficultyTooHighError,
    ProtocolRejectedError,
    RetryLimitError,
    SerializationError,
    ServerIdentityMismatchError,
    SessionIdMismatchError,
    SignatureInvalidError,
    ValidationError,
)
from phantom.transport.handshake import Close, Established, Gate, Initiator, Send, SolveChallenge, Source
from phantom.transport.handshake import gate as gate_module
from phantom.transport.handshake import initiator as initiator_module
from phantom.transport.handshake.gate import PowVerdict
from phantom.transport.handshake.messages import (
    ClientHello,
    HelloRetryRequest,
    PowChallenge,
    PowSolution,
    ServerHello,
    ServerReject,
    Unsupported,
    decode_reply,
    walk_client_hello,
)
from phantom.transport.handshake.responder import State
from phantom.transport.handshake.transcript import transcript_hash
from tests.transport.handshake.support import (
    HINT,
    MASTER,
    OTHER_KEY,
    SERVER_KEY,
    TCP,
    UDP,
    UNIX,
    answer,
    drain,
    first_hello,
    flip,
    handshake,
    initiator,
    responder,
    sent,
    server_hello,
)

HELLO = first_hello()
VERIFY_KEY = OTHER_KEY.verifying_key().encoded
V3_HELLO = first_hello(resumption=HINT)
EVERYTHING = ClientHello(  # a hello with each option, and one that goes on with early data
    ClientHello.decode(HELLO).client_key_package,
    ClientHello.decode(HELLO).client_verify_key,
    b"n" * 32,
    2,
    b"c" * 32,
    PowSolution(b"p" * 32, 7),
    b"r" * 32,
)
EVERYTHING_V3 = ClientHello(
    EVERYTHING.client_key_package,
    EVERYTHING.client_verify_key,
    b"n" * 32,
    3,
    b"c" * 32,
    PowSolution(b"p" * 32, 7),
    b"r" * 32,
    b"e" * 40,
    1,
)
REPLY = server_hello(HELLO)
SIGNATURE_AT = 2 + 1220 + 1124 + 1988
ML_DSA_AT = SIGNATURE_AT + 64 + 4


def started(**changes: Any) -> tuple[Initiator, bytes]:
    client = initiator(**changes)
    client.start(0.0)
    return client, sent(client)


def fatal(client: Initiator, frame: bytes, *errors: type[PhantomError]) -> None:
    with pytest.raises(errors) as caught:
        client.receive(frame, 0.0)
    assert caught.type in errors
    assert client.next_event() is None


def challenge_of(events: list[Any]) -> PowChallenge:
    reply = decode_reply(events[0].frame)
    assert isinstance(reply, HelloRetryRequest)
    assert reply.challenge is not None
    return reply.challenge


def work_for(challenge: PowChallenge, bits: int = 4) -> PowSolution:
    found = solve(challenge.nonce, bits, 0, 1 << 20)
    assert found is not None
    return PowSolution(challenge.nonce, found)


def solve_beside(cookie: bytes | None, work: PowSolution | None, frame: bytes = HELLO) -> bytes:
    hello = ClientHello.decode(frame)
    return ClientHello(
        hello.client_key_package, hello.client_verify_key, hello.nonce, hello.version, cookie, work
    ).encode()


# --- WA-1 to WA-8: what the client insists on -------------------------------------------------------------------------


@pytest.mark.parametrize("pin", [None, "", b"", [], b"short", "phantom1:", bytes(1983), ["phantom1:x"]])
def test_wa01_there_is_no_client_without_a_pin(pin: Any) -> None:
    with pytest.raises((ConfigError, ValidationError)):
        initiator(pins=PinSet.parse(pin))


def test_wa01_an_impostor_with_a_valid_own_signature_is_an_identity_mismatch() -> None:
    client, hello = started()
    fatal(client, server_hello(hello, key=OTHER_KEY), ServerIdentityMismatchError)
    assert ServerIdentityMismatchError.final
    with pytest.raises(ServerIdentityMismatchError):
        handshake(initiator(), responder(key=OTHER_KEY))


@pytest.mark.parametrize("at", [SIGNATURE_AT, SIGNATURE_AT + 63, ML_DSA_AT, ML_DSA_AT + 1700, ML_DSA_AT + 3308])
def test_wa02_each_half_of_the_signature_must_verify(at: int) -> None:
    client, hello = started()
    fatal(client, flip(server_hello(hello), at), SignatureInvalidError)


def test_wa02_halves_of_two_signatures_do_not_make_one() -> None:
    client, hello = started()
    one, two = server_hello(hello), server_hello(hello)
    for at, end in ((SIGNATURE_AT, ML_DSA_AT), (ML_DSA_AT, SIGNATURE_AT + 3377)):
        victim, _ = started()
        victim._frame = client._frame
        fatal(victim, one[:at] + two[at:end] + one[end:], SignatureInvalidError)
    client.receive(one, 0.0)
    assert isinstance(client.next_event(), Established)


def test_wa03_a_version_rewritten_to_1_fails_the_signature() -> None:
    with pytest.raises(SignatureInvalidError):
        handshake(initiator(), responder(accept_versions={1, 2}), c2s=lambda frame: frame[:3241] + b"\1" + frame[3242:])


def test_wa03_a_v3_hello_rewritten_to_version_2_fails() -> None:
    def downgrade(frame: bytes) -> bytes:
        hello = ClientHello.decode(frame)
        return ClientHello(hello.client_key_package, hello.client_verify_key, hello.nonce, 2).encode()

    with pytest.raises(HandshakeError):  # the honest V12 reply does not answer a V3 hello
        handshake(initiator(resumption=HINT), responder(), c2s=downgrade)
    with pytest.raises(SignatureInvalidError):  # nor does it when it is dressed up as one
        handshake(
            initiator(resumption=HINT),
            responder(),
            c2s=downgrade,
            s2c=lambda frame: b"\0\1" + frame[2:] + b"\0",
        )


REGIONS = {
    "x25519 key": 1,
    "ML-KEM key, first byte": 37,
    "ML-KEM key, last byte": 1220,
    "Ed25519 key": 1221,
    "ML-DSA key": 1221 + 36 + 100,
    "nonce": 3209,
    "cookie": 3243,
    "proof of work nonce": 3276,
    "proof of work solution": 3276 + 32,
    "resume id": 3317,
    "early data": 3354,
}


@pytest.mark.parametrize("region", REGIONS)
def test_wa04_every_region_of_the_hello_is_signed(region: str) -> None:
    """A server that does not care for cookie, work or blob answers whatever arrives; the client must notice."""
    client, _ = started(resumption=HINT)
    client.receive(HelloRetryRequest(PowChallenge(b"p" * 32, 1), b"c" * 32).encode(), 0.0)
    drain(client)
    client.solved(7, 0.0)
    hello = sent(client)
    assert len(hello) == 3354 + 21
    fatal(client, server_hello(flip(hello, REGIONS[region]), verdict=True), SignatureInvalidError)


def test_wa04_the_same_hello_unaltered_is_accepted() -> None:
    client, hello = started(resumption=HINT)
    client.receive(server_hello(hello, verdict=True), 0.0)
    assert isinstance(client.next_event(), Established)


@pytest.mark.parametrize("verdict", [True, False])
def test_wa05_the_verdict_is_signed(verdict: bool) -> None:
    client, hello = started(resumption=HINT)
    fatal(client, flip(server_hello(hello, verdict=verdict), 7743), SignatureInvalidError)


def test_wa06_the_session_id_is_derived_not_chosen() -> None:
    client, hello = started()
    fatal(client, server_hello(hello, own_id=b"\x5a" * 32), SessionIdMismatchError)


def test_wa07_every_handshake_has_a_fresh_key_exchange() -> None:
    results = [handshake(initiator(), responder())[0] for _ in range(2)]
    one, two = results
    assert one is not None
    assert two is not None
    assert one.shared_secret != two.shared_secret
    assert one.session_id != two.session_id
    packet = new_aead(
        CipherSuite.AES_256_GCM, traffic_keys(one.shared_secret, CipherSuite.AES_256_GCM).send, initiator()._provider
    ).encrypt(bytes(12), b"secret", None)
    for stolen in (one.resumption_secret, two.resumption_secret, two.shared_secret):
        keys = traffic_keys(stolen, CipherSuite.AES_256_GCM)
        for key in (keys.send, keys.recv, stolen):
            with pytest.raises(AEAD_FAILURE):
                new_aead(CipherSuite.AES_256_GCM, key, initiator()._provider).decrypt(bytes(12), packet, None)


RETRY = HelloRetryRequest(PowChallenge(b"n" * 32, 4), b"c" * 32).encode()
REJECT = ServerReject(2, 2).encode()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        b"\1",
        b"\2",
        b"\3" + REPLY[1:],
        b"\xff",
        REPLY + b"\0",
        REPLY[:-1],
        REPLY[1:],
        b"\1" + REPLY[1:],
        b"\2" + REPLY[1:],
        RETRY + b"\0",
        RETRY[:-1],
        b"\0" + RETRY[1:],
        b"\2" + RETRY[1:],
        REJECT + b"\0",
        REJECT[:-1],
        b"\1" + REJECT[1:],
        b"\0" + REJECT[1:],
        Unsupported().encode() + b"\0",
        b"\0\3",
        b"\1\1" + RETRY[2:],
    ],
    ids=itertools.count(),  # frames hold fresh keys, and all workers of a run must see the same names
)
def test_wa08_an_ambiguous_reply_is_fatal_and_typed(frame: bytes) -> None:
    fatal(started()[0], frame, SerializationError)


# --- WA-9 to WA-14: what the server spends on strangers ---------------------------------------------------------------


def forgeries() -> list[bytes]:
    """Hellos cut at every offset, with length fields and tags that lie, and with something behind them."""
    frames = [HELLO[:end] for end in range(1, len(HELLO))] + [V3_HELLO[:end] for end in range(1, len(V3_HELLO))]
    tags, lengths = [3242, 3275, 3316], [1 + 32, 1221 + 32]
    for whole in (EVERYTHING.encode(), EVERYTHING_V3.encode()):
        frames += [whole[:at] + bytes((tag,)) + whole[at + 1 :] for at in tags for tag in (2, 255)]
        for at in lengths:
            frames += [whole[:at] + value.to_bytes(4, "little") + whole[at + 4 :] for value in (0, 2**31, 0xFFFFFFFF)]
        frames.append(whole + b"\0")
        tags.append(3349)
        lengths.append(3350)
    return frames


def test_wa09_a_forged_hello_forces_neither_allocation_nor_work(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = forgeries()
    walk_client_hello(EVERYTHING.encode())
    walk_client_hello(EVERYTHING_V3.encode())

    def unexpected(*args: object, **kwargs: object) -> None:
        raise AssertionError("work for a hello that the walk must refuse")

    monkeypatch.setattr(Gate, "check_cookie", unexpected)
    monkeypatch.setattr(Gate, "check_pow", unexpected)
    monkeypatch.setattr(Gate, "retry", unexpected)
    server = responder(Gate(MASTER))
    tracemalloc.start()
    try:
        for frame in frames:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            server._state = State.AWAIT_FIRST
            server.receive(frame, 0.0, UNIX)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 64 * 1024
            (close,) = drain(server)
            assert close == Close(True, "undecodable hello")
    finally:
        tracemalloc.stop()


def test_wa10_a_cookie_is_bound_to_address_and_time() -> None:
    gate = Gate(MASTER)
    bucket = int(UNIX) // 300 * 300
    cookie = gate.issue_cookie(TCP, bucket)
    assert [gate.check_cookie(TCP, cookie, bucket + s) for s in (0, 299, 300, 599)] == [True] * 4
    assert [gate.check_cookie(TCP, cookie, bucket + s) for s in (-1, -300, 600, 900, 3600, 7200)] == [False] * 6
    assert not gate.check_cookie(Source("192.0.2.2"), cookie, bucket)
    assert not gate.check_cookie(Source("2001:db8::1"), cookie, bucket)
    for step in (-2, -1, 1, 2, 2**40):
        moved = (int.from_bytes(cookie[:8], "big") + step).to_bytes(8, "big") + cookie[8:]
        assert not any(gate.check_cookie(TCP, moved, bucket + s * 300) for s in (-2, -1, 0, 1, 2))
    for at in range(32):
        for bit in range(8):
            assert not gate.check_cookie(TCP, flip(cookie, at, 1 << bit), bucket)
    assert not gate.check_cookie(TCP, bytes(32), bucket)
    assert not gate.check_cookie(TCP, b"\xff" * 32, bucket)


def test_wa11_every_secret_comparison_goes_through_one_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(phantom.__file__).parent
    users = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if "compare_digest" in path.read_text()}
    assert users == {"crypto/compare.py"}
    # The verdict on cookie, challenge and session id is the helper's and nobody else's.
    gate = Gate(MASTER)
    cookie, challenge = gate.issue_cookie(TCP, UNIX), gate.issue_challenge(TCP, 4, UNIX)
    forged = work_for(PowChallenge(flip(challenge.nonce, 31), 4))
    calls: list[tuple[int, int]] = []

    def always(verdict: bool) -> Callable[[Any, Any], bool]:
        def compare(a: Any, b: Any) -> bool:
            calls.append((len(a), len(b)))
            return verdict

        return compare

    monkeypatch.setattr(gate_module, "constant_time_equal", always(True))
    assert gate.check_cookie(TCP, flip(cookie, 20), UNIX)
    assert gate.check_pow(TCP, forged, 4, UNIX) is PowVerdict.ACCEPTED
    monkeypatch.setattr(gate_module, "constant_time_equal", always(False))
    assert not gate.check_cookie(TCP, cookie, UNIX)
    assert gate.check_pow(TCP, work_for(challenge), 4, UNIX) is PowVerdict.FORGED
    monkeypatch.setattr(initiator_module, "constant_time_equal", always(False))
    client, hello = started()
    fatal(client, server_hello(hello), SessionIdMismatchError)
    assert calls == [(24, 24), (16, 16), (24, 24), (16, 16), (32, 32)]


def test_wa11_no_module_of_the_room_compares_a_mac_with_an_operator() -> None:
    room = Path(gate_module.__file__).parent
    for path in room.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                secret = {name for name in names if "mac" in name.lower() or "cookie" in name or "secret" in name}
                assert secret <= {"_cookie_always", "master_secret", "resumption_secret", "cookie"}, ast.unparse(node)


@pytest.mark.parametrize("difficulty", [25, 255])
def test_wa12_the_client_never_solves_beyond_24_bits(difficulty: int) -> None:
    client, _ = started()
    with pytest.raises(PowDifficultyTooHighError):
        client.receive(HelloRetryRequest(PowChallenge(bytes(32), difficulty), None).encode(), 0.0)
    assert not any(isinstance(event, SolveChallenge) for event in drain(client))


def test_wa12_at_24_bits_it_is_asked_to_try() -> None:
    client, _ = started()
    client.receive(HelloRetryRequest(PowChallenge(bytes(32), 24), None).encode(), 0.0)
    assert drain(client) == [SolveChallenge(bytes(32), 24, 10.0)]


def test_wa13_an_endless_retry_server_is_left_after_three_rounds() -> None:
    client, _ = started()
    for _ in range(3):
        client.receive(HelloRetryRequest(PowChallenge(bytes(32), 1), None).encode(), 0.0)
        drain(client)
        client.solved(0, 0.0)
        sent(client)
    fatal(client, HelloRetryRequest(None, bytes(32)).encode(), RetryLimitError)


@pytest.mark.parametrize("hello", [HELLO, V3_HELLO], ids=["cookie", "unsupported"])
def test_wa13_an_endless_client_is_left_after_three_rounds(hello: bytes) -> None:
    server = responder(Gate(MASTER, cookie="always"))
    for _ in range(3):
        (event,) = answer(server, hello)
        assert isinstance(event, Send)
    assert answer(server, hello) == [Close(True, "too many retry rounds")]
    assert answer(server, hello) == []


@pytest.mark.parametrize("case", ["fresh", "121 s old", "of the future", "another address", "raised tier", "spent"])
def test_wa14_work_is_fresh_bound_to_the_address_and_to_the_current_tier(case: str) -> None:
    gate = Gate(MASTER, load_tiers=[(0, 4), (2, 8)], cookie_tier=9)
    challenge = challenge_of(answer(responder(gate), HELLO, 0.0, UNIX))
    assert challenge.difficulty == 4
    found = next(i for i in range(1 << 16) if 4 <= leading_zero_bits(challenge.nonce, i) < 8)
    frame = solve_beside(None, PowSolution(challenge.nonce, found))
    later = {"121 s old": UNIX + 121, "of the future": UNIX - 1}.get(case, UNIX + 120)
    source = Source("192.0.2.77") if case == "another address" else TCP
    if case == "raised tier":
        gate.count_hello(0.0)
    if case == "spent":
        assert isinstance(answer(responder(gate), frame, 60.0, later)[1], Established)
    events = answer(responder(gate, source), frame, 0.0 if case == "raised tier" else 200.0, later)
    if case == "fresh":
        assert isinstance(events[1], Established)
    else:
        fresh = challenge_of(events)
        assert fresh.nonce != challenge.nonce
        assert fresh.difficulty == (8 if case == "raised tier" else 4)
    assert gate.reputation.violations(source.key, 200.0) == (case == "another address")


# --- WA-45, WA-47, WA-51 ----------------------------------------------------------------------------------------------


def mutated(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(4):
            case 0 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[rng.randrange(len(data) + 1) :]
            case 2:
                data += rng.randbytes(rng.randint(1, 40))
            case _ if data:
                at = rng.randrange(len(data))
                data[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), rng.randbytes(4)))
    return bytes(data)


SEEDS = [
    HELLO,
    V3_HELLO,
    EVERYTHING.encode(),
    EVERYTHING_V3.encode(),
    REPLY,
    server_hello(V3_HELLO, verdict=True),
    RETRY,
    REJECT,
    Unsupported().encode(),
]


def test_wa45_no_decoder_raises_a_foreign_exception(rng: random.Random) -> None:
    for turn in range(1000):
        frame = rng.randbytes(rng.randint(0, 200)) if turn % 4 == 0 else mutated(rng, rng.choice(SEEDS))
        for decode in (walk_client_hello, ClientHello.decode, decode_reply):
            try:
                decode(frame)
            except SerializationError:
                continue


def test_wa45_no_frame_makes_a_client_raise_a_foreign_exception(rng: random.Random) -> None:
    for _ in range(1000):
        client, hello = started(resumption=rng.choice((None, HINT)), verify_key=VERIFY_KEY)
        try:
            client.receive(mutated(rng, rng.choice((*SEEDS[4:], REPLY))), 0.0)
        except (HandshakeError, SerializationError):
            assert client.next_event() is None
        else:
            assert client.next_event() is not None
        assert hello


@pytest.mark.parametrize(
    ("gate", "source"),
    [
        (Gate(MASTER, cookie="always", load_tiers=[(0, 5)]), TCP),
        (Gate(MASTER), UDP),
        (Gate(MASTER, load_tiers=[]), TCP),
    ],
    ids=["tcp", "udp", "open gate"],
)
def test_wa45_no_frame_makes_a_server_raise(rng: random.Random, gate: Gate, source: Source) -> None:
    for _ in range(1000):
        gate.reputation.clear(source.key)
        server = responder(gate, source)
        for _ in range(rng.randint(1, 3)):
            answer(server, mutated(rng, rng.choice(SEEDS)))
        server.close()
    assert gate.inflight == 0


def test_random_kilobytes_as_a_hello(rng: random.Random) -> None:
    for _ in range(1000):
        (close,) = answer(responder(), b"\0" + rng.randbytes(1023))
        assert close == Close(True, "undecodable hello")
        with pytest.raises(SerializationError):
            ClientHello.decode(rng.randbytes(1024))


def test_random_bytes_as_a_hello_at_difficulty_5(rng: random.Random) -> None:
    gate = Gate(MASTER, load_tiers=[(0, 5)])
    for _ in range(1000):
        frame = rng.randbytes(rng.randint(0, 5000))
        (close,) = answer(responder(gate), frame)
        assert isinstance(close, Close)
        assert close.violation is (frame[:1] != b"\2")


def test_a_valid_handshake_with_retry_a_thousand_times(rng: random.Random) -> None:
    gate = Gate(MASTER, cookie="always")
    verify_key = ClientHello.decode(HELLO).client_verify_key
    for turn in range(1000):
        moment = turn * rng.random()
        at_client, at_server = handshake(
            initiator(verify_key=verify_key), responder(gate), now=moment, unix_now=UNIX + moment
        )
        assert at_client is not None
        assert at_server is not None
        assert at_client.shared_secret == at_server.shared_secret
        assert at_client.retries == 1


@pytest.mark.parametrize("resuming", [False, True])
def test_wa47_nothing_makes_a_client_offer_version_1(resuming: bool) -> None:
    """Unsupported, rejects and timeouts, at each step at which they may come."""
    offered: set[int] = set()
    nuisances: list[Callable[[Initiator], None]] = [
        lambda client: client.receive(Unsupported().encode(), 0.0),
        lambda client: client.receive(ServerReject(1, 1).encode(), 0.0),
        lambda client: client.receive(ServerReject(1, 0).encode(), 0.0),
        lambda client: client.receive(ServerReject(9, 1).encode(), 0.0),
        lambda client: client.receive(HelloRetryRequest(None, bytes(32)).encode(), 0.0),
        lambda client: client.expire(5.0),
    ]
    for first in nuisances:
        for second in nuisances:
            client = initiator(resumption=HINT if resuming else None, verify_key=VERIFY_KEY)
            client.start(0.0)
            versions: list[int] = []
            for nuisance in (first, second, first):
                versions += [ClientHello.decode(event.frame).version for event in drain(client)]
                try:
                    nuisance(client)
                except (HandshakeError, HandshakeTimeoutError):
                    break
            versions += [ClientHello.decode(event.frame).version for event in drain(client)]
            assert versions == sorted(versions, reverse=True)
            offered |= set(versions)
    assert offered == ({2, 3} if resuming else {2})


def test_wa47_a_reject_is_an_error_and_no_advice_to_follow() -> None:
    client, _ = started()
    fatal(client, ServerReject(1, 1).encode(), ProtocolRejectedError)
    client, _ = started()
    fatal(client, Unsupported().encode(), HandshakeError)


def test_wa51_violations_cost_only_sources_that_are_what_they_say() -> None:
    gate = Gate(MASTER)
    for _ in range(5):
        (close,) = answer(responder(gate, UDP), b"\0garbage")
        assert not close.violation
    for _ in range(5):
        answer(responder(gate, UDP), b"\2" + bytes(100))
        answer(responder(gate, TCP), b"\2" + bytes(100))
    assert gate.reputation.violations(TCP.key, 0.0) == 0
    assert gate.demand(TCP, 0.0).difficulty == 0
    for _ in range(5):
        (close,) = answer(responder(gate, TCP), b"\0garbage")
        assert close.violation
    assert gate.reputation.violations(TCP.key, 0.0) == 5
    assert gate.demand(TCP, 0.0).difficulty == 16


def test_wa51_two_ipv6_addresses_of_one_64_share_an_entry() -> None:
    gate = Gate(MASTER)
    answer(responder(gate, Source("2001:db8::1")), b"\0garbage")
    answer(responder(gate, Source("2001:db8::2:3:4:5")), b"\0garbage")
    assert gate.demand(Source("2001:db8:0:0:ffff::"), 0.0).difficulty == 10
    assert gate.demand(Source("2001:db8:0:1::1"), 0.0).difficulty == 0


def test_a_public_signature_over_a_transcript_is_no_handshake_signature() -> None:
    """The handshake's side of WA-52: what an application can have signed does not verify here."""
    client, hello = started()
    genuine = server_hello(hello)
    draft = decode_reply(genuine)
    assert isinstance(draft, ServerHello)
    signed = transcript_hash(hello, genuine)
    public = HybridSigningKey.from_bytes(SERVER_KEY.to_bytes()).sign(signed, context=b"")
    frame = genuine[:SIGNATURE_AT] + public[:64] + genuine[ML_DSA_AT - 4 : ML_DSA_AT] + public[64:]
    fatal(client, frame + genuine[SIGNATURE_AT + 3377 :], SignatureInvalidError)
