"""The drivers: one module each, which has a ``DRIVER`` and, for bindings in Python, is the driver when it is run."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class NotRun(Exception):  # noqa: N818 - says why a driver cannot run here
    """What the driver needs is not there; the text says what."""


@dataclass(frozen=True)
class Program:
    """How a driver is started."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a driver may build its program from: a directory of its own, and where the C prefix is."""

    folder: Path
    c_prefix: Path | None = None


Prepare = Callable[[Setting], AbstractAsyncContextManager[Program]]


@dataclass(frozen=True)
class Driver:
    """A driver: its name, its column's title, and ``prepare``, which gives the program that speaks the protocol.

    Without ``prepare`` that is the module itself. It raises NotRun if the machine lacks something.
    """

    name: str
    title: str
    prepare: Prepare | None = None

    def program(self, setting: Setting) -> AbstractAsyncContextManager[Program]:
        """The program to run."""
        return self.prepare(setting) if self.prepare else self._itself()

    @asynccontextmanager
    async def _itself(self) -> AsyncIterator[Program]:
        yield itself(self.name)


def itself(name: str, **environment: str) -> Program:
    """The module of a driver as its program."""
    return Program([sys.executable, "-m", f"{__name__}.{name}"], environment)


def drivers() -> dict[str, Driver]:
    """Every driver in this folder, by name."""
    found: list[Any] = [
        importlib.import_module(f"{__name__}.{module.name}").DRIVER for module in pkgutil.iter_modules(__path__)
    ]
    order = ("python", "blocking", "sidecar", "c", "cli")
    found.sort(key=lambda driver: (order.index(driver.name) if driver.name in order else len(order), driver.name))
    return {driver.name: driver for driver in found}
