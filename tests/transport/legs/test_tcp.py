"""The TCP leg on real sockets: windows, batches, limits, the end; on callbacks, on tasks, and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import random
import socket
import sys
import tracemalloc
from typing import Any

import pytest

import phantom
from phantom import limits
from phantom.errors import NetworkError, PhantomTimeoutError
from phantom.runtime import AsyncioRuntime
from phantom.transport.legs import tcp
from phantom.transport.legs.tcp import TcpLeg, addresses_to_bind, connect_tcp, format_address
from tests.calm import PATIENCE, reset, turns
from tests.transport.legs.support import Owner, TurnedClock, frame, tcp_pair

pytestmark = pytest.mark.usefixtures("loop_kind")

FRAMES = [b"a", b"", b"four", bytes(range(200))]


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connected_socket_is_tuned(host: str) -> None:
    async with tcp_pair(host=host) as (leg, peer):
        assert leg.peer_addr == format_address(peer.sock.getsockname())
        assert leg.peer_addr.startswith("[::1]:" if host == "::1" else "127.0.0.1:")
        assert leg.name == "tcp"
        assert leg.proves_address
        assert not leg.closed
        assert leg._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            assert leg._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == limits.TCP_NOTSENT_LOWAT
        assert not leg._sock.getblocking()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def test_a_refused_connection_says_so_in_the_words_of_the_system() -> None:
    port = _free_port()
    with pytest.raises(NetworkError, match=rf"^cannot connect to 127\.0\.0\.1:{port}: Connection refused$") as caught:
        await connect_tcp("127.0.0.1", port, AsyncioRuntime(), PATIENCE)
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 64, "bad..name", "nul\0nul"])
async def test_a_name_that_has_no_address_is_a_network_error(host: str) -> None:
    with pytest.raises(NetworkError, match=r"^cannot resolve"):
        await connect_tcp(host, 1, AsyncioRuntime(), PATIENCE)


def _resolves_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, Any]) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in found]

    class Loop:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.sock_connect = loop.sock_connect
            self.getaddrinfo = getaddrinfo

    loop = Loop(asyncio.get_running_loop())
    monkeypatch.setattr(tcp.asyncio, "get_running_loop", lambda: loop)


async def test_addresses_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _resolves_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", _free_port())), (socket.AF_INET, server.getsockname()))
        sock = await tcp._connect("name", 1)
        with sock, server.accept()[0]:
            assert sock.getpeername() == server.getsockname()


async def test_an_address_family_that_this_host_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.socket

    def without_ipv6(family: int = -1, *rest: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *rest, **named)

    with socket.create_server(("127.0.0.1", 0)) as server:
        _resolves_to(monkeypatch, (socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET, server.getsockname()))
        monkeypatch.setattr(tcp.socket, "socket", without_ipv6)
        sock = await tcp._connect("name", 1)
        monkeypatch.undo()
        sock.close()


async def test_a_name_without_any_address_is_a_network_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolves_to(monkeypatch)
    with pytest.raises(NetworkError, match="it has no address"):
        await tcp._connect("name", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full accept queue answers")
async def test_a_host_that_does_not_answer_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first, socket.socket() as last:
        for sock in (first, last):  # the accept queue is full now: what else comes is ignored
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        host, port = server.getsockname()
        with pytest.raises(PhantomTimeoutError, match=rf"{host}:{port} did not answer within 0.05 s"):
            await connect_tcp(host, port, AsyncioRuntime(), 0.05)
        connecting = asyncio.ensure_future(connect_tcp(host, port, AsyncioRuntime(), PATIENCE))
        await turns()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_a_peer_that_resets_at_once_is_a_network_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = tcp._connect

        async def and_reset(host: str, port: int) -> socket.socket:
            sock = await connected(host, port)
            accepted, _ = server.accept()
            reset(accepted)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(sock, 1)
            return sock

        monkeypatch.setattr(tcp, "_connect", and_reset)
        with pytest.raises(NetworkError, match=r"cannot connect to 127\.0\.0\.1"):
            await connect_tcp(*server.getsockname(), AsyncioRuntime(), PATIENCE)


# --- binding ----------------------------------------------------------------------------------------------------------


def _bind(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    return tcp.bind_tcp(host, port, addresses_to_bind(host, port), reuse_port=reuse_port)


async def test_bound_sockets_are_those_of_the_specification() -> None:
    (sock,) = _bind("127.0.0.1", 0, reuse_port=False)
    with sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        with pytest.raises(NetworkError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            _bind("127.0.0.1", sock.getsockname()[1], reuse_port=False)
    (sock,) = _bind("::1", 0, reuse_port=False)
    with sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


async def test_without_a_host_every_address_has_the_same_port() -> None:
    sockets = _bind("", 0, reuse_port=False)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 64, "192.0.2.1"])
async def test_what_cannot_be_bound_is_a_network_error(host: str) -> None:
    with pytest.raises(NetworkError, match="cannot listen on"):
        _bind(host, 0, reuse_port=False)


async def test_a_name_is_bound_on_all_of_its_addresses_or_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*addresses: str) -> None:
        named = [(socket.AF_INET6 if ":" in host else socket.AF_INET, 0, 0, "", (host, 0)) for host in addresses]
        monkeypatch.setattr(tcp.socket, "getaddrinfo", lambda *_, **__: named)

    found("192.0.2.1", "127.0.0.1", "2001:db8::1")
    (sock,) = _bind("this host lacks two of them", 0, reuse_port=False)
    sock.close()
    found("127.0.0.1", "127.0.0.1")
    with pytest.raises(NetworkError, match="already in use"):
        _bind("twice", 0, reuse_port=False)


@pytest.mark.parametrize("taken", [1, 7, 8])
async def test_a_port_that_is_free_on_one_address_only_was_an_error(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """The port that the first address got may be another program's on the second: then both get another one."""
    bind_one, made, clashes = tcp._bind_one, [], []

    def bind(family: int, address: Any, reuse_port: bool) -> socket.socket:
        if made and len(clashes) < taken:
            clashes.append(address)
            made.clear()
            raise OSError(errno.EADDRINUSE, "Address already in use")
        sock = bind_one(family, address, reuse_port)
        made.append(sock)
        return sock

    monkeypatch.setattr(tcp, "_bind_one", bind)
    found = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    if taken == 8:
        with pytest.raises(NetworkError, match="already in use"):
            tcp.bind_tcp("name", 0, found, reuse_port=False)
    else:
        one, two = tcp.bind_tcp("name", 0, found, reuse_port=False)
        assert one.getsockname()[1] == two.getsockname()[1]
        one.close()
        two.close()
    assert len(clashes) == taken
    made.clear()
    with pytest.raises(NetworkError):
        clashes.clear()
        tcp.bind_tcp("name", 1, [found[0], found[0]], reuse_port=False)
    assert len(clashes) <= 1, "a port that was asked for is not exchanged"


