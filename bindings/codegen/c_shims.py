"""How the C side of a call is written: what cffi is told, and the exported function that checks and hands over."""

from __future__ import annotations

from collections.abc import Iterator

from bindings.codegen.c import Call, Library, Role, Struct, Value
from bindings.codegen.model import Kind

__all__ = ["ShimLayout"]


class ShimLayout:
    """What the templates of cdef and shims ask for; nothing here decides what C has, only how it is written."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._prefix = library.prefix
        self._upper = library.prefix.upper()

    @staticmethod
    def _base(value: Value) -> str:
        """The type without the header's names for it."""
        if value.field.kind is Kind.ENUM:
            return "int32_t"
        return "uint32_t" if value.field.c_fields_of else value.c_type

    def plain_members(self, struct: Struct) -> Iterator[str]:
        """The members of a struct, with plain types."""
        base = {value.name: self._base(value) for value in struct.values if value.role is Role.NUMBER}
        for member in struct.members:
            yield f"{base[member.name]} {member.name}" if member.name in base else member.declaration

    def glue_parameters(self, call: Call) -> str:
        """The parameters of the Python function."""
        made = ["uint64_t iterator"] if call.part in ("next", "cancel") else []
        for value in call.inputs:
            match value.role:
                case Role.NUMBER:
                    made.append(f"{self._base(value)} {value.name}")
                case Role.HANDLE:
                    made.append(f"uint64_t {value.name}")
                case Role.STRUCT:
                    made.append(f"{value.c_type} *{value.name}")
                case Role.TEXT:
                    made.append(f"const char *{value.name}")
                case Role.BYTES:
                    made += [f"const void *{value.name}", f"size_t {value.name}_len"]
        made += ["int64_t timeout_ms"] if call.waits else []
        for value in call.outputs:
            if value.buffer:
                made.append(f"{self._prefix}_buffer *{value.name}")
            elif value.array:
                kind = "char" if value.role is Role.TEXT else "void"
                made += [f"{kind} *{value.name}", f"size_t {value.name}_cap", f"size_t *{value.name}_len"]
            elif value.role is Role.STRUCT:
                made.append(f"{value.c_type} *{value.name}")
            else:
                made.append(f"{'uint64_t' if value.role is Role.HANDLE else self._base(value)} *{value.name}")
        made += {"begin": ["uint64_t *iterator"], "next": ["int32_t *done"]}.get(call.part, [])
        return ", ".join(made) or "void"

    @staticmethod
    def glue_arguments(call: Call) -> str:
        """What the exported function hands to the Python function."""
        made = ["iterator.id"] if call.part in ("next", "cancel") else []
        for value in call.inputs:
            match value.role:
                case Role.NUMBER | Role.TEXT:
                    made.append(value.name)
                case Role.HANDLE:
                    made.append(f"{value.name}.id")
                case Role.STRUCT:
                    made.append(f"&{value.name}_known")
                case Role.BYTES:
                    made += [value.name, f"{value.name}_len"]
        made += ["timeout_ms"] if call.waits else []
        for value in call.outputs:
            if value.buffer:
                made.append(value.name)
            elif value.array:
                made += [value.name, f"{value.name}_cap", f"&{value.name}_needed"]
            elif value.role is Role.STRUCT:
                made.append(f"&{value.name}_known")
            elif value.role is Role.HANDLE:
                made.append(f"&{value.name}->id")
            else:
                made.append(f"&{value.name}_value")
        made += {"begin": ["&iterator->id"], "next": ["&done_value"]}.get(call.part, [])
        return ", ".join(made)

    @staticmethod
    def call_locals(call: Call) -> Iterator[str]:
        """The variables of an exported function."""
        for value in (*call.inputs, *call.outputs):
            if value.role is Role.STRUCT:
                yield f"{value.c_type} {value.name}_known"
        for value in call.outputs:
            if value.array:
                yield f"size_t {value.name}_needed = 0"
            elif value.role is Role.NUMBER:
                yield f"{value.c_type} {value.name}_value = 0"
        if call.part == "next":
            yield "int32_t done_value = 0"

    @staticmethod
    def clears(call: Call) -> Iterator[tuple[str, list[str]]]:
        """What is done to results first: condition, statements."""
        for value in call.outputs:
            name = value.name
            if value.buffer:
                yield f"{name} != NULL", [f"{name}->data = NULL", f"{name}->len = 0"]
            elif value.array:
                if value.role is Role.TEXT:
                    yield f"{name} != NULL && {name}_cap != 0", [f"{name}[0] = '\\0'"]
                yield f"{name}_len != NULL", [f"*{name}_len = 0"]
            elif value.role is Role.STRUCT:
                yield f"{name} != NULL && {value.c_type}_fits({name})", [f"{value.c_type}_clear({name})"]
            elif value.role is Role.HANDLE:
                yield f"{name} != NULL", [f"{name}->id = 0"]
            else:
                yield f"{name} != NULL", [f"*{name} = 0"]
        if call.part == "begin":
            yield "iterator != NULL", ["iterator->id = 0"]
        if call.part == "next":
            yield "done != NULL", ["*done = 0"]

    def refusals(self, call: Call) -> Iterator[tuple[str, str]]:
        """What an exported function refuses: condition, text."""
        for value in (*call.inputs, *call.outputs):
            name = value.name
            out = value in call.outputs
            if value.role is Role.STRUCT:
                yield f"{name} == NULL", f"{name} is NULL"
                yield f"!{value.c_type}_fits({name})", f"{name}->struct_size is wrong; use {value.c_type}_init"
            elif out and value.array:
                yield f"{name} == NULL && {name}_cap != 0", f"{name} is NULL and {name}_cap is not 0"
                yield f"{name}_cap > {self._upper}_LONGEST", f"{name}_cap is too large"
            elif out and (value.buffer or value.role is Role.HANDLE):
                yield f"{name} == NULL", f"{name} is NULL"
            elif not out:
                yield from self._refused(value, name, name)
        if call.part == "begin":
            yield "iterator == NULL", "iterator is NULL"

    def member_refusals(self, value: Value) -> Iterator[tuple[str, str]]:
        """What an exported function refuses in a struct."""
        for inner in self._library.struct(value.field.type_name).values:
            yield from self._refused(inner, f"{value.name}_known.{inner.name}", f"{value.name}->{inner.name}")

    def _refused(self, value: Value, path: str, shown: str) -> Iterator[tuple[str, str]]:
        if value.role is Role.TEXT and not value.optional:
            yield f"{path} == NULL", f"{shown} is NULL"
        if value.role is Role.BYTES:
            yield f"{path} == NULL && {path}_len != 0", f"{shown} is NULL and {shown}_len is not 0"
            yield f"{path}_len > {self._upper}_LONGEST", f"{shown}_len is too large"

    def hand_overs(self, call: Call) -> Iterator[tuple[str, list[str]]]:
        """What is done to results last: condition, statements."""
        failed, done = f"status_ != {self._upper}_OK", f"status_ == {self._upper}_OK"
        for value in call.outputs:
            name = value.name
            if value.buffer:
                yield failed, [f"{self._prefix}_drop({name})"]
            elif value.array:
                yield f"{name}_len != NULL", [f"*{name}_len = {name}_needed"]
            elif value.role is Role.STRUCT:
                buffers = self._library.struct(value.field.type_name).buffers
                yield done, [f"{value.c_type}_give({name}, &{name}_known)"]
                if buffers:
                    yield failed, [f"{self._prefix}_drop(&{name}_known.{inner.name})" for inner in buffers]
            elif value.role is Role.HANDLE:
                yield failed, [f"{name}->id = 0"]
            else:
                yield f"{done} && {name} != NULL", [f"*{name} = {name}_value"]
        if call.part == "begin":
            yield failed, ["iterator->id = 0"]
        if call.part == "next":
            yield f"{done} && done != NULL", ["*done = done_value"]
