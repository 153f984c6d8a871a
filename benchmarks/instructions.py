"""Instructions of a sealed packet, an opened one and a handshake, counted by callgrind (``make bench-check``).

A count repeats itself to one per cent whatever else the machine does, so it shows a regression that a clock on a busy
machine cannot. It says nothing about caches or the AEAD's speed: valgrind hides the CPU's newest instructions. Each
operation is counted as the difference between a process that does it many times and one that does it a few times,
divided by how many more.

``--record`` writes ``results/instructions.json``; without it the counts are compared with that file, and more than 5 %
above it fails (10 % for the handshake: a signature takes as many tries as chance has it). Counts of another Python,
cryptography or valgrind are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import number

RESULT = Path(__file__).resolve().parent / "results" / "instructions.json"
WORST = {"packet": 1.05, "handshake": 1.10}
_ROOT = RESULT.parents[2]
_FEW, _MANY = 20, {"packet": 2020, "handshake": 220}
_SESSION = bytes(range(32))
_TIMEOUT = 600.0  # s


# --- what is counted --------------------------------------------------------------------------------------------------


def _ends() -> tuple[Any, Any]:
    from phantom.crypto.aead import CipherSuite
    from phantom.crypto.providers import get_provider
    from phantom.transport.packet.counters import DropCounters
    from phantom.transport.packet.protection import ProtectionV2

    def end(initiator: bool) -> ProtectionV2:
        return ProtectionV2(
            initiator,
            _SESSION,
            bytearray(_SESSION),
            send_suite=CipherSuite.AES_256_GCM,
            provider=get_provider("openssl"),
            counters=DropCounters(),
        )

    return end(True), end(False)


def seal(count: int, size: int) -> None:
    """Seals ``count`` packets of ``size`` plaintext bytes."""
    from phantom.transport.packet import flags

    sender, _ = _ends()
    buf, plaintext = bytearray(size + 256), bytes(size)
    view = memoryview(buf)
    for _ in range(count):
        sender.seal(buf, view, 4, 1, flags.DATA, 0, plaintext, size)


def open_(count: int, size: int) -> None:
    """Seals and opens ``count`` packets; the count of :func:`seal` is taken off."""
    from phantom.transport.packet import flags

    sender, receiver = _ends()
    buf, plaintext = bytearray(size + 256), bytes(size)
    view = memoryview(buf)
    for _ in range(count):
        end = sender.seal(buf, view, 4, 1, flags.DATA, 0, plaintext, size)
        if receiver.open(buf, view, 4, end, 0, 0.0) != flags.DATA:
            raise RuntimeError("a packet did not open")


def handshake(count: int, _size: int) -> None:
    """Both sides of ``count`` handshakes, without I/O."""
    from benchmarks.groups.handshake import once
    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.pins import PinSet
    from phantom.crypto.providers import get_provider
    from phantom.transport.handshake.gate import Gate

    key = HybridSigningKey.generate(provider=get_provider("openssl"))
    pins = PinSet.parse(key.verifying_key().fingerprint())
    gate = Gate(bytes(32), load_tiers=())
    for _ in range(count):
        once(key, gate, pins)


OPERATIONS: dict[str, tuple[Callable[[int, int], None], str, int]] = {
    "seal 64 B": (seal, "packet", 64),
    "seal 1200 B": (seal, "packet", 1200),
    "open 64 B": (open_, "packet", 64),
    "open 1200 B": (open_, "packet", 1200),
    "handshake, both sides": (handshake, "handshake", 0),
}
_LESS = {"open 64 B": "seal 64 B", "open 1200 B": "seal 1200 B"}


# --- counting ---------------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """What the counts depend on besides our code."""
    told = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}",
        "cryptography": metadata.version("cryptography"),
        "valgrind": told,
    }


def counted(name: str, count: int) -> int:
    """Instructions of a process that does operation ``name`` ``count`` times."""
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "benchmarks.instructions", "--worker", name, str(count)),
        ],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{name} under callgrind: {done.stderr.strip().splitlines()[-1:]}")
    return int(found[1])


def measure() -> dict[str, int]:
    """Instructions of each operation, once."""
    per: dict[str, int] = {}
    for name, (_, kind, _) in OPERATIONS.items():
        many = _MANY[kind]
        few = min(_FEW, many // 2)
        per[name] = (counted(name, many) - counted(name, few)) // (many - few) - per.get(_LESS.get(name, ""), 0)
        print(f"  {name:24s} {number(per[name])} instructions", flush=True)
    return per


def compared(recorded: dict[str, int], found: dict[str, int]) -> list[str]:
    """A line for each operation that takes too many more instructions than recorded."""
    return [
        f"{name}: {found[name]} instructions, recorded {recorded[name]} ({found[name] / recorded[name] - 1:+.1%})"
        for name in recorded
        if name in found and found[name] > recorded[name] * WORST[OPERATIONS[name][1]]
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status: 0, 1 (a regression) or 2 (nothing could be compared)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is counted in place of comparing it")
    parser.add_argument("--worker", nargs=2, metavar=("OPERATION", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        work, _, size = OPERATIONS[chosen.worker[0]]
        work(int(chosen.worker[1]), size)
        return 0
    if shutil.which("valgrind") is None:
        print("NOT COUNTED: no valgrind on PATH", file=sys.stderr)
        return 2
    here = versions()
    recorded = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if not chosen.record and recorded.get("versions") != here:
        print(f"NOT COMPARED: recorded with {recorded.get('versions')}, this is {here}; use --record", file=sys.stderr)
        return 2
    found = measure()
    if chosen.record:
        RESULT.write_text(json.dumps({"versions": here, "instructions": found}, indent=2) + "\n", encoding="utf-8")
        print(f"written: {RESULT}")
        return 0
    worse = compared(recorded["instructions"], found)
    for line in worse:
        print(f"WORSE: {line}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
