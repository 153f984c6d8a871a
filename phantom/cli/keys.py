"""``phantom keygen`` and ``phantom pubkey``: key files and what to pin of them."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from phantom.cli.failures import UsageError
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.errors import ConfigError

__all__ = ["keygen", "pubkey"]


class Format(enum.StrEnum):
    """The forms of a public key that ``pubkey`` prints alone."""

    FINGERPRINT = "fingerprint"
    HEX = "hex"
    RAW = "raw"


def keygen(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="Where the new signing key goes (mode 0600).")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing file. Who pinned its key must pin anew.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a signing key.

    Prints what to pin of it, as 'phantom pubkey' does.
    """
    screen = Screen(as_json=as_json)
    with HybridSigningKey.generate() as key:
        try:
            key.write_file(out, overwrite=force)
        except ConfigError as error:
            hint = "; --force replaces it, and then clients must pin the new key" if os.path.lexists(out) else ""
            raise ConfigError(f"{error}{hint}") from error
        _print_public(screen, key.verifying_key(), path=str(out))
    if not as_json:
        screen.note(f"signing key written to {out}; keep it secret")


def pubkey(
    path: Annotated[Path, typer.Option("--in", "-i", metavar="PATH", help="The signing key.")],
    form: Annotated[
        Format | None,
        typer.Option("--format", metavar="FORM", help="Print this alone: fingerprint, hex or raw (1984 bytes)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what to pin of a signing key.

    The fingerprint, then the verifying key in hex; either will do.
    """
    screen = Screen(as_json=as_json)
    if form is Format.RAW and (as_json or sys.stdout.isatty()):
        raise UsageError.of("raw bytes go to a file or a pipe: phantom pubkey --in KEY --format raw > server.pub")
    with HybridSigningKey.from_file(path) as signing_key:
        key = signing_key.verifying_key()
    if form is None or as_json:
        _print_public(screen, key)
    elif form is Format.RAW:
        sys.stdout.buffer.write(key.to_bytes())
        sys.stdout.buffer.flush()
    else:
        screen.line(key.fingerprint() if form is Format.FINGERPRINT else key.to_hex())


def _print_public(screen: Screen, key: HybridVerifyingKey, **more: str) -> None:
    value = {"fingerprint": key.fingerprint(), "verifying_key": key.to_hex(), **more}
    screen.result(value, Text(key.fingerprint(), "bold green"), key.to_hex())
