"""A Phantom listener and a client of it, in one program."""

from __future__ import annotations

import asyncio

import phantom


async def answer(listener: phantom.PhantomListener) -> None:
    """Takes the sessions of a listener and sends every message back in capitals."""

    async def serve(session: phantom.PhantomSession) -> None:
        try:
            async with session:
                await session.await_ready(timeout=10)
                async for message in session:
                    await session.send(message.upper())
        except phantom.PhantomError as error:  # its client is gone, or pins another key
            print("a session ended:", error)

    async with asyncio.TaskGroup() as tasks:
        async for outcome in listener:
            tasks.create_task(serve(outcome.session))


async def ask(url: str, *questions: bytes) -> None:
    """Connects to the server with the key that ``url`` pins, and to no other, and prints what it answers."""
    async with phantom.connect(url, timeout=10) as session:
        key = session.peer_identity()
        assert key is not None
        print("the server proved that it holds", key.fingerprint())
        print(" + ".join(session.handshake.algorithms), f"in {session.handshake.seconds * 1e3:.1f} ms")
        for question in questions:
            await session.send(question, timeout=10)
            print(question, "->", await session.recv(timeout=10))


async def main() -> None:
    """A listener on a free port with a fresh key, and one client."""
    async with phantom.listen("127.0.0.1:0") as listener:
        (url,) = listener.urls
        print("listening on", url)
        answering = asyncio.create_task(answer(listener))
        await ask(url, b"hello", b"post-quantum")
        listener.shutdown()
        await answering


if __name__ == "__main__":
    asyncio.run(main())
