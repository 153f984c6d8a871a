from __future__ import annotations

from typing import Any

import pytest

from phantom.crypto.hybrid_kem import HybridKemKeyPair, combine, encapsulate, fresh_public
from phantom.crypto.providers import Handle, Provider, get_provider
from phantom.crypto.providers.openssl import OpenSslProvider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import KemFailedError, PhantomError, RngError, SerializationError, ValidationError
from tests.crypto.vectors import native, unhex

REJECTS: dict[str, type[PhantomError]] = {"KemFailed": KemFailedError, "SerializationError": SerializationError}


class ScriptedRng:
    """Gives what it was given, and remembers how much was asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.asked: list[int] = []

    def fill_bytes(self, n: int) -> bytes:
        self.asked.append(n)
        if not self.chunks:
            raise RngError
        return self.chunks.pop(0)


def pair_of(entry: dict[str, Any], provider: Provider) -> HybridKemKeyPair:
    return HybridKemKeyPair.from_seeds(provider, *unhex(entry["input"], "x25519_sk", "ml_kem_seed"))


# --- the vector file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", native("hybrid_kem"), ids=lambda entry: entry["id"])
def test_decapsulation(entry: dict[str, Any], provider: Provider) -> None:
    pair = pair_of(entry, provider)
    expect = entry["expect"]
    assert pair.public.hex() == expect["key_package"]
    assert pair.decapsulate(bytes.fromhex(entry["input"]["ciphertext"])).hex() == expect["shared_secret"]
    assert combine(*unhex(expect, "ss_x", "ss_pq")).hex() == expect["shared_secret"]


@pytest.mark.parametrize("entry", native("hybrid_kem", "negative", "decapsulate"), ids=lambda entry: entry["id"])
def test_decapsulation_refuses(entry: dict[str, Any], provider: Provider) -> None:
    with pytest.raises(REJECTS[entry["reject"]]):
        pair_of(entry, provider).decapsulate(bytes.fromhex(entry["input"]["ciphertext"]))


@pytest.mark.parametrize("entry", native("hybrid_kem", "negative", "encapsulate"), ids=lambda entry: entry["id"])
def test_encapsulation_refuses(entry: dict[str, Any], provider: Provider) -> None:
    with pytest.raises(REJECTS[entry["reject"]]):
        encapsulate(provider, bytes.fromhex(entry["input"]["key_package"]), SYSTEM_RNG)


# --- both ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["openssl", "pqcrypto"])
def test_both_ends_agree(provider: Provider, other: str) -> None:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, shared = encapsulate(get_provider(other), pair.public, SYSTEM_RNG)
    assert (len(pair.public), len(ciphertext), len(shared)) == (1220, 1124, 32)
    assert pair.decapsulate(ciphertext) == pair.decapsulate(memoryview(ciphertext)) == shared
    assert isinstance(shared, bytearray)
    again, another = encapsulate(get_provider(other), bytearray(pair.public), SYSTEM_RNG)
    assert again != ciphertext
    assert another != shared


def test_a_damaged_ml_kem_half_is_no_error(provider: Provider) -> None:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, shared = encapsulate(provider, pair.public, SYSTEM_RNG)
    damaged = ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,))
    assert pair.decapsulate(damaged) != shared


@pytest.mark.parametrize("cut", [0, 1, 32, 36, 1123, 1219])
def test_every_other_length_is_malformed(cut: int, provider: Provider) -> None:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, _ = encapsulate(provider, pair.public, SYSTEM_RNG)
    for bad in (ciphertext[:cut] if cut < 1124 else b"", ciphertext + b"\0"):
        with pytest.raises(SerializationError):
            pair.decapsulate(bad)
    for bad in (pair.public[:cut], pair.public + b"\0"):
        with pytest.raises(SerializationError):
            encapsulate(provider, bad, SYSTEM_RNG)


# --- randomness and life of the secrets -----------------------------------------------------------------------------


def test_an_injected_source_decides_the_keys(provider: Provider) -> None:
    entry = native("hybrid_kem")[0]
    rng = ScriptedRng(*unhex(entry["input"], "x25519_sk", "ml_kem_seed"))
    assert HybridKemKeyPair.generate(provider, rng).public.hex() == entry["expect"]["key_package"]
    assert rng.asked == [32, 64]
    ephemeral = bytes.fromhex(entry["record"]["ephemeral_sk"])
    ciphertext, _ = encapsulate(provider, bytes.fromhex(entry["expect"]["key_package"]), ScriptedRng(ephemeral))
    assert ciphertext[:32].hex() == entry["input"]["ciphertext"][:64]


def test_a_failing_source_fails_the_exchange(provider: Provider) -> None:
    with pytest.raises(RngError):
        HybridKemKeyPair.generate(provider, ScriptedRng())
    with pytest.raises(RngError):
        encapsulate(provider, fresh_public(provider, SYSTEM_RNG), ScriptedRng())


def test_seeds_of_other_lengths_are_refused(provider: Provider) -> None:
    for x25519, ml_kem in ((31, 64), (32, 63), (32, 65), (33, 64), (0, 0), (64, 32)):
        with pytest.raises(ValidationError):
            HybridKemKeyPair.from_seeds(provider, bytes(x25519), bytes(ml_kem))


def test_a_wiped_pair_is_useless(provider: Provider) -> None:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, _ = encapsulate(provider, pair.public, SYSTEM_RNG)
    pair.wipe()
    pair.wipe()
    assert [getattr(pair, name) for name in ("_x25519", "_ml_kem")] == [None, None]
    with pytest.raises(ValidationError, match="wiped"):
        pair.decapsulate(ciphertext)


def test_a_fresh_public_is_a_valid_package_nobody_can_open(provider: Provider) -> None:
    package = fresh_public(provider, SYSTEM_RNG)
    assert package != fresh_public(provider, SYSTEM_RNG)
    ciphertext, _ = encapsulate(provider, package, SYSTEM_RNG)
    assert len(ciphertext) == 1124


class SpyProvider(OpenSslProvider):
    """Keeps the secrets that passed through it."""

    def __init__(self, x25519: bytes | None = None) -> None:
        self.secrets: list[bytearray] = []
        self.x25519 = x25519

    def x25519_exchange(self, sk: Handle, pk: bytes) -> bytearray:
        secret = super().x25519_exchange(sk, pk) if self.x25519 is None else bytearray(self.x25519)
        self.secrets.append(secret)
        return secret

    def ml_kem_encapsulate(self, ek: Any) -> tuple[bytes, bytearray]:
        ciphertext, secret = super().ml_kem_encapsulate(ek)
        self.secrets.append(secret)
        return ciphertext, secret

    def ml_kem_decapsulate(self, key: Handle, ct: Any) -> bytearray:
        secret = super().ml_kem_decapsulate(key, ct)
        self.secrets.append(secret)
        return secret


def test_the_halves_are_wiped_once_combined() -> None:
    spy = SpyProvider()
    pair = HybridKemKeyPair.generate(spy, SYSTEM_RNG)
    ciphertext, _ = encapsulate(spy, pair.public, SYSTEM_RNG)
    pair.decapsulate(ciphertext)
    assert spy.secrets == [bytearray(32)] * 4


def test_an_all_zero_secret_is_refused_even_if_the_library_gave_it() -> None:
    genuine = HybridKemKeyPair.generate(get_provider("openssl"), SYSTEM_RNG)
    ciphertext, _ = encapsulate(get_provider("openssl"), genuine.public, SYSTEM_RNG)
    careless = SpyProvider(x25519=bytes(32))
    with pytest.raises(KemFailedError):
        encapsulate(careless, genuine.public, SYSTEM_RNG)
    with pytest.raises(KemFailedError):
        HybridKemKeyPair.generate(careless, SYSTEM_RNG).decapsulate(ciphertext)


def test_no_secret_is_printed(provider: Provider) -> None:
    seeds = (b"\x5a" * 32, b"\xa5" * 64)
    pair = HybridKemKeyPair.from_seeds(provider, *seeds)
    shown = f"{pair!r} {pair} {pair._ml_kem!r} {pair._x25519!r}"
    fresh = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    shown += f"{fresh._ml_kem!r} {fresh._ml_kem}"
    with pytest.raises(SerializationError) as failure:
        pair.decapsulate(b"\x77" * 1124)
    shown += f"{failure.value!r} {failure.value}"
    for secret in (*seeds, b"\x77" * 1124):
        assert secret[:8].hex() not in shown
        assert repr(secret[:8])[2:-1] not in shown
