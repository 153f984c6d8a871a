"""Driver: the command ``phantom``, a process for each server and each ping. It echoes, so a case must be about that."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import phantom
from tests.conformance.content import described
from tests.conformance.drivers import Driver
from tests.conformance.drivers.python import listening
from tests.conformance.serving import Handler, NotOffered, serve

DRIVER = Driver("cli", "Command line")

_STOP = 10.0  # s
_MARGIN = 10.0  # s to start a process
# docs/cli.md; every other code is 1, or 2 where the command line itself was wrong
_EXIT_CODES = {20: 3, 15: 5, 35: 5, 43: 6, 1: 4, 38: 4, 14: 4, 36: 4, 37: 4}


class Failed(phantom.PhantomError):
    """An error that the command reported, with its code."""

    code = 10  # of the instance: that which it reported


class CommandLine(Handler):
    """Servers by name, and the folder of their key files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, asyncio.subprocess.Process] = {}
        self._keys: dict[str, Path] = {}
        self._made = 0

    async def do_hello(self) -> dict[str, Any]:
        out = await self._run("version", "--json")
        commands = (name.removeprefix("do_") for name in dir(self) if name.startswith("do_"))
        return {
            "version": out["version"],
            "commands": " ".join(commands),
            "lacking": "the command line has `serve`, which echoes, and `ping`; no sessions to hold",
        }

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def do_key(self, name: str, seed_hex: str | None = None) -> dict[str, Any]:
        path = self._keys[name] = self._new(".key")
        if seed_hex is not None:
            path.write_bytes(bytes.fromhex(seed_hex))
            path.chmod(0o600)
        else:
            await self._run("keygen", "--out", str(path), "--json")
        public = await self._run("pubkey", "--in", str(path), "--json")
        return {"verifying_key": public["verifying_key"], "fingerprint": public["fingerprint"]}

    # --- servers ------------------------------------------------------------------------------------------------------

    async def do_listen(
        self,
        name: str,
        address: str = "tcp://127.0.0.1:0",
        key: str | None = None,
        clients: str = "none",
        authorized: str = "",
        authorized_file: str = "",
        **rest: Any,
    ) -> dict[str, Any]:
        bind, *more = address.split(" ")
        arguments = ["serve", "--json", "--log-filter", "error", "--bind", bind]
        for other in more:
            arguments += ["--leg", other]
        arguments += ["--signing-key-file", str(self._keys[key] if key else self._new(".key"))]
        if clients == "optional":
            raise NotOffered("no option for identities that are optional")
        if clients == "required":
            arguments += ["--authorized-clients", authorized_file or str(self._list(authorized))]
        for argument, value in rest.items():
            arguments += {
                "reuse_port": ["--reuse-port"] if value else [],
                "config.max_sessions": ["--max-sessions", str(value)],
                "config.max_sessions_per_ip": ["--max-sessions-per-ip", str(value)],
            }.get(argument) or _lacks(f"no option for {argument}")
        process = await asyncio.create_subprocess_exec(
            *_phantom(arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _MARGIN)
        if not line:
            self._fail(*await asyncio.wait_for(process.communicate(), _MARGIN), process)
        self._servers[name] = process
        urls = json.loads(line)["urls"]
        fingerprint = urls[0].partition("://")[2].partition("@")[0]
        return listening(tuple(urls), b"") | {"fingerprint": fingerprint, "verifying_key": ""}

    async def do_answer(self, **_rest: Any) -> dict[str, Any]:
        """The server echoes by itself."""
        return {}

    async def do_drain(self, listener: str, timeout_ms: int) -> None:
        await self._stop(self._servers.pop(listener), timeout_ms / 1000)

    # --- the client ---------------------------------------------------------------------------------------------------

    async def do_echo(
        self,
        name: str,
        target: str,
        text: str,
        timeout_ms: int,
        pin: str | None = None,
        pin_form: str = "text",
        identity: str | None = None,
        **rest: Any,
    ) -> dict[str, Any]:
        if rest:
            raise NotOffered(f"no option for {', '.join(sorted(rest))}")
        arguments = ["ping", target, "--json", "--msg", text, "--timeout-secs", f"{timeout_ms / 1000:g}"]
        if pin is not None and pin_form == "text":
            for one in pin.split(" "):
                arguments += ["--pin" if one.startswith("phantom1:") else "--pinned-key-hex", one]
        elif pin is not None:
            path = self._new(".pin")
            path.write_bytes(bytes.fromhex(pin))
            arguments += ["--pinned-key-file", str(path)]
        if identity is not None:
            arguments += ["--identity", str(self._keys[identity])]
        out = await self._run(*arguments, timeout=timeout_ms / 1000)
        return described(bytes.fromhex(out["reply_hex"]))

    # --- the driver ---------------------------------------------------------------------------------------------------

    async def do_reset(self) -> None:
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(self._stop(process, _STOP) for process in servers.values()))

    async def close(self) -> None:
        await self.do_reset()

    def _new(self, suffix: str) -> Path:
        self._made += 1
        return self._folder / f"{self._made}{suffix}"

    def _list(self, pins: str) -> Path:
        path = self._new(".clients")
        path.write_text(pins.replace(" ", "\n") + "\n")
        return path

    async def _run(self, *arguments: str, timeout: float = 0.0) -> Any:
        process = await asyncio.create_subprocess_exec(
            *_phantom(arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout + _MARGIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            self._fail(out, err, process)
        return json.loads(out)

    def _fail(self, out: bytes, err: bytes, process: asyncio.subprocess.Process) -> None:
        reported = json.loads(err.decode().splitlines()[-1])["error"]
        code, status = reported["code"], process.returncode
        if status not in (_EXIT_CODES.get(code, 1), 2) or (status == 2 and not _is_usage(code)):
            raise RuntimeError(f"error {code} came with exit status {status}")
        error = Failed(reported["message"])
        error.code = code  # type: ignore[misc]
        raise error

    async def _stop(self, process: asyncio.subprocess.Process, limit: float) -> None:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), limit)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


def _phantom(arguments: Any) -> list[str]:
    return [sys.executable, "-m", "phantom", *arguments]


def _is_usage(code: int) -> bool:
    return issubclass(phantom.errors.error_class(code), phantom.LocalError)


def _lacks(why: str) -> list[str]:
    raise NotOffered(why)


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        serve(CommandLine(Path(folder)))
