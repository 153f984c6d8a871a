"""Power-on self-tests: known answers and round trips of every primitive, before the first connection.

Each test is a function that returns what it expected and what it got; the runner compares. A ``fault`` flips one bit
of what a named test got, so that the way from a broken primitive to a refused connection can itself be tested. Answers
come from the standards named at each test, those of ML-KEM and ML-DSA from two independent implementations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.compare import constant_time_equal
from phantom.crypto.hybrid_kem import HybridKemKeyPair, encapsulate
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.kdf import blake3_derive, blake3_keyed, combine, hkdf_extract_expand
from phantom.crypto.providers import Provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import SelfTestFailureError
from phantom.limits import ML_KEM_CT_LEN, SIGNING_SEED_LEN

__all__ = ["SelfTestReport", "forget_verdicts", "run_self_tests"]

_Outcome: TypeAlias = tuple[bytes, bytes]  # expected, got
_Test: TypeAlias = Callable[[Provider], _Outcome]
_ACCEPTED: Final = b"\x01"
_REFUSED: Final = b"\x00"


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """The verdict on one provider: the names of the tests that ran and of those that failed."""

    provider: str
    tests: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return not self.failed


_verdicts: dict[str, SelfTestReport] = {}


def run_self_tests(provider: Provider, *, fresh: bool = False, fault: str | None = None) -> SelfTestReport:
    """Run the self-tests of ``provider`` once a process (about 10 ms), or again if ``fresh``, and return the report.

    SelfTestFailureError if one failed, now or in an earlier call: a failure holds until the process ends. ``fault``
    names a test whose result is falsified; KeyError for an unknown name.
    """
    report = _verdicts.get(provider.name)
    if report is None or (report.passed and (fresh or fault is not None)):
        report = _verdicts[provider.name] = _run(provider, fault)
    if not report.passed:
        raise SelfTestFailureError(
            f"self-tests of the crypto provider {report.provider!r} failed: {', '.join(report.failed)};"
            " the installation must not be used"
        )
    return report


def forget_verdicts() -> None:
    """Make the next ``run_self_tests`` start anew: the other half of the ``fault`` seam, for tests."""
    _verdicts.clear()


def _run(provider: Provider, fault: str | None) -> SelfTestReport:
    tests = dict(_TESTS)
    if provider.seeded:
        tests |= _SEEDED_TESTS
    falsified = None if fault is None else tests[fault]
    failed = []
    for name, test in tests.items():
        try:
            expected, got = test(provider)
        except Exception:  # noqa: BLE001 - a library that raises has failed its test, whatever it raised
            failed.append(name)
            continue
        if test is falsified:
            got = bytes((got[0] ^ 1,)) + got[1:]
        if not constant_time_equal(expected, got):
            failed.append(name)
    return SelfTestReport(provider.name, tuple(tests), tuple(failed))


def _sha256(provider: Provider) -> _Outcome:  # FIPS 180-4, "abc"
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    return bytes.fromhex(expected), hashlib.sha256(b"abc").digest()


def _hkdf(provider: Provider) -> _Outcome:  # RFC 5869 A.1
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    return bytes.fromhex(expected), hkdf_extract_expand(bytes(range(13)), b"\x0b" * 22, info, 42)


def _blake3(provider: Provider) -> _Outcome:  # the first case of BLAKE3's own test vectors: empty input
    expected = "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"
    return bytes.fromhex(expected), blake3_derive("BLAKE3 2019-12-27 16:29:52 test vectors context", b"")


def _blake3_keyed(provider: Provider) -> _Outcome:  # likewise
    expected = "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
    return bytes.fromhex(expected), blake3_keyed(b"whats the Elvish word for friend", b"")


def _combiner(provider: Provider) -> _Outcome:  # wire-native, Appendix B.2
    expected = "7a93f5b39ae449f253bd28ea6ea50187eb0ab0d437b30ab2a17774474d73d916"
    return bytes.fromhex(expected), bytes(combine(b"\xa1" * 32, b"\xb2" * 32))


def _aead(provider: Provider, suite: CipherSuite, key: bytes, nonce: bytes, aad: bytes, text: bytes) -> bytes:
    """The first ciphertext block, the tag, and what became of the packet as it was and with a changed tag."""
    aead = new_aead(suite, key, provider)
    sealed = aead.encrypt(nonce, text, aad)
    got = sealed[:16] + sealed[-16:] + (_ACCEPTED if aead.decrypt(nonce, sealed, aad) == text else _REFUSED)
    try:
        aead.decrypt(nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), aad)
    except AEAD_FAILURE:
        return got + _REFUSED
    return got + _ACCEPTED


def _aes_256_gcm(provider: Provider) -> _Outcome:  # the GCM specification, test case 14
    expected = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    got = _aead(provider, CipherSuite.AES_256_GCM, bytes(32), bytes(12), b"", bytes(16))
    return expected + _ACCEPTED + _REFUSED, got


def _chacha20_poly1305(provider: Provider) -> _Outcome:  # RFC 8439 2.8.2
    expected = bytes.fromhex("d31a8d34648e60db7b86afbc53ef7ec21ae10b594f09e26a7e902ecbd0600691")
    nonce, aad = bytes.fromhex("070000004041424344454647"), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    text = b"Ladies and Gentlemen of the class of '99: "
    text += b"If I could offer you only one tip for the future, sunscreen would be it."
    got = _aead(provider, CipherSuite.CHACHA20_POLY1305, bytes(range(0x80, 0xA0)), nonce, aad, text)
    return expected + _ACCEPTED + _REFUSED, got


def _x25519(provider: Provider) -> _Outcome:  # RFC 7748 6.1: Bob's side
    expected = (
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob = provider.x25519_private(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    return bytes.fromhex(expected), provider.x25519_public(bob) + provider.x25519_exchange(bob, alice)


def _ed25519(provider: Provider) -> _Outcome:  # RFC 8032 7.1, test 1
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    key = provider.ed25519_private(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    got = provider.ed25519_public(key) + provider.ed25519_sign(key, b"")
    verifier = provider.ed25519_verifier(bytes.fromhex(public))
    verdicts = bytes(provider.ed25519_verify(verifier, message, got[32:]) for message in (b"", b"x"))
    return bytes.fromhex(public + signature) + _ACCEPTED + _REFUSED, got + verdicts


def _hybrid_kem(provider: Provider) -> _Outcome:
    pair = HybridKemKeyPair.generate(provider, SYSTEM_RNG)
    ciphertext, shared = encapsulate(provider, pair.public, SYSTEM_RNG)
    return bytes(shared), bytes(pair.decapsulate(ciphertext))


def _ml_dsa(provider: Provider) -> _Outcome:
    key = provider.ml_dsa_generate()
    verifier = provider.ml_dsa_verifier(provider.ml_dsa_public(key))
    signature = bytearray(provider.ml_dsa_sign(key, b"message"))
    genuine = provider.ml_dsa_verify(verifier, b"message", signature)
    signature[0] ^= 1
    return _ACCEPTED + _REFUSED, bytes((genuine, provider.ml_dsa_verify(verifier, b"message", signature)))


def _ml_kem_seed(provider: Provider) -> _Outcome:
    # No real ciphertext: what implicit rejection answers depends on the key and on every byte.
    expected = (
        "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9"
        "2dcec6eacd41f41e98bbf1e6c4b6d1cfa76d83079fa78decb49d77f6ff9b796d"
    )
    key, ek = provider.ml_kem_keypair(bytes(range(64)))
    ciphertext = bytes(i % 256 for i in range(ML_KEM_CT_LEN))
    return bytes.fromhex(expected), hashlib.sha256(ek).digest() + provider.ml_kem_decapsulate(key, ciphertext)


def _ml_dsa_seed(provider: Provider) -> _Outcome:
    expected = "d666806e11cee19a7c989f7445f90dd419cf4d2d51db8c0fdb4c0f0a542238c9"
    public = provider.ml_dsa_public(provider.ml_dsa_private(bytes(range(32))))
    return bytes.fromhex(expected), hashlib.sha256(public).digest()


def _hybrid_signature(provider: Provider) -> _Outcome:
    key = HybridSigningKey.from_bytes(bytes(range(SIGNING_SEED_LEN)), provider)
    signature = bytearray(key.sign(b"message", context=b"self-test"))
    genuine = key.verifying_key().verify(b"message", signature, context=b"self-test")
    signature[-1] ^= 1
    return _ACCEPTED + _REFUSED, bytes(
        (genuine, key.verifying_key().verify(b"message", signature, context=b"self-test"))
    )


_TESTS: Final[dict[str, _Test]] = {
    "sha-256": _sha256,
    "hkdf-sha-256": _hkdf,
    "blake3-derive": _blake3,
    "blake3-keyed": _blake3_keyed,
    "kem-combiner": _combiner,
    "aes-256-gcm": _aes_256_gcm,
    "chacha20-poly1305": _chacha20_poly1305,
    "x25519": _x25519,
    "ed25519": _ed25519,
    "hybrid-kem": _hybrid_kem,
    "ml-dsa-65": _ml_dsa,
}
_SEEDED_TESTS: Final[dict[str, _Test]] = {
    "ml-kem-768-seed": _ml_kem_seed,
    "ml-dsa-65-seed": _ml_dsa_seed,
    "hybrid-signature": _hybrid_signature,
}
