"""Virtual time: a queue of things to do, played in order of their time and, within it, of their being planned."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["VirtualTime"]

Action = Callable[[], None]


class VirtualTime:
    """A clock that jumps from one planned action to the next; ``now`` in seconds, from 0.

    Two runs that plan the same actions play them in the same order. ``after_step`` is called behind every action.
    """

    __slots__ = ("_count", "_queue", "after_step", "now", "steps")

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.after_step: Action | None = None
        self._queue: list[tuple[float, int, Action]] = []
        self._count = 0

    def at(self, when: float, action: Action) -> None:
        """Plans ``action`` for ``when``, or for now if that has passed."""
        self._count += 1
        heapq.heappush(self._queue, (when if when > self.now else self.now, self._count, action))

    def after(self, delay: float, action: Action) -> None:
        """Plans ``action`` ``delay`` seconds from now."""
        self.at(self.now + delay, action)

    @property
    def idle(self) -> bool:
        """True if nothing is planned."""
        return not self._queue

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Plays everything up to ``until``, or until ``stop()``; True if it stopped for that. Then it is ``until``."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action = heapq.heappop(queue)
            action()
            self.steps += 1
            if self.after_step is not None:
                self.after_step()
            if stop is not None and stop():
                return True
        self.now = max(self.now, until)
        return False
