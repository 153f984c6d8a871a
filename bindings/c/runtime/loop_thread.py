"""The one thread that serves all sessions of the library."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from _thread import allocate_lock
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from phantom.errors import ConnectionClosedError

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread that takes no signals; from any thread, callbacks can be run and coroutines awaited."""

    def __init__(self) -> None:
        """Returns when the loop runs."""
        self._lock = threading.Lock()
        self._ended = False
        self._calls: set[_Call[Any]] = set()
        started = threading.Event()
        # Not uvloop's: libuv ends the process when one of its descriptors lies below 3, as in programs without streams.
        self.loop = asyncio.new_event_loop()
        # What a callback raises is logged, and nobody listens; sessions end by errors of their own.
        self.loop.call_soon(started.set)
        self._thread = threading.Thread(target=self._serve, name="phantom-loop", daemon=True)
        self._thread.start()
        started.wait()

    def _serve(self) -> None:
        # Also SIGPIPE, which would end the process when a peer is gone: with it blocked a write fails instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        asyncio.set_event_loop(self.loop)
        gc.freeze()  # what is loaded now stays: no collection needs to look at it
        self.loop.run_forever()

    def post(self, callback: Callable[[], object]) -> None:
        """Runs ``callback`` in the loop thread soon. ConnectionClosedError after :meth:`end`."""
        with self._lock:  # the loop must not be closed while it is woken: that write would raise SIGPIPE here
            if self._ended:
                raise ConnectionClosedError("the library was ended by phantom_fini")
            self.loop.call_soon_threadsafe(callback)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits ``coroutine`` in the loop thread. Raises what it raises; ConnectionClosedError after :meth:`end`."""
        call = _Call(coroutine, self._calls)
        try:
            self.post(call.start)
        except BaseException:
            coroutine.close()
            raise
        call.ended.acquire()
        return call.result()

    def end(self, last: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Takes no more work, cancels what :meth:`run` waits for, runs ``last`` and ends the thread. Called once."""
        with self._lock:
            self._ended = True
        call = _Call(self._last(last), set())
        self.loop.call_soon_threadsafe(call.start)
        call.ended.acquire()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        with self._lock:
            self.loop.close()
        return call.result()

    async def _last(self, last: Callable[[], Coroutine[Any, Any, T]]) -> T:
        tasks = [call.task for call in self._calls]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return await last()


class _Call(Generic[T]):
    """One coroutine that a thread waits for."""

    __slots__ = ("_calls", "_coroutine", "ended", "task")

    def __init__(self, coroutine: Coroutine[Any, Any, T], calls: set[_Call[Any]]) -> None:
        self.ended = allocate_lock()
        self.ended.acquire()
        self._coroutine = coroutine
        self._calls = calls

    def start(self) -> None:
        self._calls.add(self)
        self.task: asyncio.Task[T] = asyncio.get_running_loop().create_task(self._coroutine)
        self.task.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[T]) -> None:
        self._calls.discard(self)
        self.ended.release()

    def result(self) -> T:
        try:
            return self.task.result()
        except asyncio.CancelledError:
            raise ConnectionClosedError("the library was ended by phantom_fini") from None
