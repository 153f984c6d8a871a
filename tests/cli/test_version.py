"""version: what this installation is."""

from __future__ import annotations

import json

import pytest

import phantom
from phantom.cli import version
from tests.cli.conftest import Invoke


def test_the_version(invoke: Invoke) -> None:
    assert invoke("version").out == f"phantom {phantom.__version__}\n"
    assert json.loads(invoke("version", "--json").out) == {"version": phantom.__version__}


@pytest.mark.parametrize(("accelerated", "shown"), [(True, "yes"), (False, "no"), (None, "unknown")])
def test_verbose(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, accelerated: bool | None, shown: str) -> None:
    monkeypatch.setattr(version, "aes_accelerated", lambda: accelerated)
    lines = dict(line.split(": ") for line in invoke("version", "--verbose").out.splitlines()[1:])
    assert lines["wire versions"] == "2"
    assert "cli" in lines["extras"].split(", ")
    assert lines["crypto provider"] in ("openssl", "pqcrypto")
    assert lines["cipher suite"] in ("aes-256-gcm", "chacha20-poly1305")
    assert lines["AES acceleration"] == shown
    assert lines["platform"].startswith("Python 3.")


def test_verbose_without_extras(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "installed_extras", list)
    assert "extras: none" in invoke("version", "-v").out


def test_verbose_as_json(invoke: Invoke) -> None:
    found = json.loads(invoke("version", "-v", "--json").out)
    assert set(found) == {
        "version",
        "wire_versions",
        "extras",
        "provider",
        "suite",
        "aes_accelerated",
        "python",
        "platform",
    }
