"""``phantom ping``: one message to a pinned server and back."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from phantom.api.connecting import Connecting, connect
from phantom.api.session import HandshakeInfo, Negotiated
from phantom.cli.failures import as_usage
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
from phantom.cli.targets import identity_of, target_of
from phantom.errors import PhantomTimeoutError

__all__ = ["ping"]


@dataclass(frozen=True, slots=True)
class Pong:
    """What one ping found."""

    server: str
    address: str
    rtt: float
    reply: bytes
    handshake: HandshakeInfo
    negotiated: Negotiated


def ping(
    target: TargetArgument = None,
    host: HostOption = None,
    port: PortOption = None,
    leg: LegOption = None,
    pin: PinOption = None,
    pinned_key_hex: PinHexOption = None,
    pinned_key_file: PinFileOption = None,
    identity: IdentityOption = None,
    msg: Annotated[str, typer.Option("--msg", metavar="TEXT", help="The message to send.")] = "ping",
    timeout_secs: Annotated[
        float, typer.Option("--timeout-secs", metavar="SECONDS", help="Limit of the whole, connecting included.")
    ] = 5.0,
    as_json: Json = False,
) -> None:
    """Send one message to a pinned server.

    Connects, sends, waits for one reply and prints the round trip time and the reply in hex.
    """
    screen = Screen(as_json=as_json)
    wanted = target_of(target, host, port, leg, pin, pinned_key_hex, pinned_key_file)
    with identity_of(identity) as key:
        with as_usage():
            connecting = connect(wanted.url, wanted.pins, identity=key, timeout=timeout_secs)
        with screen.waiting("waiting for the server"):
            pong = asyncio.run(_ping(connecting, os.fsencode(msg), timeout_secs))
    if screen.fancy:
        handshake = pong.handshake
        algorithms = " + ".join(handshake.algorithms)
        screen.line(Text.assemble(("server: ", "dim"), (pong.server, "green"), (f" at {pong.address}", "dim")))
        screen.line(Text(f"handshake: {handshake.seconds * 1e3:.1f} ms, {algorithms}", "dim"))
    screen.result(
        {
            "rtt_ms": round(pong.rtt * 1e3, 3),
            "reply_bytes": len(pong.reply),
            "reply_hex": pong.reply.hex(),
            "server": pong.server,
            "address": pong.address,
            "leg": pong.negotiated.leg,
            "version": pong.negotiated.version,
            "suite": pong.negotiated.suite.label,
            "handshake_ms": round(pong.handshake.seconds * 1e3, 3),
            "algorithms": list(pong.handshake.algorithms),
        },
        Text.assemble("rtt: ", (f"{pong.rtt * 1e3:.2f} ms", "bold")),
        f"reply ({len(pong.reply)} bytes): {pong.reply.hex()}",
    )


async def _ping(connecting: Connecting, payload: bytes, timeout: float) -> Pong:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    session = await connecting
    try:
        begun = loop.time()
        try:
            await session.send(payload, deadline - begun)
            reply = await session.recv(deadline - loop.time())
        except PhantomTimeoutError:
            raise PhantomTimeoutError(
                f"{session.peer_addr} proved its key and did not reply within {timeout:g} s"
            ) from None
        rtt = loop.time() - begun
        server = session.peer_identity()
        assert server is not None
        return Pong(server.fingerprint(), session.peer_addr, rtt, reply, session.handshake, session.negotiated)
    finally:
        await session.disconnect(timeout=max(0.0, deadline - loop.time()))
