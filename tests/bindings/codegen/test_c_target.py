"""The files of the C library: golden ones of the toy, and what must hold for those of Phantom."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

from bindings.codegen.c import lower
from bindings.codegen.c_glue import docstring
from bindings.codegen.model import DefinitionError, Package
from bindings.codegen.plugin import render
from phantom import ConnectionState, PhantomConfig, errors, limits
from tests.bindings.codegen.support import ROOT, check_golden, package_of, real, toy
from tools import generate

GENERATED = "bindings/c/generated"
HEADER = "bindings/c/include/phantom.h"
# surface §16, as far as Python has the operation today
CALLS = {
    "library": "abi_version version_string init fini last_error_message status_name self_test buffer_free",
    "signing_key": "generate from_seed to_seed verifying_key free",
    "verifying_key": "check",
    "config": "preset set_duration_ms set_u32 free",
    "client": "connect connect_pinned connect_ex",
    "session": "retain release await_ready send recv state is_data_ready is_pqc_ready queued_count flush_queue id "
    "peer_addr peer_identity export_keying_material rekey open_stream accept_stream next_event metrics last_error "
    "disconnect",
    "stream": "release id send_reliable send_unreliable recv set_priority finish reset stop",
    "listener": "bind bind_with_signing_key bind_ex local_addr url verifying_key accept shutdown is_shutting_down "
    "release",
    "outcome": "session peer_addr client_identity release",
}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return {path: content.decode() for path, content in render(real(), ["c"]).items()}


def test_golden() -> None:
    check_golden("c")


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"),
    [("cc", "c99", "c"), ("cc", "c17", "c"), ("c++", "c++11", "cc"), ("c++", "c++20", "cc")],
)
@pytest.mark.parametrize("package", [toy, real])
def test_header_compiles(compiler: str, standard: str, suffix: str, package: object, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    assert callable(package)
    made: Package = package()
    name = made.prefix
    (tmp_path / f"{name}.h").write_bytes(render(made, ["c"])[f"bindings/c/include/{name}.h"])
    program = f'#include "{name}.h"\n#include "{name}.h"\nint main(void) {{ return {name.upper()}_OK; }}\n'
    (tmp_path / f"x.{suffix}").write_text(program)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    command = [compiler, f"-std={standard}", *warnings, "-fsyntax-only", f"x.{suffix}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


RUNTIME = """
#include "phantom.h"
#include "phantom_status_names.c"
#include "phantom_status_name.c"
static phantom_status phantom_rt_enter(void) { return 0; }
static phantom_status phantom_rt_refuse(phantom_status status, const char *text) { (void)text; return status; }
static void *phantom_rt_alloc(size_t size, int secret) { (void)size; (void)secret; return NULL; }
static void phantom_rt_free(void *data) { (void)data; }
static void phantom_rt_error(const char *text, size_t len) { (void)text; (void)len; }
#include "phantom_shims.c"
const char *phantom_status_name(phantom_status status) { return phantom_rt_status_name(status); }
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no cc")
def test_exported_calls_compile(files: dict[str, str], tmp_path: Path) -> None:
    for path, content in files.items():
        (tmp_path / Path(path).name).write_text(content)
    names = f"{GENERATED}/phantom_status_names.c"
    (tmp_path / "phantom_status_names.c").write_bytes(render(real(), ["errors"])[names])
    (tmp_path / "x.c").write_text(RUNTIME)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    # cffi defines what Python answers, and calls what Python calls
    command += ["-Wno-error=unused-function", "-Wno-unused-function", "-fsyntax-only", "x.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    complaints = [
        line for line in done.stderr.splitlines() if ": error:" in line and "used but never defined" not in line
    ]
    assert complaints == []


def test_cdef_is_what_cffi_reads(files: dict[str, str]) -> None:
    ffi = cffi.FFI()
    ffi.cdef(files[f"{GENERATED}/phantom_cdef.h"])
    assert ffi.sizeof("phantom_connect_options") == 40
    assert ffi.sizeof("phantom_metrics") == 8 * 23


