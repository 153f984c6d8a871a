"""Clock, tasks and timers as arguments (surface §1.6)."""

from phantom.runtime.aio import AsyncioRuntime
from phantom.runtime.base import Runtime, Task, Timer

__all__ = ["AsyncioRuntime", "Runtime", "Task", "Timer"]
