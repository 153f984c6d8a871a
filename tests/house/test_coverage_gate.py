"""The coverage gate counts what it says it counts."""

from __future__ import annotations

from typing import Any

import pytest

from tools import coverage_gate


def file(covered: int, total: int, branches: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    summary = {
        "covered_lines": covered,
        "num_statements": total,
        "covered_branches": branches[0],
        "num_branches": branches[1],
    }
    missing_branches = [[1, -1]] * (branches[1] - branches[0])
    return {"summary": summary, "missing_lines": list(range(total - covered)), "missing_branches": missing_branches}


def verdicts(files: dict[str, Any], floors: dict[str, float]) -> dict[str, bool]:
    return {room.name: room.passed for room in coverage_gate.rooms(files, floors)}


@pytest.mark.parametrize(
    ("files", "passed"),
    [
        ({"a/x.py": file(95, 100)}, True),
        ({"a/x.py": file(94, 100)}, False),
        ({"a/x.py": file(100, 100, (0, 10))}, False),
        ({"a/x.py": file(90, 100), "a/b/y.py": file(100, 100)}, True),
        ({"a/x.py": file(100, 100), "b/y.py": file(0, 100)}, True),
        ({"ab/x.py": file(100, 100)}, False),
        ({}, False),
    ],
)
def test_a_room_is_summed_over_its_files(files: dict[str, Any], passed: bool) -> None:
    assert verdicts(files, {"a": 95.0}) == {"a": passed}


def test_one_miss_in_a_hundred_thousand_is_not_a_hundred_percent() -> None:
    assert verdicts({"a/x.py": file(99_999, 100_000)}, {"a": 100.0}) == {"a": False}


def test_a_gap_is_named() -> None:
    missed = {"missing_lines": [3, 4, 6, 9], "missing_branches": [[8, 9], [10, -1], [10, 12]]}
    (room,) = coverage_gate.rooms({"a/x.py": file(8, 10, (1, 2)) | missed}, {"a": 100.0})
    assert room.gaps == ("a/x.py: 3-6, 9, 10->exit, 10->12",)


def test_the_floors_are_those_that_were_agreed() -> None:
    whole = {"phantom/crypto", "phantom/security", "phantom/transport/handshake", "phantom/transport/packet"}
    assert {room for room, floor in coverage_gate.FLOORS.items() if floor == 100.0} == whole
    assert coverage_gate.FLOORS["phantom"] >= 95.0


def test_a_selection_of_tests_is_let_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage_gate.main(["tests/crypto"]) == 0
    assert "not applied" in capsys.readouterr().out
