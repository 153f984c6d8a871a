"""Handles, statuses of exceptions, and the loop thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from bindings.c.runtime.loop_thread import LoopThread
from phantom.errors import BusyError, ConnectionClosedError, PhantomError, SessionNotFoundError

__all__ = ["LibraryRuntime"]

_GLUE_FAILED: Final = -77
_COUNT_BITS: Final = 40


class _Entry:
    __slots__ = ("count", "kind", "value")

    def __init__(self, kind: str, value: Any) -> None:
        self.kind = kind
        self.value = value
        self.count = 1


class LibraryRuntime:
    """What every call needs. Thread safe.

    Handles count up and are never reused; their upper bits are random, so that one of another process is unknown here.
    """

    def __init__(self, lib: Any, lend: Callable[[bytes], int]) -> None:
        self.loop = LoopThread()
        self.lend = lend
        self._lib = lib
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}
        self._last = (int.from_bytes(os.urandom(3), "big") >> 1 | 1) << _COUNT_BITS
        self._closed = False

    def lookup(self, kind: str, handle: int) -> Any:
        """The object of a handle; SessionNotFoundError if it is zero, stale or of another kind."""
        entry = self._entries.get(handle)
        if entry is None or entry.kind != kind:
            raise _unknown(kind, handle)
        return entry.value

    def register(self, kind: str, value: Any) -> int:
        """A new handle. After the end of the library the value is discarded and ConnectionClosedError raised."""
        with self._lock:
            if not self._closed:
                self._last = handle = self._last + 1
                self._entries[handle] = _Entry(kind, value)
                return handle
        value.discard()
        raise ConnectionClosedError("the library was ended by phantom_fini")

    def retain(self, kind: str, handle: int) -> None:
        """The handle is to be released once more. Raises as :meth:`lookup`."""
        with self._lock:
            self._entry(kind, handle).count += 1

    def release(self, kind: str, handle: int) -> Any | None:
        """Counts down; the object if the handle became unknown by it, else None. Raises as :meth:`lookup`."""
        with self._lock:
            entry = self._entry(kind, handle)
            entry.count -= 1
            if entry.count:
                return None
            del self._entries[handle]
            return entry.value

    def _entry(self, kind: str, handle: int) -> _Entry:
        entry = self._entries.get(handle)
        if entry is None or entry.kind != kind:
            raise _unknown(kind, handle)
        return entry

    def close(self) -> list[Any]:
        """Makes every handle unknown, for good; what they stood for."""
        with self._lock:
            self._closed = True
            values = [entry.value for entry in self._entries.values()]
            self._entries.clear()
            return values

    def failed(self, call: str, error: BaseException) -> int:
        """The status of an exception; keeps its text for the calling thread. Never raises, never returns 0."""
        try:
            if isinstance(error, PhantomError):
                status, text = type(error).code, str(error)
            elif isinstance(error, MemoryError):
                status, text = BusyError.code, f"{call}: out of memory"
            else:  # its text may hold what must not leave the process
                status, text = _GLUE_FAILED, f"{call}: {type(error).__name__} inside the library; this is a bug"
            error.__traceback__ = None  # an error that a session keeps would grow by every call that raises it
            data = text.encode("utf-8", "replace")
            self._lib.phantom_rt_error(data, len(data))
        except BaseException:  # noqa: BLE001 - this is the last net
            return _GLUE_FAILED
        return status or _GLUE_FAILED


def _unknown(kind: str, handle: int) -> SessionNotFoundError:
    what = kind.replace("_", " ")
    if handle == 0:
        return SessionNotFoundError(f"the {what} handle is zero: it was never set, or the call that makes it failed")
    return SessionNotFoundError(f"there is no such {what}: the handle was released, or is of another kind or process")
