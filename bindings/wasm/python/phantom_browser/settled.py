"""Failures as values for the worker.

A JavaScript error that Python raises reaches a JavaScript ``await`` as a PythonError without the fields of the
original. So the worker calls through here and looks at what it gets: an ``Error`` is a failure. What a Promise would
need a proxy for, which somebody has to destroy, is returned as it is: the coroutine itself is awaited.
"""

from __future__ import annotations

import inspect
from typing import Any

from phantom_browser import Connecting, thrown

__all__ = ["call", "ready"]


async def call(function: Any, *args: Any) -> Any:
    """What ``function`` returns or resolves to, or the JavaScript Error that it fails with."""
    try:
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            value = function(*args)
        else:
            bound = getattr(function, "__self__", None)
            value = inner(*args) if bound is None else inner(bound, *args)
        return await value if inspect.isawaitable(value) else value
    except Exception as error:  # noqa: BLE001 - the worker gets a typed error, whatever happened
        return thrown(error)


async def ready(connecting: Connecting) -> Any:
    """The channel of ``begin(...)``, or the JavaScript Error."""
    return await call(connecting.result)
