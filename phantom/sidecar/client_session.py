"""Sessions of the sidecar as the API has them: the same class to the program, with the session itself elsewhere.

What the API answers without waiting is answered here from what the sidecar said last: a stream of events keeps the
state, every answer that carries a session refreshes the rest, and asking for a count also asks the sidecar anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final

import grpc.aio

from phantom import limits
from phantom.api.connecting import Connecting
from phantom.api.session import BytesLike, HandshakeInfo, Negotiated, PhantomSession
from phantom.api.stream import check_priority, own
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.kdf import MAX_EXPORT_LEN
from phantom.crypto.pins import Pins
from phantom.crypto.rng import RngProvider
from phantom.errors import (
    ConnectionClosedError,
    FrameTooLargeError,
    NetworkError,
    PhantomError,
    PhantomTimeoutError,
    SessionNotFoundError,
    UnsupportedError,
    ValidationError,
)
from phantom.limits import SIDECAR_MESSAGE_CAP
from phantom.observability.metrics import MetricsSnapshot
from phantom.runtime import AsyncioRuntime, Runtime
from phantom.sidecar._generated.v1 import session_pb2, stream_pb2
from phantom.sidecar._generated.v1.errors_pb2 import ErrorDetail
from phantom.sidecar.client_exchange import SidecarExchange
from phantom.sidecar.client_keys import SidecarKey, lent
from phantom.sidecar.client_stream import SidecarStream
from phantom.sidecar.client_time import time_limit
from phantom.sidecar.convert import duration, handshake_of, metrics_of, negotiated_of, state_of
from phantom.sidecar.status import TRAILER, from_detail, from_rpc_error
from phantom.transport.legs.base import SessionTransport
from phantom.transport.session.events import Rekeyed, StateChanged
from phantom.transport.session.states import ConnectionState

if TYPE_CHECKING:
    from phantom.sidecar.client import SidecarClient

__all__ = ["SidecarConnecting", "SidecarSession"]

_MARGIN: Final = 2.0  # s that the sidecar has to say how a call ended whose limit it keeps itself
_FINAL: Final = (ConnectionState.FAILED, ConnectionState.CLOSED, ConnectionState.DEAD)


class SidecarSession(PhantomSession):
    """A session of the sidecar, used as any :class:`PhantomSession`. Made by ``connect`` and ``accept`` of a client.

    ``negotiated``, ``queued_count`` and ``metrics_snapshot`` are as the sidecar said last; :meth:`refresh` asks it.
    """

    __slots__ = (
        "_accepting",
        "_client",
        "_cost",
        "_ending",
        "_lost",
        "_metrics",
        "_negotiated",
        "_openings",
        "_queued",
        "_receiving",
        "_refreshing",
        "_sending",
        "_streams_taken",
        "_watching",
        "received",
        "ref",
    )

    def __init__(self, client: SidecarClient, session: session_pb2.Session, config: PhantomConfig) -> None:
        """For :class:`SidecarClient` and its listeners."""
        super().__init__(AsyncioRuntime(), config, session.peer_addr)
        self._client = client
        self.ref = session.ref
        self.received = 0  # the number of the last message received; the sidecar keeps those after it
        self._session_id = bytes.fromhex(session.id)
        self._state = state_of(session.state)
        self._cost = handshake_of(session.handshake)
        if session.HasField("peer_identity"):
            self._peer_key = HybridVerifyingKey.from_bytes(session.peer_identity.key)
        self._metrics = MetricsSnapshot()
        self._negotiated: Negotiated = negotiated_of(session.negotiated)
        self._learn(session)
        self._receiving = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._accepting = asyncio.Lock()
        self._openings = 0  # numbers of Opens
        self._streams_taken = 0  # the number of the last stream of the peer
        self._lost: PhantomError | None = None
        self._ending: asyncio.Task[bool] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._watching = client.spawn(self._watch())

    @classmethod
    def connect_with_transport(
        cls,
        peer_addr: str,
        transport: SessionTransport,
        server_key: Pins,
        *,
        config: PhantomConfig | None = None,
        runtime: Runtime | None = None,
        rng: RngProvider | None = None,
    ) -> PhantomSession:
        """UnsupportedError: the sidecar opens its transports itself."""
        raise UnsupportedError("a transport of this program cannot be used by the sidecar; connect by address")

    @property
    def client(self) -> SidecarClient:
        """Whose session it is."""
        return self._client

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def negotiated(self) -> Negotiated:
        """Version, suites, leg and epoch, as the sidecar said last."""
        return self._negotiated

    @property
    def handshake(self) -> HandshakeInfo:
        """Cost of the handshake between the sidecar and the peer."""
        return self._cost

    def queued_count(self) -> int:
        """Messages not yet handed to the leg in full, as the sidecar said last; asks it anew."""
        self._ask()
        return self._queued

    def metrics_snapshot(self) -> MetricsSnapshot:
        """Counts of this session as the sidecar said last; asks it anew."""
        self._ask()
        return self._metrics

    async def refresh(self, timeout: float | None = 10.0) -> None:
        """Asks the sidecar for everything that this object knows. SessionNotFoundError after ``disconnect``."""
        request = session_pb2.GetRequest(session=self.ref)
        self._learn((await self._client.call(self._client.session.Get, request, timeout)).session)
        await self._count(timeout)

    # --- readiness ----------------------------------------------------------------------------------------------------

    async def await_ready(self, timeout: float | None = None) -> None:
        """Returns when the peer is authenticated; on an accepted session when its first packet has opened (§6.4)."""
        request = session_pb2.AwaitReadyRequest(session=self.ref)
        async with time_limit(timeout, "the peer sent nothing"):
            try:
                self._learn((await self._client.call(self._client.session.AwaitReady, request)).session)
            except PhantomError as error:
                raise await self.reason(error) from None

    # --- messages -----------------------------------------------------------------------------------------------------

    async def send(self, data: BytesLike, timeout: float | None = None) -> None:
        """Queues one message (0 B to 16 MiB) whole; one over 1 MiB is sent in chunks.

        Errors as those of :meth:`PhantomSession.send`. A call that is out of time has nothing queued that will still
        be sent, unless the sidecar took the message at that very moment; one that is cancelled may have sent it or not.
        """
        payload = data if type(data) is bytes else own(data)
        most = max(limits.MAX_MESSAGE, self._config.max_message)
        if len(payload) > most:
            raise ValidationError(f"the message has {len(payload)} bytes; the limit is {most}")
        try:
            async with time_limit(timeout, "the sidecar did not confirm the message"), self._sending:
                await self._send(payload)
        except PhantomTimeoutError:
            await self.overtaken()
            raise

    async def _send(self, payload: bytes) -> None:
        try:
            if len(payload) > SIDECAR_MESSAGE_CAP:
                async with self.exchange(send_only=True) as exchange:
                    await exchange.send(payload)
            else:
                request = session_pb2.SendRequest(session=self.ref, data=payload)
                self._queued = (await self._client.call(self._client.session.Send, request)).queued
        except PhantomError as error:
            raise await self.reason(error) from None

    async def overtaken(self) -> None:
        """Returns when the sidecar has heard of what was cancelled before: from then on it no longer tries to send."""
        request = session_pb2.GetRequest(session=self.ref)
        try:
            await self._client.call(self._client.session.Get, request, _MARGIN)
        except PhantomError:
            return  # nobody is there to send anything

    async def recv(self, timeout: float | None = None) -> bytes:
        """The next message, exactly as it was sent; one over 1 MiB is received in chunks.

        A call that is cancelled or out of time loses nothing. After the end of the session come first the messages
        that had arrived, then ConnectionClosedError or what ended it; after ``disconnect`` of this side only that.
        """
        async with time_limit(timeout, "no message arrived"), self._receiving:
            request = session_pb2.RecvRequest(session=self.ref, ack=self.received)
            try:
                message = (await self._client.call(self._client.session.Recv, request)).message
            except FrameTooLargeError:
                async with self.exchange() as exchange:
                    return await exchange.recv()
            except PhantomError as error:
                raise await self.reason(error) from None
            self.received = message.seq
            return message.data

    def exchange(self, *, send_only: bool = False) -> SidecarExchange:
        """Messages of any size both ways at full speed, while the ``async with`` block runs."""
        client = self._client
        return SidecarExchange(
            self, lambda: client.session.Exchange(metadata=client.metadata), client.address, send_only=send_only
        )

    async def flush_queue(self, timeout: float | None = None) -> int:
        """Waits until everything queued so far is acknowledged by the peer; the number of bytes it waited for."""
        request = session_pb2.FlushRequest(session=self.ref)
        async with time_limit(timeout, "the peer did not acknowledge everything"):
            try:
                return (await self._client.call(self._client.session.Flush, request)).acknowledged
            except PhantomError as error:
                raise await self.reason(error) from None

    # --- streams ------------------------------------------------------------------------------------------------------

    async def open_stream(self, *, priority: int = 0, wait: bool = True, timeout: float | None = None) -> SidecarStream:
        """A new stream. Errors as those of :meth:`PhantomSession.open_stream`."""
        self._openings += 1
        request = stream_pb2.StreamServiceOpenRequest(
            session=self.ref, priority=check_priority(priority), no_wait=not wait, opening=self._openings
        )
        try:
            async with time_limit(timeout, "no stream could be opened"):
                reply = await self._client.call(self._client.stream.Open, request)
        except PhantomTimeoutError:
            self._give_up(request.opening)
            raise
        except PhantomError as error:
            raise await self.reason(error) from None
        except asyncio.CancelledError:
            self._give_up(request.opening)
            raise
        return SidecarStream(self, reply.stream)

    def _give_up(self, opening: int) -> None:
        """The answer to an Open never came, but the stream may be open, or be opened yet."""
        self._client.release(stream_pb2.StreamServiceReleaseRequest(session=self.ref, opening=opening))

    async def accept_stream(self, timeout: float | None = None) -> SidecarStream:
        """The next stream that the peer opened. A call that is cancelled or out of time loses none."""
        async with time_limit(timeout, "the peer opened no stream"), self._accepting:
            request = stream_pb2.StreamServiceAcceptRequest(session=self.ref, ack=self._streams_taken)
            try:
                accepted = (await self._client.call(self._client.stream.Accept, request)).accepted
            except PhantomError as error:
                raise await self.reason(error) from None
            self._streams_taken = accepted.seq
            return SidecarStream(self, accepted.stream)

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def rekey(self, timeout: float | None = None) -> int:
        """Changes the keys of both directions; the new epoch."""
        async with time_limit(timeout, "the keys could not be changed"):
            try:
                reply = await self._client.call(self._client.session.Rekey, session_pb2.RekeyRequest(session=self.ref))
            except PhantomError as error:
                raise await self.reason(error) from None
        self._negotiated = replace(self._negotiated, epoch=max(self._negotiated.epoch, reply.epoch))
        return reply.epoch

    def export_keying_material(self, label: str, length: int = limits.EXPORT_LENGTH) -> bytes:
        """UnsupportedError: the sidecar has the key, and asking it takes an ``await`` of :meth:`keying_material`."""
        raise UnsupportedError("the sidecar has the key of this session; use `await session.keying_material(label)`")

    async def keying_material(
        self, label: str, length: int = limits.EXPORT_LENGTH, timeout: float | None = 10.0
    ) -> bytes:
        """What :meth:`PhantomSession.export_keying_material` gives, from the sidecar."""
        if not isinstance(label, str):
            raise ValidationError(f"a label is text, not {type(label).__name__}")
        if not 1 <= length <= MAX_EXPORT_LEN:
            raise ValidationError(f"keying material has 1 to {MAX_EXPORT_LEN} bytes, not {length}")
        request = session_pb2.ExportKeyingMaterialRequest(session=self.ref, label=label, length=length)
        try:
            return (
                await self._client.call(self._client.session.ExportKeyingMaterial, request, timeout)
            ).keying_material
        except PhantomError as error:
            raise await self.reason(error) from None

    # --- the end ------------------------------------------------------------------------------------------------------

    async def disconnect(self, code: int = 0, timeout: float | None = None) -> bool:
        """Flushes, closes the session with ``code`` (0 to 65535) and frees it in the sidecar; idempotent.

        True if the peer acknowledged everything. Cancelled, it ends the session at once, and a later call has the
        answer. False as well if the sidecar or the lease is gone, and the session with it.
        """
        if not 0 <= code <= 0xFFFF:
            raise ValidationError("a close code is a number from 0 to 65535")
        if self._ending is None:
            self._ending = self._client.spawn(self._disconnect(code, timeout))
        elif timeout is not None:
            self._shorten(code, timeout)
        try:
            await asyncio.wait([self._ending])
        except asyncio.CancelledError:
            self._shorten(code, 0.0)
            raise
        return not self._ending.cancelled() and self._ending.result()

    async def _disconnect(self, code: int, timeout: float | None) -> bool:
        client = self._client
        if not client.is_open:
            return False
        # Both are begun at once, so that no later call of this session can come between or before them.
        counting = client.session.GetMetrics(self._counting(), metadata=client.metadata)  # nobody can ask later
        call = client.session.Disconnect(self._closing(code, timeout), metadata=client.metadata)
        acknowledged = False
        try:
            acknowledged = (await call).all_acknowledged
            for key, value in await call.trailing_metadata():
                if key == TRAILER and isinstance(value, bytes):
                    self._lost = from_detail(ErrorDetail.FromString(value))
            self._metrics = metrics_of((await counting).metrics)
        except grpc.aio.AioRpcError as failed:
            error = from_rpc_error(failed, client.address)
            if not isinstance(error, NetworkError | SessionNotFoundError):
                raise error from None
        finally:
            counting.cancel()
        await asyncio.wait([self._watching])
        return acknowledged

    def _shorten(self, code: int, timeout: float) -> None:
        """Gives a disconnect that is under way less time."""
        if self._ending is not None and not self._ending.done():
            self._client.spawn(self._hurry(self._closing(code, timeout)))

    async def _hurry(self, request: session_pb2.DisconnectRequest) -> None:
        try:
            await self._client.call(self._client.session.Disconnect, request)
        except PhantomError:
            return  # it is over

    def _closing(self, code: int, timeout: float | None) -> session_pb2.DisconnectRequest:
        request = session_pb2.DisconnectRequest(session=self.ref, code=code)
        if timeout is not None:
            request.timeout.CopyFrom(duration(timeout))
        return request

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not await self.disconnect() and kind is None:
            raise self._lost or ConnectionClosedError("the session ended before the peer acknowledged everything")

    # --- following the sidecar ----------------------------------------------------------------------------------------

    def _learn(self, session: session_pb2.Session) -> None:
        self._negotiated = negotiated_of(session.negotiated)
        self._queued = session.queued
        if session.HasField("last_error"):
            self._error = from_detail(session.last_error)

    async def _count(self, timeout: float | None) -> None:
        reply = await self._client.call(self._client.session.GetMetrics, self._counting(), timeout)
        self._metrics = metrics_of(reply.metrics)

    def _counting(self) -> session_pb2.SessionServiceGetMetricsRequest:
        return session_pb2.SessionServiceGetMetricsRequest(session=self.ref)

    def _ask(self) -> None:
        if self._ending is None and self._client.is_open and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = self._client.spawn(self.refresh())

    async def _watch(self) -> None:
        """Follows the state until the session is over, or until nobody can say any more."""
        client = self._client
        call = client.session.WatchEvents(session_pb2.WatchEventsRequest(session=self.ref), metadata=client.metadata)
        try:
            async for answer in call:
                kind = answer.event.WhichOneof("event")
                if kind == "state_changed":
                    changed = answer.event.state_changed
                    await self._enter(state_of(changed.state), changed.reason)
                elif kind == "rekeyed":
                    rekeyed = answer.event.rekeyed
                    self._negotiated = replace(self._negotiated, epoch=rekeyed.epoch)
                    self._tell(Rekeyed(rekeyed.epoch, rekeyed.by_peer, rekeyed.reason))
        except grpc.aio.AioRpcError as failed:
            error = from_rpc_error(failed, client.address)
            if isinstance(error, SessionNotFoundError):
                await self._enter(ConnectionState.CLOSED, str(error))
            else:
                self._error = error
                await self._enter(ConnectionState.DEAD, str(error))
        finally:
            call.cancel()

    async def _enter(self, state: ConnectionState, reason: str) -> None:
        if state is self._state:
            return  # the first answer of a stream says where it begins
        if state in _FINAL and self._error is None:
            await self._is_over()  # the reason is there before the event is
        self._move(StateChanged(self._state, state, reason or str(self._error or "the session is over")))

    async def _is_over(self) -> bool:
        request = session_pb2.GetRequest(session=self.ref)
        try:
            session = (await self._client.call(self._client.session.Get, request)).session
        except PhantomError:
            return True
        self._learn(session)
        return state_of(session.state) in _FINAL

    async def reason(self, error: PhantomError) -> PhantomError:
        """For streams, too: the error for the caller, once the state says so too."""
        if await self._is_over():
            await asyncio.wait([self._watching])
        if isinstance(error, SessionNotFoundError):
            return self._error or ConnectionClosedError("the session is closed: this side closed it")
        return error


class SidecarConnecting(Connecting):
    """A connect through the sidecar that has not begun: ``await`` it for the session, or ``async with`` it."""

    __slots__ = ("_client", "_given", "_request")

    def __init__(
        self,
        client: SidecarClient,
        request: session_pb2.ConnectRequest,
        identity: HybridSigningKey | SidecarKey | None,
        config: PhantomConfig,
        timeout: float | None,
    ) -> None:
        """For :meth:`SidecarClient.connect`."""
        self._client = client
        self._given = identity
        self._request = request
        self._config = config
        self._session: PhantomSession | None = None
        self._timeout = limits.CONNECT_TIMEOUT if timeout is None else timeout

    def __await__(self) -> Generator[None, None, SidecarSession]:
        return self._connect().__await__()

    async def __aenter__(self) -> SidecarSession:
        self._session = session = await self._connect()
        return session

    async def _connect(self) -> SidecarSession:
        client, request = self._client, self._request
        request.lease_id = client.lease_id
        request.timeout.CopyFrom(duration(self._timeout))
        async with lent(client, self._given) as identity:
            if identity is not None:
                request.identity.handle = identity.handle
            reply = await client.call(client.session.Connect, request, self._timeout + _MARGIN)
        return SidecarSession(client, reply.session, self._config)
