"""One program on both: the package ``phantom`` and the client of the sidecar (surface §14)."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.errors import (
    ClientAuthError,
    ConfigError,
    ConnectionClosedError,
    NetworkError,
    PhantomTimeoutError,
    ServerIdentityMismatchError,
    SessionClosingError,
    UnsupportedError,
    ValidationError,
)
from phantom.sidecar.client import Api, SidecarClient, SidecarKey, SidecarListener, SidecarSession, SidecarStream
from phantom.sidecar.client_listener import SidecarBinding
from phantom.sidecar.client_session import SidecarConnecting
from tests.sidecar.conftest import Start, until

ANY = "tcp://127.0.0.1:0"
Open = Callable[[], Any]


@pytest.fixture(params=["phantom", "sidecar"])
def api_of(request: pytest.FixtureRequest, start: Start) -> Open:
    """``async with api_of() as api``: what the program runs on."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Api]:
        if request.param == "phantom":
            yield phantom
            return
        async with start() as running, SidecarClient(running.ready.address) as client:
            yield client

    return opened


@asynccontextmanager
async def pair(
    api: Api, **options: Any
) -> AsyncIterator[tuple[phantom.PhantomSession, phantom.PhantomSession, phantom.PhantomListener]]:
    async with api.listen(ANY, **options) as listener:
        session = await api.connect(listener.urls[0], timeout=20.0)
        yield session, (await listener.accept(20.0)).session, listener


# --- the same programs ------------------------------------------------------------------------------------------------


async def test_echo(api_of: Open) -> None:
    async with api_of() as api, api.listen(ANY) as listener:

        async def serve() -> None:
            async for outcome in listener:
                async with outcome.session as session:
                    async for message in session:
                        await session.send(message)

        serving = asyncio.create_task(serve())
        async with api.connect(listener.urls[0], timeout=20.0) as session:
            for size in (0, 1, 1000, 100_000, 3_000_000):
                message = os.urandom(size)
                await session.send(memoryview(message))
                assert await session.recv(20.0) == message
        listener.shutdown()
        await serving


async def test_what_a_session_says_of_itself(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, listener):
        assert isinstance(session, phantom.PhantomSession)
        assert (session.id, len(session.id)) == (theirs.id, 64)
        assert session.peer_addr == listener.local_addr
        assert session.state is session.connection_state() is phantom.ConnectionState.CONNECTED
        assert session.is_data_ready()
        assert session.is_pqc_ready()
        assert session.last_error() is None
        peer = session.peer_identity()
        assert peer is not None
        assert peer.to_bytes() == listener.verifying_key_bytes()
        assert theirs.peer_identity() is None
        assert (session.negotiated.version, session.negotiated.leg, session.negotiated.epoch) == (2, "tcp", 0)
        assert session.negotiated.suite.label in ("aes-256-gcm", "chacha20-poly1305")
        assert session.handshake.algorithms == ("X25519", "ML-KEM-768", "Ed25519", "ML-DSA-65")
        assert session.handshake.bytes_sent > 1000
        assert session.handshake.seconds > 0
        await session.send(b"x")
        assert await theirs.recv() == b"x"
        await theirs.await_ready(20.0)
        assert theirs.negotiated.receive_suite is session.negotiated.suite
        assert await session.flush_queue(20.0) >= 0
        while session.metrics_snapshot().messages_sent != 1 or session.queued_count():
            await asyncio.sleep(0)
        assert "connected" in repr(session)
        assert await session.disconnect()


async def test_wrong_pin_and_bad_arguments(api_of: Open) -> None:
    async with api_of() as api, api.listen(ANY) as listener:
        host, port = listener.local_addr.split(":")
        with api.generate_signing_key() as other:
            pin = other.verifying_key()
            assert api.verifying_key_from_signing_key(other.to_bytes()) == pin.to_bytes()
        with pytest.raises(ServerIdentityMismatchError):
            await api.connect(listener.local_addr, pin)
        with pytest.raises(ServerIdentityMismatchError):
            await api.connect_pinned(host, int(port), [pin, pin.fingerprint()], timeout=20.0)
        with pytest.raises(ConfigError, match="a pin is required"):  # before it is awaited
            api.connect(listener.local_addr)
        with pytest.raises(ValidationError):
            api.connect(listener.local_addr, "phantom1:nonsense")
        with pytest.raises(ValidationError, match="positive"):
            api.connect(listener.urls[0], timeout=0.0)
        with pytest.raises(ConfigError, match="at least one address"):
            api.listen()
        with pytest.raises(NetworkError):
            await api.listen(listener.local_addr)
        async with api.connect_pinned(host, int(port), listener.verifying_key_bytes()) as session:
            with pytest.raises(ValidationError, match="is bytes, bytearray"):
                await session.send("text")
            with pytest.raises(ValidationError, match="the limit is"):
                await session.send(bytes(16 * 1024 * 1024 + 1))
            with pytest.raises(ValidationError, match="close code"):
                await session.disconnect(65536)


