"""Nothing of the interpreter reaches the program's standard streams."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

__all__ = ["be_quiet"]


def be_quiet() -> None:
    """Lets logging, warnings and tracebacks of this interpreter go nowhere. Errors reach the program as statuses."""
    logging.getLogger().addHandler(logging.NullHandler())  # or logging's last resort writes warnings to stderr
    logging.raiseExceptions = False
    warnings.simplefilter("ignore")
    threading.excepthook = _ignore
    sys.excepthook = _ignore
    sys.unraisablehook = _ignore


def _ignore(*_: object) -> None:
    """Of a thread, of the main program, of a destructor."""
