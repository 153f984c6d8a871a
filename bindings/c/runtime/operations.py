"""What the calls of libphantom do: the operations of the generated glue, over ``phantom.api``.

Every method may be called from any thread. What belongs to the loop thread is done there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakSet

from bindings.c.generated.phantom_c import (
    BindOptions,
    CipherSuite,
    ClientAuthentication,
    ConfigPreset,
    ConnectOptions,
    CookiePolicy,
    Leg,
    Metrics,
    Negotiated,
    PaddingPolicy,
    SessionLastErrorResult,
    SessionNextEventResult,
)
from bindings.c.runtime.sessions import ThreadSession
from bindings.c.runtime.streams import StreamOperations
from phantom.api import connecting, listener
from phantom.api.clients import AuthorizedClients, ClientPolicy
from phantom.api.endpoint import Address, resolve_target
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.providers import get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.crypto.wipe import wipe
from phantom.errors import (
    ConfigError,
    ConnectionClosedError,
    PhantomTimeoutError,
    SessionNotFoundError,
    ValidationError,
)
from phantom.limits import SHUTDOWN_GRACE

if TYPE_CHECKING:
    from bindings.c.runtime.runtime import LibraryRuntime
    from phantom.api.session import PhantomSession
    from phantom.observability.metrics import MetricsSnapshot

__all__ = ["LibraryOperations"]

T = TypeVar("T")

_ANYBODY: Final = ClientPolicy.none()
_PRESETS: Final[dict[ConfigPreset, Callable[[], PhantomConfig]]] = {
    ConfigPreset.UNSPECIFIED: PhantomConfig,
    ConfigPreset.MOBILE: PhantomConfig.mobile,
    ConfigPreset.SERVER: PhantomConfig.server,
    ConfigPreset.IOT: PhantomConfig.iot,
}
_SUITES: Final = {
    CipherSuite.UNSPECIFIED: "auto",
    CipherSuite.AES_256_GCM: "aes-256-gcm",
    CipherSuite.CHACHA20_POLY1305: "chacha20-poly1305",
}
_COOKIE: Final = {CookiePolicy.UNSPECIFIED: "auto", CookiePolicy.AUTO: "auto", CookiePolicy.ALWAYS: "always"}
_PADDING: Final = {PaddingPolicy.UNSPECIFIED: "none", PaddingPolicy.NONE: "none", PaddingPolicy.PADE: "pade"}
_DURATIONS: Final = frozenset(
    {
        "keepalive_interval",
        "connect_timeout",
        "close_timeout",
        "handshake_timeout",
        "silence_floor",
        "jitter",
        "cover_interval",
    }
)


def _numbers(text: str) -> frozenset[int]:
    words = text.split()
    if not words or not all(word.isdecimal() for word in words):
        raise ValidationError(f"numbers separated by a space, not {text!r}")
    return frozenset(map(int, words))


_TEXTS: Final[dict[str, Callable[[str], object]]] = {
    "provider": lambda text: text or "auto",
    "faketls_sni": lambda text: text or "www.google.com",
    "qlog_dir": lambda text: text or None,
    "accept_versions": _numbers,
}
_U64: Final = frozenset({"recv_window", "session_recv_window", "recv_memory"})
_U32: Final = frozenset(
    {
        "offer_version",
        "send_segments",
        "recv_segments",
        "bulk_chunk",
        "frame_cap",
        "max_message",
        "max_sessions",
        "max_sessions_per_ip",
        "max_inflight_handshakes",
        "max_inflight_per_source",
        "faketls_version",
    }
)


class _Key:
    """A signing key. It is wiped when its handle goes, but not under the hands of another thread."""

    __slots__ = ("_key", "_lock")

    def __init__(self, key: HybridSigningKey) -> None:
        self._lock = threading.Lock()
        self._key: HybridSigningKey | None = key

    def use(self, function: Callable[[HybridSigningKey], T]) -> T:
        with self._lock:
            if self._key is None:
                raise SessionNotFoundError("the signing key was freed")
            return function(self._key)

    def discard(self) -> None:
        with self._lock:
            if self._key is not None:
                self._key.close()
            self._key = None


class _Seed(bytearray):
    """A seed on its way to C."""

    def __del__(self) -> None:
        wipe(self)


class _Config:
    """A configuration that can be changed; each change makes a new value, which is checked as a whole."""

    __slots__ = ("_lock", "value")

    def __init__(self, value: PhantomConfig) -> None:
        self._lock = threading.Lock()
        self.value = value

    def set(self, field: str, value: object) -> None:
        with self._lock:
            self.value = self.value.replace(**{field: value})

    def discard(self) -> None:
        """Nothing to do."""


class _Listener:
    """A listener and the thread that may use it."""

    __slots__ = ("_run", "listener")

    def __init__(self, of: listener.PhantomListener, post: Callable[[Callable[[], object]], None]) -> None:
        self.listener = of
        self._run = post

    def discard(self) -> None:
        try:
            self._run(self.listener.shutdown)
        except ConnectionClosedError:
            return  # the library has ended, and all listeners with it


class _Outcome:
    """An accepted session until it is asked for; it has the session once itself."""

    __slots__ = ("_release", "session")

    def __init__(self, session: ThreadSession, release: Callable[[ThreadSession], None]) -> None:
        self.session = session
        self._release = release

    def discard(self) -> None:
        self._release(self.session)


class LibraryOperations(StreamOperations):
    """Operations of the generated glue. Thread safe."""

    def __init__(self, runtime: LibraryRuntime) -> None:
        """Needs the runtime for its loop thread, and to end it."""
        self._runtime = runtime
        self._loop = runtime.loop
        self._lock = threading.Lock()
        self._sessions: WeakSet[ThreadSession] = WeakSet()  # in the loop thread

    # --- library ------------------------------------------------------------------------------------------------------

    def self_test(self, provider: str) -> None:
        """Known answers, and each algorithm against itself."""
        run_self_tests(get_provider(provider or "auto"), fresh=True)

    def end(self, timeout: float | None) -> None:
        """Ends everything; PhantomTimeoutError if something was left that a peer had not acknowledged."""
        held = self._runtime.close()
        limit = SHUTDOWN_GRACE if timeout is None else timeout

        async def last() -> bool:
            for value in held:
                if isinstance(value, _Listener):
                    value.listener.shutdown()
                elif isinstance(value, _Key):
                    value.discard()
            sessions = list(self._sessions)
            return all(await asyncio.gather(*(session.end(limit) for session in sessions)))

        if not self._loop.end(last):
            raise PhantomTimeoutError(f"not everything was acknowledged within {limit:g} s")

    # --- signing keys -------------------------------------------------------------------------------------------------

    def signing_key_generate(self) -> _Key:
        """A new key."""
        return _Key(HybridSigningKey.generate())

    def signing_key_from_seed(self, seed: memoryview) -> _Key:
        """The key of a seed."""
        return _Key(HybridSigningKey.from_bytes(seed))

    def signing_key_to_seed(self, key: _Key) -> bytearray:
        """The seed, which overwrites itself when it was copied."""

        def seed(of: HybridSigningKey) -> _Seed:
            copy = of.to_bytes()
            kept = _Seed(copy)
            wipe(copy)
            return kept

        return key.use(seed)

    def signing_key_verifying_key(self, key: _Key) -> bytes:
        """The public half."""
        return key.use(lambda of: of.verifying_key().to_bytes())

    def signing_key_free(self, key: _Key) -> None:
        """Wipes the key."""
        key.discard()

    def verifying_key_check(self, verifying_key: memoryview) -> str:
        """The fingerprint of a key."""
        return HybridVerifyingKey.from_bytes(verifying_key).fingerprint()

    # --- configuration ------------------------------------------------------------------------------------------------

    def config_preset(self, preset: ConfigPreset) -> _Config:
        """A configuration with the values of a preset."""
        return _Config(_PRESETS[preset]())

    def config_set_duration_ms(self, config: _Config, field: str, value_ms: int) -> None:
        """Sets a time."""
        _require(field, _DURATIONS, "a time")
        config.set(field, None if field == "keepalive_interval" and value_ms == 0 else value_ms / 1000)

    def config_set_u32(self, config: _Config, field: str, value: int) -> None:
        """Sets a number, or a choice by its number."""
        if field == "suite":
            config.set(field, _choice(_SUITES, CipherSuite, value))
        elif field == "cookie":
            config.set(field, _choice(_COOKIE, CookiePolicy, value))
        elif field == "padding":
            config.set(field, _choice(_PADDING, PaddingPolicy, value))
        else:
            _require(field, _U32, "a number of 32 bits")
            config.set(field, value)

    def config_set_u64(self, config: _Config, field: str, value: int) -> None:
        """Sets a number."""
        _require(field, _U64, "a number of 64 bits")
        config.set(field, value)

    def config_set_text(self, config: _Config, field: str, value: str) -> None:
        """Sets a text; the versions to accept are numbers separated by a space."""
        _require(field, frozenset(_TEXTS), "a text")
        config.set(field, _TEXTS[field](value))

    def config_free(self, config: _Config) -> None:
        """Nothing is left to do."""

    # --- connecting ---------------------------------------------------------------------------------------------------

    def connect(self, target: str, pin: str | None, timeout: float | None) -> ThreadSession:
        """A session to ``target``."""
        return self._connect(target, pin, None, timeout)

    def connect_pinned(self, host: str, port: int, pin: str, timeout: float | None) -> ThreadSession:
        """A session over TCP."""
        return self._connect(Address("tcp", host, port).url(), pin, None, timeout)

    def connect_ex(self, options: ConnectOptions, timeout: float | None) -> ThreadSession:
        """A session with everything that can be chosen."""
        return self._connect(options.target, options.pin, options.config, timeout, options.identity)

    def _connect(
        self, target: str, pin: str | None, config: _Config | None, timeout: float | None, identity: _Key | None = None
    ) -> ThreadSession:
        pins = None if pin is None else pin.split()
        if timeout == 0:
            resolve_target(target, pins)  # what is wrong with the arguments comes first
            raise PhantomTimeoutError("no time to connect in: timeout_ms is 0")
        own = None if identity is None else identity.use(_copy)  # the handle's may be freed at once
        try:
            waiting = connecting.connect(
                target, pins, identity=own, config=None if config is None else config.value, timeout=timeout
            )

            async def connected() -> ThreadSession:
                return self._adopt(await waiting)

            return self._loop.run(connected())
        finally:
            if own is not None:
                own.close()

    def _adopt(self, session: PhantomSession) -> ThreadSession:
        """In the loop thread."""
        adopted = ThreadSession(self._loop, session)
        self._sessions.add(adopted)
        return adopted

    # --- sessions -----------------------------------------------------------------------------------------------------

    def session_release(self, session: ThreadSession) -> None:
        """Ends the session if nobody has it any more."""
        with self._lock:
            last = session.let_go()
        if last:
            session.discard()

    def session_state(self, session: ThreadSession) -> int:
        """The state."""
        return session.session.state

    def session_is_data_ready(self, session: ThreadSession) -> bool:
        """Whether messages can be sent."""
        return session.session.is_data_ready()

    def session_is_pqc_ready(self, session: ThreadSession) -> bool:
        """Whether messages are protected by completed post-quantum keys."""
        return session.session.is_pqc_ready()

    def session_queued_count(self, session: ThreadSession) -> int:
        """Messages not yet handed to the leg in full."""
        return session.queued

    def session_id(self, session: ThreadSession) -> str:
        """64 hex digits."""
        return session.session.id

    def session_peer_addr(self, session: ThreadSession) -> str:
        """``HOST:PORT``."""
        return session.session.peer_addr

    def session_peer_identity(self, session: ThreadSession) -> bytes | None:
        """The server's key; None on the server."""
        key = session.session.peer_identity()
        return None if key is None else key.to_bytes()

    def session_negotiated(self, session: ThreadSession) -> Negotiated:
        """Version, suites, leg, epoch."""
        found = session.session.negotiated
        return Negotiated(
            version=found.version,
            suite=found.suite,
            receive_suite=found.receive_suite or CipherSuite.UNSPECIFIED,
            leg=Leg.TCP if found.leg == "tcp" else Leg.UNSPECIFIED,
            epoch=found.epoch,
        )

    def session_next_event(self, session: ThreadSession, timeout: float | None) -> SessionNextEventResult:
        """The next change of state."""
        return session.next_event(timeout)

    def session_last_error(self, session: ThreadSession) -> SessionLastErrorResult:
        """What ended the session."""
        error = session.session.last_error()
        code = session.peer_code
        return SessionLastErrorResult(
            code=0 if error is None else type(error).code,
            message="" if error is None else str(error),
            peer_code=-1 if code is None else code,
            unacknowledged=session.unacknowledged,
        )

    def session_await_ready(self, session: ThreadSession, timeout: float | None) -> None:
        """Waits for the peer's first packet."""
        self._loop.run(session.session.await_ready(timeout))

    def session_send(self, session: ThreadSession, data: memoryview, timeout: float | None) -> None:
        """Queues one message."""
        session.send(data, timeout)

    def session_recv(self, session: ThreadSession, timeout: float | None) -> bytes:
        """The next message."""
        return session.receive(timeout)

    def session_flush_queue(self, session: ThreadSession, timeout: float | None) -> int:
        """Waits until everything is acknowledged."""
        return session.flush(timeout)

    def session_metrics(self, session: ThreadSession) -> Metrics:
        """What went over the session."""
        return self._on_loop(lambda: _metrics(session.session.metrics_snapshot()))

    def session_disconnect(self, session: ThreadSession, code: int, timeout: float | None) -> bool:
        """Flushes and closes."""
        return session.disconnect(code, timeout)

    # --- listeners ----------------------------------------------------------------------------------------------------

    def listener_bind(self, address: str, timeout: float | None) -> _Listener:
        """A listener under a fresh identity."""
        return self._bind((address,), None, None, timeout, reuse_port=False)

    def listener_bind_with_signing_key(self, address: str, key: _Key, timeout: float | None) -> _Listener:
        """A listener under an identity."""
        return self._bind((address,), key, None, timeout, reuse_port=False)

    def listener_bind_ex(self, options: BindOptions, timeout: float | None) -> _Listener:
        """A listener with everything that can be chosen."""
        addresses = tuple(options.addresses.split())
        return self._bind(
            addresses, options.key, options.config, timeout, clients=_policy(options), reuse_port=options.reuse_port
        )

    def _bind(
        self,
        addresses: tuple[str, ...],
        key: _Key | None,
        config: _Config | None,
        timeout: float | None,
        *,
        reuse_port: bool,
        clients: ClientPolicy = _ANYBODY,
    ) -> _Listener:
        own = None if key is None else key.use(_copy)  # the handle's may be freed at once
        waiting = listener.listen(
            *addresses,
            key=own,
            clients=clients,
            reuse_port=reuse_port,
            config=None if config is None else config.value,
        )

        async def bound() -> listener.PhantomListener:
            try:
                async with asyncio.timeout(timeout):
                    return await waiting
            except TimeoutError:
                raise PhantomTimeoutError(f"could not bind within {timeout:g} s") from None

        return _Listener(self._loop.run(bound()), self._loop.post)

    def listener_local_addr(self, of: _Listener) -> str:
        """``HOST:PORT`` of the first address."""
        return of.listener.local_addr

    def listener_url(self, of: _Listener, index: int) -> str:
        """A pinned URL."""
        urls = of.listener.urls
        if index >= len(urls):
            raise ValidationError(f"there is no address {index}; the listener has {len(urls)}, counted from 0")
        return urls[index]

    def listener_verifying_key(self, of: _Listener) -> bytes:
        """The key that clients pin."""
        return of.listener.verifying_key_bytes()

    def listener_accept(self, of: _Listener, timeout: float | None) -> _Outcome:
        """The next session."""

        async def accepted() -> ThreadSession:
            return self._adopt((await of.listener.accept(timeout)).session)

        return _Outcome(self._loop.run(accepted()), self.session_release)

    def listener_is_shutting_down(self, of: _Listener) -> bool:
        """Whether it was shut down."""
        return of.listener.is_shutting_down()

    def listener_shutdown(self, of: _Listener) -> None:
        """Stops accepting; returns when the addresses are free."""
        self._on_loop(of.listener.shutdown)

    def listener_release(self, of: _Listener) -> None:
        """Shuts down."""
        self._on_loop(of.listener.shutdown)

    def listener_metrics(self, of: _Listener) -> Metrics:
        """What went through the listener and its sessions."""
        return self._on_loop(lambda: _metrics(of.listener.metrics_snapshot()))

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def outcome_session(self, outcome: _Outcome) -> ThreadSession:
        """The session, held once more."""
        with self._lock:
            outcome.session.hold()
        return outcome.session

    def outcome_client_identity(self, outcome: _Outcome) -> bytes | None:
        """The key that the client proved to hold."""
        return self.session_peer_identity(outcome.session)

    def outcome_peer_addr(self, outcome: _Outcome) -> str:
        """``HOST:PORT``."""
        return outcome.session.session.peer_addr

    def outcome_release(self, outcome: _Outcome) -> None:
        """Ends the session if nobody has asked for it."""
        outcome.discard()

    def _on_loop(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._loop.run(call())


def _policy(options: BindOptions) -> ClientPolicy:
    pins, path = (options.authorized_clients or "").split(), options.authorized_clients_file
    if options.client_authentication != ClientAuthentication.REQUIRED:
        if pins or path:
            raise ConfigError("authorised clients go with PHANTOM_CLIENT_AUTHENTICATION_REQUIRED only")
        optional = options.client_authentication == ClientAuthentication.OPTIONAL
        return ClientPolicy.optional() if optional else _ANYBODY
    if bool(pins) == bool(path):
        raise ConfigError("a required identity needs either authorised clients or a file of them")
    return ClientPolicy.required(AuthorizedClients.from_file(path) if path else AuthorizedClients.from_pins(pins))


def _copy(key: HybridSigningKey) -> HybridSigningKey:
    seed = key.to_bytes()
    try:
        return HybridSigningKey.from_bytes(seed)
    finally:
        wipe(seed)


def _require(field: str, fields: frozenset[str], what: str) -> None:
    if field not in fields:
        raise ValidationError(f"{field} is not {what}")


def _choice(table: dict[T, str], kind: Callable[[int], T], number: int) -> str:
    try:
        return table[kind(number)]
    except ValueError:
        raise ValidationError(f"there is no choice with the number {number}") from None


def _metrics(snapshot: MetricsSnapshot) -> Metrics:
    return Metrics(
        packets_sent=snapshot.packets_sent,
        packets_recv=snapshot.packets_recv,
        bytes_sent=snapshot.bytes_sent,
        bytes_recv=snapshot.bytes_recv,
        messages_sent=snapshot.messages_sent,
        messages_recv=snapshot.messages_recv,
        retransmissions=snapshot.retransmissions,
        encrypt_count=snapshot.encrypt_count,
        decrypt_count=snapshot.decrypt_count,
        rtt_us_path_0=snapshot.rtt_us_path_0,
        active_sessions=snapshot.active_sessions,
        handshakes_success=snapshot.handshakes_success,
        handshakes_failure=snapshot.handshakes_failure,
        handshake_latency_ns_sum=snapshot.handshake_latency_ns_sum,
        handshake_latency_count=snapshot.handshake_latency_count,
        replay_rejected_total=snapshot.replay_rejected_total,
        aead_failure_total=snapshot.aead_failure_total,
        unencrypted_dropped_total=snapshot.unencrypted_dropped_total,
        active_streams=snapshot.active_streams,
        rekeys_local_total=snapshot.rekeys_local_total,
        rekeys_peer_total=snapshot.rekeys_peer_total,
        uptime=snapshot.uptime_secs,
    )