async def test_a_port_is_shared_on_request_where_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = _bind("127.0.0.1", 0, reuse_port=True)
    with one:
        (other,) = _bind("127.0.0.1", one.getsockname()[1], reuse_port=True)
        other.close()
    monkeypatch.delattr(tcp.socket, "SO_REUSEPORT")
    with pytest.raises(NetworkError):
        _bind("127.0.0.1", 0, reuse_port=True)


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_frames_arrive_whole_wherever_they_are_cut() -> None:
    stream = b"".join(map(frame, FRAMES))
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        for cut in range(1, len(stream)):
            owner.frames.clear()
            calls = len(owner.calls)
            await peer.send(stream[:cut])
            await owner.until(lambda calls=calls: len(owner.calls) > calls)
            assert len(leg._rest or b"") == owner.offered
            await peer.send(stream[cut:])
            await owner.until(lambda: len(owner.frames) == len(FRAMES))
            assert owner.frames == FRAMES
            assert leg._rest is None


async def test_a_stream_byte_by_byte() -> None:
    stream = b"".join(map(frame, FRAMES))
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        for at in range(len(stream)):
            calls = len(owner.calls)
            await peer.send(stream[at : at + 1])
            await owner.until(lambda calls=calls: len(owner.calls) > calls)
        assert owner.frames == FRAMES


