"""``phantom forward`` and ``phantom pipe``: connections here become streams to a ``phantom serve --forward-to``.

A session has 256 streams at a time and a limited number of ids: further sessions are opened as connections need them,
and one that has used three quarters of its ids gets a successor before they run out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from phantom import limits
from phantom.api.session import PhantomSession
from phantom.api.stream import PhantomStream
from phantom.errors import HandshakeError, NetworkError, PhantomError, PhantomTimeoutError, StreamResetError
from phantom.server.forward_wire import REASONS, Place, Reset, abort_socket, check_name, ended, opening, splice

__all__ = ["ForwardClient", "Status", "open_forwarded", "refusal"]

logger = logging.getLogger("phantom.forward")

_IDS: Final = 0xFFFF
_RETIRE_AT: Final = _IDS * 3 // 4
_BACKLOG: Final = 1024
_CLOSE_PATIENCE: Final = 2.0  # s for the last CLOSE of each session

Connect = Callable[[], Awaitable[PhantomSession]]


@dataclass(slots=True)
class Status:
    """What ``--status`` shows; counts since the start."""

    listening: str = ""
    sessions: int = 0
    connections: int = 0
    accepted: int = 0
    refused: int = 0
    """Connections that the server or the target did not take, or for which there was no session."""
    reset: int = 0
    """Connections that ended by a reset of either side, or with their session."""
    bytes_out: int = 0
    """Of connections that have ended in order, towards the target."""
    bytes_in: int = 0

    def as_dict(self) -> dict[str, object]:
        """The members by name, for JSON."""
        return asdict(self)


async def open_forwarded(session: PhantomSession, name: str, timeout: float | None = None) -> PhantomStream:
    """A stream whose opening message names a target; the answer is still to come. Raises as ``open_stream``."""
    stream = await session.open_stream(timeout=timeout)
    await stream.send_reliable(opening(name))
    return stream


def refusal(error: StreamResetError) -> NetworkError | None:
    """What the server's code says, if it is one of ours that refuses a connection."""
    try:
        code = Reset(error.reset_code)
    except ValueError:
        return None
    return None if code is Reset.CONNECTION_RESET else NetworkError(REASONS[code])


class _Link:
    """A session and the connections in it."""

    def __init__(self, session: PhantomSession) -> None:
        self.session = session
        self.connections: set[asyncio.Task[None]] = set()
        self.last_id = 0
        self.over = False

    @property
    def retired(self) -> bool:
        return self.last_id >= _RETIRE_AT

    @property
    def usable(self) -> bool:
        return not self.over and not self.retired and len(self.connections) < limits.MAX_STREAMS


