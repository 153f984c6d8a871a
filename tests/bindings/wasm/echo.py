"""A native server for pages of the origins that are its arguments: echoes; N messages of 64 KiB for ``down N``."""

from __future__ import annotations

import asyncio
import sys

import phantom


async def echo(stream: phantom.PhantomStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send_reliable(chunk)


async def streams(session: phantom.PhantomSession) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(echo(await session.accept_stream()))


async def messages(session: phantom.PhantomSession) -> None:
    async for message in session:
        if message.startswith(b"down "):
            for _ in range(int(message[5:])):
                await session.send(bytes(65536))
        elif len(message) < 1024:
            await session.send(message)


async def serve(session: phantom.PhantomSession) -> None:
    accepting = asyncio.create_task(streams(session))
    try:
        await messages(session)
    except phantom.PhantomError:
        pass
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)


async def main() -> None:
    serving = set()
    async with phantom.listen(
        "ws://127.0.0.1:0/phantom", key=phantom.generate_signing_key(), origins=sys.argv[1:]
    ) as listener:
        print(listener.urls()[0] if callable(listener.urls) else listener.urls[0], flush=True)
        while True:
            outcome = await listener.accept()
            serving.add(asyncio.create_task(serve(outcome.session)))


asyncio.run(main())
