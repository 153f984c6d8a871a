"""Simulated links: what happens to bytes between two ends, decided by a seeded generator.

A :class:`Link` is the description of one direction, as data; :class:`DatagramLink` and :class:`PipeLink` are the two
kinds that carry it out. A datagram may be lost, damaged, doubled, delayed behind others or too large; a byte pipe keeps
what it took, in order, and makes its writer wait instead.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from phantom.errors import ConfigError
from phantom.testing.virtual_time import VirtualTime

__all__ = ["DatagramLink", "Link", "LinkCounters", "PipeLink"]

Receiver = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a link.

    ``rate`` in Mbit/s (0: unlimited), ``latency`` and ``jitter`` in seconds (jitter alone never reorders), ``queue``
    in bytes: what waits to be sent, beyond which datagrams are dropped and a pipe blocks. ``mtu`` is the largest
    datagram, in bytes; ``overhead`` what each costs on the wire besides (IP and UDP: 28). ``loss``, ``duplicate``,
    ``corrupt`` and ``reorder`` are shares of datagrams; ``burst`` is the mean length of a run of losses (Gilbert-
    Elliott with a mean of ``loss``; 1: independent), of which nothing is left after ``calm`` seconds without a
    datagram. A reordered datagram arrives ``reorder_delay`` seconds late.
    ``up`` and ``down`` are seconds of a blackhole schedule: that long open, that long dead, in turn (0: always open).
    """

    rate: float = 0.0
    latency: float = 0.01
    jitter: float = 0.0
    queue: int = 256 * 1024
    mtu: int = 1500
    overhead: int = 28
    loss: float = 0.0
    burst: float = 1.0
    calm: float = 0.5
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.01
    up: float = 0.0
    down: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"a link's {name} is a share between 0 and 1, not {getattr(self, name)}")
        for name in ("rate", "latency", "jitter", "queue", "mtu", "overhead", "calm", "reorder_delay", "up", "down"):
            if getattr(self, name) < 0:
                raise ConfigError(f"a link's {name} is not negative")
        if self.burst < 1:
            raise ConfigError("a burst of losses is at least 1 datagram long")
        if self.loss == 1 and self.burst != 1:
            raise ConfigError("a link that loses everything has no bursts")

    @property
    def bytes_per_second(self) -> float:
        """The rate in bytes a second; infinity if unlimited."""
        return self.rate * 125_000 if self.rate else float("inf")

    def opens_at(self, now: float) -> float:
        """``now`` if the link is open, else when it opens again."""
        if not self.down:
            return now
        at = now % (self.up + self.down)
        return now if at < self.up else now + self.up + self.down - at


class LinkCounters:
    """What a link did, in datagrams or pieces, and in bytes delivered."""

    __slots__ = (
        "blackholed",
        "bytes_delivered",
        "corrupted",
        "delivered",
        "duplicated",
        "lost",
        "overflowed",
        "reordered",
        "taken",
        "too_large",
    )

    def __init__(self) -> None:
        self.taken = 0
        self.delivered = self.bytes_delivered = 0
        self.lost = self.corrupted = self.duplicated = self.reordered = 0
        self.overflowed = self.blackholed = self.too_large = 0

    def snapshot(self) -> dict[str, int]:
        """All of them by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Direction:
    """What both kinds share: the wire that is busy until ``free_at``, and the arrival that the next must not pass."""

    __slots__ = ("clock", "counters", "free_at", "last_arrival", "link", "receiver", "rng")

    def __init__(self, clock: VirtualTime, rng: random.Random, link: Link) -> None:
        self.clock = clock
        self.rng = rng
        self.link = link
        self.receiver: Receiver | None = None
        self.counters = LinkCounters()
        self.free_at = 0.0
        self.last_arrival = 0.0

    @property
    def backlog(self) -> float:
        """Bytes that wait for the wire, the one being sent included."""
        link = self.link
        return max(0.0, self.free_at - self.clock.now) * link.bytes_per_second if link.rate else 0.0

    def _serialise(self, size: int) -> float:
        """Occupies the wire for ``size`` bytes; when the last one has left."""
        self.free_at = max(self.free_at, self.clock.now) + size / self.link.bytes_per_second
        return self.free_at

    def _arrival(self, left: float) -> float:
        link = self.link
        when = left + link.latency + (link.jitter * self.rng.random() if link.jitter else 0.0)
        self.last_arrival = max(self.last_arrival, when)
        return self.last_arrival

    def _deliver(self, data: bytes) -> None:
        self.counters.delivered += 1
        self.counters.bytes_delivered += len(data)
        if self.receiver is not None:
            self.receiver(data)


class DatagramLink(_Direction):
    """Carries datagrams one way."""

    __slots__ = ("_bad", "_into_bad", "_last", "_out_of_bad")

    def __init__(self, clock: VirtualTime, rng: random.Random, link: Link) -> None:
        super().__init__(clock, rng, link)
        self._bad = False
        self._last = float("-inf")  # when the last datagram came
        # Mean run of losses = burst, stationary share of the bad state = loss; independent losses are burst = 1.
        self._out_of_bad = 1 / link.burst
        self._into_bad = min(1.0, self._out_of_bad * link.loss / (1 - link.loss)) if link.burst > 1 else 0.0

    def send(self, data: bytes) -> None:
        """Hands one datagram to the link; what becomes of it is the link's affair."""
        link, counters, rng, now = self.link, self.counters, self.rng, self.clock.now
        counters.taken += 1
        size = len(data) + link.overhead
        if len(data) > link.mtu:
            counters.too_large += 1
            return
        if link.rate and self.backlog + size > link.queue:
            counters.overflowed += 1
            return
        left = self._serialise(size)
        if link.opens_at(now) > now:
            counters.blackholed += 1
            return
        if self._loses():
            counters.lost += 1
            return
        if link.corrupt and rng.random() < link.corrupt:
            counters.corrupted += 1
            data = _damaged(data, rng)
        arrival = self._arrival(left)
        if link.reorder and rng.random() < link.reorder:
            counters.reordered += 1
            arrival += link.reorder_delay * (0.5 + rng.random())
        self.clock.at(arrival, lambda: self._deliver(data))
        if link.duplicate and rng.random() < link.duplicate:
            counters.duplicated += 1
            self.clock.at(arrival + link.reorder_delay * rng.random(), lambda: self._deliver(data))

    def _loses(self) -> bool:
        link = self.link
        if not link.loss:
            return False
        if link.burst == 1:
            return self.rng.random() < link.loss
        now, chance = self.clock.now, self.rng.random()
        if now - self._last > link.calm:
            self._bad = chance < link.loss
        else:
            self._bad = chance >= self._out_of_bad if self._bad else chance < self._into_bad
        self._last = now
        return self._bad


