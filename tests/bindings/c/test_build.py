"""What is in the prefix, how it is linked, and what the build says when it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bindings.c import build
from tests.bindings.c.conftest import CLEAN, WARNINGS, needs, pkg_config, run

ROOT = Path(__file__).resolve().parents[3]


def test_symbols_and_linking(prefix: Path) -> None:
    library = prefix / "lib" / "libphantom.so"
    symbols = run("nm", "-D", "--defined-only", library).stdout
    names = {line.split()[-1].partition("@")[0] for line in symbols.splitlines() if " A " not in line}
    declared = set(
        re.findall(
            r"^PHANTOM_API [^;]*?\b(phantom_\w+)\(", (prefix / "include" / "phantom.h").read_text(), re.MULTILINE
        )
    )
    assert names == declared
    assert {line.split()[-1] for line in symbols.splitlines() if " A " in line} == {"PHANTOM_0"}
    dynamic = run("readelf", "-dW", library).stdout
    assert "Library soname: [libphantom.so.0]" in dynamic
    assert re.search(r"FLAGS_1.*NODELETE", dynamic)
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic))
    assert {
        name for name in needed if not re.match(r"lib(python3[\d.]+so[\d.]*|c\.so\.6|dl\.so|pthread\.so)|ld-", name)
    } == set()


def test_links_point_within_the_prefix(prefix: Path) -> None:
    assert (prefix / "lib" / "libphantom.so").readlink() == Path("libphantom.so.0")
    assert (prefix / "lib" / "libphantom.so.0").readlink() == Path(f"libphantom.so.{build.VERSION}")
    assert not [path for path in prefix.rglob("*") if path.is_symlink() and path.readlink().is_absolute()]


@pytest.mark.parametrize("standard", ["c99", "c11", "c++11", "c++20"])
def test_header_compiles_as(prefix: Path, tmp_path: Path, standard: str) -> None:
    source = tmp_path / ("use.cpp" if "++" in standard else "use.c")
    source.write_text(
        "#include <phantom.h>\n#include <phantom.h>\nint main(void) { return phantom_abi_version() == 0; }\n"
    )
    compiler = "c++" if "++" in standard else "cc"
    flags = [f"-std={standard}", *WARNINGS, "-pedantic", "-fsyntax-only", *pkg_config(prefix, "--cflags")]
    done = run(compiler, *flags, source)
    assert (done.returncode, done.stderr) == (0, "")


def test_runtime_compiles_without_warnings(tmp_path: Path) -> None:
    import sysconfig

    here = ROOT / "bindings" / "c"
    source = tmp_path / "library.c"
    source.write_text(
        "#include <Python.h>\nstatic int cffi_start_python(void) { return 0; }\n"
        '#include "runtime.c"\nstatic int32_t phantom_rt_py_fini(int64_t t) { return t != 0; }\n'
        "void phantom_use(void) { phantom_rt_free(phantom_rt_alloc(1, 1)); phantom_rt_enter(); }\n"
    )
    folders = [f"-I{here / name}" for name in ("include", "runtime", "generated")]
    macros = ['-DPHANTOM_PYTHON_DEFAULT="/p"', '-DPHANTOM_LIBPYTHON="l"', "-DPHANTOM_BUILD=1"]
    include = sysconfig.get_path("include")
    done = run("cc", "-std=gnu11", "-O2", *WARNINGS, "-fsyntax-only", *macros, *folders, f"-isystem{include}", source)
    assert (done.returncode, done.stderr) == (0, "")


def test_examples_by_pkg_config(prefix: Path, tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(prefix / "share" / "phantom" / "examples", folder)
    done = run("make", "-C", folder, f"PREFIX={prefix}", "CC=cc")
    assert done.returncode == 0, done.stderr
    use_examples(folder, tmp_path)


def test_examples_by_cmake(prefix: Path, tmp_path: Path) -> None:
    cmake = needs("cmake")
    folder, out = prefix / "share" / "phantom" / "examples", tmp_path / "out"
    for command in ([cmake, "-S", folder, "-B", out, f"-DCMAKE_PREFIX_PATH={prefix}"], [cmake, "--build", out]):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    use_examples(out, tmp_path)


@pytest.mark.parametrize(
    ("version", "fits"), [("0.2", True), ("0.2.0", True), ("0.3", False), ("0.1", False), ("1", False)]
)
def test_cmake_package_fits(prefix: Path, tmp_path: Path, version: str, fits: bool) -> None:
    cmake = needs("cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(x NONE)\nfind_package(phantom {version} CONFIG REQUIRED)\n"
    )
    done = run(cmake, "-S", tmp_path, "-B", tmp_path / "out", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert (done.returncode == 0) is fits, done.stderr


def use_examples(folder: Path, tmp_path: Path) -> None:
    """A server that keeps its key, two clients, and a file there and back; all in an empty environment."""
    seed = tmp_path / "seed"
    seed.write_bytes(bytes(range(64)))
    urls = set()
    for _ in range(2):
        server = started(folder / "echo_server", "tcp://127.0.0.1:0", seed)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        urls.add(url.partition("@")[0])
        for words in (["hello"], ["two", "words"]):
            done = run(folder / "echo_client", url, *words)
            assert (done.returncode, done.stdout.split(), done.stderr) == (0, words, "")
        server.terminate()
        assert server.communicate()[0] == ""
        assert server.returncode == 0
    assert len(urls) == 1
    content = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(content)
    sender = started(folder / "file_transfer", "send", tmp_path / "file", "tcp://127.0.0.1:0")
    assert sender.stdout is not None
    done = run(folder / "file_transfer", "receive", sender.stdout.readline().strip(), tmp_path / "copy")
    assert (done.returncode, done.stderr) == (0, "")
    sender.communicate()
    assert sender.returncode == 0
    assert (tmp_path / "copy").read_bytes() == content
    server = started(folder / "stream_echo", "serve", "tcp://127.0.0.1:0")
    assert server.stdout is not None
    done = run(folder / "stream_echo", "ask", server.stdout.readline().strip(), "one", "two", "three")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["ONE", "TWO", "THREE"], "")
    server.communicate()
    assert server.returncode == 0


def started(*command: object) -> subprocess.Popen[str]:
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=CLEAN)


def test_build_says_what_is_missing(tmp_path: Path) -> None:
    """No compiler on PATH, no header files, no shared library, no cffi."""
    code = (
        "import sysconfig, sys; from bindings.c import build;"
        "sysconfig.get_path = lambda *a, **k: '/nowhere'; build.libpython = lambda: None;"
        "build.metadata.version = lambda name: (_ for _ in ()).throw(build.metadata.PackageNotFoundError());"
        "build.main(['--prefix', sys.argv[1]])"
    )
    done = run(sys.executable, "-c", code, tmp_path / "prefix", env={"PATH": str(tmp_path)}, cwd=ROOT)
    assert done.returncode == 1
    for lack in ("a C compiler", "Python.h", "libpython", "cffi", "sh bindings/c/install-tools.sh"):
        assert lack in done.stderr
    assert not (tmp_path / "prefix").exists()


def test_build_does_not_take_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = run(sys.executable, "-m", "bindings.c.build", "--prefix", tmp_path, cwd=ROOT)
    assert done.returncode == 1
    assert "needs a folder of its own" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
