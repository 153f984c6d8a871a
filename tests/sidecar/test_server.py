"""Start and stop: who may serve where, who gets in, and what is left behind (surface §15)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

import phantom
from phantom.errors import (
    AccessDeniedError,
    ConfigError,
    ConnectionClosedError,
    NetworkError,
    RuntimeInitError,
    SelfTestFailureError,
)
from phantom.sidecar import access, server
from phantom.sidecar._generated.v1 import session_pb2, sidecar_pb2
from phantom.sidecar.client import SidecarClient
from phantom.sidecar.server import Sidecar, SidecarOptions, ready_line, serve
from tests.sidecar.conftest import Start, raw, until

Peer = Callable[..., phantom.Binding]


async def test_what_is_made_and_what_is_left(start: Start, home: Path) -> None:
    before = os.umask(0o000)
    try:
        async with start(socket=home / "run" / "s.sock") as running:
            run = home / "run"
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [run, *run.iterdir()]}
            assert modes == {"run": 0o700, "s.sock": 0o600, "s.sock.lock": 0o600, "s.sock.token": 0o600}
            assert running.ready.address == f"unix:{run}/s.sock"
            assert running.ready.token_file == f"{run}/s.sock.token"
            assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert [path.name for path in run.iterdir()] == ["s.sock.lock"]


async def test_ready_line(start: Start, home: Path) -> None:
    async with start() as running:
        line = ready_line(running.ready)
    assert "\n" not in line
    assert json.loads(line) == {
        "address": f"unix:{home}/s.sock",
        "token_file": f"{home}/s.sock.token",
        "contract_version": sidecar_pb2.CONTRACT_VERSION_CURRENT,
        "pid": os.getpid(),
    }


async def test_default_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    async with serve() as running:
        assert running.ready.address == f"unix:{home}/phantom/sidecar.sock"
        async with SidecarClient() as client:
            assert (await client.health()).ready


async def test_each_start_has_a_fresh_token(start: Start) -> None:
    tokens = []
    for _ in range(2):
        async with start() as running:
            tokens.append(Path(running.ready.token_file).read_text())
    assert tokens[0] != tokens[1]


async def test_token_file_of_the_user(start: Start, home: Path) -> None:
    path = home / "mine"
    path.write_text("0f" * 32 + "\n")
    path.chmod(0o600)
    async with start(token_file=path) as running:
        assert running.ready.token_file == str(path)
        async with SidecarClient(running.ready.address, token_file=path) as client:
            assert (await client.health()).ready
    assert path.exists()
    path.chmod(0o644)
    with pytest.raises(AccessDeniedError, match="chmod 600"):
        await start(token_file=path).start()
    assert not (home / "s.sock").exists()
    (home / "s.sock").mkdir()
    with pytest.raises(ConfigError, match="not a socket"):
        await start(token_file=home / "new").start()
    assert not (home / "new").exists()


# --- one path, one sidecar --------------------------------------------------------------------------------------------


async def test_second_sidecar_on_the_same_path(start: Start, home: Path) -> None:
    async with start() as running:
        second = start()
        with pytest.raises(NetworkError, match=rf"another sidecar \(pid {os.getpid()}\) serves {home}/s\.sock"):
            await second.start()
        with pytest.raises(RuntimeInitError):
            _ = second.ready
        async with SidecarClient(running.ready.address) as client:  # the first one is unharmed
            assert (await client.health()).ready
    async with start() as running, SidecarClient(running.ready.address) as client:
        assert (await client.health()).ready


async def test_stale_socket_is_replaced(start: Start, home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "s.sock"))
    async with start() as running, SidecarClient(running.ready.address) as client:
        assert (await client.health()).ready


async def test_socket_of_another_program_is_not_stolen(start: Start, home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(home / "s.sock"))
        other.listen()
        with pytest.raises(NetworkError, match="another program listens"):
            await start().start()
    assert (home / "s.sock").exists()


async def test_regular_file_is_left_alone(start: Start, home: Path) -> None:
    (home / "s.sock").write_text("mine")
    with pytest.raises(ConfigError, match="not a socket"):
        await start().start()
    assert (home / "s.sock").read_text() == "mine"
    assert not (home / "s.sock.token").exists()


async def test_stolen_socket_does_not_stop_the_stop(start: Start, home: Path) -> None:
    async with start() as running:
        token = Path(running.ready.token_file)
        (home / "s.sock").unlink()
        token.write_text("ab" * 32)  # and the thief's token is the thief's
        token.chmod(0o600)
    assert token.read_text() == "ab" * 32


@pytest.mark.parametrize("kind", ["open", "linked", "in an open directory", "too long"])
async def test_directory_that_cannot_be_trusted(start: Start, home: Path, kind: str) -> None:
    run = home / "run"
    run.mkdir(mode=0o700)
    path = run / "s.sock"
    if kind == "open":
        run.chmod(0o777)
    elif kind == "linked":
        (home / "link").symlink_to(run)
        path = home / "link" / "s.sock"
    elif kind == "in an open directory":
        home.chmod(0o777)
    else:
        path = run / ("x" * 200)
    with pytest.raises(ConfigError):
        await start(socket=path).start()
    assert list(run.iterdir()) == []


# --- TCP, on request only ---------------------------------------------------------------------------------------------


async def test_tcp_is_loopback_with_the_same_token(start: Start, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    async with start(tcp_port=0) as running:
        host, _, port = running.ready.address.partition(":")
        assert host == "127.0.0.1"
        assert running.ready.token_file == f"{home}/phantom/tcp-{port}.token"
        async with SidecarClient(running.ready.address) as client:
            assert (await client.health()).ready
        async with grpc.aio.insecure_channel(running.ready.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(b"")
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(NetworkError, match="in use"):  # gRPC alone would share the port
            await start(tcp_port=int(port)).start()
        async with start(tcp_port=0) as other:
            assert other.ready.address != running.ready.address
    assert list((home / "phantom").iterdir()) == []


async def test_tcp_with_a_token_file_needs_no_runtime_directory(
    start: Start, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "absent"))
    async with start(tcp_port=0, token_file=home / "token") as running:
        async with SidecarClient(running.ready.address, token_file=home / "token") as client:
            assert (await client.health()).ready


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(ConfigError, match="not a port"):
        SidecarOptions(tcp_port=port)


def test_socket_and_port_at_once() -> None:
    with pytest.raises(ConfigError, match="either a unix socket or a TCP port"):
        SidecarOptions(socket=Path("/x"), tcp_port=0)


# --- the life of a sidecar --------------------------------------------------------------------------------------------


def test_sidecar_that_was_not_started() -> None:
    for name in ("ready", "core"):
        with pytest.raises(RuntimeInitError, match="not started"):
            getattr(Sidecar(SidecarOptions()), name)


async def test_stop_is_idempotent(start: Start) -> None:
    running = start()
    await running.stop()
    await running.start()
    await running.stop()
    await running.stop()


async def test_failed_self_tests_leave_nothing_behind(
    start: Start, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> None:
        raise SelfTestFailureError("hybrid-kem failed")

    monkeypatch.setattr(server, "run_self_tests", failing)
    with pytest.raises(SelfTestFailureError, match="hybrid-kem failed"):
        await start().start()
    assert [path.name for path in home.iterdir()] == ["s.sock.lock"]


async def test_health_says_that_it_stops_before_it_does(start: Start, peer: Peer) -> None:
    running = start()
    await running.start()
    async with raw(running) as client, peer() as listener:
        watch = client.channel.unary_stream(
            "/grpc.health.v1.Health/Watch", None, health_pb2.HealthCheckResponse.FromString
        )(b"", metadata=client.metadata)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        lease = (await client.sidecar.OpenLease(sidecar_pb2.OpenLeaseRequest(), metadata=client.metadata)).lease
        request = session_pb2.ConnectRequest(lease_id=lease.id, target=listener.urls[0])
        ref = (await client.session.Connect(request, metadata=client.metadata)).session.ref
        theirs = (await listener.accept()).session
        stopping = asyncio.create_task(running.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert running.core.missing == ["the sidecar is shutting down"]
        watch.cancel()
        await stopping
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 14
        assert ref.handle not in running.core.leases._handles


async def test_calls_under_way_have_a_grace(start: Start, peer: Peer) -> None:
    running = start()
    await running.start()
    async with peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        theirs = (await listener.accept()).session
        await session.send(b"x")
        disconnecting = asyncio.create_task(session.disconnect())
        await until(lambda: session_draining(running))
        await running.stop()
        assert await disconnecting
        assert await theirs.recv() == b"x"


def session_draining(running: Sidecar) -> bool:
    handles = running.core.leases._handles.values()
    return all(handle.session.state is not phantom.ConnectionState.CONNECTED for handle in handles)  # type: ignore[attr-defined]


# --- real processes ---------------------------------------------------------------------------------------------------

_SERVER = """
import asyncio, signal, sys
from pathlib import Path
from phantom.sidecar.server import SidecarOptions, ready_line, serve

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(SidecarOptions(socket=Path(sys.argv[1]))) as sidecar:
        print(ready_line(sidecar.ready), flush=True)
        await stop.wait()

