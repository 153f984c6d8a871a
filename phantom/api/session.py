"""``PhantomSession``: an authenticated, confidential message pipe to a pinned peer (surface §1.1, §14)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from phantom import limits
from phantom.api.driver import SessionDriver
from phantom.api.stream import BytesLike, PhantomStream, check_priority, own
from phantom.api.waiting import Deadline, WaitQueue
from phantom.config import PhantomConfig
from phantom.crypto.aead import CipherSuite
from phantom.errors import ConnectionClosedError, PhantomError, ValidationError
from phantom.observability.metrics import MetricsSnapshot
from phantom.runtime.base import Runtime
from phantom.transport.session.events import Event, PathChanged, Rekeyed, StateChanged
from phantom.transport.session.states import ConnectionState

if TYPE_CHECKING:
    from phantom.crypto.hybrid_sign import HybridVerifyingKey
    from phantom.crypto.pins import Pins
    from phantom.crypto.rng import RngProvider
    from phantom.transport.legs.base import Leg, SessionTransport

__all__ = ["BytesLike", "HandshakeInfo", "Negotiated", "PhantomSession", "SessionEvent"]

_NONE_YET = (0, 0)

# What ``events`` yields; other events of the engine are for the library itself.
SessionEvent = StateChanged | Rekeyed | PathChanged


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What this session uses: packet version, suites (``receive_suite`` is None until the peer's first packet), leg."""

    version: int
    suite: CipherSuite
    receive_suite: CipherSuite | None
    leg: str
    epoch: int


@dataclass(frozen=True, slots=True)
class HandshakeInfo:
    """What the handshake took: seconds from its first to its last frame, bytes of whole frames, extra rounds."""

    seconds: float
    bytes_sent: int
    bytes_received: int
    retries: int
    algorithms: tuple[str, ...] = ("X25519", "ML-KEM-768", "Ed25519", "ML-DSA-65")


