"""``listen``: bound addresses, handshakes in turns, finished sessions to accept (surface §1.3, wire-native §8.7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast

from phantom import limits
from phantom.api.clients import ClientPolicy
from phantom.api.endpoint import Address, parse_address
from phantom.api.handshaking import Engine, ServerHandshake
from phantom.api.legs import WebOptions, accepted_leg
from phantom.api.session import PhantomSession
from phantom.api.shared import process_memory, self_tested_provider
from phantom.api.waiting import Deadline, WaitQueue
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.errors import ConfigError, ConnectionClosedError, ValidationError
from phantom.limits import VERSION_1
from phantom.observability.log import logger
from phantom.observability.metrics import HandshakeCounters, MetricsSnapshot
from phantom.runtime import Runtime, Task, default_runtime
from phantom.transport.handshake.gate import Gate, Source, client_id
from phantom.transport.handshake.responder import Responder
from phantom.transport.legs.http_upgrade import PATH
from phantom.transport.legs.tcp import addresses_to_bind, bind_tcp, format_address
from phantom.transport.session.client_auth import ClientAuthPolicy, ClientAuthRequested
from phantom.transport.session.events import ClientAuthenticated

if TYPE_CHECKING:
    import socket
    import ssl

    from phantom.crypto.hybrid_sign import HybridVerifyingKey
    from phantom.transport.handshake.events import HandshakeResult
    from phantom.transport.legs.base import Leg
    from phantom.transport.session.events import Event

__all__ = ["AcceptOutcome", "Binding", "PhantomListener", "listen"]

_EVERYBODY = ClientPolicy.none()
_NO_WEB = WebOptions()
_PER_TURN = 4  # handshakes signed in one turn of the loop
_ACCEPTS_PER_TURN = 16
_ACCEPT_PAUSE = 0.1  # s, when the process is out of descriptors


@dataclass(frozen=True, slots=True)
class AcceptOutcome:
    """A finished handshake: the session, the peer's ``HOST:PORT``, and the identity that it proved, if any."""

    session: PhantomSession
    peer_addr: str
    client_identity: HybridVerifyingKey | None = None


