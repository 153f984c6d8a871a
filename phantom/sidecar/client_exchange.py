"""The client's side of Exchange.

gRPC ends a call whose read or write is cancelled, so the call belongs to two tasks of its own, and what users wait for
is in memory: a cancelled ``send`` or ``recv`` leaves the exchange whole and loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Protocol, Self

import grpc.aio

from phantom.errors import ConnectionClosedError, PhantomError
from phantom.limits import ITEM_OVERHEAD, SIDECAR_CHUNK, SIDECAR_CHUNK_MIN, SIDECAR_WINDOW
from phantom.sidecar._generated.v1.session_pb2 import (
    ClientFrame,
    Credit,
    ExchangeOpen,
    ExchangeRequest,
    ExchangeResponse,
    SessionRef,
)
from phantom.sidecar.status import from_detail, from_rpc_error

__all__ = ["SidecarExchange"]

_GRANT: Final = SIDECAR_WINDOW // 4
_Call = grpc.aio.StreamStreamCall[ExchangeRequest, ExchangeResponse]


class _Session(Protocol):
    """What an exchange needs of the session it is for."""

    ref: SessionRef
    received: int


class SidecarExchange:
    """Messages both ways over one call. Made by ``SidecarSession.exchange``; an async context manager.

    Leaving the block waits until the sidecar took everything that was sent, unless the block raised, and ends the call;
    the session goes on. While an exchange receives, it takes over from ``recv`` of the session. Waiting calls raise
    what ended the exchange; ``recv`` first gives what had arrived.
    """

    def __init__(self, session: _Session, open_call: Callable[[], _Call], address: str, *, send_only: bool) -> None:
        """For :meth:`SidecarSession.exchange`."""
        self._session = session
        self._open_call = open_call
        self._address = address
        self._send_only = send_only
        self._changed = asyncio.Condition()
        self._work = asyncio.Event()
        self._outgoing: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._sent = self._taken = 0  # messages
        self._credit = 0  # what may be sent
        self._incoming: deque[tuple[int, bytes, int]] = deque()  # number, message, credit to grant for it
        self._owed = 0  # credit to grant
        self._unacked = 0  # bytes received since the last credit, which acknowledges them
        self._asking = False
        self._error: PhantomError | None = None

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Queues one message; waits while more than 4 MiB are queued. Cancelled while waiting, nothing is queued."""
        payload = bytes(data)
        async with self._changed:
            await self._changed.wait_for(lambda: self._outgoing_bytes <= SIDECAR_WINDOW or self._error)
            if self._error is not None:
                raise self._error
            self._outgoing.append(payload)
            self._outgoing_bytes += len(payload) + ITEM_OVERHEAD
            self._sent += 1
        self._work.set()

    async def recv(self) -> bytes:
        """The next message. A cancelled call loses nothing."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._incoming or self._error)
            if not self._incoming:
                assert self._error is not None
                raise self._error
            self._session.received, message, cost = self._incoming.popleft()
            self._owed += cost
            self._unacked += len(message) + ITEM_OVERHEAD
        self._work.set()
        return message

    async def flush(self) -> None:
        """Returns when the session of the sidecar took everything that was sent."""
        async with self._changed:
            self._asking = self._taken < self._sent
            self._work.set()
            await self._changed.wait_for(lambda: self._taken >= self._sent or self._error)
            if self._taken < self._sent:
                assert self._error is not None
                raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                message = await self.recv()
            except ConnectionClosedError as closed:
                if not closed.peer_code:
                    return
                raise
            yield message

    async def __aenter__(self) -> Self:
        self._call = self._open_call()
        self._tasks = (asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self._call.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        parts: list[bytes] = []
        try:
            async for response in self._call:
                frame = response.frame
                if frame.HasField("chunk"):
                    parts.append(frame.chunk.data)  # protobuf copies at each look
                    cost = len(parts[-1]) + ITEM_OVERHEAD
                    if frame.chunk.more:
                        self._owed += cost
                    else:
                        self._incoming.append((frame.chunk.seq, b"".join(parts) if len(parts) > 1 else parts[0], cost))
                        parts.clear()
                elif frame.HasField("failed"):
                    self._error = from_detail(frame.failed)
                elif frame.HasField("credit"):
                    self._credit += frame.credit.bytes
                    self._taken = frame.credit.ack
                else:
                    self._credit += frame.opened.window
                await self._notify()
            self._error = ConnectionClosedError("the sidecar ended the exchange")
        except grpc.aio.AioRpcError as error:
            # A write that met the end of the call makes grpc.aio forget its status; then the last frame has the reason.
            self._error = self._error or from_rpc_error(error, self._address)
        await self._notify()

    async def _notify(self) -> None:
        self._work.set()
        async with self._changed:
            self._changed.notify_all()

    async def _write(self) -> None:
        session = self._session
        opening = ExchangeOpen(session=session.ref, ack=session.received, send_only=self._send_only)
        at = 0
        try:
            await self._call.write(ExchangeRequest(frame=ClientFrame(open=opening)))
            while True:
                rest = len(self._outgoing[0]) - at if self._outgoing else 0
                if self._owed >= _GRANT or self._unacked >= _GRANT:
                    credit = Credit(bytes=self._owed, ack=session.received)
                    self._owed = self._unacked = 0
                    await self._call.write(ExchangeRequest(frame=ClientFrame(credit=credit)))
                elif self._outgoing and self._credit >= min(rest, SIDECAR_CHUNK_MIN) + ITEM_OVERHEAD:
                    size = min(rest, SIDECAR_CHUNK, self._credit - ITEM_OVERHEAD)
                    self._credit -= size + ITEM_OVERHEAD
                    message = self._outgoing[0]
                    request = ExchangeRequest()
                    chunk = request.frame.chunk  # in place: protobuf copies a message that is put into another
                    chunk.data = message if size == len(message) else message[at : at + size]
                    chunk.more = size < rest
                    await self._call.write(request)
                    at += size
                    if size == rest:
                        at = 0
                        self._outgoing_bytes -= len(self._outgoing.popleft()) + ITEM_OVERHEAD
                        await self._notify()
                elif self._asking and not self._outgoing:
                    self._asking = False
                    await self._call.write(ExchangeRequest(frame=ClientFrame(credit=Credit(ack=session.received))))
                else:
                    self._work.clear()
                    await self._work.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call is over; the reader learns why
