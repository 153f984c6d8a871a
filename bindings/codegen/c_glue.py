"""How the Python side of a call is written: types and operations, and the function that turns values around."""

from __future__ import annotations

import builtins

from bindings.codegen.c import Call, Library, Role, Struct, Value
from bindings.codegen.model import Kind, pascal
from bindings.codegen.targets import comment

__all__ = ["GlueLayout", "docstring", "wrapped"]


def docstring(text: str, indent: str) -> str:
    """A docstring, in one line if it fits."""
    lines = comment(text, indent, 117).lstrip()
    if "\n" not in lines:
        if len(indent) + len(lines) + 6 <= 120:
            return f'"""{lines}"""'
        lines = comment(text, indent, 114).lstrip()  # the formatter leaves no quotes alone behind one line
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


class GlueLayout:
    """What the template of the glue asks for; nothing here decides what C has, only how it is written."""

    def __init__(self, library: Library) -> None:
        self._library = library

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
