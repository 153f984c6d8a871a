"""Kotlin: golden files, names that clash, a surface without gRPC; compiled and used if PHANTOM_TEST_KOTLIN says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from bindings.codegen.model import DefinitionError
from bindings.codegen.plugin import render
from bindings.codegen.targets.kotlin import BY_HAND
from tests.bindings.codegen import toolchains
from tests.bindings.codegen.support import HERE, check_golden, compiled, package_of, real, toy

HEAD = """syntax = "proto3";
package x.v1;
import "phantom/options/v1/options.proto";
service BoxService { rpc Put(Request) returns (Response); }
message Response { }
enum ErrorCode {
  option (phantom.options.v1.enumeration).errors = true;
  ERROR_CODE_UNSPECIFIED = 0;
  ERROR_CODE_INTERNAL = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL retryable: true final: true}];
}
message ErrorDetail { ErrorCode code = 1; string message = 2; }
"""
FOREIGN = re.compile(
    r"\bwire\.|\bio\.grpc|com\.google|\b(?:Managed)?Channel\b|\bMetadata\b|\bStatus\w*\b|CoroutineStub"
)


def test_golden() -> None:
    check_golden("kotlin")


def test_a_package_that_grpc_serves_nothing_of_has_no_kotlin(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3"; package x.v1; message M { }'), ["kotlin"]) == {}


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("message Request { uint32 java_class = 1; }", "the name javaClass of java_class in Kotlin Request is taken"),
        ("message Request { List list = 1; } message List { }", "the name List of List in Kotlin x.v1 is taken"),
        (
            "message Request { } message InternalException { } message R2 { InternalException a = 1; }",
            "",
        ),
        (
            "message Request { InternalException a = 1; } message InternalException { }",
            "the name InternalException of INTERNAL in Kotlin x.v1 is that of InternalException at x.proto:12",
        ),
        (
            "message Request { oneof one { uint32 a = 1; } OneChoice two = 2; message OneChoice { } }",
            "the name OneChoice of one in Kotlin x.v1.Request is that of OneChoice at x.proto:12",
        ),
        ("message Request { repeated uint32 a = 1; uint32 a_list = 2; }", "a and a_list clash in Java"),
        ("message Request { map<string, bytes> a = 1; }", "a is a map of bytes: give its values a message"),
        ("message Request { repeated ErrorCode a = 1; }", "a is no plain error code"),
        (
            "message Request { Size size = 1; } enum Size { SIZE_UNSPECIFIED = 0; SIZE_UNRECOGNIZED = 1; }",
            "the name UNRECOGNIZED of SIZE_UNRECOGNIZED in Kotlin Size is taken by what is generated",
        ),
        (
            "message Request { Size size = 1; } enum Size { SIZE_UNSPECIFIED = 0; SIZE_3D = 1; }",
            "3D is no name in Kotlin: begin it with a letter",
        ),
    ],
)
def test_what_kotlin_cannot_have_is_refused(tmp_path: Path, rest: str, fault: str) -> None:
    package = package_of(tmp_path, HEAD + rest)
    if not fault:  # what is not on the wire does not matter
        assert render(package, ["kotlin"])
        return
    with pytest.raises(DefinitionError) as caught:
        render(package, ["kotlin"])
    assert str(caught.value).startswith("x.proto:")
    assert fault in str(caught.value)


def test_words_of_kotlin_are_quoted(tmp_path: Path) -> None:
    package = package_of(tmp_path, HEAD + "message Request { uint32 when = 1; repeated bytes in = 2; }")
    files = render(package, ["kotlin"])
    text = files["bindings/kotlin/src/main/kotlin/x/v1/XTypes.kt"].decode()
    assert "public val `when`: UInt = 0u," in text
    assert "`in`.toTypedArray().contentDeepEquals(other.`in`.toTypedArray())" in text


@pytest.mark.parametrize("package", [toy, real], ids=["toy", "real"])
def test_no_type_of_grpc_or_protobuf_is_in_the_surface(package) -> None:  # type: ignore[no-untyped-def]
    public = 0
    for path, content in render(package(), ["kotlin"]).items():
        if not path.endswith(".kt"):
            continue
        text = re.sub(r"/\*\*.*?\*/", "", content.decode(), flags=re.DOTALL)
        # A declaration ends where its body or value begins, or where its lines do.
        for declaration in re.findall(
            r"^\s*((?:public|override) (?:[^={\n]|\([^)]*\))*)", text, re.MULTILINE | re.DOTALL
        ):
            if "internal constructor" not in declaration:
                public += 1
                assert not FOREIGN.search(declaration), declaration
        # Nothing is public without saying so.
        for line in re.findall(
            r"^ *(?:suspend |data |sealed |open |const )*(?:fun|val|class|interface|object) .*", text, re.MULTILINE
        ):
            inside = line.startswith("        ") or line.lstrip().startswith("val ")
            assert inside, line
    assert public > 50


@pytest.mark.parametrize("package", [toy, real], ids=["toy", "real"])
def test_the_stubs_definition_has_the_same_wire(package, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = {path: content for path, content in render(package(), ["kotlin"]).items() if path.endswith(".proto")}
    ((path, content),) = made.items()
    (tmp_path / "stubs.proto").write_bytes(content)
    (file,) = [file for file in compiled(tmp_path, "stubs.proto").file if file.name == "stubs.proto"]
    assert file.options.java_package == f"{package().name}.wire"
    assert all(not name.startswith("phantom/options") for name in file.dependency), path
    found = {f"{package().name}.{message.name}": message for message in file.message_type}
    for message in package().wire_messages():
        if message.parent:
            continue
        declared = {(field.name, field.number, field.proto3_optional) for field in found[message.full_name].field}
        assert declared == {(field.name, field.number, field.optional) for field in message.fields}
        redacted = {field.name for field in found[message.full_name].field if field.options.debug_redact}
        assert redacted == {field.name for field in message.fields if field.sensitive}
    calls = {
        (service.name, method.name, method.client_streaming, method.server_streaming)
        for service in file.service
        for method in service.method
    }
    assert calls == {
        (service.name, call.name, call.client_streaming, call.server_streaming)
        for service in package().served
        for call in service.operations
    }


def test_every_comment_of_the_definition_is_there() -> None:
    text = "\n".join(content.decode() for content in render(real(), ["kotlin"]).values())
    text = " ".join(re.sub(r"^ *\*(?!/)", "", text, flags=re.MULTILINE).split())
    for message in real().wire_messages():
        for element in (message, *message.fields, *message.oneofs):
            assert " ".join(element.comment.split()) in text, element
    for service in real().served:
        for element in (service, *service.operations):
            assert " ".join(element.comment.split()) in text, element


def test_every_call_is_a_method_or_written_by_hand() -> None:
    text = render(real(), ["kotlin"])["bindings/kotlin/src/main/kotlin/phantom/v1/Operations.kt"].decode()
    served = {f"{service.name}.{call.name}": call for service in real().served for call in service.operations}
    assert set(served) >= BY_HAND
    for name, call in served.items():
        made = (
            re.search(rf"\.{call.name[0].lower()}{call.name[1:]}\({call.request.rpartition('.')[2]}\(", text)
            is not None
        )
        assert made == (name not in BY_HAND and not call.client_streaming), name


def test_a_new_call_of_a_handle_is_a_method_of_it(tmp_path: Path) -> None:
    text = """syntax = "proto3";
