"""Identities at the API: a fresh key each time, and the verifying key of a seed (surface §1.4)."""

from __future__ import annotations

import pytest

import phantom
from phantom.api import identity


def test_a_generated_key_is_new_and_works() -> None:
    with phantom.generate_signing_key() as one, phantom.generate_signing_key() as other:
        assert one.verifying_key() != other.verifying_key()
        signature = one.sign(b"text", context=b"test")
        assert one.verifying_key().verify(b"text", signature, context=b"test")
        assert not other.verifying_key().verify(b"text", signature, context=b"test")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_verifying_key_of_a_seed(kind: type) -> None:
    with phantom.generate_signing_key() as key:
        seed = bytes(key.to_bytes())
        flat = key.verifying_key().to_bytes()
    assert phantom.verifying_key_from_signing_key(kind(seed)) == flat
    assert len(flat) == 1984


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(phantom.ValidationError):
        phantom.verifying_key_from_signing_key(bytes(size))


def test_the_public_names_are_those_of_the_package() -> None:
    for name in identity.__all__:
        assert getattr(phantom, name) is getattr(identity, name)
