"""RECV_MEMORY (wire-native §14.11): what peers can make one process hold, and who pays when it is too much."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import ConnectionClosedError
from phantom.transport.session.memory import ReceiveMemory
from tests.transport.session.engines import (
    Engine,
    Peer,
    message,
    pattern,
    server_with_peer,
)

KiB, MiB = limits.KiB, limits.MiB
CAPACITY = 8 * MiB


class Holder:
    """A session as the memory sees it, and what became of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = self.freed = 0
        self.charge: int | None = None  # what it really holds, if that differs from its last report

    def __repr__(self) -> str:
        return self.name

    def end_busy(self) -> None:
        self.ended += 1

    def memory_freed(self) -> None:
        self.freed += 1


def holders(count: int) -> list[Holder]:
    return [Holder(chr(ord("a") + i)) for i in range(count)]


def test_reports_replace_each_other() -> None:
    memory = ReceiveMemory(1000)
    a, b = holders(2)
    memory.report(a, 100, 50, 0.0)
    memory.report(b, 10, 5, 0.0)
    memory.report(a, 70, 20, 0.0)
    assert (memory.charged, memory.credit) == (80, 25)
    assert memory.free_for(a) == 1000 - 15
    assert memory.free_for(b) == 1000 - 90
    assert memory.free_for(Holder("stranger")) == 1000 - 105
    memory.report(b, 0, 0, 0.0)
    memory.release(a)
    memory.release(a)
    assert (memory.charged, memory.credit, len(memory._accounts)) == (0, 0, 0)


def test_credit_alone_never_uses_it_up() -> None:
    memory = ReceiveMemory(1000)
    (a,) = holders(1)
    memory.report(a, 999, 10_000, 0.0)
    assert not memory.used_up
    assert memory.deadline() is None
    memory.report(a, 1000, 0, 0.0)
    assert memory.used_up
    assert memory.deadline() == 5.0


def test_at_nine_eighths_the_worst_are_ended_until_seven_eighths() -> None:
    memory = ReceiveMemory(800)
    a, b, c, d = holders(4)
    memory.report(a, 100, 0, 0.0)
    memory.report(b, 299, 0, 0.0)
    memory.report(c, 200, 7, 0.0)
    memory.report(d, 300, 9, 0.0)
    assert memory.charged == 899
    assert not any(x.ended for x in (a, b, c, d))
    memory.report(a, 101, 0, 0.0)  # 900 = 9/8
    assert [x.ended for x in (a, b, c, d)] == [0, 0, 0, 1]
    assert (memory.charged, memory.credit) == (600, 7)
    memory.report(b, 598, 0, 0.0)
    assert [x.ended for x in (a, b, c, d)] == [0, 0, 0, 1]  # 899 again
    memory.report(a, 302, 0, 0.0)
    assert [x.ended for x in (a, b, c, d)] == [0, 1, 0, 1]
    assert memory.charged == 502


def test_seven_eighths_is_where_it_stops() -> None:
    memory = ReceiveMemory(800)
    a, b, c = holders(3)
    memory.report(a, 350, 0, 0.0)
    memory.report(b, 350, 0, 0.0)
    memory.report(c, 200, 0, 0.0)
    # 550 after the first would do; had it been 700, the next would have to go too
    assert [x.ended for x in (a, b, c)] == [1, 0, 0]
    memory.report(c, 550, 0, 0.0)
    assert [x.ended for x in (a, b, c)] == [1, 0, 1]
    memory = ReceiveMemory(800)
    a, b, c, d = holders(4)
    for holder, charge in ((a, 200), (b, 200), (c, 300), (d, 200)):
        memory.report(holder, charge, 0, 0.0)
    assert [x.ended for x in (a, b, c, d)] == [0, 0, 1, 0]
    assert memory.charged == 600
    memory.report(d, 500, 0, 0.0)
    memory.report(c, 1, 0, 0.0)
    assert memory.charged == 401


