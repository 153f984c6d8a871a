"""A key made once, and an echo server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import phantom


@pytest.fixture(scope="session")
def server_key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


@pytest.fixture(scope="session")
def other_key() -> phantom.HybridSigningKey:
    return phantom.generate_signing_key()


EchoServer = Callable[..., AbstractAsyncContextManager[phantom.PhantomListener]]


@pytest.fixture
def echo_server(server_key: phantom.HybridSigningKey) -> EchoServer:
    """``async with echo_server(**listen_arguments) as listener``: every session gets its messages back."""

    @asynccontextmanager
    async def serve(*addresses: str, **arguments: Any) -> AsyncIterator[phantom.PhantomListener]:
        arguments.setdefault("key", server_key)
        async with phantom.listen(*(addresses or ("tcp://127.0.0.1:0",)), **arguments) as listener:
            async with asyncio.TaskGroup() as tasks:
                acceptor = tasks.create_task(_accept(listener, tasks))
                yield listener
                await listener.drain(grace=1.0)
                acceptor.cancel()

    return serve


async def _accept(listener: phantom.PhantomListener, tasks: asyncio.TaskGroup) -> None:
    async for outcome in listener:
        tasks.create_task(_echo(outcome.session))


async def _echo(session: phantom.PhantomSession) -> None:
    try:
        async for message in session:
            await session.send(message)
    except phantom.PhantomError:
        pass
    finally:
        await session.disconnect()
