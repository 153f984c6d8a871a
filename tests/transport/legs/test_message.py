"""The leg over a transport that a user supplies: three coroutines, any of which may fail, hang or be slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phantom import limits
from phantom.errors import FrameTooLargeError, NetworkError, PhantomTimeoutError
from phantom.runtime import AsyncioRuntime
from phantom.transport.legs.base import SessionTransport
from phantom.transport.legs.message import MessageLeg
from tests.calm import PATIENCE, turns
from tests.transport.legs.support import Owner, frame


class Transport:
    """Gives what the test puts in; sends while ``open`` is set."""

    leg = "carrier pigeon"

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.send_error: Exception | None = None
        self.close_error: Exception | None = None
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.closed = 0

    async def send_bytes(self, data: bytes) -> None:
        await self.open.wait()
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(data)

    async def recv_bytes(self) -> bytes:
        found = await self.inbox.get()
        if isinstance(found, Exception):
            raise found
        return bytes(found)

    async def close(self) -> None:
        self.closed += 1
        await self.may_close.wait()
        if self.close_error is not None:
            raise self.close_error


def _leg(transport: Transport | None = None, owner: Owner | None = None) -> tuple[MessageLeg, Transport, Owner]:
    transport = transport or Transport()
    leg = MessageLeg(transport, AsyncioRuntime(), "far away")
    owner = owner or Owner()
    leg.start(owner)
    return leg, transport, owner


async def _closed(leg: MessageLeg) -> None:
    async with asyncio.timeout(PATIENCE):
        await leg.wait_closed()
    assert leg.closed


async def test_it_is_what_its_transport_says() -> None:
    class Bare:
        async def send_bytes(self, data: bytes) -> None: ...

        async def recv_bytes(self) -> bytes:
            return b""

        async def close(self) -> None: ...

    assert isinstance(Bare(), SessionTransport)
    named, unnamed = MessageLeg(Transport(), AsyncioRuntime(), "x"), MessageLeg(Bare(), AsyncioRuntime(), "y")
    assert (named.name, named.peer_addr) == ("carrier pigeon", "x")
    assert (unnamed.name, unnamed.peer_addr) == ("embedded", "y")
    assert named.proves_address
    assert not named.closed
    named.close(linger=True)  # never started: nothing to wait for
    unnamed.close(linger=False)
    await _closed(named)
    await _closed(unnamed)


async def test_one_message_is_one_frame_in_both_directions() -> None:
    leg, transport, owner = _leg()
    for data in (b"a", bytes(70_000)):
        transport.inbox.put_nowait(data)
    await owner.until(lambda: len(owner.frames) == 2)
    assert owner.frames == [b"a", bytes(70_000)]
    owner.out.extend([frame(b"one") + frame(b"two"), frame(b"three")])
    leg.flush()
    await owner.until(lambda: owner.blocked == [True, False])
    assert transport.sent == [b"one", b"two", b"three"]
    leg.close(linger=False)
    await _closed(leg)
    assert transport.closed == 1


async def test_a_slow_transport_holds_the_owner_back_and_says_so() -> None:
    leg, transport, owner = _leg()
    transport.open.clear()
    owner.out.extend(frame(bytes(60_000)) for _ in range(6))
    leg.flush()
    leg.flush()
    await turns()
    assert len(owner.fills) == 2
    assert owner.blocked == [True], "retransmission timers wait for what has not left"
    transport.open.set()
    await owner.until(lambda: owner.blocked == [True, False])
    assert len(transport.sent) == 6
    leg.close(linger=False)
    await _closed(leg)


async def test_pausing_keeps_what_arrives() -> None:
    leg, transport, owner = _leg()
    owner.on_frame = lambda _: leg.pause()
    for data in (b"1", b"2", b"3"):
        transport.inbox.put_nowait(data)
    for count in (1, 2, 3):
        await owner.until(lambda count=count: len(owner.frames) == count)
        await turns()
        assert len(owner.frames) == count
        leg.resume()
    assert owner.frames == [b"1", b"2", b"3"]
    leg.close(linger=False)
    await _closed(leg)


async def test_the_end_of_the_transport_is_told_once() -> None:
    leg, transport, owner = _leg()
    owner.on_lost = lambda: leg.close(linger=False)
    transport.inbox.put_nowait(b"")
    await _closed(leg)
    assert owner.lost == [None]
    assert transport.closed == 1
    leg.flush()
    leg.close(linger=True)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("the wire is cut"), "the transport failed: the wire is cut"),
        (NetworkError("gone"), "gone"),
        (PhantomTimeoutError("late"), "late"),
        (asyncio.IncompleteReadError(b"x", 5), "the transport failed: 1 bytes read on a total of 5 expected bytes"),
        (EOFError(), "the transport failed: EOFError"),
        (ValueError("odd"), "the transport failed: odd"),
    ],
)
@pytest.mark.parametrize("while_sending", [False, True])
async def test_a_failing_transport_is_a_typed_error(error: Exception, text: str, while_sending: bool) -> None:
    leg, transport, owner = _leg()
    if while_sending:
        transport.send_error = error
        owner.out.append(frame(b"x"))
        leg.flush()
    else:
        transport.inbox.put_nowait(error)
    await _closed(leg)
    (lost,) = owner.lost
    assert str(lost) == text
    assert isinstance(lost, (NetworkError, PhantomTimeoutError))
    assert transport.closed == 1


async def test_a_message_beyond_every_cap_ends_the_leg() -> None:
    leg, transport, owner = _leg()
    transport.inbox.put_nowait(bytes(limits.ABSOLUTE_FRAME_CAP + 1))
    await _closed(leg)
    (lost,) = owner.lost
    assert isinstance(lost, FrameTooLargeError)
    assert owner.frames == []


async def test_lingering_sends_the_last_words_however_much_waits() -> None:
    leg, transport, owner = _leg()
    transport.open.clear()
    owner.out.extend(frame(bytes(60_000)) for _ in range(4))
    leg.flush()
    owner.out.append(frame(b"CLOSE"))
    leg.close(linger=True)
    assert not owner.out, "it is filled now, while the owner still has its keys"
    assert not leg.closed
    leg.close(linger=True)
    transport.open.set()
    await _closed(leg)
    assert transport.sent[-1] == b"CLOSE"
    assert owner.blocked == [True]
    assert owner.lost == []


async def test_lingering_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER", 0.01)
    leg, transport, owner = _leg()
    transport.open.clear()
    owner.out.append(frame(b"never"))
    leg.close(linger=True)
    await _closed(leg)
    assert transport.sent == []


async def test_lingering_ends_at_once_when_the_transport_breaks() -> None:
    leg, transport, owner = _leg()
    transport.open.clear()
    owner.out.append(frame(b"never"))
    await turns()
    leg.close(linger=True)
    transport.inbox.put_nowait(OSError("cut"))
    await _closed(leg)
    assert owner.lost == []


async def test_closing_at_once_ends_the_lingering() -> None:
    leg, transport, owner = _leg()
    transport.open.clear()
    owner.out.append(frame(b"never"))
    leg.close(linger=True)
    leg.close(linger=False)
    await _closed(leg)
    await turns()
    assert transport.closed == 1


async def test_closing_from_within_the_callback() -> None:
    leg, transport, owner = _leg()
    owner.on_frame = lambda _: leg.close(linger=False)
    for data in (b"stop", b"too late"):
        transport.inbox.put_nowait(data)
    await _closed(leg)
    assert owner.frames == [b"stop"]
    assert owner.lost == []


async def test_a_message_that_came_during_a_pause_is_dropped_by_closing() -> None:
    leg, transport, owner = _leg()
    leg.pause()
    transport.open.clear()
    owner.out.append(frame(b"last words"))
    transport.inbox.put_nowait(b"late")
    await turns()
    leg.close(linger=True)
    leg.resume()
    await turns()
    transport.open.set()
    await _closed(leg)
    assert owner.frames == []
    assert transport.sent == [b"last words"]


async def test_waiting_for_the_end_did_not_wait_for_the_transport() -> None:
    leg, transport, _owner = _leg()
    transport.may_close.clear()
    leg.close(linger=False)
    waiting = asyncio.ensure_future(leg.wait_closed())
    await turns()
    assert transport.closed == 1
    assert not waiting.done()
    assert not leg.closed
    transport.may_close.set()
    await waiting
    assert leg.closed


@pytest.mark.parametrize("error", [OSError("stuck"), RuntimeError("closed twice")])
async def test_a_transport_that_fails_to_close_is_closed_all_the_same(error: Exception) -> None:
    leg, transport, _owner = _leg()
    transport.close_error = error
    leg.close(linger=False)
    await _closed(leg)


async def test_a_transport_that_never_closes_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOSE_FLUSH_TIMEOUT", 0.01)
    leg, transport, _owner = _leg()
    transport.may_close.clear()
    leg.close(linger=False)
    await _closed(leg)


async def test_a_leg_without_an_owner_says_nothing_to_anyone() -> None:
    transport = Transport()
    leg = MessageLeg(transport, AsyncioRuntime(), "x")
    leg.flush()
    owner = Owner()
    leg.start(owner)
    owner.out.append(frame(b"x"))
    leg.flush()
    leg.owner = None
    transport.inbox.put_nowait(b"unheard")
    await turns()
    assert owner.frames == []
    assert owner.blocked == [True]
    transport.inbox.put_nowait(b"")
    await _closed(leg)
    assert owner.lost == []
    other, _transport, _owner = _leg()
    other.owner = None
    other.close(linger=True)
    await _closed(other)
