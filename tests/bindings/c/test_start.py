"""How the library finds its Python, whatever the environment and the place, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bindings.c.conftest import CLEAN, Compile, run

STARTED = ["0 OK", "", "locale C", "PYTHONHOME {home} LC_CTYPE unset"]


def started(program: Path, env: dict[str, str] | None = None, **more: object) -> None:
    done = run(program, env=env, **more)
    home = "set" if env and "PYTHONHOME" in env else "unset"
    assert done.stdout.splitlines() == [line.format(home=home) for line in STARTED]
    assert (done.returncode, done.stderr) == (0, "")


def refused(program: Path, env: dict[str, str] | None = None) -> str:
    """The text with which the start fails."""
    done = run(program, env=env)
    status, text = done.stdout.splitlines()[:2]
    assert status == "-100 NOT_STARTED"
    assert (done.returncode, done.stderr) == (0, "")
    return text


def test_empty_environment(compiled: Compile) -> None:
    started(compiled("start.c"))


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONHOME": "/nowhere"},
        {"PYTHONHOME": "/usr"},
        {"PYTHONPATH": "{traps}"},
        {"PATH": "{traps}:/usr/bin"},
        {"PYTHONSTARTUP": "/nowhere", "PYTHONINSPECT": "1", "PYTHONVERBOSE": "3", "PYTHONWARNINGS": "error"},
        {"VIRTUAL_ENV": "/nowhere", "PYTHONEXECUTABLE": "/nowhere/python", "PYTHONPLATLIBDIR": "nowhere"},
        {"__PYVENV_LAUNCHER__": "/usr/bin/python3"},
        {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "warn"},
        {"PYTHONDEVMODE": "1", "PYTHONMALLOCSTATS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDUMPREFS": "1"},
        {"HOME": "/nowhere", "TMPDIR": "/nowhere"},
    ],
    ids=lambda env: "-".join(env),
)
def test_hostile_environment(compiled: Compile, tmp_path: Path, env: dict[str, str]) -> None:
    for module in ("asyncio", "phantom", "phantom_c", "_cffi_backend", "os", "sitecustomize", "usercustomize"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('trapped')")
    trap = tmp_path / "python3"
    trap.write_text("#!/bin/sh\necho trapped\n")
    trap.chmod(0o755)
    started(compiled("start.c"), {name: value.format(traps=tmp_path) for name, value in env.items()}, cwd=tmp_path)


def test_every_name_of_the_library_finds_the_prefix(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    """Behind a link elsewhere, and by a relative path."""
    program = compiled("start.c")
    (tmp_path / "libphantom.so.0").symlink_to(prefix / "lib" / "libphantom.so.0")
    started(program, {"LD_LIBRARY_PATH": str(tmp_path)})
    started(program, {"LD_LIBRARY_PATH": "."}, cwd=prefix / "lib")


def test_moved_prefix_works(prefix: Path, tmp_path: Path) -> None:
    """Built somewhere, moved twice, used from there: by pkg-config, the rpath and the library itself."""
    one, other = tmp_path / "one", tmp_path / "a place" / "with spaces é"
    shutil.copytree(prefix, one, symlinks=True)
    other.parent.mkdir()
    one.rename(other)
    env = {**CLEAN, "PKG_CONFIG_PATH": str(other / "lib" / "pkgconfig")}
    source = Path(__file__).parent / "programs" / "start.c"
    # pkg-config escapes the spaces for a shell
    command = f"eval \"cc '{source}' -o '{tmp_path / 'start'}' $(pkg-config --cflags --libs phantom) -lpthread\""
    built = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=env)
    assert built.returncode == 0, built.stderr
    started(tmp_path / "start", {"LD_LIBRARY_PATH": str(other / "lib")})
    where = run(other / "bin" / "python3", "-I", "-c", "import phantom, sys; print(phantom.__file__, sys.prefix)")
    assert where.stdout.count(str(other)) == 2, where.stderr


def test_prefix_needs_no_writing(prefix: Path, compiled: Compile) -> None:
    """Nothing is compiled or kept in the prefix when it is used."""
    before = {path: path.stat().st_mtime_ns for path in prefix.rglob("*")}
    started(compiled("start.c"))
    assert {path: path.stat().st_mtime_ns for path in prefix.rglob("*")} == before


def test_named_python_is_taken_before_the_one_beside(prefix: Path, compiled: Compile) -> None:
    started(compiled("start.c"), {"PHANTOM_PYTHON": str(prefix / "bin" / "python3")})
    started(compiled("start.c"), {"PHANTOM_PYTHON": ""})


def test_named_python_is_missing(compiled: Compile, tmp_path: Path) -> None:
    text = refused(compiled("start.c"), {"PHANTOM_PYTHON": "/nowhere/python3"})
    assert text == "what PHANTOM_PYTHON names cannot be executed (No such file or directory): /nowhere/python3"
    (tmp_path / "python3").touch(mode=0o644)
    assert "cannot be executed" in refused(compiled("start.c"), {"PHANTOM_PYTHON": str(tmp_path / "python3")})
    assert "cannot be executed" in refused(compiled("start.c"), {"PHANTOM_PYTHON": "x" * 5000})


def test_named_python_is_another(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    """One without Phantom, one of another version, and something that is no Python at all."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    text = refused(compiled("start.c"), {"PHANTOM_PYTHON": str(bare / "bin" / "python3")})
    assert text.startswith(f"{bare}/bin/python3 has no Phantom that this library can use: ModuleNotFoundError: ")
    config = bare / "pyvenv.cfg"
    config.write_text(config.read_text().replace(f"version = {sys.version.split()[0]}", "version = 3.99.1"))
    text = refused(compiled("start.c"), {"PHANTOM_PYTHON": str(bare / "bin" / "python3")})
    assert "built with Python " + sys.version.split()[0] in text
    assert "is of Python 3.99.1" in text
    config.write_text("home = /nowhere\nversion = " + sys.version.split()[0] + "\n")
    refused(compiled("start.c"), {"PHANTOM_PYTHON": str(bare / "bin" / "python3")})
    refused(compiled("start.c"), {"PHANTOM_PYTHON": "/bin/true"})


