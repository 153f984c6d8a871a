"""The Python client of the sidecar: generated stubs, with the errors and habits of the API.

``SidecarClient`` finds address and token by argument, by PHANTOM_SIDECAR_ADDRESS and PHANTOM_SIDECAR_TOKEN_FILE, or in
the runtime directory of the user; compares the contract version in its first call; and holds one lease, so that all it
opened is closed when it goes. Everything here belongs to one event loop; any number of tasks may use it.

Every ``timeout`` is in seconds, None for no limit, and ends in PhantomTimeoutError. Calls raise the errors of the API
as the sidecar met them, NetworkError if it cannot be reached, AccessDeniedError if it refuses the token.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc.aio
from grpc_health.v1 import health, health_pb2

from phantom.config import PhantomConfig
from phantom.crypto.pins import Pins
from phantom.errors import (
    ConfigError,
    ConnectionClosedError,
    ContractVersionError,
    FrameTooLargeError,
    NetworkError,
    PhantomTimeoutError,
    RuntimeInitError,
)
from phantom.limits import SIDECAR_MESSAGE_CAP, KiB
from phantom.sidecar import access
from phantom.sidecar._generated.v1 import common_pb2, identity_pb2, listener_pb2, session_pb2, sidecar_pb2
from phantom.sidecar._generated.v1.identity_pb2_grpc import IdentityServiceStub
from phantom.sidecar._generated.v1.listener_pb2_grpc import ListenerServiceStub
from phantom.sidecar._generated.v1.session_pb2_grpc import SessionServiceStub
from phantom.sidecar._generated.v1.sidecar_pb2_grpc import SidecarServiceStub
from phantom.sidecar.client_exchange import SidecarExchange
from phantom.sidecar.convert import config_message, duration, pin_messages
from phantom.sidecar.status import from_rpc_error

__all__ = ["SidecarClient", "SidecarExchange", "SidecarListener", "SidecarSession", "SigningKey"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_CONTRACT_VERSION: Final[int] = sidecar_pb2.CONTRACT_VERSION_CURRENT
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_MARGIN: Final = 2.0  # s that the sidecar has to say how a call ended whose limit it keeps itself
_LIMITS: Final = [
    ("grpc.max_receive_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
    ("grpc.max_send_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
    ("grpc.enable_http_proxy", 0),  # nobody between us and the loopback interface
    ("grpc.use_local_subchannel_pool", 1),  # a connection of one's own: no other client's broken one is inherited
]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key that the sidecar holds, and its public half (1984 bytes)."""

    handle: int
    verifying_key: bytes
    fingerprint: str


