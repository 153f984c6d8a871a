"""``python -m benchmarks.swift.run``: Phantom for Swift against the Python client of the same sidecar, in one run.

Needs what ``make swift`` builds. Both clients do the same by the same sidecar, with an echoing queue in the place of
the session (*Exchange*: the client and its hop alone) and with a session to an echo server in a third process:

- echo both ways at once in messages of 256 KiB, at most 4 MiB under way;
- a unary call (Get), and 64 B there and back over an exchange, one at a time;
- from nothing to the first byte of an answer: a new client, its lease, a session, 1 B there and back; the first one of
  the process, and the median of 20 more.

Rounds are interleaved; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.kotlin.run import run
from benchmarks.sidecar_exchange import MEMORY, Figures, server

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = ROOT / ".cache" / "swift" / "release" / "PhantomBenchmark"
COMMAND = "python -m benchmarks.swift.run"
RATIO = 0.8


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Interleaved rounds: row -> quantity -> one number a round."""
    if not PROGRAM.exists():
        sys.exit(f"{COMMAND} needs what `make swift` builds")
    clients = {"Python": [sys.executable, "-m", "benchmarks.kotlin.run", "--client"], "Swift": [str(PROGRAM)]}
    found: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        server("sidecar", folder) as (sidecar, _),
        server("session", folder) as (url, _),
    ):
        rows = {
            "256 KiB, Exchange": ("bulk", MEMORY),
            "256 KiB, Exchange and session": ("bulk", url),
            "unary call": ("unary", MEMORY),
            "64 B there and back, Exchange": ("ping", MEMORY),
            "connect to first byte": ("connect", url),
        }
        for at in range(rounds):
            for name, (work, target) in rows.items():
                for language, command in clients.items():
                    for quantity, value in run(command, work, sidecar, target, seconds).items():
                        found.setdefault(f"{name}, {language}", {}).setdefault(quantity, []).append(value)
            print(f"round {at + 1} of {rounds}", flush=True)
    return found


def judge(medians: dict[str, Figures]) -> list[dict[str, Any]]:
    """The targets: what was asked, what came out."""
    made = []
    for row in ("256 KiB, Exchange", "256 KiB, Exchange and session"):
        swift, other = (medians[f"{row}, {language}"]["MB/s each way"] for language in ("Swift", "Python"))
        made.append({"target": f"{row}: Swift at least {RATIO} of Python", "value": swift / other})
    return [{**each, "met": each["value"] >= RATIO} for each in made]


def markdown(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        "# Phantom for Swift, and the Python client of the same sidecar",
        "",
        f"`{COMMAND}` ({result['rounds']} interleaved rounds of {result['seconds']} s, medians).",
        f"{result['machine']}, {result['python']}, {result['swift']}, load {result['load']}, {result['date']}.",
        "*Exchange* has an echoing queue in the place of the session. Memory is that of the client's process.",
        "",
        "| target | value | met |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {row['target']} | {row['value']:.2f} | {'yes' if row['met'] else 'NO'} |" for row in result["targets"]
    ]
    lines.append("")
    for name, figures in result["medians"].items():
        lines.append(f"- **{name}**: {' · '.join(f'{quantity} {value:.4g}' for quantity, value in figures.items())}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if a target is not met."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for swift.json and swift.md")
    chosen = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    found = measure(chosen.rounds, chosen.seconds)
    medians = {name: {key: statistics.median(values) for key, values in row.items()} for name, row in found.items()}
    result = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": f"Python {platform.python_version()}",
        "swift": "Swift 6.0.3 with gRPC 1.51, optimised build",
        "load": f"{load:.1f} to {os.getloadavg()[0]:.1f}",
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "targets": judge(medians),
        "medians": medians,
        "values": found,
    }
    text = markdown(result)
    print(text)
    encoded = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (chosen.output / "swift.json").write_text(encoded, encoding="utf-8")
    (chosen.output / "swift.md").write_text(text, encoding="utf-8")
    return 0 if all(row["met"] for row in result["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
