"""RECV_MEMORY: what peers can make one process hold (wire-native §14.6, §14.11).

Every session reports its charges (queued items with their overhead) and its credit (window granted and not yet
filled), once a batch. When charges alone reach the bound, sessions stop beginning messages and limits creep; at 9/8
of it, or after five seconds at it, the sessions charged most are ended with code 3 until charges are below 7/8.
"""

from __future__ import annotations

from typing import Protocol

from phantom import limits

__all__ = ["Holder", "ReceiveMemory"]


class Holder(Protocol):
    """A session as the memory sees it."""

    def recount(self, *, exact: bool) -> int:
        """What it is charged now: readers take messages without a report. ``exact`` may look at every queued item."""

    def end_busy(self) -> None:
        """Ends the session with BusyError and drops what it holds; its charges are released by the memory."""

    def memory_freed(self) -> None:
        """Charges fell below the capacity after a report had found it used up."""


class ReceiveMemory:
    """The account of one process; ``capacity`` in bytes. One event loop may use one account without locks."""

    __slots__ = ("__weakref__", "_accounts", "_held", "capacity", "charged", "credit", "used_up_since")

    def __init__(self, capacity: int = limits.RECV_MEMORY) -> None:
        self.capacity = capacity
        self.charged = 0
        self.credit = 0
        self.used_up_since: float | None = None
        self._accounts: dict[Holder, tuple[int, int]] = {}
        self._held: set[Holder] = set()  # reported while it was used up

    @property
    def used_up(self) -> bool:
        """True while charges fill the capacity: no new message is begun, limits only creep (§14.11)."""
        return self.charged >= self.capacity

    def deadline(self) -> float | None:
        """When patience ends, in the clock of ``now``; None while memory is not used up."""
        return None if self.used_up_since is None else self.used_up_since + limits.RECV_MEMORY_PATIENCE

    def free_for(self, holder: Holder) -> int:
        """Bytes that remain if everything but ``holder`` stays as it is (§14.6)."""
        charge, credit = self._accounts.get(holder, (0, 0))
        return self.capacity - (self.charged + self.credit - charge - credit)

    def report(self, holder: Holder, charge: int, credit: int, now: float) -> None:
        """Replaces what ``holder`` is charged and the credit it has given, in bytes, and enforces the bounds."""
        old_charge, old_credit = self._accounts.get(holder, (0, 0))
        self.charged += charge - old_charge
        self.credit += credit - old_credit
        if charge or credit:
            self._accounts[holder] = (charge, credit)
        else:
            self._accounts.pop(holder, None)
        self.enforce(now)
        if self.used_up and holder in self._accounts:
            self._held.add(holder)

    def tell(self, holder: Holder) -> None:
        """Calls ``memory_freed`` of a session that waits for memory and may hold none itself."""
        self._held.add(holder)

    def release(self, holder: Holder) -> None:
        """The session is gone."""
        charge, credit = self._accounts.pop(holder, (0, 0))
        self.charged -= charge
        self.credit -= credit
        self._held.discard(holder)
        self._settle()

    def enforce(self, now: float) -> None:
        """Ends sessions if a bound of §14.11 is passed; also called when :meth:`deadline` has come."""
        if self.used_up and self.used_up_since is None:
            for holder in self._accounts:
                self._recount(holder, exact=False)
        self._settle()
        if not self.used_up:
            return
        if self.used_up_since is None:
            self.used_up_since = now
        ended = False
        while self._accounts and (self.charged * 8 >= self.capacity * 7 if ended else self._overrun(now)):
            worst = max(self._accounts, key=lambda holder: self._accounts[holder][0])
            if self._recount(worst, exact=True):
                continue
            self.release(worst)
            worst.end_busy()
            ended = True
        self._settle()

    def _overrun(self, now: float) -> bool:
        if self.charged * 8 >= self.capacity * 9:
            return True
        deadline = self.deadline()
        return self.used_up and deadline is not None and now >= deadline

    def _recount(self, holder: Holder, *, exact: bool) -> bool:
        """Brings one account up to date; True if that changed it."""
        charge, credit = self._accounts[holder]
        held = holder.recount(exact=exact)
        self._accounts[holder] = (held, credit)
        self.charged += held - charge
        return held != charge

    def _settle(self) -> None:
        if self.used_up:
            return
        self.used_up_since = None
        while self._held:
            self._held.pop().memory_freed()
