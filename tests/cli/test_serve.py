"""serve: its settings, what it prints, and its end; as a command in this process and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import phantom
from phantom.cli import serve as command
from phantom.server import logs
from phantom.server.service import Server, ServerSettings
from tests.cli.conftest import Invoke, OnTerminal, Start, host_port
from tests.tls import write_certificate


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("phantom")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


class TestSettings:
    """Flag beats environment beats default; what is wrong is told before anything is done."""

    @pytest.fixture
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Settings and log filters that a run would have used."""
        found: list[Any] = []

        async def serve(settings: ServerSettings, ready: object) -> None:
            found.append(settings)

        monkeypatch.setattr(command, "serve_until_signal", serve)
        monkeypatch.setattr(logs, "configure", lambda text, formatter: found.append((text, formatter)))
        return found

    def test_defaults(self, invoke: Invoke, taken: list[Any]) -> None:
        assert invoke("serve").code == 0
        (text, formatter), settings = taken
        assert text == logs.DEFAULT_FILTER
        assert type(formatter) is logs.PlainFormatter
        assert settings.addresses == ("0.0.0.0:4242",)
        assert settings.key_file is None
        assert settings.advertise is None
        assert not settings.reuse_port
        assert settings.authorized is None
        assert settings.handler.__name__ == "echo"
        assert settings.config == phantom.PhantomConfig.server()
        assert (settings.config.max_sessions, settings.config.max_sessions_per_ip) == (1024, 64)

    ENVIRONMENT: ClassVar = {
        "PHANTOM_BIND": "127.0.0.1:1",
        "PHANTOM_LEGS": "127.0.0.1:2 tcp://[::1]:3,127.0.0.1:4",
        "PHANTOM_ADVERTISE": "example.org",
        "PHANTOM_SIGNING_KEY_FILE": "/from/environment",
        "PHANTOM_HANDLER": "echo",
        "PHANTOM_MAX_SESSIONS": "5",
        "PHANTOM_MAX_SESSIONS_PER_IP": "6",
        "PHANTOM_REUSE_PORT": "true",
        "PHANTOM_LOG_JSON": "1",
        "PHANTOM_LOG": "error",
        "RUST_LOG": "warn",
    }

    def test_the_environment(self, invoke: Invoke, taken: list[Any]) -> None:
        assert invoke("serve", **self.ENVIRONMENT).code == 0
        (text, formatter), settings = taken
        assert text == "error"
        assert type(formatter) is logs.JsonFormatter
        assert settings.addresses == ("127.0.0.1:1", "127.0.0.1:2", "tcp://[::1]:3", "127.0.0.1:4")
        assert settings.key_file == Path("/from/environment")
        assert settings.advertise == "example.org"
        assert settings.reuse_port
        assert (settings.config.max_sessions, settings.config.max_sessions_per_ip) == (5, 6)

    def test_the_older_name_of_the_log_filter(self, invoke: Invoke, taken: list[Any]) -> None:
        assert invoke("serve", RUST_LOG="warn").code == 0
        assert taken[0][0] == "warn"

    def test_flags_beat_the_environment(self, invoke: Invoke, taken: list[Any]) -> None:
        flags = ["--bind", "127.0.0.1:9", "--leg", "127.0.0.1:8", "--leg", "127.0.0.1:7", "--advertise", "host"]
        flags += ["--signing-key-file", "/from/flag", "--max-sessions", "0", "--max-sessions-per-ip", "1"]
        flags += ["--log-filter", "info", "--handler", "echo"]
        assert invoke("serve", *flags, **self.ENVIRONMENT).code == 0
        (text, _), settings = taken
        assert text == "info"
        assert settings.addresses == ("127.0.0.1:9", "127.0.0.1:8", "127.0.0.1:7")
        assert settings.key_file == Path("/from/flag")
        assert settings.advertise == "host"
        assert (settings.config.max_sessions, settings.config.max_sessions_per_ip) == (0, 1)

    @pytest.mark.parametrize("how", ["flag", "environment"])
    def test_authorised_clients(self, invoke: Invoke, taken: list[Any], tmp_path: Path, how: str) -> None:
        path = tmp_path / "clients.txt"
        path.write_text(phantom.generate_signing_key().verifying_key().fingerprint())
        if how == "flag":
            outcome = invoke("serve", "--authorized-clients", str(path), PHANTOM_AUTHORIZED_CLIENTS="/nowhere")
        else:
            outcome = invoke("serve", PHANTOM_AUTHORIZED_CLIENTS=str(path))
        assert outcome.code == 0
        assert len(taken[1].authorized) == 1
        assert taken[1].clients == phantom.ClientPolicy.required(taken[1].authorized)

    @pytest.mark.parametrize("how", ["flag", "environment"])
    def test_what_web_addresses_need(self, invoke: Invoke, taken: list[Any], tmp_path: Path, how: str) -> None:
        file = str(write_certificate(tmp_path / "both.pem"))
        bind, origins = "wss://127.0.0.1:1/x", ("https://a.example", "https://b.example")
        if how == "flag":
            flags = ["--bind", bind, "--tls-cert", file, "--tls-key", file, *(f"--origin={one}" for one in origins)]
            outcome = invoke("serve", *flags)
        else:
            environment = {"PHANTOM_BIND": bind, "PHANTOM_TLS_CERT": file, "PHANTOM_ORIGINS": ",".join(origins)}
            outcome = invoke("serve", **environment)
        assert outcome.code == 0
        settings = taken[1]
        assert settings.addresses == (bind,)
        assert isinstance(settings.tls, ssl.SSLContext)
        assert settings.origins == origins

    def test_wss_without_a_certificate_ends_the_start(self, invoke: Invoke, taken: list[Any]) -> None:
        outcome = invoke("serve", "--bind", "wss://127.0.0.1:1")
        assert outcome.code == 2
        assert "needs a certificate" in outcome.err
        assert taken == []

    @pytest.mark.parametrize("content", [None, "not a pin"], ids=["missing", "malformed"])
    def test_a_list_of_clients_that_cannot_be_read_ends_the_start(
        self, invoke: Invoke, taken: list[Any], tmp_path: Path, content: str | None
    ) -> None:
        path = tmp_path / "clients.txt"
        if content is not None:
            path.write_text(content)
        outcome = invoke("serve", "--authorized-clients", str(path))
        assert outcome.code == 1
        assert f"the list of clients {path}" in outcome.err
        assert taken == []

    def test_an_empty_variable_is_an_unset_one(self, invoke: Invoke, taken: list[Any]) -> None:
        assert invoke("serve", **dict.fromkeys(self.ENVIRONMENT, "")).code == 0
        assert taken[1].addresses == ("0.0.0.0:4242",)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--bind", "nonsense"], "is not HOST:PORT"),
            (["--bind", "udp://127.0.0.1:1"], "not in this version"),
            (["--bind", f"phantom://phantom1:{'a' * 52}@127.0.0.1:1"], "has no pin"),
            (["--leg", "nonsense"], "is not HOST:PORT"),
            (["--handler", "nope"], "no handler 'nope'"),
            (["--advertise", "host:1"], "leave the port out"),
            (["--max-sessions", "9999999"], "max_sessions must be"),
            (["--max-sessions", "many"], "--max-sessions"),
        ],
    )
    def test_a_mistake_is_usage(self, invoke: Invoke, taken: list[Any], arguments: list[str], complaint: str) -> None:
        outcome = invoke("serve", *arguments)
        assert outcome.code == 2
        assert complaint in outcome.err
        assert taken == []


