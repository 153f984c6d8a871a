"""The examples run, and their READMEs show what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PYTHON = ["loopback_demo"]


def without_what_varies(text: str) -> list[str]:
    text = re.sub(r"phantom1:[\w…]+", "PIN", text)
    return re.sub(r"127\.0\.0\.1:\d+|\d+\.\d+ ms", "#", text).splitlines()


@pytest.mark.parametrize("name", PYTHON)
def test_it_prints_what_its_readme_shows(name: str) -> None:
    program = EXAMPLES / name / f"{name}.py"
    done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = (program.parent / "README.md").read_text().partition(f"python {name}.py\n")[2].partition("```")[0]
    assert without_what_varies(done.stdout) == without_what_varies(shown)


def test_every_example_is_listed_and_run() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    listed = set(re.findall(r"^\| \[(\w[\w-]*)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == there
    assert set(PYTHON) <= there
