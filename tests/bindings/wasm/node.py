"""Runs Python scripts in Pyodide under Node."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WASM = ROOT / "bindings" / "wasm"
NODE = shutil.which("node")
MODULES = Path(os.environ.get("PHANTOM_NODE_MODULES") or WASM / "node_modules")
NEEDED = ("pyodide", "ws", "esbuild", "@noble/ciphers", "@noble/curves", "@noble/hashes", "@noble/post-quantum")
WANTED = "PHANTOM_TEST_WASM" in os.environ  # set by `make wasm`
MISSING = ["node"] * (NODE is None) + [name for name in NEEDED if not (MODULES / name).is_dir()]

MARKS = [
    pytest.mark.wasm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not WANTED, reason="NOT RUN: the core in Pyodide is tested by `make wasm`"),
    pytest.mark.skipif(WANTED and bool(MISSING), reason=f"NOT RUN: the core in Pyodide needs {', '.join(MISSING)}"),
]


@functools.cache
def _bridge(folder: Path) -> Path:
    target = folder / "noble.mjs"
    command = [MODULES / ".bin/esbuild", WASM / "src/noble.ts", "--bundle", "--format=esm"]
    subprocess.run(
        [*map(str, command), "--platform=neutral", f"--outfile={target}", "--log-level=warning"],
        check=True,
        env={**os.environ, "NODE_PATH": str(MODULES)},
    )
    return target


def run(folder: Path, script: str, *arguments: str) -> list[dict[str, Any]]:
    """The JSON objects that the script prints; fails with its own words if it does."""
    hosted = [HERE / "host.mjs", MODULES, _bridge(folder), HERE / script]
    command = [NODE, *(hosted if script.endswith(".py") else [HERE / script, *hosted[1:3]]), *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
