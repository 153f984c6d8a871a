"""What a simulation can end with."""

from __future__ import annotations

__all__ = ["InvariantViolationError"]


class InvariantViolationError(AssertionError):
    """Something that must always hold did not; ``invariant`` is its name, the text says what was seen."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text
