"""``python -m benchmarks.sidecar_exchange``: what the hop to the sidecar costs, against bare grpc.aio in the same run.

Echo both ways at once over a unix socket, client and server in processes of their own, with messages of 256 KiB:

- *bare*: a bidirectional stream of grpc.aio, messages of protobuf with one bytes field, nothing else.
- *Exchange*: the real sidecar and the real client; the session in the sidecar is replaced by a queue that gives back
  what it is given, so that the row has the hop (token, credit, numbering, acknowledgement) and no Phantom session.
- *Exchange and session*: the same with a Phantom session to an echo server in a third process, and *session* without a
  sidecar: what lies behind the hop, counted apart.

Latency rows send 64 B and wait for its echo. Rounds are interleaved, every figure is the median of the rounds; CPU is
that of all processes of the row, and on a busy machine the steadier number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

import phantom
from benchmarks.harness import KiB, MiB
from phantom.api.session import HandshakeInfo, Negotiated
from phantom.crypto.aead import CipherSuite
from phantom.runtime import AsyncioRuntime
from phantom.sidecar import services
from phantom.sidecar._generated.v1.session_pb2 import Message
from phantom.sidecar.client import SidecarClient
from phantom.sidecar.server import SidecarOptions, serve
from phantom.transport.session.states import ConnectionState

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "python -m benchmarks.sidecar_exchange"
RATIO = 0.85
SIZE = 256 * KiB
WINDOW = 4 * MiB  # of bytes under way, in every row
MEMORY = "127.0.0.1:9"  # the target that the patched sidecar answers itself
METHOD = "/bench.Echo/Echo"
LIMITS = [("grpc.max_receive_message_length", 2 * MiB), ("grpc.use_local_subchannel_pool", 1)]

Figures = dict[str, float]


class Pipe:
    """What a client of a row needs: messages in, messages out."""

    def __init__(self, send: Callable[[bytes], Awaitable[object]], recv: Callable[[], Awaitable[bytes]]) -> None:
        self.send = send
        self.recv = recv


# --- servers ----------------------------------------------------------------------------------------------------------


class EchoSession(phantom.PhantomSession):
    """A session whose peer is a queue of 4 MiB."""

    __slots__ = ("_held", "_items", "_room")

    def __init__(self) -> None:
        super().__init__(AsyncioRuntime(), phantom.PhantomConfig(), MEMORY)
        self._state = ConnectionState.CONNECTED
        self._items: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = asyncio.Event()
        self._held = 0

    negotiated = property(lambda _: Negotiated(2, CipherSuite.AES_256_GCM, None, "tcp", 0))  # type: ignore[assignment]
    handshake = property(lambda _: HandshakeInfo(0.0, 0, 0, 0))  # type: ignore[assignment]

    async def send(self, data: phantom.api.session.BytesLike, timeout: float | None = None) -> None:
        while self._held > WINDOW:
            self._room.clear()
            await self._room.wait()
        self._held += len(data)
        self._items.put_nowait(bytes(data))

    async def recv(self, timeout: float | None = None) -> bytes:
        message = await self._items.get()
        self._held -= len(message)
        self._room.set()
        return message

    async def disconnect(self, code: int = 0, timeout: float | None = None) -> bool:
        return True


@asynccontextmanager
async def bare_server(folder: str) -> AsyncIterator[str]:
    async def echo(requests: AsyncIterator[Message], _: Any) -> AsyncIterator[Message]:
        async for request in requests:
            yield Message(data=request.data)

    handler = grpc.stream_stream_rpc_method_handler(echo, Message.FromString, Message.SerializeToString)
    server = grpc.aio.server(options=LIMITS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    server.add_insecure_port(f"unix:{folder}/bare.sock")
    await server.start()
    yield f"unix:{folder}/bare.sock"
    await server.stop(None)


@asynccontextmanager
async def sidecar_server(folder: str) -> AsyncIterator[str]:
    real = services.connect

    async def memory() -> EchoSession:
        return EchoSession()

    services.connect = lambda target, *rest, **named: (  # type: ignore[assignment]
        memory() if target == MEMORY else real(target, *rest, **named)
    )
    async with serve(SidecarOptions(socket=Path(folder, "s.sock"))) as running:
        yield running.ready.address


@asynccontextmanager
async def session_server(_: str) -> AsyncIterator[str]:
    async def echo(session: phantom.PhantomSession) -> None:
        async with session:
            async for message in session:
                await session.send(message)

    async def accept(listener: phantom.PhantomListener) -> None:
        async with asyncio.TaskGroup() as group:
            async for outcome in listener:
                group.create_task(echo(outcome.session))

    async with phantom.listen("tcp://127.0.0.1:0") as listener:
        accepting = asyncio.create_task(accept(listener))
        yield listener.urls[0]
        listener.shutdown()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)


SERVERS: dict[str, Callable[[str], AbstractAsyncContextManager[str]]] = {
    "bare": bare_server,
    "sidecar": sidecar_server,
    "session": session_server,
}


async def run_server(name: str, folder: str) -> None:
    """A server until SIGTERM; its first line is its address."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with SERVERS[name](folder) as address:
        print(address, flush=True)
        await stop.wait()


