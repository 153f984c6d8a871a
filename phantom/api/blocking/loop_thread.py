"""One private event loop in a daemon thread serves every blocking call of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from phantom.errors import RuntimeInitError

__all__ = ["call_soon", "run"]

T = TypeVar("T")

_START_TIMEOUT = 30.0  # s
# A signal that the system gave to another thread does not end a wait of the main one: it is seen when the wait ends.
_LOOK_UP = 0.5  # s


class _LoopThread:
    """The loop and its thread; started by the first call, gone in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._forked = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Raises RuntimeInitError where it cannot start, and in a forked child."""
        with self._lock:
            if self._forked:
                raise RuntimeInitError(
                    "this process was forked after Phantom's loop thread had started; exec, or connect after forking"
                )
            if self._loop is None:
                started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._thread = threading.Thread(target=self._serve, args=(started,), name="phantom-loop", daemon=True)
                try:
                    self._thread.start()
                    self._loop = started.result(_START_TIMEOUT)
                except (RuntimeError, TimeoutError) as error:
                    raise RuntimeInitError(f"the loop thread did not start: {error}") from error
            return self._loop

    def inside(self) -> bool:
        """True in the loop thread itself, where a blocking call would wait for ever."""
        return threading.current_thread() is self._thread

    def forget(self) -> None:
        """In a forked child the thread does not exist."""
        self._forked = self._loop is not None
        self._lock = threading.Lock()

    @staticmethod
    def _serve(started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals belong to the application's threads
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        loop = asyncio.new_event_loop()
        loop.call_soon(started.set_result, loop)
        loop.run_forever()


_thread = _LoopThread()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread.forget)


def call_soon(callback: Callable[[], None]) -> None:
    """Runs ``callback`` on the loop thread, soon and in order with other calls. Thread safe."""
    _thread.loop().call_soon_threadsafe(callback)


def run(coroutine: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None) -> T:
    """Runs ``coroutine`` on the loop thread and waits for it; an interrupt of the caller cancels it there.

    If it had finished when the interrupt struck, ``undo`` gets its result, on the loop thread: what nobody received
    must not be lost. Thread safe. Raises what the coroutine raises; RuntimeInitError inside the loop thread or after
    a fork.
    """
    try:
        if _thread.inside():
            raise RuntimeInitError("a blocking call was made from Phantom's own loop thread")
        loop = _thread.loop()
    except BaseException:
        coroutine.close()
        raise
    call = _Call(coroutine, undo)
    loop.call_soon_threadsafe(call.start)
    try:
        while not call.ended.wait(_LOOK_UP):
            pass
        return call.take()
    except BaseException:
        loop.call_soon_threadsafe(call.abandon)
        raise


class _Call(Generic[T]):
    """One call on the loop thread; everything but ``ended`` and ``take`` happens there."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], undo: Callable[[T], None] | None) -> None:
        self.ended = threading.Event()
        self._coroutine = coroutine
        self._undo = undo
        self._task: asyncio.Task[T] | None = None
        self._taken = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(lambda _: self.ended.set())

    def take(self) -> T:
        """What the call came to, for its caller."""
        assert self._task is not None
        self._taken = True
        return self._task.result()

    def abandon(self) -> None:
        """The caller was interrupted."""
        task = self._task
        assert task is not None
        if not task.done():
            task.cancel()
            task.add_done_callback(self._give_back)
        elif not self._taken:
            self._give_back(task)

    def _give_back(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None and self._undo is not None:
            self._undo(task.result())
