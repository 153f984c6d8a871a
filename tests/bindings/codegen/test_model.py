"""The model: what it reads from descriptors, and what it refuses, with file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from bindings.codegen.model import (
    Branch,
    CallForm,
    DefinitionError,
    Kind,
    Owner,
    camel,
    load,
    pascal,
)
from tests.bindings.codegen.support import TOY, check_refused, compiled, package_of, real, toy


def test_package() -> None:
    package = toy()
    assert (package.name, package.prefix, package.version, package.contract_version) == ("toy.v1", "toy", "1.2.3", 7)
    assert [service.name for service in package.services] == ["BoxService", "LibraryService"]
    assert [service.name for service in package.served] == ["BoxService"]
    assert all(operation.local for operation in package.services[1].operations)
    assert len(package.operations) == 12
    assert [(constant.name, constant.constant) for constant in package.constants] == [
        ("box_bytes", 4096),
        ("grains", 1 << 48),
        ("abi_version", 0),
    ]
    with pytest.raises(KeyError):
        package.message("toy.v1.Nothing")
    with pytest.raises(KeyError):
        package.enum("toy.v1.Everything")


def test_comments_and_places_are_those_of_the_source() -> None:
    message = toy().message("toy.v1.BoxOptions")
    assert message.comment == 'How a box is made.\n\nA second paragraph, with `code` and "quotes".'
    assert str(message.location) == f"{TOY}:{_line('message BoxOptions {')}"
    assert str(message.field("key").location) == f"{TOY}:{_line('  bytes key = 2 [')}"
    assert toy().enum("toy.v1.Colour").values[1].comment == "As grass."


def _line(text: str) -> int:
    lines = (Path(__file__).parent / "toy" / TOY).read_text().splitlines()
    return lines.index(text) + 1


def test_every_kind_of_field() -> None:
    message = toy().message("toy.v1.Everything")
    kinds = {field.name: (field.kind, field.proto_type, field.repeated, field.packed) for field in message.fields}
    assert kinds["ratio"] == (Kind.DOUBLE, "double", False, False)
    assert kinds["numbers"] == (Kind.INT32, "int32", True, True)
    assert kinds["loose"] == (Kind.INT32, "int32", True, False)
    assert kinds["words"] == (Kind.STRING, "string", True, False)
    assert kinds["moods"] == (Kind.ENUM, "enum", True, True)
    assert kinds["fixed_signed"] == (Kind.INT32, "sfixed32", False, False)
    assert kinds["zigzag"] == (Kind.INT64, "sint64", False, False)
    assert kinds["span"] == (Kind.DURATION, "message", False, False)
    assert [field.number for field in message.fields] == sorted(field.number for field in message.fields)
    by_number = message.field("by_number")
    assert by_number.map_key is not None
    assert (by_number.map_key.kind, by_number.kind, by_number.repeated) == (Kind.INT32, Kind.MESSAGE, False)
    assert by_number.type_name == "toy.v1.Everything.Inner"


def test_presence() -> None:
    message = toy().message("toy.v1.Everything")
    present = {field.name for field in message.fields if field.has_presence}
    assert present == {"text", "secret", "box", "inner", "perhaps", "password", "span"}
    assert [oneof.name for oneof in message.oneofs] == ["choice"]
    assert [member.name for member in message.members("choice")] == ["text", "secret", "box"]


def test_nested_declarations_follow_their_parents() -> None:
    names = [message.full_name for message in toy().messages]
    assert names.index("toy.v1.Everything.Inner") == names.index("toy.v1.Everything") + 1
    assert toy().message("toy.v1.Everything.Inner").parent == "toy.v1.Everything"
    assert toy().enum("toy.v1.Everything.Mood").parent == "toy.v1.Everything"
    assert not any("Entry" in name for name in names)


def test_options() -> None:
    package = toy()
    options = package.message("toy.v1.BoxOptions")
    assert (options.c_struct, options.since, options.field("room").since) == ("box_options", "0.3.0", "0.4.0")
    assert options.field("label").since == "0.3.0"
    assert options.field("key").sensitive
    assert package.message("toy.v1.Thing").field("seq").c_skip
    assert package.message("toy.v1.NameOfResponse").field("name").owner is Owner.STATIC
    take = package.services[0].operations[1]
    assert (take.c_name, take.c_form, take.c_text) == ("box_take", CallForm.BLOCKING, "Takes a thing out.")
    assert take.path == "/toy.v1.BoxService/Take"
    echo = package.services[0].operations[3]
    assert (echo.c_name, echo.c_form, echo.since) == ("", None, "0.3.0")
    assert (echo.client_streaming, echo.server_streaming) == (True, True)
    assert package.services[0].operations[2].since == "0.4.0"


def test_codes_of_an_enum() -> None:
    colour = toy().enum("toy.v1.Colour")
    assert [(value.short_name, value.number, value.code) for value in colour.codes] == [("GREEN", 1, 0), ("BLUE", 2, 1)]
    assert len(colour.values) == 3
    mood = toy().enum("toy.v1.Everything.Mood")
    assert [value.code for value in mood.codes] == [0, 1]


def test_errors() -> None:
    package = toy()
    assert [error.code for error in package.errors] == sorted(error.code for error in package.errors)
    glued = package.error("GLUED")
    assert (glued.code, glued.base, glued.branch, glued.retryable, glued.final) == (
        4,
        "SHUT",
        Branch.TRANSPORT,
        False,
        True,
    )
    assert (glued.since, glued.summary) == ("0.3.0", "the lid is glued")
    assert package.error("INTERNAL").summary == "an invariant was broken"
    assert package.error_by_code(3) is None
    assert package.error_by_code(4) is glued


def test_what_gRPC_carries() -> None:
    names = {message.name for message in toy().wire_messages()}
    assert {"PutRequest", "Everything", "Inner", "BoxRef", "Content", "ErrorDetail"} <= names
    assert not names & {"BoxMakeRequest", "BoxOptions", "Settings", "NameOfRequest"}
    reachable = {message.name for message in real().wire_messages()}
    assert "ConnectRequest" in reachable
    assert "ConnectOptions" not in reachable


def test_names() -> None:
    assert (pascal("SERVER_BUSY"), pascal("peer_addr"), camel("peer_addr")) == ("ServerBusy", "PeerAddr", "peerAddr")


def test_a_definition_without_options(tmp_path: Path) -> None:
    package = package_of(
        tmp_path, 'syntax = "proto3";\npackage x.v1;\nmessage A { bytes seed = 1 [debug_redact = true]; }\n'
    )
    assert package.message("x.v1.A").field("seed").sensitive
    assert (package.errors, package.constants, package.contract_version) == ((), (), None)


def test_options_are_read_whatever_the_process_has_imported() -> None:
    """A process that knows the descriptors of the options by its own pool reads the same."""
    from google.protobuf import descriptor_pool

    files = compiled(Path(__file__).parent / "toy", TOY).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    assert load(files, [TOY], "1.2.3") == toy()


# name of the case: fault, then declarations with `// !` behind the line that is at fault
REFUSED = {
    "is marked debug_redact and not": "message A { bytes a = 1 [debug_redact = true]; } // !",
    "is marked sensitive and not debug_redact": """
        message A {
          // A.
          bytes a = 1 [(phantom.options.v1.field).sensitive = true]; // !
        }""",
    "the handle A is not one field of type uint64": """
        message A { // !
          option (phantom.options.v1.message).c_handle = "a";
          uint32 id = 1;
        }""",
    "A is c_handle and c_struct": """
        message A { // !
          option (phantom.options.v1.message) = {c_handle: "a" c_struct: "a"};
          uint64 id = 1;
        }""",
    "the constant a has no value": """
        message A {
          option (phantom.options.v1.message).constants = true;
          uint64 a = 1; // !
        }""",
    "or is no plain uint64": """
        message A {
          option (phantom.options.v1.message).constants = true;
          int32 a = 1 [(phantom.options.v1.field).constant = 1]; // !
        }""",
    "since '1' is no version": """
        message A { // !
          option (phantom.options.v1.message).since = "1";
        }""",
    "E_A has no branch": """
        enum E {
          option (phantom.options.v1.enumeration).errors = true;
          E_UNSPECIFIED = 0;
          E_A = 1; // !
        }""",
    "E_A has an unknown base E_B": """
        enum E {
          option (phantom.options.v1.enumeration).errors = true;
          E_UNSPECIFIED = 0;
          E_A = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL base: "E_B"}]; // !
        }""",
    "A is its own base": """
        enum E {
          option (phantom.options.v1.enumeration).errors = true;
          E_UNSPECIFIED = 0;
          E_A = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL base: "E_A"}]; // !
        }""",
    "A and its base B are of two branches": """
        enum E {
          option (phantom.options.v1.enumeration).errors = true;
          E_UNSPECIFIED = 0;
          E_A = 1 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_LOCAL base: "E_B"}]; // !
          E_B = 2 [(phantom.options.v1.value).error = {branch: ERROR_BRANCH_REMOTE}];
        }""",
    "a second enum of errors": """
        enum E {
          option (phantom.options.v1.enumeration).errors = true;
          E_UNSPECIFIED = 0;
        }
        enum F { // !
          option (phantom.options.v1.enumeration).errors = true;
          F_UNSPECIFIED = 0;
        }""",
    "the C call of C lacks its name or form": """
        message A {}
        service S {
          rpc C(A) returns (A) { option (phantom.options.v1.call).c = {name: "c"}; } // !
        }""",
    "the C call c is declared at x.proto:7 already": """
        message A {}
        service S {
          rpc C(A) returns (A) { option (phantom.options.v1.call).c = {name: "c" form: CALL_FORM_FUNCTION}; }
          rpc D(A) returns (A) { option (phantom.options.v1.call).c = {name: "c" form: CALL_FORM_FUNCTION}; } // !
        }""",
    "a names fields of x.v1.B, which has no c_field_enum": """
        message A {
          uint32 a = 1 [(phantom.options.v1.field).c_fields_of = "x.v1.B"]; // !
        }
        message B {}""",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(tmp_path: Path, fault: str) -> None:
    check_refused(tmp_path, REFUSED[fault], fault, lambda package: None)


def test_a_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"x\.proto:4: g is a group: declare a message"):
        package_of(tmp_path, 'syntax = "proto2";\npackage x.v1;\nmessage A {\n  optional group G = 1 {}\n}\n')


def test_two_packages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.proto").write_text('syntax = "proto3";\npackage a.v1;\n')
    (tmp_path / "b.proto").write_text('syntax = "proto3";\npackage b.v1;\n')
    files = compiled(tmp_path, "a.proto", "b.proto").file
    with pytest.raises(DefinitionError, match=r"a\.proto:1: files of 2 packages .* one package at a time"):
        load(files, ["b.proto", "a.proto"])
    with pytest.raises(DefinitionError, match="files of 0 packages"):
        load(files, [])
