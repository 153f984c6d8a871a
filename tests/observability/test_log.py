"""The library's logger is silent until someone listens, and installs nothing of its own (surface §6)."""

from __future__ import annotations

import logging
import subprocess
import sys

from phantom.observability.log import logger


def test_the_logger_is_the_packages_and_writes_nowhere_by_itself() -> None:
    assert logger is logging.getLogger("phantom")
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    assert logger.level == logging.NOTSET
    assert logger.propagate


def test_a_program_that_configures_nothing_sees_nothing() -> None:
    code = "from phantom.observability.log import logger; logger.error('secret?'); logger.warning('hello')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
