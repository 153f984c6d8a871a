"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "HostOption",
    "IdentityOption",
    "Json",
    "LegOption",
    "PinFileOption",
    "PinHexOption",
    "PinOption",
    "PortOption",
    "TargetArgument",
]

Json = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as one JSON object.")]

TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET", help="phantom://PIN@HOST:PORT as 'phantom serve' prints it, or HOST:PORT with a pin."
    ),
]
HostOption = Annotated[str | None, typer.Option("--host", metavar="HOST", help="In place of TARGET, with --port.")]
PortOption = Annotated[
    int | None, typer.Option("--port", metavar="PORT", min=1, max=65535, help="In place of TARGET, with --host.")
]
LegOption = Annotated[
    str | None, typer.Option("--leg", metavar="LEG", help="How to reach --host and --port: tcp (the default).")
]
PinOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pin", metavar="FINGERPRINT", help="Fingerprint of the server's key; repeatable, any one may match."
    ),
]
PinHexOption = Annotated[
    list[str] | None,
    typer.Option("--pinned-key-hex", metavar="HEX", help="The server's verifying key in hex; repeatable."),
]
PinFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--pinned-key-file",
        metavar="FILE",
        help="A file with the server's fingerprint or its verifying key, raw or in hex; repeatable.",
    ),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="KEYFILE",
        help="A signing key to prove to the server, as 'phantom keygen' makes it; for servers that ask who you are.",
    ),
]
