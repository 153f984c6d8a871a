"""``phantom forward`` and ``phantom pipe``: any TCP service over a session (surface §7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from typing import Annotated

import typer
from rich.text import Text

from phantom.api.connecting import connect
from phantom.api.session import PhantomSession
from phantom.cli.failures import as_usage
from phantom.cli.logging_options import LogFilter, LogJson, configure
from phantom.cli.options import (
    HostOption,
    IdentityOption,
    Json,
    LegOption,
    PinFileOption,
    PinHexOption,
    PinOption,
    PortOption,
    TargetArgument,
)
from phantom.cli.screen import Screen
from phantom.cli.targets import Target, identity_of, target_of
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.errors import NetworkError, PhantomError, StreamResetError
from phantom.server.forward_client import ForwardClient, Status, open_forwarded, refusal
from phantom.server.forward_wire import ACCEPTED, Place, check_name
from phantom.server.logs import DEFAULT_FILTER
from phantom.server.signals import termination

__all__ = ["forward", "pipe"]

_STATUS_EVERY = 1.0  # s
_PIECE = 64 * 1024

NameOption = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="Which of the server's targets; without it the first one."),
]


def forward(
    listen: Annotated[
        str, typer.Argument(metavar="LISTEN", help="Where to take connections: HOST:PORT, or unix:PATH.")
    ],
    target: TargetArgument = None,
    host: HostOption = None,
    port: PortOption = None,
    leg: LegOption = None,
    pin: PinOption = None,
    pinned_key_hex: PinHexOption = None,
    pinned_key_file: PinFileOption = None,
    identity: IdentityOption = None,
    name: NameOption = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print the status as a JSON object a line, whenever it has changed.")
    ] = False,
    log_json: LogJson = False,
    log_filter: LogFilter = DEFAULT_FILTER,
    as_json: Json = False,
) -> None:
    """Carry TCP or unix-socket connections to a service behind 'phantom serve --forward-to'.

    Each connection becomes one stream of a session, with half-close and reset kept. SIGTERM or Ctrl-C ends it when its
    connections have ended, within ten seconds; a second one ends it at once.
    """
    screen = Screen(as_json=as_json)
    with as_usage():
        place = Place.parse(listen, listening=True)
        checked = check_name(name) if name is not None else ""
    wanted = target_of(target, host, port, leg, pin, pinned_key_hex, pinned_key_file)
    with identity_of(identity) as key:
        with as_usage():
            connect(wanted.url, wanted.pins, identity=key)
        configure(screen, log_filter, log_json)
        asyncio.run(_forward(place, wanted, key, checked, screen, status))


async def _forward(
    place: Place, wanted: Target, key: HybridSigningKey | None, name: str, screen: Screen, as_status: bool
) -> None:
    async def session() -> PhantomSession:
        return await connect(wanted.url, wanted.pins, identity=key)

    with termination() as asked:
        client = ForwardClient(place, session, name=name)
        await client.start()
        listening = client.status.listening
        screen.result({"listening": listening, "pid": os.getpid()}, Text(f"forwarding from {listening}", "bold green"))
        showing = asyncio.ensure_future(_show(client.status, screen, as_status))
        stop = asyncio.ensure_future(asked.wait())
        try:
            await asyncio.wait((stop, client.failed), return_when=asyncio.FIRST_COMPLETED)
            error = client.failed.exception() if client.failed.done() else None
        finally:
            stop.cancel()
            await client.drain()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        if as_status:
            _print(client.status)
        if error is not None:
            raise error


def _print(status: Status) -> None:
    print(json.dumps(status.as_dict()), flush=True)


async def _show(status: Status, screen: Screen, as_status: bool) -> None:
    """The live line on a terminal, or JSON lines."""
    before: dict[str, object] = {}
    live = screen.err.status(Text("", "dim")) if screen.fancy and not as_status else None
    with live or contextlib.nullcontext():
        while True:
            now = status.as_dict()
            if now != before:
                before = now
                if as_status:
                    _print(status)
                elif live is not None:
                    live.update(Text(status_line(status), "dim"))
            await asyncio.sleep(_STATUS_EVERY)


def status_line(status: Status) -> str:
    """One line for people."""
    return (
        f"{status.connections} connections in {status.sessions} sessions; {status.accepted} so far,"
        f" {status.refused} refused, {status.reset} reset; {status.bytes_out:,} B out, {status.bytes_in:,} B in"
    )


def pipe(
    target: TargetArgument = None,
    host: HostOption = None,
    port: PortOption = None,
    leg: LegOption = None,
    pin: PinOption = None,
    pinned_key_hex: PinHexOption = None,
    pinned_key_file: PinFileOption = None,
    identity: IdentityOption = None,
    name: NameOption = None,
    as_json: Json = False,
) -> None:
    """Standard input and output over one stream to a service behind 'phantom serve --forward-to', like netcat.

    The end of standard input is passed on; the command ends when the service has ended its side.
    """
    with as_usage():
        checked = check_name(name) if name is not None else ""
    wanted = target_of(target, host, port, leg, pin, pinned_key_hex, pinned_key_file)
    with identity_of(identity) as key:
        with as_usage():
            connecting = connect(wanted.url, wanted.pins, identity=key)

        async def run() -> None:
            session = await connecting
            try:
                await _pipe(session, checked)
            finally:
                await session.disconnect(timeout=5.0)

        asyncio.run(run())


async def _pipe(session: PhantomSession, name: str) -> None:
    stream = await open_forwarded(session, name)
    loop = asyncio.get_running_loop()

    async def send(chunk: bytes) -> None:
        await (stream.send_reliable(chunk) if chunk else stream.finish())

    def feed() -> None:
        """In a thread that nobody waits for: a terminal may never say another word."""
        with contextlib.suppress(PhantomError, RuntimeError, asyncio.CancelledError):
            chunk = b"-"
            while chunk:
                chunk = os.read(0, _PIECE)
                asyncio.run_coroutine_threadsafe(send(chunk), loop).result()

    threading.Thread(target=feed, name="phantom-pipe-input", daemon=True).start()
    try:
        due = True
        async for chunk in stream:
            if due and not chunk.startswith(ACCEPTED):
                raise NetworkError("the server does not speak phantom-forward/1")
            await asyncio.to_thread(_write, chunk[due:])
            due = False
        if due:
            raise NetworkError("the server ended the stream without an answer")
    except StreamResetError as error:
        raise refusal(error) or NetworkError("the connection was reset") from error


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
