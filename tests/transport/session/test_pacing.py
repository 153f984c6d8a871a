"""The pacer (wire-native §19.3): bursts within the rate, never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.transport.session.pacing import UNLIMITED, Pacer

BUCKET = 65536


def paced(rate: float, min_rtt: float = 1.0) -> Pacer:
    pacer = Pacer(0.0)
    pacer.set_rate(rate, min_rtt, 0.0)
    return pacer


def test_there_is_no_limit_until_a_rate_is_known() -> None:
    pacer = Pacer(0.0)
    assert pacer.available(0.0) == UNLIMITED
    pacer.spend(1 << 40)
    assert pacer.release_at(1200, 5.0) == 5.0
    pacer.set_rate(1e6, 0.1, 5.0)
    assert pacer.available(5.0) == BUCKET  # what left unlimited is not owed


def test_a_full_bucket_leaves_at_once() -> None:
    pacer = paced(1e6)
    assert pacer.available(0.0) == BUCKET
    pacer.spend(BUCKET)
    assert pacer.available(0.0) == 0
    assert pacer.available(0.01) == 10_000
    assert pacer.available(100.0) == BUCKET


def test_the_rate_has_a_floor() -> None:
    pacer = paced(0.0)
    pacer.spend(BUCKET)
    assert pacer.available(1.0) == 1024


def test_a_wake_up_is_worth_a_burst_and_comes_within_50_ms() -> None:
    pacer = paced(1e6)
    pacer.spend(BUCKET)
    assert pacer.release_at(1000, 0.0) == pytest.approx(limits.PACER_BURST)  # 2 ms = 2000 bytes, not 1
    slow = paced(10_000)
    slow.spend(BUCKET)
    assert slow.release_at(1000, 0.0) == limits.PACER_MAX_WAIT  # a tenth of a second, asked again half-way
    fast = paced(1e9)
    fast.spend(BUCKET)
    assert fast.release_at(1000, 0.0) == pytest.approx(BUCKET / 1e9)  # no more than the bucket holds
    assert fast.release_at(1000, 1.0) == 1.0


def test_on_a_short_path_a_burst_is_no_longer_than_a_quarter_of_the_round_trip() -> None:
    pacer = paced(1e7, min_rtt=0.0004)
    pacer.spend(BUCKET)
    assert pacer.release_at(1000, 0.0) == pytest.approx(0.0001)


def test_another_rate_keeps_what_was_earned_at_the_old_one() -> None:
    pacer = paced(1e6)
    pacer.spend(BUCKET)
    pacer.set_rate(2e6, 1.0, 0.01)
    assert pacer.available(0.01) == 10_000
    assert pacer.available(0.02) == 30_000


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    pacer = paced(1e6)
    pacer.spend(BUCKET)
    assert pacer.available(0.01) == 10_000
    assert pacer.available(0.0) == 10_000
    assert pacer.available(0.01) == 10_000


@given(st.floats(1024, 1e8), st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 70_000)), max_size=60))
def test_no_more_leaves_than_a_bucket_and_the_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    pacer, now, sent = paced(rate), 0.0, 0
    for gap, size in steps:
        now += gap
        if pacer.available(now) >= size:
            pacer.spend(size)
            sent += size
        else:
            release = pacer.release_at(size, now)
            assert now <= release <= now + limits.PACER_MAX_WAIT
        assert sent <= BUCKET + rate * now + 1
