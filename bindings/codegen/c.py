"""The C library as the definition makes it: calls, handles, structs, enums and constants, before any layout.

One rule maps a call: the fields of its request are its parameters and those of its response its results, in the order
of their numbers. A message counts as its fields unless it is a handle or a struct; a field marked ``c_skip`` does not
exist. What C cannot express is a DefinitionError. The target ``c`` (header, cdef, shims, glue, version script) and the
one that writes its reference render this model and decide nothing.
"""

from __future__ import annotations

import enum
import keyword
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from bindings.codegen.model import (
    CallForm,
    DefinitionError,
    Enum,
    Field,
    Kind,
    Location,
    Message,
    Operation,
    Owner,
    Package,
)

__all__ = [
    "FORKED",
    "GLUE_FAILED",
    "NOT_STARTED",
    "Call",
    "Chapter",
    "Handle",
    "Library",
    "Member",
    "Parameter",
    "Role",
    "Struct",
    "Value",
    "lock_lines",
    "lower",
]

NOT_STARTED: Final = -100
FORKED: Final = -101
GLUE_FAILED: Final = -77

_NUMBERS: Final = {
    Kind.BOOL: "int32_t",
    Kind.INT32: "int32_t",
    Kind.UINT32: "uint32_t",
    Kind.INT64: "int64_t",
    Kind.UINT64: "uint64_t",
    Kind.FLOAT: "float",
    Kind.DOUBLE: "double",
    Kind.DURATION: "int64_t",
}
_NARROW: Final = ("int32_t", "uint32_t", "float")
_C_WORDS: Final = (
    "alignas alignof asm auto bool break case catch char class const constexpr continue decltype default delete do "
    "double else enum explicit export extern false float for friend goto if inline int long mutable namespace new "
    "noexcept nullptr operator private protected public register restrict return self short signed sizeof static "
    "struct switch template this thread_local throw true try typedef typeid typename union unsigned using virtual void "
    "volatile wchar_t while"
)
_RESERVED: Final = frozenset(_C_WORDS.split()) | frozenset(keyword.kwlist)


class Role(enum.Enum):
    """How a value crosses the border."""

    NUMBER = "number"
    """By value, results through a pointer that may be NULL. Enums, truth values and times are numbers."""
    HANDLE = "handle"
    STRUCT = "struct"
    """By pointer, with ``struct_size``."""
    TEXT = "text"
    """In: NUL-terminated. Out, of the caller: array, room, length. Out, of the library: ``buffer``."""
    BYTES = "bytes"
    """In: pointer and length. Out as text."""


