"""The definition as targets see it: a neutral, typed, immutable model of one protobuf package.

``load`` builds it from descriptors. They are parsed in a pool of their own, so that the custom options of
``phantom/options/v1`` are understood without a generated module, whatever the process has imported. What no target
could express is a ``DefinitionError``, which reads ``file:line: what is wrong: what to do``.

Everything is a frozen dataclass and safe to share. References to messages and enums are full names, such as
``phantom.v1.Pin``; ``Package.message`` and ``Package.enum`` resolve them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = [
    "REDACTED",
    "Branch",
    "CallForm",
    "DefinitionError",
    "Element",
    "Enum",
    "EnumValue",
    "ErrorCode",
    "Field",
    "Kind",
    "Location",
    "Message",
    "Operation",
    "Owner",
    "Package",
    "Service",
    "camel",
    "load",
    "pascal",
]

OPTIONS: Final = "phantom.options.v1"
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """Where something is declared: a path under ``proto/`` and a line, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class DefinitionError(Exception):
    """The definition says something that cannot be generated: file and line, the fault, the remedy."""

    def __init__(self, location: Location, fault: str, remedy: str) -> None:
        super().__init__(f"{location}: {fault}: {remedy}")
        self.location = location


class Kind(enum.Enum):
    """The type of a field, without the difference between encodings of the same values."""

    BOOL = "bool"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BYTES = "bytes"
    ENUM = "enum"
    DURATION = "duration"
    """``google.protobuf.Duration``, the one message of protobuf itself that the definition uses."""
    MESSAGE = "message"


class CallForm(enum.IntEnum):
    """How a call of the C library behaves; see ``phantom.options.v1.CallForm``."""

    FUNCTION = 1
    BLOCKING = 2
    RELEASE = 3
    ITERATOR = 4
    NATIVE = 5
    RETAIN = 6


class Owner(enum.IntEnum):
    """Who owns bytes or text in C; see ``phantom.options.v1.Owner``."""

    CALLER = 1
    LIBRARY = 2
    STATIC = 3


class Branch(enum.IntEnum):
    """Who is at fault for an error."""

    LOCAL = 1
    REMOTE = 2
    TRANSPORT = 3


@dataclass(frozen=True, slots=True)
class Element:
    """What everything declared has."""

    name: str
    """As written in the definition."""
    comment: str
    """The reference text: lines joined by newlines, paragraphs by an empty line; no markup but backquotes."""
    location: Location
    since: str
    """The first version of the package that has it, ``""`` if the definition does not say."""


@dataclass(frozen=True, slots=True)
class Field(Element):
    """A field of a message."""

    number: int
    kind: Kind
    proto_type: str
    """The protobuf type: ``sint32``, ``fixed64``, …, ``message``: what a wire codec needs."""
    type_name: str
    """Full name of the message or enum, ``""`` for other kinds."""
    repeated: bool
    packed: bool
    """Repeated and packed on the wire."""
    optional: bool
    """Has presence by the keyword ``optional``. Messages and members of a oneof have presence anyway."""
    oneof: str
    """The oneof that it is a member of, ``""`` if none."""
    map_key: Field | None
    """Key of a map, None if the field is no map. A map is not ``repeated``; kind and type are those of its values."""
    sensitive: bool
    """Holds a secret: no dump, no log, no description may show its value (``REDACTED`` stands in its place)."""
    owner: Owner | None
    """Who owns the bytes in C, None if the definition leaves it to the rule (in: the caller, out: the library)."""
    c_skip: bool
    """C does not have the field."""
    constant: int | None
    """The value, in a message of constants."""
    c_fields_of: str
    """Full name of the message whose field numbers are its values, ``""`` if none."""

    @property
    def has_presence(self) -> bool:
        """Whether "not set" and "set to the default" are two things."""
        if self.repeated or self.map_key:
            return False
        return self.optional or bool(self.oneof) or self.kind in (Kind.MESSAGE, Kind.DURATION)


