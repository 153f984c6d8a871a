"""Blocking twins of ``connect``, ``listen``, sessions and listeners.

Every call that can wait takes ``timeout`` in seconds, mandatory (None: no limit). All objects may be used from any
number of threads. Errors are those of the asyncio API.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from phantom.api import connecting, listener
from phantom.api import session as aio
from phantom.api.blocking.loop_thread import run
from phantom.api.blocking.mailbox import Inbox, Mailbox
from phantom.api.clients import ClientPolicy
from phantom.api.stream import check_code, check_priority, own
from phantom.errors import ConnectionClosedError, StreamClosedError, UnsupportedError

if TYPE_CHECKING:
    import ssl

    from phantom.api import stream as aio_stream
    from phantom.api.identity import HybridSigningKey, HybridVerifyingKey
    from phantom.api.session import BytesLike, HandshakeInfo, Negotiated
    from phantom.config import PhantomConfig
    from phantom.crypto.pins import Pins
    from phantom.crypto.rng import RngProvider
    from phantom.errors import PhantomError
    from phantom.observability.metrics import MetricsSnapshot
    from phantom.transport.session.states import ConnectionState

__all__ = [
    "AcceptOutcome",
    "PhantomListener",
    "PhantomSession",
    "PhantomStream",
    "connect",
    "connect_pinned",
    "listen",
]

T = TypeVar("T")
_EVERYBODY = ClientPolicy.none()


async def _await(waiting: connecting.Connecting | listener.Binding) -> Any:
    return await waiting


async def _call(function: Callable[[], T]) -> T:
    return function()


def _in_loop(function: Callable[[], T]) -> T:
    """State belongs to the loop thread, so even a look at it is taken there."""
    return run(_call(function))


class PhantomSession:
    """A session; see ``phantom.PhantomSession``.

    Leaving ``with`` closes it and raises if something was not acknowledged.
    """

    __slots__ = ("_mailbox", "_session")

    def __init__(self, session: aio.PhantomSession) -> None:
        """For the library: sessions come from :func:`connect` and ``accept``."""
        self._session = session
        self._mailbox = Mailbox(session)

    @property
    def id(self) -> str:
        """The session id, 64 hex digits."""
        return self._session.id

    @property
    def peer_addr(self) -> str:
        """``HOST:PORT`` of the peer."""
        return self._session.peer_addr

    @property
    def state(self) -> ConnectionState:
        """The current state."""
        return self._session.state

    @property
    def negotiated(self) -> Negotiated:
        """Version, suites, leg and epoch."""
        return _in_loop(lambda: self._session.negotiated)

    @property
    def handshake(self) -> HandshakeInfo:
        """Cost of the handshake."""
        return self._session.handshake

    def connection_state(self) -> ConnectionState:
        """The same as :attr:`state`."""
        return self._session.state

    def peer_identity(self) -> HybridVerifyingKey | None:
        """The server's key; on the server the client's identity, None if it proved none."""
        return self._session.peer_identity()

    def is_data_ready(self) -> bool:
        """True while messages can be sent."""
        return self._session.is_data_ready()

    def is_pqc_ready(self) -> bool:
        """True while messages are protected by completed post-quantum keys."""
        return self._session.is_pqc_ready()

    def last_error(self) -> PhantomError | None:
        """What ended the session, None if nothing did."""
        return self._session.last_error()

    def queued_count(self) -> int:
        """Messages not yet handed to the leg in full."""
        return _in_loop(self._session.queued_count)

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of this session so far."""
        return _in_loop(self._session.metrics_snapshot)

    def await_ready(self, timeout: float | None) -> None:
        """Returns when the peer has proved itself."""
        run(self._session.await_ready(timeout))

    def send(self, data: BytesLike, timeout: float | None) -> None:
        """Queues one message; waits while more than 4 MiB are queued."""
        message = data if type(data) is bytes else own(data)
        if not self._mailbox.post(message):
            run(self._session.send(message, timeout))

    def recv(self, timeout: float | None) -> bytes:
        """The next message."""
        return self._mailbox.take(timeout)

    def open_stream(self, *, priority: int = 0, wait: bool = True, timeout: float | None) -> PhantomStream:
        """A new stream; waits while 256 of this side are open, or raises StreamLimitError with ``wait=False``."""
        stream = run(self._session.open_stream(priority=priority, wait=wait, timeout=timeout))
        return PhantomStream(stream, self._mailbox)

    def accept_stream(self, timeout: float | None) -> PhantomStream:
        """The next stream that the peer opened."""
        return PhantomStream(run(self._session.accept_stream(timeout), _give_back), self._mailbox)

    def rekey(self, timeout: float | None) -> int:
        """Changes the keys of both directions; the new epoch."""
        return run(self._session.rekey(timeout))

    def export_keying_material(self, label: str, length: int = 32) -> bytes:
        """Key bytes that both ends of this session get for ``label``, and nobody else."""
        return _in_loop(lambda: self._session.export_keying_material(label, length))

    def flush_queue(self, timeout: float | None) -> int:
        """Waits until everything queued so far is acknowledged; the number of bytes it waited for."""
        return run(self._session.flush_queue(timeout))

    def disconnect(self, code: int = 0, *, timeout: float | None) -> bool:
        """Flushes, sends CLOSE and releases the transport; True if everything was acknowledged."""
        return run(self._session.disconnect(code, timeout))

    def __iter__(self) -> Iterator[bytes]:
        """Messages until the peer closes with code 0."""
        while True:
            try:
                message = self.recv(None)
            except ConnectionClosedError as closed:
                if self._session.last_error() is None and not closed.peer_code:
                    return
                raise
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run(self._session.__aexit__(kind, error, traceback))

    def __repr__(self) -> str:
        return repr(self._session)


