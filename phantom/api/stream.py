"""``PhantomStream``: one of many ordered byte streams of a session (surface §1.2, §14; wire-native §14, §15.6)."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from phantom import limits
from phantom.api.waiting import Deadline
from phantom.errors import PhantomError, StreamClosedError, StreamResetError, ValidationError

if TYPE_CHECKING:
    from phantom.api.driver import SessionDriver
    from phantom.transport.session.streams import Stream

__all__ = ["BytesLike", "PhantomStream", "check_code", "check_priority", "own"]

BytesLike = bytes | bytearray | memoryview

_MAX_CODE = 0xFFFF
_MAX_PRIORITY = 0xFFFFFFFF
# What moves sockets' bytes keeps to these: even with every stream stalled there is room in the send buffer.
_CROWDED = limits.SEND_BUFFER_CAP // 4
_PIECE = 64 * limits.KiB
_CROWDED_PIECE = limits.SEND_BUFFER_CAP // (2 * limits.MAX_STREAMS)


def own(data: BytesLike) -> bytes:
    """What may change under us is copied, bytes are kept by reference. Raises ValidationError for anything else."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ValidationError(f"data is bytes, bytearray or memoryview, not {type(data).__name__}")


def check_priority(priority: int) -> int:
    """A u32, higher is served first."""
    if type(priority) is not int or not 0 <= priority <= _MAX_PRIORITY:
        raise ValidationError("a priority is a whole number from 0 to 4294967295")
    return priority


