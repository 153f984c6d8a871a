"""Properties of the handshake's codecs, gate and resumption over generated values (surface §11.3)."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from phantom.crypto.pow import solve
from phantom.errors import SerializationError
from phantom.security.reputation import Reputation, source_key
from phantom.transport.handshake import Gate, Resumption, Source, client_id
from phantom.transport.handshake.gate import PowVerdict
from phantom.transport.handshake.messages import (
    ClientHello,
    HelloRetryRequest,
    PowChallenge,
    PowSolution,
    Reply,
    ServerHello,
    ServerReject,
    Unsupported,
    decode_reply,
    walk_client_hello,
)
from phantom.transport.handshake.resumption import open_early_data, seal_early_data
from phantom.transport.handshake.transcript import transcript_hash
from tests.transport.handshake.support import MASTER, PROVIDER

b32 = st.binary(min_size=32, max_size=32)
byte = st.integers(0, 255)
moments = st.integers(0, 2**33)


def sized(head: int, body: int) -> st.SearchStrategy[bytes]:
    """A fixed array and a Vec; the body is one drawn byte repeated, which keeps the search fast."""
    return st.tuples(st.binary(min_size=head, max_size=head), byte).map(
        lambda drawn: drawn[0] + body.to_bytes(4, "little") + bytes((drawn[1],)) * body
    )


packages = sized(32, 1184)
keys = sized(32, 1952)
solutions = st.builds(PowSolution, b32, st.integers(0, 2**64 - 1))
challenges = st.builds(PowChallenge, b32, byte)
v12_hellos = st.builds(ClientHello, packages, keys, b32, byte, st.none() | b32, st.none() | solutions, st.none() | b32)
v3_hellos = st.builds(
    ClientHello,
    packages,
    keys,
    b32,
    byte,
    st.none() | b32,
    st.none() | solutions,
    st.none() | b32,
    st.none() | st.binary(max_size=100),
    st.just(1),
)
hellos = v12_hellos | v3_hellos
server_hellos = st.builds(ServerHello, packages, sized(32, 1088), keys, sized(64, 3309), b32, st.none() | st.booleans())
replies: st.SearchStrategy[Reply] = (
    server_hellos
    | st.builds(HelloRetryRequest, st.none() | challenges, st.none() | b32)
    | st.builds(ServerReject, byte, byte)
    | st.just(Unsupported())
)
addresses = st.ip_addresses().map(str)


def decodes(frame: bytes, *, hello: bool) -> bool:
    try:
        if hello:
            ClientHello.decode(frame)
        else:
            decode_reply(frame)
    except SerializationError:
        return False
    return True


@given(hellos)
def test_every_hello_survives_encoding(hello: ClientHello) -> None:
    assert ClientHello.decode(hello.encode()) == hello


@given(replies)
def test_every_reply_survives_encoding(reply: Reply) -> None:
    assert decode_reply(reply.encode()) == reply


@given(hellos, st.data())
def test_no_prefix_or_extension_of_a_hello_decodes(hello: ClientHello, data: st.DataObject) -> None:
    frame = hello.encode()
    assert not decodes(frame[: data.draw(st.integers(0, len(frame) - 1))], hello=True)
    assert not decodes(frame + data.draw(st.binary(min_size=1, max_size=50)), hello=True)


@given(replies, st.data())
def test_no_prefix_or_extension_of_a_reply_decodes(reply: Reply, data: st.DataObject) -> None:
    frame = reply.encode()
    assert not decodes(frame[: data.draw(st.integers(0, len(frame) - 1))], hello=False)
    assert not decodes(frame + data.draw(st.binary(min_size=1, max_size=50)), hello=False)


@given(hellos, st.data())
def test_a_frame_has_one_meaning(hello: ClientHello, data: st.DataObject) -> None:
    """Whatever decodes after a byte was changed encodes to exactly those bytes again: there is no second spelling."""
    frame = bytearray(hello.encode())
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(byte)
    if decodes(bytes(frame), hello=True):
        assert ClientHello.decode(bytes(frame)).encode() == frame


@given(st.binary(max_size=200))
def test_arbitrary_bytes_have_one_meaning_or_none(frame: bytes) -> None:
    assert not decodes(frame, hello=True)
    if decodes(frame, hello=False):
        assert decode_reply(frame).encode() == frame


@given(hellos)
def test_the_walk_finds_exactly_what_is_there(hello: ClientHello) -> None:
    at = walk_client_hello(hello.encode())
    present = (hello.cookie, hello.pow_solution, hello.resume_session_id, hello.early_data)
    assert (at.envelope, at.version) == (hello.envelope, hello.version)
    assert [offset > 0 for offset in at[2:]] == [value is not None for value in present]


@given(hellos, server_hellos, st.data())
def test_the_transcript_separates(hello: ClientHello, reply: ServerHello, data: st.DataObject) -> None:
    client, server = hello.encode(), reply.encode()
    at = data.draw(st.integers(1, len(client) - 1))
    altered = client[:at] + bytes((client[at] ^ data.draw(st.integers(1, 255)),)) + client[at + 1 :]
    assert transcript_hash(altered, server) != transcript_hash(client, server)


@given(addresses, moments, moments)
def test_a_cookie_is_good_in_its_bucket_and_the_next_one(address: str, made: int, shown: int) -> None:
    gate, source = Gate(MASTER), Source(client_id(address))
    cookie = gate.issue_cookie(source, made)
    for moment in (shown, made, made + 300):
        assert gate.check_cookie(source, cookie, moment) == (moment // 300 - made // 300 in (0, 1))


@given(addresses, addresses, moments)
def test_a_cookie_is_good_for_one_address(mine: str, other: str, made: int) -> None:
    gate = Gate(MASTER)
    cookie = gate.issue_cookie(Source(client_id(mine)), made)
    assert gate.check_cookie(Source(client_id(other)), cookie, made) == (client_id(mine) == client_id(other))


@given(addresses, moments, st.integers(-200, 200), st.integers(1, 8), st.integers(1, 8))
def test_work_is_good_for_120_seconds_and_what_it_was_done_for(
    address: str, made: int, later: int, asked: int, demanded: int
) -> None:
    gate, source = Gate(MASTER, load_tiers=[(0, 1)]), Source(client_id(address))
    challenge = gate.issue_challenge(source, asked, made)
    found = solve(challenge.nonce, asked, 0, 1 << 20)
    assert found is not None
    shown = max(0, made + later)
    verdict = gate.check_pow(source, PowSolution(challenge.nonce, found), demanded, shown)
    if 0 <= shown - made <= 120 and demanded <= asked:
        assert verdict is PowVerdict.ACCEPTED
    if not 0 <= shown - made <= 120:
        assert verdict is not PowVerdict.ACCEPTED
    if shown // 3600 == made // 3600:
        assert verdict is not PowVerdict.FORGED


@given(addresses)
def test_client_ids_are_normal_forms(address: str) -> None:
    text = client_id(address)
    assert client_id(text) == text
    assert client_id(f"{text}%eth0") == text
    parsed = ipaddress.ip_address(address)
    assert client_id(parsed.exploded.upper()) == text
    if isinstance(parsed, ipaddress.IPv4Address):
        assert client_id(f"::ffff:{address}") == address
    assert ("/64" in source_key(text)) == (":" in text)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 50)), max_size=60), st.integers(1, 8))
def test_reputation_is_bounded_and_never_rises_by_waiting(steps: list[tuple[str, float]], cap: int) -> None:
    reputation, now = Reputation(max_entries=cap), 0.0
    for source, pause in steps:
        now += pause
        before = reputation.violations(source, now)
        reputation.record(source, now)
        assert reputation.violations(source, now) == before + 1
        assert len(reputation) <= cap
        terms = [reputation.difficulty(source, now + wait) for wait in (0, 30, 59, 61)]
        assert terms == sorted(terms, reverse=True)
        assert terms[0] in (9, 10, 12, 16)
        assert terms[-1] == 0


@given(b32, b32, b32, packages, keys, st.binary(max_size=300), st.data())
def test_early_data_opens_in_its_hello_and_in_no_other(
    session_id: bytes, secret: bytes, nonce: bytes, package: bytes, key: bytes, plaintext: bytes, data: st.DataObject
) -> None:
    blob = seal_early_data(PROVIDER, Resumption(session_id, secret, plaintext), nonce, package, key)
    fields = [secret, session_id, nonce, package, key, blob]
    assert opened(fields) == bytearray(plaintext)
    which = data.draw(st.integers(0, len(fields) - 1))
    at = data.draw(st.integers(0, len(fields[which]) - 1))
    changed = bytearray(fields[which])
    changed[at] ^= data.draw(st.integers(1, 255))
    fields[which] = bytes(changed)
    assert opened(fields) is None


def opened(fields: list[bytes]) -> bytearray | None:
    secret, session_id, nonce, package, key, blob = fields
    return open_early_data(PROVIDER, secret, session_id, nonce, package, key, 3, blob)
