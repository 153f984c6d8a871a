from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.providers import Provider, get_provider
from phantom.errors import ValidationError

NONCE = bytes(12)


def test_the_suites() -> None:
    assert [(suite.value, suite.label) for suite in CipherSuite] == [(1, "aes-256-gcm"), (2, "chacha20-poly1305")]
    assert CipherSuite(1) is CipherSuite.AES_256_GCM


def test_nothing_is_wrapped_around_the_library(provider: Provider) -> None:
    assert type(new_aead(CipherSuite.AES_256_GCM, bytes(32), provider)) is AESGCM
    assert type(new_aead(CipherSuite.CHACHA20_POLY1305, bytearray(32), provider)) is ChaCha20Poly1305


@pytest.mark.parametrize("suite", CipherSuite)
@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_only_256_bit_keys(suite: CipherSuite, length: int, provider: Provider) -> None:
    with pytest.raises(ValidationError, match="32 bytes"):
        new_aead(suite, bytes(length), provider)


def test_the_published_zero_case() -> None:
    box = new_aead(CipherSuite.AES_256_GCM, bytes(32), get_provider())
    sealed = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    assert box.encrypt(NONCE, bytes(16), None) == sealed
    with pytest.raises(AEAD_FAILURE):
        box.decrypt(NONCE, sealed[:-1] + b"\0", None)


@pytest.mark.parametrize("suite", CipherSuite)
def test_in_place(suite: CipherSuite, provider: Provider) -> None:
    """As packets are: sealed where the plaintext lies, opened where the ciphertext lies."""
    box = new_aead(suite, b"k" * 32, provider)
    buffer = bytearray(b"head" + b"payload" + bytes(16) + b"tail")
    view = memoryview(buffer)
    assert box.encrypt_into(NONCE, view[4:11], view[:4], view[4:27]) == 23
    assert buffer[4:27] == box.encrypt(NONCE, b"payload", b"head")
    assert box.decrypt_into(NONCE, view[4:27], view[:4], view[4:11]) == 7
    assert (buffer[:11], buffer[27:]) == (b"headpayload", b"tail")


@settings(max_examples=200)
@given(
    suite=st.sampled_from(CipherSuite),
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=12, max_size=12),
    text=st.binary(max_size=300),
    aad=st.binary(max_size=100),
    flip=st.integers(min_value=0),
)
def test_round_trip_and_tampering(
    suite: CipherSuite, key: bytes, nonce: bytes, text: bytes, aad: bytes, flip: int
) -> None:
    box = new_aead(suite, key, get_provider())
    sealed = box.encrypt(nonce, text, aad)
    assert box.decrypt(nonce, sealed, aad) == text
    assert len(text) < 8 or text not in sealed
    changed = bytearray(aad + sealed)
    changed[flip // 8 % len(changed)] ^= 1 << flip % 8
    with pytest.raises(AEAD_FAILURE):
        box.decrypt(nonce, changed[len(aad) :], changed[: len(aad)])
    with pytest.raises(AEAD_FAILURE):
        box.decrypt(nonce, sealed, aad + b"\0")
