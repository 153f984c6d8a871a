from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phantom.crypto import kdf
from phantom.crypto.aead import CipherSuite, new_aead
from phantom.crypto.providers import get_provider
from phantom.errors import KeyDerivationError, ValidationError
from tests.crypto.vectors import native, unhex

S, N, R, Q, M = (bytes((byte,)) * 32 for byte in (0x11, 0x22, 0x33, 0x44, 0x55))  # the fixed inputs of Appendix B.2


def filler(length: int, start: int) -> bytes:
    return bytes((start + i) % 256 for i in range(length))


def hexes(*values: bytes | bytearray) -> list[str]:
    return [value.hex() for value in values]


# --- wire-native Appendix B.2 ---------------------------------------------------------------------------------------


def test_known_combiner() -> None:
    shared = kdf.combine(b"\xa1" * 32, b"\xb2" * 32)
    assert shared.hex() == "7a93f5b39ae449f253bd28ea6ea50187eb0ab0d437b30ab2a17774474d73d916"
    assert kdf.combine(b"\xb2" * 32, b"\xa1" * 32) != shared


def test_known_traffic_keys() -> None:
    assert hexes(*kdf.traffic_keys(S, CipherSuite.AES_256_GCM)) == [
        "73fe2812acb9985eb69b830a383fe71ab68ab17a31348aa6aa5f9d580b04706b",
        "930ceb087fc371e37d76ddc8a55e03d2715cf8bbbb21d7202ddb945c2081c99e",
        "8d41707e",
    ]
    assert hexes(*kdf.traffic_keys(S, CipherSuite.CHACHA20_POLY1305)) == [
        "6880ad7c39933a5bc93539ebc17d2d902c328a3a9cf2376acba32269e7510305",
        "6b4af956447337000f894426e9d9c27dbacda475d9acecde2e4f7f424cd95adf",
        "8d41707e",
    ]


def test_known_epochs() -> None:
    assert kdf.session_key(S).hex() == "52ea025822d0788533b436123d544d4aea4d6713797c1e158e814924ecf9fe7f"
    first = kdf.next_traffic_secret(S)
    assert first.hex() == "1b8df182f3194bf6e4d6d63ae76836d7014d97c186b01e0bb56a63875658d2bf"
    assert kdf.next_traffic_secret(first).hex() == "0a7cc9d7677312354bd9ce7729c7ba172c52b466a80fd611482e96fcecdbc3fe"
    keys = kdf.traffic_keys(first, CipherSuite.AES_256_GCM)
    assert keys.send.hex() == "8c18e46549195a1073f9e31864913546eab6fbfa0cf932e56a60d136d5c74458"
    assert keys.prefix.hex() == "0b635156"


def test_known_session_values() -> None:
    assert kdf.resumption_secret(S).hex() == "310bb4d3a06d477adf2ff47241b2fb4d6176d85db233fcb9d2ff80db200bc11a"
    assert kdf.session_id(S, N).hex() == "ff969d5d067fef3ec564d27a992eedd69131ff4908988fec6456c607ed413e6d"
    assert kdf.hour_secret(M, 480000).hex() == "410235562f3122241feb53f2f977476971bd7688f35ef7bcda3d7c3bf167b165"


def test_known_early_data() -> None:
    key, nonce = kdf.early_key_nonce(R, N)
    assert key.hex() == "af0050b9dff4cd1e7accf7abc4e72633c61ebef761c39a844d75a5fd0acc6edb"
    assert nonce.hex() == "ce3eb77611e16b8829c9799c"
    package = filler(32, 1) + (1184).to_bytes(4, "little") + filler(1184, 2)
    verify_key = filler(32, 3) + (1952).to_bytes(4, "little") + filler(1952, 4)
    binding = kdf.early_binding(package, verify_key, 3)
    assert binding.hex() == "84ddfbc6e3d1de32bbd2b7c95b4ea8ef683e46b0d4bc1ab2062528d603f034c8"
    box = new_aead(CipherSuite.AES_256_GCM, key, get_provider())
    assert box.encrypt(nonce, b"early", Q + N + binding).hex() == "a9c776bae4c6f006558b2ac00c63886af5cc0dbbf1"
    assert box.encrypt(nonce, b"", Q + N + binding).hex() == "38396499a89768ce6be41245d935c05b"


def test_known_exports() -> None:
    root = kdf.session_key(S)
    assert kdf.export(root, b"test", 32).hex() == "64f6aab52b63a7b132e95082de9430b452039513ffcd72c9e4e03fcb5b25e834"
    assert kdf.export(root, b"", 16).hex() == "9b19b582a15c4420570ad7750a8b0892"
    assert kdf.auth_context(root).hex() == "e71d18dcfe370ab3d30880ba7b34686d04237612edb6cd4d927f159f35a3ad78"


