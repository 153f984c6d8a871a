"""Runs in Pyodide: a page's sessions with native servers. Prints one JSON object.

Arguments: URL with pin of ``phantom serve``, URL with pin of echo.py, a wrong pin, MiB to move each way.
"""

import asyncio
import hashlib
import json
import os
import time

import host
import js
import phantom_browser
from pyodide.ffi import JsException

CHUNK = 65536
out = {}


def u8(data):
    array = js.Uint8Array.new(len(data))
    if data:
        array.assign(data)
    return array


async def open_channel(url, states=None):
    tell = None if states is None else lambda state, reason: states.append([state, reason])
    return await phantom_browser.connect(url, None, host.socket_factory, tell)


async def refusal(*arguments):
    """Kind and code of what a connect ends with."""
    try:
        await phantom_browser.connect(*arguments, host.socket_factory)
    except JsException as error:
        return [error.name, error.kind, int(error.code)]
    return "connected"


async def messages(url, size):
    """Everything that ``phantom serve`` can do: one message after the other, echoed."""
    states = []
    begun = time.perf_counter()
    channel = await open_channel(url, states)
    out["connect_ms"] = round(1e3 * (time.perf_counter() - begun))
    info = channel.info().to_py()
    out["handshake_ms"] = round(1e3 * info["seconds"])
    out["info"] = info
    for message in (b"ping from wasm", b"", os.urandom(3 << 20)):
        await channel.send(u8(message))
        assert (await channel.recv()).to_bytes() == message
    out["receive_suite"] = channel.info().to_py()["receiveSuite"]
    trips = []
    for _ in range(100):
        begun = time.perf_counter()
        await channel.send(u8(b"x" * 64))
        await channel.recv()
        trips.append(time.perf_counter() - begun)
    trips.sort()
    out["rtt_ms_p50"], out["rtt_ms_p99"] = round(1e3 * trips[49], 2), round(1e3 * trips[98], 2)

    sent, received = hashlib.sha256(), hashlib.sha256()

    async def up():
        for _ in range(size // CHUNK):
            chunk = os.urandom(CHUNK)
            sent.update(chunk)
            await channel.send(u8(chunk))

    begun = time.perf_counter()
    sender = asyncio.ensure_future(up())
    most = 0
    for _ in range(size // CHUNK):
        received.update((await channel.recv()).to_bytes())
        most = max(most, int(channel.metrics().to_py()["buffered"]))
    await sender
    out["echo_mb_s"] = round(size / (time.perf_counter() - begun) / 1e6, 2)
    out["echo_equal"] = sent.digest() == received.digest()
    out["most_buffered"] = most
    out["acknowledged"] = await channel.close()
    out["state"] = channel.state
    out["after_the_end"] = await channel.recv()
    out["states"] = states


async def streams(url, size):
    channel = await open_channel(url)
    data = os.urandom(size)
    stream = await channel.open_stream()
    received = hashlib.sha256()

    async def up():
        for at in range(0, size, CHUNK):
            await stream.send(u8(data[at : at + CHUNK]))
        await stream.finish()

    begun = time.perf_counter()
    sender = asyncio.ensure_future(up())
    while (chunk := await stream.recv()) is not None:
        received.update(chunk.to_bytes())
    await sender
    out["stream_echo_mb_s"] = round(size / (time.perf_counter() - begun) / 1e6, 2)
    out["stream_equal"] = received.digest() == hashlib.sha256(data).digest()

    many = [await channel.open_stream(priority) for priority in range(8)]
    out["stream_ids"] = [one.id for one in many]
    for number, one in enumerate(many):
        await one.send(u8(bytes([number]) * 5000))
        await one.finish()
    echoed = []
    for one in many:
        got = b""
        while (chunk := await one.recv()) is not None:
            got += chunk.to_bytes()
        echoed.append([len(got), *set(got)])
    out["streams"] = echoed

    out["epoch"] = await channel.rekey()
    await channel.send(u8(b"after"))
    out["after_rekey"] = (await channel.recv()).to_bytes().decode()
    first, again, other = (channel.export(name, 32).to_bytes() for name in ("test", "test", "other"))
    out["export"] = [len(first), first == again, first == other]
    await channel.close()


async def directions(url, size):
    """Goodput one way at a time, in messages of 64 KiB."""
    channel = await open_channel(url)
    begun = time.perf_counter()
    for _ in range(size // CHUNK):
        await channel.send(u8(bytes(CHUNK)))
    await channel.flush()
    out["up_mb_s"] = round(size / (time.perf_counter() - begun) / 1e6, 2)
    await channel.send(u8(b"down %d" % (size // CHUNK)))
    begun = time.perf_counter()
    for _ in range(size // CHUNK):
        assert (await channel.recv()).length == CHUNK
    out["down_mb_s"] = round(size / (time.perf_counter() - begun) / 1e6, 2)
    await channel.close()


async def slow_reader(url):
    """The server sends 64 MiB, the page reads nothing for a while: its credit bounds what it holds."""
    channel = await open_channel(url)
    before = host.heap()
    await channel.send(u8(b"down 1024"))
    seen = -1
    while (count := channel.metrics().to_py()["bytesReceived"]) != seen:  # until nothing more comes
        seen = count
        await asyncio.sleep(0.5)
    out["slow_received"] = seen
    out["slow_heap_growth"] = host.heap() - before
    for _ in range(1024):
        assert (await channel.recv()).length == CHUNK
    await channel.close()


async def abandoned(url, when):
    """What becomes of a connect that is cancelled at this step."""
    pending = phantom_browser.begin(url, None, host.socket_factory, lambda _, step: step == when and pending.cancel())
    try:
        await pending.ready
    except JsException as error:
        return error.kind
    return "connected"


async def failures(url, wrong_pin):
    pin = url.partition("://")[2].partition("@")[0]
    out["refusals"] = {
        "wrong pin": await refusal(url.replace(pin, wrong_pin), None),
        "contradiction": await refusal(url, wrong_pin),
        "no pin": await refusal("ws://127.0.0.1:1/phantom", None),
        "tcp": await refusal("tcp://127.0.0.1:1", wrong_pin),
        "nobody": await refusal("ws://127.0.0.1:1/phantom", wrong_pin),
        "other path": await refusal(f"{url.removesuffix('/phantom')}/other", None),
        "no url": await refusal("://", wrong_pin),
        "bad pin": await refusal("ws://127.0.0.1:1/phantom", "phantom1:short"),
    }
    out["abandoned"] = [await abandoned(url, step) for step in ("self-tests passed", "the hello is sent")]
    channel = await open_channel(url)
    channel.abort()
    try:
        await channel.recv()
        out["aborted"] = "received"
    except JsException as error:
        out["aborted"] = error.kind


async def main():
    served, echo, wrong_pin, mib = host.arguments
    size = int(mib) << 20
    begun = time.perf_counter()
    out["self_tests"] = len(phantom_browser.self_test().to_py())
    out["self_test_ms"] = round(1e3 * (time.perf_counter() - begun))
    out["load_ms"] = round(host.load_ms)
    for step in (
        messages(served, size),
        streams(echo, size),
        directions(echo, size),
        slow_reader(echo),
        failures(served, wrong_pin),
    ):
        host.report(f"# {step.__name__}")
        await step
    host.report(json.dumps(out))