asyncio.run(main())
"""

_CLIENT = """
import asyncio, sys
from phantom.sidecar.client import SidecarClient

async def main():
    client = SidecarClient(sys.argv[1])
    await client.open()
    session = await client.connect(sys.argv[2])
    await session.send(b"hello")
    listener = await client.listen("127.0.0.1:0")
    print(listener.urls[0], flush=True)
    await session.recv()

asyncio.run(main())
"""

_OTHER_USER = """
import os, socket, sys
import grpc, grpc._channel
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
path = sys.argv[1]
for what in (socket.socket(socket.AF_UNIX).connect, lambda path: open(path + ".token"), os.unlink):
    try:
        what(path)
    except PermissionError:
        print("refused", flush=True)
with grpc.insecure_channel("unix:" + path) as channel:
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    text = running.stdout.readline().strip()
    assert text, running.stderr.read() if running.stderr is not None else ""
    return text


@pytest.mark.slow
def test_process_that_is_asked_to_stop(home: Path) -> None:
    with process(_SERVER, str(home / "s.sock")) as running:
        ready = json.loads(line(running))
        assert ready["pid"] == running.pid
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert [path.name for path in home.iterdir()] == ["s.sock.lock"]


@pytest.mark.slow
def test_process_that_was_killed_is_succeeded(home: Path) -> None:
    with process(_SERVER, str(home / "s.sock")) as first:
        token = Path(json.loads(line(first))["token_file"]).read_text()
        with process(_SERVER, str(home / "s.sock")) as second:
            assert second.wait() != 0
            assert second.stderr is not None
            assert f"another sidecar (pid {first.pid}) serves" in second.stderr.read()
        first.kill()
        first.wait()
    assert (home / "s.sock").exists()
    with process(_SERVER, str(home / "s.sock")) as third:
        ready = json.loads(line(third))
        assert Path(ready["token_file"]).read_text() != token


