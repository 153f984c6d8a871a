"""Writes the tables of docs/cli.md from the command line itself: python -m tests.cli.reference

What stands between ``<!-- options: NAME -->`` and ``<!-- end -->`` is generated, the rest written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from phantom.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_SECTION = re.compile(r"(<!-- options: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """The commands by name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def table(command: Any) -> str:
    """The parameters of a command, those without an effect of their own (--help) left out."""
    rows = ["| option | environment | default | what it does |", "| --- | --- | --- | --- |"]
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        option = isinstance(parameter.opts[0], str) and parameter.opts[0].startswith("-")
        name = ", ".join(f"`{opt}`" for opt in parameter.opts) if option else f"`{parameter.metavar}`"
        if option and not parameter.is_flag:
            name = f"{name[:-1]} {parameter.metavar}`"
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        default = parameter.default
        shown = "" if default in (None, False) or parameter.required or callable(default) else f"`{default}`"
        if parameter.required:
            shown = "(needed)"
        rows.append(f"| {name} | {', '.join(f'`{v}`' for v in variables)} | {shown} | {parameter.help} |")
    return "\n".join(rows) + "\n"


def rewritten(page: str) -> str:
    """The page with its tables as they should be."""
    found = commands()
    return _SECTION.sub(lambda match: match[1] + table(found[match[2]]) + match[3], page)


def documented(page: str) -> set[str]:
    """The commands that have a table."""
    return {match[2] for match in _SECTION.finditer(page)}


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
