"""The event log: qlog 0.3 to the letter, bounded, private, and harmless when the disk is not."""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phantom import limits
from phantom.observability import qlog
from phantom.observability.qlog import SessionLog
from phantom.transport.packet import flags as flag
from phantom.transport.packet.counters import DropCounters
from phantom.transport.session.states import Phase
from tests.observability.qlog_schema import CONNECTION_STATES, read, records

SESSION = bytes(range(16, 48))
T0 = 1000.0


@pytest.fixture(autouse=True)
def _no_log_outlives_its_test() -> Iterator[None]:
    yield
    for log in list(qlog._writer._logs):
        log.close()
    qlog.drain()
    assert not qlog._writer._logs


@pytest.fixture
def log(tmp_path: Path) -> SessionLog:
    return SessionLog(tmp_path, SESSION, "client", T0, 0.25)


def written(folder: Path, role: str = "client") -> list[dict[str, Any]]:
    qlog.drain()
    return read(folder / f"1011121314151617-{role}.sqlog")


def of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["name"].endswith(f":{name}")]


CALLS: dict[str, Callable[[SessionLog], None]] = {
    "data": lambda log: log.packet_sent(T0, 0, 0, flag.DATA, 1, 0, 100, 169, 1),
    "data_fin": lambda log: log.packet_received(T0, 0, 0, flag.DATA_FIN, 1, 0, 100, 169),
    "unreliable": lambda log: log.packet_sent(T0, 0, 0, flag.UNRELIABLE_WORD, 3, 0, 100, 169, 1),
    "ack_sent": lambda log: log.packet_sent(T0, 0, 0, flag.ACK_WORD, 1, 0, 0, 90, 1),
    "ack_received": lambda log: log.packet_received(T0, 0, 0, flag.ACK_WORD, 1, 0, 0, 90),
    "window": lambda log: log.packet_sent(T0, 0, 0, flag.WINDOW_WORD, 1, 0, 1 << 20, 77, 1),
    "window_unknown": lambda log: log.packet_sent(T0, 0, 0, flag.WINDOW_WORD, 1, 0, 0, 77, 1),
    "ping": lambda log: log.packet_sent(T0, 0, 0, flag.PING, 0, 0, 0, 65, 1),
    "pong": lambda log: log.packet_received(T0, 0, 0, flag.PONG, 0, 0, 0, 65),
    "close": lambda log: log.packet_sent(T0, 0, 0, flag.CLOSE, 0, 0, 0, 80, 1),
    "cover": lambda log: log.packet_sent(T0, 0, 0, flag.COVER_WORD, 0, 0, 0, 800, 1),
    "coalesced": lambda log: log.packet_received(T0, 0, 0, flag.COALESCED_WORD, 1, 0, 0, 800),
    "challenge": lambda log: log.packet_sent(T0, 1, 0, flag.CHALLENGE, 0, 0, 0, 97, 1),
    "response": lambda log: log.packet_received(T0, 1, 0, flag.RESPONSE, 0, 0, 0, 97),
    "rekey": lambda log: log.packet_sent(T0, 0, 0, flag.DATA | flag.REKEY, 1, 0, 10, 79, 1),
    "metrics": lambda log: log.metrics_updated(T0, 0.01, 0.02, 0.03, 0.004, 14720, 1200, 1, 1e6),
    "congestion": lambda log: log.congestion_state_updated(T0, "startup", "drain"),
    "key": lambda log: log.key_updated(T0, 1, True),
    "stream": lambda log: log.stream_changed(T0, 3, "idle", "open"),
    **{
        f"dropped_{name}": lambda log, name=name: log.packet_dropped(T0, name)  # type: ignore[misc]
        for name in DropCounters().snapshot()
    },
    **{
        f"state_{phase.value}": lambda log, phase=phase: log.state_changed(T0, "established", phase.value, "a reason")  # type: ignore[misc]
        for phase in Phase
    },
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_event_is_of_the_schema(log: SessionLog, tmp_path: Path, call: Callable[[SessionLog], None]) -> None:
    before = len(written(tmp_path))
    call(log)
    assert len(written(tmp_path)) > before


def test_the_head_names_side_session_and_start(log: SessionLog, tmp_path: Path) -> None:
    qlog.drain()
    (path,) = tmp_path.iterdir()
    head = records(path)[0]
    assert head["trace"]["vantage_point"]["type"] == "client"
    assert head["trace"]["common_fields"]["group_id"] == SESSION[:8].hex()
    assert [event["time"] for event in written(tmp_path)] == [0.0, 250.0], "the handshake began the log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_two_sides_of_a_session_are_two_files_of_one_name(log: SessionLog, tmp_path: Path) -> None:
    SessionLog(tmp_path, SESSION, "server", T0)
    assert written(tmp_path, "server")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1011121314151617-client.sqlog",
        "1011121314151617-server.sqlog",
    ]


