"""Driver: the C library, as a program that is built from its installed prefix and runs in an empty environment."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conformance.drivers import Driver, NotRun, Program, Setting

_SOURCE = Path(__file__).resolve().parent / "c" / "driver.c"
_BUILD = 60.0  # s
_WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror")


@asynccontextmanager
async def prepare(setting: Setting) -> AsyncIterator[Program]:
    """The program, compiled against the prefix as anyone would: header, library, rpath."""
    prefix = setting.c_prefix
    if prefix is None:
        raise NotRun("needs what `make c PREFIX=DIR` makes: --c-prefix DIR, or PHANTOM_C_PREFIX=DIR")
    if not (prefix / "include" / "phantom.h").exists():
        raise NotRun(f"{prefix} is no prefix of `make c`")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NotRun("needs a C compiler")
    program = setting.folder / "driver"
    library = prefix / "lib"
    process = await asyncio.create_subprocess_exec(
        *(compiler, *_WARNINGS, "-O2", str(_SOURCE), "-o", str(program)),
        *(f"-I{prefix / 'include'}", f"-L{library}", "-lphantom", f"-Wl,-rpath,{library}", "-pthread"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), _BUILD)
    if process.returncode:
        raise RuntimeError(f"the C driver does not compile:\n{errors.decode()}")
    yield Program([str(program)])


DRIVER = Driver("c", "C", prepare)
