"""Streams without ``await``: the same semantics, few crossings of threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import phantom
from phantom import blocking, limits
from phantom.api.blocking import calls, mailbox
from tests.api.blocking.test_mailbox import PATIENCE, Held

Pair = tuple[blocking.PhantomSession, blocking.PhantomSession]


@pytest.fixture
def pair(server_key: phantom.HybridSigningKey) -> Iterator[Pair]:
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        client = blocking.connect(listener.urls[0], timeout=PATIENCE)
        server = listener.accept(PATIENCE).session
        yield client, server
        client.disconnect(timeout=1)
        server.disconnect(timeout=1)


def _both(pair: Pair, **how: Any) -> tuple[blocking.PhantomStream, blocking.PhantomStream]:
    here = pair[0].open_stream(timeout=PATIENCE, **how)
    return here, pair[1].accept_stream(PATIENCE)


def test_a_stream_from_beginning_to_end(pair: Pair) -> None:
    here, there = _both(pair, priority=7)
    assert (here.stream_id, here.priority, there.stream_id) == (3, 7, 3)
    there.send_reliable(b"220 ready", PATIENCE)  # the accepting side speaks first
    assert here.recv(PATIENCE) == b"220 ready"
    with here:
        for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), b""):
            here.send_reliable(data, PATIENCE)
    assert b"".join(there) == b"bytesbytearraymemoryview"
    assert there.recv(PATIENCE) is None
    assert there.recv(PATIENCE) is None
    there.finish()
    there.finish()
    assert here.recv(PATIENCE) is None
    for stream in (here, there):
        with pytest.raises(phantom.StreamClosedError, match="finished"):
            stream.send_reliable(b"more", PATIENCE)
        with pytest.raises(phantom.StreamClosedError, match="finished"):
            stream.send_unreliable(b"more", PATIENCE)
    assert "3" in repr(here)


def test_what_is_sent_keeps_the_order_of_the_calls(pair: Pair) -> None:
    here, there = _both(pair)
    with Held():
        for number in range(100):
            here.send_reliable(b"%3d" % number, PATIENCE)
            pair[0].send(b"%3d" % number, PATIENCE)
        here.set_priority(3)
        here.finish()
    assert b"".join(there) == b"".join(b"%3d" % number for number in range(100))
    assert [pair[1].recv(PATIENCE) for _ in range(100)] == [b"%3d" % number for number in range(100)]
    assert here.priority == 3


def test_a_read_brings_everything_that_is_there_in_one_crossing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = _both(pair)
    for _ in range(20):
        here.send_unreliable(b"a chunk", PATIENCE)
    here.finish()
    pair[0].flush_queue(PATIENCE)
    crossings: list[object] = []
    run = mailbox.run
    monkeypatch.setattr(mailbox, "run", lambda call: (crossings.append(call), run(call))[1])
    assert there.recv(PATIENCE) == b"a chunk"
    assert list(there) == [b"a chunk"] * 19
    assert len(crossings) <= 3


def test_a_large_transfer_waits_for_room_and_for_the_reader(pair: Pair) -> None:
    here, there = _both(pair)
    data = bytes(range(256)) * (40 << 10)  # 10 MiB

    def write() -> None:
        for at in range(0, len(data), 1 << 20):
            here.send_reliable(memoryview(data)[at : at + (1 << 20)], PATIENCE)
        here.finish()

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(write)
        assert b"".join(there) == data
        writing.result(PATIENCE)


def test_a_reader_does_not_fetch_more_than_a_backlog(pair: Pair) -> None:
    here, there = _both(pair)
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(lambda: here.send_reliable(bytes(4 << 20), PATIENCE))
        writing.result(PATIENCE)
        assert there.recv(PATIENCE)
        fetched = sum(map(len, there._inbox._items))  # type: ignore[arg-type]
        assert fetched <= limits.RECV_BACKLOG_CAP + limits.STREAM_READ_MOST
        here.finish()
        for _ in there:
            pass


def test_reset_and_stop_bring_their_codes(pair: Pair) -> None:
    here, there = _both(pair)
    here.send_reliable(b"x", PATIENCE)
    assert there.recv(PATIENCE) == b"x"
    here.reset(77)
    with pytest.raises(phantom.StreamClosedError, match="reset"):
        here.send_reliable(b"more", PATIENCE)
    for _ in range(2):
        with pytest.raises(phantom.StreamResetError) as caught:
            there.recv(PATIENCE)
        assert caught.value.reset_code == 77
    here.stop(78)
    with pytest.raises(phantom.StreamClosedError):
        here.recv(PATIENCE)
    with pytest.raises(phantom.StreamResetError) as caught:
        while True:
            there.send_reliable(b"x", PATIENCE)
    assert caught.value.reset_code == 78
    with pytest.raises(phantom.StreamResetError):
        there.finish()
    for verb in (here.reset, here.stop):
        with pytest.raises(phantom.ValidationError):
            verb(-1)
    with pytest.raises(phantom.ValidationError):
        here.set_priority(-1)


def test_leaving_by_an_exception_resets_and_stops(pair: Pair) -> None:
    here, there = _both(pair)
    with pytest.raises(ZeroDivisionError), here:
        here.send_reliable(b"half of it", PATIENCE)
        raise ZeroDivisionError
    with pytest.raises(phantom.StreamResetError):
        for _ in there:
            pass
    with pytest.raises(phantom.StreamResetError):
        while True:
            there.send_reliable(b"x", PATIENCE)


def test_dropping_what_was_fetched_and_not_read_stops_the_peer(pair: Pair) -> None:
    here, there = _both(pair)
    here.send_unreliable(b"one", PATIENCE)
    here.send_unreliable(b"two", PATIENCE)
    here.finish()
    pair[0].flush_queue(PATIENCE)
    while there.recv(PATIENCE) is not None and not there._inbox.unread:
        pass
    del there
    gc.collect()
    with pytest.raises(phantom.StreamResetError):
        here.recv(PATIENCE)


def test_the_limit_and_every_timeout(pair: Pair) -> None:
    client, server = pair
    mine = [client.open_stream(timeout=PATIENCE) for _ in range(limits.MAX_STREAMS)]
    with pytest.raises(phantom.StreamLimitError):
        client.open_stream(wait=False, timeout=PATIENCE)
    with pytest.raises(phantom.PhantomTimeoutError):
        client.open_stream(timeout=0.01)
    with pytest.raises(phantom.PhantomTimeoutError, match="stream"):
        mine[0].recv(0.01)
    with pytest.raises(phantom.PhantomTimeoutError):
        client.accept_stream(0.01)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(mine[1].recv, PATIENCE)
        while not mine[1]._inbox._reading.locked():
            pass
        with pytest.raises(phantom.PhantomTimeoutError, match="stream"):
            mine[1].recv(0.01)
        while (there := server.accept_stream(PATIENCE)).stream_id != mine[1].stream_id:
            there.finish()
        there.send_reliable(b"x", PATIENCE)
        assert reading.result(PATIENCE) == b"x"


def test_an_accepted_stream_that_its_caller_never_got_is_given_to_the_next(pair: Pair) -> None:
    here, there = _both(pair)
    calls._in_loop(there._stream._give_back)
    del there
    again = pair[1].accept_stream(PATIENCE)
    here.send_reliable(b"x", PATIENCE)
    assert again.recv(PATIENCE) == b"x"


def test_the_end_of_the_session_is_the_end_of_its_streams(pair: Pair) -> None:
    here, there = _both(pair)
    here.send_reliable(b"arrives", PATIENCE)
    pair[0].disconnect(5, timeout=PATIENCE)
    assert there.recv(PATIENCE) == b"arrives"
    for call in (lambda: there.recv(PATIENCE), lambda: here.send_reliable(b"x", PATIENCE), here.finish):
        with pytest.raises(phantom.ConnectionClosedError):
            call()
    for verb in (here.reset, here.stop, there.reset, there.stop):
        verb()  # nothing is left to give up


def test_keys(pair: Pair) -> None:
    client, server = pair
    assert client.rekey(PATIENCE) == 1
    client.send(b"x", PATIENCE)
    assert server.recv(PATIENCE) == b"x"
    assert client.export_keying_material("label", 40) == server.export_keying_material("label", 40)
    assert len(client.export_keying_material("label")) == 32


def test_what_was_posted_to_a_stream_that_ended_meanwhile_is_dropped(pair: Pair) -> None:
    here, there = _both(pair)
    here.send_reliable(b"x", PATIENCE)
    assert there.recv(PATIENCE) == b"x"
    with Held():
        here.reset(1)
        pair[0]._mailbox.post(b"lost", here._stream._stream)
        pair[0].send(b"behind it", PATIENCE)
    assert pair[1].recv(PATIENCE) == b"behind it"
    with pytest.raises(phantom.StreamResetError):
        there.recv(PATIENCE)


def test_many_threads_share_a_session(pair: Pair) -> None:
    client, server = pair

    def talk(number: int) -> None:
        with client.open_stream(timeout=PATIENCE) as stream:
            stream.send_reliable(b"%d" % number * 1000, PATIENCE)
            stream.finish()
            assert b"".join(stream) == b"%d" % number * 1000

    def echo(_: int) -> None:
        with server.accept_stream(PATIENCE) as stream:
            for chunk in stream:
                stream.send_reliable(chunk, PATIENCE)

    with ThreadPoolExecutor(16) as threads:
        jobs = [threads.submit(job, number) for number in range(40) for job in (talk, echo)]
        for job in jobs:
            job.result(PATIENCE)
    assert threading.active_count() < 40
