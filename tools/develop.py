"""Installs Phantom itself, editable, into the environment that runs this, when pyproject.toml has changed.

The build backend comes from the environment's own pinned packages, so nothing is fetched.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    stamp = Path(sys.prefix) / "phantom-develop.sha256"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--root-user-action=ignore"]
    pip += ["--no-deps", "--no-build-isolation", "--no-index", "--editable", "."]
    # What pip and setuptools warn about is not Phantom's affair.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(pip, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
