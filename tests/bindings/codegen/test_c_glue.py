"""The exported calls and the glue at work: the toy library, built as an extension and called through C."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
import pytest

from bindings.codegen.c import lower
from bindings.codegen.plugin import render
from phantom.errors import PhantomError, SessionNotFoundError, ValidationError
from tests.bindings.codegen.support import toy

PYTHON_H = Path(sysconfig.get_path("include"), "Python.h")
pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") and PYTHON_H.exists()), reason="needs a C compiler and the headers of Python"
)

RUNTIME = """
#include "toy.h"
#include <stdlib.h>
static int32_t entered, secrets, held;
static char said[256];
void set_entered(int32_t status) { entered = status; }
int32_t get_secrets(void) { return secrets; }
int32_t get_held(void) { return held; }
const char *get_said(void) { return said; }
static toy_status toy_rt_enter(void) { return entered; }
static void toy_rt_error(const char *text, size_t len) {
    len = len < sizeof said - 1 ? len : sizeof said - 1;
    memcpy(said, text, len);
    said[len] = 0;
}
static toy_status toy_rt_refuse(toy_status status, const char *text) {
    toy_rt_error(text, strlen(text));
    return status;
}
static void *toy_rt_alloc(size_t size, int secret) { secrets += secret; held += 1; return malloc(size); }
static void toy_rt_free(void *data) { held -= data != NULL; free(data); }
void toy_buffer_free(toy_buffer *buffer) { toy_rt_free(buffer->data); buffer->data = NULL; buffer->len = 0; }
#include "toy_shims.c"
"""
CDEF = """
void set_entered(int32_t status);
int32_t get_secrets(void);
int32_t get_held(void);
const char *get_said(void);
void toy_buffer_free(toy_buffer *buffer);
uint64_t toy_box_bytes(void);
uint64_t toy_grains(void);
uint64_t toy_abi_version(void);
typedef int32_t toy_status; typedef int32_t toy_colour; typedef uint32_t toy_setting_field;
"""


class Table:
    """The smallest runtime that the glue can have."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self._ffi, self._lib = ffi, lib
        self._numbers = itertools.count(1)
        self.held: dict[int, list[Any]] = {}
        self.errors: list[tuple[str, BaseException]] = []

    def lookup(self, kind: str, handle: int) -> Any:
        found = self.held.get(handle)
        if found is None or found[0] != kind:
            raise SessionNotFoundError(f"there is no {kind} {handle}")
        return found[1]

    def register(self, kind: str, value: object) -> int:
        number = next(self._numbers)
        self.held[number] = [kind, value, 1]
        return number

    def retain(self, kind: str, handle: int) -> None:
        self.lookup(kind, handle)
        self.held[handle][2] += 1

    def release(self, kind: str, handle: int) -> Any | None:
        value = self.lookup(kind, handle)
        self.held[handle][2] -= 1
        if self.held[handle][2]:
            return None
        del self.held[handle]
        return value

    def lend(self, value: bytes) -> int:
        data = self._lib.toy_rt_alloc(len(value) + 1, 0)
        self._ffi.memmove(data, value + b"\0", len(value) + 1)
        return int(self._ffi.cast("uintptr_t", data))

    def failed(self, call: str, error: BaseException) -> int:
        self.errors.append((call, error))
        text = str(error).encode()
        self._lib.toy_rt_error(text, len(text))
        return error.code if isinstance(error, PhantomError) else -77


class Watching:
    """What ``box_watch`` begins."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.waits: list[float | None] = []
        self.closed = False

    def next(self, timeout: float | None) -> Any:
        self.waits.append(timeout)
        return self.items.pop(0) if self.items else None

    def close(self) -> None:
        self.closed = True


class Boxes:
    """The operations of the toy: each answers what ``answers`` has, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.lent: memoryview | None = None

    def _answer(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        answer = self.answers.get(name)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def box_put(self, box: Any, thing: memoryview, label: str | None, timeout: float | None) -> int:
        self.lent = thing
        answer: int = self._answer("box_put", box, bytes(thing), label, timeout)
        return answer

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("box_"):
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, *arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, ModuleType]:
    """ffi and lib of the extension, and the glue."""
    folder = tmp_path_factory.mktemp("toy")
    for path, content in render(toy(), ["c"]).items():
        (folder / Path(path).name).write_bytes(content)
    ffi = cffi.FFI()
    ffi.cdef((folder / "toy_cdef.h").read_text() + CDEF)
    ffi.cdef("".join(f"{call.prototype};\n" for call in lower(toy()).glued))
    ffi.set_source("_toy_extension", RUNTIME, include_dirs=[str(folder)], extra_compile_args=["-Wno-unused-function"])
    ffi.compile(tmpdir=str(folder), verbose=False)
    module = _module("_toy_extension", next(folder.glob("_toy_extension.*so")))
    return module.ffi, module.lib, _module("toy_c", folder / "toy_c.py")


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their module
    spec.loader.exec_module(module)
    return module


