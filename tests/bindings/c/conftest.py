"""C programs against an installed prefix, in an empty environment.

These tests are the stage `make c`: they run only where they are asked for (`-m c`), as they need a C compiler and a
built prefix. PHANTOM_C_PREFIX names it; without it one is built for the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parent / "programs"
CLEAN = {"PATH": "/usr/bin:/bin"}
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

Compile = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "c: needs a C compiler and a built prefix; runs in `make c` only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.c)
        item.add_marker(pytest.mark.slow)
    wanted = config.getoption("markexpr").split()
    if "c" not in wanted or "not" in wanted:
        config.hook.pytest_deselected(items=here)
        items[:] = [item for item in items if item not in set(here)]


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed prefix."""
    named = os.environ.get("PHANTOM_C_PREFIX")
    if named:
        return Path(named).resolve()
    from bindings.c.build import build

    built = tmp_path_factory.mktemp("c") / "prefix"
    build(built)
    return built


@pytest.fixture(scope="session")
def compiled(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles one of the programs, once for each set of flags; linked and found by pkg-config and an rpath."""
    folder = tmp_path_factory.mktemp("programs")
    done: dict[tuple[str, tuple[str, ...]], Path] = {}

    def compile_program(name: str, *flags: str, library: bool = True) -> Path:
        key = name, flags
        if key not in done:
            source = PROGRAMS / name
            program = folder / f"{source.stem}-{len(done)}"
            cxx = source.suffix == ".cpp"
            command = [*(("c++", "-std=c++11") if cxx else ("cc", "-std=c11")), "-g", "-O1", *WARNINGS, *flags]
            command += [str(source), "-o", str(program), "-lpthread", "-ldl"]
            if library:
                command += [*pkg_config(prefix, "--cflags", "--libs"), f"-Wl,-rpath,{prefix / 'lib'}"]
            built = subprocess.run(command, capture_output=True, text=True, env=CLEAN)
            assert built.returncode == 0, built.stderr
            done[key] = program
        return done[key]

    return compile_program


def pkg_config(prefix: Path, *wanted: str) -> list[str]:
    """What pkg-config says of the prefix."""
    env = {**CLEAN, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    said = subprocess.run(["pkg-config", *wanted, "phantom"], capture_output=True, text=True, env=env)
    assert said.returncode == 0, said.stderr
    return said.stdout.split()


def run(*command: str | Path, env: dict[str, str] | None = None, **more: object) -> subprocess.CompletedProcess[str]:
    """Runs a program in an environment that has nothing but PATH and ``env``, without standard input."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**CLEAN, **(env or {})},
        **more,  # type: ignore[call-overload]
    )


def needs(tool: str) -> str:
    """The tool's place; the stage installs it, so that it is there is a matter of the stage."""
    found = shutil.which(tool)
    assert found, f"{tool} is missing: sh bindings/c/install-tools.sh"
    return found
