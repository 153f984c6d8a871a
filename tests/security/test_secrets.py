"""Appendix A row 44: no secret and no payload in any repr, log line, error or snapshot; all of them wiped at the end.

Every secret of a run is noted where it is made: the value, to look for it in all texts that can be had, and the buffer,
which must be zero when its session or handshake is over.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import traceback
import types
from collections.abc import Iterator
from typing import Any

import pytest

import phantom
from phantom.api.connecting import connect_with_transport
from phantom.api.handshaking import ClientHandshake
from phantom.api.shared import self_tested_provider
from phantom.config import PhantomConfig
from phantom.crypto import hybrid_kem
from phantom.crypto.rng import SYSTEM_RNG
from phantom.runtime import AsyncioRuntime
from phantom.testing.memory_leg import memory_leg_pair
from phantom.testing.sessions import SessionPair, memory_listener
from phantom.transport.handshake import initiator, responder
from phantom.transport.handshake.gate import Source
from phantom.transport.packet import protection
from phantom.transport.packet.protection import ProtectionV2
from tests.calm import PATIENCE, nothing_left, turns, until

PAYLOADS = [b"payload: attack at dawn", b"payload: the other way", b"payload: queued early", bytes(range(256)) * 300]


class Secrets:
    """What must never be seen, and what must be zero."""

    def __init__(self) -> None:
        self.values: dict[bytes, str] = {}
        self.buffers: list[tuple[str, bytearray]] = []

    def note(self, name: str, secret: bytes | bytearray) -> None:
        if len(secret) >= 16:
            self.values[bytes(secret)] = name
        if isinstance(secret, bytearray):
            self.buffers.append((name, secret))

    def fill_bytes(self, n: int) -> bytes:
        """A source of randomness that remembers."""
        found = SYSTEM_RNG.fill_bytes(n)
        self.note("random bytes", found)
        return found

    def find_in(self, text: str) -> list[str]:
        """Names of the secrets of which a part stands in ``text``, in any usual notation."""
        found = []
        folded = text.lower()
        for value, name in self.values.items():
            head = value[:12]
            spellings = (
                head.hex(),
                head.hex(" "),
                repr(head)[2:-1].lower(),
                base64.b64encode(head).decode().lower(),
                ", ".join(map(str, head)),
            )
            if any(spelling in folded for spelling in spellings):
                found.append(name)
        return found

    @property
    def left(self) -> list[str]:
        return [name for name, buffer in self.buffers if any(buffer)]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    self_tested_provider(PhantomConfig())  # its vectors are public, and are no secrets of a session
    noted = Secrets()
    for payload in PAYLOADS:
        noted.note("payload", payload)

    def watch(module: Any, name: str, *, arguments: bool = False) -> None:
        function = getattr(module, name)

        def watched(*given: Any) -> Any:
            for value in given if arguments else ():
                noted.note(f"argument of {name}", value)
            made = function(*given)
            noted.note(name, made)
            return made

        monkeypatch.setattr(module, name, watched)

    watch(hybrid_kem, "combine", arguments=True)
    watch(initiator, "resumption_secret")
    watch(responder, "resumption_secret")
    watch(protection, "next_traffic_secret")
    traffic_keys, make = protection.traffic_keys, ProtectionV2.__init__

    def watched_keys(*given: Any) -> Any:
        keys = traffic_keys(*given)
        for field in ("send", "recv", "prefix"):
            noted.note(f"traffic key {field}", getattr(keys, field))
        return keys

    def watched_make(self: ProtectionV2, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        noted.note("traffic secret", self._secret)

    monkeypatch.setattr(protection, "traffic_keys", watched_keys)
    monkeypatch.setattr(ProtectionV2, "__init__", watched_make)
    return noted


_CONTAINERS = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    types.MethodType,
    types.FunctionType,
    types.CellType,
    asyncio.Task,
    asyncio.Future,
)


def _reachable(*roots: object) -> Iterator[object]:
    """Every object of the library, and every error, to which a chain of references leads."""
    seen: set[int] = set()
    todo: list[object] = list(roots)
    while todo:
        found = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        module = str(getattr(type(found), "__module__", ""))
        if module.startswith("phantom") or isinstance(found, BaseException):
            yield found
        elif not isinstance(found, _CONTAINERS) and not module.startswith(("collections", "asyncio", "functools")):
            continue
        if isinstance(found, types.FunctionType):  # not its globals, which lead everywhere
            todo.extend((*(found.__closure__ or ()), *(found.__defaults__ or ())))
        else:
            todo.extend(gc.get_referents(found))


def _texts(*roots: object) -> str:
    found = []
    for reached in _reachable(*roots):
        found += [repr(reached), str(reached), f"{reached}"]
        if isinstance(reached, BaseException):
            found += traceback.format_exception(reached)
    return "\n".join(found)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


async def _establish(key: phantom.HybridSigningKey, secrets: Secrets, looks: list[str]) -> SessionPair:
    """A session, with a look at everything each time that something leaves."""
    runtime = AsyncioRuntime()
    listener = memory_listener(key, PhantomConfig(cookie="always", load_tiers=((0, 4),)), runtime)
    near, far = memory_leg_pair(runtime)
    client = connect_with_transport("memory:server", near, key.verifying_key(), runtime=runtime, rng=secrets)
    secrets.note("cookie secret", listener._gate._master)
    handshake = near.owner
    assert isinstance(handshake, ClientHandshake)
    del secrets.values[handshake._initiator._hello.nonce]  # sent in clear
    await client.send(PAYLOADS[2])

    def look(data: bytes) -> bytes:
        looks.append(_texts(client, listener, near, far))
        return data

    near.tap = far.tap = look
    looks.append(_texts(client, listener, near, far))
    listener.serve_leg(far, Source("127.0.0.1"), "memory:client")
    await client.await_ready(PATIENCE)
    server = (await listener.accept(PATIENCE)).session
    assert await server.recv(PATIENCE) == PAYLOADS[2]
    return SessionPair(client, server, near, far, listener)


async def test_a_full_run_shows_no_secret(server_key: Any, secrets: Secrets, log: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().set_debug(True)
    secrets.note("signing seed", bytes(server_key.to_bytes()))
    looks: list[str] = []
    pair = await _establish(server_key, secrets, looks)
    for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
        for payload in PAYLOADS:
            await sender.send(payload)
            assert await receiver.recv(PATIENCE) == payload
    for session in (pair.client, pair.server):
        assert session._driver is not None
        session._driver.conn.protection.rekey(0.0)
    for number in range(3):
        await pair.client.send(b"%d" % number)
        assert await pair.server.recv(PATIENCE) == b"%d" % number
        await pair.server.send(b"%d" % number)
        assert await pair.client.recv(PATIENCE) == b"%d" % number
    assert pair.client.negotiated.epoch > 0
    await pair.client.send(PAYLOADS[0])
    looks.append(_texts(pair, pair.client.metrics_snapshot(), pair.client.negotiated, pair.client.handshake))
    pair.client_leg.tap = pair.server_leg.tap = None
    await pair.close()
    looks.append(_texts(pair))
    everything = "\n".join(looks) + log.text
    assert "PhantomSession" in everything
    assert "ProtectionV2" in everything
    assert "Initiator" in everything
    assert "Responder" in everything
    assert "Connection" in everything
    assert len(secrets.values) > 20
    assert secrets.find_in(everything) == []
    assert pair.client.id not in log.text


async def test_the_search_would_find_a_secret(secrets: Secrets) -> None:
    key = bytes(range(100, 132))
    secrets.note("key", key)
    for text in (key.hex(), key.hex().upper(), str(key), repr(bytearray(key)), str(list(key)), key.hex(" ")):
        assert secrets.find_in(f"before {text} after") == ["key"]

    class Leaky:
        __module__ = "phantom.leaky"

        def __repr__(self) -> str:
            return f"Leaky({key!r})"

    hidden = {"a": [(Leaky(),)]}
    assert secrets.find_in(_texts(hidden)) == ["key"]
    assert secrets.find_in(_texts(lambda: hidden)) == ["key"]


async def test_errors_show_no_secret_and_no_payload(
    server_key: Any, other_key: Any, secrets: Secrets, log: pytest.LogCaptureFixture
) -> None:
    raised: list[BaseException] = []

    async def fails(call: Any) -> None:
        with pytest.raises(phantom.PhantomError) as caught:
            await call
        raised.append(caught.value)

    looks: list[str] = []
    big = PhantomConfig(max_message=20 << 20)
    for kind in range(6):
        pair = await _establish(server_key, secrets, looks)
        pair.client_leg.tap = pair.server_leg.tap = None
        await pair.client.send(PAYLOADS[0])
        await pair.server.recv(PATIENCE)
        if kind == 0:
            await fails(pair.client.send(PAYLOADS[1] * 1_000_000))
            await fails(pair.client.send(str(PAYLOADS[1])))  # type: ignore[arg-type]
        elif kind == 1:
            pair.client._config = big
            await pair.client.send(PAYLOADS[1] * 800_000)
            await fails(pair.server.recv(PATIENCE))
            await fails(pair.client.recv(PATIENCE))
        elif kind == 2:
            pair.client_leg.send_raw(PAYLOADS[1])
            await fails(pair.server.recv(PATIENCE))
        elif kind == 3:
            pair.client_leg.cut()
            await fails(pair.client.send(PAYLOADS[1]))
            await fails(pair.server.recv(PATIENCE))
        elif kind == 4:
            assert pair.server._driver is not None
            pair.server._driver.abort(phantom.BusyError("full"))
            await fails(pair.client.recv(PATIENCE))
            await fails(pair.server.recv(PATIENCE))
        else:
            await pair.client.disconnect(9)
            await fails(pair.client.send(PAYLOADS[1]))
            await fails(pair.server.recv(PATIENCE))
        await pair.close()
        looks.append(_texts(pair))
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        await fails(phantom.connect(listener.local_addrs[0], other_key.verifying_key(), rng=secrets, timeout=PATIENCE))
        await until(lambda: not listener._sessions)
    looks += ["".join(traceback.format_exception(error)) for error in raised]
    looks += [_texts(error) for error in raised]
    assert len({type(error) for error in raised}) >= 6
    assert secrets.find_in("\n".join(looks) + log.text) == []
    assert secrets.left == []


@pytest.mark.parametrize("ending", ["close", "abort", "loss", "silence", "abandon", "violation", "cancelled close"])
async def test_secrets_are_wiped_however_a_session_ends(server_key: Any, secrets: Secrets, ending: str) -> None:
    pair = await _establish(server_key, secrets, [])
    pair.client_leg.tap = pair.server_leg.tap = None
    for session in (pair.client, pair.server):
        assert session._driver is not None
        session._driver.conn.protection.rekey(0.0)
        await session.send(b"under the next key")
    await turns()
    assert len(secrets.buffers) > 20
    assert set(secrets.left) <= {"traffic secret", "next_traffic_secret", "cookie secret"}
    assert secrets.left, "the keys of a living session"
    driver = pair.client._driver
    assert driver is not None
    if ending == "abort":
        driver.abort(phantom.BusyError("full"))
    elif ending == "loss":
        pair.client_leg.cut()
    elif ending == "silence":
        driver.conn.path_lost(0.0, phantom.NetworkError("nothing was heard"))
        driver._settle()
    elif ending == "abandon":
        pair.client._abandon()
    elif ending == "violation":
        pair.client_leg.send_raw(b"\xff" * 4)
    elif ending == "cancelled close":
        pair.client_leg.stall()
        closing = asyncio.ensure_future(pair.client.disconnect())
        await turns()
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        pair.client_leg.unstall()
    await pair.close()
    await turns()
    assert secrets.left == []


@pytest.mark.parametrize("blocked", [False, True])
async def test_secrets_are_wiped_when_close_waits_in_a_socket(server_key: Any, secrets: Secrets, blocked: bool) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, rng=secrets) as listener:
        async with nothing_left(listener):
            client = await phantom.connect(listener.urls[0], timeout=PATIENCE, rng=secrets)
            server = (await listener.accept(PATIENCE)).session
            if blocked:
                assert client._leg is not None
                client._leg.pause()
                await server.send(bytes(8 << 20))
                await until(lambda: server._driver is not None and server._driver.conn.path.blocked)
            assert server._driver is not None
            server._driver.abort(phantom.BusyError("full"))
            assert "traffic secret" in secrets.left, "the client goes on"
            count = len(secrets.left)
            client._abandon()
            assert len(secrets.left) == count - 1
            await server.disconnect()
    assert secrets.left == []


@pytest.mark.parametrize("at", range(12))
async def test_secrets_are_wiped_when_connect_is_cancelled(server_key: Any, secrets: Secrets, at: int) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, rng=secrets) as listener:
        async with nothing_left(listener):
            waiting = phantom.connect(listener.urls[0], timeout=PATIENCE, rng=secrets)
            task = asyncio.ensure_future(waiting._connect())
            await turns(at)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, phantom.PhantomSession):
                await outcome.disconnect()
            while listener._sessions or listener._accepted:
                if listener._accepted:
                    await (await listener.accept(PATIENCE)).session.disconnect()
                await turns(1)
    assert secrets.left == []


async def test_secrets_are_wiped_when_a_handshake_fails(server_key: Any, other_key: Any, secrets: Secrets) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, rng=secrets) as listener:
        async with nothing_left(listener):
            with pytest.raises(phantom.ServerIdentityMismatchError):
                await phantom.connect(listener.local_addrs[0], other_key.verifying_key(), rng=secrets, timeout=PATIENCE)
            session = (await listener.accept(PATIENCE)).session
            with pytest.raises(phantom.SessionDeadError):
                await session.await_ready(PATIENCE)
    assert secrets.left == []


async def test_logs_above_debug_name_no_peer(server_key: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        reader, writer = await asyncio.open_connection(*listener._sockets[0].getsockname())
        writer.write(b"\0\0\0\1\7")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        async with phantom.connect(listener.urls[0], timeout=PATIENCE):
            session = (await listener.accept(PATIENCE)).session
        await session.disconnect()
    assert "a handshake failed: not a hello" in caplog.text
    assert "127.0.0.1" not in caplog.text
