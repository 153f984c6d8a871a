"""Streams of libphantom, and what else a session has beside its messages. Each call is one hand-over to the loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.c.generated.phantom_c import StreamRecvResult
from phantom.errors import StreamResetError
from phantom.limits import EXPORT_LENGTH

if TYPE_CHECKING:
    from bindings.c.generated.phantom_c import SessionEvent
    from bindings.c.runtime.loop_thread import LoopThread
    from bindings.c.runtime.sessions import ThreadSession
    from phantom.api.stream import PhantomStream

__all__ = ["StreamOperations", "ThreadStream"]

T = TypeVar("T")


class ThreadStream:
    """A stream for any number of threads. When the handle and the last call let it go, the API gives the stream up."""

    __slots__ = ("_loop", "reset_code", "stream")

    def __init__(self, loop: LoopThread, stream: PhantomStream) -> None:
        self._loop = loop
        self.stream = stream
        self.reset_code = -1

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits ``coroutine`` in the loop thread; keeps the code of a reset."""
        try:
            return self._loop.run(coroutine)
        except StreamResetError as error:
            self.reset_code = error.reset_code
            raise

    async def reset(self, code: int) -> None:
        """Abandons the own half. A coroutine, to be run in the loop thread."""
        self.stream.reset(code)

    async def stop(self, code: int) -> None:
        """Asks the peer to abandon its half. As :meth:`reset`."""
        self.stream.stop(code)

    def discard(self) -> None:
        """Nothing is left to do: see above."""


class StreamOperations:
    """What the calls on streams do, and those on sessions that came with them."""

    _loop: LoopThread

    # --- sessions -----------------------------------------------------------------------------------------------------

    def session_open_stream(self, session: ThreadSession, priority: int, timeout: float | None) -> ThreadStream:
        """A new stream; without time to wait StreamLimitError if too many are open."""
        wait = timeout != 0
        opening = session.session.open_stream(priority=priority, wait=wait, timeout=timeout if wait else None)
        return ThreadStream(self._loop, self._loop.run(opening))

    def session_accept_stream(self, session: ThreadSession, timeout: float | None) -> ThreadStream:
        """The next stream of the peer."""
        return ThreadStream(self._loop, self._loop.run(session.session.accept_stream(timeout)))

    def session_rekey(self, session: ThreadSession, timeout: float | None) -> int:
        """Changes the keys; the new epoch."""
        return self._loop.run(session.session.rekey(timeout))

    def session_export_keying_material(self, session: ThreadSession, label: str, length: int) -> bytes:
        """Bytes that only the two ends can derive."""
        return session.session.export_keying_material(label, length or EXPORT_LENGTH)

    def session_next_event_ex(self, session: ThreadSession, timeout: float | None) -> SessionEvent:
        """The next event of any kind."""
        return session.next_event_ex(timeout)

    # --- streams ------------------------------------------------------------------------------------------------------

    def stream_id(self, stream: ThreadStream) -> int:
        """Its number."""
        return stream.stream.stream_id

    def stream_priority(self, stream: ThreadStream) -> int:
        """Its priority."""
        return stream.stream.priority

    def stream_max_unreliable_size(self, stream: ThreadStream) -> int:
        """Bytes of an unreliable send."""
        return stream.stream.max_unreliable_size

    def stream_send_reliable(self, stream: ThreadStream, data: memoryview, timeout: float | None) -> None:
        """Queues bytes."""
        stream.run(stream.stream.send_reliable(bytes(data), timeout))

    def stream_send_unreliable(self, stream: ThreadStream, data: memoryview, timeout: float | None) -> None:
        """Sends a piece that may be lost."""
        stream.run(stream.stream.send_unreliable(bytes(data), timeout))

    def stream_recv(self, stream: ThreadStream, timeout: float | None) -> StreamRecvResult:
        """The next bytes, or their end."""
        piece = stream.run(stream.stream.recv(timeout))
        return StreamRecvResult(data=piece or b"", end_of_stream=piece is None)

    def stream_reset_code(self, stream: ThreadStream) -> int:
        """The code of the peer's reset or stop."""
        return stream.reset_code

    def stream_set_priority(self, stream: ThreadStream, priority: int) -> None:
        """Sets the priority."""
        stream.run(stream.stream.set_priority(priority))

    def stream_finish(self, stream: ThreadStream) -> None:
        """Ends the own half."""
        stream.run(stream.stream.finish())

    def stream_reset(self, stream: ThreadStream, code: int) -> None:
        """Abandons the own half."""
        stream.run(stream.reset(code))

    def stream_stop(self, stream: ThreadStream, code: int) -> None:
        """Asks the peer to abandon its half."""
        stream.run(stream.stop(code))

    def stream_release(self, stream: ThreadStream) -> None:
        """Lets the stream go; calls that are under way go on."""
