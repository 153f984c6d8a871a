"""``python -m benchmarks.run``: measures, prints, and writes benchmarks/results/ (``make bench``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import compare, report
from benchmarks.groups import bulk, gate, handshake, memory, primitives, quic, records, rust, small, streams
from benchmarks.harness import Options, Row, number
from benchmarks.targets import judge

GROUPS: dict[str, Callable[[Options], list[Row]]] = {
    "primitives": primitives.measure,
    "handshake": handshake.measure,
    "gate": gate.measure,
    "records": records.measure,
    "bulk": bulk.measure,
    "small": small.measure,
    "streams": streams.measure,
    "quic": quic.measure,
    "rust": rust.measure,
    "memory": memory.measure,
}
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 short rounds, to see that everything works")
    parser.add_argument(
        "--only", action="append", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS) + "; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="rounds of everything (default 9; published: at least 7)")
    parser.add_argument("--output", type=Path, help="folder for latest.json and latest.md (default benchmarks/results)")
    parser.add_argument("--check", nargs=2, type=Path, metavar=("OLD", "NEW"), help="compare two result files instead")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        try:
            return compare.check(*chosen.check)
        except (OSError, ValueError, KeyError) as error:
            print(f"cannot compare: {error}", file=sys.stderr)
            return 2
    if sys.platform == "win32":
        print("the benchmarks fork processes and need a POSIX system", file=sys.stderr)
        return 2
    options = Options(rounds=3, seconds=0.1, quick=True) if chosen.quick else Options()
    if chosen.rounds is not None:
        options.rounds = max(1, chosen.rounds)
    names = chosen.only or list(GROUPS)
    runs = []
    for name in names:
        print(f"{name}:", flush=True)
        runs.append(report.measured(name, GROUPS[name], options))
    print("targets:")
    for outcome in judge([row for run in runs for row in run.rows]):
        if outcome.met is not None:
            verdict = "met" if outcome.met else "NOT MET"
            print(
                f"  {outcome.number:3s} {outcome.text:78s} {outcome.bound:>7s} {number(outcome.value):>7s}  {verdict}"
            )
    # a try must not take the place of published numbers unless it is told to
    folder = chosen.output or (None if chosen.quick else RESULTS)
    if folder is not None:
        for path in report.write(folder, runs, GROUPS):
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
