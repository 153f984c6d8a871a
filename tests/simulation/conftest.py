"""Marks the plays of many seeds: `make simulate` has 200 a plan, `make soak` 1000 and the long plans, others a few."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "simulation: plays plans of the simulator; `make simulate` plays more seeds")
