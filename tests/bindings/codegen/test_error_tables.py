"""One tree of errors in every language: the committed tables, read as text, agree with the definition value for value.

A table maps a code to name, branch, base, retryable and final.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from bindings.codegen.wire import BARE_STATUSES
from phantom import errors
from phantom.sidecar import status
from tests.bindings import error_table
from tests.bindings.codegen.support import ROOT, real

SWIFT = ROOT / "bindings/swift/Sources/Phantom/Generated/ErrorCode.swift"
KOTLIN = ROOT / "bindings/kotlin/src/main/kotlin/phantom/v1"
TYPESCRIPT = ROOT / "bindings/wasm/src/generated/errors.ts"
HEADER = ROOT / "bindings/c/include/phantom.h"
NAMES = ROOT / "bindings/c/generated/phantom_status_names.c"
PAGE = ROOT / "docs/reference/api/errors.md"
SWIFT_CASE = r"^    case `?(\w+)`? = (\d+)$"


class Row(NamedTuple):
    """What a language knows of an error."""

    name: str
    branch: str
    base: int
    retryable: bool
    final: bool


Table = dict[int, Row]


def definition() -> Table:
    """proto/phantom/v1/errors.proto."""
    return {
        error.code: Row(
            error.name,
            error.branch.name,
            real().error(error.base).code if error.base else 0,
            error.retryable,
            error.final,
        )
        for error in real().errors
    }


def generated_python() -> Table:
    """tests/bindings/error_table.py."""
    return {error.code: Row(*error[1:]) for error in error_table.ERRORS}


def python_tree() -> Table:
    """phantom/errors.py, names apart: Python's are those of its classes."""
    table: Table = {}
    for cls in map(vars(errors).get, errors.__all__):
        if isinstance(cls, type) and issubclass(cls, errors.PhantomError) and cls.code:
            (branch,) = [
                base for base in ("Local", "Remote", "Transport") if issubclass(cls, getattr(errors, f"{base}Error"))
            ]
            base = next(parent for parent in cls.__mro__[1:] if issubclass(parent, errors.PhantomError))
            table[cls.code] = Row(definition()[cls.code].name, branch.upper(), base.code, cls.retryable, cls.final)
    return table


def swift() -> Table:
    """ErrorCode.swift: cases, then one switch for each property."""
    text = SWIFT.read_text()
    codes = {name: int(code) for name, code in re.findall(SWIFT_CASE, text, re.MULTILINE)}
    names = {name.replace("_", "").lower(): name for name in (row.name for row in definition().values())}

    def body(head: str) -> str:
        return text.partition(head)[2].partition("\n    }\n")[0]

    def cases(part: str) -> set[str]:
        return set(re.findall(r"\.(\w+)", part))

    branches = {}
    for found in re.finditer(r"case ([^:]*):\s*return \.(\w+)", body("var branch: Branch {")):
        branches |= dict.fromkeys(cases(found[1]), found[2].upper())
    bases = dict(re.findall(r"case \.(\w+): return \.(\w+)", body("var base: ErrorCode? {")))
    retryable = cases(body("var isRetryable: Bool {").partition(":")[0])
    final = cases(body("var isFinal: Bool {").partition(":")[0])
    return {
        code: Row(
            names[name.lower()], branches[name], codes.get(bases.get(name, ""), 0), name in retryable, name in final
        )
        for name, code in codes.items()
    }


def kotlin() -> Table:
    """ErrorCode.kt: arguments of the entries, then the switch of bases."""
    text = (KOTLIN / "ErrorCode.kt").read_text()
    entries = re.findall(r"^    (\w+)\((\d+), Branch\.(\w+), (true|false), (true|false), \"", text, re.MULTILINE)
    bases = dict(re.findall(r"^                (\w+) -> (\w+)$", text, re.MULTILINE))
    codes = {name: int(code) for name, code, *_ in entries}
    return {
        int(code): Row(name, branch, codes.get(bases.get(name, ""), 0), retryable == "true", final == "true")
        for name, code, branch, retryable, final in entries
    }


