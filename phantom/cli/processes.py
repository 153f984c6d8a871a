"""Processes that the demo starts: each with its own log, all ended and their files removed however the demo ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from phantom.errors import PhantomTimeoutError, RuntimeInitError

__all__ = ["Workshop"]

_START_TIMEOUT: Final = 20.0  # s
_STOP_TIMEOUT: Final = 5.0  # s
_SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Workshop:
    """A private folder and the processes at work in it. A context manager, for the main thread."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="phantom-demo-")
        self.folder = Path(self._folder.name)
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Being told to end is like Ctrl-C: what was started has to go first.
        self._handlers = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number in (*_SIGNALS, signal.SIGINT):
            self._handlers.setdefault(number, signal.signal(number, signal.SIG_IGN))
        try:
            self.stop()
            self._folder.cleanup()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs one command of ``phantom`` in the folder, to its end."""
        return await asyncio.to_thread(self._run, words)

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "phantom", *words],
            cwd=self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT,
        )

    async def start(self, name: str, *words: str) -> str:
        """Starts a command that keeps running, in the folder, and returns the first line it prints.

        RuntimeInitError with the end of its log if it ends instead, PhantomTimeoutError if it says nothing in time.
        """
        process = self._spawn(name, words)
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), _START_TIMEOUT)
        except BaseException as error:
            process.kill()  # the thread that reads ends with it
            if isinstance(error, TimeoutError):
                raise PhantomTimeoutError(f"the {name} did not start within {_START_TIMEOUT:g} s") from None
            raise
        if not line:
            await asyncio.to_thread(process.wait, _STOP_TIMEOUT)
            self.check()
        return line.strip()

    def _spawn(self, name: str, words: Sequence[str]) -> subprocess.Popen[str]:
        with self._log(name).open("w") as log:
            process = self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "phantom", *words],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the demo, which ends it in its own order
            )
        return process

    def pid(self, name: str) -> int:
        """The process id of what was started as ``name``."""
        return self._running[name].pid

    def check(self) -> None:
        """RuntimeInitError, with the last line of its log, if a process that should run has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "it logged nothing")
                raise RuntimeInitError(f"the {name} ended with status {process.returncode}: {last.strip()}")

    def stop(self) -> None:
        """Ends every process by its id, politely first."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _environment() -> dict[str, str]:
    """Without the settings of a real server or sidecar; the child's module search path is ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PHANTOM_") and name != "RUST_LOG"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"}
