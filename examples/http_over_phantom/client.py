"""A small HTTP/1.1 client on asyncio streams: a GET and a POST on one connection."""

import asyncio
import sys
from asyncio import open_connection


async def main(*address: str) -> None:
    reader, writer = await open_connection(*address)
    writer.write(b"GET /hello HTTP/1.1\r\nHost: example\r\n\r\n")
    print(await read_answer(reader))
    body = b"as loud as you can"
    head = f"POST /shout HTTP/1.1\r\nHost: example\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode("latin-1") + body)
    print(await read_answer(reader))
    assert await reader.read() == b""  # the server ended its half, as it was asked to
    writer.close()
    await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> str:
    """The body of the next answer."""
    status = (await reader.readline()).split()
    length = 0
    while line := (await reader.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    assert status[1] == b"200", status
    return (await reader.readexactly(length)).decode().strip()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
