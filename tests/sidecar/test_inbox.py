"""Messages are kept until the client has them (surface §15)."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from phantom.errors import ConnectionClosedError, ValidationError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_WINDOW
from phantom.sidecar.inbox import Inbox


class Source:
    """A session's ``recv``."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = deque(messages)
        self.arrived = asyncio.Event()

    async def recv(self) -> bytes:
        while not self.messages:
            self.arrived.clear()
            await self.arrived.wait()
        return self.messages.popleft()


async def test_message_is_given_again_until_it_is_acknowledged() -> None:
    inbox = Inbox(Source(b"a", b"b").recv)
    assert inbox.ack(0) == 0
    assert await inbox.get(0) == b"a"
    assert await inbox.get(inbox.ack(0)) == b"a"
    assert await inbox.get(inbox.ack(1)) == b"b"
    assert inbox.ack(2) == 2


async def test_client_that_remembers_less_than_it_said_goes_on_from_what_it_said() -> None:
    inbox = Inbox(Source(b"a", b"b").recv)
    await inbox.get(0)
    inbox.ack(1)
    assert inbox.ack(0) == 1


async def test_number_that_was_never_given() -> None:
    inbox = Inbox(Source(b"a").recv)
    await inbox.get(0)
    with pytest.raises(ValidationError, match="number 2 is acknowledged, but 1 was the last"):
        inbox.ack(2)


async def test_several_may_be_under_way() -> None:
    inbox = Inbox(Source(b"a", b"b", b"c").recv)
    assert [await inbox.get(after) for after in range(3)] == [b"a", b"b", b"c"]
    assert inbox.ack(2) == 2
    assert await inbox.get(2) == b"c"


async def test_cancelled_wait_loses_nothing() -> None:
    source = Source()
    inbox = Inbox(source.recv)
    task = asyncio.create_task(inbox.get(0))
    await asyncio.sleep(0)
    source.messages.append(b"a")
    source.arrived.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await inbox.get(0) == b"a"


async def test_what_is_kept_is_bounded() -> None:
    size = SIDECAR_WINDOW // 4
    source = Source(*(bytes(size) for _ in range(8)))
    inbox = Inbox(source.recv)
    for after in range(4):
        await inbox.get(after)
    task = asyncio.create_task(inbox.get(4))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    assert len(source.messages) == 4  # nothing more was taken from the session
    inbox.ack(1)
    assert len(await task) == size


async def test_empty_messages_count_too() -> None:
    count = SIDECAR_WINDOW // ITEM_OVERHEAD
    inbox = Inbox(Source(*(b"" for _ in range(count + 1))).recv)
    for after in range(count):
        await inbox.get(after)
    task = asyncio.create_task(inbox.get(count))
    await asyncio.sleep(0)
    assert not task.done()
    inbox.ack(count)
    assert await task == b""


async def test_end_of_the_session_comes_after_what_is_kept() -> None:
    async def closed() -> bytes:
        raise ConnectionClosedError("gone", peer_code=7)

    source = Source(b"a")
    inbox = Inbox(source.recv)
    await inbox.get(0)
    inbox._receive = closed
    assert await inbox.get(0) == b"a"
    with pytest.raises(ConnectionClosedError) as caught:
        await inbox.get(inbox.ack(1))
    assert caught.value.peer_code == 7
