"""The pinned URLs that a server prints: ready to paste, also when it listens on every address (surface §6)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Final

from phantom.api.endpoint import Address, is_wildcard, parse_address
from phantom.errors import PhantomError, ValidationError

__all__ = ["check_advertised", "is_wildcard", "pinned_urls"]

_RESOLVE_TIMEOUT: Final = 1.0  # s; a slow name server must not delay the start of the server


def check_advertised(host: str) -> str:
    """``host`` as it goes into a URL, without brackets; ValidationError unless it is a host name or an IP address."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        if ":" in bare:
            return str(ipaddress.IPv6Address(bare))
        return parse_address(f"{bare}:1").host
    except (ValueError, PhantomError):
        raise ValidationError(f"{host!r} is not a host name or an IP address; leave the port out") from None


async def pinned_urls(
    bound: Iterable[str], fingerprint: str, advertise: str | None, *, host_name: Callable[[], str] = socket.gethostname
) -> tuple[str, ...]:
    """URLs with the pin for the addresses of a listener, each once.

    In place of a wildcard stands ``advertise``, else the host name if it leads back to this machine, else loopback.
    """
    urls = []
    for text in bound:
        address = parse_address(text)
        host = address.host
        if is_wildcard(host):
            host = advertise or await _own_name(host, host_name())
        urls.append(Address(address.leg, host, address.port, address.path).url(fingerprint))
    return tuple(dict.fromkeys(urls))


async def _own_name(wildcard: str, name: str) -> str:
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(name, 0, family=family, type=socket.SOCK_DGRAM)
        parse_address(f"{name}:1")
    except (OSError, UnicodeError, PhantomError):  # TimeoutError is an OSError
        found = []
    if found and all(_is_local(family, address) for *_, address in found):
        return name
    return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def _is_local(family: socket.AddressFamily, address: tuple[object, ...]) -> bool:
    """Only an address of this machine can be bound."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