class SidecarClient:
    """A connection to the sidecar and a lease; an async context manager, or :meth:`open` and :meth:`close`.

    ``address`` is ``unix:PATH`` or ``127.0.0.1:PORT``.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.address = address or environ.get("PHANTOM_SIDECAR_ADDRESS") or f"unix:{access.default_socket(environ)}"
        self.token_file = Path(
            token_file or environ.get("PHANTOM_SIDECAR_TOKEN_FILE") or access.token_path(self.address, environ)
        )
        self._channel: grpc.aio.Channel | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._info: sidecar_pb2.Info | None = None

    # --- the connection -----------------------------------------------------------------------------------------------

    async def open(self, timeout: float | None = 10.0) -> None:
        """Reads the token, compares the contract version and opens the lease.

        NetworkError if no sidecar is there, AccessDeniedError or ConfigError if its files are not this user's alone or
        the token is wrong, ContractVersionError if it speaks another version of the interface.
        """
        token = self._find()
        self._metadata = (("authorization", f"Bearer {token.decode('ascii')}"),)
        self._channel = channel = grpc.aio.insecure_channel(self.address, options=_LIMITS)
        self.sidecar = SidecarServiceStub(channel)
        self.identity = IdentityServiceStub(channel)
        self.listener = ListenerServiceStub(channel)
        self.session = SessionServiceStub(channel)
        try:
            async with time_limit(timeout, f"the sidecar at {self.address} did not answer"):
                request = sidecar_pb2.GetInfoRequest(contract_version=_CONTRACT_VERSION)
                self._info = (await self.call(self.sidecar.GetInfo, request)).info
                if self._info.contract_version != _CONTRACT_VERSION:
                    raise ContractVersionError(
                        f"the sidecar has contract version {self._info.contract_version} and this client"
                        f" {_CONTRACT_VERSION}; install the same version of Phantom on both sides"
                    )
                lease = (await self.call(self.sidecar.OpenLease, sidecar_pb2.OpenLeaseRequest())).lease
                self.lease_id = lease.id
                self._keeping = self.sidecar.KeepLease(metadata=self._metadata)
                await self._ping(release=False)
        except BaseException:
            await channel.close()
            raise

    async def close(self) -> None:
        """Ends the lease, which closes everything that this client opened, and the connection. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            await self._ping(release=True)
        except NetworkError:
            pass  # it is gone, and the lease with it
        finally:
            await channel.close()

    async def _ping(self, *, release: bool) -> None:
        request = sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=self.lease_id, release=release))
        try:
            await self._keeping.write(request)
            await self._keeping.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None
        except asyncio.InvalidStateError:
            raise NetworkError(f"the sidecar at {self.address} ended the lease") from None

    def _find(self) -> bytes:
        if self.address.startswith("unix:"):
            path = Path(self.address.removeprefix("unix:")).absolute()
            if not os.path.lexists(path):
                raise NetworkError(f"there is no sidecar at {path}; start one with `phantom sidecar`")
            access.check_private_directory(path.parent)
        elif self.address.rpartition(":")[0] not in _LOOPBACK:
            raise ConfigError(f"{self.address} is not on this machine; use unix:PATH or 127.0.0.1:PORT")
        return access.read_token(self.token_file)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        """One call of a stub of this client (``client.session.Get`` and the like) with token, errors and deadline."""
        if self._channel is None:
            raise RuntimeInitError("the client is not open; use `async with SidecarClient() as client`")
        try:
            return await method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: the token."""
        return self._metadata

    @property
    def info(self) -> sidecar_pb2.Info:
        """What the sidecar is; RuntimeInitError unless the client was opened."""
        if self._info is None:
            raise RuntimeInitError("the client is not open; use `async with SidecarClient() as client`")
        return self._info

    async def health(self, timeout: float | None = 5.0) -> sidecar_pb2.HealthStatus:
        """Whether the sidecar is live and ready, and what it misses."""
        return (await self.call(self.sidecar.Health, sidecar_pb2.HealthRequest(), timeout)).status

    async def wait_ready(self, timeout: float) -> None:
        """Returns when the sidecar can serve; PhantomTimeoutError, which says what it misses, if it cannot in time."""
        if self._channel is None:
            raise RuntimeInitError("the client is not open; use `async with SidecarClient() as client`")
        method = self._channel.unary_stream(
            f"/{health.SERVICE_NAME}/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        watch = method(health_pb2.HealthCheckRequest(), metadata=self._metadata)
        try:
            async with asyncio.timeout(timeout):
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
        except TimeoutError:
            missing = ", ".join((await self.health()).missing)
            raise PhantomTimeoutError(f"the sidecar was not ready within {timeout:g} s: {missing}") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None
        finally:
            watch.cancel()

    async def self_tests(self, provider: str = "", timeout: float | None = 60.0) -> sidecar_pb2.SelfTestReport:
        """Tests the cryptography of the sidecar anew; SelfTestFailureError if something is wrong."""
        request = sidecar_pb2.RunSelfTestsRequest(provider=provider)
        return (await self.call(self.sidecar.RunSelfTests, request, timeout)).report

    # --- what it opens ------------------------------------------------------------------------------------------------

    async def connect(
        self, target: str, pin: Pins | None = None, *, config: PhantomConfig | None = None, timeout: float | None = None
    ) -> SidecarSession:
        """A session to ``target``, as :func:`phantom.connect`: it returns only after the peer is authenticated."""
        request = session_pb2.ConnectRequest(lease_id=self.lease_id, target=target, pins=pin_messages(pin))
        if config is not None:
            request.config.CopyFrom(config_message(config))
        if timeout is not None:
            request.timeout.CopyFrom(duration(timeout))
        deadline = None if timeout is None else timeout + _MARGIN
        return SidecarSession(self, (await self.call(self.session.Connect, request, deadline)).session)

    async def listen(
        self,
        *addresses: str,
        key: SigningKey | None = None,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
        timeout: float | None = 10.0,
    ) -> SidecarListener:
        """A listener on ``addresses``, as :func:`phantom.listen`."""
        request = listener_pb2.BindRequest(lease_id=self.lease_id, addresses=addresses, reuse_port=reuse_port)
        if key is not None:
            request.key.handle = key.handle
        if config is not None:
            request.config.CopyFrom(config_message(config))
        return SidecarListener(self, (await self.call(self.listener.Bind, request, timeout)).listener)

    async def generate_signing_key(self, timeout: float | None = 10.0) -> SigningKey:
        """A new signing key that stays inside the sidecar."""
        request = identity_pb2.GenerateSigningKeyRequest(lease_id=self.lease_id)
        reply = await self.call(self.identity.GenerateSigningKey, request, timeout)
        return _signing_key(reply.key, reply.verifying_key)

    async def import_signing_key(
        self, source: bytes | bytearray | memoryview | str | os.PathLike[str], timeout: float | None = 10.0
    ) -> SigningKey:
        """A signing key from its 64-byte seed, or from a key file that the sidecar reads."""
        request = identity_pb2.ImportSigningKeyRequest(lease_id=self.lease_id, source=_key_source(source))
        reply = await self.call(self.identity.ImportSigningKey, request, timeout)
        return _signing_key(reply.key, reply.verifying_key)

    async def drop_signing_key(self, key: SigningKey, timeout: float | None = 10.0) -> None:
        """Wipes a signing key; listeners bound with it keep working."""
        request = identity_pb2.DropSigningKeyRequest(key=identity_pb2.SigningKeyRef(handle=key.handle))
        await self.call(self.identity.DropSigningKey, request, timeout)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class SidecarSession:
    """A session of the sidecar. An async context manager that disconnects, and an async iterable over messages."""

    def __init__(self, client: SidecarClient, session: session_pb2.Session) -> None:
        """For :meth:`SidecarClient.connect` and :meth:`SidecarListener.accept`."""
        self._client = client
        self.info = session  # as it was when it was opened; get() has it as it is now
        self.ref = session.ref
        self.received = 0  # the number of the last message received; the sidecar keeps those after it
        self._receiving = asyncio.Lock()
        self._disconnected: bool | None = None

    @property
    def id(self) -> str:
        """The session id, 64 hexadecimal characters."""
        return self.info.id

    @property
    def peer_addr(self) -> str:
        """``HOST:PORT`` of the peer."""
        return self.info.peer_addr

    async def get(self, timeout: float | None = 10.0) -> session_pb2.Session:
        """The session as it is now."""
        request = session_pb2.GetRequest(session=self.ref)
        return (await self._client.call(self._client.session.Get, request, timeout)).session

    async def await_ready(self, timeout: float | None = None) -> None:
        """Returns when the peer was heard under the session's keys."""
        request = session_pb2.AwaitReadyRequest(session=self.ref)
        await self._client.call(self._client.session.AwaitReady, request, timeout)

    async def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> None:
        """Queues one message of any size; one over 1 MiB is sent in chunks.

        A call that is cancelled or out of time may have sent its message or not.
        """
        if len(data) <= SIDECAR_MESSAGE_CAP:
            request = session_pb2.SendRequest(session=self.ref, data=bytes(data))
            await self._client.call(self._client.session.Send, request, timeout)
            return
        async with time_limit(timeout, "the message was not queued"), self.exchange(send_only=True) as exchange:
            await exchange.send(data)

    async def recv(self, timeout: float | None = None) -> bytes:
        """The next message, exactly as it was sent; one over 1 MiB is received in chunks.

        A call that is cancelled or out of time loses nothing. After the end of the session come first the messages
        that had arrived, then ConnectionClosedError or what ended it.
        """
        async with time_limit(timeout, "no message arrived"), self._receiving:
            request = session_pb2.RecvRequest(session=self.ref, ack=self.received)
            try:
                message = (await self._client.call(self._client.session.Recv, request)).message
            except FrameTooLargeError:
                async with self.exchange() as exchange:
                    return await exchange.recv()
            self.received = message.seq
            return message.data

    def exchange(self, *, send_only: bool = False) -> SidecarExchange:
        """Messages of any size both ways at full speed, while the ``async with`` block runs."""
        client = self._client
        return SidecarExchange(
            self, lambda: client.session.Exchange(metadata=client.metadata), client.address, send_only=send_only
        )

    async def events(self) -> AsyncIterator[session_pb2.SessionEvent]:
        """The state now, then every change, until the session ended."""
        call = self._client.session.WatchEvents(
            session_pb2.WatchEventsRequest(session=self.ref), metadata=self._client.metadata
        )
        try:
            async for answer in call:
                yield answer.event
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._client.address) from None
        finally:
            call.cancel()

    async def flush(self, timeout: float | None = None) -> int:
        """Waits until everything queued is acknowledged; the number of bytes it waited for."""
        request = session_pb2.FlushRequest(session=self.ref)
        return (await self._client.call(self._client.session.Flush, request, timeout)).acknowledged

    async def metrics(self, timeout: float | None = 10.0) -> common_pb2.MetricsSnapshot:
        """What went over the session."""
        request = session_pb2.SessionServiceGetMetricsRequest(session=self.ref)
        return (await self._client.call(self._client.session.GetMetrics, request, timeout)).metrics

    async def disconnect(self, code: int = 0, timeout: float | None = None) -> bool:
        """Sends what is queued and closes the session; idempotent. True if the peer acknowledged everything."""
        if self._disconnected is None:
            request = session_pb2.DisconnectRequest(session=self.ref, code=code)
            if timeout is not None:
                request.timeout.CopyFrom(duration(timeout))
            reply = await self._client.call(self._client.session.Disconnect, request)
            self._disconnected = reply.all_acknowledged
        return self._disconnected

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        while True:
            try:
                message = await self.recv()
            except ConnectionClosedError as closed:
                if not closed.peer_code:
                    return
                raise
            yield message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not await self.disconnect() and kind is None:
            raise ConnectionClosedError("the session ended before the peer acknowledged everything")


