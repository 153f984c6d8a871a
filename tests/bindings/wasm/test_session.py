"""A page's session, in Pyodide under Node, with native servers on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bindings.wasm.node import HERE, MARKS, ROOT, run

pytestmark = MARKS

MIB = 16
WRONG_PIN = "phantom1:" + "a" * 52


@contextmanager
def server(*command: str) -> Iterator[str]:
    """A process and its first line."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()


def test_a_session_with_native_servers(tmp_path: Path) -> None:
    serve = ["-m", "phantom", "serve", "--bind", "ws://127.0.0.1:0/phantom", "--json"]
    with (
        server(*serve, "--signing-key-file", str(tmp_path / "signing.key")) as ready,
        server(str(HERE / "echo.py")) as echo,
    ):
        served = json.loads(ready)["urls"][0]
        (out,) = run(tmp_path, "session.py", served, echo.strip(), WRONG_PIN, str(MIB))
    info = out["info"]
    assert info["algorithms"] == ["X25519", "ML-KEM-768", "Ed25519", "ML-DSA-65"]
    assert (info["suite"], info["leg"], info["version"]) == ("chacha20-poly1305", "websocket", 2)
    assert info["fingerprint"] in served
    assert out["self_tests"] == 14
    assert [state for state, _ in out["states"]] == ["handshake"] * 3 + ["connected", "draining", "closed"]
    assert (out["echo_equal"], out["acknowledged"], out["state"], out["after_the_end"]) == (True, True, "closed", None)
    assert out["stream_equal"] is True
    assert out["stream_ids"] == list(range(5, 21, 2))
    assert out["streams"] == [[5000, number] for number in range(8)]
    assert (out["epoch"], out["after_rekey"]) == (1, "after")
    assert out["export"] == [32, True, False]
    # A reader that does not read: the peer had 64 MiB to send, and what came is what credit was given for.
    assert out["slow_received"] < 8 << 20
    assert out["slow_heap_growth"] < 32 << 20
    assert {name: found[1:] for name, found in out["refusals"].items()} == {
        "wrong pin": ["ServerIdentityMismatchError", 20],
        "contradiction": ["ConfigError", 4],
        "no pin": ["ConfigError", 4],
        "tcp": ["UnsupportedError", 19],
        "nobody": ["NetworkError", 1],
        "other path": ["NetworkError", 1],
        "no url": ["ValidationError", 6],
        "bad pin": ["ValidationError", 6],
    }
    assert all(found[0] == "PhantomError" for found in out["refusals"].values())
    assert out["abandoned"] == ["ConnectionClosedError"] * 2
    assert out["aborted"] == "SessionDeadError"
    print(json.dumps({name: value for name, value in out.items() if name.endswith(("_ms", "_s", "p50", "p99"))}))
