"""Session pairs over memory legs, in real and in virtual time."""

from __future__ import annotations

import asyncio

import pytest

import phantom.testing
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.errors import (
    BusyError,
    ConnectionClosedError,
    PhantomTimeoutError,
    ProtocolViolationError,
    SessionDeadError,
)
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual
from phantom.testing.sessions import SessionPair, memory_listener, session_pair
from phantom.transport.session.states import ConnectionState


@pytest.fixture(scope="module")
def key() -> HybridSigningKey:
    return HybridSigningKey.generate()


async def virtual_pair(key: HybridSigningKey, **options: object) -> SessionPair:
    return await session_pair(key=key, runtime=SimulatedRuntime(), **options)  # type: ignore[arg-type]


async def test_a_pair_in_real_time() -> None:
    pair = await session_pair()
    assert pair.client.id == pair.server.id
    assert pair.client.peer_identity() is not None
    await pair.client.send(b"there")
    assert await pair.server.recv(10.0) == b"there"
    await pair.server.send(b"back")
    assert await pair.client.recv(10.0) == b"back"
    await pair.close()
    assert pair.listener.is_shutting_down()
    assert [end.state for end in (pair.client, pair.server)] == [ConnectionState.CLOSED] * 2


def test_a_pair_in_virtual_time(key: HybridSigningKey) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pair = await virtual_pair(key, latency=0.2)
        begun = loop.time()
        await pair.client.send(bytes(3_000_000))
        assert len(await pair.server.recv()) == 3_000_000
        assert await pair.client.flush_queue() >= 0
        assert loop.time() - begun < 5.0
        await asyncio.sleep(86_400.0)
        assert pair.client.state is ConnectionState.CONNECTED
        await pair.close()
        assert loop.time() < 86_420.0

    run_virtual(main())


def test_runs_repeat_exactly(key: HybridSigningKey) -> None:
    async def main() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        pair = await virtual_pair(key, latency=0.03)
        seen = []
        for size in (10, 100_000, 0, 700_000, 3):
            await pair.client.send(bytes(size))
            assert len(await pair.server.recv()) == size
            seen.append((loop.time(), pair.client_leg.bytes_sent))
        await pair.close()
        return seen

    assert run_virtual(main()) == run_virtual(main())


def test_configurations_reach_their_ends(key: HybridSigningKey) -> None:
    async def main() -> None:
        pair = await virtual_pair(
            key,
            client_config=PhantomConfig(suite="aes-256-gcm"),
            server_config=PhantomConfig(suite="chacha20-poly1305", max_message=10),
        )
        await pair.client.send(bytes(11))
        with pytest.raises(ProtocolViolationError):
            await pair.server.recv()
        with pytest.raises(ConnectionClosedError) as closed:
            await pair.client.recv()
        assert closed.value.peer_code == ProtocolViolationError.code
        assert pair.client.negotiated.suite.label == "aes-256-gcm"
        assert pair.client.negotiated.receive_suite is not pair.client.negotiated.suite
        await pair.close()

    run_virtual(main())


def test_a_cut_and_a_stall_end_as_on_a_network(key: HybridSigningKey) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pair = await virtual_pair(key)
        pair.client_leg.cut()
        for end in (pair.client, pair.server):
            with pytest.raises(SessionDeadError, match="cut"):
                await end.recv()
        await pair.close()

        pair = await virtual_pair(key)
        begun = loop.time()
        pair.server_leg.stall()
        await pair.client.send(b"is anybody there")
        with pytest.raises(SessionDeadError, match="nothing was heard"):
            await pair.client.recv()
        assert loop.time() - begun == pytest.approx(30.0, abs=1.0)
        assert await pair.server.recv() == b"is anybody there"
        with pytest.raises(SessionDeadError):
            await pair.server.recv()
        pair.server_leg.unstall()
        await pair.close()

    run_virtual(main())


def test_hostile_bytes_are_dropped_or_end_the_leg(key: HybridSigningKey) -> None:
    async def main() -> None:
        pair = await virtual_pair(key)
        pair.client_leg.send_raw((100).to_bytes(4, "big") + bytes(100))
        pair.client_leg.send_raw((100).to_bytes(4, "big") + b"\2" * 100)
        pair.client_leg.send_raw(bytes(4 * 64))
        await pair.client.send(b"still fine")
        assert await pair.server.recv() == b"still fine"
        pair.client_leg.send_raw(b"\xff\xff\xff\xff")
        with pytest.raises(SessionDeadError, match="4294967295"):
            await pair.server.recv()
        with pytest.raises((SessionDeadError, ConnectionClosedError)):
            await pair.client.recv()
        await pair.close()

    run_virtual(main())


def test_a_tap_that_flips_bits_loses_nothing_but_the_packet(key: HybridSigningKey) -> None:
    async def main() -> None:
        pair = await virtual_pair(key)
        tapped = 0

        def flip_first(data: bytes) -> bytes:
            nonlocal tapped
            tapped += 1
            if tapped > 1:
                return data
            return data[:-9] + bytes((data[-9] ^ 1,)) + data[-8:]

        pair.client_leg.tap = flip_first
        await pair.client.send(b"first")
        await asyncio.sleep(0.1)
        await pair.client.send(b"second")
        assert await pair.server.recv() == b"first"  # refused, hence resent
        assert await pair.server.recv() == b"second"
        assert pair.server.metrics_snapshot().aead_failure_total == 1
        assert pair.client.metrics_snapshot().retransmissions == 1
        await pair.close()

    run_virtual(main())


def test_one_account_serves_all_sessions_of_a_listener(key: HybridSigningKey) -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        listener = memory_listener(key, PhantomConfig(), runtime)
        with pytest.raises(PhantomTimeoutError):
            await listener.accept(1.0)
        listener.shutdown()
        with pytest.raises(ConnectionClosedError):
            await listener.accept()

    run_virtual(main())


def test_the_tools_are_exported() -> None:
    for name in phantom.testing.__all__:
        assert getattr(phantom.testing, name) is not None
    assert BusyError.code == 3


async def test_a_pair_with_a_client_identity() -> None:
    with phantom.generate_signing_key() as alice:
        clients = phantom.ClientPolicy.required(phantom.AuthorizedClients.from_pins([alice.verifying_key()]))
        pair = await session_pair(identity=alice, clients=clients)
        assert pair.server.peer_identity() == alice.verifying_key()
        await pair.close()
