"""A plan played from a seed: the network, the sessions and their applications, and what came of it."""

from __future__ import annotations

import gc
import random
import sys
import traceback
import types
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Any, Final

from phantom import limits
from phantom.api.identity import HybridSigningKey
from phantom.crypto.aead import CipherSuite
from phantom.crypto.pins import PinSet
from phantom.crypto.providers import get_provider
from phantom.errors import EpochExhaustedError
from phantom.testing.null_aead import null_aead_provider
from phantom.testing.simulator.chaos import drawn
from phantom.testing.simulator.endpoint import Endpoint
from phantom.testing.simulator.errors import InvariantViolationError
from phantom.testing.simulator.handshakes import HandshakeClient, HandshakeServer, SeededRng
from phantom.testing.simulator.invariants import View, check
from phantom.testing.simulator.links import DatagramLink, Link, PipeLink
from phantom.testing.simulator.plan import Plan
from phantom.testing.simulator.seal_watch import SealWatch
from phantom.testing.simulator.workload import Application, Traffic, traffic
from phantom.testing.virtual_time import VirtualTime
from phantom.transport.handshake.gate import Gate, Source
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import PacketProtection, ProtectionLimits, ProtectionV1, ProtectionV2
from phantom.transport.session.connection import Connection, SessionSettings
from phantom.transport.session.connection_v1 import ConnectionV1
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import BYTE_PIPE, DATAGRAM, Path

__all__ = ["Outcome", "Sample", "World", "held_bytes", "play"]

_TRACE: Final = Struct(">dBII")
_SUITES: Final = {
    "null": CipherSuite.AES_256_GCM,
    "aes-256-gcm": CipherSuite.AES_256_GCM,
    "chacha20-poly1305": CipherSuite.CHACHA20_POLY1305,
}
_MOST_SAMPLES: Final = 1000
_WIND_DOWN: Final = 300.0  # virtual seconds for an orderly end
_IDLE_CHECKS: Final = 24
_IDLE_GROWTH: Final = 4096  # bytes that an end may hold more after a day than after its first hour


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the first session's sending end: bytes a second delivered since the last one, window and flight in
    bytes, smoothed and minimal round trip in seconds, bytes in the link's queue, and what bounds it."""

    time: float
    goodput: float
    window: float
    flight: float
    rtt: float
    queue: float
    bound: str


@dataclass(slots=True)
class Outcome:
    """What became of one seed. ``failure`` is empty if all held; ``digest`` is the same whenever the run is the same.

    ``goodput`` and ``steady`` are shares of the link's capacity (0 where it is unlimited): over the whole transfer, and
    over its last three quarters by bytes. ``seconds`` is the virtual time of the transfer.
    """

    plan: str
    seed: int
    failure: str = ""
    invariant: str = ""
    traceback: str = ""
    digest: str = ""
    steps: int = 0
    packets: int = 0
    delivered: int = 0
    seconds: float = 0.0
    end: float = 0.0
    goodput: float = 0.0
    steady: float = 0.0
    retransmissions: int = 0
    bound: str = ""
    handshakes: int = 0
    slowest: float = 0.0
    rekeys: int = 0
    growth: int = 0
    links: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every invariant held and the plan's expectations were met."""
        return not self.failure


def held_bytes(*roots: object, without: Iterable[object] = ()) -> int:
    """Bytes of everything reachable from ``roots``, except types, functions, modules and what ``without`` holds."""
    seen = {id(thing) for thing in without}
    queue = list(roots)
    total = 0
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(
            thing, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
        ):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        queue += gc.get_referents(thing)
    return total


class _Session:
    """Both ends of one session."""

    def __init__(
        self, ends: tuple[Endpoint, Endpoint], views: tuple[View, View], protections: Sequence[PacketProtection]
    ) -> None:
        self.ends = ends
        self.views = views
        self.protections = protections
        self.traffic: list[Traffic] = []


