"""What the tests of the documentation share: pages, code blocks, tables, and what the syntax trees of phantom/ say."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "phantom"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(path for folder in ("docs", "examples", "proto") for path in (ROOT / folder).rglob("*.md"))]
)
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=fence)", re.MULTILINE | re.DOTALL
)
_RUN = re.compile(r"<!-- run:(?P<needs>[\w ]*)-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, the line it begins on, and what a comment before it asks for (``<!-- run: … -->``)."""

    page: Path
    line: int
    language: str
    text: str
    needs: frozenset[str]

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of ``page`` in one language."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["info"].strip() == language:
            asked = _RUN.search(text, 0, match.start())
            needs = frozenset(asked["needs"].split()) if asked else frozenset()
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, match["body"], needs))
    return found


def table(page: Path, first_column: str) -> list[dict[str, str]]:
    """The rows of the tables of ``page`` whose first heading is ``first_column``, by heading; escaped bars are bars."""
    rows: list[dict[str, str]] = []
    heads: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not heads:
            heads = cells
        elif not re.fullmatch(r"[|\s:-]+", line) and heads[0] == first_column:
            assert len(cells) == len(heads), f"{page.name}: a row has other columns than its table: {line}"
            rows.append(dict(zip(heads, cells, strict=True)))
    return rows


def code(cell: str) -> list[str]:
    """The code spans of a cell; a span in double backticks may hold single ones."""
    return [two.strip() or one for two, one in re.findall(r"``(.+?)``|`([^`]+)`", cell)]


# --- the package, by its syntax trees ---------------------------------------------------------------------------------


def sources(*rooms: str) -> list[Path]:
    """The hand-written modules under ``phantom/``, or under some rooms of it."""
    folders = [PACKAGE / room for room in rooms] or [PACKAGE]
    return sorted(path for folder in folders for path in folder.rglob("*.py") if "_generated" not in path.parts)


def shown(path: Path) -> str:
    """A module as documents name it: without ``phantom/``."""
    return path.relative_to(PACKAGE).as_posix()


@dataclass(frozen=True)
class Place:
    """A statement: its module, the function or class it is in, and its syntax tree."""

    path: Path
    scope: str
    node: ast.AST

    @property
    def site(self) -> str:
        return f"{shown(self.path)} {self.scope}"


def walk(path: Path) -> Iterator[Place]:
    """Every node of a module with the qualified name of what it is in."""

    def visit(node: ast.AST, scope: str) -> Iterator[Place]:
        for child in ast.iter_child_nodes(node):
            yield Place(path, scope or "(module)", child)
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from visit(child, f"{scope}.{child.name}".lstrip(".") if named else scope)

    return visit(ast.parse(path.read_text("utf-8")), "")


@functools.cache
def symbols() -> dict[str, set[str]]:
    """Every ``name`` and ``Class.name`` that the package defines, with the modules that define it."""
    found: dict[str, set[str]] = {}

    def add(name: str, path: Path) -> None:
        found.setdefault(name, set()).add(shown(path))

    for path in sources():
        for place in walk(path):
            node, scope = place.node, "" if place.scope == "(module)" else place.scope + "."
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                add(scope + node.name, path)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        add(scope + target.id, path)
                    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                        add(f"{place.scope.partition('.')[0]}.{target.attr}", path)
    return found


def awaits(path: Path) -> set[str]:
    """The functions of a module that can be suspended, and so cancelled."""
    waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return {place.scope for place in walk(path) if isinstance(place.node, waiting)}


def asserts() -> Counter[tuple[str, str]]:
    """Every assert statement: (site, expression)."""
    places = (place for path in sources() for place in walk(path))
    return Counter((p.site, ast.unparse(p.node.test)) for p in places if isinstance(p.node, ast.Assert))


def broad_excepts() -> Counter[tuple[str, str]]:
    """Every handler that catches more than a kind of error: (site, what it catches)."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sources():
        for place in walk(path):
            if isinstance(place.node, ast.ExceptHandler):
                caught = "" if place.node.type is None else ast.unparse(place.node.type)
                if not caught or {"Exception", "BaseException"} & set(re.findall(r"\w+", caught)):
                    found[place.site, caught] += 1
    return found


def suppressed_errors() -> Counter[tuple[str, str]]:
    """Every ``contextlib.suppress``: (site, what it suppresses)."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sources():
        for place in walk(path):
            node = place.node
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
                found[place.site, ", ".join(map(ast.unparse, node.args))] += 1
    return found


def internal_raises() -> Counter[tuple[str, str]]:
    """Every raise that only a bug reaches: (site, error)."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sources():
        for place in walk(path):
            node = place.node
            if isinstance(node, ast.Raise) and node.exc is not None:
                name = ast.unparse(node.exc).partition("(")[0].rpartition(".")[2]
                if name in ("InternalError", "NotImplementedError", "AssertionError"):
                    found[place.site, name] += 1
    return found


def silenced_tools() -> Counter[tuple[str, str]]:
    """Every comment that silences the linter or the type checker: (module, comment)."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sources():
        for text in path.read_text("utf-8").splitlines():
            for comment in re.findall(r"#\s*((?:ruff: )?noqa(?:: [A-Z0-9, ]+\b)?|type: ignore(?:\[[\w-]+\])?)", text):
                found[shown(path), comment.strip()] += 1
    return found


@functools.cache
def named_tests() -> dict[str, set[str]]:
    """The test functions of every file under tests/, by the file's path in the repository."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        }
        if names:
            found[path.relative_to(ROOT).as_posix()] = names
    return found
