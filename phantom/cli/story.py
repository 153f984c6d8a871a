"""How the demo tells what it does: numbered steps with facts, a bar while bytes move, one object for ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from phantom.cli.screen import Screen

__all__ = ["Story"]

_INDENT: Final = 3
_LABEL: Final = 12  # with a SHA-256 in hex behind it, a line has 79 characters
_Line = Text | str


class Story:
    """One run of the demo. What is told is also kept, by the name of its step, for ``--json``."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._number = 0
        self.facts: dict[str, dict[str, object]] = {}
        self._step: dict[str, object] = {}

    def title(self, title: str, about: str) -> None:
        """The first lines."""
        if self._screen.fancy:
            self._screen.out.print(
                Panel(Text(about), title=Text(title, "bold cyan"), title_align="left", padding=(0, 2))
            )
        else:
            self._show(f"{title}: {about}")

    def step(self, name: str, what: str) -> None:
        """Begins a step."""
        self._number += 1
        self._step = self.facts[name] = {}
        self._show("")
        self._show(Text.assemble((f"{self._number}. ", "bold cyan"), (what, "bold")))

    def command(self, *words: str) -> None:
        """A command that was run as it is shown."""
        self._indented(Text.assemble(("$ ", "dim"), ("phantom " + " ".join(words), "magenta")))

    def fact(self, label: str, shown: _Line, **kept: object) -> None:
        """One fact: ``shown`` to people, ``kept`` in the object."""
        self._step.update(kept)
        if self._screen.fancy:
            grid = Table.grid()
            grid.add_column(width=_LABEL, style="dim")
            grid.add_column(overflow="fold")
            grid.add_row(label, shown)
            self._screen.out.print(Padding(grid, (0, 0, 0, _INDENT)))
        else:
            self._indented(Text(f"{label:{_LABEL}}{shown}"))

    def quote(self, line: str) -> None:
        """What a program printed."""
        self._indented(Text(line, "red"))

    def end(self, seconds: float) -> None:
        """The last line, or the object."""
        if self._screen.as_json:
            self._screen.result({"ok": True, "seconds": round(seconds, 3), **self.facts})
            return
        self._show("")
        self._show(Text.assemble(("Everything worked", "bold green"), f", in {seconds:.2f} s."))

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over ``total`` bytes on a terminal; the block calls what it gets with the number of new ones."""
        if not self._screen.fancy:
            yield lambda _count: None
            return
        columns = (
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        with Progress(" " * (_INDENT - 1), *columns, console=self._screen.out) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)

    def _indented(self, line: Text) -> None:
        if self._screen.fancy:
            line.overflow = "fold"
            self._screen.out.print(Padding(line, (0, 0, 0, _INDENT)))
        else:
            self._show(" " * _INDENT + line.plain)

    def _show(self, line: _Line) -> None:
        if not self._screen.as_json:
            self._screen.line(line)
