"""Sessions over every kind of address: what an address means, and what it needs."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import phantom
from phantom import blocking
from phantom.api import legs
from phantom.api.endpoint import parse_address
from phantom.errors import (
    ConfigError,
    NetworkError,
    PhantomTimeoutError,
    ServerIdentityMismatchError,
    UnsupportedError,
    ValidationError,
)
from phantom.runtime.browser import BrowserRuntime
from tests.calm import PATIENCE, nothing_left, until


@pytest.mark.parametrize("scheme", ["tcp", "ws", "wss"])
async def test_a_session_over_each_leg(scheme: str, server_key: Any, tls_contexts: dict[str, ssl.SSLContext]) -> None:
    async with phantom.listen(f"{scheme}://localhost:0", key=server_key, tls=tls_contexts["server"]) as listener:
        url = listener.urls[0]
        if scheme != "tcp":
            assert url.startswith(f"phantom+{scheme}://phantom1:")
            assert url.endswith("/phantom")
        url = url.replace("127.0.0.1", "localhost").replace("[::1]", "localhost")
        async with nothing_left(listener):
            async with phantom.connect(url, timeout=PATIENCE, tls=tls_contexts["client"]) as client:
                server = (await listener.accept(PATIENCE)).session
                assert client.negotiated.leg == server.negotiated.leg == ("tcp" if scheme == "tcp" else "websocket")
                for size in (0, 1, 100, 70_000, 1 << 20, 5 << 20):
                    await client.send(bytes(size))
                    assert await server.recv(PATIENCE) == bytes(size)
                    await server.send(bytes(size))
                    assert await client.recv(PATIENCE) == bytes(size)
            assert await server.disconnect()


async def test_a_wrong_pin_is_refused_over_websocket(server_key: Any, other_key: Any) -> None:
    async with phantom.listen("ws://127.0.0.1:0/deep/path", key=server_key) as listener:
        with pytest.raises(ServerIdentityMismatchError):
            await phantom.connect(listener.local_addrs[0], other_key.verifying_key(), timeout=PATIENCE)


async def test_another_path_is_a_network_error_that_says_so(server_key: Any) -> None:
    async with phantom.listen("ws://127.0.0.1:0/here", key=server_key) as listener:
        there = listener.local_addrs[0].replace("/here", "/there")
        with pytest.raises(NetworkError, match=r"answered 404.*no WebSocket is taken on this path"):
            await phantom.connect(there, server_key.verifying_key(), timeout=PATIENCE)
        await until(lambda: listener.metrics_snapshot().handshakes_failure == 1)


async def test_one_listener_takes_all_kinds_at_once(server_key: Any, tls_contexts: dict[str, ssl.SSLContext]) -> None:
    addresses = ("tcp://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0")
    async with phantom.listen(*addresses, key=server_key, tls=tls_contexts["server"]) as listener:
        for url in listener.urls:
            target = url.replace("127.0.0.1", "localhost") if "wss" in url else url
            async with phantom.connect(target, timeout=PATIENCE, tls=tls_contexts["client"]) as client:
                await (await listener.accept(PATIENCE)).session.disconnect()
                assert [message async for message in client] == []


async def test_pages_come_in_by_their_origin(server_key: Any) -> None:
    async with phantom.listen("ws://127.0.0.1:0", key=server_key, origins=["https://app.example"]) as listener:

        def ask(origin: str | None) -> tuple[int, str]:
            connection = http.client.HTTPConnection(listener.local_addr, timeout=PATIENCE)
            headers = {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                **({"Origin": origin} if origin else {}),
            }
            connection.request("GET", "/phantom", headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode() if answer.status != 101 else ""
            connection.close()
            return answer.status, text

        for origin, status in (
            (None, 101),
            ("https://app.example", 101),
            (f"http://{listener.local_addr}", 101),
            ("https://evil.example", 403),
        ):
            assert (await asyncio.to_thread(ask, origin))[0] == status


def test_what_web_addresses_need_is_said_before_any_io(tls_contexts: dict[str, ssl.SSLContext]) -> None:
    with pytest.raises(ConfigError, match="needs a certificate"):
        phantom.listen("wss://127.0.0.1:0")
    with pytest.raises(ValidationError, match=r"tls is an ssl\.SSLContext, not str"):
        phantom.listen("wss://127.0.0.1:0", tls="cert.pem")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"tls is an ssl\.SSLContext"):
        phantom.connect("wss://127.0.0.1:1", "00" * 1984, tls=True)  # type: ignore[arg-type]


async def test_a_server_that_never_answers_times_out(server_key: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PhantomTimeoutError, match=r"did not take the WebSocket within 0\.2 s"):
            await phantom.connect(address, server_key.verifying_key(), timeout=0.2)


def test_blocking_sessions_over_tls(server_key: Any, tls_contexts: dict[str, ssl.SSLContext]) -> None:
    with blocking.listen("wss://127.0.0.1:0", key=server_key, tls=tls_contexts["server"], origins=["*"]) as listener:
        url = listener.urls[0].replace("127.0.0.1", "localhost")
        with blocking.connect(url, timeout=PATIENCE, tls=tls_contexts["client"]) as client:
            server = listener.accept(PATIENCE).session
            client.send(b"over TLS", PATIENCE)
            assert server.recv(PATIENCE) == b"over TLS"
            client.disconnect(timeout=PATIENCE)
            server.disconnect(timeout=PATIENCE)


async def test_in_a_page_the_leg_is_its_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def websocket(url: str, protocols: tuple[str, ...]) -> Any:
        asked.append((url, protocols))
        return SimpleNamespace(readyState=1, bufferedAmount=0, close=lambda code: None)

    js, ffi = ModuleType("js"), ModuleType("pyodide.ffi")
    js.WebSocket = SimpleNamespace(new=websocket)  # type: ignore[attr-defined]
    ffi.to_js = tuple  # type: ignore[attr-defined]
    ffi.create_proxy = lambda handler: SimpleNamespace(destroy=lambda: None)  # type: ignore[attr-defined]
    for name, module in (("js", js), ("pyodide", ModuleType("pyodide")), ("pyodide.ffi", ffi)):
        monkeypatch.setitem(sys.modules, name, module)
    for text in ("ws://127.0.0.1:80", "wss://[::1]:443/other"):
        leg = await legs._leg_of_page(parse_address(text), BrowserRuntime(), PATIENCE)
        assert leg.name == "websocket"
        leg.close(linger=False)
        assert leg.closed
    assert asked == [
        ("ws://127.0.0.1:80/phantom", ("phantom-core",)),
        ("wss://[::1]:443/other", ("phantom-core",)),
    ]
    with pytest.raises(UnsupportedError, match="a page has no tcp"):
        await legs._leg_of_page(parse_address("tcp://127.0.0.1:80"), BrowserRuntime(), PATIENCE)
