"""Builds and tests Phantom for Swift: ``python -m bindings.swift.build [test|demo|build]`` (``make swift``).

SwiftPM builds into ``.cache/swift``; sidecars and servers of the tests and of the demo are the Phantom of the Python
that runs this. Where the toolchain cannot be had, one line says that nothing was run, and it is no failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = ROOT / "bindings" / "swift"
BUILT: Final = ROOT / ".cache" / "swift"
SANITIZED: Final = ROOT / ".cache" / "swift-tsan"
BUDGET: Final = 360  # s, from nothing, on two cores
CANNOT: Final = 3  # install-swift.sh: this machine cannot have it
LIMIT: Final = 1800  # s for one step
_RELEASE: Final = ("-c", "release", "-Xswiftc", "-enable-testing")
_TSAN: Final = ("--sanitize", "thread")


class FailedError(Exception):
    """A step failed; the text says which one."""


def toolchain() -> Path | None:
    """The prefix of the toolchain, brought if it is not there; None if this machine cannot have it."""
    done = subprocess.run(
        ["bash", HERE / "install-swift.sh"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False
    )
    if done.returncode == CANNOT:
        print("NOT RUN: Phantom for Swift was neither built nor tested: no toolchain (see above)", file=sys.stderr)
        return None
    if done.returncode:
        raise FailedError("install-swift.sh")
    return Path(done.stdout.strip())


class Stage:
    """Runs steps with the toolchain, each with its time."""

    def __init__(self, prefix: Path) -> None:
        commands = Path(sys.executable).parent  # where `phantom` is
        self._environment = os.environ | {
            "PHANTOM_SWIFT_ROOT": str(prefix),
            "PHANTOM_SWIFT_BUILD": str(BUILT / "release"),
            "PATH": os.pathsep.join([str(commands), os.environ.get("PATH", "")]),
        }
        self._prefix = prefix

    def run(self, what: str, *command: str | Path, **environment: str) -> None:
        """One step; FailedError if it fails. Nothing that it leaves behind can hold this process."""
        print(f"--- {what}", flush=True)
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", f'. "{self._prefix}/env.sh" && exec "$@"', "bash", *map(str, command)],
            cwd=ROOT,
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        print(f"--- {what}: {time.monotonic() - begun:.0f} s", flush=True)
        if done.returncode:
            raise FailedError(what)

    def python(self, what: str, module: str, *arguments: str) -> None:
        """A module of Python as a step, without the toolchain's clang and its like on PATH."""
        print(f"--- {what}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=self._environment, timeout=LIMIT, check=False
        ).returncode:
            raise FailedError(what)

    def build(self, what: str, folder: Path, *options: str) -> None:
        """The package into a folder."""
        self.run(what, "swift", "build", "-q", "--package-path", HERE, "--scratch-path", folder, *options)


def build(stage: Stage) -> None:
    """Everything, optimised, with its tests."""
    stage.build("build", BUILT, *_RELEASE, "--build-tests")
    stage.build("build the programs", BUILT, *_RELEASE)


def test(stage: Stage) -> None:
    """Library, live sidecars, fuzz, thread sanitizer, the cases of every binding, and what the generator writes."""
    build(stage)
    tests = "PhantomPackageTests.xctest"
    stage.run("tests", BUILT / "release" / tests)
    stage.run("fuzz the decoder", BUILT / "release" / "PhantomFuzz")
    stage.build("build with the thread sanitizer", SANITIZED, *_TSAN, "--build-tests")
    stage.run(
        "tests under the thread sanitizer",
        SANITIZED / "debug" / tests,
        PHANTOM_SANITIZED="1",
        TSAN_OPTIONS="halt_on_error=1 exitcode=66",
    )
    stage.python("conformance", "tests.conformance.run", "--driver", "swift", "--check")
    files = [f"tests/bindings/codegen/{name}.py" for name in ("test_swift_target", "test_codec_agreement")]
    stage.python("what the generator writes", "pytest", "-q", "-n", "2", "--timeout", "600", "-k", "swift", *files)


def demo(stage: Stage) -> None:
    """The example application."""
    stage.build("build the demo", BUILT, *_RELEASE)
    stage.run("demo", BUILT / "release" / "PhantomDemo")


def main(arguments: list[str]) -> int:
    """Runs what was asked for; 0 if it went well, or if this machine cannot have the toolchain."""
    wanted = {"test": test, "demo": demo, "build": build}[arguments[0] if arguments else "test"]
    begun = time.monotonic()
    try:
        prefix = toolchain()
        if prefix is None:
            return 0
        wanted(Stage(prefix))
    except (FailedError, subprocess.TimeoutExpired) as failed:
        print(f"FAILED: Phantom for Swift: {failed}", file=sys.stderr)
        return 1
    print(f"Phantom for Swift: {wanted.__name__} in {time.monotonic() - begun:.0f} s (budget {BUDGET} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
