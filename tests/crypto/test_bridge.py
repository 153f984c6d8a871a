"""The way to noble: found in a page only; arrays are reused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from phantom.crypto import bridge
from phantom.crypto.bridge import BRIDGE_NAME, Arrays, Secret, page_bridge, take
from phantom.errors import ConfigError
from tests.crypto.page import Bridge, Key, array


@pytest.fixture(autouse=True)
def _nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_found", [])


def test_there_is_no_bridge_outside_of_a_page() -> None:
    with pytest.raises(ConfigError, match="createBridge"):
        page_bridge()


def test_a_page_without_the_bridge_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "js", ModuleType("js"))
    with pytest.raises(ConfigError, match="__noble"):
        page_bridge()


def test_the_bridge_of_the_page_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    js = ModuleType("js")
    setattr(js, BRIDGE_NAME, Bridge())
    monkeypatch.setitem(sys.modules, "js", js)
    found = page_bridge()
    monkeypatch.delitem(sys.modules, "js")
    assert page_bridge() is found


def test_arrays_are_made_once_and_grow() -> None:
    made = Bridge()
    arrays = Arrays(made)
    assert arrays.copy(b"").length == 0
    first = arrays.copy(b"abc")
    assert (first.to_bytes(), len(made.made)) == (b"abc", 1)
    assert arrays.copy(b"xyz") is first
    assert arrays.copy(bytes(5000)).length == 5000
    assert len(made.made) == 2
    assert arrays.copy(bytes(8191)).length == 8191
    assert len(made.made) == 2


def test_the_number_of_views_is_bounded() -> None:
    arrays = Arrays(Bridge())
    for length in range(1, 300):
        assert arrays.room(length).length == length
    assert len(arrays._views) <= 64


def test_arrays_can_be_overwritten() -> None:
    made = Bridge()
    arrays = Arrays(made)
    arrays.wipe()  # there is nothing yet
    arrays.copy(b"secret")
    arrays.wipe()
    assert not any(made.made[0].data)


def test_a_secret_is_wiped_when_its_handle_goes() -> None:
    key = Key(None)
    handle = Secret(key)
    assert key.wiped == 0
    del handle
    assert key.wiped == 1


def test_what_is_taken_is_not_left_behind() -> None:
    left = array(b"secret")
    assert take(left) == b"secret"
    assert left.to_bytes() == bytes(6)
