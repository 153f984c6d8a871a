"""The C program of ``native.c``: compiled once a run, started as either end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness import Reported, Sample, Unavailable

_SOURCE = Path(__file__).with_name("native.c")
_workshop = tempfile.TemporaryDirectory(prefix="phantom-bench-")
_FIELDS = ("bytes", "messages", "seconds", "cpu", "faults", "p50", "p99")


@cache
def program() -> str:
    """Path of the compiled program. Raises Unavailable without a C compiler or the headers of libcrypto."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("no C compiler (cc)")
    target = Path(_workshop.name) / "native"
    built = subprocess.run(
        [compiler, "-O2", "-Wall", "-o", str(target), str(_SOURCE), "-lcrypto"], capture_output=True, text=True
    )
    if built.returncode:
        reason = next((line for line in built.stderr.splitlines() if "error" in line), "it does not compile")
        raise Unavailable(f"the C program cannot be built (libcrypto headers?): {reason}")
    return str(target)


def openssl_version() -> str:
    """The libcrypto that the C program is linked with."""
    tool = shutil.which("openssl")
    if tool is None:
        return "unknown"
    return subprocess.run([tool, "version"], capture_output=True, text=True).stdout.strip()


def server(reported: Reported, *, size: int, mode: str = "stream", **_: Any) -> Sample:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        os.set_inheritable(listening.fileno(), True)
        reported(str(listening.getsockname()[1]))
        return _run(["server", str(listening.fileno()), str(size), mode], listening.fileno())


def client(address: str, *, size: int, seconds: float, mode: str = "stream", **_: Any) -> Sample:
    return _run(["client", address, str(size), mode, str(seconds)])


def _run(arguments: list[str], *descriptors: int) -> Sample:
    done = subprocess.run([program(), *arguments], pass_fds=descriptors, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the C program failed: {done.stderr}")
    return dict(zip(_FIELDS, map(float, done.stdout.split()), strict=False))
