"""Violations per source, and the proof of work they cost (wire-native §8.4).

An entry is a count and the time of the last violation. Entries lie in the order of that time, so the front of the
table is both what expired first and what was seen least recently: making room is dropping from the front.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from phantom.limits import REPUTATION_BASE, REPUTATION_MAX, REPUTATION_MAX_ENTRIES, REPUTATION_WINDOW

__all__ = ["Reputation", "source_key"]

_IPV6_SUBNET_BITS: Final = 64  # a subscriber gets at least that much, so one address says nothing


def source_key(client_id: str) -> str:
    """The name under which limits per source are kept: IPv6 by its /64, anything else as it is (wire-native §8.4).

    ``client_id`` is normalised text (``gate.client_id``).
    """
    if ":" not in client_id:
        return client_id
    subnet = int(ipaddress.IPv6Address(client_id)) >> _IPV6_SUBNET_BITS << _IPV6_SUBNET_BITS
    return f"{ipaddress.IPv6Address(subnet)}/{_IPV6_SUBNET_BITS}"


class Reputation:
    """A bounded table of violations. ``now`` is monotonic seconds; one event loop or thread at a time.

    ``window``: a count older than this many seconds reads as 0 and the next violation starts at 1 again.
    ``max_entries``: cap of the table. ``base`` and ``maximum`` shape the difficulty: ``min(base + 2^(v-1), maximum)``.
    """

    __slots__ = ("_base", "_entries", "_max_entries", "_maximum", "_window")

    def __init__(
        self,
        *,
        window: float = REPUTATION_WINDOW,
        max_entries: int = REPUTATION_MAX_ENTRIES,
        base: int = REPUTATION_BASE,
        maximum: int = REPUTATION_MAX,
    ) -> None:
        self._entries: dict[str, tuple[int, float]] = {}
        self._window = window
        self._max_entries = max_entries
        self._base = base
        self._maximum = maximum

    def __len__(self) -> int:
        return len(self._entries)

    def violations(self, source: str, now: float) -> int:
        """The violations of a source in the window."""
        entry = self._entries.get(source)
        return 0 if entry is None or now - entry[1] > self._window else entry[0]

    def difficulty(self, source: str, now: float) -> int:
        """The leading zero bits that a source's violations demand: 0 for none, then 9, 10, 12, 16."""
        count = self.violations(source, now)
        # The shift is capped where the maximum is certain to be reached: counts have no bound.
        return count and min(self._base + (1 << min(count - 1, self._maximum)), self._maximum)

    def record(self, source: str, now: float) -> None:
        """Count one violation."""
        count = self.violations(source, now) + 1
        entries = self._entries
        entries.pop(source, None)
        while entries:
            oldest = next(iter(entries))
            if len(entries) < self._max_entries and now - entries[oldest][1] <= self._window:
                break
            del entries[oldest]
        entries[source] = (count, now)

    def clear(self, source: str) -> None:
        """Forget a source: it completed a handshake."""
        self._entries.pop(source, None)
