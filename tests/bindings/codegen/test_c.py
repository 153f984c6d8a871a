"""The C library as the definition makes it, and what C cannot express."""

from __future__ import annotations

from pathlib import Path

import pytest

from bindings.codegen.c import Call, Role, lower
from bindings.codegen.model import CallForm, Owner
from tests.bindings.codegen.support import check_refused, package_of, real, toy


def _call(name: str) -> Call:
    return next(call for call in lower(toy()).calls if call.name == name)


PROTOTYPES = """
toy_status toy_box_make(const toy_box_options *options, toy_box *box)
toy_status toy_box_retain(toy_box box)
toy_status toy_box_release(toy_box box)
toy_status toy_box_name(toy_box box, char *name, size_t name_cap, size_t *name_len, toy_buffer *key,
    void *digest, size_t digest_cap, size_t *digest_len, int32_t *open)
toy_status toy_box_set(toy_box box, toy_setting_field setting, double value)
const char *toy_name_of(int32_t status)
void toy_buffer_free(toy_buffer *buffer)
toy_status toy_box_put(toy_box box, const void *thing, size_t thing_len, const char *label, int64_t timeout_ms,
    uint32_t *room)
toy_status toy_box_take(toy_box box, int64_t timeout_ms, toy_buffer *data, toy_colour *colour, int64_t *age_ms)
toy_status toy_box_watch(toy_box box, toy_box_watch_iterator *iterator)
toy_status toy_box_watch_next(toy_box_watch_iterator iterator, int64_t timeout_ms, toy_content *content, int32_t *full,
    toy_buffer *seen, int32_t *done)
toy_status toy_box_watch_cancel(toy_box_watch_iterator iterator)
"""


def test_prototypes() -> None:
    expected = PROTOTYPES.replace("\n    ", " ").split("\n")[1:-1]
    assert [call.prototype for call in lower(toy()).calls] == expected


def test_calls() -> None:
    put, take, free = _call("toy_box_put"), _call("toy_box_take"), _call("toy_buffer_free")
    assert (put.short, put.form, put.waits, put.native, put.since) == (
        "box_put",
        CallForm.BLOCKING,
        True,
        False,
        "0.3.0",
    )
    assert (put.text, take.text) == ("Puts a thing in. Waits while the box is full.", "Takes a thing out.")
    assert free.native
    assert free not in lower(toy()).glued
    assert [value.name for value in take.outputs] == ["data", "colour", "age_ms"]
    key = next(value for value in _call("toy_box_name").outputs if value.name == "key")
    assert (key.role, key.owner, key.secret, key.buffer, key.array) == (Role.BYTES, Owner.LIBRARY, True, True, False)


def test_every_call_says_who_may_make_it() -> None:
    for call in lower(real()).calls:
        assert call.threads.startswith("Any thread")
        assert ("waits in the calling thread" in call.threads) == call.waits


def test_ownership_is_stated_at_each_parameter() -> None:
    for call in lower(real()).calls:
        for parameter in call.parameters:
            if parameter.declaration.startswith(("const char", "const void", "const phantom_")):
                assert "ead until the call returns" in parameter.text, parameter.declaration
            if parameter.out and "buffer *" in parameter.declaration:
                assert "gives it back by phantom_buffer_free" in parameter.text
            if parameter.out and parameter.declaration.startswith(("char", "void")):
                assert "array of the caller" in parameter.text
            if parameter.out and parameter.declaration.startswith(
                ("phantom_session ", "phantom_listener ", "phantom_config ", "phantom_outcome ")
            ):
                assert "Give it back by" in parameter.text, parameter.declaration


def test_structs_hide_nothing_in_padding() -> None:
    options = next(struct for struct in lower(toy()).structs if struct.c_type == "toy_box_options")
    assert [member.declaration for member in options.members] == [
        "const char *label",
        "const void *key",
        "size_t key_len",
        "toy_colour colour",
        "uint32_t reserved_3",
        "toy_box model",
        "int64_t lifetime_ms",
        "int32_t lid",
        "uint32_t reserved_6",
        "uint64_t room",
        "const char *note",
    ]
    assert not options.out


def test_enums_that_no_call_has_are_left_out() -> None:
    assert [name for name, _ in lower(toy()).enums] == ["toy_colour"]
    assert [name for name, _ in lower(real()).enums] == [
        "phantom_connection_state",
        "phantom_leg",
        "phantom_cipher_suite",
        "phantom_preset",
        "phantom_cookie_policy",
        "phantom_padding_policy",
        "phantom_session_event_kind",
        "phantom_client_authentication",
    ]


def test_chapters_join_local_and_served_services() -> None:
    library = lower(real())
    assert [chapter.title for chapter in library.chapters] == [
        "Library",
        "Signing keys",
        "Configuration",
        "Sessions",
        "Streams",
        "Listeners",
        "Outcomes",
    ]
    sessions = {call.name for call in library.chapters[3].calls}
    assert {"phantom_connect", "phantom_session_send", "phantom_session_state"} <= sessions


def test_a_package_without_calls(tmp_path: Path) -> None:
    assert lower(package_of(tmp_path, 'syntax = "proto3";\npackage x.v1;\nmessage A {}\n')).calls == ()


