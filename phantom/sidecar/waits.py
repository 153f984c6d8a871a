"""Long waits of one call that another may end with an error of its choice.

A newer Recv takes over from an older one, a new KeepLease stream from a lost one, and a sidecar that stops does not sit
out its grace because somebody waits for a message.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from phantom.errors import BusyError, NetworkError, PhantomError

__all__ = ["Turn", "Wait", "Waits"]


class Wait:
    """A scope of the current task that :meth:`interrupt` ends with an error; other cancellations go through."""

    __slots__ = ("_error", "_task", "_waits")

    def __init__(self, waits: set[Wait]) -> None:
        self._waits = waits
        self._task: asyncio.Task[object] | None = None
        self._error: PhantomError | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._waits.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._waits.discard(self)
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from None

    def interrupt(self, error: PhantomError) -> None:
        """Ends the scope with ``error``; without effect if it is over or ending already."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()


class Turn:
    """Lets one call at a time wait for something: a newer one ends the older with BusyError."""

    __slots__ = ("_current", "_text", "_waits")

    def __init__(self, waits: Waits, text: str) -> None:
        self._waits = waits
        self._text = text
        self._current: Wait | None = None

    def take(self) -> Wait:
        """The scope of the newest call."""
        if self._current is not None:
            self._current.interrupt(BusyError(self._text))
        self._current = self._waits.scope()
        return self._current

    def end(self, error: PhantomError) -> None:
        """Ends the call that waits, if one does."""
        if self._current is not None:
            self._current.interrupt(error)

    def is_latest(self, scope: Wait) -> bool:
        """Whether no newer call has taken over."""
        return self._current is scope


class Waits:
    """All long waits of a sidecar."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()
        self._stopping: NetworkError | None = None

    def scope(self) -> Wait:
        """A new scope; NetworkError if the sidecar is stopping."""
        if self._stopping is not None:
            raise self._stopping
        return Wait(self._waits)

    def stop(self) -> None:
        """Ends every wait, and refuses new ones."""
        self._stopping = NetworkError("the sidecar is shutting down")
        for wait in list(self._waits):
            wait.interrupt(self._stopping)
