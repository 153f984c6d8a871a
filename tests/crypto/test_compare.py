from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import phantom
from phantom.crypto.compare import constant_time_equal

PACKAGE = Path(phantom.__file__).parent
SECRET = re.compile(r"secret|\bmac\b|\btag\b|cookie|\bseed\b|ss_x|ss_pq|shared|expected|\bgot\b")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_equality(kind: type[bytes]) -> None:
    cookie = bytes(range(32))
    assert constant_time_equal(kind(cookie), cookie)
    assert not constant_time_equal(kind(cookie), cookie[:-1] + b"\0")
    assert not constant_time_equal(kind(cookie), b"\1" + cookie[1:])
    assert not constant_time_equal(kind(cookie), cookie[:-1])
    assert not constant_time_equal(kind(cookie), b"")
    assert constant_time_equal(kind(b""), b"")


def test_nobody_else_compares_secrets() -> None:
    """Wire-native Appendix A row 11: every secret comparison goes through the one helper."""
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {getattr(node, key, None) for key in ("id", "attr", "name")}
            if "compare_digest" in names or "bytes_eq" in names:
                users.add(path.relative_to(PACKAGE).as_posix())
    assert users == {"crypto/compare.py"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "crypto").rglob("*.py")), ids=lambda path: path.name)
def test_no_equality_operator_touches_a_secret(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            operands = [node.left, *node.comparators]
            sizes = [
                operand for operand in operands if isinstance(operand, ast.Call) and ast.unparse(operand.func) == "len"
            ]
            text = ast.unparse(node)
            assert sizes or not SECRET.search(text), text