REDACTED: Final = "[redacted]"
"""What every dump of every language shows in place of a sensitive value that is set."""


@dataclass(frozen=True, slots=True)
class Message(Element):
    """A message; nested ones follow the message that they are declared in."""

    full_name: str
    parent: str
    """Full name of the message it is nested in, ``""`` at the top."""
    fields: tuple[Field, ...]
    """In the order of their numbers."""
    oneofs: tuple[Element, ...]
    """Without those that the keyword ``optional`` makes."""
    c_handle: str
    """C has it as a handle of this name (without prefix), ``""`` if not."""
    c_struct: str
    """C has it as a struct of this name (without prefix), ``""`` if not."""
    c_field_enum: str
    """C has the numbers of its fields as an enum of this name (without prefix), ``""`` if not."""
    constants: bool
    """Its fields are constants; the message is never sent."""

    def field(self, name: str) -> Field:
        """The field of that name; KeyError if there is none."""
        return {found.name: found for found in self.fields}[name]

    def members(self, oneof: str) -> tuple[Field, ...]:
        """The fields of a oneof."""
        return tuple(member for member in self.fields if member.oneof == oneof)


@dataclass(frozen=True, slots=True)
class EnumValue(Element):
    """A value of an enum."""

    number: int
    """On the wire."""
    code: int
    """What languages show: the number plus the enum's ``code_offset``."""
    short_name: str
    """Without the prefix that the enum's name makes: ``CONNECTED`` of ``CONNECTION_STATE_CONNECTED``."""


@dataclass(frozen=True, slots=True)
class Enum(Element):
    """An enum. It is open: a decoder keeps numbers that it does not know."""

    full_name: str
    parent: str
    values: tuple[EnumValue, ...]
    """In the order of declaration, the unspecified value (number 0) included."""
    code_offset: int
    errors: bool
    """Its values are the error codes."""
    c_type: str
    """Its name in C, without prefix."""

    @property
    def codes(self) -> tuple[EnumValue, ...]:
        """The values that languages have: without the unspecified one where ``code_offset`` makes it impossible."""
        return tuple(value for value in self.values if value.number or not self.code_offset)


@dataclass(frozen=True, slots=True)
class ErrorCode(Element):
    """An error; ``name`` is the short one (``SERVER_BUSY``), ``comment`` its default text."""

    code: int
    branch: Branch
    base: str
    """Name of the error that it is a special case of, ``""`` if it hangs on the branch."""
    retryable: bool
    """The same call may succeed later."""
    final: bool
    """No other leg or address is tried after it."""

    @property
    def summary(self) -> str:
        """The first sentence of the comment, in small letters and without full stop: the default message."""
        sentence = re.split(r"(?<=\.)\s|;\s|\.$", self.comment.replace("\n", " "), maxsplit=1)[0].rstrip(".")
        return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


@dataclass(frozen=True, slots=True)
class Operation(Element):
    """A call of a service."""

    service: str
    """Full name of its service."""
    request: str
    """Full name of the request message."""
    response: str
    """Full name of the response message."""
    client_streaming: bool
    server_streaming: bool
    local: bool
    """Exists in the caller's process only: no gRPC client has it."""
    c_name: str
    """Name of the C call without prefix, ``""`` if C has none."""
    c_form: CallForm | None
    """How the C call behaves, None if C has none."""
    c_returns_result: bool
    """The C call returns its one result in place of a status."""
    c_text: str
    """Stands in place of the comment in C, ``""`` if the comment itself does."""

    @property
    def path(self) -> str:
        """The path of the call in gRPC."""
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class Service(Element):
    """A service."""

    full_name: str
    operations: tuple[Operation, ...]
    """In the order of declaration."""
    local: bool
    """Not served by gRPC; see :attr:`Operation.local`."""
    chapter: str
    """The chapter of a reference that its calls belong to; services may share one."""