class PhantomSession:
    """One session. Made by ``connect``, by ``PhantomListener.accept``, or over a supplied transport.

    Safe to use from any number of tasks of one event loop. Leaving ``async with`` closes it and raises
    ConnectionClosedError if something was not acknowledged, unless the body raised; ``async for`` yields messages and
    ends silently when the peer closed with code 0.
    """

    __slots__ = (
        "__weakref__",
        "_config",
        "_connecting",
        "_driver",
        "_early",
        "_early_bytes",
        "_error",
        "_handshake",
        "_leg",
        "_on_admission",
        "_on_end",
        "_on_event",
        "_peer_addr",
        "_peer_key",
        "_ready",
        "_rekeys",
        "_runtime",
        "_session_id",
        "_started",
        "_state",
        "_streams",
    )

    def __init__(self, runtime: Runtime, config: PhantomConfig, peer_addr: str) -> None:
        """For the library: sessions come from ``connect``, ``accept`` and ``connect_with_transport``."""
        self._runtime = runtime
        self._config = config
        self._peer_addr = peer_addr
        self._driver: SessionDriver | None = None
        self._leg: Leg | None = None
        self._peer_key: HybridVerifyingKey | None = None
        self._handshake: HandshakeInfo | None = None
        self._session_id = b""
        self._state = ConnectionState.CONNECTING
        self._error: PhantomError | None = None
        self._ready = WaitQueue(runtime)
        self._early: list[bytes] = []  # messages sent before establishment (§7.6)
        self._early_bytes = 0
        self._rekeys = _NONE_YET  # by this side, by the peer
        self._streams: WeakSet[_EventStream] | None = None
        self._connecting: Callable[[], None] | None = None  # aborts the handshake
        self._on_end: Callable[[PhantomSession], None] | None = None
        self._on_event: Callable[[Event], None] | None = None  # what the engine asks and tells the library itself
        self._on_admission: Callable[[], None] | None = None
        self._started = runtime.monotonic()

    @classmethod
    def connect_with_transport(
        cls,
        peer_addr: str,
        transport: SessionTransport,
        server_key: Pins,
        *,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomSession:
        """A session over a supplied transport, in state Connecting at once; see ``phantom.api.connecting``."""
        from phantom.api.connecting import connect_with_transport  # it imports this module

        return connect_with_transport(peer_addr, transport, server_key, config=config, runtime=runtime, rng=rng)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session id, 64 hex digits; empty before establishment."""
        return self._session_id.hex()

    @property
    def peer_addr(self) -> str:
        """``HOST:PORT`` of the peer, or the label of its transport."""
        return self._peer_addr

    @property
    def state(self) -> ConnectionState:
        """The current state (wire-native §20.3)."""
        return self._state

    def connection_state(self) -> ConnectionState:
        """The same as :attr:`state`."""
        return self._state

    @property
    def negotiated(self) -> Negotiated:
        """Version, suites, leg and epoch; ConnectionClosedError before establishment."""
        driver, leg = self._established()
        protection = driver.conn.protection
        return Negotiated(
            protection.version, protection.send_suite, protection.receive_suite, leg.name, protection.epoch
        )

    @property
    def handshake(self) -> HandshakeInfo:
        """Cost of the handshake; ConnectionClosedError before establishment."""
        self._established()
        assert self._handshake is not None
        return self._handshake

    def peer_identity(self) -> HybridVerifyingKey | None:
        """The server's key, which matched the pin; None on the server."""
        return self._peer_key

    def is_data_ready(self) -> bool:
        """True while messages can be sent."""
        return self._state is ConnectionState.CONNECTED

    def is_pqc_ready(self) -> bool:
        """True while messages are protected by completed post-quantum keys: always when data can be sent."""
        return self._state is ConnectionState.CONNECTED

    def last_error(self) -> PhantomError | None:
        """What ended the session, None if nothing did or it was closed in order."""
        return self._error

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of this session so far."""
        snapshot = MetricsSnapshot(uptime_secs=self._runtime.monotonic() - self._started)
        if self._driver is None:
            return snapshot
        conn = self._driver.conn
        for name in (
            "packets_sent",
            "packets_recv",
            "bytes_sent",
            "bytes_recv",
            "messages_sent",
            "messages_recv",
            "retransmissions",
        ):
            setattr(snapshot, name, getattr(conn.stats, name))
        snapshot.encrypt_count, snapshot.decrypt_count = conn.stats.packets_sent, conn.stats.packets_recv
        snapshot.dropped_total = conn.counters.snapshot()
        snapshot.replay_rejected_total = conn.counters.replay_rejected
        snapshot.aead_failure_total = conn.counters.decrypt_failed
        snapshot.unencrypted_dropped_total = conn.counters.unencrypted_dropped
        snapshot.active_sessions = 0 if conn.phase.over else 1
        snapshot.active_streams = 0 if conn.phase.over else conn.active_streams
        snapshot.rekeys_local_total, snapshot.rekeys_peer_total = self._rekeys
        if conn.path.estimator.sampled:
            snapshot.rtt_us_path_0 = int(conn.path.estimator.srtt * 1e6)
        return snapshot

    # --- readiness ----------------------------------------------------------------------------------------------------

    async def await_ready(self, timeout: float | None = None) -> None:
        """Returns when the peer is authenticated; on an accepted session when its first packet has opened (§6.4), on
        one with an identity when the server has accepted it (§15.7).

        Raises what ended the session, PhantomTimeoutError after ``timeout`` seconds.
        """
        deadline = Deadline(self._runtime, timeout)
        driver = await self._wait_established(deadline)
        conn = driver.conn
        while not (conn.confirmed and conn.admitted):
            if conn.phase.over:
                raise conn.end_error()
            await driver.confirmed.wait(deadline, "the peer sent nothing")
        if conn.phase.over:
            raise conn.end_error()

    # --- messages -----------------------------------------------------------------------------------------------------

    async def send(self, data: BytesLike, timeout: float | None = None) -> None:
        """Queues one message (0 B to 16 MiB) whole and returns; waits while more than 4 MiB are queued.

        Cancelled or timed out while waiting, nothing of it is queued; afterwards all of it is (§14.10). Raises
        ValidationError (too long), SessionClosingError, ConnectionClosedError, PhantomTimeoutError, or what ended the
        session.
        """
        payload = data if type(data) is bytes else own(data)
        driver = self._driver
        if driver is None or len(payload) > limits.MAX_MESSAGE:
            driver = await self._send_slow(payload, timeout)
            if driver is None:
                return
        if not driver.send(payload):
            await driver.room(Deadline(self._runtime, timeout))
            driver.queue(payload)

    async def recv(self, timeout: float | None = None) -> bytes:
        """The next message, exactly as it was sent.

        After the end: first what was delivered, then the error: ConnectionClosedError with the peer's code, or what
        ended the session. PhantomTimeoutError after ``timeout`` seconds; a cancelled call loses nothing.
        """
        driver = self._driver
        if driver is None:
            deadline = Deadline(self._runtime, timeout)
            driver = await self._wait_established(deadline)
        elif driver.messages and not driver.readers:
            driver.conn.stats.messages_recv += 1
            return driver.messages.popleft()
        else:
            deadline = Deadline(self._runtime, timeout)
        return await self._recv_slow(driver, deadline)

    async def _recv_slow(self, driver: SessionDriver, deadline: Deadline) -> bytes:
        conn = driver.conn
        waited = False
        while True:
            if waited or not driver.readers:
                if driver.messages or driver.refill():
                    conn.stats.messages_recv += 1
                    message = driver.messages.popleft()
                    if driver.messages:
                        driver.readers.wake(1)
                    return message
                if conn.phase.over:
                    driver.readers.wake_all()
                    raise conn.end_error()
                if conn.messages_ended:
                    driver.readers.wake_all()
                    raise ConnectionClosedError("the peer sends no more messages; its streams go on")
            conn.reader_waits = True
            try:
                await driver.readers.wait(deadline, "no message arrived")
            finally:
                conn.reader_waits = bool(driver.readers)
            waited = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        while True:
            try:
                message = await self.recv()
            except ConnectionClosedError as closed:
                if self._error is None and not closed.peer_code:
                    return
                raise
            yield message

    def queued_count(self) -> int:
        """Messages not yet handed to the leg in full."""
        return len(self._early) if self._driver is None else self._driver.conn.queued_messages

    async def flush_queue(self, timeout: float | None = None) -> int:
        """Waits until everything queued so far is acknowledged by the peer; the number of bytes it waited for.

        Raises what ended the session first, PhantomTimeoutError after ``timeout`` seconds.
        """
        deadline = Deadline(self._runtime, timeout)
        driver = await self._wait_established(deadline)
        conn = driver.conn
        mark = conn.flush_mark()
        while not conn.flush_done(mark):
            if conn.phase.over:
                raise conn.end_error()
            await driver.acknowledged.wait(deadline, "the peer did not acknowledge everything")
        if conn.phase.over and conn.unacknowledged:  # it dropped what waited
            raise conn.end_error()
        return mark.waiting

    def events(self) -> AsyncIterator[SessionEvent]:
        """Changes of state, keys and paths from now on, each with its reason; ends with the session.

        Every call gives an iterator of its own; at most 256 events wait unread in each, then the oldest is dropped.
        """
        stream = _EventStream(self)
        if self._streams is None:
            self._streams = WeakSet()
        self._streams.add(stream)
        return stream

    # --- streams ------------------------------------------------------------------------------------------------------

    async def open_stream(self, *, priority: int = 0, wait: bool = True, timeout: float | None = None) -> PhantomStream:
        """A new stream, announced to the peer even if nothing is written: the other end may speak first.

        ``priority`` (0 to 2^32 - 1): higher is served first, equals in turn. Waits for the session to be established,
        and while 256 streams of this side are open; ``wait=False`` raises StreamLimitError instead of the latter.
        Cancelled while waiting, nothing was opened. Raises ValidationError, StreamLimitError (the ids of this session
        are used up: reconnect), PhantomTimeoutError, or what ended the session.
        """
        check_priority(priority)
        deadline = Deadline(self._runtime, timeout)
        driver = await self._wait_established(deadline)
        return PhantomStream(driver, await driver.open_stream(priority, wait, deadline))

    async def accept_stream(self, timeout: float | None = None) -> PhantomStream:
        """The next stream that the peer opened. Those who wait are served in order; a cancelled one loses nothing.

        After the end: first what had been opened, then the error that :meth:`recv` would raise.
        """
        deadline = Deadline(self._runtime, timeout)
        driver = await self._wait_established(deadline)
        return PhantomStream(driver, await driver.accept_stream(deadline))

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def rekey(self, timeout: float | None = None) -> int:
        """Changes the keys of both directions (wire-native §16); the new epoch, 1 to 255.

        The session does so by itself long before a key is used up. Waits while the peer has not confirmed the last
        change. Raises EpochExhaustedError (epoch 255 is reached: reconnect), UnsupportedError (version 1),
        PhantomTimeoutError, or what ended the session.
        """
        deadline = Deadline(self._runtime, timeout)
        driver = await self._wait_established(deadline)
        return await driver.rekey(deadline)

    def export_keying_material(self, label: str, length: int = 32) -> bytes:
        """Key bytes that both ends of this session get for ``label``, and nobody else (wire-native §3.5).

        ``label`` has at most 255 bytes in UTF-8, ``length`` is 1 to 8160. They stay the same when the session rekeys.
        Before :meth:`await_ready` returned they prove nothing about the peer. Raises ValidationError,
        ConnectionClosedError before establishment, or what ended the session.
        """
        driver, _ = self._established()
        if not isinstance(label, str):
            raise ValidationError(f"a label is text, not {type(label).__name__}")
        return driver.conn.export(label.encode(), length)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def disconnect(self, code: int = 0, timeout: float | None = None) -> bool:
        """Flushes, sends an encrypted CLOSE with ``code`` (0 to 65535) and releases the transport; idempotent.

        True if the peer acknowledged everything. Never fails because the session is over already; ``timeout`` bounds
        the flush in seconds. Cancelled, it ends the session at once.
        """
        if not 0 <= code <= 0xFFFF:
            raise ValidationError("a close code is a number from 0 to 65535")
        driver, leg = self._driver, self._leg
        if driver is None:
            if self._connecting is not None:
                self._connecting()
            self._fail_connecting(ConnectionClosedError("the session was closed before it was established"))
            return not self._early
        conn = driver.conn
        driver.close(code, timeout)
        try:
            while not conn.phase.over:
                await driver.over.wait(Deadline(self._runtime, None), "the session did not close")
            if leg is not None:
                await leg.wait_closed()
        except asyncio.CancelledError:
            if leg is not None:
                leg.close(linger=False)
            driver.leg_lost(None)
            raise
        return conn.unacknowledged == 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        acknowledged = await self.disconnect()
        if not acknowledged and kind is None:
            left = self._driver.conn.unacknowledged if self._driver is not None else self._early_bytes
            raise ConnectionClosedError(
                f"the session ended before the peer acknowledged the last {left} bytes",
                self._driver.conn.peer_code if self._driver is not None else None,
                left,
            )

    def __repr__(self) -> str:
        return f"<PhantomSession {self.id[:8] or 'connecting'} {self._peer_addr} {self._state.name.lower()}>"

    # --- for the handshake drivers ------------------------------------------------------------------------------------

    def _attach(
        self,
        driver_of: Callable[[Callable[[], None]], SessionDriver],
        leg: Leg,
        session_id: bytes,
        peer_key: HybridVerifyingKey | None,
        handshake: HandshakeInfo,
    ) -> None:
        """The handshake is complete: takes the leg over and flushes what was sent early, in order (§7.6)."""
        self._leg = leg
        self._session_id = session_id
        self._peer_key = peer_key
        self._handshake = handshake
        driver = driver_of(self._changed)
        self._driver = driver
        if driver.conn.admitted:
            self._connected()
        else:
            driver.admission = self._admission
        self._connecting = None  # the handshake, its keys and its frames go
        for message in self._early:
            driver.conn.send_message(message)
        self._early = []
        self._early_bytes = 0
        driver.start()
        self._ready.wake_all()

    async def _recv_into(self, inbox: deque[bytes], timeout: float | None) -> None:
        """Waits for a message and moves it, with all others that are there, into ``inbox`` (blocking callers)."""
        inbox.append(await self.recv(timeout))
        driver = self._driver
        if driver is None or driver.readers:
            return
        for _ in range(2):  # those that were split, and those that still wait for it
            driver.conn.stats.messages_recv += len(driver.messages)
            inbox.extend(driver.messages)
            driver.messages.clear()
            if not driver.refill():
                return

    def _when_admitted(self, callback: Callable[[], None]) -> None:
        """Calls back once: when the session may be used, or is over before that (listeners)."""
        if self._driver is not None and self._driver.admission is not None:
            self._on_admission = callback
        else:
            callback()

    @property
    def _admitted(self) -> bool:
        """The application may have the session."""
        return self._driver is not None and self._driver.conn.admitted

    def _client_verdict(self, accepted: bool) -> None:
        """The listener's answer to the client's identity."""
        if self._driver is not None:
            self._driver.client_verdict(accepted)

    def _admission(self) -> None:
        if self._admitted and self._state is ConnectionState.CONNECTING:
            self._connected()
        callback, self._on_admission = self._on_admission, None
        if callback is not None:
            callback()

    def _connected(self) -> None:
        self._move(StateChanged(self._state, ConnectionState.CONNECTED, "the handshake is complete"))

    def _abandon(self) -> None:
        """The caller of connect is gone: what the handshake made must not live on unowned."""
        if self._driver is not None:
            self._driver.abandon()

    def _fail_connecting(self, error: PhantomError) -> None:
        """The handshake failed, or the session was closed before it ended."""
        if self._driver is not None or self._error is not None:
            return
        self._error = error
        self._move(StateChanged(self._state, ConnectionState.FAILED, str(error)))
        self._ready.wake_all()
        self._end()

    # --- small steps --------------------------------------------------------------------------------------------------

    _own = staticmethod(own)

    async def _send_slow(self, payload: bytes, timeout: float | None) -> SessionDriver | None:
        """Before establishment messages are queued, up to 1 MiB, then they wait; None when this one was queued."""
        most = max(limits.MAX_MESSAGE, self._config.max_message)
        if len(payload) > most:
            raise ValidationError(f"the message has {len(payload)} bytes; the limit is {most}")
        deadline = Deadline(self._runtime, timeout)
        while self._driver is None:
            if self._error is not None:
                raise self._error
            if self._early_bytes + len(payload) + limits.ITEM_OVERHEAD <= limits.PRE_HANDSHAKE_QUEUE_CAP:
                self._early.append(payload)
                self._early_bytes += len(payload) + limits.ITEM_OVERHEAD
                return None
            await self._ready.wait(deadline, "the session did not become ready; nothing was queued")
        return self._driver

    async def _wait_established(self, deadline: Deadline) -> SessionDriver:
        while self._driver is None:
            if self._error is not None:
                raise self._error
            await self._ready.wait(deadline, "the session did not become ready")
        return self._driver

    def _established(self) -> tuple[SessionDriver, Leg]:
        if self._driver is None or self._leg is None:
            raise self._error or ConnectionClosedError("the session is not established yet")
        return self._driver, self._leg

    def _changed(self) -> None:
        assert self._driver is not None
        conn = self._driver.conn
        while (event := conn.next_event()) is not None:
            if conn.error is not None:
                self._error = conn.error
            if isinstance(event, StateChanged):
                self._move(event) if self._state is not ConnectionState.CONNECTING else self._refused(event)
            elif isinstance(event, Rekeyed | PathChanged):
                if isinstance(event, Rekeyed):
                    local, peer = self._rekeys
                    self._rekeys = (local, peer + 1) if event.by_peer else (local + 1, peer)
                self._tell(event)
            elif self._on_event is not None:
                self._on_event(event)
        if conn.phase.over:
            self._end()

    def _refused(self, event: StateChanged) -> None:
        """A session that is not admitted yet (§15.7) has failed when it ends, whatever ended it."""
        assert self._driver is not None
        if event.new in _FINAL:
            self._error = self._driver.conn.end_error()
            self._move(StateChanged(self._state, ConnectionState.FAILED, event.reason))

    def _move(self, event: StateChanged) -> None:
        self._state = event.new
        self._tell(event)

    def _tell(self, event: SessionEvent) -> None:
        for stream in self._streams or ():
            stream._push(event)

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)


class _EventStream:
    """One reader's view of a session's events."""

    __slots__ = ("__weakref__", "_events", "_session", "_waiters")

    def __init__(self, session: PhantomSession) -> None:
        self._session = session
        self._events: deque[SessionEvent] = deque(maxlen=limits.EVENT_QUEUE)
        self._waiters = WaitQueue(session._runtime)

    def __aiter__(self) -> _EventStream:
        return self

    async def __anext__(self) -> SessionEvent:
        while not self._events:
            if self._session.state in _FINAL:
                raise StopAsyncIteration
            await self._waiters.wait(Deadline(self._session._runtime, None), "no event")
        return self._events.popleft()

    def _push(self, event: SessionEvent) -> None:
        self._events.append(event)
        self._waiters.wake_all()


_FINAL = (ConnectionState.FAILED, ConnectionState.CLOSED, ConnectionState.DEAD)