# --- the vector file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", native("kdf"), ids=lambda entry: entry["id"])
def test_key_schedule(entry: dict[str, Any]) -> None:
    ss_x, ss_pq, nonce = unhex(entry["input"], "ss_x", "ss_pq", "client_nonce")
    expect = entry["expect"]
    shared = kdf.combine(ss_x, ss_pq)
    resumption = kdf.resumption_secret(shared)
    key, early_nonce = kdf.early_key_nonce(resumption, nonce)
    assert {
        "shared_secret": shared.hex(),
        "session_id": kdf.session_id(shared, nonce).hex(),
        "resumption_secret": resumption.hex(),
        "early_key": key.hex(),
        "early_nonce": early_nonce.hex(),
    } == {name: value for name, value in expect.items() if name != "epochs"}
    secret = shared
    for epoch in range(256):
        if wanted := expect["epochs"].get(str(epoch)):
            aes = kdf.traffic_keys(secret, CipherSuite.AES_256_GCM)
            chacha = kdf.traffic_keys(secret, CipherSuite.CHACHA20_POLY1305)
            assert wanted == {
                "traffic_secret": secret.hex(),
                "aes_send": aes.send.hex(),
                "aes_recv": aes.recv.hex(),
                "cc20_send": chacha.send.hex(),
                "cc20_recv": chacha.recv.hex(),
                "nonce_prefix": aes.prefix.hex(),
                "transport_key": kdf.session_key(secret).hex(),
            }
            assert aes.prefix == chacha.prefix
        secret = kdf.next_traffic_secret(secret)


@pytest.mark.parametrize("entry", native("kdf", op="exporter"), ids=lambda entry: entry["id"])
def test_exporter(entry: dict[str, Any]) -> None:
    secret, label = unhex(entry["input"], "traffic_secret_0", "label")
    root = kdf.session_key(secret)
    exported = kdf.export(root, label, entry["input"]["length"])
    got = {
        "session_key_0": root.hex(),
        "exported": exported.hex(),
        "exported_sha256": hashlib.sha256(exported).hexdigest(),
        "exported_tail": exported[-32:].hex(),
    }
    assert {name: got[name] for name in entry["expect"]} == entry["expect"]
    assert bytes(kdf.auth_context(root)) != kdf.export(root, label, 32)


@pytest.mark.parametrize("entry", native("kdf", "negative", "exporter"), ids=lambda entry: entry["id"])
def test_exporter_refuses(entry: dict[str, Any]) -> None:
    assert entry["reject"] == "ValidationError"
    with pytest.raises(ValidationError):
        kdf.export(S, bytes.fromhex(entry["input"]["label"]), entry["input"]["length"])


# --- properties -----------------------------------------------------------------------------------------------------


def test_secrets_are_mutable_and_wiped() -> None:
    keys = kdf.traffic_keys(S, CipherSuite.AES_256_GCM)
    derived = [*keys, kdf.next_traffic_secret(S), kdf.session_key(S), kdf.resumption_secret(S), kdf.auth_context(S)]
    derived += [kdf.early_key_nonce(R, N)[0], kdf.hour_secret(M, 1), kdf.combine(S, N)]
    assert {type(secret) for secret in derived} == {bytearray}
    keys.wipe()
    assert [bytes(key) for key in keys] == [bytes(32), bytes(32), bytes(4)]


def test_keys_do_not_print_themselves() -> None:
    keys = kdf.traffic_keys(S, CipherSuite.AES_256_GCM)
    assert repr(keys) == str(keys) == f"{keys}" == "TrafficKeys(...)"


def test_inputs_may_be_any_buffer() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert kdf.hkdf_expand(kind(S), b"x", 32) == kdf.hkdf_expand(S, b"x", 32)
        assert kdf.hkdf_extract_expand(kind(N), kind(S), b"x", 32) == kdf.hkdf_extract_expand(N, S, b"x", 32)
        assert kdf.blake3_derive("x", kind(S)) == kdf.blake3_derive("x", S)
        assert kdf.blake3_keyed(kind(S), kind(N)) == kdf.blake3_keyed(S, N)
        assert kdf.session_id(kind(S), kind(N)) == kdf.session_id(S, N)
        assert kdf.combine(kind(S), kind(N)) == kdf.combine(S, N)


def test_an_absent_salt_is_32_zero_bytes() -> None:
    assert kdf.hkdf_extract_expand(None, S, b"x", 32) == kdf.hkdf_extract_expand(bytes(32), S, b"x", 32)


def test_the_constructions_differ() -> None:
    label = "phantom-rekey-v1"
    outputs = {
        kdf.hkdf_expand(S, label.encode(), 32),
        kdf.hkdf_extract_expand(None, S, label.encode(), 32),
        kdf.blake3_derive(label, S),
        kdf.blake3_keyed(S, label.encode()),
    }
    assert len(outputs) == 4


def test_lengths_beyond_hkdf_are_typed_errors() -> None:
    assert len(kdf.hkdf_expand(S, b"", 8160)) == len(kdf.hkdf_extract_expand(None, S, b"", 8160)) == 8160
    with pytest.raises(KeyDerivationError, match="8161"):
        kdf.hkdf_expand(S, b"", 8161)
    with pytest.raises(KeyDerivationError, match="8161"):
        kdf.hkdf_extract_expand(None, S, b"", 8161)