class SidecarListener:
    """A listener of the sidecar. An async context manager that shuts it down, and an async iterable over sessions."""

    def __init__(self, client: SidecarClient, listener: listener_pb2.Listener) -> None:
        """For :meth:`SidecarClient.listen`."""
        self._client = client
        self.ref = listener.ref
        self.addresses = tuple(listener.addresses)
        self.urls = tuple(listener.urls)  # with the pin, ready for connect
        self.verifying_key = listener.verifying_key.key
        self._accepted = 0
        self._accepting = asyncio.Lock()

    async def accept(self, timeout: float | None = None) -> SidecarSession:
        """The next session; ConnectionClosedError after shutdown. Cancelled or out of time, it loses none."""
        async with time_limit(timeout, "no session arrived"), self._accepting:
            request = listener_pb2.AcceptRequest(listener=self.ref, ack=self._accepted)
            accepted = (await self._client.call(self._client.listener.Accept, request)).accepted
            self._accepted = accepted.seq
            return SidecarSession(self._client, accepted.session)

    async def metrics(self, timeout: float | None = 10.0) -> common_pb2.MetricsSnapshot:
        """What went through the listener and its sessions."""
        request = listener_pb2.ListenerServiceGetMetricsRequest(listener=self.ref)
        return (await self._client.call(self._client.listener.GetMetrics, request, timeout)).metrics

    async def shutdown(self, timeout: float | None = 10.0) -> None:
        """Stops accepting; established sessions go on."""
        request = listener_pb2.ShutdownRequest(listener=self.ref)
        await self._client.call(self._client.listener.Shutdown, request, timeout)

    async def __aiter__(self) -> AsyncIterator[SidecarSession]:
        while True:
            try:
                session = await self.accept()
            except ConnectionClosedError:
                return
            yield session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown()


@asynccontextmanager
async def time_limit(timeout: float | None, what: str) -> AsyncGenerator[None, None]:
    """Ends the block after ``timeout`` seconds with PhantomTimeoutError saying ``what`` did not happen."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise  # one of the sidecar's own
        raise PhantomTimeoutError(f"{what} within {timeout:g} s") from None


def _signing_key(ref: identity_pb2.SigningKeyRef, key: common_pb2.VerifyingKey) -> SigningKey:
    return SigningKey(ref.handle, key.key, key.fingerprint)


def _key_source(source: bytes | bytearray | memoryview | str | os.PathLike[str]) -> identity_pb2.SigningKeySource:
    if isinstance(source, bytes | bytearray | memoryview):
        return identity_pb2.SigningKeySource(seed=bytes(source))
    return identity_pb2.SigningKeySource(path=os.path.abspath(source))
