"""What Phantom's code promises about itself (docs: CONTRIBUTING.md, "The gates"), read off its syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "phantom"
SOURCES = sorted(PACKAGE.rglob("*.py"))
GENERATED = re.compile(r"_pb2(_grpc)?\.py$")

# Reach behind Python's back, or run what they read.
DANGEROUS_MODULES = {"_ctypes", "cffi", "code", "ctypes", "dill", "marshal", "pickle", "runpy", "shelve"}
DANGEROUS_CALLS = {"__import__", "compile", "eval", "exec"}
RANDOM_MODULES = {"random", "secrets", "uuid"}
RANDOM_FUNCTIONS = {"getrandom", "urandom"}
# Rooms in which a number from elsewhere would be a hole, or would make a run impossible to repeat.
RANDOM_FREE = ("api", "crypto", "runtime", "security", "transport")
THE_RANDOM_SOURCE = PACKAGE / "crypto" / "rng.py"


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a syntax tree imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(tree: ast.AST) -> Iterator[str]:
    """The plain names that a syntax tree calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def dangers(source: str) -> set[str]:
    tree = ast.parse(source)
    return {name.partition(".")[0] for name in imported(tree)} & DANGEROUS_MODULES | set(called(tree)) & DANGEROUS_CALLS


def foreign_randomness(source: str) -> set[str]:
    tree = ast.parse(source)
    names = {name.partition(".")[0] for name in imported(tree)} & RANDOM_MODULES
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        names |= {name} & RANDOM_FUNCTIONS
    return names | {name.rpartition(".")[2] for name in imported(tree)} & RANDOM_FUNCTIONS


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in SOURCES if not GENERATED.search(path.name)], ids=ids)
def test_nothing_reaches_behind_python(path: Path) -> None:
    assert dangers(path.read_text()) == set()


@pytest.mark.parametrize(
    "path",
    [path for room in RANDOM_FREE for path in (PACKAGE / room).rglob("*.py") if path != THE_RANDOM_SOURCE],
    ids=ids,
)
def test_randomness_comes_from_the_one_source(path: Path) -> None:
    assert foreign_randomness(path.read_text()) == set()


def test_nothing_is_left_out_of_the_coverage_count_by_hand() -> None:
    marked = [ids(path) for path in SOURCES if re.search(r"#\s*pragma:\s*no\s*(cover|branch)", path.read_text())]
    assert marked == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ctypes", {"ctypes"}),
        ("from ctypes.util import find_library", {"ctypes"}),
        ("def f():\n    import pickle as p", {"pickle"}),
        ("eval('1')", {"eval"}),
        ("re.compile('x')", set()),
        ("import code_of_conduct", set()),
    ],
)
def test_dangers_are_seen(source: str, found: set[str]) -> None:
    assert dangers(source) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import random", {"random"}),
        ("from random import Random", {"random"}),
        ("import os\nos.urandom(3)", {"urandom"}),
        ("from os import urandom as u", {"urandom"}),
        ("from os import path", set()),
        ("rng.fill_bytes(3)", set()),
    ],
)
def test_foreign_randomness_is_seen(source: str, found: set[str]) -> None:
    assert foreign_randomness(source) == found
