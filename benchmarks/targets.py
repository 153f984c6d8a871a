"""What is promised, beside what was measured. The numbers in front are the rows of the project's table of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.groups import bulk, gate, handshake, memory, quic, rust, small
from benchmarks.harness import TO_ANCHOR, Row

__all__ = ["Outcome", "Rows", "judge"]

_RATE, _CPU = "MiB/s", "CPU s/GiB"
_SENDER, _RECEIVER = "sender CPU s/GiB", "receiver CPU s/GiB"


class Rows:
    """The rows of a run, by group, case and name."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = {(row.group, row.case, row.name): row for row in rows}

    def median(self, group: str, case: str, name: str, quantity: str) -> float | None:
        """A median; None if that row was not measured."""
        row = self._rows.get((group, case, name))
        return row.median(quantity) if row is not None else None

    def over(self, case: str, name: str, other: str, quantity: str) -> float | None:
        """Median over the rounds of ``name``'s bulk quantity divided by that of ``other`` in the same round."""
        one, two = self._rows.get((bulk.GROUP, case, name)), self._rows.get((bulk.GROUP, case, other))
        if one is None or two is None:
            return None
        pairs = zip(one.values.get(quantity, ()), two.values.get(quantity, ()), strict=False)
        ratios = Row("", "", "", {"ratio": [a / b for a, b in pairs]})
        return ratios.median("ratio")


