"""That the benchmarks run, report and compare; not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, instructions, report, run
from benchmarks.groups import bulk
from benchmarks.harness import Options, Row, Unavailable, number
from benchmarks.peers import rust
from benchmarks.targets import TARGETS, judge

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_run_without_a_compiler_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    done = command("--quick", "--rounds", "1", "--only", "small", "--output", str(tmp_path), CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "SKIPPED: no C compiler" in done.stdout
    found = json.loads((tmp_path / "latest.json").read_text())
    rows = {(row["group"], row["case"], row["name"]): row for row in found["runs"][0]["rows"]}
    assert rows["one way", "64 B", bulk.ASYNCIO]["median"]["k msg/s"] > 0
    assert rows["ping-pong", "64 B", bulk.BLOCKING]["median"]["p50 µs"] > 0
    assert rows["one way", "64 B", bulk.C]["skipped"]
    page = (tmp_path / "latest.md").read_text()
    assert "## Skipped" in page
    assert found["machine"]["cpu"] in page


def test_without_cargo_the_program_of_the_crate_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARGO", "no-such-cargo")
    rust.program.cache_clear()
    with pytest.raises(Unavailable, match="no cargo"):
        rust.program()


@pytest.mark.slow
@pytest.mark.parametrize("group", ["handshake", "gate", "records", "memory"])
def test_a_group_without_peers_in_c_runs(group: str, tmp_path: Path) -> None:
    done = command("--quick", "--rounds", "1", "--only", group, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "SKIPPED" not in done.stdout or not Path("/proc/self/statm").exists()
    assert command("--check", *[str(tmp_path / "latest.json")] * 2).returncode == 0


def rows(**medians: float) -> dict[str, Any]:
    row = Row("bulk", "64 KiB", bulk.ASYNCIO, {name: [value] for name, value in medians.items()})
    return {"runs": [{"rows": [row.as_dict()]}]}


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ({"MiB/s": 100.0}, {"MiB/s": 51.0}, 0),
        ({"MiB/s": 100.0}, {"MiB/s": 49.0}, 1),
        ({"CPU s/GiB": 1.0}, {"CPU s/GiB": 2.1}, 1),
        ({"CPU s/GiB": 1.0}, {"CPU s/GiB": 0.1}, 0),
        ({"MiB/s": 100.0, "MiB/s to anchor": 0.9}, {"MiB/s": 40.0, "MiB/s to anchor": 0.8}, 0),
        ({"MiB/s": 100.0, "MiB/s to anchor": 0.9}, {"MiB/s": 100.0, "MiB/s to anchor": 0.4}, 1),
        ({}, {"MiB/s": 1.0}, 0),
    ],
)
def test_twice_as_slow_is_worse(old: dict[str, float], new: dict[str, float], count: int) -> None:
    assert len(list(compare.worse(rows(**old), rows(**new)))) == count


def test_a_peer_that_got_slower_is_its_own_affair() -> None:
    files = [
        {"runs": [{"rows": [Row("bulk", "64 KiB", bulk.C, {"MiB/s": [value]}).as_dict()]}]} for value in (100.0, 1.0)
    ]
    assert list(compare.worse(*files)) == []


def test_the_check_fails_on_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    assert run.main(["--check", str(tmp_path / "old.json"), str(tmp_path / "old.json")]) == 2


def test_targets_are_met_missed_or_not_measured() -> None:
    good = Row(bulk.GROUP, "64 KiB", bulk.ASYNCIO, {"MiB/s to anchor": [0.7, 0.9, 0.95]})
    outcomes = {outcome.text: outcome.met for outcome in judge([good])}
    assert outcomes["64 KiB, Phantom, asyncio: rate, C = 1"] is True
    bad = Row(bulk.GROUP, "64 KiB", bulk.ASYNCIO, {"MiB/s to anchor": [0.7, 0.75, 0.95]})
    assert [outcome.met for outcome in judge([bad])].count(False) == 1
    assert [outcome.met for outcome in judge([])] == [None] * len(TARGETS)


def a_run(*rows: Row, name: str = "bulk") -> report.Run:
    return report.Run(name, "today", "abc", 3, 0.4, [0.1, 0.2, 0.3], [1.0, 1.0, 1.0], list(rows))


def test_a_part_is_measured_anew_and_the_rest_stays(tmp_path: Path) -> None:
    old, new = (Row("bulk", "64 KiB", bulk.ASYNCIO, {"MiB/s": [value]}) for value in (1.0, 2.0))
    gate = Row("gate", "one core, no I/O", "junk", {"k/s": [3.0]})
    report.write(tmp_path, [a_run(old), a_run(gate, name="gate")], run.GROUPS)
    data, _ = report.write(tmp_path, [a_run(new)], run.GROUPS)
    found = json.loads(data.read_text())
    medians = {one["name"]: [row["median"] for row in one["rows"]] for one in found["runs"]}
    assert medians == {"gate": [{"k/s": 3.0}], "bulk": [{"MiB/s": 2.0}]}
    data.write_text(data.read_text().replace(found["machine"]["system"], "another system"))
    data, _ = report.write(tmp_path, [a_run(new)], run.GROUPS)
    assert [one["name"] for one in json.loads(data.read_text())["runs"]] == ["bulk"]


def test_the_page_shows_ratios_spread_and_what_was_skipped() -> None:
    measured = Row("bulk", "64 KiB", bulk.ASYNCIO, {"MiB/s": [90.0, 100.0, 110.0], "MiB/s to anchor": [0.8, 0.9, 1.0]})
    skipped = Row("bulk", "64 KiB", bulk.C, skipped="no C compiler (cc)")
    page = report.markdown(report.machine(), [a_run(skipped, measured)])
    assert "100 ± 5 % (0.90×)" in page
    assert "no C compiler (cc)" in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1 234")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_published_run_has_enough_rounds() -> None:
    assert Options().rounds >= 7


def test_more_instructions_than_recorded_are_named() -> None:
    recorded = {"seal 64 B": 1000, "open 64 B": 1000, "handshake, both sides": 1000}
    found = {"seal 64 B": 1050, "open 64 B": 1051, "handshake, both sides": 1099}
    assert instructions.compared(recorded, found) == ["open 64 B: 1051 instructions, recorded 1000 (+5.1%)"]
    assert instructions.compared(recorded, {"handshake, both sides": 1101})


def test_counts_of_other_versions_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/valgrind")
    monkeypatch.setattr(instructions, "versions", lambda: {"python": "another"})
    assert instructions.main([]) == 2
    assert "NOT COMPARED" in capsys.readouterr().err


def test_without_valgrind_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert instructions.main([]) == 2
    assert "NOT COUNTED" in capsys.readouterr().err


@pytest.mark.parametrize("name", instructions.OPERATIONS)
def test_what_is_counted_runs(name: str) -> None:
    assert instructions.main(["--worker", name, "3"]) == 0
