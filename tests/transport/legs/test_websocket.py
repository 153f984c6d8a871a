"""The WebSocket leg on real sockets, plain and over TLS, against itself and against an independent library."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from phantom import limits
from phantom.errors import FrameTooLargeError, NetworkError, PhantomError, ProtocolViolationError
from phantom.runtime import AsyncioRuntime
from phantom.transport.legs import websocket_frames as ws
from phantom.transport.legs.base import Leg
from phantom.transport.legs.http_upgrade import UpgradePolicy, accept_key
from phantom.transport.legs.tcp import TcpLeg, connect_tcp
from phantom.transport.legs.tls import TlsLeg
from phantom.transport.legs.websocket import WebSocketLeg, open_websocket
from tests.calm import PATIENCE, until
from tests.transport.legs.support import Owner, Peer, frame, tcp_pair

pytestmark = pytest.mark.usefixtures("loop_kind")

SIZES = [0, 1, 100, 125, 126, 127, 1000, 65535, 65536, 200_000, 3 * limits.MiB]


@asynccontextmanager
async def tcp_legs() -> AsyncIterator[tuple[TcpLeg, TcpLeg]]:
    runtime = AsyncioRuntime()
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = await connect_tcp("127.0.0.1", server.getsockname()[1], runtime, PATIENCE)
        far = TcpLeg(server.accept()[0], runtime)
    try:
        yield near, far
    finally:
        near.close(linger=False)
        far.close(linger=False)


@asynccontextmanager
async def pair(
    tls_contexts: dict[str, ssl.SSLContext] | None = None, client: Owner | None = None, server: Owner | None = None
) -> AsyncIterator[tuple[WebSocketLeg, Owner, WebSocketLeg, Owner]]:
    """Both ends, open, each with its owner."""
    async with tcp_legs() as (near, far):
        lower: tuple[Leg, Leg] = (near, far)
        if tls_contexts is not None:
            lower = TlsLeg(near, tls_contexts["client"], "localhost"), TlsLeg(far, tls_contexts["server"], None)
        one, two = client or Owner(), server or Owner()
        there = WebSocketLeg.server(lower[1], UpgradePolicy())
        there.start(two)
        here = WebSocketLeg.client(lower[0], "localhost:1", "")
        async with asyncio.timeout(PATIENCE):
            await open_websocket(here)
        here.start(one)
        yield here, one, there, two


def send(leg: WebSocketLeg, owner: Owner, *messages: bytes) -> None:
    owner.out.extend(map(frame, messages))
    owner.batch_size = max(owner.batch_size, *(len(message) + 4 for message in messages))
    leg.flush()


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_of_every_size_arrive_both_ways(tls_contexts: dict[str, ssl.SSLContext], tls: bool) -> None:
    messages = [bytes(i * 31 & 255 for i in range(size)) for size in SIZES]
    async with pair(tls_contexts if tls else None) as (here, one, there, two):
        assert here.name == there.name == "websocket"
        assert here.proves_address
        assert here.peer_addr.startswith("127.0.0.1:")
        send(here, one, *messages)
        send(there, two, *messages)
        await two.until(lambda: len(two.frames) == len(messages))
        await one.until(lambda: len(one.frames) == len(messages))
        assert one.frames == two.frames == messages
        here.close(linger=True)
        await two.until(lambda: two.lost)
        assert two.lost == [None]
        there.close(linger=True)
        await asyncio.gather(here.wait_closed(), there.wait_closed())
        assert here.closed
        assert one.lost == []


@pytest.mark.parametrize("tls", [False, True])
async def test_a_receiver_that_stops_stops_the_sender(tls_contexts: dict[str, ssl.SSLContext], tls: bool) -> None:
    async with pair(tls_contexts if tls else None) as (here, one, there, two):
        there.pause()
        message = bytes(60_000)
        for _ in range(2000):
            one.out.append(frame(message))
        here.flush()
        await one.until(lambda: one.blocked == [True])
        left = len(one.out)
        assert left > 1000, "the kernel's buffers and one batch are all that is taken"
        assert two.frames == []
        there.resume()
        await two.until(lambda: len(two.frames) == 2000)
        assert one.blocked[-1] is False


@pytest.mark.parametrize("tls", [False, True])
async def test_what_the_owner_left_is_offered_again_and_to_a_new_owner(
    tls_contexts: dict[str, ssl.SSLContext], tls: bool
) -> None:
    class Picky(Owner):
        """Takes one frame, then nothing more."""

        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            if self.frames:
                return start
            stop = start + 4 + struct.unpack_from(">I", buf, start)[0]
            super().leg_received(buf, view, start, min(stop, end))
            there.pause()
            return min(stop, end)

    picky, next_one = Picky(), Owner()
    async with pair(tls_contexts if tls else None, server=picky) as (here, one, there, _):
        send(here, one, b"first", b"second", b"third")
        await picky.until(lambda: picky.frames)
        send(here, one, b"fourth" * 20_000)
        there.owner = next_one
        there.resume()
        await next_one.until(lambda: len(next_one.frames) == 3)
        assert picky.frames + next_one.frames == [b"first", b"second", b"third", b"fourth" * 20_000]


async def test_a_ping_is_answered() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        server = WebSocketLeg.server(leg, UpgradePolicy())
        server.start(owner)
        await upgrade(peer)
        await peer.send(client_frame(ws.PING, b"are you there?"))
        assert await peer.read(16) == b"\x8a\x0eare you there?"


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        (None, None, ""),
        (1000, None, ""),
        (1001, None, ""),
        (1009, FrameTooLargeError, "too big"),
        (1002, NetworkError, "code 1002: protocol error"),
        (1013, NetworkError, "code 1013: it is overloaded"),
        (4000, NetworkError, "code 4000: of its own reasons"),
    ],
)
async def test_the_code_of_a_close_becomes_an_error(
    code: int | None, expected: type[PhantomError] | None, words: str
) -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        server = WebSocketLeg.server(leg, UpgradePolicy())
        server.start(owner)
        await upgrade(peer)
        await peer.send(
            client_frame(ws.BINARY, b"last") + client_frame(ws.CLOSE, struct.pack(">H", code) if code else b"")
        )
        await owner.until(lambda: owner.lost)
        assert owner.frames == [b"last"]
        assert await peer.read(4) == b"\x88\x02" + struct.pack(">H", code or 1000), "a CLOSE is answered"
        server.close(linger=False)
        (error,) = owner.lost
        if expected is None:
            assert error is None
        else:
            assert type(error) is expected
            assert words in str(error)


async def test_a_violation_ends_the_leg_with_its_code() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        server = WebSocketLeg.server(leg, UpgradePolicy())
        server.start(owner)
        await upgrade(peer)
        await peer.send(b"\x82\x01x")
        await owner.until(lambda: owner.lost)
        assert isinstance(owner.lost[0], ProtocolViolationError)
        assert "must mask" in str(owner.lost[0])
        assert await peer.read(4) == b"\x88\x02\x03\xea"
        peer.sock.close()
        await server.wait_closed()


async def test_a_length_over_the_cap_ends_the_leg_before_the_body_comes() -> None:
    class Capped(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            if struct.unpack_from(">I", buf, start)[0] > 100_000:
                server.close(linger=False)
                return end
            return super().leg_received(buf, view, start, end)

    async with tcp_pair() as (leg, peer):
        owner = Capped()
        server = WebSocketLeg.server(leg, UpgradePolicy())
        server.start(owner)
        await upgrade(peer)
        await peer.send(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"mask")
        assert await peer.read_all() == b""
        assert server.closed


# --- the beginning ----------------------------------------------------------------------------------------------------

REQUEST = (
    b"GET /phantom HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def upgrade(peer: Peer) -> None:
    await peer.send(REQUEST)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await peer.read(1)
    assert answer.startswith(b"HTTP/1.1 101 ")


def client_frame(code: int, payload: bytes) -> bytes:
    return ws.control_frame(code, payload, lambda _: b"mask")


async def test_whoever_opens_the_address_gets_a_page_and_the_end() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        WebSocketLeg.server(leg, UpgradePolicy()).start(owner)
        await peer.send(b"GET /phantom HTTP/1.1\r\nHost: h\r\n\r\n")
        page = await peer.read_all()
        assert page.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"This address speaks Phantom" in page
        assert isinstance(owner.lost[0], NetworkError)
        peer.sock.close()
        await leg.wait_closed()


async def test_the_request_may_come_byte_by_byte() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        WebSocketLeg.server(leg, UpgradePolicy()).start(owner)
        for byte in REQUEST[:-1]:
            await peer.send(bytes((byte,)))
        assert owner.lost == []
        await peer.send(REQUEST[-1:])
        assert (await peer.read(12)) == b"HTTP/1.1 101"


@pytest.mark.parametrize(
    "data", [b"G" * (limits.UPGRADE_CAP + 1), REQUEST + b"\x82\x81maskx", b"\x16\x03\x01\x02\0\r\n\r\n"]
)
async def test_what_is_no_request_is_answered_and_ended(data: bytes) -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        WebSocketLeg.server(leg, UpgradePolicy()).start(owner)
        await peer.send(data)
        assert (await peer.read_all()).startswith(b"HTTP/1.1 4")
        assert len(owner.lost) == 1
        assert owner.frames == []
        peer.sock.close()
        await leg.wait_closed()


async def test_frames_right_behind_the_answer_are_taken() -> None:
    async with tcp_pair() as (leg, peer):
        client = WebSocketLeg.client(leg, "h", "/phantom")
        opening = asyncio.ensure_future(open_websocket(client))
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += await peer.read(1)
        key = next(line for line in asked.decode().splitlines() if line.startswith("Sec-WebSocket-Key: "))[19:]
        answer = "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        await peer.send(f"{answer}{accept_key(key)}\r\n\r\n".encode() + b"\x82\x05early")
        await opening
        owner = Owner()
        client.start(owner)
        await owner.until(lambda: owner.frames)
        assert owner.frames == [b"early"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403"),
        (b"nonsense\r\n\r\n", "not answer as a web server"),
        (b"H" * (limits.UPGRADE_CAP + 1), "too long"),
        (b"", "closed the connection without an answer"),
    ],
)
async def test_a_server_that_takes_no_websocket_is_a_network_error(answer: bytes, words: str) -> None:
    async with tcp_pair() as (leg, peer):
        opening = asyncio.ensure_future(open_websocket(WebSocketLeg.client(leg, "h", "/phantom")))
        await peer.read(20)
        if answer:
            await peer.send(answer)
        else:
            peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(NetworkError, match=words):
            await opening
        assert leg.closed


async def test_giving_up_the_opening_closes_the_connection() -> None:
    async with tcp_pair() as (leg, peer):
        opening = asyncio.ensure_future(open_websocket(WebSocketLeg.client(leg, "h", "/phantom")))
        await peer.read(20)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert leg.closed


# --- TLS --------------------------------------------------------------------------------------------------------------


async def failing(
    tls_contexts: dict[str, ssl.SSLContext], trust: str, host: str, answer: Callable[[TcpLeg], object]
) -> BaseException:
    async with tcp_legs() as (near, far):
        answer(far)
        client = WebSocketLeg.client(TlsLeg(near, tls_contexts[trust], host), host, "")
        with pytest.raises(NetworkError) as caught:
            await open_websocket(client)
        await until(lambda: near.closed)
        return caught.value


async def test_tls_that_cannot_be_says_why(tls_contexts: dict[str, ssl.SSLContext]) -> None:
    def serve(far: TcpLeg) -> None:
        WebSocketLeg.server(TlsLeg(far, tls_contexts["server"], None), UpgradePolicy()).start(Owner())

    def plain(far: TcpLeg) -> None:
        WebSocketLeg.server(far, UpgradePolicy()).start(Owner())

    def hang_up(far: TcpLeg) -> None:
        far.close(linger=False)

    assert "the certificate is not accepted" in str(await failing(tls_contexts, "stranger", "localhost", serve))
    assert "the certificate is not accepted" in str(await failing(tls_contexts, "client", "elsewhere", serve))
    assert "TLS handshake failed" in str(await failing(tls_contexts, "client", "localhost", plain))
    assert "ended during the TLS handshake" in str(await failing(tls_contexts, "client", "localhost", hang_up))


# --- against an independent library -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
async def test_an_independent_client_speaks_with_our_server(tls_contexts: dict[str, ssl.SSLContext], tls: bool) -> None:
    from websockets.asyncio.client import connect

    runtime, legs = AsyncioRuntime(), []

    class Echo(Owner):
        def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
            at = super().leg_received(buf, view, start, end)
            while self.frames:
                send(legs[-1], self, self.frames.pop(0))
            return at

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def serve() -> None:
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            lower: Leg = TcpLeg(sock, runtime)
            legs.append(
                WebSocketLeg.server(TlsLeg(lower, tls_contexts["server"], None) if tls else lower, UpgradePolicy())
            )
            echo = Echo()
            echo.on_lost = lambda: legs[-1].close(linger=False)  # as a session does
            legs[-1].start(echo)

        serving = asyncio.ensure_future(serve())
        scheme, port = ("wss" if tls else "ws"), listening.getsockname()[1]
        async with asyncio.timeout(PATIENCE):
            async with connect(
                f"{scheme}://localhost:{port}/phantom",
                host="127.0.0.1",
                ssl=tls_contexts["client"] if tls else None,
                subprotocols=["phantom-core"],  # type: ignore[list-item]
                compression=None,
                max_size=None,
                proxy=None,
            ) as client:
                assert client.subprotocol == "phantom-core"
                for size in (0, 5, 126, 70_000, 1 << 20):
                    await client.send(bytes(size))
                    assert await client.recv() == bytes(size)
                await client.send([b"frag", b"men", b"ts"])
                assert await client.recv() == b"fragments"
                await (await client.ping(b"there?"))
            await serving
            assert client.close_code == 1000


async def test_our_client_speaks_with_an_independent_server() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
        assert connection.subprotocol == "phantom-core"

    async with (
        asyncio.timeout(PATIENCE),
        serve(
            echo,
            "127.0.0.1",
            0,
            subprotocols=["phantom-core"],
            max_size=None,  # type: ignore[list-item]
        ) as server,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        leg = await connect_tcp("127.0.0.1", port, AsyncioRuntime(), PATIENCE)
        client = await open_websocket(WebSocketLeg.client(leg, f"127.0.0.1:{port}", "/anywhere"))
        owner = Owner()
        client.start(owner)
        messages = [bytes(size) for size in (1, 125, 126, 70_000, 1 << 20)]
        send(client, owner, *messages)
        await owner.until(lambda: len(owner.frames) == len(messages))
        assert owner.frames == messages
        client.close(linger=True)
        await client.wait_closed()
