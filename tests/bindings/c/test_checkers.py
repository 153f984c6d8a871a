"""The consumer under valgrind and the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bindings.c.conftest import Compile, needs, run

# What valgrind slows down too much to be waited for is left to the sanitizers.
SHORT = ["sizes", "keys", "wrong_pin", "config", "looks", "events_and_end", "handles", "bad_arguments", "struct_sizes"]
SHORT += ["buffers"]


@pytest.mark.timeout(200)
def test_valgrind(compiled: Compile) -> None:
    flags = [
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
        "--show-leak-kinds=definite",
        "--error-exitcode=9",
    ]
    flags += ["--quiet", f"--suppressions={Path(__file__).with_name('valgrind.supp')}"]
    done = run(needs("valgrind"), *flags, compiled("consumer.c"), *SHORT)
    assert (done.returncode, done.stdout) == (0, f"{len(SHORT)}\n"), done.stderr


@pytest.mark.timeout(120)
def test_address_and_undefined_behaviour_sanitizers(compiled: Compile) -> None:
    program = compiled("consumer.c", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # Python's own allocator hides what is reachable from the leak check; that is valgrind's part.
    done = run(program, "all", env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.timeout(120)
def test_thread_sanitizer(compiled: Compile) -> None:
    program = compiled("consumer.c", "-fsanitize=thread")
    done = run(program, "all")
    if "unexpected memory mapping" in done.stderr:  # older sanitizers and kernels that spread addresses widely
        done = run(needs("setarch"), "-R", program, "all")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
