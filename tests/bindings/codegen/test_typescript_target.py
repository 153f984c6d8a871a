"""TypeScript: golden files, names that clash, and — where node is at hand — compiling and using what is generated."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bindings.codegen.model import DefinitionError, Package
from bindings.codegen.plugin import render
from tests.bindings.codegen import toolchains
from tests.bindings.codegen.support import HERE, check_golden, package_of, real, toy

HEAD = """syntax = "proto3";
package x.v1;
import "phantom/options/v1/options.proto";
service BoxService { rpc Put(Request) returns (Response); %s }
message Response { }
"""


def written(folder: Path, package: Package) -> Path:
    """Writes everything of TypeScript's into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in render(package, ["typescript", "errors"]).items():
        if path.endswith(".ts"):
            (folder / Path(path).name).write_bytes(content)
    return folder


def test_golden() -> None:
    check_golden("typescript")


def test_a_package_that_grpc_serves_nothing_of_has_no_typescript(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3"; package x.v1; message M { }'), ["typescript"]) == {}


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("message Request { uint32 to_string = 1; }", "the name toString of to_string in TypeScript Request is taken"),
        ("message Request { Map map = 1; } message Map { }", "the name Map of Map in TypeScript is taken"),
        (
            "message Request { RequestInner a = 1; message Inner { } Inner b = 2; } message RequestInner { }",
            "the name RequestInner of RequestInner in TypeScript is that of Inner at x.proto:6",
        ),
        (
            """message Request { } message Constants { option (phantom.options.v1.message).constants = true;
            uint64 huge = 1 [(phantom.options.v1.field).constant = 9007199254740993]; }""",
            "huge is more than a number of JavaScript holds: stay below 9007199254740992",
        ),
    ],
)
def test_what_typescript_cannot_have_is_refused(tmp_path: Path, rest: str, fault: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        render(package_of(tmp_path, HEAD % "" + rest), ["typescript"])
    assert re.match(r"x\.proto:[67]: ", str(caught.value))
    assert fault in str(caught.value)


def test_every_comment_of_the_definition_is_there() -> None:
    files = render(real(), ["typescript"])
    text = "\n".join(content.decode() for content in files.values())
    text = " ".join(re.sub(r"^ *\*(?!/)", "", text, flags=re.MULTILINE).split())
    for message in real().wire_messages():
        for element in (message, *message.fields, *message.oneofs):
            assert " ".join(element.comment.split()) in text, element
    for service in real().served:
        for element in (service, *service.operations):
            assert " ".join(element.comment.split()) in text, element


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("package", [toy, real], ids=["toy", "real"])
def test_compiles_with_every_strict_option(package, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    toolchains.tsc(written(tmp_path / "source", package()), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_messages_that_contain_themselves_and_no_times_compile(tmp_path: Path) -> None:
    text = HEAD % "" + "message Request { Request next = 1; oneof value { Request tag = 3; uint32 text = 4; } }"
    toolchains.tsc(written(tmp_path / "source", package_of(tmp_path, text)), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_types_redaction_and_services(tmp_path: Path) -> None:
    source = written(tmp_path / "source", toy())
    shutil.copy(HERE / "ts" / "behaviour.ts", source)
    toolchains.tsc(source, tmp_path / "out")
    done = subprocess.run(["node", tmp_path / "out" / "behaviour.js"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert not any("hunter2" in line or "222" in line for line in shown)
    everything = "Everything(secret: [redacted], byNumber: {-1: Inner(depth: -3)}, password: [redacted])"
    assert shown == [
        f"{everything} {everything}",
        f'{{"everything":"{everything}"}}',
        everything,
        "Everything(password: [redacted]) Everything()",
        "Thing(data: <2 bytes>, colour: 1, age: Duration(seconds: 2)) Thing() Duration()",
        "ok",
    ]