def _service(request: str, response: str = "", form: str = "FUNCTION", more: str = "", stream: str = "") -> str:
    return f"""
        message Handle {{
          option (phantom.options.v1.message).c_handle = "handle";
          uint64 id = 1;
        }}
        message Inner {{
          Inner again = 1;
        }}
        message Plain {{
          uint32 number = 1;
        }}
        message CRequest {{ {request}
        }}
        message CResponse {{ {response}
        }}
        service S {{
          rpc C(CRequest) returns ({stream} CResponse) {{
            option (phantom.options.v1.call).c = {{name: "c" form: CALL_FORM_{form} {more}}};
          }}
        }}"""


OWNER = "(phantom.options.v1.field).owner"
STRUCT = """
        message Struct {{ {mark}
          option (phantom.options.v1.message).c_struct = "struct";
          {field}
        }}"""

REFUSED = {
    "names is repeated, which C call c cannot have": _service("\nrepeated string names = 1; // !"),
    "names is a map, which C call c cannot have": _service("\nmap<string, string> names = 1; // !"),
    "a is a member of a oneof, which C call c cannot have": _service("\noneof x {\nstring a = 1; // !\n}"),
    "moods is repeated, which C call c cannot have": _service("", "\nrepeated int32 moods = 1; // !"),
    "number is optional, and C has no absent uint32": _service("\noptional uint32 number = 1; // !"),
    "plain is optional, and C has no absent message": _service("\noptional Plain plain = 1; // !"),
    "class is a word of C, C++ or Python": _service("\nstring class = 1; // !"),
    "lambda is a word of C, C++ or Python": _service("\nbool lambda = 1; // !"),
    "number is a number and has an owner": _service(f"\nint32 number = 1 [{OWNER} = OWNER_CALLER]; // !"),
    "Inner contains itself": _service("\nInner inner = 1;").replace("message Inner {", "message Inner { // !"),
    "a second handle as a result of C": _service("", "\nHandle a = 1;\nHandle b = 2; // !"),
    "text is OWNER_STATIC, but no returned text": _service("", f"\nstring text = 1 [{OWNER} = OWNER_STATIC]; // !"),
    "text gives memory back to the library": _service(f"\nbytes text = 1 [{OWNER} = OWNER_LIBRARY]; // !"),
    "c has two parameters number": _service("\nuint32 number = 1;\nPlain plain = 2;").replace(
        "CResponse) {", "CResponse) { // !"
    ),
    "C takes a stream, which C has no form for": _service("")
    .replace("rpc C(", "rpc C(stream ")
    .replace("CResponse) {", "CResponse) { // !"),
    "C is a stream and has CALL_FORM_FUNCTION": _service("", stream="stream").replace(
        "CResponse) {", "CResponse) { // !"
    ),
    "C is no stream and has CALL_FORM_ITERATOR": _service("", form="ITERATOR").replace(
        "CResponse) {", "CResponse) { // !"
    ),
    "C has CALL_FORM_RELEASE and more than one handle": _service(
        "\nHandle a = 1;\nHandle b = 2;", form="RELEASE"
    ).replace("CResponse) {", "CResponse) { // !"),
    "C has CALL_FORM_RETAIN and more than one handle": _service(
        "\nHandle a = 1;", "\nbool b = 2;", form="RETAIN"
    ).replace("CResponse) {", "CResponse) { // !"),
    "C returns its result in place of a status, but can fail": _service(
        "", "\nbool a = 1;", more="returns_result: true"
    ).replace("CResponse) {", "CResponse) { // !"),
    "C cannot return a in place of a status": _service(
        "", "\nHandle a = 1; // !", form="NATIVE", more="returns_result: true"
    ),
    "C cannot return text in place of a status": _service(
        "", "\nstring text = 1; // !", form="NATIVE", more="returns_result: true"
    ),
    "names is repeated, which C struct x_struct cannot have": _service("\nStruct s = 1;")
    + STRUCT.format(mark="", field="repeated string names = 1; // !"),
    "names is a map, which C struct x_struct cannot have": _service("\nStruct s = 1;")
    + STRUCT.format(mark="", field="map<string, string> names = 1; // !"),
    "a is a member of a oneof, which C struct x_struct cannot have": _service("\nStruct s = 1;")
    + STRUCT.format(mark="", field="oneof x {\nstring a = 1; // !\n}"),
    "plain is a message in C struct x_struct": _service("\nStruct s = 1;")
    + STRUCT.format(mark="", field="Plain plain = 1; // !"),
    "handle is a handle in a struct of results": _service("", "\nStruct s = 1;")
    + STRUCT.format(mark="", field="Handle handle = 1; // !"),
    "text has an owner that a struct cannot have": _service("", "\nStruct s = 1;")
    + STRUCT.format(mark="", field=f"string text = 1 [{OWNER} = OWNER_CALLER]; // !"),
    "Struct is an empty C struct": _service("\nStruct s = 1;") + STRUCT.format(mark="// !", field=""),
    "s is optional, and C has no absent message": _service("\noptional Struct s = 1; // !")
    + STRUCT.format(mark="", field="bool a = 1;"),
    "Struct is a struct of parameters and of results": _service("\nStruct s = 1;", "\nStruct t = 1;")
    + STRUCT.format(mark="// !", field="bool a = 1;"),
    "x_c is the name of a handle and of a call": _service("\nHandle a = 1;")
    .replace('c_handle = "handle"', 'c_handle = "c"')
    .replace("CResponse) {", "CResponse) { // !"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(tmp_path: Path, fault: str) -> None:
    check_refused(tmp_path, REFUSED[fault], fault, lower)
