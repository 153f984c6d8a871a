from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phantom.errors import SerializationError
from phantom.transport.handshake.messages import (
    UNSUPPORTED_FRAME,
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
from tests.transport.handshake.support import h, prefixes, vectors

Entry = dict[str, Any]


def opt(text: str | None) -> bytes | None:
    return None if text is None else h(text)


def two(fields: dict[str, str]) -> bytes:
    """A struct of a fixed array and a Vec, as Borsh writes it."""
    head, body = (h(value) for value in fields.values())
    return head + len(body).to_bytes(4, "little") + body


def hello_of(fields: Entry) -> ClientHello:
    work = fields["pow_solution"]
    return ClientHello(
        two(fields["client_key_package"]),
        two(fields["client_verify_key"]),
        h(fields["nonce"]),
        fields["version"],
        opt(fields["cookie"]),
        None if work is None else PowSolution(h(work["nonce"]), int(work["solution"])),
        opt(fields["resume_session_id"]),
        opt(fields.get("early_data")),
        ["V12", "V3"].index(fields["envelope"]),
    )


def reply_of(fields: Entry) -> Reply:
    if fields["kind"] == 2:
        return ServerReject(fields["code"], fields["supported_version"])
    if fields["kind"] == 1:
        challenge = fields["challenge"]
        return HelloRetryRequest(
            None if challenge is None else PowChallenge(h(challenge["nonce"]), challenge["difficulty"]),
            opt(fields["cookie"]),
        )
    if fields["envelope"] == "Unsupported":
        return Unsupported()
    return ServerHello(
        two(fields["server_key_package"]),
        two(fields["ciphertext"]),
        two(fields["server_verify_key"]),
        two(fields["signature"]),
        h(fields["session_id"]),
        fields["early_data_accepted"],
    )


def decode(message: str, frame: bytes) -> ClientHello | Reply:
    return ClientHello.decode(frame) if message == "ClientHelloEnvelope" else decode_reply(frame)


@pytest.mark.parametrize("entry", vectors("handshake_messages"))
def test_every_message_encodes_and_decodes_as_recorded(entry: Entry) -> None:
    frame = h(entry["frame"])
    value = hello_of(entry["fields"]) if entry["message"] == "ClientHelloEnvelope" else reply_of(entry["fields"])
    assert value.encode() == frame
    assert decode(entry["message"], frame) == value
    assert len(frame) == entry["length"]
    assert hashlib.sha256(frame).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("entry", vectors("handshake_messages"))
def test_no_prefix_and_no_extension_of_a_message_decodes(entry: Entry) -> None:
    frame = h(entry["frame"])
    for cut in prefixes(frame):
        with pytest.raises(SerializationError):
            decode(entry["message"], cut)
    with pytest.raises(SerializationError):
        decode(entry["message"], frame + b"\0")


@pytest.mark.parametrize("entry", vectors("handshake_messages", "negative", stage=None))
def test_every_malformed_message_is_refused(entry: Entry) -> None:
    with pytest.raises(SerializationError):
        decode(entry["message"], h(entry["frame"]))


@pytest.mark.parametrize("entry", vectors("handshake_messages", "negative", stage="server-S3"))
def test_a_hello_whose_version_and_envelope_disagree_still_decodes(entry: Entry) -> None:
    assert not ClientHello.decode(h(entry["frame"])).agrees


def filler(count: int, start: int) -> bytes:
    return bytes((start + i) % 256 for i in range(count))


# Appendix B.2: fixtures that do not depend on the vector files.
N, Q = b"\x22" * 32, b"\x44" * 32
PACKAGE = filler(32, 1) + (1184).to_bytes(4, "little") + filler(1184, 2)
VERIFY_KEY = filler(32, 3) + (1952).to_bytes(4, "little") + filler(1952, 4)
POW_NONCE = h("0030ff660000000099999999999999991264ab69cbcb536b3d3a82d28cbd819c")
SESSION_ID = h("ff969d5d067fef3ec564d27a992eedd69131ff4908988fec6456c607ed413e6d")
EARLY_BLOB = h("a9c776bae4c6f006558b2ac00c63886af5cc0dbbf1")
MINIMAL = ClientHello(PACKAGE, VERIFY_KEY, N, 2)
FULL = ClientHello(PACKAGE, VERIFY_KEY, N, 2, b"\x66" * 32, PowSolution(POW_NONCE, 7), Q)
V3 = ClientHello(PACKAGE, VERIFY_KEY, N, 3, None, None, Q, EARLY_BLOB, 1)


def server_fixture(verdict: bool | None) -> ServerHello:
    return ServerHello(
        filler(32, 9) + (1184).to_bytes(4, "little") + filler(1184, 10),
        filler(32, 5) + (1088).to_bytes(4, "little") + filler(1088, 6),
        filler(32, 11) + (1952).to_bytes(4, "little") + filler(1952, 12),
        filler(64, 7) + (3309).to_bytes(4, "little") + filler(3309, 8),
        SESSION_ID,
        verdict,
    )


@pytest.mark.parametrize(
    ("frame", "size", "digest"),
    [
        (MINIMAL.encode(), 3245, "7844ea147a0481804014d5a6c3a054adf43d0090b028625979cfc89cb0946ae3"),
        (FULL.encode(), 3349, "e698faefd4e5ef343bbc8a2670c0b43652542fefad38b2b74eac3d11a88f713a"),
        (V3.encode(), 3303, "182de777bdc0df7e663eb65fa5037514dc5a1a53aa382a1e8f0a1dd0333d98e1"),
        (server_fixture(None).encode(), 7743, "0c40c5f4f6fefdac2ac95ba5b3700f9c43655428705b483d183bd580ac8eee63"),
        (server_fixture(True).encode(), 7744, "f58161b62ff433be2d939b02ec51c9dbb5f3bd9b09fe617375754815d99a01ca"),
    ],
    ids=["minimal hello", "full hello", "V3 hello", "reply V12", "reply V3"],
)
def test_known_answers_of_appendix_b(frame: bytes, size: int, digest: str) -> None:
    assert len(frame) == size
    assert hashlib.sha256(frame).hexdigest() == digest


def test_small_replies_are_the_bytes_of_the_text() -> None:
    assert HelloRetryRequest(None, b"\x66" * 32).encode() == h("01000001" + "66" * 32)
    assert Unsupported().encode() == UNSUPPORTED_FRAME == h("0002")
    assert ServerReject(1, 2).encode() == b"\2PRJ1\1\2"


def test_message_sizes_of_section_26() -> None:
    challenge = PowChallenge(bytes(32), 4)
    assert len(challenge.encode()) == 33
    assert len(PowSolution(bytes(32), 2**64 - 1).encode()) == 40
    sizes = [
        HelloRetryRequest(None, bytes(32)),
        HelloRetryRequest(challenge, None),
        HelloRetryRequest(challenge, bytes(32)),
    ]
    assert [len(retry.encode()) for retry in sizes] == [36, 37, 69]
    largest = ClientHello(PACKAGE, VERIFY_KEY, N, 3, bytes(32), PowSolution(N, 1), Q, bytes(16400), 1)
    assert len(largest.encode()) == 19754
    assert len(ClientHello(PACKAGE, VERIFY_KEY, N, 3, resume_session_id=Q, envelope=1).encode()) == 3278


def test_the_walk_names_where_the_options_lie() -> None:
    frame = FULL.encode()
    at = walk_client_hello(frame)
    assert frame[at.cookie : at.cookie + 32] == FULL.cookie
    assert frame[at.pow_solution :][:32] == POW_NONCE
    assert frame[at.resume_session_id :] == Q
    assert at.early_data == 0
    assert walk_client_hello(MINIMAL.encode()) == (MINIMAL.envelope, MINIMAL.version, 0, 0, 0, 0)
    assert V3.encode()[walk_client_hello(V3.encode()).early_data :] == EARLY_BLOB


def test_a_hello_keeps_large_fields_out_of_its_repr() -> None:
    assert len(repr(FULL)) < 1000
    assert len(repr(server_fixture(True))) < 300


@pytest.mark.parametrize(
    ("envelope", "version", "agrees"),
    [
        (0, 0, False),
        (0, 1, True),
        (0, 2, True),
        (0, 3, False),
        (0, 255, False),
        (1, 2, False),
        (1, 3, True),
        (1, 4, False),
    ],
)
def test_which_version_goes_with_which_envelope(envelope: int, version: int, agrees: bool) -> None:
    assert ClientHello(PACKAGE, VERIFY_KEY, N, version, envelope=envelope).agrees is agrees
