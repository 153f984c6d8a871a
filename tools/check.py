"""Everything that can be said about the tree without running its tests (`make check`).

The checks run side by side; each prints its time, and its output if it failed. The beginnings
of names select (make check ARGS="types proto"); --fix writes what the formatters want instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
# name -> command; the long ones first, so that the short ones fill the gaps
CHECKS: dict[str, list[str]] = {
    "types": ["mypy"],
    "drift": [PYTHON, "-m", "tools.generate", "--check"],
    "layers": ["lint-imports", "--no-logo"],
    "dead code": [PYTHON, "-m", "tools.dead_code"],
    "workflows": [PYTHON, "-m", "tools.workflows"],
    "workflow security": ["zizmor", "--offline", "--quiet", "--no-progress", ".github"],
    "proto lint": ["buf", "lint"],
    "proto format": ["buf", "format", "--diff", "--exit-code"],
    "dependencies": ["deptry", "--no-ansi", "."],
    "licences": [PYTHON, "-m", "tools.licences"],
    "shell": ["shellcheck", ".ci/run"],
    "lint": ["ruff", "check", "--quiet", "--output-format=concise", "."],
    "format": ["ruff", "format", "--check", "--quiet", "--output-format=concise", "."],
    "tree": [PYTHON, "-m", "tools.tree"],
}
FIXES: tuple[list[str], ...] = (
    ["ruff", "check", "--fix", "--quiet", "."],
    ["ruff", "format", "--quiet", "."],
    ["buf", "format", "--write"],
)


def run(name: str) -> tuple[str, int, float, str]:
    """Run one check; its name, exit status, seconds and output."""
    start = time.monotonic()
    done = subprocess.run(CHECKS[name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return name, done.returncode, time.monotonic() - start, done.stdout


def main(arguments: list[str]) -> int:
    if arguments == ["--fix"]:
        return max(subprocess.run(command, cwd=ROOT).returncode for command in FIXES)
    unknown = [argument for argument in arguments if not any(name.startswith(argument) for name in CHECKS)]
    chosen = [name for name in CHECKS if not arguments or name.startswith(tuple(arguments))]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are: {', '.join(CHECKS)}")
        return 2
    failed = []
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        for name, status, seconds, output in pool.map(run, chosen):
            print(f"{'ok  ' if status == 0 else 'FAIL'} {name:<18} {seconds:5.1f} s", flush=True)
            # A check that passed may still have to say that it could not look.
            if status or "NOT RUN" in output:
                print(output.rstrip(), flush=True)
            if status:
                failed.append(name)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
