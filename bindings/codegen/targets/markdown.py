"""Reference pages: one for each service that gRPC has, one of messages, one of errors, and one of the C library."""

from __future__ import annotations

import re
from typing import Final

from bindings.codegen.c import Library, lower
from bindings.codegen.c_header import HeaderLayout
from bindings.codegen.model import (
    DefinitionError,
    Element,
    Enum,
    Field,
    Kind,
    Message,
    Operation,
    Package,
    Service,
    pascal,
)
from bindings.codegen.targets import Target, environment
from bindings.codegen.wire import enums, inner_name

__all__ = ["TARGET", "render"]

API: Final = "docs/reference/api"
C: Final = "docs/reference/c"
_PYTHON: Final = {"TIMEOUT": "PhantomTimeoutError"}
"""Errors of Python that are not named after the definition's."""


def render(package: Package) -> dict[str, bytes]:
    """The pages; none for a package that gRPC serves nothing of. Raises DefinitionError."""
    if not package.served:
        return {}
    writer = _Writer(package)
    templates = environment("markdown")
    templates.filters |= {
        "prose": prose,
        "text_cell": text_cell,
        "cell": cell,
        "sentence": sentence,
        "title": writer.title,
        "heading": writer.heading,
        "lower_first": lambda name: name[:1].lower() + name[1:],
    }
    layout = HeaderLayout(writer.library)
    given = {
        "package": package,
        "prefix": package.prefix,
        "library": writer.library,
        "namespace": pascal(package.name.rpartition(".")[2]),
        "messages": writer.shared(),
        "enums": enums(package),
        "page": page,
        "fields": writer.fields,
        "streams": streams,
        "c_calls": writer.c_calls,
        "prototype": layout.prototype,
        "settable": layout.settable,
        "how_to_set": layout.how_to_set,
    }
    made = {f"{API}/README.md": "index.md.j2", f"{API}/messages.md": "messages.md.j2"}
    if package.errors:
        spelled = max(package.errors, key=lambda error: (bool(error.base), error.code))
        given |= {"spelled": spelled, "python": _PYTHON.get(spelled.name, f"{pascal(spelled.name)}Error")}
        made[f"{API}/errors.md"] = "errors.md.j2"
    if writer.library.calls:
        made[f"{C}/README.md"] = "c.md.j2"
    files = {path: templates.get_template(name).render(given) for path, name in made.items()}
    for service in package.served:
        path = f"{API}/{page(service)}"
        if path in files:
            raise DefinitionError(service.location, f"its page {path} is another's already", "rename the service")
        group = service.name.removesuffix("Service")
        files[path] = templates.get_template("service.md.j2").render(
            given, service=service, group=group[:1].lower() + group[1:]
        )
    return {path: (text.rstrip("\n") + "\n").encode() for path, text in files.items()}


TARGET = Target("markdown", "reference pages of calls, messages, errors and the C library", render, (API, C))


def page(service: Service) -> str:
    """The name of a service's page."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", service.name).lower() + ".md"


def prose(text: str) -> str:
    """Paragraphs, one line each; what Markdown would take for markup is escaped."""
    return "\n\n".join(_plain(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))


def _plain(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", part) for part in parts
    )


def text_cell(text: str) -> str:
    """A text in a cell of a table."""
    return _plain(" ".join(text.split())).replace("|", "\\|")


def cell(element: Element, known: str = "") -> str:
    """The comment in a cell, with the version unless it is the one that the reader knows."""
    return text_cell(element.comment + (f" Since {element.since}." if element.since != known else ""))


def sentence(element: Element) -> str:
    """The first sentence of the comment."""
    return text_cell(re.split(r"(?<=[.])\s+(?=[A-Z0-9`])|;\s+", element.comment, maxsplit=1)[0].rstrip(".") + ".")


def streams(call: Operation) -> str:
    """What of a call is a stream."""
    match call.client_streaming, call.server_streaming:
        case True, True:
            return ", a stream each way"
        case True, False:
            return ", a stream of requests"
        case False, True:
            return ", a stream of responses"
        case _:
            return ""


class _Writer:
    """One run of :func:`render`."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.library: Library = lower(package)
        self._messages = package.wire_messages()

    def shared(self) -> tuple[Message, ...]:
        """The messages that are not only the request or the response of a call."""
        own = {
            name
            for service in self._package.served
            for call in service.operations
            for name in (call.request, call.response)
        }
        inner = {member.type_name for message in self._messages for member in message.fields}
        return tuple(found for found in self._messages if found.full_name not in own or found.full_name in inner)

    def title(self, element: Message | Enum) -> str:
        """The name, with those of the messages around it."""
        return ".".join(inner_name(self._package, element.full_name))

    def heading(self, message: Message) -> str:
        """How a request or response is introduced on its service's page."""
        empty = "" if message.fields else " It has no fields."
        return f"`{self.title(message)}`. {prose(message.comment)}{empty}"

    def c_calls(self, call: Operation) -> list[str]:
        """The calls of C that the call makes."""
        return [made.name for made in self.library.calls if made.operation is call and made.part in ("", "begin")]

    def fields(self, message: Message) -> str:
        """The table of a message's fields."""
        rows = ["| field | number | type | what it is |", "| --- | --- | --- | --- |"]
        for member in message.fields:
            notes = []
            if member.oneof:
                notes.append(f"One of `{member.oneof}`.")
            if member.sensitive:
                notes.append("A secret: no dump and no log shows it.")
            text = " ".join([cell(member, message.since), *notes])
            rows.append(f"| `{member.name}` | {member.number} | {self._type(member)} | {text} |")
        return "\n".join(rows) + "\n"

    def _type(self, member: Field) -> str:
        kind = "Duration" if member.kind is Kind.DURATION else member.proto_type
        if member.type_name:
            name = ".".join(inner_name(self._package, member.type_name))
            kind = f"[{name}](messages.md#{name.replace('.', '').lower()})"
        if member.map_key:
            return f"map of {member.map_key.proto_type} to {kind}"
        if member.repeated:
            return f"list of {kind}"
        return f"{kind}, optional" if member.optional else kind
