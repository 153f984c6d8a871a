"""The demo through the sidecar: processes, a generated gRPC client, and what the client sees of the session."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import time
from typing import Final

from rich.text import Text

from phantom.cli.failures import exit_code
from phantom.cli.processes import Workshop
from phantom.cli.story import Story
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.errors import InternalError, PhantomError, PhantomTimeoutError, ServerIdentityMismatchError
from phantom.limits import MiB
from phantom.sidecar.client import SidecarClient, SidecarSession

__all__ = ["run"]

_POSIX: Final = os.name == "posix"
_LIMIT: Final = 55.0  # s for everything
_PINGS: Final = 20
_TOTAL: Final = 64 * MiB
_MESSAGE: Final = MiB


def run(story: Story, total: int = _TOTAL) -> None:
    """Tells the whole story; raises what went wrong after everything that was started has ended."""
    with Workshop() as workshop:
        asyncio.run(_limited(story, workshop, total))


async def _limited(story: Story, workshop: Workshop, total: int) -> None:
    try:
        async with asyncio.timeout(_LIMIT):
            await _tell(story, workshop, total)
    except TimeoutError as error:
        workshop.check()
        if isinstance(error, PhantomError):
            raise
        raise PhantomTimeoutError(f"the demo did not finish within {_LIMIT:g} s") from None
    except PhantomError:
        workshop.check()  # a process that died says more than what followed from it
        raise


async def _tell(story: Story, workshop: Workshop, total: int) -> None:
    fingerprint = await _make_key(story, workshop)
    url = await _start_server(story, workshop)
    address, token_file = await _start_sidecar(story, workshop)
    async with SidecarClient(address, token_file=token_file) as client:
        await client.wait_ready(10.0)
        session = await _connect(story, client, url, fingerprint)
        await _ping(story, session)
        await _transfer(story, session, total)
        await session.disconnect(timeout=10.0)
        await _refuse(story, workshop, client, url)


async def _make_key(story: Story, workshop: Workshop) -> str:
    story.step("key", "A key for the server")
    story.command("keygen", "--out", "server.key")
    made = await workshop.run("keygen", "--out", "server.key")
    if made.returncode:
        raise InternalError(f"keygen failed: {made.stderr.strip()}")
    fingerprint = made.stdout.split()[0]
    story.fact("fingerprint", Text(fingerprint, "green"), fingerprint=fingerprint)
    return fingerprint


async def _start_server(story: Story, workshop: Workshop) -> str:
    story.step("server", "A server that echoes, in a process of its own")
    command = ("serve", "--bind", "127.0.0.1:0", "--signing-key-file", "server.key")
    story.command(*command)
    url = await workshop.start("server", *command)
    story.fact("url", url, url=url, pid=workshop.pid("server"))
    return url


async def _start_sidecar(story: Story, workshop: Workshop) -> tuple[str, str]:
    story.step("sidecar", "The sidecar, for programs in any language")
    where = ("--socket", "sidecar.sock") if _POSIX else ("--tcp-port", "0")
    command = ("sidecar", *where, "--print-ready")
    story.command(*command)
    ready = json.loads(await workshop.start("sidecar", *command))
    address = str(ready["address"])
    story.fact("address", address, address=address, pid=ready["pid"])
    walls = "own directory 0700, socket 0600, " if _POSIX else ""
    story.fact("access", f"{walls}a token on every call")
    return address, str(ready["token_file"])


async def _connect(story: Story, client: SidecarClient, url: str, fingerprint: str) -> SidecarSession:
    session = await client.connect(url, timeout=20.0)
    handshake, suite = session.handshake, session.negotiated.suite.label
    server = session.peer_identity()
    if server is None or server.fingerprint() != fingerprint:
        raise InternalError("the session has another peer than the one that was pinned")
    story.step("handshake", "A post-quantum handshake, through the sidecar")
    story.fact("keys", " + ".join(handshake.algorithms[:2]), algorithms=list(handshake.algorithms))
    story.fact("identity", " + ".join(handshake.algorithms[2:]))
    story.fact("packets", suite.upper(), suite=suite.upper())
    story.fact(
        "size",
        f"{handshake.bytes_sent} bytes sent, {handshake.bytes_received} received",
        bytes_sent=handshake.bytes_sent,
        bytes_received=handshake.bytes_received,
    )
    story.fact("time", f"{handshake.seconds * 1e3:.1f} ms", ms=round(handshake.seconds * 1e3, 3))
    story.fact("server", Text(fingerprint, "green"), server=fingerprint)
    story.fact("pin", Text("matches", "bold green"))
    return session


async def _ping(story: Story, session: SidecarSession) -> None:
    story.step("ping", "A ping: client, sidecar, server, and back")
    times = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        await session.send(b"ping", 10.0)
        if await session.recv(10.0) != b"ping":
            raise InternalError("the echo is not what was sent")
        times.append((time.perf_counter() - begun) * 1e3)
    median = statistics.median(times)
    story.fact("round trip", f"{median:.2f} ms (median of {_PINGS})", rtt_ms=round(median, 3), reply_hex=b"ping".hex())


async def _transfer(story: Story, session: SidecarSession, total: int) -> None:
    mib = total // MiB
    story.step("transfer", f"{mib} MiB to the server and back, both at once")
    sent, received = hashlib.sha256(), hashlib.sha256()
    begun = time.perf_counter()
    with story.progress(total) as advance:
        async with session.exchange() as exchange:

            async def upload() -> None:
                for _ in range(0, total, _MESSAGE):
                    data = os.urandom(_MESSAGE)
                    sent.update(data)
                    await exchange.send(data)

            uploading = asyncio.create_task(upload())
            try:
                left = total
                while left > 0:
                    data = await exchange.recv()
                    received.update(data)
                    left -= len(data)
                    advance(len(data))
                await uploading
            finally:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)
    seconds = time.perf_counter() - begun
    rate = total / seconds / 1e6
    story.fact("sent", sent.hexdigest(), sent_sha256=sent.hexdigest(), bytes=total)
    story.fact("received", received.hexdigest(), received_sha256=received.hexdigest())
    if sent.digest() != received.digest():
        raise InternalError("what came back is not what was sent: the SHA-256 sums differ")
    story.fact("SHA-256", Text("equal", "bold green"), equal=True)
    story.fact("rate", f"{rate:.0f} MB/s each way, {seconds:.2f} s", megabytes_per_second=round(rate, 1))


async def _refuse(story: Story, workshop: Workshop, client: SidecarClient, url: str) -> None:
    with HybridSigningKey.generate() as stranger:
        pin = stranger.verifying_key().fingerprint()
    wrong = f"phantom://{pin}@{url.rpartition('@')[2]}"
    story.step("wrong_pin", "A server with another key than the pinned one is refused")
    try:
        await client.connect(wrong, timeout=20.0)
    except ServerIdentityMismatchError as error:
        through_sidecar = error
    else:
        raise InternalError("a wrong pin was not refused")
    ping = await workshop.run("ping", wrong)
    if ping.returncode != exit_code(through_sidecar):
        raise InternalError(f"a wrong pin was not refused: ping ended with {ping.returncode}")
    story.command("ping", f"{wrong[:22]}...{wrong[wrong.index('@') :]}")
    story.quote(ping.stderr.strip())
    story.fact("exit code", str(ping.returncode), message=ping.stderr.strip(), exit_code=ping.returncode)
    story.fact(
        "by gRPC",
        f"{type(through_sidecar).__name__}, code {through_sidecar.code}, final",
        code=through_sidecar.code,
        name=type(through_sidecar).__name__,
    )
