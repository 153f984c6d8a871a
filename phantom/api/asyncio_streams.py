"""``open_connection`` and ``start_server`` in place of asyncio's (surface §14; docs/how-to/asyncio-streams.md).

The reader and the writer are asyncio's own, over a transport that is one stream of a session. So programs and
libraries written on asyncio streams run unchanged; what differs is listed in the how-to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from phantom.api.connecting import connect
from phantom.api.listener import PhantomListener, listen
from phantom.errors import ConnectionClosedError, PhantomError, SessionDeadError, StreamResetError

if TYPE_CHECKING:
    import socket

    from phantom.api.session import PhantomSession
    from phantom.api.stream import PhantomStream
    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.pins import Pins

__all__ = ["Server", "open_connection", "start_server"]

ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

_LIMIT = 65536  # bytes, as asyncio's
_HIGH_WATER = 65536  # bytes that wait in the transport before it asks its writer to pause


class _ResetError(StreamResetError, ConnectionResetError):
    """the peer reset this stream; its code is ``reset_code``"""


class _ClosedError(ConnectionClosedError, ConnectionResetError):
    """the connection is closed"""


class _DeadError(SessionDeadError, ConnectionAbortedError):
    """the session lost its connection and could not recover; reconnect"""


def _as_connection_error(error: PhantomError) -> Exception:
    """The same error in a form that programs written for sockets catch too."""
    if isinstance(error, StreamResetError):
        return _ResetError(str(error), error.reset_code)
    if isinstance(error, ConnectionClosedError):
        return _ClosedError(str(error), error.peer_code, error.unacknowledged)
    if isinstance(error, SessionDeadError):
        return _DeadError(str(error))
    return error


class _Protocol(asyncio.StreamReaderProtocol):
    """asyncio's, but ``drain`` fails once the peer has stopped the writing half, while reading goes on."""

    refused: Exception | None = None

    async def _drain_helper(self) -> None:
        if self.refused is not None:
            raise self.refused
        await super()._drain_helper()  # type: ignore[misc]  # StreamWriter.drain calls it; typeshed does not know it


