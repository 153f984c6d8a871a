"""The token is on every call, and no text of an unexpected error leaves the process (surface §15)."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from phantom.sidecar._generated.v1 import identity_pb2, listener_pb2, session_pb2, sidecar_pb2
from phantom.sidecar._generated.v1.errors_pb2 import ErrorDetail
from phantom.sidecar.interceptors import Guard
from tests.sidecar.conftest import Raw, Start, detail_of, raw

METHODS: list[MethodDescriptor] = [
    method
    for module in (sidecar_pb2, identity_pb2, listener_pb2, session_pb2, health_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
Metadata = Sequence[tuple[str, str]]


async def _call(
    channel: grpc.aio.Channel, path: str, streams: tuple[bool, bool], metadata: Metadata, *, say: bool = True
) -> object:
    """One call by its path; its first answer. A client that streams says nothing unless ``say``."""
    requests, responses = streams
    method = getattr(channel, f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}")(path)
    call = method(metadata=metadata) if requests else method(b"", metadata=metadata)
    if requests and say:
        await call.write(b"")
    try:
        return await (call.read() if responses else call)
    finally:
        call.cancel()


def _headers(token: str) -> dict[str, Metadata]:
    flipped = ("0" if token[0] != "0" else "1") + token[1:]
    return {
        "no header": (),
        "empty": (("authorization", ""),),
        "wrong token": (("authorization", f"Bearer {flipped}"),),
        "no scheme": (("authorization", token),),
        "other scheme": (("authorization", f"Basic {token}"),),
        "other header": (("x-token", f"Bearer {token}"),),
        "twice": (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
    }


@pytest.mark.parametrize("case", _headers("0" * 64))
async def test_no_call_without_the_token(start: Start, case: str) -> None:
    async with start(reflection=True) as running, raw(running) as client:
        metadata = _headers(client.token)[case]
        unknown = [("/phantom.v1.SessionService/Unknown", (False, False)), ("/no.Such/Thing", (True, True))]
        known = [
            (
                f"/{method.containing_service.full_name}/{method.name}",
                (method.client_streaming, method.server_streaming),
            )
            for method in METHODS
        ]
        assert len(known) > 25
        assert {streams for _, streams in known} >= {(False, False), (False, True), (True, True)}
        for path, streams in known + unknown:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _call(client.channel, path, streams, metadata, say=False)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, path
            assert detail_of(caught.value).code == 41, path
            assert client.token not in str(caught.value)


async def test_token_opens_health_and_reflection(start: Start) -> None:
    async with start(reflection=True) as running, raw(running) as client:
        for path, streams in (
            ("/grpc.health.v1.Health/Check", (False, False)),
            ("/grpc.health.v1.Health/Watch", (False, True)),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", (True, True)),
        ):
            assert await _call(client.channel, path, streams, client.metadata)


async def test_reflection_is_off_unless_asked_for(start: Start) -> None:
    async with start() as running, raw(running) as client:
        path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(client.channel, path, (True, True), client.metadata, say=False)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_own_status_of_a_library_service_goes_through(start: Start) -> None:
    async with start() as running, raw(running) as client:
        check = client.channel.unary_unary(
            "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(health_pb2.HealthCheckRequest(service="no.such.Service"), metadata=client.metadata)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_request_that_does_not_decode(start: Start) -> None:
    async with start() as running, raw(running) as client:
        for path in (
            "/phantom.v1.SessionService/Get",
            "/phantom.v1.SessionService/WatchEvents",
            "/phantom.v1.SessionService/Exchange",
        ):
            streams = path.endswith("Exchange")
            kind = "stream_stream" if streams else "unary_stream" if path.endswith("Events") else "unary_unary"
            for garbage in (b"\xff", b"\x0a\x7f", bytes(1000), b"\x0a\x02\x08"):
                method = getattr(client.channel, kind)(path)
                call = method(metadata=client.metadata) if streams else method(garbage, metadata=client.metadata)
                if streams:
                    await call.write(garbage)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (call if kind == "unary_unary" else _drain(call))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "does not decode" in detail_of(caught.value).message


async def test_noise_never_meets_a_bug(start: Start, rng: random.Random) -> None:
    """Random, truncated and bit-flipped requests of every call that takes one."""
    unary = [
        method
        for method in METHODS
        if not method.client_streaming and method.containing_service.file.package == "phantom.v1"
    ]
    async with start() as running, raw(running) as client:
        for method in unary:
            message = message_factory.GetMessageClass(method.input_type)()
            _fill(message, rng)
            whole = message.SerializeToString()
            noise = [rng.randbytes(rng.randrange(200)) for _ in range(10)]
            noise += [whole[: rng.randrange(len(whole) + 1)] for _ in range(5)]
            for _ in range(10 if whole else 0):
                flipped = bytearray(whole)
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
                noise.append(bytes(flipped))
            path = f"/{method.containing_service.full_name}/{method.name}"
            kind = client.channel.unary_stream if method.server_streaming else client.channel.unary_unary
            for body in noise:
                call = kind(path)(body, metadata=client.metadata)
                try:
                    await (_drain(call) if method.server_streaming else call)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _TYPED or detail_of(error).code == 10:
                        raise


_TYPED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def _fill(message: Message, rng: random.Random) -> None:
    """Something in every field."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if not field.is_repeated:
                _fill(getattr(message, field.name), rng)
                getattr(message, field.name).SetInParent()
        elif not field.is_repeated:
            kind = {field.CPPTYPE_STRING: "text", field.CPPTYPE_BOOL: True}.get(field.cpp_type, rng.randrange(1, 100))
            setattr(message, field.name, b"bytes" if field.type == field.TYPE_BYTES else kind)


