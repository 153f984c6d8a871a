"""Runs a handshake on a leg, as client or as server, and hands the leg to the session (architecture §3, §4).

Both sides own the leg until the last handshake frame is processed, and only then let the session read the next length
field, so that the right frame cap applies (wire-native §21.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct

from phantom import limits
from phantom.api.driver import SessionDriver
from phantom.api.session import HandshakeInfo, PhantomSession
from phantom.config import PhantomConfig
from phantom.crypto import pow as proof_of_work
from phantom.crypto.aead import CipherSuite
from phantom.crypto.cpu import default_suite
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.providers import NULL_AEAD, Provider
from phantom.errors import ConfigError, FrameTooLargeError, NetworkError, PhantomError, SerializationError
from phantom.limits import VERSION_1
from phantom.observability.qlog import SessionLog
from phantom.runtime.base import Runtime, Timer
from phantom.runtime.simulated import SimulatedRuntime
from phantom.transport.handshake.events import Close, Established, HandshakeResult, Send, SolveChallenge
from phantom.transport.handshake.initiator import Initiator, solve_budget_exceeded
from phantom.transport.handshake.responder import Responder
from phantom.transport.legs.base import Leg
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import ProtectionV1, ProtectionV2
from phantom.transport.session.client_auth import (
    ClientAuthentication,
    ClientAuthInitiator,
    ClientAuthPolicy,
    ClientAuthResponder,
)
from phantom.transport.session.connection import Connection, SessionSettings
from phantom.transport.session.connection_v1 import ConnectionV1
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import Path, profile_of

__all__ = ["ClientHandshake", "Engine", "ServerHandshake", "sending_suite"]

_U32 = Struct(">I")
_MEASURED_TRIES = 256  # of a proof of work, before its cost is judged (§7.4b)
_SLICE = 16384  # tries between two looks at the clock


def sending_suite(config: PhantomConfig, provider: Provider) -> CipherSuite:
    """The suite of what this side sends (wire-native §11.7)."""
    if config.suite == "auto":
        return default_suite(provider.name)
    return next(suite for suite in CipherSuite if suite.label == config.suite)


class Engine:
    """What all sessions of one connect or listener share: configuration, provider, runtime, receive memory."""

    __slots__ = ("config", "memory", "provider", "qlog_dir", "runtime", "settings", "suite")

    def __init__(self, config: PhantomConfig, provider: Provider, runtime: Runtime, memory: ReceiveMemory) -> None:
        if provider.name == NULL_AEAD and not isinstance(runtime, SimulatedRuntime):
            raise ConfigError("the null AEAD protects nothing and runs on simulated time only")
        self.config = config
        self.provider = provider
        self.runtime = runtime
        self.memory = memory
        self.suite = sending_suite(config, provider)
        self.qlog_dir = config.effective_qlog_dir()
        self.settings = SessionSettings(
            bulk_chunk=config.bulk_chunk,
            frame_cap=config.frame_cap,
            max_message=config.max_message,
            recv_window=config.recv_window,
            session_recv_window=config.session_recv_window,
            send_segments=config.send_segments,
            recv_segments=config.recv_segments,
            keepalive_interval=config.keepalive_interval,
            silence_floor=config.silence_floor,
            close_timeout=config.close_timeout,
            confirm_timeout=config.handshake_timeout,
            padding=config.padding,
            jitter=config.jitter,
            cover_interval=config.cover_interval or None,
        )

    def establish(
        self,
        session: PhantomSession,
        leg: Leg,
        result: HandshakeResult,
        seconds: float,
        *,
        identity: HybridSigningKey | None = None,
        clients: ClientAuthPolicy = ClientAuthPolicy.NONE,
    ) -> None:
        """Makes the engine of a finished handshake and gives it the leg; the handshake's secrets are wiped.

        A client proves ``identity``, a server asks its clients as ``clients`` says (§15.7); version 1 knows neither.
        ValidationError if the identity is closed.
        """
        now = self.runtime.monotonic()
        connection = self._connection(leg, result, now, identity, clients)
        if self.qlog_dir is not None:
            role = "client" if result.initiator else "server"
            connection.observer = SessionLog(self.qlog_dir, result.session_id, role, now, seconds)
        info = HandshakeInfo(seconds, result.bytes_sent, result.bytes_received, result.retries)
        result.wipe()
        session._attach(
            lambda on_change: SessionDriver(connection, leg, self.runtime, on_change),
            leg,
            result.session_id,
            result.peer_key,
            info,
        )

    def _connection(
        self,
        leg: Leg,
        result: HandshakeResult,
        now: float,
        identity: HybridSigningKey | None,
        clients: ClientAuthPolicy,
    ) -> Connection:
        counters = DropCounters()
        if result.packet_version == VERSION_1:
            v1 = ConnectionV1(
                ProtectionV1(
                    result.initiator,
                    result.session_id,
                    result.shared_secret,
                    send_suite=self.suite,
                    provider=self.provider,
                    counters=counters,
                ),
                initiator=result.initiator,
                path=Path(0, leg.name, now=now, profile=profile_of(leg.name)),
                settings=self.settings,
                memory=self.memory,
                counters=counters,
                now=now,
                root=result.exporter_root(),
            )
            v1.hold = _ReadingGate(v1, leg, self.runtime)
            return v1
        root = result.exporter_root()
        auth = self._authentication(result, root, identity, clients, now)
        return Connection(
            ProtectionV2(
                result.initiator,
                result.session_id,
                result.shared_secret,
                send_suite=self.suite,
                provider=self.provider,
                counters=counters,
            ),
            initiator=result.initiator,
            path=Path(0, leg.name, now=now, profile=profile_of(leg.name), silence_floor=self.settings.silence_floor),
            settings=self.settings,
            memory=self.memory,
            counters=counters,
            now=now,
            root=root,
            auth=auth,
        )

    def _authentication(
        self,
        result: HandshakeResult,
        root: bytearray,
        identity: HybridSigningKey | None,
        clients: ClientAuthPolicy,
        now: float,
    ) -> ClientAuthentication | None:
        """The exchange of §15.7, where something is proved or asked for; else the engine makes one if it must."""
        timeout = self.config.handshake_timeout
        if identity is not None:
            return ClientAuthInitiator(result.auth_binding(root), identity, now=now, timeout=timeout)
        if clients is ClientAuthPolicy.NONE:
            return None
        return ClientAuthResponder(result.auth_binding(root), clients, now=now, timeout=timeout, provider=self.provider)


class _ReadingGate:
    """The back-pressure of a V1 session: its leg is not read while the application has enough to read (§13.6)."""

    __slots__ = ("_connection", "_leg", "_runtime")

    def __init__(self, connection: ConnectionV1, leg: Leg, runtime: Runtime) -> None:
        self._connection = connection
        self._leg = leg
        self._runtime = runtime

    def __call__(self, hold: bool) -> None:
        if hold:
            self._leg.pause()
        else:
            self._runtime.call_soon(self._resume)  # not from within the read that made room

    def _resume(self) -> None:
        if self._connection.reading and not self._leg.closed:
            self._leg.resume()


class _FramedHandshake:
    """Frames of the handshake phase: reading under HANDSHAKE_FRAME_CAP, writing, one timer."""

    __slots__ = ("_heard", "_leg", "_out", "_over", "_runtime", "_started", "_timer")

    def __init__(self, leg: Leg, runtime: Runtime) -> None:
        self._leg = leg
        self._runtime = runtime
        self._out: deque[bytes] = deque()
        self._timer: Timer | None = None
        self._over = False
        self._heard = False  # at least one byte came
        self._started = runtime.monotonic()

    @property
    def read_size(self) -> int:
        """At most 64 KiB more at a time until establishment (§21.1)."""
        return limits.HANDSHAKE_FRAME_CAP

    @property
    def batch_size(self) -> int:
        """Room for the largest handshake frame."""
        return limits.HANDSHAKE_FRAME_CAP + limits.LENGTH_PREFIX

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """Takes one frame after the other until one ends the handshake (LegOwner)."""
        self._heard = True
        at = start
        while not self._over and not self._waiting() and end - at >= 4:
            length = _U32.unpack_from(buf, at)[0]
            if not 0 < length <= limits.HANDSHAKE_FRAME_CAP:
                self._bad_length(length)
                return end
            stop = at + 4 + length
            if stop > end:
                break
            frame = bytes(view[at + 4 : stop])
            at = stop
            self._frame(frame)
        return at

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """Writes what the handshake has to send (LegOwner)."""
        while self._out and at + 4 + len(self._out[0]) <= cap:
            frame = self._out.popleft()
            _U32.pack_into(buf, at, len(frame))
            view[at + 4 : at + 4 + len(frame)] = frame
            at += 4 + len(frame)
        return at

    def leg_blocked(self, blocked: bool) -> None:
        """Handshake frames are small; nothing to do (LegOwner)."""

    def _waiting(self) -> bool:
        """True while the last frame is still being worked on, off the loop or in a later turn."""
        return False

    def _frame(self, frame: bytes) -> None:
        raise NotImplementedError

    def _bad_length(self, length: int) -> None:
        raise NotImplementedError

    def _expired(self) -> None:
        raise NotImplementedError

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)

    def _rearm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if when != float("inf") and not self._over:
            self._timer = self._runtime.call_at(when, self._expired)

    def _finish(self) -> None:
        self._over = True
        self._rearm(float("inf"))


class ClientHandshake(_FramedHandshake):
    """The initiator on one leg. The session learns the outcome: attached, or failed with the typed error."""

    __slots__ = ("_engine", "_identity", "_initiator", "_on_failure", "_session", "_solving")

    def __init__(
        self,
        initiator: Initiator,
        session: PhantomSession,
        leg: Leg,
        engine: Engine,
        on_failure: Callable[[PhantomError], None],
        identity: HybridSigningKey | None = None,
    ) -> None:
        super().__init__(leg, engine.runtime)
        self._initiator = initiator
        self._session = session
        self._engine = engine
        self._on_failure = on_failure
        self._identity = identity
        self._solving = False

    def start(self) -> None:
        """Sends the hello and reads for the reply."""
        self._leg.start(self)
        self._initiator.start(self._runtime.monotonic())
        self._pump()

    def abort(self) -> None:
        """The caller gave up: wipes the keys and closes the leg."""
        if self._over:
            return
        self._finish()
        self._initiator.abort()
        self._leg.close(linger=False)

    def leg_lost(self, error: PhantomError | None) -> None:
        """The leg ended before the handshake did (LegOwner)."""
        if not self._over:
            self._fail(error or NetworkError("the server closed the connection during the handshake"))

    def _waiting(self) -> bool:
        return self._solving

    def _frame(self, frame: bytes) -> None:
        try:
            self._initiator.receive(frame, self._runtime.monotonic())
        except PhantomError as error:
            self._fail(error)
            return
        self._pump()

    def _bad_length(self, length: int) -> None:
        if length:
            limit = limits.HANDSHAKE_FRAME_CAP
            self._fail(
                FrameTooLargeError(
                    f"the server announced a frame of {length} bytes during the handshake; the limit is {limit}"
                )
            )
        else:
            self._fail(SerializationError("the server sent an empty frame during the handshake"))

    def _expired(self) -> None:
        self._timer = None
        try:
            self._initiator.expire(self._runtime.monotonic())
        except PhantomError as error:
            self._fail(error)

    def _pump(self) -> None:
        while (event := self._initiator.next_event()) is not None:
            if isinstance(event, Send):
                self._send(event.frame)
            elif isinstance(event, SolveChallenge):
                self._solving = True
                self._leg.pause()
                self._runtime.spawn(self._solve(event), "phantom-proof-of-work")
            else:
                self._finish()
                self._establish(event.result)
                return
        self._leg.flush()
        self._rearm(self._initiator.deadline(self._runtime.monotonic()))

    def _establish(self, result: HandshakeResult) -> None:
        seconds = self._runtime.monotonic() - self._started
        try:
            self._engine.establish(self._session, self._leg, result, seconds, identity=self._identity)
        except PhantomError as error:  # the identity was closed in the meantime
            result.wipe()
            self._leg.close(linger=False)
            self._on_failure(error)

    async def _solve(self, challenge: SolveChallenge) -> None:
        solution: int | None = None
        try:
            begun = self._runtime.monotonic()
            solution = await self._runtime.in_thread(
                lambda: proof_of_work.solve(challenge.nonce, challenge.difficulty, 0, _MEASURED_TRIES)
            )
            now = self._runtime.monotonic()
            per_hash = (now - begun) / _MEASURED_TRIES
            if solution is None and solve_budget_exceeded(challenge.difficulty, per_hash, challenge.deadline - now):
                if not self._over:
                    self._initiator.too_slow(now)
                return
            at = _MEASURED_TRIES
            while solution is None and not self._over and at < limits.MAX_SOLVE_ITERATIONS:
                solution = await self._runtime.in_thread(
                    lambda at=at: proof_of_work.solve(challenge.nonce, challenge.difficulty, at, _SLICE)  # type: ignore[misc]
                )
                at += _SLICE
            if self._over:
                return
            self._initiator.solved(solution, self._runtime.monotonic())
        except PhantomError as error:
            self._fail(error)
            return
        self._solving = False
        self._pump()
        self._leg.resume()

    def _fail(self, error: PhantomError) -> None:
        if self._over:
            return
        self._finish()
        self._initiator.abort()
        self._leg.close(linger=False)
        self._on_failure(error)


class ServerHandshake(_FramedHandshake):
    """The responder on one accepted leg. A hello waits for its turn: signing costs, and turns of the loop are short."""

    __slots__ = ("_accept", "_ended", "_pending", "_responder", "_take_turn", "in_flight")

    def __init__(
        self,
        responder: Responder,
        leg: Leg,
        runtime: Runtime,
        *,
        take_turn: Callable[[Callable[[], None]], None],
        accept: Callable[[HandshakeResult, Leg, float], None],
        ended: Callable[[ServerHandshake, str | None], None],
    ) -> None:
        super().__init__(leg, runtime)
        self._responder = responder
        self._take_turn = take_turn
        self._accept = accept
        self._ended = ended  # with the reason of a failure, None after success
        self._pending: bytes | None = None

    @property
    def leg(self) -> Leg:
        """The leg it runs on."""
        return self._leg

    @property
    def silent(self) -> bool:
        """True while the peer has sent no frame yet and holds no slot."""
        return not self._responder.in_flight and self._pending is None

    def start(self) -> None:
        """Waits for the first frame."""
        self._responder.start(self._runtime.monotonic())
        self._leg.start(self)
        self._pump()

    def abort(self) -> None:
        """Closes the leg without a word."""
        if not self._over:
            self._stop("closed by this side", linger=False)

    def leg_lost(self, error: PhantomError | None) -> None:
        """The leg ended before the handshake did (LegOwner)."""
        if not self._over:
            self._stop("the peer went away", linger=False)

    def _waiting(self) -> bool:
        return self._pending is not None

    def _frame(self, frame: bytes) -> None:
        self._pending = frame
        self._rearm(float("inf"))  # from here on the wait is this side's: it must not count against the peer
        self._leg.pause()
        self._take_turn(self._process)

    def _process(self) -> None:
        frame, self._pending = self._pending, None
        if self._over or frame is None:
            return
        try:
            self._responder.receive(frame, self._runtime.monotonic(), self._runtime.wall_clock())
        except PhantomError as error:
            self._stop(f"{type(error).__name__}: {error}", linger=False)
            return
        self._pump()
        self._leg.resume()

    def _bad_length(self, length: int) -> None:
        self._responder.oversized(self._runtime.monotonic())
        self._pump()

    def _expired(self) -> None:
        self._timer = None
        self._responder.expire(self._runtime.monotonic(), self._heard)
        self._pump()

    def _pump(self) -> None:
        while (event := self._responder.next_event()) is not None:
            if isinstance(event, Send):
                self._send(event.frame)
            elif isinstance(event, Established):
                self._leg.flush()
                if self._over:  # the client went away before it was answered
                    event.result.wipe()
                    return
                self._finish()
                self._ended(self, None)
                self._accept(event.result, self._leg, self._runtime.monotonic() - self._started)
                return
            elif isinstance(event, Close):
                self._leg.flush()
                if not self._over:
                    self._stop(event.reason, linger=True)
                return
        self._leg.flush()
        self._rearm(self._responder.deadline(self._runtime.monotonic()))

    def _stop(self, reason: str, *, linger: bool) -> None:
        self._finish()
        self._responder.close()
        self._leg.close(linger=linger)
        self._ended(self, reason)
