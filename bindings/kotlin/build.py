"""Builds and tests Phantom for Kotlin: ``python -m bindings.kotlin.build [test|install|demo]`` (``make kotlin``).

Maven builds into ``build/kotlin``; sidecars and servers of the tests and of the demo are the Phantom of the Python that
runs this. Where Maven cannot fetch what it needs, one line says that nothing was run, and it is no failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "bindings" / "kotlin"
BUDGET = 300  # s, from nothing, on two cores
_UNREACHABLE = re.compile(r"Could not transfer artifact|Unknown host|Network is unreachable")


def maven(pom: Path, *arguments: str, look: bool = True) -> int:
    """Runs Maven; its exit code. Ends the program where there is none, or, with ``look``, no way to its libraries."""
    program = shutil.which("mvn")
    if program is None:
        not_run("there is no Maven; as root: sh bindings/kotlin/install-tools.sh")
    environment = os.environ | {"PHANTOM_COMMAND": f"{sys.executable} -m phantom"}
    command = [program, "-q", "-B", "--no-transfer-progress", "-Dstyle.color=never", "-f", str(pom), *arguments]
    if not look:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    unreachable = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            unreachable = unreachable or (line.strip() if _UNREACHABLE.search(line) else "")
    if process.returncode and unreachable:
        not_run(f"Maven cannot fetch what it needs: {unreachable}")
    return process.returncode


def not_run(why: str) -> NoReturn:
    """Ends with the one loud line."""
    print(f"NOT RUN: Phantom for Kotlin was neither built nor tested: {why}", file=sys.stderr)
    sys.exit(0)


def test() -> int:
    """Builds, and runs the library's tests, the cases that every binding runs, and the generator's compile tests."""
    begun = time.monotonic()
    code = (
        maven(HERE / "pom.xml", "install")
        or python("tests.conformance.run", "--driver", "kotlin", "--check")
        or python("pytest", "-q", "--timeout", "600", "tests/bindings/codegen/test_kotlin_target.py")
    )
    if not code:
        print(f"Phantom for Kotlin: built and tested in {time.monotonic() - begun:.0f} s (budget {BUDGET} s)")
    return code


def python(module: str, *arguments: str) -> int:
    """Runs a module; its exit code."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PHANTOM_TEST_KOTLIN": "1"}, check=False).returncode


def install() -> int:
    """Builds the library and puts it where other builds of this user find it."""
    return maven(HERE / "pom.xml", "install", "-Dmaven.test.skip=true")


def demo() -> int:
    """Runs the example."""
    return install() or maven(HERE / "example" / "pom.xml", "compile", "exec:java", look=False)


if __name__ == "__main__":
    sys.exit({"test": test, "install": install, "demo": demo}[sys.argv[1] if len(sys.argv) > 1 else "test"]())
