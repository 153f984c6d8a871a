"""The server at work: sessions in tasks of their own, handlers that crash, and the end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phantom import (
    AuthorizedClients,
    ClientAuthError,
    ConfigError,
    ConnectionClosedError,
    ConnectionState,
    HybridSigningKey,
    NetworkError,
    PhantomConfig,
    PhantomSession,
    ServerIdentityMismatchError,
    UnsupportedError,
    ValidationError,
    connect,
    generate_signing_key,
)
from phantom.server import service
from phantom.server.service import Server, ServerSettings, serve

LOOPBACK = ("127.0.0.1:0",)


@pytest.fixture(scope="module")
def key() -> HybridSigningKey:
    return generate_signing_key()


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "phantom")


@asynccontextmanager
async def running(key: HybridSigningKey, **settings: Any) -> AsyncIterator[Server]:
    settings.setdefault("addresses", LOOPBACK)
    server = await Server.start(ServerSettings(**settings), key)
    try:
        yield server
    finally:
        await server.drain()


async def pinged(url: str, message: bytes = b"ping") -> bytes:
    async with connect(url) as session:
        await session.send(message)
        return await session.recv(30)


async def ended(session: PhantomSession) -> ConnectionClosedError:
    """What the end of a session looks like to a reader; messages that come before it are dropped."""
    try:
        while True:
            await session.recv(30)
    except ConnectionClosedError as closed:
        return closed


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Lets the loop work until ``text`` was logged; the time limit of the test ends a vain wait."""
    while text not in caplog.text:
        await asyncio.sleep(0)


# --- serving ----------------------------------------------------------------------------------------------------------


async def test_it_echoes_to_many_clients_at_once(key: HybridSigningKey) -> None:
    async with running(key) as server:
        messages = [bytes([number]) * (number * 1000 + 1) for number in range(30)]
        assert await asyncio.gather(*(pinged(server.urls[0], message) for message in messages)) == messages


