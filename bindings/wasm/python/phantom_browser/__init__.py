"""Phantom sessions for a page: what the module worker calls in Pyodide.

JavaScript sets the bridge first (``globalThis.__noble = createBridge()`` of ``src/noble.ts``), then::

    const phantom = py.pyimport("phantom_browser")
    phantom.self_test()                       // once; throws if a primitive fails its known answers
    const channel = await phantom.connect(url, pin, socketFactory, onState)

Signatures, as JavaScript sees them (T? = may be undefined; every number of seconds may be undefined = no limit)::

    self_test(): string[]                          names of the tests that passed
    version(): string
    check(url: string, pin: string?): {host, port, leg, path, fingerprints: string[]}     throws what connect would
    connect(url: string, pin: string?, socketFactory, onState, options: {timeout?: number, suite?: string,
            keepalive?: number, maxMessage?: number}?): Promise<Channel>
    socketFactory(url: string, protocols: string[]): WebSocket       one that is connecting; its handlers are set here
    onState(state: string, reason: string): void   ConnectionState in lower case; "handshake" with the step as reason;
                                                   "rekeyed"

    Channel:
      send(data: Uint8Array, timeout: number?): Promise<void>        copies data at once; waits for room
      recv(timeout: number?): Promise<Uint8Array | undefined>        a message with an ArrayBuffer of its own (transfer
                                                                     it); undefined after the peer's orderly end
      open_stream(priority: number?, timeout: number?): Promise<Stream>
      accept_stream(timeout: number?): Promise<Stream | undefined>   undefined at the session's orderly end
      rekey(timeout: number?): Promise<number>                       the new epoch
      export(label: string, length: number): Uint8Array
      flush(timeout: number?): Promise<number>                       waits for the peer's acknowledgements
      close(code: number?, timeout: number?): Promise<boolean>       true: the peer acknowledged everything; does not
                                                                     throw because the session is over
      abort(): void                                                  ends it at once (AbortSignal)
      state: string;  id: string
      info(): {seconds, bytesSent, bytesReceived, retries, algorithms: string[], suite, receiveSuite?, version, leg,
               epoch, fingerprint, peer}
      metrics(): {uptime, packetsSent, packetsReceived, bytesSent, bytesReceived, messagesSent, messagesReceived,
                  retransmissions, rekeys, rttMs?, queued, buffered}
    Stream:
      send(data: Uint8Array, timeout: number?): Promise<void>
      send_unreliable(data: Uint8Array, timeout: number?): Promise<void>
      recv(timeout: number?): Promise<Uint8Array | undefined>    undefined: the peer finished and all was read
      finish(): Promise<void>;  reset(code: number): void;  stop(code: number): void;  set_priority(p: number): void
      id: number;  state: string;  max_unreliable_size: number

To be able to abandon a connect, use ``begin(url, pin, socketFactory, onState, options)``: it returns
{ready: Promise<Channel>, cancel(): void}, and ``connect`` is ``begin(...).ready``.

Every function that waits returns a Promise. It rejects with a JavaScript ``Error`` whose ``name`` is "PhantomError",
with ``code`` (the stable number), ``kind`` (the class, e.g. "ServerIdentityMismatchError"), ``message``, ``retryable``
and, where there is one, ``peerCode`` or ``resetCode``; ``failure()`` gives the same for what a synchronous function
raised. Objects returned by ``info``, ``metrics`` and ``check`` are plain JavaScript objects; a Channel and a Stream are
PyProxies: call ``destroy()`` when done with them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import js
from pyodide.ffi import JsException, create_once_callable, create_proxy, to_js

import phantom
from phantom.api.connecting import connect_with_transport
from phantom.api.endpoint import Address, resolve_target
from phantom.api.shared import self_tested_provider
from phantom.crypto.pins import PinSet
from phantom.crypto.providers import get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.errors import ConnectionClosedError, PhantomError, UnsupportedError, ValidationError
from phantom.limits import CONNECT_TIMEOUT
from phantom.runtime.browser import BrowserRuntime
from phantom.transport.legs.browser import BrowserLeg, open_browser_leg
from phantom.transport.legs.http_upgrade import PATH, SUBPROTOCOL

__all__ = ["Channel", "Connecting", "Stream", "begin", "check", "connect", "failure", "self_test", "thrown", "version"]

P = ParamSpec("P")


def _plain(fields: dict[str, Any]) -> Any:
    """A plain JavaScript object."""
    return to_js(fields, dict_converter=js.Object.fromEntries)


def thrown(error: BaseException) -> BaseException:
    """What JavaScript is to catch: an Error with the stable code."""
    if isinstance(error, JsException):
        already: BaseException = error
        return already
    if not isinstance(error, PhantomError):
        error = phantom.InternalError(f"{type(error).__name__}: {error}")
    thrown = js.Error.new(str(error))
    thrown.name = "PhantomError"
    thrown.code = error.code
    thrown.kind = type(error).__name__
    thrown.retryable = error.retryable
    for ours, theirs in (("peer_code", "peerCode"), ("reset_code", "resetCode")):
        value = getattr(error, ours, None)
        if value is not None:
            setattr(thrown, theirs, value)
    failure: BaseException = thrown
    return failure


_failures: list[BaseException] = []


def failure() -> Any:
    """The Error of the last failure. What a synchronous function raises reaches JavaScript as a PythonError: catch it,
    and throw this instead."""
    return _failures[-1] if _failures else None


def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except Exception as error:  # noqa: BLE001 - JavaScript gets a typed error, whatever happened
        _failures[:] = [thrown(error)]
        raise _failures[0] from None


def _promise(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A Promise of what the coroutine returns; it rejects with our own Error."""
    task = asyncio.ensure_future(coroutine)

    def settle(resolve: Any, reject: Any) -> None:
        def done(_: object) -> None:
            error: BaseException | None
            error = ConnectionClosedError("the call was abandoned") if task.cancelled() else task.exception()
            if error is not None:
                reject(thrown(error))
                return
            value = task.result()
            resolve(create_proxy(value) if isinstance(value, Channel | Stream) else value)

        task.add_done_callback(done)

    return js.Promise.new(create_once_callable(settle))


