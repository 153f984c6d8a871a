"""Driver: Phantom for Kotlin, as `make kotlin` built it, through a sidecar that runs in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conformance.drivers import Driver, NotRun, Program, Setting
from tests.conformance.drivers import sidecar as python

_BUILD = Path(__file__).resolve().parents[3] / "build" / "kotlin"


@asynccontextmanager
async def prepare(setting: Setting) -> AsyncIterator[Program]:
    """The program that Maven compiled from ``kotlin/Conformance.kt`` beside the library's tests."""
    java = shutil.which("java", path=_java_path())
    libraries = _BUILD / "test-classpath.txt"
    if not os.environ.get("PHANTOM_TEST_KOTLIN"):  # what lies in build/ may be older than the tree
        raise NotRun("runs in `make kotlin`, or with PHANTOM_TEST_KOTLIN=1 after it")
    if not (libraries.exists() and (_BUILD / "test-classes").exists()):
        raise NotRun("needs what `make kotlin` builds")
    if java is None:
        raise NotRun("needs a Java runtime")
    path = [str(_BUILD / "classes"), str(_BUILD / "test-classes"), libraries.read_text("utf-8").strip()]
    options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]
    async with python.prepare(setting) as sidecar:
        yield Program([java, *options, "-cp", os.pathsep.join(path), "ConformanceKt"], sidecar.environment)


def _java_path() -> str:
    home = os.environ.get("JAVA_HOME")
    return os.pathsep.join([*([str(Path(home, "bin"))] if home else []), os.environ.get("PATH", "")])


DRIVER = Driver("kotlin", "Kotlin (sidecar)", prepare)
