"""Errors keep their class, code and attributes on the way through gRPC (surface §3, §15)."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from phantom import errors
from phantom.errors import (
    ConnectionClosedError,
    InternalError,
    PhantomError,
    ProtocolRejectedError,
    SessionClosingError,
    StreamResetError,
)
from phantom.sidecar._generated.v1.errors_pb2 import ErrorDetail
from phantom.sidecar.status import TRAILER, from_detail, from_rpc_error, status_of, to_detail

LEAVES = sorted(
    (cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, PhantomError) and cls.code),
    key=lambda cls: cls.code,
)
# surface §15, as written there
STATUS = {
    "UNAVAILABLE": {1, 28, 37},
    "INVALID_ARGUMENT": {4, 6},
    "RESOURCE_EXHAUSTED": {3, 33, 38},
    "DEADLINE_EXCEEDED": {15, 35},
    "NOT_FOUND": {13},
    "UNIMPLEMENTED": {19},
    "PERMISSION_DENIED": {43},
    "ABORTED": {42},
    "UNAUTHENTICATED": {41},
    "FAILED_PRECONDITION": {12, 14, 17, 18, 20, 21, 22, 23, 24, 29, 30, 31, 34, 36, 40},
}


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_every_error_survives(cls: type[PhantomError]) -> None:
    error = from_detail(ErrorDetail.FromString(to_detail(cls("what happened")).SerializeToString()))
    assert type(error) is cls
    assert str(error) == "what happened"
    detail = to_detail(cls("x"))
    assert (detail.code, detail.retryable) == (cls.code, cls.retryable)
    expected = next((name for name, codes in STATUS.items() if cls.code in codes), "INTERNAL")
    assert status_of(cls("x")).name == expected


@pytest.mark.parametrize("cls", [ConnectionClosedError, SessionClosingError])
@pytest.mark.parametrize("peer_code", [None, 0, 65535])
def test_close_code_and_what_was_lost_survive(cls: type[ConnectionClosedError], peer_code: int | None) -> None:
    error = from_detail(to_detail(cls("ended", peer_code, 12345)))
    assert isinstance(error, ConnectionClosedError)
    assert (error.peer_code, error.unacknowledged) == (peer_code, 12345)


def test_code_of_a_reset_survives() -> None:
    error = from_detail(to_detail(StreamResetError("reset", 65535)))
    assert isinstance(error, StreamResetError)
    assert error.reset_code == 65535


def test_refusal_of_the_server_survives() -> None:
    error = from_detail(to_detail(ProtocolRejectedError("refused", reject_code=1, supported_version=3)))
    assert isinstance(error, ProtocolRejectedError)
    assert (error.reject_code, error.supported_version) == (1, 3)


def test_code_of_a_newer_sidecar() -> None:
    detail = ErrorDetail(message="something new")
    detail.MergeFromString(b"\x08\xe7\x07")  # code 999
    error = from_detail(detail)
    assert type(error) is InternalError
    assert str(error) == "something new"


def test_long_message_fits_the_metadata() -> None:
    assert len(to_detail(InternalError("x" * 100_000)).message) == 1024


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 15),
        (grpc.StatusCode.CANCELLED, 1),
        (grpc.StatusCode.UNAUTHENTICATED, 41),
        (grpc.StatusCode.UNIMPLEMENTED, 19),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 38),
        (grpc.StatusCode.UNKNOWN, 10),
    ],
)
def test_what_grpc_itself_says(status: grpc.StatusCode, code: int) -> None:
    error = from_rpc_error(grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(("k", "v"))), "unix:/s")
    assert error.code == code
    assert "unix:/s" in str(error)


def test_trailer_beats_the_status() -> None:
    trailer = grpc.aio.Metadata(("k", "v"), (TRAILER, to_detail(ConnectionClosedError("bye", 3)).SerializeToString()))
    error = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), trailer), "unix:/s")
    assert isinstance(error, ConnectionClosedError)
    assert error.peer_code == 3
