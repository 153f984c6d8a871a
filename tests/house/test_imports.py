"""Every module imports cleanly, and the bare package without any extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what is installed with an extra only
EXTRAS = (
    "click",
    "google",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "pqcrypto",
    "pydantic",
    "rich",
    "typer",
    "uvloop",
)
# the rooms and modules that an extra is for
ROOMS_OF_EXTRAS = ("phantom.__main__", "phantom.cli", "phantom.crypto.providers.pqcrypto", "phantom.sidecar")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = sorted(module_name(path) for path in (ROOT / "phantom").rglob("*.py"))
BARE = [name for name in MODULES if not name.startswith(ROOMS_OF_EXTRAS)]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_every_module_imports_without_a_warning_or_a_word() -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run(code, *(name for name in MODULES if not name.endswith("__main__")))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_bare_package_imports_without_any_extra() -> None:
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]: importlib.import_module(name)
"""
    done = run(code, *BARE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_phantom_starts_nothing() -> None:
    code = """
import asyncio, threading
import phantom, phantom.blocking
assert threading.active_count() == 1, threading.enumerate()
"""
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["phantom", "phantom.blocking"])
def test_public_names_are_what_all_says(name: str) -> None:
    module = __import__(name, fromlist=["__all__"])
    assert [missing for missing in module.__all__ if not hasattr(module, missing)] == []
    assert sorted(set(module.__all__)) == sorted(module.__all__)
