"""How commands that keep running log: their options, and colour on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Final

import typer

from phantom.cli.screen import Screen
from phantom.server import logs

__all__ = ["LogFilter", "LogJson", "TerminalFormatter", "configure"]

LogJson = Annotated[bool, typer.Option("--log-json", envvar="PHANTOM_LOG_JSON", help="Log one JSON object a line.")]
LogFilter = Annotated[
    str,
    typer.Option(
        "--log-filter",
        envvar=["PHANTOM_LOG", "RUST_LOG"],
        metavar="FILTER",
        help="LEVEL or LOGGER=LEVEL, comma separated.",
    ),
]

_COLORS: Final = {"DEBUG": "bright_black", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class TerminalFormatter(logs.PlainFormatter):
    """The plain form with the level in colour."""

    def level(self, record: logging.LogRecord) -> str:
        """The level's name, padded and coloured."""
        return typer.style(f"{record.levelname:7}", fg=_COLORS.get(record.levelname, "green"))


def configure(screen: Screen, log_filter: str, log_json: bool) -> None:
    """Sends the logs of this process to standard error."""
    err = screen.err
    colored = err.is_terminal and not err.no_color and not err.is_dumb_terminal and sys.platform != "win32"
    plain = TerminalFormatter() if colored else logs.PlainFormatter()
    logs.configure(log_filter, logs.JsonFormatter() if log_json else plain)