async def test_random_pieces_give_the_same_frames(rng: random.Random) -> None:
    frames = [rng.randbytes(rng.choice((0, 1, 100, 70_000, 300_000))) for _ in range(40)]
    stream = b"".join(map(frame, frames))
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        at = 0
        while at < len(stream):
            size = rng.choice((1, 3, 1000, 65_536, 200_000))
            await peer.send(stream[at : at + size])
            at += size
            await turns(1)
        await owner.until(lambda: len(owner.frames) == len(frames))
        assert owner.frames == frames


async def test_a_frame_larger_than_the_window_grows_in_steps_and_is_released() -> None:
    size = 4 * limits.MiB
    data = random.Random(1).randbytes(size)
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await peer.send(frame(b"warm"))
        await owner.until(lambda: owner.frames)
        owner.frames.clear()
        stream = frame(data)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            sending = asyncio.ensure_future(peer.send(stream))
            await owner.until(lambda: owner.frames)
            await sending
            assert hashlib.sha256(owner.frames.pop()).digest() == hashlib.sha256(data).digest()
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < 2.5 * size  # the window, and what is kept of it or the owner's copy
        assert now - before < 256 * limits.KiB
        assert leg._rest is None
        for window, _ in owner.calls:
            assert window <= size + 4 + 64 * limits.KiB
        grown = [window for window, _ in owner.calls if window > limits.READ_WINDOW]
        assert grown
        assert all(later - earlier <= 64 * limits.KiB for earlier, later in itertools.pairwise(grown))


async def test_no_read_brings_more_than_the_owner_allows() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner(read_size=limits.HANDSHAKE_FRAME_CAP)
        await peer.send(frame(bytes(200_000)))
        leg.start(owner)
        await owner.until(lambda: owner.frames)
        offered = [count for _, count in owner.calls]
        assert offered[0] <= limits.HANDSHAKE_FRAME_CAP
        assert all(b - a <= limits.HANDSHAKE_FRAME_CAP for a, b in itertools.pairwise(offered))


async def test_between_reads_only_the_unfinished_frame_is_kept() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await peer.send(frame(bytes(1000)) + frame(bytes(5000))[:777])
        await owner.until(lambda: owner.offered == 777)
        assert leg._rest is not None
        assert len(leg._rest) == 777


async def test_a_new_owner_takes_what_the_old_one_left_in_the_window() -> None:
    async with tcp_pair() as (leg, peer):
        old, new = Owner(), Owner()

        class One(Owner):
            def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
                at = super().leg_received(buf, view, start, start + 9)
                leg.owner = new
                return at

        old = One()
        leg.start(old)
        await peer.send(frame(b"12345") + frame(b"for the new one") + frame(b"half")[:6])
        await new.until(lambda: new.frames)
        assert old.frames == [b"12345"]
        assert new.frames == [b"for the new one"]
        await peer.send(b"lf")
        await new.until(lambda: len(new.frames) == 2)
        assert new.frames[1] == b"half"


async def test_pausing_within_the_callback_keeps_the_rest_until_resumed() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        owner.on_frame = lambda _: leg.pause()
        owner.whole = True

        def one_at_a_time(buf: bytearray, view: memoryview, start: int, end: int) -> int:
            if leg._paused:
                return start
            stop = start + 5
            return Owner.leg_received(owner, buf, view, start, min(stop, end))

        owner.leg_received = one_at_a_time  # type: ignore[method-assign]
        leg.start(owner)
        await peer.send(b"".join(frame(b"%d" % number) for number in range(5)))
        for number in range(5):
            await owner.until(lambda number=number: len(owner.frames) == number + 1)
            await turns()
            assert len(owner.frames) == number + 1
            leg.resume()
        owner.on_frame = lambda _: None
        leg.resume()
        await peer.send(frame(b"z"))
        await owner.until(lambda: owner.frames[-1] == b"z")