def test_another_libpython_is_loaded(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    """One of the same name and another version, before ours on the way of the loader."""
    dynamic = run("readelf", "-dW", prefix / "lib" / "libphantom.so").stdout
    name = re.findall(r"\[(libpython[^]]+)\]", dynamic)[0]
    source = tmp_path / "other.c"
    symbols = run("nm", "-D", "--undefined-only", prefix / "lib" / "libphantom.so").stdout
    names = sorted(set(re.findall(r" U (_?Py\w+)", symbols)))
    lines = [f"void *{name};" for name in names if name != "Py_GetVersion"]
    source.write_text("\n".join(lines) + '\nconst char *Py_GetVersion(void) { return "3.99.1 (main)"; }\n')
    done = run("cc", "-shared", "-fPIC", source, "-o", tmp_path / name)
    assert done.returncode == 0, done.stderr
    text = refused(compiled("start.c"), {"LD_LIBRARY_PATH": str(tmp_path)})
    version = sys.version.split()[0]
    assert (
        text == f"this library was built with Python {version} and found {name} of Python 3.99.1 (main); build it again"
    )


def test_core_of_another_version_is_refused(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prefix, copy, symlinks=True)
    site = next((copy / "lib").glob("python3*/site-packages"))
    init = site / "phantom" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
    shutil.rmtree(site / "phantom" / "__pycache__")
    text = refused(compiled("start.c"), {"PHANTOM_PYTHON": str(copy / "bin" / "python3")})
    assert text.startswith("this is libphantom ")
    assert "has Phantom 9." in text


def test_prefix_without_its_python(prefix: Path, compiled: Compile, tmp_path: Path) -> None:
    """The library alone, copied out, uses the place it was built for; when that is gone too, it says so."""
    (tmp_path / "lib").mkdir()
    for name in os.listdir(prefix / "lib"):
        if name.startswith("libphantom.so"):
            shutil.copy2(prefix / "lib" / name, tmp_path / "lib" / name, follow_symlinks=False)
    started(compiled("start.c"), {"LD_LIBRARY_PATH": str(tmp_path / "lib")})
    python = prefix / "bin" / "python3"
    mode = stat.S_IMODE(python.stat().st_mode)
    python.chmod(0o644)
    try:
        text = refused(compiled("start.c"), {"LD_LIBRARY_PATH": str(tmp_path / "lib")})
    finally:
        python.chmod(mode)
    assert "there is no bin/python3 beside the folder of this library" in text
