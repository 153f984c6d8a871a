"""Where a command writes: results on standard output, everything else on standard error.

Style, progress and anything that moves are for terminals; elsewhere the same words come plain, one line each, so that
scripts can read them. ``NO_COLOR`` and ``TERM=dumb`` are respected.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.text import Text

__all__ = ["Screen"]


class Screen:
    """The two outputs of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def fancy(self) -> bool:
        """Whether standard output is a terminal that shows more than plain lines."""
        return self.out.is_terminal and not self.out.is_dumb_terminal and not self.as_json

    def result(self, value: Mapping[str, object], *lines: Text | str) -> None:
        """What the command was asked for: one JSON object on one line, or the lines."""
        if self.as_json:
            print(json.dumps(value), flush=True)
            return
        for line in lines:
            self.line(line)

    def line(self, line: Text | str = "") -> None:
        """One line on standard output, not wrapped, so that it can be copied whole."""
        self.out.print(line, soft_wrap=True)
        self.out.file.flush()

    def note(self, line: Text | str) -> None:
        """One line on standard error, for the person in front of it."""
        self.err.print(line, soft_wrap=True)

    def error(self, message: str, value: Mapping[str, object]) -> None:
        """The one line that says what went wrong, or the object of ``--json``."""
        if self.as_json:
            print(json.dumps({"error": {**value, "message": message}}), file=sys.stderr, flush=True)
        else:
            self.note(Text.assemble(("error: ", "bold red"), message))

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Shows that something is going on, on a terminal."""
        if self.err.is_terminal and not self.err.is_dumb_terminal and not self.as_json:
            return self.err.status(Text(what, "dim"), spinner="dots")
        return nullcontext()


def _console(*, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
