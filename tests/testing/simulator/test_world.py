"""Plans played: what an outcome says, that it repeats, and that what must fail does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantom.testing.simulator import Flow, Link, PipeLink, Plan, World, play
from phantom.testing.simulator.content import content, matches
from phantom.testing.simulator.world import held_bytes

LINK = Link(rate=8, latency=0.02)
PIPE = Plan("pipe", "", "pipe", LINK, LINK, flows=(Flow(total=300_000, size=9_000),), settings={"bulk_chunk": 4096})


def test_an_outcome_says_what_came_of_it() -> None:
    outcome = play(PIPE, 1)
    assert outcome.ok
    assert outcome.delivered == 300_000
    assert 0.75 < outcome.goodput <= outcome.steady <= 1
    assert 0.3 < outcome.seconds < 0.5
    assert outcome.end > outcome.seconds
    assert outcome.packets > 300_000 / 4096
    assert outcome.links["up"]["bytes_delivered"] > 300_000
    assert outcome.bound in ("network", "receive window")
    assert outcome.samples
    assert outcome.samples[0].time == 0.0


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    plan = replace(PIPE, up=replace(LINK, jitter=0.01))
    one, other = play(plan, 5), play(plan, 5)
    assert one == other
    assert play(plan, 6).digest != one.digest
    assert play(replace(plan, name="other"), 5).digest != one.digest


def test_real_ciphers_make_the_same_run_with_other_bytes() -> None:
    null, real, chacha = (play(replace(PIPE, aead=aead), 3) for aead in ("null", "aes-256-gcm", "chacha20-poly1305"))
    assert null.ok
    assert real.ok
    assert chacha.ok
    assert (null.steps, null.end) == (real.steps, real.end)
    assert null.digest != real.digest


def test_what_does_not_arrive_in_time_is_a_failure() -> None:
    outcome = play(replace(PIPE, duration=0.1), 1)
    assert outcome.invariant == "progress"
    assert "of 300000 bytes from client to server within 0.1 s" in outcome.failure
    assert play(replace(PIPE, duration=0.1, complete=False), 1).ok


def test_a_goodput_that_is_missed_is_a_failure() -> None:
    outcome = play(replace(PIPE, goodput=0.999), 1)
    assert outcome.invariant == "goodput"
    assert play(replace(PIPE, goodput=0.5), 1).ok


def test_several_sessions_have_pipes_of_their_own() -> None:
    outcome = play(replace(PIPE, sessions=3), 1)
    assert outcome.ok
    assert outcome.delivered == 900_000
    assert set(outcome.links) == {"up", "down", "up 1", "down 1", "up 2", "down 2"}


def test_a_session_of_version_1_leaves_its_leg_unread() -> None:
    plan = replace(PIPE, version=1, flows=(Flow(total=4_000_000, size=60_000, read_rate=400_000),))
    world = World(plan, 1)
    server = world.sessions[0].ends[1]
    held: list[bool] = []
    server.conn.hold = lambda on: (held.append(on), server.hold(on))
    outcome = world.play()
    assert outcome.ok
    assert True in held
    assert False in held
    assert world.sessions[0].protections[0].version == 1


def test_a_network_that_dies_is_noticed_by_those_who_wait() -> None:
    plan = replace(PIPE, flows=(Flow(sender="both", total=10_000_000),), cut=0.3, complete=False)
    world = World(plan, 1)
    outcome = world.play()
    assert outcome.ok
    assert all(end.conn.phase.over for end in world.sessions[0].ends)


def test_waiting_for_a_dead_network_for_ever_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PIPE, flows=(Flow(sender="both", total=10_000_000),), cut=0.3, complete=False)
    world = World(plan, 1)
    for end in world.sessions[0].ends:
        end.conn.path.silence_floor = 1e6
    assert world.play().invariant == "alive"


def test_a_session_that_dies_on_the_way_is_a_failure() -> None:
    world = World(PIPE, 1)
    client = world.sessions[0].ends[0]
    world.clock.at(0.1, lambda: client.lose(None))
    outcome = world.play()
    assert outcome.invariant == "alive"
    assert "client is dead" in outcome.failure


def test_an_end_that_does_not_come_is_a_failure() -> None:
    world = World(replace(PIPE, server={"keepalive_interval": None}), 1)
    client, server = world.sessions[0].ends
    up = world.links["up"]
    assert isinstance(up, PipeLink)
    up.on_end = None
    up.receiver = lambda data: None if client.conn.phase.over else server.receive(data)
    outcome = world.play()
    assert outcome.invariant == "ending"
    assert "server is established" in outcome.failure


def test_memory_that_stays_charged_is_a_failure() -> None:
    world = World(PIPE, 1, checked=False)
    world._memories[0].charged = 1
    assert world.play().invariant == "ending"


def test_what_wants_to_send_after_its_end_is_a_failure() -> None:
    world = World(PIPE, 1, checked=False)
    client = world.sessions[0].ends[0]

    def restless() -> None:
        client.conn.owed = True
        if not client.conn.phase.over:
            world.clock.after(0.01, restless)
        else:
            client.gone = True

    world.clock.at(0.45, restless)
    assert world.play().invariant == "ending"


def test_an_idle_session_holds_no_more_after_a_day() -> None:
    outcome = play(replace(PIPE, idle=86_400.0), 1)
    assert outcome.ok
    assert outcome.growth < 2048


def test_a_leak_shows_in_an_idle_day() -> None:
    world = World(replace(PIPE, idle=86_400.0), 1)
    leak: list[bytes] = []
    world._held = lambda view: held_bytes(leak)  # type: ignore[method-assign]

    def drip() -> None:
        leak.append(bytes(100))
        world.clock.after(60.0, drip)

    world.clock.at(2.0, drip)
    outcome = world.play()
    assert outcome.invariant == "memory"
    assert "holds" in outcome.failure


def test_held_bytes_counts_everything_once() -> None:
    shared = bytes(1000)
    both = [shared, {"a": shared}]
    assert held_bytes(both) < 2000
    assert held_bytes(both) > 1000
    assert held_bytes(both, without=(shared,)) < 1000
    assert held_bytes(len, World, held_bytes, __name__) < 200


def test_a_run_without_checks_is_the_same_run() -> None:
    assert World(PIPE, 2, checked=False).play() == World(PIPE, 2).play()


def test_samples_are_thinned() -> None:
    world = World(replace(PIPE, idle=0.0, flows=(Flow(total=400_000, size=2_000, interval=0.1),)), 1)
    outcome = world.play()
    assert outcome.ok
    assert 400 < len(outcome.samples) <= 1000


def test_content_is_what_it_says_wherever_it_is_cut() -> None:
    whole = content(7, 0, 300_000)
    assert len(whole) == 300_000
    for offset, size in ((0, 1), (8190, 3), (65_000, 100_000), (299_999, 1)):
        assert content(7, offset, size) == whole[offset : offset + size]
        assert matches(7, offset, whole[offset : offset + size])
    assert not matches(7, 1, whole[:100])
    assert not matches(8, 0, whole[:100])
