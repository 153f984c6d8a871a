"""The contract between a leg and what drives it (architecture §2, §4; surface §1.5).

A leg moves frames; its owner is the handshake first, the session afterwards. Built-in legs speak the callback
contract of :class:`Leg` and :class:`LegOwner`, in which frames lie in lent windows and batches are filled in place.
A transport that a user supplies needs only the three calls of :class:`SessionTransport`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from phantom.errors import PhantomError

__all__ = ["Leg", "LegOwner", "LegRuntime", "SessionTransport", "Task", "Timer"]


class Task(Protocol):
    """A spawned task."""

    def cancel(self) -> bool:
        """Asks it to end."""


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """It will not run."""


class LegRuntime(Protocol):
    """What legs need of the runtime that is handed to them (``phantom.runtime``): tasks, timers, clock."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task:
        """Runs ``coroutine`` beside the caller."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Runs ``callback`` at a time of :meth:`monotonic`."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that raises TimeoutError after ``seconds``."""

    def monotonic(self) -> float:
        """Seconds of a clock that never steps."""


@runtime_checkable
class SessionTransport(Protocol):
    """A message transport of the user's: one call, one whole message. Optional attribute ``leg``: its label."""

    async def send_bytes(self, data: bytes) -> None:
        """Sends one message; returns when it may be forgotten. Whatever it raises ends the session."""

    async def recv_bytes(self) -> bytes:
        """The next whole message, b"" at the end. Whatever it raises ends the session."""

    async def close(self) -> None:
        """Releases it; pending calls end."""


class LegOwner(Protocol):
    """What a leg calls. No call may block or raise."""

    @property
    def read_size(self) -> int:
        """Most bytes that one read may add now: 64 KiB until establishment (§21.1)."""

    @property
    def batch_size(self) -> int:
        """Bytes of buffer that :meth:`leg_fill` needs to make progress with the largest packet."""

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """Bytes arrived: takes whole frames from ``buf[start:end]`` and returns how far it got. The window is lent."""

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """Writes frames that are due into ``buf[at:cap]`` and returns the end; ``at`` when there is nothing."""

    def leg_blocked(self, blocked: bool) -> None:
        """Bytes began to wait in the leg's queue, or it is empty again."""

    def leg_lost(self, error: PhantomError | None) -> None:
        """The peer ended the leg (None) or it failed; called at most once, nothing follows."""


class Leg(Protocol):
    """A connected leg. Windows and batches hold frames behind the length prefix of §21.1, on every leg."""

    name: str
    proves_address: bool
    peer_addr: str
    owner: LegOwner | None

    @property
    def closed(self) -> bool:
        """True once every resource of the leg is released."""

    def start(self, owner: LegOwner) -> None:
        """Begins to read for ``owner``; the owner may be replaced by assignment at any time."""

    def pause(self) -> None:
        """Stops reading until :meth:`resume`; called from within or outside of ``leg_received``."""

    def resume(self) -> None:
        """Hands the owner again what it left, then reads on."""

    def flush(self) -> None:
        """Asks the owner to fill batches and sends them, until it has nothing or the transport is full."""

    def close(self, *, linger: bool) -> None:
        """Ends the leg. With ``linger`` what was filled is sent, then the end is signalled and awaited (§15.2)."""

    async def wait_closed(self) -> None:
        """Returns when every resource of the leg is released."""
