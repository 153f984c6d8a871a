"""Small messages: how many go one way in a second, and how long one takes there and back."""

from __future__ import annotations

from benchmarks.groups.bulk import ASYNCIO, BLOCKING, RAW_STREAMS, TLS_STREAMS, UVLOOP, C, native_missing
from benchmarks.harness import Contestant, Options, Row, Sample, interleave, missing
from benchmarks.peers import sockets

ONE_WAY, PING_PONG = "one way", "ping-pong"
SIZES = (64, 1200)


def one_way(received: Sample, sent: Sample) -> dict[str, float]:
    """Thousands of messages a second by what arrived; CPU microseconds a message at both ends."""
    return {
        "k msg/s": received["messages"] / received["seconds"] / 1e3,
        "sender CPU µs": sent["cpu"] / sent["messages"] * 1e6,
        "receiver CPU µs": received["cpu"] / received["messages"] * 1e6,
    }


def ping_pong(received: Sample, sent: Sample) -> dict[str, float]:
    """Microseconds there and back, and CPU microseconds that a round trip costs at both ends together."""
    cpu = (sent["cpu"] + received["cpu"]) / sent["messages"] * 1e6
    return {"p50 µs": sent["p50"], "p99 µs": sent["p99"], "CPU µs": cpu}


def measure(options: Options) -> list[Row]:
    """Both directions of use, both sizes."""
    no_native, no_uvloop = native_missing(), missing("uvloop")
    sockets.certificate()  # before anything forks
    uvloop = {"loop": "uvloop"}
    native, session, echo = (
        ("native:server", "native:client"),
        ("session:server", "session:client"),
        ("session:echo_server", "session:echo_client"),
    )
    streams = ("sockets:stream_server", "sockets:stream_client")
    senders = [
        Contestant(C, *native, skipped=no_native),
        Contestant(ASYNCIO, *session),
        Contestant(UVLOOP, *session, uvloop, no_uvloop),
        Contestant(BLOCKING, "session:blocking_server", "session:blocking_client"),
    ]
    callers = [
        Contestant(C, *native, {"mode": "echo"}, no_native),
        Contestant(ASYNCIO, *echo),
        Contestant(UVLOOP, *echo, uvloop, no_uvloop),
        Contestant(BLOCKING, "session:blocking_echo_server", "session:blocking_echo_client"),
        Contestant(TLS_STREAMS, *streams, {"tls": True, "echo": True}),
        Contestant(RAW_STREAMS, *streams, {"tls": False, "echo": True}),
    ]
    rows: list[Row] = []
    for size in SIZES:
        case = f"{size} B"
        rows += interleave(ONE_WAY, case, senders, options, one_way, size=size, seconds=options.seconds)
        rows += interleave(PING_PONG, case, callers, options, ping_pong, size=size, seconds=options.seconds)
    return rows