async def test_pausing_from_outside_delivers_nothing_until_resumed() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await peer.send(frame(b"first"))
        await owner.until(lambda: owner.frames)
        leg.pause()
        await peer.send(frame(b"second") + frame(b"third"))
        await turns(50)
        assert owner.frames == [b"first"]
        leg.pause()
        leg.resume()
        leg.resume()
        await owner.until(lambda: len(owner.frames) == 3)
        await peer.send(frame(b"fourth"))
        await owner.until(lambda: len(owner.frames) == 4)
        assert owner.frames == [b"first", b"second", b"third", b"fourth"]


async def test_the_end_of_the_stream_is_told_once() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await peer.send(frame(b"last") + b"\0\0")
        peer.sock.shutdown(socket.SHUT_WR)
        await owner.until(lambda: owner.lost)
        await turns()
        assert owner.lost == [None]
        assert owner.frames == [b"last"]
        assert not leg.closed
        leg.flush()
        leg.pause()
        leg.resume()
        leg.close(linger=True)  # the peer has ended already: nothing to wait for
        assert leg.closed


async def test_the_end_behind_a_pause_is_told_after_it() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        leg.pause()
        await peer.send(frame(b"last"))
        peer.sock.shutdown(socket.SHUT_WR)
        await turns()
        assert owner.lost == []
        leg.resume()
        await owner.until(lambda: owner.lost)
        assert owner.frames == [b"last"]
        assert owner.lost == [None]


async def test_a_reset_is_a_network_error_and_releases_the_socket() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await turns()
        reset(peer.sock)
        await owner.until(lambda: owner.lost)
        (error,) = owner.lost
        assert isinstance(error, NetworkError)
        assert str(error) == "the connection failed: Connection reset by peer"
        assert leg.closed
        leg.flush()
        leg.close(linger=True)


async def test_a_leg_without_an_owner_reads_and_sends_nothing() -> None:
    async with tcp_pair() as (leg, peer):
        leg.flush()
        owner = Owner()
        leg.start(owner)
        leg.owner = None
        await peer.send(frame(b"x"))
        await turns()
        assert owner.frames == []
        leg.owner = owner
        await peer.send(frame(b"y"))
        await owner.until(lambda: len(owner.frames) == 2)


async def test_an_owner_that_is_gone_is_told_nothing() -> None:
    async with tcp_pair(small=True) as (leg, peer):
        owner = Owner(batch_size=200_000)
        leg.start(owner)
        owner.out.extend([bytes(200_000), b"left"])
        leg.flush()
        leg.owner = None
        assert len(await peer.read(200_000)) == 200_000
        await turns()
        leg.owner = owner
        owner.out.append(bytes(200_000))
        leg.flush()
        leg.owner = None
        leg.close(linger=True)
        assert len(await peer.read_all()) == 200_004
        assert owner.blocked == [True, True]
    async with tcp_pair() as (leg, peer):
        leg.start(owner)
        leg.owner = None
        peer.sock.shutdown(socket.SHUT_WR)
        await turns()
    async with tcp_pair() as (leg, peer):
        leg.start(owner)
        leg.owner = None
        reset(peer.sock)
        await leg.wait_closed()
    assert owner.lost == []


async def test_a_wake_up_for_nothing_keeps_the_unfinished_frame() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        await peer.send(frame(b"whole")[:6])
        await owner.until(lambda: owner.calls)
        leg._readable()
        await peer.send(frame(b"whole")[6:])
        await owner.until(lambda: owner.frames == [b"whole"])


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_what_fits_the_kernel_leaves_at_once() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        owner.out.extend([frame(b"one"), frame(b"two")])
        leg.flush()
        assert owner.fills == [14]
        assert owner.blocked == []
        assert await peer.read(14) == frame(b"one") + frame(b"two")


async def test_batches_are_filled_one_after_the_other() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        pieces = [bytes([number]) * 60_000 for number in range(10)]
        owner.out.extend(pieces)
        leg.flush()
        assert await peer.read(600_000) == b"".join(pieces)
        assert max(owner.fills) <= limits.SEND_BATCH


async def test_an_owner_with_large_packets_gets_a_batch_of_its_own() -> None:
    async with tcp_pair() as (leg, peer):
        big = limits.BULK_CHUNK_MAX + 8192
        owner = Owner(batch_size=big)
        leg.start(owner)
        owner.out.extend([b"x" * big, b"y" * big])
        leg.flush()
        assert await peer.read(2 * big) == b"x" * big + b"y" * big
        assert owner.fills == [big, big]


