"""Installs Phantom itself, editable, into the environment that runs this, and only when pyproject.toml has changed since the last time.

The build backend comes from the environment's own pinned packages, so nothing is fetched.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    stamp = Path(sys.prefix) / "phantom-develop.sha256"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--editable", "."], cwd=ROOT, check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
