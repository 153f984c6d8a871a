"""Swift: golden files, names that clash, and — where a toolchain is at hand — compiling and using what is generated."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bindings.codegen.model import DefinitionError, Package
from bindings.codegen.plugin import render
from tests.bindings.codegen import toolchains
from tests.bindings.codegen.support import HERE, check_golden, package_of, real, toy

COMPILING = [pytest.mark.slow, pytest.mark.timeout(600)]
HEAD = """syntax = "proto3";
package x.v1;
import "phantom/options/v1/options.proto";
service BoxService { rpc Put(Request) returns (Response); %s }
message Response { }
enum ErrorCode {
  option (phantom.options.v1.enumeration).errors = true;
  ERROR_CODE_UNSPECIFIED = 0;
  ERROR_CODE_INTERNAL = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL retryable: true final: true}];
}
message ErrorDetail { ErrorCode code = 1; string message = 2; }
"""


def refused(folder: Path, rest: str, calls: str = "") -> str:
    with pytest.raises(DefinitionError) as caught:
        render(package_of(folder, HEAD % calls + rest), ["swift"])
    return str(caught.value)


def written(folder: Path, package: Package) -> list[Path]:
    """Writes everything of Swift's under the folder."""
    files = []
    for path, content in render(package, ["swift", "errors"]).items():
        if path.endswith(".swift"):
            files.append(folder / Path(path).name)
            files[-1].write_bytes(content)
    return files


def test_golden() -> None:
    check_golden("swift")


def test_a_package_that_grpc_serves_nothing_of_has_no_swift(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3"; package x.v1; message M { }'), ["swift"]) == {}


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("message Request { uint32 hash_value = 1; }", "the name hashValue of hash_value in Swift Request is taken"),
        (
            "message Request { uint32 description = 1; }",
            "the name description of description in Swift Request is taken",
        ),
        (
            "message Request { oneof one { uint32 a = 1; } OneChoice two = 2; message OneChoice { } }",
            "the name OneChoice of one in Swift V1.Request is that of OneChoice at x.proto:12",
        ),
        (
            "message Request { String text = 1; } message String { }",
            "the name String of String in Swift V1 is taken by what is generated: choose another name",
        ),
        ("message Request { WireThing thing = 1; } message WireThing { }", "WireThing begins like what is generated"),
        (
            "message Request { Size size = 1; } enum Size { SIZE_UNSPECIFIED = 0; SIZE_3D = 1; }",
            "3d is no name in Swift: begin it with a letter",
        ),
    ],
)
def test_names_that_swift_cannot_have_are_refused(tmp_path: Path, rest: str, fault: str) -> None:
    said = refused(tmp_path, rest)
    assert said.startswith("x.proto:")
    assert fault in said


def test_calls_of_one_name_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "message Request { }", "rpc put(Request) returns (Response);")
    assert "the name put of put in Swift BoxServiceClient is that of Put at x.proto:4" in said


def test_calls_about_a_handle_take_the_rest_of_the_request(tmp_path: Path) -> None:
    text = (
        'message BoxRef { option (phantom.options.v1.message).c_handle = "box"; uint64 handle = 1; }'
        'message LidRef { option (phantom.options.v1.message).c_handle = "lid"; uint64 handle = 1; }'
        "message Request { BoxRef box = 1; bytes thing = 2; oneof how { bool hard = 3; bool soft = 4; } }"
        "service LidService {"
        "  rpc Make(MakeRequest) returns (MadeResponse); rpc Put(LidRequest) returns (MadeResponse); }"
        "message MakeRequest { BoxRef box = 1; } message LidRequest { LidRef lid = 1; BoxRef box = 2; }"
        "message MadeResponse { }"
    )
    made = render(
        package_of(tmp_path, HEAD % "rpc Fill(stream Request) returns (Other);" + text + "message Other { }"), ["swift"]
    )
    handles = made["bindings/swift/Sources/Phantom/Generated/V1+Handles.swift"].decode()
    boxes, lids = handles.split("struct LidCalls")
    assert "func put( thing: [UInt8] = [], how: V1.Request.HowChoice? = nil, options" in " ".join(boxes.split())
    assert "V1.Request(box: ref, thing: thing, how: how)" in boxes
    assert "func makeLid(" in boxes  # what a service makes that has a handle of its own
    assert "fill" not in boxes  # whose requests are a stream
    assert "func put(box: V1.BoxRef? = nil, options" in lids