async def test_a_reader_that_does_not_read_blocks_and_is_served_when_it_does() -> None:
    async with tcp_pair(small=True) as (leg, peer):
        owner = Owner()
        leg.start(owner)
        pieces = [random.Random(number).randbytes(50_000) for number in range(40)]
        owner.out.extend(pieces)
        leg.flush()
        assert owner.blocked == [True]
        filled = sum(owner.fills)
        assert filled <= limits.SEND_BATCH
        leg.flush()
        leg.flush()
        assert sum(owner.fills) == filled, "nothing is filled while bytes wait"
        assert await peer.read(2_000_000) == b"".join(pieces)
        await owner.until(lambda: owner.blocked[-1] is False)
        assert owner.blocked == [True, False] * (len(owner.blocked) // 2)
        owner.out.append(b"after")
        leg.flush()
        assert await peer.read(5) == b"after"


async def test_both_directions_at_once_through_small_buffers() -> None:
    async with tcp_pair(small=True) as (leg, peer):
        owner = Owner()
        leg.start(owner)
        there = [frame(random.Random(number).randbytes(40_000)) for number in range(20)]
        back = [random.Random(-number).randbytes(40_000) for number in range(20)]
        owner.out.extend(there)
        leg.flush()
        sending = asyncio.ensure_future(peer.send(b"".join(map(frame, back))))
        assert await peer.read(20 * 40_004) == b"".join(there)
        await owner.until(lambda: len(owner.frames) == 20)
        await sending
        assert owner.frames == back


async def test_a_write_that_stalls_for_30_seconds_fails_the_leg() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime, small=True) as (leg, peer):
        owner = Owner()
        leg.start(owner)
        owner.out.extend([bytes(50_000)] * 40)
        leg.flush()
        assert owner.blocked == [True]
        runtime.turn(limits.WRITE_STALL_TIMEOUT - 1)
        await peer.read(200_000)
        async with asyncio.timeout(PATIENCE):
            while leg._progress_at < runtime.now:
                await turns(1)
        runtime.turn(limits.WRITE_STALL_TIMEOUT - 1)
        assert owner.lost == [], "there was progress meanwhile"
        runtime.turn(1.5)
        (error,) = owner.lost
        assert isinstance(error, NetworkError)
        assert str(error) == f"{leg.peer_addr} has taken no data for 30 s"
        assert leg.closed
        assert runtime.armed == []


async def test_slow_progress_within_one_batch_was_taken_for_a_stall_on_task_loops() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime, small=True) as (leg, peer):
        owner = Owner(batch_size=limits.SEND_BATCH)
        leg.start(owner)
        owner.out.append(bytes(limits.SEND_BATCH))
        leg.flush()
        got = 0
        while got < limits.SEND_BATCH - 20_000:
            runtime.turn(limits.WRITE_STALL_TIMEOUT * 0.6)
            got += len(await peer.read(min(60_000, limits.SEND_BATCH - got)))
            await turns()
        assert owner.lost == []


async def test_writing_to_a_peer_that_is_gone_is_a_network_error() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        leg.pause()
        reset(peer.sock)
        for _ in range(1000):
            if owner.lost:
                break
            owner.out.append(b"x")
            leg.flush()
            await turns(1)
        assert [type(error) for error in owner.lost] == [NetworkError]
        assert leg.closed


async def test_a_peer_that_goes_while_bytes_wait_is_a_network_error() -> None:
    async with tcp_pair(small=True) as (leg, peer):
        owner = Owner()
        owner.on_frame = lambda _: leg.pause()
        leg.start(owner)
        await peer.send(frame(b"pause"))
        await owner.until(lambda: owner.frames)
        owner.out.extend([bytes(50_000)] * 40)
        leg.flush()
        reset(peer.sock)
        await owner.until(lambda: owner.lost)
        assert [type(error) for error in owner.lost] == [NetworkError]
        assert leg.closed


