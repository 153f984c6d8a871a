"""The C library: header, cdef of cffi, exported calls, Python glue, version script, and the lock of its structs."""

from __future__ import annotations

import builtins
import textwrap
from collections.abc import Iterator
from typing import Final

from bindings.codegen import lock
from bindings.codegen.c import (
    FORKED,
    GLUE_FAILED,
    NOT_STARTED,
    Call,
    Library,
    Parameter,
    Role,
    Struct,
    Value,
    lower,
)
from bindings.codegen.model import REDACTED, DefinitionError, Element, Field, Kind, Location, Package, pascal
from bindings.codegen.targets import Target, comment, environment

__all__ = ["TARGET", "render"]

HEADER: Final = "bindings/c/include"
GENERATED: Final = "bindings/c/generated"
_NEEDED: Final = ("VALIDATION", "SESSION_NOT_FOUND", "TIMEOUT", "UNSUPPORTED")
"""The errors that the library itself reports."""


def render(package: Package) -> dict[str, bytes]:
    """The files of the C library; none for a package without C calls. Raises DefinitionError."""
    library = lower(package)
    if not library.calls:
        return {}
    known = {error.name for error in package.errors}
    for name in _NEEDED:
        if name not in known:
            raise DefinitionError(
                Location(package.files[0], 1), f"there is no error {name}, which the C library reports", "declare it"
            )
    templates = environment("c")
    templates.filters["doc"] = doc
    templates.filters["docstring"] = docstring
    templates.filters["boxed"] = "/*\n{}\n */".format
    prefix = package.prefix
    layout = _Layout(library)
    given = {
        "package": package,
        "library": library,
        "prefix": prefix,
        "title": f"The C interface of {prefix.capitalize()}.",
        "version": package.version,
        "version_parts": list(zip(("MAJOR", "MINOR", "PATCH"), package.version.split("."), strict=False)),
        "glue_failed": GLUE_FAILED,
        "not_started": NOT_STARTED,
        "forked": FORKED,
        "redacted": REDACTED,
        "since": since,
        "pascal": pascal,
        **{name: getattr(layout, name) for name in dir(layout) if not name.startswith("_")},
    }
    made = {
        f"{HEADER}/{prefix}.h": "header.h.j2",
        f"{GENERATED}/{prefix}_cdef.h": "cdef.h.j2",
        f"{GENERATED}/{prefix}_shims.c": "shims.c.j2",
        f"{GENERATED}/{prefix}_status_name.c": "status_name.c.j2",
        f"{GENERATED}/{prefix}.map": "version_script.map.j2",
        f"{GENERATED}/{prefix}_c.py": "glue.py.j2",
        f"{GENERATED}/__init__.py": "package.py.j2",
    }
    files = {path: templates.get_template(name).render(given) for path, name in made.items()}
    files[lock.PATH] = lock.text(library)
    return {path: (text.rstrip("\n") + "\n").encode() for path, text in files.items()}


TARGET = Target(
    "c", "the C library: header, cdef, exported calls, glue, version script, lock", render, (HEADER, GENERATED)
)


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


def docstring(text: str, indent: str) -> str:
    """A docstring, in one line if it fits."""
    lines = comment(text, indent, 117).lstrip()
    if "\n" not in lines and len(indent) + len(lines) + 6 <= 120:
        return f'"""{lines}"""'
    return f'"""{lines}\n{indent}"""'


def wrapped(head: str, items: list[str], tail: str) -> str:
    """Python code with items between brackets, in as many lines as the formatter would make of it."""
    line = f"{head}{', '.join(items)}{tail}"
    if len(line) <= 120:
        return line
    indent = " " * (len(head) - len(head.lstrip()))
    inside = f"{indent}    {', '.join(items)}"
    if len(inside) > 120:
        inside = "\n".join(f"{indent}    {item}," for item in items)
    return f"{head}\n{inside}\n{indent}{tail}"


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


