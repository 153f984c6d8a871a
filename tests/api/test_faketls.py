"""Sessions over ``faketls://``, and what an independent dissector makes of their bytes."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import phantom
from phantom.errors import PhantomError
from tests.calm import PATIENCE, nothing_left

Flow = list[tuple[bool, bytes]]  # from the client?, bytes


async def test_a_session_over_faketls(server_key: Any) -> None:
    config = phantom.PhantomConfig(faketls_sni="cdn.example.org", faketls_version=0x0301)
    async with phantom.listen("faketls://127.0.0.1:0", key=server_key, config=config) as listener:
        assert listener.urls[0].startswith("phantom+faketls://phantom1:")
        async with nothing_left(listener):
            async with phantom.connect(listener.urls[0], timeout=PATIENCE, config=config) as client:
                server = (await listener.accept(PATIENCE)).session
                assert client.negotiated.leg == server.negotiated.leg == "faketls"
                for size in (0, 1, 100, 70_000, 1 << 20, 5 << 20):
                    await client.send(bytes(size))
                    assert await server.recv(PATIENCE) == bytes(size)
                    await server.send(bytes(size))
                    assert await client.recv(PATIENCE) == bytes(size)
            assert await server.disconnect()


async def test_the_ends_must_agree(server_key: Any) -> None:
    async with phantom.listen("faketls://127.0.0.1:0", key=server_key) as listener:
        other = phantom.PhantomConfig(faketls_sni="www.example.org")
        with pytest.raises(PhantomError):
            await phantom.connect(listener.urls[0], timeout=PATIENCE, config=other)


async def test_a_port_of_another_leg_is_no_session(server_key: Any) -> None:
    async with phantom.listen("tcp://127.0.0.1:0", key=server_key) as listener:
        url = listener.urls[0].replace("phantom://", "phantom+faketls://")
        with pytest.raises(PhantomError):
            await phantom.connect(url, timeout=PATIENCE)


async def record_flow(server_key: Any, config: phantom.PhantomConfig) -> Flow:
    """A whole session through a relay that writes down what passes."""
    flow: Flow = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        while data := await reader.read(65536):
            flow.append((from_client, data))
            writer.write(data)
            await writer.drain()
        writer.close()

    async with phantom.listen("faketls://127.0.0.1:0", key=server_key, config=config) as listener:
        host, port = listener.local_addr.rsplit(":", 1)

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream, downstream = await asyncio.open_connection(host, int(port))
            await asyncio.gather(carry(reader, downstream, True), carry(upstream, writer, False))

        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        async with between:
            address = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
            url = listener.urls[0].replace(listener.local_addr, address)
            async with phantom.connect(url, timeout=PATIENCE, config=config) as client:
                server = (await listener.accept(PATIENCE)).session
                for size in (0, 10, 100_000):
                    await client.send(bytes(size))
                    assert len(await server.recv(PATIENCE)) == size
                    await server.send(bytes(size))
                    assert len(await client.recv(PATIENCE)) == size
            await server.disconnect()
    return flow


def write_pcap(path: Path, flow: Flow) -> None:
    """The flow as packets of raw IPv4 to port 443, behind a handshake of TCP; checksums are left out."""
    ends = (("10.0.0.1", 50000), ("10.0.0.2", 443))
    sequence = {True: 1000, False: 9000}
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 17, 101)]
    clock = itertools.count()

    def packet(from_client: bool, flags: int, data: bytes = b"") -> None:
        source, target = ends if from_client else ends[::-1]
        acknowledged = sequence[not from_client] if flags & 0x10 else 0
        tcp = struct.pack(
            ">HHIIBBHHH", source[1], target[1], sequence[from_client], acknowledged, 0x50, flags, 65535, 0, 0
        )
        addresses = bytes(map(int, f"{source[0]}.{target[0]}".split(".")))
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0x4000, 64, 6, 0) + addresses
        whole = ip + tcp + data
        out.append(struct.pack("<IIII", 1_700_000_000, next(clock), len(whole), len(whole)) + whole)
        sequence[from_client] += len(data) + bool(flags & 0x03)

    packet(True, 0x02)
    packet(False, 0x12)
    packet(True, 0x10)
    for from_client, data in flow:
        for at in range(0, len(data), 1400):
            packet(from_client, 0x18, data[at : at + 1400])
    packet(True, 0x11)
    packet(False, 0x11)
    path.write_bytes(b"".join(out))


def types_of(flow: Flow, from_client: bool) -> list[int]:
    """Types of the records of one direction, read by hand."""
    stream, at, found = b"".join(data for side, data in flow if side is from_client), 0, []
    while at < len(stream):
        found.append(stream[at])
        at += 5 + int.from_bytes(stream[at + 3 : at + 5], "big")
    assert at == len(stream)
    return found


def tshark(path: Path, *arguments: str) -> list[str]:
    # without addresses to names, without a home, and with everything reassembled
    command = ["tshark", "-n", "-r", str(path), "-o", "tcp.desegment_tcp_streams:TRUE", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.split()


def malformed(path: Path) -> list[str]:
    """Frames that the dissector finds broken: malformed, or an error in its eyes (severity 8388608)."""
    return tshark(path, "-Y", "_ws.malformed || _ws.expert.severity == 8388608", "-T", "fields", "-e", "frame.number")


@pytest.mark.skipif(
    shutil.which("tshark") is None, reason="NOT CHECKED that a dissector takes FakeTLS for TLS: install tshark"
)
@pytest.mark.parametrize("version", [0x0301, 0x0303])
async def test_tshark_takes_the_flow_for_tls(server_key: Any, tmp_path: Path, version: int) -> None:
    flow = await record_flow(server_key, phantom.PhantomConfig(faketls_sni="cdn.example.org", faketls_version=version))
    path = tmp_path / "flow.pcap"
    write_pcap(path, flow)
    ask = asyncio.to_thread
    assert await ask(malformed, path) == []
    found: dict[str, list[str]] = {}
    for name in ("tls.record.content_type", "tls.record.opaque_type", "tls.handshake.type"):
        lines = await ask(tshark, path, "-Y", "tls", "-T", "fields", "-e", name, "-E", "aggregator= ")
        found[name] = lines
    names = await ask(tshark, path, "-Y", "tls", "-T", "fields", "-e", "tls.handshake.extensions_server_name")
    assert names == ["cdn.example.org"]
    assert sorted(found["tls.handshake.type"]) == ["1", "2"]
    seen = sorted(map(int, found["tls.record.content_type"] + found["tls.record.opaque_type"]))
    assert seen == sorted(types_of(flow, True) + types_of(flow, False))
    assert types_of(flow, True)[:3] == [22, 20, 23]
    assert types_of(flow, False)[:3] == [22, 20, 23]

    # The test can fail: a hello with one wrong inner length is found.
    spoilt = bytearray(flow[0][1])
    at = spoilt.index(b"\x00\x33\x00\x2b") + 13  # the length of the X25519 key
    spoilt[at] += 9
    write_pcap(path, [(True, bytes(spoilt)), *flow[1:]])
    assert await ask(malformed, path) != []
