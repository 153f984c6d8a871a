from __future__ import annotations

import pytest

from phantom.security.reputation import Reputation, source_key

A, B = "192.0.2.1", "192.0.2.2"


@pytest.mark.parametrize(("violations", "bits"), [(0, 0), (1, 9), (2, 10), (3, 12), (4, 16), (5, 16), (1000, 16)])
def test_the_table_of_8_4(violations: int, bits: int) -> None:
    reputation = Reputation()
    for _ in range(violations):
        reputation.record(A, 10.0)
    assert reputation.violations(A, 10.0) == violations
    assert reputation.difficulty(A, 10.0) == bits
    assert reputation.difficulty(B, 10.0) == 0


def test_a_count_older_than_the_window_reads_as_zero_and_starts_again() -> None:
    reputation = Reputation()
    reputation.record(A, 0.0)
    reputation.record(A, 60.0)
    assert reputation.violations(A, 120.0) == 2
    assert reputation.violations(A, 120.1) == 0
    assert reputation.difficulty(A, 120.1) == 0
    reputation.record(A, 120.1)
    assert reputation.violations(A, 120.1) == 1


def test_a_completed_handshake_deletes_the_entry() -> None:
    reputation = Reputation()
    reputation.record(A, 0.0)
    reputation.clear(A)
    reputation.clear(B)
    assert len(reputation) == 0
    assert reputation.difficulty(A, 0.0) == 0


def test_a_full_table_drops_the_least_recently_seen() -> None:
    reputation = Reputation(max_entries=3)
    for source in ("a", "b", "c", "a"):
        reputation.record(source, 1.0)
    reputation.record("d", 1.0)
    assert len(reputation) == 3
    assert [reputation.violations(source, 1.0) for source in "abcd"] == [2, 0, 1, 1]


def test_expired_entries_go_before_anything_is_full() -> None:
    reputation = Reputation(max_entries=100)
    for i in range(50):
        reputation.record(f"old {i}", 0.0)
    reputation.record("new", 60.0)
    assert len(reputation) == 51
    reputation.record("newer", 60.5)
    assert len(reputation) == 2


def test_the_table_stays_bounded() -> None:
    reputation = Reputation(max_entries=100)
    for i in range(1000):
        reputation.record(str(i), i * 0.001)
    assert len(reputation) == 100


def test_the_shape_is_configurable() -> None:
    reputation = Reputation(window=5.0, base=4, maximum=7)
    for bits in (5, 6, 7, 7):
        reputation.record(A, 0.0)
        assert reputation.difficulty(A, 5.0) == bits
    assert reputation.difficulty(A, 5.1) == 0


@pytest.mark.parametrize(
    ("client_id", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("embedded", "embedded"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::1", "::/64"),
    ],
)
def test_sources_are_named_by_address_or_by_64(client_id: str, key: str) -> None:
    assert source_key(client_id) == key
