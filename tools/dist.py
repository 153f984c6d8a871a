"""Builds the sdist, and the wheel from the sdist, into dist/, and tries the wheel where nothing else is (`make dist`).

Builds what is committed, from its own copy, so that a file lying about is neither shipped nor missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
IN_WHEEL = ("phantom/__init__.py", "phantom/py.typed")
# The first releases of 3.11 do not know the argument.
SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path) -> Path:
    """Build the `kind` (build_sdist or build_wheel) of the tree `source` into dist/; the file."""
    command = [sys.executable, "-c", BUILD, kind, str(DIST)]
    done = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return DIST / done.stdout.splitlines()[-1]


def contents_are_right(wheel: Path) -> bool:
    """Say what is missing from the wheel or does not belong in it."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in IN_WHEEL if name not in names]
    missing += [] if any(name.endswith("/licenses/LICENSE") for name in names) else ["LICENSE"]
    strange = [name for name in names if not name.startswith(("phantom/", "phantom-"))]
    print(
        *(f"missing: {name}" for name in missing), *(f"does not belong: {name}" for name in strange), sep="\n", end=""
    )
    return not missing and not strange


def main() -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    git = ["git", "-C", str(ROOT)]
    date = subprocess.run(
        [*git, "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True
    ).stdout.strip()
    os.environ["SOURCE_DATE_EPOCH"] = date
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree)], check=True)
        try:
            sdist = build("build_sdist", tree)
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, **SAFELY)
        wheel = build("build_wheel", Path(scratch) / sdist.name.removesuffix(".tar.gz"))
        if not contents_are_right(wheel):
            return 1
        empty = Path(scratch) / "venv"
        venv.create(empty, with_pip=True)
        python = str(empty / ("Scripts" if os.name == "nt" else "bin") / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements" / "demo.txt")], check=True)
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
        subprocess.run([python, "-m", "phantom", "version"], cwd=scratch, check=True)
    print(*sorted(path.name for path in DIST.iterdir()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
