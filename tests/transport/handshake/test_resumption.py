from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phantom.crypto.kdf import early_binding
from phantom.crypto.providers import get_provider
from phantom.errors import ValidationError
from phantom.transport.handshake import Resumption
from phantom.transport.handshake.resumption import open_early_data, seal_early_data
from tests.transport.handshake.support import PROVIDER, h, vectors
from tests.transport.handshake.test_messages import EARLY_BLOB, PACKAGE, VERIFY_KEY, N, Q

R = b"\x33" * 32


def plaintext_of(given: dict[str, Any]) -> bytes:
    """Spelled out, or by its rule: byte k = (k + n) mod 256, 16384 bytes."""
    if "plaintext" in given:
        return h(given["plaintext"])
    offset = int(given["plaintext_rule"].split("(k + ")[1].split(")")[0])
    return bytes((k + offset) % 256 for k in range(16384))


@pytest.mark.parametrize("name", ["openssl", "pqcrypto"])
@pytest.mark.parametrize("entry", vectors("early_data"))
def test_blobs_are_sealed_and_opened_as_recorded(entry: dict[str, Any], name: str) -> None:
    given, expect = entry["input"], entry["expect"]
    provider = get_provider(name)
    package, key, nonce = (h(given[field]) for field in ("client_key_package", "client_verify_key", "client_nonce"))
    binding = early_binding(package, key, given["version"])
    assert binding.hex() == expect["early_binding"]
    assert (h(given["resume_session_id"]) + nonce + binding).hex() == expect["aad"]
    hint = Resumption(h(given["resume_session_id"]), h(given["resumption_secret"]), plaintext_of(given))
    blob = seal_early_data(provider, hint, nonce, package, key)
    if "blob" in expect:
        assert blob.hex() == expect["blob"]
    else:
        assert hashlib.sha256(blob).hexdigest() == expect["blob_sha256"]
        assert blob[-16:].hex() == expect["blob_tail"]
    opened = open_early_data(
        provider, hint.resumption_secret, hint.session_id, nonce, package, key, given["version"], blob
    )
    assert opened is not None
    assert bytes(opened) == hint.early_data
    assert bool(opened) is expect["verdict"]


@pytest.mark.parametrize("entry", vectors("early_data", "negative"))
def test_a_blob_that_is_not_of_this_hello_does_not_open(entry: dict[str, Any]) -> None:
    given = entry["input"]
    opened = open_early_data(
        PROVIDER,
        h(given["resumption_secret"]),
        h(given["resume_session_id"]),
        h(given["client_nonce"]),
        h(given["client_key_package"]),
        h(given["client_verify_key"]),
        given["version"],
        h(given["blob"]),
    )
    assert opened is None


def test_known_answers_of_appendix_b() -> None:
    binding = early_binding(PACKAGE, VERIFY_KEY, 3)
    assert binding.hex() == "84ddfbc6e3d1de32bbd2b7c95b4ea8ef683e46b0d4bc1ab2062528d603f034c8"
    assert seal_early_data(PROVIDER, Resumption(Q, R, b"early"), N, PACKAGE, VERIFY_KEY) == EARLY_BLOB
    empty = seal_early_data(PROVIDER, Resumption(Q, R), N, PACKAGE, VERIFY_KEY)
    assert empty.hex() == "38396499a89768ce6be41245d935c05b"


@pytest.mark.parametrize("length", [0, 15, 16401])
def test_a_blob_of_impossible_length_costs_no_cryptography(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*args: object) -> None:
        raise AssertionError("derived a key")

    monkeypatch.setattr("phantom.transport.handshake.resumption.early_key_nonce", unexpected)
    assert open_early_data(PROVIDER, R, Q, N, PACKAGE, VERIFY_KEY, 3, bytes(length)) is None


@pytest.mark.parametrize(
    ("session_id", "secret", "early"), [(b"", R, b""), (Q, R[:31], b""), (Q + b"\0", R, b""), (Q, R, bytes(16385))]
)
def test_a_hint_is_checked_before_anything_is_sent(session_id: bytes, secret: bytes, early: bytes) -> None:
    with pytest.raises(ValidationError):
        Resumption(session_id, secret, early)


def test_a_hint_keeps_its_secrets_out_of_its_repr() -> None:
    hint = repr(Resumption(Q, R, b"early"))
    assert repr(R) not in hint
    assert "early'" not in hint
