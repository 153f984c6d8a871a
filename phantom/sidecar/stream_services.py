# ruff: noqa: N802 - the methods are named as in proto/
"""The gRPC service of streams over the API (surface §15)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

import grpc.aio

from phantom.errors import UnsupportedError
from phantom.sidecar._generated.v1 import stream_pb2, stream_pb2_grpc

__all__ = ["StreamService"]

_LATER: Final = "this sidecar does not serve streams yet"
_Context = grpc.aio.ServicerContext[Any, Any]


class StreamService(stream_pb2_grpc.StreamServiceServicer):
    """Streams of a session."""

    async def Open(self, request: stream_pb2.StreamServiceOpenRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Accept(self, request: stream_pb2.StreamServiceAcceptRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Send(self, request: stream_pb2.StreamServiceSendRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Recv(self, request: stream_pb2.StreamServiceRecvRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Exchange(
        self, request_iterator: AsyncIterator[stream_pb2.StreamServiceExchangeRequest], context: _Context
    ) -> AsyncIterator[stream_pb2.StreamServiceExchangeResponse]:
        """UnsupportedError."""
        if await anext(request_iterator, None) is not None or not _LATER:
            raise UnsupportedError(_LATER)
        yield stream_pb2.StreamServiceExchangeResponse()

    async def SetPriority(self, request: stream_pb2.StreamServiceSetPriorityRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Finish(self, request: stream_pb2.StreamServiceFinishRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Reset(self, request: stream_pb2.StreamServiceResetRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Stop(self, request: stream_pb2.StreamServiceStopRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)

    async def Release(self, request: stream_pb2.StreamServiceReleaseRequest, context: _Context) -> NoReturn:
        """UnsupportedError."""
        raise UnsupportedError(_LATER)
