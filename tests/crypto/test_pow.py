from __future__ import annotations

from typing import Any

import pytest

from phantom.crypto.pow import leading_zero_bits, solve
from tests.crypto.vectors import native

NONCE = bytes.fromhex("0030ff660000000099999999999999991264ab69cbcb536b3d3a82d28cbd819c")  # Appendix B.2


@pytest.mark.parametrize(("difficulty", "solution"), [(4, 32), (8, 121), (12, 3784), (16, 6415)])
def test_known_solutions(difficulty: int, solution: int) -> None:
    assert solve(NONCE, difficulty, 0, 10_000) == solution
    assert leading_zero_bits(NONCE, solution) >= difficulty
    assert all(leading_zero_bits(NONCE, lower) < difficulty for lower in range(solution))


@pytest.mark.parametrize("entry", native("cookie_pow", op="pow"), ids=lambda entry: entry["id"])
def test_lowest_solutions(entry: dict[str, Any]) -> None:
    nonce = bytes.fromhex(entry["expect"]["nonce"])
    for difficulty, solution in entry["expect"]["lowest_solution"].items():
        assert solve(nonce, int(difficulty), 0, int(solution) + 1) == int(solution)
        assert solve(nonce, int(difficulty), 0, int(solution)) is None


@pytest.mark.parametrize("entry", native("cookie_pow", op="pow_bits"), ids=lambda entry: entry["id"])
def test_bits(entry: dict[str, Any]) -> None:
    nonce = bytes.fromhex(entry["input"]["nonce"])
    solutions = [int(solution) for solution in entry["input"]["solutions"]]
    assert [leading_zero_bits(nonce, s) for s in solutions] == entry["expect"]["leading_zero_bits"]
    assert [leading_zero_bits(memoryview(nonce), s) for s in solutions] == entry["expect"]["leading_zero_bits"]


def test_slices_find_what_one_search_finds() -> None:
    start = 0
    while (found := solve(NONCE, 12, start, 100)) is None:
        start += 100
    assert (start, found) == (3700, 3784)
    assert solve(NONCE, 12, 3785, 100) is None


def test_the_edges_of_the_search() -> None:
    assert solve(NONCE, 0, 7, 1) == 7
    assert solve(NONCE, 0, 7, 0) is None
    assert solve(NONCE, 0, 2**64 - 1, 10) == 2**64 - 1
    assert solve(NONCE, 255, 2**64 - 3, 10) is None  # ends at the last u64 instead of overflowing
    assert solve(NONCE, 256, 0, 10) is None
    assert 0 <= leading_zero_bits(NONCE, 2**64 - 1) <= 256