class PipeLink(_Direction):
    """Carries bytes one way, in order, none lost; takes ``queue`` bytes and then makes its writer wait.

    ``on_drained`` is called when everything that waited has been taken. A blackhole holds back, loss shows as a pause
    of one ``latency`` and ``reorder_delay`` (a retransmission below); corruption, duplicates and reordering are not
    for pipes.
    """

    __slots__ = ("_ended", "_held", "_in_flight", "_pieces", "_ripe", "_waiting", "on_drained", "on_end")

    def __init__(self, clock: VirtualTime, rng: random.Random, link: Link) -> None:
        super().__init__(clock, rng, link)
        if link.corrupt or link.duplicate or link.reorder:
            raise ConfigError("a byte pipe does not damage, double or reorder; use a datagram link")
        self._waiting: deque[bytes] = deque()
        self._pieces: deque[bytes | None] = deque()
        self._in_flight = 0
        self._ended = False
        self._held = False  # the reader does not read
        self._ripe = 0  # pieces that have arrived and were not read
        self.on_drained: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None

    @property
    def blocked(self) -> bool:
        """True while something waits that the pipe has not taken."""
        return bool(self._waiting)

    def send(self, data: bytes) -> None:
        """Writes ``data``; look at :attr:`blocked` afterwards."""
        self.counters.taken += 1
        self._waiting.append(data)
        self._take()

    def end(self) -> None:
        """End of the stream, behind what was written."""
        self._ended = True
        self._take()

    def hold(self, held: bool) -> None:
        """The reader stops reading, or goes on: what is not read fills the pipe until its writer waits."""
        self._held = held
        while self._ripe and not self._held:
            self._ripe -= 1
            self._read()

    def _take(self) -> None:
        link, clock, rng = self.link, self.clock, self.rng
        while self._waiting:
            data, room = self._waiting[0], link.queue - self._in_flight
            if room < min(len(data), link.queue >> 3):  # a full queue is not filled up byte by byte
                break
            self._waiting.popleft()
            size = min(len(data), room, rng.choice((1448, 9_000, 65_536, 1 << 20)))
            if size < len(data):
                self._waiting.appendleft(data[size:])
                data = data[:size]
            self._in_flight += size
            self.free_at = link.opens_at(max(self.free_at, clock.now))
            left = self._serialise(size)
            if link.loss and rng.random() < link.loss:
                self.counters.lost += 1
                left += link.latency + link.reorder_delay
            self._pieces.append(data)
            clock.at(self._arrival(left), self._arrive)
        if self._ended and not self._waiting:
            self._ended = False
            self._pieces.append(None)
            clock.at(max(self.last_arrival, clock.now + link.latency), self._arrive)

    def _arrive(self) -> None:
        self._ripe += 1
        self.hold(self._held)

    def _read(self) -> None:
        data = self._pieces.popleft()
        if data is None:
            if self.on_end is not None:
                self.on_end()
            return
        self._in_flight -= len(data)
        blocked = self.blocked
        self._deliver(data)
        self._take()
        if blocked and not self._waiting and self.on_drained is not None:
            self.on_drained()


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three bits turned over."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        bit = rng.randrange(8 * len(out))
        out[bit >> 3] ^= 1 << (bit & 7)
    return bytes(out)