class TestInThisProcess:
    @pytest.fixture(autouse=True)
    def _ends_when_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server gets SIGTERM as soon as it has said that it is ready."""
        real = command.serve_until_signal

        async def serve(settings: ServerSettings, ready: Any) -> None:
            def ready_then_end(server: Server) -> None:
                ready(server)
                os.kill(os.getpid(), signal.SIGTERM)

            await real(settings, ready_then_end)

        monkeypatch.setattr(command, "serve_until_signal", serve)

    def test_it_prints_a_url_for_each_address(self, invoke: Invoke, key_file: Path, key: Any) -> None:
        outcome = invoke(
            "serve", "--bind", "127.0.0.1:0", "--leg", "tcp://[::1]:0", "--signing-key-file", str(key_file)
        )
        assert outcome.code == 0, outcome.err
        pin = re.escape(key.verifying_key().fingerprint())
        first, second = outcome.out.splitlines()
        assert re.fullmatch(rf"phantom://{pin}@127\.0\.0\.1:\d+", first)
        assert re.fullmatch(rf"phantom://{pin}@\[::1\]:\d+", second)
        assert f"WARNING phantom.server: listening on {first}" in outcome.err
        assert outcome.err.splitlines()[-1].endswith("phantom.server: stopped")

    def test_json(self, invoke: Invoke, key_file: Path) -> None:
        outcome = invoke("serve", "--bind", "127.0.0.1:0", "--signing-key-file", str(key_file), "--json", "--log-json")
        ready = json.loads(outcome.out)
        assert set(ready) == {"urls", "pid"}
        assert ready["pid"] == os.getpid()
        for line in outcome.err.splitlines():
            assert {"timestamp", "level", "logger", "message", "fields"} <= set(json.loads(line))

    def test_a_port_in_use(self, invoke: Invoke, key_file: Path, url: str) -> None:
        outcome = invoke("serve", "--bind", host_port(url), "--signing-key-file", str(key_file))
        assert (outcome.code, outcome.out) == (4, "")
        assert outcome.err.splitlines()[-1].startswith(f"error: cannot listen on {host_port(url)}: ")

    @pytest.mark.parametrize(("content", "mode"), [(b"short", 0o600), (bytes(64), 0o644)])
    def test_a_bad_key(self, invoke: Invoke, tmp_path: Path, content: bytes, mode: int) -> None:
        path = tmp_path / "signing.key"
        path.write_bytes(content)
        path.chmod(mode)
        outcome = invoke("serve", "--bind", "127.0.0.1:0", "--signing-key-file", str(path))
        assert (outcome.code, outcome.out) == (1, "")
        assert path.read_bytes() == content

    def test_a_bad_filter_is_told_and_survived(self, invoke: Invoke, key_file: Path) -> None:
        outcome = invoke(
            "serve", "--bind", "127.0.0.1:0", "--signing-key-file", str(key_file), "--log-filter", "nonsense"
        )
        assert outcome.code == 0
        assert "'nonsense' is ignored" in outcome.err.splitlines()[0]


@pytest.mark.slow
class TestAsAProcess:
    def serve(self, start: Start, tmp_path: Path, *arguments: str, **environment: str) -> tuple[Any, str]:
        key = ["--signing-key-file", str(tmp_path / "signing.key")]
        program = start("serve", "--bind", "127.0.0.1:0", *key, *arguments, **environment)
        return program, program.line()

    def test_ping_takes_the_url_as_it_is(self, start: Start, invoke: Invoke, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path)
        outcome = invoke("ping", url)
        assert outcome.code == 0, outcome.err
        ended = program.stop()
        assert (ended.code, ended.out) == (0, "")
        assert "session accepted" in ended.err

    def test_the_url_of_the_default_wildcard_works_here(self, start: Start, invoke: Invoke, tmp_path: Path) -> None:
        program = start("serve", PHANTOM_BIND=":0", PHANTOM_SIGNING_KEY_FILE=str(tmp_path / "signing.key"))
        outcome = invoke("ping", program.line(), "--timeout-secs", "30")
        assert outcome.code == 0, outcome.err

    def test_a_restarted_server_has_the_same_key(self, start: Start, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path)
        program.stop()
        _, again = self.serve(start, tmp_path)
        assert url.partition("@")[0] == again.partition("@")[0]

    async def test_it_echoes_to_many_clients(self, start: Start, tmp_path: Path) -> None:
        _, url = self.serve(start, tmp_path)

        async def client(number: int) -> bool:
            async with phantom.connect(url) as session:
                messages = [bytes([number]) * size for size in (0, 1, 1000, 100_000)]
                for message in messages:
                    await session.send(message)
                return [await session.recv(60) for _ in messages] == messages

        assert all(await asyncio.gather(*map(client, range(40))))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_an_idle_session_is_closed_with_code_14(self, start: Start, tmp_path: Path, number: int) -> None:
        program, url = self.serve(start, tmp_path)
        async with phantom.connect(url) as session:
            await session.send(b"x")
            await session.recv(30)
            program.send(number)
            with pytest.raises(phantom.ConnectionClosedError) as closed:
                await session.recv(30)
            assert closed.value.peer_code == 14
        ended = await asyncio.to_thread(program.end)
        assert ended.code == 0
        assert "stopped" in ended.err

    async def busy(self, url: str) -> phantom.PhantomSession:
        """A session to which the server owes data: this side sends and does not read."""
        session = await phantom.connect(url)
        for _ in range(6):
            await session.send(bytes(1 << 20))
        await session.flush_queue(30)
        return session

    async def test_a_busy_session_gets_what_it_is_owed(self, start: Start, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path)
        session = await self.busy(url)
        program.send(signal.SIGTERM)
        await asyncio.to_thread(program.logged, "draining")
        owed = 0
        with pytest.raises(phantom.ConnectionClosedError) as closed:
            while True:
                message = await session.recv(30)
                assert message == bytes(1 << 20)
                owed += 1
        assert closed.value.peer_code == 14
        assert 1 <= owed <= 6
        await session.disconnect()
        assert (await asyncio.to_thread(program.end)).code == 0

    async def test_a_second_signal_ends_it_at_once(self, start: Start, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path)
        session = await self.busy(url)
        program.send(signal.SIGTERM)
        await asyncio.to_thread(program.logged, "draining")
        program.send(signal.SIGTERM)
        ended = await asyncio.to_thread(program.end)
        assert ended.code == 128 + signal.SIGTERM
        assert "stopped" not in ended.err
        await session.disconnect(timeout=0)

    def test_on_a_terminal(self, start: Start, tmp_path: Path) -> None:
        program, _ = self.serve(start, tmp_path, FORCE_COLOR="1", TERM="xterm")
        assert "\x1b[33mWARNING\x1b[0m" in program.logged("listening on")

    def test_json_logs_parse(self, start: Start, invoke: Invoke, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path, PHANTOM_LOG_JSON="1")
        assert invoke("ping", url).code == 0
        entries = [json.loads(line) for line in program.stop().err.splitlines()]
        accepted = next(entry for entry in entries if entry["message"] == "session accepted")
        assert accepted["level"] == "DEBUG"
        assert set(accepted["fields"]) == {"peer", "session"}
        assert entries[-1]["message"] == "stopped"

    def test_it_serves_through_a_wrong_pin(self, start: Start, invoke: Invoke, tmp_path: Path) -> None:
        program, url = self.serve(start, tmp_path)
        wrong = phantom.generate_signing_key().verifying_key().fingerprint()
        assert invoke("ping", host_port(url), "--pin", wrong).code == 3
        assert invoke("ping", url).code == 0
        ended = program.stop()
        assert "before its first packet" in ended.err
        assert "crashed" not in ended.err

    def test_port_in_use(self, start: Start, tmp_path: Path) -> None:
        _, url = self.serve(start, tmp_path)
        second = start("serve", "--bind", host_port(url), "--signing-key-file", str(tmp_path / "signing.key")).end()
        assert second.code == 4
        assert second.err.splitlines()[-1].startswith("error: cannot listen on ")

    def test_reuse_port_shares_it(self, start: Start, tmp_path: Path) -> None:
        _, url = self.serve(start, tmp_path, "--reuse-port")
        key = ["--signing-key-file", str(tmp_path / "signing.key")]
        second = start("serve", "--bind", host_port(url), *key, "--reuse-port")
        assert second.line() == url

    def test_help_on_a_terminal_is_drawn(self, on_terminal: OnTerminal) -> None:
        outcome = on_terminal("serve", "--help")
        assert outcome.code == 0
        assert "╭" in outcome.out
