"""``python -m benchmarks.kotlin.run``: Phantom for Kotlin against the Python client of the same sidecar, in one run.

Needs what ``make kotlin`` builds. Both clients do the same by the same sidecar, with an echoing queue in the place of
the session (*Exchange*: the client and its hop alone) and with a session to an echo server in a third process:

- echo both ways at once in messages of 256 KiB, at most 4 MiB under way; Kotlin after 10 s of the same (its compiler
  works in the background), Python after 16 messages;
- a unary call (Get), and 64 B there and back over an exchange, one at a time;
- from nothing to the first byte of an answer: a new client, its lease, a session, 1 B there and back; the first one of
  the process, and the median of 20 more.

Rounds are interleaved; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.sidecar_exchange import MEMORY, Figures, bulk, exchange_client, pings, server
from phantom.sidecar._generated.v1 import session_pb2
from phantom.sidecar.client import SidecarClient

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "kotlin"
COMMAND = "python -m benchmarks.kotlin.run"
RATIO = 0.9
CONNECTS = 20


# --- the Python client ------------------------------------------------------------------------------------------------


async def unary(address: str, target: str, seconds: float) -> Figures:
    """The call Get, one at a time."""
    async with SidecarClient(address) as client:
        session = await client.connect(target, bytes(1984) if target == MEMORY else None, timeout=20.0)
        request = session_pb2.GetRequest(session=session.ref)
        for _ in range(50):  # warm
            await client.call(client.session.Get, request)
        times, end = [], time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            await client.call(client.session.Get, request)
            times.append(time.perf_counter() - begun)
    cuts = statistics.quantiles(times, n=100)
    return {"p50 µs": cuts[49] * 1e6, "p99 µs": cuts[98] * 1e6}


async def first_byte(address: str, target: str) -> float:
    """Milliseconds from nothing to the first byte of an answer."""
    begun = time.perf_counter()
    async with SidecarClient(address) as client:
        session = await client.connect(target, bytes(1984) if target == MEMORY else None, timeout=20.0)
        await session.send(b"x")
        await session.recv()
        return (time.perf_counter() - begun) * 1e3


async def python(work: str, address: str, target: str, seconds: float) -> Figures:
    """One measurement of the Python client."""
    if work == "unary":
        return await unary(address, target, seconds)
    if work == "connect":
        first = await first_byte(address, target)
        return {
            "first ms": first,
            "ms": statistics.median([await first_byte(address, target) for _ in range(CONNECTS)]),
        }
    async with exchange_client(address, target) as pipe:
        figures = await (bulk if work == "bulk" else pings)(pipe, [os.getpid()], seconds)
    kept = {name: value for name, value in figures.items() if not name.startswith("CPU")}
    if work == "bulk":
        kept["peak RSS MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return kept


# --- rounds -----------------------------------------------------------------------------------------------------------


def kotlin_command() -> list[str]:
    """How the Kotlin client is started; SystemExit where it was not built."""
    java, libraries = shutil.which("java"), BUILD / "test-classpath.txt"
    if java is None or not libraries.exists():
        sys.exit(f"{COMMAND} needs what `make kotlin` builds, and a Java runtime")
    path = [str(BUILD / "classes"), str(BUILD / "test-classes"), libraries.read_text("utf-8").strip()]
    return [java, "-Xmx256m", "-cp", os.pathsep.join(path), "BenchKt"]


def run(command: list[str], *arguments: object) -> Figures:
    """What a client process measured."""
    done = subprocess.run([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True, timeout=180)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Interleaved rounds: row -> quantity -> one number a round."""
    clients = {"Python": [sys.executable, "-m", "benchmarks.kotlin.run", "--client"], "Kotlin": kotlin_command()}
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
        kotlin, other = (medians[f"{row}, {language}"]["MB/s each way"] for language in ("Kotlin", "Python"))
        made.append({"target": f"{row}: Kotlin at least {RATIO} of Python", "value": kotlin / other})
    return [{**each, "met": each["value"] >= RATIO} for each in made]


def markdown(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        "# Phantom for Kotlin, and the Python client of the same sidecar",
        "",
        f"`{COMMAND}` ({result['rounds']} interleaved rounds of {result['seconds']} s, medians).",
        f"{result['machine']}, {result['python']}, {result['java']}, load {result['load']}, {result['date']}.",
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
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for kotlin.json and kotlin.md")
    chosen = parser.parse_args(arguments)
    if chosen.client:
        work, address, target, seconds = chosen.client
        print(json.dumps(asyncio.run(python(work, address, target, float(seconds)))), flush=True)
        return 0
    load = os.getloadavg()[0]
    found = measure(chosen.rounds, chosen.seconds)
    medians = {name: {key: statistics.median(values) for key, values in row.items()} for name, row in found.items()}
    java = subprocess.run(["java", "-version"], stderr=subprocess.PIPE, text=True, check=True).stderr.splitlines()[0]
    result = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": f"Python {platform.python_version()}",
        "java": java.replace('"', ""),
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
    (chosen.output / "kotlin.json").write_text(encoded, encoding="utf-8")
    (chosen.output / "kotlin.md").write_text(text, encoding="utf-8")
    return 0 if all(row["met"] for row in result["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
