"""RECV_MEMORY (wire-native §14.11): what peers can make one process hold, and who pays when it is too much."""

from __future__ import annotations

import pytest

from phantom import limits
from phantom.errors import BusyError, ConnectionClosedError
from phantom.transport.packet import flags
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.states import Phase
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
        self.reported = self.really = 0
        self.queue_is_empty = False

    def reports(self, memory: ReceiveMemory, charge: int, now: float = 0.0, credit: int = 0) -> None:
        self.reported = self.really = charge
        memory.report(self, charge, credit, now)

    def __repr__(self) -> str:
        return self.name

    def recount(self, *, exact: bool) -> int:
        return self.really if exact or self.queue_is_empty else self.reported

    def end_busy(self) -> None:
        self.ended += 1

    def memory_freed(self) -> None:
        self.freed += 1


def holders(count: int) -> list[Holder]:
    return [Holder(chr(ord("a") + i)) for i in range(count)]


def test_reports_replace_each_other() -> None:
    memory = ReceiveMemory(1000)
    a, b = holders(2)
    a.reports(memory, 100, 0.0, 50)
    b.reports(memory, 10, 0.0, 5)
    a.reports(memory, 70, 0.0, 20)
    assert (memory.charged, memory.credit) == (80, 25)
    assert memory.free_for(a) == 1000 - 15
    assert memory.free_for(b) == 1000 - 90
    assert memory.free_for(Holder("stranger")) == 1000 - 105
    b.reports(memory, 0, 0.0)
    memory.release(a)
    memory.release(a)
    assert (memory.charged, memory.credit, len(memory._accounts)) == (0, 0, 0)


def test_credit_alone_never_uses_it_up() -> None:
    memory = ReceiveMemory(1000)
    (a,) = holders(1)
    a.reports(memory, 999, 0.0, 10_000)
    assert not memory.used_up
    assert memory.deadline() is None
    a.reports(memory, 1000, 0.0)
    assert memory.used_up
    assert memory.deadline() == 5.0


def test_at_nine_eighths_the_worst_are_ended_until_seven_eighths() -> None:
    memory = ReceiveMemory(800)
    a, b, c, d = holders(4)
    a.reports(memory, 100, 0.0)
    b.reports(memory, 299, 0.0)
    c.reports(memory, 200, 0.0, 7)
    d.reports(memory, 300, 0.0, 9)
    assert memory.charged == 899
    assert not any(x.ended for x in (a, b, c, d))
    a.reports(memory, 101, 0.0)  # 900 = 9/8
    assert [x.ended for x in (a, b, c, d)] == [0, 0, 0, 1]
    assert (memory.charged, memory.credit) == (600, 7)
    b.reports(memory, 598, 0.0)
    assert [x.ended for x in (a, b, c, d)] == [0, 0, 0, 1]  # 899 again
    a.reports(memory, 302, 0.0)
    assert [x.ended for x in (a, b, c, d)] == [0, 1, 0, 1]
    assert memory.charged == 502


@pytest.mark.parametrize(("last", "ended"), [(99, 1), (100, 2)])
def test_seven_eighths_is_where_it_stops(last: int, ended: int) -> None:
    memory = ReceiveMemory(800)
    sessions = holders(5)
    for holder, charge in zip(sessions, (201, 200, 200, 200, last), strict=True):
        holder.reports(memory, charge)
    assert [x.ended for x in sessions] == [1] * ended + [0] * (5 - ended)  # 699 are left, or 700 and so 500


def test_charges_in_arrears_do_not_use_memory_up() -> None:
    memory = ReceiveMemory(800)
    a, b = holders(2)
    a.reports(memory, 700)
    a.really, a.queue_is_empty = 40, True  # its reader has taken everything since
    b.reports(memory, 120)
    assert memory.charged == 160
    assert not memory.used_up
    assert memory.deadline() is None


def test_charges_in_arrears_do_not_end_a_session() -> None:
    memory = ReceiveMemory(800)
    a, b, c = holders(3)
    a.reports(memory, 600)
    a.really = 100  # one message of those it had is left
    b.reports(memory, 250)
    assert memory.used_up  # the short count does not see it
    c.reports(memory, 50)
    assert [x.ended for x in (a, b, c)] == [0, 0, 0]
    assert memory.charged == 400
    assert (memory.deadline(), a.freed, b.freed) == (None, 0, 1)


def test_patience_is_five_seconds_on_end() -> None:
    memory = ReceiveMemory(800)
    a, b = holders(2)
    a.reports(memory, 700, 1.0)
    b.reports(memory, 120, 2.0)
    assert memory.deadline() == 7.0
    b.reports(memory, 130, 6.9)
    memory.enforce(6.9)
    assert (a.ended, b.ended) == (0, 0)
    b.reports(memory, 90, 6.95)  # not used up for a moment
    assert memory.deadline() is None
    b.reports(memory, 130, 7.5)
    memory.enforce(12.4)
    assert (a.ended, b.ended) == (0, 0)
    memory.enforce(12.5)
    assert (a.ended, b.ended) == (1, 0)
    assert memory.used_up_since is None


