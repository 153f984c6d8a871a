"""A seeded network simulator that drives the engine itself, on virtual time (docs/how-to/simulate.md).

:func:`play` runs one plan from one seed: links with latency, jitter, rate, queue, MTU, loss, reordering, duplicates,
damage and blackholes, sessions with traffic over them, invariants after every step. The same plan and seed give the
same run, bit for bit. ``phantom simulate`` runs many.
"""

from phantom.testing.simulator.errors import InvariantViolationError
from phantom.testing.simulator.links import DatagramLink, Link, PipeLink
from phantom.testing.simulator.plan import Flow, Plan, load_plan, plan_from
from phantom.testing.simulator.world import Outcome, Sample, World, play
from phantom.testing.virtual_time import VirtualTime

__all__ = [
    "DatagramLink",
    "Flow",
    "InvariantViolationError",
    "Link",
    "Outcome",
    "PipeLink",
    "Plan",
    "Sample",
    "VirtualTime",
    "World",
    "load_plan",
    "plan_from",
    "play",
]
