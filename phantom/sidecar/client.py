"""The Python client of the sidecar: the API again, with the sessions in another process.

``SidecarClient`` has the functions of the package ``phantom``: ``connect``, ``listen`` and the others, which give the
same classes and raise the same errors. A program that takes one of the two as an argument (:class:`Api`) runs on both.

A client finds address and token by argument, by PHANTOM_SIDECAR_ADDRESS and PHANTOM_SIDECAR_TOKEN_FILE, or in the
runtime directory of the user; compares the contract version in its first call; and holds one lease, so that all it
opened is closed when it goes. Everything here belongs to one event loop; any number of tasks may use it.

Every ``timeout`` is in seconds, None for no limit, and ends in PhantomTimeoutError. Calls raise the errors of the API
as the sidecar met them, NetworkError if it cannot be reached, AccessDeniedError if it refuses the token.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import grpc.aio
from grpc_health.v1 import health, health_pb2

from phantom.api import connecting, listener
from phantom.api import identity as identities
from phantom.api.clients import ClientPolicy
from phantom.api.connecting import Connecting
from phantom.api.endpoint import Address
from phantom.api.listener import Binding
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.pins import Pins
from phantom.errors import (
    AccessDeniedError,
    ConfigError,
    ContractVersionError,
    NetworkError,
    PhantomTimeoutError,
    RuntimeInitError,
)
from phantom.limits import SIDECAR_MESSAGE_CAP, KiB
from phantom.sidecar import access
from phantom.sidecar._generated.v1 import (
    common_pb2,
    identity_pb2,
    listener_pb2,
    session_pb2,
    sidecar_pb2,
    stream_pb2,
)
from phantom.sidecar._generated.v1.identity_pb2_grpc import IdentityServiceStub
from phantom.sidecar._generated.v1.listener_pb2_grpc import ListenerServiceStub
from phantom.sidecar._generated.v1.session_pb2_grpc import SessionServiceStub
from phantom.sidecar._generated.v1.sidecar_pb2_grpc import SidecarServiceStub
from phantom.sidecar._generated.v1.stream_pb2_grpc import StreamServiceStub
from phantom.sidecar.client_exchange import SidecarExchange
from phantom.sidecar.client_keys import ANYBODY, SidecarKey
from phantom.sidecar.client_listener import SidecarBinding, SidecarListener
from phantom.sidecar.client_session import SidecarConnecting, SidecarSession
from phantom.sidecar.client_stream import SidecarStream
from phantom.sidecar.client_time import time_limit
from phantom.sidecar.convert import config_message, pin_messages, policy_message
from phantom.sidecar.status import from_rpc_error

__all__ = [
    "Api",
    "SidecarClient",
    "SidecarExchange",
    "SidecarKey",
    "SidecarListener",
    "SidecarSession",
    "SidecarStream",
]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Result = TypeVar("_Result")
_CONTRACT_VERSION: Final[int] = sidecar_pb2.CONTRACT_VERSION_CURRENT
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_AGAIN: Final = 0.05  # s between two looks for a sidecar that is being started
_CLOSED: Final = "the client is not open; use `async with SidecarClient() as client`"
_LIMITS: Final = [
    ("grpc.max_receive_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
    ("grpc.max_send_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
    ("grpc.enable_http_proxy", 0),  # nobody between us and the loopback interface
    ("grpc.use_local_subchannel_pool", 1),  # a connection of one's own: no other client's broken one is inherited
]


class Api(Protocol):
    """What a program needs that runs on either: the package ``phantom`` and an open :class:`SidecarClient` have it."""

    def connect(
        self,
        target: str,
        pin: Pins | None = None,
        *,
        identity: HybridSigningKey | None = None,
        config: PhantomConfig | None = None,
        timeout: float | None = None,
    ) -> Connecting:
        """See :func:`phantom.connect`."""

    def connect_pinned(
        self,
        host: str,
        port: int,
        pinned_key: Pins,
        *,
        leg: str = "tcp",
        identity: HybridSigningKey | None = None,
        config: PhantomConfig | None = None,
        timeout: float | None = None,
    ) -> Connecting:
        """See :func:`phantom.connect_pinned`."""

    def listen(
        self,
        *addresses: str,
        key: HybridSigningKey | None = None,
        clients: ClientPolicy = ANYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
    ) -> Binding:
        """See :func:`phantom.listen`."""

    def generate_signing_key(self) -> HybridSigningKey:
        """See :func:`phantom.generate_signing_key`."""

    def verifying_key_from_signing_key(self, seed: bytes | bytearray | memoryview) -> bytes:
        """See :func:`phantom.verifying_key_from_signing_key`."""


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
        self._lease_id = 0
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- the connection -----------------------------------------------------------------------------------------------

    async def open(self, timeout: float | None = 10.0) -> Self:
        """Reads the token, compares the contract version and opens the lease; does not wait for a sidecar to come.

        NetworkError if no sidecar is there, AccessDeniedError or ConfigError if its files are not this user's alone or
        the token is wrong, ContractVersionError if it speaks another version of the interface. Open already, it does
        nothing. Returns the client.
        """
        async with self._opening:
            if self._channel is None:
                await self._open(timeout)
        return self

    async def _open(self, timeout: float | None) -> None:
        token = self._find()
        self._metadata = (("authorization", f"Bearer {token.decode('ascii')}"),)
        channel = grpc.aio.insecure_channel(self.address, options=_LIMITS)
        self.sidecar = SidecarServiceStub(channel)
        self.identity = IdentityServiceStub(channel)
        self.listener = ListenerServiceStub(channel)
        self.session = SessionServiceStub(channel)
        self.stream = StreamServiceStub(channel)
        try:
            async with time_limit(timeout, f"the sidecar at {self.address} did not answer"):
                request = sidecar_pb2.GetInfoRequest(contract_version=_CONTRACT_VERSION)
                info = (await self._call(self.sidecar.GetInfo, request)).info
                if info.contract_version != _CONTRACT_VERSION:
                    raise ContractVersionError(
                        f"the sidecar has contract version {info.contract_version} and this client"
                        f" {_CONTRACT_VERSION}; install the same version of Phantom on both sides"
                    )
                lease = (await self._call(self.sidecar.OpenLease, sidecar_pb2.OpenLeaseRequest())).lease
                self._lease_id = lease.id
                self._keeping = self.sidecar.KeepLease(metadata=self._metadata)
                await self._ping(release=False)
        except BaseException:
            await channel.close()
            raise
        self._channel, self._info = channel, info

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
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await channel.close()

    async def _ping(self, *, release: bool) -> None:
        request = sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=self._lease_id, release=release))
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

    def _has_token_file(self) -> bool:
        return os.path.lexists(self.token_file)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        """One call of a stub of this client (``client.session.Get`` and the like) with token, errors and deadline."""
        if self._channel is None:
            raise RuntimeInitError(_CLOSED)
        return await self._call(method, request, timeout)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        try:
            return await method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    def spawn(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Runs what no caller waits for, at the longest until this client is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def release(self, request: stream_pb2.StreamServiceReleaseRequest) -> None:
        """Frees the handle of a stream that nobody has any more."""
        if self._channel is not None:
            self.spawn(self.call(self.stream.Release, request))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever wants it awaits the task

    @property
    def is_open(self) -> bool:
        """Whether calls can be made: from ``open`` to ``close``."""
        return self._channel is not None

    @property
    def lease_id(self) -> int:
        """The lease; RuntimeInitError unless the client is open."""
        if self._channel is None:
            raise RuntimeInitError(_CLOSED)
        return self._lease_id

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: the token."""
        return self._metadata

    @property
    def info(self) -> sidecar_pb2.Info:
        """What the sidecar is; RuntimeInitError unless the client was opened."""
        if self._info is None:
            raise RuntimeInitError(_CLOSED)
        return self._info

    async def health(self, timeout: float | None = 5.0) -> sidecar_pb2.HealthStatus:
        """Whether the sidecar is live and ready, and what it misses."""
        return (await self.call(self.sidecar.Health, sidecar_pb2.HealthRequest(), timeout)).status

    async def wait_ready(self, timeout: float) -> None:
        """Returns when there is a sidecar and it can serve; opens the client if it is not open.

        PhantomTimeoutError, which says what is missing, if that is not so in time: the sidecar itself, its token file,
        its self-tests. What waiting does not cure is raised at once: ContractVersionError, ConfigError for files that
        others could reach, AccessDeniedError for a wrong token, NetworkError if an open sidecar is gone.
        """
        missing = [f"the sidecar at {self.address} did not answer"]
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while self._channel is None:
                    try:
                        await self.open(None)
                    except (NetworkError, AccessDeniedError) as error:
                        if isinstance(error, AccessDeniedError) and self._has_token_file():
                            raise
                        missing = [str(error)]
                        await asyncio.sleep(_AGAIN)
                missing = [f"the sidecar at {self.address} did not say how it is"]
                async with aclosing(self._statuses(self._channel)) as statuses:
                    async for status in statuses:
                        if status.ready:
                            return
                        missing = list(status.missing)
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"the sidecar was not ready within {timeout:g} s: {', '.join(missing)}"
            raise PhantomTimeoutError(text) from None

    async def _statuses(self, channel: grpc.aio.Channel) -> AsyncGenerator[sidecar_pb2.HealthStatus, None]:
        """How the sidecar is, now and whenever that changes."""
        method = channel.unary_stream(
            f"/{health.SERVICE_NAME}/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        watch = method(health_pb2.HealthCheckRequest(), metadata=self._metadata)
        try:
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    yield sidecar_pb2.HealthStatus(live=True, ready=True)
                else:
                    yield await self.health(None)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None
        finally:
            watch.cancel()

    async def self_tests(self, provider: str = "", timeout: float | None = 60.0) -> sidecar_pb2.SelfTestReport:
        """Tests the cryptography of the sidecar anew; SelfTestFailureError if something is wrong."""
        request = sidecar_pb2.RunSelfTestsRequest(provider=provider)
        return (await self.call(self.sidecar.RunSelfTests, request, timeout)).report

    # --- what it opens ------------------------------------------------------------------------------------------------

    def connect(
        self,
        target: str,
        pin: Pins | None = None,
        *,
        identity: HybridSigningKey | SidecarKey | None = None,
        config: PhantomConfig | None = None,
        timeout: float | None = None,
    ) -> SidecarConnecting:
        """:func:`phantom.connect`, through the sidecar: arguments are checked here, and the rest when it is awaited.

        The seed of a HybridSigningKey is given to the sidecar, which keeps it until the session is there; a SidecarKey
        never leaves the sidecar.
        """
        connecting.connect(target, pin, config=config, timeout=timeout)
        request = session_pb2.ConnectRequest(target=target, pins=pin_messages(pin))
        if config is not None:
            request.config.CopyFrom(config_message(config))
        return SidecarConnecting(self, request, identity, config or PhantomConfig(), timeout)

    def connect_pinned(
        self,
        host: str,
        port: int,
        pinned_key: Pins,
        *,
        leg: str = "tcp",
        identity: HybridSigningKey | SidecarKey | None = None,
        config: PhantomConfig | None = None,
        timeout: float | None = None,
    ) -> SidecarConnecting:
        """The same as :meth:`connect` to ``LEG://HOST:PORT`` with ``pinned_key``."""
        return self.connect(
            Address(leg, host, port).url(), pinned_key, identity=identity, config=config, timeout=timeout
        )

    def listen(
        self,
        *addresses: str,
        key: HybridSigningKey | SidecarKey | None = None,
        clients: ClientPolicy = ANYBODY,
        reuse_port: bool = False,
        config: PhantomConfig | None = None,
    ) -> SidecarBinding:
        """:func:`phantom.listen`, through the sidecar: arguments are checked here, and the rest when it is awaited.

        The seed of a HybridSigningKey is given to the sidecar, which keeps it as long as the listener lives; a
        SidecarKey never leaves the sidecar. A file of authorised clients is read by the sidecar; a function cannot
        judge clients there (UnsupportedError).
        """
        listener.listen(*addresses, reuse_port=reuse_port, config=config)
        request = listener_pb2.BindRequest(addresses=addresses, clients=policy_message(clients), reuse_port=reuse_port)
        if config is not None:
            request.config.CopyFrom(config_message(config))
        return SidecarBinding(self, request, key, config or PhantomConfig())

    # --- keys ---------------------------------------------------------------------------------------------------------

    def generate_signing_key(self) -> HybridSigningKey:
        """:func:`phantom.generate_signing_key`: a key of this program. :meth:`generate_sidecar_key` makes the other."""
        return identities.generate_signing_key()

    def verifying_key_from_signing_key(self, seed: bytes | bytearray | memoryview) -> bytes:
        """:func:`phantom.verifying_key_from_signing_key`."""
        return identities.verifying_key_from_signing_key(seed)

    async def generate_sidecar_key(self, timeout: float | None = 10.0) -> SidecarKey:
        """A new signing key that stays inside the sidecar."""
        request = identity_pb2.GenerateSigningKeyRequest(lease_id=self.lease_id)
        reply = await self.call(self.identity.GenerateSigningKey, request, timeout)
        return _sidecar_key(reply.key, reply.verifying_key)

    async def import_sidecar_key(
        self, source: bytes | bytearray | memoryview | str | os.PathLike[str], timeout: float | None = 10.0
    ) -> SidecarKey:
        """A signing key from its 64-byte seed, or from a key file that the sidecar reads."""
        request = identity_pb2.ImportSigningKeyRequest(lease_id=self.lease_id, source=_key_source(source))
        reply = await self.call(self.identity.ImportSigningKey, request, timeout)
        return _sidecar_key(reply.key, reply.verifying_key)

    async def drop_sidecar_key(self, key: SidecarKey, timeout: float | None = 10.0) -> None:
        """Wipes a signing key of the sidecar; listeners bound with it keep working."""
        request = identity_pb2.DropSigningKeyRequest(key=identity_pb2.SigningKeyRef(handle=key.handle))
        await self.call(self.identity.DropSigningKey, request, timeout)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _sidecar_key(ref: identity_pb2.SigningKeyRef, key: common_pb2.VerifyingKey) -> SidecarKey:
    return SidecarKey(ref.handle, HybridVerifyingKey.from_bytes(key.key))


def _key_source(source: bytes | bytearray | memoryview | str | os.PathLike[str]) -> identity_pb2.SigningKeySource:
    if isinstance(source, bytes | bytearray | memoryview):
        return identity_pb2.SigningKeySource(seed=bytes(source))
    return identity_pb2.SigningKeySource(path=os.path.abspath(source))