class Toy:
    """The library, its runtime and its operations."""

    def __init__(self, ffi: Any, lib: Any, glue: ModuleType) -> None:
        self.ffi, self.lib, self.glue = ffi, lib, glue
        self.table, self.boxes = Table(ffi, lib), Boxes()
        lib.set_entered(0)
        glue.install(ffi, lib, self.table, self.boxes)

    def box(self, value: object = "a box") -> Any:
        """A handle."""
        return self.ffi.new("toy_box *", [self.table.register("box", value)])[0]

    def said(self) -> str:
        """The last error text."""
        return bytes(self.ffi.string(self.lib.get_said())).decode()

    def buffer(self) -> Any:
        """A buffer that holds rubbish."""
        return self.ffi.new("toy_buffer *", {"data": self.ffi.NULL, "len": 77})

    def take(self, buffer: Any) -> bytes:
        """The content of a buffer, which is followed by a NUL and freed."""
        data = bytes(self.ffi.buffer(buffer.data, buffer.len + 1))
        assert data[-1] == 0
        self.lib.toy_buffer_free(buffer)
        return data[:-1]


@pytest.fixture
def library(built: tuple[Any, Any, ModuleType]) -> Iterator[Toy]:
    toy_library = Toy(*built)
    yield toy_library
    assert toy_library.lib.get_held() == 0, "a buffer was lost"


def _options(library: Toy, **members: Any) -> Any:
    options = library.ffi.new("toy_box_options *")
    options.struct_size = library.ffi.sizeof("toy_box_options")
    for name, value in members.items():
        setattr(options, name, value)
    return options


def test_parameters_arrive_as_python_values(library: Toy) -> None:
    ffi, lib = library.ffi, library.lib
    box, room = library.box(), ffi.new("uint32_t *", 99)
    library.boxes.answers["box_put"] = 7
    assert lib.toy_box_put(box, b"a\0b", 3, "Käse".encode(), 1500, room) == 0
    assert room[0] == 7
    assert lib.toy_box_put(box, ffi.NULL, 0, ffi.NULL, -1, ffi.NULL) == 0
    assert library.boxes.calls == [
        ("box_put", "a box", b"a\0b", "Käse", 1.5),
        ("box_put", "a box", b"", None, None),
    ]


def test_lent_memory_cannot_be_used_later(library: Toy) -> None:
    library.boxes.answers["box_put"] = 0
    assert library.lib.toy_box_put(library.box(), b"abc", 3, library.ffi.NULL, 0, library.ffi.NULL) == 0
    assert library.boxes.lent is not None
    with pytest.raises(ValueError, match="released"):
        library.boxes.lent.tobytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((None, 3, None, 0, None), "thing is NULL and thing_len is not 0"),
        ((b"", 1 << 63, None, 0, None), "thing_len is too large"),
        ((b"", 0, None, -2, None), "timeout_ms must not be -2"),
        ((b"", 0, b"\xff", 0, None), "label is not UTF-8"),
    ],
)
def test_bad_parameters_are_refused(library: Toy, arguments: tuple[Any, ...], text: str) -> None:
    given = [library.ffi.NULL if argument is None else argument for argument in arguments]
    assert library.lib.toy_box_put(library.box(), *given) == 6
    assert text in library.said()
    assert library.boxes.calls == []


def test_a_library_that_cannot_run_says_so_and_empties_results(library: Toy) -> None:
    room, buffer = library.ffi.new("uint32_t *", 99), library.buffer()
    library.lib.set_entered(-100)
    assert library.lib.toy_box_put(library.box(), b"", 0, library.ffi.NULL, 0, room) == -100
    assert library.lib.toy_box_take(library.box(), 0, buffer, library.ffi.NULL, library.ffi.NULL) == -100
    assert (room[0], buffer.len, library.boxes.calls) == (0, 0, [])


