"""The Python half of libphantom: the operations behind its calls, on one loop thread of its own.

The build copies this folder into the prefix as ``phantom_c_runtime``, where runtime.c imports it; importing it must
bring in everything that a call needs, so that nothing is imported later by a program that has changed its folder,
dropped its rights, or run out of descriptors.
"""

from __future__ import annotations

import concurrent.futures.thread
import encodings.idna
from collections.abc import Callable
from typing import Any, Final

from bindings.c.generated import phantom_c
from bindings.c.runtime.operations import LibraryOperations
from bindings.c.runtime.quiet import be_quiet
from bindings.c.runtime.runtime import LibraryRuntime
from phantom import __version__
from phantom.crypto.providers import get_provider

__all__ = ["CORE_VERSION", "start"]

CORE_VERSION: Final = __version__
GLUE_FAILED: Final = -77

# What connecting would import first; the names keep linters from taking them away.
_NEEDED_LATER: Final = (concurrent.futures.thread, encodings.idna, get_provider())


def start(ffi: Any, lib: Any, lend: Callable[[bytes], int]) -> None:
    """Starts the loop thread and answers the calls from now on. Called once, by the library's own start-up.

    ``lend`` keeps bytes for the program, and says where they are.
    """
    be_quiet()
    try:
        runtime = LibraryRuntime(lib, lend)
        operations = LibraryOperations(runtime)
        phantom_c.install(ffi, lib, runtime, operations)

        @ffi.def_extern(name="phantom_rt_py_fini", error=GLUE_FAILED)  # type: ignore[untyped-decorator]
        def _fini(timeout_ms: int) -> int:
            try:
                operations.end(None if timeout_ms < 0 else timeout_ms / 1000)
            except BaseException as error:  # noqa: BLE001 - nothing may cross into C
                return runtime.failed("phantom_fini", error)
            return 0

    except BaseException as error:
        text = f"{type(error).__name__}: {error}".encode()
        lib.phantom_rt_error(text, len(text))
        raise