class PhantomListener:
    """Accepts sessions on one or more addresses under one identity. Made by :func:`listen` or :meth:`bind`.

    Safe to use from any number of tasks of one loop. Leaving ``async with`` shuts it down; sessions go on. A failed
    handshake is counted and logged, never raised.
    """

    def __init__(
        self,
        key: HybridSigningKey,
        config: PhantomConfig,
        runtime: Runtime,
        rng: RngProvider,
        clients: ClientPolicy = _EVERYBODY,
        web: WebOptions = _NO_WEB,
    ) -> None:
        """For the library: listeners come from :func:`listen`."""
        self._key = key
        self._web = web
        self._clients = clients
        self._config = config
        self._runtime = runtime
        self._rng = rng
        self._engine = Engine(config, self_tested_provider(config), runtime, process_memory(config))
        self._gate = Gate(
            rng.fill_bytes(32),
            cookie=cast(Literal["auto", "always"], config.cookie),
            load_tiers=config.load_tiers,
            max_inflight=config.max_inflight_handshakes,
            max_inflight_per_source=config.max_inflight_per_source,
            session_room=self._session_room,
            rng=rng,
        )
        self._sockets: list[socket.socket] = []
        self._addresses: list[Address] = []
        self._tasks: list[Task] = []
        self._handshakes: dict[ServerHandshake, None] = {}  # in order of acceptance
        self._lingering: list[Leg] = []  # refused, and not quite closed yet
        self._turns: deque[Callable[[], None]] = deque()
        self._turn_due = False
        self._sessions: dict[PhantomSession, str] = {}
        # Until it is settled which client they are of (§15.7); with their source and the seconds of their handshake.
        self._withheld: dict[PhantomSession, tuple[Source, float]] = {}
        self._per_source: dict[str, int] = {}
        self._accepted: deque[AcceptOutcome] = deque()
        self._acceptors = WaitQueue(runtime)
        self._closed = False
        self._counters = HandshakeCounters()
        self._totals = MetricsSnapshot()
        self._started = runtime.monotonic()

    # --- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    async def bind(
        cls,
        *addresses: str,
        key: HybridSigningKey | None = None,
        clients: ClientPolicy = _EVERYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomListener:
        """The same as awaiting :func:`listen`, which also takes what wss addresses need."""
        return await listen(
            *addresses,
            key=key,
            clients=clients,
            reuse_port=reuse_port,
            config=config,
            runtime=runtime,
            rng=rng,
        )

    @classmethod
    async def bind_with_signing_key(
        cls,
        address: str,
        key: HybridSigningKey,
        *,
        clients: ClientPolicy = _EVERYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomListener:
        """:meth:`bind` with one address and a key that must be given."""
        return await listen(
            address,
            key=key,
            clients=clients,
            reuse_port=reuse_port,
            config=config,
            runtime=runtime,
            rng=rng,
        )

    async def _bind(self, addresses: tuple[Address, ...], reuse_port: bool) -> None:
        try:
            for address in addresses:
                resolve = partial(addresses_to_bind, address.host, address.port)
                found = await self._runtime.in_thread(resolve)  # which may take its time, and may be cancelled
                for sock in bind_tcp(address.host, address.port, found, reuse_port=reuse_port):
                    self._sockets.append(sock)
                    host, port = sock.getsockname()[:2]
                    path = (address.path or PATH) if address.leg in ("ws", "wss") else ""
                    self._addresses.append(Address(address.leg, host, port, path))
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        for sock in self._sockets:
            self._watch(sock)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def local_addr(self) -> str:
        """``HOST:PORT`` of the first bound address."""
        return self._addresses[0].host_port

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """URLs of all bound addresses, without the pin."""
        return tuple(address.url() for address in self._addresses)

    @property
    def urls(self) -> tuple[str, ...]:
        """Pinned URLs, ready for ``connect``; with loopback in place of a wildcard, which leads nowhere."""
        pin = self._key.verifying_key().fingerprint()
        return tuple(address.on_this_host().url(pin) for address in self._addresses)

    def verifying_key_bytes(self) -> bytes:
        """The flat verifying key (1984 bytes) that clients pin."""
        return self._key.verifying_key().to_bytes()

    def is_shutting_down(self) -> bool:
        """True after :meth:`shutdown`."""
        return self._closed

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of the listener and of all its sessions, ended ones included."""
        snapshot = MetricsSnapshot(uptime_secs=self._runtime.monotonic() - self._started)
        snapshot.add(self._totals)
        for session in self._sessions:
            snapshot.add(session.metrics_snapshot())
        snapshot.active_sessions = len(self._sessions)
        snapshot.handshakes_success = self._counters.success
        snapshot.handshakes_failure = self._counters.failure
        snapshot.handshake_latency_ns_sum = self._counters.latency_ns_sum
        snapshot.handshake_latency_count = self._counters.latency_count
        return snapshot

    # --- accepting ----------------------------------------------------------------------------------------------------

    async def accept(self, timeout: float | None = None) -> AcceptOutcome:
        """The next established session; a stalled peer never blocks another.

        Raises ConnectionClosedError after :meth:`shutdown`, PhantomTimeoutError after ``timeout`` seconds.
        """
        deadline = Deadline(self._runtime, timeout)
        waited = False
        while True:
            if self._accepted and (waited or not self._acceptors):
                return self._accepted.popleft()
            if self._closed:
                raise ConnectionClosedError("the listener was shut down")
            await self._acceptors.wait(deadline, "no session arrived")
            waited = True

    def __aiter__(self) -> AsyncIterator[AcceptOutcome]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[AcceptOutcome]:
        while True:
            try:
                outcome = await self.accept()
            except ConnectionClosedError:
                return
            yield outcome

    def shutdown(self) -> None:
        """Refuses new sessions and wakes waiting ``accept`` calls with ConnectionClosedError; idempotent.

        Established sessions go on; sessions that nobody accepted are closed with code 14.
        """
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            self._runtime.call_soon(self._stop_accepting)  # a connection that this turn accepted gets there first
        for sock in self._sockets:
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for handshake in list(self._handshakes):
            handshake.abort()
        unseen = [*self._withheld, *(outcome.session for outcome in self._accepted)]
        self._accepted.clear()
        for session in unseen:
            self._runtime.spawn(_discard(session), "phantom-close-unaccepted")
            if session._leg is not None:
                self._lingering.append(session._leg)
        self._acceptors.wake_all()
        self._gate.close()

    async def drain(self, grace: float = limits.SHUTDOWN_GRACE) -> None:
        """:meth:`shutdown`, then ends every session with CLOSE code 14: idle ones at once, the others when what they
        owe is acknowledged, at the latest after ``grace`` seconds (§15.2)."""
        self.shutdown()
        await asyncio.gather(
            *(session.disconnect(ConnectionClosedError.code, grace) for session in list(self._sessions))
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()
        await asyncio.gather(*(leg.wait_closed() for leg in self._lingering))

    # --- the acceptor -------------------------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket) -> None:
        if self._closed:
            return
        try:
            asyncio.get_running_loop().add_reader(sock, self._acceptable, sock)
        except NotImplementedError:  # Windows' default loop
            self._tasks.append(self._runtime.spawn(self._accept_from(sock), "phantom-accept"))

    def _acceptable(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                peer, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(sock, error)
                return
            self._begin(sock, peer, address)

    def _pause_accepting(self, sock: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: the connection stays in the backlog, and the loop must not spin over it."""
        logger.warning("accept failed, trying again: %s", error.strerror)
        asyncio.get_running_loop().remove_reader(sock)
        self._runtime.call_at(self._runtime.monotonic() + _ACCEPT_PAUSE, lambda: self._watch(sock))

    async def _accept_from(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, address = await loop.sock_accept(sock)
            except OSError as error:
                logger.warning("accept failed, trying again: %s", error.strerror)
                await self._runtime.sleep(_ACCEPT_PAUSE)
                continue
            if self._closed:
                peer.close()
                return
            self._begin(sock, peer, address)

    def _stop_accepting(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self, sock: socket.socket, peer: socket.socket, address: tuple[object, ...]) -> None:
        try:
            bound = self._addresses[self._sockets.index(sock)]
            leg = accepted_leg(peer, bound, self._runtime, self._web, self._rng, self._config)
        except OSError:  # the peer was gone before it was looked at
            peer.close()
            return
        source = Source(client_id(str(address[0])))
        self.serve_leg(leg, source, format_address(address))

    def _accept_versions(self) -> frozenset[int]:
        """Version 1 has no client authentication, so where that is required it is refused (§1.4)."""
        accepted = self._config.accept_versions
        return accepted - {VERSION_1} if self._clients.kind is ClientAuthPolicy.REQUIRED else accepted

    def serve_leg(self, leg: Leg, source: Source, peer_addr: str) -> None:
        """Runs the handshake of one accepted leg; the session comes out of :meth:`accept`."""
        responder = Responder(
            self._key,
            self._gate,
            source,
            provider=self._engine.provider,
            rng=self._rng,
            accept_versions=self._accept_versions(),
            read_timeout=min(limits.HANDSHAKE_READ_TIMEOUT, self._config.handshake_timeout),
            handshake_deadline=self._config.handshake_timeout,
        )
        handshake = ServerHandshake(
            responder,
            leg,
            self._runtime,
            take_turn=self._take_turn,
            accept=lambda result, established, seconds: self._accept(result, established, seconds, source, peer_addr),
            ended=self._handshake_ended,
        )
        self._handshakes[handshake] = None
        handshake.start()
        self._bound_silent_legs()

    def _bound_silent_legs(self) -> None:
        """Legs without a slot that have sent nothing are at most as many again as handshakes, oldest first (§8.7)."""
        surplus = len(self._handshakes) - 2 * self._config.max_inflight_handshakes
        if surplus > 0:
            oldest = next((handshake for handshake in self._handshakes if handshake.silent), None)
            if oldest is not None:
                oldest.abort()

    def _take_turn(self, work: Callable[[], None]) -> None:
        self._turns.append(work)
        self._schedule_turn()

    def _schedule_turn(self) -> None:
        if self._turns and not self._turn_due:
            self._turn_due = True
            self._runtime.call_soon(self._run_turn)

    def _run_turn(self) -> None:
        self._turn_due = False
        try:
            for _ in range(min(_PER_TURN, len(self._turns))):
                self._turns.popleft()()
        finally:
            self._schedule_turn()

    def _handshake_ended(self, handshake: ServerHandshake, reason: str | None) -> None:
        self._handshakes.pop(handshake, None)
        if reason is None:
            return
        self._lingering = [leg for leg in (*self._lingering, handshake.leg) if not leg.closed]
        if not self._closed:
            self._counters.failure += 1
            logger.info("a handshake failed: %s", reason)

    def _session_room(self, source: Source) -> bool:
        config = self._config
        if len(self._accepted) + len(self._withheld) >= limits.ACCEPT_QUEUE:
            return False
        if config.max_sessions and len(self._sessions) >= config.max_sessions:
            return False
        return not config.max_sessions_per_ip or self._per_source.get(source.key, 0) < config.max_sessions_per_ip

    def _accept(self, result: HandshakeResult, leg: Leg, seconds: float, source: Source, peer_addr: str) -> None:
        session = PhantomSession(self._runtime, self._config, peer_addr)
        session._on_end = self._session_ended
        self._sessions[session] = source.key
        self._per_source[source.key] = self._per_source.get(source.key, 0) + 1
        if self._clients.kind is not ClientAuthPolicy.NONE:
            session._on_event = lambda event: self._client_event(session, event)
        self._engine.establish(session, leg, result, seconds, clients=self._clients.kind)
        self._gate.enter(source)  # the slot that the handshake has just left: it is still in flight (§8.7)
        self._withheld[session] = source, seconds
        session._when_admitted(lambda: self._settled(session))

    # --- which client it is (§15.7) -----------------------------------------------------------------------------------

    def _settled(self, session: PhantomSession) -> None:
        """The session may be shown, or is over before that."""
        source, seconds = self._withheld.pop(session)
        self._gate.leave(source)
        if self._closed:
            return  # it is being closed with the listener
        if session._admitted:
            self._counters.succeeded(seconds)
            self._accepted.append(AcceptOutcome(session, session.peer_addr, session.peer_identity()))
            self._acceptors.wake(len(self._accepted))
        else:
            self._counters.failure += 1
            logger.info("a session ended before it was shown: %s", session.last_error() or "its client left")

    def _client_event(self, session: PhantomSession, event: Event) -> None:
        if isinstance(event, ClientAuthRequested):
            self._runtime.spawn(self._judge(session, event.key), "phantom-authorise")
        elif isinstance(event, ClientAuthenticated):
            session._peer_key = event.key

    async def _judge(self, session: PhantomSession, key: HybridVerifyingKey) -> None:
        accepted = False
        try:
            answer = self._clients.judge(key)
            accepted = answer if isinstance(answer, bool) else await answer is True
        except Exception:  # noqa: BLE001 - whatever a user's function raises refuses this client and no other
            logger.exception("the function that authorises clients failed; the client is refused")
        finally:
            session._client_verdict(accepted)

    # --- their ends ---------------------------------------------------------------------------------------------------

    def _put_back(self, outcome: AcceptOutcome) -> None:
        """A session that was taken for a caller who is gone is the next one again."""
        self._accepted.appendleft(outcome)
        self._acceptors.wake(1)

    def _session_ended(self, session: PhantomSession) -> None:
        key = self._sessions.pop(session, None)
        if key is None:
            return
        self._totals.add(session.metrics_snapshot())
        left = self._per_source[key] - 1
        if left:
            self._per_source[key] = left
        else:
            del self._per_source[key]


class Binding:
    """A listen that has been described and not begun: ``await`` it for the listener, or ``async with`` it."""

    __slots__ = ("_addresses", "_clients", "_config", "_key", "_listener", "_reuse_port", "_rng", "_runtime", "_web")

    def __init__(
        self,
        addresses: tuple[Address, ...],
        key: HybridSigningKey | None,
        reuse_port: bool,
        config: PhantomConfig,
        runtime: Runtime | None,
        rng: RngProvider,
        clients: ClientPolicy = _EVERYBODY,
        web: WebOptions = _NO_WEB,
    ) -> None:
        self._addresses = addresses
        self._web = web
        self._clients = clients
        self._key = key
        self._reuse_port = reuse_port
        self._config = config
        self._runtime = runtime
        self._rng = rng
        self._listener: PhantomListener | None = None

    def __await__(self) -> Generator[None, None, PhantomListener]:
        return self._bind().__await__()

    async def __aenter__(self) -> PhantomListener:
        self._listener = await self._bind()
        return self._listener

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._listener is not None
        await self._listener.__aexit__(kind, error, traceback)

    async def _bind(self) -> PhantomListener:
        key = self._key or HybridSigningKey.generate(self._rng)
        runtime = self._runtime or default_runtime()
        listener = PhantomListener(key, self._config, runtime, self._rng, self._clients, self._web)
        await listener._bind(self._addresses, self._reuse_port)
        return listener


def listen(
    *addresses: str,
    key: HybridSigningKey | None = None,
    clients: ClientPolicy = _EVERYBODY,
    reuse_port: bool = False,
    config: PhantomConfig | None = None,
    tls: ssl.SSLContext | None = None,
    origins: Collection[str] = (),
    runtime: Runtime | None = None,
    rng: RngProvider | None = None,
) -> Binding:
    """Listens on ``addresses`` (surface §1.7; port 0 takes a free one) under one identity.

    Without ``key`` a fresh identity is made, a new one for each listener. ``clients`` says who may come in: everybody,
    unless it is ``ClientPolicy.required(...)``. ``tls`` has the certificate of wss:// addresses. On ws:// and wss://
    pages of the server's own host and of ``origins`` (such as ``https://app.example``; ``*``: all) are let in, and
    every program. Arguments are checked here, before any I/O: ConfigError, ValidationError, UnsupportedError. Awaiting
    raises NetworkError, also when a port is in use.
    """
    if not addresses:
        raise ConfigError("give at least one address to listen on, such as tcp://127.0.0.1:4242")
    web = WebOptions(tls, tuple(origins))
    parsed = tuple(parse_address(address, listening=True) for address in addresses)
    for address in parsed:
        address.require_built()
        if address.pin is not None:
            raise ConfigError("an address to listen on has no pin")
        web.check(address, listening=True)
    if reuse_port and not hasattr(os, "fork"):
        raise ConfigError("reuse_port is not available on this platform")
    if not isinstance(clients, ClientPolicy):
        raise ValidationError(
            "clients is a ClientPolicy, such as ClientPolicy.required(AuthorizedClients.from_file(...))"
        )
    return Binding(parsed, key, reuse_port, config or PhantomConfig(), runtime, rng or SYSTEM_RNG, clients, web)


async def _discard(session: PhantomSession) -> None:
    await session.disconnect(ConnectionClosedError.code, 0.0)