def test_patience_is_five_seconds_on_end() -> None:
    memory = ReceiveMemory(800)
    a, b = holders(2)
    memory.report(a, 700, 0, 1.0)
    memory.report(b, 120, 0, 2.0)
    assert memory.deadline() == 7.0
    memory.report(b, 130, 0, 6.9)
    memory.enforce(6.9)
    assert (a.ended, b.ended) == (0, 0)
    memory.report(b, 90, 0, 6.95)  # not used up for a moment
    assert memory.deadline() is None
    memory.report(b, 130, 0, 7.5)
    memory.enforce(12.4)
    assert (a.ended, b.ended) == (0, 0)
    memory.enforce(12.5)
    assert (a.ended, b.ended) == (1, 0)
    assert memory.used_up_since is None


def test_who_was_held_hears_when_there_is_room() -> None:
    memory = ReceiveMemory(800)
    a, b, c = holders(3)
    memory.report(c, 10, 0, 0.0)  # not held: there was room
    memory.report(a, 790, 0, 0.0)
    memory.report(b, 20, 0, 0.0)
    assert (a.freed, b.freed, c.freed) == (0, 0, 0)
    memory.report(a, 5, 0, 1.0)
    assert (a.freed, b.freed, c.freed) == (1, 1, 0)
    memory.report(a, 6, 0, 1.0)
    assert (a.freed, b.freed) == (1, 1)  # once


def test_a_released_holder_hears_nothing() -> None:
    memory = ReceiveMemory(800)
    a, b = holders(2)
    memory.report(a, 800, 0, 0.0)
    memory.report(b, 20, 0, 0.0)
    memory.release(b)
    memory.release(a)
    assert (a.freed, b.freed) == (0, 0)


# --- engines on one account ------------------------------------------------------------------------------------------


def flood(server: Engine, peer: Peer, now: float, *, size: int = 60_000, start: int = 0) -> int:
    """Unread messages until the window is full; the number of segments."""
    index = start
    while server.conn.session_stream.received + size + 4 <= server.conn.session_stream.window.limit:
        peer.give(peer.data(index, message(pattern(size))), now=now)
        index += 1
        server.emit(now)
    return index


def test_the_account_returns_to_zero_however_the_session_ends() -> None:
    for end in ("close", "peer", "lost", "abort"):
        memory = ReceiveMemory(CAPACITY)
        server, peer = server_with_peer(memory=memory)
        flood(server, peer, 0.0)
        peer.give(peer.data(90, b"early"))
        assert memory.charged > MiB
        assert memory.credit == 0 or end
        if end == "close":
            server.conn.close(0, 0.0)
        elif end == "peer":
            peer.give(peer.close())
            server.conn.handle_timer(1.0)
        elif end == "lost":
            server.conn.path_lost(1.0)
        else:
            server.conn.abort(ConnectionClosedError("enough"))
        assert server.conn.phase.over
        assert (memory.charged, memory.credit) == (0, 0)


@pytest.mark.parametrize("full", [True, False])
def test_reading_after_the_end_charged_the_account_again(full: bool) -> None:
    memory = ReceiveMemory(CAPACITY)
    server, peer = server_with_peer(memory=memory)
    index = flood(server, peer, 0.0) if full else 0
    server.conn.path_lost(1.0)
    assert server.read(1.0) == [pattern(60_000)] * index
    server.conn.refill(2.0)
    assert (memory.charged, memory.credit) == (0, 0)
    assert not server.conn.wants_to_send


def test_what_was_held_at_the_end_could_never_be_read() -> None:
    memory = ReceiveMemory(2 * MiB)
    hog = Holder("hog")
    server, peer = server_with_peer(memory=memory)
    memory.report(hog, 2 * MiB, 0, 0.0)
    peer.give(peer.data(0, message(b"acknowledged")))
    assert server.read(0.0) == []
    peer.give(peer.close())
    server.conn.handle_timer(1.0)
    assert server.read(1.0) == [b"acknowledged"]
    assert (memory.charged, memory.credit) == (2 * MiB, 0)
