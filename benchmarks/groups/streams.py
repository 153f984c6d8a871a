"""Streams beside the message channel of the same session, one way and both, over TCP on 127.0.0.1."""

from __future__ import annotations

from benchmarks.groups.bulk import UVLOOP
from benchmarks.groups.bulk import quantities as one_way
from benchmarks.harness import Contestant, GiB, KiB, MiB, Options, Row, Sample, interleave, missing

GROUP = "streams"
ONE_WAY, BOTH = "64 KiB one way", "64 KiB both ways"
MESSAGES, ONE, EIGHT = "messages", "one stream", "eight streams"
_ROWS = {MESSAGES: 0, ONE: 1, EIGHT: 8}


def both_ways(received: Sample, sent: Sample) -> dict[str, float]:
    """Goodput of both directions together, and CPU of both processes for it."""
    total = received["bytes"] + sent["bytes"]
    return {
        "MiB/s": total / max(received["seconds"], sent["seconds"]) / MiB,
        "CPU s/GiB": (received["cpu"] + sent["cpu"]) / total * GiB,
    }


def measure(options: Options) -> list[Row]:
    """Messages are the anchor: what streams cost beside them."""
    no_uvloop = missing("uvloop")
    ends = ("streams:server", "streams:client")

    def table(both: bool) -> list[Contestant]:
        rows = [Contestant(name, *ends, {"streams": count, "both": both}) for name, count in _ROWS.items()]
        uvloop = {"streams": 8, "both": both, "loop": "uvloop"}
        return [*rows, Contestant(f"{EIGHT}, {UVLOOP}", *ends, uvloop, no_uvloop)]

    given = {"size": 64 * KiB, "seconds": options.seconds}
    return [
        *interleave(GROUP, ONE_WAY, table(both=False), options, one_way, **given),
        *interleave(GROUP, BOTH, table(both=True), options, both_ways, **given),
    ]
