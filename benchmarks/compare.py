"""Compares two result files: what got much worse fails (``--check``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import TO_ANCHOR, number

FACTOR = 2.0  # how much worse a row may be; other machines and busy hours stay below
# A higher number is better; of everything else (times, CPU, memory) a lower one.
_RATES = ("MiB/s", "k msg/s", "k/s", "connects/s")


def worse(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """What is more than FACTOR times worse in ``new``: its name, the old and the new number.

    Where both files have the ratio to a peer of the same run, that is compared, not the number itself: the machine may
    be another one. Peers are not compared.
    """
    before = {_key(row): row["median"] for row in _rows(old)}
    for row in _rows(new):
        if not _ours(row):
            continue
        past = before.get(_key(row), {})
        for name, value in row["median"].items():
            companion = name + TO_ANCHOR
            if companion in row["median"] and companion in past:
                continue  # the ratio says it
            if name not in past or not past[name]:
                continue
            rate = name.removesuffix(TO_ANCHOR) in _RATES
            factor = past[name] / max(value, 1e-12) if rate else value / past[name]
            if factor > FACTOR:
                yield f"{row['group']}, {row['case']}, {row['name']}: {name}", past[name], value


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for run in found["runs"] for row in run["rows"]]


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["group"], row["case"], row["name"]


def _ours(row: dict[str, Any]) -> bool:
    return row["group"] != "primitives" and not row["name"].startswith(("C,", "TLS", "TCP"))


def check(old: Path, new: Path) -> int:
    """Prints what got worse; 1 if anything did. OSError, ValueError for files that are no results."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in (old, new)]
    found = list(worse(*files))
    for name, before, after in found:
        print(f"worse: {name}: {number(before)} -> {number(after)}")
    print(f"{len(found)} of the rows are more than {FACTOR:g} times worse than in {old}")
    return 1 if found else 0
