"""Resident memory of an idle connection, at both ends, and the CPU that all of them take while nothing happens."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import KiB, Options, Row, announce
from benchmarks.peers import sockets
from benchmarks.peers.idle import raise_descriptor_limit

GROUP = "memory"
PHANTOM = "Phantom, asyncio"
KINDS = {PHANTOM: "phantom", "TLS 1.3, asyncio streams": "tls", "TCP without crypto, asyncio streams": "tcp"}
COUNTS = (1000, 5000, 10000)
SERVER, CLIENT = "server KiB", "client KiB"
SERVER_CPU = "server CPU %"  # of one core
_WARM = 50  # connections that are there before anything is compared
_SETTLE = 2.0  # s; idle is what has been so for a moment
_WATCHED = 3.0  # s
_ROOT = Path(__file__).resolve().parents[2]


def case(count: int) -> str:
    return f"{count} idle"


def growth(kind: str, counts: list[int]) -> dict[int, dict[str, float]]:
    """KiB by which each process grew for every connection, and the server's share of a core, for each count in turn."""
    most = max(counts) + _WARM
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_program(most, "server", kind))
        address = _read(server).strip()
        client = stack.enter_context(_program(most, "client", kind, address))
        _ask(client, _WARM)
        time.sleep(_SETTLE)
        before = _ask(server, 0)["resident"], _ask(client, 0)["resident"]
        found, opened = {}, 0
        for count in counts:
            _ask(client, count - opened)
            opened = count
            time.sleep(_SETTLE)
            at_client = _ask(client, 0)
            at_server = _ask(server, 0)
            if at_server["held"] < count + _WARM:
                raise RuntimeError(f"the server holds {at_server['held'] - _WARM} connections, not {count}")
            grown = at_server["resident"] - before[0], at_client["resident"] - before[1]
            time.sleep(_WATCHED)
            busy = (_ask(server, 0)["cpu"] - at_server["cpu"]) / _WATCHED
            sizes = {name: size / count / KiB for name, size in zip((SERVER, CLIENT), grown, strict=True)}
            found[count] = {**sizes, SERVER_CPU: busy * 100}
        return found


@contextlib.contextmanager
def _program(descriptors: int, *arguments: str) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.idle", str(descriptors), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process with idle connections ended early")
    return line


def _ask(process: subprocess.Popen[str], number: int) -> dict[str, float]:
    assert process.stdin is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(_read(process))
    return answer


def measure(options: Options) -> list[Row]:
    """Each kind in fresh processes; few rounds, for memory repeats itself to a few per cent."""
    sockets.certificate()
    counts = [200] if options.quick else list(COUNTS)
    rows = {(count, name): Row(GROUP, case(count), name) for count in counts for name in KINDS}
    reason = ""
    if not Path("/proc/self/statm").exists():
        reason = "resident memory is read from /proc (Linux)"
    else:
        try:
            raise_descriptor_limit(max(counts) + _WARM)
        except RuntimeError as error:
            reason = str(error)
    for _ in range(min(options.rounds, 3)):
        for name, kind in KINDS.items():
            if reason:
                break
            for count, found in growth(kind, counts).items():
                for quantity, value in found.items():
                    rows[count, name].values.setdefault(quantity, []).append(value)
    for row in rows.values():
        row.skipped = reason
        announce(row)
    return list(rows.values())
