from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import RngError


def test_the_system_generator_gives_fresh_bytes() -> None:
    assert [len(SYSTEM_RNG.fill_bytes(n)) for n in (0, 1, 32, 1000)] == [0, 1, 32, 1000]
    assert len({SYSTEM_RNG.fill_bytes(16) for _ in range(100)}) == 100


def fails(n: int) -> bytes:
    raise OSError("no entropy")


def is_missing(n: int) -> bytes:
    raise NotImplementedError


@pytest.mark.parametrize("urandom", [fails, is_missing, lambda n: bytes(n - 1)])
def test_a_failing_or_short_source_is_an_error(
    urandom: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", urandom)
    with pytest.raises(RngError, match="random bytes"):
        SYSTEM_RNG.fill_bytes(32)
