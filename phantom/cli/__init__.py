"""The command ``phantom`` (surface §7). Its entry points; everything else needs the extra ``cli``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main", "server_main", "sidecar_main"]

_EXTRA = ("click", "rich", "typer")


def main() -> NoReturn:
    """``phantom`` and ``phantom-cli``; ends the process with the exit code of the command."""
    _run(sys.argv[1:])


def server_main() -> NoReturn:
    """``phantom-server``: the same as ``phantom serve``."""
    _run(["serve", *sys.argv[1:]])


def sidecar_main() -> NoReturn:
    """``phantom-sidecar``: the same as ``phantom sidecar``."""
    _run(["sidecar", *sys.argv[1:]])


def _run(arguments: list[str]) -> NoReturn:
    try:
        from phantom.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            "error: the command line needs Phantom's extra 'cli'; in a clone of it: pip install '.[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(run(arguments))
