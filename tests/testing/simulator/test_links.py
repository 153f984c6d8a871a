"""Simulated links do what they are described to do, and the same again from the same seed."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from phantom.errors import ConfigError
from phantom.testing.simulator import DatagramLink, Link, PipeLink, VirtualTime


def datagrams(
    link: Link, sent: list[bytes], *, seed: int = 1, pause: float = 0.0
) -> tuple[list[tuple[float, bytes]], DatagramLink]:
    """What arrives, and when, if one is sent every ``pause`` seconds."""
    clock, got = VirtualTime(), []
    made = DatagramLink(clock, random.Random(seed), link)
    made.receiver = lambda data: got.append((clock.now, data))
    for number, data in enumerate(sent):
        clock.at(number * pause, lambda data=data: made.send(data))  # type: ignore[misc]
    clock.run(1e6)
    return got, made


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [number.to_bytes(4, "big") + bytes(size - 4) for number in range(count)]


def test_a_datagram_takes_its_time_on_the_wire_and_the_latency() -> None:
    got, link = datagrams(Link(rate=8.0, latency=0.5, overhead=0), numbered(3, 1000))
    assert [when for when, _ in got] == pytest.approx([0.501, 0.502, 0.503])
    assert link.counters.bytes_delivered == 3000


def test_overhead_costs_time_but_is_not_delivered() -> None:
    got, _ = datagrams(Link(rate=8.0, latency=0.0, overhead=1000), numbered(1, 1000))
    assert got[0][0] == pytest.approx(0.002)
    assert len(got[0][1]) == 1000


def test_jitter_alone_does_not_reorder() -> None:
    got, _ = datagrams(Link(latency=0.01, jitter=0.2), numbered(200), pause=0.001)
    assert [data for _, data in got] == numbered(200)
    delays = [when - 0.001 * number for number, (when, _) in enumerate(got)]
    assert min(delays) < 0.1 < max(delays)


def test_a_full_queue_drops_what_comes() -> None:
    got, link = datagrams(Link(rate=1.0, queue=10 * 128), numbered(50))
    assert len(got) == 10
    assert link.counters.overflowed == 40
    assert [data for _, data in got] == numbered(10)


def test_what_is_too_large_is_dropped() -> None:
    got, link = datagrams(Link(mtu=1200), [bytes(1200), bytes(1201)])
    assert len(got) == 1
    assert link.counters.too_large == 1


@pytest.mark.parametrize(("loss", "burst"), [(0.3, 1.0), (0.3, 3.0), (0.1, 5.0)])
def test_losses_have_the_share_and_the_bursts_that_were_asked_for(loss: float, burst: float) -> None:
    count = 40_000
    got, link = datagrams(Link(loss=loss, burst=burst), numbered(count, 8))
    assert link.counters.lost / count == pytest.approx(loss, rel=0.1)
    arrived = {int.from_bytes(data[:4], "big") for _, data in got}
    runs = sum(number not in arrived and number - 1 in arrived for number in range(1, count))
    mean = link.counters.lost / runs
    assert mean == pytest.approx(burst if burst > 1 else 1 / (1 - loss), rel=0.1)


def test_a_run_of_losses_is_over_after_a_pause() -> None:
    link = Link(loss=0.3, burst=100.0, calm=0.5)
    got, _ = datagrams(link, numbered(4000, 8), pause=1.0)
    arrived = {int.from_bytes(data[:4], "big") for _, data in got}
    assert len(arrived) / 4000 == pytest.approx(0.7, rel=0.05)
    runs = sum(number not in arrived and number - 1 in arrived for number in range(1, 4000))
    assert (4000 - len(arrived)) / runs == pytest.approx(1 / 0.7, rel=0.1)


def test_a_link_can_lose_everything() -> None:
    got, _ = datagrams(Link(loss=1.0), numbered(20))
    assert got == []


def test_damaged_datagrams_arrive_with_a_few_bits_turned_over() -> None:
    got, link = datagrams(Link(corrupt=1.0), numbered(50))
    assert link.counters.corrupted == 50
    for sent, (_, data) in zip(numbered(50), got, strict=True):
        turned = sum((one ^ other).bit_count() for one, other in zip(sent, data, strict=True))
        assert 1 <= turned <= 3


def test_doubled_datagrams_arrive_twice() -> None:
    got, link = datagrams(Link(duplicate=0.5), numbered(1000))
    assert len(got) == 1000 + link.counters.duplicated
    assert 400 < link.counters.duplicated < 600


def test_reordered_datagrams_arrive_behind_later_ones() -> None:
    got, link = datagrams(Link(reorder=0.2, reorder_delay=0.02), numbered(1000), pause=0.001)
    order = [int.from_bytes(data[:4], "big") for _, data in got]
    assert sorted(order) == list(range(1000))
    late = sum(later < earlier for earlier, later in pairwise(order))
    assert 100 < link.counters.reordered < 300
    assert late > 50


def test_a_blackhole_swallows_what_is_sent_while_it_lasts() -> None:
    got, link = datagrams(Link(latency=0.0, up=5.0, down=2.0), numbered(14), pause=1.0)
    assert [round(when) for when, _ in got] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert link.counters.blackholed == 4


def test_the_same_seed_makes_the_same_network() -> None:
    link = Link(rate=5, jitter=0.1, loss=0.2, burst=2, corrupt=0.2, duplicate=0.2, reorder=0.2)
    one, other = (datagrams(link, numbered(300), seed=9)[0] for _ in range(2))
    assert one == other
    assert one != datagrams(link, numbered(300), seed=10)[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("loss", 1.5), ("corrupt", -0.1), ("rate", -1.0), ("queue", -1), ("burst", 0.5), ("reorder", 2)],
)
def test_impossible_links_are_refused(field: str, value: float) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError):
        Link(**options)


def test_a_link_that_loses_everything_has_no_bursts() -> None:
    with pytest.raises(ConfigError, match="bursts"):
        Link(loss=1.0, burst=2.0)


def pipe(link: Link, seed: int = 1) -> tuple[VirtualTime, PipeLink, list[tuple[float, bytes]]]:
    clock, got = VirtualTime(), []
    made = PipeLink(clock, random.Random(seed), link)
    made.receiver = lambda data: got.append((clock.now, data))
    return clock, made, got


def test_a_pipe_keeps_every_byte_in_order() -> None:
    clock, link, got = pipe(Link(rate=8.0, latency=0.1, jitter=0.05, queue=5000, loss=0.2))
    sent = bytes(range(256)) * 400
    for at in range(0, len(sent), 10_000):
        clock.at(at / 1e5, lambda at=at: link.send(sent[at : at + 10_000]))  # type: ignore[misc]
    clock.run(60.0)
    assert b"".join(data for _, data in got) == sent
    assert link.counters.lost > 0
    assert got[-1][0] > len(sent) / 1e6


def test_a_full_pipe_says_when_it_has_drained() -> None:
    clock, link, got = pipe(Link(rate=8.0, latency=0.1, queue=5000))
    drained: list[float] = []
    link.on_drained = lambda: drained.append(clock.now)
    link.send(bytes(4000))
    assert not link.blocked
    link.send(bytes(4000))
    assert link.blocked
    clock.run(1.0)
    assert not link.blocked
    assert len(drained) == 1
    assert sum(len(data) for _, data in got) == 8000


def test_the_end_of_a_pipe_comes_behind_its_bytes() -> None:
    clock, link, got = pipe(Link(latency=0.2))
    ends: list[tuple[float, int]] = []
    link.on_end = lambda: ends.append((clock.now, len(got)))
    link.send(b"last words")
    link.end()
    clock.run(1.0)
    assert ends == [(pytest.approx(0.2), 1)]
    quiet_clock, quiet, _ = pipe(Link(latency=0.2))
    quiet.end()
    quiet_clock.run(1.0)  # nobody listens for the end


def test_a_reader_that_does_not_read_makes_the_writer_wait() -> None:
    clock, link, got = pipe(Link(latency=0.1, queue=5000))
    link.hold(True)
    clock.at(0.0, lambda: link.send(bytes(4000)))
    clock.at(1.0, lambda: link.send(b"x" * 4000))
    clock.run(5.0)
    assert got == []
    assert link.blocked
    link.hold(False)
    assert sum(len(data) for _, data in got) == 5000
    clock.run(9.0)
    assert b"".join(data for _, data in got) == bytes(4000) + b"x" * 4000
    assert not link.blocked


def test_a_blackhole_holds_a_pipe_back() -> None:
    clock, link, got = pipe(Link(latency=0.0, up=1.0, down=2.0))
    clock.at(1.5, lambda: link.send(b"held"))
    clock.run(10.0)
    assert got == [(3.0, b"held")]


def test_nobody_has_to_listen() -> None:
    clock = VirtualTime()
    link = DatagramLink(clock, random.Random(1), Link())
    link.send(b"into the void")
    clock.run(1.0)
    assert link.counters.delivered == 1


@pytest.mark.parametrize("field", ["corrupt", "duplicate", "reorder"])
def test_pipes_do_not_do_what_datagrams_do(field: str) -> None:
    with pytest.raises(ConfigError, match="byte pipe"):
        pipe(Link(**{field: 0.1}))


def test_what_a_link_did_is_counted() -> None:
    _, link = datagrams(Link(loss=0.5), numbered(100))
    counts = link.counters.snapshot()
    assert counts["taken"] == 100
    assert counts["lost"] + counts["delivered"] == 100
