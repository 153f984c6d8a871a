"""Addresses and pinned URLs: one form in API, CLI, proto, config and documents (surface §1.7)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final

from phantom.crypto.pins import Pins, PinSet, parse_fingerprint
from phantom.errors import ConfigError, UnsupportedError, ValidationError

__all__ = ["LEGS_BUILT", "Address", "is_wildcard", "parse_address", "resolve_target"]

_LEGS: Final = ("tcp", "udp", "kcp", "faketls", "ws", "wss")
LEGS_BUILT: Final = ("tcp", "faketls", "ws", "wss")
_SCHEME = re.compile(r"^([a-z][a-z0-9+]*)://")
_HOST_PORT = re.compile(r"^(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:/@?#\s]*)):([0-9]{1,5})(/[!\x22$->@-~]*)?$")


@dataclass(frozen=True, slots=True)
class Address:
    """``LEG://HOST:PORT[/path]``, with the fingerprint of the pin if the URL had one."""

    leg: str
    host: str
    port: int
    path: str = ""
    pin: str | None = None

    @property
    def host_port(self) -> str:
        """``HOST:PORT``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, pin: str | None = None) -> str:
        """The URL, with ``pin`` or its own one if any; ``phantom://`` means tcp."""
        pin = pin or self.pin
        if pin is None:
            return f"{self.leg}://{self.host_port}{self.path}"
        scheme = "phantom" if self.leg == "tcp" else f"phantom+{self.leg}"
        return f"{scheme}://{pin}@{self.host_port}{self.path}"

    def on_this_host(self) -> Address:
        """The same, with loopback in place of a wildcard: an address that leads there from this machine."""
        if not is_wildcard(self.host):
            return self
        return replace(self, host="::1" if ":" in self.host else "127.0.0.1")

    def require_built(self) -> None:
        """UnsupportedError unless this version has the leg."""
        if self.leg not in LEGS_BUILT:
            raise UnsupportedError(f"the {self.leg} leg is not in this version; use {', '.join(LEGS_BUILT)}")


def is_wildcard(host: str) -> bool:
    """Whether a bound host stands for every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def parse_address(text: str, *, listening: bool = False) -> Address:
    """Reads any form of surface §1.7; an empty host is allowed only when ``listening``.

    Raises ValidationError saying what is wrong with the text; UnsupportedError for the forms of the embedded leg.
    """
    if not isinstance(text, str):
        raise ValidationError("an address is a text such as tcp://host:4242")
    scheme, rest = "tcp", text.strip()
    if rest == "stdio:" or rest.startswith("pty://"):
        raise UnsupportedError(f"the embedded leg is not in this version; use {', '.join(LEGS_BUILT)}")
    match = _SCHEME.match(rest)
    if match:
        scheme, rest = match.group(1), rest[match.end() :]
    pin = None
    if scheme == "phantom" or scheme.startswith("phantom+"):
        leg = scheme.removeprefix("phantom").removeprefix("+") or "tcp"
        pin, at, rest = rest.partition("@")
        if not at:
            raise ValidationError(
                "a phantom:// URL has the server's fingerprint before the host: phantom://phantom1:…@host:port"
            )
        parse_fingerprint(pin)
    else:
        leg = scheme
    if leg not in _LEGS:
        raise ValidationError(f"unknown scheme {scheme!r}; use one of {', '.join(_LEGS)}, phantom, phantom+LEG")
    found = _HOST_PORT.match(rest)
    if not found or ("@" in rest):
        raise ValidationError(f"{rest!r} is not HOST:PORT (IPv6 in brackets)")
    host, port, path = found.group(1) or found.group(2) or "", int(found.group(3)), found.group(4) or ""
    if port > 65535 or (port == 0 and not listening):
        raise ValidationError(f"{port} is not a port between {0 if listening else 1} and 65535")
    if not host and not listening:
        raise ValidationError("the host is missing")
    if path and leg not in ("ws", "wss"):
        raise ValidationError(f"a path belongs to ws and wss addresses only, not to {leg}")
    return Address(leg, host, port, path, pin)


def resolve_target(target: str, pin: Pins | None) -> tuple[Address, PinSet]:
    """The address and the pins of a connect, before any I/O.

    ConfigError if there is no pin at all or the URL's contradicts ``pin``; ValidationError if one is malformed.
    """
    address = parse_address(target)
    if pin is None:
        if address.pin is None:
            raise ConfigError(
                "a pin is required: pass the server's fingerprint or key, or a phantom:// URL that has it"
            )
        return address, PinSet.parse(address.pin)
    pins = PinSet.parse(pin)
    if address.pin is not None and address.pin not in pins.fingerprints():
        raise ConfigError("the pin in the URL is not among those passed as pin")
    return address, PinSet.parse(address.pin) if address.pin is not None else pins
