"""The command sidecar: its options, its ready line and its end. What it serves is tested in tests/sidecar."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import phantom
from phantom.cli import sidecar as command
from phantom.sidecar.client import SidecarClient
from tests.cli.conftest import Invoke, Start, host_port
from tests.cli.test_serve import _logging_restored  # noqa: F401  # a fixture


@pytest.fixture
def home() -> Iterator[Path]:
    """A private directory whose path is short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ph"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def _ends_when_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar gets SIGTERM as soon as it has said that it is ready."""
    real = command._serve

    async def serve(server: object, ready: object) -> None:
        def ready_then_end(state: object) -> None:
            ready(state)  # type: ignore[operator]
            os.kill(os.getpid(), signal.SIGTERM)

        await real(server, ready_then_end)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_serve", serve)


@pytest.mark.usefixtures("_ends_when_ready")
class TestInThisProcess:
    def test_it_says_where_it_serves(self, invoke: Invoke, home: Path) -> None:
        outcome = invoke("sidecar", "--socket", str(home / "s.sock"))
        assert outcome.code == 0, outcome.err
        assert outcome.out.splitlines() == [f"serving unix:{home / 's.sock'}", f"token in {home / 's.sock'}.token"]
        assert list(home.glob("*.sock")) == []

    @pytest.mark.parametrize("option", ["--print-ready", "--json"])
    def test_the_ready_line(self, invoke: Invoke, home: Path, option: str) -> None:
        outcome = invoke("sidecar", "--socket", str(home / "s.sock"), option)
        assert outcome.code == 0, outcome.err
        (line,) = outcome.out.splitlines()
        assert json.loads(line) == {
            "address": f"unix:{home / 's.sock'}",
            "token_file": f"{home / 's.sock'}.token",
            "contract_version": 1,
            "pid": os.getpid(),
        }

    def test_a_tcp_port(self, invoke: Invoke, home: Path) -> None:
        outcome = invoke(
            "sidecar", "--tcp-port", "0", "--reflection", "--allow-seed-export", "--json", XDG_RUNTIME_DIR=str(home)
        )
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["address"].startswith("127.0.0.1:")

    def test_a_port_in_use(self, invoke: Invoke, home: Path, url: str) -> None:
        port = host_port(url).rpartition(":")[2]
        outcome = invoke("sidecar", "--tcp-port", port, XDG_RUNTIME_DIR=str(home))
        assert (outcome.code, outcome.out) == (4, "")

    def test_a_directory_that_others_can_enter(self, invoke: Invoke, home: Path) -> None:
        home.chmod(0o755)
        outcome = invoke("sidecar", "--socket", str(home / "s.sock"))
        assert outcome.code == 1
        assert "chmod 700" in outcome.err

    def test_the_environment(self, invoke: Invoke, home: Path) -> None:
        (home / "own.token").write_text("ab" * 32)
        (home / "own.token").chmod(0o600)
        outcome = invoke(
            "sidecar",
            "--json",
            PHANTOM_SIDECAR_SOCKET=str(home / "s.sock"),
            PHANTOM_SIDECAR_TOKEN_FILE=str(home / "own.token"),
            PHANTOM_SIDECAR_REFLECTION="1",
            PHANTOM_SIDECAR_ALLOW_SEED_EXPORT="1",
            PHANTOM_LOG="phantom=info",
            PHANTOM_LOG_JSON="1",
        )
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["token_file"] == str(home / "own.token")
        assert [json.loads(line)["message"] for line in outcome.err.splitlines()][-1] == "the sidecar stops"
        outcome = invoke("sidecar", "--json", PHANTOM_SIDECAR_TCP_PORT="0", XDG_RUNTIME_DIR=str(home))
        assert json.loads(outcome.out)["address"].startswith("127.0.0.1:")

    def test_a_contradiction_is_usage(self, invoke: Invoke, home: Path) -> None:
        outcome = invoke("sidecar", "--socket", str(home / "s.sock"), "--tcp-port", "0")
        assert outcome.code == 2

    def test_without_the_extra_it_names_the_extra(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "phantom.sidecar.server", None)
        outcome = invoke("sidecar")
        assert outcome.code == 1
        assert "pip install '.[sidecar]'" in outcome.err


@pytest.mark.slow
class TestAsAProcess:
    async def test_a_client_finds_it_by_its_ready_line(self, start: Start, home: Path, url: str) -> None:
        program = start("sidecar", "--socket", str(home / "s.sock"), "--print-ready")
        ready = json.loads(await asyncio.to_thread(program.line))
        assert ready["pid"] == program.process.pid
        assert stat.S_IMODE((home / "s.sock").stat().st_mode) == 0o600
        async with SidecarClient(ready["address"], token_file=ready["token_file"]) as client:
            session = await client.connect(url, timeout=30)
            await session.send(b"ping")
            assert await session.recv(30) == b"ping"
            await session.disconnect(timeout=10)
        ended = await asyncio.to_thread(program.stop)
        assert ended.code == 0, ended.err
        assert list(home.glob("s.sock*")) == [home / "s.sock.lock"]

    def test_the_second_on_one_path_is_refused(self, start: Start, home: Path) -> None:
        first = start("sidecar", "--socket", str(home / "s.sock"), "--print-ready")
        first.line()
        second = start("sidecar", "--socket", str(home / "s.sock")).end()
        assert second.code == 4
        assert f"(pid {first.process.pid})" in second.err
        assert first.stop().code == 0

    async def test_it_stops_while_a_client_is_connected(self, start: Start, home: Path, url: str) -> None:
        program = start("sidecar", "--socket", str(home / "s.sock"), "--print-ready")
        ready = json.loads(await asyncio.to_thread(program.line))
        async with SidecarClient(ready["address"], token_file=ready["token_file"]) as client:
            session = await client.connect(url, timeout=30)
            receiving = asyncio.ensure_future(session.recv())
            ended = await asyncio.to_thread(program.stop)
            assert ended.code == 0, ended.err
            with pytest.raises(phantom.PhantomError):
                await receiving
