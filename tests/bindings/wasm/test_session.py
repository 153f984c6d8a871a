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


def test_what_javascript_sees(tmp_path: Path) -> None:
    """Promises, Errors with codes, arrays of their own, undefined at the end; no handler left on a socket."""
    with server(str(HERE / "echo.py")) as echo:
        (out,) = run(tmp_path, "worker.mjs", echo.strip())
    assert (out["tests"], out["state"], out["id"]) == (14, "connected", 64)
    assert out["check"]["fingerprints"] == [out["info"]["fingerprint"]]
    assert out["echo"] == [True, True, "a Uint8Array"]
    assert (out["view"], out["buffer"]) == ([1, 2], [7])
    assert out["stream"][:2] == [1000, 3]
    assert (out["epoch"], out["exported"], out["closed"], out["end"]) == (1, 16, True, True)
    assert {"bytesSent", "bytesReceived", "rttMs", "buffered"} <= set(out["metrics"])
    errors = {
        "text": ("ValidationError", 6, False),
        "timeout": ("PhantomTimeoutError", 15, True),
        "finished": ("StreamClosedError", 34, False),
        "label": ("ValidationError", 6, False),
        "late": ("ConnectionClosedError", 14, False),
        "cancelled": ("ConnectionClosedError", 14, False),
        "nopin": ("ConfigError", 4, False),
        "badsuite": ("ConfigError", 4, False),
        "factory": ("NetworkError", 1, True),
    }
    assert {name: tuple(out[name]) for name in errors} == {
        name: (True, "PhantomError", *found) for name, found in errors.items()
    }
    assert out["states"] == ["handshake"] * 3 + ["connected", "rekeyed", "draining", "closed"]
    assert set(out["handlers"]) == {None}
