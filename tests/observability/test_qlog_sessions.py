"""Event logs of real sessions: both ends, valid to the letter, without a trace of what was said or with which key."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.config import PhantomConfig
from phantom.observability import qlog
from phantom.observability.qlog import SessionLog
from phantom.testing import SessionPair, session_pair
from phantom.testing.simulator import play
from phantom.testing.simulator.plans import PLANS
from phantom.transport.session.connection import Connection
from tests.calm import PATIENCE
from tests.observability.qlog_schema import read

MARKER = b"the quick brown fox jumps over the lazy dog 0123456789"


@pytest.fixture(autouse=True)
def _no_log_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PHANTOM_QLOG_DIR", raising=False)
    yield
    for log in list(qlog._writer._logs):
        log.close()
    qlog.drain()


async def logged_pair(folder: Path) -> SessionPair:
    config = PhantomConfig(qlog_dir=str(folder))
    return await session_pair(client_config=config, server_config=config)


async def talk(pair: SessionPair) -> None:
    for _ in range(3):
        await pair.client.send(MARKER * 2000)
        assert await pair.server.recv(PATIENCE) == MARKER * 2000
        await pair.server.send(MARKER)
        assert await pair.client.recv(PATIENCE) == MARKER
    await pair.client.flush_queue(PATIENCE)
    await pair.close()


def logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    qlog.drain()
    return {path.stem.rpartition("-")[2]: read(path) for path in folder.iterdir()}


async def test_both_ends_of_a_session_are_logged(tmp_path: Path) -> None:
    pair = await logged_pair(tmp_path)
    name = pair.client.id[:16]
    await talk(pair)
    found = logs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}-client.sqlog", f"{name}-server.sqlog"]
    for events in found.values():
        states = [event["data"]["new"] for event in events if event["name"].endswith("connection_state_updated")]
        assert states[:2] == ["attempted", "handshake_complete"]
        assert states[-1] == "closed"
    assert qlog._writer._logs == set(), "what has ended is closed"


async def test_packets_of_one_end_are_those_of_the_other(tmp_path: Path) -> None:
    pair = await logged_pair(tmp_path)
    await talk(pair)
    stats = pair.client.metrics_snapshot()
    found = logs(tmp_path)

    def packets(role: str, name: str) -> list[tuple[int, int, int]]:
        events = [event for event in found[role] if event["name"] == f"transport:{name}"]
        numbers = [event["data"]["header"]["packet_number"] for event in events]
        assert numbers == list(range(len(events)))
        return [(*event["sequence"], event["data"]["raw"]["length"]) for event in events]

    sent = packets("client", "packet_sent")
    assert len(sent) == stats.packets_sent
    assert len(packets("client", "packet_received")) == stats.packets_recv
    assert set(packets("server", "packet_received")) <= set(sent)
    assert len(packets("server", "packet_received")) > len(sent) // 2
    acked = [
        number
        for event in found["client"]
        if event["name"] == "transport:packet_received"
        for frame in event["data"]["frames"]
        for first, *last in frame.get("acked_ranges", ())
        for number in range(first, (last or [first])[0] + 1)
    ]
    data = [
        event["data"]["header"]["packet_number"]
        for event in found["client"]
        if event["name"] == "transport:packet_sent"
        if any(frame["frame_type"] == "stream" for frame in event["data"]["frames"])
    ]
    assert sorted(acked) == sorted(data), "everything that carried data was acknowledged, once"
    assert any(event["name"] == "recovery:metrics_updated" for event in found["client"])


async def test_a_log_holds_no_payload_and_no_key(tmp_path: Path) -> None:
    pair = await logged_pair(tmp_path)
    keys = [pair.client.export_keying_material("x")] if hasattr(pair.client, "export_keying_material") else []
    await talk(pair)
    qlog.drain()
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for secret in (MARKER, *keys):
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
                assert form[:16] not in content
        assert b"fox" not in content
        longest = max(re.findall(rb"[0-9a-f]+", content), key=len)
        assert len(longest) <= 16, "nothing but the beginning of the session id looks like a key"


async def test_the_environment_switches_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHANTOM_QLOG_DIR", str(tmp_path))
    pair = await session_pair()
    await pair.close()
    assert set(logs(tmp_path)) == {"client", "server"}


async def test_switched_off_there_is_no_observer_and_no_thread() -> None:
    pair = await session_pair()
    for session in (pair.client, pair.server):
        assert session._driver is not None
        assert session._driver.conn.observer is None
    assert not qlog._writer._logs
    await pair.close()


async def test_a_log_that_cannot_be_written_ends_no_session(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    pair = await logged_pair(tmp_path / "file")
    await talk(pair)
    qlog.drain()
    assert (tmp_path / "file").read_text() == "not a folder"
    assert pair.client.last_error() is None
    assert isinstance(pair.client.state, phantom.ConnectionState)


@pytest.mark.parametrize(
    ("plan", "events"),
    [
        ("corruption-2-percent", {"packet_dropped", "packet_lost", "congestion_state_updated"}),
        ("rekey-storm", {"key_updated", "packet_dropped"}),
        ("stream-churn-with-resets", {"stream_state_updated", "packet_lost"}),
    ],
)
def test_every_event_of_a_rough_life_is_of_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, events: set[str]
) -> None:
    made = 0
    begin = Connection.__init__

    def watched(self: Connection, *arguments: Any, **more: Any) -> None:
        nonlocal made
        begin(self, *arguments, **more)
        made += 1
        self.observer = SessionLog(tmp_path, made.to_bytes(8, "big"), "client", more["now"])

    monkeypatch.setattr(Connection, "__init__", watched)
    monkeypatch.setattr(qlog.limits, "QLOG_BUFFER", 1 << 30)
    assert play(PLANS[plan], 1).ok
    for log in list(qlog._writer._logs):
        log.close()
    qlog.drain()
    seen = {event["name"].partition(":")[2] for path in tmp_path.iterdir() for event in read(path)}
    assert seen >= events | {"packet_sent", "packet_received", "metrics_updated", "connection_state_updated"}