async def _drain(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_bytes_of_strangers_are_not_parsed(start: Start) -> None:
    async with start() as running, raw(running) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary("/phantom.v1.SessionService/Get")(b"\xff")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


class _SecretError(Exception):
    pass


def _fail(*_: object, **__: object) -> None:
    raise _SecretError("/home/someone/key 0123456789abcdef")


async def _open_lease(client: Raw) -> None:
    await client.sidecar.OpenLease(sidecar_pb2.OpenLeaseRequest(), metadata=client.metadata)


async def _keep_lease(client: Raw) -> None:
    call = client.sidecar.KeepLease(metadata=client.metadata)
    await call.write(sidecar_pb2.KeepLeaseRequest())
    await call.read()


@pytest.mark.parametrize(("name", "call"), [("open", _open_lease), ("get", _keep_lease)])
async def test_unexpected_error_leaks_no_text(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, call: object
) -> None:
    async with start() as running, raw(running) as client:
        monkeypatch.setattr(running.core.leases, name, _fail)
        with caplog.at_level(logging.INFO, "phantom"), pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client)  # type: ignore[operator]
        detail = detail_of(caught.value)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (detail.code, detail.retryable) == (10, False)
    for text in (str(caught.value), repr(caught.value.trailing_metadata()), detail.message, caplog.text):
        assert "someone" not in text
        assert "0123456789abcdef" not in text
    assert any("_SecretError in /phantom.v1.SidecarService/" in message for message in caplog.messages)


async def test_log_has_the_trace_when_debugging(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as running, raw(running) as client:
        monkeypatch.setattr(running.core.leases, "open", _fail)
        with caplog.at_level(logging.DEBUG, "phantom"), pytest.raises(grpc.aio.AioRpcError):
            await _open_lease(client)
    assert "Traceback" in caplog.text


async def test_error_of_a_call_carries_its_detail(start: Start) -> None:
    async with start() as running, raw(running) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.session.Get(session_pb2.GetRequest(), metadata=client.metadata)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert detail_of(caught.value) == ErrorDetail(code=13, message="no such session")
    assert caught.value.details() == "no such session"


async def test_nobody_gets_in_before_the_token_is_known() -> None:
    async def continuation(_: grpc.HandlerCallDetails) -> None:
        return None

    class Details:
        method = "/x/Y"
        invocation_metadata = (("authorization", "Bearer "),)

    assert await Guard().intercept_service(continuation, Details()) is not None
