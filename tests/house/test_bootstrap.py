"""The bootstrap hands pip's settings to uv, and works without uv."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import bootstrap

SOURCE = Path(bootstrap.__file__).read_text()


def answering(monkeypatch: pytest.MonkeyPatch, stdout: str, returncode: int = 0) -> list[dict[str, Any]]:
    """Let every command of the bootstrap print `stdout`; the options of the calls."""
    calls: list[dict[str, Any]] = []

    def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(options)
        return subprocess.CompletedProcess([str(part) for part in command], returncode, stdout, "")

    monkeypatch.setattr(bootstrap, "run", run)
    return calls


def test_it_needs_the_standard_library_alone() -> None:
    """It runs before anything is installed."""
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_uv_is_told_what_pip_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bootstrap.PIP_TO_UV.values():
        monkeypatch.delenv(name, raising=False)
    answering(
        monkeypatch,
        "global.index-url='https://mirror.example/simple'\n"
        "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'\n"
        ":env:.cert='/etc/ca.pem'\n"
        "global.timeout='60'\n",
    )
    assert bootstrap.uv_environment() == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }


def test_what_a_person_told_uv_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    answering(monkeypatch, "global.index-url='https://mirror.example/simple'\n")
    assert "UV_DEFAULT_INDEX" not in bootstrap.uv_environment()


@pytest.mark.parametrize(
    ("stdout", "returncode", "works"),
    [
        ("pluggy==1 \\\n    --hash=sha256:00\n", 0, True),
        ("", 2, False),
        ("pluggy==1\n", 0, False),  # an index without hashes is no use
    ],
)
def test_uv_is_tried_before_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, stdout: str, returncode: int, works: bool
) -> None:
    calls = answering(monkeypatch, stdout, returncode)
    assert bootstrap.uv_works({"UV_DEFAULT_INDEX": "x"}) is works
    assert calls[0]["env"]["UV_DEFAULT_INDEX"] == "x"


def test_a_machine_without_uv_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "BIN", tmp_path)
    assert bootstrap.uv_works({}) is False
