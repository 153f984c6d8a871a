"""Every leg test runs on every kind of loop and must leave no descriptor behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Iterator

import pytest

from tests.calm import open_descriptors
from tests.transport.legs.support import TaskLoop


def _uvloop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "callbacks": asyncio.SelectorEventLoop,
    "tasks": TaskLoop,
    "uvloop": _uvloop,
}


@pytest.fixture(params=LOOPS)
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loop that the asyncio.Runner of this test makes."""
    monkeypatch.setattr(asyncio.events, "new_event_loop", LOOPS[request.param])
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def what_uvloop_opens_once_is_no_leak() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop").new_event_loop().close()


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before
