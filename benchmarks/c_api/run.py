"""``python -m benchmarks.c_api.run``: the C library between two C programs, against the Python API in the same run.

Needs a built prefix (``make c``; ``--prefix`` names another one) and a C compiler. Rounds of both are interleaved,
every figure is the median of the rounds, and CPU time is that of both processes: on a busy machine the steadier number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import GiB, KiB, MiB, run_pair

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE.parent / "results"
COMMAND = "python -m benchmarks.c_api.run"
GOODPUT_RATIO = 0.8
NOOP_NS = 500
CLEAN = {"PATH": "/usr/bin:/bin"}

Figures = dict[str, float]


def build_peer(prefix: Path, folder: Path) -> Path:
    """The measuring program, compiled against the prefix."""
    program = folder / "peer"
    compiler = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", str(HERE / "peer.c"), "-o", str(program)]
    linking = [f"-I{prefix}/include", f"-L{prefix}/lib", "-lphantom", "-lpthread", f"-Wl,-rpath,{prefix}/lib"]
    subprocess.run([*compiler, *linking], check=True)
    return program


class Peer:
    """A C program that says where it listens and, at its end, what it measured."""

    def __init__(self, program: Path, *arguments: object) -> None:
        command = [str(program), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN)

    def line(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the program ended with status {self._process.wait()}")
        return dict(json.loads(said))

    def end(self) -> dict[str, Any]:
        """The last thing it says."""
        last = self.line()
        if self._process.wait(60):
            raise RuntimeError(f"the program ended with status {self._process.returncode}")
        return last


def c_pair(program: Path, server: tuple[object, ...], client: tuple[object, ...]) -> tuple[dict[str, Any], ...]:
    """What the server and the client of a pair measured."""
    receiving = Peer(program, *server)
    sending = Peer(program, client[0], receiving.line()["address"], *client[1:])
    sent = sending.end()
    return receiving.end(), sent


def goodput(received: dict[str, Any], sent: dict[str, Any]) -> Figures:
    """By what arrived, from the first to the last byte."""
    return {
        "MiB/s": received["bytes"] / received["seconds"] / MiB,
        "CPU s/GiB": (received["cpu"] + sent["cpu"]) / received["bytes"] * GiB,
        "sender CPU s/GiB": sent["cpu"] / received["bytes"] * GiB,
        "receiver CPU s/GiB": received["cpu"] / received["bytes"] * GiB,
    }


def round_trips(received: dict[str, Any], sent: dict[str, Any]) -> Figures:
    """Rate of all threads together, latency of one."""
    return {
        "calls/s": sent["messages"] / sent["seconds"],
        "p50 µs": sent["p50"],
        "p99 µs": sent["p99"],
        "CPU µs": (received["cpu"] + sent["cpu"]) / sent["messages"] * 1e6,
    }


def cases(program: Path, seconds: float) -> dict[str, Callable[[], Figures]]:
    """Every row by its name."""

    def send(size: int) -> Callable[[], Figures]:
        return lambda: goodput(*c_pair(program, ("sink",), ("send", size, seconds)))

    def python_send(ends: str, size: int) -> Callable[[], Figures]:
        return lambda: goodput(*run_pair(f"session:{ends}server", f"session:{ends}client", _sizes(size, seconds)))

    def call(threads: int) -> Callable[[], Figures]:
        return lambda: round_trips(*c_pair(program, ("echo", threads), ("call", 64, seconds, threads)))

    def python_call(ends: str) -> Callable[[], Figures]:
        return lambda: round_trips(
            *run_pair(f"session:{ends}echo_server", f"session:{ends}echo_client", _sizes(64, seconds))
        )

    def start() -> Figures:
        _, started = c_pair(program, ("echo", 2), ("start",))
        return {key: float(value) for key, value in started.items()}

    def noop(threads: int) -> Callable[[], Figures]:
        calls = int(400_000 * seconds)

        def measured() -> Figures:
            found = Peer(program, "noop", calls, threads).end()
            return {"ns": found["ns"], "CPU ns": found["cpu ns"]}

        return measured

    return {
        "64 KiB, C": send(64 * KiB),
        "64 KiB, Python": python_send("", 64 * KiB),
        "64 KiB, Python blocking": python_send("blocking_", 64 * KiB),
        "1 MiB, C": send(MiB),
        "1 MiB, Python": python_send("", MiB),
        "1 MiB, Python blocking": python_send("blocking_", MiB),
        "64 B there and back, C, 1 thread": call(1),
        "64 B there and back, Python": python_call(""),
        "64 B there and back, Python blocking": python_call("blocking_"),
        "64 B there and back, C, 4 threads": call(4),
        "no-op call, 1 thread": noop(1),
        "no-op call, 4 threads at once": noop(4),
        "start": start,
    }


def _sizes(size: int, seconds: float) -> dict[str, Any]:
    return {"size": size, "seconds": seconds}


def measure(program: Path, rounds: int, seconds: float, only: str) -> dict[str, dict[str, list[float]]]:
    """Interleaved rounds: row -> quantity -> one number a round."""
    rows = {name: work for name, work in cases(program, seconds).items() if only in name}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in rows}
    for at in range(rounds):
        for name, work in rows.items():
            for quantity, value in work().items():
                found[name].setdefault(quantity, []).append(value)
        print(f"round {at + 1} of {rounds}", flush=True)
    return found


def judge(found: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """The targets: what was asked, what came out. Ratios are medians of what neighbours in a round came to."""
    judged = []
    for size in ("64 KiB", "1 MiB"):
        if f"{size}, C" in found and f"{size}, Python" in found:
            pairs = zip(found[f"{size}, C"]["MiB/s"], found[f"{size}, Python"]["MiB/s"], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            text = f"{size} goodput of C at least {GOODPUT_RATIO} of the Python API"
            judged.append({"target": text, "value": ratio, "met": ratio >= GOODPUT_RATIO})
    noop = found.get("no-op call, 1 thread")
    if noop:
        text = f"a no-op call at most {NOOP_NS} ns of CPU"  # other processes on the same cores add to the rest
        took = statistics.median(noop["CPU ns"])
        judged.append({"target": text, "value": took, "met": took <= NOOP_NS})
    return judged


def markdown(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        "# The C library",
        "",
        f"`{COMMAND}` ({result['rounds']} interleaved rounds of {result['seconds']} s, medians; CPU is that of both",
        f"processes together). {result['machine']}, {result['python']}, load {result['load']}, {result['date']}.",
        "",
        "| target | value | met |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {row['target']} | {row['value']:.2f} | {'yes' if row['met'] else 'NO'} |" for row in result["targets"]
    ]
    lines.append("")
    for name, figures in result["medians"].items():
        shown = " · ".join(f"{quantity} {value:.4g}" for quantity, value in figures.items())
        lines.append(f"- **{name}**: {shown}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if a target is not met."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--prefix", type=Path, default=ROOT / "build" / "c")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--output", type=Path, help="folder for c_api.json and c_api.md (benchmarks/results)")
    chosen = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(build_peer(chosen.prefix, Path(folder)), chosen.rounds, chosen.seconds, chosen.only)
    medians = {name: {key: statistics.median(values) for key, values in row.items()} for name, row in found.items()}
    result = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": f"Python {platform.python_version()}",
        "load": f"{load:.1f} to {os.getloadavg()[0]:.1f}",
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "targets": judge(found),
        "medians": medians,
        "values": found,
    }
    text = markdown(result)
    print(text)
    output = chosen.output or (None if chosen.only else RESULTS)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "c_api.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / "c_api.md").write_text(text, encoding="utf-8")
    return 0 if all(row["met"] for row in result["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