def test_every_call_of_the_definition_is_tested() -> None:
    tests = render(real(), ["swift"])["bindings/swift/Tests/LiveTests/Generated/EveryCall.swift"].decode()
    for call in (call for service in real().served for call in service.operations):
        assert tests.count(f'"{call.path}"') == 1


def test_a_handle_call_whose_argument_has_a_taken_name_is_refused(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        'message BoxRef { option (phantom.options.v1.message).c_handle = "box"; uint64 handle = 1; }'
        "message Request { BoxRef box = 1; bool options = 2; }",
    )
    assert "a field of Request has a name that is taken in Swift: rename it" in said


def test_errors_that_could_not_be_told_are_refused(tmp_path: Path) -> None:
    text = 'syntax = "proto3"; package x.v1; service A { rpc B(C) returns (D); } message C { } message D { }'
    with pytest.raises(DefinitionError, match=r"x\.proto:1: a client in Swift needs a message ErrorDetail"):
        render(package_of(tmp_path, text), ["swift"])


def test_words_of_swift_are_quoted(tmp_path: Path) -> None:
    package = package_of(tmp_path, HEAD % "" + "message Request { uint32 default = 1; oneof case { uint32 in = 2; } }")
    text = render(package, ["swift"])["bindings/swift/Sources/Phantom/Generated/V1+X.swift"].decode()
    assert "public var `default`: UInt32 = 0" in text
    assert "public var `case`: CaseChoice?" in text
    assert "case `in`(UInt32)" in text


def test_every_comment_of_the_definition_is_there() -> None:
    files = render(real(), ["swift"])
    text = " ".join(" ".join(content.decode() for content in files.values()).replace("///", " ").split())
    for message in real().wire_messages():
        for element in (message, *message.fields, *message.oneofs):
            assert " ".join(element.comment.split()) in text, element
    for service in real().served:
        for element in (service, *service.operations):
            assert " ".join(element.comment.split()) in text, element


@pytest.mark.parametrize("package", [toy, real], ids=["toy", "real"])
class TestCompiled:
    pytestmark = COMPILING

    def test_compiles_without_a_warning(self, package, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        toolchains.swiftc("-typecheck", "-warnings-as-errors", *written(tmp_path, package()))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flags", ["", "retryable: true", "final: true"])
def test_errors_that_are_all_of_one_kind_compile(tmp_path: Path, flags: str) -> None:
    text = HEAD.replace("retryable: true final: true", flags) % "" + "message Request { }"
    (tmp_path / "out").mkdir()
    toolchains.swiftc("-typecheck", "-warnings-as-errors", *written(tmp_path / "out", package_of(tmp_path, text)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_messages_that_contain_themselves_compile(tmp_path: Path) -> None:
    text = HEAD % "" + (
        "message Request { Request next = 1; Other other = 2; oneof value { Request tag = 3; uint32 text = 4; }"
        "  uint32 reader = 5; uint32 writer = 6; optional uint32 default = 7; }"
        "message Other { Request request = 1; repeated Other list = 2; map<string, Other> named = 3; }"
    )
    (tmp_path / "out").mkdir()
    toolchains.swiftc("-typecheck", "-warnings-as-errors", *written(tmp_path / "out", package_of(tmp_path, text)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_redaction_errors_and_clients(tmp_path: Path) -> None:
    files = written(tmp_path, toy())
    toolchains.swiftc("-parse-as-library", "-o", tmp_path / "run", HERE / "swift" / "Behaviour.swift", *files)
    done = subprocess.run([tmp_path / "run"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stdout + done.stderr
