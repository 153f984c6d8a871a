"""The published Rust crate: its program (``rust/``) is built once with cargo and started as either end."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness import Reported, Sample, Unavailable

_SOURCE = Path(__file__).with_name("rust")
_TARGET = Path(__file__).resolve().parents[2] / "build" / "rust-peer"
_FIELDS = ("bytes", "messages", "seconds", "cpu", "faults", "p50", "p99")


@cache
def program() -> str:
    """Path of the built program. Raises Unavailable without cargo, or without the crates."""
    cargo = shutil.which(os.environ.get("CARGO", "cargo"))
    if cargo is None:
        raise Unavailable("no cargo")
    copy = _TARGET / "source"  # cargo writes its lock file, which names its registry, beside the manifest
    shutil.copytree(_SOURCE, copy, dirs_exist_ok=True)
    built = subprocess.run(
        [cargo, "build", "--release", "--quiet"],
        cwd=copy,
        env={**os.environ, "CARGO_TARGET_DIR": str(_TARGET)},
        capture_output=True,
        text=True,
    )
    if built.returncode:
        reason = next((line for line in built.stderr.splitlines() if line.startswith("error")), "it does not compile")
        raise Unavailable(f"the Rust program cannot be built: {reason}")
    return str(_TARGET / "release" / "phantom-bench-rust-peer")


def server(reported: Reported, *, mode: str, size: int = 0, connections: int = 0, **_: Any) -> Sample:
    """Serves one client; ``mode`` and ``size`` (or ``connections``) as in ``rust/src/main.rs``."""
    with subprocess.Popen(
        [program(), "server", str(size or connections), mode], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reported(process.stdout.readline().strip())
        return _fields(process.stdout.readline())


def client(address: str, *, mode: str, size: int = 0, connections: int = 0, seconds: float = 0.0, **_: Any) -> Sample:
    """Works against :func:`server`, whose address has its key behind a blank."""
    arguments = [program(), "client", *address.split(), str(size or connections), mode, str(seconds)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the Rust program failed: {done.stderr}")
    return _fields(done.stdout)


def _fields(line: str) -> Sample:
    if not line:
        raise RuntimeError("the Rust program ended without a result")
    return dict(zip(_FIELDS, map(float, line.split()), strict=False))