def _give_back(stream: aio_stream.PhantomStream) -> None:
    stream._give_back()


class PhantomStream:
    """A stream; see ``phantom.PhantomStream``.

    Writes, ``finish``, ``reset``, ``stop`` and ``set_priority`` reach the session in the order of the calls.
    """

    __slots__ = ("_ended", "_inbox", "_mailbox", "_stream")

    def __init__(self, stream: aio_stream.PhantomStream, mailbox: Mailbox) -> None:
        """For the library: streams come from ``open_stream`` and ``accept_stream``."""
        self._inbox: Inbox[bytes | None] = Inbox()
        self._stream = stream
        self._mailbox = mailbox
        self._ended = ""  # what this side did to its sending half, which may not have reached the session yet

    @property
    def stream_id(self) -> int:
        """The number of the stream: odd if the client opened it, even if the server did."""
        return self._stream.stream_id

    @property
    def priority(self) -> int:
        """The priority of what this side sends; higher is served first."""
        return self._stream.priority

    @property
    def max_unreliable_size(self) -> int:
        """The largest unreliable send, in bytes."""
        return self._stream.max_unreliable_size

    def send_reliable(self, data: BytesLike, timeout: float | None) -> None:
        """Queues bytes whole; waits while more than 4 MiB are queued in the session."""
        payload = data if type(data) is bytes else own(data)
        self._check_open()
        if not self._mailbox.post(payload, self._stream._stream):
            run(self._stream.send_reliable(payload, timeout))

    def send_unreliable(self, data: BytesLike, timeout: float | None) -> None:
        """Sends one packet that may be lost; waits for room like :meth:`send_reliable`."""
        self._check_open()
        run(self._stream.send_unreliable(data, timeout))

    def recv(self, timeout: float | None) -> bytes | None:
        """The next bytes; None once the peer has finished and everything was read."""
        return self._inbox.take(self._stream._recv_into, timeout, "nothing arrived on the stream")

    def set_priority(self, priority: int) -> None:
        """From the next packet on this stream has ``priority``."""
        check_priority(priority)
        self._mailbox.post_verb(lambda: self._stream._set_priority(priority))

    def finish(self) -> None:
        """Ends the sending half after everything that was sent."""
        if self._ended == "finished":
            return
        self._check_open()
        if self._stream._stream.write_ended or not self._stream._driver.conn.accepts_writes:
            _in_loop(self._stream._finish)  # says how it ended, or that the session did
        self._mailbox.post_verb(self._stream._finish)
        self._ended = "finished"

    def reset(self, code: int = 0) -> None:
        """Abandons the sending half; the peer gets StreamResetError with ``code``."""
        self._check_may_reset(code)
        self._mailbox.post_verb(lambda: self._stream.reset(code))
        self._ended = "reset"

    def stop(self, code: int = 0) -> None:
        """Asks the peer to abandon its half; its sends raise StreamResetError with ``code``."""
        self._check_may_reset(code)
        self._inbox = Inbox()  # what was fetched is not read either
        self._mailbox.post_verb(lambda: self._stream.stop(code))

    def __iter__(self) -> Iterator[bytes]:
        """What :meth:`recv` returns, until the peer finishes."""
        while (chunk := self.recv(None)) is not None:
            yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = kind is not None
        self._mailbox.post_verb(lambda: self._stream._leave(failed=failed))
        self._ended = self._ended or ("reset" if failed else "finished")

    def __del__(self) -> None:
        if self._inbox.unread:
            self._stream._read_out = False  # fetched is not read: dropping it stops the peer

    def __repr__(self) -> str:
        return repr(self._stream)

    def _check_open(self) -> None:
        if self._ended:
            raise StreamClosedError(f"this side {self._ended} its half of the stream")

    def _check_may_reset(self, code: int) -> None:
        check_code(code)
        if not self._stream._driver.conn.supports_reset:
            raise UnsupportedError("a version-1 session has no stream reset")