@pytest.mark.parametrize("number", [0, 99, (1 << 64) - 1])
def test_unknown_handles(library: Toy, number: int) -> None:
    box = library.ffi.new("toy_box *", [number])[0]
    assert library.lib.toy_box_release(box) == 13
    assert library.lib.toy_box_retain(box) == 13
    assert library.lib.toy_box_set(box, 1, 1.0) == 13
    assert f"no box {number}" in library.said()


def test_a_handle_of_another_kind_is_unknown(library: Toy) -> None:
    number = library.table.register("box_watch_iterator", Watching([]))
    assert library.lib.toy_box_release(library.ffi.new("toy_box *", [number])[0]) == 13


def test_counted_handles(library: Toy) -> None:
    box = library.box()
    assert library.lib.toy_box_retain(box) == 0
    assert library.lib.toy_box_release(box) == 0
    assert library.boxes.calls == []
    assert library.lib.toy_box_release(box) == 0
    assert library.boxes.calls == [("box_release", "a box")]
    assert library.lib.toy_box_release(box) == 13


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValidationError("no"), 6),
        (ValueError("no"), -77),
        (SystemExit("no"), -77),
        (KeyboardInterrupt("no"), -77),
        (MemoryError("no"), -77),
    ],
)
def test_no_exception_crosses(
    library: Toy, error: BaseException, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    library.boxes.answers["box_set"] = error
    assert library.lib.toy_box_set(library.box(), 1, 1.0) == status
    assert library.table.errors == [("toy_box_set", error)]
    assert library.said() == "no"
    assert capfd.readouterr() == ("", "")


def test_a_status_that_is_no_number_is_a_failure_of_the_glue(
    library: Toy, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = library.table.failed

    def strange(call: str, error: BaseException) -> Any:
        return failed(call, error) and 1 << 40

    monkeypatch.setattr(library.table, "failed", strange)
    library.glue.install(library.ffi, library.lib, library.table, library.boxes)
    library.boxes.answers["box_set"] = ValidationError("no")
    assert library.lib.toy_box_set(library.box(), 1, 1.0) == -77
    assert isinstance(library.table.errors[-1][1], OverflowError)
    assert capfd.readouterr() == ("", "")


def test_field_numbers_become_names(library: Toy) -> None:
    assert library.lib.toy_box_set(library.box(), 3, 2.5) == 0
    assert library.boxes.calls == [("box_set", "a box", "depth", 2.5)]
    assert library.lib.toy_box_set(library.box(), 2, 2.5) == 6
    assert library.said() == "there is no field with the number 2"


def test_results_of_every_kind(library: Toy) -> None:
    ffi = library.ffi
    box, buffer, colour, age = library.box(), library.buffer(), ffi.new("int32_t *"), ffi.new("int64_t *")
    library.boxes.answers["box_take"] = library.glue.BoxTakeResult(data=bytearray(b"a\0b"), colour=1, age=2.0004)
    assert library.lib.toy_box_take(box, 0, buffer, colour, age) == 0
    assert (library.take(buffer), colour[0], age[0]) == (b"a\0b", 1, 2000)
    library.boxes.answers["box_take"] = library.glue.BoxTakeResult(data=b"", colour=0, age=0.0)
    assert library.lib.toy_box_take(box, 0, buffer, ffi.NULL, ffi.NULL) == 0
    assert library.take(buffer) == b""
    assert library.lib.toy_box_take(box, 0, ffi.NULL, ffi.NULL, ffi.NULL) == 6
    assert library.said() == "toy_box_take: data is NULL"


def test_a_result_that_does_not_fit_frees_what_was_made(library: Toy) -> None:
    buffer, colour = library.buffer(), library.ffi.new("int32_t *", 5)
    library.boxes.answers["box_take"] = library.glue.BoxTakeResult(data=b"abc", colour=1 << 40, age=0.0)
    assert library.lib.toy_box_take(library.box(), 0, buffer, colour, library.ffi.NULL) == -77
    assert (buffer.data, buffer.len, colour[0]) == (library.ffi.NULL, 0, 0)


def _name(library: Toy, room: int, digest_room: int) -> tuple[int, bytes, int, bytes, int]:
    ffi = library.ffi
    name, digest, key = ffi.new("char[8]", b"rubbish"), ffi.new("char[8]", b"rubbish"), library.buffer()
    name_len, digest_len, is_open = ffi.new("size_t *", 99), ffi.new("size_t *", 99), ffi.new("int32_t *", 9)
    status: int = library.lib.toy_box_name(
        library.box(),
        name if room >= 0 else ffi.NULL,
        max(room, 0),
        name_len,
        key,
        digest if digest_room >= 0 else ffi.NULL,
        max(digest_room, 0),
        digest_len,
        is_open,
    )
    if status == 0:
        assert library.take(key) == b"secret"
        assert is_open[0] == 1
    else:
        assert (key.data, key.len, is_open[0]) == (ffi.NULL, 0, 0)
    return status, bytes(ffi.buffer(name)), name_len[0], bytes(ffi.buffer(digest)), digest_len[0]


def test_arrays_of_the_caller(library: Toy) -> None:
    before = library.lib.get_secrets()
    library.boxes.answers["box_name"] = library.glue.BoxNameResult(name="abc", key=b"secret", digest=b"12", open=True)
    assert _name(library, -1, -1) == (0, b"rubbish\0", 3, b"rubbish\0", 2)
    assert _name(library, 4, 2) == (0, b"abc\0ish\0", 3, b"12bbish\0", 2)
    assert library.lib.get_secrets() == before + 2
    assert _name(library, 3, 2) == (6, b"\0ubbish\0", 3, b"rubbish\0", 0)
    assert library.said() == "there is room for 3 bytes; 4 are needed"
    assert _name(library, 0, 2)[0] == 6
    assert _name(library, 4, 1)[0] == 6
    assert library.lib.get_secrets() == before + 2


def test_structs_arrive_whole(library: Toy) -> None:
    ffi = library.ffi
    made, label, key, note = (
        ffi.new("toy_box *"),
        ffi.new("char[]", b"L"),
        ffi.new("char[]", b"k\0y"),
        ffi.new("char[]", b"n"),
    )
    library.boxes.answers["box_make"] = "new"
    options = _options(
        library,
        label=label,
        key=key,
        key_len=3,
        colour=1,
        model=library.box("model"),
        lifetime_ms=-1500,
        lid=5,
        room=1 << 63,
        note=note,
    )
    assert library.lib.toy_box_make(options, made) == 0
    assert library.table.lookup("box", made.id) == "new"
    ((_, arrived),) = library.boxes.calls
    assert arrived == library.glue.BoxOptions(
        label="L", key=b"k\0y", colour=1, model="model", lifetime=-1.5, lid=True, room=1 << 63, note="n"
    )
    assert repr(arrived).startswith("BoxOptions(label='L', key=[redacted], colour=<Colour.BLUE: 1>")
    assert "k\\0y" not in repr(arrived)
    assert "secret" not in repr(library.glue.BoxNameResult("n", b"secret", b"", True))


@pytest.mark.parametrize(
    ("members", "status", "text"),
    [
        ({"label": None}, 6, "options->label is NULL"),
        ({"key_len": 1}, 6, "options->key is NULL and options->key_len is not 0"),
        ({"key_len": (1 << 64) - 1}, 6, "options->key"),
        ({"colour": 7}, 6, "7 is no Colour"),
        ({"model": 99}, 13, "there is no box 99"),
        ({"struct_size": 0}, 6, "struct_size is wrong; use toy_box_options_init"),
        ({"struct_size": 8}, 6, "struct_size is wrong"),
        ({"struct_size": 4097}, 6, "struct_size is wrong"),
        ({"struct_size": (1 << 64) - 1}, 6, "struct_size is wrong"),
    ],
)
def test_bad_structs_are_refused(library: Toy, members: dict[str, Any], status: int, text: str) -> None:
    label = library.ffi.new("char[]", b"L")
    options = _options(library, label=label)
    for name, value in members.items():
        if name == "model":
            options.model.id = value
        else:
            setattr(options, name, library.ffi.NULL if value is None else value)
    made = library.ffi.new("toy_box *", [5])
    assert library.lib.toy_box_make(options, made) == status
    assert text in library.said()
    assert (made.id, library.boxes.calls) == (0, [])
    assert library.lib.toy_box_make(library.ffi.NULL, made) == 6
    assert library.lib.toy_box_make(options, library.ffi.NULL) == 6


def test_a_caller_of_an_older_header(library: Toy) -> None:
    """Its struct ends earlier, and what lies behind it is not read."""
    label, garbage = library.ffi.new("char[]", b"L"), library.ffi.new("char[]", b"garbage")
    options = _options(library, label=label, lid=1, room=99, note=garbage)
    options.struct_size = library.ffi.offsetof("toy_box_options", "room")
    assert library.lib.toy_box_make(options, library.ffi.new("toy_box *")) == 0
    arrived = library.boxes.calls[0][1]
    assert (arrived.label, arrived.lid, arrived.room, arrived.note) == ("L", True, 0, None)


@pytest.mark.parametrize(("tail", "status"), [(0, 0), (1, 19)])
def test_a_caller_of_a_newer_header(library: Toy, tail: int, status: int) -> None:
    """Its struct is longer; that is fine while it uses nothing of what this library does not know."""
    ffi, size = library.ffi, library.ffi.sizeof("toy_box_options")
    memory = ffi.new("uint64_t[]", size // 8 + 2)
    memory[size // 8 + 1] = tail
    options = ffi.cast("toy_box_options *", memory)
    label = ffi.new("char[]", b"L")
    options.struct_size, options.label = size + 16, label
    assert library.lib.toy_box_make(options, ffi.new("toy_box *")) == status
    assert len(library.boxes.calls) == (status == 0)


def _watch(library: Toy, items: list[Any]) -> tuple[Any, Watching]:
    watching = Watching(items)
    library.boxes.answers["box_watch"] = watching
    iterator = library.ffi.new("toy_box_watch_iterator *")
    assert library.lib.toy_box_watch(library.box(), iterator) == 0
    return iterator[0], watching


def test_an_iterator(library: Toy) -> None:
    ffi, glue = library.ffi, library.glue
    item = glue.BoxWatchResult(content=glue.Content(things=3, list="a, b"), full=True, seen="b")
    iterator, watching = _watch(library, [item])
    content, full, seen, done = (
        ffi.new("toy_content *"),
        ffi.new("int32_t *"),
        library.buffer(),
        ffi.new("int32_t *", 9),
    )
    content.struct_size = ffi.sizeof("toy_content")
    assert library.lib.toy_box_watch_next(iterator, 250, content, full, seen, done) == 0
    assert (content.things, full[0], done[0]) == (3, 1, 0)
    assert library.take(ffi.addressof(content, "list")) == b"a, b"
    assert library.take(seen) == b"b"
    assert library.lib.toy_box_watch_next(iterator, -1, content, full, seen, done) == 0
    assert (content.things, content.list.len, full[0], seen.len, done[0]) == (0, 0, 0, 0, 1)
    assert content.struct_size == ffi.sizeof("toy_content")
    assert watching.waits == [0.25, None]
    assert library.lib.toy_box_watch_cancel(iterator) == 0
    assert watching.closed
    assert library.lib.toy_box_watch_next(iterator, 0, content, full, seen, done) == 13
    assert library.lib.toy_box_watch_cancel(iterator) == 13
    assert library.lib.toy_box_watch(library.box(), ffi.NULL) == 6


def test_a_caller_that_does_not_know_a_buffer_does_not_lose_it(library: Toy) -> None:
    ffi, glue = library.ffi, library.glue
    item = glue.BoxWatchResult(content=glue.Content(things=3, list="a, b"), full=True, seen="")
    iterator, _ = _watch(library, [item])
    content, seen = ffi.new("toy_content *"), library.buffer()
    content.struct_size = ffi.offsetof("toy_content", "list")
    content.list.len = 55
    assert library.lib.toy_box_watch_next(iterator, 0, content, ffi.NULL, seen, ffi.NULL) == 0
    library.lib.toy_buffer_free(seen)
    assert (content.things, content.list.data, content.list.len) == (3, ffi.NULL, 55)


def test_a_struct_of_results_that_fails_half_way(library: Toy) -> None:
    ffi, glue = library.ffi, library.glue
    item = glue.BoxWatchResult(content=glue.Content(things=3, list="a, b"), full=1 << 40, seen="x")
    iterator, _ = _watch(library, [item])
    content, full, seen = ffi.new("toy_content *"), ffi.new("int32_t *"), library.buffer()
    content.struct_size = ffi.sizeof("toy_content")
    assert library.lib.toy_box_watch_next(iterator, 0, content, full, seen, ffi.NULL) == -77
    assert (content.things, content.list.data, seen.data) == (0, ffi.NULL, ffi.NULL)


def test_constants(library: Toy) -> None:
    lib = library.lib
    assert (lib.toy_box_bytes(), lib.toy_grains(), lib.toy_abi_version()) == (4096, 1 << 48, 0)


def test_calls_of_many_threads(library: Toy) -> None:
    box = library.box()
    library.boxes.answers["box_put"] = 1
    statuses: list[int] = []

    def work() -> None:
        statuses.extend(
            library.lib.toy_box_put(box, b"x", 1, library.ffi.NULL, 0, library.ffi.NULL) for _ in range(200)
        )

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 1600
    assert len(library.boxes.calls) == 1600
