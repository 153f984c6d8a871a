"""Simulated applications: their pace, their ledgers, and that they notice what an engine gets wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from phantom.errors import StreamLimitError, StreamResetError
from phantom.testing.simulator import Flow, InvariantViolationError, Link, Plan, World, play
from phantom.testing.simulator.workload import MessageFlow, StreamFlow, UnreliableFlow

LINK = Link(rate=8, latency=0.02)
SMALL = {"bulk_chunk": 4096}
MESSAGES = Plan("m", "", "pipe", LINK, LINK, flows=(Flow(total=100_000, size=5_000),), settings=SMALL)
STREAMS = replace(MESSAGES, flows=(Flow("streams", total=400_000, size=5_000, streams=10, parallel=3),))
CHUNKS = replace(MESSAGES, flows=(Flow("unreliable", total=50_000, size=500),))


def flow_of(world: World) -> Any:
    return world.sessions[0].traffic[0]


def spoiled(plan: Plan, when: float, spoil: Callable[[World], None], seed: int = 1) -> Any:
    """Plays ``plan`` and spoils it as soon after ``when`` as there is something to spoil."""
    world = World(plan, seed, checked=False)

    def soon() -> None:
        try:
            spoil(world)
        except StopIteration:
            world.clock.after(0.001, soon)

    world.clock.at(when, soon)
    return world.play()


# --- pace -----------------------------------------------------------------------------------------------------------


def test_a_writer_keeps_its_interval() -> None:
    outcome = play(replace(MESSAGES, flows=(Flow(total=50_000, size=5_000, interval=0.5, start=1.0),)), 1)
    assert outcome.ok
    assert 5.5 <= outcome.seconds < 5.7


@pytest.mark.parametrize("kind", ["messages", "streams"])
def test_a_slow_reader_keeps_its_rate(kind: str) -> None:
    outcome = play(replace(MESSAGES, flows=(Flow(kind, total=100_000, size=5_000, read_rate=20_000),)), 1)
    assert outcome.ok
    assert 3 < outcome.seconds < 6


def test_a_reader_pauses() -> None:
    plan = replace(MESSAGES, flows=(Flow(total=100_000, size=5_000, interval=0.1, read_on=0.5, read_off=4.0),))
    world = World(plan, 1)
    flow = flow_of(world)
    seen: list[tuple[float, int]] = []

    def look() -> None:
        seen.append((world.clock.now, flow.read))
        world.clock.after(0.5, look)

    world.clock.at(0.6, look)
    assert world.play().ok
    during = {read for when, read in seen if 0.6 <= when < 4.5}
    assert len(during) == 1


def test_sizes_spread_around_their_mean() -> None:
    world = World(replace(MESSAGES, flows=(Flow(total=500_000, size=5_000, spread=0.5),)), 1)
    flow = flow_of(world)
    assert isinstance(flow, MessageFlow)
    assert world.play().ok
    assert len(set(flow._sizes)) > 50
    assert all(2500 <= size <= 7500 for size in flow._sizes[:-1])


def test_many_writes_at_one_instant_are_spread_over_turns() -> None:
    assert play(replace(MESSAGES, flows=(Flow(total=20_000, size=50),)), 1).ok
    assert play(replace(MESSAGES, flows=(Flow("streams", total=200_000, size=100, streams=2, parallel=2),)), 1).ok


def test_a_stream_writer_keeps_its_interval() -> None:
    flow = Flow("streams", total=40_000, size=5_000, streams=2, parallel=2, interval=0.5, start=1.0)
    outcome = play(replace(MESSAGES, flows=(flow,)), 1)
    assert outcome.ok
    assert 2.4 < outcome.seconds < 3.0


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_end_in_every_way() -> None:
    flow = Flow(
        "streams",
        "both",
        total=400_000,
        size=2_000,
        streams=60,
        parallel=6,
        spread=0.9,
        reset=0.3,
        stop=0.3,
        interval=0.01,
    )
    world = World(replace(STREAMS, flows=(flow,)), 3)
    outcome = world.play()
    assert outcome.ok
    for one in world.sessions[0].traffic:
        assert isinstance(one, StreamFlow)
        assert min(one.ends_seen, one.resets_seen, one.stops) > 3
        assert one.abandoned > 0
        assert one.ends_seen + one.resets_seen + one.stops <= 60
        assert len(one.ledgers) == 60


def test_chunks_that_are_lost_are_not_waited_for() -> None:
    plan = Plan("u", up=Link(rate=8, loss=0.2), down=Link(rate=8), flows=(Flow("unreliable", total=50_000, size=500),))
    world = World(plan, 1)
    outcome = world.play()
    flow = flow_of(world)
    assert isinstance(flow, UnreliableFlow)
    assert outcome.ok
    assert 25_000 < flow.read < 50_000


def last_ledger(world: World) -> Any:
    return next(ledger for ledger in flow_of(world).ledgers.values() if ledger.taken is not None and not ledger.ended)


def spoil_bytes(world: World) -> None:
    last_ledger(world).read += 1


def spoil_end(world: World) -> None:
    flow = flow_of(world)
    for ledger in flow.ledgers.values():
        ledger.finished = False


def spoil_written(world: World) -> None:
    last_ledger(world).written = 0


def spoil_reset(world: World) -> None:
    ledger = last_ledger(world)
    world.sessions[0].ends[0].conn.reset(ledger.stream, 99)
    ledger.left = 0
    world.sessions[0].ends[0].react()


def spoil_stop(world: World) -> None:
    world.sessions[0].ends[1].conn.stop(last_ledger(world).taken, 99)


def spoil_twice(world: World) -> None:
    flow_of(world).accept(last_ledger(world).taken)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_bytes, "wrong bytes|of stream|the end of stream"),
        (spoil_end, "the end of stream"),
        (spoil_written, "written"),
        (spoil_reset, "which nobody reset"),
        (spoil_stop, "which nobody stopped|read"),
        (spoil_twice, "a second time"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_goes_wrong_with_a_stream_is_noticed(spoil: Callable[[World], None], text: str) -> None:
    slow = replace(STREAMS, flows=(replace(STREAMS.flows[0], interval=0.01),))
    outcome = spoiled(slow if spoil is spoil_reset else STREAMS, 0.06, spoil)
    assert not outcome.ok
    assert re.search(text, outcome.failure), outcome.failure


def test_a_stream_that_nobody_opened_is_noticed() -> None:
    def forget(world: World) -> None:
        flow_of(world).ledgers.clear()

    assert "which nobody opened" in spoiled(STREAMS, 0.01, forget).failure


def test_an_id_that_comes_again_is_noticed() -> None:
    world = World(STREAMS, 1)
    flow = flow_of(world)
    world.sessions[0].ends[0].react()
    flow.ledgers[9] = next(iter(flow.ledgers.values()))
    world.clock.run(0.001)
    with pytest.raises(InvariantViolationError, match="opened twice"):
        for _ in range(3):
            flow.flow = replace(flow.flow, parallel=9)
            flow._open(0.1)


def test_an_engine_that_has_no_room_where_it_said_it_had_is_noticed() -> None:
    world = World(STREAMS, 1)
    flow = flow_of(world)

    class Full:
        may_open = accepts_writes = True

        def open_stream(self, priority: int, now: float) -> None:
            raise StreamLimitError("full")

    flow.writer.conn = Full()
    with pytest.raises(InvariantViolationError, match="may_open was true"):
        flow._open(0.1)


def test_an_exception_of_a_read_is_the_session_end_or_a_finding() -> None:
    world = World(STREAMS, 1)
    flow = flow_of(world)
    for end in world.sessions[0].ends:
        end.react()
    world.clock.run(9.0, lambda: any(ledger.taken is not None for ledger in flow.ledgers.values()))
    ledger = last_ledger(world)

    class Broken:
        phase = world.sessions[0].ends[1].conn.phase

        def read(self, stream: object, now: float) -> bytes:
            raise StreamLimitError("odd")

    flow.reader.conn = Broken()
    with pytest.raises(StreamLimitError):
        flow._read_on(3, ledger)


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_a_chunk_twice_is_noticed() -> None:
    def again(world: World) -> None:
        flow_of(world)._missing.clear()

    outcome = spoiled(CHUNKS, 0.02, again)
    assert outcome.invariant == "twice"


def test_a_chunk_that_changed_is_noticed() -> None:
    def change(world: World) -> None:
        flow_of(world)._sizes = [1] * len(flow_of(world)._sizes)

    assert "changed" in spoiled(CHUNKS, 0.02, change).failure


def test_an_odd_error_of_a_chunk_read_is_a_finding() -> None:
    world = World(CHUNKS, 1)
    flow = flow_of(world)
    for end in world.sessions[0].ends:
        end.react()
    world.clock.run(0.05)
    flow._taken = flow._taken or object()

    class Broken:
        phase = world.sessions[0].ends[1].conn.phase

        def read(self, stream: object, now: float) -> bytes:
            raise StreamResetError("odd", 1)

    flow.reader.conn = Broken()
    with pytest.raises(StreamResetError):
        flow.read_turn()


def test_a_stream_of_another_flow_is_not_taken() -> None:
    world = World(CHUNKS, 1)
    flow = flow_of(world)

    class Other:
        id = 77

    assert not flow.accept(Other())
    assert not StreamFlow(Flow("streams"), flow.writer, flow.reader, flow._rng, 0).accept(Other())
