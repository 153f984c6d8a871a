"""``connect``: from a pinned URL to an authenticated session (surface §14, wire-native §22.2)."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from types import TracebackType

from phantom import limits
from phantom.api.endpoint import Address, resolve_target
from phantom.api.handshaking import ClientHandshake, Engine
from phantom.api.legs import WebOptions, open_leg
from phantom.api.session import PhantomSession
from phantom.api.shared import process_memory, self_tested_provider
from phantom.api.waiting import Deadline
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.pins import Pins, PinSet
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.errors import ConfigError, PhantomTimeoutError, ValidationError
from phantom.limits import VERSION_1
from phantom.runtime import Runtime, default_runtime
from phantom.transport.handshake.initiator import Initiator
from phantom.transport.legs.base import Leg, SessionTransport
from phantom.transport.legs.message import MessageLeg

__all__ = ["Connecting", "connect", "connect_pinned", "connect_with_transport"]


class Connecting:
    """A connect that has been described and not begun: ``await`` it for the session, or ``async with`` it."""

    __slots__ = ("_address", "_config", "_identity", "_pins", "_rng", "_runtime", "_session", "_timeout", "_web")

    def __init__(
        self,
        address: Address,
        pins: PinSet,
        config: PhantomConfig,
        timeout: float | None,
        runtime: Runtime | None,
        rng: RngProvider,
        identity: HybridSigningKey | None,
        web: WebOptions,
    ) -> None:
        self._address = address
        self._web = web
        self._identity = identity
        self._pins = pins
        self._config = config
        self._timeout = limits.CONNECT_TIMEOUT if timeout is None else timeout
        self._runtime = runtime
        self._rng = rng
        self._session: PhantomSession | None = None

    def __await__(self) -> Generator[None, None, PhantomSession]:
        return self._connect().__await__()

    async def __aenter__(self) -> PhantomSession:
        self._session = await self._connect()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.__aexit__(kind, error, traceback)

    async def _connect(self) -> PhantomSession:
        runtime = self._runtime or default_runtime()
        config, address = self._config, self._address
        deadline = Deadline(runtime, self._timeout)
        engine = Engine(config, self_tested_provider(config), runtime, process_memory(config))
        session = PhantomSession(runtime, config, address.host_port)
        patience = min(config.connect_timeout, self._timeout)
        leg = await open_leg(address, runtime, patience, self._web, self._rng, config)
        try:
            initiator = _initiator(self._pins, engine, self._rng)
        except BaseException:
            leg.close(linger=False)
            raise
        handshake = ClientHandshake(initiator, session, leg, engine, session._fail_connecting, self._identity)
        session._connecting = handshake.abort
        try:
            handshake.start()
            await session.await_ready(deadline.left)
        except PhantomTimeoutError as error:
            handshake.abort()
            session._abandon()
            if session.last_error() is not None:
                raise
            raise PhantomTimeoutError(
                f"{address.host_port} did not complete the handshake within {self._timeout:g} s"
            ) from error
        except BaseException:
            handshake.abort()
            session._abandon()
            leg.close(linger=False)
            raise
        return session


def connect(
    target: str,
    pin: Pins | None = None,
    *,
    identity: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    timeout: float | None = None,
    tls: ssl.SSLContext | None = None,
    runtime: Runtime | None = None,
    rng: RngProvider | None = None,
) -> Connecting:
    """Connects to ``target`` and returns only after the server proved that it holds a pinned key.

    ``target`` is an address of surface §1.7; its pin is in the URL or in ``pin`` (fingerprint, hex, bytes, key object,
    or a sequence of which one must match). ``identity`` is proved to the server after it has proved itself, and connect
    returns when it was accepted: keep the key open until then. Without one, a server that requires it ends the session
    with ClientAuthError. ``timeout`` bounds everything, in seconds (default 20). ``tls`` is for wss:// addresses, in
    place of a context that trusts what the system trusts; who the peer is, the pin decides. Arguments are checked here,
    before any I/O: ConfigError (no pin, contradiction), ValidationError (malformed), UnsupportedError (leg not built).
    Awaiting raises NetworkError, PhantomTimeoutError, HandshakeError and its leaves; ClientAuthError refuses
    ``identity``.
    """
    address, pins = resolve_target(target, pin)
    address.require_built()
    if timeout is not None and not timeout > 0:
        raise ValidationError("timeout must be a positive number of seconds")
    _check_identity(identity, config)
    web = WebOptions(tls)
    web.check(address, listening=False)
    return Connecting(address, pins, config or PhantomConfig(), timeout, runtime, rng or SYSTEM_RNG, identity, web)


def connect_pinned(
    host: str,
    port: int,
    pinned_key: Pins,
    *,
    leg: str = "tcp",
    identity: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    timeout: float | None = None,
    tls: ssl.SSLContext | None = None,
    runtime: Runtime | None = None,
    rng: RngProvider | None = None,
) -> Connecting:
    """The same as :func:`connect` to ``LEG://HOST:PORT`` with ``pinned_key``."""
    target = Address(leg, host, port).url()
    return connect(
        target, pinned_key, identity=identity, config=config, timeout=timeout, tls=tls, runtime=runtime, rng=rng
    )


def connect_with_transport(
    peer_addr: str,
    transport: SessionTransport | Leg,
    server_key: Pins,
    *,
    identity: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    runtime: Runtime | None = None,
    rng: RngProvider | None = None,
) -> PhantomSession:
    """The client-first form: a session over a supplied transport, in state Connecting at once.

    Messages sent before readiness are queued (1 MiB, then ``send`` waits) and flushed in order after the handshake;
    ``await_ready`` waits for it, and for the server to accept ``identity`` if there is one, and raises what went wrong.
    Must be called inside the event loop.
    """
    _check_identity(identity, config)
    pins = PinSet.parse(server_key)
    config = config or PhantomConfig()
    runtime = runtime or default_runtime()
    engine = Engine(config, self_tested_provider(config), runtime, process_memory(config))
    session = PhantomSession(runtime, config, peer_addr)
    leg = MessageLeg(transport, runtime, peer_addr) if isinstance(transport, SessionTransport) else transport
    handshake = ClientHandshake(
        _initiator(pins, engine, rng or SYSTEM_RNG), session, leg, engine, session._fail_connecting, identity
    )
    session._connecting = handshake.abort
    handshake.start()
    return session


def _check_identity(identity: HybridSigningKey | None, config: PhantomConfig | None) -> None:
    """What would fail in the middle of the handshake fails before it."""
    if identity is not None:
        if not isinstance(identity, HybridSigningKey):
            raise ValidationError(f"an identity is a HybridSigningKey, not a {type(identity).__name__}")
        identity._require_open()
        if config is not None and config.offer_version == VERSION_1:
            raise ConfigError("an identity needs version 2; version 1 (offer_version) has no client authentication")


def _initiator(pins: PinSet, engine: Engine, rng: RngProvider) -> Initiator:
    timeout = engine.config.handshake_timeout
    return Initiator(
        pins,
        provider=engine.provider,
        rng=rng,
        version=engine.config.offer_version,
        read_timeout=min(limits.HANDSHAKE_READ_TIMEOUT, timeout),
        handshake_deadline=timeout,
    )
