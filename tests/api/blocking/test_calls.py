"""The API without ``await``: every call, from any number of threads (surface §14)."""

from __future__ import annotations

import inspect
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import phantom
from phantom import blocking
from phantom.api.blocking import calls, loop_thread
from phantom.config import PhantomConfig

PATIENCE = 20.0


def _echo(session: blocking.PhantomSession) -> None:
    try:
        for message in session:
            session.send(message, PATIENCE)
    except phantom.PhantomError:
        pass
    finally:
        session.disconnect(timeout=5)


@pytest.fixture
def echo(server_key: phantom.HybridSigningKey) -> Iterator[blocking.PhantomListener]:
    """A listener whose sessions get their messages back."""
    threads: list[threading.Thread] = []
    listener = blocking.listen("tcp://127.0.0.1:0", key=server_key)

    def serve() -> None:
        for outcome in listener:
            threads.append(threading.Thread(target=_echo, args=(outcome.session,)))
            threads[-1].start()

    acceptor = threading.Thread(target=serve)
    acceptor.start()
    yield listener
    listener.drain(timeout=1.0)
    for thread in (acceptor, *threads):
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def pair(server_key: phantom.HybridSigningKey) -> Iterator[tuple[blocking.PhantomSession, blocking.PhantomSession]]:
    """Both ends of a session."""
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        client = blocking.connect(listener.urls[0], timeout=PATIENCE)
        outcome = listener.accept(PATIENCE)
        assert outcome.peer_addr.startswith("127.0.0.1:")
        yield client, outcome.session
        client.disconnect(timeout=1)
        outcome.session.disconnect(timeout=1)


def test_a_session_from_beginning_to_end(echo: blocking.PhantomListener, server_key: phantom.HybridSigningKey) -> None:
    with blocking.connect(echo.urls[0], timeout=PATIENCE) as session:
        assert len(bytes.fromhex(session.id)) == 32
        assert session.peer_addr == echo.local_addr
        assert session.state is session.connection_state() is phantom.ConnectionState.CONNECTED
        assert (session.negotiated.version, session.negotiated.leg) == (2, "tcp")
        assert session.handshake.bytes_sent == 3245
        assert session.peer_identity() == server_key.verifying_key()
        assert session.is_data_ready()
        assert session.is_pqc_ready()
        assert session.last_error() is None
        session.await_ready(PATIENCE)
        for message in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), b""):
            session.send(message, PATIENCE)
            assert session.recv(PATIENCE) == bytes(message)
        assert session.flush_queue(PATIENCE) >= 0
        assert session.queued_count() == 0
        assert session.metrics_snapshot().messages_recv == 4
        assert "connected" in repr(session)
    assert session.state is phantom.ConnectionState.CLOSED
    assert session.disconnect(timeout=1) is True
    with pytest.raises(phantom.ConnectionClosedError):
        session.recv(1)


def test_a_listener_from_beginning_to_end(server_key: phantom.HybridSigningKey) -> None:
    listener = blocking.listen("127.0.0.1:0", "tcp://[::1]:0", key=server_key)
    assert listener.local_addr.startswith("127.0.0.1:")
    assert [url.partition(":")[0] for url in listener.local_addrs] == ["tcp", "tcp"]
    assert listener.verifying_key_bytes() == server_key.verifying_key().to_bytes()
    assert not listener.is_shutting_down()
    for url in listener.urls:
        client = blocking.connect(url, timeout=PATIENCE)
        outcome = listener.accept(PATIENCE)
        assert outcome.session.id == client.id
        assert client.disconnect(timeout=5)
        outcome.session.disconnect(timeout=5)
    assert listener.metrics_snapshot().handshakes_success == 2
    with listener:
        pass
    assert listener.is_shutting_down()
    with pytest.raises(phantom.ConnectionClosedError):
        listener.accept(1)
    assert list(listener) == []
    listener.shutdown()


