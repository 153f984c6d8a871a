"""The doors of the generator: as a plugin of protoc, and as a function."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler import plugin_pb2

from bindings.codegen import plugin
from bindings.codegen.targets import MARKER, Target, comment, environment, quoted, swift_name, targets
from tests.bindings.codegen.support import HERE, ROOT, TOY, compiled, toy
from tools import generate


def _answer(parameter: str, name: str = TOY) -> plugin_pb2.CodeGeneratorResponse:
    request = plugin_pb2.CodeGeneratorRequest(
        parameter=parameter, file_to_generate=[name], proto_file=compiled(HERE / "toy", TOY).file
    )
    sink = io.BytesIO()
    assert plugin.main(io.BytesIO(request.SerializeToString()), sink) == 0
    return plugin_pb2.CodeGeneratorResponse.FromString(sink.getvalue())


def test_answer() -> None:
    answer = _answer("target=errors,version=1.2.3")
    assert not answer.error
    assert answer.supported_features == plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    assert {file.name: file.content.encode() for file in answer.file} == plugin.render(toy(), ["errors"])


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("target=cobol", "there is no target 'cobol'; there are: c, errors"),
        ("target", "unknown parameter 'target'"),
        ("colour=blue", "unknown parameter 'colour=blue'; write target=NAME or version=X.Y.Z"),
    ],
)
def test_bad_parameters(parameter: str, error: str) -> None:
    assert _answer(parameter).error.startswith(error)


def test_fault_of_the_definition(tmp_path: Path) -> None:
    (tmp_path / "x.proto").write_text('syntax = "proto2";\npackage x.v1;\nmessage A {\n  optional group G = 1 {}\n}\n')
    request = plugin_pb2.CodeGeneratorRequest(
        file_to_generate=["x.proto"], proto_file=compiled(tmp_path, "x.proto").file
    )
    sink = io.BytesIO()
    assert plugin.main(io.BytesIO(request.SerializeToString()), sink) == 0
    answer = plugin_pb2.CodeGeneratorResponse.FromString(sink.getvalue())
    assert answer.error == "x.proto:4: g is a group: declare a message and a field of its type"
    assert not answer.file


def _protoc(folder: Path, options: str, seed: str) -> dict[str, bytes]:
    wrapper = folder / "protoc-gen-phantom"
    wrapper.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m bindings.codegen\n")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    out = folder / seed
    out.mkdir()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE / 'toy'}", f"-I{ROOT / 'proto'}"]
    command += [f"--plugin=protoc-gen-phantom={wrapper}", f"--phantom_out={options}:{out}", TOY]
    environment_ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment_, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_protoc_runs_it_and_the_order_of_sets_changes_nothing(tmp_path: Path) -> None:
    first = _protoc(tmp_path, "version=1.2.3", "1")
    assert first == plugin.render(toy())
    assert _protoc(tmp_path, "version=1.2.3", "4711") == first


def test_the_definition_is_rendered_alike_whatever_the_hash_seed() -> None:
    program = "import hashlib; from tools import generate as g\n"
    program += "for path, content in sorted(g.generated().items()): print(path, hashlib.sha256(content).hexdigest())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "4711")
    }
    assert len(outputs) == 1


def test_targets_are_found() -> None:
    found = targets()
    assert {"c", "errors"} <= set(found)
    assert all(name == target.name and target.summary for name, target in found.items())


def test_two_targets_that_write_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {name: Target(name, "x", lambda package: {"a": b""}) for name in ("x", "y")}
    monkeypatch.setattr(plugin, "targets", lambda: same)
    with pytest.raises(ValueError, match="two targets write a"):
        plugin.render(toy())


def test_every_generated_file_is_marked_and_ends_in_one_newline() -> None:
    for path, content in generate.generated().items():
        if path == generate.BASE or path.startswith(generate.STUBS.rpartition("/")[0]):
            continue
        text = content.decode()
        head = "\n".join(text.splitlines()[:3])
        assert MARKER in head or "Written by `make generate`" in head, path
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path


def test_stray_file_in_a_generated_folder_is_drift(tmp_path: Path) -> None:
    files = generate.generated()
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert generate.drift(files, tmp_path) == []
    (tmp_path / "bindings/c/generated/old.c").touch()
    assert generate.drift(files, tmp_path) == ["bindings/c/generated/old.c"]


def test_comment() -> None:
    assert comment("a b\nc", "// ") == "// a b c"
    assert comment("one two three", "// ", 10) == "// one two\n// three"
    assert comment("one\n\ntwo", "// ") == "// one\n//\n// two"


def test_quoted() -> None:
    assert quoted("the server's key") == '"the server\'s key"'
    for text in ('"', "\\", "$x", "ä", "\n"):
        with pytest.raises(ValueError, match="holds more than printable ASCII"):
            quoted(text)


def test_swift_name() -> None:
    assert (swift_name("internal"), swift_name("network")) == ("`internal`", "network")


def test_templates_are_strict() -> None:
    with pytest.raises(Exception, match="'nothing' is undefined"):
        environment("errors").from_string("{{ nothing }}").render()
