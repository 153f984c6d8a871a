"""Plans and seeds that once failed, named after what broke."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantom.testing.simulator import Plan, play
from phantom.testing.simulator.plans import PLANS

pytestmark = pytest.mark.simulation

# A path that is never given up shows what retransmission alone does.
PATIENT = {"silence_floor": 3000.0}


def patient(name: str) -> Plan:
    return replace(PLANS[name], settings={**PLANS[name].settings, **PATIENT}, duration=3000.0)


BROKE = {
    "a stream's delayed acknowledgement stayed due on a blocked leg and its timer span": (PLANS["pipe-streams"], 1),
    "control messages left the count of the send queue without having entered it": (
        PLANS["stream-churn-with-resets"],
        2,
    ),
    "the retransmission timer was due by one rounding and not by another and span": (
        patient("corruption-30-percent"),
        2,
    ),
    "packets that jitter kept stayed with a session whose leg was gone": (PLANS["chaos"], 68),
    "a close that ended a silence met a session that was still migrating": (PLANS["chaos"], 1129),
    "a session without a datagram for two seconds was dead": (PLANS["blackhole-5s-on-2s-off"], 1),
}


@pytest.mark.parametrize(("plan", "seed"), BROKE.values(), ids=[what.replace(" ", "-") for what in BROKE])
def test_what_broke_once_holds(plan: Plan, seed: int) -> None:
    outcome = play(plan, seed)
    assert outcome.ok, f"{outcome.invariant}: {outcome.failure}"
