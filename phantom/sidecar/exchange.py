"""The sidecar's side of Exchange: messages of any size both ways, each way within the credit the other granted.

gRPC bounds what is under way on a connection, not what a side takes in, so the bound is here: at most 4 MiB of chunks
wait for the session, and at most 4 MiB and one message for the client. The frames of the client are always read at
once: a sender that waits for the session must not keep credits from a receiver that waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from phantom.errors import ValidationError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_CHUNK, SIDECAR_CHUNK_MIN, SIDECAR_MESSAGE_CAP, SIDECAR_WINDOW
from phantom.sidecar._generated.v1.session_pb2 import ExchangeOpen, ExchangeRequest, ExchangeResponse
from phantom.sidecar.handles import SessionHandle

__all__ = ["Exchange"]

_GRANT = SIDECAR_WINDOW // 4


class Exchange:
    """One call of Exchange, after its first frame ``opening``."""

    def __init__(
        self, handle: SessionHandle, opening: ExchangeOpen, write: Callable[[ExchangeResponse], Awaitable[None]]
    ) -> None:
        if opening.window and not 2 * SIDECAR_CHUNK_MIN <= opening.window <= SIDECAR_WINDOW:
            raise ValidationError(
                f"the window is {2 * SIDECAR_CHUNK_MIN} to {SIDECAR_WINDOW} bytes, not {opening.window}"
            )
        self._handle = handle
        self._send_only = opening.send_only
        self._acked = opening.ack
        self._write_frame = write
        self._writing = asyncio.Lock()
        self.whole = True  # no write was cut off: another frame may follow
        self._credit = opening.window or SIDECAR_WINDOW  # bytes of chunks that this side may send
        self._credited = asyncio.Event()
        self._allowed = SIDECAR_WINDOW  # bytes of chunks that the client may send
        self._arrived: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()  # None: a credit is due
        self._asked = self._ended = False

    async def run(self, requests: AsyncIterator[ExchangeRequest]) -> None:
        """Serves the call: returns when a client that only sends has sent everything, else raises what ended it."""
        jobs: list[Coroutine[Any, Any, None]] = [self._read(requests), self._send()]
        if not self._send_only:
            jobs.append(self._deliver())
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[ExchangeRequest]) -> None:
        async for request in requests:
            kind = request.frame.WhichOneof("frame")
            if kind == "chunk":
                data, more = request.frame.chunk.data, request.frame.chunk.more  # protobuf copies at each look
                self._allowed -= len(data) + ITEM_OVERHEAD
                if self._allowed < 0 or len(data) > SIDECAR_MESSAGE_CAP:
                    raise ValidationError("a chunk exceeds the credit that was granted, or 1 MiB")
                if more and not data:
                    raise ValidationError("a chunk that is not the last of its message is empty")
                self._arrived.put_nowait((data, more))
            elif kind == "credit":
                credit = request.frame.credit
                self._credit += credit.bytes
                if self._credit > SIDECAR_WINDOW:
                    raise ValidationError(f"more than {SIDECAR_WINDOW} bytes of credit were granted")
                if not self._send_only:
                    self._handle.inbox.ack(credit.ack)
                self._credited.set()
                if not credit.bytes and not self._asked:
                    self._asked = True
                    self._arrived.put_nowait(None)
            else:
                raise ValidationError("after the first frame of an exchange come chunks and credits")
        self._ended = True
        self._arrived.put_nowait(None)

    async def _send(self) -> None:
        """Puts chunks together and hands messages to the session; credit comes back as they are taken."""
        parts: list[bytes] = []
        size = taken = owed = 0
        while True:
            chunk = await self._arrived.get()
            if chunk is None:
                self._asked = False
                await self._grant(owed, taken)
                owed = 0
                if self._ended and self._arrived.empty():
                    return
                continue
            data, more = chunk
            size += len(data)
            if size > self._handle.max_message:
                raise ValidationError(f"a message has more than {self._handle.max_message} bytes")
            parts.append(data)
            if not more:
                await self._handle.session.send(b"".join(parts) if len(parts) > 1 else data)
                parts.clear()
                size = 0
                taken += 1
            owed += len(data) + ITEM_OVERHEAD
            if owed >= _GRANT:
                await self._grant(owed, taken)
                owed = 0

    async def _grant(self, size: int, taken: int) -> None:
        self._allowed += size
        response = ExchangeResponse()
        response.frame.credit.bytes = size
        response.frame.credit.ack = taken
        await self._write(response)

    async def _deliver(self) -> None:
        """Cuts messages of the session into chunks, as credit allows."""
        inbox = self._handle.inbox
        after = inbox.ack(self._acked)
        while True:
            message = await inbox.get(after)
            after += 1
            at = 0
            while True:
                rest = len(message) - at
                while self._credit < min(rest, SIDECAR_CHUNK_MIN) + ITEM_OVERHEAD:
                    self._credited.clear()
                    await self._credited.wait()
                size = min(rest, SIDECAR_CHUNK, self._credit - ITEM_OVERHEAD)
                self._credit -= size + ITEM_OVERHEAD
                data = message if size == len(message) else message[at : at + size]
                at += size
                more = at < len(message)
                response = ExchangeResponse()
                chunk = response.frame.chunk  # in place: protobuf copies a message that is put into another
                chunk.data = data
                chunk.more = more
                chunk.seq = after
                await self._write(response)
                if not more:
                    break

    async def _write(self, response: ExchangeResponse) -> None:
        async with self._writing:
            self.whole = False
            await self._write_frame(response)
            self.whole = True
