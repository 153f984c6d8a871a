"""Many seeds of many plans, on all cores; a failing one is played again to see that it repeats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

from phantom.errors import ConfigError
from phantom.testing.simulator.plan import Plan
from phantom.testing.simulator.world import Outcome, play

__all__ = ["Summary", "cores", "parse_seeds", "run_all", "summarise"]

_BATCH_MOST = 32  # seeds in one task of a worker


def cores() -> int:
    """How many processes can work at once here."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def parse_seeds(text: str) -> range:
    """``7`` or ``1-200``, both ends included. ConfigError for anything else."""
    first, dash, last = text.partition("-")
    try:
        seeds = range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        raise ConfigError(f"seeds are a number or a range such as 1-200, not {text!r}") from error
    if not seeds:
        raise ConfigError(f"no seeds in {text!r}")
    return seeds


def run_all(plans: Sequence[Plan], seeds: Iterable[int], jobs: int = 0, *, samples: bool = False) -> Iterator[Outcome]:
    """Plays every seed of every plan, in ``jobs`` processes (0: all cores); outcomes come as they are ready.

    ``samples`` False drops what a plot needs, except of the first seed of a plan.
    """
    tasks = [(plan, seed) for plan in plans for seed in seeds]
    jobs = min(jobs or cores(), len(tasks))
    size = max(1, min(_BATCH_MOST, len(tasks) // (4 * max(1, jobs))))
    batches = [tasks[at : at + size] for at in range(0, len(tasks), size)]
    if jobs <= 1:
        for batch in batches:
            yield from _play_batch(batch, samples)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting: list[Future[list[Outcome]]] = [pool.submit(_play_batch, batch, samples) for batch in batches]
        try:
            for done in as_completed(waiting):
                yield from done.result()
        finally:
            for future in waiting:
                future.cancel()


def _play_batch(tasks: Sequence[tuple[Plan, int]], samples: bool) -> list[Outcome]:
    outcomes = []
    for plan, seed in tasks:
        outcome = play(plan, seed)
        outcomes.append(outcome if samples else replace(outcome, samples=[]))
    return outcomes


@dataclass(slots=True)
class Summary:
    """All outcomes of one plan."""

    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        """Those that failed, lowest seed first."""
        return sorted((one for one in self.outcomes if not one.ok), key=lambda one: one.seed)

    @property
    def goodput(self) -> float:
        """Mean share of the link's capacity over the whole transfer, of the seeds that held."""
        return _mean([one.goodput for one in self.outcomes if one.ok])

    @property
    def steady(self) -> float:
        """The same over the last three quarters of the bytes."""
        return _mean([one.steady for one in self.outcomes if one.ok])

    @property
    def packets(self) -> int:
        """The most packets that a seed took."""
        return max((one.packets for one in self.outcomes), default=0)

    @property
    def bound(self) -> str:
        """What most often kept the sender from sending more."""
        bounds = [one.bound for one in self.outcomes if one.ok]
        return max(sorted(set(bounds)), key=bounds.count) if bounds else ""


def summarise(plans: Sequence[Plan], outcomes: Iterable[Outcome]) -> list[Summary]:
    """Outcomes by plan, in the order of ``plans``."""
    summaries = {plan.name: Summary(plan) for plan in plans}
    for outcome in outcomes:
        summaries[outcome.plan].outcomes.append(outcome)
    return list(summaries.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
