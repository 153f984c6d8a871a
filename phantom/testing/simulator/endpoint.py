"""One end of a simulated session: what a driver does around the engine, on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from phantom import limits
from phantom.errors import FrameTooLargeError, PhantomError
from phantom.testing.simulator.errors import InvariantViolationError
from phantom.testing.simulator.links import DatagramLink, PipeLink
from phantom.testing.virtual_time import VirtualTime
from phantom.transport.session.connection import Connection

__all__ = ["Endpoint"]

_U32: Final = Struct(">I")
_SPINS: Final = 20  # timer calls of one end at one instant before it counts as spinning
_FILLS: Final = 100_000  # batches of one end at one instant

# One buffer serves every end: nothing of it is kept between two calls.
_BATCH: Final = bytearray(limits.SEND_BATCH + limits.BULK_CHUNK_MAX + 65_536)
_VIEW: Final = memoryview(_BATCH)


class Endpoint:
    """Drives ``conn`` over ``link``; ``application`` is called after whatever may have changed something for it.

    ``batch`` bytes are asked for at a time on a byte pipe, one packet's worth more than a datagram on the others.
    """

    __slots__ = (
        "_armed",
        "_pumping",
        "_rest",
        "_spins",
        "_spun_at",
        "application",
        "batch",
        "clock",
        "conn",
        "datagrams",
        "events",
        "gone",
        "link",
        "name",
        "other",
        "sealed",
        "source",
        "timers",
        "touched",
    )

    def __init__(
        self, name: str, clock: VirtualTime, conn: Connection, link: DatagramLink | PipeLink, batch: int
    ) -> None:
        self.name = name
        self.clock = clock
        self.conn = conn
        self.link = link
        self.batch = batch
        self.datagrams = isinstance(link, DatagramLink)
        self.application: Callable[[], None] | None = None
        self.other: Endpoint = self
        self.source: PipeLink | None = None  # what it reads from, if that can be left unread
        self.events: list[object] = []
        self.gone = False  # its leg is closed
        self.sealed = 0  # packets handed to the link
        self.timers = 0
        self.touched = True  # since the invariants were looked at
        self._rest = b""
        self._armed: float | None = None
        self._spins = 0
        self._spun_at = -1.0
        self._pumping = False
        if isinstance(link, PipeLink):
            link.on_drained = self._drained
            link.on_end = self._ended

    # --- what happens to it -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """A datagram, or a piece of a byte pipe, has arrived."""
        if self.gone:
            return
        conn, now = self.conn, self.clock.now
        window = bytearray(_U32.pack(len(data)) + data if self.datagrams else self._rest + data)
        self._rest = b""
        with memoryview(window) as view:
            try:
                at = conn.receive(conn.path.id, window, view, 0, len(window), now)
            except FrameTooLargeError as error:
                conn.path_lost(now, error)
                at = len(window)
        if self.datagrams:
            if at != len(window):
                raise InvariantViolationError("driver", f"{self.name} left {len(window) - at} bytes of a datagram")
        else:
            self._rest = bytes(window[at:])
        window[:] = b"\xdd" * len(window)  # the window was only lent
        self.react()

    def lose(self, error: PhantomError | None) -> None:
        """The leg is gone."""
        if not self.gone:
            self.conn.path_lost(self.clock.now, error)
            self.react()
            self.gone = True

    def react(self) -> None:
        """After any call into the engine: the application looks, what may leave leaves, the timer is set."""
        self.touched = True
        if self._pumping:
            return
        self._pumping = True
        self.conn.progress = False
        if self.application is not None:
            self.application()
        self._send()
        self._pumping = False
        self._arm()

    def hold(self, held: bool) -> None:
        """A session of version 1 is not to be read, or is to be read again (wire-native §13.6)."""
        if self.source is not None:
            if held:
                self.source.hold(True)
            else:
                self.clock.after(0.0, self._read_on)  # not from within the read that made room

    def _read_on(self) -> None:
        if self.source is not None and not self.gone:
            self.receive(b"")
            self.source.hold(False)

    # --- what a driver does -------------------------------------------------------------------------------------------

    def _send(self) -> None:
        conn, now = self.conn, self.clock.now
        batches = 0
        while not self.gone and conn.wants_to_send and not self._blocked():
            end = conn.fill(conn.path.id, _BATCH, _VIEW, 0, self.batch, now)
            if not end:
                break
            batches += 1
            if batches > _FILLS:
                raise InvariantViolationError("driver", f"{self.name} has filled {batches} batches at one instant")
            self._hand_over(end)
        while (event := conn.next_event()) is not None:
            self.events.append(event)
        if conn.phase.over and not conn.lingering and not self.gone and not self._blocked():
            self.gone = True
            if isinstance(self.link, PipeLink):
                self.link.end()

    def _hand_over(self, end: int) -> None:
        link = self.link
        at = packets = 0
        while at < end:
            stop = at + 4 + int(_U32.unpack_from(_BATCH, at)[0])
            if isinstance(link, DatagramLink):
                link.send(bytes(_VIEW[at + 4 : stop]))
            packets += 1
            at = stop
        if at != end:
            raise InvariantViolationError("driver", f"{self.name} filled a frame that ends {at - end} bytes too late")
        self.sealed += packets
        if isinstance(link, PipeLink):
            link.send(bytes(_VIEW[:end]))
            if link.blocked:
                self.conn.path_blocked(True, self.clock.now)

    def _blocked(self) -> bool:
        return isinstance(self.link, PipeLink) and self.link.blocked

    def _drained(self) -> None:
        self.conn.path_blocked(False, self.clock.now)
        self.react()

    def _ended(self) -> None:
        self.other.lose(None)

    def _arm(self) -> None:
        due = None if self.gone else self.conn.next_timer()
        if due is None or (self._armed is not None and self._armed <= due):
            return
        self._armed = due
        self.clock.at(due, lambda: self._fire(due))

    def _fire(self, due: float) -> None:
        if self._armed != due:
            return
        self._armed = None
        if self.gone:
            return
        now = self.clock.now
        wanted = self.conn.next_timer()
        if wanted is None or wanted > now:  # moved since
            self._arm()
            return
        self._spins = self._spins + 1 if self._spun_at == now else 0
        self._spun_at = now
        if self._spins >= _SPINS:
            raise InvariantViolationError("timers", f"{self.name} has had its timer {self._spins} times at one instant")
        self.timers += 1
        self.conn.handle_timer(now)
        self.react()