class _StreamTransport(asyncio.Transport):
    """One stream as a transport. What does not fit into the session's send buffer waits here.

    ``owned`` is the session that ends with this transport, on the client's side.
    """

    def __init__(
        self,
        session: PhantomSession,
        stream: PhantomStream,
        protocol: asyncio.BaseProtocol,
        on_lost: Callable[[_StreamTransport], None],
        *,
        owned: bool,
    ) -> None:
        super().__init__({"phantom_session": session, "phantom_stream": stream, "peername": _name(session.peer_addr)})
        self._session = session
        self._stream = stream
        self._driver = stream._driver
        self._runtime = self._driver.runtime
        self._on_lost = on_lost
        self._owned = owned
        self.set_protocol(protocol)
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._writing = False  # a task takes what waits to the session
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._writer_paused = False
        self._eof_written = False
        self._closing = False
        self._lost = False
        self._paused = False
        self._look_due = False
        self._at_end = False  # nothing more is read
        self._waits = self._driver.waits_of(stream._stream)

    def begin(self) -> None:
        """Tells the protocol, and starts reading."""
        self._waits.watch = self._changed
        self._driver.watch(self._waits)
        self._protocol.connection_made(self)
        self._changed()

    # --- reading ------------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on ``protocol`` gets what arrives."""
        self._protocol: Any = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The current protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def pause_reading(self) -> None:
        """Nothing more is handed to the protocol; the stream's window fills, and the peer's writer waits."""
        self._paused = True

    def resume_reading(self) -> None:
        """Reading goes on."""
        if self._paused:
            self._paused = False
            self._changed()

    def is_reading(self) -> bool:
        """False while paused, and at the end."""
        return not (self._paused or self._at_end or self._closing)

    def _changed(self) -> None:
        """Something arrived, or the stream or the session ended: looked at in a turn of its own."""
        if not self._look_due and not self._lost:
            self._look_due = True
            self._runtime.call_soon(self._look)

    def _look(self) -> None:
        self._look_due = False
        if self._lost:
            return
        try:
            conn = self._driver.conn
            ended = self._stream._stream.write_ended and not self._eof_written and not self._closing
            if ended and conn.accepts_writes:
                self._put(b"")  # which says why
                if self.is_closing():
                    return
            while not (self._paused or self._at_end or self._closing):
                chunk = self._stream._read()
                if chunk == b"":
                    break
                if chunk is None:
                    self._at_end = True
                    if not self._protocol.eof_received():
                        self.close()
                else:
                    self._protocol.data_received(chunk)
        except PhantomError as error:
            self._lose(_as_connection_error(error))
        else:
            if conn.phase.over and not self._paused and not (self._owned and self._closing):
                self._lose(None if conn.error is None else _as_connection_error(conn.end_error()))

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queues a copy; the protocol is asked to pause while too much waits. After the end: dropped."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes, bytearray or memoryview, not {type(data).__name__}")
        if self._eof_written and not self._closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._closing or self._lost:
            return
        payload = bytes(data)
        if not self._waiting and not self._writing and self._driver.may_write:
            self._put(payload)
            return
        self._waiting.append(payload)
        self._waiting_size += len(payload)
        self._write_what_waits()
        if self._waiting_size > self._high and not self._writer_paused:
            self._writer_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """One write of all together."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """True: each half ends on its own."""
        return True

    def write_eof(self) -> None:
        """Finishes the sending half behind everything that was written."""
        if self._eof_written or self._closing or self._lost:
            return
        self._eof_written = True
        if not self._waiting and not self._writing:
            self._finish()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for room in the session's send buffer."""
        return self._waiting_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The marks at which the protocol is asked to go on, and to pause."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's: ``low`` is a quarter of ``high`` by default. Raises ValueError."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def _put(self, payload: bytes) -> None:
        try:
            self._driver.queue(payload, self._stream._stream)
        except StreamResetError as error:
            self._refuse_writes(error)
        except PhantomError as error:
            self._lose(_as_connection_error(error))

    def _write_what_waits(self) -> None:
        if not self._writing:
            self._writing = True
            self._runtime.spawn(self._write_all(), "phantom-stream-write")

    async def _write_all(self) -> None:
        """Takes what waits to the session, in order, as its writers' turns come."""
        try:
            while self._waiting and not self._lost:
                payload = b"".join(self._waiting)
                self._waiting = []
                await self._stream.send_reliable(payload)
                self._waiting_size -= len(payload)
                if self._writer_paused and self._waiting_size <= self._low:
                    self._resume_writing()
        except StreamResetError as error:
            self._refuse_writes(error)
        except PhantomError as error:
            self._lose(_as_connection_error(error))
        finally:
            self._writing = False
        if self._lost:
            return
        if self._closing:
            self._finish_closing()
        elif self._eof_written:
            self._finish()

    def _resume_writing(self) -> None:
        self._writer_paused = False
        self._protocol.resume_writing()

    def _refuse_writes(self, error: PhantomError) -> None:
        """The peer stopped this half: what is written goes nowhere, and ``drain`` says so; reading goes on."""
        self._waiting = []
        self._waiting_size = 0
        if not isinstance(self._protocol, _Protocol):
            self._lose(_as_connection_error(error))
            return
        self._protocol.refused = self._protocol.refused or _as_connection_error(error)
        if self._writer_paused:
            self._resume_writing()

    def _finish(self) -> None:
        self._driver.conclude_stream(self._stream._stream)

    # --- the end ------------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """True once it is closed or lost."""
        return self._closing or self._lost

    def close(self) -> None:
        """Finishes behind everything that was written, reads no more; a client's session ends with it."""
        if self._closing or self._lost:
            return
        self._closing = True
        if not self._writing:
            self._finish_closing()

    def abort(self) -> None:
        """Resets the stream: what was not acknowledged is dropped."""
        if self._lost:
            return
        self._driver.abandon_stream(self._stream._stream)
        self._stream._read_out = True
        self._lose(None)

    def _finish_closing(self) -> None:
        """Everything was queued: ends both halves."""
        self._finish()
        self._stop_reading()
        if self._owned:
            self._runtime.spawn(self._end_session(), "phantom-stream-close")
        else:
            self._lose(None)

    def _stop_reading(self) -> None:
        if not self._stream._read_out and self._driver.conn.accepts_writes and self._driver.conn.supports_reset:
            self._stream.stop()

    async def _end_session(self) -> None:
        acknowledged = await self._session.disconnect()
        error: Exception | None = None
        if not acknowledged:
            error = _as_connection_error(self._driver.conn.end_error())
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        """The end, for good: tells the protocol once, in a turn of its own."""
        if self._lost:
            return
        self._lost = True
        self._waiting = []
        self._waiting_size = 0
        self._waits.watch = None
        self._driver.unwatch(self._waits)
        if error is not None:
            self._driver.abandon_stream(self._stream._stream)
        if self._owned and not self._driver.conn.phase.over:
            self._runtime.spawn(self._let_session_end(), "phantom-stream-close")
        self._runtime.call_soon(partial(self._connection_lost, error))

    async def _let_session_end(self) -> None:
        await self._session.disconnect()

    def _connection_lost(self, error: Exception | None) -> None:
        if self._writer_paused:
            self._writer_paused = False
        self._protocol.connection_lost(error)
        self._on_lost(self)

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else "open"
        return f"<phantom stream transport {self._stream.stream_id} of {self._session.peer_addr} {state}>"


def _name(peer_addr: str) -> tuple[str, int] | str:
    """``peername`` as sockets have it: (host, port)."""
    host, colon, port = peer_addr.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else peer_addr


