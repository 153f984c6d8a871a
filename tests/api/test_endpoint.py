"""Addresses and pinned URLs (surface §1.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.api.endpoint import Address, parse_address, resolve_target
from phantom.errors import ConfigError, UnsupportedError, ValidationError

PIN = "phantom1:4fvt3lmgjcn2m2a4bgjw2vcpvqdbeqx447jc4e7bchobjlnspm6q"
OTHER = "phantom1:" + "a" * 52


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("example.org:4242", Address("tcp", "example.org", 4242)),
        ("tcp://127.0.0.1:1", Address("tcp", "127.0.0.1", 1)),
        ("tcp://[::1]:65535", Address("tcp", "::1", 65535)),
        ("kcp://h:1", Address("kcp", "h", 1)),
        ("wss://h:443/phantom", Address("wss", "h", 443, "/phantom")),
        (f"phantom://{PIN}@h:1", Address("tcp", "h", 1, "", PIN)),
        (f"phantom+ws://{PIN}@[::1]:80/x", Address("ws", "::1", 80, "/x", PIN)),
        ("  tcp://h:1  ", Address("tcp", "h", 1)),
    ],
)
def test_forms(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h:",
        ":1",
        "h:0",
        "h:65536",
        "h:99999",
        "h:-1",
        "h:1x",
        "::1:1",
        "ws://h:1/é",
        "ws://h:1/a?b",
        "http://h:1",
        "tcp://",
        "tcp://h:1/path",
        "phantom://h:1",
        "phantom://phantom1:xx@h:1",
        f"tcp://{PIN}@h:1",
        f"phantom+foo://{PIN}@h:1",
        "a b:1",
        "h:1?x",
        "TCP:/h:1",
    ],
)
def test_bad_text_is_a_validation_error(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_address(text)


@pytest.mark.parametrize("text", ["pty:///dev/ttyS0", "stdio:", " stdio: "])
@pytest.mark.parametrize("listening", [False, True])
def test_forms_of_the_embedded_leg_are_not_in_this_version(text: str, listening: bool) -> None:
    with pytest.raises(UnsupportedError, match="embedded"):
        parse_address(text, listening=listening)


def test_only_text_is_an_address() -> None:
    with pytest.raises(ValidationError):
        parse_address(4242)  # type: ignore[arg-type]


def test_listening_allows_any_host_and_port_zero() -> None:
    assert parse_address("tcp://:0", listening=True) == Address("tcp", "", 0)


_hosts = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


@given(
    st.sampled_from(["tcp", "udp", "kcp", "faketls", "ws", "wss"]),
    _hosts,
    st.integers(1, 65535),
    st.sampled_from([None, PIN]),
)
def test_printing_and_parsing_is_the_identity(leg: str, host: str, port: int, pin: str | None) -> None:
    address = Address(leg, host, port, "/p" if leg in ("ws", "wss") else "", pin)
    assert parse_address(address.url()) == address


def test_the_url_with_a_given_pin() -> None:
    assert Address("tcp", "h", 1).url(PIN) == f"phantom://{PIN}@h:1"
    assert Address("kcp", "h", 1).url(PIN) == f"phantom+kcp://{PIN}@h:1"


def test_resolving_finds_the_pins() -> None:
    address, pins = resolve_target(f"phantom://{PIN}@h:1", None)
    assert address.host == "h"
    assert pins.fingerprints() == (PIN,)
    assert resolve_target(f"phantom://{PIN}@h:1", [OTHER, PIN])[1].fingerprints() == (PIN,)
    assert resolve_target("h:1", [OTHER, PIN])[1].fingerprints() == (OTHER, PIN)
    with pytest.raises(ConfigError):
        resolve_target("h:1", None)
    with pytest.raises(ConfigError):
        resolve_target(f"phantom://{PIN}@h:1", OTHER)


def test_legs_that_are_not_built_say_so() -> None:
    with pytest.raises(UnsupportedError, match="udp"):
        parse_address("udp://h:1").require_built()
