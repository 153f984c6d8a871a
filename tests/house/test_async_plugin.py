"""The asynchronous side of tests/conftest.py: what passes, and that each kind of leak fails the test that leaks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import asyncio, socket
import hypothesis, pytest
from hypothesis import strategies

kept = []

async def test_passes(seed, rng, tmp_path):
    assert seed == 7 and rng.random() and tmp_path.exists()
    await asyncio.sleep(0)

async def test_passes_with_a_task_that_is_ending():
    task = asyncio.create_task(asyncio.sleep(100))
    await asyncio.sleep(0)
    task.cancel()

class TestClass:
    @pytest.mark.parametrize("value", [1])
    async def test_passes(self, value):
        assert value == 1

@hypothesis.given(strategies.integers())
async def test_passes_hypothesis(value):
    await asyncio.sleep(0)

@hypothesis.given(strategies.integers())
async def test_fails_hypothesis(value):
    await asyncio.sleep(0)
    assert value < 1000

async def test_fails_on_an_assertion():
    await asyncio.sleep(0)
    assert False

async def test_fails_on_a_task_left_behind():
    kept.append(asyncio.create_task(asyncio.sleep(100)))

async def test_fails_on_an_exception_nobody_read():
    async def fail():
        raise ValueError("unread")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

async def test_fails_on_a_callback_that_raised():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

async def test_fails_on_an_open_socket():
    socket.socket()

async def test_fails_on_a_coroutine_never_awaited():
    asyncio.sleep(0)

@pytest.mark.bench
def test_fails_if_run():
    assert False
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=no", "-p", "no:cacheprovider", "--seed", "7", "test_it.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    words = (line.split() for line in done.stdout.splitlines())
    return {word[1].partition("::")[2]: word[0] for word in words if len(word) > 1 and word[0] in ("PASSED", "FAILED")}


def test_what_should_pass_passes(outcomes: dict[str, str]) -> None:
    passed = {name for name, outcome in outcomes.items() if outcome == "PASSED"}
    assert passed == {
        "test_passes",
        "test_passes_with_a_task_that_is_ending",
        "TestClass::test_passes[1]",
        "test_passes_hypothesis",
    }


def test_what_leaks_fails(outcomes: dict[str, str]) -> None:
    failed = {name for name, outcome in outcomes.items() if outcome == "FAILED"}
    assert failed == {
        "test_fails_hypothesis",
        "test_fails_on_an_assertion",
        "test_fails_on_a_task_left_behind",
        "test_fails_on_an_exception_nobody_read",
        "test_fails_on_a_callback_that_raised",
        "test_fails_on_an_open_socket",
        "test_fails_on_a_coroutine_never_awaited",
    }
