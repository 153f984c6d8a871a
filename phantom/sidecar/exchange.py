"""The sidecar's side of both kinds of Exchange: messages of any size, or the bytes of a stream, both ways.

Each way goes within the credit that the other side granted.

gRPC bounds what is under way on a connection, not what a side takes in, so the bound is here: at most 4 MiB of chunks
(1 MiB for a stream) wait for the session, and at most as much and one message for the client. The frames of the client
are always read at once: a sender that waits for the session must not keep credits from a receiver that waits for them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Generic, TypeVar

from phantom.errors import StreamClosedError, ValidationError
from phantom.limits import (
    ITEM_OVERHEAD,
    SIDECAR_CHUNK,
    SIDECAR_CHUNK_MIN,
    SIDECAR_MESSAGE_CAP,
    SIDECAR_STREAM_WINDOW,
    SIDECAR_STREAM_WINDOW_MIN,
    SIDECAR_WINDOW,
)
from phantom.sidecar._generated.v1.session_pb2 import Chunk, ExchangeOpen, ExchangeResponse
from phantom.sidecar._generated.v1.stream_pb2 import (
    StreamChunk,
    StreamExchangeOpen,
    StreamServiceExchangeResponse,
)
from phantom.sidecar.handles import SessionHandle, StreamHandle

__all__ = ["Exchange", "StreamExchange"]

_Handle = TypeVar("_Handle", bound=SessionHandle | StreamHandle)


class _Duplex(ABC, Generic[_Handle]):
    """One call, after its first frame ``opening``. Its kinds say what a chunk is, and where its bytes go."""

    window: ClassVar[int]
    """Bytes of credit, both ways; the client may begin with less, ``window_min`` at least."""
    window_min: ClassVar[int]

    def __init__(
        self,
        handle: _Handle,
        opening: ExchangeOpen | StreamExchangeOpen,
        write: Callable[[Any], Awaitable[None]],
        response: type[ExchangeResponse | StreamServiceExchangeResponse],
    ) -> None:
        if opening.window and not self.window_min <= opening.window <= self.window:
            raise ValidationError(f"the window is {self.window_min} to {self.window} bytes, not {opening.window}")
        self._handle = handle
        self._send_only = opening.send_only
        self._acked = opening.ack
        self._response = response
        self._write_frame = write
        self._writing = asyncio.Lock()
        self.whole = True  # no write was cut off: another frame may follow
        self._credit = opening.window or self.window  # bytes of chunks that this side may send
        self._credited = asyncio.Event()
        self._allowed = self.window  # bytes of chunks that the client may send
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()  # bytes and a mark; None: a credit is due
        self._asked = self._ended = False
        self._taken = self._owed = 0  # chunks or messages that the session took; credit for them
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the client sends no more

    async def run(self, requests: AsyncIterator[Any]) -> None:
        """Serves the call: returns when both directions have ended as far as they can, else raises what ended it."""
        jobs: list[Coroutine[Any, Any, None]] = [self._read(requests), self._send()]
        if not self._send_only:
            jobs.append(self._deliver())
        tasks = [asyncio.ensure_future(job) for job in jobs]
        awaited: set[asyncio.Future[None]] = {self._over, *tasks[2:]}
        pending: set[asyncio.Future[None]] = {self._over, *tasks}
        try:
            while awaited & pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @abstractmethod
    def _check(self, chunk: Any, data: bytes) -> object:
        """The mark that stays with the data of a chunk; ValidationError for a chunk that cannot be."""

    @abstractmethod
    async def _take(self, data: bytes, mark: Any) -> None:
        """Hands the data of a chunk on; counts what was taken."""

    @abstractmethod
    async def _deliver(self) -> None:
        """Cuts what the session gives into chunks, as credit allows."""

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            kind = request.frame.WhichOneof("frame")
            if kind == "chunk":
                chunk = request.frame.chunk
                data = chunk.data  # protobuf copies at each look
                self._allowed -= len(data) + ITEM_OVERHEAD
                if self._allowed < 0 or len(data) > SIDECAR_MESSAGE_CAP:
                    raise ValidationError("a chunk exceeds the credit that was granted, or 1 MiB")
                self._arrived.put_nowait((data, self._check(chunk, data)))
            elif kind == "credit":
                credit = request.frame.credit
                self._credit += credit.bytes
                if self._credit > self.window:
                    raise ValidationError(f"more than {self.window} bytes of credit were granted")
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
        """Hands on what arrived; credit comes back as it is taken."""
        while True:
            chunk = await self._arrived.get()
            if chunk is None:
                self._asked = False
                await self._grant()
                if self._ended and self._arrived.empty():
                    self._end()
                    return
                continue
            data, mark = chunk
            self._owed += len(data) + ITEM_OVERHEAD
            await self._take(data, mark)
            if self._owed >= self.window // 4:
                await self._grant()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _grant(self) -> None:
        size, self._owed = self._owed, 0
        self._allowed += size
        response = self._response()
        response.frame.credit.bytes = size
        response.frame.credit.ack = self._taken
        await self._write(response)

    async def _affords(self, least: int) -> None:
        """Returns when a chunk of ``least`` bytes may be sent."""
        while self._credit < least + ITEM_OVERHEAD:
            self._credited.clear()
            await self._credited.wait()

    async def _write(self, response: object) -> None:
        async with self._writing:
            self.whole = False
            await self._write_frame(response)
            self.whole = True


class Exchange(_Duplex[SessionHandle]):
    """Messages of a session."""

    window = SIDECAR_WINDOW
    window_min = 2 * SIDECAR_CHUNK_MIN

    def __init__(
        self, handle: SessionHandle, opening: ExchangeOpen, write: Callable[[ExchangeResponse], Awaitable[None]]
    ) -> None:
        super().__init__(handle, opening, write, ExchangeResponse)
        self._parts: list[bytes] = []
        self._size = 0

    def _check(self, chunk: Chunk, data: bytes) -> bool:
        if chunk.more and not data:
            raise ValidationError("a chunk that is not the last of its message is empty")
        return chunk.more

    async def _take(self, data: bytes, mark: Any) -> None:
        """Puts chunks together and hands messages to the session."""
        self._size += len(data)
        if self._size > self._handle.max_message:
            raise ValidationError(f"a message has more than {self._handle.max_message} bytes")
        self._parts.append(data)
        if not mark:
            await self._handle.session.send(b"".join(self._parts) if len(self._parts) > 1 else data)
            self._parts.clear()
            self._size = 0
            self._taken += 1

    async def _deliver(self) -> None:
        inbox = self._handle.inbox
        after = inbox.ack(self._acked)
        while True:
            message = await inbox.get(after)
            after += 1
            at = 0
            while True:
                rest = len(message) - at
                await self._affords(min(rest, SIDECAR_CHUNK_MIN))
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


class StreamExchange(_Duplex[StreamHandle]):
    """The bytes of a stream."""

    window = SIDECAR_STREAM_WINDOW
    window_min = SIDECAR_STREAM_WINDOW_MIN

    def __init__(
        self,
        handle: StreamHandle,
        opening: StreamExchangeOpen,
        write: Callable[[StreamServiceExchangeResponse], Awaitable[None]],
    ) -> None:
        super().__init__(handle, opening, write, StreamServiceExchangeResponse)
        self._last = False  # end_of_stream came

    def _check(self, chunk: StreamChunk, data: bytes) -> tuple[bool, bool]:
        if self._last:
            raise StreamClosedError("a chunk came behind the end of the stream")
        self._last = chunk.end_of_stream
        return chunk.unreliable, chunk.end_of_stream

    async def _take(self, data: bytes, mark: Any) -> None:
        """Sends the bytes, and ends the half behind the last."""
        unreliable, last = mark
        if unreliable:
            await self._handle.stream.send_unreliable(data)
        elif data:
            await self._handle.stream.send_reliable(data)
        self._taken += 1
        if last:
            await self._handle.finish()
            await self._grant()
            self._end()

    async def _deliver(self) -> None:
        inbox = self._handle.inbox
        after = inbox.ack(self._acked)
        while True:
            piece = await inbox.get(after)
            after += 1
            data = piece or b""
            await self._affords(len(data))
            self._credit -= len(data) + ITEM_OVERHEAD
            response = StreamServiceExchangeResponse()
            chunk = response.frame.chunk
            chunk.data = data
            chunk.end_of_stream = piece is None
            chunk.seq = after
            await self._write(response)
            if piece is None:
                return