def test_a_second_log_of_one_name_leaves_the_first_alone(log: SessionLog, tmp_path: Path) -> None:
    first = written(tmp_path)
    again = SessionLog(tmp_path, SESSION, "client", T0)
    again.key_updated(T0, 1, False)
    assert written(tmp_path) == first
    assert len(read(tmp_path / "1011121314151617-client-1.sqlog")) == len(first) + 2


def test_segments_become_byte_offsets_and_packet_numbers(log: SessionLog, tmp_path: Path) -> None:
    for sequence, size in enumerate((100, 200, 300)):
        log.packet_sent(T0 + sequence, 0, 10 + sequence, flag.DATA, 1, sequence, size, size + 69, 1)
    log.packets_acked(T0 + 3, 1, [(0, 0), (2, 2)], 1500)
    log.packet_received(T0 + 3, 0, 0, flag.ACK_WORD, 1, 0, 0, 80)
    log.packet_lost(T0 + 4, 1, 1, "reordering_threshold")
    log.packet_sent(T0 + 4, 0, 13, flag.DATA, 1, 1, 200, 269, 2)
    log.packets_acked(T0 + 5, 1, [(0, 2)], 0)
    log.packet_received(T0 + 5, 0, 1, flag.ACK_WORD, 1, 0, 0, 80)
    events = written(tmp_path)
    frames = [data["frames"][0] for data in of(events, "packet_sent")]
    assert [frame["offset"] for frame in frames] == [0, 100, 300, 100]
    assert of(events, "packet_sent")[-1]["trigger"] == "retransmit_reordered"
    assert of(events, "packet_lost") == [
        {"header": {"packet_type": "1RTT", "packet_number": 1}, "trigger": "reordering_threshold"}
    ]
    first, second = (data["frames"][0] for data in of(events, "packet_received"))
    assert (first["acked_ranges"], first["ack_delay"]) == ([[0], [2]], 1.5)
    assert second["acked_ranges"] == [[3]], "what was acknowledged before is not said again"


def test_a_range_over_all_that_ever_was_costs_no_more_than_what_is_outstanding(log: SessionLog, tmp_path: Path) -> None:
    for index in range(5):
        log.packet_sent(T0, 0, index, flag.DATA, 1, index, 10, 79, 1)
    log.packets_acked(T0, 1, [(0, 2**32 - 1)], 0)
    log.packet_received(T0, 0, 0, flag.ACK_WORD, 1, 0, 0, 80)
    assert of(written(tmp_path), "packet_received")[0]["frames"][0]["acked_ranges"] == [[0, 4]]
    assert log._tracked == 0


def test_a_refusal_is_told_as_what_it_looks_like(log: SessionLog, tmp_path: Path) -> None:
    log.packet_sent(T0, 0, 1, flag.DATA, 1, 0, 5, 74, 1)
    log.packet_lost(T0, 1, 0, "refused")
    assert of(written(tmp_path), "packet_lost")[0]["trigger"] == "reordering_threshold"


def test_a_retransmission_after_the_timeout_says_so_and_needs_no_packet_number(log: SessionLog, tmp_path: Path) -> None:
    log.packet_lost(T0, 9, 4, "pto_expired")  # a stream of which nothing was logged
    log.packet_sent(T0, 0, 1, flag.DATA, 9, 0, 5, 74, 1)
    log.packet_lost(T0, 9, 4, "pto_expired")  # a segment of which nothing was logged
    log.packet_lost(T0, 9, 0, "pto_expired")
    log.packet_sent(T0, 0, 2, flag.DATA, 9, 0, 5, 74, 2)
    events = written(tmp_path)
    assert of(events, "packet_lost") == [
        {"header": {"packet_type": "1RTT", "packet_number": 0}, "trigger": "pto_expired"}
    ]
    assert of(events, "packet_sent")[-1]["trigger"] == "retransmit_timeout"


def test_offsets_of_what_was_received_follow_the_segments(log: SessionLog, tmp_path: Path) -> None:
    for sequence, (index, size) in enumerate([(0, 10), (1, 20), (0, 10), (2, 5)]):
        log.packet_received(T0, 0, sequence, flag.DATA, 3, index, size, size + 69)
    frames = [data["frames"][0] for data in of(written(tmp_path), "packet_received")]
    assert [(frame["segment_index"], frame["offset"]) for frame in frames if frame["segment_index"]] == [
        (1, 10),
        (2, 30),
    ]


