"""Sessions played from seeds: whatever pipe and applications do, nothing is lost, doubled, reordered or kept."""

from __future__ import annotations

import pytest

from phantom.errors import BusyError, NetworkError, SessionDeadError
from phantom.transport.session.states import ConnectionState, Phase
from tests.simulation.world import Party, World
from tests.transport.session.engines import pattern

DRAINING, CLOSED, DEAD = ConnectionState.DRAINING, ConnectionState.CLOSED, ConnectionState.DEAD


def start(world: World) -> None:
    for party in world.parties:
        party.pump()


def settle(world: World) -> None:
    """Everybody reads to the end; then nothing may be left of the session."""
    for party in world.parties:
        party.reading = True
    world.run(world.now + 600.0)
    for party in world.parties:
        while party.engine.read(world.now):
            party.read += party.engine.got[len(party.read) :]
        conn = party.engine.conn
        assert conn.phase.over
        assert not conn.messages
        assert not conn.assembler.run_bytes
        assert conn.next_timer() is None
        assert not conn.wants_to_send
        assert party.engine.memory.charged == party.engine.memory.credit == 0
        assert party.engine.protection._closed
        assert party.events[-1] in (CLOSED, DEAD)


def all_through(world: World, writer: Party) -> None:
    assert writer.engine.conn.unacknowledged == 0
    assert writer.to_send == 0
    assert writer.other.read == writer.sent


@pytest.mark.parametrize("seed", range(60))
def test_everything_arrives_and_both_ends_close(seed: int) -> None:
    world = World(seed)
    start(world)
    while any(party.to_send or party.engine.conn.unacknowledged for party in world.parties) and world.now < 3600.0:
        world.run(world.now + 1.0)
    closer = world.rng.choice(world.parties)
    code = world.rng.choice((0, 14, 4711))
    assert [party.engine.conn.phase for party in world.parties] == [Phase.ESTABLISHED] * 2
    closer.engine.conn.close(code, world.now)
    closer.pump()
    settle(world)
    for party in world.parties:
        all_through(world, party)
        if all(end.pipe.patient for end in world.parties):
            assert party.engine.conn.stats.retransmissions == 0
        assert party.events == [DRAINING, CLOSED]
        assert party.engine.conn.error is None
    assert (closer.engine.conn.peer_code, closer.other.engine.conn.peer_code) == (None, code)


@pytest.mark.parametrize("seed", range(100, 140))
def test_a_close_in_the_middle_flushes_or_tells(seed: int) -> None:
    world = World(seed)
    rng = world.rng
    start(world)
    world.run(rng.choice((0.0, 0.02, 0.3, 2.0)))
    closers = rng.choice((world.parties[:1], world.parties[1:], world.parties))
    for closer in closers:
        world.run(world.now + rng.choice((0.0, 0.0, 0.1)))
        closer.engine.conn.close(rng.choice((0, 7)), world.now, rng.choice((None, None, 0.5)))
        closer.pump()
    settle(world)
    for party in world.parties:
        conn = party.engine.conn
        delivered = len(party.other.read)
        assert party.other.read == party.sent[:delivered]
        if conn.unacknowledged == 0:
            assert delivered == len(party.sent)  # what it believes acknowledged was read
        assert sum(len(data) + 4 for data in party.sent[delivered:]) >= 0
        assert party.events == [DRAINING, CLOSED]
        assert conn.error is None
        assert conn.end_error().unacknowledged == conn.unacknowledged
    if len(closers) == 1:
        assert closers[0].other.engine.conn.peer_code is not None


def test_a_close_with_64_mib_queued_over_80_mbit_loses_nothing() -> None:
    """Appendix A 67."""
    world = World(0)
    world._pause = 0.0
    for party in world.parties:
        party.pipe.rate, party.pipe.capacity, party.pipe.latency = 1e7, 256_000, 0.02
        party.to_send = 0
    for number in range(64):
        data = pattern(1 << 20, number)
        world.client.engine.conn.send_message(data)
        world.client.sent.append(data)
    world.client.engine.conn.close(0, 0.0)
    start(world)
    settle(world)
    all_through(world, world.client)
    assert world.server.engine.conn.peer_code == 0


@pytest.mark.parametrize("seed", range(200, 225))
def test_a_cut_leg_is_reported_at_both_ends(seed: int) -> None:
    world = World(seed)
    start(world)
    world.run(world.rng.choice((0.0, 0.01, 0.2, 1.5)))
    if world.rng.random() < 0.3:
        world.client.engine.conn.close(0, world.now)
        world.client.pump()
        world.run(world.now + 0.05)
    for party in world.parties:
        party.pipe.lost = True
        party.lose(NetworkError("cut"))
    settle(world)
    for party in world.parties:
        conn = party.engine.conn
        if party.events[-1] is DEAD:
            assert isinstance(conn.error, SessionDeadError)
        else:
            assert conn.phase is Phase.CLOSED
        assert party.other.read == party.sent[: len(party.other.read)]


@pytest.mark.parametrize("seed", range(300, 320))
def test_stalls_pass_or_kill(seed: int) -> None:
    world = World(seed)
    rng = world.rng
    start(world)
    for party in world.parties:
        party.to_send = max(party.to_send, 20)
    for _ in range(4):
        world.run(world.now + rng.random() * 0.3)
        victim = rng.choice(world.parties).pipe
        victim.stalled = True
        world.run(world.now + rng.choice((0.1, 1.0, 6.0)))
        victim.stalled = False
        victim.drain()
        if not victim.waiting and not victim.source.gone:
            victim.source.engine.conn.path_blocked(False, world.now)
            victim.source.pump()
    while any(party.to_send or party.engine.conn.unacknowledged for party in world.parties) and world.now < 3600.0:
        world.run(world.now + 5.0)
    world.run(world.now + 5.0)
    for party in world.parties:
        all_through(world, party)
        assert party.engine.conn.phase is Phase.ESTABLISHED
    # A stall without end: whoever waits for an answer gives up after 30 s (or 15 round trips), the other when it asks.
    for party in world.parties:
        party.pipe.stalled = True
        if party.engine.settings.keepalive_interval is None:
            party.engine.conn.send_message(b"anybody?")
            party.pump()
    world.run(world.now + 20.0 + max(30.0, *(15 * party.engine.conn.path.estimator.min_rtt for party in world.parties)))
    for party in world.parties:
        assert party.engine.conn.phase is Phase.DEAD
        assert isinstance(party.engine.conn.error, SessionDeadError)
        party.gone = True
    settle(world)


@pytest.mark.parametrize("seed", range(400, 415))
def test_an_application_that_never_reads_costs_nobody_but_itself(seed: int) -> None:
    world = World(seed)
    world.memory.capacity = world.rng.choice((2 << 20, 4 << 20))
    world.server.reading = False
    world.client.to_send = 100
    start(world)
    world.run(30.0)
    conn = world.server.engine.conn
    if isinstance(conn.error, BusyError):
        assert world.client.engine.conn.peer_code in (3, None)
        settle(world)
        return
    assert conn.phase is Phase.ESTABLISHED
    world.server.reading = True
    while (world.client.to_send or world.client.engine.conn.unacknowledged) and world.now < 3600.0:
        world.run(world.now + 5.0)
    world.client.engine.conn.close(0, world.now)
    world.client.pump()
    settle(world)
    all_through(world, world.client)