async def open_connection(
    target: str, pin: Pins | None = None, *, limit: int = _LIMIT, **same: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``asyncio.open_connection`` to a pinned server: a reader and a writer over a stream of a session of its own.

    ``target``, ``pin`` and the further keywords are those of ``phantom.connect``, and so are the errors; ``limit`` is
    the reader's, in bytes. Closing the writer ends the session; ``wait_closed`` returns when it has, and raises
    ConnectionClosedError if something was not acknowledged. Errors of the two are ConnectionError too where sockets
    would raise one.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = _Protocol(reader, loop=loop)
    session = await connect(target, pin, **same)
    try:
        stream = await session.open_stream()
    except BaseException:
        session._abandon()
        raise
    transport = _StreamTransport(session, stream, protocol, lambda _: None, owned=True)
    transport.begin()
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: ClientConnected,
    *addresses: str,
    key: HybridSigningKey | None = None,
    limit: int = _LIMIT,
    start_serving: bool = True,
    **same: Any,
) -> Server:
    """``asyncio.start_server``: calls ``client_connected_cb(reader, writer)`` for each stream that a client opens.

    Addresses, ``key`` and the further keywords are those of ``phantom.listen``, and so are the errors; ``limit`` is
    the readers', in bytes. A coroutine is run as a task.
    """
    server = Server(await listen(*addresses, key=key, **same), client_connected_cb, limit)
    if start_serving:
        await server.start_serving()
    return server


class Server:
    """What :func:`start_server` returns; used as asyncio's ``Server``. Its text shows the pinned URLs.

    Closing it, also by leaving ``async with``, refuses new sessions and streams. Open streams go on, and a session
    ends when its last one has.
    """

    def __init__(self, listener: PhantomListener, client_connected_cb: ClientConnected, limit: int) -> None:
        """For the library: servers come from :func:`start_server`."""
        self._listener = listener
        self._callback = client_connected_cb
        self._limit = limit
        self._runtime = listener._runtime
        self._sessions: dict[PhantomSession, set[_StreamTransport]] = {}
        self._serving = False
        self._closed = False
        self._idle = asyncio.Event()  # closed, and nothing is left
        self._forever: asyncio.Future[None] | None = None

    @property
    def listener(self) -> PhantomListener:
        """The listener behind it."""
        return self._listener

    @property
    def urls(self) -> tuple[str, ...]:
        """Pinned URLs, ready for :func:`open_connection`."""
        return self._listener.urls

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; none once it is closed."""
        return () if self._closed else tuple(self._listener._sockets)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()

    def is_serving(self) -> bool:
        """True while it accepts."""
        return self._serving and not self._closed

    async def start_serving(self) -> None:
        """Begins to accept; again: nothing."""
        if not self._serving:
            self._serving = True
            self._runtime.spawn(self._serve(), "phantom-server")

    async def serve_forever(self) -> None:
        """Accepts until it is closed, or this call cancelled, which closes it. Raises RuntimeError if it is closed."""
        if self._closed or self._forever is not None:
            raise RuntimeError(f"server {self!r} is closed, or served already")
        await self.start_serving()
        self._forever = asyncio.get_running_loop().create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Accepts no more; idle sessions end at once, others with their last stream."""
        if self._closed:
            return
        self._closed = True
        self._listener.shutdown()
        if self._forever is not None:
            self._forever.cancel()
        for session in tuple(self._sessions):
            self._end_if_idle(session)
        self._settle()

    def close_clients(self) -> None:
        """Closes every writer."""
        for transport in self._transports():
            transport.close()

    def abort_clients(self) -> None:
        """Resets every stream."""
        for transport in self._transports():
            transport.abort()

    async def wait_closed(self) -> None:
        """Returns once it is closed and the last session has ended."""
        await self._idle.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        return f"<Server {' '.join(self.urls)}>"

    async def _serve(self) -> None:
        async for outcome in self._listener:
            self._sessions[outcome.session] = set()
            self._runtime.spawn(self._serve_session(outcome.session), "phantom-server-session")

    async def _serve_session(self, session: PhantomSession) -> None:
        try:
            while True:
                self._connected(session, await session.accept_stream())
        except PhantomError:
            pass  # the session is over; each of its streams says so to whoever uses it
        finally:
            await session.disconnect()
            del self._sessions[session]
            self._settle()

    def _connected(self, session: PhantomSession, stream: PhantomStream) -> None:
        if self._closed:
            stream._leave(failed=True)
            return
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limit, loop=loop)
        protocol = _Protocol(reader, self._callback, loop=loop)
        transport = _StreamTransport(session, stream, protocol, self._lost, owned=False)
        self._sessions[session].add(transport)
        transport.begin()

    def _lost(self, transport: _StreamTransport) -> None:
        transports = self._sessions.get(transport._session)
        if transports is not None:
            transports.discard(transport)
            self._end_if_idle(transport._session)

    def _end_if_idle(self, session: PhantomSession) -> None:
        if self._closed and not self._sessions[session]:
            self._runtime.spawn(_end(session), "phantom-server-close")

    def _settle(self) -> None:
        if self._closed and not self._sessions:
            self._idle.set()

    def _transports(self) -> tuple[_StreamTransport, ...]:
        return tuple(transport for transports in self._sessions.values() for transport in transports)


async def _end(session: PhantomSession) -> None:
    """The server shuts down: CLOSE with the code of a listener that does (§15.2)."""
    await session.disconnect(ConnectionClosedError.code)