def test_a_deadline_that_rounding_kept_from_coming() -> None:
    for step in range(1000):
        memory = ReceiveMemory(800)
        (a,) = holders(1)
        a.reports(memory, 800, now=5.0 + step * 0.31024256913)
        deadline = memory.deadline()
        assert deadline is not None
        memory.enforce(deadline)
        assert a.ended == 1


def test_who_was_held_hears_when_there_is_room() -> None:
    memory = ReceiveMemory(800)
    a, b, c = holders(3)
    c.reports(memory, 10, 0.0)  # not held: there was room
    a.reports(memory, 790, 0.0)
    b.reports(memory, 20, 0.0)
    assert (a.freed, b.freed, c.freed) == (0, 0, 0)
    a.reports(memory, 5, 1.0)
    assert (a.freed, b.freed, c.freed) == (1, 1, 0)
    a.reports(memory, 6, 1.0)
    assert (a.freed, b.freed) == (1, 1)  # once


def test_a_released_holder_hears_nothing() -> None:
    memory = ReceiveMemory(800)
    a, b = holders(2)
    a.reports(memory, 800, 0.0)
    b.reports(memory, 20, 0.0)
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
    hog.reports(memory, 2 * MiB, 0.0)
    peer.give(peer.data(0, message(b"acknowledged")))
    assert server.read(0.0) == []
    peer.give(peer.close())
    server.conn.handle_timer(1.0)
    assert server.read(1.0) == [b"acknowledged"]
    assert (memory.charged, memory.credit) == (2 * MiB, 0)


def test_a_reader_that_took_everything_and_does_not_ask_again_is_charged_nothing() -> None:
    memory = ReceiveMemory(4 * MiB)
    sessions = [server_with_peer(memory=memory) for _ in range(5)]
    for server, peer in sessions:
        for index in range(15):
            peer.give(peer.data(index, message(pattern(60_000))))
            server.emit(0.0)
        while server.conn.messages:
            server.conn.messages.popleft()  # as recv() does; it asks for more only when it finds none
    assert not memory.used_up
    assert [server.conn.phase for server, _ in sessions] == [Phase.ESTABLISHED] * 5
    server, peer = sessions[0]
    peer.give(peer.data(15, message(b"next")))
    assert list(server.conn.messages) == [b"next"]


def test_the_session_charged_most_ends_with_code_3_and_really_lets_go() -> None:
    memory = ReceiveMemory(4 * MiB)
    (victim, bad), (other, good) = (server_with_peer(memory=memory) for _ in range(2))
    others = holders(10)
    for hog in others:
        hog.reports(memory, 330 * KiB)
    good.give(good.data(0, message(b"kept")))
    woken: list[str] = []
    victim.conn.wake = lambda: woken.append("victim")
    bad.give(*(bad.data(index, message(pattern(60_000))) for index in range(9)), bad.data(20, b"early"))
    victim.emit(0.0)
    index = 21
    while victim.conn.phase is Phase.ESTABLISHED:
        victim.emit(0.0)
        bad.give(bad.data(index, b"x"))
        index += 1
        assert memory.charged < 4.5 * MiB + 65
    assert isinstance(victim.conn.end_error(), BusyError)
    assert woken == ["victim"]
    assert victim.conn.session_stream.reassembly.store is None
    assert victim.read(0.0) == []
    assert memory.charged == 3300 * KiB + 4 + 64
    assert not any(hog.ended for hog in others)
    assert other.read(0.0) == [b"kept"]


