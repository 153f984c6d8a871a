"""The command line as a whole: help, usage, and that every failure is one line and one exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess

import pytest
import typer

import phantom
from phantom.cli import app as application
from phantom.cli.app import app, run
from phantom.errors import NetworkError
from tests.cli.conftest import MODULE, Invoke, Start

COMMANDS = {"forward", "pipe", "keygen", "pubkey", "ping", "serve", "sidecar", "demo", "simulate", "version"}


def test_the_commands() -> None:
    assert set(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(invoke: Invoke, arguments: list[str]) -> None:
    outcome = invoke(*arguments)
    assert outcome.code == 0
    assert set(outcome.out.split()) >= COMMANDS
    assert "Exit codes: 0 ok" in outcome.out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_is_plain_off_a_terminal(invoke: Invoke, command: str) -> None:
    outcome = invoke(command, "--help")
    assert outcome.code == 0
    assert f"phantom {command}" in outcome.out
    assert "--json" in outcome.out
    assert outcome.out.isascii()


def test_no_command_shows_help_and_is_a_usage_error(invoke: Invoke) -> None:
    outcome = invoke()
    assert outcome.code == 2
    assert "Usage: phantom" in outcome.out


def test_the_version_flag(invoke: Invoke) -> None:
    assert invoke("--version").out == f"phantom {phantom.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nope"], "No such command 'nope'"),
        (["ping", "--nope"], "--nope"),
        (["keygen"], "--out"),
        (["ping", "a:1", "b:1"], "unexpected extra argument"),
        (["serve", "--max-sessions", "-1"], "--max-sessions"),
        (["ping", "--host", "a", "--port", "70000"], "--port"),
    ],
)
def test_usage_errors_are_one_line_with_a_way_on(invoke: Invoke, arguments: list[str], complaint: str) -> None:
    outcome = invoke(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert "--help' shows how it is used" in line


def test_usage_errors_as_json(invoke: Invoke) -> None:
    outcome = invoke("ping", "--nope", "--json")
    assert outcome.code == 2
    error = json.loads(outcome.err)["error"]
    assert (error["code"], error["name"], error["retryable"]) == (6, "ValidationError", False)
    assert "--nope" in error["message"]


class TestFailuresOfACommand:
    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        return monkeypatch

    def fail(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        def raise_it(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("phantom.cli.version.Screen", raise_it)

    def test_an_error_of_the_library(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, NetworkError("a\nb\x1b"))
        outcome = invoke("version")
        assert (outcome.code, outcome.out, outcome.err) == (4, "", "error: a b?\n")

    def test_a_bug_is_one_line_too(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, KeyError("x"))
        outcome = invoke("version")
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1
        assert "unexpected KeyError: 'x'" in outcome.err
        assert "PHANTOM_DEBUG=1" in outcome.err

    def test_a_bug_as_json(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, KeyError)
        error = json.loads(invoke("version", "--json").err)["error"]
        assert (error["code"], error["name"]) == (10, "InternalError")

    @pytest.mark.parametrize(("debug", "shown"), [("1", True), ("0", False), ("", False)])
    def test_the_traceback_is_for_who_asks(
        self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, debug: str, shown: bool
    ) -> None:
        self.fail(monkeypatch, NetworkError("down"))
        outcome = invoke("version", PHANTOM_DEBUG=debug)
        assert ("Traceback" in outcome.err) is shown
        assert outcome.err.endswith("error: down\n")

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
    def test_an_interruption(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.fail(monkeypatch, error)
        outcome = invoke("version")
        assert outcome.code == 130

    def test_an_exit_code_is_kept(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, typer.Exit(7))
        assert invoke("version").code == 7


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["version"], ["version", "--json"], ["--version"], ["--help"], []])
def test_a_reader_that_is_gone_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*MODULE, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_output_may_be_any_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    assert run(["version"]) == 0
    assert stream.getvalue() == f"phantom {phantom.__version__}\n"


def test_run_gives_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert run(["nope"]) == 2
    capsys.readouterr()


def test_a_command_that_returns_something_else_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "app", lambda *_, **__: "a word")
    assert run([]) == 0


@pytest.mark.slow
def test_an_old_locale_does_not_break_output(start: Start) -> None:
    outcome = start("demo", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0").end()
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_ctrl_c_ends_a_command_with_130(start: Start, key_file: object) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        program = start("ping", f"127.0.0.1:{port}", "--pin", "phantom1:" + "a" * 52, "--timeout-secs", "50")
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            program.send(signal.SIGINT)
            outcome = program.end()
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err
