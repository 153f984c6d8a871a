from __future__ import annotations

from typing import Any

import pytest

from phantom.transport.handshake.messages import ClientHello, decode_reply
from phantom.transport.handshake.transcript import transcript_hash
from tests.transport.handshake.support import flip, h, vectors
from tests.transport.handshake.test_messages import MINIMAL, V3, server_fixture


@pytest.mark.parametrize("entry", vectors("transcripts"))
def test_the_signed_bytes_are_as_recorded(entry: dict[str, Any]) -> None:
    client, server = h(entry["input"]["client_frame"]), h(entry["input"]["server_frame"])
    ClientHello.decode(client)
    decode_reply(server)
    assert transcript_hash(client, server).hex() == entry["expect"]["sha256"]


@pytest.mark.parametrize(
    ("hello", "verdict", "digest"),
    [
        (MINIMAL, None, "7112df343e161062a7a9f775ad335eb93bc4167bc06bbe5ed131edbde933f7fa"),
        (V3, True, "37e86bb5505a50587246e986433cde5183f31da1afa46bca0989ad05a101d373"),
        (V3, False, "c68db09e732a5f853ac6267ee850ed4dd9db92c82f1bd0dbc35bea50078ca7be"),
    ],
    ids=["V12", "V3 true", "V3 false"],
)
def test_known_answers_of_appendix_b(hello: ClientHello, verdict: bool | None, digest: str) -> None:
    assert transcript_hash(hello.encode(), server_fixture(verdict).encode()).hex() == digest


def test_every_byte_but_envelope_kind_and_signature_is_signed() -> None:
    client, server = V3.encode(), server_fixture(True).encode()
    signed = transcript_hash(client, server)
    for at in range(1, len(client), 7):
        assert transcript_hash(flip(client, at), server) != signed
    signature = range(2 + 1220 + 1124 + 1988, 2 + 1220 + 1124 + 1988 + 3377)
    for at in (*range(2, len(server), 7), signature[0] - 1, signature[0], signature[-1], signature[-1] + 1):
        assert (transcript_hash(client, flip(server, at)) == signed) == (at in signature)
    assert transcript_hash(flip(client, 0), flip(server, 0)) == signed
