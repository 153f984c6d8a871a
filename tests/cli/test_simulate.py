"""phantom simulate: what it prints, draws and exits with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from phantom.cli.screen import Screen
from phantom.cli.simulate import _progress
from phantom.testing.simulator import Outcome, play
from phantom.testing.simulator.plans import PLANS
from tests.cli.conftest import Invoke

PLAN = """
summary = "a short pipe"
transport = "pipe"
duration = {duration}
[link]
rate = 8.0
latency = 0.01
jitter = 0.01
[[flows]]
total = 30000
size = 3000
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.toml"
    path.write_text(PLAN.format(duration=20.0))
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.toml"
    path.write_text(PLAN.format(duration=0.02))
    return str(path)


def test_seeds_that_hold(invoke: Invoke, good: str) -> None:
    outcome = invoke("simulate", "--plan", good, "--seeds", "1-10", "--jobs", "1")
    assert outcome.code == 0
    heads, row = outcome.out.splitlines()
    assert heads.split() == ["plan", "seeds", "failed", "packets", "goodput", "steady", "bound", "by"]
    assert row.split()[:3] == ["good", "10", "0"]
    assert "%" in row
    assert outcome.err.splitlines()[-1] == "10 of 10 seeds played"


def test_a_seed_that_fails_is_replayed_and_named(invoke: Invoke, bad: str) -> None:
    outcome = invoke("simulate", "--plan", bad, "--seeds", "4-5", "--jobs", "1")
    assert outcome.code == 1
    assert "failed: bad, seed 4: progress: 0 of 30000 bytes" in outcome.err
    assert f"replay: phantom simulate --plan {bad} --seeds 4 --jobs 1" in outcome.err
    assert outcome.err.count("played again: the same, bit for bit (digest ") == 2
    again = invoke("simulate", "--plan", bad, "--seeds", "4", "--jobs", "1")
    digest = outcome.err.partition("digest ")[2][:8]
    assert digest in again.err


def test_a_run_that_does_not_repeat_is_told(invoke: Invoke, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(plan: object, seed: int) -> Outcome:
        return Outcome("bad", seed, "something else")

    monkeypatch.setattr("phantom.cli.simulate.play", other)
    assert "NOT THE SAME" in invoke("simulate", "--plan", bad, "--seeds", "4", "--jobs", "1").err


def test_the_traceback_of_an_exception_is_shown(invoke: Invoke, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tasks: object, samples: bool) -> list[Outcome]:
        return [Outcome("bad", 1, "ValueError: x", "no exception", "Traceback: here")]

    monkeypatch.setattr("phantom.testing.simulator.runner._play_batch", broken)
    outcome = invoke("simulate", "--plan", bad, "--seeds", "1", "--jobs", "1")
    assert "Traceback: here" in outcome.err


def test_the_result_as_json(invoke: Invoke, good: str, bad: str) -> None:
    outcome = invoke("simulate", "--plan", good, "--plan", bad, "--seeds", "1-2", "--jobs", "1", "--json")
    assert outcome.code == 1
    value = json.loads(outcome.out)
    assert value["failed"] == 2
    one, other = value["plans"]
    assert one["failures"] == []
    assert 0.5 < one["goodput"] <= 1
    assert [failure["seed"] for failure in other["failures"]] == [1, 2]


def test_plots_are_drawn(invoke: Invoke, good: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    outcome = invoke("simulate", "--plan", good, "--seeds", "3", "--jobs", "1", "--plot", str(folder))
    assert f"drawn: {folder / 'good-3.svg'}" in outcome.out
    assert (folder / "good-3.svg").read_text().startswith("<svg")


def test_the_plans_that_come_along_are_listed(invoke: Invoke) -> None:
    outcome = invoke("simulate", "--list")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == list(PLANS)
    listed = json.loads(invoke("simulate", "--list", "--json").out)["plans"]
    assert {plan["name"] for plan in listed if plan["long"]} == {name for name, plan in PLANS.items() if plan.long}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plan", "nonesuch"], "there is no plan 'nonesuch'"),
        (["--plan", "nonesuch.toml"], "cannot read the plan"),
        (["--seeds", "x"], "seeds are a number"),
    ],
)
def test_a_wrong_command_line(invoke: Invoke, arguments: list[str], told: str) -> None:
    outcome = invoke("simulate", *arguments)
    assert outcome.code == 2
    assert told in outcome.err


def test_a_plan_that_comes_along_is_played_by_name(invoke: Invoke) -> None:
    outcome = invoke("simulate", "--plan", "handshakes-30-percent-bursts", "--seeds", "1", "--jobs", "1")
    assert outcome.code == 0
    assert play(PLANS["handshakes-30-percent-bursts"], 1).handshakes == 50


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(as_json=False)
    screen.err = Console(force_terminal=True, file=io.StringIO(), width=100)
    monkeypatch.setenv("TERM", "xterm")
    with _progress(screen, 3, 2) as step:
        for seed in range(3):
            step(Outcome("some-plan", seed))
    drawn = screen.err.file.getvalue()  # type: ignore[attr-defined]
    assert "some-plan" in drawn
    assert "3/3" in drawn
