"""Messages between blocking callers and the loop thread: order, bounds, ends and interrupts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import phantom
from phantom import blocking, limits
from phantom.api.blocking import calls, loop_thread, mailbox

PATIENCE = 20.0

Pair = tuple[blocking.PhantomSession, blocking.PhantomSession]


@pytest.fixture
def pair(server_key: phantom.HybridSigningKey) -> Iterator[Pair]:
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        client = blocking.connect(listener.urls[0], timeout=PATIENCE)
        server = listener.accept(PATIENCE).session
        yield client, server
        client.disconnect(timeout=1)
        server.disconnect(timeout=1)


class Held:
    """The loop thread stands still inside the block."""

    def __enter__(self) -> None:
        self._go, standing = threading.Event(), threading.Event()

        def stand() -> None:
            standing.set()
            self._go.wait(PATIENCE)

        loop_thread.call_soon(stand)
        assert standing.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self._go.set()


def test_a_message_is_taken_while_the_loop_is_busy(pair: Pair) -> None:
    client, server = pair
    with Held():
        for number in range(100):
            client.send(b"%d" % number, PATIENCE)
    assert [server.recv(PATIENCE) for _ in range(100)] == [b"%d" % number for number in range(100)]
    assert server.metrics_snapshot().messages_recv == 100


def test_all_that_is_there_comes_with_the_first_message(pair: Pair) -> None:
    client, server = pair
    for number in range(10):
        client.send(b"%d" % number, PATIENCE)
    client.flush_queue(PATIENCE)
    assert server.recv(PATIENCE) == b"0"
    with Held():
        assert [server.recv(0.0) for _ in range(9)] == [b"%d" % number for number in range(1, 10)]


@pytest.mark.parametrize("size", [1, 5000, 70_000, 300_000, 2 << 20])
def test_order_is_kept_whatever_way_a_message_takes(pair: Pair, size: int) -> None:
    client, server = pair
    count = min(3000, (12 << 20) // size)
    sent = [number.to_bytes(4, "big") + bytes(size - 4 if size > 4 else 0) for number in range(count)]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [server.recv(PATIENCE) for _ in range(count)])
        for message in sent:
            client.send(message, PATIENCE)
        assert reading.result(PATIENCE) == sent


def test_no_more_is_taken_than_the_session_would_queue(pair: Pair) -> None:
    client, _ = pair
    with Held():
        taken = 0
        while client._mailbox.post(bytes(60_000)):
            taken += 60_000
    assert limits.MiB // 2 < taken <= limits.MiB
    with pytest.raises(phantom.PhantomTimeoutError, match="takes no more data"):
        for _ in range(1000):
            client.send(bytes(60_000), 0.05)
    assert calls._in_loop(lambda: client._session._driver.conn.queued) <= limits.SEND_BUFFER_CAP + 2 * 60_000


def test_nobody_overtakes_a_writer_that_waits(pair: Pair) -> None:
    client, server = pair
    with ThreadPoolExecutor(1) as pool:
        full = 0
        while full < 3:  # in a row: what the peer's window still takes has left
            try:
                client.send(bytes(60_000), 0.05)
                full = 0
            except phantom.PhantomTimeoutError:
                full += 1
        waiting = pool.submit(client.send, b"first", PATIENCE)
        while not calls._in_loop(lambda: bool(client._session._driver.writers)):
            pass
        assert not client._mailbox.post(b"second")
        for _ in range(2000):
            if server.recv(PATIENCE) == b"first":
                break
        waiting.result(PATIENCE)
        client.send(b"second", PATIENCE)
        assert server.recv(PATIENCE) == b"second"


def test_what_was_posted_is_sent_before_the_session_closes(pair: Pair) -> None:
    client, server = pair
    with Held():
        for number in range(100):
            client.send(b"%d" % number, PATIENCE)
        loop_thread.call_soon(lambda: client._session._driver.close(0, None))
    assert list(server) == [b"%d" % number for number in range(100)]
    assert client.disconnect(timeout=PATIENCE) is True


def test_what_was_posted_to_a_dead_session_counts_as_lost(pair: Pair) -> None:
    client, _ = pair
    with Held():
        loop_thread.call_soon(lambda: client._session._driver.leg_lost(None))
        client.send(b"never seen", PATIENCE)
    calls._in_loop(lambda: None)  # all of it has happened
    with pytest.raises(phantom.SessionDeadError):
        client.send(b"refused", PATIENCE)
    assert client.disconnect(timeout=1) is False
    assert client._session._driver.conn.unacknowledged == len(b"never seen") + 4


def test_a_reader_behind_another_has_its_own_deadline(pair: Pair) -> None:
    client, server = pair
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.recv, PATIENCE)
        while not calls._in_loop(lambda: bool(server._session._driver.readers)):
            pass
        with pytest.raises(phantom.PhantomTimeoutError, match="no message arrived"):
            server.recv(0.01)
        client.send(b"for the first", PATIENCE)
        assert first.result(PATIENCE) == b"for the first"


def test_a_message_that_an_interrupted_call_took_is_the_next_one(pair: Pair) -> None:
    client, server = pair
    client.send(b"only one", PATIENCE)

    class Interrupted(mailbox.deque[bytes]):
        struck = False

        def popleft(self) -> Any:
            message = super().popleft()
            if not self.struck:
                self.struck = True
                raise KeyboardInterrupt
            return message

    server._mailbox._inbox._items = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        server.recv(PATIENCE)
    assert server.recv(PATIENCE) == b"only one"


def test_delivered_messages_are_read_before_the_end_is_raised(pair: Pair) -> None:
    client, server = pair
    client.send(b"last", PATIENCE)
    assert client.disconnect(7, timeout=PATIENCE)
    assert server.recv(PATIENCE) == b"last"
    with pytest.raises(phantom.ConnectionClosedError) as caught:
        server.recv(PATIENCE)
    assert caught.value.peer_code == 7
