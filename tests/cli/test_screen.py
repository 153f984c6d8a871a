"""Style for terminals, plain lines for everything else."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from phantom.cli.screen import Screen


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


def test_lines_are_plain_and_whole_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    assert not screen.fancy
    screen.line(Text("x" * 500, "bold red"))
    screen.note("[bold]no markup[/bold] :smile: [::1]")
    captured = capsys.readouterr()
    assert captured.out == "x" * 500 + "\n"
    assert captured.err == "[bold]no markup[/bold] :smile: [::1]\n"


@pytest.mark.usefixtures("_terminal")
def test_lines_are_styled_and_whole_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    assert screen.fancy
    screen.line(Text("x" * 500, "bold"))
    assert capsys.readouterr().out == f"\x1b[1m{'x' * 500}\x1b[0m\n"


@pytest.mark.usefixtures("_terminal")
def test_a_dumb_terminal_is_not_fancy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not Screen(as_json=False).fancy


@pytest.mark.usefixtures("_terminal")
def test_json_is_never_styled(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    assert not screen.fancy
    with screen.waiting("for nothing"):
        screen.result({"a": [1, "[b]"]}, "not shown")
    screen.error("m", {"code": 1})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1, "[b]"]}
    assert json.loads(captured.err) == {"error": {"code": 1, "message": "m"}}


@pytest.mark.usefixtures("_terminal")
def test_no_color_leaves_no_color(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(as_json=False).error("m", {})
    assert capsys.readouterr().err == "\x1b[1merror: \x1b[0mm\n"


def test_waiting_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=False).waiting("for nothing"):
        pass
    assert capsys.readouterr() == ("", "")
