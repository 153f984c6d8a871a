from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import page, run
from tests.conformance.case import BadCase, _step, filled, load, mismatch
from tests.conformance.content import content, many
from tests.conformance.drivers import NotRun, drivers

DRIVERS = drivers()
CASES = load()
OUTCOMES = {"a": run.Outcome("pass"), "b": run.Outcome("n/a", "why not"), "c": run.Outcome("known", "it is late")}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_passes_every_case_and_the_page_says_so(name: str) -> None:
    prefix = os.environ.get("PHANTOM_C_PREFIX")
    try:
        outcomes = run.run_driver(DRIVERS[name], CASES, Path(prefix).absolute() if prefix else None)
    except NotRun as why:
        pytest.skip(str(why))
    wrong = {case: outcome.why for case, outcome in outcomes.items() if outcome.kind in ("fail", "surprise")}
    assert not wrong
    assert page.changed(CASES, DRIVERS, {name: outcomes}) is None


def test_known_failures_name_drivers_and_cases() -> None:
    names = {case.name for case in CASES}
    for driver, failures in run.known_failures().items():
        assert driver in DRIVERS
        assert set(failures) <= names


def test_every_command_that_a_case_gives_exists() -> None:
    unknown = {
        step.command
        for case in CASES
        for step in case.steps
        if step.command not in ("finish", "cancel") and not hasattr(run.Peer, f"do_{step.command}")
    }
    assert not unknown


@pytest.mark.parametrize(
    ("outcome", "reason", "kind"),
    [
        ("pass", None, "pass"),
        ("fail", None, "fail"),
        ("fail", "late", "known"),
        ("pass", "late", "surprise"),
        ("n/a", "late", "surprise"),
    ],
)
def test_a_known_failure_must_fail(outcome: str, reason: str | None, kind: str) -> None:
    assert run._weighed(run.Outcome(outcome), reason).kind == kind


def test_a_step_has_one_command() -> None:
    for raw in ({"as": "x"}, {"send": {}, "recv": {}}):
        with pytest.raises(BadCase, match="one command"):
            _step("a case", raw)


def test_results_of_earlier_steps_are_filled_in() -> None:
    results: dict[str, Mapping[str, Any]] = {"server": {"port": 4242, "host": "localhost"}}
    assert filled({"port": "$server.port", "at": ["$server.host:$server.port"]}, results) == {
        "port": 4242,
        "at": ["localhost:4242"],
    }
    with pytest.raises(KeyError):
        filled("$client.port", results)


@pytest.mark.parametrize(
    ("expected", "result", "wrong"),
    [
        ({"size": 1}, {"size": 1, "more": 2}, None),
        ({"size": 1}, {"size": True}, "size is True"),
        ({"size": 1}, {}, "no size"),
        ({"size": {"min": 1, "max": 3}}, {"size": 2}, None),
        ({"size": {"min": 1, "max": 3}}, {"size": 4}, "size is 4"),
        ({"id": {"length": 2}}, {"id": "abc"}, "id is"),
        ({"id": {"matches": "a+"}}, {"id": "aab"}, "id is"),
        ({"id": {"one_of": [1, 2]}}, {"id": 2}, None),
        ({"id": {"not": 2}}, {"id": 2}, "id is 2"),
        ({"text": "x"}, {"size": 1, "sha256": "0"}, "sha256 is"),
        ({"messages": ["w", 2, 3]}, many("w", 2, 3), None),
        ({"messages": ["w", 2, 3]}, many("v", 2, 3), "sha256 is"),
    ],
)
def test_results_are_compared(expected: dict[str, Any], result: dict[str, Any], wrong: str | None) -> None:
    found = mismatch(expected, result)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_content_is_its_word_and_its_size() -> None:
    assert content("w", 0) == b""
    assert content("w", 10_000)[:4096] == content("w", 4096)
    assert content("w", 8192)[:4096] != content("w", 8192)[4096:]
    assert content("w", 10) != content("v", 10)


def _page(results: dict[str, Any], before: str = "") -> str:
    cases = [case.__class__("Area", name, ()) for case, name in zip(CASES, OUTCOMES, strict=False)]
    return page.render(cases, {name: DRIVERS[name] for name in ("python", "c")}, results, before)


def test_the_page_keeps_the_columns_that_were_not_run() -> None:
    first = _page({"python": OUTCOMES})
    assert "| a | yes | not run |" in first
    assert "| c | known failure | not run |" in first
    assert "- known failure, c: it is late\n- – (1): why not" in first
    second = _page({"c": OUTCOMES}, first)
    assert "| a | yes | yes |" in second
    assert _page({"python": OUTCOMES}, second) == second
