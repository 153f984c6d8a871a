"""Pairs of processes on 127.0.0.1, clocks, rounds that interleave all rows, and the statistics over them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import resource
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
TO_ANCHOR = " to anchor"
PAIR_TIMEOUT = 60.0  # s; a pair that takes longer hangs

Sample = dict[str, float]
Reported = Callable[[str], None]  # the server end says where it listens


class Unavailable(Exception):  # noqa: N818 - not a failure: the row is skipped, loudly
    """This machine lacks what a row needs; the text says what."""


@dataclass(slots=True)
class Options:
    """What the command line decides: rounds of everything, seconds of one transfer, and whether this is only a try."""

    rounds: int = 9
    seconds: float = 0.4
    quick: bool = False


@dataclass(slots=True)
class Row:
    """One line of a table. ``values``: for each quantity one number a round; ``skipped``: why there is none."""

    group: str
    case: str
    name: str
    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: str = ""

    def median(self, quantity: str) -> float | None:
        """The median over the rounds; None if it was not measured."""
        found = self.values.get(quantity)
        return statistics.median(found) if found else None

    def spread(self, quantity: str) -> float | None:
        """Half the distance between the quartiles, as a share of the median."""
        found = self.values.get(quantity)
        if not found or len(found) < 3:
            return None
        middle = statistics.median(found)
        low, _, high = statistics.quantiles(found, n=4, method="inclusive")
        return (high - low) / 2 / middle if middle else None

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        medians = {name: _rounded(statistics.median(values)) for name, values in self.values.items() if values}
        spreads = {name: self.spread(name) for name in medians}
        return {
            "group": self.group,
            "case": self.case,
            "name": self.name,
            "median": medians,
            "spread": {name: None if spread is None else _rounded(spread) for name, spread in spreads.items()},
            "rounds": {name: [_rounded(value) for value in values] for name, values in self.values.items()},
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of a table of process pairs.

    ``server(reported, **arguments)`` and ``client(address, **arguments)`` are named ``module:function`` within
    ``benchmarks.peers`` and imported in their process only: what one peer does to its process on import (Phantom tunes
    the allocator) must not reach another.
    """

    name: str
    server: str
    client: str
    arguments: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


# --- clocks -----------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """User and system time of this process (getrusage)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """What one end moved, in how much time and CPU, from :meth:`start` to :meth:`stop`."""

    __slots__ = ("_cpu", "_faults", "_wall", "payload")

    def __init__(self) -> None:
        self.payload = 0
        self.start()

    def start(self) -> None:
        """The measured part begins."""
        self._faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self._cpu = cpu_seconds()
        self._wall = time.perf_counter()

    def stop(self, **more: float) -> Sample:
        """The measured part ends; ``more`` is what else this end knows."""
        wall = time.perf_counter() - self._wall
        cpu = cpu_seconds() - self._cpu
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._faults
        return {"bytes": float(self.payload), "seconds": wall, "cpu": cpu, "faults": float(faults), **more}


def cpu_per_call(call: Callable[[], object], seconds: float) -> float:
    """CPU microseconds of one call, over at least ``seconds``."""
    call()
    count = 1
    while True:
        begun = time.process_time()
        for _ in range(count):
            call()
        used = time.process_time() - begun
        if used >= seconds:
            return used / count * 1e6
        count = max(count * 2, int(count * seconds / max(used, 1e-6)))


# --- pairs of processes -----------------------------------------------------------------------------------------------


def run_pair(server: str, client: str, arguments: dict[str, Any]) -> tuple[Sample, Sample]:
    """Both ends as processes of their own, forked from this one; what they measured. RuntimeError if one failed."""
    server_pid, server_pipe = _fork(lambda reported: _end(server)(reported, **arguments))
    processes, pipes = [server_pid], [server_pipe]
    try:
        with _deadline(PAIR_TIMEOUT):
            address = _line(server_pipe)["address"]
            client_pid, client_pipe = _fork(lambda _: _end(client)(address, **arguments))
            processes.append(client_pid)
            pipes.append(client_pipe)
            sent = _line(client_pipe)
            received = _line(server_pipe)
    except BaseException:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    finally:
        for pipe in pipes:
            os.close(pipe)
        for pid in processes:
            os.waitpid(pid, 0)
    return received, sent