async def test_each_address_has_its_url_in_the_log(key: HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with running(key, addresses=("127.0.0.1:0", "tcp://[::1]:0")) as server:
        assert len(server.urls) == 2
        for url in server.urls:
            assert ("phantom.server", logging.WARNING, f"listening on {url}") in caplog.record_tuples
            assert await pinged(url) == b"ping"


async def test_a_wildcard_prints_a_url_that_works(key: HybridSigningKey) -> None:
    async with running(key, addresses=("0.0.0.0:0",)) as server:
        (url,) = server.urls
        assert "0.0.0.0" not in url
        assert await pinged(url) == b"ping"


async def test_advertise_stands_for_a_wildcard(key: HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with running(key, addresses=(":0",), advertise="example.org") as server:
        assert [url.rpartition("@")[2].partition(":")[0] for url in server.urls] == ["example.org"]
    assert "no effect" not in caplog.text


async def test_advertise_without_a_wildcard_says_so(key: HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with running(key, advertise="example.org"):
        assert "--advertise has no effect" in caplog.text


async def test_peers_and_sessions_are_named_at_debug_only(
    key: HybridSigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(key) as server, connect(server.urls[0]) as session:
        await session.send(b"x")
        await session.recv(30)
        name = session.id
    await logged(caplog, "session finished")
    tellers = [record for record in caplog.records if name in str(record.__dict__)]
    assert tellers
    assert {record.levelno for record in tellers} == {logging.DEBUG}


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of authorised clients that is looked at all the time."""
    monkeypatch.setattr(service, "_WATCH_EVERY", 0.0)
    path = tmp_path / "clients.txt"
    path.write_text("# nobody yet")
    return path


async def test_only_listed_clients_reach_a_handler(key: HybridSigningKey, clients: Path) -> None:
    reached: list[PhantomSession] = []

    async def handler(session: PhantomSession) -> None:
        reached.append(session)

    with generate_signing_key() as alice, generate_signing_key() as mallory:
        clients.write_text(f"{alice.verifying_key().fingerprint()} alice")
        async with running(key, authorized=AuthorizedClients.from_file(clients), handler=handler) as server:
            with pytest.raises(ClientAuthError):
                await connect(server.urls[0], identity=mallory)
            async with connect(server.urls[0]) as nobody:
                with pytest.raises(ClientAuthError, match="requires a client identity"):
                    await nobody.recv(30)
            async with connect(server.urls[0], identity=alice) as session:
                await ended(session)
        (one,) = reached
        assert one.peer_identity() == alice.verifying_key()


async def test_taking_an_identity_out_ends_its_running_sessions(
    key: HybridSigningKey, clients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with generate_signing_key() as alice, generate_signing_key() as bob:
        both = [each.verifying_key().fingerprint() for each in (alice, bob)]
        clients.write_text("\n".join(both))
        async with running(key, authorized=AuthorizedClients.from_file(clients)) as server:
            async with connect(server.urls[0], identity=alice) as hers, connect(server.urls[0], identity=bob) as his:
                for session in (hers, his):
                    await session.send(b"x")
                    assert await session.recv(30) == b"x"
                clients.write_text("phantom1:broken")
                await logged(caplog, "the last good list of clients stays")
                clients.write_text(both[1])
                assert (await ended(hers)).peer_code == 43
                await his.send(b"still here")
                assert await his.recv(30) == b"still here"
            with pytest.raises(ClientAuthError):
                await connect(server.urls[0], identity=alice)
    assert "not authorised any more: 1" in caplog.text


async def test_an_edit_in_place_ended_the_sessions_of_everybody(
    key: HybridSigningKey, clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that writes a file empties it first: who is back at the next look was never gone."""
    monkeypatch.setattr(service, "_WATCH_EVERY", 3600.0)
    with generate_signing_key() as alice:
        name = alice.verifying_key().fingerprint()
        clients.write_text(name)
        authorized = AuthorizedClients.from_file(clients)
        async with running(key, authorized=authorized) as server:
            async with connect(server.urls[0], identity=alice) as session:
                await session.send(b"x")
                await session.recv(30)
                clients.write_text("")
                assert server._removed(authorized) == []
                clients.write_text(name)
                assert server._removed(authorized) == []
                clients.write_text("")
                assert server._removed(authorized) == []
                assert [one.id for one in server._removed(authorized)] == [session.id]
                assert server._removed(authorized) == []


async def test_an_identity_taken_out_between_proof_and_handler_does_not_get_there(
    key: HybridSigningKey, clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [True, False]
    monkeypatch.setattr(AuthorizedClients, "allows", lambda self, _: answers.pop(0))
    with generate_signing_key() as alice:
        async with running(key, authorized=AuthorizedClients.from_file(clients)) as server:
            async with connect(server.urls[0], identity=alice) as session:
                assert (await ended(session)).peer_code == 43
    assert answers == []


async def test_a_server_can_be_told_to_read_its_files_again(key: HybridSigningKey, clients: Path) -> None:
    authorized = AuthorizedClients.from_file(clients)
    async with running(key, authorized=authorized) as server:
        clients.write_text(key.verifying_key().fingerprint())
        server.reread()
        assert (len(authorized), authorized.version) == (1, 1)
    async with running(key) as server:
        server.reread()  # it has none


async def test_fingerprints_of_clients_are_named_at_debug_only(
    key: HybridSigningKey, clients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with generate_signing_key() as alice:
        name = alice.verifying_key().fingerprint()
        clients.write_text(name)
        async with running(key, authorized=AuthorizedClients.from_file(clients)) as server:
            async with connect(server.urls[0], identity=alice) as session:
                await session.send(b"x")
                await session.recv(30)
        await logged(caplog, "session finished")
    tellers = [record for record in caplog.records if name in str(record.__dict__)]
    assert tellers
    assert {record.levelno for record in tellers} == {logging.DEBUG}


# --- trouble ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_pins_another_key_is_no_crash(
    key: HybridSigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(key) as server:
        with pytest.raises(ServerIdentityMismatchError):
            await connect("tcp://" + server.urls[0].rpartition("@")[2], generate_signing_key().verifying_key())
        await logged(caplog, "before its first packet")
        assert await pinged(server.urls[0]) == b"ping"
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


async def test_a_crash_of_a_handler_ends_its_own_session_only(
    key: HybridSigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    async def fragile(session: PhantomSession) -> None:
        message = await session.recv()
        if message == b"die":
            raise RuntimeError("a bug")
        await session.send(message)
        await session.recv()

    async with running(key, handler=fragile) as server:
        async with connect(server.urls[0]) as victim, connect(server.urls[0]) as other:
            await other.send(b"before")
            assert await other.recv(30) == b"before"
            await victim.send(b"die")
            assert (await ended(victim)).peer_code == 10
            assert other.state is ConnectionState.CONNECTED
        assert await pinged(server.urls[0]) == b"ping"
    crash = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert crash.exc_info is not None
    assert "the server goes on" in crash.getMessage()


async def test_an_error_of_a_handler_that_its_session_did_not_cause_is_a_crash(
    key: HybridSigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    async def misusing(session: PhantomSession) -> None:
        await session.disconnect(-1)

    async with running(key, handler=misusing) as server, connect(server.urls[0]) as session:
        assert (await ended(session)).peer_code == 10
    assert "the handler crashed" in caplog.text


async def test_a_client_that_vanishes_is_no_crash(key: HybridSigningKey, caplog: pytest.LogCaptureFixture) -> None:
    async with running(key) as server:
        session = await connect(server.urls[0])
        await session.send(b"x")
        await session.recv(30)
        session._leg.close(linger=False)  # type: ignore[union-attr]  # as a process that dies
        await logged(caplog, "a session ended: ")
        await session.disconnect(timeout=0)
    assert "crashed" not in caplog.text


async def test_the_session_limit_of_the_settings_holds(key: HybridSigningKey) -> None:
    async with running(key, config=PhantomConfig.server(max_sessions=1)) as server, connect(server.urls[0]) as session:
        await session.send(b"x")
        assert await session.recv(30) == b"x"
        with pytest.raises(Exception, match="limit"):
            await connect(server.urls[0])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"addresses": ()}, ConfigError),
        ({"addresses": ("nonsense",)}, ValidationError),
        ({"addresses": ("udp://127.0.0.1:1",)}, UnsupportedError),
        ({"addresses": LOOPBACK, "advertise": "host:1"}, ValidationError),
    ],
)
def test_settings_are_checked_when_made(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ServerSettings(**settings)


async def test_a_port_in_use_is_a_network_error(key: HybridSigningKey) -> None:
    async with running(key) as server:
        taken = server.urls[0].rpartition("@")[2]
        with pytest.raises(NetworkError, match="in use"):
            await Server.start(ServerSettings(addresses=(taken,)), key)


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_drain_closes_idle_sessions_with_code_14(key: HybridSigningKey) -> None:
    server = await Server.start(ServerSettings(addresses=LOOPBACK), key)
    async with connect(server.urls[0]) as session:
        await session.send(b"x")
        await session.recv(30)
        _, closed = await asyncio.gather(server.drain(), ended(session))
        assert closed.peer_code == 14
    with pytest.raises(NetworkError):
        await connect(server.urls[0])


async def test_drain_gives_a_busy_session_what_it_owes(key: HybridSigningKey) -> None:
    answer = bytes(range(256)) * 8192  # 2 MiB, more than the peer's first window

    queued = asyncio.Event()

    async def generous(session: PhantomSession) -> None:
        await session.recv()
        await session.send(answer)
        queued.set()
        await session.recv()

    server = await Server.start(ServerSettings(addresses=LOOPBACK, handler=generous), key)
    async with connect(server.urls[0]) as session:
        await session.send(b"go")
        await queued.wait()
        draining = asyncio.ensure_future(server.drain())
        assert await session.recv(30) == answer
        assert (await ended(session)).peer_code == 14
        await draining


async def test_drain_cuts_off_who_takes_nothing(key: HybridSigningKey) -> None:
    """A peer that never reads; 0.2 s of grace stand for the ten."""

    async def flood(session: PhantomSession) -> None:
        while True:
            await session.send(bytes(1 << 20))

    server = await Server.start(ServerSettings(addresses=LOOPBACK, handler=flood, grace=0.2), key)
    async with connect(server.urls[0]) as session:
        await session.send(b"go")
        while session.metrics_snapshot().bytes_recv < 1 << 20:
            await asyncio.sleep(0)
        await server.drain()
        assert (await ended(session)).peer_code == 14


async def test_drain_cuts_off_a_close_that_has_more_patience(
    key: HybridSigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler has returned, and its session is being closed: as slowly as the peer likes."""
    monkeypatch.setattr(service, "_CLOSE_MARGIN", 0.1)
    returned = asyncio.Event()

    async def leave(session: PhantomSession) -> None:
        for _ in range(20):
            await session.send(bytes(200_000))
        returned.set()

    server = await Server.start(ServerSettings(addresses=LOOPBACK, handler=leave, grace=0.1), key)
    session = await connect(server.urls[0])
    await session.send(b"go")
    await returned.wait()
    await server.drain()
    await session.disconnect(timeout=0)


async def test_drain_cancels_a_handler_that_outlives_its_session(key: HybridSigningKey) -> None:
    cancelled = asyncio.Event()

    async def stuck(session: PhantomSession) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    server = await Server.start(ServerSettings(addresses=LOOPBACK, handler=stuck, grace=0.2), key)
    async with connect(server.urls[0]) as session:
        await session.send(b"x")
        await session.flush_queue(30)
        await asyncio.gather(server.drain(), ended(session))
    assert cancelled.is_set()


# --- with signals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(addresses=LOOPBACK, key_file=tmp_path / "signing.key")


def kill(number: int) -> Callable[[Server], None]:
    return lambda _server: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(settings: ServerSettings, number: int) -> None:
    before = signal.getsignal(number)
    ready: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(serve(settings, ready.set_result))
    session = await connect((await ready).urls[0])
    await session.send(b"x")
    await session.recv(30)
    os.kill(os.getpid(), number)
    assert (await ended(session)).peer_code == 14
    await serving
    await session.disconnect()
    assert signal.getsignal(number) is before


async def test_the_second_signal_leaves_at_once(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("phantom.server.signals.os._exit", left.append)

    def twice(_server: Server) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    await serve(settings, twice)
    assert left == [128 + signal.SIGINT]


async def test_a_bad_key_is_fatal_before_the_port_is_taken(settings: ServerSettings) -> None:
    assert settings.key_file is not None
    settings.key_file.write_bytes(b"short")
    settings.key_file.chmod(0o600)
    async with running(generate_signing_key()) as server:
        taken = (server.urls[0].rpartition("@")[2],)
        with pytest.raises(ConfigError, match="64 bytes"):
            await serve(replace(settings, addresses=taken), kill(signal.SIGTERM))
    assert settings.key_file.read_bytes() == b"short"


async def test_a_port_in_use_leaves_signals_as_they_were(settings: ServerSettings) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with running(generate_signing_key()) as server:
        taken = (server.urls[0].rpartition("@")[2],)
        with pytest.raises(NetworkError):
            await serve(replace(settings, addresses=taken), kill(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before
