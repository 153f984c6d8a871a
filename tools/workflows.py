"""Runs actionlint over .github/workflows: python -m tools.workflows

actionlint is a Go program, and no Python package of it installs without a download from elsewhere, so the first run
builds it from source: with the Go that is installed, else with the one that a Python package brings. Its version and
hashes are in tools/actionlint/go.mod and go.sum. The program stays in .cache/; the compiler does not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "tools" / "actionlint"
PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"
LOCK = ROOT / "requirements" / "go.txt"


def build(program: Path) -> str:
    """Build actionlint into `program`; what went wrong, or nothing."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        caches = {"GOCACHE": f"{scratch}/build", "GOMODCACHE": f"{scratch}/modules", "GOFLAGS": "-modcacherw"}
        environment = {**os.environ, "GOTOOLCHAIN": "local", "PYTHONPATH": f"{scratch}/go", **caches}
        make = ["build", "-o", str(program), PACKAGE]
        said = ""
        for go in (shutil.which("go"), f"{scratch}/go/bin/go"):
            if go is None:
                continue
            if not Path(go).exists():
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
                pip += ["--require-hashes", f"--target={scratch}/go", "-r", str(LOCK)]
                fetched = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if fetched.returncode:
                    return said + fetched.stdout
            built = subprocess.run(
                [go, *make], cwd=MODULE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if built.returncode == 0:
                return ""
            said += built.stdout  # an installed Go may be too old
        return said


def main() -> int:
    version = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    program = ROOT / ".cache" / f"actionlint-{version}"
    if not program.exists() and (trouble := build(program)):
        print(f"actionlint NOT RUN: it could not be built here (the job `lint` runs it all the same):\n{trouble}")
        return 1 if os.environ.get("GITHUB_ACTIONS") else 0
    return subprocess.run([program, "-no-color", "-shellcheck", shutil.which("shellcheck") or ""], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