def run_alone(work: str, **arguments: Any) -> dict[str, Any]:
    """``benchmarks.groups`` function ``module:function`` in a process of its own; what it returns, through JSON."""
    pid, pipe = _fork(lambda _: _resolve("groups", work)(**arguments))
    try:
        return _line(pipe)
    finally:
        os.close(pipe)
        os.waitpid(pid, 0)


def _resolve(room: str, name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"benchmarks.{room}.{module}"), function)
    return found


def _end(name: str) -> Callable[..., Sample]:
    return _resolve("peers", name)


def _fork(end: Callable[[Reported], dict[str, Any]]) -> tuple[int, int]:
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        gc.collect()

        def tell(what: dict[str, Any]) -> None:
            os.write(writing, json.dumps(what).encode() + b"\n")

        tell(end(lambda address: tell({"address": address})))
        status = 0
    except BaseException:  # noqa: BLE001 - the child ends here whatever happens
        os.write(writing, json.dumps({"failed": traceback.format_exc()}).encode() + b"\n")
    finally:
        os._exit(status)


def _line(pipe: int) -> dict[str, Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(pipe, 1)
        if not byte:
            raise RuntimeError("a process of the pair ended without a word")
        line += byte
    told: dict[str, Any] = json.loads(line)
    if "failed" in told:
        raise RuntimeError(told["failed"])
    return told


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def expired(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"a pair of processes did not finish within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- tables -----------------------------------------------------------------------------------------------------------


def interleave(
    group: str,
    case: str,
    contestants: Iterable[Contestant],
    options: Options,
    quantities: Callable[[Sample, Sample], dict[str, float]],
    **arguments: Any,
) -> list[Row]:
    """Round after round, every contestant once; what each made of it, and its ratio to the first one in that round.

    ``quantities(received, sent)`` turns the two samples of a pair into the numbers of a row. A quantity ``x`` gets a
    companion ``x to anchor``: the number of that round divided by the anchor's of the same round.
    """
    field_of_play = list(contestants)
    anchor = field_of_play[0].name
    rows = {one.name: Row(group, case, one.name, skipped=one.skipped) for one in field_of_play}
    for number in range(options.rounds):
        baseline: dict[str, float] = {}
        for one in field_of_play:
            row = rows[one.name]
            if row.skipped:
                continue
            try:
                received, sent = run_pair(one.server, one.client, {**arguments, **one.arguments})
                found = quantities(received, sent)
            except (RuntimeError, TimeoutError) as error:
                row.skipped = f"failed in round {number + 1}: {str(error).strip().splitlines()[-1]}"
                print(f"  {case} {one.name}: {error}", file=sys.stderr)
                continue
            if one.name == anchor:
                baseline = found
            for name, value in found.items():
                row.values.setdefault(name, []).append(value)
                if baseline.get(name):
                    row.values.setdefault(name + TO_ANCHOR, []).append(value / baseline[name])
    for row in rows.values():
        announce(row)
    return list(rows.values())


def missing(module: str) -> str:
    """Why a row that needs ``module`` is skipped; empty if it is there."""
    return "" if importlib.util.find_spec(module) is not None else f"{module} is not installed"


def announce(row: Row) -> None:
    """One line on the terminal as soon as a row is known."""
    if row.skipped:
        print(f"  {row.case:12s} {row.name:44s} SKIPPED: {row.skipped}", flush=True)
        return
    shown = "  ".join(
        f"{name} {number(row.median(name))}" + (f" ({number(row.median(ratio))}×)" if ratio in row.values else "")
        for name in row.values
        if not name.endswith(TO_ANCHOR)
        for ratio in (name + TO_ANCHOR,)
    )
    print(f"  {row.case:12s} {row.name:44s} {shown}", flush=True)


def number(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"
