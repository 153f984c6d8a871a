"""Listeners of the sidecar as the API has them, and the signing keys that the sidecar keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

from phantom import limits
from phantom.api.clients import ClientPolicy
from phantom.api.endpoint import parse_address
from phantom.api.listener import AcceptOutcome, Binding, PhantomListener
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.rng import RngProvider
from phantom.errors import ConnectionClosedError, PhantomError, SessionNotFoundError, UnsupportedError
from phantom.observability.metrics import MetricsSnapshot
from phantom.runtime import Runtime
from phantom.sidecar._generated.v1 import listener_pb2
from phantom.sidecar.client_keys import ANYBODY, SidecarKey, lent
from phantom.sidecar.client_session import SidecarSession
from phantom.sidecar.client_time import time_limit
from phantom.sidecar.convert import metrics_of

if TYPE_CHECKING:
    from phantom.sidecar.client import SidecarClient
    from phantom.transport.handshake.gate import Source
    from phantom.transport.legs.base import Leg

__all__ = ["SidecarBinding", "SidecarListener"]

_SHUT_DOWN = "the listener was shut down"
_HERE = "a listener of the sidecar is made by `listen` of its client"


class SidecarListener(PhantomListener):
    """A listener of the sidecar, used as any :class:`PhantomListener`. Made by ``listen`` of a client.

    ``shutdown`` returns before the sidecar has heard of it; ``drain`` and leaving ``async with`` wait for that.
    ``metrics_snapshot`` is as the sidecar said last; :meth:`refresh` asks it.
    """

    def __init__(self, client: SidecarClient, listener: listener_pb2.Listener, config: PhantomConfig) -> None:
        """For :meth:`SidecarClient.listen`; the state of a listener of this process is not made."""
        self._client = client
        self._config = config
        self.ref = listener.ref
        self._local = tuple(listener.addresses)
        self._pinned = tuple(listener.urls)
        self._public = listener.verifying_key.key
        self._metrics = MetricsSnapshot()
        self._taken = 0  # the number of the last session
        self._taking = asyncio.Lock()
        self._opened: WeakSet[SidecarSession] = WeakSet()
        self._closed = False
        self._stopping: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @classmethod
    async def bind(
        cls,
        *addresses: str,
        key: HybridSigningKey | None = None,
        clients: ClientPolicy = ANYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomListener:
        """UnsupportedError: it takes a client."""
        raise UnsupportedError(_HERE)

    @classmethod
    async def bind_with_signing_key(
        cls,
        address: str,
        key: HybridSigningKey,
        *,
        clients: ClientPolicy = ANYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomListener:
        """UnsupportedError: it takes a client."""
        raise UnsupportedError(_HERE)

    @property
    def local_addr(self) -> str:
        """``HOST:PORT`` of the first bound address."""
        return parse_address(self._local[0]).host_port

    @property
    def local_addrs(self) -> tuple[str, ...]:
        """URLs of all bound addresses, without the pin."""
        return self._local

    @property
    def urls(self) -> tuple[str, ...]:
        """Pinned URLs, ready for ``connect``."""
        return self._pinned

    def verifying_key_bytes(self) -> bytes:
        """The flat verifying key (1984 bytes) that clients pin."""
        return self._public

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of the listener and of all its sessions as the sidecar said last; asks it anew."""
        if not self._closed and self._client.is_open and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = self._client.spawn(self.refresh())
        return self._metrics

    async def refresh(self, timeout: float | None = 10.0) -> None:
        """Asks the sidecar for the counts. SessionNotFoundError after the shutdown."""
        request = listener_pb2.ListenerServiceGetMetricsRequest(listener=self.ref)
        reply = await self._client.call(self._client.listener.GetMetrics, request, timeout)
        self._metrics = metrics_of(reply.metrics)

    async def accept(self, timeout: float | None = None) -> AcceptOutcome:
        """The next session; ConnectionClosedError after shutdown. Cancelled or out of time, it loses none."""
        if self._closed:
            raise ConnectionClosedError(_SHUT_DOWN)
        async with time_limit(timeout, "no session arrived"), self._taking:
            request = listener_pb2.AcceptRequest(listener=self.ref, ack=self._taken)
            try:
                accepted = (await self._client.call(self._client.listener.Accept, request)).accepted
            except SessionNotFoundError:
                raise ConnectionClosedError(_SHUT_DOWN) from None
            self._taken = accepted.seq
            session = SidecarSession(self._client, accepted.session, self._config)
            self._opened.add(session)
            return AcceptOutcome(session, session.peer_addr, session.peer_identity())

    def serve_leg(self, leg: Leg, source: Source, peer_addr: str) -> None:
        """UnsupportedError: the sidecar accepts its legs itself."""
        raise UnsupportedError("a leg of this program cannot be served by the sidecar")

    def shutdown(self) -> None:
        """Refuses new sessions and wakes waiting ``accept`` calls with ConnectionClosedError; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._client.is_open:
            self._stopping = self._client.spawn(self._stop())

    async def _stop(self) -> None:
        try:
            await self.refresh(None)  # nobody can ask later
            await self._client.call(self._client.listener.Shutdown, listener_pb2.ShutdownRequest(listener=self.ref))
        except PhantomError:
            return  # it ended with the sidecar or the lease

    async def _stopped(self) -> None:
        self.shutdown()
        if self._stopping is not None:
            await asyncio.wait([self._stopping])

    async def drain(self, grace: float = limits.SHUTDOWN_GRACE) -> None:
        """:meth:`shutdown`, then ends every session that was accepted here with CLOSE code 14, within ``grace``."""
        await self._stopped()
        await asyncio.gather(*(session.disconnect(ConnectionClosedError.code, grace) for session in self._opened))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stopped()


class SidecarBinding(Binding):
    """A listen through the sidecar that has not begun: ``await`` it for the listener, or ``async with`` it."""

    __slots__ = ("_client", "_given", "_request")

    def __init__(
        self,
        client: SidecarClient,
        request: listener_pb2.BindRequest,
        key: HybridSigningKey | SidecarKey | None,
        config: PhantomConfig,
    ) -> None:
        """For :meth:`SidecarClient.listen`."""
        self._client = client
        self._request = request
        self._given = key
        self._config = config
        self._listener: PhantomListener | None = None

    def __await__(self) -> Generator[None, None, SidecarListener]:
        return self._bind().__await__()

    async def __aenter__(self) -> SidecarListener:
        self._listener = listener = await self._bind()
        return listener

    async def _bind(self) -> SidecarListener:
        async with lent(self._client, self._given) as key:
            return await self._bind_with(key)

    async def _bind_with(self, key: SidecarKey | None) -> SidecarListener:
        client, request = self._client, self._request
        request.lease_id = client.lease_id
        if key is not None:
            request.key.handle = key.handle
        reply = await client.call(client.listener.Bind, request, limits.CONNECT_TIMEOUT)
        return SidecarListener(client, reply.listener, self._config)
