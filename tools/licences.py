"""Holds the licences of everything Phantom installs to an allowlist: python -m tools.licences

What a user gets along with Phantom must be permissive. What only builds or checks it may be weakly copyleft besides: it
is not handed on.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Parts of the licence texts and SPDX expressions that packages state.
PERMISSIVE = ("Apache", "BSD", "CC0", "ISC", "MIT", "PSF", "Python Software Foundation")
FOR_TOOLS = (*PERMISSIVE, "MPL-2.0", "Mozilla Public License 2.0")


def handed_on() -> set[str]:
    """The packages that an installation of Phantom with all its extras but `dev` brings along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra != "dev"]
    todo = [Requirement(line) for lines in [project["dependencies"], *extras] for line in lines]
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        if requirement.marker and not requirement.marker.evaluate():
            continue
        found.add(canonicalize_name(requirement.name))
        for needed in map(Requirement, metadata.requires(requirement.name) or ()):
            marker = needed.marker
            wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
            if wanted and canonicalize_name(needed.name) not in found:
                todo.append(needed)
    return found


def main() -> int:
    shipped = handed_on()
    tools = {canonicalize_name(found.name) for found in metadata.distributions()} - shipped - {"phantom"}
    status = 0
    for names, allowed in ((shipped, PERMISSIVE), (tools, FOR_TOOLS)):
        command = ["pip-licenses", "--from=mixed", "--with-system", "--partial-match"]
        command += [f"--allow-only={';'.join(allowed)}", "--packages", *sorted(names)]
        status |= subprocess.run(command).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
