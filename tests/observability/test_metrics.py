"""The snapshot that needs no telemetry library (surface §5.2)."""

from __future__ import annotations

import json

from phantom.observability.metrics import HandshakeCounters, MetricsSnapshot

COUNTS = (
    "packets_sent",
    "packets_recv",
    "bytes_sent",
    "bytes_recv",
    "messages_sent",
    "messages_recv",
    "retransmissions",
    "encrypt_count",
    "decrypt_count",
    "replay_rejected_total",
    "aead_failure_total",
    "unencrypted_dropped_total",
    "active_streams",
    "rekeys_local_total",
    "rekeys_peer_total",
)
OWN = (
    "rtt_us_path_0",
    "active_sessions",
    "handshakes_success",
    "handshakes_failure",
    "handshake_latency_ns_sum",
    "handshake_latency_count",
    "uptime_secs",
)


def test_a_new_snapshot_is_all_zeros_and_goes_into_json() -> None:
    fields = MetricsSnapshot().as_dict()
    assert set(fields) == {*COUNTS, *OWN, "dropped_total"}
    assert json.loads(json.dumps(fields)) == fields
    assert fields.pop("dropped_total") == {}
    assert not any(fields.values())


def test_a_listener_sums_the_counts_of_its_sessions_and_nothing_else() -> None:
    total = MetricsSnapshot(active_sessions=5, rtt_us_path_0=9)
    for factor in (1, 10):
        session = MetricsSnapshot(dropped_total={"malformed": factor, f"of {factor}": 1})
        for number, name in enumerate(COUNTS):
            setattr(session, name, factor * (number + 1))
        for name in OWN:
            setattr(session, name, 1000)
        total.add(session)
    assert [getattr(total, name) for name in COUNTS] == [11 * (number + 1) for number in range(len(COUNTS))]
    assert total.dropped_total == {"malformed": 11, "of 1": 1, "of 10": 1}
    assert (total.active_sessions, total.rtt_us_path_0, total.uptime_secs) == (5, 9, 0.0)


def test_snapshots_share_nothing() -> None:
    one, other = MetricsSnapshot(), MetricsSnapshot()
    one.dropped_total["malformed"] = 1
    assert other.dropped_total == {}
    copy = one.as_dict()
    one.dropped_total["malformed"] = 2
    assert copy["dropped_total"] == {"malformed": 1}


def test_handshakes_are_counted_with_their_latency() -> None:
    counters = HandshakeCounters()
    for seconds in (0.5, 0.25):
        counters.succeeded(seconds)
    assert (counters.success, counters.failure) == (2, 0)
    assert (counters.latency_ns_sum, counters.latency_count) == (750_000_000, 2)