@dataclass(frozen=True, slots=True)
class Package:
    """The model: everything that the files to generate declare, which is one package.

    Tuples are in the order of the sorted file names, then of declaration. ``message`` and ``enum`` also find what
    imported files declare.
    """

    name: str
    """Such as ``phantom.v1``."""
    files: tuple[str, ...]
    messages: tuple[Message, ...]
    """All of them, nested ones behind their parents, map entries and the messages of constants left out."""
    enums: tuple[Enum, ...]
    services: tuple[Service, ...]
    errors: tuple[ErrorCode, ...]
    """By code; empty if the package declares no enum of errors."""
    constants: tuple[Field, ...]
    """The fields of every message of constants, by declaration; ``Field.constant`` is the value."""
    version: str
    """The version of the Phantom package that the definition belongs to, ``""`` if the caller did not say."""
    contract_version: int | None
    """``CONTRACT_VERSION_CURRENT``, which the first call of every binding compares; None if the package has none."""
    _messages: Mapping[str, Message] = field(repr=False, default_factory=dict)
    _enums: Mapping[str, Enum] = field(repr=False, default_factory=dict)

    @property
    def prefix(self) -> str:
        """What names of C and of files begin with: the last part of the name that is no version, ``phantom``."""
        return [part for part in self.name.split(".") if not re.fullmatch(r"v\d+\w*", part)][-1]

    @property
    def served(self) -> tuple[Service, ...]:
        """The services that gRPC has: the surface of clients of a sidecar."""
        return tuple(service for service in self.services if not service.local)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every call of every service."""
        return tuple(operation for service in self.services for operation in service.operations)

    def message(self, full_name: str) -> Message:
        """The message of that full name; KeyError if there is none."""
        return self._messages[full_name]

    def enum(self, full_name: str) -> Enum:
        """The enum of that full name; KeyError if there is none."""
        return self._enums[full_name]

    def error(self, name: str) -> ErrorCode:
        """The error of that name; KeyError if there is none."""
        return {error.name: error for error in self.errors}[name]

    def error_by_code(self, code: int) -> ErrorCode | None:
        """The error of that number, None if it is not given away."""
        return next((error for error in self.errors if error.code == code), None)

    def wire_messages(self) -> tuple[Message, ...]:
        """The messages that gRPC carries: those reachable from a served call, and the error detail."""
        roots = [
            name for service in self.served for call in service.operations for name in (call.request, call.response)
        ]
        roots += [message.full_name for message in self.messages if message.name == "ErrorDetail"]
        reached: set[str] = set()
        while roots:
            name = roots.pop()
            if name in reached or name not in self._messages:
                continue
            reached.add(name)
            roots += [member.type_name for member in self._messages[name].fields if member.kind is Kind.MESSAGE]
        return tuple(message for message in self.messages if message.full_name in reached)


def pascal(name: str) -> str:
    """``SERVER_BUSY`` or ``server_busy`` as ``ServerBusy``."""
    return "".join(word[:1].upper() + word[1:].lower() for word in name.split("_"))


def camel(name: str) -> str:
    """``peer_addr`` as ``peerAddr``."""
    joined = pascal(name)
    return joined[:1].lower() + joined[1:]


def load(files: Iterable[descriptor_pb2.FileDescriptorProto], generate: Iterable[str], version: str = "") -> Package:
    """The model of the files named by ``generate``.

    ``files`` holds them and all they import, imported ones first, with source_code_info: what protoc hands to a plugin
    and what it writes by ``--include_imports --include_source_info``. Raises DefinitionError.
    """
    return _Loader(list(files), sorted(generate), version).package()


_FieldProto = descriptor_pb2.FieldDescriptorProto
_KINDS: Final[dict[int, tuple[Kind, str]]] = {
    _FieldProto.TYPE_BOOL: (Kind.BOOL, "bool"),
    _FieldProto.TYPE_INT32: (Kind.INT32, "int32"),
    _FieldProto.TYPE_SINT32: (Kind.INT32, "sint32"),
    _FieldProto.TYPE_SFIXED32: (Kind.INT32, "sfixed32"),
    _FieldProto.TYPE_UINT32: (Kind.UINT32, "uint32"),
    _FieldProto.TYPE_FIXED32: (Kind.UINT32, "fixed32"),
    _FieldProto.TYPE_INT64: (Kind.INT64, "int64"),
    _FieldProto.TYPE_SINT64: (Kind.INT64, "sint64"),
    _FieldProto.TYPE_SFIXED64: (Kind.INT64, "sfixed64"),
    _FieldProto.TYPE_UINT64: (Kind.UINT64, "uint64"),
    _FieldProto.TYPE_FIXED64: (Kind.UINT64, "fixed64"),
    _FieldProto.TYPE_FLOAT: (Kind.FLOAT, "float"),
    _FieldProto.TYPE_DOUBLE: (Kind.DOUBLE, "double"),
    _FieldProto.TYPE_STRING: (Kind.STRING, "string"),
    _FieldProto.TYPE_BYTES: (Kind.BYTES, "bytes"),
    _FieldProto.TYPE_ENUM: (Kind.ENUM, "enum"),
    _FieldProto.TYPE_MESSAGE: (Kind.MESSAGE, "message"),
}
_UNPACKABLE: Final = (Kind.STRING, Kind.BYTES, Kind.MESSAGE, Kind.DURATION)
_DURATION: Final = "google.protobuf.Duration"


class _Rules:
    """Reads the custom options. Descriptors that do not import them have none."""

    def __init__(self, files: list[descriptor_pb2.FileDescriptorProto]) -> None:
        self._pool = DescriptorPool()
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())
        self._known = any(file.package == OPTIONS for file in files)

    def of(self, options: Any, extension: str) -> Any:
        """The rule of an options message (an empty one if none was written), None if no rule can have been."""
        if not self._known:
            return None
        cls = GetMessageClass(self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name))
        extensions: Any = cls.FromString(options.SerializeToString()).Extensions
        return extensions[self._pool.FindExtensionByName(f"{OPTIONS}.{extension}")]


class _File:
    """Lines and comments of one file, by descriptor path."""

    def __init__(self, proto: descriptor_pb2.FileDescriptorProto) -> None:
        self.proto = proto
        self._found = {tuple(place.path): place for place in proto.source_code_info.location}

    def location(self, path: tuple[int, ...]) -> Location:
        place = self._found.get(path)
        return Location(self.proto.name, place.span[0] + 1 if place else 1)

    def comment(self, path: tuple[int, ...]) -> str:
        place = self._found.get(path)
        text = (place.leading_comments or place.trailing_comments) if place else ""
        return "\n".join(line.removeprefix(" ").rstrip() for line in text.splitlines()).strip()


class _Loader:
    """One run of :func:`load`."""

    def __init__(self, files: list[descriptor_pb2.FileDescriptorProto], generate: list[str], version: str) -> None:
        self._version = version
        self._files = {file.name: file for file in files}
        self._generate = generate
        self._rules = _Rules(files)
        self._messages: dict[str, Message] = {}
        self._enums: dict[str, Enum] = {}
        self._error_enums: list[tuple[Enum, list[Any]]] = []
        self._entries: dict[str, descriptor_pb2.DescriptorProto] = {}

    def package(self) -> Package:
        names = sorted({self._files[name].package for name in self._generate})
        if len(names) != 1:
            first = Location(self._generate[0] if self._generate else "-", 1)
            raise DefinitionError(
                first, f"files of {len(names)} packages are to be generated", "generate one package at a time"
            )
        for name, proto in self._files.items():
            if name not in self._generate:
                self._declare(_File(proto))
        self._error_enums.clear()
        imported = set(self._messages) | set(self._enums)
        services: list[Service] = []
        for name in self._generate:
            file = _File(self._files[name])
            self._declare(file)
            services += [self._service(file, service, (6, at)) for at, service in enumerate(file.proto.service)]
        own = [message for full_name, message in self._messages.items() if full_name not in imported]
        enums = tuple(found for full_name, found in self._enums.items() if full_name not in imported)
        versions = [
            value.number for found in enums for value in found.values if value.name == "CONTRACT_VERSION_CURRENT"
        ]
        package = Package(
            name=names[0],
            files=tuple(self._generate),
            messages=tuple(message for message in own if not message.constants),
            enums=enums,
            services=tuple(services),
            errors=self._errors(),
            constants=tuple(constant for message in own if message.constants for constant in message.fields),
            version=self._version,
            contract_version=versions[0] if versions else None,
            _messages=self._messages,
            _enums=self._enums,
        )
        self._check_references(package)
        return package

    # --- messages ----------------------------------------------------------------------------------------------------

    def _declare(self, file: _File) -> None:
        prefix = f"{file.proto.package}." if file.proto.package else ""
        for at, message in enumerate(file.proto.message_type):
            self._message(file, message, (4, at), prefix, "")
        for at, found in enumerate(file.proto.enum_type):
            self._enum(file, found, (5, at), prefix, "")

    def _message(
        self, file: _File, proto: descriptor_pb2.DescriptorProto, path: tuple[int, ...], prefix: str, parent: str
    ) -> None:
        full_name = prefix + proto.name
        if proto.options.map_entry:
            self._entries[full_name] = proto
            return
        for at, nested in enumerate(proto.nested_type):  # map entries must be known before the fields that use them
            if nested.options.map_entry:
                self._message(file, nested, (*path, 3, at), f"{full_name}.", full_name)
        rule = self._rules.of(proto.options, "message")
        location = file.location(path)
        since = self._since(rule, location, "")
        synthetic = {member.oneof_index for member in proto.field if member.proto3_optional}
        constants = bool(rule and rule.constants)
        members = [
            self._field(file, proto, member, (*path, 2, at), since, constants) for at, member in enumerate(proto.field)
        ]
        message = Message(
            name=proto.name,
            comment=file.comment(path),
            location=location,
            since=since,
            full_name=full_name,
            parent=parent,
            fields=tuple(sorted(members, key=lambda member: member.number)),
            oneofs=tuple(
                Element(oneof.name, file.comment((*path, 8, at)), file.location((*path, 8, at)), since)
                for at, oneof in enumerate(proto.oneof_decl)
                if at not in synthetic
            ),
            c_handle=rule.c_handle if rule else "",
            c_struct=rule.c_struct if rule else "",
            c_field_enum=rule.c_field_enum if rule else "",
            constants=constants,
        )
        self._check_forms(message)
        self._messages[full_name] = message
        for at, nested in enumerate(proto.nested_type):
            if not nested.options.map_entry:
                self._message(file, nested, (*path, 3, at), f"{full_name}.", full_name)
        for at, found in enumerate(proto.enum_type):
            self._enum(file, found, (*path, 4, at), f"{full_name}.", full_name)

    def _field(
        self,
        file: _File,
        parent: descriptor_pb2.DescriptorProto,
        proto: descriptor_pb2.FieldDescriptorProto,
        path: tuple[int, ...],
        since: str,
        constants: bool,
    ) -> Field:
        location = file.location(path)
        if proto.type not in _KINDS:
            raise DefinitionError(location, f"{proto.name} is a group", "declare a message and a field of its type")
        rule = self._rules.of(proto.options, "field")
        repeated = proto.label == _FieldProto.LABEL_REPEATED
        entry = self._entries.get(proto.type_name.lstrip("."))
        key: Field | None = None
        value = proto
        if entry:
            key = self._field(file, entry, entry.field[0], (), "", False)
            value, repeated = entry.field[1], False
        kind, proto_type = _KINDS[value.type]
        if value.type_name == f".{_DURATION}":
            kind = Kind.DURATION
        sensitive = bool(rule and rule.sensitive)
        if rule is not None and sensitive != proto.options.debug_redact:
            have, lack = ("sensitive", "debug_redact") if sensitive else ("debug_redact", "sensitive")
            lack = lack if lack == "debug_redact" else f"({OPTIONS}.field).sensitive"
            raise DefinitionError(
                location, f"{proto.name} is marked {have} and not {lack}", f"write `{lack} = true` beside it"
            )
        if constants and (kind is not Kind.UINT64 or repeated or not rule.HasField("constant")):
            raise DefinitionError(
                location,
                f"the constant {proto.name} has no value or is no plain uint64",
                f"declare it `uint64 … [({OPTIONS}.field).constant = N]`",
            )
        return Field(
            name=proto.name,
            comment=file.comment(path),
            location=location,
            since=self._since(rule, location, since),
            number=proto.number,
            kind=kind,
            proto_type=proto_type,
            type_name=value.type_name.lstrip(".") if kind in (Kind.MESSAGE, Kind.ENUM) else "",
            repeated=repeated,
            packed=repeated
            and kind not in _UNPACKABLE
            and not (proto.options.HasField("packed") and not proto.options.packed),
            optional=proto.proto3_optional,
            oneof=parent.oneof_decl[proto.oneof_index].name
            if proto.HasField("oneof_index") and not proto.proto3_optional
            else "",
            map_key=key,
            sensitive=sensitive or proto.options.debug_redact,
            owner=Owner(rule.owner) if rule and rule.owner else None,
            c_skip=bool(rule and rule.c_skip),
            constant=rule.constant if constants else None,
            c_fields_of=rule.c_fields_of if rule else "",
        )

    @staticmethod
    def _check_forms(message: Message) -> None:
        forms = [
            form
            for form, chosen in (
                ("c_handle", message.c_handle),
                ("c_struct", message.c_struct),
                ("constants", message.constants),
            )
            if chosen
        ]
        if len(forms) > 1:
            raise DefinitionError(message.location, f"{message.name} is {' and '.join(forms)}", "choose one of them")
        if message.c_handle and [member.proto_type for member in message.fields] != ["uint64"]:
            raise DefinitionError(
                message.location,
                f"the handle {message.name} is not one field of type uint64",
                "move other fields into a message of their own",
            )

    def _since(self, rule: Any, location: Location, inherited: str) -> str:
        since = str(rule.since) if rule and rule.since else ""
        if since and not _VERSION.fullmatch(since):
            raise DefinitionError(location, f"since {since!r} is no version", "write it as `0.2.0`")
        return since or inherited

    # --- enums and errors --------------------------------------------------------------------------------------------

    def _enum(
        self, file: _File, proto: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], prefix: str, parent: str
    ) -> None:
        rule = self._rules.of(proto.options, "enumeration")
        location = file.location(path)
        since = self._since(rule, location, "")
        offset = rule.code_offset if rule else 0
        start = f"{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', proto.name).upper()}_"
        values: list[EnumValue] = []
        rules: list[Any] = []
        for at, value in enumerate(proto.value):
            place = (*path, 2, at)
            rules.append(self._rules.of(value.options, "value"))
            values.append(
                EnumValue(
                    name=value.name,
                    comment=file.comment(place),
                    location=file.location(place),
                    since=self._since(rules[-1], file.location(place), since),
                    number=value.number,
                    code=value.number + offset,
                    short_name=value.name.removeprefix(start),
                )
            )
        found = Enum(
            proto.name,
            file.comment(path),
            location,
            since,
            full_name=prefix + proto.name,
            parent=parent,
            values=tuple(values),
            code_offset=offset,
            errors=bool(rule and rule.errors),
            c_type=(rule.c_type if rule else "") or start[:-1].lower(),
        )
        self._enums[found.full_name] = found
        if found.errors:
            self._error_enums.append((found, rules))

    def _errors(self) -> tuple[ErrorCode, ...]:
        if not self._error_enums:
            return ()
        (found, rules), *more = self._error_enums
        if more:
            raise DefinitionError(more[0][0].location, "a second enum of errors", f"add its values to {found.name}")
        errors: list[ErrorCode] = []
        for value, rule in zip(found.values, rules, strict=True):
            if value.number == 0:
                continue
            if not rule.error.branch:
                raise DefinitionError(
                    value.location,
                    f"{value.name} has no branch",
                    f"write `[({OPTIONS}.value).error = {{branch: ERROR_BRANCH_…}}]` behind it",
                )
            base = next((other for other in found.values if other.name == rule.error.base), None)
            if rule.error.base and base is None:
                raise DefinitionError(
                    value.location,
                    f"{value.name} has an unknown base {rule.error.base}",
                    f"name a value of {found.name}",
                )
            errors.append(
                ErrorCode(
                    value.short_name,
                    value.comment,
                    value.location,
                    value.since,
                    code=value.number,
                    branch=Branch(rule.error.branch),
                    base=base.short_name if base else "",
                    retryable=rule.error.retryable,
                    final=rule.error.final,
                )
            )
        self._check_bases(errors)
        return tuple(sorted(errors, key=lambda error: error.code))

    @staticmethod
    def _check_bases(errors: list[ErrorCode]) -> None:
        by_name = {error.name: error for error in errors}
        for error in errors:
            seen = {error.name}
            at = error
            while at.base:
                at = by_name[at.base]
                if at.name in seen:
                    raise DefinitionError(error.location, f"{error.name} is its own base", "break the circle")
                seen.add(at.name)
            if at.branch is not error.branch:
                raise DefinitionError(
                    error.location,
                    f"{error.name} and its base {at.name} are of two branches",
                    f"give it ERROR_BRANCH_{at.branch.name}, or another base",
                )

    # --- services ----------------------------------------------------------------------------------------------------

    def _service(self, file: _File, proto: descriptor_pb2.ServiceDescriptorProto, path: tuple[int, ...]) -> Service:
        rule = self._rules.of(proto.options, "service")
        location = file.location(path)
        since = self._since(rule, location, "")
        full_name = f"{file.proto.package}.{proto.name}"
        local = bool(rule and rule.local)
        operations: list[Operation] = []
        for at, method in enumerate(proto.method):
            place = (*path, 2, at)
            call = self._rules.of(method.options, "call")
            c = call.c if call and call.HasField("c") else None
            if c and not (c.name and c.form):
                raise DefinitionError(
                    file.location(place), f"the C call of {method.name} lacks its name or form", "write both"
                )
            operations.append(
                Operation(
                    name=method.name,
                    comment=file.comment(place),
                    location=file.location(place),
                    since=self._since(call, file.location(place), since),
                    service=full_name,
                    request=method.input_type.lstrip("."),
                    response=method.output_type.lstrip("."),
                    client_streaming=method.client_streaming,
                    server_streaming=method.server_streaming,
                    local=local,
                    c_name=c.name if c else "",
                    c_form=CallForm(c.form) if c else None,
                    c_returns_result=bool(c and c.returns_result),
                    c_text=c.text if c else "",
                )
            )
        chapter = rule.chapter if rule and rule.chapter else proto.name.removesuffix("Service")
        return Service(proto.name, file.comment(path), location, since, full_name, tuple(operations), local, chapter)

    def _check_references(self, package: Package) -> None:
        for message in package.messages:
            for member in message.fields:
                if not member.c_fields_of:
                    continue
                target = self._messages.get(member.c_fields_of)
                if target is None or not target.c_field_enum:
                    raise DefinitionError(
                        member.location,
                        f"{member.name} names fields of {member.c_fields_of}, which has no c_field_enum",
                        "name a message that has one",
                    )
        taken: dict[str, Operation] = {}
        for operation in package.operations:
            other = taken.setdefault(operation.c_name, operation)
            if operation.c_name and other is not operation:
                raise DefinitionError(
                    operation.location,
                    f"the C call {operation.c_name} is declared at {other.location} already",
                    "choose another name",
                )
