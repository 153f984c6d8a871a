"""forward, pipe and serve --forward-to as commands: what they refuse, and as processes of their own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.cli.forward import status_line
from phantom.server.forward_client import Status
from phantom.server.forward_serving import ForwardHandler, parse_targets
from tests.cli.conftest import MODULE, Invoke, Serving, Start

URL = f"phantom://phantom1:{'a' * 52}@127.0.0.1:1"


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("phantom")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A service of this process that greets, and sends back what it gets."""

    def talk(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            sock.sendall(b"hi ")
            while data := sock.recv(65536):
                sock.sendall(data)

    def accept() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(sock,)).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["serve", "--forward-to", "h"], "is not HOST:PORT"),
            (["serve", "--bind", "127.0.0.1:1", "--forward-to", "h:1", "--forward-to", "h:2"], "needs a name"),
            (["serve", "--forward-to", "h:1"], "--allow-anyone"),
            (["serve", "--bind", "127.0.0.1:1", "--leg", ":2", "--forward-to", "h:1"], "--allow-anyone"),
            (["serve", "--bind", "127.0.0.1:1", "--forward-to", "h:1", "--handler", "other"], "not both"),
            (["forward", "nonsense", URL], "is not HOST:PORT"),
            (["forward", "127.0.0.1:0", URL, "--target", "a b"], "does not name a target"),
            (["forward", "127.0.0.1:0"], "where to?"),
            (["forward", "127.0.0.1:0", "127.0.0.1:1"], "a pin is required"),
            (["pipe", URL, "--target", "a b"], "does not name a target"),
            (["pipe"], "where to?"),
        ],
    )
    def test_a_mistake_is_usage(self, invoke: Invoke, arguments: list[str], complaint: str) -> None:
        outcome = invoke(*arguments)
        assert outcome.code == 2
        assert complaint in outcome.err

    @pytest.mark.parametrize("command", [["forward", "127.0.0.1:0"], ["pipe"]])
    def test_nobody_there(self, invoke: Invoke, command: list[str]) -> None:
        assert invoke(*command, URL).code == 4

    def test_a_target_that_is_down(self, invoke: Invoke, serving: Serving) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        with serving(ForwardHandler(parse_targets([f"127.0.0.1:{port}"]))) as url:
            outcome = invoke("pipe", url)
            assert (outcome.code, outcome.out) == (4, "")
            assert "the target refused the connection" in outcome.err
            outcome = invoke("pipe", url, "--target", "nope", "--json")
            assert (
                json.loads(outcome.err.splitlines()[-1])["error"]["message"] == "the server has no target of that name"
            )

    def test_a_server_that_is_none(self, invoke: Invoke, serving: Serving) -> None:
        async def answers(session: phantom.PhantomSession) -> None:
            stream = await session.accept_stream()
            await stream.send_reliable(b"what?")
            await stream.finish()
            await session.accept_stream()

        async def resets(session: phantom.PhantomSession) -> None:
            stream = await session.accept_stream()
            stream.reset(5)
            await session.accept_stream()

        async def ends(session: phantom.PhantomSession) -> None:
            await (await session.accept_stream()).finish()
            await session.accept_stream()

        for handler, complaint in ((answers, "does not speak"), (resets, "was reset"), (ends, "without an answer")):
            with serving(handler) as url:
                outcome = invoke("pipe", url)
            assert outcome.code == 4
            assert complaint in outcome.err

    def test_the_line_for_people(self) -> None:
        line = status_line(Status(connections=3, sessions=1, bytes_in=1234567))
        assert line.startswith("3 connections in 1 sessions")
        assert "1,234,567 B in" in line


@pytest.mark.slow
class TestAsProcesses:
    @pytest.fixture
    def url(self, start: Start, tmp_path: Path, echo_port: int) -> str:
        key = ["--signing-key-file", str(tmp_path / "signing.key")]
        return start("serve", "--bind", "127.0.0.1:0", *key, "--forward-to", f"e=127.0.0.1:{echo_port}").line()

    def talk(self, place: str) -> bytes:
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"abc")
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def forward(self, start: Start, url: str, *more: str) -> tuple[Any, str]:
        program = start("forward", "127.0.0.1:0", url, *more)
        return program, program.line().removeprefix("forwarding from ")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_connection_and_the_end(self, start: Start, url: str, number: int) -> None:
        program, place = self.forward(start, url, "--target", "e")
        assert self.talk(place) == b"hi abc"
        program.send(number)
        ended = program.end()
        assert (ended.code, ended.out) == (0, "")

    def test_a_connection_may_end_after_the_signal(self, start: Start, url: str) -> None:
        program, place = self.forward(start, url)
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            assert sock.recv(3) == b"hi "
            program.send(signal.SIGTERM)
            sock.sendall(b"abc")
            sock.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: sock.recv(65536), b"")) == b"abc"
        assert program.end().code == 0

    def test_a_second_signal_ends_it_at_once(self, start: Start, url: str) -> None:
        program, place = self.forward(start, url)
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            assert sock.recv(3) == b"hi "
            program.send(signal.SIGTERM)
            while True:  # until it has stopped listening, and so has seen the signal
                try:
                    socket.create_connection((host, int(port))).close()
                except OSError:
                    break
            program.send(signal.SIGTERM)
            assert program.end().code == 128 + signal.SIGTERM

    def test_status_as_json(self, start: Start, url: str) -> None:
        program, place = self.forward(start, url, "--status", "--json")
        place = json.loads(place)["listening"]
        assert json.loads(program.line())["accepted"] == 0
        assert self.talk(place) == b"hi abc"
        last = json.loads(program.stop().out.splitlines()[-1])
        assert (last["accepted"], last["bytes_out"], last["bytes_in"], last["refused"]) == (1, 3, 6, 0)

    def test_pipe(self, url: str) -> None:
        done = subprocess.run([*MODULE, "pipe", url, "--target", "e"], input=b"abc" * 100_000, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"hi " + b"abc" * 100_000

    def test_the_identity_decides(self, start: Start, tmp_path: Path, echo_port: int) -> None:
        own, other = tmp_path / "own.key", tmp_path / "other.key"
        for path in (own, other):
            phantom.generate_signing_key().write_file(path)
        clients = tmp_path / "clients"
        clients.write_text(phantom.HybridSigningKey.from_file(own).verifying_key().fingerprint())
        key = ["--signing-key-file", str(tmp_path / "signing.key"), "--authorized-clients", str(clients)]
        url = start("serve", "--bind", "0.0.0.0:0", *key, "--forward-to", f"127.0.0.1:{echo_port}").line()
        program, place = self.forward(start, url, "--identity", str(own))
        assert self.talk(place) == b"hi abc"
        assert start("forward", "127.0.0.1:0", url, "--identity", str(other)).end().code == 6
        clients.write_text("")
        assert program.end().code == 6

    def test_a_live_line_on_a_terminal(self, url: str, tmp_path: Path) -> None:
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [*MODULE, "forward", "127.0.0.1:0", url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(theirs)
        seen = b""
        while b"0 connections in 1 sessions" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGTERM)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # EIO: it has ended
            pass
        os.close(ours)
        assert process.wait() == 0
