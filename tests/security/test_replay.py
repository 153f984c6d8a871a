from __future__ import annotations

import pytest

from phantom.security.replay import ReplayWindow, ReplayWindows


def run(sequences: list[int]) -> str:
    window = ReplayWindow()
    return "".join("a" if window.accept(s) else "r" for s in sequences)


@pytest.mark.parametrize(
    ("sequences", "verdicts"),
    [
        ([0, 1, 2, 2, 1, 0, 5, 4, 3, 3], "aaarrraaar"),
        ([5000, 5000 - 1023, 5000 - 1024, 5000], "aarr"),  # the lowest acceptable value is high - 1023
        ([0, 1023, 0, 1], "aara"),
        ([0, 1024, 1, 0], "aaar"),  # a jump of exactly the width
        ([0, 5000, 0, 4999, 3977, 3976], "aaraar"),
        ([7, 6, 5, 4, 3, 2, 1, 0, 0], "aaaaaaaar"),
        ([2**32 - 1, 2**32 - 1, 0], "arr"),
    ],
)
def test_the_window_is_exact(sequences: list[int], verdicts: str) -> None:
    assert run(sequences) == verdicts


def test_in_order_nothing_is_missing() -> None:
    window = ReplayWindow()
    assert window.high == -1
    for sequence in range(3000):
        assert window.accept(sequence)
        assert window.gaps == 0
    assert window.high == 2999


def test_one_window_for_each_stream_and_path() -> None:
    windows = ReplayWindows()
    assert windows.accept(1, 0, 5000)
    assert windows.accept(1, 1, 0), "a path that lags by 5000 packets loses nothing"
    assert not windows.accept(1, 1, 0)
    assert windows.accept(3, 0, 5000)
    assert set(windows.table) == {1 << 8, 1 << 8 | 1, 3 << 8}


def test_a_stream_more_than_the_bound_is_refused() -> None:
    windows = ReplayWindows(max_streams=2, max_windows=10)
    assert windows.accept(1, 0, 0)
    assert windows.accept(3, 0, 0)
    assert not windows.accept(5, 0, 0)
    assert windows.accept(3, 1, 0), "a further path of a known stream is none"
    assert windows.accept(1, 0, 1)
    assert len(windows.table) == 3


def test_a_window_more_than_the_bound_is_refused() -> None:
    windows = ReplayWindows(max_streams=10, max_windows=2)
    assert windows.accept(1, 0, 0)
    assert windows.accept(1, 1, 0)
    assert not windows.accept(1, 2, 0)
    assert not windows.accept(3, 0, 0)
    assert windows.accept(1, 1, 1)
