"""``phantom version``: what this installation is."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

import phantom
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.crypto.cpu import aes_accelerated, default_suite
from phantom.crypto.providers import get_provider
from phantom.limits import VERSION_2
from phantom.sidecar.info import installed_extras

__all__ = ["version"]

_ANSWERS = {True: "yes", False: "no", None: "unknown"}


def version(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what it can do on this machine.")] = False,
    as_json: Json = False,
) -> None:
    """Print the version."""
    screen = Screen(as_json=as_json)
    value: dict[str, object] = {"version": phantom.__version__}
    lines = [f"phantom {phantom.__version__}"]
    if verbose:
        provider = get_provider().name
        accelerated = aes_accelerated()
        extras = installed_extras()
        value |= {
            "wire_versions": [VERSION_2],
            "extras": extras,
            "provider": provider,
            "suite": default_suite(provider).label,
            "aes_accelerated": accelerated,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        lines += [
            f"wire versions: {VERSION_2}",
            f"extras: {', '.join(extras) or 'none'}",
            f"crypto provider: {provider}",
            f"cipher suite: {default_suite(provider).label}",
            f"AES acceleration: {_ANSWERS[accelerated]}",
            f"platform: Python {platform.python_version()}, {platform.platform()}",
        ]
    screen.result(value, *lines)