def kotlin_classes() -> Table:
    """Exceptions.kt: which class each code makes, and what that class is a special case of."""
    text = (KOTLIN / "Exceptions.kt").read_text()
    made = dict(re.findall(r"ErrorCode\.(\w+) -> (\w+)\(code,", text))
    parents = dict(
        re.findall(r"^public (?:open )?class (\w+) internal constructor\([^)]*\) : (\w+)\(", text, re.MULTILINE)
    )
    codes = {made[row.name]: code for code, row in definition().items()}

    def branch(cls: str) -> str:
        while cls in parents:
            cls = parents[cls]
        return cls.removesuffix("Exception").upper()

    return {
        codes[cls]: Row(name, branch(cls), codes.get(parents[cls], 0), *definition()[codes[cls]][3:])
        for name, cls in made.items()
    }


def typescript() -> Table:
    """errors.ts: the numbers, and an object for each."""
    text = TYPESCRIPT.read_text()
    codes = {name: int(code) for name, code in re.findall(r"^  (\w+): (\d+),$", text, re.MULTILINE)}
    table: Table = {}
    for entry in re.findall(r"^  \d+: \{\n(.*?)^  \},$", text, re.MULTILINE | re.DOTALL):
        values = {key: value.strip('"') for key, value in re.findall(r"^    (\w+): (.*),$", entry, re.MULTILINE)}
        assert codes[values["name"]] == int(values["code"])
        table[int(values["code"])] = Row(
            values["name"],
            values["branch"].upper(),
            codes.get(values.get("base", ""), 0),
            values["retryable"] == "true",
            values["final"] == "true",
        )
    return table


def page() -> Table:
    """docs/reference/api/errors.md."""
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| (?:`(\w+)`)? *\| (\w+) \| (yes)? *\| (yes)? *\| ", PAGE.read_text(), re.MULTILINE
    )
    codes = {name: int(code) for code, name, *_ in rows}
    return {
        int(code): Row(name, branch.upper(), codes.get(base, 0), bool(again), bool(final))
        for code, name, base, branch, again, final in rows
    }


@pytest.mark.parametrize("table", [generated_python, python_tree, swift, kotlin, kotlin_classes, typescript, page])
def test_a_language_has_the_tree_of_the_definition(table) -> None:  # type: ignore[no-untyped-def]
    assert table() == definition()


def test_c_has_the_numbers_and_their_names() -> None:
    found = re.findall(r"^    PHANTOM_ERROR_(\w+) = (\d+)", HEADER.read_text(), re.MULTILINE)
    numbers = {name: int(code) for name, code in found}
    assert numbers == {row.name: code for code, row in definition().items()}
    names = re.findall(r"^    (?:\"(\w+)\"|NULL),$", NAMES.read_text(), re.MULTILINE)
    assert names[0] == "OK"
    assert {code: name for code, name in enumerate(names) if name and code} == {
        code: row.name for code, row in definition().items()
    }


def test_default_texts_are_the_same() -> None:
    summaries = {error.code: error.summary for error in real().errors}
    text = (KOTLIN / "ErrorCode.kt").read_text()
    found = re.findall(r"^    \w+\((\d+), Branch.*, \"(.*)\"\)[,;]$", text, re.MULTILINE)
    assert {int(code): summary for code, summary in found} == summaries
    found = re.findall(
        r"^    code: (\d+),.*?^    summary: \"(.*?)\",$", TYPESCRIPT.read_text(), re.MULTILINE | re.DOTALL
    )
    assert {int(code): summary for code, summary in found} == summaries
    swift_text = SWIFT.read_text()
    codes = {name: int(code) for name, code in re.findall(SWIFT_CASE, swift_text, re.MULTILINE)}
    pairs = re.findall(r"case \.(\w+): return \"(.*)\"", swift_text.partition("var summary")[2])
    assert {codes[name]: summary for name, summary in pairs} == summaries


def test_bare_statuses_are_those_of_python() -> None:
    """What gRPC itself says means the same in the generated clients and in Python's."""
    named = {row.name: code for code, row in definition().items()}
    told = {bare.status: named[bare.error] for bare in BARE_STATUSES}
    assert told.pop("") == errors.InternalError.code
    assert told == {code.name: kind.code for code, (kind, _) in status._BARE.items()}
