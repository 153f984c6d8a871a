"""A server and a sidecar for the programs in the documents that ask for them (``<!-- run: server sidecar -->``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.support import ROOT


def environment(**more: str) -> dict[str, str]:
    """This one, without what a person may have set for real servers and sidecars."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PHANTOM_") and name != "RUST_LOG"}
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": path, "PYTHONUTF8": "1", "NO_COLOR": "1"} | more


@contextmanager
def running(folder: Path, *words: str) -> Iterator[str]:
    """A command of ``phantom`` that keeps running; its first line."""
    with (folder / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "phantom", *words],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            assert line, (folder / f"{words[0]}.log").read_text()
            yield line
        finally:
            process.terminate()
            process.communicate(timeout=20)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The pinned URL of a server that echoes."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("serve", "--bind", "127.0.0.1:0", "--signing-key-file", "server.key")
        with running(Path(folder), *command) as url:
            yield url


@pytest.fixture(scope="session")
def sidecar() -> Iterator[dict[str, str]]:
    """What a client needs to find a sidecar: the two variables."""
    with tempfile.TemporaryDirectory(prefix="phantom-") as folder:
        os.chmod(folder, 0o700)
        with running(Path(folder), "sidecar", "--socket", "sidecar.sock", "--print-ready") as line:
            ready = json.loads(line)
            yield {
                "PHANTOM_SIDECAR_ADDRESS": ready["address"],
                "PHANTOM_SIDECAR_TOKEN_FILE": ready["token_file"],
            }