def test_a_session_ended_by_its_own_read_has_nothing_left_to_read() -> None:
    memory = ReceiveMemory(MiB)
    for hog in holders(10):
        hog.reports(memory, (MiB - 20_000) // 10)
    server, peer = server_with_peer(memory=memory)
    peer.give(peer.data(0, message(b"") * 3750))  # 15 000 bytes unsplit, 240 000 charged once they are messages
    assert not memory.used_up
    assert server.conn.refill(0.0) is False
    assert isinstance(server.conn.error, BusyError)
    assert not server.conn.messages


def test_limits_creep_while_memory_is_used_up() -> None:
    memory = ReceiveMemory(64 * MiB)
    (hog,) = holders(1)
    server, peer = server_with_peer(memory=memory)
    window, assembler = server.conn.session_stream.window, server.conn.assembler
    index = 0

    def send(size: int) -> list[int]:
        """So many bytes of the message; the limits that come back."""
        nonlocal index
        peer.give(peer.data(index, bytes(size)))
        index += 1
        return [int.from_bytes(p.plaintext, "big") for p in peer.see() if p.word == flags.WINDOW_WORD]

    peer.give(peer.data(index, (16 * MiB).to_bytes(4, "big")))
    index = 1
    while window.window < 4 * MiB:
        send(60_000)
    hog.reports(memory, 63 * MiB)
    server.emit(0.0)
    granted = window.limit
    while server.conn.session_stream.received + 16 * KiB <= granted:
        send(16 * KiB)
    assert memory.used_up
    assert window.limit <= max(granted, assembler.consumed + 64 * KiB)
    # A window of 64 KiB wants an update every 32 KiB; 1/8 of the 4 MiB it was would leave the sender to its probes.
    consumed, updates = assembler.consumed, []
    while server.conn.session_stream.received + 16 * KiB <= window.limit and assembler.consumed < consumed + MiB:
        updates += send(16 * KiB)
        assert window.limit <= assembler.consumed + 64 * KiB
    assert assembler.consumed >= consumed + MiB
    assert len(updates) >= 30
    hog.reports(memory, 0)
    assert max(send(1)) == assembler.consumed + window.window


def test_a_session_that_was_held_goes_on_when_memory_is_freed() -> None:
    memory = ReceiveMemory(4 * MiB)
    (hog,) = holders(1)
    server, peer = server_with_peer(memory=memory)
    woken: list[int] = []
    server.conn.wake = lambda: woken.append(1)
    hog.reports(memory, 4 * MiB)
    peer.give(peer.data(0, message(b"one")), peer.data(1, message(pattern(5000))))
    assert server.read(0.0) == []
    assert server.conn.assembler.held
    server.conn.progress = False
    hog.reports(memory, MiB)
    assert woken == [1]
    assert server.conn.progress
    assert server.read(0.0) == [b"one", pattern(5000)]


def test_a_window_that_crept_stayed_shut_until_the_peer_probed() -> None:
    memory = ReceiveMemory(16 * MiB)
    (hog,) = holders(1)
    server, peer = server_with_peer(memory=memory)
    peer.give(peer.data(0, (MiB - 4).to_bytes(4, "big")))
    hog.reports(memory, 16 * MiB)
    for index in range(1, 17):
        peer.give(peer.data(index, bytes(64 * KiB - (4 if index == 16 else 0))))
        server.emit(0.0)
    assert server.conn.session_stream.received == MiB
    assert server.conn.session_stream.window.limit == MiB + 64 * KiB
    assert server.read(0.0) == [bytes(MiB - 4)]
    server.emit(0.0)
    hog.reports(memory, 0)
    (update,) = peer.see()
    assert int.from_bytes(update.plaintext, "big") == 2 * MiB


def test_memory_used_up_for_five_seconds_is_enforced_by_a_timer() -> None:
    memory = ReceiveMemory(4 * MiB)
    (hog,) = holders(1)
    server, peer = server_with_peer(memory=memory, keepalive_interval=None)
    peer.give(peer.data(0, message(b"unread")))
    server.conn.handle_timer(0.025)
    server.emit(0.025)
    assert server.conn.next_timer() is None
    hog.reports(memory, 4 * MiB, 1.0)
    assert server.conn.next_timer() == 6.0
    server.conn.handle_timer(5.9)
    assert hog.ended == 0
    server.conn.handle_timer(6.0)
    assert hog.ended == 1
    assert server.conn.next_timer() is None
    assert server.read(6.0) == [b"unread"]


def test_one_process_is_bounded_against_all_its_peers() -> None:
    """Appendix A 53: full windows, half messages, early segments, tiny and empty messages, and nobody reads."""
    memory = ReceiveMemory(16 * MiB)
    sessions = [server_with_peer(memory=memory) for _ in range(64)]
    indices = [0] * 64
    styles = (
        message(pattern(60_000)),
        (16 * MiB).to_bytes(4, "big") + bytes(60_000),
        message(b"") * 15_000,
        message(b"x") * 12_000,
        b"",
    )
    now = 0.0
    for turn in range(40):
        for number, (server, peer) in enumerate(sessions):
            if server.conn.phase is not Phase.ESTABLISHED:
                continue
            style = styles[number % len(styles)]
            if not style:  # behind a gap
                peer.give(*(peer.data(2 * (turn * 50 + i) + 1, b"early") for i in range(50)), now=now)
            elif number % len(styles) == 1 and turn:
                peer.give(peer.data(indices[number], bytes(60_000)), now=now)
            else:
                peer.give(peer.data(indices[number], style), now=now)
            indices[number] += 1
            server.emit(now)
            assert memory.charged * 8 < memory.capacity * 9
        now += 0.2
        for server, _ in sessions:
            server.tick(now)
    ended = [server for server, _ in sessions if server.conn.phase is not Phase.ESTABLISHED]
    assert ended
    assert {server.conn.error.code for server in ended if server.conn.error is not None} == {3}
    # Whoever comes now is served, at the latest when patience is over.
    fresh, client = server_with_peer(memory=memory, now=now)
    client.give(client.data(0, message(b"hello")), now=now)
    if memory.used_up:
        deadline = memory.deadline()
        assert deadline is not None
        fresh.conn.handle_timer(deadline)
    assert fresh.read(now + 5.0) == [b"hello"]
    for server, _ in sessions:
        server.conn.path_lost(now)
    fresh.conn.path_lost(now)
    assert (memory.charged, memory.credit, len(memory._accounts), len(memory._held)) == (0, 0, 0, 0)
