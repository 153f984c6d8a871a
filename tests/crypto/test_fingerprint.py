from __future__ import annotations

import pytest

from phantom.crypto.fingerprint import fingerprint_digest, format_fingerprint, parse_fingerprint
from phantom.errors import ValidationError

KNOWN = "phantom1:4fvt3lmgjcn2m2a4bgjw2vcpvqdbeqx447jc4e7bchobjlnspm6q"  # Appendix B.2: flat key of 66 x 1984


def test_known_fingerprint() -> None:
    digest = fingerprint_digest(b"\x66" * 1984)
    assert (len(digest), len(KNOWN)) == (32, 61)
    assert format_fingerprint(digest) == KNOWN
    assert parse_fingerprint(KNOWN) == digest


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_round_trip(digest: bytes) -> None:
    assert parse_fingerprint(format_fingerprint(bytearray(digest))) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "phantom1:",
        KNOWN[:-1],
        KNOWN + "a",
        KNOWN + "\n",
        " " + KNOWN,
        KNOWN.upper(),
        KNOWN.replace("phantom1", "Phantom1"),
        KNOWN.replace("phantom1", "phantom2"),
        KNOWN.removeprefix("phantom1:"),
        KNOWN[:-1] + "r",  # the same 32 bytes with a stray bit behind them
        KNOWN[:20] + "1" + KNOWN[21:],  # not in the alphabet
        KNOWN[:20] + "=" + KNOWN[21:],
        KNOWN[:20] + "é" + KNOWN[21:],
    ],
)
def test_one_spelling_only(text: str) -> None:
    with pytest.raises(ValidationError, match="52 lower-case"):
        parse_fingerprint(text)
