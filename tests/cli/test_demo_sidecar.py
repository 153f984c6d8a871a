"""The demo through the sidecar, as a stranger sees it, and each way it can fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psutil
import pytest
from rich.text import Text

from phantom import errors
from phantom.cli import demo_sidecar
from phantom.cli.processes import Workshop
from phantom.cli.screen import Screen
from phantom.cli.story import Story
from phantom.limits import MiB
from tests.cli.conftest import Invoke, OnTerminal, Start


@pytest.fixture
def story() -> Story:
    return Story(Screen(as_json=False))


@pytest.mark.slow
class TestTheWholeOfIt:
    def test_it_shows_everything(self, invoke: Invoke) -> None:
        outcome = invoke("demo", "--sidecar")
        assert outcome.code == 0, outcome.err
        for text in (
            "X25519 + ML-KEM-768",
            "Ed25519 + ML-DSA-65",
            "bytes sent",
            "round trip",
            "64 MiB",
            "SHA-256     equal",
            "error: the server's key is phantom1:",
            "exit code   3",
            "ServerIdentityMismatchError, code 20",
            "Everything worked",
        ):
            assert text in outcome.out

    def test_json(self, invoke: Invoke) -> None:
        outcome = invoke("demo", "--sidecar", "--json")
        found = json.loads(outcome.out)
        assert (outcome.code, outcome.err, found["ok"]) == (0, "", True)
        assert found["handshake"]["server"] == found["key"]["fingerprint"]
        assert found["transfer"]["bytes"] == 64 * MiB
        assert found["transfer"]["sent_sha256"] == found["transfer"]["received_sha256"]
        assert found["wrong_pin"]["exit_code"] == 3
        assert not psutil.pid_exists(found["server"]["pid"])
        assert not psutil.pid_exists(found["sidecar"]["pid"])
        assert not Path(found["sidecar"]["address"].removeprefix("unix:")).parent.exists()

    def test_it_looks_good_on_80_columns(self, on_terminal: OnTerminal) -> None:
        outcome = on_terminal("demo", "--sidecar")
        assert outcome.code == 0, outcome.out
        assert "━" in outcome.out
        assert "64.0/64.0 MiB" in outcome.out
        lines = Text.from_ansi(re.sub(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r", "", outcome.out)).plain.splitlines()
        assert [line for line in lines if len(line) > 80 and "%" not in line] == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interruption_cleans_up(self, start: Start, number: int) -> None:
        program = start("demo", "--sidecar")
        told = ""
        while "\n4. " not in told:
            told += program.out.readline()
        found = re.search(r"unix:(\S+)/sidecar\.sock", told)
        assert found is not None
        folder = Path(found.group(1))  # by name: another worker may run a demo of its own
        assert folder.is_dir()
        children = psutil.Process(program.process.pid).children(recursive=True)
        assert len(children) >= 2
        program.send(number)
        ended = program.end()
        assert ended.code == 130, ended.err
        assert "Traceback" not in ended.err
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        assert not folder.exists()

    def test_a_server_that_dies_is_told(
        self, story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        workshops: list[Workshop] = []
        real = Workshop.start

        async def start(self: Workshop, name: str, *words: str) -> str:
            workshops.append(self)
            return await real(self, name, *words)

        async def ping(*_: object) -> None:
            os.kill(workshops[0].pid("server"), signal.SIGKILL)
            workshops[0]._running["server"].wait()
            raise errors.NetworkError("what followed from it")

        monkeypatch.setattr(Workshop, "start", start)
        monkeypatch.setattr(demo_sidecar, "_ping", ping)
        with pytest.raises(errors.RuntimeInitError, match="the server ended with status -9"):
            demo_sidecar.run(story, MiB)
        assert not workshops[0].folder.exists()

    def test_a_server_that_does_not_start(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Workshop._spawn

        def spawn(self: Workshop, name: str, words: tuple[str, ...]) -> Any:
            return real(self, name, ("serve", "--bind", "nonsense"))

        monkeypatch.setattr(Workshop, "_spawn", spawn)
        outcome = invoke("demo", "--sidecar")
        assert outcome.code == 1
        assert re.fullmatch(r"error: the server ended with status 2: error: .*\n", outcome.err)


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


class TestLimits:
    async def test_it_does_not_go_on_for_ever(
        self, story: Story, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def tell(*_: object) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(demo_sidecar, "_tell", tell)
        monkeypatch.setattr(demo_sidecar, "_LIMIT", 0.01)
        with pytest.raises(errors.PhantomTimeoutError, match=r"the demo did not finish within 0.01 s"):
            await demo_sidecar._limited(story, workshop, MiB)

    @pytest.mark.parametrize("kind", [errors.PhantomTimeoutError, errors.NetworkError])
    async def test_a_failure_is_itself_while_everybody_lives(
        self, story: Story, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, kind: type[errors.PhantomError]
    ) -> None:
        async def tell(*_: object) -> None:
            raise kind("what went wrong")

        monkeypatch.setattr(demo_sidecar, "_tell", tell)
        with pytest.raises(kind, match="what went wrong"):
            await demo_sidecar._limited(story, workshop, MiB)


class FakeExchange:
    """Echoes through ``change``."""

    def __init__(self, change: Any) -> None:
        self._change = change
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        await self._queue.put(self._change(data))

    async def recv(self, timeout: float | None = None) -> bytes:
        return await self._queue.get()

    def exchange(self) -> FakeExchange:
        return self


class TestWhatDoesNotFit:
    """Things that do not happen, and would be told."""

    async def test_another_echo(self, story: Story) -> None:
        with pytest.raises(errors.InternalError, match="not what was sent"):
            await demo_sidecar._ping(story, FakeExchange(bytes.upper))  # type: ignore[arg-type]

    async def test_changed_bytes(self, story: Story) -> None:
        flipped = FakeExchange(lambda data: bytes(len(data)))
        with pytest.raises(errors.InternalError, match="the SHA-256 sums differ"):
            await demo_sidecar._transfer(story, flipped, MiB)  # type: ignore[arg-type]

    async def test_a_wrong_pin_that_is_not_refused(self, story: Story, workshop: Workshop) -> None:
        class Careless:
            async def connect(self, *_: object, **__: object) -> None:
                return None

        with pytest.raises(errors.InternalError, match="a wrong pin was not refused"):
            await demo_sidecar._refuse(story, workshop, Careless(), "phantom://x@127.0.0.1:1")  # type: ignore[arg-type]

    @pytest.mark.slow
    async def test_a_wrong_pin_that_ping_does_not_refuse(self, story: Story, workshop: Workshop) -> None:
        class Careful:
            async def connect(self, *_: object, **__: object) -> None:
                raise errors.ServerIdentityMismatchError

        with pytest.raises(errors.InternalError, match="ping ended with 4"):
            await demo_sidecar._refuse(story, workshop, Careful(), "phantom://x@127.0.0.1:1")  # type: ignore[arg-type]

    @pytest.mark.slow
    async def test_a_key_that_cannot_be_made(self, story: Story, workshop: Workshop) -> None:
        (workshop.folder / "server.key").mkdir()
        with pytest.raises(errors.InternalError, match=r"keygen failed: error: .*server\.key"):
            await demo_sidecar._make_key(story, workshop)

    async def test_another_peer_than_the_pinned_one(self, story: Story) -> None:
        class Client:
            async def connect(self, *_: object, **__: object) -> Any:
                negotiated = SimpleNamespace(suite=SimpleNamespace(label="aes-256-gcm"))
                return SimpleNamespace(handshake=None, negotiated=negotiated, peer_identity=lambda: None)

        with pytest.raises(errors.InternalError, match="another peer"):
            await demo_sidecar._connect(story, Client(), "url", "phantom1:x")  # type: ignore[arg-type]


@pytest.mark.parametrize("system", ["posix", "nt"])
async def test_where_there_are_no_unix_sockets_it_takes_a_port(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], system: str
) -> None:
    class Recorder:
        async def start(self, name: str, *words: str) -> str:
            return json.dumps({"address": " ".join(words), "token_file": "t", "pid": 1})

        def pid(self, name: str) -> int:
            return 1

    monkeypatch.setattr(demo_sidecar, "_POSIX", system == "posix")
    address, _ = await demo_sidecar._start_sidecar(story, Recorder())  # type: ignore[arg-type]
    assert ("--tcp-port 0" in address) is (system == "nt")
    assert ("0600" in capsys.readouterr().out) is (system == "posix")
