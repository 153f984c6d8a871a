"""TypeScript: types of messages with their codec, of services, and constants, for browsers and Node.

The codec reads tables: it is small where every kilobyte is fetched. Enums are numbers with names, because they are
open. What shows itself shows no sensitive value and no content of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bindings.codegen.model import (
    REDACTED,
    DefinitionError,
    Element,
    Enum,
    Field,
    Kind,
    Message,
    Operation,
    Package,
    Service,
    camel,
)
from bindings.codegen.prose import block, with_since
from bindings.codegen.targets import Target, environment
from bindings.codegen.wire import Names, enums, inner_name

__all__ = ["TARGET", "render"]

FOLDER: Final = "bindings/wasm/src/generated"

_TYPES: Final = {
    Kind.BOOL: "boolean",
    Kind.INT32: "number",
    Kind.UINT32: "number",
    Kind.INT64: "bigint",
    Kind.UINT64: "bigint",
    Kind.FLOAT: "number",
    Kind.DOUBLE: "number",
    Kind.STRING: "string",
    Kind.BYTES: "Uint8Array",
    Kind.DURATION: "Duration",
}
_RESERVED: Final = (
    "Duration ErrorCode Map MessageType Open Uint8Array Array Error Object Promise String Number Boolean Symbol BigInt "
    "Method Init WireError FieldInfo"
)
_MEMBERS: Final = "constructor prototype toJSON toString __proto__ hasOwnProperty valueOf"
_EXACT: Final = 2**53
"""A number of JavaScript is exact up to here."""


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    doc: str
    code: int


@dataclass(frozen=True, slots=True)
class _EnumView:
    name: str
    doc: str
    values: tuple[_Value, ...]


@dataclass(frozen=True, slots=True)
class _Property:
    name: str
    """With ``?`` behind it if it may be absent."""
    doc: str
    type: str


@dataclass(frozen=True, slots=True)
class _MessageView:
    name: str
    doc: str
    full_name: str
    properties: tuple[_Property, ...]
    fields: tuple[str, ...]
    """What the codec knows of each."""


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    doc: str
    path: str
    request: str
    response: str
    streams: str


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    doc: str
    calls: tuple[_Call, ...]


def render(package: Package) -> dict[str, bytes]:
    """The files; none for a package that gRPC serves nothing of. Raises DefinitionError."""
    if not package.served:
        return {}
    for constant in package.constants:
        if constant.constant is not None and constant.constant > _EXACT:
            raise DefinitionError(
                constant.location, f"{constant.name} is more than a number of JavaScript holds", f"stay below {_EXACT}"
            )
    templates = environment("typescript")
    templates.filters["doc"] = block
    writer = _Writer(package)
    made = {
        "wire.ts": templates.get_template("wire.ts.j2").render(redacted=REDACTED),
        "constants.ts": templates.get_template("constants.ts.j2").render(package=package),
        "messages.ts": templates.get_template("messages.ts.j2").render(
            enums=writer.enums(),
            messages=writer.messages(),
            duration=writer.has(Kind.DURATION),
            error_enum=writer.error_enum(),
        ),
        "services.ts": templates.get_template("services.ts.j2").render(services=writer.services()),
    }
    return {f"{FOLDER}/{name}": text.encode() for name, text in made.items()}


TARGET = Target("typescript", "TypeScript types and codec of messages, services and constants", render, (FOLDER,))


class _Writer:
    """One run of :func:`render`."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._messages = package.wire_messages()
        self._enums = enums(package)
        self._names = Names("TypeScript", _RESERVED.split())
        declared: list[Message | Enum | Service] = [*self._messages, *package.served]
        for found in (*declared, *(found for found in self._enums if not found.errors)):
            self._names.claim(self._name(found.full_name), found)

    def has(self, kind: Kind) -> bool:
        """Whether a field on the wire is of that kind."""
        return any(member.kind is kind for message in self._messages for member in message.fields)

    def error_enum(self) -> bool:
        """Whether a field on the wire holds an error code."""
        return any(found.errors for found in self._enums)

    def _name(self, full_name: str) -> str:
        errors = any(found.full_name == full_name and found.errors for found in self._enums)
        return "ErrorCode" if errors else "".join(inner_name(self._package, full_name))

    # --- enums -------------------------------------------------------------------------------------------------------

    def enums(self) -> tuple[_EnumView, ...]:
        """All but that of the errors, which has a file of its own."""
        return tuple(
            _EnumView(
                self._name(found.full_name),
                with_since(found),
                tuple(_Value(value.short_name, with_since(value, found.since), value.code) for value in found.codes),
            )
            for found in self._enums
            if not found.errors
        )

    # --- messages ----------------------------------------------------------------------------------------------------

    def messages(self) -> tuple[_MessageView, ...]:
        """All on the wire."""
        return tuple(self._message(message) for message in self._messages)

    def _message(self, message: Message) -> _MessageView:
        names = Names(f"TypeScript {message.name}", _MEMBERS.split())
        properties: dict[str, _Property] = {}
        for oneof in message.oneofs:
            cases = " | ".join(
                f'{{ readonly case: "{camel(member.name)}"; readonly value: {self._value_type(member)} }}'
                for member in message.members(oneof.name)
            )
            name = names.claim(camel(oneof.name), oneof)
            properties[oneof.name] = _Property(f"{name}?", self._oneof_doc(message, oneof), f"{cases} | undefined")
        ordered: dict[str, _Property] = {}
        for member in message.fields:
            if member.oneof:
                ordered.setdefault(member.oneof, properties[member.oneof])
            else:
                ordered[f".{member.name}"] = self._property(message, member, names)
        return _MessageView(
            self._name(message.full_name),
            with_since(message),
            full_name=message.full_name,
            properties=tuple(ordered.values()),
            fields=tuple(self._field(member) for member in message.fields),
        )

    @staticmethod
    def _oneof_doc(message: Message, oneof: Element) -> str:
        members = " ".join(
            f"`{camel(member.name)}`: {with_since(member, message.since)}" for member in message.members(oneof.name)
        )
        return f"{with_since(oneof, message.since)}\n\n{members}"

    def _property(self, message: Message, member: Field, names: Names) -> _Property:
        name, kind = names.claim(camel(member.name), member), self._value_type(member)
        if member.map_key:
            kind = f"Map<{_TYPES[member.map_key.kind]}, {kind}>"
        elif member.repeated:
            kind = f"{kind}[]"
        elif member.has_presence:
            name, kind = f"{name}?", f"{kind} | undefined"
        return _Property(name, with_since(member, message.since), kind)

    def _value_type(self, member: Field) -> str:
        if member.kind is Kind.ENUM and self._enum(member).errors:
            return "Open<ErrorCode>"
        return self._name(member.type_name) if member.type_name else _TYPES[member.kind]

    def _enum(self, member: Field) -> Enum:
        return self._package.enum(member.type_name)

    def _field(self, member: Field) -> str:
        parts = [f"number: {member.number}", f'name: "{camel(member.name)}"']
        if member.kind in (Kind.MESSAGE, Kind.DURATION):
            parts.append(f"type: () => {self._value_type(member)}")
        else:
            parts.append(f'type: "{member.proto_type}"')
        if member.repeated:
            parts.append(f'repeated: "{"packed" if member.packed else "each"}"')
        if member.optional:
            parts.append("optional: true")
        if member.oneof:
            parts.append(f'oneof: "{camel(member.oneof)}"')
        if member.map_key:
            parts.append(f'key: "{member.map_key.proto_type}"')
        if member.kind is Kind.ENUM and self._enum(member).code_offset:
            parts.append(f"offset: {self._enum(member).code_offset}")
        if member.sensitive:
            parts.append("sensitive: true")
        return ", ".join(parts)

    # --- services ----------------------------------------------------------------------------------------------------

    def services(self) -> tuple[_Service, ...]:
        """All that gRPC has."""
        made = []
        for service in self._package.served:
            names = Names(f"TypeScript {service.name}", _MEMBERS.split())
            calls = tuple(
                _Call(
                    names.claim(call.name[:1].lower() + call.name[1:], call),
                    with_since(call, service.since),
                    path=call.path,
                    request=self._name(call.request),
                    response=self._name(call.response),
                    streams=_streams(call),
                )
                for call in service.operations
            )
            made.append(_Service(service.name, with_since(service), calls))
        return tuple(made)


def _streams(call: Operation) -> str:
    if call.client_streaming:
        return "both" if call.server_streaming else "requests"
    return "responses" if call.server_streaming else "none"