class _Layout:
    """What the templates ask for; nothing here decides what C has, only how it is written."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._prefix = library.prefix
        self._upper = library.prefix.upper()

    # --- header ------------------------------------------------------------------------------------------------------

    def prototype(self, call: Call) -> str:
        """The prototype, wrapped."""
        line = call.prototype
        if len(line) + len(self._upper) + len("_API ;") <= 120:
            return line
        head, _, inside = line.partition("(")
        return f"{head}(\n{textwrap.fill(inside, 116, initial_indent='    ', subsequent_indent='    ')}"

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
        """Whether a call can name the field: it has one plain value."""
        plain = field.kind in _SUFFIXES and not (field.repeated or field.map_key or field.oneof)
        return plain and not field.c_skip

    @staticmethod
    def how_to_set(field: Field) -> str:
        """Behind the comment of a settable field: the end of the name of the call that sets it."""
        return f" [{_SUFFIXES[field.kind]}]"

    # --- cdef and shims ----------------------------------------------------------------------------------------------

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

    # --- glue --------------------------------------------------------------------------------------------------------

    def python_type(self, value: Value, *, inside: bool = False) -> str:
        """The type of a value in Python; ``inside`` a struct bytes are copied."""
        match value.role:
            case Role.HANDLE:
                return "Any"
            case Role.STRUCT:
                return pascal(self._library.struct(value.field.type_name).message.c_struct)
            case Role.TEXT:
                kind = "str"
            case Role.BYTES:
                kind = "bytes" if inside else "memoryview"
            case _:
                return self._number_type(value)
        return f"{kind} | None" if value.optional else kind

    def result_type(self, value: Value) -> str:
        """The type of a result in Python."""
        if value.role is Role.BYTES:
            return "bytes | bytearray | memoryview" + (" | None" if value.optional else "")
        if value.field.kind is Kind.ENUM:
            return "int"
        return self.python_type(value)

    def _number_type(self, value: Value) -> str:
        if value.field.c_fields_of:
            return "str"
        if value.field.kind is Kind.ENUM:
            found = self._library.package.enum(value.field.type_name)
            return "int" if found.errors else found.name
        floats = (Kind.FLOAT, Kind.DOUBLE, Kind.DURATION)
        return "bool" if value.field.kind is Kind.BOOL else "float" if value.field.kind in floats else "int"

    def returns(self, call: Call) -> str:
        """What the operation returns."""
        if call.part == "begin":
            return f"Stream[{self._item(call)}]"
        return self._item(call)

    def _item(self, call: Call) -> str:
        outputs = self._outputs(call)
        if len(outputs) > 1:
            return f"{pascal(call.operation.c_name)}Result"
        return self.result_type(outputs[0]) if outputs else "None"

    def _outputs(self, call: Call) -> tuple[Value, ...]:
        if call.part != "begin":
            return call.outputs
        return next(other.outputs for other in self._library.calls if other.name == f"{call.name}_next")

    def results(self) -> list[Call]:
        """The calls whose results are a class of their own."""
        return [call for call in self._library.glued if len(call.outputs) > 1]

    def result_class(self, call: Call) -> str:
        """Its name."""
        return f"{pascal(call.operation.c_name)}Result"

    def methods(self) -> list[Call]:
        """The calls that an operation answers."""
        skipped = ("next", "cancel")
        return [call for call in self._library.glued if call.part not in skipped and call.form.name != "RETAIN"]

    @staticmethod
    def has_secret(values: tuple[Value, ...]) -> bool:
        """Whether a dump must redact."""
        return any(value.secret for value in values)

    def has_secrets(self) -> bool:
        """Whether any dump must redact."""
        groups = [struct.values for struct in self._library.structs] + [call.outputs for call in self.results()]
        return any(self.has_secret(values) for values in groups)

    def secret_names(self, values: tuple[Value, ...]) -> str:
        """A tuple of names, as Python."""
        names = [f'"{self.python_field(value)}"' for value in values if value.secret]
        return f"({', '.join(names)}{',' if len(names) == 1 else ''})"

    def public_names(self) -> list[str]:
        """What the glue exports, as the linter sorts it."""
        names = ["Operations", "Runtime", "Stream", *(found.name for _, found in self._library.enums)]
        names += [pascal(struct.message.c_struct) for struct in self._library.structs]
        names += [self.result_class(call) for call in self.results()]
        tables = [f"{message.c_field_enum.upper()}_FIELDS" for _, message in self._library.field_enums]
        return [*sorted(tables), *sorted(names), "install"]

    def suppressed(self) -> str:
        """What the linter must let pass in the glue: names of the definition that Python has too."""
        names = {value.name for call in self._library.glued for value in (*call.inputs, *call.outputs)}
        return "A002, BLE001" if names & set(dir(builtins)) else "BLE001"

    @staticmethod
    def glue_head(call: Call) -> str:
        """The head of the Python function."""
        made = ["iterator: int"] if call.part in ("next", "cancel") else []
        for value in call.inputs:
            kind = "float" if value.c_type in ("float", "double") else "int"
            pointer = value.role in (Role.TEXT, Role.BYTES, Role.STRUCT)
            made.append(f"{value.name}: {'Any' if pointer else kind}")
            made += [f"{value.name}_len: int"] if value.role is Role.BYTES else []
        made += ["timeout_ms: int"] if call.waits else []
        for value in call.outputs:
            made.append(f"{value.name}: Any")
            made += [f"{value.name}_cap: int", f"{value.name}_len: Any"] if value.array else []
        made += {"begin": ["iterator: Any"], "next": ["done: Any"]}.get(call.part, [])
        return wrapped(f"    def _{call.short}(", made, ") -> int:")

    def taken(self, value: Value, path: str, *, inside: bool = False) -> str:
        """The expression that makes a Python value of a parameter."""
        match value.role:
            case Role.TEXT:
                function = "_optional_text" if value.optional else "_text"
                return f'{function}("{value.name}", {path})'
            case Role.BYTES:
                copied = f"bytes(_view({path}, {path}_len))"
                if not inside:
                    return f"{value.name}_view"
                return f"{copied} if {path} else None" if value.optional else copied
            case Role.HANDLE:
                handle = f"{path}.id" if inside else path
                found = f'_lookup("{self._handle(value)}", {handle})'
                return f"{found} if {handle} else None" if value.optional else found
            case Role.STRUCT:
                return f"_take_{self._library.struct(value.field.type_name).message.c_struct}({path})"
        if value.field.c_fields_of:
            return f"_field_name({self.field_table(value)}, {path})"
        kind = self._number_type(value)
        if value.field.kind is Kind.ENUM and kind != "int":
            return f"_member({kind}, {path})"
        if value.field.kind is Kind.DURATION:
            return f"{path} / 1000"
        return f"bool({path})" if value.field.kind is Kind.BOOL else path

    def views(self, call: Call) -> str:
        """The context managers of lent memory."""
        made = [
            f"_view({value.name}, {value.name}_len) as {value.name}_view"
            for value in call.inputs
            if value.role is Role.BYTES
        ]
        return ", ".join(made)

    def operation_call(self, call: Call, before: str) -> str:
        """The call of the operation."""
        indent = " " * (16 if self.views(call) else 12)
        made = [self.taken(value, value.name) for value in call.inputs]
        made += ["_seconds(timeout_ms)"] if call.waits else []
        return wrapped(f"{indent}{before}operations.{call.short}(", made, ")")

    def operation_head(self, call: Call) -> str:
        """The head of the method that answers a call."""
        made = [f"{self.python_field(value)}: {self.python_type(value)}" for value in call.inputs]
        made += ["timeout: float | None"] if call.waits else []
        return wrapped(f"    def {call.short}(", ["self", *made], f") -> {self.returns(call)}:")

    def field_table(self, value: Value) -> str:
        """The table of field names that a value indexes."""
        return f"{self._library.package.message(value.field.c_fields_of).c_field_enum.upper()}_FIELDS"

    def _handle(self, value: Value) -> str:
        return self._library.package.message(value.field.type_name).c_handle

    def handle_of(self, call: Call) -> str:
        """The kind of the handle that a call takes or gives back."""
        return self._handle(call.inputs[0])

    def given(self, value: Value, path: str, expression: str) -> list[str]:
        """The statements that give a result to C; ``path`` is a pointer to where it goes."""
        name = value.name
        if value.array:
            end = 'b"\\0"' if value.role is Role.TEXT else 'b""'
            return [f"_fill({path}, {name}_cap, {name}_len, {expression}, {end})"]
        if value.buffer:
            return [f"_put({path}, {expression}, {value.secret})"]
        if value.role is Role.STRUCT:
            struct = self._library.struct(value.field.type_name).message.c_struct
            return [f"_give_{struct}({path}, {expression})"]
        if value.role is Role.HANDLE:
            return [f'{path}[0] = _register("{self._handle(value)}", {expression})']
        if value.field.kind is Kind.DURATION:
            return [f"{path}[0] = round({expression} * 1000)"]
        return [f"{path}[0] = {expression}"]

    def in_order(self, call: Call) -> list[Value]:
        """Results in the order of giving: what can fail first, the handle last."""

        def rank(value: Value) -> int:
            return (
                0
                if value.array
                else 1
                if value.buffer
                else 2
                if value.role is Role.STRUCT
                else 3 + (value.role is Role.HANDLE)
            )

        return sorted(call.outputs, key=rank)

    def gives(self, call: Call) -> list[str]:
        """The statements that give the results of a call."""
        single = len(call.outputs) == 1
        made: list[str] = []
        for value in self.in_order(call):
            made += self.given(value, value.name, "_result" if single else f"_result.{self.python_field(value)}")
        return made

    def struct_gives(self, struct: Struct) -> list[str]:
        """The statements that give a struct of results."""
        made: list[str] = []
        for value in struct.values:
            expression = f"value.{self.python_field(value)}"
            if value.buffer:
                made.append(f'_put(_addressof(to, "{value.name}"), {expression}, {value.secret})')
            elif value.field.kind is Kind.DURATION:
                made.append(f"to.{value.name} = round({expression} * 1000)")
            else:
                made.append(f"to.{value.name} = {expression}")
        return made

    @staticmethod
    def python_field(value: Value) -> str:
        """The name of a value in Python: times are seconds there."""
        return value.name.removesuffix("_ms") if value.field.kind is Kind.DURATION else value.name

    def exported(self) -> list[str]:
        """Every name that the library exports, sorted."""
        names = [call.name for call in self._library.calls]
        names += [f"{self._prefix}_{constant.name}" for constant in self._library.package.constants]
        return sorted(names)
