"""The TCP leg: an own non-blocking socket, one read and one write per wake-up (wire-native §20.2, §21.1, §21.3)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import Any

from phantom import limits
from phantom.errors import NetworkError, PhantomError, PhantomTimeoutError
from phantom.transport.legs.base import LegOwner, LegRuntime, Task, Timer
from phantom.transport.legs.buffers import BATCH, STEP, WINDOW, Buffer, private, read_window

__all__ = ["TcpLeg", "addresses_to_bind", "bind_tcp", "connect_tcp", "format_address"]

_BATCH_SLACK = 8192  # bytes of headers and session frames, so that SEND_BATCH holds whole segments
_Found = tuple[int, tuple[Any, ...]]  # family and address

_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_PIECE = 16 * limits.KiB  # whose sending a coroutine counts as progress
_FREE_PORTS = 8  # that are tried before a name with several addresses is said to have none in common


def format_address(address: tuple[object, ...]) -> str:
    """``HOST:PORT`` of a socket address, IPv6 in brackets."""
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # not everywhere; bounds what priorities cannot reach any more
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, limits.TCP_NOTSENT_LOWAT)


async def connect_tcp(host: str, port: int, runtime: LegRuntime, timeout: float) -> TcpLeg:
    """Connects to the first address of ``host`` that answers, within ``timeout`` seconds.

    Raises PhantomTimeoutError, or NetworkError naming the address and the cause.
    """
    try:
        async with runtime.timeout(timeout):
            sock = await _connect(host, port)
    except TimeoutError:
        raise PhantomTimeoutError(f"{host}:{port} did not answer within {timeout:g} s") from None
    try:
        return TcpLeg(sock, runtime)
    except OSError as error:  # reset before it was looked at
        sock.close()
        raise NetworkError(f"cannot connect to {host}:{port}: {_reason(error)}") from error


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: no name at all, to the resolver
        raise NetworkError(f"cannot resolve {host}: {getattr(error, 'strerror', None) or error}") from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            _tune(sock)
            await loop.sock_connect(sock, address)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    detail = _reason(failure) if failure is not None else "it has no address"
    raise NetworkError(f"cannot connect to {host}:{port}: {detail}") from failure


def addresses_to_bind(host: str, port: int) -> list[_Found]:
    """What ``bind_tcp`` takes for ``host``; blocks while a name is resolved. Raises NetworkError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise NetworkError(f"cannot listen on {host or '*'}:{port}: {_reason(error)}") from error
    return [(family, address) for family, _, _, _, address in found]


def bind_tcp(host: str, port: int, found: list[_Found], *, reuse_port: bool) -> list[socket.socket]:
    """Listening sockets for those ``found`` addresses that this host has; port 0 takes the same free port on all.

    Raises NetworkError, also when the port is in use: SO_REUSEPORT only on request (§21.3).
    """
    tries = _FREE_PORTS if not port and len(found) > 1 else 1
    try:
        while True:
            tries -= 1
            try:
                return _bind_all(found, port, reuse_port)
            except OSError as error:
                if not tries or error.errno != errno.EADDRINUSE:
                    raise  # else the port that is free on the first address is not on another: another port
    except (OSError, AttributeError) as error:
        raise NetworkError(f"cannot listen on {host or '*'}:{port}: {_reason(error)}") from error


