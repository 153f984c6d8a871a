"""docs/cli.md says what the commands take, and what it shows is what they print."""

from __future__ import annotations

import re

import pytest

from phantom.cli.failures import EXIT_INTERRUPTED, exit_code
from phantom.errors import (
    ClientAuthError,
    ConfigError,
    NetworkError,
    PhantomError,
    PhantomTimeoutError,
    ServerIdentityMismatchError,
)
from tests.cli import reference
from tests.cli.conftest import Invoke

PAGE = reference.PAGE.read_text()


def test_the_tables_are_those_of_the_commands() -> None:
    assert reference.rewritten(PAGE) == PAGE, "run: python -m tests.cli.reference"


def test_every_command_has_its_table() -> None:
    assert reference.documented(PAGE) == set(reference.commands())


@pytest.mark.parametrize("command", sorted(reference.commands()))
def test_every_option_of_help_is_in_the_page(invoke: Invoke, command: str) -> None:
    section = PAGE.partition(f"<!-- options: {command} -->")[2].partition("<!-- end -->")[0]
    options = set(re.findall(r"--[a-z][a-z-]*", invoke(command, "--help").out.partition("Options:")[2]))
    documented = set(re.findall(r"`(--[a-z-]+)", section)) | set(re.findall(r", `?(--[a-z-]+)", section))
    shown = {option for option in options if re.search(rf"{option}(?![a-z-])", section)}
    assert options - shown == {"--help"}
    assert documented <= options


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerIdentityMismatchError(), 3),
        (NetworkError(), 4),
        (PhantomTimeoutError(), 5),
        (ClientAuthError(), 6),
        (ConfigError(), 1),
    ],
)
def test_the_exit_codes_are_in_the_page(error: PhantomError, code: int) -> None:
    assert exit_code(error) == code
    assert re.search(rf"^\| {code} \|", PAGE, re.MULTILINE)


def test_the_other_exit_codes_are_too() -> None:
    for code in (0, 2, EXIT_INTERRUPTED):
        assert re.search(rf"^\| {code} \|", PAGE, re.MULTILINE)
