from __future__ import annotations

import sys

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from phantom.crypto import providers
from phantom.crypto.hybrid_kem import HybridKemKeyPair, encapsulate
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.providers import Provider, get_provider, openssl
from phantom.crypto.providers.openssl import OpenSslProvider, has_post_quantum
from phantom.crypto.providers.pqcrypto import ExpandedKey, PqcryptoProvider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import ConfigError, KemFailedError, UnsupportedError

SEED = bytes(range(64))


class InjectedRng:
    def fill_bytes(self, n: int) -> bytes:
        return SEED[:n]


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_loaded", {})


class NoKey:
    @staticmethod
    def generate() -> None:
        raise UnsupportedAlgorithm("ML-DSA is not supported by this OpenSSL")


# --- choosing -------------------------------------------------------------------------------------------------------


def test_by_name() -> None:
    assert get_provider() is get_provider("auto")
    assert get_provider("openssl") is get_provider("openssl")
    assert [get_provider(name).name for name in ("auto", "openssl", "pqcrypto")] == ["openssl", "openssl", "pqcrypto"]
    assert [get_provider(name).seeded for name in ("openssl", "pqcrypto")] == [True, True]


@pytest.mark.parametrize("name", ["", "OpenSSL", "liboqs"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown crypto provider.*auto, openssl, pqcrypto"):
        get_provider(name)


@pytest.mark.usefixtures("nothing_loaded")
def test_an_openssl_without_post_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "MLDSA65PrivateKey", NoKey)
    assert not has_post_quantum()
    provider = get_provider("auto")
    assert (provider.name, provider.seeded) == ("pqcrypto", False)
    with pytest.raises(ConfigError, match="extra 'pqcrypto'"):
        get_provider("openssl")


@pytest.mark.usefixtures("nothing_loaded")
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "phantom.crypto.providers.pqcrypto")
    monkeypatch.setitem(sys.modules, "pqcrypto.kem", None)
    with pytest.raises(ConfigError, match=r"not installed.*extra 'pqcrypto'"):
        get_provider("pqcrypto")
    assert get_provider("auto").name == "openssl"


# --- what every provider does ---------------------------------------------------------------------------------------


def test_providers_open_each_others_work(provider: Provider) -> None:
    other = get_provider("pqcrypto" if provider.name == "openssl" else "openssl")
    key, ek = provider.ml_kem_generate(SYSTEM_RNG)
    ct, shared = other.ml_kem_encapsulate(ek)
    assert provider.ml_kem_decapsulate(key, ct) == shared
    signer = provider.ml_dsa_generate()
    signature = provider.ml_dsa_sign(signer, bytearray(b"message"))
    verifier = other.ml_dsa_verifier(memoryview(provider.ml_dsa_public(signer)))
    assert other.ml_dsa_verify(verifier, memoryview(b"message"), signature)
    assert not other.ml_dsa_verify(verifier, b"massage", signature)
    assert not other.ml_dsa_verify(verifier, b"message", signature[:-1])


def test_ml_dsa_signing_is_hedged(provider: Provider) -> None:
    for key in (provider.ml_dsa_generate(), provider.ml_dsa_private(SEED[:32])):
        assert provider.ml_dsa_sign(key, b"m") != provider.ml_dsa_sign(key, b"m")


def test_refused_keys(provider: Provider) -> None:
    sk = provider.x25519_private(SEED[:32])
    for low_order in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(KemFailedError):
            provider.x25519_exchange(sk, low_order)
    for bad in (b"", bytes(1183), b"\xff" * 1184):
        with pytest.raises(KemFailedError):
            provider.ml_kem_encapsulate(bad)


def test_an_undecodable_point_verifies_nothing(provider: Provider) -> None:
    verifier = provider.ed25519_verifier(b"\xff" * 32)
    assert not provider.ed25519_verify(verifier, b"m", bytes(64))
    assert not provider.ed25519_verify(verifier, b"m", b"")


def test_seeds_give_the_same_keys_everywhere() -> None:
    one, two = get_provider("openssl"), get_provider("pqcrypto")
    assert one.ml_kem_keypair(SEED)[1] == two.ml_kem_keypair(SEED)[1] == two.ml_kem_generate(InjectedRng())[1]
    public = [p.ml_dsa_public(p.ml_dsa_private(SEED[:32])) for p in (one, two)]
    assert public[0] == public[1]


# --- pqcrypto -------------------------------------------------------------------------------------------------------


def test_fresh_keys_are_pqcryptos_own() -> None:
    provider = get_provider("pqcrypto")
    assert isinstance(provider.ml_kem_generate(SYSTEM_RNG)[0], ExpandedKey)
    assert isinstance(provider.ml_dsa_generate(), ExpandedKey)
    assert issubclass(PqcryptoProvider, OpenSslProvider)  # everything else is shared


def test_expanded_keys_do_not_print_themselves() -> None:
    key = ExpandedKey(b"public", b"secret")
    assert "secret" not in f"{key} {key!r}"


def test_without_seeds_a_client_works_and_a_server_says_why_not() -> None:
    client, server = PqcryptoProvider(seeded=False), get_provider("openssl")
    pair = HybridKemKeyPair.generate(client, SYSTEM_RNG)
    ciphertext, shared = encapsulate(server, pair.public, SYSTEM_RNG)
    assert pair.decapsulate(ciphertext) == shared
    key = HybridSigningKey.generate(provider=server)
    peer = HybridVerifyingKey.from_bytes(key.verifying_key().to_bytes(), client)
    assert peer._verify_raw(b"transcript", key._sign_raw(b"transcript"))
    for call in (
        lambda: HybridSigningKey.generate(provider=client),
        lambda: HybridSigningKey.from_bytes(SEED, client),
        lambda: HybridKemKeyPair.from_seeds(client, SEED[:32], SEED),
        lambda: HybridKemKeyPair.generate(client, InjectedRng()),
    ):
        with pytest.raises(UnsupportedError, match="can derive a key"):
            call()
