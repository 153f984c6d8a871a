"""One listener, a task for each session, and an end in good order (surface §6).

The order of a start is fixed: the key, then the port. A server that its clients would refuse never takes the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from phantom import limits
from phantom.api.clients import AuthorizedClients, ClientPolicy
from phantom.api.listener import AcceptOutcome, PhantomListener, listen
from phantom.api.session import PhantomSession
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.errors import ClientAuthError, InternalError, PhantomError
from phantom.server.handlers import Handler, echo
from phantom.server.keys import load_or_create
from phantom.server.signals import hangup, termination
from phantom.server.urls import check_advertised, is_wildcard, pinned_urls
from phantom.transport.session.states import ConnectionState

__all__ = ["Server", "ServerSettings", "serve"]

logger = logging.getLogger("phantom.server")

_CLOSE_MARGIN = 1.0  # s, for CLOSE to leave after the grace
_WATCH_EVERY = 1.0  # s between two looks at the file of authorised clients
_REMOVED_GRACE = 1.0  # s that a client which was taken out of it has to get what it is owed
_OVER = (ConnectionState.CLOSED, ConnectionState.DEAD, ConnectionState.FAILED, ConnectionState.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What ``phantom serve`` was asked for, checked when it is made: ConfigError, ValidationError, UnsupportedError."""

    addresses: tuple[str, ...]
    key_file: Path | None = None
    handler: Handler = echo
    advertise: str | None = None
    """Host in the printed URLs in place of a wildcard."""
    reuse_port: bool = False
    authorized: AuthorizedClients | None = None
    """Clients that may come in; None: everybody."""
    tls: ssl.SSLContext | None = None
    """The certificate of wss:// addresses."""
    origins: tuple[str, ...] = ()
    """Origins of web pages that ws:// and wss:// addresses let in besides those of their own host."""
    config: PhantomConfig = field(default_factory=PhantomConfig.server)
    grace: float = limits.SHUTDOWN_GRACE
    """Seconds that sessions have to finish when the server ends."""

    def __post_init__(self) -> None:
        """Raises what is wrong before a key is made or a port is taken."""
        listen(
            *self.addresses,
            clients=self.clients,
            reuse_port=self.reuse_port,
            config=self.config,
            tls=self.tls,
            origins=self.origins,
        )
        if self.advertise is not None:
            check_advertised(self.advertise)

    @property
    def clients(self) -> ClientPolicy:
        """The policy of the listener."""
        return ClientPolicy.none() if self.authorized is None else ClientPolicy.required(self.authorized)


