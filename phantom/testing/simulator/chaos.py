"""Plans that a seed draws whole: links, traffic, settings. For finding what nobody thought of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from phantom.testing.simulator.links import Link
from phantom.testing.simulator.plan import Flow, Plan

__all__ = ["drawn"]

T = TypeVar("T")


def drawn(name: str, seed: int) -> Plan:
    """The plan of ``seed``: hostile, and still one that must come to its end. Small, as many are to be played."""
    return _Draw(random.Random(seed ^ 0xC4A05)).plan(name)


class _Draw:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pipe = self._sometimes(0.3)
        self._version = 1 if self._pipe and self._sometimes(0.3) else 2

    def _sometimes(self, share: float) -> bool:
        return self._rng.random() < share

    def _one(self, *choices: T) -> T:
        return self._rng.choice(choices)

    def plan(self, name: str) -> Plan:
        up = self._link()
        down = self._link() if self._sometimes(0.3) else up
        if up.rate and down.rate and not 0.02 < up.rate / down.rate < 50:
            down = up
        return Plan(
            name,
            transport="pipe" if self._pipe else "datagram",
            version=self._version,
            up=up,
            down=down,
            flows=self._flows(min(up.rate or 1000, down.rate or 1000) < 1),
            sessions=self._one(1, 1, 1, 2),
            duration=4000.0,
            settings=self._settings(),
            guards=self._guards(),
            rekey=0.0 if self._version == 1 else self._one(0.0, 0.0, 20.0, 60.0),
            memory=self._one(2 << 20, 256 << 20),
        )

    def _link(self) -> Link:
        one, pipe = self._one, self._pipe
        hole = self._sometimes(0.25)
        return Link(
            rate=one(0.0, 0.2, 1.0, 5.0, 20.0, 100.0, 1000.0),
            latency=one(0.0, 0.0002, 0.005, 0.03, 0.1, 0.5),
            jitter=one(0.0, 0.0, 0.001, 0.02),
            queue=one(5_000, 20_000, 100_000, 1 << 20),
            loss=one(0.0, 0.0, 0.01, 0.05, 0.2, 0.35),
            burst=1.0 if pipe else one(1.0, 1.0, 2.0, 5.0),
            duplicate=0.0 if pipe else one(0.0, 0.0, 0.05, 0.3),
            corrupt=0.0 if pipe else one(0.0, 0.0, 0.02, 0.15),
            reorder=0.0 if pipe else one(0.0, 0.0, 0.05, 0.4),
            reorder_delay=one(0.001, 0.02, 0.2),
            up=one(3.0, 5.0),
            down=one(0.1, 1.0, 2.3) if hole else 0.0,
        )

    def _flows(self, slow: bool) -> tuple[Flow, ...]:
        flows: list[Flow] = []
        taken: set[str] = set()  # messages have no sender's name on them: one flow a direction
        for _ in range(self._rng.randint(1, 4)):
            flow = self._flow(slow)
            ways = {"client", "server"} if flow.sender == "both" else {flow.sender}
            if flow.kind == "messages":
                if taken & ways:
                    continue
                taken |= ways
            flows.append(flow)
        return tuple(flows)

    def _flow(self, slow: bool) -> Flow:
        one = self._one
        kind = one("messages", "streams", "streams", "unreliable")
        sizes: Sequence[int] = (1, 50, 1000, 1126, 1127, 5000, 30_000)
        size = self._rng.choice((50, 1000, 1122, 5000, 30_000, 100_000) if kind == "messages" else sizes)
        total = 3_000 if size <= 50 else 30_000 if slow else one(30_000, 80_000)
        options: dict[str, Any] = {}
        if kind == "streams":
            options = {"streams": one(1, 5, 20), "parallel": one(1, 3, 20)}
            if self._version == 2:
                options |= {"reset": one(0.0, 0.3), "stop": one(0.0, 0.3)}
        if self._sometimes(0.25):
            options |= {"read_on": one(0.1, 1.0), "read_off": one(0.1, 2.0)}
        return Flow(
            kind,
            one("client", "server", "both"),
            total,
            size,
            spread=one(0.0, 0.5, 0.9),
            interval=one(0.0, 0.0, 0.005, 0.02),
            start=one(0.0, 0.0, 0.1, 1.0),
            priority=self._rng.randrange(3),
            read_rate=one(0.0, 0.0, 0.0, 50_000.0, 1e6),
            **options,
        )

    def _settings(self) -> dict[str, Any]:
        choices: dict[str, tuple[Any, ...]] = {
            "recv_window": (65_536, 200_000, 1 << 20),
            "recv_segments": (32, 64, 500),
            "send_segments": (32, 100),
            "max_streams": (2, 8),
            "keepalive_interval": (0.5, 5.0),
        }
        if self._version == 2:
            choices |= {"padding": ("pade",), "jitter": (0.001, 0.03), "cover_interval": (0.05, 0.5)}
        settings = {name: self._rng.choice(values) for name, values in choices.items() if self._sometimes(0.25)}
        settings["session_timeout"] = 200.0  # half of the PINGs of a Suspended path may come to nothing
        if self._pipe:
            settings |= {"bulk_chunk": self._one(1024, 4096, 65_536), "silence_floor": 60.0}
        return settings

    def _guards(self) -> dict[str, Any]:
        if self._version == 1:
            return {}
        choices: dict[str, tuple[int, ...]] = {
            "soft_seals": (200, 500),
            "sequence_watermark": (100, 300),
            "max_replay_streams": (16, 40),
        }
        return {name: self._rng.choice(values) for name, values in choices.items() if self._sometimes(0.15)}
