"""A seeded world of two engines: byte pipes with latency, bandwidth and stalls, readers and writers at their own pace.

Everything happens at a virtual time, in an order that the seed decides. After every step the invariants of
:meth:`World.check` must hold.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from phantom import limits
from phantom.errors import PhantomError
from phantom.transport.session.events import StateChanged
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.states import ConnectionState, Phase
from tests.transport.session.engines import CHACHA, Engine, pattern

KiB, MiB = limits.KiB, limits.MiB
SPINS = 12  # timer calls at one instant


class Pipe:
    """One direction: in order, ``capacity`` bytes on their way, ``rate`` bytes a second, arrival in random pieces."""

    def __init__(self, world: World, source: Party, capacity: int, latency: float, rate: float) -> None:
        self.world, self.source = world, source
        self.capacity, self.latency, self.rate = capacity, latency, rate
        self.waiting = bytearray()  # not sent yet: the kernel is full
        self.in_flight = 0
        self.free_at = 0.0
        self.last_arrival = 0.0
        self.stalled = False
        self.lost = False

    @property
    def full(self) -> bool:
        return bool(self.waiting)

    @property
    def patient(self) -> bool:
        """True if nothing on its way takes as long as a retransmission timeout."""
        return (self.capacity + self.world.batch) / self.rate + 2 * self.latency < limits.RTO_FLOOR_PIPE / 2

    def push(self, data: bytes) -> None:
        self.waiting += data
        self.drain()
        if self.waiting:
            self.source.engine.conn.path_blocked(True, self.world.now)

    def drain(self) -> None:
        """Moves what the pipe takes into flight."""
        world = self.world
        while self.waiting and self.in_flight < self.capacity and not self.stalled and not self.lost:
            size = min(
                len(self.waiting), self.capacity - self.in_flight, world.rng.choice((700, 9_000, 70_000, 1 << 20))
            )
            piece = bytes(self.waiting[:size])
            del self.waiting[:size]
            self.in_flight += size
            self.free_at = max(self.free_at, world.now) + size / self.rate
            self.last_arrival = max(self.last_arrival, self.free_at + self.latency)
            world.at(self.last_arrival, lambda piece=piece: self.arrive(piece))

    def arrive(self, piece: bytes) -> None:
        if self.lost:
            return
        self.in_flight -= len(piece)
        blocked = self.full
        other = self.source.other
        if not other.gone:
            other.engine.take(piece, self.world.now)
            other.engine.conn.progress = False
        self.drain()
        if blocked and not self.waiting:
            self.source.engine.conn.path_blocked(False, self.world.now)
            self.source.pump()
        other.pump()


class Party:
    """One end: its engine, what it has sent and read, its pace."""

    def __init__(self, world: World, name: str, engine: Engine) -> None:
        self.world, self.name, self.engine = world, name, engine
        self.sent: list[bytes] = []
        self.read: list[bytes] = []
        self.to_send = 0
        self.events: list[ConnectionState] = []
        self.error: PhantomError | None = None
        self.gone = False  # its leg is closed
        self.reading = True
        self.checked = 0  # messages that were compared
        self._planned: set[object] = set()
        self.other: Party = self
        self.pipe: Pipe

    # --- what a driver does ---

    def pump(self, *, planning: bool = True) -> None:
        """Sends what may leave; ends the leg when the session is over."""
        conn, now = self.engine.conn, self.world.now
        while not self.pipe.full and not self.gone and conn.wants_to_send:
            data = self.engine.batch(now, self.world.batch)
            if not data:
                break
            self.pipe.push(data)
        while (event := conn.next_event()) is not None:
            if isinstance(event, StateChanged):
                self.events.append(event.new)
        if conn.phase.over and not self.gone and not self.pipe.full:
            self.gone = True
            arrival = max(self.pipe.last_arrival, now + self.pipe.latency)
            self.world.at(arrival, lambda: self.other.lose(None))
        self.world.arm(self)
        if planning:
            self.plan()

    def lose(self, error: PhantomError | None) -> None:
        if not self.gone:
            self.engine.conn.path_lost(self.world.now, error)
            self.pump()
            self.gone = True

    # --- what an application does ---

    def plan(self) -> None:
        """The application acts again soon, if there is something to do."""
        conn = self.engine.conn
        if self.to_send and conn.accepts_writes and conn.has_room:
            self._soon(self.write)
        if self.reading and (conn.messages or conn.assembler.run_bytes):
            self._soon(self.take)

    def _soon(self, action: Callable[[], None]) -> None:
        if action not in self._planned:
            self._planned.add(action)
            self.world.at(self.world.now + self.world.pause(), action)

    def write(self) -> None:
        self._planned.discard(self.write)
        world, conn = self.world, self.engine.conn
        burst = world.rng.randint(1, 20)
        while burst and self.to_send and conn.accepts_writes and conn.has_room:
            data = pattern(world.size(), len(self.sent))
            conn.send_message(data)
            self.sent.append(data)
            self.to_send -= 1
            burst -= 1
        self.pump()

    def take(self) -> None:
        """Reads some messages; now and then it waits, as recv() does."""
        self._planned.discard(self.take)
        world, conn = self.world, self.engine.conn
        before = len(self.read)
        self.read += self.engine.read(world.now, world.rng.choice((1, 3, 1000)))
        conn.reader_waits = not conn.messages and world.rng.random() < 0.5
        self.pump(planning=len(self.read) > before)  # without a message there is none until something happens


class World:
    """Made of a seed; :meth:`run` plays it to its end."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.batch = rng.choice((70_000, 256 * KiB, 256 * KiB))
        self._sizes = rng.choice(((0, 1, 50, 300), (0, 4000, 20_000, 70_000), (0, 65_532, 65_536, 65_537, 500_000)))
        self._pause = rng.choice((0.0, 0.001, 0.05, 0.5))
        self.memory = ReceiveMemory(rng.choice((8 * MiB, 256 * MiB)))
        options: dict[str, Any] = {
            "bulk_chunk": rng.choice((1024, 16 * KiB, 64 * KiB)),
            "recv_window": rng.choice((64 * KiB, MiB, 16 * MiB)),
            "send_segments": rng.choice((32, 32768)),
            "keepalive_interval": rng.choice((None, 1.0, 15.0)),
        }
        if rng.random() < 0.4:
            options["guards"] = {"soft_seals": rng.choice((300, 3000)), "grace_min": 0.2}
        suite = {"suite": CHACHA} if rng.random() < 0.2 else {}
        self.client = Party(self, "client", Engine(True, memory=ReceiveMemory(), **options, **suite))
        self.server = Party(self, "server", Engine(False, memory=self.memory, **options))
        self.client.other, self.server.other = self.server, self.client
        self.parties = (self.client, self.server)
        capacity, latency = rng.choice((12_000, 100_000, 600_000)), rng.choice((0.0, 0.001, 0.03, 0.2))
        for party in self.parties:
            party.pipe = Pipe(self, party, capacity, latency, rng.choice((2e5, 2e6, 1e9)))
            party.to_send = rng.choice((0, 30, 60))
        self._armed: dict[Party, float] = {}
        self._spins = 0
        self._spun_at = -1.0
        self.steps = 0

    # --- chances ---

    def size(self) -> int:
        return self.rng.choice(self._sizes) + self.rng.choice((0, 0, 1))

    def pause(self) -> float:
        return self._pause * self.rng.random() * 2

    # --- time ---

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, action))

    def arm(self, party: Party) -> None:
        due = party.engine.conn.next_timer()
        armed = self._armed.get(party)
        if due is None or (armed is not None and armed <= due):
            return
        self._armed[party] = due
        self.at(due, lambda: self._timer(party, due))

    def _timer(self, party: Party, due: float) -> None:
        if self._armed.get(party) != due:
            return
        del self._armed[party]
        self._spins = self._spins + 1 if self._spun_at == self.now else 0
        self._spun_at = self.now
        assert self._spins < SPINS, f"{party.name} spins on its timer"
        party.engine.conn.handle_timer(self.now)
        party.pump()

    def run(self, until: float) -> None:
        """Plays everything up to ``until`` seconds."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            self.steps += 1
            assert self.steps < 2_000_000
            self.check()
        self.now = until

    # --- what must always hold ---

    def check(self) -> None:
        for party in self.parties:
            engine = party.engine
            conn, stream, assembler = engine.conn, engine.conn.session_stream, engine.conn.assembler
            outstanding = stream.outstanding
            other = party.other
            # bytes are conserved, on the way out and on the way in
            if conn.phase in (Phase.ESTABLISHED, Phase.CLOSING):
                assert conn.queued + outstanding.bytes == conn.unacknowledged
                assert conn.queued >= 0
            assert 0 <= conn.acked <= conn.written
            assert (
                conn.acked
                <= other.engine.conn.session_stream.received + other.engine.conn.session_stream.reassembly.stored
            )
            if not isinstance(conn.error, PhantomError) or conn.error.code != 3:
                assert assembler.consumed + assembler.run_bytes == stream.received
            # windows and bounds are respected
            assert (
                stream.send_limit.sent
                <= stream.send_limit.limit
                <= max(64 * KiB, other.engine.conn.session_stream.window.limit)
            )
            assert stream.received + stream.reassembly.stored <= stream.window.limit
            assert len(outstanding.segments) <= engine.settings.send_segments
            assert outstanding.bytes <= limits.MAX_PENDING_BYTES
            # messages arrive whole, once, in order
            taken, queued = len(party.read), conn.messages
            for place in range(party.checked, taken + len(queued)):
                assert (party.read[place] if place < taken else queued[place - taken]) == other.sent[place]
            party.checked = max(party.checked, taken + len(queued))
            # the account knows what is held
            memory = engine.memory
            assert memory.charged == sum(charge for charge, _ in memory._accounts.values()) >= 0
            assert memory.credit == sum(credit for _, credit in memory._accounts.values()) >= 0
            assert memory.charged * 8 < memory.capacity * 9
            if conn.phase.over:
                assert conn not in memory._accounts
                assert not outstanding.segments or conn.wants_to_send
            assert engine.counted() == {}
