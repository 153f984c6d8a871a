"""PhantomSession: messages, order, cancellation, flushing, closing (surface §1.1)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.config import PhantomConfig
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual
from phantom.testing.sessions import SessionPair, session_pair


async def _pair(key: Any, **arguments: Any) -> SessionPair:
    return await session_pair(key=key, **arguments)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 65531, 65532, 65535, 65536, 65537, 131072, 1 << 20, 16 << 20])
async def test_one_recv_returns_exactly_one_send(server_key: Any, size: int) -> None:
    pair = await _pair(server_key)
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
        await sender.send(message)
        await sender.send(b"next")
        received = await receiver.recv(20)
        assert len(received) == size
        assert hashlib.sha256(received).digest() == hashlib.sha256(message).digest()
        assert await receiver.recv(20) == b"next"
    await pair.close()


async def test_mutable_input_is_copied(server_key: Any) -> None:
    pair = await _pair(server_key)
    data = bytearray(b"before")
    pair.client_leg.stall()
    await pair.client.send(data)
    await pair.client.send(memoryview(data)[:3])
    data[:] = b"after!"
    pair.client_leg.unstall()
    assert await pair.server.recv(5) == b"before"
    assert await pair.server.recv(5) == b"bef"
    await pair.close()


async def test_bad_messages_are_refused_and_queue_nothing(server_key: Any) -> None:
    pair = await _pair(server_key)
    with pytest.raises(phantom.ValidationError):
        await pair.client.send("text")  # type: ignore[arg-type]
    with pytest.raises(phantom.ValidationError, match="limit"):
        await pair.client.send(bytes(limits.MAX_MESSAGE + 1))
    await pair.client.send(b"still fine")
    assert await pair.server.recv(5) == b"still fine"
    await pair.close()


async def test_a_larger_limit_can_be_configured_at_both_ends(server_key: Any) -> None:
    config = PhantomConfig(max_message=20 << 20)
    pair = await _pair(server_key, client_config=config, server_config=config)
    await pair.client.send(bytes(20 << 20))
    assert len(await pair.server.recv(20)) == 20 << 20
    await pair.close()


async def test_a_message_over_the_receivers_limit_ends_the_session_with_code_39(server_key: Any) -> None:
    pair = await _pair(server_key, server_config=PhantomConfig(max_message=1000))
    await pair.client.send(bytes(1001))
    with pytest.raises(phantom.ProtocolViolationError):
        await pair.server.recv(5)
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await pair.client.recv(5)
    assert caught.value.peer_code == 39
    assert isinstance(pair.server.last_error(), phantom.ProtocolViolationError)
    assert await pair.server.disconnect() is True
    with pytest.raises(phantom.ConnectionClosedError):
        async for _ in pair.client:
            pass
    await pair.close()


async def test_readers_are_served_in_order_and_a_cancelled_one_loses_nothing(server_key: Any) -> None:
    pair = await _pair(server_key)
    readers = [asyncio.ensure_future(pair.server.recv(10)) for _ in range(4)]
    await asyncio.sleep(0)
    readers[1].cancel()
    for number in range(3):
        await pair.client.send(b"%d" % number)
    assert await readers[0] == b"0"
    assert await readers[2] == b"1"
    assert await readers[3] == b"2"
    with pytest.raises(asyncio.CancelledError):
        await readers[1]
    await pair.close()


async def test_a_reader_cancelled_after_its_wake_up_passes_the_message_on(server_key: Any) -> None:
    pair = await _pair(server_key)
    first = asyncio.ensure_future(pair.server.recv(10))
    second = asyncio.ensure_future(pair.server.recv(10))
    while not pair.server._driver.messages:
        if not pair.client.metrics_snapshot().messages_sent:
            await pair.client.send(b"kept")
        await asyncio.sleep(0)
    first.cancel()
    assert await second == b"kept"
    with pytest.raises(asyncio.CancelledError):
        await first
    await pair.close()


async def test_recv_times_out_and_goes_on(server_key: Any) -> None:
    pair = await _pair(server_key)
    with pytest.raises(phantom.PhantomTimeoutError):
        await pair.server.recv(0.01)
    await pair.client.send(b"late")
    assert await pair.server.recv(5) == b"late"
    await pair.close()


async def test_send_waits_for_room_and_a_cancelled_send_queues_nothing(server_key: Any) -> None:
    pair = await _pair(server_key)
    chunk = bytes(1 << 20)
    pair.client_leg.stall()
    sent = 0
    with pytest.raises(phantom.PhantomTimeoutError, match="nothing could be queued"):
        while True:
            await pair.client.send(chunk, timeout=0.05)
            sent += 1
    waiting = asyncio.ensure_future(pair.client.send(b"cancelled"))
    behind = asyncio.ensure_future(pair.client.send(b"behind"))
    await asyncio.sleep(0)
    waiting.cancel()
    pair.client_leg.unstall()
    for _ in range(sent):
        assert await pair.server.recv(10) == chunk
    assert await pair.server.recv(10) == b"behind"
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await behind
    await pair.close()


async def test_a_tight_loop_of_sends_lets_others_run(server_key: Any) -> None:
    pair = await _pair(server_key)
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    for _ in range(40):
        await pair.client.send(bytes(100_000))
    assert ran >= 3
    task.cancel()
    for _ in range(40):
        await pair.server.recv(5)
    await pair.close()


async def test_many_small_messages_keep_their_order_and_boundaries(server_key: Any) -> None:
    pair = await _pair(server_key)
    messages = [b"m%d" % number * (number % 50) for number in range(5000)]

    async def send() -> None:
        for message in messages:
            await pair.client.send(message)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        for message in messages:
            assert await pair.server.recv(10) == message
    assert pair.client.metrics_snapshot().packets_sent < 600
    await pair.close()


async def test_flush_waits_for_acknowledgement(server_key: Any) -> None:
    pair = await _pair(server_key)
    assert await pair.client.flush_queue(5) == 0
    pair.client_leg.stall()
    await pair.client.send(b"12345")
    with pytest.raises(phantom.PhantomTimeoutError):
        await pair.client.flush_queue(0.01)
    pair.client_leg.unstall()
    assert await pair.client.flush_queue(5) == 9
    assert await pair.server.recv(5) == b"12345"
    await pair.close()


async def test_an_orderly_close_delivers_everything_first(server_key: Any) -> None:
    pair = await _pair(server_key)
    for number in range(100):
        await pair.client.send(b"%d" % number * 1000)
    assert await pair.client.disconnect(7) is True
    for number in range(100):
        assert await pair.server.recv(5) == b"%d" % number * 1000
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await pair.server.recv(5)
    assert caught.value.peer_code == 7
    with pytest.raises(phantom.ConnectionClosedError):
        await pair.server.send(b"x")
    assert pair.server.last_error() is None
    assert pair.client.state is phantom.ConnectionState.CLOSED
    assert await pair.client.disconnect() is True
    await pair.close()


async def test_iteration_ends_silently_on_code_zero_and_raises_on_another(server_key: Any) -> None:
    for code in (0, 9):
        pair = await _pair(server_key)
        await pair.client.send(b"one")
        closing = asyncio.ensure_future(pair.client.disconnect(code))
        got: list[bytes] = []
        try:
            async for message in pair.server:
                got.append(message)
            ended = 0
        except phantom.ConnectionClosedError as closed:
            ended = closed.peer_code or 0
        assert got == [b"one"]
        assert ended == code
        await closing
        await pair.close()


async def test_a_close_code_is_sixteen_bits(server_key: Any) -> None:
    pair = await _pair(server_key)
    for code in (-1, 65536):
        with pytest.raises(phantom.ValidationError):
            await pair.client.disconnect(code)
    await pair.close()


async def test_leaving_the_block_says_what_was_not_acknowledged(server_key: Any) -> None:
    pair = await _pair(server_key, client_config=PhantomConfig(close_timeout=0.05))
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        async with pair.client:
            pair.client_leg.stall()
            await pair.client.send(b"lost")
    assert caught.value.unacknowledged == 8
    pair.server_leg.cut()
    await pair.close()


async def test_leaving_the_block_by_an_error_keeps_that_error(server_key: Any) -> None:
    pair = await _pair(server_key, client_config=PhantomConfig(close_timeout=0.05))
    with pytest.raises(KeyError):
        async with pair.client:
            pair.client_leg.stall()
            await pair.client.send(b"lost")
            raise KeyError
    pair.server_leg.cut()
    await pair.close()


async def test_a_cancelled_disconnect_ends_the_session_at_once(server_key: Any) -> None:
    pair = await _pair(server_key)
    pair.client_leg.stall()
    await pair.client.send(b"x")
    task = asyncio.ensure_future(pair.client.disconnect())
    await asyncio.sleep(0)
    assert pair.client.state is phantom.ConnectionState.DRAINING
    with pytest.raises(phantom.SessionClosingError):
        await pair.client.send(b"y")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pair.client.state is phantom.ConnectionState.CLOSED
    pair.server_leg.cut()
    await pair.close()


async def test_a_lost_leg_is_a_dead_session_for_everyone_who_waits(server_key: Any) -> None:
    pair = await _pair(server_key)
    pair.client_leg.stall()
    await pair.client.send(b"in flight")
    waiting = [
        asyncio.ensure_future(call)
        for call in (pair.server.recv(), pair.client.recv(), pair.client.flush_queue(), pair.client.flush_queue())
    ]
    await asyncio.sleep(0)
    pair.client_leg.cut()
    for task in waiting:
        with pytest.raises(phantom.SessionDeadError):
            await task
    with pytest.raises(phantom.SessionDeadError):
        await pair.client.send(b"x")
    with pytest.raises(phantom.SessionDeadError):
        await pair.client.await_ready()
    assert isinstance(pair.client.last_error(), phantom.SessionDeadError)
    assert pair.client.state is phantom.ConnectionState.DEAD
    assert await pair.client.disconnect() is False
    await pair.close()


async def test_events_tell_each_change_with_its_reason(server_key: Any) -> None:
    pair = await _pair(server_key)
    seen: list[phantom.StateChanged] = []

    async def listen() -> None:
        async for event in pair.server.events():
            seen.append(event)

    task = asyncio.ensure_future(listen())
    await asyncio.sleep(0)
    await pair.client.disconnect(3)
    await asyncio.wait_for(task, 5)
    assert [event.new for event in seen] == [phantom.ConnectionState.DRAINING, phantom.ConnectionState.CLOSED]
    assert "code 3" in seen[0].reason
    await pair.close()


async def test_a_session_describes_itself_without_secrets(server_key: Any) -> None:
    pair = await _pair(server_key)
    assert "connected" in repr(pair.client)
    assert pair.client.id == pair.server.id
    assert pair.client.peer_addr == "memory:server"
    assert pair.server.peer_identity() is None
    assert pair.client.peer_identity() == server_key.verifying_key()
    assert pair.client.is_pqc_ready()
    assert pair.client.connection_state() is pair.client.state
    assert pair.client.last_error() is None
    snapshot = pair.client.metrics_snapshot().as_dict()
    assert snapshot["active_sessions"] == 1
    await pair.close()
    assert pair.client.metrics_snapshot().active_sessions == 0


def test_a_day_of_idleness_costs_one_ping_per_interval(server_key: Any) -> None:
    async def idle() -> tuple[int, phantom.ConnectionState]:
        runtime = SimulatedRuntime()
        pair = await session_pair(key=server_key, runtime=runtime, latency=0.02)
        await runtime.sleep(86400)
        packets = pair.client.metrics_snapshot().packets_sent
        state = pair.client.state
        await pair.close()
        return packets, state

    packets, state = run_virtual(idle())
    assert packets < 2 * 86400 / limits.KEEPALIVE_INTERVAL + 10
    assert state is phantom.ConnectionState.CONNECTED


def test_a_peer_that_falls_silent_is_noticed(server_key: Any) -> None:
    async def silent() -> float:
        runtime = SimulatedRuntime()
        pair = await session_pair(key=server_key, runtime=runtime, latency=0.02)
        pair.server_leg.stall()
        await pair.client.send(b"hello?")
        begun = runtime.monotonic()
        with pytest.raises(phantom.SessionDeadError, match="nothing was heard"):
            await pair.client.recv()
        took = runtime.monotonic() - begun
        await pair.close()
        return took

    assert limits.SILENCE_FLOOR_PIPE_ONLY_PATH <= run_virtual(silent()) < limits.SILENCE_FLOOR_PIPE_ONLY_PATH + 1


def test_close_gives_up_when_nothing_is_acknowledged_any_more(server_key: Any) -> None:
    async def closing() -> tuple[bool, float]:
        runtime = SimulatedRuntime()
        pair = await session_pair(key=server_key, runtime=runtime, latency=0.02)
        pair.client_leg.stall()
        await pair.client.send(b"never")
        begun = runtime.monotonic()
        acknowledged = await pair.client.disconnect()
        took = runtime.monotonic() - begun
        pair.server_leg.cut()
        await pair.close()
        return acknowledged, took

    acknowledged, took = run_virtual(closing())
    assert acknowledged is False
    assert limits.CLOSE_FLUSH_TIMEOUT <= took < limits.CLOSE_FLUSH_TIMEOUT + 2


async def test_suites_may_differ_by_direction(server_key: Any) -> None:
    pair = await _pair(
        server_key,
        client_config=PhantomConfig(suite="aes-256-gcm"),
        server_config=PhantomConfig(suite="chacha20-poly1305"),
    )
    await pair.client.send(b"a")
    await pair.server.send(b"b")
    assert await pair.server.recv(5) == b"a"
    assert await pair.client.recv(5) == b"b"
    assert pair.client.negotiated.suite.label == "aes-256-gcm"
    receive = pair.client.negotiated.receive_suite
    assert receive is not None
    assert receive.label == "chacha20-poly1305"
    await pair.close()


# --- what the configuration does to the wire --------------------------------------------------------------------------


async def _wire_sizes(server_key: Any, config: PhantomConfig, lengths: list[int]) -> list[int]:
    """The sizes of what the client writes for one message after the other."""
    pair = await _pair(server_key, client_config=config)
    sizes: list[int] = []
    for length in lengths:
        await pair.client.flush_queue(5)
        await asyncio.sleep(0)
        batches: list[int] = []
        pair.client_leg.tap = lambda data, batches=batches: (batches.append(len(data)), data)[1]
        await pair.client.send(bytes(length))
        sizes.append(batches[0])
        pair.client_leg.tap = None
        assert await pair.server.recv(5) == bytes(length)
    await pair.close()
    return sizes


async def test_padding_hides_small_differences_of_length(server_key: Any) -> None:
    lengths = [1000, 1001, 1007]
    plain = await _wire_sizes(server_key, PhantomConfig(), lengths)
    assert [size - plain[0] for size in plain] == [0, 1, 7]
    padded = await _wire_sizes(server_key, PhantomConfig(padding="pade"), lengths)
    assert len(set(padded)) == 1
    assert plain[-1] < padded[0] <= plain[-1] * 1.12


def test_jitter_delays_and_keeps_the_order(server_key: Any) -> None:
    async def main(jitter: float) -> float:
        pair = await session_pair(
            key=server_key, runtime=SimulatedRuntime(), client_config=PhantomConfig(jitter=jitter)
        )
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(50):
            await pair.client.send(b"%d" % number)
            assert await pair.server.recv(60) == b"%d" % number
        took = loop.time() - begun
        for number in range(50):
            await pair.client.send(b"%d" % number)
        assert [await pair.server.recv(60) for _ in range(50)] == [b"%d" % number for number in range(50)]
        await pair.close()
        return took

    assert run_virtual(main(0.0)) == 0.0
    assert 0.5 < run_virtual(main(0.5)) <= 25.0


def test_cover_traffic_fills_the_silence(server_key: Any) -> None:
    async def idle(cover: float) -> int:
        pair = await session_pair(
            key=server_key, runtime=SimulatedRuntime(), client_config=PhantomConfig(cover_interval=cover)
        )
        before = pair.client.metrics_snapshot().packets_sent
        await asyncio.sleep(10)
        sent = pair.client.metrics_snapshot().packets_sent - before
        assert pair.server.metrics_snapshot().dropped_total.get("malformed", 0) == 0
        await pair.close()
        return sent

    assert run_virtual(idle(0.0)) == 0
    assert 95 <= run_virtual(idle(0.1)) <= 101
