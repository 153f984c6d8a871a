"""The error tables agree with each other, with the definition and with the tree that Python raises."""

from __future__ import annotations

import re
from pathlib import Path

from bindings.codegen.plugin import render
from phantom import errors
from tests.bindings import error_table
from tests.bindings.codegen.support import check_golden, package_of, real


def test_golden() -> None:
    check_golden("errors")


def test_a_package_without_errors_has_no_tables(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3";\npackage x.v1;\n'), ["errors"]) == {}


def test_python_raises_these_errors() -> None:
    for error in error_table.ERRORS:
        cls = errors.error_class(error.code)
        assert cls.code == error.code
        assert issubclass(cls, getattr(errors, f"{error.branch.capitalize()}Error"))
        assert (cls.retryable, cls.final) == (error.retryable, error.final), error.name
        parent = cls.__mro__[1]
        assert issubclass(parent, errors.PhantomError)
        assert parent.code == error.base, error.name


def test_python_raises_no_other_errors() -> None:
    raised = {cls.code for name in errors.__all__ if isinstance(cls := getattr(errors, name), type) and cls.code}
    assert raised == {error.code for error in error_table.ERRORS}


def test_every_language_has_the_same_codes() -> None:
    files = {path.rpartition(".")[2]: content.decode() for path, content in render(real(), ["errors"]).items()}
    expected = {(error.code, error.name) for error in error_table.ERRORS}

    def pairs(pattern: str, text: str) -> set[tuple[int, str]]:
        return {(int(code), name) for name, code in re.findall(pattern, text, re.MULTILINE)}

    assert pairs(r"^    (\w+)\((\d+), Branch", files["kt"]) == expected
    assert pairs(r"^  (\w+): (\d+),$", files["ts"]) == expected
    swift = pairs(r"^    case `?(\w+)`? = (\d+)$", files["swift"])
    assert {(code, name.lower()) for code, name in swift} == {
        (code, name.replace("_", "").lower()) for code, name in expected
    }
    names = re.findall(r"^    (?:\"(\w+)\"|NULL),$", files["c"], re.MULTILINE)
    assert {(code, name) for code, name in enumerate(names) if name and code} == expected
