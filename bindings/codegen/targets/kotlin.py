"""Kotlin: a façade over stubs of grpc-kotlin, which never show in its surface, and the definition of those stubs.

Messages are data classes, enums have an entry for what is not known, oneofs are sealed interfaces, errors a sealed
hierarchy, times ``kotlin.time.Duration``, calls suspend functions and flows. No ``toString`` shows a sensitive value or
the content of bytes. The definition for the stubs has no custom options, so that the lite runtime can use it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import jinja2

from bindings.codegen.model import (
    REDACTED,
    Branch,
    DefinitionError,
    Element,
    Enum,
    ErrorCode,
    Field,
    Kind,
    Message,
    Operation,
    Package,
    Service,
    camel,
    pascal,
)
from bindings.codegen.prose import block, with_since
from bindings.codegen.targets import Target, environment
from bindings.codegen.wire import Names, enums, failures, inner_name

__all__ = ["TARGET", "render"]

FOLDER: Final = "bindings/kotlin/src/main/kotlin"
PROTO_FOLDER: Final = "bindings/kotlin/src/main/proto"

BY_HAND: Final = frozenset(
    {
        "IdentityService.GenerateSigningKey",
        "IdentityService.ImportSigningKey",
        "ListenerService.Accept",
        "ListenerService.Bind",
        "ListenerService.Shutdown",
        "SessionService.AwaitReady",
        "SessionService.Connect",
        "SessionService.Disconnect",
        "SessionService.Get",
        "SessionService.Recv",
        "SessionService.Send",
        "SessionService.WatchEvents",
        "SidecarService.GetInfo",
        "SidecarService.OpenLease",
        "StreamService.Accept",
        "StreamService.Open",
        "StreamService.Recv",
        "StreamService.Send",
        "StreamService.SetPriority",
    }
)
"""Calls that have a protocol of their own (acknowledgements, chunks, a life) or make a handle: src/main/kotlin/phantom
has them. Every other call is a method of what its request begins with: of a handle, or of the library."""

_HARD_WORDS: Final = (
    "as break class continue do else false for fun if in interface is null object package return super this throw true "
    "try typealias typeof val var when while"
)
_RESERVED_TYPES: Final = (
    "Any Boolean ByteArray ByteString Channel Contract Double Duration ErrorCode Exception Float Flow Int List Long "
    "ManagedChannel Map Metadata Status String Throwable TimeUnit UInt ULong Unit"
)
_ROOM: Final = 90
"""Characters of a line of a string."""
_MEMBERS: Final = ("class", "javaClass", "copy", "equals", "hashCode", "toString", "wire")
_HANDLE_MEMBERS: Final = ("ref", "call", "close", "equals", "hashCode", "toString", "getClass", "wait", "notify")
_BRANCHES: Final = {
    Branch.LOCAL: "The caller misused the library, or this host cannot do what was asked.",
    Branch.REMOTE: "The peer refused, or broke the protocol.",
    Branch.TRANSPORT: "The network failed, or a connection ended.",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of a kind look in Kotlin; ``{}`` is the value."""

    type: str
    default: str
    read: str = "{}"
    write: str = "{}"


_KINDS: Final = {
    Kind.BOOL: _Kind("Boolean", "false"),
    Kind.INT32: _Kind("Int", "0"),
    Kind.UINT32: _Kind("UInt", "0u", "{}.toUInt()", "{}.toInt()"),
    Kind.INT64: _Kind("Long", "0L"),
    Kind.UINT64: _Kind("ULong", "0uL", "{}.toULong()", "{}.toLong()"),
    Kind.FLOAT: _Kind("Float", "0f"),
    Kind.DOUBLE: _Kind("Double", "0.0"),
    Kind.STRING: _Kind("String", '""'),
    Kind.BYTES: _Kind("ByteArray", "ByteArray(0)", "{}.toByteArray()", "{}.toWire()"),
    Kind.DURATION: _Kind("Duration", "", "{}.toFacade()", "{}.toWire()"),
}


