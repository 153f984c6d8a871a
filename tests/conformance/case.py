"""The cases: YAML in ``cases/``, checked and unfolded (README.md, "A case")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conformance.content import content, described, many

HERE: Final = Path(__file__).resolve().parent
_STEP_KEYS: Final = {
    "as",
    "start",
    "expect",
    "error",
    "peer_code",
    "reset_code",
    "unless",
    "optional",
    "until",
    "deadline",
}
_LOCAL: Final = {"finish", "cancel"}
_CLIENT_SETUP: Final = (
    {"peer.listen": {}, "as": "listener"},
    {"peer.accept": {"listener": "listener"}, "as": "there", "start": True},
    {"connect": {"target": "$listener.address", "pin": "$listener.fingerprint"}, "as": "here"},
    {"finish": "there"},
)
_SERVER_SETUP: Final = (
    {"listen": {}, "as": "listener"},
    {"accept": {"listener": "listener"}, "as": "here", "start": True},
    {"peer.connect": {"target": "$listener.address", "pin": "$listener.fingerprint"}, "as": "there"},
    {"finish": "here"},
)


class BadCase(Exception):  # noqa: N818 - a mistake in a file of ours
    """A case that cannot be understood."""


@dataclass(frozen=True)
class Step:
    """One command to one end, or ``finish`` or ``cancel`` of one that was started."""

    command: str
    arguments: Any
    on_peer: bool = False
    name: str = ""
    start: bool = False
    expect: Mapping[str, Any] | None = None
    error: int | None = None
    peer_code: int | None = None
    reset_code: int | None = None
    unless: str = ""
    optional: bool = False
    until: bool = False
    deadline: float = 15.0  # s


@dataclass(frozen=True)
class Case:
    """What must hold: steps in order."""

    area: str
    name: str
    steps: tuple[Step, ...]


def load(folder: Path = HERE / "cases") -> list[Case]:
    """All cases, in the order of the files and of their text."""
    found: list[Case] = []
    for path in sorted(folder.glob("*.yaml")):
        document = yaml.safe_load(path.read_text("utf-8"))
        for entry in document["cases"]:
            found += _unfold(document["area"], entry)
    names = [case.name for case in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadCase(f"two cases are called {', '.join(sorted(twice))}")
    return found


def _unfold(area: str, entry: dict[str, Any]) -> list[Case]:
    """One case for each role, with the steps that make a pair of sessions before its own."""
    known = {"name", "roles", "steps", "listen", "connect"}
    if set(entry) - known:
        raise BadCase(f"{entry.get('name')}: unknown keys {sorted(set(entry) - known)}")
    own = [_step(entry["name"], step) for step in entry["steps"]]
    roles = entry.get("roles")
    if roles is None:
        return [Case(area, entry["name"], tuple(own))]
    cases = []
    for role in roles:
        setup = []
        for template in {"client": _CLIENT_SETUP, "server": _SERVER_SETUP}[role]:
            step = _step(entry["name"], template)
            if step.command in ("listen", "connect"):
                step.arguments.update(entry.get(step.command, {}))
            setup.append(step)
        cases.append(Case(area, f"{entry['name']} ({role})", (*setup, *own)))
    return cases


def _step(case: str, raw: dict[str, Any]) -> Step:
    commands = [key for key in raw if key not in _STEP_KEYS]
    if len(commands) != 1:
        raise BadCase(f"{case}: a step has one command, not {commands}")
    (command,) = commands
    arguments = raw[command]
    return Step(
        command=command.removeprefix("peer."),
        arguments=arguments if command in _LOCAL else dict(arguments or {}),
        on_peer=command.startswith("peer."),
        name=raw.get("as", ""),
        start=raw.get("start", False),
        expect=raw.get("expect"),
        error=raw.get("error"),
        peer_code=raw.get("peer_code"),
        reset_code=raw.get("reset_code"),
        unless=raw.get("unless", ""),
        optional=raw.get("optional", False),
        until=raw.get("until", False),
        deadline=raw.get("deadline", 15.0),
    )


def filled(value: Any, results: Mapping[str, Mapping[str, Any]]) -> Any:
    """``value`` with ``$name.field`` (anywhere in a text) replaced by results of earlier steps."""
    if isinstance(value, dict):
        return {key: filled(each, results) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, results) for each in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$(\w+)\.(\w+)", value)
    if whole:
        return results[whole[1]][whole[2]]
    return re.sub(r"\$(\w+)\.(\w+)", lambda match: str(results[match[1]][match[2]]), value)


def mismatch(expected: Mapping[str, Any], result: Mapping[str, Any]) -> str | None:
    """What of ``result`` is not as expected; None if all is.

    Beside plain values: ``message: [word, size]``, ``messages: [word, count, size]``, ``text``, and for a field
    ``{min: n}``, ``{max: n}``, ``{length: n}``, ``{matches: pattern}``, ``{one_of: [...]}``, ``{not: value}``.
    """
    wanted = dict(expected)
    if "message" in wanted:
        wanted |= described(content(*wanted.pop("message")))
    if "messages" in wanted:
        wanted |= many(*wanted.pop("messages"))
    if "text" in wanted:
        wanted |= described(wanted.pop("text").encode())
    for field, want in wanted.items():
        if field not in result:
            return f"the result has no {field}"
        if not _fits(want, result[field]):
            return f"{field} is {result[field]!r}, expected {want!r}"
    return None


def _fits(want: Any, value: Any) -> bool:
    if not isinstance(want, dict):
        return bool(type(want) is type(value) and want == value)
    tests = {
        "min": lambda limit: value >= limit,
        "max": lambda limit: value <= limit,
        "length": lambda length: len(value) == length,
        "matches": lambda pattern: re.fullmatch(pattern, value) is not None,
        "one_of": lambda choices: value in choices,
        "not": lambda other: value != other,
    }
    return all(tests[name](limit) for name, limit in want.items())