@pytest.mark.slow
async def test_client_that_is_killed_leaves_nothing_open(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener:
        with process(_CLIENT, running.ready.address, listener.urls[0]) as client:
            theirs = (await listener.accept()).session
            assert await theirs.recv() == b"hello"
            url = await asyncio.to_thread(line, client)
            (lease,) = running.core.leases._leases.values()
            assert dict(lease.counts) == {"session": 1, "listener": 1}
            await until(lambda: len(running.core.waits._waits) == 3)  # Recv, WatchEvents, KeepLease
            lease.grace = 0.0
            client.kill()
            with pytest.raises(ConnectionClosedError) as caught:
                await theirs.recv()
            assert caught.value.peer_code == 14
            assert lease.ended
            assert running.core.leases._handles == {}
            with pytest.raises(NetworkError):
                await phantom.connect(url)
        assert running.core.waits._waits == set()


@pytest.mark.slow
async def test_other_user_is_refused(start: Start, home: Path) -> None:
    (home / "run").mkdir(mode=0o700)
    home.chmod(0o711)
    async with start(socket=home / "run" / "s.sock"):
        assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
        if os.getuid() == 0:  # only the superuser can become somebody else
            command = [sys.executable, "-c", _OTHER_USER, str(home / "run" / "s.sock")]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False, timeout=50
            )
            assert done.stdout.split() == ["refused", "refused", "refused", "UNAVAILABLE"], done.stderr
        assert access.read_token(home / "run" / "s.sock.token")