def _given(data: Any, call: Callable[[bytes], Coroutine[Any, Any, Any]]) -> Any:
    """A Promise of ``call`` with the bytes that ``data`` has now."""
    try:
        return _promise(call(_bytes(data)))
    except ValidationError as error:
        return _promise(_refuse(error))


async def _refuse(error: PhantomError) -> None:
    raise error


def _promised(method: Callable[P, Coroutine[Any, Any, Any]]) -> Callable[P, Any]:
    """For JavaScript: calling it starts it, and gives a Promise."""

    @functools.wraps(method)
    def start(*args: P.args, **options: P.kwargs) -> Any:
        return _promise(method(*args, **options))

    return start


def _bytes(data: Any) -> bytes:
    """The bytes of a Uint8Array or ArrayBuffer, copied."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    try:
        return bytes(data.to_bytes())
    except (AttributeError, TypeError):
        raise ValidationError("data is a Uint8Array or an ArrayBuffer") from None


def _array(data: bytes | None) -> Any:
    """A Uint8Array with an ArrayBuffer of its own."""
    if data is None:
        return None
    array = js.Uint8Array.new(len(data))
    if data:
        array.assign(data)
    return array


def version() -> str:
    """The version of the core."""
    return phantom.__version__


def self_test() -> Any:
    """Runs the power-on self-tests of the provider, once; the names of the tests."""
    return to_js(list(_call(run_self_tests, get_provider()).tests))


def check(url: str, pin: str | None = None) -> Any:
    """What ``url`` and ``pin`` mean, without any network."""
    address, pins = _call(_target, url, pin)
    return _plain(
        {
            "host": address.host,
            "port": address.port,
            "leg": address.leg,
            "path": address.path or PATH,
            "fingerprints": list(pins.fingerprints()),
        }
    )


def _target(url: str, pin: str | None) -> tuple[Address, PinSet]:
    address, pins = resolve_target(url, pin or None)
    if address.leg not in ("ws", "wss"):
        raise UnsupportedError(f"a page has no {address.leg}; connect to ws:// or wss://")
    return address, pins


def _config(options: dict[str, Any]) -> phantom.PhantomConfig:
    names = {"suite": "suite", "keepalive": "keepalive_interval", "maxMessage": "max_message"}
    given = {names[name]: value for name, value in options.items() if name in names and value is not None}
    if "keepalive_interval" in given:
        given["keepalive_interval"] = float(given["keepalive_interval"])
    return phantom.PhantomConfig(**given)


class Connecting:
    """A connect that is under way."""

    def __init__(self, url: str, pin: str | None, socket_factory: Any, on_state: Any, options: Any) -> None:
        given = options.to_py() if hasattr(options, "to_py") else dict(options or {})
        self._socket_factory = socket_factory
        self._on_state = on_state
        self._task = asyncio.ensure_future(self._connect(url, pin, given))
        self._task.add_done_callback(lambda _: None)  # Pyodide's loop complains of a failure that has no other listener

    @property
    def ready(self) -> Any:
        """A Promise of the channel."""
        return _promise(self.result())

    def cancel(self) -> None:
        """Abandons it; ``ready`` rejects."""
        self._task.cancel()

    async def result(self) -> Channel:
        """The channel."""
        try:
            return await self._task
        except asyncio.CancelledError:
            raise ConnectionClosedError("the connect was abandoned") from None

    def _tell(self, state: str, reason: str) -> None:
        if self._on_state is not None:
            self._on_state(state, reason)

    async def _connect(self, url: str, pin: str | None, options: dict[str, Any]) -> Channel:
        config = _config(options)
        timeout = float(options.get("timeout") or CONNECT_TIMEOUT)
        address, pins = _target(url, pin)
        runtime = BrowserRuntime()
        self_tested_provider(config)
        begun = runtime.monotonic()
        self._tell("handshake", "self-tests passed")
        target = f"{address.leg}://{address.host_port}{address.path or PATH}"
        try:
            socket = self._socket_factory(target, to_js([SUBPROTOCOL]))
        except JsException as refused:  # a policy of the page, or mixed content
            raise phantom.NetworkError(f"the page may not open {target}: {refused}") from None
        leg = BrowserLeg(socket, runtime, address.host_port)
        await open_browser_leg(leg, min(config.connect_timeout, timeout))
        opened = runtime.monotonic() - begun
        self._tell("handshake", "the WebSocket is open")
        session = connect_with_transport(address.host_port, leg, pins.fingerprints(), config=config, runtime=runtime)
        channel = Channel(session, leg, runtime, self._on_state, opened)
        self._tell("handshake", "the hello is sent")
        try:
            await session.await_ready(max(0.001, timeout - (runtime.monotonic() - begun)))
        except BaseException:
            channel.abort()
            raise
        return channel


def begin(url: str, pin: str | None, socket_factory: Any, on_state: Any = None, options: Any = None) -> Connecting:
    """Starts to connect; can be abandoned."""
    return Connecting(url, pin, socket_factory, on_state, options)


@_promised
async def connect(url: str, pin: str | None, socket_factory: Any, on_state: Any = None, options: Any = None) -> Channel:
    """A session with the pinned peer behind ``url``."""
    return await begin(url, pin, socket_factory, on_state, options).result()


class Channel:
    """One session."""

    def __init__(
        self, session: phantom.PhantomSession, leg: BrowserLeg, runtime: BrowserRuntime, on_state: Any, opened: float
    ) -> None:
        self._session = session
        self._leg = leg
        self._opened = opened
        self._on_state = on_state
        self._watch = asyncio.ensure_future(self._follow(session.events()))

    async def _follow(self, events: Any) -> None:
        async for event in events:
            if self._on_state is None:
                continue
            if isinstance(event, phantom.StateChanged):
                self._on_state(event.new.name.lower(), event.reason)
            elif isinstance(event, phantom.Rekeyed):
                self._on_state("rekeyed", f"epoch {event.epoch}")

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(self, data: Any, timeout: float | None = None) -> Any:
        """Queues one message; waits for room."""
        return _given(data, lambda payload: self._session.send(payload, timeout))

    @_promised
    async def recv(self, timeout: float | None = None) -> Any:
        """The next message; None after the peer's orderly end."""
        return _array(await self._until_end(self._session.recv(timeout)))

    async def _until_end(self, awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except ConnectionClosedError as closed:
            if self._session.last_error() is None and not closed.peer_code:
                return None
            raise

    # --- streams ------------------------------------------------------------------------------------------------------

    @_promised
    async def open_stream(self, priority: int | None = None, timeout: float | None = None) -> Stream:
        """A stream of this side."""
        return Stream(await self._session.open_stream(priority=priority or 0, timeout=timeout))

    @_promised
    async def accept_stream(self, timeout: float | None = None) -> Stream | None:
        """A stream of the peer; None after the orderly end."""
        stream = await self._until_end(self._session.accept_stream(timeout))
        return None if stream is None else Stream(stream)

    # --- keys ---------------------------------------------------------------------------------------------------------

    @_promised
    async def rekey(self, timeout: float | None = None) -> int:
        """Changes the keys; the new epoch."""
        epoch: int = await self._session.rekey(timeout)
        return epoch

    def export(self, label: str, length: int = 32) -> Any:
        """Keying material of this session."""
        return _array(_call(self._session.export_keying_material, label, length))

    # --- the end ------------------------------------------------------------------------------------------------------

    @_promised
    async def flush(self, timeout: float | None = None) -> int:
        """Waits for the peer's acknowledgements; the bytes it waited for."""
        waited: int = await self._session.flush_queue(timeout)
        return waited

    @_promised
    async def close(self, code: int = 0, timeout: float | None = None) -> bool:
        """Flushes and ends the session; whether everything was acknowledged."""
        acknowledged: bool = await self._session.disconnect(code or 0, timeout)
        return acknowledged

    def abort(self) -> None:
        """Ends the session at once."""
        if self._session._driver is not None:
            self._session._abandon()
            return
        if self._session._connecting is not None:
            self._session._connecting()
        self._session._fail_connecting(ConnectionClosedError("the connect was abandoned"))
        self._leg.close(linger=False)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state in lower case."""
        return self._session.state.name.lower()

    @property
    def id(self) -> str:
        """The session id in hex."""
        return self._session.id

    def info(self) -> Any:
        """What was negotiated, and what it took."""
        return _plain(_call(self._info))

    def _info(self) -> dict[str, Any]:
        session = self._session
        cost, terms, peer = session.handshake, session.negotiated, session.peer_identity()
        return {
            "seconds": cost.seconds,
            "openSeconds": self._opened,
            "bytesSent": cost.bytes_sent,
            "bytesReceived": cost.bytes_received,
            "retries": cost.retries,
            "algorithms": list(cost.algorithms),
            "suite": terms.suite.label,
            "receiveSuite": None if terms.receive_suite is None else terms.receive_suite.label,
            "version": terms.version,
            "leg": terms.leg,
            "epoch": terms.epoch,
            "fingerprint": None if peer is None else peer.fingerprint(),
            "peer": session.peer_addr,
        }

    def metrics(self) -> Any:
        """Counts so far."""
        counted = self._session.metrics_snapshot()
        rtt = counted.rtt_us_path_0
        return _plain(
            {
                "uptime": counted.uptime_secs,
                "packetsSent": counted.packets_sent,
                "packetsReceived": counted.packets_recv,
                "bytesSent": counted.bytes_sent,
                "bytesReceived": counted.bytes_recv,
                "messagesSent": counted.messages_sent,
                "messagesReceived": counted.messages_recv,
                "retransmissions": counted.retransmissions,
                "rekeys": counted.rekeys_local_total + counted.rekeys_peer_total,
                "rttMs": rtt / 1000 if rtt else None,
                "queued": self._session.queued_count(),
                "buffered": 0 if self._leg.closed else self._leg.buffered,
            }
        )


class Stream:
    """One stream of a channel."""

    def __init__(self, stream: phantom.PhantomStream) -> None:
        self._stream = stream

    @property
    def id(self) -> int:
        """Odd if this side opened it."""
        return self._stream.stream_id

    @property
    def state(self) -> str:
        """The state in lower case."""
        return self._stream._stream.state.name.lower()

    @property
    def max_unreliable_size(self) -> int:
        """The largest unreliable send, in bytes."""
        return self._stream.max_unreliable_size

    def send(self, data: Any, timeout: float | None = None) -> Any:
        """Queues bytes; waits for room."""
        return _given(data, lambda payload: self._stream.send_reliable(payload, timeout))

    def send_unreliable(self, data: Any, timeout: float | None = None) -> Any:
        """One chunk that need not arrive."""
        return _given(data, lambda payload: self._stream.send_unreliable(payload, timeout))

    @_promised
    async def recv(self, timeout: float | None = None) -> Any:
        """The next bytes; None at the end."""
        return _array(await self._stream.recv(timeout))

    @_promised
    async def finish(self) -> None:
        """Ends the sending half."""
        await self._stream.finish()

    def reset(self, code: int = 0) -> None:
        """Abandons the sending half."""
        _call(self._stream.reset, code or 0)

    def stop(self, code: int = 0) -> None:
        """Asks the peer to abandon its half."""
        _call(self._stream.stop, code or 0)

    def set_priority(self, priority: int) -> None:
        """Higher is served first."""
        _call(self._stream._set_priority, priority)
