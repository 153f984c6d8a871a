"""Errors as the command line shows them: one line, one exit code (surface §7)."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from phantom.cli.screen import Screen
from phantom.errors import (
    ClientAuthError,
    InternalError,
    LocalError,
    PhantomError,
    PhantomTimeoutError,
    ServerIdentityMismatchError,
    TransportError,
    ValidationError,
)

__all__ = ["EXIT_INTERRUPTED", "EXIT_USAGE", "UsageError", "as_usage", "exit_code", "one_line", "report"]

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
# the first class that fits
_EXIT_CODES: Final[tuple[tuple[type[PhantomError], int], ...]] = (
    (ServerIdentityMismatchError, 3),
    (PhantomTimeoutError, 5),
    (ClientAuthError, 6),
    (TransportError, 4),
    (PhantomError, EXIT_FAILURE),
)


class UsageError(Exception):
    """The command line itself is wrong; ``error`` says how. Raised before anything was done."""

    def __init__(self, error: PhantomError) -> None:
        super().__init__(str(error))
        self.error = error

    @classmethod
    def of(cls, message: str) -> UsageError:
        """One with a text of our own."""
        return cls(ValidationError(message))


@contextmanager
def as_usage() -> Iterator[None]:
    """What the library says of an argument, it says of the command line."""
    try:
        yield
    except LocalError as error:
        raise UsageError(error) from error


def exit_code(error: PhantomError) -> int:
    """The exit code of an error that came up at work."""
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without control characters, whatever it was made of."""
    text = " ".join(str(error).split())
    return "".join(character if character.isprintable() else "?" for character in text)


def report(failure: Exception, screen: Screen) -> int:
    """Shows ``failure`` and returns the exit code. The traceback only if PHANTOM_DEBUG asks for it."""
    code = EXIT_USAGE
    if isinstance(failure, UsageError):
        error = failure.error
    elif isinstance(failure, PhantomError):
        error, code = failure, exit_code(failure)
    else:
        error = InternalError(
            f"unexpected {type(failure).__name__}: {one_line(failure) or 'no details'};"
            " please report it with what PHANTOM_DEBUG=1 shows"
        )
        code = EXIT_FAILURE
    if os.environ.get("PHANTOM_DEBUG", "0") not in ("", "0"):
        screen.note("".join(traceback.format_exception(failure)).rstrip())
    value = {"code": error.code, "name": type(error).__name__, "retryable": error.retryable}
    screen.error(one_line(error), value)
    return code
