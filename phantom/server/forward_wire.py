"""``phantom-forward/1``: what the two ends of a forwarded connection say, and how its bytes move.

docs/protocol/FORWARD.md is the definition. One stream is one connection; all of this is above the session.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from phantom import limits
from phantom.api.endpoint import parse_address
from phantom.api.stream import PhantomStream
from phantom.errors import NetworkError, PhantomError, StreamResetError, ValidationError

__all__ = [
    "ACCEPTED",
    "REASONS",
    "Place",
    "Reset",
    "abort_socket",
    "check_name",
    "ended",
    "opening",
    "read_opening",
    "reset_of",
    "splice",
]

VERSION: Final = 1
ACCEPTED: Final = b"\0"
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.FORWARD_NAME_MAX}}}")


class Reset(IntEnum):
    """Codes with which either end resets and stops the stream."""

    MALFORMED = 0x101
    UNKNOWN_TARGET = 0x102
    TARGET_DOWN = 0x103
    TARGET_SLOW = 0x104
    LIMIT = 0x105
    CONNECTION_RESET = 0x106
    ENDING = 0x107


REASONS: Final = {
    Reset.MALFORMED: "the opening message was not understood",
    Reset.UNKNOWN_TARGET: "the server has no target of that name",
    Reset.TARGET_DOWN: "the target refused the connection, or cannot be reached",
    Reset.TARGET_SLOW: "the target did not accept the connection in time",
    Reset.LIMIT: "too many connections",
    Reset.CONNECTION_RESET: "the connection was reset",
    Reset.ENDING: "the other side is ending",
}


@dataclass(frozen=True, slots=True)
class Place:
    """``HOST:PORT`` or ``unix:PATH``: where connections come from or go to."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, *, listening: bool = False) -> Place:
        """ValidationError for anything else; port 0 and an empty host are for listening alone."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path or len(os.fsencode(path)) > 107:
                raise ValidationError(f"{text!r} is not unix:PATH with a path of 1 to 107 bytes")
            if not hasattr(socket, "AF_UNIX"):
                raise ValidationError("unix sockets are not available on this system")
            return cls(path=path)
        if "://" in text:
            raise ValidationError(f"{text!r} is not HOST:PORT or unix:PATH")
        address = parse_address(text, listening=listening)
        return cls(address.host, address.port)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it; OSError."""
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port)


def check_name(name: str) -> str:
    """The name of a target: 1 to 64 letters, digits, dots, underscores and hyphens. ValidationError."""
    if not _NAME.fullmatch(name):
        raise ValidationError(
            f"{name!r} does not name a target: 1 to {limits.FORWARD_NAME_MAX} letters, digits and . _ -"
        )
    return name


def opening(name: str) -> bytes:
    """The opening message: length (u8) of what follows, version (u8), name (ASCII; none is the default target)."""
    return bytes((1 + len(name), VERSION)) + name.encode("ascii")


async def read_opening(stream: PhantomStream) -> tuple[str, bytes]:
    """The name that the opening message has, and the bytes after it. ValidationError if it is none."""
    data = b""
    while not data or len(data) < 1 + data[0]:
        chunk = await stream.recv()
        if chunk is None:
            raise ValidationError("the stream ended before its opening message did")
        data += chunk
    end = 1 + data[0]
    if end < 2 or data[1] != VERSION:
        raise ValidationError("the opening message is not of version 1")
    name = data[2:end].decode("ascii", "replace")
    return (check_name(name) if name else ""), data[end:]


def reset_of(error: BaseException) -> Reset:
    """The code that tells the other end why this one could not go on."""
    return Reset.CONNECTION_RESET if isinstance(error, OSError | PhantomError) else Reset.ENDING


def abort_socket(writer: asyncio.StreamWriter) -> None:
    """Ends a connection so that its other end sees a reset, as far as its kind of socket can say so."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    writer.transport.abort()


async def ended(writer: asyncio.StreamWriter) -> None:
    """Waits, a turn or so, for the end of an aborted connection; asyncio reports an error that nobody asked for."""
    with suppress(OSError):
        await writer.wait_closed()


async def splice(
    stream: PhantomStream,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    answer: bool,
    first: bytes = b"",
) -> tuple[int, int]:
    """Moves bytes both ways until both halves have ended; how many went into the stream and how many came out.

    An end of one half is passed on as such. If either side is reset, or the session ends, both are reset, and that
    is raised: OSError, PhantomError. ``answer``: the peer's bytes begin with the answer to the opening message.
    ``first`` came with the opening message and goes to the socket.
    """
    moved = [0, 0]

    async def inwards() -> None:
        while True:
            chunk = await reader.read(await stream._turn())
            if not chunk:
                await stream.finish()
                return
            await stream.send_reliable(chunk)
            moved[0] += len(chunk)

    async def outwards() -> None:
        chunk: bytes | None = first
        due = answer
        while chunk is not None:
            if due and chunk:
                if not chunk.startswith(ACCEPTED):
                    raise NetworkError("the server answered something that is not phantom-forward/1")
                chunk, due = chunk[1:], False
            if chunk:
                writer.write(chunk)
                await writer.drain()
                moved[1] += len(chunk)
            chunk = await stream.recv(limits.FORWARD_ANSWER_TIMEOUT if due else None)
        if due:
            raise NetworkError("the server ended the stream without an answer")
        writer.write_eof()

    halves = [asyncio.ensure_future(half()) for half in (inwards, outwards)]
    try:
        await _both(halves)
        writer.close()
        await writer.wait_closed()  # it counts as long as the socket takes the rest
    except BaseException as error:
        code = reset_of(error)
        stream.reset(code.value)
        stream.stop(code.value)
        abort_socket(writer)
        await ended(writer)
        raise
    finally:
        for half in halves:
            half.cancel()
        await asyncio.gather(*halves, return_exceptions=True)
    return moved[0], moved[1]


async def _both(halves: Sequence[asyncio.Future[None]]) -> None:
    """Waits for both; raises what failed first. What the peer's reset says beats that its half could not be written."""
    done, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_EXCEPTION)
    failed = [error for half in done if (error := half.exception()) is not None]
    if failed:
        raise next((error for error in failed if isinstance(error, StreamResetError)), failed[0])
