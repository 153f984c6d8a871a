"""Handshakes on a leg: who reads what, turns of the loop, proof of work, and peers that leave in the middle."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.api import handshaking
from phantom.api.connecting import connect_with_transport
from phantom.api.handshaking import ServerHandshake, sending_suite
from phantom.config import PhantomConfig
from phantom.crypto.aead import CipherSuite
from phantom.crypto.providers import get_provider
from phantom.errors import PhantomError
from phantom.runtime import AsyncioRuntime
from phantom.testing.memory_leg import memory_leg_pair
from phantom.testing.sessions import memory_listener
from phantom.transport.handshake.gate import Source
from phantom.transport.handshake.initiator import State
from phantom.transport.handshake.messages import HelloRetryRequest, PowChallenge
from phantom.transport.legs.base import LegOwner
from tests.calm import PATIENCE, echoes, nothing_left, reset, turns, until


class HandLeg:
    """A leg of which the test is the wire."""

    name = "hand"
    proves_address = True
    peer_addr = "hand:1"

    def __init__(self) -> None:
        self.owner: LegOwner | None = None
        self.sent: deque[bytes] = deque()
        self.rest = b""
        self.paused = False
        self.closed = False
        self.lingers: list[bool] = []
        self.breaks = False  # the next flush finds the peer gone

    def start(self, owner: LegOwner) -> None:
        self.owner = owner

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if not self.closed:
            self.give(b"")

    def flush(self) -> None:
        if self.closed or self.owner is None:
            return
        buf = bytearray(self.owner.batch_size)
        while end := self.owner.leg_fill(buf, memoryview(buf), 0, len(buf)):
            if self.breaks:
                self.closed = True
                self.owner.leg_lost(phantom.NetworkError("the connection failed: broken"))
                return
            data = bytes(buf[:end])
            while data:
                size = 4 + struct.unpack_from(">I", data)[0]
                self.sent.append(data[4:size])
                data = data[size:]

    def close(self, *, linger: bool) -> None:
        self.lingers.append(linger)
        self.closed = True

    async def wait_closed(self) -> None: ...

    def give(self, data: bytes) -> None:
        self.rest += data
        while self.rest and self.owner is not None and not self.paused and not self.closed:
            owner, buf = self.owner, bytearray(self.rest)
            self.rest = b""
            at = owner.leg_received(buf, memoryview(buf), 0, len(buf))
            self.rest = bytes(buf[at:]) + self.rest
            if self.owner is owner:
                break


def _framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def _challenge(difficulty: int) -> bytes:
    return HelloRetryRequest(PowChallenge(bytes(32), difficulty), None).encode()


def _client(
    key: phantom.HybridSigningKey, config: PhantomConfig | None = None
) -> tuple[phantom.PhantomSession, HandLeg]:
    leg = HandLeg()
    return connect_with_transport("hand", leg, key.verifying_key(), config=config), leg


async def _failure(session: phantom.PhantomSession) -> PhantomError:
    with pytest.raises(PhantomError) as caught:
        await session.await_ready(PATIENCE)
    assert session.state is phantom.ConnectionState.FAILED
    return caught.value


# --- the client -------------------------------------------------------------------------------------------------------


async def test_a_client_reads_no_more_than_a_handshake_frame(server_key: Any) -> None:
    session, leg = _client(server_key)
    owner = leg.owner
    assert isinstance(owner, handshaking.ClientHandshake)
    assert owner.read_size == 65536
    assert owner.batch_size >= 65536 + 4
    assert len(leg.sent) == 1
    assert len(leg.sent[0]) == 3245
    owner.leg_blocked(True)
    await session.disconnect()
    await session.disconnect()
    assert leg.lingers == [False]
    assert owner._initiator.state is State.FAILED, "its keys are gone"


@pytest.mark.parametrize("length", [65537, 2**31, 2**32 - 1])
async def test_a_length_over_the_cap_is_refused_before_its_body(server_key: Any, length: int) -> None:
    session, leg = _client(server_key)
    leg.give(struct.pack(">I", length))
    error = await _failure(session)
    assert type(error) is phantom.FrameTooLargeError
    assert str(length) in str(error)
    assert "65536" in str(error)
    assert leg.closed


async def test_an_empty_frame_is_malformed(server_key: Any) -> None:
    session, leg = _client(server_key)
    leg.give(_framed(b""))
    assert type(await _failure(session)) is phantom.SerializationError


@pytest.mark.parametrize("error", [None, phantom.NetworkError("cut")])
async def test_a_leg_that_ends_is_a_network_error(server_key: Any, error: PhantomError | None) -> None:
    session, leg = _client(server_key)
    owner = leg.owner
    assert owner is not None
    owner.leg_lost(error)
    owner.leg_lost(error)
    failure = await _failure(session)
    assert isinstance(failure, phantom.NetworkError)
    assert failure is error or "closed the connection during the handshake" in str(failure)


async def test_a_leg_that_breaks_while_the_hello_leaves(server_key: Any) -> None:
    leg = HandLeg()
    leg.breaks = True
    session = connect_with_transport("hand", leg, server_key.verifying_key())
    assert type(await _failure(session)) is phantom.NetworkError


async def test_no_frame_is_read_while_the_client_solves(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    session, leg = _client(server_key)
    owner = leg.owner
    assert isinstance(owner, handshaking.ClientHandshake)

    async def in_thread(function: Callable[[], Any]) -> Any:
        await gate.wait()
        return function()

    monkeypatch.setattr(AsyncioRuntime, "in_thread", lambda _self, function: in_thread(function))
    leg.give(_framed(_challenge(4), b"\2PRJ1\2\2"))
    await turns()
    assert leg.paused
    assert leg.rest == _framed(b"\2PRJ1\2\2"), "what came behind the challenge waits in the leg"
    assert len(leg.sent) == 1
    gate.set()
    assert type(await _failure(session)) is phantom.ServerBusyError
    assert len(leg.sent) == 2


async def test_giving_up_while_solving_ends_quietly(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        calls = 0
        sessions: list[phantom.PhantomSession] = []

        async def in_thread(
            _self: object, function: Callable[[], Any], at: int = at, sessions: list[Any] = sessions
        ) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                await sessions[0].disconnect()
            return None

        monkeypatch.setattr(AsyncioRuntime, "in_thread", in_thread)
        session, leg = _client(server_key)
        sessions.append(session)
        leg.give(_framed(_challenge(24 if at == 0 else 9)))
        await until(lambda leg=leg: leg.closed)
        await turns()
        assert calls <= at + 2
        assert len(leg.sent) == 1
        assert type(session.last_error()) is phantom.ConnectionClosedError


async def test_work_that_no_one_can_do_is_exhausted(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SOLVE_ITERATIONS", 1000)
    monkeypatch.setattr(handshaking.proof_of_work, "solve", lambda *_: None)
    session, leg = _client(server_key)
    leg.give(_framed(_challenge(4)))
    assert type(await _failure(session)) is phantom.PowExhaustedError


async def test_work_beyond_the_deadline_is_refused_after_the_measured_tries(
    server_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def solve(nonce: bytes, difficulty: int, start: int, count: int) -> None:
        asked.append((start, count))

    monkeypatch.setattr(handshaking.proof_of_work, "solve", solve)
    monkeypatch.setattr(handshaking, "solve_budget_exceeded", lambda *_: True)
    session, leg = _client(server_key)
    leg.give(_framed(_challenge(20)))
    assert type(await _failure(session)) is phantom.PowDifficultyTooHighError
    assert asked == [(0, 256)]


async def test_work_of_several_slices_is_found(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshaking, "solve_budget_exceeded", lambda *_: False)  # a busy machine measures anything
    listener = memory_listener(server_key, PhantomConfig(load_tiers=((0, 13),)))
    runtime = AsyncioRuntime()
    for _ in range(3):
        near, far = memory_leg_pair(runtime)
        listener.serve_leg(far, Source("127.0.0.1"), "memory")
        session = connect_with_transport("memory", near, server_key.verifying_key(), runtime=runtime)
        await session.await_ready(PATIENCE)
        assert session.handshake.retries == 1
        accepted = (await listener.accept(PATIENCE)).session
        await asyncio.gather(session.disconnect(), accepted.disconnect())
    listener.shutdown()


async def test_the_packet_behind_the_last_handshake_frame_is_the_sessions(server_key: Any) -> None:
    client, leg = _client(server_key)
    listener = memory_listener(server_key)
    server_leg = HandLeg()
    listener.serve_leg(server_leg, Source("127.0.0.1"), "hand")
    server_leg.give(_framed(leg.sent.popleft()))
    accepted = (await listener.accept(PATIENCE)).session
    await accepted.send(bytes(65_500))  # its frame is larger than the cap of the handshake
    await turns()
    assert max(map(len, server_leg.sent)) > 65_536
    leg.give(_framed(*server_leg.sent))
    assert await client.recv(PATIENCE) == bytes(65_500)
    for session in (client, accepted):
        assert session._driver is not None
        session._driver.leg_lost(None)
    listener.shutdown()


async def test_a_host_without_randomness_lets_go_of_the_connection(echo_server: Any) -> None:
    class Empty:
        def fill_bytes(self, n: int) -> bytes:
            raise phantom.RngError

    async with echo_server() as listener, nothing_left(listener):
        with pytest.raises(phantom.RngError):
            await phantom.connect(listener.urls[0], rng=Empty(), timeout=PATIENCE)
        await until(lambda: listener.metrics_snapshot().handshakes_failure == 1)


async def test_a_session_that_is_connecting_has_counts_of_zero(server_key: Any) -> None:
    session, _leg = _client(server_key)
    assert session.metrics_snapshot().packets_sent == 0
    assert session.peer_identity() is None
    assert repr(session) == "<PhantomSession connecting hand connecting>"
    with pytest.raises(phantom.ConnectionClosedError, match="not established"):
        _ = session.handshake
    await session.disconnect()
    with pytest.raises(phantom.ConnectionClosedError, match="closed before it was established"):
        _ = session.handshake


async def _established(key: phantom.HybridSigningKey) -> tuple[phantom.PhantomSession, HandLeg]:
    session, leg = _client(key)
    listener = memory_listener(key)
    server_leg = _serve(listener)
    server_leg.give(_framed(leg.sent.popleft()))
    accepted = (await listener.accept(PATIENCE)).session
    leg.give(_framed(*server_leg.sent))
    await session.await_ready(PATIENCE)
    accepted._abandon()
    listener.shutdown()
    return session, leg


async def test_a_leg_that_failed_is_closed_at_once_and_any_other_lingers(server_key: Any) -> None:
    session, leg = await _established(server_key)
    leg.give(b"\xff" * 4)
    assert type(session.last_error()) is phantom.SessionDeadError
    assert leg.lingers == [False]
    session, leg = await _established(server_key)
    assert session._driver is not None
    session._driver.abort(phantom.BusyError("x"))
    assert leg.lingers == [True]


async def test_keys_go_even_if_no_leg_takes_the_last_word(server_key: Any) -> None:
    session, leg = await _established(server_key)
    driver = session._driver
    assert driver is not None
    secret = driver.conn.protection._secret  # type: ignore[attr-defined]
    assert any(secret)
    leg.closed = True
    driver.abort(phantom.BusyError("x"))
    assert not any(secret)


# --- the server -------------------------------------------------------------------------------------------------------


def _serve(listener: phantom.PhantomListener) -> HandLeg:
    leg = HandLeg()
    listener.serve_leg(leg, Source("127.0.0.1"), "hand")
    return leg


def _hello(key: phantom.HybridSigningKey) -> bytes:
    return _client(key)[1].sent[0]


async def test_a_hello_waits_for_its_turn_and_frames_behind_it_wait_in_the_leg(server_key: Any) -> None:
    config = PhantomConfig(cookie="always")
    listener = memory_listener(server_key, config)
    leg = _serve(listener)
    (handshake,) = listener._handshakes
    assert handshake.leg is leg
    hello = _hello(server_key)
    leg.give(_framed(hello, hello, hello, hello, hello))
    assert leg.paused
    assert len(leg.sent) == 0
    await until(lambda: leg.closed)
    assert [frame[:1] for frame in leg.sent] == [b"\1"] * 3, "the rounds that §6.5 allows"
    assert leg.lingers == [True]
    assert listener.metrics_snapshot().handshakes_failure == 1
    listener.shutdown()


async def test_at_most_four_hellos_are_answered_in_one_turn(server_key: Any) -> None:
    listener = memory_listener(server_key)
    hello = _hello(server_key)
    legs = [_serve(listener) for _ in range(10)]
    for leg in legs:
        leg.give(_framed(hello))
    answered = []
    for _ in range(4):
        answered.append(sum(bool(leg.sent) for leg in legs))
        await asyncio.sleep(0)
    assert answered == [0, 4, 8, 10]
    await listener.drain(0.0)


async def test_a_client_that_left_before_its_answer_became_a_session(server_key: Any) -> None:
    listener = memory_listener(server_key)
    leg = _serve(listener)
    leg.breaks = True
    leg.give(_framed(_hello(server_key)))
    await until(lambda: not listener._handshakes)
    await turns()
    assert not listener._sessions
    assert not listener._accepted
    snapshot = listener.metrics_snapshot()
    assert (snapshot.handshakes_success, snapshot.handshakes_failure) == (0, 1)
    listener.shutdown()


async def test_a_client_that_left_before_its_refusal_was_counted_twice(server_key: Any) -> None:
    listener = memory_listener(server_key, PhantomConfig(max_inflight_handshakes=1))
    first, second = _serve(listener), _serve(listener)
    second.breaks = True
    second.give(_framed(_hello(server_key)))
    await until(lambda: second.closed)
    assert listener.metrics_snapshot().handshakes_failure == 1
    first.give(_framed(b"\7"))
    await until(lambda: first.closed)
    assert first.lingers == [True]
    assert listener.metrics_snapshot().handshakes_failure == 2
    listener.shutdown()


async def test_a_host_without_a_clock_refuses_and_recovers(server_key: Any) -> None:
    times = iter([-1.0])

    class Runtime(AsyncioRuntime):
        def __init__(self) -> None:
            super().__init__(lambda: next(times, 1_800_000_000.0))

    async with phantom.listen("127.0.0.1:0", key=server_key, runtime=Runtime()) as listener:
        with pytest.raises(phantom.NetworkError):
            await phantom.connect(listener.urls[0], timeout=PATIENCE)
        async with phantom.connect(listener.urls[0], timeout=PATIENCE):
            accepted = (await listener.accept(PATIENCE)).session
        assert listener.metrics_snapshot().handshakes_failure == 1
        await accepted.disconnect()


async def test_one_handshake_that_broke_stopped_all_later_ones(
    server_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = memory_listener(server_key)
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: troubles.append(context))
    establish = listener._engine.establish

    def broken(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(type(listener._engine), "establish", lambda _self, *rest, **more: establish(*rest, **more))
        raise KeyError("a bug")

    monkeypatch.setattr(type(listener._engine), "establish", broken)
    legs = [_serve(listener) for _ in range(3)]
    hello = _hello(server_key)
    for leg in legs:
        leg.give(_framed(hello))
    await until(lambda: len(listener._accepted) == 2)
    assert len(troubles) == 1
    for outcome in list(listener._accepted):
        assert outcome.session._driver is not None
        outcome.session._driver.leg_lost(None)
    listener._accepted.clear()
    listener.shutdown()


async def test_shutting_down_aborts_handshakes_and_their_turns(server_key: Any) -> None:
    listener = memory_listener(server_key)
    legs = [_serve(listener) for _ in range(3)]
    legs[0].give(_framed(_hello(server_key)))
    listener.shutdown()
    assert all(leg.closed for leg in legs)
    assert all(leg.lingers == [False] for leg in legs)
    (handshakes,) = ([*listener._handshakes],)
    assert handshakes == []
    await turns()
    assert not legs[0].sent
    assert listener.metrics_snapshot().handshakes_failure == 0, "nobody failed"


async def test_a_leg_that_ends_or_says_nothing_gives_its_slot_back(server_key: Any) -> None:
    listener = memory_listener(server_key, PhantomConfig(handshake_timeout=0.1))
    ended, silent, stalled = (_serve(listener) for _ in range(3))
    assert listener._gate.inflight == 3
    owner = ended.owner
    assert isinstance(owner, ServerHandshake)
    owner.leg_lost(None)
    owner.leg_lost(None)
    owner.abort()
    assert listener._gate.inflight == 2
    stalled.give(b"\0\0")
    await until(lambda: not listener._handshakes)
    assert listener._gate.inflight == 0
    assert silent.closed
    assert stalled.closed
    listener.shutdown()


async def test_a_full_queue_of_accepted_sessions_answers_busy(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACCEPT_QUEUE", 2)
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        clients = [await phantom.connect(listener.urls[0], timeout=PATIENCE) for _ in range(2)]
        with pytest.raises(phantom.ServerBusyError):
            await phantom.connect(listener.urls[0], timeout=PATIENCE)
        accepted = [(await listener.accept(PATIENCE)).session]
        clients.append(await phantom.connect(listener.urls[0], timeout=PATIENCE))
        accepted += [(await listener.accept(PATIENCE)).session for _ in range(2)]
        for session in (*clients, *accepted):
            await session.disconnect()


async def test_leaving_a_listener_waits_for_refused_peers_that_linger(server_key: Any) -> None:
    reader, writer = None, None
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        host, _, port = listener.local_addr.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_framed(b"\7"))
        assert await reader.read() == b"", "refused; and this end says nothing more"
        assert [leg.closed for leg in listener._lingering] == [False]
    assert [leg.closed for leg in listener._lingering] == [True]
    writer.close()
    await writer.wait_closed()


# --- accepting --------------------------------------------------------------------------------------------------------


class _Faulty:
    """A listening socket whose accept fails some times first."""

    def __init__(self, sock: socket.socket, *errors: OSError) -> None:
        self._sock = sock
        self._errors = list(errors)

    def accept(self) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_out_of_descriptors_it_waits_and_goes_on(
    server_key: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phantom.api.listener._ACCEPT_PAUSE", 0.01)
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        (sock,) = listener._sockets
        asyncio.get_running_loop().remove_reader(sock)
        faulty = _Faulty(sock, ConnectionAbortedError(), OSError(24, "Too many open files"))
        listener._sockets = [faulty]  # type: ignore[list-item]
        listener._watch(faulty)  # type: ignore[arg-type]
        async with phantom.connect(listener.urls[0], timeout=PATIENCE):
            accepted = (await listener.accept(PATIENCE)).session
        await accepted.disconnect()
    assert "Too many open files" in caplog.text
    listener._watch(sock)  # it was shut down during the pause


async def test_a_peer_that_was_gone_before_it_was_looked_at(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        async with nothing_left(listener):
            listener._begin(listener._sockets[0], socket.socket(), ("127.0.0.1", 1))
            assert not listener._handshakes


@pytest.mark.parametrize("trouble", [False, True])
async def test_loops_without_readiness_callbacks_accept_by_a_task(
    server_key: Any, monkeypatch: pytest.MonkeyPatch, trouble: bool
) -> None:
    monkeypatch.setattr("phantom.api.listener._ACCEPT_PAUSE", 0.0)
    loop = asyncio.get_running_loop()
    add, remove, accept = loop.add_reader, loop.remove_reader, loop.sock_accept
    errors = [OSError(24, "Too many open files")] if trouble else []

    def refuse(fd: Any, *arguments: Any) -> Any:
        if isinstance(fd, socket.socket) and fd.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise NotImplementedError
        return add(fd, *arguments)

    def refuse_removal(fd: Any) -> bool:
        if isinstance(fd, socket.socket) and fd.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise NotImplementedError
        return remove(fd)

    async def sock_accept(sock: socket.socket) -> Any:
        if errors:
            raise errors.pop()
        return await accept(sock)

    monkeypatch.setattr(loop, "add_reader", refuse)
    monkeypatch.setattr(loop, "remove_reader", refuse_removal)
    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        for _ in range(2):
            async with phantom.connect(listener.urls[0], timeout=PATIENCE) as session:
                accepted = (await listener.accept(PATIENCE)).session
                await session.send(b"x")
                assert await accepted.recv(PATIENCE) == b"x"
            await accepted.disconnect()
    assert errors == []


async def test_a_connection_accepted_in_the_turn_of_the_shutdown_was_leaked(
    server_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Any] = loop.create_future()

    def refuse(fd: Any, *_: Any) -> Any:
        raise NotImplementedError

    async def sock_accept(sock: socket.socket) -> Any:
        return await arrived

    monkeypatch.setattr(loop, "add_reader", refuse)
    monkeypatch.setattr(loop, "remove_reader", refuse)
    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    ours, theirs = socket.socketpair()
    with theirs:
        async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
            begun: list[object] = []
            monkeypatch.setattr(listener, "_begin", lambda *found: begun.append(found))
            await asyncio.sleep(0)
            arrived.set_result((ours, ("127.0.0.1", 1)))
            listener.shutdown()
        await until(lambda: ours.fileno() == -1 or begun)
        assert begun == []


async def test_a_client_that_resets_in_the_middle_leaves_the_listener_serving(
    echo_server: Any, server_key: Any
) -> None:
    async with echo_server() as listener:
        async with nothing_left(listener):
            held: list[Callable[[], None]] = []
            take_turn, listener._take_turn = listener._take_turn, held.append
            host, _, port = listener.local_addr.rpartition(":")
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(_framed(_hello(server_key)))
                await until(lambda: held)
                reset(sock)
            listener._take_turn = take_turn
            for work in held:
                work()
        assert listener.metrics_snapshot().handshakes_failure + listener.metrics_snapshot().handshakes_success == 1
        await echoes(listener)


# --- the suite --------------------------------------------------------------------------------------------------------


def test_the_sending_suite_is_chosen_by_name_or_by_the_machine() -> None:
    provider = get_provider()
    assert sending_suite(PhantomConfig(suite="aes-256-gcm"), provider) is CipherSuite.AES_256_GCM
    assert sending_suite(PhantomConfig(suite="chacha20-poly1305"), provider) is CipherSuite.CHACHA20_POLY1305
    assert sending_suite(PhantomConfig(), provider) in CipherSuite
