"""What the server does with a session: a coroutine function found by name (surface §6).

``echo`` is built in. Other packages offer theirs in the entry-point group ``phantom.handlers``; a built-in name cannot
be taken over by installing something.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Final, TypeAlias

from phantom.api.session import PhantomSession
from phantom.errors import ConfigError

__all__ = ["GROUP", "Handler", "echo", "handler_names", "load_handler"]

Handler: TypeAlias = Callable[[PhantomSession], Awaitable[None]]
"""Serves one session whose peer has been heard. The server closes the session when it returns or raises."""

GROUP: Final = "phantom.handlers"


async def echo(session: PhantomSession) -> None:
    """Sends every message back as it came, until the peer closes."""
    async for message in session:
        await session.send(message)


_BUILT_IN: Final[dict[str, Handler]] = {"echo": echo}


def _offered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _BUILT_IN}


def handler_names() -> list[str]:
    """The names that :func:`load_handler` takes here, sorted."""
    return sorted({*_BUILT_IN, *_offered()})


def load_handler(name: str) -> Handler:
    """The handler of that name. ConfigError, saying what there is or what went wrong, if it cannot be had."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    entry = _offered().get(name)
    if entry is None:
        raise ConfigError(f"there is no handler {name!r}; installed are {', '.join(handler_names())}")
    try:
        handler = entry.load()
    except Exception as error:
        raise ConfigError(f"the handler {name!r} ({entry.value}) cannot be loaded: {error}") from error
    if not inspect.iscoroutinefunction(handler):
        raise ConfigError(f"the handler {name!r} ({entry.value}) is not a coroutine function that takes a session")
    loaded: Handler = handler
    return loaded