def test_every_call_of_the_surface_is_there() -> None:
    library = lower(real())
    there = {call.name for call in library.calls} | {f"phantom_{constant.name}" for constant in real().constants}
    for group, names in CALLS.items():
        prefix = "phantom_" if group in ("library", "client") else f"phantom_{group}_"
        for name in names.split():
            assert f"{prefix}{name}" in there


def test_what_is_exported_is_what_the_header_declares(files: dict[str, str]) -> None:
    declared = re.findall(r"^PHANTOM_API [^;]*?\b(phantom_\w+)\(", files[HEADER], re.MULTILINE)
    exported = re.findall(r"^        (phantom_\w+);$", files[f"{GENERATED}/phantom.map"], re.MULTILINE)
    assert sorted(declared) == exported
    assert files[f"{GENERATED}/phantom.map"].splitlines()[1] == "PHANTOM_0 {"


def test_whatever_waits_has_a_timeout(files: dict[str, str]) -> None:
    waiting = {call.short for call in lower(real()).calls if "int64_t timeout_ms" in call.prototype}
    assert waiting == {
        *("connect", "connect_pinned", "connect_ex", "fini", "listener_accept", "session_await_ready", "session_send"),
        *("session_recv", "session_flush_queue", "session_next_event", "session_disconnect", "listener_bind"),
        *("listener_bind_with_signing_key", "listener_bind_ex", "session_rekey", "session_next_event_ex"),
        *("session_open_stream", "session_accept_stream", "stream_recv"),
        *("stream_send_reliable", "stream_send_unreliable"),
    }


def test_constants_are_those_of_the_protocol() -> None:
    constants = {constant.name: constant.constant for constant in real().constants}
    assert constants.pop("abi_version") == 0
    assert constants == {
        "replay_window_bits": limits.REPLAY_WINDOW_BITS,
        "aead_overhead": limits.AEAD_TAG_LEN,
        "aead_max_invocations": limits.AEAD_MAX_INVOCATIONS,
        "length_prefix": limits.LENGTH_PREFIX,
        "early_data_max": limits.EARLY_DATA_MAX_LEN,
        "challenge_bytes": limits.COOKIE_LEN,
        "session_id_bytes": limits.SESSION_ID_LEN,
        "secret_bytes": limits.AEAD_KEY_LEN,
        "signing_seed_bytes": limits.SIGNING_SEED_LEN,
        "verifying_key_bytes": limits.VERIFYING_KEY_LEN,
        "fingerprint_chars": 61,
        "max_message": limits.MAX_MESSAGE,
    }


def test_statuses_are_the_codes_of_the_errors(files: dict[str, str]) -> None:
    statuses = {
        int(number): name
        for name, number in re.findall(r"^    PHANTOM_ERROR_(\w+) = (-?\d+)", files[HEADER], re.MULTILINE)
    }
    assert {number for number in statuses if number < 0} == {-77, -100, -101}
    for number, name in statuses.items():
        if number > 0:
            cls = errors.error_class(number)
            assert cls.code == number
            assert cls.__name__.removeprefix("Phantom").removesuffix("Error").upper() == name.replace("_", "")


def test_states_are_the_codes_of_the_states(files: dict[str, str]) -> None:
    states = re.findall(r"^    PHANTOM_CONNECTION_STATE_(\w+) = (\d+)", files[HEADER], re.MULTILINE)
    assert {name: int(number) for name, number in states} == {state.name: state.value for state in ConnectionState}


def test_fields_that_can_be_set_are_fields_of_the_configuration(files: dict[str, str]) -> None:
    tree = ast.parse(files[f"{GENERATED}/phantom_c.py"])
    table = next(
        node for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "CONFIG_FIELDS"
    )
    assert table.value is not None
    settable = set(ast.literal_eval(table.value).values())
    names = set(PhantomConfig.__dataclass_fields__)
    assert (settable - names, names - settable) == (set(), {"load_tiers"})


