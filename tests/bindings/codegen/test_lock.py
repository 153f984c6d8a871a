"""Structs only ever grow at their end."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from bindings.codegen import lock
from bindings.codegen.c import lower
from bindings.codegen.model import DefinitionError
from tests.bindings.codegen.support import ROOT, package_of, real
from tools import generate

BEFORE = """
  string label = 1;
  uint32 things = 4;
  bytes key = 7;
"""


def _package(folder: Path, members: str, mark: str = "") -> str:
    return f"""syntax = "proto3"; package x.v1; import "phantom/options/v1/options.proto";
message Made {{ {mark}
  option (phantom.options.v1.message).c_struct = "made";
{members}
}}
message CRequest {{ Made made = 1; }}
message CResponse {{}}
service S {{
  rpc C(CRequest) returns (CResponse) {{ option (phantom.options.v1.call).c = {{name: "c" form: CALL_FORM_FUNCTION}}; }}
}}
"""


def _check(folder: Path, members: str, mark: str = "") -> None:
    before = lock.text(lower(package_of(folder, _package(folder, BEFORE))))
    lock.check(lower(package_of(folder, _package(folder, members, mark))), before)


def test_text(tmp_path: Path) -> None:
    lines = lock.text(lower(package_of(tmp_path, _package(tmp_path, BEFORE)))).splitlines()
    assert lines[2:] == [
        "x_made 1 const char *label",
        "x_made 4 uint32_t things",
        "x_made 7 const void *key",
        "x_made 7 size_t key_len",
    ]


@pytest.mark.parametrize(
    "members",
    [
        BEFORE,
        f"{BEFORE} bool more = 8;",
        f"{BEFORE} bool more = 8; string text = 900;",
        "bytes key = 7; uint32 things = 4; string label = 1;",
        f"{BEFORE} repeated string hidden = 2 [(phantom.options.v1.field).c_skip = true];",
    ],
)
def test_what_may_change(tmp_path: Path, members: str) -> None:
    _check(tmp_path, members)


# fault -> members, with `// !` behind the line at fault
REFUSED = {
    "x_made had `uint32_t things` (field 4), now it has not": "string label = 1;\nbytes key = 7;",
    "x_made had `uint32_t things` (field 4), now it has `uint64_t things`": (
        "string label = 1;\nuint64 things = 4; // !\nbytes key = 7;"
    ),
    "x_made had `uint32_t things` (field 4), now it has `uint32_t renamed`": (
        "string label = 1;\nuint32 renamed = 4; // !\nbytes key = 7;"
    ),
    "`uint32_t things` of x_made had field number 4, now 8": (
        "string label = 1;\nbytes key = 7;\nuint32 things = 8; // !"
    ),
    "x_made gets `int32_t more` (field 2) in front of field 7": f"{BEFORE}\nbool more = 2; // !",
    "x_made gets `int32_t more` (field 5) in front of field 7": f"{BEFORE}\nbool more = 5; // !",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_may_not_change(tmp_path: Path, fault: str) -> None:
    members = REFUSED[fault]
    text = _package(tmp_path, members, "" if "// !" in members else "// !")
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "// !" in line)
    with pytest.raises(DefinitionError, match=re.escape(fault)) as caught:
        _check(tmp_path, members, "" if "// !" in members else "// !")
    place, _, remedy = str(caught.value).split(": ", 2)
    assert place == f"x.proto:{line}"
    assert remedy


def test_a_struct_may_not_vanish(tmp_path: Path) -> None:
    before = lock.text(lower(package_of(tmp_path, _package(tmp_path, BEFORE))))
    with pytest.raises(DefinitionError, match=r"x\.proto:1: x_made had `const char \*label`"):
        lock.check(lower(package_of(tmp_path, 'syntax = "proto3";\npackage x.v1;\n')), before)


def test_a_new_struct_is_free(tmp_path: Path) -> None:
    lock.check(lower(package_of(tmp_path, _package(tmp_path, BEFORE))), "# nothing yet\n")


def test_the_committed_file_is_the_definition() -> None:
    assert (ROOT / lock.PATH).read_text() == lock.text(lower(real()))


def test_the_generator_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A change that the wire would survive, and C would not."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    (tmp_path / lock.PATH).parent.mkdir(parents=True)
    for name in ("pyproject.toml", lock.PATH):
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "proto" / "phantom" / "v1" / "library.proto"
    text = path.read_text()
    assert text.count("  bool reuse_port = 4;") == 1
    path.write_text(
        text.replace("  bool reuse_port = 4;", "  bool reuse_port = 4 [(phantom.options.v1.field).c_skip = true];")
    )
    assert generate.main([], tmp_path) == 2
    assert "phantom_bind_options had `int32_t reuse_port` (field 4)" in capsys.readouterr().err
    assert not (tmp_path / "bindings/c/include").exists()
