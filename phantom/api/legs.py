"""Which leg an address means: opening one as a client, taking one as a server (surface §1.7)."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Collection
from dataclasses import dataclass

from phantom.api.endpoint import Address
from phantom.api.shared import self_tested_provider
from phantom.config import PhantomConfig
from phantom.crypto.rng import RngProvider
from phantom.errors import ConfigError, PhantomTimeoutError, UnsupportedError, ValidationError
from phantom.runtime.base import Runtime
from phantom.transport.legs.base import Leg
from phantom.transport.legs.faketls import Disguise, FakeTlsLeg
from phantom.transport.legs.http_upgrade import PATH, UpgradePolicy
from phantom.transport.legs.tcp import TcpLeg, connect_tcp
from phantom.transport.legs.tls import TlsLeg
from phantom.transport.legs.websocket import WebSocketLeg, open_websocket

__all__ = ["WebOptions", "accepted_leg", "open_leg"]

_WEB = ("ws", "wss")


@dataclass(frozen=True, slots=True)
class WebOptions:
    """What only ws and wss addresses use: the TLS context of wss, and the origins of pages that a server lets in."""

    tls: ssl.SSLContext | None = None
    origins: Collection[str] = ()

    def check(self, address: Address, *, listening: bool) -> None:
        """Raises ConfigError or ValidationError if ``address`` cannot work with them."""
        if self.tls is not None and not isinstance(self.tls, ssl.SSLContext):
            raise ValidationError(f"tls is an ssl.SSLContext, not {type(self.tls).__name__}")
        if address.leg == "wss" and listening and self.tls is None:
            raise ConfigError(
                f"{address.url()} needs a certificate: pass tls=, an ssl.SSLContext with it, or listen on ws:// behind"
                " a proxy that has one"
            )


async def open_leg(
    address: Address, runtime: Runtime, timeout: float, web: WebOptions, rng: RngProvider, config: PhantomConfig
) -> Leg:
    """A leg that is connected to ``address``, within ``timeout`` seconds. Raises NetworkError, PhantomTimeoutError."""
    if sys.platform == "emscripten":
        return await _leg_of_page(address, runtime, timeout)
    deadline = runtime.monotonic() + timeout
    leg: Leg = await connect_tcp(address.host, address.port, runtime, timeout)
    if address.leg == "faketls":
        return FakeTlsLeg(leg, _disguise(config, rng), runtime, client=True)
    if address.leg not in _WEB:
        return leg
    if address.leg == "wss":
        leg = TlsLeg(leg, web.tls or ssl.create_default_context(), address.host)
    websocket = WebSocketLeg.client(leg, address.host_port, address.path, rng=rng)
    try:
        async with runtime.timeout(max(0.0, deadline - runtime.monotonic())):
            return await open_websocket(websocket)
    except TimeoutError:
        raise PhantomTimeoutError(
            f"{address.host_port} did not take the WebSocket within {timeout:g} s; is it a web server?"
        ) from None


async def _leg_of_page(address: Address, runtime: Runtime, timeout: float) -> Leg:
    from phantom.transport.legs.browser import BrowserLeg, open_browser_leg, page_socket

    if address.leg not in _WEB:
        raise UnsupportedError(f"a page has no {address.leg}; listen on ws:// or wss:// and connect there")
    url = f"{address.leg}://{address.host_port}{address.path or PATH}"
    return await open_browser_leg(BrowserLeg(page_socket(url), runtime, address.host_port), timeout)


def _disguise(config: PhantomConfig, rng: RngProvider) -> Disguise:
    return Disguise(config.faketls_sni, config.faketls_version, self_tested_provider(config), rng)


def accepted_leg(
    sock: socket.socket, address: Address, runtime: Runtime, web: WebOptions, rng: RngProvider, config: PhantomConfig
) -> Leg:
    """The leg of a connection that came in at ``address``. Raises OSError if it is gone already."""
    leg: Leg = TcpLeg(sock, runtime)
    if address.leg == "faketls":
        return FakeTlsLeg(leg, _disguise(config, rng), runtime, client=False)
    if address.leg not in _WEB:
        return leg
    if address.leg == "wss":
        assert web.tls is not None
        leg = TlsLeg(leg, web.tls, None)
    return WebSocketLeg.server(leg, UpgradePolicy(address.path or UpgradePolicy().path, web.origins))
