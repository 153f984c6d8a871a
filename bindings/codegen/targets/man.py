"""Man pages of the C library: one a call in section 3, and an overview in section 7 of what holds for all calls.

Functions that the overview describes (constants, ``_init`` of structs) have pages in section 3 that lead to it.
"""

from __future__ import annotations

import re
from typing import Final

from bindings.codegen.c import FORKED, GLUE_FAILED, NOT_STARTED, Call, Library, Parameter, lower
from bindings.codegen.c_header import HeaderLayout
from bindings.codegen.model import Package
from bindings.codegen.targets import MARKER, Target, environment

__all__ = ["TARGET", "code", "render", "roff"]

FOLDER: Final = "bindings/c/man"
_SENTENCE: Final = re.compile(r"(?<=[.:;])\s+(?=[A-Z0-9`])|;\s+|\n\n")
_CALL: Final = re.compile(r"\b([a-z]\w*_\w+)\b(?:\(\))?")


def render(package: Package) -> dict[str, bytes]:
    """The pages; none for a package without C calls. Raises DefinitionError."""
    library = lower(package)
    if not library.calls:
        return {}
    prefix = package.prefix
    templates = environment("man")
    templates.filters |= {"roff": roff, "code": code, "capital": lambda text: text[:1].upper() + text[1:]}
    layout = HeaderLayout(library)
    given = {
        "package": package,
        "library": library,
        "prefix": prefix,
        "title": " ".join(filter(None, (prefix.capitalize(), package.version))),
        "manual": f"{prefix.capitalize()} C interface",
        "glue_failed": GLUE_FAILED,
        "not_started": NOT_STARTED,
        "forked": FORKED,
        "summary": summary,
        "prototype": prototype,
        "settable": layout.settable,
        "how_to_set": layout.how_to_set,
        "inputs": lambda call: _of(call, out=False),
        "results": lambda call: _of(call, out=True),
        "references": lambda call: references(library, call),
    }
    overview = f"man7/{prefix}.7"
    page = templates.get_template("call.3.j2")
    files = {f"man3/{call.name}.3": page.render(given, call=call) for call in library.calls}
    lead = f'.\\" {MARKER}\n.so {overview}\n'
    files |= {f"man3/{prefix}_{constant.name}.3": lead for constant in package.constants}
    files |= {f"man3/{struct.c_type}_init.3": lead for struct in library.structs}
    files[overview] = templates.get_template("overview.7.j2").render(given)
    return {f"{FOLDER}/{path}": text.encode() for path, text in files.items()}


TARGET = Target("man", "man pages of the C library", render, (FOLDER,))


def code(text: str) -> str:
    """Text as it is typed: a hyphen is a minus."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def roff(text: str) -> str:
    """A reference text in roff: a line a sentence, paragraphs apart, what is in backquotes bold."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        plain = " ".join(paragraph.split()).replace("\\", "\\e")
        plain = re.sub(r"`([^`]*)`", lambda found: f"\\fB{found[1].replace('-', chr(92) + '-')}\\fP", plain)
        plain = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", plain)
        lines = re.sub(r"(?<=[.?!]) (?=[A-Z0-9])", "\n", plain).split("\n")
        paragraphs.append("\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines))
    return "\n.PP\n".join(paragraphs)


def summary(call: Call) -> str:
    """The first sentence of the text, as the index of pages has it."""
    first = _SENTENCE.split(call.text.strip(), maxsplit=1)[0].replace("\n", " ").rstrip(".:")
    first = first.replace("`", "")
    return roff(first if first[1:2].isupper() else first[:1].lower() + first[1:])


def prototype(call: Call) -> str:
    """The prototype in bold, names in italics, a parameter a line."""
    space = "" if call.returns.endswith("*") else " "
    head = f'.BI "{call.returns}{space}{call.name}('
    if not call.parameters:
        return f'{head}void);"'
    lines = []
    for at, parameter in enumerate(call.parameters):
        kind = parameter.declaration.removesuffix(parameter.name)
        start = f'{head}{kind}"' if at == 0 else f'.BI "    {kind}"'
        end = ");" if at == len(call.parameters) - 1 else ","
        lines.append(f"{start} {code(parameter.name)} {end}")
    return "\n".join(lines)


def _of(call: Call, *, out: bool) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in call.parameters if parameter.out == out)


def references(library: Library, call: Call) -> str:
    """The overview, the calls that the text names, and the other parts of an iterator."""
    known = {other.name for other in library.calls} - {call.name}
    text = " ".join([call.text, *(parameter.text for parameter in call.parameters)])
    named = {name for name in _CALL.findall(text) if name in known}
    if call.iterator:
        named |= {other.name for other in library.calls if other.iterator == call.iterator} - {call.name}
    pages = [*(f".BR {name} (3)" for name in sorted(named)), f".BR {library.prefix} (7)"]
    return ",\n".join(pages)
