"""What the demo starts, it ends, however things go."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from phantom.cli import processes
from phantom.cli.processes import Workshop
from phantom.errors import PhantomTimeoutError, RuntimeInitError
from tests.cli.test_ping import PIN, silent_server

pytestmark = pytest.mark.slow

SERVE = ("serve", "--bind", "127.0.0.1:0", "--signing-key-file", "server.key")


async def test_a_command_runs_in_the_folder() -> None:
    with Workshop() as workshop:
        done = await workshop.run("keygen", "--out", "x.key")
        assert done.returncode == 0
        assert (workshop.folder / "x.key").exists()
    assert not workshop.folder.exists()


async def test_a_server_is_started_and_ended() -> None:
    with Workshop() as workshop:
        assert (await workshop.start("server", *SERVE)).startswith("phantom://")
        process = psutil.Process(workshop.pid("server"))
        workshop.check()
    assert not process.is_running()
    assert not workshop.folder.exists()


async def test_one_that_ends_instead_is_told_with_its_last_words() -> None:
    with Workshop() as workshop, pytest.raises(RuntimeInitError, match=r"the x ended with status 2: error: .*nonsense"):
        await workshop.start("x", "serve", "--bind", "nonsense")


async def test_one_that_ends_without_a_word() -> None:
    with Workshop() as workshop:
        await workshop.start("server", *SERVE)
        workshop._running["server"].kill()
        workshop._running["server"].wait()
        (workshop.folder / "server.log").write_text("\n")
        with pytest.raises(RuntimeInitError, match="the server ended with status -9: it logged nothing"):
            workshop.check()


async def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_TIMEOUT", 0.01)
    with silent_server() as address, Workshop() as workshop:
        with pytest.raises(PhantomTimeoutError, match=r"the x did not start within 0.01 s"):
            await workshop.start("x", "ping", address, "--pin", PIN, "--timeout-secs", "50")
        assert workshop._running["x"].wait(30) == -signal.SIGKILL


async def test_an_interruption_leaves_nothing() -> None:
    with silent_server() as address:
        workshop = Workshop()
        with workshop:
            starting = asyncio.ensure_future(workshop.start("x", "ping", address, "--pin", PIN, "--timeout-secs", "50"))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert not workshop.folder.exists()


async def test_one_that_does_not_want_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.01)
    monkeypatch.setattr(subprocess.Popen, "terminate", lambda self: None)
    with Workshop() as workshop:
        await workshop.start("server", *SERVE)
        process = workshop._running["server"]
    assert process.returncode == -signal.SIGKILL


def test_being_told_to_end_is_an_interruption() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Workshop() as workshop:
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not workshop.folder.exists()


def test_settings_of_a_real_server_are_kept_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHANTOM_BIND", "0.0.0.0:1")
    monkeypatch.setenv("RUST_LOG", "off")
    monkeypatch.setenv("KEPT", "1")
    environment = processes._environment()
    assert "PHANTOM_BIND" not in environment
    assert "RUST_LOG" not in environment
    assert environment["KEPT"] == "1"
