"""``phantom demo``: everything a stranger would want to see, end to end."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer
from rich.text import Text

import phantom
from phantom.api.connecting import connect
from phantom.api.endpoint import LEGS_BUILT, parse_address
from phantom.api.listener import PhantomListener, listen
from phantom.cli.failures import as_usage
from phantom.cli.options import Json
from phantom.cli.screen import Screen
from phantom.cli.story import Story
from phantom.errors import UnsupportedError, ValidationError
from phantom.server.handlers import echo

__all__ = ["demo"]

_NEEDS_CERTIFICATE = "wss"
_HELLO = b"Hello, post-quantum world!"


def demo(
    sidecar: Annotated[
        bool,
        typer.Option(
            "--sidecar", help="With a server and the sidecar as processes of their own, and a client that speaks gRPC."
        ),
    ] = False,
    leg: Annotated[
        str, typer.Option("--leg", metavar="LEG", help="How they reach each other: tcp, faketls, ws, or all in turn.")
    ] = "tcp",
    as_json: Json = False,
) -> None:
    """Show a session at work.

    By default with a listener and a client in one process.
    """
    screen = Screen(as_json=as_json)
    legs = [name for name in LEGS_BUILT if name != _NEEDS_CERTIFICATE] if leg == "all" else [leg]
    with as_usage():
        if sidecar and leg != "tcp":
            raise ValidationError("--sidecar shows the tcp leg; leave --leg out")
        if leg == _NEEDS_CERTIFICATE:
            raise ValidationError("wss needs a certificate, and the demo has none; ws is the same without TLS")
        for name in legs:
            parse_address(f"{name}://127.0.0.1:0", listening=True).require_built()
    story = Story(screen)
    begun = time.monotonic()
    title = f"Phantom {phantom.__version__}"
    if sidecar:
        try:
            from phantom.cli import demo_sidecar
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "this demo needs Phantom's extra 'sidecar'; in a clone of it: pip install '.[sidecar]'"
            ) from error
        story.title(title, "a server, the sidecar and a client, in three processes")
        demo_sidecar.run(story)
    else:
        story.title(title, "a listener and a client in one process")
        for name in legs:
            asyncio.run(_loopback(story, name, suffix=f" over {name}" if len(legs) > 1 else ""))
    story.end(time.monotonic() - begun)


async def _loopback(story: Story, leg: str, suffix: str) -> None:
    async with listen(f"{leg}://127.0.0.1:0") as listener:
        (url,) = listener.urls
        story.step(f"listener{suffix}", f"A listener with a fresh key{suffix}")
        story.fact("url", url, url=url)
        serving = asyncio.create_task(_serve_one(listener))
        try:
            async with connect(url) as session:
                key = session.peer_identity()
                assert key is not None
                story.step(f"handshake{suffix}", "A client that pins it")
                story.fact("keys", " + ".join(session.handshake.algorithms[:2]))
                story.fact("identity", " + ".join(session.handshake.algorithms[2:]))
                story.fact(
                    "time", f"{session.handshake.seconds * 1e3:.1f} ms", ms=round(session.handshake.seconds * 1e3, 3)
                )
                story.fact("server", Text(key.fingerprint(), "green"), server=key.fingerprint())
                story.step(f"echo{suffix}", "A message there and back")
                begun = time.perf_counter()
                await session.send(_HELLO, 10.0)
                reply = await session.recv(10.0)
                rtt = time.perf_counter() - begun
                story.fact("sent", repr(_HELLO), sent_hex=_HELLO.hex())
                story.fact("echoed", repr(reply), echoed_hex=reply.hex())
                story.fact("round trip", f"{rtt * 1e3:.2f} ms", rtt_ms=round(rtt * 1e3, 3))
        finally:
            await serving


async def _serve_one(listener: PhantomListener) -> None:
    outcome = await listener.accept(10.0)
    async with outcome.session as session:
        await session.await_ready(10.0)
        await echo(session)