@dataclass(frozen=True, slots=True)
class AcceptOutcome:
    """A finished handshake: the session, the peer's ``HOST:PORT``, and the identity that it proved, if any."""

    session: PhantomSession
    peer_addr: str
    client_identity: HybridVerifyingKey | None = None


class PhantomListener:
    """A listener; see ``phantom.PhantomListener``. Leaving ``with`` shuts it down; sessions go on."""

    __slots__ = ("_listener",)

    def __init__(self, wrapped: listener.PhantomListener) -> None:
        """For the library: listeners come from :func:`listen`."""
        self._listener = wrapped

    @property
    def local_addr(self) -> str:
        """``HOST:PORT`` of the first bound address."""
        return self._listener.local_addr

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """URLs of all bound addresses, without the pin."""
        return self._listener.local_addrs

    @property
    def urls(self) -> tuple[str, ...]:
        """Pinned URLs, ready for ``connect``."""
        return self._listener.urls

    def verifying_key_bytes(self) -> bytes:
        """The flat verifying key (1984 bytes)."""
        return self._listener.verifying_key_bytes()

    def is_shutting_down(self) -> bool:
        """True after :meth:`shutdown`."""
        return self._listener.is_shutting_down()

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of the listener and all its sessions."""
        return _in_loop(self._listener.metrics_snapshot)

    def accept(self, timeout: float | None) -> AcceptOutcome:
        """The next established session."""
        outcome = run(self._listener.accept(timeout), self._listener._put_back)
        return AcceptOutcome(PhantomSession(outcome.session), outcome.peer_addr, outcome.client_identity)

    def shutdown(self) -> None:
        """Refuses new sessions; established ones go on."""
        _in_loop(self._listener.shutdown)

    def drain(self, *, timeout: float) -> None:
        """Shuts down and ends every session with code 14 within ``timeout`` seconds."""
        run(self._listener.drain(timeout))

    def __iter__(self) -> Iterator[AcceptOutcome]:
        """Sessions until the listener is shut down."""
        while True:
            try:
                outcome = self.accept(None)
            except ConnectionClosedError:
                return
            yield outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def connect(
    target: str,
    pin: Pins | None = None,
    *,
    timeout: float | None,
    identity: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    tls: ssl.SSLContext | None = None,
    rng: RngProvider | None = None,
) -> PhantomSession:
    """``phantom.connect``, blocking; ``timeout`` None means the default of 20 s."""
    waiting = connecting.connect(target, pin, identity=identity, config=config, timeout=timeout, tls=tls, rng=rng)
    return PhantomSession(run(_await(waiting), aio.PhantomSession._abandon))


def connect_pinned(
    host: str,
    port: int,
    pinned_key: Pins,
    *,
    timeout: float | None,
    leg: str = "tcp",
    identity: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    tls: ssl.SSLContext | None = None,
    rng: RngProvider | None = None,
) -> PhantomSession:
    """``phantom.connect_pinned``, blocking."""
    waiting = connecting.connect_pinned(
        host, port, pinned_key, leg=leg, identity=identity, config=config, timeout=timeout, tls=tls, rng=rng
    )
    return PhantomSession(run(_await(waiting), aio.PhantomSession._abandon))


def listen(
    *addresses: str,
    key: HybridSigningKey | None = None,
    clients: ClientPolicy = _EVERYBODY,
    reuse_port: bool = False,
    config: PhantomConfig | None = None,
    tls: ssl.SSLContext | None = None,
    origins: Collection[str] = (),
    rng: RngProvider | None = None,
) -> PhantomListener:
    """``phantom.listen``, blocking: returns the bound listener. ``clients`` is asked on the loop thread."""
    waiting = listener.listen(
        *addresses,
        key=key,
        clients=clients,
        reuse_port=reuse_port,
        config=config,
        tls=tls,
        origins=origins,
        rng=rng,
    )
    return PhantomListener(run(_await(waiting), listener.PhantomListener.shutdown))
