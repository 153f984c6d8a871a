"""Reference texts as several targets lay them out."""

from __future__ import annotations

from bindings.codegen.model import Element
from bindings.codegen.targets import comment

__all__ = ["block", "with_since"]

WIDTH = 120


def block(text: str, indent: str = "") -> str:
    """A documentation comment of TypeScript or Kotlin, in one line if it fits."""
    text = text.replace("*/", "* /")
    line = f"{indent}/** {text} */"
    if "\n" not in line and len(line) <= WIDTH:
        return line
    return f"{indent}/**\n{comment(text, f'{indent} * ')}\n{indent} */"


def with_since(element: Element, known: str = "", line: str = "Since {}.") -> str:
    """The comment (the name if there is none), and the version as a paragraph unless it is ``known`` to the reader."""
    text = element.comment or element.name
    return f"{text}\n\n{line.format(element.since)}" if element.since != known else text