class Server:
    """A bound listener whose sessions go to a handler. All calls in one event loop."""

    def __init__(self, listener: PhantomListener, urls: tuple[str, ...], settings: ServerSettings) -> None:
        """For the library: servers come from :meth:`start`."""
        self.urls = urls
        self._listener = listener
        self._handler = settings.handler
        self._grace = settings.grace
        self._authorized = settings.authorized
        self._sessions: set[asyncio.Task[None]] = set()
        self._known: dict[PhantomSession, HybridVerifyingKey] = {}
        self._suspects: set[PhantomSession] = set()  # whose client was missing at the last look
        self._seen = 0  # version of the list then
        loop = asyncio.get_running_loop()
        self._accepting = loop.create_task(self._accept(), name="phantom-server-accept")
        self._watching = loop.create_task(self._watch(), name="phantom-server-watch")

    @classmethod
    async def start(cls, settings: ServerSettings, key: HybridSigningKey) -> Server:
        """Binds, logs one pinned URL per address at WARNING, and accepts. NetworkError, also for a port in use."""
        advertise = None if settings.advertise is None else check_advertised(settings.advertise)
        listener = await listen(
            *settings.addresses,
            key=key,
            clients=settings.clients,
            reuse_port=settings.reuse_port,
            config=settings.config,
            tls=settings.tls,
            origins=settings.origins,
        )
        urls = await pinned_urls(listener.local_addrs, key.verifying_key().fingerprint(), advertise)
        for url in urls:
            logger.warning("listening on %s", url)
        if advertise is not None and not any(map(is_wildcard, _hosts(listener))):
            logger.warning("--advertise has no effect: no address that is listened on is a wildcard")
        return cls(listener, urls, settings)

    async def drain(self) -> None:
        """Stops accepting and ends every session with code 14: idle ones at once, the others after the grace at most.

        Handlers that outlive their sessions are cancelled when the grace is over.
        """
        logger.info("draining", extra={"fields": {"sessions": len(self._sessions)}})
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        # A session that was being closed before has patience of its own: what is left after the grace is cut off.
        async with self._listener:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline + _CLOSE_MARGIN):
                    await self._listener.drain(self._grace)
        await self._accepting
        self._watching.cancel()
        if self._sessions:
            _, late = await asyncio.wait(self._sessions, timeout=max(0.0, deadline - loop.time()))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(self._watching, return_exceptions=True)
        logger.info("stopped")

    def reread(self) -> None:
        """Looks at the file of authorised clients now."""
        if self._authorized is not None:
            self._authorized.refresh()

    async def _watch(self) -> None:
        """Ends the sessions of who was taken out of the list, with code 43 (surface §1.4)."""
        while self._authorized is not None:
            await asyncio.sleep(_WATCH_EVERY)
            gone = self._removed(self._authorized)
            if gone:
                logger.warning("ending the sessions of clients that are not authorised any more: %d", len(gone))
            await asyncio.gather(*(session.disconnect(ClientAuthError.code, _REMOVED_GRACE) for session in gone))

    def _removed(self, authorized: AuthorizedClients) -> list[PhantomSession]:
        """Sessions whose client is not on the list, and was not at the last look either: an edit in place empties the
        file for a moment."""
        authorized.refresh()
        if authorized.version == self._seen and not self._suspects:
            return []
        self._seen = authorized.version
        missing = {session for session, key in self._known.items() if not authorized.allows(key)}
        gone = missing & self._suspects
        self._suspects = missing - gone
        return list(gone)

    async def _accept(self) -> None:
        async for outcome in self._listener:
            task = asyncio.get_running_loop().create_task(self._run(outcome), name="phantom-server-session")
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)

    async def _run(self, outcome: AcceptOutcome) -> None:
        session, client = outcome.session, outcome.client_identity
        fields = {"peer": outcome.peer_addr, "session": session.id}
        if client is not None:
            fields["client"] = client.fingerprint()
            self._known[session] = client
        logger.debug("session accepted", extra={"fields": fields})
        code = 0
        try:
            if client is not None and self._authorized is not None and not self._authorized.allows(client):
                code = ClientAuthError.code  # taken out of the list between its proof and now
            elif await _heard(session):
                await self._handler(session)
                logger.debug("session finished", extra={"fields": fields})
        except Exception as error:  # whatever a handler raises ends its own session and no other
            if isinstance(error, PhantomError) and session.state in _OVER:
                logger.info("a session ended: %s", error)
            else:
                code = InternalError.code
                logger.exception("the handler crashed; its session is closed, the server goes on")
        finally:
            self._known.pop(session, None)
            await session.disconnect(code)


async def _heard(session: PhantomSession) -> bool:
    """Waits for the first packet of the peer. None comes from a client that pins another key: it just leaves."""
    try:
        await session.await_ready()
    except PhantomError as error:
        logger.info("a session ended before its first packet: %s", error)
        return False
    return True


def _hosts(listener: PhantomListener) -> list[str]:
    return [address.partition("://")[2].rpartition(":")[0].strip("[]") for address in listener.local_addrs]


async def serve(settings: ServerSettings, ready: Callable[[Server], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once (status 128 + signal).

    ``ready`` is called when connections are accepted. Must run in the main thread, which alone gets signals. Raises
    ConfigError (key file) and NetworkError (port in use).
    """
    with load_or_create(settings.key_file) as key, termination() as asked:
        server = await Server.start(settings, key)
        with hangup(server.reread):
            ready(server)
            await asked.wait()
            await server.drain()
