"""The package in headless Chromium and in Node, against native servers (``make wasm``): tests/bindings/wasm/page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bindings.wasm import build

HERE = Path(__file__).parent
PAGE = HERE / "page"
SCENARIOS = re.findall(r"^  async \"?([^\"(]+)\"?\(phantom, at\)", (PAGE / "scenarios.mjs").read_text(), re.MULTILINE)
WRONG = "phantom1:" + "a" * 52

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        "PHANTOM_TEST_WASM" not in os.environ, reason="NOT RUN: the package for web pages is tested by `make wasm`"
    ),
]


@contextmanager
def _process(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is told to end, and has ended, at the end."""
    with subprocess.Popen(
        [*map(str, command)], cwd=build.ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{process.args}: ended without a word"
    return line


def _tell(process: subprocess.Popen[str], what: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("NOT RUN: there is no chromium; as root: sh bindings/wasm/install-tools.sh")


@pytest.fixture(scope="module", params=["chromium", "node"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the scenarios came to there."""
    if not (build.DIST / "index.js").exists():
        pytest.skip("NOT RUN: bindings/wasm/dist is not built: make wasm")
    if request.param == "chromium":
        os.environ["PHANTOM_CHROMIUM"] = _chromium()
    key = tmp_path_factory.mktemp("page") / "signing.key"
    with ExitStack() as stack:
        page = stack.enter_context(_process("node", PAGE / f"in-{request.param}.mjs", build.DIST))
        origin = json.loads(_line(page))["origin"]
        serve = ("-m", "phantom", "serve", "--bind", "ws://127.0.0.1:0", "--json", "--origin", origin)
        server = stack.enter_context(_process(sys.executable, *serve, "--signing-key-file", key))
        many = stack.enter_context(_process(sys.executable, *serve, "--signing-key-file", f"{key}.many"))
        streams = stack.enter_context(_process(sys.executable, HERE / "echo.py", origin))
        at = {
            "serve": json.loads(_line(server))["urls"][0],
            "many": json.loads(_line(many))["urls"][0],  # 64 at a time is what a server takes from one address
            "streams": _line(streams).strip(),
            "wrong": WRONG,
            "closed": "ws://127.0.0.1:1/phantom",
        }
        _tell(page, at)
        while "stop" in (said := json.loads(_line(page))):
            streams.kill()
            streams.wait()
            _tell(page, {})
        return said


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(ran: Any, scenario: str) -> None:
    assert ran["results"][scenario].get("error") is None, ran["results"][scenario]["error"]


def test_nothing_but_the_scenarios_ran(ran: Any) -> None:
    assert set(ran["results"]) == {"load", *SCENARIOS}


def test_the_content_security_policy_holds(ran: Any) -> None:
    assert ran["violations"] == []
    assert not ran.get("evaluated", False)


def test_a_reload_and_a_time_without_network(ran: Any) -> None:
    if "reloaded" not in ran:
        pytest.skip("Node reloads no pages")
    assert ran["reloaded"] == [3, 3, 3]
    assert ran["offline"] == "NETWORK"


def test_what_cannot_be_loaded_is_a_typed_error(ran: Any) -> None:
    if "forbidden" not in ran:
        pytest.skip("Node has no policy")
    code, message = ran["forbidden"]
    assert code == "RUNTIME_INIT"
    assert "Content Security" in message
    assert ran["noWorker"] == "RUNTIME_INIT"


def test_the_demo_shows_what_it_should() -> None:
    environment = os.environ | {"PHANTOM_CHROMIUM": _chromium()}
    demo = [sys.executable, str(build.ROOT / "examples/wasm-demo/serve.py"), "--drive"]
    done = subprocess.run(demo, cwd=build.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
