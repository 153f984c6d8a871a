"""A server and a client that hold idle connections; started as programs, so that their memory is their own.

``python -m benchmarks.peers.idle server KIND`` prints its address, then answers each line on stdin with a line of JSON:
how many connections it holds, its resident memory and its CPU seconds so far. ``... client KIND ADDRESS`` opens as many
more connections as each line says and answers with its resident memory. KIND: phantom, tls, tcp.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.harness import cpu_seconds

_AT_ONCE = 16  # connections being opened
_SPARE = 64  # descriptors for everything else
_PATIENCE = 60.0  # s, to connect or be accepted


def raise_descriptor_limit(connections: int) -> None:
    """As many descriptors as the connections need. Raises RuntimeError if the hard limit is lower."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(
            f"a process may open {hard} files here; {connections} connections need {wanted} (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, _soft), hard))


def resident() -> int:
    """Resident memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _say(text: str) -> None:
    print(text, flush=True)


async def serve(kind: str) -> None:
    """Accepts and keeps connections until stdin ends."""
    held: list[object] = []
    if kind == "phantom":
        from benchmarks.peers.session import accept_idle
    else:
        from benchmarks.peers.sockets import accept_idle
    accepting = asyncio.create_task(accept_idle(_say, held, kind))
    while await asyncio.to_thread(sys.stdin.readline):
        _say(json.dumps({"held": len(held), "resident": resident(), "cpu": cpu_seconds()}))
    accepting.cancel()


async def connect(kind: str, address: str) -> None:
    """Opens connections and keeps them until stdin ends."""
    held: list[object] = []
    opening: Callable[[str, str], Awaitable[object]]
    if kind == "phantom":
        from benchmarks.peers.session import open_idle as opening
    else:
        from benchmarks.peers.sockets import open_idle as opening

    async def some(count: int) -> None:
        held.extend([await opening(address, kind) for _ in range(count)])

    while line := await asyncio.to_thread(sys.stdin.readline):
        each, rest = divmod(int(line), _AT_ONCE)
        await asyncio.gather(*(some(each + (number < rest)) for number in range(_AT_ONCE)))
        _say(json.dumps({"held": len(held), "resident": resident(), "cpu": cpu_seconds()}))


def main(arguments: list[str]) -> None:
    raise_descriptor_limit(int(arguments.pop(0)))
    if arguments[0] == "server":
        asyncio.run(serve(arguments[1]))
    else:
        asyncio.run(connect(arguments[1], arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
