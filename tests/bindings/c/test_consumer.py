"""What programs do with the library: each case of programs/consumer.c, and the same from C++."""

from __future__ import annotations

import re

import pytest

from tests.bindings.c.conftest import PROGRAMS, Compile, run

CASES = re.findall(r'^    \{"(\w+)", \w+\},$', (PROGRAMS / "consumer.c").read_text(), re.MULTILINE)


@pytest.mark.parametrize("case", CASES)
def test_case(compiled: Compile, case: str) -> None:
    done = run(compiled("consumer.c"), case)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_from_cxx(compiled: Compile) -> None:
    done = run(compiled("consumer.cpp"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "hello from C++"
    assert done.stdout.splitlines()[1].startswith("CONNECTION_CLOSED: ")