class World:
    """Made of a plan and a seed; :meth:`play` runs it to its end and says what came of it.

    ``checked`` False leaves the invariants out (benchmarks of the simulator itself). The parts are public, so that a
    test can reach in: ``clock``, ``sessions``, ``links``.
    """

    def __init__(self, plan: Plan, seed: int, *, checked: bool = True) -> None:
        if plan.drawn:
            plan = drawn(plan.name, seed)
        self.plan = plan
        self.seed = seed
        self.clock = VirtualTime()
        self.outcome = Outcome(plan.name, seed)
        self._rng = random.Random(seed * 1_000_003 + zlib.crc32(plan.name.encode()))
        self._trace = 0
        self._traced_bytes = plan.handshakes == 0
        self.links: dict[str, DatagramLink | PipeLink] = {}
        self.sessions: list[_Session] = []
        self._routes: tuple[dict[bytes, Callable[[bytes], None]], ...] = ({}, {})  # by session id, to server and client
        self._handshakes: list[tuple[HandshakeClient, HandshakeServer]] = []
        self._memories = (ReceiveMemory(plan.memory), ReceiveMemory(plan.memory))
        self._provider = null_aead_provider(self.clock) if plan.aead == "null" else get_provider()
        self._period = 0.005
        self._sampled = 0
        self._sampled_at = 0.0
        self._marks: list[tuple[float, int]] = []
        self._bounds: dict[str, int] = {}
        if plan.sessions:
            for number in range(plan.sessions):
                self._add_session(number)
        if checked:
            self.clock.after_step = self._check

    # --- making -------------------------------------------------------------------------------------------------------

    def _link(self, name: str, link: Link, pipe: bool) -> Any:
        rng = random.Random(self._rng.getrandbits(64))
        made: DatagramLink | PipeLink = (PipeLink if pipe else DatagramLink)(self.clock, rng, link)
        self.links[name] = made
        return made

    def _carry(self, number: int, link: DatagramLink | PipeLink, receive: Callable[[bytes], None]) -> None:
        """Connects a link with its receiver, with the trace in between."""
        pack = _TRACE.pack
        clock, traced = self.clock, self._traced_bytes
        shared = self.plan.sessions > 1 and self.plan.transport == "datagram" and not self.plan.handshakes
        routes = self._routes[number & 1]

        def arrive(data: bytes) -> None:
            entry = pack(clock.now, number & 0xFF, len(data), zlib.crc32(data) if traced else 0)
            self._trace = zlib.crc32(entry, self._trace)
            (routes.get(data[1:33], receive) if shared else receive)(data)

        link.receiver = arrive

    def _add_session(self, number: int) -> None:
        plan, clock = self.plan, self.clock
        pipe = plan.transport == "pipe"
        tag = f" {number}" if number else ""
        # Sessions on datagrams share the two links of the plan; a byte pipe has one writer.
        if pipe or not number:
            up, down = self._link(f"up{tag}", plan.up, pipe), self._link(f"down{tag}", plan.down, pipe)
        else:
            up, down = self.links["up"], self.links["down"]
        secret, session_id = self._rng.randbytes(32), self._rng.randbytes(32)
        watch = SealWatch(self._provider)
        ends, views, protections = [], [], []
        for initiator, link, own in ((True, up, plan.client), (False, down, plan.server)):
            settings = SessionSettings(**{**plan.settings, **own})
            counters = DropCounters()
            guards = ProtectionLimits(**plan.guards)
            memory = self._memories[not initiator]
            profile = BYTE_PIPE if pipe else DATAGRAM
            silence = {**plan.settings, **own}.get("silence_floor")  # by default that of the leg
            path = Path(0, "simulated", now=clock.now, profile=profile, silence_floor=silence)
            common: dict[str, Any] = {
                "initiator": initiator,
                "path": path,
                "settings": settings,
                "memory": memory,
                "counters": counters,
                "now": clock.now,
            }
            keys = (initiator, session_id, bytearray(secret))
            options: dict[str, Any] = {
                "send_suite": _SUITES[plan.aead],
                "provider": watch,
                "counters": counters,
                "limits": guards,
            }
            protection: PacketProtection
            if plan.version == 1:
                conn: Connection = ConnectionV1(protection := ProtectionV1(*keys, **options), **common)
            else:
                dice = SeededRng(random.Random(self._rng.getrandbits(64)))
                conn = Connection(protection := ProtectionV2(*keys, **options), rng=dice, **common)
            name = ("client" if initiator else "server") + tag
            batch = limits.SEND_BATCH + settings.bulk_chunk if pipe else 16_384
            end = Endpoint(name, clock, conn, link, batch)
            conn.wake = end.react
            if isinstance(conn, ConnectionV1):
                conn.hold = end.hold
            either = (plan.up, plan.down)
            view = View(
                end,
                protection,
                memory,
                settings,
                damage=any(one.corrupt for one in either),
                copies=plan.version == 1 or any(one.duplicate or one.reorder for one in either),
                epochs=bool(plan.rekey or plan.guards),
            )
            ends.append(end)
            views.append(view)
            protections.append(protection)
        client, server = ends
        client.other, server.other = server, client
        if isinstance(up, PipeLink) and isinstance(down, PipeLink):
            server.source, client.source = up, down
        views[0].other, views[1].other = views[1], views[0]
        session = _Session((client, server), (views[0], views[1]), protections)
        self.sessions.append(session)
        if pipe or not number:
            self._carry(2 * number, up, server.receive)
            self._carry(2 * number + 1, down, client.receive)
        self._routes[0][session_id], self._routes[1][session_id] = server.receive, client.receive
        applications = Application(client), Application(server)
        for place, flow in enumerate(plan.flows):
            session.traffic += traffic(flow, *applications, self._rng, 1_000_003 * number + 100_003 * place)
        if plan.rekey:
            clock.after(plan.rekey, lambda: self._rekey(session, 0))

    # --- running ------------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        """Runs the plan; never raises for what the engine does wrong, the outcome says it."""
        outcome, plan = self.outcome, self.plan
        try:
            if plan.handshakes:
                self._play_handshakes()
            if self.sessions:
                self._play_sessions()
        except InvariantViolationError as violation:
            outcome.failure, outcome.invariant = violation.text, violation.invariant
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is a finding, and the seed shows it
            outcome.failure, outcome.invariant = f"{type(error).__name__}: {error}", "no exception"
            outcome.traceback = traceback.format_exc()
        self._conclude()
        return outcome

    def _fail(self, name: str, text: str) -> None:
        raise InvariantViolationError(name, text)

    def _play_handshakes(self) -> None:
        plan, clock = self.plan, self.clock
        rng = SeededRng(random.Random(self._rng.getrandbits(64)))
        provider = get_provider()
        key = HybridSigningKey(rng.fill_bytes(64))
        gate = Gate(rng.fill_bytes(32), rng=rng)
        pins = PinSet.parse(key.verifying_key())
        for number in range(plan.handshakes):
            up, down = self._link(f"hello {number}", plan.up, False), self._link(f"reply {number}", plan.down, False)
            source = Source(f"192.0.2.{number % 250 + 1}", proves_address=False)
            client = HandshakeClient(clock, up, pins, provider, rng)
            server = HandshakeServer(clock, down, key, gate, source, provider, rng)
            self._carry(number, up, server.receive)
            self._carry(number, down, client.receive)
            clock.at(number * 0.050, client.start)
            self._handshakes.append((client, server))
        clock.run(plan.duration, lambda: all(client.over for client, _ in self._handshakes))
        self._judge_handshakes()

    def _judge_handshakes(self) -> None:
        outcome = self.outcome
        failures = []
        for number, (client, server) in enumerate(self._handshakes):
            outcome.packets += client.datagrams
            outcome.slowest = max(outcome.slowest, client.seconds)
            if client.result is None:
                failures.append(f"{number}: {client.error or 'unfinished'}")
                continue
            outcome.handshakes += 1
            if server.result is None or server.sessions != 1:
                self._fail("handshake", f"handshake {number} made {server.sessions} sessions at the server")
            elif (server.result.session_id, server.result.shared_secret) != (
                client.result.session_id,
                client.result.shared_secret,
            ):
                self._fail("handshake", f"the ends of handshake {number} have different secrets")
        if failures:
            done, wanted = outcome.handshakes, self.plan.handshakes
            self._fail("handshake", f"{done} of {wanted} handshakes completed; {'; '.join(failures[:3])}")

    def _play_sessions(self) -> None:
        plan, clock = self.plan, self.clock
        clock.after(0.0, self._sample)
        for session in self.sessions:
            for end in session.ends:
                end.react()
        if plan.cut:
            clock.run(plan.cut)
            self._cut()
            return
        begun = clock.now
        clock.run(begun + plan.duration, self._through)
        self.outcome.seconds = max((flow.last_read for flow in self._flows()), default=clock.now)
        self._judge_flows()
        if plan.idle:
            self._idle()
        self._close()

    def _flows(self) -> list[Traffic]:
        return [flow for session in self.sessions for flow in session.traffic]

    def _through(self) -> bool:
        if self.plan.flows and all(flow.done for flow in self._flows()):
            return True
        return all(end.conn.phase.over for session in self.sessions for end in session.ends)

    def _judge_flows(self) -> None:
        for session in self.sessions:
            for end in session.ends:
                if end.conn.phase.over:
                    self._fail("alive", f"{end.name} is {end.conn.phase.value}: {end.conn.end_error()}")
            for flow in session.traffic:
                if self.plan.complete and not flow.done:
                    self._fail(
                        "progress",
                        f"{flow.read} of {flow.flow.total} bytes from {flow.writer.name} to {flow.reader.name}"
                        f" within {self.clock.now:.1f} s",
                    )

    def _rekey(self, session: _Session, turn: int) -> None:
        end = session.ends[turn]
        if end.conn.phase.over or self._through():
            return
        try:
            end.conn.rekey(self.clock.now)
        except EpochExhaustedError:
            return
        end.react()
        self.clock.after(self.plan.rekey, lambda: self._rekey(session, 1 - turn))

    def _idle(self) -> None:
        """Nothing but keepalives for ``idle`` seconds; what an end holds may not grow after the first hour."""
        clock, period = self.clock, self.plan.idle / _IDLE_CHECKS
        first: list[int] = []
        self._period = float("inf")
        for _ in range(_IDLE_CHECKS):
            clock.run(clock.now + period)
            now = [self._held(view) for session in self.sessions for view in session.views]
            first = first or now
            growth = max(after - before for before, after in zip(first, now, strict=True))
            self.outcome.growth = max(self.outcome.growth, growth)
            if growth > _IDLE_GROWTH:
                self._fail("memory", f"an idle session holds {growth} bytes more than {period:.0f} s into its rest")
        self._judge_flows()

    def _held(self, view: View) -> int:
        shared = (view.memory, self._provider, self.clock, view.end, view.settings, gc.get_objects)
        return held_bytes(view.conn, without=(*shared, view.end.react, view.end.conn.wake))

    def _cut(self) -> None:
        """The network dies for good: both ends must notice, and leave nothing behind."""
        for link in self.links.values():
            link.link = replace(link.link, up=0.0, down=1e9)
        self.clock.run(self.clock.now + 900.0, self._over)
        for session in self.sessions:
            for end in session.ends:
                conn = end.conn
                if not conn.phase.over and (conn.unacknowledged or conn.path.unanswered_pings):
                    self._fail("alive", f"{end.name} waits for a dead network after {self.clock.now:.0f} s")

    def _over(self) -> bool:
        return all(end.conn.phase.over for session in self.sessions for end in session.ends)

    def _close(self) -> None:
        """An orderly end: the client closes, the server follows, nothing is left of either."""
        clock = self.clock
        for session in self.sessions:
            client = session.ends[0]
            client.conn.close(0, clock.now)
            client.react()
        clock.run(clock.now + _WIND_DOWN, self._over)
        clock.run(clock.now + 1.0)
        for session in self.sessions:
            for end in session.ends:
                conn = end.conn
                if not conn.phase.over:
                    self._fail("ending", f"{end.name} is {conn.phase.value} {_WIND_DOWN:.0f} s after the close")
                if conn.wants_to_send:
                    self._fail("ending", f"{end.name} wants to send after its end")
            left = session.ends[0].conn.unacknowledged
            mild = not any(
                link.loss > 0.05 or link.down or link.corrupt > 0.05 for link in (self.plan.up, self.plan.down)
            )
            if mild and left:
                self._fail("ending", f"the client closed with {left} bytes unacknowledged")
        for memory in self._memories:
            if memory.charged or memory.credit:
                self._fail("ending", f"{memory.charged} bytes charged and {memory.credit} of credit after the end")

    # --- watching -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for session in self.sessions:
            for view in session.views:
                if view.end.touched:
                    view.end.touched = False
                    check(view)

    def _sample(self) -> None:
        now, plan = self.clock.now, self.plan
        read = sum(flow.read for flow in self._flows())
        if not self._marks or read > self._marks[-1][1]:
            self._marks.append((now, read))
        session = self.sessions[0]
        sender = session.traffic[0].writer if session.traffic else session.ends[0]
        path = sender.conn.path
        bound = _bound(sender.conn)
        self._bounds[bound] = self._bounds.get(bound, 0) + 1
        congestion = getattr(path, "congestion", None)
        spent = now - self._sampled_at
        flight = sum(stream.outstanding.bytes for stream in _streams(sender.conn))
        self.outcome.samples.append(
            Sample(
                now,
                (read - self._sampled) / spent if spent else 0.0,
                float(getattr(congestion, "window", 0)),
                flight,
                path.estimator.srtt,
                sender.link.backlog,
                bound,
            )
        )
        self._sampled, self._sampled_at = read, now
        if len(self.outcome.samples) > _MOST_SAMPLES:
            self.outcome.samples = self.outcome.samples[::2]
            self._period *= 2
        if not self._over() and self._period < float("inf") and not (plan.flows and self._through()):
            self.clock.after(self._period, self._sample)

    def _conclude(self) -> None:
        outcome, plan = self.outcome, self.plan
        flows = self._flows()
        outcome.steps = self.clock.steps
        outcome.end = self.clock.now
        outcome.delivered = sum(flow.read for flow in flows)
        for session in self.sessions:
            outcome.packets += sum(end.sealed for end in session.ends)
            outcome.retransmissions += sum(end.conn.stats.retransmissions for end in session.ends)
            outcome.rekeys = max(outcome.rekeys, *(protection.epoch for protection in session.protections))
        outcome.links = (
            {} if plan.handshakes > 3 else {name: link.counters.snapshot() for name, link in self.links.items()}
        )
        outcome.digest = (
            f"{zlib.crc32(repr((outcome.delivered, outcome.steps, outcome.failure)).encode(), self._trace):08x}"
        )
        begun = min((flow.first_sent for flow in flows if flow.first_sent is not None), default=0.0)
        ended = max((flow.last_read for flow in flows), default=0.0)
        capacity = plan.capacity
        if ended > begun and capacity < float("inf"):
            outcome.goodput = outcome.delivered / (ended - begun) / capacity
            quarter = outcome.delivered / 4
            when, read = next(((when, read) for when, read in self._marks if read >= quarter), (ended, 0))
            if ended > when:
                outcome.steady = (outcome.delivered - read) / (ended - when) / capacity
        busy = {name: count for name, count in self._bounds.items() if name != "nothing"}
        outcome.bound = max(busy, key=lambda name: busy[name]) if busy else "nothing"
        if plan.goodput and not outcome.failure and outcome.steady < plan.goodput:
            outcome.invariant = "goodput"
            outcome.failure = f"{outcome.steady:.0%} of the link's capacity; at least {plan.goodput:.0%} are expected"


def _streams(conn: Connection) -> Iterable[Any]:
    return conn.channels()


def _bound(conn: Connection) -> str:
    """What keeps the sender from sending more right now."""
    for stream in _streams(conn):
        if stream.blocked:
            if stream.send_limit.room < stream.budget:
                return "receive window"
            return "segments outstanding"
    return "network" if conn.queued else "nothing"


def play(plan: Plan, seed: int) -> Outcome:
    """Plays one plan with one seed, invariants and all."""
    return World(plan, seed).play()
