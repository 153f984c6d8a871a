"""Driver: ``phantom.blocking``, each command in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import phantom.blocking
from tests.conformance.drivers import Driver
from tests.conformance.drivers.python import Python
from tests.conformance.serving import NotOffered, serve

DRIVER = Driver("blocking", "Python (blocking)")


class Blocking(Python):
    """The same names; every call waits in a thread."""

    api = phantom.blocking
    uncancellable = "a thread that waits ends by its limit"

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(64)

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        call = partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def drain(self, listener: Any, grace: float) -> None:
        await self.call(listener.drain, timeout=grace)

    async def do_watch(self, session: str) -> None:
        raise NotOffered("no events: `connection_state` says what the state is")

    async def session_info(self, session: Any) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: asyncio.run(super(Blocking, self).session_info(session)))


if __name__ == "__main__":
    serve(Blocking())
