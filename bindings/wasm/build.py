"""Builds and tests Phantom for web pages: ``python -m bindings.wasm.build [build|test]`` (``make wasm``).

The package comes to ``bindings/wasm/dist``; servers of the tests are the Phantom of the Python that runs this. Where
npm cannot fetch what it needs, one line says that nothing was run, and it is no failure.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from bindings.wasm import wheel

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bindings" / "wasm"
DIST = HERE / "dist"
BUDGET = HERE / "size-budget.json"
OLDEST_NODE = 20  # Debian 12 has 18


def not_run(why: str) -> NoReturn:
    """Ends with the one loud line."""
    print(f"NOT RUN: Phantom for web pages was neither built nor tested: {why}", file=sys.stderr)
    sys.exit(0)


def run(*command: str) -> None:
    """Runs a command in the package's folder; ends the program when it fails."""
    code = subprocess.run(command, cwd=HERE, check=False).returncode
    if code:
        sys.exit(code)


def install() -> None:
    """What package-lock.json names, if it is not there yet."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        not_run("there is no node and npm; as root: sh bindings/wasm/install-tools.sh")
    told = subprocess.run([node, "--version"], check=False, capture_output=True, text=True).stdout.strip()
    major = told.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        not_run(f"Node {OLDEST_NODE} or newer is needed, and this is {told or 'none'}")
    lock, done = HERE / "package-lock.json", HERE / "node_modules" / ".installed"
    if done.exists() and done.read_bytes() == lock.read_bytes():
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    tried = subprocess.run(command, cwd=HERE, check=False, capture_output=True, text=True)
    if tried.returncode:
        not_run(f"npm cannot fetch what it needs: {tried.stderr.strip()}")
    done.write_bytes(lock.read_bytes())


def sizes() -> dict[str, tuple[int, int]]:
    """File of dist/ that a page loads -> bytes, and bytes that gzip makes of them."""
    pages = [file for file in sorted(DIST.rglob("*")) if file.is_file() and not file.name.endswith(".d.ts")]
    found = {
        file.relative_to(DIST).as_posix(): (file.stat().st_size, len(gzip.compress(file.read_bytes(), 6)))
        for file in pages
        if not file.name.startswith("node")
    }
    found["total"] = (sum(raw for raw, _ in found.values()), sum(packed for _, packed in found.values()))
    return found


def over_budget(found: dict[str, tuple[int, int]], budget: dict[str, list[int]]) -> list[str]:
    """What is larger than it may be, or has no budget."""
    faults = []
    for name, (raw, packed) in found.items():
        allowed = budget.get(name)
        if allowed is None:
            faults.append(f"{name}: no budget in {BUDGET.name}")
        elif raw > allowed[0] or packed > allowed[1]:
            faults.append(f"{name}: {raw} B, {packed} B gzip; the budget is {allowed[0]}, {allowed[1]}")
    return faults


def build() -> int:
    """dist/, its declarations, and the sizes against their budget."""
    install()
    made = wheel.write(ROOT / "build" / "wasm")
    run("node", "build.mjs", str(made))
    run("node", "node_modules/typescript/bin/tsc")
    found = sizes()
    for name, (raw, packed) in found.items():
        print(f"{name:28} {raw:>10} B {packed:>10} B gzip")
    faults = over_budget(found, json.loads(BUDGET.read_text()))
    for fault in faults:
        print(f"over budget: {fault}", file=sys.stderr)
    return 1 if faults else 0


def test() -> int:
    """Builds, and runs the tests that are marked wasm."""
    begun = time.monotonic()
    code = build()
    if not code:
        command = [sys.executable, "-m", "pytest", "-q", "--timeout", "300", "-m", "wasm", "tests/bindings/wasm"]
        environment = os.environ | {"PHANTOM_TEST_WASM": "1"}
        code = subprocess.run(command, cwd=ROOT, check=False, env=environment).returncode
    if not code:
        print(f"Phantom for web pages: built and tested in {time.monotonic() - begun:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit({"build": build, "test": test}[sys.argv[1] if len(sys.argv) > 1 else "test"]())