class ForwardClient:
    """Listens at ``place`` and carries each connection over a session that ``connect`` makes. One event loop."""

    def __init__(
        self,
        place: Place,
        connect: Connect,
        *,
        name: str = "",
        most: int = limits.FORWARD_CONNECTIONS,
        patience: float = limits.FORWARD_PATIENCE,
        backoff: float = limits.FORWARD_BACKOFF_FIRST,
        rest: float = limits.FORWARD_REST,
    ) -> None:
        self.status = Status()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises when it makes no sense to go on: the server's key or this side's identity was refused."""
        self._place = place
        self._connect = connect
        self._name = check_name(name) if name else ""
        self._most = most
        self._patience = patience
        self._backoff = backoff
        self._rest = rest
        self._links: list[_Link] = []
        self._connecting: asyncio.Task[None] | None = None
        self._not_before = 0.0  # a session that ended at once is not replaced at once
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Makes the first session, then listens. Raises what ``connect`` raises; NetworkError if the place is taken."""
        self._adopt(await self._connect())
        try:
            await self._listen()
        except BaseException:
            await self.drain(0.0)
            raise

    async def drain(self, grace: float = limits.SHUTDOWN_GRACE) -> None:
        """Stops listening, gives connections ``grace`` seconds to end, resets what is left and closes the sessions."""
        if self._server is not None:
            self._server.close()
            if self._place.path:
                _remove_socket(self._place.path)
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        await _cancelled(self._connections)
        if self._connecting is not None:
            await _cancelled({self._connecting})
        for link in self._links:
            link.over = True
        await asyncio.gather(*(link.session.disconnect(timeout=_CLOSE_PATIENCE) for link in self._links))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.failed.cancel()

    # --- the listening side -------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        place = self._place
        try:
            if place.path:
                sock = _bind_unix(place.path)
                self._server = await asyncio.start_unix_server(self._accepted, sock=sock, backlog=_BACKLOG)
                self.status.listening = str(place)
            else:
                host = place.host or None
                self._server = await asyncio.start_server(self._accepted, host, place.port, backlog=_BACKLOG)
                bound = self._server.sockets[0].getsockname()
                self.status.listening = str(Place(place.host or bound[0], bound[1]))
        except OSError as error:
            raise NetworkError(f"cannot listen on {place}: {error.strerror or error}") from error
        logger.info("forwarding from %s", self.status.listening)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status.accepted += 1
        if len(self._connections) >= self._most:
            self._refused(writer, Reset.LIMIT.name.lower(), f"{self._most} connections are open")
            return
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer), name="phantom-forward-connection")
        self._connections.add(task)
        self.status.connections += 1
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self.status.connections -= 1
        for link in tuple(self._links):
            if task in link.connections:
                link.connections.discard(task)
                self._settle(link)

    def _refused(self, writer: asyncio.StreamWriter, code: str, why: str) -> None:
        self.status.refused += 1
        logger.warning("a connection was refused: %s", why, extra={"fields": {"code": code}})
        abort_socket(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            stream = await self._stream()
        except PhantomError as error:
            self._refused(writer, "no_session", str(error))
            await ended(writer)
            return
        except BaseException:
            abort_socket(writer)
            raise
        try:
            sent, received = await splice(stream, reader, writer, answer=True)
            self.status.bytes_out += sent
            self.status.bytes_in += received
        except StreamResetError as error:
            why = refusal(error)
            if why is not None:
                self._refused(writer, Reset(error.reset_code).name.lower(), str(why))
            else:
                self._was_reset(error)
        except (PhantomError, OSError) as error:
            self._was_reset(error)
        except asyncio.CancelledError:
            self.status.reset += 1  # with its session, or at the end
            raise

    def _was_reset(self, error: Exception) -> None:
        self.status.reset += 1
        logger.info("a connection was reset: %s", error)

    # --- the sessions -------------------------------------------------------------------------------------------------

    async def _stream(self) -> PhantomStream:
        """A stream with its opening message sent. PhantomError if there was no session in time."""
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    link = await self._link()
                    link.connections.add(task)
                    try:
                        stream = await open_forwarded(link.session, self._name)
                    except PhantomError as error:
                        logger.debug("a session took no stream: %s", error)
                        link.connections.discard(task)
                        link.over = True
                        continue
                    link.last_id = max(link.last_id, stream.stream_id)
                    if link.retired:
                        self._settle(link)
                    return stream
        except TimeoutError:
            raise PhantomTimeoutError(f"no session with the server within {self._patience:g} s") from None

    async def _link(self) -> _Link:
        while True:
            for link in self._links:
                if link.usable:
                    return link
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        """The one task that makes sessions; begun if there is none."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._reconnect(), name="phantom-forward-connect")
            self._connecting.add_done_callback(_heard)
        return self._connecting

    async def _reconnect(self) -> None:
        pause = self._backoff
        await asyncio.sleep(self._not_before - asyncio.get_running_loop().time())
        while True:
            try:
                session = await self._connect()
            except HandshakeError as error:
                if self._fatal(error):
                    raise
                problem: Exception = error
            except PhantomError as error:
                problem = error
            else:
                self._adopt(session)
                return
            logger.warning("no session with the server, next attempt in %.3g s: %s", pause, problem)
            await asyncio.sleep(pause)
            pause = min(2 * pause, limits.FORWARD_BACKOFF_MOST)

    def _fatal(self, error: PhantomError | None) -> bool:
        """Whether another attempt would end the same way; ``failed`` tells the owner."""
        if not isinstance(error, HandshakeError) or error.retryable:
            return False
        if not self.failed.done():
            self.failed.set_exception(error)
        return True

    def _adopt(self, session: PhantomSession) -> None:
        link = _Link(session)
        self._links.append(link)
        self.status.sessions = len(self._links)
        self._spawn(self._watch(link))

    async def _watch(self, link: _Link) -> None:
        """Takes a session out when it has ended: its connections get what had arrived, then they are reset."""
        async for _ in link.session.events():
            pass
        expected = link.over
        link.over = True
        self._links.remove(link)
        self.status.sessions = len(self._links)
        error = link.session.last_error()
        self._not_before = asyncio.get_running_loop().time() + self._backoff
        if not self._fatal(error) and (not expected or error is not None):
            logger.warning("a session has ended: %s", error or "the server closed it")
            if self._server is not None and self._server.is_serving() and not any(one.usable for one in self._links):
                self._begin()
        if link.connections:
            await asyncio.wait(link.connections, timeout=self._rest)
            await _cancelled(link.connections)
        await link.session.disconnect(timeout=0)

    def _settle(self, link: _Link) -> None:
        """A retired session gets its successor; one without connections ends if it is retired or another is there."""
        others = any(one.usable for one in self._links if one is not link)
        if link.retired and not others and not link.over:
            self._begin()
        if not link.connections and not link.over and (link.retired or others) and link in self._links:
            link.over = True
            self._spawn(self._close(link))

    async def _close(self, link: _Link) -> None:
        await link.session.disconnect(timeout=_CLOSE_PATIENCE)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _heard(task: asyncio.Task[None]) -> None:
    """What it raises is in ``failed`` already."""
    if not task.cancelled():
        task.exception()


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _bind_unix(path: str) -> socket.socket:
    """A listening socket that this user alone may connect to. A dead one in its place is removed, a live one is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_dead(path):
                raise
            os.unlink(path)
            sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _is_dead(path: str) -> bool:
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _remove_socket(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        logger.debug("the socket %s is gone already", path)
