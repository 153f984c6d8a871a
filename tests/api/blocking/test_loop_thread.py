"""The private loop: started once, gone after a fork, no obstacle to an interrupt or to the end of the program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phantom.api.blocking import loop_thread
from phantom.api.blocking.loop_thread import _Call, _LoopThread, run
from phantom.errors import RuntimeInitError

SESSION = """
    import os, signal, sys, threading
    from phantom import blocking
    import phantom
    listener = blocking.listen("127.0.0.1:0")
    client = blocking.connect(listener.urls[0], timeout=20)
    server = listener.accept(20).session
    from phantom.api.blocking import calls
    def wait_for_a_reader(session):
        while not calls._in_loop(lambda: bool(session._session._driver.readers)):
            pass
"""


def _program(text: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(SESSION) + textwrap.dedent(text)
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


@pytest.fixture
def fresh() -> Iterator[_LoopThread]:
    """A loop thread of its own, stopped afterwards."""
    thread = _LoopThread()
    yield thread
    if thread._loop is not None and thread._thread is not None:
        thread._loop.call_soon_threadsafe(thread._loop.stop)
        thread._thread.join(20)
        thread._loop.close()


def test_all_callers_get_the_same_loop(fresh: _LoopThread) -> None:
    with ThreadPoolExecutor(8) as pool:
        loops = list(pool.map(lambda _: fresh.loop(), range(16)))
    assert len(set(loops)) == 1
    assert fresh._thread is not None
    assert fresh._thread.daemon
    assert not fresh.inside()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks")
def test_signals_belong_to_the_application(fresh: _LoopThread) -> None:
    loop = fresh.loop()
    blocked: list[set[Any]] = []
    done = threading.Event()

    def look() -> None:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        done.set()

    loop.call_soon_threadsafe(look)
    assert done.wait(20)
    assert {signal.SIGINT, signal.SIGTERM} <= blocked[0]


def test_where_there_are_no_signal_masks_it_starts_all_the_same(
    fresh: _LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    assert fresh.loop().is_running()


def test_a_host_without_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeInitError, match="can't start new thread"):
        _LoopThread().loop()


def test_a_thread_that_does_not_come_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = _LoopThread()
    monkeypatch.setattr(loop_thread, "_START_TIMEOUT", 0.01)
    monkeypatch.setattr(thread, "_serve", lambda started: None)
    with pytest.raises(RuntimeInitError, match="did not start"):
        thread.loop()


def test_a_coroutine_that_is_not_run_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    forked = _LoopThread()
    forked._loop = asyncio.new_event_loop()
    forked._loop.close()
    forked.forget()
    monkeypatch.setattr(loop_thread, "_thread", forked)

    async def never() -> None:
        raise AssertionError

    with pytest.raises(RuntimeInitError, match="forked"):
        run(never())


def test_results_and_errors_come_through() -> None:
    async def give() -> int:
        return 5

    async def fail() -> int:
        raise KeyError("x")

    assert run(give()) == 5
    with pytest.raises(KeyError):
        run(fail())


# --- a caller who is interrupted --------------------------------------------------------------------------------------


async def _result(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_a_call_that_was_not_finished_is_cancelled() -> None:
    undone: list[int] = []
    gate = asyncio.Event()

    async def wait() -> int:
        await gate.wait()
        return 1

    call = _Call(wait(), undone.append)
    call.start()
    await asyncio.sleep(0)
    call.abandon()
    while not call.ended.is_set():
        await asyncio.sleep(0)
    assert undone == []


async def test_what_was_finished_and_not_taken_is_undone() -> None:
    undone: list[int] = []
    call = _Call(_result(7), undone.append)
    call.start()
    while not call.ended.is_set():
        await asyncio.sleep(0)
    call.abandon()
    assert undone == [7]


async def test_what_finishes_in_spite_of_the_cancellation_is_undone() -> None:
    undone: list[int] = []

    async def stubborn() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 8
        raise AssertionError

    call = _Call(stubborn(), undone.append)
    call.start()
    await asyncio.sleep(0)
    call.abandon()
    while not undone:
        await asyncio.sleep(0)
    assert undone == [8]


async def test_what_was_taken_stays_taken() -> None:
    undone: list[int] = []
    call = _Call(_result(9), undone.append)
    call.start()
    while not call.ended.is_set():
        await asyncio.sleep(0)
    assert call.take() == 9
    call.abandon()
    assert undone == []


@pytest.mark.parametrize("undo", [None, lambda _: None])
async def test_a_call_that_failed_has_nothing_to_undo(undo: Any) -> None:
    async def fail() -> int:
        raise KeyError

    call = _Call(fail(), undo)
    call.start()
    while not call.ended.is_set():
        await asyncio.sleep(0)
    call.abandon()
    finished = _Call(_result(1), None)
    finished.start()
    while not finished.ended.is_set():
        await asyncio.sleep(0)
    finished.abandon()


# --- whole programs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_an_interrupt_ends_the_call_and_loses_no_message() -> None:
    done = _program(
        """
        def interrupt():
            wait_for_a_reader(server)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            server.recv(None)
        except KeyboardInterrupt:
            print("interrupted")
        while calls._in_loop(lambda: bool(server._session._driver.readers)):
            pass
        client.send(b"kept", 20)
        print(server.recv(20).decode())
        client.disconnect(timeout=5)
        server.disconnect(timeout=5)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nkept\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_refused_and_the_parent_goes_on() -> None:
    done = _program(
        """
        child = os.fork()
        if child == 0:
            try:
                client.send(b"x", 1)
            except phantom.RuntimeInitError as error:
                print("refused:", error, flush=True)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.send(b"parent", 20)
        print(server.recv(20).decode())
        client.disconnect(timeout=5)
        server.disconnect(timeout=5)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: this process was forked")
    assert done.stdout.endswith("\nparent\n")
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forking_first_is_fine() -> None:
    code = """
        import os
        from phantom import blocking
        child = os.fork()
        with blocking.listen("127.0.0.1:0") as listener:
            pass
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit(3)"])
def test_a_blocked_call_does_not_keep_the_interpreter(ending: str) -> None:
    done = _program(
        f"""
        threading.Thread(target=server.recv, args=(None,), daemon=True).start()
        threading.Thread(target=listener.accept, args=(None,), daemon=True).start()
        wait_for_a_reader(server)
        print("leaving", flush=True)
        {ending}
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (3 if ending else 0, "leaving\n", "")
