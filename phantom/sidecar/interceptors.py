"""What stands before every call: the token, and the mapping of errors to status and trailer (surface §15)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from phantom.errors import AccessDeniedError, InternalError, PhantomError
from phantom.observability.log import logger
from phantom.sidecar.access import Token
from phantom.sidecar.status import TRAILER, status_of, to_detail

__all__ = ["ErrorInterceptor", "TokenInterceptor"]

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not generic at run time
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

_DENIED: Final = (
    "the access token is missing or wrong: send `authorization: Bearer TOKEN` with the content of the token file"
)
_BUG: Final = "the sidecar failed; its log says where. This is a bug, please report it"


async def fail(context: _Context, error: PhantomError) -> NoReturn:
    """Ends the call with the status and the trailer of ``error``."""
    detail = to_detail(error)
    await context.abort(status_of(error), detail.message, ((TRAILER, detail.SerializeToString()),))
    raise error  # abort() raises; this is for the type checker


def _rebuild(handler: _Handler, behaviour: Callable[[Any, _Context], Awaitable[Any]]) -> _Handler:
    """A handler of the same arity; a coroutine that writes to its context serves both kinds of response."""
    make: Callable[..., _Handler] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


async def _deny(_request: Any, context: _Context) -> None:
    await fail(context, AccessDeniedError(_DENIED))


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call without the token (code 41), those of health, reflection and unknown methods included."""

    def __init__(self) -> None:
        self._token: Token | None = None

    def require(self, token: Token) -> None:
        """Says what the token is; until then nobody gets in."""
        self._token = token

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Gives the real handler to who has the token."""
        handler = await continuation(handler_call_details)
        given = [value for key, value in handler_call_details.invocation_metadata or () if key == "authorization"]
        if self._token is not None and len(given) == 1 and self._token.allows(given[0]):
            return handler
        return grpc.stream_stream_rpc_method_handler(_deny) if handler is None else _rebuild(handler, _deny)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps what a handler raises. An error that is not Phantom's becomes INTERNAL, code 10, with a fixed text."""

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Wraps the handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def guarded(request: Any, context: _Context) -> Any:
            try:
                answer = behaviour(request, context)
                if not isinstance(answer, AsyncGenerator):
                    return await answer
                async with aclosing(answer):
                    async for message in answer:
                        await context.write(message)
            except PhantomError as error:
                await fail(context, error)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: nothing of an unexpected error may leave the process
                logger.error("%s in %s", type(error).__name__, method, exc_info=logger.isEnabledFor(logging.DEBUG))
                await fail(context, InternalError(_BUG))

        return _rebuild(handler, guarded)