async def test_a_kernel_that_takes_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        sock = leg._sock

        class Full:
            def __init__(self) -> None:
                self.times = 2

            def send(self, data: memoryview) -> int:
                self.times -= 1
                if self.times < 0:
                    return sock.send(data)
                raise BlockingIOError

            def __getattr__(self, name: str) -> Any:
                return getattr(sock, name)

        leg._sock = Full()  # type: ignore[assignment]
        owner.out.append(b"patience")
        try:
            leg.flush()
            assert owner.blocked == [True]
            if leg._writer is None:
                leg._writable()
        finally:
            leg._sock = sock
        assert await peer.read(8) == b"patience"
        await owner.until(lambda: owner.blocked == [True, False])


# --- whole sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_sessions_work_on_every_loop(host: str) -> None:
    async def echo(listener: phantom.PhantomListener) -> None:
        async for outcome in listener:
            with contextlib.suppress(phantom.SessionDeadError):  # the client that pins another key
                async for message in outcome.session:
                    await outcome.session.send(message)
            await outcome.session.disconnect()

    key = phantom.generate_signing_key()
    async with phantom.listen(f"tcp://{host}:0", key=key) as listener:
        echoing = asyncio.ensure_future(echo(listener))
        for size in (0, 1, 70_000, 3 * limits.MiB):
            async with phantom.connect(listener.urls[0], timeout=PATIENCE) as session:
                message = random.Random(size).randbytes(size)
                for _ in range(3):
                    await session.send(message)
                for _ in range(3):
                    assert await session.recv(PATIENCE) == message
        with pytest.raises(phantom.ServerIdentityMismatchError):
            await phantom.connect(listener.local_addrs[0], bytes(1984), timeout=PATIENCE)
        listener.shutdown()
        await echoing


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_closing_at_once_is_final() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        waiting = asyncio.ensure_future(leg.wait_closed())
        another = asyncio.ensure_future(leg.wait_closed())
        given_up = asyncio.ensure_future(leg.wait_closed())
        await turns()
        given_up.cancel()
        await turns()
        leg.close(linger=False)
        leg.close(linger=False)
        leg.close(linger=True)
        assert leg.closed
        await asyncio.gather(waiting, another)
        await leg.wait_closed()
        assert await peer.read(1) == b""
        assert owner.lost == [], "who closes is told nothing"


async def test_lingering_shuts_down_first_discards_input_and_ends_with_the_peer() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime) as (leg, peer):
        owner = Owner()
        leg.start(owner)
        owner.out.append(b"goodbye")
        leg.flush()
        leg.close(linger=True)
        assert not leg.closed
        assert await peer.read_all() == b"goodbye"
        calls = len(owner.calls)
        for _ in range(5):
            await peer.send(frame(bytes(100_000)))
        await turns()
        assert len(owner.calls) == calls, "nobody hears what comes now"
        assert leg._rest is None, "and nobody keeps it"
        assert not leg.closed
        leg.close(linger=True)
        peer.sock.close()
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()
        assert runtime.armed == []
        assert owner.lost == []


async def test_lingering_lasts_600_milliseconds_at_most() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime) as (leg, peer):
        leg.start(Owner())
        leg.close(linger=True)
        runtime.turn(0.599)
        assert not leg.closed
        assert runtime.armed == [pytest.approx(0.001)]
        runtime.turn(0.001)
        assert leg.closed
        assert await peer.read_all() == b""


async def test_unread_input_does_not_destroy_what_was_sent() -> None:
    async with tcp_pair(TurnedClock()) as (leg, peer):
        leg.start(Owner())
        leg.pause()
        await peer.send(bytes(300_000))
        owner = leg.owner
        assert isinstance(owner, Owner)
        owner.out.append(bytes(100_000))
        owner.batch_size = 100_000
        leg.flush()
        leg.close(linger=True)
        assert len(await peer.read_all()) == 100_000
        peer.sock.close()
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()


async def test_lingering_sends_what_waits_first() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime, small=True) as (leg, peer):
        owner = Owner(batch_size=200_000)
        leg.start(owner)
        owner.out.append(bytes(200_000))
        leg.flush()
        assert owner.blocked == [True]
        leg.close(linger=True)
        assert len(await peer.read_all()) == 200_000
        peer.sock.close()
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()
        assert runtime.armed == []


