"""``phantom simulate``: plans of the network simulator on all cores (surface §7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from phantom.cli.failures import UsageError, as_usage
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.testing.simulator import Outcome, Plan, load_plan, play
from phantom.testing.simulator.plans import PLANS, long_plans, short_plans
from phantom.testing.simulator.plot import draw
from phantom.testing.simulator.runner import Summary, cores, parse_seeds, run_all, summarise

__all__ = ["simulate"]

_GROUPS = {"all": short_plans, "long": long_plans}
_SHOWN_FAILURES = 3  # of a plan


def simulate(
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan", help="A plan by name or TOML file; all (the default) or long for those that come along."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="One seed, or a range A-B with both ends.")] = "1-20",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes at once; 0 for all cores.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the first seed of each plan as SVG into this folder.")
    ] = None,
    list_plans: Annotated[bool, typer.Option("--list", help="Show the plans that come along, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Play sessions over simulated networks, from seeds.

    Every seed is another network and another run, and each is checked after every step. A seed that fails is played
    again to show that it repeats, and the command that plays it alone is printed.
    """
    screen = Screen(as_json=as_json)
    if list_plans:
        screen.result(
            {"plans": [{"name": one.name, "summary": one.summary, "long": one.long} for one in PLANS.values()]},
            *(f"{one.name:<32} {one.summary}" for one in PLANS.values()),
        )
        return
    with as_usage():
        names = plan or ["all"]
        plans = [found for name in names for found in _find(name)]
        wanted = parse_seeds(seeds)
    outcomes = []
    with _progress(screen, len(plans) * len(wanted), jobs) as step:
        for outcome in run_all(plans, wanted, jobs):
            outcomes.append(outcome)
            step(outcome)
    summaries = summarise(plans, outcomes)
    failed = 0
    sources = {found.name: name for name in names for found in _find(name) if name not in _GROUPS}
    for summary in summaries:
        for failure in summary.failures[:_SHOWN_FAILURES]:
            _show_failure(screen, summary.plan, failure, sources.get(summary.plan.name, summary.plan.name))
        failed += len(summary.failures)
    drawn = _draw(plans, wanted[0], plot) if plot is not None else []
    screen.result(
        {
            "seeds": seeds,
            "failed": failed,
            "plans": [_as_value(summary) for summary in summaries],
            "plots": [str(path) for path in drawn],
        },
        *_table(summaries),
        *(f"drawn: {path}" for path in drawn),
    )
    if failed:
        raise typer.Exit(1)


def _find(name: str) -> list[Plan]:
    if name in _GROUPS:
        return _GROUPS[name]()
    if name in PLANS:
        return [PLANS[name]]
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return [load_plan(path)]
    raise UsageError.of(f"there is no plan {name!r}; 'phantom simulate --list' shows those that come along")


@contextmanager
def _progress(screen: Screen, total: int, jobs: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar on a terminal; elsewhere a line for each tenth."""
    if screen.err.is_terminal and not screen.err.is_dumb_terminal and not screen.as_json:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=screen.err, transient=True) as bar:
            task = bar.add_task(f"simulating on {jobs or cores()} cores", total=total)

            def advance(outcome: Outcome) -> None:
                bar.update(task, advance=1, description=outcome.plan)

            yield advance
        return
    done = 0

    def count(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            screen.note(f"{done} of {total} seeds played")

    yield count


def _show_failure(screen: Screen, plan: Plan, outcome: Outcome, source: str) -> None:
    again = play(plan, outcome.seed)
    same = (again.digest, again.failure) == (outcome.digest, outcome.failure)
    screen.note(
        Text.assemble(
            ("failed: ", "bold red"), f"{plan.name}, seed {outcome.seed}: {outcome.invariant}: {outcome.failure}"
        )
    )
    screen.note(f"  replay: phantom simulate --plan {source} --seeds {outcome.seed} --jobs 1")
    screen.note(
        f"  played again: {'the same, bit for bit' if same else 'NOT THE SAME'} (digest {again.digest},"
        f" {again.steps} steps, {again.end:.6f} virtual seconds)"
    )
    if outcome.traceback:
        screen.note(outcome.traceback.rstrip())


def _draw(plans: list[Plan], seed: int, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for plan in plans:
        path = folder / f"{plan.name}-{seed}.svg"
        path.write_text(draw(plan, play(plan, seed)), encoding="utf-8")
        drawn.append(path)
    return drawn


def _table(summaries: list[Summary]) -> list[Text]:
    lines = [
        Text(f"{'plan':<32} {'seeds':>6} {'failed':>6} {'packets':>8} {'goodput':>8} {'steady':>7}  bound by", "bold")
    ]
    for summary in summaries:
        failed = len(summary.failures)
        rated = summary.plan.capacity < float("inf") and summary.plan.flows and summary.goodput
        shares = f"{summary.goodput:>8.0%} {summary.steady:>7.0%}" if rated else f"{'-':>8} {'-':>7}"
        lines.append(
            Text.assemble(
                f"{summary.plan.name:<32} {len(summary.outcomes):>6} ",
                (f"{failed:>6}", "bold red" if failed else ""),
                f" {summary.packets:>8} {shares}  {summary.bound}",
            )
        )
    return lines


def _as_value(summary: Summary) -> dict[str, object]:
    return {
        "name": summary.plan.name,
        "seeds": len(summary.outcomes),
        "goodput": round(summary.goodput, 4),
        "steady": round(summary.steady, 4),
        "bound": summary.bound,
        "packets": summary.packets,
        "failures": [
            {"seed": one.seed, "invariant": one.invariant, "text": one.failure, "digest": one.digest}
            for one in summary.failures
        ],
    }
