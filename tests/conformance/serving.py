"""A driver written in Python: reads commands from standard input, runs each as a task, writes results (README.md)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from phantom.errors import ConnectionClosedError, PhantomError, StreamResetError

CANCELLED = {"error": {"code": -1, "message": "cancelled"}}


class NotOffered(Exception):  # noqa: N818 - no error of the library: the binding lacks something, and this says what
    """The binding has no such thing; the text says why."""


class Handler:
    """Commands are the methods ``do_NAME``; their keyword arguments are those of the command. See README.md.

    ``uncancellable`` says why a command that waits cannot be cancelled, if so.
    """

    uncancellable = ""

    async def run(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one command, without its id."""
        arguments = {name: value for name, value in command.items() if name not in ("do", "id")}
        method = getattr(self, f"do_{command['do']}", None)
        try:
            if method is None:
                raise NotOffered(f"no command {command['do']!r}")
            return {"result": await method(**arguments) or {}}
        except NotOffered as lacking:
            return {"missing": str(lacking)}
        except PhantomError as error:
            answer: dict[str, Any] = {"code": error.code, "message": str(error)}
            if isinstance(error, ConnectionClosedError):
                answer["peer_code"] = -1 if error.peer_code is None else error.peer_code
            if isinstance(error, StreamResetError):
                answer["reset_code"] = error.reset_code
            return {"error": answer}
        except asyncio.CancelledError:
            return CANCELLED
        except Exception as error:
            return {"error": {"code": 0, "message": f"{type(error).__name__}: {error}"}}

    async def close(self) -> None:
        """Ends everything that is still open."""


class _Server:
    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            number = command["id"]
            if command["do"] == "cancel":
                self._write(number, self._cancel(command["command"]))
                continue
            task = asyncio.create_task(self._one(number, command))
            self.tasks[number] = task
            task.add_done_callback(partial(self._ended, number))
        for task in list(self.tasks.values()):
            task.cancel()
        await self.handler.close()

    def _cancel(self, number: int) -> dict[str, Any]:
        if self.handler.uncancellable:
            return {"missing": self.handler.uncancellable}
        if number in self.tasks:
            self.tasks[number].cancel()
        return {"result": {}}

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self.tasks[number]
        if task.cancelled():  # before it had begun
            self._write(number, CANCELLED)

    async def _one(self, number: int, command: dict[str, Any]) -> None:
        self._write(number, await self.handler.run(command))

    def _write(self, number: int, answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"id": number, **answer}) + "\n")
        sys.stdout.flush()


def serve(handler: Handler) -> None:
    """Runs a driver until its standard input ends."""

    async def main() -> None:
        await _Server(handler).serve()

    asyncio.run(main())
