"""The plans that come with Phantom. The short ones take at most 1500 packets a seed; those marked ``long`` are for
``phantom simulate`` by name and for ``make soak``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from phantom.testing.simulator.links import Link
from phantom.testing.simulator.plan import Flow, Plan

__all__ = ["PLANS", "long_plans", "short_plans"]

_KiB: Final = 1024
_MiB: Final = 1024 * 1024
_DAY: Final = 86_400.0
_SMALL_SEGMENTS: Final = {"bulk_chunk": 4 * _KiB}


def _even(name: str, summary: str, link: Link, *, transport: str = "datagram", **options: Any) -> Plan:
    """A plan whose two directions are alike."""
    return Plan(name, summary, transport, link, link, **options)


def _bulk(total: int) -> tuple[Flow, ...]:
    return (Flow(total=total, size=16 * _KiB),)


def _clean(rate: float, rtt: float, total: int, *, transport: str = "datagram", loss: float = 0.0) -> Plan:
    """One direction of bulk on a clean (or nearly clean) link, with a queue of one bandwidth-delay product."""
    link = Link(rate=rate, latency=rtt / 2, queue=max(64 * _KiB, round(rate * 125_000 * rtt)), loss=loss)
    kind = "lossy" if loss else "clean" if transport == "datagram" else "pipe"
    return _even(
        f"{kind}-{rate:g}mbit-{rtt * 1000:g}ms",
        f"bulk over {transport}s: {rate:g} Mbit/s, {rtt * 1000:g} ms RTT, {loss:.0%} loss",
        link,
        transport=transport,
        flows=(Flow(total=total, size=64 * _KiB),),
        duration=600.0,
        long=True,
    )


def _issue_plans() -> Iterator[Plan]:
    lossy = Link(rate=10, latency=0.020, loss=0.30, burst=3)
    yield _even(
        "handshakes-30-percent-bursts",
        "50 handshakes over a link that loses 30 % each way in bursts of 3; all complete",
        Link(latency=0.025, loss=0.30, burst=3),
        handshakes=50,
        sessions=0,
        duration=30.0,
    )
    yield _even(
        "loss-30-percent-bursts",
        "messages both ways over a link that loses 30 % each way in bursts of 3",
        lossy,
        flows=(Flow(sender="both", total=100_000, size=3_000, spread=0.9),),
        # The peer of a Suspended path is PINGed every 5 s, and half of them come to nothing: 30 s may be too short.
        settings={"session_timeout": 120.0},
        duration=600.0,
    )
    yield _even(
        "rtt-1500ms",
        "a satellite hop and a half: 1.5 s of round trip, 2 Mbit/s",
        Link(rate=2, latency=0.750, queue=512 * _KiB),
        flows=_bulk(600_000),
        duration=300.0,
    )
    yield _even(
        "blackhole-5s-on-2s-off",
        "the link is dead for 2 s after every 5 s",
        Link(rate=1, latency=0.030, up=5.0, down=2.0),
        flows=(Flow(sender="both", total=300_000, size=2_000, spread=0.5, interval=0.040),),
        duration=300.0,
    )
    for share in (0.02, 0.30):
        yield _even(
            f"corruption-{share * 100:.0f}-percent",
            f"{share:.0%} of all datagrams arrive with bits turned over",
            Link(rate=10, latency=0.020, corrupt=share),
            flows=(Flow(sender="both", total=250_000, size=5_000, spread=0.5),),
            duration=300.0,
        )
    yield _even(
        "rtt-210ms-reorder-15-percent",
        "210 ms of round trip, 15 % of the datagrams arrive behind later ones, some twice",
        Link(rate=10, latency=0.105, reorder=0.15, reorder_delay=0.015, duplicate=0.01),
        flows=_bulk(500_000),
        duration=300.0,
    )
    yield _even(
        "bufferbloat",
        "2 Mbit/s behind a queue of 1 MiB (four seconds), bulk one way and small messages the other",
        Link(rate=2, latency=0.020, queue=_MiB),
        flows=(Flow(total=900_000, size=16 * _KiB), Flow(sender="server", total=20_000, size=200, interval=0.050)),
        duration=300.0,
    )
    yield _even(
        "lan-400us",
        "0.4 ms of round trip, 1 Gbit/s",
        Link(rate=1000, latency=0.0002, queue=256 * _KiB),
        flows=(Flow(sender="both", total=550_000, size=16 * _KiB),),
    )
    yield _even(
        "rekey-storm",
        "both ends rekey every 20 ms, and every 40 packets besides, on a link that loses and reorders",
        Link(rate=20, latency=0.015, loss=0.02, reorder=0.05, reorder_delay=0.010, duplicate=0.01),
        flows=(Flow(sender="both", total=300_000, size=8_000, spread=0.5),),
        rekey=0.020,
        guards={"soft_seals": 40},
        duration=300.0,
    )
    yield _even(
        "window-starvation",
        "a receiver that has 256 KiB of memory in all and gives windows of 64 KiB",
        Link(rate=20, latency=0.050, loss=0.01),
        flows=(Flow(total=800_000, size=30_000, spread=0.9, read_rate=400_000),),
        server={"recv_window": 64 * _KiB, "recv_segments": 64},
        memory=256 * _KiB,
        duration=300.0,
    )
    yield _even(
        "slow-reader",
        "a reader that takes 60 kB/s and sleeps 3 s in every 4; the writer must wait, and nothing may pile up",
        Link(rate=20, latency=0.010),
        flows=(Flow(total=700_000, size=20_000, spread=0.5, read_rate=300_000, read_on=1.0, read_off=3.0),),
        duration=600.0,
    )
    yield _even(
        "stream-churn-with-resets",
        "45 streams each way, 8 at a time, a third reset by the writer, a sixth stopped by the reader",
        Link(rate=20, latency=0.015, loss=0.02, reorder=0.03, reorder_delay=0.010),
        flows=(Flow("streams", "both", 300_000, 2_000, 0.9, 0.004, streams=45, parallel=8, reset=0.33, stop=0.2),),
        duration=300.0,
    )
    yield _even(
        "idle-day",
        "a day of virtual time without traffic: the session lives, and holds no more in the evening",
        Link(latency=0.030),
        flows=(Flow(sender="both", total=20_000, size=1_000),),
        idle=_DAY,
        long=True,
    )


def _more_plans() -> Iterator[Plan]:
    yield Plan(
        "asymmetric",
        "50 Mbit/s down, 1 Mbit/s up: acknowledgements share a thin line with a small upload",
        up=Link(rate=1, latency=0.020, queue=64 * _KiB),
        down=Link(rate=50, latency=0.015),
        flows=(Flow(sender="server", total=900_000, size=32 * _KiB), Flow(total=20_000, size=500, interval=0.020)),
    )
    yield _even(
        "duplicates",
        "every fifth datagram arrives twice, a tenth late",
        Link(rate=10, latency=0.020, duplicate=0.20, reorder=0.10, reorder_delay=0.050),
        flows=(Flow(sender="both", total=200_000, size=6_000, spread=0.5),),
    )
    yield _even(
        "many-streams-one-line",
        "messages, streams of two priorities and chunks share one line with 1 % loss",
        Link(rate=10, latency=0.025, loss=0.01),
        flows=(
            Flow(total=150_000, size=5_000),
            Flow("streams", total=200_000, size=4_000, streams=4, parallel=4, priority=1),
            Flow("streams", "server", total=100_000, size=1_000, streams=10, parallel=5),
            Flow("unreliable", total=40_000, size=300, interval=0.004),
        ),
        duration=120.0,
    )
    yield _even(
        "several-sessions",
        "four sessions share one line with a short queue",
        Link(rate=10, latency=0.020, queue=48 * _KiB),
        flows=(Flow(sender="both", total=120_000, size=5_000),),
        sessions=4,
        duration=120.0,
    )
    yield _even(
        "pipe-stalls",
        "a byte pipe of 8 Mbit/s that stops for 1 s in every 5",
        Link(rate=8, latency=0.020, queue=128 * _KiB, up=4.0, down=1.0),
        transport="pipe",
        flows=(Flow(sender="both", total=3_000_000, size=40_000, spread=0.9),),
        settings=_SMALL_SEGMENTS,
        duration=300.0,
    )
    yield _even(
        "pipe-streams",
        "streams of three priorities and messages over one byte pipe, with resets",
        Link(rate=50, latency=0.010, jitter=0.005, queue=256 * _KiB, loss=0.02),
        transport="pipe",
        flows=(
            Flow(sender="both", total=300_000, size=5_000),
            Flow("streams", "both", 400_000, 3_000, 0.8, 0.004, streams=40, parallel=10, reset=0.2, stop=0.2),
            Flow("streams", total=400_000, size=16_000, streams=2, parallel=2, priority=5),
        ),
        settings=_SMALL_SEGMENTS,
        duration=300.0,
    )
    yield _even(
        "pipe-rekey-storm",
        "both ends of a byte pipe rekey every 10 ms and every 30 packets",
        Link(rate=50, latency=0.010),
        transport="pipe",
        flows=(Flow(sender="both", total=2_000_000, size=20_000, spread=0.9),),
        settings=_SMALL_SEGMENTS,
        rekey=0.010,
        guards={"soft_seals": 30},
        duration=120.0,
    )
    yield _even(
        "pipe-version-1",
        "messages and streams of a version-1 session, whose only back-pressure is a leg that is not read",
        Link(rate=50, latency=0.010, jitter=0.002, queue=128 * _KiB),
        transport="pipe",
        version=1,
        flows=(
            Flow("messages", "both", 1_200_000, 20_000, 0.9, read_rate=800_000),
            Flow("streams", "both", 240_000, 4_000, streams=12, parallel=4),
            Flow("unreliable", total=30_000, size=300, interval=0.004),
        ),
        settings=_SMALL_SEGMENTS,
        duration=120.0,
    )
    yield _even(
        "shaped",
        "padding, jitter of 5 ms and cover traffic on a link that loses 1 % and reorders",
        Link(rate=20, latency=0.015, loss=0.01, reorder=0.02, reorder_delay=0.010),
        flows=(
            Flow(sender="both", total=150_000, size=3_000, spread=0.9, interval=0.010),
            Flow("streams", "both", 100_000, 2_000, 0.5, 0.010, streams=10, parallel=4, reset=0.2),
            Flow("unreliable", total=20_000, size=200, interval=0.005),
        ),
        settings={"padding": "pade", "jitter": 0.005, "cover_interval": 0.020},
        duration=120.0,
    )
    yield _even(
        "cut",
        "the network dies for good in the middle of a transfer; both ends notice and let go of everything",
        Link(rate=4, latency=0.020),
        flows=(Flow(sender="both", total=1_000_000, size=8_000),),
        cut=0.5,
        complete=False,
    )


def _goodput_plans() -> Iterator[Plan]:
    for rate, rtt, total in (
        (1, 0.0004, 2 * _MiB),
        (1, 0.040, 2 * _MiB),
        (1, 0.200, 2 * _MiB),
        (10, 0.0004, 8 * _MiB),
        (10, 0.040, 12 * _MiB),
        (10, 0.200, 16 * _MiB),
        (100, 0.0004, 24 * _MiB),
        (100, 0.040, 48 * _MiB),
        (100, 0.200, 96 * _MiB),
        (1000, 0.0004, 48 * _MiB),
        (1000, 0.040, 160 * _MiB),
        (1000, 0.200, 320 * _MiB),
    ):
        yield replace(_clean(rate, rtt, total), goodput=0.85)
        # 16 MiB, the largest window on a byte pipe, are 84 MB/s at 200 ms: two thirds of 1 Gbit/s.
        bounded = rate == 1000 and rtt == 0.200
        yield replace(_clean(rate, rtt, total, transport="pipe"), goodput=0.55 if bounded else 0.85)
    for rate, rtt, total in (
        (1, 0.040, 2 * _MiB),
        (10, 0.040, 12 * _MiB),
        (100, 0.040, 48 * _MiB),
        (100, 0.200, 96 * _MiB),
    ):
        yield replace(_clean(rate, rtt, total, loss=0.01), goodput=0.60)


def _chaos() -> Iterator[Plan]:
    yield Plan("chaos", "everything is drawn by the seed: links, traffic, settings, limits", drawn=True, long=True)


PLANS: Final[dict[str, Plan]] = {
    plan.name: plan for plan in (*_issue_plans(), *_more_plans(), *_chaos(), *_goodput_plans())
}


def short_plans() -> list[Plan]:
    """Those of at most 1500 packets a seed."""
    return [plan for plan in PLANS.values() if not plan.long]


def long_plans() -> list[Plan]:
    """Those that take their time."""
    return [plan for plan in PLANS.values() if plan.long]
