"""A plan: links, traffic and expectations of a simulation, as data. Files are TOML with the fields of these classes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from phantom.errors import ConfigError
from phantom.testing.simulator.links import Link

__all__ = ["Flow", "Plan", "load_plan", "plan_from"]

T = TypeVar("T")

_KINDS = ("messages", "streams", "unreliable")
_SENDERS = ("client", "server", "both")
_TRANSPORTS = ("datagram", "pipe")


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of traffic in every session of a plan.

    ``kind``: ``messages`` of stream 1, ``streams`` (bytes on streams that ``sender`` opens) or ``unreliable`` (chunks
    on such a stream). ``total`` bytes in writes of ``size`` bytes, up to ``spread`` more or less, one each
    ``interval`` seconds (0: as fast as they are taken), from ``start`` seconds on. ``streams`` are opened ``parallel``
    at a time, each carrying ``total / streams`` bytes at ``priority``; a share ``reset`` of them is reset by the
    writer on the way and a share ``stop`` stopped by the reader. The reader takes ``read_rate`` bytes a second (0: all
    at once) and pauses ``read_off`` seconds after each ``read_on``.
    """

    kind: str = "messages"
    sender: str = "client"
    total: int = 1_000_000
    size: int = 65_536
    spread: float = 0.0
    interval: float = 0.0
    start: float = 0.0
    streams: int = 1
    parallel: int = 1
    priority: int = 0
    reset: float = 0.0
    stop: float = 0.0
    read_rate: float = 0.0
    read_on: float = 0.0
    read_off: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or self.sender not in _SENDERS:
            raise ConfigError(f"a flow's kind is one of {', '.join(_KINDS)}, its sender one of {', '.join(_SENDERS)}")
        if self.total < 0 or self.size < 1 or self.streams < 1 or self.parallel < 1:
            raise ConfigError("a flow has bytes to send, in writes of at least one byte, on at least one stream")
        if not 0 <= self.spread < 1 or not 0 <= self.reset <= 1 or not 0 <= self.stop <= 1:
            raise ConfigError("a flow's spread, reset and stop are shares")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one simulation does, and what it must come to.

    ``up`` is the link from the client, ``down`` the one to it. ``handshakes`` counts handshakes to be done first, each
    over links of its own (``sessions`` = 0: nothing else). ``sessions`` run side by side over the same two links.
    ``duration`` bounds virtual seconds; every flow must be through by then if ``complete``. ``aead`` is ``null`` or a
    suite, ``version`` that of the packets (1: on a pipe, without rekeys and resets). ``rekey`` seconds pass between
    rekeys, by turns at either end (0: none); ``settings`` are fields of SessionSettings, ``guards`` of
    ProtectionLimits, ``client`` and ``server`` further settings of one end. ``memory`` is RECV_MEMORY of each end in
    bytes. ``idle`` seconds pass after the flows without traffic of the application, with memory watched. ``goodput`` is
    the share of the link's capacity that must at least be reached, ``cut`` seconds after which the link dies for good
    (0: never). ``drawn``: the seed draws everything but the name (:mod:`.chaos`).
    """

    name: str
    summary: str = ""
    transport: str = "datagram"
    up: Link = field(default_factory=Link)
    down: Link = field(default_factory=Link)
    flows: tuple[Flow, ...] = ()
    handshakes: int = 0
    sessions: int = 1
    duration: float = 60.0
    complete: bool = True
    aead: str = "null"
    version: int = 2
    rekey: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    guards: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 256 * 1024 * 1024
    idle: float = 0.0
    goodput: float = 0.0
    long: bool = False
    drawn: bool = False
    cut: float = 0.0

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a plan has a name")
        if self.transport not in _TRANSPORTS:
            raise ConfigError(f"a plan's transport is one of {', '.join(_TRANSPORTS)}, not {self.transport!r}")
        if self.aead not in ("null", "aes-256-gcm", "chacha20-poly1305"):
            raise ConfigError(f"a plan's aead is null, aes-256-gcm or chacha20-poly1305, not {self.aead!r}")
        if self.version not in (1, 2) or (self.version == 1 and (self.transport != "pipe" or self.rekey)):
            raise ConfigError("a plan's version is 2, or 1 on a pipe without rekeys")
        if self.duration <= 0 or self.sessions < 0 or self.handshakes < 0:
            raise ConfigError("a plan lasts some time and counts nothing below zero")

    @property
    def capacity(self) -> float:
        """Bytes a second of the directions that flows use, together; infinity if one is unlimited."""
        senders = {flow.sender for flow in self.flows}
        up = self.up.bytes_per_second if senders != {"server"} else 0.0
        return up + (self.down.bytes_per_second if senders != {"client"} else 0.0)


def plan_from(table: Mapping[str, Any]) -> Plan:
    """The plan of a parsed file. ConfigError names what does not belong there.

    ``link`` holds for both directions; ``up`` and ``down`` change single fields of it. ``flows`` is a list of tables.
    """
    entries = dict(table)
    both = entries.pop("link", {})
    for side in ("up", "down"):
        entries[side] = _made(Link, {**_table(both, "link"), **_table(entries.get(side, {}), side)}, side)
    flows = entries.pop("flows", ())
    if not isinstance(flows, list | tuple):
        raise ConfigError("a plan's flows are a list of tables")
    entries["flows"] = tuple(_made(Flow, _table(flow, "flows"), "flows") for flow in flows)
    return _made(Plan, entries, "the plan")


def load_plan(path: Path) -> Plan:
    """Reads a plan from a TOML file. ConfigError if it cannot be read or is none."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the plan {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    table.setdefault("name", path.stem)
    return plan_from(table)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is a table, not {type(value).__name__}")
    return value


def _made(kind: type[T], entries: Mapping[str, Any], where: str) -> T:
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]  # they are all dataclasses
    unknown = sorted(set(entries) - known)
    if unknown:
        raise ConfigError(f"{where} has no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    try:
        return kind(**entries)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
