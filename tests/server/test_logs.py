"""Log lines and the filter that chooses them."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from phantom.server import logs
from phantom.server.logs import JsonFormatter, PlainFormatter, configure, parse_filter


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "phantom", "phantom.x")}
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("info", {"": logging.INFO}),
        ("WARN", {"": logging.WARNING}),
        ("info,phantom_core=debug", {"": logging.INFO, "phantom": logging.DEBUG}),
        (" error , phantom.sidecar = trace ,", {"": logging.ERROR, "phantom.sidecar": logging.DEBUG}),
        ("phantom_core::session=off", {"phantom.session": logging.CRITICAL + 10}),
    ],
)
def test_filters(text: str, levels: dict[str, int]) -> None:
    assert parse_filter(text) == levels


@pytest.mark.parametrize("text", ["", " , ", "loud", "phantom=loud", "=info", "phantom"])
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(ValueError, match=r"LEVEL|empty"):
        parse_filter(text)


def lines(formatter: logging.Formatter, text: str) -> list[str]:
    stream = io.StringIO()
    configure(text, formatter, stream)
    log = logging.getLogger("phantom.x")
    log.debug("one %s", 1, extra={"fields": {"peer": "127.0.0.1:9", "n": 2}})
    log.warning("two\x1b[2J\nlines")
    logging.getLogger("other").info("three")
    try:
        raise ValueError("a cause")
    except ValueError:
        log.exception("four")
    return stream.getvalue().splitlines()


def test_json_lines_are_objects() -> None:
    entries = [json.loads(line) for line in lines(JsonFormatter(), "info,phantom_core=debug")]
    assert [entry["message"] for entry in entries] == ["one 1", "two\x1b[2J\nlines", "three", "four"]
    first, _, other, failed = entries
    assert set(first) == {"timestamp", "level", "logger", "message", "fields"}
    assert first["fields"] == {"peer": "127.0.0.1:9", "n": 2}
    assert (first["level"], first["logger"]) == ("DEBUG", "phantom.x")
    assert first["timestamp"].endswith("Z")
    assert other["fields"] == {}
    assert "ValueError: a cause" in failed["exception"]


def test_a_plain_record_is_one_line() -> None:
    one, two, three, four, *traceback = lines(PlainFormatter(), "info,phantom=debug")
    assert one.endswith(" DEBUG phantom.x: one 1 peer=127.0.0.1:9 n=2")
    assert two.endswith(r" WARNING phantom.x: two\x1b[2J\nlines")
    assert three.endswith(" INFO other: three")
    assert four.endswith(" ERROR phantom.x: four")
    assert traceback[-1] == "ValueError: a cause"


@pytest.mark.parametrize(
    ("text", "seen"), [("warn", ["two", "four"]), ("info,phantom=off", ["three"]), ("off,phantom.x=error", ["four"])]
)
def test_the_filter_chooses(text: str, seen: list[str]) -> None:
    messages = [json.loads(line)["message"].split("\x1b")[0] for line in lines(JsonFormatter(), text)]
    assert messages == seen


def test_a_bad_filter_gives_way_and_says_so() -> None:
    notice, *rest = lines(JsonFormatter(), "nonsense")
    assert "'nonsense' is ignored" in json.loads(notice)["message"]
    assert logs.DEFAULT_FILTER in json.loads(notice)["message"]
    assert len(rest) == 4


def test_logs_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", PlainFormatter())
    logging.getLogger("phantom.x").info("there")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("INFO phantom.x: there\n")
    assert sys.stderr is not None


def test_fields_of_another_kind_are_let_be() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "text", None, None)
    record.fields = "no mapping"
    assert PlainFormatter().format(record).endswith("INFO a: text")
