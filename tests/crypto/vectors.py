"""Reads the vector files of tests/vectors/: our own and, condensed, the published ones."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "vectors"
EXTERNAL = VECTORS / "external"
NATIVE = VECTORS / "native"


@functools.cache
def external(name: str) -> list[dict[str, Any]]:
    packed = EXTERNAL / f"{name}.json.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else (EXTERNAL / f"{name}.json").read_bytes()
    cases: list[dict[str, Any]] = json.loads(text)["cases"]
    return cases


@functools.cache
def native(name: str, part: str = "vectors", op: str | None = None) -> list[dict[str, Any]]:
    """The entries of one file of tests/vectors/native with exactly this ``op``."""
    entries = json.loads((NATIVE / f"{name}.json").read_bytes())[part]
    chosen = [entry for entry in entries if entry.get("op") == op]
    assert chosen, (name, part, op)
    return chosen


def unhex(entry: dict[str, Any], *keys: str) -> list[bytes]:
    return [bytes.fromhex(entry[key]) for key in keys]