def test_connect_pinned_and_pins(echo: blocking.PhantomListener, server_key: Any, other_key: Any) -> None:
    host, _, port = echo.local_addr.rpartition(":")
    pin = server_key.verifying_key().fingerprint()
    with blocking.connect_pinned(host, int(port), pin, timeout=PATIENCE) as session:
        session.send(b"x", PATIENCE)
        assert session.recv(PATIENCE) == b"x"
    with pytest.raises(phantom.ServerIdentityMismatchError):
        blocking.connect_pinned(host, int(port), other_key.verifying_key(), timeout=PATIENCE)
    with blocking.connect(echo.urls[0], timeout=None) as session:
        session.send(b"the wrong pin did no harm", PATIENCE)
        session.recv(PATIENCE)


@pytest.mark.parametrize(
    ("target", "pin", "error"),
    [
        ("tcp://127.0.0.1:1", None, phantom.ConfigError),
        ("tcp://127.0.0.1:1", b"short", phantom.ValidationError),
        ("kcp://127.0.0.1:1", "0" * 3968, phantom.UnsupportedError),
    ],
)
def test_arguments_are_checked_before_any_io(target: str, pin: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        blocking.connect(target, pin, timeout=1)
    with pytest.raises(phantom.ConfigError):
        blocking.listen()


def test_a_refused_port_is_a_network_error(server_key: phantom.HybridSigningKey) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(phantom.NetworkError):
        blocking.connect_pinned("127.0.0.1", port, server_key.verifying_key(), timeout=PATIENCE)


def test_every_wait_asks_for_a_timeout() -> None:
    waits: list[Callable[..., Any]] = [
        blocking.connect,
        blocking.connect_pinned,
        blocking.PhantomSession.await_ready,
        blocking.PhantomSession.send,
        blocking.PhantomSession.recv,
        blocking.PhantomSession.flush_queue,
        blocking.PhantomSession.disconnect,
        blocking.PhantomListener.accept,
        blocking.PhantomListener.drain,
    ]
    for wait in waits:
        parameter = inspect.signature(wait).parameters["timeout"]
        assert parameter.default is inspect.Parameter.empty, wait


def test_every_wait_ends_in_time(pair: Any, server_key: phantom.HybridSigningKey) -> None:
    client, server = pair
    with pytest.raises(phantom.PhantomTimeoutError):
        server.recv(0.01)
    with pytest.raises(phantom.PhantomTimeoutError, match="takes no more data"):
        for _ in range(100):
            client.send(bytes(1 << 20), 0.05)
    assert client.queued_count() > 0
    with pytest.raises(phantom.PhantomTimeoutError):
        client.flush_queue(0.01)
    assert client.disconnect(timeout=0.01) is False
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        with pytest.raises(phantom.PhantomTimeoutError):
            listener.accept(0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(phantom.PhantomTimeoutError):
            blocking.connect_pinned(*silent.getsockname(), server_key.verifying_key(), timeout=0.05)


def test_iterating_ends_with_code_0_and_raises_with_another(server_key: phantom.HybridSigningKey) -> None:
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        for code in (0, 9):
            client = blocking.connect(listener.urls[0], timeout=PATIENCE)
            session = listener.accept(PATIENCE).session
            for number in range(3):
                client.send(b"%d" % number, PATIENCE)
            assert client.disconnect(code, timeout=5)
            got: list[bytes] = []
            if code:
                with pytest.raises(phantom.ConnectionClosedError) as caught:
                    got.extend(iter(session))
                assert caught.value.peer_code == code
            else:
                got.extend(session)
                assert got == [b"0", b"1", b"2"]
            session.disconnect(timeout=5)


def test_leaving_the_block_says_what_was_not_acknowledged(server_key: phantom.HybridSigningKey) -> None:
    config = PhantomConfig(close_timeout=0.05)
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        with pytest.raises(phantom.ConnectionClosedError) as caught:
            with blocking.connect(listener.urls[0], config=config, timeout=PATIENCE) as session:
                accepted = listener.accept(PATIENCE).session
                for _ in range(2):  # one is taken although nobody reads, the next is not
                    session.send(bytes(16 << 20), PATIENCE)
        assert caught.value.unacknowledged > 0
        accepted.disconnect(timeout=1)
        with pytest.raises(KeyError):
            with blocking.connect(listener.urls[0], config=config, timeout=PATIENCE) as session:
                accepted = listener.accept(PATIENCE).session
                for _ in range(2):  # one is taken although nobody reads, the next is not
                    session.send(bytes(16 << 20), PATIENCE)
                raise KeyError
        accepted.disconnect(timeout=1)


def test_eight_threads_each_with_a_session(echo: blocking.PhantomListener) -> None:
    def work(mark: int) -> int:
        with blocking.connect(echo.urls[0], timeout=PATIENCE) as session:
            for number in range(50):
                message = b"%d:%d" % (mark, number) * (number + 1)
                session.send(message, PATIENCE)
                assert session.recv(PATIENCE) == message
        return mark

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))