async def test_the_last_word_was_lost_when_bytes_still_waited() -> None:
    async with tcp_pair(small=True) as (leg, peer):
        owner = Owner(batch_size=200_000)
        leg.start(owner)
        owner.out.append(bytes(200_000))
        leg.flush()
        assert owner.blocked == [True]
        owner.out.append(b"CLOSE")
        leg.flush()
        leg.close(linger=True)
        assert not owner.out, "it is filled now, while the owner still has its keys"
        assert (await peer.read_all())[200_000:] == b"CLOSE"


async def test_a_peer_that_takes_nothing_ends_the_lingering_after_five_seconds() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime, small=True) as (leg, _peer):
        owner = Owner(batch_size=200_000)
        leg.start(owner)
        owner.out.append(bytes(200_000))
        leg.flush()
        leg.close(linger=True)
        runtime.turn(limits.CLOSE_FLUSH_TIMEOUT - 0.1)
        assert not leg.closed
        runtime.turn(0.1)
        assert leg.closed
        assert runtime.armed == []


async def test_a_reset_while_lingering_ends_it_quietly() -> None:
    async with tcp_pair() as (leg, peer):
        owner = Owner()
        leg.start(owner)
        leg.close(linger=True)
        reset(peer.sock)
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()
        assert owner.lost == []


async def test_a_socket_that_cannot_be_shut_down_is_closed() -> None:
    async with tcp_pair() as (leg, peer):
        leg.start(Owner())
        leg.pause()
        await turns()
        reset(peer.sock)
        await turns()
        leg.close(linger=True)
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()


@pytest.mark.parametrize("linger", [False, True])
async def test_closing_from_within_the_callback(linger: bool) -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime) as (leg, peer):
        owner = Owner()
        owner.on_frame = lambda _: leg.close(linger=linger)
        leg.start(owner)
        await peer.send(frame(b"stop") + frame(b"and more")[:5])
        await owner.until(lambda: owner.frames)
        assert leg.closed is not linger
        await peer.send(bytes(10))
        assert await peer.read_all() == b""
        peer.sock.close()
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()
        assert runtime.armed == []
        assert owner.frames[0] == b"stop"
        assert owner.lost == []


async def test_closing_from_within_a_resumed_callback_did_not_read_to_the_end() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime) as (leg, peer):
        owner = Owner()
        leg.start(owner)
        owner.on_frame = lambda _: leg.pause()
        real = owner.leg_received

        def one(buf: bytearray, view: memoryview, start: int, end: int) -> int:
            return start if leg._paused else real(buf, view, start, min(end, start + 5))

        owner.leg_received = one  # type: ignore[method-assign]
        await peer.send(frame(b"1") + frame(b"2"))
        await owner.until(lambda: owner.frames == [b"1"])
        owner.on_frame = lambda _: leg.close(linger=True)
        leg.resume()
        assert owner.frames == [b"1", b"2"]
        assert await peer.read_all() == b""
        peer.sock.close()
        async with asyncio.timeout(PATIENCE):
            await leg.wait_closed()  # the clock stands still: only the peer's end can end it


async def test_a_peer_that_floods_a_lingering_leg_is_cut_off() -> None:
    runtime = TurnedClock()
    async with tcp_pair(runtime) as (leg, peer):
        leg.start(Owner())
        leg.close(linger=True)
        flood = asyncio.ensure_future(peer.send(bytes(64 << 20)))
        await turns(10)
        runtime.turn(limits.LINGER)
        assert leg.closed
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            await flood


async def test_a_leg_over_a_socket_that_was_closed_is_refused() -> None:
    with socket.socket() as sock:
        with pytest.raises(OSError, match=r"connected|closed"):
            TcpLeg(sock, AsyncioRuntime())


def test_addresses_are_written_as_in_urls() -> None:
    assert format_address(("192.0.2.1", 5)) == "192.0.2.1:5"
    assert format_address(("::1", 5, 0, 0)) == "[::1]:5"
