"""The demo's way of telling: plain lines, styled lines, or one object."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from phantom.cli.screen import Screen
from phantom.cli.story import Story


def tell(as_json: bool = False) -> None:
    story = Story(Screen(as_json=as_json))
    story.title("Title", "about")
    story.step("one", "The first")
    story.command("keygen", "--out", "x")
    story.fact("label", Text("shown", "green"), kept=1)
    story.fact("sum", "f" * 64)
    story.quote("error: x")
    with story.progress(100) as advance:
        advance(40)
        advance(60)
    story.step("two", "The second")
    story.end(1.5)


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    tell()
    assert capsys.readouterr().out.splitlines() == [
        "Title: about",
        "",
        "1. The first",
        "   $ phantom keygen --out x",
        "   label       shown",
        f"   sum         {'f' * 64}",
        "   error: x",
        "",
        "2. The second",
        "",
        "Everything worked, in 1.50 s.",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell(as_json=True)
    assert json.loads(capsys.readouterr().out) == {"ok": True, "seconds": 1.5, "one": {"kept": 1}, "two": {}}


def test_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    tell()
    out = capsys.readouterr().out
    assert "╭" in out
    assert "100%" in out
    plain = Text.from_ansi(out).plain
    assert max(map(len, plain.splitlines())) <= 80
    assert f"   sum         {'f' * 64}" in plain