def test_eight_threads_on_one_session(echo: blocking.PhantomListener) -> None:
    with blocking.connect(echo.urls[0], timeout=PATIENCE) as session:

        def send(mark: int) -> list[bytes]:
            messages = [b"%d:%d" % (mark, number) for number in range(100)]
            for message in messages:
                session.send(message, PATIENCE)
            return messages

        def receive(_: int) -> list[bytes]:
            return [session.recv(PATIENCE) for _ in range(100)]

        with ThreadPoolExecutor(8) as pool:
            receiving = [pool.submit(receive, mark) for mark in range(4)]
            sending = [pool.submit(send, mark) for mark in range(4)]
            sent = [message for task in sending for message in task.result()]
            received = [message for task in receiving for message in task.result()]
    assert Counter(received) == Counter(sent)


def test_shutting_down_wakes_an_acceptor_in_another_thread(server_key: phantom.HybridSigningKey) -> None:
    listener = blocking.listen("127.0.0.1:0", key=server_key)
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(listener.accept, None)
        while not loop_thread.run(calls._call(lambda: bool(listener._listener._acceptors))):
            pass
        listener.shutdown()
        with pytest.raises(phantom.ConnectionClosedError):
            accepting.result(PATIENCE)


def test_draining_ends_sessions_with_code_14(server_key: phantom.HybridSigningKey) -> None:
    listener = blocking.listen("127.0.0.1:0", key=server_key)
    client = blocking.connect(listener.urls[0], timeout=PATIENCE)
    listener.accept(PATIENCE).session.send(b"owed", PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(listener.drain, timeout=5.0)
        assert client.recv(PATIENCE) == b"owed"
        with pytest.raises(phantom.ConnectionClosedError) as caught:
            client.recv(PATIENCE)
        assert caught.value.peer_code == 14
        draining.result(PATIENCE)
    client.disconnect(timeout=5)


def test_blocking_calls_from_the_loop_thread_are_refused(pair: Any) -> None:
    client, _ = pair

    def inside() -> bytes:
        return bytes(client.recv(1))

    with pytest.raises(phantom.RuntimeInitError, match="loop thread"):
        loop_thread.run(calls._call(inside))
    client.send(b"and the loop goes on", PATIENCE)


def test_what_was_taken_for_a_caller_who_is_gone_comes_back(server_key: phantom.HybridSigningKey) -> None:
    with blocking.listen("127.0.0.1:0", key=server_key) as listener:
        session = blocking.connect(listener.urls[0], timeout=PATIENCE)
        outcome = loop_thread.run(listener._listener.accept(PATIENCE))
        calls._in_loop(lambda: listener._listener._put_back(outcome))
        assert listener.accept(PATIENCE).session.id == session.id
        calls._in_loop(session._session._abandon)
        assert session.state is phantom.ConnectionState.DEAD


def test_the_names_are_those_of_the_package() -> None:
    for name in blocking.__all__:
        assert hasattr(phantom, name)
