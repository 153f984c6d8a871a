"""``phantom sidecar``: Phantom for programs in other languages (surface §15)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phantom.cli.failures import as_usage
from phantom.cli.logging_options import LogFilter, LogJson, configure
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.errors import UnsupportedError
from phantom.server.signals import termination

if TYPE_CHECKING:
    from phantom.sidecar.server import Ready, Sidecar

__all__ = ["sidecar"]


def sidecar(
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            envvar="PHANTOM_SIDECAR_SOCKET",
            metavar="PATH",
            help="The unix socket. Default: phantom/sidecar.sock in the user's runtime directory.",
        ),
    ] = None,
    tcp_port: Annotated[
        int | None,
        typer.Option(
            "--tcp-port",
            envvar="PHANTOM_SIDECAR_TCP_PORT",
            metavar="PORT",
            min=0,
            max=65535,
            help="Serve on 127.0.0.1 and this port instead; 0: any free one.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            envvar="PHANTOM_SIDECAR_TOKEN_FILE",
            metavar="PATH",
            help="Take the access token from this file. Default: a new one beside the socket.",
        ),
    ] = None,
    reflection: Annotated[
        bool,
        typer.Option(
            "--reflection",
            envvar="PHANTOM_SIDECAR_REFLECTION",
            help="Let clients with the token list the services.",
        ),
    ] = False,
    allow_seed_export: Annotated[
        bool,
        typer.Option(
            "--allow-seed-export",
            envvar="PHANTOM_SIDECAR_ALLOW_SEED_EXPORT",
            help="Let clients take the seed of a key that they have made here.",
        ),
    ] = False,
    print_ready: Annotated[
        bool,
        typer.Option("--print-ready", help="Print one line of JSON when it serves: address, token file, version, pid."),
    ] = False,
    log_json: LogJson = False,
    log_filter: LogFilter = "info",
    as_json: Json = False,
) -> None:
    """Serve other programs over gRPC.

    Only programs of this user get in: by a private directory, and by a token on every call.
    """
    screen = Screen(as_json=as_json or print_ready)
    try:
        from phantom.sidecar.server import SidecarOptions, ready_line, serve
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "the sidecar needs Phantom's extra 'sidecar'; in a clone of it: pip install '.[sidecar]'"
        ) from error
    with as_usage():
        options = SidecarOptions(
            socket=socket,
            tcp_port=tcp_port,
            token_file=token_file,
            reflection=reflection,
            allow_seed_export=allow_seed_export,
        )
    configure(screen, log_filter, log_json)

    def ready(state: Ready) -> None:
        if screen.as_json:
            print(ready_line(state), flush=True)
        else:
            screen.line(f"serving {state.address}")
            screen.line(f"token in {state.token_file}")

    asyncio.run(_serve(serve(options), ready))


async def _serve(server: Sidecar, ready: Callable[[Ready], None]) -> None:
    with termination() as asked:
        async with server:
            ready(server.ready)
            await asked.wait()
            logging.getLogger("phantom").info("the sidecar stops")
