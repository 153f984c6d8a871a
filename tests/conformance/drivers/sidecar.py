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

from phantom.sidecar._generated.v1 import session_pb2, sidecar_pb2
from phantom.sidecar.client import SidecarClient
from tests.conformance.drivers import Driver, Program, Setting, itself
from tests.conformance.drivers.python import Python
from tests.conformance.serving import serve

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
    """The same commands: a client has the names of ``phantom``."""

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

    async def bind(self, addresses: list[str], **named: Any) -> Any:
        return await (await self.client()).listen(*addresses, **named)

    async def dial(self, target: str, pin: Any, **named: Any) -> Any:
        return await (await self.client()).connect(target, pin, **named)

    async def session_info(self, session: Any) -> dict[str, Any]:
        await session.refresh()
        return await super().session_info(session)

    async def metrics(self, thing: Any) -> dict[str, int]:
        await thing.refresh()
        return await super().metrics(thing)

    async def export(self, session: Any, label: str, length: int) -> bytes:
        return await session.keying_material(label, length)

    async def do_shutdown(self, listener: str) -> None:
        there = self._get(listener)
        there.shutdown()
        await there.__aexit__(None, None, None)  # which waits until the sidecar has heard of it

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
        client, there = await self.client(), session_pb2.SessionRef(handle=self._get(session).ref.handle + (1 << 20))
        await client.call(client.session.Get, session_pb2.GetRequest(session=there))

    async def do_hello(self) -> dict[str, Any]:
        return {"version": (await self.client()).info.package_version}


if __name__ == "__main__":
    serve(Sidecar())