@dataclass(frozen=True, slots=True)
class Value:
    """A parameter or result as the definition has it; one or more parameters in C."""

    field: Field
    name: str
    """In C: the field's name, with ``_ms`` behind a time."""
    role: Role
    c_type: str
    """Type of a number, handle or struct; ``""`` for text and bytes."""
    owner: Owner
    """Of text and bytes."""

    @property
    def secret(self) -> bool:
        """Memory that held it is overwritten before it is freed."""
        return self.field.sensitive

    @property
    def optional(self) -> bool:
        """May be absent: NULL or the zero handle."""
        return self.field.optional

    @property
    def text(self) -> str:
        """What it is: the comment, and the unit of a time."""
        return f"{self.field.comment} In milliseconds." if self.field.kind is Kind.DURATION else self.field.comment

    @property
    def buffer(self) -> bool:
        """A result that the library allocates."""
        return self.role in (Role.TEXT, Role.BYTES) and self.owner is Owner.LIBRARY

    @property
    def array(self) -> bool:
        """A result that goes into the caller's array."""
        return self.role in (Role.TEXT, Role.BYTES) and self.owner is Owner.CALLER


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in C."""

    declaration: str
    """Such as ``const void *data``."""
    name: str
    out: bool
    text: str
    """What it is, who owns it, whether it may be NULL."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a struct."""

    declaration: str
    """Such as ``const char *target``, without semicolon."""
    text: str
    """What it is."""
    field: Field | None
    """None for padding."""

    @property
    def name(self) -> str:
        """Its name alone."""
        return self.declaration.split(" ")[-1].lstrip("*")


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct. It begins with ``struct_size`` and only grows; no member hides in what was padding before."""

    message: Message
    c_type: str
    out: bool
    """A result, not a parameter."""
    values: tuple[Value, ...]
    members: tuple[Member, ...]

    @property
    def buffers(self) -> tuple[Value, ...]:
        """Members that the library allocates."""
        return tuple(value for value in self.values if value.buffer)


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the library."""

    name: str
    """In full: ``phantom_session_send``."""
    operation: Operation
    form: CallForm
    text: str
    """The reference text."""
    since: str
    returns: str
    """``phantom_status``, or the type of the one result."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    waits: bool
    """Has ``timeout_ms``."""
    part: str = ""
    """Of an iterator: ``begin``, ``next`` or ``cancel``."""
    iterator: str = ""
    """Of an iterator: the name of its handle, without prefix."""

    @property
    def short(self) -> str:
        """The name without the prefix of the package: the name of the Python method."""
        return self.name.partition("_")[2]

    @property
    def prototype(self) -> str:
        """``phantom_status phantom_session_send(...)`` in one line, without semicolon."""
        inside = ", ".join(parameter.declaration for parameter in self.parameters) or "void"
        space = "" if self.returns.endswith("*") else " "
        return f"{self.returns}{space}{self.name}({inside})"

    @property
    def native(self) -> bool:
        """Written by hand in C."""
        return self.form is CallForm.NATIVE

    @property
    def threads(self) -> str:
        """The rule on threads, one sentence."""
        if self.form is CallForm.RELEASE or self.part == "cancel":
            return "Any thread. Calls under way on the handle go on; what they use lives until they return."
        if self.native:
            return "Any thread, any number at once."
        if self.waits:
            return "Any thread, any number at once; waits in the calling thread and blocks no other."
        return "Any thread, any number at once; does not wait for the network."


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the reference."""

    title: str
    text: str
    """The comments of its services that only the library has."""
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Handle:
    """A handle type."""

    name: str
    c_type: str
    text: str
    since: str


