"""One run as a picture: goodput, windows, round trip and queue over virtual time, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from phantom.testing.simulator.plan import Plan
from phantom.testing.simulator.world import Outcome

__all__ = ["Panel", "draw", "panels"]

_WIDTH: Final = 960
_HEIGHT: Final = 190  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 30, 26
_COLOURS: Final = ("#0b6e99", "#c4572c", "#4c8c4a")
_TICKS: Final = 4
_STYLE: Final = 'font-family="sans-serif" font-size="12" fill="#222"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: ``lines`` are (name, values) over the common times; ``level`` a dashed line at a value, by name."""

    title: str
    unit: str
    lines: tuple[tuple[str, tuple[float, ...]], ...]
    level: tuple[str, float] | None = None


def panels(plan: Plan, outcome: Outcome) -> list[Panel]:
    """What is drawn of an outcome."""
    samples = outcome.samples
    capacity = plan.capacity
    return [
        Panel(
            "goodput",
            "Mbit/s",
            (("goodput", tuple(one.goodput / 125_000 for one in samples)),),
            ("capacity", capacity / 125_000) if capacity < float("inf") else None,
        ),
        Panel(
            "window",
            "KiB",
            (
                ("congestion window", tuple(one.window / 1024 for one in samples)),
                ("outstanding", tuple(one.flight / 1024 for one in samples)),
            ),
        ),
        Panel(
            "round trip",
            "ms",
            (("smoothed RTT", tuple(one.rtt * 1000 for one in samples)),),
            ("of the link", (plan.up.latency + plan.down.latency) * 1000),
        ),
        Panel("queue of the link", "KiB", (("queue", tuple(one.queue / 1024 for one in samples)),)),
    ]


def draw(plan: Plan, outcome: Outcome) -> str:
    """The SVG document."""
    times = [one.time for one in outcome.samples]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{4 * _HEIGHT + 40}" {_STYLE}>',
        f'<rect width="{_WIDTH}" height="{4 * _HEIGHT + 40}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="20" font-size="15" font-weight="bold">{escape(plan.name)}, seed {outcome.seed}</text>',
        f'<text x="{_LEFT}" y="36" fill="#666">{escape(plan.summary)}</text>',
    ]
    for place, panel in enumerate(panels(plan, outcome)):
        parts += _panel(panel, times, 40 + place * _HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, times: Sequence[float], top: int) -> list[str]:
    last = max(times, default=0.0) or 1.0
    values = [value for _, line in panel.lines for value in line]
    highest = max([*values, panel.level[1] if panel.level else 0.0]) * 1.05 or 1.0
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    bottom = top + _TOP + height

    def x(time: float) -> float:
        return _LEFT + width * time / last

    def y(value: float) -> float:
        return bottom - height * value / highest

    parts = [f'<text x="{_LEFT}" y="{top + 20}" font-weight="bold">{escape(panel.title)} [{escape(panel.unit)}]</text>']
    for tick in range(_TICKS + 1):
        value, time = highest * tick / _TICKS, last * tick / _TICKS
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}h{width}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
            f'<text x="{x(time):.1f}" y="{bottom + 16}" text-anchor="middle">{time:.4g} s</text>'
        )
    if panel.level is not None:
        name, value = panel.level
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}h{width}" stroke="#999" stroke-dasharray="5 4"/>'
            f'<text x="{_WIDTH - 20}" y="{y(value) - 4:.1f}" text-anchor="end" fill="#777">{escape(name)}</text>'
        )
    for place, (name, line) in enumerate(panel.lines):
        points = " ".join(f"{x(time):.1f},{y(value):.1f}" for time, value in zip(times, line, strict=True))
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{_LEFT + 170 + 150 * place}" y="{top + 20}" fill="{colour}">{escape(name)}</text>'
        )
    return parts
