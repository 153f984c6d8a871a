"""Clock, tasks and timers as arguments (surface §1.6)."""

import sys

from phantom.runtime.aio import AsyncioRuntime
from phantom.runtime.base import Runtime, Task, Timer

__all__ = ["AsyncioRuntime", "Runtime", "Task", "Timer", "default_runtime"]


def default_runtime() -> Runtime:
    """The runtime of this host; make it inside the loop."""
    if sys.platform == "emscripten":
        from phantom.runtime.browser import BrowserRuntime

        return BrowserRuntime()
    return AsyncioRuntime()