@dataclass(frozen=True, slots=True)
class Library:
    """Everything that the header declares, without a word of layout."""

    package: Package
    prefix: str
    handles: tuple[Handle, ...]
    structs: tuple[Struct, ...]
    enums: tuple[tuple[str, Enum], ...]
    """C type and enum, of every enum that a call or a configurable field has, that of the errors left out."""
    field_enums: tuple[tuple[str, Message], ...]
    """C type and message."""
    chapters: tuple[Chapter, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call."""
        return tuple(call for chapter in self.chapters for call in chapter.calls)

    @property
    def glued(self) -> tuple[Call, ...]:
        """The calls that Python answers."""
        return tuple(call for call in self.calls if not call.native)

    def struct(self, full_name: str) -> Struct:
        """The struct of a message."""
        return next(struct for struct in self.structs if struct.message.full_name == full_name)


def lower(package: Package) -> Library:
    """The C library of a package. Raises DefinitionError for what C cannot express."""
    return _Lowering(package).library()


class _Lowering:
    """One run of :func:`lower`."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._prefix = package.prefix
        self._structs: dict[str, Struct] = {}
        self._enums: dict[str, Enum] = {}
        self._iterators: list[Handle] = []

    def library(self) -> Library:
        services = sorted(self._package.services, key=lambda service: not service.local)
        chapters: dict[str, tuple[list[str], list[Call]]] = {}
        for service in services:
            calls = [call for operation in service.operations if operation.c_name for call in self._calls(operation)]
            if calls:
                chapter = chapters.setdefault(service.chapter, ([], []))
                chapter[0].extend([service.comment] if service.local else [])
                chapter[1].extend(calls)
        field_enums = tuple(
            (f"{self._prefix}_{message.c_field_enum}_field", message)
            for message in self._package.messages
            if message.c_field_enum
        )
        for _, message in field_enums:
            for member in message.fields:
                if member.kind is Kind.ENUM:
                    self._enum_type(member)
        library = Library(
            package=self._package,
            prefix=self._prefix,
            handles=tuple(self._handles()) + tuple(self._iterators),
            structs=tuple(
                self._structs[message.full_name]
                for message in self._package.messages
                if message.full_name in self._structs
            ),
            enums=tuple(
                (self._typed(found.c_type), found) for found in self._package.enums if found.full_name in self._enums
            ),
            field_enums=field_enums,
            chapters=tuple(
                Chapter(title, "\n\n".join(texts), tuple(calls)) for title, (texts, calls) in chapters.items()
            ),
        )
        self._refuse_doubles(library)
        return library

    def _typed(self, name: str) -> str:
        return f"{self._prefix}_{name}"

    def _handles(self) -> Iterator[Handle]:
        for message in self._package.messages:
            if message.c_handle:
                yield Handle(message.c_handle, self._typed(message.c_handle), message.comment, message.since)

    def _refuse_doubles(self, library: Library) -> None:
        package = self._package
        start = Location(package.files[0], 1)
        names = [
            (self._typed("status"), "the type of statuses", start),
            (self._typed("buffer"), "the type of buffers", start),
        ]
        for message in package.messages:
            names += [(self._typed(message.c_handle), "a handle", message.location)] if message.c_handle else []
        names += [(struct.c_type, "a struct", struct.message.location) for struct in library.structs]
        names += [(c_type, "an enum", found.location) for c_type, found in library.enums]
        names += [(c_type, "an enum of fields", message.location) for c_type, message in library.field_enums]
        names += [(self._typed(constant.name), "a constant", constant.location) for constant in package.constants]
        names += [(call.name, "a call", call.operation.location) for call in library.calls]
        taken: dict[str, str] = {}
        for name, what, location in names:
            if name in taken:
                raise DefinitionError(
                    location, f"{name} is the name of {taken[name]} and of {what}", "rename one of them"
                )
            taken[name] = what

    # --- calls -------------------------------------------------------------------------------------------------------

    def _calls(self, operation: Operation) -> Iterator[Call]:
        form = operation.c_form
        assert form is not None
        where = operation.location
        if operation.client_streaming:
            raise DefinitionError(
                where,
                f"{operation.name} takes a stream, which C has no form for",
                "give C a handle with a call that sends",
            )
        if operation.server_streaming != (form is CallForm.ITERATOR):
            kind = "a stream" if operation.server_streaming else "no stream"
            raise DefinitionError(
                where,
                f"{operation.name} is {kind} and has CALL_FORM_{form.name}",
                "CALL_FORM_ITERATOR goes with `returns (stream …)`, and only with it",
            )
        inputs = self._values(operation, self._package.message(operation.request), out=False)
        outputs = self._values(operation, self._package.message(operation.response), out=True)
        self._check_call(operation, form, inputs, outputs)
        call = Call(
            name=self._typed(operation.c_name),
            operation=operation,
            form=form,
            text=operation.c_text or operation.comment,
            since=operation.since,
            returns=self._typed("status"),
            inputs=inputs,
            outputs=outputs,
            parameters=(),
            waits=form is CallForm.BLOCKING,
        )
        if operation.c_returns_result:
            yield self._finished(replace(call, outputs=(), returns=self._returned(outputs[0]) if outputs else "void"))
        elif form is CallForm.ITERATOR:
            yield from self._iterator(call)
        else:
            yield self._finished(call)

    def _iterator(self, call: Call) -> Iterator[Call]:
        kind = f"{call.short}_iterator"
        handle = Handle(kind, self._typed(kind), f"What {call.name} begins.", call.since)
        self._iterators.append(handle)
        yield self._finished(replace(call, outputs=(), part="begin", iterator=kind))
        yield self._finished(
            replace(
                call,
                name=f"{call.name}_next",
                text=f"Waits for the next result of {call.name}.",
                inputs=(),
                waits=True,
                part="next",
                iterator=kind,
            )
        )
        yield self._finished(
            replace(
                call,
                name=f"{call.name}_cancel",
                text=f"Ends what {call.name} began, whether all results were taken or not; its handle is unknown then.",
                inputs=(),
                outputs=(),
                part="cancel",
                iterator=kind,
            )
        )

    def _finished(self, call: Call) -> Call:
        kind = self._typed(call.iterator)
        before: list[Parameter] = []
        after: list[Parameter] = []
        if call.part == "begin":
            text = f"What gives the results. End it by {call.name}_cancel."
            after.append(Parameter(f"{kind} *iterator", "iterator", True, text))
        elif call.part:
            before.append(Parameter(f"{kind} iterator", "iterator", False, "What was begun."))
        if call.part == "next":
            text = "1 when there are no more results; the others are empty then. May be NULL."
            after.append(Parameter("int32_t *done", "done", True, text))
        if call.waits:
            text = f"How long to wait, in milliseconds: 0 not at all, {self._prefix.upper()}_NO_TIMEOUT without a limit"
            text += " unless said otherwise above."
            before_out = [Parameter("int64_t timeout_ms", "timeout_ms", False, text)]
        else:
            before_out = []
        parameters = before
        for value in call.inputs:
            parameters = parameters + list(self._in_parameters(call, value))
        parameters = parameters + before_out
        for value in call.outputs:
            parameters = parameters + list(self._out_parameters(value))
        parameters = parameters + after
        names = [parameter.name for parameter in parameters]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise DefinitionError(
                call.operation.location, f"{call.name} has two parameters {double}", "rename one of the fields"
            )
        return replace(call, parameters=tuple(parameters))

    def _in_parameters(self, call: Call, value: Value) -> Iterator[Parameter]:
        text, name = value.text, value.name
        match value.role:
            case Role.NUMBER | Role.HANDLE:
                yield Parameter(f"{value.c_type} {name}", name, False, text)
            case Role.STRUCT:
                yield Parameter(f"const {value.c_type} *{name}", name, False, f"{text} Read until the call returns.")
            case Role.TEXT:
                yield Parameter(f"const char *{name}", name, False, f"{text} UTF-8; read until the call returns.")
            case Role.BYTES if value.owner is Owner.LIBRARY:
                yield Parameter(f"{self._typed('buffer')} *{name}", name, False, text)
            case Role.BYTES:
                yield Parameter(f"const void *{name}", name, False, f"{text} Read until the call returns.")
                yield Parameter(f"size_t {name}_len", f"{name}_len", False, f"Bytes at `{name}`.")

    def _out_parameters(self, value: Value) -> Iterator[Parameter]:
        text, name = value.text, value.name
        free = self._typed("buffer_free")
        if value.buffer:
            text = f"{text} The caller gives it back by {free}."
            yield Parameter(f"{self._typed('buffer')} *{name}", name, True, text)
        elif value.array:
            kind, what = ("char", "the NUL behind it included") if value.role is Role.TEXT else ("void", "in bytes")
            yield Parameter(
                f"{kind} *{name}", name, True, f"{text} An array of the caller; NULL to ask for the length."
            )
            yield Parameter(
                f"size_t {name}_cap", f"{name}_cap", False, f"Room at `{name}`, {what}; less than needed is error 6."
            )
            without = ", the NUL not included" if value.role is Role.TEXT else ""
            yield Parameter(
                f"size_t *{name}_len", f"{name}_len", True, f"Its length{without}, set whatever the room. May be NULL."
            )
        elif value.role is Role.STRUCT:
            extra = (
                f" The caller gives its buffers back by {free}." if self._structs[value.field.type_name].buffers else ""
            )
            yield Parameter(
                f"{value.c_type} *{name}", name, True, f"{text} Its struct_size must be set before the call.{extra}"
            )
        elif value.role is Role.HANDLE:
            yield Parameter(f"{value.c_type} *{name}", name, True, text)
        else:
            yield Parameter(f"{value.c_type} *{name}", name, True, f"{text} May be NULL.")

    def _returned(self, value: Value) -> str:
        return "const char *" if value.role is Role.TEXT else value.c_type

    def _check_call(
        self, operation: Operation, form: CallForm, inputs: tuple[Value, ...], outputs: tuple[Value, ...]
    ) -> None:
        where, name = operation.location, operation.name
        if form in (CallForm.RETAIN, CallForm.RELEASE) and (
            [value.role for value in inputs] != [Role.HANDLE] or outputs or inputs[0].optional
        ):
            raise DefinitionError(
                where,
                f"{name} has CALL_FORM_{form.name} and more than one handle as its parameter, or results",
                "give it one field, the handle, and an empty response",
            )
        handles = [value for value in outputs if value.role is Role.HANDLE]
        if len(handles) > 1:
            raise DefinitionError(
                handles[1].field.location,
                f"a second handle as a result of {name}: if one could not be made, the other would be lost",
                "return one handle, and let a call on it return the other",
            )
        if operation.c_returns_result:
            if form is not CallForm.NATIVE or len(outputs) > 1:
                raise DefinitionError(
                    where,
                    f"{name} returns its result in place of a status, but can fail or has several",
                    "only CALL_FORM_NATIVE with at most one result does that",
                )
            for value in outputs:
                if value.role in (Role.HANDLE, Role.STRUCT, Role.BYTES) or (
                    value.role is Role.TEXT and value.owner is not Owner.STATIC
                ):
                    raise DefinitionError(
                        value.field.location,
                        f"{name} cannot return {value.name} in place of a status",
                        "only numbers and OWNER_STATIC text can be",
                    )
        for value in (*inputs, *outputs):
            static = value.owner is Owner.STATIC
            if static and not (operation.c_returns_result and value in outputs):
                raise DefinitionError(
                    value.field.location,
                    f"{value.name} is OWNER_STATIC, but no returned text",
                    "choose another owner, or returns_result",
                )
        for value in inputs:
            if value.owner is Owner.LIBRARY and (form is not CallForm.NATIVE or value.role is Role.TEXT):
                raise DefinitionError(
                    value.field.location,
                    f"{value.name} gives memory back to the library",
                    "only bytes of a CALL_FORM_NATIVE call can; choose OWNER_CALLER",
                )

    # --- values ------------------------------------------------------------------------------------------------------

    def _values(
        self, operation: Operation, message: Message, *, out: bool, path: tuple[str, ...] = ()
    ) -> tuple[Value, ...]:
        if message.full_name in path:
            raise DefinitionError(
                message.location,
                f"{message.name} contains itself, and C call {operation.c_name} needs it",
                "mark it c_skip",
            )
        values: list[Value] = []
        for member in message.fields:
            if member.c_skip:
                continue
            self._refuse_shapes(member, f"C call {operation.c_name}")
            if member.kind is not Kind.MESSAGE:
                values.append(self._plain(member, out=out))
                continue
            target = self._package.message(member.type_name)
            if target.c_handle:
                values.append(self._handle(member, target))
            elif target.c_struct:
                self._refuse_optional(member)
                self._struct(target, operation, out=out)
                self._check_name(member.name, member.location)
                values.append(Value(member, member.name, Role.STRUCT, self._typed(target.c_struct), Owner.CALLER))
            else:
                self._refuse_optional(member)
                values += self._values(operation, target, out=out, path=(*path, message.full_name))
        return tuple(values)

    def _handle(self, member: Field, target: Message) -> Value:
        self._check_name(member.name, member.location)
        return Value(member, member.name, Role.HANDLE, self._typed(target.c_handle), Owner.CALLER)

    def _plain(self, member: Field, *, out: bool) -> Value:
        self._check_name(member.name, member.location)
        if member.kind in (Kind.STRING, Kind.BYTES):
            role = Role.TEXT if member.kind is Kind.STRING else Role.BYTES
            return Value(member, member.name, role, "", member.owner or (Owner.LIBRARY if out else Owner.CALLER))
        if member.owner:
            raise DefinitionError(member.location, f"{member.name} is a number and has an owner", "take the owner away")
        self._refuse_optional(member)
        if member.kind is Kind.ENUM:
            kind = self._enum_type(member)
        elif member.c_fields_of:
            kind = self._typed(f"{self._package.message(member.c_fields_of).c_field_enum}_field")
        else:
            kind = _NUMBERS[member.kind]
        name = f"{member.name}_ms" if member.kind is Kind.DURATION else member.name
        return Value(member, name, Role.NUMBER, kind, Owner.CALLER)

    def _enum_type(self, member: Field) -> str:
        found = self._package.enum(member.type_name)
        if found.errors:
            return self._typed("status")
        self._enums[found.full_name] = found
        return self._typed(found.c_type)

    @staticmethod
    def _check_name(name: str, location: Location) -> None:
        if name in _RESERVED:
            raise DefinitionError(
                location, f"{name} is a word of C, C++ or Python", "rename the field, or mark it c_skip"
            )

    @staticmethod
    def _refuse_optional(member: Field) -> None:
        if member.optional:
            raise DefinitionError(
                member.location,
                f"{member.name} is optional, and C has no absent {member.kind.value}",
                "let a value say so, or mark it c_skip; only text, bytes and handles can be absent",
            )

    @staticmethod
    def _refuse_shapes(member: Field, user: str) -> None:
        shape, remedy = "", "mark it c_skip, or give C a call for one of them"
        if member.map_key:
            shape = "a map"
        elif member.repeated:
            shape = "repeated"
        elif member.oneof:
            shape, remedy = "a member of a oneof", "mark it c_skip, and declare one call for each member"
        if shape:
            raise DefinitionError(member.location, f"{member.name} is {shape}, which {user} cannot have", remedy)

    # --- structs -----------------------------------------------------------------------------------------------------

    def _struct(self, message: Message, operation: Operation, *, out: bool) -> None:
        known = self._structs.get(message.full_name)
        if known:
            if known.out != out:
                raise DefinitionError(
                    message.location,
                    f"{message.name} is a struct of parameters and of results",
                    f"declare another message for {operation.name}",
                )
            return
        values: list[Value] = []
        members: list[Member] = []
        for member in message.fields:
            if member.c_skip:
                continue
            self._refuse_shapes(member, f"C struct {self._typed(message.c_struct)}")
            if member.kind is Kind.MESSAGE:
                target = self._package.message(member.type_name)
                if not target.c_handle:
                    raise DefinitionError(
                        member.location,
                        f"{member.name} is a message in C struct {self._typed(message.c_struct)}",
                        "declare its fields here, make it a handle, or mark it c_skip",
                    )
                if out:
                    raise DefinitionError(
                        member.location,
                        f"{member.name} is a handle in a struct of results, which an older caller would lose",
                        "return it by a call of its own",
                    )
                value = self._handle(member, target)
            else:
                value = self._plain(member, out=out)
            if value.role in (Role.TEXT, Role.BYTES) and value.owner is not (Owner.LIBRARY if out else Owner.CALLER):
                raise DefinitionError(
                    member.location,
                    f"{member.name} has an owner that a struct cannot have",
                    "in a struct parameters are the caller's and results the library's: take the owner away",
                )
            values.append(value)
            members += self._members(value, out=out)
        if not values:
            raise DefinitionError(message.location, f"{message.name} is an empty C struct", "give it a field")
        self._structs[message.full_name] = Struct(
            message, self._typed(message.c_struct), out, tuple(values), tuple(members)
        )

    def _members(self, value: Value, *, out: bool) -> Iterator[Member]:
        text, name = value.text, value.name
        if value.role in (Role.TEXT, Role.BYTES) and out:
            yield Member(f"{self._typed('buffer')} {name}", text, value.field)
        elif value.role is Role.TEXT:
            yield Member(f"const char *{name}", text, value.field)
        elif value.role is Role.BYTES:
            yield Member(f"const void *{name}", text, value.field)
            yield Member(f"size_t {name}_len", f"Bytes at `{name}`.", value.field)
        else:
            yield Member(f"{value.c_type} {name}", text, value.field)
            if value.field.kind is Kind.ENUM or value.c_type in _NARROW or value.field.c_fields_of:
                yield Member(f"uint32_t reserved_{value.field.number}", "Padding: 0.", None)


def lock_lines(library: Library) -> tuple[tuple[str, int, str, Location], ...]:
    """What the lock file holds of each member: struct, field number, declaration; and where the field is declared."""
    return tuple(
        (struct.c_type, member.field.number, member.declaration, member.field.location)
        for struct in library.structs
        for member in struct.members
        if member.field
    )
