"""Errors on their way through gRPC: class -> status and trailer in the sidecar, back in its clients (surface §15).

Which status a code has is data; the classes themselves know only their code.
"""

from __future__ import annotations

from typing import Final

import grpc

from phantom.errors import (
    AccessDeniedError,
    ConnectionClosedError,
    FrameTooLargeError,
    InternalError,
    NetworkError,
    PhantomError,
    PhantomTimeoutError,
    ProtocolRejectedError,
    StreamResetError,
    UnsupportedError,
    error_class,
)
from phantom.sidecar._generated.v1.errors_pb2 import ErrorCode, ErrorDetail

__all__ = ["TRAILER", "from_detail", "from_rpc_error", "status_of", "to_detail"]

TRAILER: Final = "phantom-error-bin"
_MESSAGE_MAX: Final = 1024  # characters; all metadata of a call share 8 KiB
_FAILED_PRECONDITION: Final = (12, 14, 17, 18, 20, 21, 22, 23, 24, 29, 30, 31, 34, 36, 40)
_STATUS: Final[dict[int, grpc.StatusCode]] = {
    **dict.fromkeys((1, 28, 37), grpc.StatusCode.UNAVAILABLE),
    **dict.fromkeys((4, 6), grpc.StatusCode.INVALID_ARGUMENT),
    **dict.fromkeys((3, 33, 38), grpc.StatusCode.RESOURCE_EXHAUSTED),
    **dict.fromkeys((15, 35), grpc.StatusCode.DEADLINE_EXCEEDED),
    **dict.fromkeys(_FAILED_PRECONDITION, grpc.StatusCode.FAILED_PRECONDITION),
    13: grpc.StatusCode.NOT_FOUND,
    19: grpc.StatusCode.UNIMPLEMENTED,
    41: grpc.StatusCode.UNAUTHENTICATED,
    42: grpc.StatusCode.ABORTED,
    43: grpc.StatusCode.PERMISSION_DENIED,
}
# What gRPC itself, not the sidecar, had to say: such an answer has no trailer.
_BARE: Final[dict[grpc.StatusCode, tuple[type[PhantomError], str]]] = {
    grpc.StatusCode.UNAVAILABLE: (NetworkError, "the sidecar at {address} cannot be reached; is it running?"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (PhantomTimeoutError, "the sidecar at {address} did not answer in time"),
    grpc.StatusCode.CANCELLED: (NetworkError, "the call to the sidecar at {address} was cancelled"),
    grpc.StatusCode.UNAUTHENTICATED: (AccessDeniedError, "the sidecar at {address} does not accept this token"),
    grpc.StatusCode.UNIMPLEMENTED: (
        UnsupportedError,
        "the sidecar at {address} does not offer this call; is it too old?",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        FrameTooLargeError,
        "more than one call to the sidecar at {address} can carry",
    ),
}


def status_of(error: PhantomError) -> grpc.StatusCode:
    """The status of an error; INTERNAL for a code that has none of its own."""
    return _STATUS.get(error.code, grpc.StatusCode.INTERNAL)


def to_detail(error: PhantomError) -> ErrorDetail:
    """The trailer of an error."""
    detail = ErrorDetail(code=ErrorCode.ValueType(error.code), retryable=error.retryable)
    detail.message = str(error)[:_MESSAGE_MAX]
    if isinstance(error, ConnectionClosedError):
        detail.unacknowledged = error.unacknowledged
        if error.peer_code is not None:
            detail.peer_code = error.peer_code
    if isinstance(error, ProtocolRejectedError):
        detail.reject_code = error.reject_code
        detail.supported_version = error.supported_version
    if isinstance(error, StreamResetError):
        detail.reset_code = error.reset_code
    return detail


def from_detail(detail: ErrorDetail) -> PhantomError:
    """The error of a trailer; an InternalError with the sidecar's message for a code that this client does not know."""
    kind = error_class(detail.code)
    if issubclass(kind, ConnectionClosedError):
        return kind(detail.message, detail.peer_code if detail.HasField("peer_code") else None, detail.unacknowledged)
    if issubclass(kind, ProtocolRejectedError):
        return kind(detail.message, detail.reject_code, detail.supported_version)
    if issubclass(kind, StreamResetError):
        return kind(detail.message, detail.reset_code)
    return kind(detail.message)


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> PhantomError:
    """The error that a call to the sidecar at ``address`` ended with."""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            return from_detail(ErrorDetail.FromString(value))
    kind, text = _BARE.get(error.code(), (InternalError, "the sidecar at {address} failed; its log says why"))
    return kind(text.format(address=address))