class PhantomStream:
    """One stream: bytes in order in both directions, each half ended on its own.

    Made by ``PhantomSession.open_stream`` and ``accept_stream``. Safe to use from any number of tasks of one event
    loop; readers are served in order.

    Leaving ``async with`` finishes the sending half; leaving it by an exception resets it and stops the peer's half.
    Dropping the last reference finishes if the peer's half was read to its end; otherwise nobody is going to read it,
    and so it is stopped, and a sending half that is not finished yet is reset. ``async for`` yields what ``recv``
    returns until the peer finishes.
    """

    __slots__ = ("__weakref__", "_driver", "_error", "_owned", "_read_out", "_stream")

    def __init__(self, driver: SessionDriver, stream: Stream) -> None:
        """For the library: streams come from ``open_stream`` and ``accept_stream``."""
        self._owned = True
        self._driver = driver
        self._stream = stream
        self._read_out = False  # nothing more will be read
        self._error: StreamResetError | StreamClosedError | None = None  # what reading ended with

    @property
    def stream_id(self) -> int:
        """The number of the stream: odd if the client opened it, even if the server did."""
        return self._stream.id

    @property
    def priority(self) -> int:
        """The priority of what this side sends; higher is served first."""
        return self._stream.priority

    @property
    def max_unreliable_size(self) -> int:
        """The largest unreliable send, in bytes; it depends on the leg."""
        return self._stream.max_unreliable_size

    # --- sending ------------------------------------------------------------------------------------------------------

    async def send_reliable(self, data: BytesLike, timeout: float | None = None) -> None:
        """Queues bytes whole and returns; waits while more than 4 MiB are queued in the session.

        Cancelled or timed out while waiting, nothing of them is queued; afterwards all of them are (§14.10). No bytes
        send nothing. Raises ValidationError (not bytes), StreamClosedError (after ``finish`` or ``reset``),
        StreamResetError (the peer stopped this half), PhantomTimeoutError, or what ended the session.
        """
        payload = data if type(data) is bytes else own(data)
        driver = self._driver
        if not driver.may_write:
            await driver.room(Deadline(driver.runtime, timeout), self._stream)
        driver.queue(payload, self._stream)

    async def send_unreliable(self, data: BytesLike, timeout: float | None = None) -> None:
        """Sends one packet that may be lost, doubled or overtake others on legs that do so; never resent.

        It is a chunk of its own at the peer. Waits for room like :meth:`send_reliable` and raises what that raises;
        ValidationError above :attr:`max_unreliable_size`.
        """
        payload = data if type(data) is bytes else own(data)
        driver, stream = self._driver, self._stream
        if len(payload) > stream.max_unreliable_size:
            raise ValidationError(
                f"an unreliable send has at most {stream.max_unreliable_size} bytes here, not {len(payload)}"
            )
        if not driver.may_write:
            await driver.room(Deadline(driver.runtime, timeout), stream)
        driver.queue(payload, stream, reliable=False)

    async def set_priority(self, priority: int) -> None:
        """From the next packet on this stream has ``priority`` (0 to 2^32 - 1, higher first)."""
        self._set_priority(priority)

    async def finish(self) -> None:
        """Ends the sending half after everything that was sent; returns when that is queued. Again: nothing.

        Raises StreamClosedError after :meth:`reset`, StreamResetError if the peer stopped this half, or what ended
        the session.
        """
        self._finish()

    def reset(self, code: int = 0) -> None:
        """Abandons the sending half: what is queued or unacknowledged is dropped; the peer gets StreamResetError.

        ``code`` is 0 to 65535, for the peer's ``reset_code``. Nothing if the half is already acknowledged or reset, or
        the session is over. Raises ValidationError; UnsupportedError on a version-1 session.
        """
        check_code(code)
        self._driver.reset_stream(self._stream, code)

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def recv(self, timeout: float | None = None) -> bytes | None:
        """The next bytes, at most 256 KiB; None once the peer has finished and everything was read.

        An unreliable send of the peer is returned alone. Cancelled, nothing is lost. Raises StreamResetError (the peer
        reset its half; its code is ``reset_code``), StreamClosedError (after :meth:`stop`), PhantomTimeoutError, or
        what ended the session.
        """
        driver = self._driver
        waits = driver.waits_of(self._stream)
        waited = False
        deadline: Deadline | None = None
        while True:
            if waited or not waits.readers:
                chunk = self._read()
                if chunk != b"":
                    if waits.readers and (self._read_out or self._stream.readable):
                        waits.readers.wake(1)  # the next one: there is more, or the end
                    return chunk
            if deadline is None:
                deadline = Deadline(driver.runtime, timeout)
            await driver.readable(waits, deadline)
            waited = True

    def stop(self, code: int = 0) -> None:
        """Asks the peer to abandon its half, which nobody reads any more; what arrives of it is discarded.

        ``code`` is 0 to 65535; the peer's sends raise StreamResetError with it. Nothing if its half is over, or the
        session is. Raises ValidationError; UnsupportedError on a version-1 session.
        """
        check_code(code)
        if self._read_out:
            return
        self._driver.stop_stream(self._stream, code)
        self._read_out = True
        self._error = StreamClosedError("this side stopped the peer's half of the stream")
        self._driver.waits_of(self._stream).readers.wake_all()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        while (chunk := await self.recv()) is not None:
            yield chunk

    # --- the end ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(failed=kind is not None)

    def __del__(self) -> None:
        """The collector may run this in any thread, and in the middle of the engine's work: the driver defers it."""
        if getattr(self, "_owned", False):
            self._driver.stream_dropped(self._stream, read_out=self._read_out)

    def __repr__(self) -> str:
        return f"<PhantomStream {self.stream_id} {self._stream.state.name.lower()}>"

    # --- small steps --------------------------------------------------------------------------------------------------

    async def _recv_into(self, inbox: deque[bytes | None], timeout: float | None) -> None:
        """Waits for a chunk and moves it, with others that are there, into ``inbox`` (blocking callers)."""
        chunk = await self.recv(timeout)
        size = 0
        while chunk:
            inbox.append(chunk)
            size += len(chunk)
            if size >= limits.RECV_BACKLOG_CAP or self._driver.waits_of(self._stream).readers:
                return
            try:
                chunk = self._read()
            except PhantomError:  # the next call raises it, behind what was there
                return
        if chunk is None:
            inbox.append(None)

    def _give_back(self) -> None:
        """Nobody got it: the next ``accept_stream`` does."""
        self._owned = False
        self._driver.give_back(self._stream)

    def _read(self) -> bytes | None:
        """What is there: bytes, b"" if nothing is yet, None at the end."""
        if self._error is not None:
            raise self._error
        if self._read_out:
            return None
        try:
            chunk = self._driver.read(self._stream)
        except PhantomError as error:
            if isinstance(error, StreamResetError):
                self._read_out = True
                self._error = error
            self._driver.waits_of(self._stream).readers.wake_all()  # it holds for all who wait
            raise
        if chunk is None:
            self._read_out = True
        return chunk

    async def _turn(self) -> int:
        """Waits while this stream has so much unsent that it would be in the way of others; the bytes to send next.

        For those who move bytes between a stream and a socket: one that the peer does not read never fills the send
        buffer of the session (4 MiB), which all streams share.
        """
        driver, stream = self._driver, self._stream
        conn = driver.conn
        while not (stream.write_ended or conn.phase.over):  # the write itself will say how
            crowded, unsent = conn.queued > _CROWDED, stream.unsent
            if not unsent or (unsent < limits.STREAM_READ_MOST and not crowded):
                return _CROWDED_PIECE if crowded else _PIECE
            await driver.acknowledged.wait(Deadline(driver.runtime, None), "the peer reads nothing")
        return _PIECE

    def _set_priority(self, priority: int) -> None:
        self._driver.set_priority(self._stream, check_priority(priority))

    def _finish(self) -> None:
        self._driver.finish_stream(self._stream)

    def _leave(self, *, failed: bool) -> None:
        """The end of a ``with`` block; raises nothing, as the block itself has seen or not seen what happened."""
        if failed:
            self._driver.abandon_stream(self._stream)
            self._read_out = True
            if self._error is None:
                self._error = StreamClosedError("this side left the stream by an exception")
            self._driver.waits_of(self._stream).readers.wake_all()
        else:
            self._driver.conclude_stream(self._stream)


def check_code(code: int) -> None:
    """A u16."""
    if type(code) is not int or not 0 <= code <= _MAX_CODE:
        raise ValidationError("a stream code is a whole number from 0 to 65535")
