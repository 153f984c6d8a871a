"""The demo in one process: a listener, a client, and the bytes that came back."""

from __future__ import annotations

import json
import sys

import pytest

from phantom.api.endpoint import LEGS_BUILT
from tests.cli.conftest import Invoke, OnTerminal


def test_it_prints_the_echoed_bytes(invoke: Invoke) -> None:
    outcome = invoke("demo")
    assert (outcome.code, outcome.err) == (0, "")
    assert "echoed      b'Hello, post-quantum world!'" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("Everything worked")


def test_json(invoke: Invoke) -> None:
    found = json.loads(invoke("demo", "--json").out)
    assert found["ok"]
    assert bytes.fromhex(found["echo"]["echoed_hex"]) == b"Hello, post-quantum world!"
    assert found["handshake"]["server"] in found["listener"]["url"]


@pytest.mark.parametrize("leg", [leg for leg in LEGS_BUILT if leg != "wss"])
def test_the_leg_is_chosen(invoke: Invoke, leg: str) -> None:
    found = json.loads(invoke("demo", "--leg", leg, "--json").out)
    assert bytes.fromhex(found["echo"]["echoed_hex"]) == b"Hello, post-quantum world!"
    assert ("phantom+" in found["listener"]["url"]) == (leg != "tcp")


def test_all_legs_are_shown_in_turn(invoke: Invoke) -> None:
    found = json.loads(invoke("demo", "--leg", "all", "--json").out)
    shown = [leg for leg in LEGS_BUILT if leg != "wss"]
    assert [name for name in found if name.startswith("echo")] == [f"echo over {leg}" for leg in shown]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--leg", "kcp"], "the kcp leg is not in this version"),
        (["--leg", "wss"], "wss needs a certificate"),
        (["--leg", "pigeon"], "unknown scheme 'pigeon'"),
        (["--leg", "all", "--sidecar"], "leave --leg out"),
    ],
)
def test_a_leg_that_is_not_there_is_usage(invoke: Invoke, arguments: list[str], complaint: str) -> None:
    outcome = invoke("demo", *arguments)
    assert outcome.code == 2
    assert complaint in outcome.err


def test_on_a_terminal(invoke: Invoke) -> None:
    outcome = invoke("demo", FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="80")
    assert outcome.code == 0
    assert "╭" in outcome.out


def test_without_the_extra_the_larger_one_names_the_extra(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "phantom.cli.demo_sidecar", raising=False)
    monkeypatch.delattr("phantom.cli.demo_sidecar", raising=False)
    monkeypatch.setitem(sys.modules, "phantom.sidecar.client", None)
    outcome = invoke("demo", "--sidecar")
    assert outcome.code == 1
    assert "pip install '.[sidecar]'" in outcome.err


@pytest.mark.slow
def test_on_a_real_terminal(on_terminal: OnTerminal) -> None:
    outcome = on_terminal("demo")
    assert outcome.code == 0
    assert "Everything worked" in outcome.out
