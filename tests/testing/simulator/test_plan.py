"""Plans as data: what a file may say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantom.errors import ConfigError
from phantom.testing.simulator import Flow, Link, Plan, World, load_plan, plan_from
from phantom.testing.simulator.chaos import drawn
from phantom.testing.simulator.plans import PLANS, long_plans, short_plans

TOML = """
summary = "a file"
transport = "pipe"
rekey = 2.5
settings = {bulk_chunk = 4096}

[link]
rate = 20.0
latency = 0.03

[up]
rate = 5.0

[[flows]]
sender = "both"
total = 1000

[[flows]]
kind = "streams"
streams = 3
"""


def test_a_file_becomes_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(TOML)
    plan = load_plan(path)
    assert plan == Plan(
        "train",
        "a file",
        "pipe",
        up=Link(rate=5.0, latency=0.03),
        down=Link(rate=20.0, latency=0.03),
        flows=(Flow(sender="both", total=1000), Flow("streams", streams=3)),
        rekey=2.5,
        settings={"bulk_chunk": 4096},
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate = ", "no TOML"),
        ("colour = 1", "has no colour"),
        ("[link]\nspeed = 1", "has no speed"),
        ("link = 3", "link is a table"),
        ("flows = 3", "list of tables"),
        ("flows = [1]", "flows is a table"),
        ("[link]\nloss = 'much'", "loss|up"),
        ("transport = 'pigeon'", "pigeon"),
        ("aead = 'rot13'", "rot13"),
        ("duration = 0.0", "lasts"),
        ("version = 3", "version"),
        ("version = 1", "on a pipe"),
        ("version = 1\ntransport = 'pipe'\nrekey = 1.0", "without rekeys"),
        ("name = ''", "name"),
        ("[[flows]]\nkind = 'smoke'", "kind"),
        ("[[flows]]\nsize = 0", "at least one byte"),
        ("[[flows]]\nreset = 2.0", "shares"),
    ],
)
def test_what_is_no_plan_says_why(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_plan(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_plan(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no TOML"):
        load_plan(tmp_path / "binary.toml")


def test_a_plan_needs_a_name() -> None:
    with pytest.raises(ConfigError):
        plan_from({})


def test_capacity_is_that_of_the_directions_in_use() -> None:
    up, down = Link(rate=8), Link(rate=80)
    for sender, capacity in (("client", 1e6), ("server", 1e7), ("both", 1.1e7)):
        assert Plan("p", up=up, down=down, flows=(Flow(sender=sender),)).capacity == capacity
    assert Plan("p", up=up, flows=(Flow(sender="both"),)).capacity == float("inf")


def test_the_plans_that_come_along_are_those_of_the_issue_and_more() -> None:
    wanted = {
        "handshakes-30-percent-bursts",
        "loss-30-percent-bursts",
        "rtt-1500ms",
        "blackhole-5s-on-2s-off",
        "corruption-2-percent",
        "corruption-30-percent",
        "rtt-210ms-reorder-15-percent",
        "bufferbloat",
        "lan-400us",
        "rekey-storm",
        "window-starvation",
        "slow-reader",
        "stream-churn-with-resets",
        "idle-day",
    }
    assert wanted <= set(PLANS)
    assert len(short_plans()) >= 12
    assert {plan.name for plan in (*short_plans(), *long_plans())} == set(PLANS)
    assert all(plan.summary for plan in PLANS.values())


def test_a_drawn_plan_is_the_same_for_the_same_seed_and_differs_from_others() -> None:
    assert drawn("chaos", 3) == drawn("chaos", 3)
    plans = [drawn("chaos", seed) for seed in range(60)]
    assert len({repr(plan) for plan in plans}) == 60
    assert {plan.version for plan in plans} == {1, 2}
    assert {plan.transport for plan in plans} == {"datagram", "pipe"}
    assert all(plan.flows for plan in plans)
    assert World(PLANS["chaos"], 3).plan == drawn("chaos", 3)
