"""Compiles definitions for the tests of the generator, and compares with what was generated before.

``GOLDEN=write pytest tests/bindings/codegen`` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from bindings.codegen.model import DefinitionError, Package, load
from bindings.codegen.plugin import render
from tools import generate

ROOT = generate.ROOT
HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
TOY = "toy/v1/toy.proto"


def compiled(root: Path, *names: str) -> FileDescriptorSet:
    """The descriptors of the files under ``root`` and of all they import."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.binpb")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"-I{ROOT / 'proto'}"]
        command += [f"--descriptor_set_out={out}", "--include_imports", "--include_source_info", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return FileDescriptorSet.FromString(out.read_bytes())


def package_of(folder: Path, text: str, version: str = "0.2.0") -> Package:
    """The model of one proto file ``x.proto`` with this text."""
    (folder / "x.proto").write_text(text)
    return load(compiled(folder, "x.proto").file, ["x.proto"], version)


def check_refused(folder: Path, declarations: str, fault: str, use: Callable[[Package], object]) -> None:
    """Asserts that loading, or else ``use``, is a DefinitionError that names the line marked ``// !``, and a remedy."""
    text = 'syntax = "proto3";\npackage x.v1;\nimport "phantom/options/v1/options.proto";\n' + declarations
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "// !" in line)
    with pytest.raises(DefinitionError) as caught:
        use(package_of(folder, text))
    place, said, remedy = str(caught.value).split(": ", 2)
    assert place == f"x.proto:{line}"
    assert fault in said
    assert remedy


@cache
def toy() -> Package:
    """The model of the toy: every construct that there is, in one small file."""
    return load(compiled(HERE / "toy", TOY).file, [TOY], "1.2.3")


@cache
def real() -> Package:
    """The model of the definition."""
    return load(generate.descriptors().file, generate.sources(), generate.version())


def check_golden(target: str) -> None:
    """Asserts that the target makes of the toy what lies in ``golden/<target>/``."""
    made = render(toy(), [target])
    folder = GOLDEN / target
    if os.environ.get("GOLDEN") == "write":
        for path, content in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert sorted(there) == sorted(made)
    for name, path in there.items():
        assert path.read_text() == made[name].decode(), name