@dataclass(frozen=True, slots=True)
class Target:
    """``least``: the value must not be lower; otherwise it must not be higher."""

    number: str
    text: str
    bound: float
    least: bool
    value: Callable[[Rows], float | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and what became of it; ``met`` is None when it was not measured."""

    number: str
    text: str
    bound: str
    value: float | None
    met: bool | None


def _to_c(case: str, name: str, quantity: str) -> Callable[[Rows], float | None]:
    return lambda rows: rows.median(bulk.GROUP, case, name, quantity + TO_ANCHOR)


def _against(peer: str, ours: str, case: str = "64 KiB", quantity: str = _RATE) -> Callable[[Rows], float | None]:
    """How many times better than a peer: its CPU over ours, or our rate over its."""
    if quantity == _RATE:
        return lambda rows: rows.over(case, ours, peer, quantity)
    return lambda rows: rows.over(case, peer, ours, quantity)


def _thousands(name: str) -> Callable[[Rows], float | None]:
    return lambda rows: rows.median(gate.GROUP, gate.CASE, name, "k/s")


def _quic(name: str) -> Callable[[Rows], float | None]:
    return lambda rows: rows.median(quic.GROUP, quic.CASE, name, _CPU + TO_ANCHOR)


def _handshake(side: str) -> Callable[[Rows], float | None]:
    return lambda rows: rows.median(handshake.GROUP, handshake.ENGINE, side, "ratio")


def _to_crate(case: str, name: str, quantity: str) -> Callable[[Rows], float | None]:
    return lambda rows: rows.median(rust.GROUP, case, name, quantity + TO_ANCHOR)


def _compared(number: str, factor: float, peer: str, ours: str) -> list[Target]:
    return [
        Target(number, f"64 KiB, {ours}: times the rate of {peer}", factor, True, _against(peer, ours)),
        Target(
            number, f"64 KiB, {ours}: {peer} needs times its CPU", factor, True, _against(peer, ours, quantity=_CPU)
        ),
    ]


TARGETS = [
    Target("1", "64 KiB, Phantom, blocking: rate, C = 1", 0.85, True, _to_c("64 KiB", bulk.BLOCKING, _RATE)),
    Target("1", "64 KiB, Phantom, asyncio: rate, C = 1", 0.80, True, _to_c("64 KiB", bulk.ASYNCIO, _RATE)),
    Target("2", "16 KiB, Phantom, asyncio: rate, C = 1", 0.80, True, _to_c("16 KiB", bulk.ASYNCIO, _RATE)),
    Target(
        "2",
        "16 KiB, Phantom, asyncio: times the rate of C with one frame per write",
        1.0,
        True,
        _against(bulk.C_SINGLE, bulk.ASYNCIO, "16 KiB"),
    ),
    *(
        Target("3", f"{case}, Phantom, asyncio: {side} CPU, C = 1", bound, False, _to_c(case, bulk.ASYNCIO, quantity))
        for case, bound in (("64 KiB", 1.25), ("16 KiB", 1.45))
        for side, quantity in (("sender", _SENDER), ("receiver", _RECEIVER))
    ),
    *_compared("4", 1.4, bulk.TLS_BLOCKING, bulk.BLOCKING),
    *_compared("4", 2.0, bulk.TLS_STREAMS, bulk.ASYNCIO),
    *_compared("4", 2.0, bulk.TLS_PROTOCOL, bulk.ASYNCIO),
    *_compared("4", 1.1, bulk.TLS_UVLOOP, bulk.UVLOOP),
    *_compared("4", 1.0, bulk.TLS_FAST, bulk.UVLOOP),
    Target(
        "5",
        "64 KiB, Phantom, asyncio: share of the rate of asyncio TCP without crypto",
        0.40,
        True,
        _against(bulk.RAW_ASYNCIO, bulk.ASYNCIO),
    ),
    Target("10", "gate: k/s of hellos with a valid cookie", 300, True, _thousands(gate.VALID)),
    Target("10", "gate: k/s of junk", 1000, True, _thousands(gate.JUNK)),
    *(
        Target("10", f"handshake, {side}: CPU, sum of its primitives = 1", 1.2, False, _handshake(side))
        for side in (handshake.CLIENT, handshake.SERVER)
    ),
    Target(
        "11",
        "KiB of resident memory of an idle session, server of 5000",
        10,
        False,
        lambda rows: rows.median(memory.GROUP, memory.case(5000), memory.PHANTOM, memory.SERVER),
    ),
    Target(
        "11",
        "KiB of resident memory of an idle session, server of 10000",
        12,
        False,
        lambda rows: rows.median(memory.GROUP, memory.case(10000), memory.PHANTOM, memory.SERVER),
    ),
    *(
        Target(
            "11",
            f"bulk over QUIC: {name} needs times the CPU of Phantom, asyncio",
            factor,
            True,
            _quic(name),
        )
        for name, factor in ((quic.QH3, 20), (quic.AIOQUIC, 50))
    ),
    *(
        Target("crate", f"{case}, {name}: {quantity}, Rust crate = 1", bound, least, _to_crate(case, name, quantity))
        for case, name, quantity, bound, least in (
            (rust.BULK, bulk.ASYNCIO, _RATE, 10, True),
            (rust.BULK, bulk.ASYNCIO, _CPU, 0.10, False),
            (rust.ONE_WAY, bulk.ASYNCIO, "k msg/s", 4, True),
            (rust.PING_PONG, bulk.ASYNCIO, "p50 µs", 1.6, False),
            (rust.PING_PONG, bulk.UVLOOP, "p50 µs", 1.3, False),
            (rust.CONNECT, bulk.ASYNCIO, "client CPU µs", 1.0, False),
            (rust.CONNECT, bulk.ASYNCIO, "server CPU µs", 1.0, False),
            (rust.idle_case(1000), bulk.ASYNCIO, "server KiB", 0.3, False),
            (rust.idle_case(1000), bulk.ASYNCIO, "server CPU %", 0.02, False),
        )
    ),
    Target(
        "",
        "64 B one way, Phantom, asyncio: k msg/s",
        500,
        True,
        lambda rows: rows.median(small.ONE_WAY, "64 B", bulk.ASYNCIO, "k msg/s"),
    ),
]


def judge(rows: list[Row]) -> list[Outcome]:
    """Every target against this run."""
    measured, outcomes = Rows(rows), []
    for target in TARGETS:
        value = target.value(measured)
        met = None if value is None else (value >= target.bound if target.least else value <= target.bound)
        bound = f"{'≥' if target.least else '≤'} {target.bound:g}"
        outcomes.append(Outcome(target.number, target.text, bound, value, met))
    return outcomes
