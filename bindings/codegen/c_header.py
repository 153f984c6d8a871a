"""How the header is written: prototypes, comments, the fields that can be set, and what the library exports."""

from __future__ import annotations

import textwrap
from typing import Final

from bindings.codegen.c import Call, Library, Parameter
from bindings.codegen.model import Element, Field, Kind
from bindings.codegen.targets import comment

__all__ = ["HeaderLayout", "doc", "since"]

_SUFFIXES: Final = {
    Kind.DURATION: "duration_ms",
    Kind.STRING: "text",
    Kind.ENUM: "u32",
    Kind.UINT32: "u32",
    Kind.UINT64: "u64",
    Kind.BOOL: "bool",
    Kind.INT32: "i32",
    Kind.INT64: "i64",
}


def since(element: Element, known: str = "") -> str:
    """The version to state: none if it is the one that the reader knows already."""
    return "" if element.since == known else element.since


def doc(text: str, version: str = "", indent: str = "") -> str:
    """A documentation comment, in one line if it fits."""
    text = text.replace("*/", "* /")
    if version:
        text = f"{text} Since {version}."
    line = f"{indent}/** {text} */"
    if "\n" not in line and len(line) <= 120:
        return line
    return f"{indent}/**\n{comment(text, f'{indent} * ')}\n{indent} */"


class HeaderLayout:
    """What the template of the header asks for; nothing here decides what C has, only how it is written."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._prefix = library.prefix
        self._upper = library.prefix.upper()

    def prototype(self, call: Call) -> str:
        """The prototype, wrapped."""
        line = call.prototype
        if len(line) + len(self._upper) + len("_API ;") <= 120:
            return line
        head, _, inside = line.partition("(")
        lines = ["   "]
        for part in inside.removesuffix(")").split(", "):
            lines += ["   "] if len(lines[-1]) + len(part) + 2 > 116 else []
            lines[-1] += f" {part},"
        return head + "(\n" + "\n".join(lines)[:-1] + ")"

    def call_doc(self, call: Call) -> str:
        """The comment of a call."""
        lines = ["/**", comment(call.text.replace("*/", "* /"), " * ")]
        if call.parameters:
            lines.append(" *")
        lines += [self._parameter_doc(parameter) for parameter in call.parameters]
        if call.returns == "void":
            lines.append(" *")
        elif call.returns == f"{self._prefix}_status" and not call.operation.c_returns_result:
            lines += [" *", f" * @return {self._upper}_OK, or why it failed."]
        else:
            lines += [" *", " * @return see above; never fails."]
        threads = call.threads + (f" Since {call.since}." if call.since else "")
        lines += [comment(f"Threads: {threads}", " * "), " */"]
        return "\n".join(lines)

    @staticmethod
    def _parameter_doc(parameter: Parameter) -> str:
        head = f" * @param{'[out]' if parameter.out else ''} {parameter.name} "
        text = " ".join(parameter.text.replace("*/", "* /").split())
        return textwrap.fill(
            text, 120, initial_indent=head, subsequent_indent=" *     ", break_long_words=False, break_on_hyphens=False
        )

    @staticmethod
    def settable(field: Field) -> bool:
        """Whether a call can name the field: it has one plain value, or numbers in a row, which are set as text."""
        plain = field.kind is Kind.UINT32 if field.repeated else field.kind in _SUFFIXES
        return plain and not (field.map_key or field.oneof or field.c_skip)

    def how_to_set(self, field: Field) -> str:
        """Behind the comment of a settable field: the end of the name of the call that sets it."""
        choice = ""
        if field.kind is Kind.ENUM:
            first = self._library.package.enum(field.type_name).values[0]
            choice = f": one of {self._upper}_{first.name.removesuffix(first.short_name)}*"
        return f" [{'text' if field.repeated else _SUFFIXES[field.kind]}{choice}]"

    def exported(self) -> list[str]:
        """Every name that the library exports, sorted."""
        names = [call.name for call in self._library.calls]
        names += [f"{self._prefix}_{constant.name}" for constant in self._library.package.constants]
        return sorted(names)
