"""Draws docs/architecture/states.md from the transition tables; with `--check` it says whether the file is current.

    python -m tools.state_diagrams [--check]

The tables are the code, so the page cannot say anything else. `make generate` writes it and `make check` compares it
with everything else that is generated.
"""

from __future__ import annotations

import enum
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phantom.transport.handshake import initiator, responder
from phantom.transport.session import client_auth, congestion, path_states, states, stream_states

PATH = "docs/architecture/states.md"
PAGE = Path(__file__).resolve().parent.parent / PATH

HEAD = """\
# State machines

Written by `make generate` from the tables that the code runs; do not edit.
What the states mean stands in prose at the head of each module.
"""


@dataclass(frozen=True)
class Machine:
    """One table as rows (state, event, next state, action), with what the page says around it."""

    title: str
    text: str
    first: enum.Enum
    rows: Sequence[tuple[enum.Enum, enum.Enum, enum.Enum, str]]
    also_first: Sequence[enum.Enum] = ()


def machines() -> tuple[Machine, ...]:
    """Every table of this version."""
    return (
        Machine(
            "Initiator",
            "The client's side of the handshake, `phantom/transport/handshake/initiator.py`. A reply that the table "
            "does not name is fatal, and so are a deadline that passes, a check that fails and `Initiator.abort`: all "
            "end in FAILED with the ephemeral keys wiped. The RESUME states belong to resumption, which no caller of "
            "this version asks for.",
            initiator.State.IDLE,
            _with_actions(initiator.TRANSITIONS),
        ),
        Machine(
            "Responder",
            "The server's side on one leg, `phantom/transport/handshake/responder.py`. GATE is never left waiting: its "
            "action names the event that follows. A pair that the table does not name changes nothing.",
            responder.State.AWAIT_FIRST,
            _with_actions(responder.TRANSITIONS),
        ),
        Machine(
            "Session",
            "An established session, `phantom/transport/session/states.py`. Users see ESTABLISHED as `CONNECTED`, "
            "CLOSING and DRAINING as `DRAINING`; before it a session is `CONNECTING`, and `FAILED` if the handshake "
            "fails.",
            states.Phase.ESTABLISHED,
            _plain(states.TRANSITIONS),
        ),
        Machine(
            "Client authentication, initiator",
            "The client's side of proving its identity, `phantom/transport/session/client_auth.py`. What the table "
            "does not name and no state allows is a protocol violation.",
            client_auth.InitiatorState.AUTHENTICATING,
            _with_actions(client_auth.INITIATOR_TRANSITIONS),
            also_first=(client_auth.InitiatorState.ANONYMOUS,),
        ),
        Machine(
            "Client authentication, responder",
            "The server's side of it, in the same module; it begins where the policy says: UNASKED (none), WAITING "
            "(optional), REQUIRED, and OPEN or VOUCHED for a session that is in use already.",
            client_auth.ResponderState.REQUIRED,
            _with_actions(client_auth.RESPONDER_TRANSITIONS),
            also_first=(
                client_auth.ResponderState.UNASKED,
                client_auth.ResponderState.WAITING,
                client_auth.ResponderState.OPEN,
                client_auth.ResponderState.VOUCHED,
            ),
        ),
        Machine(
            "Stream",
            "One stream at one end, `phantom/transport/session/stream_states.py`. A pair that the table does not name "
            "changes nothing.",
            stream_states.StreamState.OPEN,
            _plain(stream_states.STREAM_TRANSITIONS),
        ),
        Machine(
            "Path",
            "One path at one end, `phantom/transport/session/path_states.py`. The path of the handshake begins "
            "VALIDATED.",
            path_states.PathState.UNVALIDATED,
            _plain(path_states.PATH_TRANSITIONS),
            also_first=(path_states.PathState.VALIDATED,),
        ),
        Machine(
            "Congestion control",
            "What one datagram path may have in flight, `phantom/transport/session/congestion.py`. PROBE_RTT and "
            "FAST_RECOVERY return to the state that they interrupted.",
            congestion.State.STARTUP,
            _plain(_returning(congestion.TRANSITIONS)),
        ),
    )


def _returning(table: Mapping[tuple[Any, Any], Any]) -> Mapping[tuple[Any, Any, Any], Any]:
    """The table with a row for each state that a return (next state None) may lead back to."""
    written: dict[tuple[Any, Any, Any], Any] = {}
    for (state, event), after in table.items():
        back = (
            [before for (before, _), next_state in table.items() if next_state is state] if after is None else [after]
        )
        written |= {(state, event, end): end for end in back}
    return written


def _plain(table: Mapping[Any, Any]) -> list[tuple[enum.Enum, enum.Enum, enum.Enum, str]]:
    return [(key[0], key[1], after, "") for key, after in table.items()]


def _with_actions(
    table: Mapping[tuple[Any, Any], tuple[Any, Callable[..., object]]],
) -> list[tuple[enum.Enum, enum.Enum, enum.Enum, str]]:
    return [(state, event, after, action.__qualname__) for (state, event), (after, action) in table.items()]


def diagram(machine: Machine) -> list[str]:
    """The machine as a Mermaid state diagram: one arrow for each pair of states; the table has every event."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, event, after, _ in machine.rows:
        arrows.setdefault((state.name, after.name), []).append(str(event.value))
    leaving = {state for state, _ in arrows}
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state.name}" for state in (machine.first, *machine.also_first)]
    lines += [f"    {state} --> {after}: {_label(events)}" for (state, after), events in arrows.items()]
    lines += [f"    {after} --> [*]" for after in dict.fromkeys(after for _, after in arrows) if after not in leaving]
    return [*lines, "```"]


def _label(events: list[str]) -> str:
    return " / ".join(events) if len(events) < 3 else f"{events[0]} and {len(events) - 1} more"


def rows(machine: Machine) -> list[str]:
    """The machine as a table."""
    with_action = any(action for *_, action in machine.rows)
    lines = ["| state | event | next |" + (" action |" if with_action else "")]
    lines.append("| --- | --- | --- |" + (" --- |" if with_action else ""))
    for state, event, after, action in machine.rows:
        line = f"| {state.name} | {event.value} | {after.name} |"
        lines.append(line + (f" `{action}` |" if with_action else ""))
    return lines


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for machine in machines():
        lines += [f"## {machine.title}", "", textwrap.fill(machine.text, 118), ""]
        lines += [*diagram(machine), "", *rows(machine), ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    current = PAGE.exists() and PAGE.read_text("utf-8") == page()
    if arguments == ["--check"]:
        if not current:
            print(f"{PAGE.name} is not what the tables say; run python -m tools.state_diagrams")
        return 0 if current else 1
    if arguments:
        print(__doc__)
        return 2
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
