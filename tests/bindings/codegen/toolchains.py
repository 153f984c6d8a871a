"""Compilers that a test uses where they are at hand; where not, it is skipped and says what was not checked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bindings.codegen.support import HERE, ROOT


def swiftc(*arguments: str | Path) -> None:
    """Runs swiftc of PATH, or of the prefix PHANTOM_SWIFT_ROOT that install-swift.sh made; it must succeed."""
    prefix = os.environ.get("PHANTOM_SWIFT_ROOT", "")
    if prefix:
        command = ["bash", "-c", f'. "{prefix}/env.sh" && exec swiftc "$@"', "swiftc"]
    elif found := shutil.which("swiftc"):
        command = [found]
    else:
        pytest.skip("NOT RUN: no swiftc on PATH or in PHANTOM_SWIFT_ROOT, so the generated Swift was not compiled")
    done = subprocess.run([*command, "-swift-version", "6", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def typescript() -> Path:
    """A folder with node_modules of tests/bindings/codegen/ts, installed once as its package-lock.json says."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("NOT RUN: no node and npm on PATH, so the generated TypeScript was not compiled")
    source = HERE / "ts"
    files = [source / "package.json", source / "package-lock.json"]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = ROOT / ".cache" / f"codegen-ts-{key}"
    if not folder.exists():
        made = folder.with_suffix(f".{os.getpid()}")
        made.mkdir(parents=True)
        for file in files:
            shutil.copy(file, made)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(made)
            pytest.skip(
                f"NOT RUN: npm could not install TypeScript, so the generated one was not compiled: {done.stderr}"
            )
        try:
            made.rename(folder)
        except OSError:  # another test was faster
            shutil.rmtree(made)
    return folder


def tsc(sources: Path, out: Path) -> None:
    """Compiles the TypeScript files in a folder with every strict option; they must have no fault."""
    compiler = typescript() / "node_modules" / "typescript" / "bin" / "tsc"
    shutil.copy(HERE / "ts" / "tsconfig.json", sources)
    for folder in (sources, out):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", compiler, "-p", sources, "--outDir", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def maven(folder: Path, *goals: str) -> str:
    """Runs Maven in a folder with a pom.xml; it must succeed. Returns what it printed.

    Only where PHANTOM_TEST_KOTLIN asks for it: the first run fetches a compiler of 140 MB, and each takes minutes.
    """
    if not (os.environ.get("PHANTOM_TEST_KOTLIN") and shutil.which("mvn")):
        pytest.skip("NOT RUN: no mvn on PATH or PHANTOM_TEST_KOTLIN not set, so the generated Kotlin was not compiled")
    done = subprocess.run(["mvn", "-q", "-B", *goals], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    return re.sub(r"\x1b\[\d*m", "", done.stdout)
