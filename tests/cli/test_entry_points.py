"""The console scripts, ``python -m phantom``, and the command line without its extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import phantom
from phantom import cli
from tests.cli.conftest import Start


@pytest.mark.parametrize(
    ("entry", "argv", "expected"),
    [
        (cli.main, ["version"], ["version"]),
        (cli.server_main, ["--bind", "x"], ["serve", "--bind", "x"]),
        (cli.sidecar_main, ["--help"], ["sidecar", "--help"]),
    ],
)
def test_what_each_one_runs(
    monkeypatch: pytest.MonkeyPatch, entry: object, argv: list[str], expected: list[str]
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("phantom.cli.app.run", lambda arguments: seen.append(arguments) or 5)
    monkeypatch.setattr(sys, "argv", ["script", *argv])
    with pytest.raises(SystemExit) as left:
        entry()  # type: ignore[operator]
    assert left.value.code == 5
    assert seen == [expected]


def without(module: str) -> subprocess.CompletedProcess[str]:
    """``phantom version`` where ``module`` cannot be imported."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv[1:] = ["version"]
from phantom.cli import main
main()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_names_the_extra(missing: str) -> None:
    done = without(missing)
    assert done.returncode == 1
    assert (
        done.stderr == "error: the command line needs Phantom's extra 'cli'; in a clone of it: pip install '.[cli]'\n"
    )


def test_another_missing_module_is_itself() -> None:
    done = without("phantom.server.urls")
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'phantom.server.urls'\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "text"),
    [
        ("phantom", ["version"], f"phantom {phantom.__version__}"),
        ("phantom-cli", ["version"], f"phantom {phantom.__version__}"),
        ("phantom-server", ["--help"], "Usage: phantom serve"),
        ("phantom-sidecar", ["--help"], "Usage: phantom sidecar"),
    ],
)
def test_the_scripts_run(start: Start, script: str, arguments: list[str], text: str) -> None:
    outcome = start(*arguments, command=[str(Path(sys.executable).parent / script)]).end()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(text)


@pytest.mark.slow
def test_the_module_runs(start: Start) -> None:
    assert start("version").end().out == f"phantom {phantom.__version__}\n"


def test_importing_the_module_runs_nothing() -> None:
    import phantom.__main__ as module

    assert module.main is cli.main
