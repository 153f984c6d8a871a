"""A small HTTP/1.1 server on asyncio streams: GET says what was asked for, POST gives the body back in capitals."""

import asyncio
import contextlib
import sys
from phantom import start_server


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the requests of one connection, one after the other, until it ends or asks to."""
    try:
        while request := (await reader.readline()).decode("latin-1").split():
            method, path = request[:2]
            headers = await read_headers(reader)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            answer = body.upper() if method == "POST" else f"you asked for {path}\n".encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(answer)}\r\n\r\n"
            writer.write(head.encode("latin-1") + answer)
            await writer.drain()
            if headers.get("connection") == "close":
                break
    finally:
        writer.close()
        await writer.wait_closed()


async def read_headers(reader: asyncio.StreamReader) -> dict[str, str]:
    """Everything up to the empty line, by name in small letters."""
    headers = {}
    while line := (await reader.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


async def main(*address: str) -> None:
    server = await start_server(serve, *address)
    print("serving:", server, flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
