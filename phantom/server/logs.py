"""Logs of the server on standard error: a line for people, or one JSON object a line (surface §6).

A message may carry ``extra={"fields": {...}}``: JSON keeps them apart, the plain form appends ``name=value``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

__all__ = ["DEFAULT_FILTER", "JsonFormatter", "PlainFormatter", "configure", "parse_filter"]

DEFAULT_FILTER: Final = "info,phantom_core=debug"

_OFF: Final = logging.CRITICAL + 10
_LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": _OFF,
}

logger = logging.getLogger("phantom.server")


def parse_filter(text: str) -> dict[str, int]:
    """Levels by logger (``""`` is the root) of ``level`` or ``logger=level``, comma separated.

    ``phantom_core`` stands for ``phantom``. ValueError, saying which part is wrong.
    """
    levels: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, level = part.rpartition("=")
        number = _LEVELS.get(level.strip().lower())
        name = name.strip().replace("::", ".")
        if number is None or (equals and not name):
            raise ValueError(f"{part!r} is not LEVEL or LOGGER=LEVEL with a level of {', '.join(_LEVELS)}")
        root, dot, rest = name.partition(".")
        levels[("phantom" if root == "phantom_core" else root) + dot + rest] = number
    if not levels:
        raise ValueError("it is empty")
    return levels


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


class PlainFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER: MESSAGE name=value …``; control characters are escaped, so that a line is one record."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        parts = [record.getMessage(), *(f"{name}={value}" for name, value in _fields(record).items())]
        message = " ".join(parts)
        if not message.isprintable():
            message = message.encode("unicode_escape").decode("ascii")
        line = f"{_timestamp(record)} {self.level(record)} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def level(self, record: logging.LogRecord) -> str:
        """How the level is shown."""
        return record.levelname


class JsonFormatter(logging.Formatter):
    """One object a line: timestamp, level, logger, message, fields, and exception if there is a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as text."""
        entry: dict[str, object] = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "fields": _fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(text: str, formatter: logging.Formatter, stream: TextIO | None = None) -> None:
    """Sends all logs to ``stream`` (standard error) as ``formatter`` writes them, filtered as ``text`` says.

    A filter that cannot be read gives way to the default one, and the log says so.
    """
    mistake = None
    try:
        levels = parse_filter(text)
    except ValueError as error:
        mistake, levels = error, parse_filter(DEFAULT_FILTER)
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    if mistake is not None:
        logger.warning("the log filter %r is ignored: %s; using %s", text, mistake, DEFAULT_FILTER)
