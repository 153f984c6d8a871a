"""Every plan that comes along, over its seeds: `phantom simulate` as a test.

PHANTOM_SIM_SEEDS is the number of seeds of each short plan (2 in the whole suite, 200 in `make simulate`, 1000 in `make
soak`); PHANTOM_SIM_LONG=1 plays the long plans, too. A failure names the command that plays the seed alone.
"""

from __future__ import annotations

import os

import pytest

from phantom.testing.simulator import play
from phantom.testing.simulator.plans import PLANS, long_plans, short_plans

SEEDS = int(os.environ.get("PHANTOM_SIM_SEEDS", "2"))
LONG = os.environ.get("PHANTOM_SIM_LONG", "0") == "1"
BLOCK = 20
MOST_PACKETS = 1500  # of a seed of a short plan: CI is to stay short (retransmissions may add some)

pytestmark = pytest.mark.simulation


BLOCKS = [
    (plan.name, first, min(first + BLOCK - 1, SEEDS)) for plan in short_plans() for first in range(1, SEEDS + 1, BLOCK)
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "first", "last"), BLOCKS, ids=str)
def test_every_seed_of_a_short_plan_holds(name: str, first: int, last: int) -> None:
    packets = 0
    for seed in range(first, last + 1):
        outcome = play(PLANS[name], seed)
        assert outcome.ok, f"{outcome.invariant}: {outcome.failure}\nphantom simulate --plan {name} --seeds {seed}"
        packets += outcome.packets
    assert packets / (last - first + 1) <= 1.25 * MOST_PACKETS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1, SEEDS + 1, 5))
def test_whatever_a_seed_draws_holds(first: int) -> None:
    for seed in range(first, min(first + 5, SEEDS + 1)):
        outcome = play(PLANS["chaos"], seed)
        assert outcome.ok, f"{outcome.invariant}: {outcome.failure}\nphantom simulate --plan chaos --seeds {seed}"


@pytest.mark.skipif(not LONG, reason="the long plans are for make soak")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [plan.name for plan in long_plans()])
def test_the_long_plans_hold(name: str) -> None:
    outcome = play(PLANS[name], 1)
    assert outcome.ok, f"{outcome.invariant}: {outcome.failure}\nphantom simulate --plan {name} --seeds 1"


@pytest.mark.parametrize("name", [plan.name for plan in short_plans() if not plan.handshakes])
def test_a_plan_repeats_bit_for_bit(name: str) -> None:
    one, other = play(PLANS[name], 77), play(PLANS[name], 77)
    assert (one.digest, one.steps, one.end, one.links) == (other.digest, other.steps, other.end, other.links)
