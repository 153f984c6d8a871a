"""Bulk goodput of the QUIC implementations that a Python user could take, beside Phantom over TCP."""

from __future__ import annotations

from benchmarks.groups.bulk import ASYNCIO, quantities
from benchmarks.harness import Contestant, KiB, MiB, Options, Row, interleave, missing
from benchmarks.peers import sockets

GROUP, CASE = "quic", "64 KiB writes"
QH3, AIOQUIC = "qh3, asyncio", "aioquic, asyncio"


def measure(options: Options) -> list[Row]:
    """One stream each; QUIC sends a fixed amount, for it would otherwise queue without end."""
    sockets.certificate()  # before anything forks
    ends = ("quic:server", "quic:client")
    contestants = [
        Contestant(ASYNCIO, "session:server", "session:client"),
        *(
            Contestant(name, *ends, {"library": library}, missing(library))
            for name, library in ((QH3, "qh3"), (AIOQUIC, "aioquic"))
        ),
    ]
    amount = MiB if options.quick else 8 * MiB
    return interleave(
        GROUP, CASE, contestants, options, quantities, size=64 * KiB, seconds=options.seconds, amount=amount
    )
