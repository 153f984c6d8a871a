"""What stands before every call: the token, and the mapping of errors to status and trailer (surface §15)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from phantom.errors import AccessDeniedError, InternalError, PhantomError, ValidationError
from phantom.observability.log import logger
from phantom.sidecar.access import Token
from phantom.sidecar.status import TRAILER, status_of, to_detail

__all__ = ["Guard"]

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not generic at run time
_Behaviour: TypeAlias = Callable[[Any, _Context], Any]
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

_DENIED: Final = (
    "the access token is missing or wrong: send `authorization: Bearer TOKEN` with the content of the token file"
)
_BUG: Final = "the sidecar failed; its log says where. This is a bug, please report it"
# (request streams, response streams) -> what makes a handler of that arity
_MAKE: Final[dict[tuple[bool, bool], Callable[..., _Handler]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Guard(grpc.aio.ServerInterceptor):
    """Lets nobody in without the token (code 41), to health, reflection and unknown methods neither; maps errors.

    An error that is not Phantom's becomes INTERNAL, code 10, with a fixed text: nothing of it leaves the process.
    """

    def __init__(self) -> None:
        self._token: Token | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    def require(self, token: Token) -> None:
        """Says what the token is; until then nobody gets in."""
        self._token = token

    async def finished(self) -> None:
        """Returns when no call is left: gRPC's ``stop`` does not wait for the last steps of handlers."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """A handler of the same arity, which checks and maps or refuses."""
        handler = await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata or ()
        given = [value for key, value in metadata if key == "authorization"]
        allowed = self._token is not None and len(given) == 1 and self._token.allows(given[0])
        if handler is None:
            return None if allowed else grpc.stream_stream_rpc_method_handler(self._guarded(_deny, "an unknown method"))
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        decoded = _decoded(behaviour, handler)
        guarded = self._guarded(decoded if allowed else _deny, handler_call_details.method)
        # Without a deserializer: what a stranger sends is not even parsed, and a failure to parse is ours to map.
        make = _MAKE[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(guarded, None, handler.response_serializer)

    def _guarded(self, behaviour: _Behaviour, method: str) -> _Behaviour:
        """A coroutine that writes to its context serves both kinds of response."""

        async def guarded(request: Any, context: _Context) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            try:
                answer = behaviour(request, context)
                if not isinstance(answer, AsyncGenerator):
                    return await answer
                async with aclosing(answer):
                    async for message in answer:
                        await context.write(message)
            except PhantomError as error:
                await _fail(context, error)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: nothing of an unexpected error may leave it
                logger.error("%s in %s", type(error).__name__, method, exc_info=logger.isEnabledFor(logging.DEBUG))
                await _fail(context, InternalError(_BUG))

        return guarded


def _decoded(behaviour: _Behaviour, handler: _Handler) -> _Behaviour:
    """``behaviour`` for requests as they came, in bytes."""
    decode = handler.request_deserializer or bytes
    if handler.request_streaming:
        return lambda requests, context: behaviour(_Requests(requests, decode), context)
    return lambda request, context: behaviour(_decode(decode, request), context)


def _decode(decode: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return decode(request)
    except DecodeError:
        raise ValidationError("the request does not decode; was it made from the same interface definition?") from None


class _Requests:
    """The messages of a stream, decoded."""

    def __init__(self, requests: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> None:
        self._requests = requests
        self._decode = decode

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return _decode(self._decode, await anext(self._requests))


async def _deny(_request: Any, _context: _Context) -> NoReturn:
    raise AccessDeniedError(_DENIED)


async def _fail(context: _Context, error: PhantomError) -> None:
    """Ends the call with the status and the trailer of ``error``."""
    detail = to_detail(error)
    await context.abort(status_of(error), detail.message, ((TRAILER, detail.SerializeToString()),))
