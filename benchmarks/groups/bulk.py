"""Bulk goodput over TCP on 127.0.0.1, through the public session API, against its peers."""

from __future__ import annotations

from benchmarks.harness import Contestant, GiB, KiB, MiB, Options, Row, Sample, Unavailable, interleave, missing
from benchmarks.peers import native, sockets

GROUP = "bulk"
SIZES = (16 * KiB, 64 * KiB, 256 * KiB, MiB)
C = "C, same framing and copies"
C_SINGLE = "C, one frame per write"
ASYNCIO = "Phantom, asyncio"
UVLOOP = "Phantom, uvloop"
BLOCKING = "Phantom, blocking"
TLS_STREAMS = "TLS 1.3, asyncio streams"
TLS_PROTOCOL = "TLS 1.3, asyncio Protocol"
TLS_UVLOOP = "TLS 1.3, uvloop Protocol"
TLS_FAST = "TLS 1.3, aiofastnet on uvloop"
TLS_BLOCKING = "TLS 1.3, blocking ssl"
RAW_ASYNCIO = "TCP without crypto, asyncio Protocol"
RAW_BLOCKING = "TCP without crypto, blocking"
RAW_STREAMS = "TCP without crypto, asyncio streams"


def contestants() -> list[Contestant]:
    """All rows; the C program is the anchor of the ratios."""
    no_native, no_uvloop, no_fast = native_missing(), missing("uvloop"), missing("aiofastnet")
    sockets.certificate()  # before anything forks
    session, native_ends = ("session:server", "session:client"), ("native:server", "native:client")
    protocols, streams = (
        ("sockets:protocol_server", "sockets:protocol_client"),
        ("sockets:stream_server", "sockets:stream_client"),
    )
    blocking = ("sockets:blocking_server", "sockets:blocking_client")
    return [
        Contestant(C, *native_ends, skipped=no_native),
        Contestant(ASYNCIO, *session),
        Contestant(UVLOOP, *session, {"loop": "uvloop"}, no_uvloop),
        Contestant(BLOCKING, "session:blocking_server", "session:blocking_client"),
        Contestant(C_SINGLE, *native_ends, {"mode": "single"}, no_native),
        Contestant(TLS_STREAMS, *streams, {"tls": True}),
        Contestant(TLS_PROTOCOL, *protocols, {"tls": True}),
        Contestant(TLS_UVLOOP, *protocols, {"tls": True, "loop": "uvloop"}, no_uvloop),
        Contestant(TLS_FAST, *protocols, {"tls": True, "loop": "uvloop", "aiofastnet": True}, no_uvloop or no_fast),
        Contestant(TLS_BLOCKING, *blocking, {"tls": True}),
        Contestant(RAW_ASYNCIO, *protocols, {"tls": False}),
        Contestant(RAW_BLOCKING, *blocking, {"tls": False}),
    ]


def native_missing() -> str:
    """Why the C rows are skipped; empty if the program was built."""
    try:
        native.program()
    except Unavailable as reason:
        return str(reason)
    return ""


def quantities(received: Sample, sent: Sample) -> dict[str, float]:
    """Goodput by what arrived, from the first to the last byte; CPU of both processes."""
    sender, receiver = sent["cpu"] / sent["bytes"] * GiB, received["cpu"] / received["bytes"] * GiB
    return {
        "MiB/s": received["bytes"] / received["seconds"] / MiB,
        "sender CPU s/GiB": sender,
        "receiver CPU s/GiB": receiver,
        "CPU s/GiB": sender + receiver,
    }


def measure(options: Options) -> list[Row]:
    """All sizes, all rows."""
    rows: list[Row] = []
    for size in SIZES:
        case = f"{size // KiB} KiB"
        rows += interleave(GROUP, case, contestants(), options, quantities, size=size, seconds=options.seconds)
    return rows