def _bind_all(found: list[_Found], port: int, reuse_port: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in found:
            wanted = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(_bind_one(family, (address[0], wanted, *address[2:]), reuse_port))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                absent = error  # a name with an IPv6 address on a host without IPv6
        if absent is not None and not sockets:
            raise absent
    except (OSError, AttributeError):
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(family: int, address: tuple[Any, ...], reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(limits.TCP_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class TcpLeg:
    """One connected TCP socket. All calls in the thread of its loop.

    Between reads it keeps at most the frame it is in the middle of; windows and batches come from shared pools.
    On loops without ``add_reader`` (Windows' default one) two tasks do the same work.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_finishing",
        "_linger",
        "_loop",
        "_lost",
        "_out",
        "_paused",
        "_progress_at",
        "_reader",
        "_rest",
        "_runtime",
        "_sock",
        "_stall",
        "_writer",
        "owner",
        "peer_addr",
    )

    name = "tcp"
    proves_address = True

    def __init__(self, sock: socket.socket, runtime: LegRuntime) -> None:
        _tune(sock)
        self._sock = sock
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self.owner: LegOwner | None = None
        self.peer_addr = format_address(sock.getpeername())
        self._rest: bytearray | None = None  # start of a frame that is not complete
        self._buffer: Buffer | None = None  # batch of which the kernel took only a part
        self._out: memoryview | None = None  # the part it has not taken
        self._progress_at = 0.0
        self._stall: Timer | None = None
        self._linger: Timer | None = None
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._paused = False
        self._lost = False  # the owner was told, or has closed
        self._finishing = False  # lingering
        self._closed: asyncio.Future[None] | bool = False

    @property
    def closed(self) -> bool:
        """True once the socket is released."""
        return self._closed is True

    def start(self, owner: LegOwner) -> None:
        """Begins to read."""
        self.owner = owner
        self._watch_read()

    @property
    def _hears(self) -> bool:
        return not self._paused and (not self._lost or self._finishing)

    def _watch_read(self) -> None:
        if self._reader is not None:  # still at work
            return
        try:
            self._loop.add_reader(self._sock, self._readable)
        except NotImplementedError:
            self._reader = self._runtime.spawn(self._read_loop(), "phantom-tcp-read")

    # --- reading ----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        window, size, room = self._window()
        try:
            count = self._sock.recv_into(window[1][size : size + room])
        except (BlockingIOError, InterruptedError):
            self._keep(window, 0, size)
            return
        except OSError as error:
            self._fail(_network_error(error))
            return
        self._arrived(window, size, count)

    async def _read_loop(self) -> None:
        """The same where readiness is not told; while it waits it holds less than a window."""
        while True:
            try:
                data = await self._loop.sock_recv(self._sock, STEP)
            except OSError as error:
                self._fail(_network_error(error))
                break
            if self._received(data):
                break
        self._reader = None

    def _received(self, data: bytes) -> bool:
        if self._paused:  # meanwhile; resume() hands it on, and finds the end of the stream again
            self._rest = (self._rest or bytearray()) + data
            return True
        window, size, _ = self._window()
        window[1][size : size + len(data)] = data
        return self._arrived(window, size, len(data))

    def _window(self) -> tuple[Buffer, int, int]:
        """A window with the unfinished frame at its start, that frame's size, and how much may be read behind it."""
        owner = self.owner
        rest, self._rest = self._rest, None
        room = owner.read_size if owner is not None else limits.HANDSHAKE_FRAME_CAP
        return read_window(rest, room)

    def _arrived(self, window: Buffer, size: int, count: int) -> bool:
        """Hands ``count`` new bytes to the owner; True when nothing more is read."""
        if count == 0:
            self._end_of_stream()
            return True
        if self._finishing:
            WINDOW.give(window)
            return False
        return self._deliver(window, size + count)

    def _deliver(self, window: Buffer, end: int) -> bool:
        buf, view = window
        at = 0
        while self.owner is not None and not self._lost:
            owner = self.owner
            at = owner.leg_received(buf, view, at, end)
            if self.owner is owner:  # a new owner takes what the old one left
                break
        if self._lost and not self._finishing:
            return True
        self._keep(window, at, end)
        return self._paused

    def _keep(self, window: Buffer, at: int, end: int) -> None:
        self._rest = window[0][at:end] if at < end else None
        WINDOW.give(window)

    def _end_of_stream(self) -> None:
        if self._finishing:
            self._release()
            return
        self._unwatch_read()
        self._lost = True
        if self.owner is not None:
            self.owner.leg_lost(None)

    def pause(self) -> None:
        """Stops reading while the owner is not able to take more; what has arrived stays."""
        self._paused = True
        self._unwatch_read()

    def resume(self) -> None:
        """Hands the owner what was left, then reads again."""
        self._paused = False
        if self._lost:
            return
        rest = self._rest
        if rest is not None:
            self._rest = None
            self._deliver((rest, memoryview(rest)), len(rest))
        if self._hears:
            self._watch_read()

    # --- writing ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Fills and sends batch after batch until nothing is due or the kernel is full."""
        owner = self.owner
        if self._out is not None or self._lost or owner is None:
            return
        size = owner.batch_size
        buffer = BATCH.take() if size <= BATCH.size else private(size)
        buf, view = buffer
        cap = limits.SEND_BATCH + _BATCH_SLACK if size < limits.SEND_BATCH else size
        while not self._lost:
            end = owner.leg_fill(buf, view, 0, cap)
            if end == 0:
                break
            if not self._push(buffer, view[:end]):
                return
            if cap - end >= size:  # there was room for any packet: the owner has no more
                break
        BATCH.give(buffer)

    def _push(self, buffer: Buffer, out: memoryview) -> bool:
        try:
            sent = self._sock.send(out)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(_network_error(error))
            return True
        if sent == len(out):
            return True
        self._buffer, self._out = buffer, out[sent:]
        self._progress_at = self._runtime.monotonic()
        if self.owner is not None:
            self.owner.leg_blocked(True)
        self._watch_stall()
        try:
            self._loop.add_writer(self._sock, self._writable)
        except NotImplementedError:
            self._writer = self._runtime.spawn(self._write_rest(), "phantom-tcp-write")
        return False

    def _writable(self) -> None:
        out = self._out
        assert out is not None
        try:
            sent = self._sock.send(out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(_network_error(error))
            return
        self._progress_at = self._runtime.monotonic()
        if sent < len(out):
            self._out = out[sent:]
            return
        self._loop.remove_writer(self._sock)
        self._drained()

    async def _write_rest(self) -> None:
        while out := self._out:
            piece = out[:_PIECE]
            try:
                await self._loop.sock_sendall(self._sock, piece)
            except OSError as error:
                self._fail(_network_error(error))
                return
            self._progress_at = self._runtime.monotonic()
            self._out = self._out[len(piece) :]
        self._writer = None
        self._drained()

    def _drained(self) -> None:
        self._out = None
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            BATCH.give(buffer)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self._finishing:
            self._shut_down()
            return
        if self.owner is not None:
            self.owner.leg_blocked(False)
        self.flush()

    def _watch_stall(self) -> None:
        self._stall = self._runtime.call_at(self._progress_at + limits.WRITE_STALL_TIMEOUT, self._stalled)

    def _stalled(self) -> None:
        if self._runtime.monotonic() < self._progress_at + limits.WRITE_STALL_TIMEOUT:
            self._watch_stall()
            return
        seconds = limits.WRITE_STALL_TIMEOUT
        self._fail(NetworkError(f"{self.peer_addr} has taken no data for {seconds:g} s"))

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, *, linger: bool) -> None:
        """Ends the leg; the owner hears nothing more. Idempotent; without ``linger`` at once.

        With it, what the owner has to say is filled now, behind what waits: its keys go when this returns.
        """
        if self._closed is True:
            return
        at_eof = self._lost and not self._finishing
        self._lost = True
        if not linger or at_eof:
            self._release()
            return
        if self._finishing:
            return
        self._finishing = True
        self._rest = None
        if self._out is not None:
            self._out = memoryview(b"".join((self._out, *self._last_words())))
        if self._paused:
            self._paused = False
            self._watch_read()  # the peer's end of the stream is what lingering waits for
        patience = limits.CLOSE_FLUSH_TIMEOUT if self._out is not None else limits.LINGER
        self._linger = self._runtime.call_at(self._runtime.monotonic() + patience, self._release)
        if self._out is None:
            self._shut_down()

    def _last_words(self) -> list[bytes]:
        owner, words = self.owner, []
        if owner is not None:
            buf, view = private(owner.batch_size)
            while end := owner.leg_fill(buf, view, 0, len(buf)):
                words.append(bytes(view[:end]))
        return words

    async def wait_closed(self) -> None:
        """Returns when the socket is released; at most a few seconds after :meth:`close`."""
        if self._closed is True:
            return
        if self._closed is False:
            self._closed = self._loop.create_future()
        assert isinstance(self._closed, asyncio.Future)
        await asyncio.shield(self._closed)

    def _shut_down(self) -> None:
        """Write side first: closing with unread input would make TCP reset what is still on its way (§15.2)."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._release()
            return
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._runtime.call_at(self._runtime.monotonic() + limits.LINGER, self._release)

    def _fail(self, error: PhantomError) -> None:
        told = self._lost
        self._lost = True
        self._release()
        if not told and self.owner is not None:
            self.owner.leg_lost(error)

    def _unwatch_read(self) -> None:
        if self._reader is not None:  # it ends by itself when it finds the leg paused or lost
            return
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_reader(self._sock)

    def _release(self) -> None:
        if self._closed is True:
            return
        waiter, self._closed = self._closed, True
        for timer in (self._stall, self._linger):
            if timer is not None:
                timer.cancel()
        for task in (self._reader, self._writer):
            if task is not None:
                task.cancel()
        self._unwatch_read()
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_writer(self._sock)
        self._sock.close()
        self._out = None
        self._buffer = None
        self._rest = None
        if isinstance(waiter, asyncio.Future) and not waiter.done():
            waiter.set_result(None)


def _reason(error: Exception) -> str:
    """What the system says, not how asyncio words it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(error)


def _network_error(error: OSError) -> NetworkError:
    failure = NetworkError(f"the connection failed: {_reason(error)}")
    failure.__cause__ = error
    return failure
