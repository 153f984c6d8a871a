"""``phantom serve --forward-to``: streams of clients become connections to the services behind this server."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from phantom import limits
from phantom.api.endpoint import parse_address
from phantom.api.session import PhantomSession
from phantom.api.stream import PhantomStream
from phantom.errors import ConfigError, ConnectionClosedError, PhantomError, ValidationError
from phantom.server.forward_wire import ACCEPTED, REASONS, Place, Reset, check_name, read_opening, splice

__all__ = ["ForwardHandler", "check_exposed", "parse_targets"]

logger = logging.getLogger("phantom.server.forward")


def parse_targets(texts: Iterable[str]) -> dict[str, Place]:
    """``[NAME=]HOST:PORT`` or ``[NAME=]unix:PATH``, the first of which is also the default (``""``).

    ValidationError for a malformed one; ConfigError for a name given twice and a further one without a name.
    """
    targets: dict[str, Place] = {}
    for text in texts:
        head, equals, rest = text.partition("=")
        if not equals or head.startswith("unix:"):
            head, rest = "", text
        name, place = (check_name(head) if equals and head else ""), Place.parse(rest)
        if not targets:
            targets[""] = place
            if not name:
                continue
        if not name:
            raise ConfigError(f"{text!r} needs a name, NAME={text}: only the first target is the default one")
        if name in targets:
            raise ConfigError(f"two targets have the name {name!r}")
        targets[name] = place
    return targets


def check_exposed(addresses: Iterable[str], *, allowed: bool) -> None:
    """ConfigError unless ``allowed`` or nobody but this machine can reach ``addresses``: the URL keeps nobody out."""
    if allowed:
        return
    for text in addresses:
        host = parse_address(text, listening=True).host
        if not _is_loopback(host):
            raise ConfigError(
                f"{text} can be reached from other machines, and whoever knows the URL would reach the targets: name"
                " the clients that may (--authorized-clients FILE), or say --allow-anyone"
            )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host == "localhost"


class ForwardHandler:
    """A handler of sessions: every stream that the client opens is a connection to one of ``targets``."""

    def __init__(
        self,
        targets: Mapping[str, Place],
        *,
        most: int = limits.FORWARD_CONNECTIONS,
        opening_timeout: float = limits.FORWARD_OPENING_TIMEOUT,
        connect_timeout: float = limits.FORWARD_CONNECT_TIMEOUT,
        rest: float = limits.FORWARD_REST,
    ) -> None:
        self.targets = dict(targets)
        self.active = 0
        """Connections now, those whose target has not accepted yet included."""
        self._most = most
        self._opening_timeout = opening_timeout
        self._connect_timeout = connect_timeout
        self._rest = rest

    async def __call__(self, session: PhantomSession) -> None:
        """Serves one session until it ends; what it had delivered gets a few seconds to reach the targets."""
        connections: set[asyncio.Task[None]] = set()
        try:
            while True:
                stream = await session.accept_stream()
                task = asyncio.get_running_loop().create_task(self._guarded(stream), name="phantom-forward")
                connections.add(task)
                task.add_done_callback(connections.discard)
                del stream
        except ConnectionClosedError as closed:
            if session.last_error() is not None or closed.peer_code:
                raise
        finally:
            if connections:
                _, late = await asyncio.wait(connections, timeout=self._rest)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def _guarded(self, stream: PhantomStream) -> None:
        if self.active >= self._most:
            _refuse(stream, Reset.LIMIT, f"{self._most} connections are open")
            return
        self.active += 1
        try:
            await self._connection(stream)
        except (PhantomError, OSError) as error:
            logger.info("a connection was reset: %s", error)
        finally:
            self.active -= 1

    async def _connection(self, stream: PhantomStream) -> None:
        try:
            async with asyncio.timeout(self._opening_timeout):
                name, first = await read_opening(stream)
        except (ValidationError, TimeoutError) as error:
            _refuse(stream, Reset.MALFORMED, str(error) or "it did not come in time")
            return
        place = self.targets.get(name)
        if place is None:
            _refuse(stream, Reset.UNKNOWN_TARGET, f"{name!r}")
            return
        try:
            async with asyncio.timeout(self._connect_timeout):
                reader, writer = await place.connect()
        except TimeoutError:
            _refuse(stream, Reset.TARGET_SLOW, f"{name or 'default'} at {place}")
            return
        except OSError as error:
            _refuse(stream, Reset.TARGET_DOWN, f"{name or 'default'} at {place}: {error}")
            return
        try:
            await stream.send_reliable(ACCEPTED)
            await splice(stream, reader, writer, answer=False, first=first)
        finally:
            writer.transport.abort()


def _refuse(stream: PhantomStream, code: Reset, detail: str) -> None:
    """Tells the client by the code of a reset; the log says which target it was, the client is not told."""
    logger.warning("%s (%s)", REASONS[code], detail, extra={"fields": {"code": code.name.lower()}})
    stream.reset(code.value)
    stream.stop(code.value)
