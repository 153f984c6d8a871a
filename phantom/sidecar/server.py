"""The sidecar as a server: gRPC in the running loop, on a unix socket of this user or, on request, on a loopback port.

Start: private directory, lock, token, socket, self-tests, then ready. Stop: not serving, end the long waits, a short
grace for the other calls, close what clients opened, remove the token, free the lock (surface §15).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from phantom.crypto.providers import get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.errors import ConfigError, NetworkError, RuntimeInitError
from phantom.limits import SIDECAR_MESSAGE_CAP, SIDECAR_STOP_GRACE, KiB
from phantom.observability.log import logger
from phantom.sidecar import access
from phantom.sidecar._generated.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from phantom.sidecar._generated.v1.listener_pb2_grpc import add_ListenerServiceServicer_to_server
from phantom.sidecar._generated.v1.session_pb2_grpc import add_SessionServiceServicer_to_server
from phantom.sidecar._generated.v1.sidecar_pb2_grpc import add_SidecarServiceServicer_to_server
from phantom.sidecar._generated.v1.stream_pb2_grpc import add_StreamServiceServicer_to_server
from phantom.sidecar.interceptors import Guard
from phantom.sidecar.services import (
    CONTRACT_VERSION,
    SERVICES,
    Core,
    IdentityService,
    ListenerService,
    SessionService,
    SidecarService,
)
from phantom.sidecar.stream_services import StreamService

__all__ = ["Ready", "Sidecar", "SidecarOptions", "ready_line", "serve"]

_LIMITS: Final = [
    # By default gRPC lets a second server bind the same port.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
    ("grpc.max_send_message_length", SIDECAR_MESSAGE_CAP + 64 * KiB),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarOptions:
    """What ``phantom sidecar`` can be told. Raises ConfigError for a contradiction.

    ``socket``: path of the unix socket, by default ``sidecar.sock`` in the user's runtime directory. ``tcp_port``:
    serve on 127.0.0.1 and this port (0: any free one) instead. ``token_file``: use the token in this file, and make it
    if it is absent; by default a fresh one is written beside the socket. ``reflection``: serve gRPC reflection.
    ``allow_seed_export``: give the seed of a new signing key to who asks for it.
    """

    socket: Path | None = None
    tcp_port: int | None = None
    token_file: Path | None = None
    reflection: bool = False
    allow_seed_export: bool = False

    def __post_init__(self) -> None:
        if self.tcp_port is not None:
            if self.socket is not None:
                raise ConfigError("a sidecar serves either a unix socket or a TCP port; give --socket or --tcp-port")
            if not 0 <= self.tcp_port <= 0xFFFF:
                raise ConfigError(f"{self.tcp_port} is not a port")


@dataclass(frozen=True, slots=True)
class Ready:
    """What a client needs to find a sidecar: ``address`` is ``unix:PATH`` or ``127.0.0.1:PORT``."""

    address: str
    token_file: str
    contract_version: int
    pid: int


def ready_line(ready: Ready) -> str:
    """The line of ``--print-ready``: one JSON object, without a newline."""
    return json.dumps(asdict(ready))


class Sidecar:
    """A sidecar of this process; an async context manager, or :meth:`start` and :meth:`stop`.

    Serves in the loop it was started in. Handles no signals: the command does.
    """

    def __init__(self, options: SidecarOptions) -> None:
        self._options = options
        self._stack = AsyncExitStack()
        self._ready: Ready | None = None
        self._core: Core | None = None

    @property
    def ready(self) -> Ready:
        """Where it serves; RuntimeInitError unless it was started."""
        if self._ready is None:
            raise RuntimeInitError("the sidecar was not started")
        return self._ready

    @property
    def core(self) -> Core:
        """What its services share, for tests and embedding programs; RuntimeInitError unless it was started."""
        if self._core is None:
            raise RuntimeInitError("the sidecar was not started")
        return self._core

    async def start(self) -> Ready:
        """Begins to serve and returns when it can: its self-tests are done.

        NetworkError if another sidecar or program has the path or port; ConfigError, saying what to do, for a path or
        token file that other users could reach; SelfTestFailureError, ConfigError if there is no usable cryptography.
        """
        try:
            self._ready = await self._start()
        except BaseException:
            await self.stop()
            raise
        return self._ready

    async def _start(self) -> Ready:
        stack = self._stack
        token = self._keep(access.Token.use, self._options.token_file.absolute()) if self._options.token_file else None
        path = self._claim_path() if self._options.tcp_port is None else None
        self._core = core = Core(allow_seed_export=self._options.allow_seed_export)
        guard = Guard()
        server = grpc.aio.server(interceptors=[guard], options=_LIMITS)
        stack.push_async_callback(core.leases.close)
        stack.push_async_callback(guard.finished)
        stack.push_async_callback(server.stop, SIDECAR_STOP_GRACE)
        stack.callback(core.waits.stop)
        if path is not None:
            address = f"unix:{path}"
            token = token or self._keep(access.Token.create, access.token_path(address))
            with access.narrow_umask():
                _bind(server, address)
            path.chmod(0o600)
        else:
            address = f"127.0.0.1:{_bind(server, f'127.0.0.1:{self._options.tcp_port}')}"
            if token is None:
                access.make_private_directory(access.runtime_directory())
                token = self._keep(access.Token.create, access.token_path(address))
        guard.require(token)
        states = health.aio.HealthServicer()
        stack.push_async_callback(states.enter_graceful_shutdown)
        self._add_services(server, core, states)
        await _set_health(states, health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        await asyncio.to_thread(run_self_tests, get_provider())
        core.missing.clear()
        await _set_health(states, health_pb2.HealthCheckResponse.SERVING)
        logger.info("the sidecar serves %s", address)
        return Ready(address, str(token.path), CONTRACT_VERSION, os.getpid())

    def _keep(self, make: Callable[[Path], access.Token], path: Path) -> access.Token:
        """A token that is removed when the sidecar stops, if it was made here."""
        token = make(path)
        self._stack.callback(token.remove)
        return token

    def _claim_path(self) -> Path:
        """The path of the socket, free and locked: nobody else will serve there while this sidecar does."""
        path = (self._options.socket or access.default_socket()).absolute()
        access.check_socket_path(path)
        access.make_private_directory(path.parent)
        self._stack.enter_context(access.lock(Path(f"{path}.lock"), str(path)))
        access.remove_stale_socket(path)
        return path

    def _add_services(self, server: grpc.aio.Server, core: Core, states: health.aio.HealthServicer) -> None:
        add_SidecarServiceServicer_to_server(SidecarService(core), server)
        add_IdentityServiceServicer_to_server(IdentityService(core), server)
        add_ListenerServiceServicer_to_server(ListenerService(core), server)
        add_SessionServiceServicer_to_server(SessionService(core), server)
        add_StreamServiceServicer_to_server(StreamService(core), server)
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        if self._options.reflection:
            from grpc_reflection.v1alpha import reflection

            reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def stop(self) -> None:
        """Stops serving and returns when everything is closed. Idempotent."""
        if self._core is not None:
            self._core.missing[:] = ["the sidecar is shutting down"]
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def serve(options: SidecarOptions | None = None) -> Sidecar:
    """A sidecar that serves while the ``async with`` block runs."""
    return Sidecar(options or SidecarOptions())


async def _set_health(states: health.aio.HealthServicer, status: int) -> None:
    for name in ("", *SERVICES):
        await states.set(name, status)


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise NetworkError(f"{address} cannot be bound; is it in use?") from None