# --- clients ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_client(address: str, _: str) -> AsyncIterator[Pipe]:
    async with grpc.aio.insecure_channel(address, options=LIMITS) as channel:
        call = channel.stream_stream(METHOD, Message.SerializeToString, Message.FromString)()

        async def recv() -> bytes:
            data: bytes = (await call.read()).data
            return data

        yield Pipe(lambda data: call.write(Message(data=data)), recv)
        await call.done_writing()
        call.cancel()


@asynccontextmanager
async def exchange_client(address: str, target: str) -> AsyncIterator[Pipe]:
    async with SidecarClient(address) as client:
        pin = bytes(1984) if target == MEMORY else None
        session = await client.connect(target, pin, timeout=20.0)
        async with session.exchange() as exchange:
            yield Pipe(exchange.send, exchange.recv)


@asynccontextmanager
async def session_client(_: str, target: str) -> AsyncIterator[Pipe]:
    async with phantom.connect(target, timeout=20.0) as session:
        yield Pipe(session.send, session.recv)


CLIENTS: dict[str, Callable[[str, str], AbstractAsyncContextManager[Pipe]]] = {
    "bare": bare_client,
    "exchange": exchange_client,
    "session": session_client,
}


def _cpu(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


async def bulk(pipe: Pipe, pids: list[int], seconds: float) -> Figures:
    """Echo both ways at once for ``seconds``, at most 4 MiB under way."""
    message = os.urandom(SIZE)
    room = asyncio.Semaphore(WINDOW // SIZE)
    sent = received = 0
    end = time.perf_counter() + 3600.0

    async def send() -> None:
        nonlocal sent
        while time.perf_counter() < end:
            await room.acquire()
            await pipe.send(message)
            sent += 1

    for _ in range(16):  # warm
        await pipe.send(message)
        await pipe.recv()
    begun, cpu = time.perf_counter(), _cpu(pids)
    end = begun + seconds
    sending = asyncio.create_task(send())
    while not sending.done() or received < sent:
        if received == sent:
            await asyncio.sleep(0)
            continue
        assert len(await pipe.recv()) == SIZE
        received += 1
        room.release()
    took, cpu = time.perf_counter() - begun, _cpu(pids) - cpu
    await sending
    return {"MB/s each way": received * SIZE / took / 1e6, "CPU ns/B": cpu / (received * SIZE) * 1e9}


async def pings(pipe: Pipe, pids: list[int], seconds: float) -> Figures:
    """64 B there and back, one at a time."""
    message = os.urandom(64)
    for _ in range(50):
        await pipe.send(message)
        await pipe.recv()
    times = []
    cpu, end = _cpu(pids), time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await pipe.send(message)
        await pipe.recv()
        times.append(time.perf_counter() - begun)
    cuts = statistics.quantiles(times, n=100)
    cpu_us = (_cpu(pids) - cpu) / len(times) * 1e6
    return {"p50 µs": cuts[49] * 1e6, "p99 µs": cuts[98] * 1e6, "CPU µs": cpu_us}


async def run_client(arguments: list[str]) -> None:
    """One measurement, as a line of JSON."""
    name, work, address, target, seconds, *pids = arguments
    processes = [os.getpid(), *map(int, pids)]
    async with CLIENTS[name](address, target) as pipe:
        figures = await (bulk if work == "bulk" else pings)(pipe, processes, float(seconds))
    print(json.dumps(figures), flush=True)


# --- rounds -----------------------------------------------------------------------------------------------------------


@contextmanager
def server(name: str, folder: str) -> Iterator[tuple[str, int]]:
    """A server process: its address and its process id."""
    command = [sys.executable, "-m", "benchmarks.sidecar_exchange", "--server", name, folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the {name} server did not start")
        yield address, process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        process.stdout.close()


def client(*arguments: object) -> Figures:
    """What a client process measured."""
    command = [sys.executable, "-m", "benchmarks.sidecar_exchange", "--client", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return dict(json.loads(done.stdout))


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Interleaved rounds: row -> quantity -> one number a round."""
    found: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        server("bare", folder) as (bare, bare_pid),
        server("sidecar", folder) as (sidecar, sidecar_pid),
        server("session", folder) as (url, session_pid),
    ):
        rows: dict[str, tuple[object, ...]] = {
            "256 KiB, bare grpc.aio": ("bare", "bulk", bare, "", seconds, bare_pid),
            "256 KiB, Exchange": ("exchange", "bulk", sidecar, MEMORY, seconds, sidecar_pid),
            "256 KiB, session": ("session", "bulk", "", url, seconds, session_pid),
            "256 KiB, Exchange and session": ("exchange", "bulk", sidecar, url, seconds, sidecar_pid, session_pid),
            "64 B there and back, bare grpc.aio": ("bare", "ping", bare, "", seconds, bare_pid),
            "64 B there and back, Exchange": ("exchange", "ping", sidecar, MEMORY, seconds, sidecar_pid),
            "64 B there and back, session": ("session", "ping", "", url, seconds, session_pid),
            "64 B there and back, Exchange and session": (
                *("exchange", "ping", sidecar, url, seconds),
                *(sidecar_pid, session_pid),
            ),
        }
        for at in range(rounds):
            for name, arguments in rows.items():
                for quantity, value in client(*arguments).items():
                    found.setdefault(name, {}).setdefault(quantity, []).append(value)
            print(f"round {at + 1} of {rounds}", flush=True)
    return found


def judge(medians: dict[str, Figures]) -> list[dict[str, Any]]:
    """The target: what was asked, what came out."""
    bare, hop = medians["256 KiB, bare grpc.aio"], medians["256 KiB, Exchange"]
    ratio = hop["MB/s each way"] / bare["MB/s each way"]
    text = f"Exchange echo at 256 KiB at least {RATIO} of bare grpc.aio"
    return [{"target": text, "value": ratio, "met": ratio >= RATIO}]


def markdown(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        "# The hop to the sidecar",
        "",
        f"`{COMMAND}` ({result['rounds']} interleaved rounds of {result['seconds']} s, medians; CPU is that of all",
        f"processes of a row). {result['machine']}, {result['python']}, grpcio {result['grpcio']},",
        f"load {result['load']}, {result['date']}.",
        "*Exchange* has an echoing queue in the place of the session; *session* has no sidecar.",
        "",
        "| target | value | met |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {row['target']} | {row['value']:.2f} | {'yes' if row['met'] else 'NO'} |" for row in result["targets"]
    ]
    lines.append("")
    for name, figures in result["medians"].items():
        shown = " · ".join(f"{quantity} {value:.4g}" for quantity, value in figures.items())
        lines.append(f"- **{name}**: {shown}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if the target is not met."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--server", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for sidecar_exchange.json and .md")
    chosen = parser.parse_args(arguments)
    if chosen.server:
        asyncio.run(run_server(*chosen.server))
        return 0
    if chosen.client:
        asyncio.run(run_client(chosen.client))
        return 0
    load = os.getloadavg()[0]
    found = measure(chosen.rounds, chosen.seconds)
    medians = {name: {key: statistics.median(values) for key, values in row.items()} for name, row in found.items()}
    result = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": f"Python {platform.python_version()}",
        "grpcio": grpc.__version__,
        "load": f"{load:.1f} to {os.getloadavg()[0]:.1f}",
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "targets": judge(medians),
        "medians": medians,
        "values": found,
    }
    text = markdown(result)
    print(text)
    chosen.output.mkdir(parents=True, exist_ok=True)
    encoded = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (chosen.output / "sidecar_exchange.json").write_text(encoded, encoding="utf-8")
    (chosen.output / "sidecar_exchange.md").write_text(text, encoding="utf-8")
    return 0 if all(row["met"] for row in result["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