@dataclass(frozen=True, slots=True)
class _Property:
    name: str
    doc: str
    type: str
    default: str
    """With the equals sign; empty if there is none."""
    bytes: bool
    """Its value is, or holds, an array: equality compares what is in it."""
    equal: str
    hash: str
    shown: str
    """As in a string template, if the data class's own would not do."""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _View:
    """A class, a sealed interface or an enum."""

    name: str
    full: str
    doc: str
    properties: tuple[_Property, ...] = ()
    parent: str = ""
    """What it is a case of, with the colon."""
    blocks: tuple[str, ...] = ()
    values: tuple[_Value, ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    doc: str
    code: int


@dataclass(frozen=True, slots=True)
class _Error:
    name: str
    type: str
    doc: str
    parent: str
    has_special_cases: bool


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    doc: str
    request: str
    response: str
    requests: bool
    responses: bool


@dataclass(frozen=True, slots=True)
class _Client:
    name: str
    doc: str
    property: str
    calls: tuple[_Call, ...]


@dataclass(frozen=True, slots=True)
class _Method:
    """A call as a method of a handle, or of the library."""

    name: str
    doc: str
    parameters: tuple[_Property, ...]
    deadline: bool
    """It has a parameter ``timeout`` that its request does not have."""
    client: str
    call: str
    request: str
    arguments: tuple[str, ...]
    """Of the request."""
    result: str
    """Its type, empty for none."""
    field: str
    """The one field of the response, which is the result; empty if the response is."""
    absent: bool
    """That field can be absent, which no sidecar leaves it."""
    flow: bool


@dataclass(frozen=True, slots=True)
class _Handle:
    """A class of methods."""

    name: str
    doc: str
    ref: str
    """Type of its handle, empty for the library."""
    methods: tuple[_Method, ...]


@dataclass(frozen=True, slots=True)
class _Branch:
    type: str
    doc: str


def render(package: Package) -> dict[str, bytes]:
    """The files; none for a package that gRPC serves nothing of. Raises DefinitionError."""
    if not package.served:
        return {}
    templates = environment("kotlin")
    templates.filters["doc"] = block
    writer = _Writer(package, templates)
    _, bare = failures(package, "Kotlin")
    root = f"{pascal(package.prefix)}Exception"
    given = {
        "package": package,
        "prefix": package.prefix,
        "stubs": f"{package.name}.wire",
        "outer": f"{pascal(package.prefix)}Proto",
        "root": root,
        "clients": f"{pascal(package.prefix)}Clients",
        "link": f"{pascal(package.prefix)}Link",
        "redacted": REDACTED,
        "bare": bare,
        "duration": writer.durations(package.wire_messages()),
        "enums": writer.enums,
        "messages": writer.messages,
        "errors": writer.errors(),
        "branches": [_Branch(f"{branch.name.capitalize()}Exception", text) for branch, text in _BRANCHES.items()],
        "services": writer.clients(),
        "handles": writer.handles(),
    }
    folder = package.name.replace(".", "/")
    made = {
        f"{FOLDER}/{folder}/{name}": templates.get_template(f"{name}.j2").render(given)
        for name in ("Clients.kt", "Contract.kt", "Conversions.kt", "Exceptions.kt", "Operations.kt")
    }
    for file, (blocks, duration) in writer.files().items():
        text = templates.get_template("Types.kt.j2").render(given, file=file, blocks=blocks, duration=duration)
        made[f"{FOLDER}/{folder}/{_file_name(file)}Types.kt"] = text
    made[f"{PROTO_FOLDER}/{folder}/{package.prefix}.proto"] = templates.get_template("wire.proto.j2").render(
        given, blocks=list(_Stubs(package).blocks())
    )
    return {path: text.encode() for path, text in made.items()}


TARGET = Target(
    "kotlin", "the Kotlin façade over stubs of grpc-kotlin, and the definition of the stubs", render, (PROTO_FOLDER,)
)


def _file_name(file: str) -> str:
    return pascal(re.sub(r"\W+", "_", file.rpartition("/")[2].removesuffix(".proto")))


def _quoted(name: str) -> str:
    return f"`{name}`" if name in _HARD_WORDS.split() else name


def _java(name: str) -> str:
    """The name as protoc's Java generator makes it of a field's."""
    made, upper = "", False
    for letter in name:
        if letter.isalpha():
            made += letter.upper() if upper else letter
            upper = False
        else:
            made += letter if letter.isdigit() else ""
            upper = True
    return made[:1].lower() + made[1:]


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


class _Writer:
    """One run of :func:`render`."""

    def __init__(self, package: Package, templates: jinja2.Environment) -> None:
        self._package = package
        self._templates = templates
        self._stubs = f"{package.name}.wire"
        self._scopes: dict[str, Names] = {}
        self._enums = enums(package)
        self._messages = package.wire_messages()
        declared: list[Message | Enum] = [*self._messages, *(found for found in self._enums if not found.errors)]
        for found in declared:
            self._declare(found, found.full_name)
        self.enums = [self._enum(found) for found in self._enums if not found.errors]
        self.messages = [self._message(message) for message in self._messages]

    def files(self) -> dict[str, tuple[list[str], bool]]:
        """The types of each file of the definition, and whether they have times."""
        made: dict[str, list[str]] = {}
        for found in self._enums:
            if not found.parent and not found.errors:
                made.setdefault(found.location.file, []).append(self._enum_text(found))
        of_file: dict[str, list[Message]] = {}
        for message in self._messages:
            of_file.setdefault(message.location.file, []).append(message)
            if not message.parent:
                made.setdefault(message.location.file, []).append(self._message_text(message))
        return {file: (blocks, self.durations(of_file.get(file, []))) for file, blocks in made.items()}

    @staticmethod
    def durations(messages: list[Message] | tuple[Message, ...]) -> bool:
        """Whether a field of the messages is a time."""
        return any(member.kind is Kind.DURATION for message in messages for member in message.fields)

    # --- names -------------------------------------------------------------------------------------------------------

    def _declare(self, element: Element, full_name: str) -> None:
        *outer, name = inner_name(self._package, full_name)
        self._scope(outer).claim(name, element)

    def _scope(self, outer: list[str]) -> Names:
        scope = ".".join([self._package.name, *outer])
        if scope not in self._scopes:
            reserved = [f"{branch.name.capitalize()}Exception" for branch in Branch]
            reserved += [
                f"{pascal(self._package.prefix)}{what}"
                for what in ("Exception", "Clients", "Link", "Operations", "Proto")
            ]
            self._scopes[scope] = Names(f"Kotlin {scope}", (*_RESERVED_TYPES.split(), *reserved))
        return self._scopes[scope]

    def _name(self, full_name: str) -> str:
        return ".".join(inner_name(self._package, full_name))

    # --- enums -------------------------------------------------------------------------------------------------------

    def _enum(self, found: Enum) -> _View:
        names = Names(f"Kotlin {found.name}", ("UNRECOGNIZED",))
        values = tuple(
            _Value(_quoted(names.claim(value.short_name, value)), with_since(value, found.since), value.code)
            for value in found.codes
        )
        for value in found.codes:
            if not value.short_name[:1].isalpha():
                raise DefinitionError(
                    value.location, f"{value.short_name} is no name in Kotlin", "begin it with a letter"
                )
        return _View(
            found.name, self._name(found.full_name), with_since(found), values=values, offset=found.code_offset
        )

    def _enum_text(self, found: Enum) -> str:
        return self._render("enum", self._enum(found))

    def _render(self, template: str, view: _View) -> str:
        return self._templates.get_template(f"{template}.kt.j2").render(view=view).rstrip("\n")

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message_text(self, message: Message) -> str:
        view = next(view for view in self.messages if view.full == self._name(message.full_name))
        blocks = list(view.blocks)
        blocks += [self._enum_text(found) for found in self._enums if found.parent == message.full_name]
        blocks += [self._message_text(inner) for inner in self._messages if inner.parent == message.full_name]
        return self._render("class", replace(view, blocks=tuple(blocks)))

    def _message(self, message: Message) -> _View:
        self._check_java_names(message)
        names = Names(f"Kotlin {message.name}", _MEMBERS)
        types = self._scope(list(inner_name(self._package, message.full_name)))
        properties: dict[str, _Property] = {}
        choices: list[str] = []
        for member in message.fields:
            if not member.oneof:
                properties[f".{member.name}"] = self._property(message, member, names)
            elif member.oneof not in properties:
                oneof = next(oneof for oneof in message.oneofs if oneof.name == member.oneof)
                choice = types.claim(f"{pascal(oneof.name)}Choice", oneof)
                properties[oneof.name] = self._oneof(message, oneof, choice, names)
                choices.append(self._choice(message, oneof, choice))
        view = _View(
            message.name, self._name(message.full_name), with_since(message), properties=tuple(properties.values())
        )
        return replace(view, blocks=(*self._identity(view), *choices))

    def _identity(self, view: _View) -> list[str]:
        """Equality and toString, where those of a data class would not do."""
        blocks = []
        if not view.properties or any(found.bytes for found in view.properties):
            blocks.append(self._render("equality", view))
        if any(found.shown != f"{found.name}=${found.name}" for found in view.properties):
            lines = textwrap.wrap(
                ", ".join(found.shown.replace(" ", "\0") for found in view.properties),
                _ROOM,
                break_long_words=False,
                break_on_hyphens=False,
            )
            shown = ' " +\n        "'.join(lines).replace("\0", " ")
            blocks.append(
                "/** For a person: without secrets, and with the size in place of bytes. */\n"
                f'override fun toString(): String =\n    "{view.name}({shown})"'
            )
        return blocks

    def _check_java_names(self, message: Message) -> None:
        """protoc renames fields that clash with accessors of others."""
        taken = {_java(member.name) for member in message.fields}
        for member in message.fields:
            if member.repeated or member.map_key:
                for suffix in ("Count", "List", "Map"):
                    if _java(member.name) + suffix in taken:
                        raise DefinitionError(
                            member.location,
                            f"{member.name} and {member.name}_{suffix.lower()} clash in Java, under Kotlin",
                            "rename one of them",
                        )

    # --- properties --------------------------------------------------------------------------------------------------

    def _hidden(self, message: Message) -> set[str]:
        """What the types in a message hide of those outside."""
        found: list[Message | Enum] = [*self._messages, *self._enums]
        return {element.name for element in found if element.parent == message.full_name}

    def _kind(self, member: Field, hidden: set[str]) -> _Kind:
        name = self._name(member.type_name)
        if name.partition(".")[0] in hidden:
            name = f"{self._package.name}.{name}"
        if member.kind is Kind.MESSAGE:
            return _Kind(name, "", "{}.toFacade()", "{}.toWire()")
        if member.kind is not Kind.ENUM:
            return _KINDS[member.kind]
        found = self._package.enum(member.type_name)
        if found.errors:
            if member.repeated or member.map_key or member.has_presence:
                raise DefinitionError(
                    member.location,
                    f"{member.name} is no plain error code, which Kotlin has as nothing or an error",
                    "make it a plain field, or a field of a message of its own",
                )
            return _Kind("ErrorCode?", "null", "ErrorCode.of({})", "({}?.code ?: 0)")
        offset = f" {'+' if found.code_offset > 0 else '-'} {abs(found.code_offset)}" if found.code_offset else ""
        initial = next((value.short_name for value in found.codes if value.number == 0), "UNRECOGNIZED")
        return _Kind(name, f"{name}.{initial}", f"{name}.of({{}}{offset})", "{}.toWire()")

    def _property(self, message: Message, member: Field, names: Names, *, hidden: bool = True) -> _Property:
        """``hidden``: it is written inside the class of the message, whose types hide others."""
        name = names.claim(camel(member.name), member)
        kind = self._kind(member, self._hidden(message) if hidden else set())
        stored, default = kind.type, kind.default
        if member.map_key:
            if member.kind is Kind.BYTES:
                raise DefinitionError(
                    member.location, f"{member.name} is a map of bytes", "give its values a message of their own"
                )
            stored, default = f"Map<{_KINDS[member.map_key.kind].type}, {kind.type}>", "emptyMap()"
        elif member.repeated:
            stored, default = f"List<{kind.type}>", "emptyList()"
        elif member.has_presence:
            stored, default = f"{kind.type}?", "null"
        name = _quoted(name)
        made = _Property(
            name,
            with_since(member, message.since),
            type=stored,
            default=f" = {default}",
            bytes=member.kind is Kind.BYTES,
            equal=f"{name} == other.{name}",
            hash=name,
            shown=f"{name}=${name}",
        )
        made = self._with_bytes(made, member)
        if member.sensitive:
            made = replace(made, shown=f"{name}=${{redacted({self._is_set(name, member, default)})}}")
        return replace(made, read=tuple(self._read(name, member, kind)), write=tuple(self._write(name, member, kind)))

    @staticmethod
    def _is_set(name: str, member: Field, default: str) -> str:
        if member.has_presence:
            return f"{name} != null"
        if member.repeated or member.map_key or member.kind in (Kind.STRING, Kind.BYTES):
            return f"{name}.isNotEmpty()"
        return f"{name} != {default}"

    @staticmethod
    def _with_bytes(made: _Property, member: Field) -> _Property:
        name = made.name
        if member.kind is not Kind.BYTES:
            return made
        if member.repeated:
            return replace(
                made,
                equal=f"{name}.toTypedArray().contentDeepEquals(other.{name}.toTypedArray())",
                hash=f"{name}.toTypedArray().contentDeepHashCode()",
                shown=f"{name}=${{{name}.map(::sized)}}",
            )
        return replace(
            made,
            equal=f"{name}.contentEquals(other.{name})",
            hash=f"{name}.contentHashCode()",
            shown=f"{name}=${{sized({name})}}",
        )

    def _accessor(self, member: Field) -> str:
        """Name of the field in Java; that of the number for an enum."""
        return _java(member.name) + ("Value" if member.kind is Kind.ENUM else "")

    def _read(self, name: str, member: Field, kind: _Kind) -> Iterator[str]:
        at = f"wire.{_quoted(_java(member.name))}"
        enum = "Value" if member.kind is Kind.ENUM else ""
        if member.map_key:
            key, value = _KINDS[member.map_key.kind].read.format("it.key"), kind.read.format("it.value")
            yield f"{name} = wire.{_java(member.name)}{enum}Map.entries.associate {{ {key} to {value} }},"
        elif member.repeated:
            read = kind.read.format("it")
            each = "toList()" if read == "it" else f"map {{ {read} }}"
            yield f"{name} = wire.{_java(member.name)}{enum}List.{each},"
        elif member.has_presence:
            read = kind.read.format(f"wire.{_quoted(self._accessor(member))}")
            yield f"{name} = if (wire.has{_capital(_java(member.name))}()) {read} else null,"
        else:
            yield f"{name} = {kind.read.format(at + enum)},"

    def _write(self, name: str, member: Field, kind: _Kind) -> Iterator[str]:
        set_name = _capital(self._accessor(member))
        if member.map_key:
            key, value = _KINDS[member.map_key.kind].write.format("it.key"), kind.write.format("it.value")
            yield f"wire.putAll{set_name}(this.{name}.entries.associate {{ {key} to {value} }})"
        elif member.repeated:
            write = kind.write.format("it")
            each = "" if write == "it" else f".map {{ {write} }}"
            yield f"wire.addAll{set_name}(this.{name}{each})"
        elif member.has_presence:
            yield f"this.{name}?.let {{ wire.set{set_name}({kind.write.format('it')}) }}"
        else:
            yield f"wire.set{set_name}({kind.write.format(f'this.{name}')})"

    # --- oneofs ------------------------------------------------------------------------------------------------------

    def _oneof(self, message: Message, oneof: Element, choice: str, names: Names) -> _Property:
        name = _quoted(names.claim(camel(oneof.name), oneof))
        full = f"{self._name(message.full_name)}.{choice}"
        case = f"{self._stubs}.{self._name(message.full_name)}.{_capital(_java(oneof.name))}Case"
        read = [f"{name} =", f"    when (wire.{_java(oneof.name)}Case) {{"]
        write = [f"when (val choice = this.{name}) {{"]
        for member in message.members(oneof.name):
            kind = self._kind(member, set())
            value = kind.read.format(f"wire.{_quoted(self._accessor(member))}")
            read.append(f"        {case}.{member.name.upper()} -> {full}.{pascal(member.name)}({value})")
            set_name = _capital(self._accessor(member))
            value = kind.write.format("choice.value")
            write.append(f"    is {full}.{pascal(member.name)} -> wire.set{set_name}({value})")
        read += ["        else -> null", "    },"]
        write += ["    null -> Unit", "}"]
        return _Property(
            name,
            with_since(oneof, message.since),
            type=f"{choice}?",
            default=" = null",
            bytes=False,
            equal=f"{name} == other.{name}",
            hash=name,
            shown=f"{name}=${name}",
            read=tuple(read),
            write=tuple(write),
        )

    def _choice(self, message: Message, oneof: Element, choice: str) -> str:
        names = Names(f"Kotlin {message.name}.{choice}", (*_RESERVED_TYPES.split(), choice))
        members = message.members(oneof.name)
        hidden = self._hidden(message) | {pascal(member.name) for member in members}
        blocks = []
        for member in members:
            kind = self._kind(member, hidden)
            made = _Property(
                "value",
                "The value.",
                type=kind.type,
                default="",
                bytes=member.kind is Kind.BYTES,
                equal="value == other.value",
                hash="value",
                shown="value=$value",
            )
            made = self._with_bytes(made, member)
            if member.sensitive:
                made = replace(made, shown="value=${redacted(true)}")
            name = names.claim(pascal(member.name), member)
            view = _View(name, name, with_since(member, message.since), properties=(made,), parent=f" : {choice}")
            blocks.append(self._render("class", replace(view, blocks=tuple(self._identity(view)))))
        return self._render("choice", _View(choice, choice, with_since(oneof, message.since), blocks=tuple(blocks)))

    # --- errors and clients ------------------------------------------------------------------------------------------

    def errors(self) -> list[_Error]:
        """The exceptions, those with special cases before them."""
        bases = {error.base for error in self._package.errors}
        types = self._scope([])
        made = {error.name: types.claim(f"{pascal(error.name)}Exception", error) for error in self._package.errors}

        def parent(error: ErrorCode) -> str:
            return made[error.base] if error.base else f"{error.branch.name.capitalize()}Exception"

        return [
            _Error(error.name, made[error.name], with_since(error), parent(error), error.name in bases)
            for error in self._package.errors
        ]

    def clients(self) -> list[_Client]:
        """One for each service."""
        properties = Names("Kotlin clients", ("channel", "close"))
        return [
            _Client(
                service.name,
                with_since(service),
                property=_quoted(properties.claim(_lower(service.name.removesuffix("Service")), service)),
                calls=self._calls(service),
            )
            for service in self._package.served
        ]

    # --- methods -----------------------------------------------------------------------------------------------------

    def handles(self) -> list[_Handle]:
        """The library, then every handle that a served call begins with."""
        prefix = pascal(self._package.prefix)
        library = "What the library does without a handle. Calls that make something belong to the lease of the client."
        owners: dict[str, tuple[str, str]] = {"": (f"{prefix}Operations", library)}
        made: dict[str, list[_Method]] = {"": []}
        names: dict[str, Names] = {}
        for service in self._package.served:
            for call in service.operations:
                if call.client_streaming or f"{service.name}.{call.name}" in BY_HAND:
                    continue
                request = self._package.message(call.request)
                first = request.fields[0] if request.fields else None
                handle = self._package.message(first.type_name) if first and first.kind is Kind.MESSAGE else None
                owner = handle if handle and handle.c_handle else None
                key = owner.full_name if owner else ""
                if owner and key not in made:
                    name = self._scope([]).claim(f"{pascal(owner.c_handle)}Operations", owner)
                    owners[key], made[key] = (name, owner.comment), []
                about = service.name.removesuffix("Service")
                name = _lower(call.name)
                if owner and about != pascal(owner.c_handle):
                    name += about  # what makes something of another kind
                if owner and call.c_name.startswith(f"{owner.c_handle}_"):
                    name = camel(call.c_name.removeprefix(f"{owner.c_handle}_"))
                inside = names.setdefault(key, Names(f"Kotlin {owners[key][0]}", _HANDLE_MEMBERS))
                name = _quoted(inside.claim(name, call))
                made[key].append(self._method(service, call, name, first.name if first and owner else ""))
        return [
            _Handle(name, doc, self._name(key) if key else "", tuple(made[key])) for key, (name, doc) in owners.items()
        ]

    def _method(self, service: Service, call: Operation, name: str, handle: str) -> _Method:
        request, response = self._package.message(call.request), self._package.message(call.response)
        names = Names(f"Kotlin {name}", ("link",))
        parameters: dict[str, _Property] = {}
        arguments = []
        for member in request.fields:
            if member.name == handle:
                arguments.append(f"{_quoted(camel(member.name))} = ref")
            elif member.name == "lease_id":
                arguments.append("leaseId = link.leaseId")
            elif member.c_skip:
                continue  # a matter between a client and the sidecar
            elif member.oneof:
                if member.oneof not in parameters:
                    oneof = next(oneof for oneof in request.oneofs if oneof.name == member.oneof)
                    made = self._oneof(request, oneof, f"{pascal(oneof.name)}Choice", names)
                    parameters[oneof.name] = replace(made, type=f"{self._name(request.full_name)}.{made.type}")
            else:
                parameters[f".{member.name}"] = self._property(request, member, names, hidden=False)
        found = tuple(parameters.values())
        arguments += [f"{parameter.name} = {parameter.name}" for parameter in found]
        result, field, absent = self._result(response)
        if call.server_streaming:
            result, field, absent = self._name(call.response), "", False
        return _Method(
            name,
            with_since(call, service.since),
            parameters=found,
            deadline=all(parameter.name != "timeout" for parameter in found),
            client=_quoted(_lower(service.name.removesuffix("Service"))),
            call=_quoted(_lower(call.name)),
            request=self._name(call.request),
            arguments=tuple(arguments),
            result=result,
            field=field,
            absent=absent,
            flow=call.server_streaming,
        )

    def _result(self, response: Message) -> tuple[str, str, bool]:
        """Type, field and whether that can be absent."""
        if not response.fields:
            return "", "", False
        if len(response.fields) > 1 or response.fields[0].oneof:
            return self._name(response.full_name), "", False
        (member,) = response.fields
        made = self._property(response, member, Names(f"Kotlin {response.name}", ()), hidden=False)
        absent = member.has_presence and not member.optional
        return made.type.removesuffix("?") if absent else made.type, made.name, absent

    def _calls(self, service: Service) -> tuple[_Call, ...]:
        self._scope([]).claim(f"{service.name}Client", service)
        names = Names(f"Kotlin {service.name}Client", ("stub", "equals", "hashCode", "toString", "getClass"))
        return tuple(
            _Call(
                _quoted(names.claim(_lower(call.name), call)),
                with_since(call, service.since),
                request=self._name(call.request),
                response=self._name(call.response),
                requests=call.client_streaming,
                responses=call.server_streaming,
            )
            for call in service.operations
        )


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


class _Stubs:
    """The definition as protoc reads it for the stubs: the same wire, without comments and custom options."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._enums = enums(package)
        self._messages = package.wire_messages()

    def blocks(self) -> Iterator[str]:
        """Every declaration at the top."""
        for found in self._enums:
            if not found.parent:
                yield "\n".join(self._enum(found, ""))
        for message in self._messages:
            if not message.parent:
                yield "\n".join(self._message(message, ""))
        for service in self._package.served:
            yield "\n".join(self._service(service))

    @staticmethod
    def _enum(found: Enum, indent: str) -> Iterator[str]:
        yield f"{indent}enum {found.name} {{"
        for value in found.values:
            yield f"{indent}  {value.name} = {value.number};"
        yield f"{indent}}}"

    def _message(self, message: Message, indent: str) -> Iterator[str]:
        yield f"{indent}message {message.name} {{"
        for inner in self._messages:
            if inner.parent == message.full_name:
                yield from self._message(inner, indent + "  ")
        for found in self._enums:
            if found.parent == message.full_name:
                yield from self._enum(found, indent + "  ")
        for oneof in message.oneofs:
            yield f"{indent}  oneof {oneof.name} {{"
            for member in message.members(oneof.name):
                yield f"{indent}    {self._field(member)}"
            yield f"{indent}  }}"
        for member in message.fields:
            if not member.oneof:
                yield f"{indent}  {self._field(member)}"
        yield f"{indent}}}"

    @staticmethod
    def _field(member: Field) -> str:
        kind = f".{member.type_name}" if member.type_name else member.proto_type
        if member.kind is Kind.DURATION:
            kind = ".google.protobuf.Duration"
        if member.map_key:
            kind = f"map<{member.map_key.proto_type}, {kind}>"
        label = "repeated " if member.repeated else "optional " if member.optional else ""
        packable = member.kind not in (Kind.STRING, Kind.BYTES, Kind.MESSAGE, Kind.DURATION)
        options = ["packed = false"] if member.repeated and packable and not member.packed else []
        options += ["debug_redact = true"] if member.sensitive else []
        joined = ", ".join(options)
        return f"{label}{kind} {member.name} = {member.number}{f' [{joined}]' if joined else ''};"

    @staticmethod
    def _service(service: Service) -> Iterator[str]:
        yield f"service {service.name} {{"
        for call in service.operations:
            request = f"{'stream ' if call.client_streaming else ''}.{call.request}"
            response = f"{'stream ' if call.server_streaming else ''}.{call.response}"
            yield f"  rpc {call.name}({request}) returns ({response});"
        yield "}"
