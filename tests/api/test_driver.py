"""The driver: when messages leave, who is woken, what ends a session and what its end leaves behind."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.errors import NonceExhaustedError
from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import run_virtual
from phantom.testing.sessions import SessionPair, session_pair
from phantom.transport.packet.protection import ProtectionV2
from tests.calm import PATIENCE, turns, until


async def _pair(key: Any, **arguments: Any) -> SessionPair:
    return await session_pair(key=key, **arguments)


def _batches(pair: SessionPair) -> list[int]:
    """Packets in each batch that leaves the client from now on."""
    seen: list[int] = []

    def tap(data: bytes) -> bytes:
        count, at = 0, 0
        while at < len(data):
            at += 4 + struct.unpack_from(">I", data, at)[0]
            count += 1
        seen.append(count)
        return data

    pair.client_leg.tap = tap
    return seen


async def test_the_first_message_of_a_turn_leaves_at_once_and_the_rest_together(server_key: Any) -> None:
    pair = await _pair(server_key)
    await turns()
    batches = _batches(pair)
    for number in range(10):
        await pair.client.send(b"%d" % number)
        assert batches == [1]
    await asyncio.sleep(0)
    assert batches == [1, 1], "nine small messages share a packet"
    assert [await pair.server.recv(PATIENCE) for _ in range(10)] == [b"%d" % number for number in range(10)]
    await pair.close()


async def test_a_full_batch_leaves_before_the_turn_ends(server_key: Any) -> None:
    pair = await _pair(server_key)
    await turns()
    await pair.client.send(bytes(600_000))
    assert len(await pair.server.recv(PATIENCE)) == 600_000  # the window is open now
    await turns()
    batches = _batches(pair)
    for _ in range(6):
        await pair.client.send(bytes(65_536))
    assert len(batches) > 1
    for _ in range(6):
        await pair.server.recv(PATIENCE)
    await pair.close()


async def test_waiting_writers_were_served_out_of_turn_behind_a_large_message(server_key: Any) -> None:
    pair = await _pair(server_key)
    pair.client_leg.stall()
    await pair.client.send(bytes(limits.SEND_BUFFER_CAP))
    await pair.client.send(bytes(limits.SEND_BUFFER_CAP))
    sizes = [limits.MAX_MESSAGE, 11, 12, limits.MAX_MESSAGE, 13, 14]
    writers = []
    for size in sizes:
        writers.append(asyncio.ensure_future(pair.client.send(bytes(size))))
        await turns(2)
    assert not any(writer.done() for writer in writers)
    pair.client_leg.unstall()
    got = [len(await pair.server.recv(PATIENCE)) for _ in range(8)]
    assert got == [limits.SEND_BUFFER_CAP] * 2 + sizes
    await asyncio.gather(*writers)
    await pair.close()


async def test_writers_that_have_room_waited_for_the_window_of_the_peer(server_key: Any) -> None:
    pair = await _pair(server_key)
    driver = pair.client._driver
    assert driver is not None
    while driver.conn.has_room:
        await pair.client.send(bytes(100_000))
        await turns(1)
    writers = [asyncio.ensure_future(pair.client.send(b"%d" % number)) for number in range(100)]
    await turns()
    assert not any(writer.done() for writer in writers)
    while driver.conn.queued > limits.SEND_BUFFER_CAP - limits.SEND_BATCH:
        await pair.server.recv(PATIENCE)
        await turns()
    await turns(len(writers))
    assert driver.conn.queued, "and nobody reads any more"
    assert all(writer.done() for writer in writers)
    pair.client_leg.cut()
    await asyncio.gather(*writers)
    await pair.close()


async def test_a_writer_that_gives_up_lets_the_next_one_go(server_key: Any) -> None:
    pair = await _pair(server_key)
    pair.client_leg.stall()
    for _ in range(2):
        await pair.client.send(bytes(limits.SEND_BUFFER_CAP))
    writers = [asyncio.ensure_future(pair.client.send(b"%d" % number)) for number in range(5)]
    await turns()
    writers[0].cancel()
    writers[2].cancel()
    pair.client_leg.unstall()
    got = [await pair.server.recv(PATIENCE) for _ in range(5)]
    assert got[2:] == [b"1", b"3", b"4"]
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        asyncio.CancelledError,
        type(None),
        asyncio.CancelledError,
        type(None),
        type(None),
    ]
    await pair.close()


async def test_a_reader_that_came_while_another_had_its_turn_gets_the_next_message(server_key: Any) -> None:
    pair = await _pair(server_key)
    driver = pair.server._driver
    assert driver is not None
    first = asyncio.ensure_future(pair.server.recv(PATIENCE))
    late: list[asyncio.Future[bytes]] = []
    await turns()
    deliver = pair.server_leg._deliver

    def and_another(data: bytes) -> None:
        if data and not late:
            late.append(asyncio.ensure_future(pair.server.recv(PATIENCE)))  # it runs before the one that is woken now
        deliver(data)

    pair.server_leg._deliver = and_another  # type: ignore[method-assign]
    pair.client_leg.stall()
    await pair.client.send(b"1")
    await pair.client.send(b"2")
    await turns()
    pair.client_leg.unstall()
    assert await first == b"1"
    await turns()
    assert late[0].done()
    assert await late[0] == b"2"
    await pair.close()


async def test_waiting_writers_are_refused_when_the_peer_closes(server_key: Any) -> None:
    pair = await _pair(server_key)
    for _ in range(2):
        await pair.client.send(bytes(limits.MAX_MESSAGE))
    writers = [asyncio.ensure_future(pair.client.send(b"x")) for _ in range(3)]
    await turns()
    closing = asyncio.ensure_future(pair.server.disconnect(7))
    for writer in writers:
        with pytest.raises(phantom.ConnectionClosedError) as caught:
            await writer
        assert caught.value.peer_code == 7
    await closing
    assert await pair.client.disconnect() is False
    await pair.close()


async def test_a_frame_over_the_cap_kills_the_session_with_its_cause(server_key: Any) -> None:
    pair = await _pair(server_key)
    pair.client_leg.send_raw(struct.pack(">I", limits.ESTABLISHED_FRAME_CAP + 1))
    with pytest.raises(phantom.SessionDeadError, match="frame of 4194305 bytes") as caught:
        await pair.server.recv(PATIENCE)
    assert isinstance(caught.value.__cause__, phantom.FrameTooLargeError)
    assert pair.server_leg.closed
    await pair.close()


async def test_empty_frames_are_ignored_up_to_64_in_a_row(server_key: Any) -> None:
    pair = await _pair(server_key)
    for _ in range(3):
        pair.client_leg.send_raw(bytes(4 * limits.MAX_EMPTY_FRAMES))
        await pair.client.send(b"between")
        assert await pair.server.recv(PATIENCE) == b"between"
    pair.client_leg.send_raw(bytes(4 * (limits.MAX_EMPTY_FRAMES + 1)))
    with pytest.raises(phantom.SessionDeadError, match="empty frames"):
        await pair.server.recv(PATIENCE)
    await pair.close()


async def test_an_abort_tells_the_peer_why(server_key: Any) -> None:
    pair = await _pair(server_key)
    driver = pair.client._driver
    assert driver is not None
    driver.abort(phantom.BusyError("no room"))
    with pytest.raises(phantom.BusyError):
        await pair.client.recv(PATIENCE)
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        await pair.server.recv(PATIENCE)
    assert caught.value.peer_code == 3
    assert isinstance(pair.client.last_error(), phantom.BusyError)
    driver.abort(phantom.BusyError("again"))
    await pair.close()


async def test_exhausted_nonces_end_the_session_while_it_sends(
    server_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await _pair(server_key)
    waiting = asyncio.ensure_future(pair.client.recv(PATIENCE))
    await turns()

    def exhausted(*_: Any) -> int:
        raise NonceExhaustedError

    monkeypatch.setattr(ProtectionV2, "seal", exhausted)
    await pair.client.send(b"one too many")
    await turns()
    assert waiting.done(), "at once, not when the next timer fires"
    with pytest.raises(NonceExhaustedError):
        await waiting
    monkeypatch.undo()
    with pytest.raises(NonceExhaustedError):
        await pair.client.send(b"x")
    assert isinstance(pair.client.last_error(), NonceExhaustedError)
    assert await pair.client.disconnect() is False
    await pair.close()


async def test_a_timer_that_was_armed_for_later_is_moved_for_an_earlier_deadline(server_key: Any) -> None:
    def later() -> None:
        raise AssertionError("moved")

    pair = await _pair(server_key)
    driver = pair.client._driver
    assert driver is not None
    await turns()
    driver._drop_timer()
    driver._timer_at = driver._runtime.monotonic() + 1e6
    driver._timer = driver._runtime.call_at(driver._timer_at, later)
    await pair.client.send(b"x")
    assert driver._timer_at < driver._runtime.monotonic() + 1e5
    assert await pair.server.recv(PATIENCE) == b"x"
    await pair.close()


def test_an_acknowledgement_is_delayed_by_25_milliseconds_and_no_more(server_key: Any) -> None:
    async def main() -> float:
        runtime = SimulatedRuntime()
        pair = await session_pair(key=server_key, runtime=runtime, latency=0.01)
        await runtime.sleep(1.0)
        begun = runtime.monotonic()
        await pair.client.send(b"acknowledge me")
        await pair.client.flush_queue()
        took = runtime.monotonic() - begun
        await pair.close()
        return took

    assert run_virtual(main()) == pytest.approx(0.02 + limits.MAX_ACK_DELAY, abs=0.002)


def test_an_ended_session_leaves_no_timer(server_key: Any) -> None:
    async def main() -> None:
        runtime = SimulatedRuntime()
        pair = await session_pair(key=server_key, runtime=runtime)
        await pair.client.send(b"x")
        await pair.server.recv()
        await pair.close()
        for session in (pair.client, pair.server):
            assert session._driver is not None
            assert session._driver._timer is None
        await runtime.sleep(1)  # the wire of the memory legs
        loop = asyncio.get_running_loop()
        assert [handle for handle in loop._scheduled if not handle.cancelled()] == []  # type: ignore[attr-defined]

    run_virtual(main())


async def test_a_session_held_back_by_memory_goes_on_when_another_reads(server_key: Any) -> None:
    one, other = await _pair(server_key), await _pair(server_key)
    driver = one.server._driver
    assert driver is not None
    memory = driver.conn.memory
    waiting = asyncio.ensure_future(one.server.recv(PATIENCE))
    await turns()
    base, capacity = memory.charged, memory.capacity
    memory.capacity = base + 10_000
    try:
        await other.client.send(bytes(10_000))
        await until(lambda: memory.used_up)
        await one.client.send(b"held")
        await until(lambda: driver.conn.assembler.run_bytes)
        await turns()
        assert not waiting.done()
        assert len(await other.server.recv(PATIENCE)) == 10_000
        with pytest.raises(phantom.PhantomTimeoutError):
            await other.server.recv(0.0)
        assert await waiting == b"held"
    finally:
        memory.capacity = capacity
    await one.close()
    await other.close()
