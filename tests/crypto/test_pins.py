from __future__ import annotations

import pytest

from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.pins import Pin, Pins, PinSet
from phantom.errors import ConfigError, ValidationError

FLAT = b"\x66" * 1984
OTHER = b"\x67" * 1984
KEY = HybridVerifyingKey.from_bytes(FLAT)
TEXT = "phantom1:4fvt3lmgjcn2m2a4bgjw2vcpvqdbeqx447jc4e7bchobjlnspm6q"
FORMS: list[Pin] = [TEXT, FLAT.hex(), FLAT.hex().upper(), FLAT, bytearray(FLAT), memoryview(FLAT), KEY]


@pytest.mark.parametrize("pin", FORMS, ids=lambda pin: type(pin).__name__)
def test_every_form_of_a_pin(pin: Pin) -> None:
    pins = PinSet.parse(pin)
    assert pins.fingerprints() == (TEXT,)
    assert pins.matches(FLAT)
    assert pins.matches(memoryview(FLAT))
    assert not pins.matches(OTHER)
    assert not pins.matches(FLAT[:-1] + b"\0")
    assert not pins.matches(b"")
    assert pins == PinSet.parse([pin])
    assert repr(pins) == f"PinSet({TEXT})"


def test_any_of_several_matches() -> None:
    pins = PinSet.parse([OTHER, TEXT, OTHER.hex()])
    assert pins.matches(FLAT)
    assert pins.matches(OTHER)
    assert not pins.matches(b"\x68" * 1984)
    assert pins.fingerprints() == (HybridVerifyingKey.from_bytes(OTHER).fingerprint(), TEXT)


def test_all_forms_together_are_one_pin() -> None:
    assert PinSet.parse(tuple(FORMS)).fingerprints() == (TEXT,)


def test_sets_are_equal_whatever_the_order() -> None:
    one, two = PinSet.parse([FLAT, OTHER]), PinSet.parse([OTHER, FLAT])
    assert one == two
    assert hash(one) == hash(two)
    assert one != PinSet.parse(FLAT)
    assert one != TEXT


@pytest.mark.parametrize("pins", [None, "", b"", bytearray(), [], ()])
def test_no_pin_at_all(pins: Pins | None) -> None:
    with pytest.raises(ConfigError, match="no pin"):
        PinSet.parse(pins)


@pytest.mark.parametrize(
    "pins",
    [
        "not a pin",
        TEXT.upper(),
        TEXT[:-1],
        "phantom1:",
        FLAT.hex()[:-2],
        FLAT.hex() + "00",
        "zz" + FLAT.hex()[2:],
        " " + FLAT.hex()[1:],
        FLAT.hex()[:-3] + "6 6",
        FLAT[:-1],
        FLAT + b"\0",
        [TEXT, "not a pin"],
        [TEXT, ""],
        [TEXT, None],
        [[TEXT]],
        {TEXT},
        7,
        3.5,
    ],
    ids=repr,
)
def test_malformed_pins(pins: Pins) -> None:
    with pytest.raises(ValidationError):
        PinSet.parse(pins)
