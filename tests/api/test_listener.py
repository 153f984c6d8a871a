"""PhantomListener: bounded, never blocked by one peer, honest about its limits (surface §1.3, wire-native §8.7)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

import phantom
from phantom.config import PhantomConfig


async def test_urls_are_ready_to_paste(server_key: Any) -> None:
    async with phantom.listen("tcp://127.0.0.1:0", "tcp://[::1]:0", key=server_key) as listener:
        assert listener.local_addr.startswith("127.0.0.1:")
        assert [url.split(":")[0] for url in listener.local_addrs] == ["tcp", "tcp"]
        assert listener.verifying_key_bytes() == server_key.verifying_key().to_bytes()
        for url in listener.urls:
            async with phantom.connect(url, timeout=10) as session:
                outcome = await listener.accept(5)
                assert outcome.peer_addr
                await session.send(b"x")
                assert await outcome.session.recv(5) == b"x"


@pytest.mark.parametrize(("wildcard", "loopback"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")])
async def test_urls_of_a_wildcard_named_no_host(server_key: Any, wildcard: str, loopback: str) -> None:
    async with phantom.listen(f"tcp://{wildcard}:0", key=server_key) as listener:
        (url,) = listener.urls
        assert url.rpartition("@")[2].rpartition(":")[0] == loopback
        assert listener.local_addr.rpartition(":")[0] == wildcard, "what is bound is readable all the same"
        async with phantom.connect(url, timeout=10) as session:
            await (await listener.accept(5)).session.disconnect()
            assert session.peer_identity() == server_key.verifying_key()


async def test_a_name_with_two_addresses_gets_one_port(server_key: Any) -> None:
    async with phantom.listen("localhost:0", key=server_key) as listener:
        ports = {url.rpartition(":")[2] for url in listener.local_addrs}
        assert len(ports) == 1


async def test_without_a_key_each_listener_is_a_new_identity() -> None:
    async with phantom.listen("127.0.0.1:0") as one, phantom.listen("127.0.0.1:0") as two:
        assert one.verifying_key_bytes() != two.verifying_key_bytes()


async def test_bind_variants(server_key: Any) -> None:
    one = await phantom.PhantomListener.bind("127.0.0.1:0", key=server_key)
    two = await phantom.PhantomListener.bind_with_signing_key("127.0.0.1:0", server_key)
    assert one.verifying_key_bytes() == two.verifying_key_bytes()
    for listener in (one, two):
        async with listener:
            pass
        assert listener.is_shutting_down()


async def test_a_port_in_use_is_a_network_error(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        with pytest.raises(phantom.NetworkError, match="cannot listen"):
            await phantom.listen(listener.local_addr, key=server_key)
        with pytest.raises(phantom.NetworkError):
            await phantom.listen("127.0.0.1:0", listener.local_addr, key=server_key)


async def test_reuse_port_shares_on_request(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, reuse_port=True) as one:
        async with phantom.listen(one.local_addr, key=server_key, reuse_port=True) as two:
            assert one.local_addr == two.local_addr


def test_listening_needs_addresses_that_make_sense(server_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(phantom.ConfigError):
        phantom.listen()
    with pytest.raises(phantom.ConfigError):
        phantom.listen(f"phantom://{server_key.verifying_key().fingerprint()}@127.0.0.1:1")
    with pytest.raises(phantom.UnsupportedError):
        phantom.listen("kcp://127.0.0.1:1")
    with pytest.raises(phantom.ValidationError):
        phantom.listen("127.0.0.1")
    monkeypatch.delattr("os.fork")
    with pytest.raises(phantom.ConfigError):
        phantom.listen("127.0.0.1:0", reuse_port=True)


async def test_accept_times_out_and_shutdown_wakes_it(server_key: Any) -> None:
    listener = await phantom.listen("127.0.0.1:0", key=server_key)
    with pytest.raises(phantom.PhantomTimeoutError):
        await listener.accept(0.01)
    waiting = asyncio.ensure_future(listener.accept())
    await asyncio.sleep(0)
    listener.shutdown()
    listener.shutdown()
    with pytest.raises(phantom.ConnectionClosedError):
        await waiting
    assert [outcome async for outcome in listener] == []


async def test_acceptors_are_served_in_order(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        waiting = [asyncio.ensure_future(listener.accept(10)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        sessions = [await phantom.connect(listener.urls[0], timeout=10) for _ in range(2)]
        outcomes = [await waiting[1], await waiting[2]]
        assert [outcome.session.id for outcome in outcomes] == [session.id for session in sessions]
        for session in [*sessions, *(outcome.session for outcome in outcomes)]:
            await session.disconnect()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]


async def test_shutdown_leaves_sessions_alone_and_drain_ends_them_with_code_14(server_key: Any) -> None:
    listener = await phantom.listen("127.0.0.1:0", key=server_key)
    session = await phantom.connect(listener.urls[0], timeout=10)
    outcome = await listener.accept(5)
    listener.shutdown()
    with pytest.raises(phantom.NetworkError):
        await phantom.connect(listener.urls[0], timeout=5)
    await session.send(b"still here")
    assert await outcome.session.recv(5) == b"still here"
    await outcome.session.send(b"owed")
    draining = asyncio.ensure_future(listener.drain(grace=5))
    assert await session.recv(5) == b"owed"
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await session.recv(5)
    assert caught.value.peer_code == 14
    await draining
    await session.disconnect()


async def test_sessions_that_nobody_accepted_are_closed(server_key: Any) -> None:
    listener = await phantom.listen("127.0.0.1:0", key=server_key)
    session = await phantom.connect(listener.urls[0], timeout=10)
    await session.send(b"x")
    await session.flush_queue(5)
    listener.shutdown()
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await session.recv(5)
    assert caught.value.peer_code == 14
    await session.disconnect()


async def _stays_busy(url: str, **arguments: Any) -> None:
    with pytest.raises(phantom.ServerBusyError):
        await phantom.connect(url, timeout=10, **arguments)


@pytest.mark.parametrize("config", [PhantomConfig(max_sessions=2), PhantomConfig(max_sessions_per_ip=2)])
async def test_at_a_session_limit_hellos_get_busy_and_a_slot_comes_back(server_key: Any, config: PhantomConfig) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        sessions = [await phantom.connect(listener.urls[0], timeout=10) for _ in range(2)]
        await _stays_busy(listener.urls[0])
        outcomes = [await listener.accept(5) for _ in range(2)]
        await sessions[0].disconnect()
        await outcomes[0].session.disconnect()
        async with phantom.connect(listener.urls[0], timeout=10) as session:
            last = await listener.accept(5)
            await session.send(b"room again")
            assert await last.session.recv(5) == b"room again"
        await sessions[1].disconnect()
        for outcome in (*outcomes, last):
            await outcome.session.disconnect()
        assert listener.metrics_snapshot().active_sessions == 0


async def test_limits_may_be_switched_off(server_key: Any) -> None:
    config = PhantomConfig(max_sessions=0, max_sessions_per_ip=0)
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        async with phantom.connect(listener.urls[0], timeout=10):
            await (await listener.accept(5)).session.await_ready(5)
        await listener.drain(1)


@contextlib.contextmanager
def _silent_sockets(address: str, count: int) -> Any:
    host, _, port = address.rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(count)]
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


async def test_stalled_peers_never_block_others(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        with _silent_sockets(listener.local_addr, 20) as sockets:
            for sock in sockets[::2]:
                sock.sendall(b"\0\0\x0c\xad\0half a hello")
            async with phantom.connect(listener.urls[0], timeout=10) as session:
                outcome = await listener.accept(5)
                await session.send(b"through")
                assert await outcome.session.recv(5) == b"through"
        await listener.drain(1)


async def test_over_the_handshake_limit_hellos_get_busy_and_silent_legs_go_oldest_first(server_key: Any) -> None:
    config = PhantomConfig(max_inflight_handshakes=2, max_inflight_per_source=2, handshake_timeout=30)
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        with _silent_sockets(listener.local_addr, 2):
            while len(listener._handshakes) < 2:
                await asyncio.sleep(0)
            await _stays_busy(listener.urls[0])
        while listener._handshakes:
            await asyncio.sleep(0)
        with _silent_sockets(listener.local_addr, 6):
            while listener.metrics_snapshot().handshakes_failure < 5:
                await asyncio.sleep(0)
            assert len(listener._handshakes) == 4


async def test_handshakes_are_counted_and_failures_logged(server_key: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="phantom")
    config = PhantomConfig(handshake_timeout=0.1)
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        async with phantom.connect(listener.urls[0], timeout=10):
            pass
        with _silent_sockets(listener.local_addr, 1):
            while not listener.metrics_snapshot().handshakes_failure:
                await asyncio.sleep(0)
        snapshot = listener.metrics_snapshot()
        assert snapshot.handshakes_success == snapshot.handshake_latency_count == 1
        assert snapshot.handshake_latency_ns_sum > 0
        assert "a handshake failed" in caplog.text
        await listener.drain(1)
        assert listener.metrics_snapshot().packets_recv > 0


async def test_cookie_always_costs_a_round(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key, config=PhantomConfig(cookie="always")) as listener:
        async with phantom.connect(listener.urls[0], timeout=10) as session:
            assert session.handshake.retries == 1
        await listener.drain(1)


async def test_under_load_clients_solve_a_proof_of_work_off_the_loop(server_key: Any) -> None:
    config = PhantomConfig(load_tiers=((0, 9),))
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        async with phantom.connect(listener.urls[0], timeout=10):
            async with phantom.connect(listener.urls[0], timeout=10) as session:
                assert session.handshake.retries == 1
                outcomes = [await listener.accept(5) for _ in range(2)]
                await session.send(b"worked for it")
                assert await outcomes[1].session.recv(5) == b"worked for it"
        await listener.drain(1)


async def test_too_much_work_is_refused_before_it_is_done(server_key: Any) -> None:
    config = PhantomConfig(load_tiers=((0, 24),))
    async with phantom.listen("127.0.0.1:0", key=server_key, config=config) as listener:
        client = PhantomConfig(handshake_timeout=1.0)
        for _ in range(2):
            with contextlib.suppress(phantom.PowDifficultyTooHighError):
                async with phantom.connect(listener.urls[0], config=client, timeout=10):
                    continue
        with pytest.raises(phantom.PowDifficultyTooHighError):
            await phantom.connect(listener.urls[0], config=client, timeout=10)
        await listener.drain(1)


async def test_a_burst_of_clients_is_served_in_turns(server_key: Any) -> None:
    async with phantom.listen("127.0.0.1:0", key=server_key) as listener:
        async with asyncio.TaskGroup() as tasks:
            connecting = [tasks.create_task(_connect(listener.urls[0])) for _ in range(20)]
        sessions = [task.result() for task in connecting]
        assert len({session.id for session in sessions}) == 20
        for session in sessions:
            await session.disconnect()
        await listener.drain(1)


async def _connect(url: str) -> phantom.PhantomSession:
    return await phantom.connect(url, timeout=20)
