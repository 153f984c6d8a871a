from __future__ import annotations

import pytest

from phantom.transport.packet.counters import DropCounters


def test_every_counter_starts_at_zero_and_shows_in_the_snapshot() -> None:
    counters = DropCounters()
    assert set(counters.snapshot().values()) == {0}
    counters.malformed += 2
    counters.unknown_control += 1
    assert (counters.malformed, counters.backlog) == (2, 0)
    assert {k: n for k, n in counters.snapshot().items() if n} == {"malformed": 2, "unknown_control": 1}
    assert len(counters.snapshot()) == 10


def test_a_misspelt_counter_is_an_error() -> None:
    misspelt = "malformd"
    with pytest.raises(AttributeError):
        setattr(DropCounters(), misspelt, 1)
