"""Leases and what they hold (surface §15).

Every handle belongs to a lease, and a lease to the stream of its client: when a client is gone, everything it opened is
closed. Handles are random, so that one kept over a restart of the sidecar names nothing. Used from one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol, Self, TypeVar

from phantom import limits
from phantom.errors import BusyError, ConnectionClosedError, SessionNotFoundError, ValidationError
from phantom.observability.log import logger
from phantom.sidecar.waits import Turn, Waits

__all__ = ["Handle", "Lease", "Leases", "Slot"]

_H = TypeVar("_H", bound="Handle")


class Timer(Protocol):
    """What ``call_later`` gives."""

    def cancel(self) -> None:
        """Stops it."""


CallLater = Callable[[float, Callable[[], object]], Timer]


class Handle(ABC):
    """Something that a client opened. ``number`` names it from the moment a :class:`Slot` was filled with it."""

    kind: ClassVar[str]
    most: ClassVar[int]

    number: int = 0
    lease: Lease

    @abstractmethod
    async def close(self, code: int) -> None:
        """Releases it; ``code`` is what a peer is told."""


class Lease:
    """What one client holds."""

    __slots__ = ("counts", "ended", "grace", "handles", "id", "keeping", "timer")

    def __init__(self, lease_id: int, grace: float, waits: Waits) -> None:
        self.id = lease_id
        self.grace = grace
        self.handles: dict[int, Handle] = {}
        self.counts: Counter[str] = Counter()  # by kind, those being opened included
        self.ended = False
        self.keeping = Turn(waits, "a newer KeepLease stream took over")
        self.timer: Timer | None = None


class Slot:
    """A place for a handle, taken before the work that makes it, so that no limit is passed while it is under way."""

    __slots__ = ("_kind", "_lease", "_leases", "_used")

    def __init__(self, leases: Leases, lease: Lease, kind: type[Handle]) -> None:
        self._leases = leases
        self._lease = lease
        self._kind = kind
        self._used = False

    def fill(self, handle: _H) -> _H:
        """Gives ``handle`` its number; closes it and raises SessionNotFoundError if the lease has ended meanwhile."""
        if self._lease.ended:
            self._leases.close_later(handle)
            raise SessionNotFoundError("the lease ended")
        self._used = True
        self._leases.register(handle, self._lease)
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._used:
            self._lease.counts[self._kind.kind] -= 1


class Leases:
    """All leases and handles of a sidecar."""

    def __init__(self, waits: Waits, call_later: CallLater | None = None) -> None:
        self._waits = waits
        self._call_later = call_later or asyncio.get_running_loop().call_later
        self._leases: dict[int, Lease] = {}
        self._handles: dict[int, Handle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, grace: float | None) -> Lease:
        """A new lease with a grace in seconds; one that nobody keeps ends after 10 s, or its grace if that is longer.

        BusyError at the limit, ValidationError for a grace outside of 0 to 60 s.
        """
        grace = limits.LEASE_GRACE if grace is None else grace
        if not 0 <= grace <= limits.LEASE_GRACE_MAX:
            raise ValidationError(f"the grace of a lease is 0 to {limits.LEASE_GRACE_MAX:g} s, not {grace:g}")
        if len(self._leases) >= limits.MAX_LEASES:
            raise BusyError(f"this sidecar has its limit of {limits.MAX_LEASES} leases")
        lease = Lease(_fresh(self._leases), grace, self._waits)
        self._leases[lease.id] = lease
        self._end_after(lease, max(grace, limits.LEASE_GRACE))
        return lease

    def get(self, lease_id: int) -> Lease:
        """The lease of an id; SessionNotFoundError if there is none."""
        try:
            return self._leases[lease_id]
        except KeyError:
            raise SessionNotFoundError("no such lease; it ended with its KeepLease stream") from None

    @contextmanager
    def keep(self, lease: Lease) -> Iterator[None]:
        """Keeps ``lease`` while the block runs; the latest one counts. Then its grace begins."""
        scope = lease.keeping.take()
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None
        try:
            with scope:
                yield
        finally:
            if lease.keeping.is_latest(scope) and not lease.ended:
                self._end_after(lease, lease.grace)

    def slot(self, lease_id: int, kind: type[Handle]) -> Slot:
        """A place for a handle in a lease; SessionNotFoundError without the lease, BusyError at its limit."""
        lease = self.get(lease_id)
        if lease.counts[kind.kind] >= kind.most:
            raise BusyError(f"this lease has its limit of {kind.most} {kind.kind}s")
        lease.counts[kind.kind] += 1
        return Slot(self, lease, kind)

    def register(self, handle: Handle, lease: Lease) -> None:
        """For :class:`Slot`."""
        handle.number, handle.lease = _fresh(self._handles), lease
        lease.handles[handle.number] = self._handles[handle.number] = handle

    def find(self, number: int, kind: type[_H]) -> _H:
        """The handle of a number; SessionNotFoundError if it names nothing, or something of another kind."""
        handle = self._handles.get(number)
        if not isinstance(handle, kind):
            raise SessionNotFoundError(f"no such {kind.kind}")
        return handle

    def holds(self, handle: Handle) -> bool:
        """Whether the handle is still open."""
        return self._handles.get(handle.number) is handle

    def forget(self, handle: Handle) -> None:
        """Frees the number; the handle must have been closed, or be closed by the caller. Idempotent."""
        if self._handles.pop(handle.number, None) is not None:
            del handle.lease.handles[handle.number]
            handle.lease.counts[handle.kind] -= 1

    def close_later(self, handle: Handle, code: int = ConnectionClosedError.code) -> asyncio.Task[None]:
        """Closes a handle in the background; :meth:`close` waits for it."""
        task = asyncio.get_running_loop().create_task(_close(handle, code))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def end(self, lease: Lease, code: int) -> None:
        """Ends a lease and waits until what it held is closed; peers are told ``code``."""
        closing = self._end(lease, code)
        if closing:
            await asyncio.wait(closing)

    async def close(self) -> None:
        """Ends all leases and waits until everything is closed."""
        for lease in list(self._leases.values()):
            self._end(lease, ConnectionClosedError.code)
        while self._closing:
            await asyncio.wait(self._closing)

    def _end_after(self, lease: Lease, delay: float) -> None:
        lease.timer = self._call_later(delay, lambda: self._end(lease, ConnectionClosedError.code))

    def _end(self, lease: Lease, code: int) -> list[asyncio.Task[None]]:
        if lease.ended:
            return []
        lease.ended = True
        if lease.timer is not None:
            lease.timer.cancel()
        del self._leases[lease.id]
        closing = []
        for handle in list(lease.handles.values()):
            self.forget(handle)
            closing.append(self.close_later(handle, code))
        return closing


async def _close(handle: Handle, code: int) -> None:
    try:
        await handle.close(code)
    except Exception as error:  # noqa: BLE001 - one that cannot be closed must not keep the others open
        logger.warning("closing a %s failed: %s", handle.kind, type(error).__name__)


def _fresh(taken: Container[int]) -> int:
    while (number := secrets.randbits(63)) in taken or not number:
        pass
    return number
