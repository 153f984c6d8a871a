"""The Python client: finding a sidecar, lease, sessions, listeners, and errors by class (surface §15)."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

import phantom
from phantom.errors import (
    AccessDeniedError,
    BusyError,
    ConfigError,
    ConnectionClosedError,
    ContractVersionError,
    NetworkError,
    PhantomTimeoutError,
    RuntimeInitError,
    SelfTestFailureError,
    ServerIdentityMismatchError,
    SessionNotFoundError,
    ValidationError,
)
from phantom.limits import SIDECAR_MESSAGE_CAP, MiB
from phantom.sidecar import client as client_module
from phantom.sidecar import server, services
from phantom.sidecar.client import SidecarClient, SidecarSession
from tests.sidecar.conftest import Start, until

Peer = Callable[..., phantom.Binding]


# --- finding a sidecar ------------------------------------------------------------------------------------------------


async def test_address_by_argument_by_environment_or_by_default(start: Start, home: Path) -> None:
    (home / "phantom").mkdir(mode=0o700)
    async with start(socket=home / "phantom" / "sidecar.sock") as running:
        address, token_file = running.ready.address, running.ready.token_file
        moved = home / "token"
        os.link(token_file, moved)
        for client in (
            SidecarClient(address, environ={}),
            SidecarClient(address, token_file=moved, environ={}),
            SidecarClient(environ={"XDG_RUNTIME_DIR": str(home)}),
            SidecarClient(environ={"PHANTOM_SIDECAR_ADDRESS": address}),
            SidecarClient(environ={"PHANTOM_SIDECAR_ADDRESS": address, "PHANTOM_SIDECAR_TOKEN_FILE": str(moved)}),
        ):
            async with client:
                assert client.address == address
                assert client.info.pid == os.getpid()


async def test_no_sidecar(home: Path) -> None:
    with pytest.raises(NetworkError, match="phantom sidecar"):
        await SidecarClient(f"unix:{home}/s.sock").open()


async def test_socket_that_nobody_serves(home: Path) -> None:
    path = home / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(AccessDeniedError, match="no token file"):
        await SidecarClient(f"unix:{path}").open()
    (home / "s.sock.token").write_text("ab" * 32)
    (home / "s.sock.token").chmod(0o600)
    with pytest.raises(NetworkError, match="is it running"):
        await SidecarClient(f"unix:{path}").open()


async def test_directory_that_others_can_enter_is_not_trusted(start: Start, home: Path) -> None:
    async with start() as running:
        home.chmod(0o755)
        with pytest.raises(ConfigError, match="chmod 700"):
            await SidecarClient(running.ready.address).open()


async def test_other_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="not on this machine"):
        await SidecarClient("192.0.2.1:4000", token_file="/dev/null").open()


async def test_wrong_token(start: Start, home: Path) -> None:
    async with start() as running:
        (home / "other").write_text("ab" * 32)
        (home / "other").chmod(0o600)
        with pytest.raises(AccessDeniedError, match="missing or wrong"):
            await SidecarClient(running.ready.address, token_file=home / "other").open()


async def test_sidecar_of_another_contract_version(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start() as running:
        monkeypatch.setattr(client_module, "_CONTRACT_VERSION", 2)
        with pytest.raises(ContractVersionError, match="contract version 2 and the sidecar 1"):
            await SidecarClient(running.ready.address).open()
        monkeypatch.setattr(client_module, "_CONTRACT_VERSION", 0)  # states none, as one that compares by itself
        with pytest.raises(ContractVersionError, match="version 1 and this client 0"):
            await SidecarClient(running.ready.address).open()


async def test_client_that_is_not_open() -> None:
    client = SidecarClient("unix:/nowhere")
    with pytest.raises(RuntimeInitError, match="not open"):
        _ = client.info
    with pytest.raises(RuntimeInitError, match="not open"):
        await client.listen("127.0.0.1:0")
    await client.close()


async def test_client_that_was_closed(start: Start) -> None:
    async with start() as running:
        client = SidecarClient(running.ready.address)
        assert await client.open() is client
        lease = client.lease_id
        assert (await client.open()).lease_id == lease
        await client.close()
        await client.close()
        with pytest.raises(RuntimeInitError, match="not open"):
            await client.health()


# --- the process ------------------------------------------------------------------------------------------------------


async def test_health_and_readiness(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        assert (await client.health()).ready
        await client.wait_ready(10.0)


async def test_sidecar_that_is_not_ready_yet(start: Start, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        begun.set()
        may_end.wait()

    monkeypatch.setattr(server, "run_self_tests", slow)
    running = start()
    starting = asyncio.create_task(running.start())
    try:
        await until(begun.is_set)
        async with SidecarClient(f"unix:{home}/s.sock") as client:  # it answers before it can serve
            status = await client.health()
            assert (status.live, status.ready) == (True, False)
            with pytest.raises(PhantomTimeoutError, match=r"not ready within 0\.1 s: the self-tests"):
                await client.wait_ready(0.1)
            waiting = asyncio.create_task(client.wait_ready(30.0))
            may_end.set()
            await starting
            await waiting
    finally:
        may_end.set()
        await running.stop()


async def test_waiting_says_what_is_missing(start: Start, home: Path) -> None:
    client = SidecarClient(f"unix:{home}/s.sock")
    with pytest.raises(PhantomTimeoutError, match=r"not ready within 0\.1 s: there is no sidecar at .*phantom sidecar"):
        await client.wait_ready(0.1)
    async with start() as running:
        missing = SidecarClient(running.ready.address, token_file=home / "absent")
        with pytest.raises(PhantomTimeoutError, match=r"not ready within 0\.1 s: there is no token file"):
            await missing.wait_ready(0.1)
        (home / "other").write_text("ab" * 32)
        (home / "other").chmod(0o600)
        with pytest.raises(AccessDeniedError, match="missing or wrong"):  # waiting does not cure it
            await SidecarClient(running.ready.address, token_file=home / "other").wait_ready(30.0)


async def test_waiting_for_a_sidecar_that_is_started_later(start: Start, home: Path) -> None:
    client = SidecarClient(f"unix:{home}/s.sock")
    waiting = asyncio.create_task(client.wait_ready(30.0))
    await asyncio.sleep(0)
    async with start():
        await waiting
        assert client.is_open
        await client.close()


async def test_sidecar_that_says_nothing(home: Path) -> None:
    (home / "s.sock.token").write_text("ab" * 32)
    (home / "s.sock.token").chmod(0o600)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home / "s.sock"))
        silent.listen()
        with pytest.raises(PhantomTimeoutError, match="did not answer"):
            await SidecarClient(f"unix:{home}/s.sock").wait_ready(0.1)


async def test_time_limit_of_another_is_not_that_of_waiting(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(_: object) -> None:
        raise PhantomTimeoutError("of another")

    client = SidecarClient("unix:/nowhere")
    monkeypatch.setattr(client, "open", fails)
    with pytest.raises(PhantomTimeoutError, match="of another"):
        await client.wait_ready(30.0)


async def test_self_tests(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        assert "ml-dsa-65" in (await client.self_tests()).tests

        def failing(*_: object, **__: object) -> None:
            raise SelfTestFailureError("ml-dsa-65 failed")

        monkeypatch.setattr(services, "run_self_tests", failing)
        with pytest.raises(SelfTestFailureError, match="ml-dsa-65 failed"):
            await client.self_tests("openssl")


async def test_sidecar_that_stops(start: Start, peer: Peer) -> None:
    running = start()
    await running.start()
    async with peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        receiving = asyncio.create_task(session.recv())
        await until(lambda: len(running.core.waits._waits) == 3)
        await running.stop()
        with pytest.raises(NetworkError, match="shutting down"):
            await receiving
        with pytest.raises(NetworkError, match="is it running"):
            await session.refresh()
        assert session.state is phantom.ConnectionState.DEAD
        assert isinstance(session.last_error(), NetworkError)
        assert not await session.disconnect()
        with pytest.raises(NetworkError):
            await client.wait_ready(5.0)


async def test_lease_that_was_taken_over(start: Start) -> None:
    async with start() as running:
        client = SidecarClient(running.ready.address)
        await client.open()
        lease = running.core.leases.get(client.lease_id)
        with running.core.leases.keep(lease):
            # the end of the old call may reach the client before it asks
            with pytest.raises((BusyError, NetworkError), match=r"took over|ended the lease"):
                await client._ping(release=False)
            with pytest.raises(NetworkError, match="ended the lease"):
                await client._ping(release=False)
        await client.close()


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_echo_of_every_size(start: Start, peer: Peer) -> None:
    sizes = [0, 1, SIDECAR_MESSAGE_CAP, SIDECAR_MESSAGE_CAP + 1, 16 * MiB]
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        async with client.connect(listener.urls[0]) as session:
            theirs = (await listener.accept()).session
            assert session.id == theirs.id
            assert session.peer_addr == listener.local_addr
            for size in sizes:
                message = os.urandom(size)
                await asyncio.gather(session.send(message), theirs.recv())
                await asyncio.gather(theirs.send(message))
                assert await session.recv() == message
            assert await session.flush_queue() == 0
            await session.refresh()
            assert session.metrics_snapshot().messages_sent == len(sizes)
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 0
        assert await session.disconnect()  # again: the answer is remembered


async def test_connect_with_everything(start: Start, peer: Peer, server_key: phantom.HybridSigningKey) -> None:
    config = phantom.PhantomConfig(suite="chacha20-poly1305")
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.local_addr, server_key.verifying_key(), config=config, timeout=20.0)
        await session.await_ready(5.0)
        assert session.negotiated.suite.label == "chacha20-poly1305"
        assert session.state is phantom.ConnectionState.CONNECTED


async def test_wrong_pin(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        with phantom.generate_signing_key() as other:
            pin = other.verifying_key().fingerprint()
        with pytest.raises(ServerIdentityMismatchError, match="pinned"):
            await client.connect(listener.local_addr, pin)


async def test_limit_of_a_connect_is_kept_by_the_sidecar(start: Start) -> None:
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []
    port = server.sockets[0].getsockname()[1]
    async with server, start() as running, SidecarClient(running.ready.address) as client:
        with pytest.raises(PhantomTimeoutError, match="handshake"):
            await client.connect(f"127.0.0.1:{port}", bytes(1984), timeout=0.1)
        for writer in writers:
            writer.close()


async def test_recv_out_of_time_or_cancelled_loses_nothing(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        theirs = (await listener.accept()).session
        with pytest.raises(PhantomTimeoutError, match=r"no message arrived within 0\.05 s"):
            await session.recv(0.05)
        receiving = asyncio.create_task(session.recv())
        await until(lambda: len(running.core.waits._waits) == 3)
        await theirs.send(b"x")
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert await session.recv() == b"x"


async def test_several_tasks_receive_each_message_once(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        theirs = (await listener.accept()).session
        receiving = [asyncio.create_task(session.recv()) for _ in range(8)]
        for number in range(8):
            await theirs.send(bytes([number]))
        assert sorted(await asyncio.gather(*receiving)) == [bytes([number]) for number in range(8)]


async def test_iteration_ends_with_a_normal_close_and_raises_otherwise(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        for code in (0, 7):
            session = await client.connect(listener.urls[0])
            theirs = (await listener.accept()).session
            await theirs.send(b"a")
            await theirs.send(b"b")
            await theirs.disconnect(code)
            got: list[bytes] = []

            async def collect(session: SidecarSession = session, got: list[bytes] = got) -> None:
                async for message in session:
                    got.append(message)

            if code:
                with pytest.raises(ConnectionClosedError) as caught:
                    await collect()
                assert caught.value.peer_code == code
            else:
                await collect()
            assert got == [b"a", b"b"]


async def test_events(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        events = session.events()
        theirs = (await listener.accept()).session
        await theirs.disconnect()
        changes = [event async for event in events]
        assert [change.old for change in changes[1:]] == [change.new for change in changes[:-1]]
        assert changes[-1].new is phantom.ConnectionState.CLOSED
        assert all(change.reason for change in changes)
        await session.disconnect()
        assert [event async for event in session.events()] == []


async def test_leaving_the_block_tells_what_was_lost(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:

        async def lossy() -> None:
            async with client.connect(listener.urls[0]) as session:
                theirs = (await listener.accept()).session
                await session.send(bytes(1000))
                assert theirs._leg is not None
                theirs._leg.close(linger=False)

        with pytest.raises(ConnectionClosedError, match="before the peer acknowledged") as caught:
            await lossy()
        assert caught.value.unacknowledged > 0


async def test_disconnect_with_code_and_limit(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener, SidecarClient(running.ready.address) as client:
        session = await client.connect(listener.urls[0])
        theirs = (await listener.accept()).session
        assert await session.disconnect(3, timeout=5.0)
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 3


async def test_closing_the_client_closes_its_sessions_in_order(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener:
        async with SidecarClient(running.ready.address) as client:
            session = await client.connect(listener.urls[0])
            await session.send(b"the last one")
        theirs = (await listener.accept()).session
        assert await theirs.recv() == b"the last one"
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 0
        assert running.core.leases._handles == {}


async def test_client_whose_connection_breaks_loses_its_sessions(start: Start, peer: Peer) -> None:
    async with start() as running, peer() as listener:
        client = SidecarClient(running.ready.address)
        await client.open()
        await client.connect(listener.urls[0])
        lease = running.core.leases.get(client.lease_id)
        lease.grace = 0.0
        assert client._channel is not None
        await client._channel.close()  # without a word
        theirs = (await listener.accept()).session
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 14
        assert (lease.ended, running.core.leases._handles) == (True, {})
        await client.close()


# --- listeners and keys -----------------------------------------------------------------------------------------------


async def test_listener(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        key = await client.generate_sidecar_key()
        async with client.listen("127.0.0.1:0", key=key, config=phantom.PhantomConfig.server()) as listener:
            assert listener.verifying_key_bytes() == key.verifying_key().to_bytes()
            assert key.verifying_key().fingerprint() in listener.urls[0]
            assert listener.local_addrs == (f"tcp://{listener.local_addr}",)
            await client.drop_sidecar_key(key)
            with pytest.raises(PhantomTimeoutError, match="no session arrived"):
                await listener.accept(0.05)
            async with phantom.connect(listener.urls[0]) as theirs:
                session = (await listener.accept()).session
                assert session.id == theirs.id
                await listener.refresh()
                assert listener.metrics_snapshot().handshakes_success == 1
                accepting = asyncio.create_task(_sessions(listener))
                await until(lambda: len(running.core.waits._waits) == 3)
                listener.shutdown()
                assert await accepting == []
                await session.send(b"goes on")
                assert await theirs.recv() == b"goes on"
            listener.shutdown()
            with pytest.raises(ConnectionClosedError, match="shut down"):
                await listener.accept()
            with pytest.raises(SessionNotFoundError):
                await listener.refresh()


async def _sessions(listener: client_module.SidecarListener) -> list[str]:
    return [outcome.session.id async for outcome in listener]


async def test_listener_with_a_fresh_key_as_an_iterator(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        async with client.listen("127.0.0.1:0") as listener, phantom.connect(listener.urls[0]) as theirs:
            async for outcome in listener:
                assert outcome.session.id == theirs.id
                break


async def test_imported_keys(start: Start, home: Path, server_key: phantom.HybridSigningKey) -> None:
    server_key.write_file(home / "key")
    public = server_key.verifying_key()
    async with start() as running, SidecarClient(running.ready.address) as client:
        for source in (bytes(server_key.to_bytes()), server_key.to_bytes(), home / "key", str(home / "key")):
            key = await client.import_sidecar_key(source)
            assert key.verifying_key() == public
        with pytest.raises(ValidationError):
            await client.import_sidecar_key(b"short")


async def test_call_of_a_stub(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        method = client._channel.unary_unary("/phantom.v1.SessionService/NoSuchCall")  # type: ignore[union-attr]
        with pytest.raises(phantom.UnsupportedError, match="does not offer this call"):
            await client.call(method, b"")
        await asyncio.sleep(0)


async def test_errors_of_the_time_limit_itself_are_told_apart() -> None:
    with pytest.raises(TimeoutError, match="inner"):
        async with client_module.time_limit(60.0, "outer"):
            raise TimeoutError("inner")


async def test_watch_that_fails(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        client._metadata = ()
        with pytest.raises(AccessDeniedError):
            await client.wait_ready(5.0)
        client._metadata = (("authorization", "Bearer " + Path(running.ready.token_file).read_text().strip()),)
    assert issubclass(grpc.aio.AioRpcError, grpc.RpcError)
