"""Each kind of error has its exit code."""

from __future__ import annotations

import io
import json

import pytest

from phantom import errors
from phantom.cli.failures import UsageError, as_usage, exit_code, one_line, report
from phantom.cli.screen import Screen

EXPECTED = {
    "ServerIdentityMismatchError": 3,
    "NetworkError": 4,
    "FrameTooLargeError": 4,
    "ConnectionClosedError": 4,
    "SessionClosingError": 4,
    "SessionDeadError": 4,
    "PhantomTimeoutError": 5,
    "HandshakeTimeoutError": 5,
    "ClientAuthError": 6,
}


def leaves() -> list[type[errors.PhantomError]]:
    found = [getattr(errors, name) for name in errors.__all__ if name != "error_class"]
    return [kind for kind in found if kind.code]


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_exit_codes(kind: type[errors.PhantomError]) -> None:
    assert exit_code(kind()) == EXPECTED.get(kind.__name__, 1)


def test_the_expected_ones_exist() -> None:
    assert set(EXPECTED) <= {kind.__name__ for kind in leaves()}


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_json_holds_code_name_message_and_retryable(
    kind: type[errors.PhantomError], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    report(kind("what went wrong"), Screen(as_json=True))
    assert json.loads(stderr.getvalue()) == {
        "error": {
            "code": kind.code,
            "name": kind.__name__,
            "retryable": kind.retryable,
            "message": "what went wrong",
        }
    }


def test_what_the_library_says_of_an_argument_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as raised, as_usage():
        raise errors.ConfigError("no pin")
    assert report(raised.value, Screen(as_json=False)) == 2
    assert capsys.readouterr().err == "error: no pin\n"


def test_what_happens_at_work_is_not() -> None:
    with pytest.raises(errors.NetworkError), as_usage():
        raise errors.NetworkError("down")


@pytest.mark.parametrize(
    ("text", "line"), [("a\n  b\tc", "a b c"), ("\x1b[31mred\x00", "?[31mred?"), ("ü …", "ü …"), ("", "")]
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(Exception(text)) == line
