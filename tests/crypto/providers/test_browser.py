"""Provider ``browser`` on a bridge of native libraries: what crosses, what is refused, what is wiped."""

from __future__ import annotations

import gc

import pytest

from phantom.crypto import bridge, providers
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.cpu import default_suite
from phantom.crypto.hybrid_kem import HybridKemKeyPair, encapsulate
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.providers import get_provider
from phantom.crypto.providers.browser import BrowserProvider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.crypto.self_tests import forget_verdicts, run_self_tests
from phantom.errors import ConfigError, KemFailedError
from tests.crypto.page import NATIVE, Bridge, secret


@pytest.fixture
def page() -> Bridge:
    return Bridge()


@pytest.fixture
def provider(page: Bridge) -> BrowserProvider:
    return BrowserProvider(page)


def test_it_passes_the_self_tests(provider: BrowserProvider) -> None:
    forget_verdicts()
    try:
        assert len(run_self_tests(provider).tests) == 14
    finally:
        forget_verdicts()


def test_it_prefers_chacha(provider: BrowserProvider) -> None:
    assert default_suite(provider.name) is CipherSuite.CHACHA20_POLY1305


def test_key_exchange_with_a_native_peer(page: Bridge, provider: BrowserProvider) -> None:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, shared = encapsulate(NATIVE, pair.public, SYSTEM_RNG)
    assert pair.decapsulate(ciphertext) == shared
    native = HybridKemKeyPair.generate(NATIVE, SYSTEM_RNG)
    ciphertext, shared = encapsulate(provider, native.public, SYSTEM_RNG)
    assert native.decapsulate(ciphertext) == shared
    assert page.secrets_left == 0
    pair.wipe()
    gc.collect()
    assert [key.wiped for key in page.keys] == [1] * len(page.keys) != []


def test_bad_keys_of_the_peer_are_refused(provider: BrowserProvider) -> None:
    with pytest.raises(KemFailedError):
        provider.x25519_exchange(provider.x25519_private(secret()), bytes(32))
    for bad in (b"\xff" * 1184, bytes(1183)):
        with pytest.raises(KemFailedError):
            provider.ml_kem_encapsulate(bad)


def test_signatures(page: Bridge, provider: BrowserProvider) -> None:
    key = HybridSigningKey.from_bytes(secret(64), provider)
    signature = bytearray(key.sign(b"message", context=b"page"))
    public = key.verifying_key()
    assert public.verify(b"message", signature, context=b"page")
    assert not public.verify(b"massage", signature, context=b"page")
    key.close()
    gc.collect()
    assert [one.wiped for one in page.keys] == [1, 1]


def test_a_signature_of_another_length_verifies_nothing(provider: BrowserProvider) -> None:
    assert not provider.ed25519_verify(provider.ed25519_verifier(bytes(32)), b"", bytes(63))
    assert not provider.ml_dsa_verify(provider.ml_dsa_verifier(bytes(1952)), b"", bytes(3308))


@pytest.mark.parametrize("suite", CipherSuite)
def test_aead(page: Bridge, provider: BrowserProvider, suite: CipherSuite) -> None:
    key, nonce = secret(), bytes(12)
    ours, native = new_aead(suite, key, provider), new_aead(suite, key, NATIVE)
    for data in (b"", b"x", bytes(70000)):
        for aad in (None, b"", b"header"):
            sealed = ours.encrypt(nonce, data, aad)
            assert sealed == native.encrypt(nonce, data, aad)
            assert ours.decrypt(nonce, sealed, aad) == data
            buffer = bytearray(data) + bytes(16)
            assert ours.encrypt_into(nonce, memoryview(buffer)[: len(data)], aad, buffer) == len(sealed)
            assert buffer == sealed
            assert ours.decrypt_into(nonce, buffer, aad, memoryview(buffer)[: len(data)]) == len(data)
            assert buffer[: len(data)] == data
            with pytest.raises(AEAD_FAILURE):
                ours.decrypt(nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), aad)
    for short in (b"", bytes(15)):
        with pytest.raises(AEAD_FAILURE):
            ours.decrypt(nonce, short, None)
    del ours
    gc.collect()
    assert page.keys[-1].wiped == 1
    assert not any(page.made[1].data)  # the array through which keys come in


def test_only_a_page_has_it() -> None:
    with pytest.raises(ConfigError, match="Pyodide"):
        get_provider("browser")


def test_a_page_has_nothing_else(monkeypatch: pytest.MonkeyPatch, page: Bridge) -> None:
    monkeypatch.setattr(providers, "_IN_PAGE", True)
    monkeypatch.setattr(providers, "_loaded", {})
    monkeypatch.setattr(bridge, "_found", [page])
    assert get_provider().name == get_provider("browser").name == "browser"
    for name in ("openssl", "pqcrypto"):
        with pytest.raises(ConfigError, match="does not exist in a page"):
            get_provider(name)
    with pytest.raises(ConfigError, match="unknown"):
        get_provider("noble")