@pytest.mark.parametrize("code", [0, 7])
async def test_iteration_and_close_codes(api_of: Open, code: int) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        changes = session.events()
        for message in (b"a", b"b"):
            await theirs.send(message)
        assert await theirs.disconnect(code)
        got, ended = [], 0
        try:
            async for message in session:
                got.append(message)
        except ConnectionClosedError as closed:
            ended = closed.peer_code or 0
        assert ended == code
        assert got == [b"a", b"b"]
        assert session.state is phantom.ConnectionState.CLOSED
        assert [change.new async for change in changes][-1] is phantom.ConnectionState.CLOSED
        assert not session.is_data_ready()
        for call in (session.recv, session.await_ready, lambda: session.send(b"late")):
            with pytest.raises(ConnectionClosedError) as caught:
                await call()
            assert caught.value.peer_code == code
        assert await session.disconnect()


async def test_timeouts(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, listener):
        for call in (session.recv, listener.accept):
            with pytest.raises(PhantomTimeoutError, match=r"within 0\.05 s"):
                await call(0.05)
        await theirs.send(b"later")
        assert await session.recv(20.0) == b"later"
        await session.disconnect()


async def test_send_that_found_no_room_in_time_is_never_sent(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        filled = 0
        with pytest.raises(PhantomTimeoutError):  # the peer reads nothing
            while True:
                await session.send(bytes(1 << 20), 0.3)
                filled += 1
        with pytest.raises(PhantomTimeoutError):
            await session.send(b"refused", 0.05)
        got = [len(await theirs.recv(20.0)) for _ in range(filled)]  # which makes room at once
        await session.send(b"after")
        assert (set(got), await theirs.recv(20.0)) == ({1 << 20}, b"after")
        await session.disconnect()


async def test_cancellation_loses_nothing(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, listener):
        accepting, receiving = asyncio.create_task(listener.accept()), asyncio.create_task(session.recv())
        for _ in range(30):
            await asyncio.sleep(0)
        for task in (accepting, receiving):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await theirs.send(b"kept")
        assert await session.recv(20.0) == b"kept"
        async with api.connect(listener.urls[0]) as second:
            assert (await listener.accept(20.0)).session.id == second.id
        await session.disconnect()


async def test_tasks_that_wait_are_served_in_their_order(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        waiting = [asyncio.create_task(session.recv()) for _ in range(3)]
        await asyncio.gather(*(theirs.send(bytes([number])) for number in range(3)))
        assert await asyncio.gather(*waiting) == [b"\0", b"\1", b"\2"]
        await session.disconnect()


async def test_disconnect_is_idempotent(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        await session.send(b"last")
        assert await asyncio.gather(session.disconnect(3), session.disconnect(3, timeout=20.0)) == [True, True]
        assert await session.disconnect()
        assert session.state is phantom.ConnectionState.CLOSED
        assert await theirs.recv() == b"last"
        with pytest.raises(ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 3
        for call in (session.recv, session.await_ready, lambda: session.send(b"late")):
            with pytest.raises(ConnectionClosedError, match="this side closed it"):
                await call()


async def test_listener_life_cycle(api_of: Open) -> None:
    with phantom.generate_signing_key() as key:
        async with (
            api_of() as api,
            pair(api, key=key, config=phantom.PhantomConfig.server()) as (session, theirs, listener),
        ):
            assert isinstance(listener, phantom.PhantomListener)
            assert listener.verifying_key_bytes() == key.verifying_key().to_bytes()
            assert listener.local_addrs == (f"tcp://{listener.local_addr}",)
            assert listener.urls == (f"phantom://{key.verifying_key().fingerprint()}@{listener.local_addr}",)
            while listener.metrics_snapshot().handshakes_success != 1:
                await asyncio.sleep(0)
            accepting = asyncio.create_task(listener.accept())
            await asyncio.sleep(0)
            assert not listener.is_shutting_down()
            listener.shutdown()
            listener.shutdown()
            assert listener.is_shutting_down()
            for accept in (accepting, listener.accept()):
                with pytest.raises(ConnectionClosedError, match="shut down"):
                    await accept
            assert [outcome async for outcome in listener] == []
            await session.send(b"goes on")
            assert await theirs.recv() == b"goes on"
            await listener.drain(5.0)
            with pytest.raises(ConnectionClosedError) as caught:
                await session.recv()
            assert caught.value.peer_code == ConnectionClosedError.code
            with pytest.raises(NetworkError):
                await api.connect(listener.urls[0])


async def test_leaving_the_block(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        async with session:
            await session.send(b"all of it")
        assert await theirs.recv() == b"all of it"
        with pytest.raises(KeyError):  # what the body raises counts
            async with theirs:
                raise KeyError


async def test_a_session_that_closes_takes_nothing_more(api_of: Open) -> None:
    async with api_of() as api, pair(api) as (session, theirs, _):
        await theirs.disconnect(9)
        with pytest.raises(ConnectionClosedError):
            while True:
                await session.send(b"x")
        with pytest.raises(ConnectionClosedError):
            await session.recv()
        assert issubclass(SessionClosingError, ConnectionClosedError)


# --- the same names ---------------------------------------------------------------------------------------------------

# Public names that one side alone has, and parameters that only the package takes, with the reason.
ONLY_SIDECAR_SESSION = {
    "client": "whose session it is",
    "keying_material": "what the API computes from memory takes a question here",
    "overtaken": "for its streams: waits until the sidecar has heard of a cancellation",
    "reason": "for its streams: what ended the session",
    "exchange": "bulk data at full speed over the extra hop",
    "received": "the last number that SidecarExchange acknowledges",
    "ref": "the handle, for calls of the stubs",
    "refresh": "asks for what the API reads from memory",
}
ONLY_SIDECAR_STREAM = {"received": "the last number that Recv acknowledges", "ref": "the handle"}
ONLY_SIDECAR_LISTENER = {"ref": "the handle", "refresh": "as that of the session"}
ONLY_PACKAGE_PARAMETERS = {"runtime", "rng", "tls", "origins"}  # objects of this process, or not in proto/ yet


ONLY_PACKAGE_FUNCTIONS = {
    "error_class": "a table of the errors, which are the same",
    "open_connection": "asyncio's transports need a session of this process",
    "start_server": "likewise",
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name not in {"self", *ONLY_PACKAGE_PARAMETERS}]


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        (SidecarSession, phantom.PhantomSession, ONLY_SIDECAR_SESSION),
        (SidecarStream, phantom.PhantomStream, ONLY_SIDECAR_STREAM),
        (SidecarListener, phantom.PhantomListener, ONLY_SIDECAR_LISTENER),
        (SidecarConnecting, phantom.Connecting, {}),
        (SidecarBinding, phantom.Binding, {}),
    ],
)
def test_classes_have_the_same_names_and_signatures(ours: type, theirs: type, more: dict[str, str]) -> None:
    assert issubclass(ours, theirs)
    assert public(ours) - public(theirs) == {name for name in more if hasattr(ours, name)}
    for name in public(theirs):
        one, other = inspect.getattr_static(ours, name), inspect.getattr_static(theirs, name)
        assert type(one) is type(other), name
        if callable(getattr(theirs, name)):
            assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name)), name
            assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(
                getattr(theirs, name)
            )


def test_nothing_of_a_session_in_this_process_is_left_to_a_session_elsewhere() -> None:
    """What is inherited works on what the constructor set; all that needs a driver, a leg or a gate is replaced."""
    inherited = {name for name in public(phantom.PhantomSession) if name not in vars(SidecarSession)}
    assert inherited == {
        "connection_state", "events", "id", "is_data_ready", "is_pqc_ready", "last_error", "peer_addr", "peer_identity",
        "state",
    }  # fmt: skip
    assert {name for name in public(phantom.PhantomListener) if name not in vars(SidecarListener)} == {
        "is_shutting_down"
    }


@pytest.mark.parametrize("side", [SidecarClient, Api])
def test_functions_have_the_same_names_and_signatures(side: type) -> None:
    functions = [name for name in phantom.__all__ if inspect.isfunction(getattr(phantom, name))]
    for name in ONLY_PACKAGE_FUNCTIONS:
        functions.remove(name)
    assert len(functions) == 5
    for name in functions:
        assert parameters(getattr(side, name)) == parameters(getattr(phantom, name)), name


async def test_send_out_of_time_when_the_client_was_closed(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, pair(client) as (session, *_):
        with pytest.raises(PhantomTimeoutError):
            await session.send(b"x", 0.0)
        await client.close()
        with pytest.raises(PhantomTimeoutError):
            await session.send(b"x", 0.0)


async def test_what_cannot_be_elsewhere_says_so(start: Start) -> None:
    with pytest.raises(UnsupportedError, match="connect by address"):
        SidecarSession.connect_with_transport("label", object(), bytes(1984))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="of its client"):
        await SidecarListener.bind(ANY)
    with phantom.generate_signing_key() as key, pytest.raises(UnsupportedError, match="of its client"):
        await SidecarListener.bind_with_signing_key(ANY, key)
    async with start() as running, SidecarClient(running.ready.address) as client, client.listen(ANY) as listener:
        with pytest.raises(UnsupportedError, match="cannot be served"):
            listener.serve_leg(None, None, "")  # type: ignore[arg-type]


async def test_a_client_that_shows_who_it_is(api_of: Open) -> None:
    with phantom.generate_signing_key() as key, phantom.generate_signing_key() as other:
        allowed = phantom.AuthorizedClients.from_pins([key.verifying_key()])
        policy = phantom.ClientPolicy.required(allowed)
        async with api_of() as api, api.listen(ANY, clients=policy) as listener:
            session = await api.connect(listener.urls[0], identity=key, timeout=20.0)
            outcome = await listener.accept(20.0)
            assert outcome.client_identity == key.verifying_key()
            assert outcome.session.peer_identity() == key.verifying_key()
            await session.send(b"let in")
            assert await outcome.session.recv(20.0) == b"let in"
            with pytest.raises(ClientAuthError):
                await api.connect(listener.urls[0], identity=other, timeout=20.0)
            host, _, port = listener.local_addr.rpartition(":")
            pin = listener.verifying_key_bytes()
            again = await api.connect_pinned(host, int(port), pin, identity=key, timeout=20.0)
            assert (await listener.accept(20.0)).client_identity == key.verifying_key()
            for end in (session, again):
                await end.disconnect(timeout=0.0)


async def test_a_key_of_the_sidecar_is_an_identity(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        key = await client.generate_sidecar_key()
        async with client.listen(ANY, clients=phantom.ClientPolicy.optional()) as listener:
            await client.connect(listener.urls[0], identity=key)
            assert (await listener.accept(20.0)).client_identity == key.verifying_key()
            with pytest.raises(UnsupportedError, match="function"):
                client.listen(ANY, clients=phantom.ClientPolicy.required(lambda _key: True))
            keys = running.core.leases.get(client.lease_id).counts["signing key"]
            with phantom.generate_signing_key() as own:
                await client.connect(listener.urls[0], identity=own)
            assert running.core.leases.get(client.lease_id).counts["signing key"] == keys  # lent for the connect alone


# --- what only a session elsewhere can meet ---------------------------------------------------------------------------


async def test_disconnect_that_was_cancelled_after_the_sidecar_had_answered(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, pair(client) as (session, theirs, _):
        await session.send(b"x")
        first = asyncio.create_task(session.disconnect())
        handles = running.core.leases._handles
        await until(lambda: session.ref.handle not in handles)  # the answer is on its way
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await session.disconnect()
        assert await session.disconnect(1, timeout=1.0)
        assert await theirs.recv() == b"x"


async def test_disconnect_that_is_cancelled_ends_the_session_at_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASE_CLOSE_TIMEOUT", 0.0)
    async with start() as running, SidecarClient(running.ready.address) as client, client.listen(ANY) as listener:
        async with phantom.connect(listener.urls[0]):
            session = (await listener.accept()).session
            with pytest.raises(PhantomTimeoutError, match="did not confirm"):  # the peer reads nothing
                for _ in range(64):
                    await session.send(bytes(1 << 20), 0.5)
            first = asyncio.create_task(session.disconnect())
            handle = running.core.leases._handles[session.ref.handle]
            await until(lambda: handle.session.state is phantom.ConnectionState.DRAINING)  # type: ignore[attr-defined]
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert not await session.disconnect()
            assert session.state is phantom.ConnectionState.CLOSED


async def test_a_lease_that_ended_has_closed_its_sessions(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client, pair(client) as (session, *_):
        await running.core.leases.end(running.core.leases.get(client.lease_id), 0)
        with pytest.raises(ConnectionClosedError):
            await session.recv()
        assert session.state is phantom.ConnectionState.CLOSED
        assert not await session.disconnect()


async def test_objects_outlive_their_client_quietly(start: Start) -> None:
    async with start() as running:
        async with SidecarClient(running.ready.address) as client:
            listener = await client.listen(ANY)
            session = await client.connect(listener.urls[0])
        assert session.metrics_snapshot().messages_sent == 0
        assert session.queued_count() == 0
        assert not await session.disconnect()
        assert listener.metrics_snapshot().handshakes_success == 0
        async with listener:
            pass
        with pytest.raises(phantom.RuntimeInitError, match="not open"):
            await session.recv()


async def test_sidecar_key_is_a_key_of_a_listener(start: Start) -> None:
    async with start() as running, SidecarClient(running.ready.address) as client:
        key = await client.generate_sidecar_key()
        assert isinstance(key, SidecarKey)
        async with client.listen(ANY, key=key) as listener:
            assert listener.verifying_key_bytes() == key.verifying_key().to_bytes()
