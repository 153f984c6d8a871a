"""Writes the pinned, hashed files of requirements/ (`make lock`; `make lock UPGRADE=1` takes the newest versions).

One resolution holds for every supported Python and system, and each file agrees with those before it. Neither the index
nor any address goes into the files: where packages come from is the affair of the machine that installs them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
EVERY_EXTRA = ("cli", "sidecar", "websocket", "pqcrypto", "uvloop")
# file -> (inputs, extras of pyproject.toml)
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "boot": (("boot.in",), ()),
    "test": (("base.in", "test.in"), EVERY_EXTRA),
    "demo": (("base.in",), ("cli", "sidecar", "uvloop")),
    "lint": (("base.in", "lint.in"), EVERY_EXTRA),
    "go": (("go.in",), ()),
}


def compile_lock(name: str, inputs: list[str], extras: tuple[str, ...], *more: str, stdin: str = "") -> None:
    """Resolve `inputs` and Phantom with `extras` into requirements/NAME.txt."""
    project = ["pyproject.toml", *(f"--extra={extra}" for extra in extras)] if extras else []
    subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
            *("--no-header", "--no-emit-index-url", "--no-emit-find-links", *more),
            *(*inputs, *project, f"--output-file=requirements/{name}.txt"),
        ],
        cwd=ROOT,
        input=stdin.encode(),
        check=True,
    )


def pins(lock: str, *inputs: str) -> str:
    """The lines NAME==VERSION that requirements/LOCK.txt has for the names of `inputs`."""
    names = {
        line.strip()
        for file in inputs
        for line in (REQUIREMENTS / file).read_text().splitlines()
        if not line.startswith("#")
    }
    found = re.findall(r"^([\w.-]+)(==[^\s;]+)", (REQUIREMENTS / f"{lock}.txt").read_text(), re.MULTILINE)
    return "".join(f"{name}{version}\n" for name, version in found if name in names)


def main() -> None:
    upgrade = ["--upgrade"] if os.environ.get("UPGRADE") else []
    before: list[str] = []
    for name, (inputs, extras) in LOCKS.items():
        compile_lock(name, [f"requirements/{file}" for file in inputs], extras, *upgrade, *before)
        before.append(f"--constraints=requirements/{name}.txt")
    # The oldest versions that pyproject.toml allows, under today's test tools.
    tools = pins("test", "base.in", "test.in")
    compile_lock("minpy", ["-"], EVERY_EXTRA, "--resolution=lowest-direct", "--no-annotate", *upgrade, stdin=tools)


if __name__ == "__main__":
    main()
