from __future__ import annotations

from collections.abc import Iterator

import pytest

from phantom.crypto import self_tests
from phantom.crypto.providers import Provider, get_provider
from phantom.crypto.providers.openssl import OpenSslProvider
from phantom.crypto.providers.pqcrypto import PqcryptoProvider
from phantom.crypto.self_tests import forget_verdicts, run_self_tests
from phantom.errors import SelfTestFailureError

NAMES = (
    "sha-256",
    "hkdf-sha-256",
    "blake3-derive",
    "blake3-keyed",
    "kem-combiner",
    "aes-256-gcm",
    "chacha20-poly1305",
    "x25519",
    "ed25519",
    "hybrid-kem",
    "ml-dsa-65",
    "ml-kem-768-seed",
    "ml-dsa-65-seed",
    "hybrid-signature",
)


@pytest.fixture(autouse=True)
def no_verdicts() -> Iterator[None]:
    kept = dict(self_tests._verdicts)
    forget_verdicts()
    yield
    forget_verdicts()
    self_tests._verdicts.update(kept)


def test_all_pass(provider: Provider) -> None:
    report = run_self_tests(provider)
    assert report.passed
    assert (report.provider, report.tests, report.failed) == (provider.name, NAMES, ())


def test_without_seeds_the_rest_is_tested() -> None:
    report = run_self_tests(PqcryptoProvider(seeded=False))
    assert report.tests == NAMES[:-3]


@pytest.mark.parametrize("name", NAMES)
def test_each_test_can_fail(name: str, provider: Provider) -> None:
    with pytest.raises(SelfTestFailureError, match=f"{provider.name!r} failed: {name};.*must not be used"):
        run_self_tests(provider, fault=name)


def test_a_failure_holds(provider: Provider) -> None:
    with pytest.raises(SelfTestFailureError):
        run_self_tests(provider, fault="x25519")
    for again in ({}, {"fresh": True}, {"fault": "sha-256"}):
        with pytest.raises(SelfTestFailureError, match="failed: x25519;"):
            run_self_tests(provider, **again)
    other = get_provider("pqcrypto" if provider.name == "openssl" else "openssl")
    assert run_self_tests(other).passed  # the verdict is on one provider


def test_a_later_failure_counts(provider: Provider) -> None:
    assert run_self_tests(provider).passed
    with pytest.raises(SelfTestFailureError):
        run_self_tests(provider, fault="ed25519")
    with pytest.raises(SelfTestFailureError):
        run_self_tests(provider)


def test_the_verdict_is_kept(provider: Provider) -> None:
    report = run_self_tests(provider)
    assert run_self_tests(provider) is report
    assert run_self_tests(provider, fresh=True) is not report


def test_an_unknown_fault_is_an_error(provider: Provider) -> None:
    with pytest.raises(KeyError):
        run_self_tests(provider, fault="rot13")


class Broken(OpenSslProvider):
    """Accepts every signature, and raises where it should seal."""

    def aead(self, suite: object, key: object) -> object:  # type: ignore[override]
        raise RuntimeError("out of order")

    def ed25519_verify(self, key: object, message: object, signature: object) -> bool:
        return True

    def ml_dsa_verify(self, key: object, message: object, signature: object) -> bool:
        return True


def test_broken_primitives_are_found() -> None:
    with pytest.raises(SelfTestFailureError) as failure:
        run_self_tests(Broken())
    assert "failed: aes-256-gcm, chacha20-poly1305, ed25519, ml-dsa-65, hybrid-signature;" in str(failure.value)


class Permissive(OpenSslProvider):
    """Opens what was changed."""

    def aead(self, suite: object, key: object) -> object:  # type: ignore[override]
        inner = super().aead(suite, key)  # type: ignore[arg-type]

        class Aead:
            encrypt = staticmethod(inner.encrypt)

            @staticmethod
            def decrypt(nonce: bytes, data: bytes, aad: bytes) -> bytes:
                return b"\0" * (len(data) - 16)

        return Aead()


def test_an_aead_that_opens_anything_is_found() -> None:
    with pytest.raises(SelfTestFailureError, match="failed: aes-256-gcm, chacha20-poly1305;"):
        run_self_tests(Permissive())
