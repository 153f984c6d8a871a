"""Failures as values for the worker.

A JavaScript error that Python raises reaches a JavaScript ``await`` as a PythonError without the fields of the
original. So the worker calls through here and looks at what it gets: an ``Error`` is a failure.
"""

import inspect
from typing import Any

from pyodide.ffi import JsException

__all__ = ["call", "ready"]


async def call(function: Any, *args: Any) -> Any:
    """What ``function`` returns or resolves to, or the JavaScript Error that it fails with."""
    try:
        value = function(*args)
        return await value if inspect.isawaitable(value) else value
    except JsException as error:
        return error


async def ready(connecting: Any) -> Any:
    """The channel of ``begin(...)``, or the JavaScript Error."""
    try:
        return await connecting.ready
    except JsException as error:
        return error
