"""Brings tox to a machine that has only Python, and runs it: `python3 tools/bootstrap.py ARGUMENTS-OF-TOX`.

tox and uv go into .tox/.boot, pinned and hash-checked, once for each version of requirements/boot.txt. uv then installs
the environments; where it cannot reach the package index that pip is set up for, pip does the same work, slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "boot.txt"
HOME = ROOT / ".tox" / ".boot"
STAMP = HOME / "stamp.json"
BIN = HOME / ("Scripts" if os.name == "nt" else "bin")
# pip's settings that uv does not read, and uv's names for them
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's root and return what it printed."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, text=True, check=False, **options)


def uv_environment() -> dict[str, str]:
    """What uv must be told so that it installs from where pip does."""
    listed = run(BIN / "python", "-m", "pip", "config", "list", capture_output=True).stdout
    told: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = PIP_TO_UV.get(key.rpartition(".")[2])
        if name and name not in os.environ:
            told[name] = " ".join(value.strip("'\"").split("\\n"))
    return told


def uv_works(environment: dict[str, str]) -> bool:
    """Try uv on one small package, without its cache."""
    probe: list[str | Path] = [BIN / "uv", "pip", "compile", "--quiet", "--no-cache", "--generate-hashes", "-"]
    try:
        found = run(*probe, input="pluggy", capture_output=True, env={**os.environ, **environment})
    except OSError:
        return False
    return found.returncode == 0 and "sha256:" in found.stdout


def install(fingerprint: str) -> None:
    """Make .tox/.boot anew and note which installer works here."""
    print("bootstrap: installing tox (once)", flush=True)
    if run(sys.executable, "-m", "venv", "--clear", HOME).returncode:
        sys.exit(
            "bootstrap: this Python makes no virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
        )
    pip: list[str | Path] = [
        BIN / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
    ]
    if run(*pip, "-r", LOCK).returncode:
        sys.exit("bootstrap: pip could not install tox; is a package index within reach (`pip config list`)?")
    environment = uv_environment()
    works = uv_works(environment)
    if not works:
        print(
            "bootstrap: uv cannot use this machine's package index; pip installs instead, which takes longer",
            flush=True,
        )
        environment = {"TOX_OVERRIDE": "testenv.runner=virtualenv"}
    STAMP.touch(mode=0o600)  # an index address may hold a password
    STAMP.write_text(json.dumps({"fingerprint": fingerprint, "environment": environment}))


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  this is where everybody else learns it
        version = sys.version.split()[0]
        sys.exit(f"bootstrap: Phantom needs Python 3.11 or newer, this is {version}; make PYTHON=... names another")
    fingerprint = hashlib.sha256(LOCK.read_bytes() + f"{sys.version} {sys.base_prefix}".encode()).hexdigest()
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        stamp = {}
    if stamp.get("fingerprint") != fingerprint:
        install(fingerprint)
        stamp = json.loads(STAMP.read_text())
    environment = {**stamp["environment"], **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    sys.exit(run(BIN / "tox", *sys.argv[1:], env=environment).returncode)


if __name__ == "__main__":
    main()
