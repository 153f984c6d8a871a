"""What every test may rely on: `async def` tests, a leak check, seeds, and hypothesis profiles.

An `async def` test runs in a fresh event loop (debug off). It fails when another task is still there after it, when a
callback or a task raised what nobody read, and when it leaves something unclosed. A test marked `bench` runs only when
asked for (`-m bench`). Time limits come from pytest-timeout (60 s unless the test says otherwise).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import random
import signal
import ssl
import threading
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("dev", hypothesis.settings.get_profile("ci"), derandomize=False, print_blob=True)
hypothesis.settings.register_profile("soak", hypothesis.settings.get_profile("dev"), max_examples=20_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A task that was cancelled, or whose last await just came back, may need some turns of the loop to end; nothing that
# still works does.
_TURNS_TO_END = 20
_SECONDS_TO_END = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="start value of the `seed` fixture (default: fixed for each test)")


def pytest_configure() -> None:
    # A shell that runs this in the background has SIGINT ignored, and programs under test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "bench" not in config.getoption("markexpr"):
        benches = [item for item in items if item.get_closest_marker("bench")]
        if benches:
            config.hook.pytest_deselected(items=benches)
            items[:] = [item for item in items if not item.get_closest_marker("bench")]


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is loaded now is no test's garbage: collecting after each test then costs next to nothing


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    inner = getattr(function, "hypothesis", None)
    if inner is not None:
        if inspect.iscoroutinefunction(inner.inner_test):
            inner.inner_test = _synchronous(inner.inner_test)
        return None
    if not inspect.iscoroutinefunction(function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    _synchronous(function)(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


def _synchronous(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        troubles: list[dict[str, Any]] = []
        with asyncio.Runner(debug=False) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: troubles.append(context))
            runner.run(_without_leaks(function(*args, **kwargs)))
        gc.collect()  # an unclosed socket, or an exception nobody read, is this test's failure and not a later one's
        if troubles:
            cause = next((context["exception"] for context in troubles if "exception" in context), None)
            raise AssertionError("; ".join(context["message"] for context in troubles)) from cause

    return run


async def _without_leaks(test: Awaitable[None]) -> None:
    await test
    for _ in range(_TURNS_TO_END):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    transport = {task for task in left if "/grpc/" in repr(task)}  # a thread of gRPC's ends them, in its own time
    if transport:
        await asyncio.wait(transport, timeout=_SECONDS_TO_END)
    left = {task for task in left if not task.done()}
    if left:
        pytest.fail("tasks left behind:\n" + "\n".join(f"  {task!r}" for task in left), pytrace=False)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that is the same for a test in every run (`--seed N` gives others); a failure's report names it."""
    start = request.config.getoption("--seed")
    value = start if start is not None else zlib.crc32(request.node.nodeid.encode())
    request.node.add_report_section("call", "seed", f"--seed {value}")
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Random numbers from `seed`."""
    return random.Random(seed)


@pytest.fixture(scope="session")
def tls_contexts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ssl.SSLContext]:
    """See ``tests.tls``: a server, a client that trusts it, a stranger."""
    from tests.tls import make_contexts, write_certificate  # the plug-in is tested apart from the tree

    return make_contexts(write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem"))