package x.v1;
import "phantom/options/v1/options.proto";
// Boxes.
service BoxService {
  // Closes it.
  rpc Shut(ShutRequest) returns (ShutResponse);
  // Shakes it.
  rpc Shake(ShakeRequest) returns (ShakeResponse);
  // Looks.
  rpc Look(LookRequest) returns (stream LookResponse);
  // Makes one.
  rpc Make(MakeRequest) returns (MakeResponse);
}
// Lids.
service LidService {
  // Takes it off.
  rpc Open(LidServiceOpenRequest) returns (LidServiceOpenResponse);
}
// A box.
message BoxRef { option (phantom.options.v1.message).c_handle = "box"; uint64 handle = 1; }
message Lid { uint64 handle = 1; }
message ShutRequest { BoxRef box = 1; bool hard = 2; uint32 timeout = 3; }
message ShutResponse { }
message ShakeRequest { BoxRef box = 1; oneof how { bool gently = 2; uint32 times = 3; } }
message ShakeResponse { uint32 noise = 1; optional uint32 left = 2; }
message LookRequest { BoxRef box = 1; }
message LookResponse { uint32 seen = 1; }
message MakeRequest { uint64 lease_id = 1; string name = 2; }
message MakeResponse { BoxRef box = 1; }
message LidServiceOpenRequest { BoxRef box = 1; }
message LidServiceOpenResponse { Lid lid = 1; }
enum ErrorCode {
  option (phantom.options.v1.enumeration).errors = true;
  ERROR_CODE_UNSPECIFIED = 0;
  ERROR_CODE_INTERNAL = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL retryable: true final: true}];
}
message ErrorDetail { ErrorCode code = 1; string message = 2; }
"""
    made = render(package_of(tmp_path, text), ["kotlin"])["bindings/kotlin/src/main/kotlin/x/v1/Operations.kt"].decode()
    flat = " ".join(made.split())
    for wanted in (
        "public abstract class BoxOperations internal constructor(",
        "public val ref: BoxRef,",
        "public suspend fun shut( hard: Boolean = false, timeout: UInt = 0u, ) {",
        "link.clients.box.shut(ShutRequest(box = ref, hard = hard, timeout = timeout)) }",
        "public suspend fun shake( how: ShakeRequest.HowChoice? = null, timeout: Duration? = null, ): ShakeResponse =",
        "public fun look( timeout: Duration? = null, ): Flow<LookResponse> =",
        "public suspend fun openLid( timeout: Duration? = null, ): Lid =",
        'link.clients.lid.open(LidServiceOpenRequest(box = ref), timeout) }.lid.sent("lid")',
        'public suspend fun make( name: String = "", timeout: Duration? = null, ): BoxRef =',
        "MakeRequest(leaseId = link.leaseId, name = name)",
    ):
        assert wanted in flat, wanted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiles_in_explicit_api_mode_and_behaves(tmp_path: Path) -> None:
    """Both definitions in one build, without a warning; then the toy's clients against a server in the same process."""
    for package in (toy(), real()):
        for path, content in render(package, ["kotlin", "errors"]).items():
            if path.startswith("bindings/kotlin/"):
                target = tmp_path / Path(path).relative_to("bindings/kotlin")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    shutil.copy(HERE / "kotlin" / "pom.xml", tmp_path)
    shutil.copy(HERE / "kotlin" / "Behaviour.kt", tmp_path / "src" / "main" / "kotlin")
    assert "ok" in toolchains.maven(tmp_path, "compile", "exec:java").split()
