"""Seeds, processes and summaries."""

from __future__ import annotations

import os

import pytest

from phantom.errors import ConfigError
from phantom.testing.simulator import Flow, Link, Plan
from phantom.testing.simulator.runner import cores, parse_seeds, run_all, summarise
from phantom.testing.simulator.world import Outcome

LINK = Link(rate=8, latency=0.01, jitter=0.01)
GOOD = Plan("good", "", "pipe", LINK, LINK, flows=(Flow(total=30_000, size=3_000),))
BAD = Plan("bad", "", "pipe", LINK, LINK, flows=(Flow(total=30_000, size=3_000),), duration=0.02)


def test_seeds_are_one_or_a_range_with_both_ends() -> None:
    assert parse_seeds("7") == range(7, 8)
    assert parse_seeds("1-200") == range(1, 201)


@pytest.mark.parametrize("text", ["", "x", "3-", "-3", "5-4", "1-2-3"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_seeds(text)


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()


def test_outcomes_are_the_same_in_one_process_and_in_two() -> None:
    alone = list(run_all([GOOD, BAD], range(1, 5), 1))
    shared = sorted(run_all([GOOD, BAD], range(1, 5), 2), key=lambda one: (one.plan != "good", one.seed))
    assert alone == shared
    assert [one.ok for one in alone] == [True] * 4 + [False] * 4
    assert all(one.samples == [] for one in alone)


def test_samples_come_if_they_are_asked_for() -> None:
    (outcome,) = run_all([GOOD], range(1, 2), 1, samples=True)
    assert outcome.samples


def test_a_run_that_is_left_half_way_stops() -> None:
    outcomes = run_all([GOOD], range(1, 60), 2)
    assert next(outcomes).ok
    outcomes.close()  # type: ignore[attr-defined]


def test_a_summary_is_of_the_seeds_that_held() -> None:
    outcomes = [
        Outcome("good", 3, goodput=0.5, steady=0.6, packets=10, bound="network"),
        Outcome("good", 2, "broken", goodput=0.1, packets=20, bound="nothing"),
        Outcome("good", 1, "broken too", goodput=0.1, packets=5),
        Outcome("good", 4, goodput=0.7, steady=0.8, packets=10, bound="network"),
    ]
    (good, bad) = summarise([GOOD, BAD], outcomes)
    assert (good.goodput, good.steady) == (pytest.approx(0.6), pytest.approx(0.7))
    assert [one.seed for one in good.failures] == [1, 2]
    assert (good.packets, good.bound) == (20, "network")
    assert (bad.outcomes, bad.goodput, bad.packets, bad.bound) == ([], 0.0, 0, "")
