"""The way from Python to noble in a page: what ``bindings/wasm/src/noble.ts`` gives, and arrays that are reused.

Data cross the boundary by ``assign`` into JavaScript arrays that live on, which costs a tenth of making new ones. The
bridge is an object of ``globalThis`` that the page's worker puts there before it imports this library.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Final

from phantom.crypto.wipe import BytesLike
from phantom.errors import ConfigError

__all__ = ["BRIDGE_NAME", "Arrays", "Secret", "page_bridge", "take"]

BRIDGE_NAME: Final = "__noble"
_CACHED_VIEWS: Final = 64
_FIRST_SIZE: Final = 1024

_found: list[Any] = []


def page_bridge() -> Any:
    """The bridge of this page; ConfigError where there is no page, or nobody has put the bridge there."""
    if not _found:
        bridge = None
        with contextlib.suppress(ImportError):
            bridge = getattr(importlib.import_module("js"), BRIDGE_NAME, None)
        if bridge is None:
            raise ConfigError(
                "the crypto provider 'browser' runs in Pyodide, where the page sets"
                f" globalThis.{BRIDGE_NAME} = createBridge() before it imports phantom"
            )
        _found.append(bridge)
    found: Any = _found[0]
    return found


class Arrays:
    """JavaScript arrays of one purpose, lent until the next :meth:`copy` or :meth:`room`."""

    __slots__ = ("_array", "_bridge", "_size", "_views")

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self._size = 0
        self._array: Any = None
        self._views: dict[int, Any] = {}

    def room(self, length: int) -> Any:
        """An array of ``length`` bytes; what is in it is what was there."""
        view = self._views.get(length)
        if view is None:
            if length > self._size or self._array is None:
                self._size = max(_FIRST_SIZE, 1 << length.bit_length())
                self._array = self._bridge.bytes(self._size)
                self._views.clear()
            elif len(self._views) >= _CACHED_VIEWS:
                self._views.clear()
            view = self._views[length] = self._array.subarray(0, length)
        return view

    def copy(self, data: BytesLike) -> Any:
        """An array with the bytes of ``data``."""
        view = self.room(len(data))
        if data:
            view.assign(data)
        return view

    def wipe(self) -> None:
        """Overwrites everything."""
        if self._array is not None:
            self._array.fill(0)


class Secret:
    """A secret key on the other side; wiped there when this handle goes."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key

    def __del__(self) -> None:
        self.key.wipe()


def take(array: Any) -> bytearray:
    """The bytes of a secret in an array that is wiped then."""
    secret = bytearray(array.to_bytes())
    array.fill(0)
    return secret
