"""Fails when the tests miss too much of Phantom: python -m tools.coverage_gate

Reads the data that pytest-cov left behind and counts statements and branches together. The rooms where a missed branch
can be a hole must be covered whole, the package as a whole nearly so. A run over a selection of tests (any argument)
says nothing about coverage and is let through.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "coverage.json"
# room (a path below the root) -> percent
FLOORS: dict[str, float] = {
    "phantom": 95.0,
    "phantom/crypto": 100.0,
    "phantom/security": 100.0,
    "phantom/transport/handshake": 100.0,
    "phantom/transport/packet": 100.0,
}


@dataclass(frozen=True)
class Room:
    """What the tests reached of one room."""

    name: str
    floor: float
    covered: int
    total: int
    gaps: tuple[str, ...]

    @property
    def percent(self) -> float:
        return 100.0 * self.covered / self.total if self.total else 0.0

    @property
    def passed(self) -> bool:
        # Not by `percent`, so that 99.996 % never rounds up to 100 %. A room without code is a wrong path, no success.
        return self.total > 0 and self.covered * 100 >= self.floor * self.total


def _gap(path: str, file: Mapping[str, Any]) -> str:
    """Name the missed lines, joined to ranges, and the missed branches between lines that were reached."""
    missing = file["missing_lines"]
    ranges: list[list[int]] = []
    for line in missing:
        if ranges and line - ranges[-1][1] <= 2:  # an empty line or a comment between them is no difference
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    names = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    for start, end in file.get("missing_branches", ()):
        if not {start, end} & set(missing):
            names.append(f"{start}->{end if end > 0 else 'exit'}")
    return f"{path}: {', '.join(names)}"


def rooms(files: Mapping[str, Mapping[str, Any]], floors: Mapping[str, float]) -> Iterable[Room]:
    """Sum the `files` of a coverage JSON report by room."""
    for name, floor in floors.items():
        inside = {path: file for path, file in sorted(files.items()) if Path(path).as_posix().startswith(f"{name}/")}
        summaries = [file["summary"] for file in inside.values()]
        yield Room(
            name,
            floor,
            sum(summary["covered_lines"] + summary.get("covered_branches", 0) for summary in summaries),
            sum(summary["num_statements"] + summary.get("num_branches", 0) for summary in summaries),
            tuple(
                _gap(path, file)
                for path, file in inside.items()
                if file["missing_lines"] or file.get("missing_branches")
            ),
        )


def main(arguments: list[str]) -> int:
    if arguments:
        print("coverage gate: not applied to a selection of the tests")
        return 0
    subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", f"-o{REPORT}"], cwd=ROOT, check=True)
    found = list(rooms(json.loads(REPORT.read_text())["files"], FLOORS))
    for room in found:
        verdict = "ok" if room.passed else "TOO LOW"
        print(f"coverage {room.name:<28} {room.percent:7.2f} % of {room.total:6} (floor {room.floor:g} %)  {verdict}")
    for room in found:
        if not room.passed:
            print(f"\nnot reached in {room.name}:", *(room.gaps or ("(no code found)",)), sep="\n  ")
    return 0 if all(room.passed for room in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
