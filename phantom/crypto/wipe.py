"""Overwriting secrets (wire-native §0.7).

Only mutable buffers can be overwritten. The libraries return some secrets as immutable ``bytes``; those are copied into
a ``bytearray`` at once and released, and what the libraries hold inside is cleared by them when their object goes.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["BytesLike", "wipe"]

BytesLike: TypeAlias = bytes | bytearray | memoryview


def wipe(*buffers: bytearray | memoryview) -> None:
    """Overwrite each buffer in place with zeros; lengths do not change. TypeError for a read-only view."""
    for buffer in buffers:
        with memoryview(buffer).cast("B") as view:
            view[:] = bytes(len(view))
