# ruff: noqa: N802 - the methods are named as in proto/
"""The gRPC service of streams over the API (surface §15): each method turns one message into one call and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from phantom.errors import FrameTooLargeError, PhantomError, StreamClosedError, ValidationError
from phantom.limits import SIDECAR_MESSAGE_CAP, SIDECAR_STREAM_WINDOW
from phantom.sidecar._generated.v1 import session_pb2, stream_pb2, stream_pb2_grpc
from phantom.sidecar.exchange import StreamExchange
from phantom.sidecar.handles import SessionHandle, StreamHandle
from phantom.sidecar.status import to_detail

if TYPE_CHECKING:
    from phantom.sidecar.services import Core

__all__ = ["StreamService", "forget_streams"]

_Context = grpc.aio.ServicerContext[Any, Any]


class StreamService(stream_pb2_grpc.StreamServiceServicer):
    """Streams of sessions."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def _stream(self, ref: stream_pb2.StreamRef) -> StreamHandle:
        return self._core.leases.find(ref.handle, StreamHandle)

    async def Open(
        self, request: stream_pb2.StreamServiceOpenRequest, context: _Context
    ) -> stream_pb2.StreamServiceOpenResponse:
        """Opens a stream."""
        session = self._core.session(request.session)
        with self._core.leases.slot(session.lease.id, StreamHandle) as slot, self._core.waits.scope():
            stream = await session.session.open_stream(priority=request.priority, wait=not request.no_wait)
            handle = slot.fill(StreamHandle(stream, session, self._core.waits))
        session.streams.add(handle)
        if session.opened(request.opening, handle):
            return stream_pb2.StreamServiceOpenResponse(stream=_message(handle))
        await self._release(handle)
        raise StreamClosedError("the client gave the stream up before it was open")

    async def Accept(
        self, request: stream_pb2.StreamServiceAcceptRequest, context: _Context
    ) -> stream_pb2.StreamServiceAcceptResponse:
        """The next stream, or the last one if the client does not have it yet."""
        session = self._core.session(request.session)
        if request.ack > session.given:
            raise ValidationError(f"stream {request.ack} is acknowledged, but {session.given} was the last one")
        with session.accepting.take():
            handle = session.unacknowledged
            if handle is None or request.ack == session.given or not self._core.leases.holds(handle):
                with self._core.leases.slot(session.lease.id, StreamHandle) as slot:
                    stream = await session.session.accept_stream()
                    handle = slot.fill(StreamHandle(stream, session, self._core.waits))
                session.streams.add(handle)
                session.unacknowledged = handle
                session.given += 1
        accepted = stream_pb2.AcceptedStream(seq=session.given, stream=_message(handle))
        return stream_pb2.StreamServiceAcceptResponse(accepted=accepted)

    async def Send(
        self, request: stream_pb2.StreamServiceSendRequest, context: _Context
    ) -> stream_pb2.StreamServiceSendResponse:
        """Queues bytes."""
        handle, data = self._stream(request.stream), request.data
        if len(data) > SIDECAR_MESSAGE_CAP:
            raise FrameTooLargeError(f"Send carries at most {SIDECAR_MESSAGE_CAP} bytes; send the rest in another call")
        if request.unreliable:
            await handle.stream.send_unreliable(data)
        else:
            await handle.stream.send_reliable(data)
        return stream_pb2.StreamServiceSendResponse()

    async def Recv(
        self, request: stream_pb2.StreamServiceRecvRequest, context: _Context
    ) -> stream_pb2.StreamServiceRecvResponse:
        """The next piece, which is kept until a later call acknowledges it."""
        handle = self._stream(request.stream)
        with handle.receiving.take():
            after = handle.inbox.ack(request.ack)
            data = await handle.inbox.get(after)
        piece = stream_pb2.StreamData(seq=after + 1, data=data or b"", end_of_stream=data is None)
        return stream_pb2.StreamServiceRecvResponse(piece=piece)

    async def Exchange(
        self, request_iterator: AsyncIterator[stream_pb2.StreamServiceExchangeRequest], context: _Context
    ) -> AsyncIterator[stream_pb2.StreamServiceExchangeResponse]:
        """Bytes both ways."""
        exchange = None
        try:
            request = await anext(request_iterator, None)
            if request is None or request.frame.WhichOneof("frame") != "open":
                raise ValidationError("the first frame of an exchange opens it")
            opening = request.frame.open
            handle = self._stream(opening.stream)
            exchange = StreamExchange(handle, opening, context.write)
            yield _frame(opened=session_pb2.ExchangeOpened(window=SIDECAR_STREAM_WINDOW))
            with self._core.waits.scope() if opening.send_only else handle.receiving.take():
                await exchange.run(request_iterator)
        except PhantomError as error:
            if exchange is None or exchange.whole:
                yield _frame(failed=to_detail(error))
            raise

    async def SetPriority(
        self, request: stream_pb2.StreamServiceSetPriorityRequest, context: _Context
    ) -> stream_pb2.StreamServiceSetPriorityResponse:
        """Sets the priority."""
        await self._stream(request.stream).stream.set_priority(request.priority)
        return stream_pb2.StreamServiceSetPriorityResponse()

    async def Finish(
        self, request: stream_pb2.StreamServiceFinishRequest, context: _Context
    ) -> stream_pb2.StreamServiceFinishResponse:
        """Ends the own half."""
        await self._stream(request.stream).finish()
        return stream_pb2.StreamServiceFinishResponse()

    async def Reset(
        self, request: stream_pb2.StreamServiceResetRequest, context: _Context
    ) -> stream_pb2.StreamServiceResetResponse:
        """Abandons the own half."""
        self._stream(request.stream).stream.reset(request.code)
        return stream_pb2.StreamServiceResetResponse()

    async def Stop(
        self, request: stream_pb2.StreamServiceStopRequest, context: _Context
    ) -> stream_pb2.StreamServiceStopResponse:
        """Asks the peer to abandon its half."""
        self._stream(request.stream).stream.stop(request.code)
        return stream_pb2.StreamServiceStopResponse()

    async def Release(
        self, request: stream_pb2.StreamServiceReleaseRequest, context: _Context
    ) -> stream_pb2.StreamServiceReleaseResponse:
        """Gives a stream back."""
        if request.opening:
            handle = self._core.session(request.session).unopened(request.opening)
        else:
            handle = self._stream(request.stream)
        if handle is not None:
            await self._release(handle)
        return stream_pb2.StreamServiceReleaseResponse()

    async def _release(self, handle: StreamHandle) -> None:
        self._core.leases.forget(handle)
        handle.session.streams.discard(handle)
        await handle.release()


def forget_streams(core: Core, session: SessionHandle) -> None:
    """The session is over and forgotten, and its streams with it."""
    for handle in session.streams:
        core.leases.forget(handle)
    session.streams.clear()


def _message(handle: StreamHandle) -> stream_pb2.Stream:
    stream = handle.stream
    return stream_pb2.Stream(
        ref=stream_pb2.StreamRef(handle=handle.number),
        id=stream.stream_id,
        priority=stream.priority,
        max_unreliable_size=stream.max_unreliable_size,
    )


def _frame(**frame: Any) -> stream_pb2.StreamServiceExchangeResponse:
    return stream_pb2.StreamServiceExchangeResponse(frame=stream_pb2.StreamServerFrame(**frame))
