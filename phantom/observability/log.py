"""The library's logger: never payload, keys or session ids; peers' addresses at DEBUG only (surface §6)."""

from __future__ import annotations

import logging

__all__ = ["logger"]

logger = logging.getLogger("phantom")
logger.addHandler(logging.NullHandler())
