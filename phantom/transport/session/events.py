"""Events of the engine: only what is rare (architecture §4)."""

from __future__ import annotations

from dataclasses import dataclass

from phantom.transport.session.states import ConnectionState

__all__ = ["StateChanged"]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The public state of the session changed."""

    old: ConnectionState
    new: ConnectionState
    reason: str
