"""What a library must leave alone, and live with, in somebody else's process."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.bindings.c.conftest import PROGRAMS, Compile, run

CASES = re.findall(r'^    \{"(\w+)", \w+\},$', (PROGRAMS / "process.c").read_text(), re.MULTILINE)
ENDS = {"sigint": -signal.SIGINT, "exit_while_waiting": 3, "fini_at_exit": 5}


@pytest.mark.parametrize("case", CASES)
def test_case(compiled: Compile, case: str) -> None:
    done = run(compiled("process.c"), case)
    assert (done.returncode, done.stdout, done.stderr) == (ENDS.get(case, 0), "", "")


@pytest.mark.parametrize("microseconds", [0, 5_000, 20_000, 50_000, 90_000, 130_000])
@pytest.mark.parametrize("where", ["sigint_at_start", "sigint_at_own_start"])
def test_interrupt_during_start_ends_the_program(compiled: Compile, where: str, microseconds: int) -> None:
    done = run(compiled("process.c"), where, str(microseconds))
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_plugin_loaded_locally_works_and_stays_mapped_when_unloaded(compiled: Compile) -> None:
    plugin = compiled("plugin.c", "-fPIC", "-shared")
    host = compiled("host.c", library=False)
    done = run(host, plugin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_exception_crosses(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    """Whatever is raised inside becomes a status, says nothing of its text, and ends no process."""
    copy = tmp_path / "copy"
    shutil.copytree(prefix, copy, symlinks=True)
    operations = next((copy / "lib").glob("python3*/site-packages/phantom_c_runtime/operations.py"))
    raising = """
        raise {"exit": SystemExit("secret"), "interrupt": KeyboardInterrupt("secret"), "value": ValueError("secret"),
               "memory": MemoryError("secret"), "phantom": ConnectionClosedError("told"), "type": 3}[provider]"""
    text = operations.read_text().replace('"""Known answers, and each algorithm against itself."""', raising)
    operations.write_text(text)
    shutil.rmtree(operations.parent / "__pycache__")
    ways = ["exit", "interrupt", "value", "memory", "phantom", "type", "key"]
    done = run(compiled("broken.c"), *ways, env={"PHANTOM_PYTHON": str(copy / "bin" / "python3")})
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    assert [status for status, _ in said] == ["-77", "-77", "-77", "3", "14", "-77", "-77"]
    assert "secret" not in done.stdout
    assert said[0][1] == "phantom_self_test: SystemExit inside the library; this is a bug"
    assert said[4][1] == "told"


def test_streams_stay_untouched_when_everything_fails(compiled: Compile) -> None:
    """Also when they are closed: what is opened later must not be written to in their place."""
    consumer = compiled("consumer.c")
    for case in ("concurrent_close", "bad_arguments", "wrong_pin"):
        done = run("/bin/sh", "-c", f'exec "{consumer}" {case} <&- >&- 2>&-')
        assert done.returncode == 0
    done = run(compiled("start.c"), "tcp://nowhere.invalid:1", "3", pass_fds=())
    assert done.stderr == ""
