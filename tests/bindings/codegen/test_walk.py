"""docs/how-to/add-an-operation.md, carried out on a copy of the tree: declared, generated, implemented, called."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bindings.c.build import missing
from tests.bindings.codegen.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = ROOT / "docs" / "how-to" / "add-an-operation.md"
BLOCK = re.compile(
    r'^<!-- walk: ([\w./]+)(?:, (before|behind|at the end)(?: "([^\n]*)")?)? -->\n```\w+\n(.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
COPIED = ("bindings", "phantom", "proto", "tools")


def apply(root: Path) -> None:
    """Carries out the blocks of the page in ``root``."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == PAGE.read_text(encoding="utf-8").count("<!-- walk: ") == 8
    for name, where, anchor, text in blocks:
        path = root / name
        if not where:
            path.write_text(text)
            continue
        before = path.read_text()
        if where == "at the end":
            path.write_text(before + text)
            continue
        lines = before.splitlines(keepends=True)
        (at,) = [number for number, line in enumerate(lines) if line.startswith(anchor)]
        lines.insert(at + (where == "behind"), text)
        path.write_text("".join(lines))


def python(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in ``root``, so that it imports what is there."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which the page was followed as far as its step 3."""
    root = tmp_path_factory.mktemp("walk")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name in ("LICENSE", "buf.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    python(root, "-m", "tools.generate")  # what the copy leaves out
    apply(root)
    written = python(root, "-m", "tools.generate").stdout
    for path in (
        "bindings/c/include/phantom.h",
        "bindings/c/generated/phantom_shims.c",
        "bindings/c/man/man3/phantom_greet.3",
        "bindings/kotlin/src/main/kotlin/phantom/v1/Clients.kt",
        "bindings/swift/Sources/Phantom/Generated/V1+Clients.swift",
        "bindings/wasm/src/generated/services.ts",
        "docs/reference/api/sidecar-service.md",
        "docs/reference/c/README.md",
        "phantom/sidecar/_generated/v1/sidecar_pb2_grpc.py",
    ):
        assert f"wrote: {path}\n" in written
    return root


@pytest.fixture
def socket() -> Iterator[Path]:
    """A place for a socket, with a path that is short enough."""
    folder = Path(tempfile.mkdtemp(prefix="ph"))
    yield folder / "s.sock"
    shutil.rmtree(folder)


def test_the_definition_is_clean_and_nothing_is_left_to_generate(walked: Path) -> None:
    assert python(walked, "-m", "tools.generate", "--check").stdout == ""
    buf = Path(sys.executable).with_name("buf")
    for arguments in (["lint"], ["format", "--diff", "--exit-code"]):
        done = subprocess.run([buf, *arguments], cwd=walked, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_language_has_it(walked: Path) -> None:
    for path, text in {
        "bindings/c/include/phantom.h": "phantom_status phantom_greet(const char *name, phantom_buffer *greeting);",
        "bindings/kotlin/src/main/kotlin/phantom/v1/Clients.kt": "public suspend fun greet(",
        "bindings/kotlin/src/main/kotlin/phantom/v1/SidecarTypes.kt": 'public val motto: String = "",',
        "bindings/swift/Sources/Phantom/Generated/V1+Clients.swift": "public func greet(",
        "bindings/swift/Sources/Phantom/Generated/V1+Sidecar.swift": 'public var motto: String = ""',
        "bindings/wasm/src/generated/services.ts": 'path: "/phantom.v1.SidecarService/Greet",',
        "bindings/wasm/src/generated/messages.ts": "  motto: string;",
        "docs/reference/api/sidecar-service.md": "Greets somebody. Error 6 without a name.",
        "docs/reference/c/README.md": "### phantom_greet",
        "bindings/c/generated/phantom_c.py": "    def greet(self, name: str) -> str:",
    }.items():
        assert text in (walked / path).read_text(encoding="utf-8"), path


@pytest.mark.skipif(sys.platform == "win32", reason="the sidecar of this test has a unix socket")
def test_python_calls_it_through_the_sidecar(walked: Path, socket: Path) -> None:
    command = [sys.executable, "-m", "phantom", "sidecar", "--print-ready", "--socket", str(socket)]
    env = {**os.environ, "PYTHONPATH": str(walked)}
    with subprocess.Popen(command, cwd=walked, env=env, stdout=subprocess.PIPE, text=True) as sidecar:
        try:
            assert sidecar.stdout is not None
            ready = json.loads(sidecar.stdout.readline())
            where = {"PHANTOM_SIDECAR_ADDRESS": ready["address"], "PHANTOM_SIDECAR_TOKEN_FILE": ready["token_file"]}
            said = python(walked, "greet.py", **where).stdout
        finally:
            sidecar.terminate()
    assert said == "hello, Ada; small and exact\n6; nobody to greet; give a name\n"


def test_c_calls_it(walked: Path, tmp_path: Path) -> None:
    lacks = [] if sys.platform == "linux" else ["Linux"]
    lacks = lacks or [*missing(), *(f"{tool}" for tool in ("cc", "pkg-config") if not shutil.which(tool))]
    if lacks:
        pytest.skip(f"NOT RUN: the C half of the walk, for lack of {', '.join(lacks)}")
    prefix = tmp_path / "prefix"
    python(walked, "-m", "bindings.c.build", "--prefix", str(prefix))
    clean = {"PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    command = ["pkg-config", "--cflags", "--libs", "phantom"]
    flags = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.split()
    program = tmp_path / "greet"
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", str(walked / "greet.c"), "-o", str(program), *flags]
    built = subprocess.run([*command, f"-Wl,-rpath,{prefix / 'lib'}"], env=clean, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], env={}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0; hello, Ada\n6; nobody to greet; give a name\n"
