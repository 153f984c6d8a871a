"""Logs are coloured on a terminal, plain elsewhere, and JSON on request."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from phantom.cli.logging_options import TerminalFormatter, configure
from phantom.cli.screen import Screen
from phantom.server import logs

TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("environment", "as_json", "expected"),
    [
        ({}, False, logs.PlainFormatter),
        ({}, True, logs.JsonFormatter),
        (TERMINAL, False, TerminalFormatter),
        (TERMINAL, True, logs.JsonFormatter),
        (TERMINAL | {"NO_COLOR": "1"}, False, logs.PlainFormatter),
        (TERMINAL | {"TERM": "dumb"}, False, logs.PlainFormatter),
    ],
)
def test_the_form(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], as_json: bool, expected: type[Any]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    taken: list[tuple[str, logging.Formatter]] = []
    monkeypatch.setattr(logs, "configure", lambda text, formatter: taken.append((text, formatter)))
    configure(Screen(as_json=False), "info", as_json)
    ((text, formatter),) = taken
    assert text == "info"
    assert type(formatter) is expected


@pytest.mark.parametrize(
    ("level", "shown"), [("WARNING", "\x1b[33mWARNING\x1b[0m"), ("INFO", "\x1b[32mINFO   \x1b[0m")]
)
def test_the_level_is_coloured(level: str, shown: str) -> None:
    record = logging.LogRecord("phantom", logging.getLevelNamesMapping()[level], "", 0, "text", None, None)
    assert TerminalFormatter().format(record).endswith(f" {shown} phantom: text")
