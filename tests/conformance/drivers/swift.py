"""Driver: Phantom for Swift, as `make swift` built it, through a sidecar that runs in a process of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conformance.drivers import Driver, NotRun, Program, Setting
from tests.conformance.drivers import sidecar as python


@asynccontextmanager
async def prepare(setting: Setting) -> AsyncIterator[Program]:
    """The program that SwiftPM built from ``bindings/swift/Programs/Conformance``."""
    built = os.environ.get("PHANTOM_SWIFT_BUILD")  # what lies in the cache may be older than the tree
    if not built:
        raise NotRun("runs in `make swift`")
    program = Path(built, "PhantomConformance")
    if not program.exists():
        raise NotRun(f"{program} is not there: `make swift` builds it")
    async with python.prepare(setting) as sidecar:
        yield Program([str(program)], sidecar.environment)


DRIVER = Driver("swift", "Swift (sidecar)", prepare)
