"""The URLs that a server prints lead to it, also when it listens on every address."""

from __future__ import annotations

import asyncio
import socket

import pytest

from phantom.errors import ValidationError
from phantom.server import urls
from phantom.server.urls import check_advertised, is_wildcard, pinned_urls

PIN = "phantom1:" + "a" * 52


def nowhere() -> str:
    return "no-such-host.invalid"


@pytest.mark.parametrize(
    ("bound", "advertise", "expected"),
    [
        (["tcp://127.0.0.1:1"], None, ["127.0.0.1:1"]),
        (["tcp://127.0.0.1:1"], "example.org", ["127.0.0.1:1"]),
        (["tcp://0.0.0.0:1"], "example.org", ["example.org:1"]),
        (["tcp://0.0.0.0:1"], "2001:db8::1", ["[2001:db8::1]:1"]),
        (["tcp://0.0.0.0:1", "tcp://[::]:1"], "example.org", ["example.org:1"]),
        (["tcp://0.0.0.0:1", "tcp://[::]:1"], None, ["127.0.0.1:1", "[::1]:1"]),
        (["tcp://[::1]:1", "tcp://10.0.0.1:2"], None, ["[::1]:1", "10.0.0.1:2"]),
    ],
)
async def test_printed_urls(bound: list[str], advertise: str | None, expected: list[str]) -> None:
    found = await pinned_urls(bound, PIN, advertise, host_name=nowhere)
    assert found == tuple(f"phantom://{PIN}@{host_port}" for host_port in expected)


async def test_a_wildcard_takes_a_host_name_that_leads_back() -> None:
    assert await pinned_urls(["tcp://0.0.0.0:1"], PIN, None, host_name=lambda: "localhost") == (
        f"phantom://{PIN}@localhost:1",
    )


async def test_a_wildcard_does_not_take_a_name_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 0))]

    async def resolve(*_: object, **__: object) -> list[object]:
        return list(elsewhere)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    assert await pinned_urls(["tcp://0.0.0.0:1"], PIN, None, host_name=lambda: "other") == (
        f"phantom://{PIN}@127.0.0.1:1",
    )


async def test_a_name_server_that_does_not_answer_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[object]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    monkeypatch.setattr(urls, "_RESOLVE_TIMEOUT", 0.001)
    assert await pinned_urls(["tcp://[::]:1"], PIN, None, host_name=lambda: "slow") == (f"phantom://{PIN}@[::1]:1",)


@pytest.mark.parametrize("name", ["under score with space", "a:b", "", "ü" * 300])
async def test_a_host_name_that_is_none_is_not_printed(name: str) -> None:
    assert await pinned_urls(["tcp://0.0.0.0:1"], PIN, None, host_name=lambda: name) == (
        f"phantom://{PIN}@127.0.0.1:1",
    )


@pytest.mark.parametrize(
    ("host", "bare"),
    [("example.org", "example.org"), ("192.0.2.1", "192.0.2.1"), ("[::1]", "::1"), ("2001:db8::1", "2001:db8::1")],
)
def test_what_can_be_advertised(host: str, bare: str) -> None:
    assert check_advertised(host) == bare


@pytest.mark.parametrize("host", ["", "example.org:4242", "tcp://example.org", "a b", "user@host", "host/path"])
def test_what_cannot(host: str) -> None:
    with pytest.raises(ValidationError, match="leave the port out"):
        check_advertised(host)


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("name", False)])
def test_wildcards(host: str, expected: bool) -> None:
    assert is_wildcard(host) is expected