def test_a_closed_stream_is_forgotten(log: SessionLog, tmp_path: Path) -> None:
    log.packet_sent(T0, 0, 0, flag.DATA, 3, 0, 10, 79, 1)
    log.packet_received(T0, 0, 0, flag.DATA, 3, 0, 10, 79)
    assert (set(log._sent), set(log._received), log._tracked) == ({3}, {3}, 1)
    log.stream_changed(T0, 3, "open", "closed")
    log.stream_changed(T0, 5, "open", "closed")
    assert (log._sent, log._received, log._tracked) == ({}, {}, 0)


def test_numbers_are_kept_for_so_many_segments_only(
    log: SessionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlog, "_TRACKED", 2)
    for index in range(4):
        log.packet_sent(T0, 0, index, flag.DATA, 1, index, 10, 79, 1)
    assert sorted(log._sent[1].packets) == [0, 1]
    log.packets_acked(T0, 1, [(0, 3)], 0)
    log.packet_received(T0, 0, 0, flag.ACK_WORD, 1, 0, 0, 80)
    assert of(written(tmp_path), "packet_received")[0]["frames"][0]["acked_ranges"] == [[0, 1]]


def test_an_acknowledgement_of_an_unknown_stream_is_an_event_all_the_same(log: SessionLog, tmp_path: Path) -> None:
    log.packets_acked(T0, 7, [(0, 3)], 0)
    log.packet_received(T0, 2, 0, flag.ACK_WORD, 7, 0, 0, 80)
    event = written(tmp_path)[-1]
    assert event["data"]["frames"] == [{"frame_type": "ack", "ack_delay": 0.0}]
    assert event["path_id"] == 2


def test_packets_are_counted_and_keep_their_own_number_too(log: SessionLog, tmp_path: Path) -> None:
    """Phantom numbers them anew on every stream and in every epoch, QUIC once and for all."""
    log.packet_sent(T0, 0, 7, flag.DATA, 1, 0, 10, 79, 1)
    log.packet_sent(T0, 0, 7, flag.PING, 0, 0, 0, 65, 1)
    log.packet_received(T0, 0, 7, flag.PONG, 0, 0, 0, 65)
    found = [event for event in written(tmp_path) if "sequence" in event]
    assert [event["data"]["header"]["packet_number"] for event in found] == [0, 1, 0]
    assert [event["sequence"] for event in found] == [[1, 7], [0, 7], [0, 7]]


def test_only_measurements_that_changed_are_written(log: SessionLog, tmp_path: Path) -> None:
    values = (0.01, 0.0205, 0.03, 0.004, 14720, 1200, 1, 1e6)
    log.metrics_updated(T0, *values)  # type: ignore[arg-type]
    log.metrics_updated(T0, *values)  # type: ignore[arg-type]
    log.metrics_updated(T0, 0.01, 0.021, 0.03, 0.004, 14720, 0, 1, 1e6)
    assert of(written(tmp_path), "metrics_updated") == [
        {
            "min_rtt": 10.0,
            "smoothed_rtt": 20.5,
            "latest_rtt": 30.0,
            "rtt_variance": 4.0,
            "congestion_window": 14720,
            "bytes_in_flight": 1200,
            "packets_in_flight": 1,
            "pacing_rate": 8_000_000,
        },
        {"smoothed_rtt": 21.0, "bytes_in_flight": 0},
    ]


def test_states_are_qlogs_and_the_reason_stands_beside_them(log: SessionLog, tmp_path: Path) -> None:
    log.state_changed(T0, "established", "closing", 'closed "here"\x1e\n\u00e9')
    log.state_changed(T0, "closing", "dead", "gone")
    events = written(tmp_path)
    states = [(data.get("old"), data["new"]) for data in of(events, "connection_state_updated")]
    assert states == [
        (None, "attempted"),
        ("attempted", "handshake_complete"),
        ("handshake_confirmed", "closing"),
        ("closing", "closed"),
    ]
    assert [data["message"] for data in of(events, "info")] == ['closing: closed "here"\x1e\n\u00e9', "dead: gone"]


def test_times_only_grow_whatever_the_engine_says(log: SessionLog, tmp_path: Path) -> None:
    log.key_updated(T0 + 1, 1, True)
    log.key_updated(T0 + 0.5, 2, True)
    log.key_updated(T0 + 2, 3, True)
    times = [event["time"] for event in written(tmp_path) if event["name"] == "security:key_updated"]
    assert times == [1250.0] * 4 + [2250.0] * 2


def test_a_key_update_says_which_epoch_and_nothing_of_the_key(log: SessionLog, tmp_path: Path) -> None:
    log.key_updated(T0, 7, False)
    assert of(written(tmp_path), "key_updated") == [
        {"key_type": f"{side}_1rtt_secret", "new": "", "generation": 7, "trigger": "local_update"}
        for side in ("client", "server")
    ]


