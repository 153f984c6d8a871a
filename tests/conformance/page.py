"""The page ``docs/reference/conformance.md``: the table of the last runs, as text that depends on nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "conformance.md"
_SIGNS: Final = {
    "pass": "yes",
    "fail": "**no**",
    "known": "known failure",
    "surprise": "**no**",
    "n/a": "–",
    "": "not run",
}
_HEAD: Final = """\
# Conformance

What every binding does with the cases of [`tests/conformance/`](../../tests/conformance/README.md), as its last run
found. `make conformance` runs them and writes this page; do not edit it.

yes: it holds. –: the binding cannot express it; the notes say why. not run: nobody has run this binding yet.
"""


def render(cases: Any, drivers: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], before: str) -> str:
    """The page. The column of a driver that was not run is that of ``before``."""
    old = _columns(before)
    columns = {
        name: {case.name: _cell(results[name].get(case.name)) for case in cases}
        if name in results
        else old.get(driver.title, {})
        for name, driver in drivers.items()
    }
    lines = [_HEAD]
    titles = " | ".join(driver.title for driver in drivers.values())
    notes = {name: _notes_of(before, driver.title) for name, driver in drivers.items()}
    for name, outcomes in results.items():
        notes[name] = _notes(outcomes)
    for area in dict.fromkeys(case.area for case in cases):
        lines += [f"## {area}\n", f"| Case | {titles} |", "| --- |" + " --- |" * len(drivers)]
        for case in cases:
            if case.area == area:
                cells = (columns[name].get(case.name, _SIGNS[""]) for name in drivers)
                lines.append(f"| {case.name} | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append("## Notes\n")
    for name, driver in drivers.items():
        if notes[name]:
            lines += [f"{driver.title}:\n", *notes[name], ""]
    return "\n".join(lines)


def changed(cases: Any, drivers: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What to do if the committed page is not what these results give; None if it is."""
    text = PAGE.read_text("utf-8") if PAGE.exists() else ""
    if render(cases, drivers, results, text) == text:
        return None
    return f"{PAGE.name} is not what this run found; `make conformance` writes it"


def _cell(outcome: Any) -> str:
    return _SIGNS[outcome.kind if outcome else ""]


def _notes(outcomes: Mapping[str, Any]) -> list[str]:
    """Reasons, each with how many cases or, for failures, which."""
    reasons: dict[str, int] = {}
    lines = []
    for case, outcome in outcomes.items():
        if outcome.kind == "n/a":
            reasons[outcome.why] = reasons.get(outcome.why, 0) + 1
        elif outcome.kind == "known":
            lines.append(f"- known failure, {case}: {outcome.why}")
    lines += [f"- – ({count}): {reason}" for reason, count in sorted(reasons.items())]
    return lines


def _columns(page: str) -> dict[str, dict[str, str]]:
    """Title -> case -> cell of a page."""
    columns: dict[str, dict[str, str]] = {}
    titles: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if cells and cells[0] == "Case":
            titles = cells[1:]
        elif cells and cells[0] != "---":
            for title, cell in zip(titles, cells[1:], strict=True):
                columns.setdefault(title, {})[cells[0]] = cell
    return columns


def _notes_of(page: str, title: str) -> list[str]:
    found = re.search(rf"^{re.escape(title)}:\n\n((?:- .*\n)+)", page, re.MULTILINE)
    return found[1].splitlines() if found else []
