"""The command line in this process, in a process of its own, and on a terminal; and servers for it to talk to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

import phantom
from phantom.cli.app import app
from phantom.server.handlers import Handler, echo

MODULE = [sys.executable, "-m", "phantom"]


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's settings changes what the commands do or how they look."""
    for name in list(os.environ):
        if name.startswith("PHANTOM_") or name in ("RUST_LOG", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
            monkeypatch.delenv(name)


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    raw: bytes = b""


Invoke = Callable[..., Outcome]


@pytest.fixture
def invoke() -> Invoke:
    """``invoke("ping", ...)``: one command in this process, off any terminal. Keyword arguments are its environment."""

    def run(*arguments: str, **environment: str) -> Outcome:
        result = CliRunner().invoke(app, list(arguments), env=environment)
        return Outcome(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)

    return run


@pytest.fixture(scope="session")
def key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(scope="session")
def stranger() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(scope="session")
def key_file(key: phantom.HybridSigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "signing.key"
    key.write_file(path)
    return path


class LoopThread:
    """A server in a thread of its own, for commands that run in this one."""

    def __init__(
        self,
        key: phantom.HybridSigningKey,
        handler: Handler,
        clients: phantom.ClientPolicy | None = None,
    ) -> None:
        self.url = ""
        self._clients = clients or phantom.ClientPolicy.none()
        self._key = key
        self._handler = handler
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with phantom.listen("127.0.0.1:0", key=self._key, clients=self._clients) as listener:
            self.url = listener.urls[0]
            accepting = asyncio.create_task(self._accept(listener))
            self._ready.set()
            await self._stopping.wait()
            await listener.drain(0.0)
            await accepting

    async def _accept(self, listener: phantom.PhantomListener) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for outcome in listener:
                tasks.create_task(self._serve(outcome.session))

    async def _serve(self, session: phantom.PhantomSession) -> None:
        try:
            await session.await_ready()
            await self._handler(session)
        except phantom.PhantomError:
            return
        finally:
            await session.disconnect()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


Serving = Callable[..., Any]


@pytest.fixture
def serving(key: phantom.HybridSigningKey) -> Serving:
    """``with serving(handler) as url``: a server in a thread."""

    @contextmanager
    def start(handler: Handler = echo, **arguments: Any) -> Iterator[str]:
        server = LoopThread(key, handler, **arguments)
        try:
            yield server.url
        finally:
            server.stop()

    return start


@pytest.fixture(scope="module")
def url(key: phantom.HybridSigningKey) -> Iterator[str]:
    """The pinned URL of an echo server in a thread."""
    server = LoopThread(key, echo)
    yield server.url
    server.stop()


def host_port(url: str) -> str:
    return url.rpartition("@")[2]


# --- processes of their own -------------------------------------------------------------------------------------------


class Program:
    """A command as a process. Reading waits as long as the time limit of the test allows."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out: IO[str] = self.process.stdout
        self.err: IO[str] = self.process.stderr

    def line(self) -> str:
        """The next line of standard output."""
        line = self.out.readline()
        assert line, f"it ended with {self.process.wait()}: {self.err.read()}"
        return line.strip()

    def logged(self, text: str) -> str:
        """Reads standard error until a line has ``text``."""
        while text not in (line := self.err.readline()):
            assert line, f"it ended with {self.process.wait()} before it logged {text!r}"
        return line

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Outcome:
        """Waits until it ends by itself."""
        out, err = self.process.communicate()
        return Outcome(self.process.returncode, out, err)

    def stop(self) -> Outcome:
        """Asks it to end."""
        self.send(signal.SIGTERM)
        return self.end()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start("serve", ...)``: a command as a process, killed after the test if it still runs."""
    programs: list[Program] = []

    def run(*arguments: str, command: list[str] = MODULE, **environment: str) -> Program:
        program = Program([*command, *arguments], env={**os.environ, **environment})
        programs.append(program)
        return program

    yield run
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


OnTerminal = Callable[..., Outcome]


@pytest.fixture
def on_terminal() -> OnTerminal:
    """``on_terminal("demo", ...)``: a command on a terminal of 80 columns; both outputs together in ``out``."""

    def run(*arguments: str, **environment: str) -> Outcome:
        import fcntl
        import struct
        import termios

        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        settings = {**os.environ, "TERM": "xterm-256color", **environment}
        process = subprocess.Popen([*MODULE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=settings)
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:  # EIO: nobody has the other end any more
            pass
        finally:
            os.close(ours)
        return Outcome(process.wait(), b"".join(chunks).decode().replace("\r\n", "\n"), "")

    return run
