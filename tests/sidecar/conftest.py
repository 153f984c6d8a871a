"""A short private directory, and sidecars and raw channels in it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import phantom
from phantom.sidecar._generated.v1 import (
    identity_pb2_grpc,
    listener_pb2_grpc,
    session_pb2_grpc,
    sidecar_pb2_grpc,
    stream_pb2_grpc,
)
from phantom.sidecar._generated.v1.errors_pb2 import ErrorDetail
from phantom.sidecar.server import Sidecar, SidecarOptions, serve


@pytest.fixture
def home() -> Iterator[Path]:
    """A private directory whose path is short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ph"))
    yield path
    shutil.rmtree(path)


@dataclass
class Raw:
    """Generated stubs on a channel of their own, without the client of phantom.sidecar."""

    channel: grpc.aio.Channel
    token: str
    metadata: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.metadata = (("authorization", f"Bearer {self.token}"),)
        self.sidecar = sidecar_pb2_grpc.SidecarServiceStub(self.channel)
        self.identity = identity_pb2_grpc.IdentityServiceStub(self.channel)
        self.listener = listener_pb2_grpc.ListenerServiceStub(self.channel)
        self.session = session_pb2_grpc.SessionServiceStub(self.channel)
        self.stream = stream_pb2_grpc.StreamServiceStub(self.channel)


def detail_of(error: grpc.aio.AioRpcError) -> ErrorDetail:
    """The trailer of a failed call."""
    return ErrorDetail.FromString(dict(error.trailing_metadata())["phantom-error-bin"])


@asynccontextmanager
async def raw(running: Sidecar) -> AsyncIterator[Raw]:
    token = Path(running.ready.token_file).read_text().strip()
    async with grpc.aio.insecure_channel(running.ready.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Raw(channel, token)


Start = Callable[..., Sidecar]


@pytest.fixture
def start(home: Path) -> Start:
    """``async with start(**options) as running``: a sidecar on ``home/s.sock``."""

    def make(**options: Any) -> Sidecar:
        if options.get("tcp_port") is None:
            options.setdefault("socket", home / "s.sock")
        return serve(SidecarOptions(**options))

    return make


@pytest.fixture(scope="session")
def server_key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture
def peer(server_key: phantom.HybridSigningKey) -> Callable[..., phantom.Binding]:
    """``async with peer() as listener``: a Phantom server of the test's own."""

    def make(**options: Any) -> phantom.Binding:
        return phantom.listen("tcp://127.0.0.1:0", key=server_key, **options)

    return make


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop work until ``condition`` holds; the time limit of the test ends a vain wait."""
    while not condition():
        await asyncio.sleep(0)
