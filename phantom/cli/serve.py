"""``phantom serve``: the reference server (surface §6)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from phantom.api.clients import AuthorizedClients
from phantom.cli.failures import as_usage
from phantom.cli.logging_options import LogFilter, LogJson, configure
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.config import PhantomConfig
from phantom.errors import ConfigError
from phantom.limits import MAX_SESSIONS, MAX_SESSIONS_PER_SOURCE
from phantom.server.certificates import server_context
from phantom.server.forward_serving import ForwardHandler, check_exposed, parse_targets
from phantom.server.handlers import Handler, load_handler
from phantom.server.keys import SYSTEM_KEY_FILE
from phantom.server.logs import DEFAULT_FILTER
from phantom.server.service import Server, ServerSettings
from phantom.server.service import serve as serve_until_signal

__all__ = ["serve"]


def serve(
    bind: Annotated[
        str, typer.Option("--bind", envvar="PHANTOM_BIND", metavar="ADDRESS", help="HOST:PORT or URL to listen on.")
    ] = "0.0.0.0:4242",
    leg: Annotated[
        list[str] | None,
        typer.Option("--leg", envvar="PHANTOM_LEGS", metavar="URL", help="A further address to listen on; repeatable."),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise",
            envvar="PHANTOM_ADVERTISE",
            metavar="HOST",
            help="Host in the printed URLs when --bind is a wildcard.",
        ),
    ] = None,
    signing_key_file: Annotated[
        Path | None,
        typer.Option(
            "--signing-key-file",
            envvar="PHANTOM_SIGNING_KEY_FILE",
            metavar="PATH",
            help=f"The server's identity; made if there is none. Default: {SYSTEM_KEY_FILE},"
            " or signing.key in the user's state directory.",
        ),
    ] = None,
    authorized_clients: Annotated[
        Path | None,
        typer.Option(
            "--authorized-clients",
            envvar="PHANTOM_AUTHORIZED_CLIENTS",
            metavar="FILE",
            help="Let in only clients whose identity is in this file: a fingerprint a line. Edits take effect.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            envvar="PHANTOM_TLS_CERT",
            metavar="FILE",
            help="Certificate of wss:// addresses: a PEM chain, with its key or beside it (--tls-key).",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", envvar="PHANTOM_TLS_KEY", metavar="FILE", help="Key of the certificate, PEM."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            envvar="PHANTOM_ORIGINS",
            metavar="ORIGIN",
            help="Web pages of this origin may use ws:// and wss:// addresses, as those of the same host may;"
            " repeatable; *: all.",
        ),
    ] = None,
    handler: Annotated[
        str,
        typer.Option(
            "--handler",
            envvar="PHANTOM_HANDLER",
            metavar="NAME",
            help="What sessions are for: echo, or an installed one.",
        ),
    ] = "echo",
    forward_to: Annotated[
        list[str] | None,
        typer.Option(
            "--forward-to",
            envvar="PHANTOM_FORWARD_TO",
            metavar="[NAME=]PLACE",
            help="Carry clients' connections to this HOST:PORT or unix:PATH, in place of a handler; repeatable,"
            " the first is the default one.",
        ),
    ] = None,
    allow_anyone: Annotated[
        bool,
        typer.Option(
            "--allow-anyone",
            envvar="PHANTOM_ALLOW_ANYONE",
            help="Let --forward-to be reached from other machines without --authorized-clients.",
        ),
    ] = False,
    max_sessions: Annotated[
        int,
        typer.Option(
            "--max-sessions", envvar="PHANTOM_MAX_SESSIONS", metavar="N", min=0, help="Sessions at a time; 0: no limit."
        ),
    ] = MAX_SESSIONS,
    max_sessions_per_ip: Annotated[
        int,
        typer.Option(
            "--max-sessions-per-ip",
            envvar="PHANTOM_MAX_SESSIONS_PER_IP",
            metavar="N",
            min=0,
            help="Sessions of one address (IPv6: of a /64); 0: no limit.",
        ),
    ] = MAX_SESSIONS_PER_SOURCE,
    reuse_port: Annotated[
        bool,
        typer.Option("--reuse-port", envvar="PHANTOM_REUSE_PORT", help="Share the port with servers that do the same."),
    ] = False,
    log_json: LogJson = False,
    log_filter: LogFilter = DEFAULT_FILTER,
    as_json: Json = False,
) -> None:
    """Run the reference server.

    Prints a URL with the pin, for 'phantom ping', when it is ready. SIGTERM or Ctrl-C ends it when its sessions have
    finished, within ten seconds; a second one ends it at once. SIGHUP reads the file of authorised clients again.
    """
    screen = Screen(as_json=as_json)
    authorized = None if authorized_clients is None else AuthorizedClients.from_file(authorized_clients)
    addresses = (bind, *(url for urls in leg or () for url in urls.split(",") if url))
    with as_usage():
        settings = ServerSettings(
            addresses=addresses,
            key_file=signing_key_file,
            handler=_handler(handler, forward_to, addresses, authorized is not None or allow_anyone),
            advertise=advertise,
            reuse_port=reuse_port,
            authorized=authorized,
            tls=server_context(tls_cert, tls_key),
            origins=tuple(one for given in origin or () for one in given.split(",") if one),
            config=PhantomConfig.server(max_sessions=max_sessions, max_sessions_per_ip=max_sessions_per_ip),
        )
    configure(screen, log_filter, log_json)

    def ready(server: Server) -> None:
        urls = list(server.urls)
        screen.result({"urls": urls, "pid": os.getpid()}, *(Text(url, "bold green") for url in urls))

    asyncio.run(serve_until_signal(settings, ready))


def _handler(name: str, forward_to: list[str] | None, addresses: tuple[str, ...], known: bool) -> Handler:
    """What sessions are for. ConfigError and ValidationError; also if anybody could reach what is forwarded to."""
    if not forward_to:
        return load_handler(name)
    if name != "echo":
        raise ConfigError("give --handler or --forward-to, not both")
    targets = parse_targets(forward_to)
    check_exposed(addresses, allowed=known)
    return ForwardHandler(targets)