def test_the_names_in_the_log_are_those_of_the_engine() -> None:
    assert set(qlog._DROPS) == set(DropCounters().snapshot())
    assert {phase.value for phase in Phase} == set(qlog._STATES)
    assert set(qlog._STATES.values()) <= CONNECTION_STATES
    for name in ("ACK", "FIN", "CONTROL", "WINDOW", "KEEPALIVE", "COVER", "RELIABLE", "PATH"):
        there = {"WINDOW": "WINDOW_UPDATE", "PATH": "PATH_VALIDATION"}.get(name, name)
        assert getattr(qlog, f"_{name}") == getattr(flag, there)


def test_what_waits_for_the_disk_is_bounded_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlog._writer, "open", lambda log: None)  # the disk has all the time in the world
    log = SessionLog(tmp_path, SESSION, "client", T0)
    for number in range(20_000):
        log.packet_sent(T0, 0, number, flag.PING, 0, 0, 0, 65, 1)
    waiting = sum(map(len, log._lines))
    assert limits.QLOG_BUFFER <= waiting <= limits.QLOG_BUFFER + 1024
    assert log._put - log._taken == waiting
    kept = len(log._lines) - 3
    assert log._write(finish=False)
    log.packet_sent(T0, 0, 20_000, flag.PING, 0, 0, 0, 65, 1)
    log.close()
    assert not log._write(finish=True)
    events = read(tmp_path / "1011121314151617-client.sqlog")
    assert [data["message"] for data in of(events, "warning")] == [
        f"{20_000 - kept} events were not written: the disk did not keep up"
    ]
    assert of(events, "packet_sent")[-1]["header"]["packet_number"] == 20_000


def test_a_log_is_closed_some_time_after_its_session_or_at_once_when_asked(
    log: SessionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlog.time, "monotonic", lambda: 50.0)
    log.state_changed(T0, "established", "closed", "the end")
    log.close()
    qlog._writer.drain(finish=False)
    log.packet_sent(T0, 0, 9, flag.CLOSE, 0, 0, 0, 80, 1)  # the last packet leaves after the last state
    monkeypatch.setattr(qlog.time, "monotonic", lambda: 52.0)
    qlog._writer.drain(finish=False)
    assert log not in qlog._writer._logs
    log.packet_sent(T0, 0, 10, flag.PING, 0, 0, 0, 65, 1)
    assert not log._lines
    assert [event["sequence"] for event in written(tmp_path) if "sequence" in event] == [[0, 9]]


@pytest.mark.parametrize("broken", ["folder", "names"])
def test_a_log_that_cannot_be_written_ends_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(qlog, "_SUFFIXES", 1)
    folder = tmp_path / "file"
    if broken == "folder":
        folder.write_text("not a folder")
    else:
        folder.mkdir()
        (folder / "1011121314151617-client.sqlog").touch()
    with caplog.at_level(logging.WARNING, "phantom"):
        log = SessionLog(folder, SESSION, "client", T0)
        log.key_updated(T0, 1, True)
        qlog.drain()
        log.key_updated(T0, 2, True)
        qlog.drain()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the event log of a session cannot be written"
    ]
    assert log._closed
    assert not log._lines


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    SessionLog(tmp_path / "a" / "b", SESSION, "client", T0)
    assert written(tmp_path / "a" / "b")


def test_one_thread_writes_all_logs_and_ends_with_the_last(tmp_path: Path) -> None:
    logs = [SessionLog(tmp_path, bytes([number]) * 32, "server", T0) for number in range(3)]
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "phantom-qlog"]
    assert thread.daemon
    for log in logs:
        log.close()
    qlog.drain()
    qlog._writer.wake.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(list(tmp_path.iterdir())) == 3
    assert qlog._writer._thread is None


def test_much_to_write_wakes_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "_WAKE_AT", 5_000)
    monkeypatch.setattr(qlog._writer, "open", lambda log: None)
    log = SessionLog(tmp_path, SESSION, "client", T0)
    qlog._writer.wake.clear()
    woken = []
    for _ in range(40):
        log.key_updated(T0, 1, True)
        woken.append(qlog._writer.wake.is_set())
    assert woken == sorted(woken)
    assert not woken[0]
    assert woken[-1]
    log.close()
    log._write(finish=True)


def test_a_forked_child_has_a_thread_of_its_own(tmp_path: Path, log: SessionLog) -> None:
    gone = threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    qlog._writer._thread = gone
    SessionLog(tmp_path, SESSION, "server", T0)
    assert qlog._writer._thread is not gone
    assert qlog._writer._thread is not None
    assert qlog._writer._thread.is_alive()
