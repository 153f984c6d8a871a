"""The published Rust crate against Phantom, over TCP through the public API of each, in the same rounds.

The crate cuts every write into packets of about 1.2 kB, on TCP too, and acknowledges each of them itself; the C
program of ``bulk`` says how fast our framing can be.
"""

from __future__ import annotations

from benchmarks.groups.bulk import ASYNCIO, UVLOOP
from benchmarks.groups.bulk import quantities as bulk_quantities
from benchmarks.groups.small import one_way, ping_pong
from benchmarks.harness import Contestant, KiB, Options, Row, Sample, Unavailable, interleave, missing
from benchmarks.peers import rust

GROUP = "rust"
CRATE = "Rust crate phantom-protocol 0.4.0"
BULK, ONE_WAY, PING_PONG, CONNECT = "64 KiB bulk", "64 B one way", "64 B ping-pong", "connect"
_CONNECTS = 20  # from about 50 a minute on the crate's server asks for a proof of work


def idle_case(count: int) -> str:
    return f"{count} idle"


def connects(received: Sample, sent: Sample) -> dict[str, float]:
    """CPU microseconds that a whole session costs, at each end."""
    return {
        "client CPU µs": sent["cpu"] / sent["messages"] * 1e6,
        "server CPU µs": received["cpu"] / received["messages"] * 1e6,
    }


def idle(received: Sample, sent: Sample) -> dict[str, float]:
    """Resident memory per session, and the share of a core that all of them take while nothing happens."""
    return {
        "server KiB": received["bytes"] / received["messages"] / KiB,
        "client KiB": sent["bytes"] / sent["messages"] / KiB,
        "server CPU %": received["cpu"] / received["seconds"] * 100,
        "client CPU %": sent["cpu"] / sent["seconds"] * 100,
    }


def measure(options: Options) -> list[Row]:
    """Bulk, messages, round trips, whole connects and idle sessions."""
    skipped = ""
    try:
        rust.program()
    except Unavailable as reason:
        skipped = str(reason)
    no_uvloop = missing("uvloop")

    def table(mode: str, server: str, client: str) -> list[Contestant]:
        ours = (f"session:{server}", f"session:{client}")
        return [
            Contestant(CRATE, "rust:server", "rust:client", {"mode": mode}, skipped),
            Contestant(ASYNCIO, *ours),
            Contestant(UVLOOP, *ours, {"loop": "uvloop"}, no_uvloop),
        ]

    sessions = 100 if options.quick else 1000
    seconds = options.seconds
    few = Options(min(options.rounds, 3), seconds, options.quick)
    stream = table("stream", "server", "client")
    echo = table("echo", "echo_server", "echo_client")
    connect = table("connect", "handshake_server", "handshake_client")
    held = table("idle", "idle_server", "idle_client")
    return [
        *interleave(GROUP, BULK, stream, options, bulk_quantities, size=64 * KiB, seconds=seconds),
        *interleave(GROUP, ONE_WAY, stream, options, one_way, size=64, seconds=seconds),
        *interleave(GROUP, PING_PONG, echo, options, ping_pong, size=64, seconds=seconds),
        *interleave(GROUP, CONNECT, connect, options, connects, connections=_CONNECTS),
        *interleave(GROUP, idle_case(sessions), held, few, idle, size=sessions),
    ]