def test_every_file_is_marked(files: dict[str, str]) -> None:
    for path, content in files.items():
        assert "Generated by `make generate` from proto/. Do not edit." in content.splitlines()[0], path


def test_generated_python_needs_no_cffi_and_no_runtime(files: dict[str, str]) -> None:
    tree = ast.parse(files[f"{GENERATED}/phantom_c.py"])
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "dataclasses", "typing", "phantom.errors"}


@pytest.mark.parametrize("length", [103, 105, 106, 107, 109, 112, 200])
def test_docstrings_are_formatted_as_the_formatter_would(length: int, tmp_path: Path) -> None:
    text = "word " * (length // 5) + "w" * (length % 5)
    made = f"class A:\n    def a(self) -> None:\n        {docstring(text, ' ' * 8)}\n"
    assert all(len(line) <= 120 for line in made.splitlines())
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff:
        (tmp_path / "a.py").write_text(made)
        command = [ruff, "format", "--isolated", "--line-length=120", "--check", "a.py"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_version_macros(files: dict[str, str]) -> None:
    version = real().version
    assert f'#define PHANTOM_VERSION "{version}"' in files[HEADER]
    major, minor, patch = version.split(".")
    for part, number in (("MAJOR", major), ("MINOR", minor), ("PATCH", patch)):
        assert f"#define PHANTOM_VERSION_{part} {number}\n" in files[HEADER]


def test_a_package_without_calls_makes_no_library(tmp_path: Path) -> None:
    assert render(package_of(tmp_path, 'syntax = "proto3";\npackage x.v1;\nmessage A {}\n'), ["c"]) == {}


def test_the_errors_that_the_library_reports_must_exist(tmp_path: Path) -> None:
    text = """syntax = "proto3"; package x.v1; import "phantom/options/v1/options.proto"; message A {}
        service S {
          rpc C(A) returns (A) { option (phantom.options.v1.call).c = {name: "c" form: CALL_FORM_FUNCTION}; }
        }"""
    with pytest.raises(DefinitionError, match=r"x\.proto:1: there is no error VALIDATION.*: declare it"):
        render(package_of(tmp_path, text), ["c"])


def test_an_operation_that_is_added_to_the_definition_is_in_every_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "proto" / "phantom" / "v1" / "session.proto"
    call = """
  // Says how far away the peer is.
  rpc Ping(PingRequest) returns (PingResponse) {
    option (phantom.options.v1.call).c = {name: "session_ping" form: CALL_FORM_BLOCKING};
  }
}

// Asks for the way to the peer.
message PingRequest {
  // The session.
  SessionRef session = 1;
  // What to send along.
  bytes data = 2;
}

// The way to the peer.
message PingResponse {
  // There and back.
  google.protobuf.Duration round_trip = 1;
  // What came back.
  bytes echo = 2;
}

// A session, by its handle.
message SessionRef {"""
    text = path.read_text()
    assert text.count("}\n\n// A session, by its handle.\nmessage SessionRef {") == 1
    path.write_text(text.replace("}\n\n// A session, by its handle.\nmessage SessionRef {", call.lstrip("\n")))
    made = {name: content.decode() for name, content in generate.generated(tmp_path).items() if name != generate.BASE}
    assert (
        "PHANTOM_API phantom_status phantom_session_ping(\n"
        "    phantom_session session, const void *data, size_t data_len, int64_t timeout_ms, int64_t *round_trip_ms,\n"
        "    phantom_buffer *echo);"
    ) in made[HEADER]
    assert (
        "def session_ping(self, session: Any, data: memoryview, timeout: float | None) -> SessionPingResult:"
        in (made[f"{GENERATED}/phantom_c.py"])
    )
    assert "        phantom_session_ping;\n" in made[f"{GENERATED}/phantom.map"]
    assert "def Ping(self" in made[f"{generate.STUBS}/session_pb2_grpc.py"]


def test_committed_files_are_these(files: dict[str, str]) -> None:
    for path, content in files.items():
        assert (ROOT / path).read_text() == content, path
