"""Driver: ``phantom.sidecar.client``, through a sidecar that runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from phantom.sidecar._generated.v1 import sidecar_pb2
from phantom.sidecar.client import SidecarClient
from tests.conformance.drivers import Driver, Program, Setting, itself
from tests.conformance.drivers.python import Python
from tests.conformance.serving import NotOffered, serve

_START = 20.0  # s
_STOP = 10.0  # s


@asynccontextmanager
async def prepare(setting: Setting) -> AsyncIterator[Program]:
    """A live sidecar on a socket in a short private directory."""
    home = Path(tempfile.mkdtemp(prefix="phc"))
    arguments = ["-m", "phantom", "sidecar", "--socket", str(home / "s.sock"), "--print-ready", "--log-filter", "error"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), _START))
        yield itself(
            "sidecar", PHANTOM_SIDECAR_ADDRESS=ready["address"], PHANTOM_SIDECAR_TOKEN_FILE=ready["token_file"]
        )
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP)
        except TimeoutError:
            process.kill()
            await process.wait()
        shutil.rmtree(home, ignore_errors=True)


DRIVER = Driver("sidecar", "Python (sidecar)", prepare)


class Sidecar(Python):
    """The same commands over the client of the sidecar."""

    def __init__(self) -> None:
        super().__init__()
        self._client: SidecarClient | None = None

    async def client(self) -> SidecarClient:
        if self._client is None:
            client = SidecarClient()
            await client.open()
            await client.wait_ready(_START)
            self._client = client
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await super().close()
            await self._client.close()

    async def session_info(self, session: Any) -> dict[str, Any]:
        now = await session.get()
        return {
            "id": now.id,
            "peer_addr": now.peer_addr,
            "peer_identity": now.peer_identity.key.hex(),
            "queued": now.queued,
            "version": now.negotiated.version,
            "suite": int(now.negotiated.suite),
            "receive_suite": int(now.negotiated.receive_suite),
            "leg": {1: "tcp"}.get(now.negotiated.leg, "?"),
            "epoch": now.negotiated.epoch,
            "handshake_us": now.handshake.duration.ToMicroseconds(),
            "handshake_bytes_sent": now.handshake.bytes_sent,
            "handshake_bytes_received": now.handshake.bytes_received,
            "handshake_retries": now.handshake.retries,
        }

    async def do_state(self, session: str) -> dict[str, Any]:
        now = await self._get(session).get()
        return {"state": now.state - 1, "last_error": now.last_error.code}  # the wire's 0 is "unspecified"

    async def do_ready(self, session: str) -> dict[str, Any]:
        raise NotOffered("the state says it")

    async def metrics(self, thing: Any) -> dict[str, int]:
        message = await thing.metrics()
        counts = {
            each.name: getattr(message, each.name) for each in message.DESCRIPTOR.fields if each.message_type is None
        }
        return {**counts, "uptime_ms": message.uptime.ToMilliseconds()}

    async def make_key(self) -> tuple[Any, bytes, str]:
        key = await (await self.client()).generate_signing_key()
        return key, key.verifying_key, key.fingerprint

    async def seed_key(self, seed: bytes) -> tuple[Any, bytes, str]:
        key = await (await self.client()).import_signing_key(seed)
        return key, key.verifying_key, key.fingerprint

    async def bind(self, addresses: list[str], **named: Any) -> Any:
        return await (await self.client()).listen(*addresses, **named)

    async def dial(self, target: str, pin: Any, **named: Any) -> Any:
        return await (await self.client()).connect(target, pin, **named)

    async def verifying_key(self, listener: Any) -> bytes:
        return listener.verifying_key

    async def flush(self, session: Any, limit: float) -> int:
        return await session.flush(limit)

    async def do_check_key(self, key_hex: str) -> dict[str, Any]:
        raise NotOffered("the sidecar checks no keys")

    async def do_shutting_down(self, listener: str) -> dict[str, Any]:
        raise NotOffered("the sidecar does not tell")

    async def do_drain(self, listener: str, timeout_ms: int) -> None:
        raise NotOffered("no such call")

    async def do_contract(self, version: int) -> None:
        client = await self.client()
        await client.call(client.sidecar.GetInfo, sidecar_pb2.GetInfoRequest(contract_version=version))

    async def do_token(self, token: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "token")
            path.write_text(token + "\n")
            path.chmod(0o600)
            async with SidecarClient(token_file=path):
                pass

    async def do_stale(self, session: str) -> None:
        there = self._get(session)
        there.ref.handle += 1 << 20
        await there.get()

    async def do_hello(self) -> dict[str, Any]:
        return {"version": (await self.client()).info.package_version}


if __name__ == "__main__":
    serve(Sidecar())
