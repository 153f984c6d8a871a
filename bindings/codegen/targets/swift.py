"""Swift: messages with their own codec, and clients over a small transport protocol.

Everything lies in a namespace named after the version of the package (``V1``). Enums are structs, because they are
open. Fields that this version does not know are kept. No description shows a sensitive value or the content of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from bindings.codegen.model import (
    REDACTED,
    DefinitionError,
    Element,
    Enum,
    EnumValue,
    Field,
    Kind,
    Message,
    Operation,
    Package,
    Service,
    camel,
    pascal,
)
from bindings.codegen.prose import with_since
from bindings.codegen.targets import Target, environment, swift_name
from bindings.codegen.wire import STATUSES, Names, enums, failures, inner_name, recurs, tag

__all__ = ["TARGET", "render"]

FOLDER: Final = "bindings/swift/Sources/Phantom/Generated"
TESTS: Final = "bindings/swift/Tests/LiveTests/Generated"

_TYPES: Final = {
    Kind.BOOL: "Bool",
    Kind.INT32: "Int32",
    Kind.UINT32: "UInt32",
    Kind.INT64: "Int64",
    Kind.UINT64: "UInt64",
    Kind.FLOAT: "Float",
    Kind.DOUBLE: "Double",
    Kind.STRING: "String",
    Kind.BYTES: "[UInt8]",
    Kind.DURATION: "WireDuration",
}
_DEFAULTS: Final = {Kind.BOOL: "false", Kind.STRING: '""', Kind.BYTES: "[]", Kind.ENUM: ".init()"}
_MEMBERS: Final = (
    "init self unknownFields messageName description debugDescription customMirror hashValue hash decode encode "
    "describe serialized"
)
"""What every message has already."""
_CHOICE_MEMBERS: Final = "init self description debugDescription customMirror hashValue hash describe"
_TOP_LEVEL: Final = (
    "Array Bool Collection Dictionary Double EmptyCollection Error ErrorCode Float Hashable Int Int32 Int64 Mirror "
    "Optional Protocol RawRepresentable Self Sendable Set String Swift Type UInt UInt32 UInt64 UInt8 Void "
    "AsyncSequence AsyncIteratorProtocol ErrorNumber Clients Constants UnknownFields"
)
"""Types that generated code names: a message of the same name would hide them."""
_ROOM: Final = 112
"""Characters of a line in a message."""
_GENERATED_PREFIXES: Final = ("Wire", "RPC")


@dataclass(frozen=True, slots=True)
class _Named:
    """Anything declared: name and text."""

    name: str
    doc: str


@dataclass(frozen=True, slots=True)
class _Case(_Named):
    """A value of an enum, or a member of a oneof."""

    number: int = 0
    label: str = ""
    type: str = ""
    describe: str = ""


@dataclass(frozen=True, slots=True)
class _EnumView(_Named):
    scope: str
    cases: tuple[_Case, ...]
    offset: int
    errors: bool


@dataclass(frozen=True, slots=True)
class _Oneof(_Named):
    type: str
    members: tuple[_Case, ...]
    recurs: bool


@dataclass(frozen=True, slots=True)
class _Property(_Named):
    declared: str
    """Type and default."""
    parameter: str
    """The same, as a parameter."""
    boxed: bool


@dataclass(frozen=True, slots=True)
class _Wire:
    """What the codec does with a field."""

    decode: tuple[str, ...]
    encode: str


@dataclass(frozen=True, slots=True)
class _MessageView(_Named):
    scope: str
    full_name: str
    oneofs: tuple[_Oneof, ...]
    properties: tuple[_Property, ...]
    fields: tuple[_Wire, ...]
    describe: tuple[str, ...]

    @property
    def initializer(self) -> str:
        """The head of the initializer with all fields, in one line if it fits."""
        parameters = [f"{field.name}: {field.parameter}" for field in self.properties]
        line = f"public init({', '.join(parameters)}) {{"
        if len(line) <= _ROOM:
            return line
        inside = ",\n".join(f"            {parameter}" for parameter in parameters)
        return f"public init(\n{inside}\n        ) {{"


@dataclass(frozen=True, slots=True)
class _Call(_Named):
    kind: str
    """``unary``, ``requests``, ``responses`` or ``exchange``: what is a stream."""
    path: str
    request: str
    response: str


@dataclass(frozen=True, slots=True)
class _Client(_Named):
    property: str
    calls: tuple[_Call, ...]


@dataclass(frozen=True, slots=True)
class _HandleCall(_Call):
    """A call whose request names the handle in its first field."""

    handle: str
    parameters: tuple[_Property, ...]
    """The other fields of the request."""

    @property
    def signature(self) -> str:
        """The parameters, in one line if they fit."""
        each = [
            *(f"{field.name}: {field.parameter}" for field in self.parameters),
            "options: RPCOptions = RPCOptions()",
        ]
        line = ", ".join(each)
        if len(line) <= _ROOM - len(self.name) - 24:
            return line
        return "\n" + ",\n".join(f"            {parameter}" for parameter in each) + "\n        "

    @property
    def arguments(self) -> str:
        """The fields of the request."""
        names = [f"{field.name}: {field.name}" for field in self.parameters]
        return ", ".join([f"{self.handle}: ref", *names])


@dataclass(frozen=True, slots=True)
class _Handle(_Named):
    """Something that a handle names, and the calls about it."""

    ref: str
    noun: str
    calls: tuple[_HandleCall, ...]


def render(package: Package) -> dict[str, bytes]:
    """The files; none for a package that gRPC serves nothing of. Raises DefinitionError."""
    if not package.served:
        return {}
    templates = environment("swift")
    writer = _Writer(package)
    namespace = writer.namespace
    services = writer.clients()
    _, bare = failures(package, "Swift")
    given = {
        "package": package,
        "namespace": namespace,
        "redacted": REDACTED,
        "statuses": STATUSES,
        "bare": bare,
        "fallback": "internal",
        "prefix": package.prefix,
        "error_type": f"{pascal(package.prefix)}Error",
    }
    made = {
        "Wire.swift": templates.get_template("Wire.swift.j2").render(given),
        "RPC.swift": templates.get_template("RPC.swift.j2").render(given),
        f"{namespace}.swift": templates.get_template("Namespace.swift.j2").render(given),
        f"{namespace}+Clients.swift": templates.get_template("Clients.swift.j2").render(given, services=services),
        f"{namespace}+Handles.swift": templates.get_template("Handles.swift.j2").render(
            given, handles=writer.handles()
        ),
    }
    for file, (found_enums, messages) in writer.files().items():
        made[f"{namespace}+{_file_name(file)}.swift"] = templates.get_template("Messages.swift.j2").render(
            file=file, enums=found_enums, messages=messages
        )
    tests = {f"{TESTS}/EveryCall.swift": templates.get_template("EveryCall.swift.j2").render(given, services=services)}
    files = {f"{FOLDER}/{name}": text for name, text in made.items()} | tests
    return {path: text.encode() for path, text in sorted(files.items())}


TARGET = Target(
    "swift", "Swift messages with their codec, and clients over a transport protocol", render, (FOLDER, TESTS)
)


def _file_name(file: str) -> str:
    return pascal(re.sub(r"\W+", "_", file.rpartition("/")[2].removesuffix(".proto")))


def documented(element: Element, known: str = "") -> str:
    """The comment, with the version in the form that DocC knows."""
    return with_since(element, known, "- Since: {}")


class _Writer:
    """One run of :func:`render`."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.namespace = pascal(package.name.rpartition(".")[2])
        self._messages = package.wire_messages()
        self._enums = enums(package)
        self._scopes: dict[str, Names] = {}
        self._views: dict[str, _MessageView] = {}
        for message in self._messages:
            self._declare(message, message.full_name)
        for found in self._enums:
            if not found.errors:
                self._declare(found, found.full_name)

    def files(self) -> dict[str, tuple[list[_EnumView], list[_MessageView]]]:
        """What each file of the definition declares, if anything of it is on the wire."""
        made: dict[str, tuple[list[_EnumView], list[_MessageView]]] = {}
        for found in self._enums:
            made.setdefault(found.location.file, ([], []))[0].append(self._enum(found))
        for message in self._messages:
            made.setdefault(message.location.file, ([], []))[1].append(self._message(message))
        return made

    # --- names -------------------------------------------------------------------------------------------------------

    def _declare(self, element: Element, full_name: str) -> None:
        """Claims a type's name in the type or namespace that it is in."""
        *outer, name = inner_name(self._package, full_name)
        if not outer and name.startswith(_GENERATED_PREFIXES):
            raise DefinitionError(
                element.location, f"{name} begins like what is generated for Swift", "choose another name"
            )
        self._scope(outer).claim(name, element)

    def _scope(self, outer: list[str]) -> Names:
        scope = ".".join([self.namespace, *outer])
        if scope not in self._scopes:
            self._scopes[scope] = Names(f"Swift {scope}", (*_TOP_LEVEL.split(), self.namespace))
        return self._scopes[scope]

    def _type_name(self, full_name: str) -> str:
        """In full, as nested types do not see the namespace's others."""
        errors = any(found.full_name == full_name and found.errors for found in self._enums)
        return ".".join([self.namespace, *(["ErrorNumber"] if errors else inner_name(self._package, full_name))])

    def _scope_name(self, full_name: str) -> str:
        *outer, _ = inner_name(self._package, full_name)
        return ".".join([self.namespace, *outer])

    # --- enums -------------------------------------------------------------------------------------------------------

    def _enum(self, found: Enum) -> _EnumView:
        name = "ErrorNumber" if found.errors else found.name
        scope = Names(f"Swift {name}", ("rawValue", "names", "code", "description", "hashValue", "init", "self"))
        return _EnumView(
            name,
            documented(found),
            scope=self.namespace if found.errors else self._scope_name(found.full_name),
            cases=tuple(self._case(value, scope, found.since) for value in found.codes),
            offset=found.code_offset,
            errors=found.errors,
        )

    @staticmethod
    def _case(value: EnumValue, scope: Names, since: str) -> _Case:
        label = camel(value.short_name)
        if not label[:1].isalpha():
            raise DefinitionError(value.location, f"{label} is no name in Swift", "begin it with a letter")
        name = swift_name(scope.claim(label, value))
        return _Case(name, documented(value, since), number=value.number, label=label)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> _MessageView:
        if message.full_name not in self._views:
            self._views[message.full_name] = self._view(message)
        return self._views[message.full_name]

    def _view(self, message: Message) -> _MessageView:
        names = Names(f"Swift {message.name}", _MEMBERS.split())
        types = self._scope(list(inner_name(self._package, message.full_name)))
        oneofs = {
            oneof.name: _Oneof(
                names.claim(camel(oneof.name), oneof),
                documented(oneof, message.since),
                type=types.claim(f"{pascal(oneof.name)}Choice", oneof),
                members=self._members(message, oneof),
                recurs=any(recurs(self._package, message, member) for member in message.members(oneof.name)),
            )
            for oneof in message.oneofs
        }
        properties: dict[str, _Property] = {}
        for member in message.fields:
            if member.oneof:
                oneof = oneofs[member.oneof]
                declared = f"{oneof.type}?"
                properties.setdefault(
                    member.oneof,
                    _Property(
                        swift_name(oneof.name),
                        oneof.doc,
                        declared=declared,
                        parameter=f"{declared} = nil",
                        boxed=False,
                    ),
                )
                continue
            kind, default = self._property_type(member)
            properties[f".{member.name}"] = _Property(
                swift_name(names.claim(camel(member.name), member)),
                documented(member, message.since),
                declared=kind if default == "nil" else f"{kind} = {default}",
                parameter=f"{kind} = {default}",
                boxed=recurs(self._package, message, member),
            )
        return _MessageView(
            message.name,
            documented(message),
            scope=self._scope_name(message.full_name),
            full_name=message.full_name,
            oneofs=tuple(oneofs.values()),
            properties=tuple(properties.values()),
            fields=tuple(_Wire(tuple(self._decode(member)), self._encode(member)) for member in message.fields),
            describe=tuple(dict.fromkeys(self._describe(member) for member in message.fields)),
        )

    def _members(self, message: Message, oneof: Element) -> tuple[_Case, ...]:
        names = Names(f"Swift {message.name}.{pascal(oneof.name)}Choice", _CHOICE_MEMBERS.split())
        return tuple(
            _Case(
                swift_name(names.claim(camel(member.name), member)),
                documented(member, message.since),
                type=self._value_type(member),
                describe=self._describe_member(member),
            )
            for member in message.members(oneof.name)
        )

    def _value_type(self, member: Field) -> str:
        return self._type_name(member.type_name) if member.type_name else _TYPES[member.kind]

    def _property_type(self, member: Field) -> tuple[str, str]:
        """Type and default of a property."""
        value = self._value_type(member)
        if member.map_key:
            return f"[{_TYPES[member.map_key.kind]}: {value}]", "[:]"
        if member.repeated:
            return f"[{value}]", "[]"
        if member.has_presence:
            return f"{value}?", "nil"
        return value, _DEFAULTS.get(member.kind, "0")

    # --- codec -------------------------------------------------------------------------------------------------------

    def _codec(self, member: Field) -> str:
        match member.kind:
            case Kind.ENUM:
                return f"WireEnumeration<{self._value_type(member)}>"
            case Kind.MESSAGE | Kind.DURATION:
                return f"WireNested<{self._value_type(member)}>"
            case _:
                kind = member.proto_type
                head = kind[:2] if kind.startswith(("ui", "si", "sf")) else kind[:1]
                return f"Wire{head.upper()}{kind[len(head) :]}"

    @staticmethod
    def _stored(name: str) -> str:
        """The property; with `self`, as a name may be that of a parameter too."""
        return f"self.{swift_name(camel(name))}"

    def _decode(self, member: Field) -> Iterator[str]:
        codec, name = f"{self._codec(member)}.self", self._stored(member.oneof or member.name)
        case, head = f".{camel(member.name)}", f"case {tag(member)}:"
        message = member.kind in (Kind.MESSAGE, Kind.DURATION)
        if member.map_key:
            read = (
                f"try reader.readEntry({self._codec(member.map_key)}.self, {codec}, into: &{name}, or: &unknownFields)"
            )
            yield f"{head} {read}"
        elif member.repeated:
            yield f"case {tag(member, packed=False)}: {name}.append(try reader.read({codec}))"
            if not message and member.kind not in (Kind.STRING, Kind.BYTES):
                yield f"case {tag(member, packed=True)}: try reader.readPacked({codec}, into: &{name})"
        elif member.oneof and message:
            yield head
            yield f"    var value = {self._value_type(member)}()"
            yield f"    if case {case}(let known)? = {name} {{ value = known }}"
            yield "    try reader.merge(into: &value)"
            yield f"    {name} = {case}(value)"
        elif member.oneof:
            yield f"{head} {name} = {case}(try reader.read({codec}))"
        elif message:
            yield f"{head} try reader.merge(&{name})"
        else:
            yield f"{head} {name} = try reader.read({codec})"

    def _encode(self, member: Field) -> str:
        codec, name = f"{self._codec(member)}.self", self._stored(member.oneof or member.name)
        start = f"writer.write({tag(member)}, "
        if member.map_key:
            return f"{start}map: {name}, {self._codec(member.map_key)}.self, {codec})"
        if member.repeated:
            return f"{start}{'packed' if member.packed else 'each'}: {name}, {codec})"
        if member.oneof:
            write = f"writer.always({tag(member)}, value, {codec})"
            return f"if case .{camel(member.name)}(let value)? = {name} {{ {write} }}"
        return f"{start}{name}, {'present: ' if member.has_presence else ''}{codec})"

    def _describe(self, member: Field) -> str:
        codec, name = f"{self._codec(member)}.self", self._stored(member.oneof or member.name)
        label = f'"{camel(member.name)}"'
        if member.oneof:
            return f"{name}?.describe(to: &text)"
        if member.sensitive:
            is_set = f"{name} != nil" if member.has_presence else f"{name} != {self._property_type(member)[1]}"
            return f"text.field(redacted: {label}, if: {is_set})"
        if member.map_key:
            return f"text.field({label}, map: {name}, {self._codec(member.map_key)}.self, {codec})"
        if member.repeated:
            return f"text.field({label}, each: {name}, {codec})"
        return f"text.field({label}, {name}, {'present: ' if member.has_presence else ''}{codec})"

    def _describe_member(self, member: Field) -> str:
        label = f'"{camel(member.name)}"'
        if member.sensitive:
            return f"case .{camel(member.name)}: text.field(redacted: {label})"
        shown = f"text.field({label}, value, present: {self._codec(member)}.self)"
        return f"case .{camel(member.name)}(let value): {shown}"

    # --- clients -----------------------------------------------------------------------------------------------------

    def clients(self) -> tuple[_Client, ...]:
        """One for each service."""
        properties = Names(f"Swift {self.namespace}.Clients", ("init", "self"))
        return tuple(
            _Client(
                self._claim_client(service),
                documented(service),
                property=swift_name(properties.claim(_lower(service.name.removesuffix("Service")), service)),
                calls=self._calls(service),
            )
            for service in self._package.served
        )

    def handles(self) -> tuple[_Handle, ...]:
        """One for each handle that calls are about."""
        handles = {pascal(message.c_handle): message for message in self._messages if message.c_handle}
        made = []
        for noun, message in handles.items():
            name = self._scope([]).claim(f"{noun}Calls", message)
            names = Names(f"Swift {name}", ("transport", "ref", "init", "self"))
            calls = []
            for service in self._package.served:
                other = service.name.removesuffix("Service")
                suffix = other if other in handles and other != noun else ""
                calls += [
                    self._handle_call(call, names, service.since, suffix)
                    for call in service.operations
                    if not call.client_streaming and _about(self._package.message(call.request), message)
                ]
            if calls:
                words = message.c_handle.replace("_", " ")
                doc = f"The calls about one {words}, which its handle names."
                made.append(_Handle(name, doc, self._type_name(message.full_name), words, tuple(calls)))
        return tuple(made)

    def _handle_call(self, call: Operation, names: Names, since: str, suffix: str) -> _HandleCall:
        """``suffix``: what the call is about, where that is something else than the handle."""
        request = self._package.message(call.request)
        own = request.fields[0]
        view, name = self._message(request), self._type_name(request.full_name)
        choices = {f"{oneof.type}?": f"{name}.{oneof.type}? = nil" for oneof in view.oneofs}
        parameters = tuple(
            replace(field, parameter=choices.get(field.declared, field.parameter))
            for field in view.properties
            if field.name != swift_name(camel(own.name))
        )
        if any(field.name in ("options", "ref") for field in parameters):
            raise DefinitionError(
                request.location, f"a field of {request.name} has a name that is taken in Swift", "rename it"
            )
        return _HandleCall(
            swift_name(names.claim(_lower(call.name) + suffix, call)),
            documented(call, since),
            kind=_streams(call),
            path=call.path,
            request=self._type_name(call.request),
            response=self._type_name(call.response),
            handle=swift_name(camel(own.name)),
            parameters=parameters,
        )

    def _claim_client(self, service: Service) -> str:
        self._scope([]).claim(f"{service.name}Client", service)
        return service.name

    def _calls(self, service: Service) -> tuple[_Call, ...]:
        names = Names(f"Swift {service.name}Client", ("transport", "init", "self"))
        return tuple(
            _Call(
                swift_name(names.claim(_lower(call.name), call)),
                documented(call, service.since),
                kind=_streams(call),
                path=call.path,
                request=self._type_name(call.request),
                response=self._type_name(call.response),
            )
            for call in service.operations
        )


def _about(request: Message, handle: Message) -> bool:
    """Whether the first field of a request is this handle."""
    first = request.fields[0] if request.fields else None
    return first is not None and first.type_name == handle.full_name and not (first.repeated or first.oneof)


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _streams(call: Operation) -> str:
    if call.client_streaming:
        return "exchange" if call.server_streaming else "requests"
    return "responses" if call.server_streaming else "unary"
