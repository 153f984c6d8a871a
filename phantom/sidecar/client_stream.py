"""Streams of the sidecar as the API has them: the same class to the program, with the stream itself elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from phantom.api.stream import BytesLike, PhantomStream, check_priority, own
from phantom.errors import PhantomError, PhantomTimeoutError, StreamClosedError, UnsupportedError, ValidationError
from phantom.limits import SIDECAR_MESSAGE_CAP, VERSION_1
from phantom.sidecar._generated.v1 import stream_pb2
from phantom.sidecar.client_time import time_limit

if TYPE_CHECKING:
    from phantom.sidecar.client_session import SidecarSession

__all__ = ["SidecarStream"]

_ENDED: Final = "this side finished its half of the stream, or reset it"
_STOPPED: Final = "this side stopped the peer's half of the stream"


class SidecarStream(PhantomStream):
    """A stream of the sidecar, used as any :class:`PhantomStream`. Made by ``open_stream`` and ``accept_stream``.

    ``reset`` and ``stop`` return before the sidecar has heard of them. A reliable send of more than 1 MiB goes in
    pieces: cancelled, some of it may have been sent.
    """

    __slots__ = (
        "_client",
        "_id",
        "_loop",
        "_max_unreliable",
        "_priority",
        "_receiving",
        "_sending",
        "_session",
        "_stopped",
        "_write_ended",
        "received",
        "ref",
    )

    def __init__(self, session: SidecarSession, stream: stream_pb2.Stream) -> None:
        """For :class:`SidecarSession`; the state of a stream of this process is not made."""
        self._session = session
        self._client = session.client
        self._loop = asyncio.get_running_loop()
        self.ref = stream.ref
        self._id = stream.id
        self._priority = stream.priority
        self._max_unreliable = stream.max_unreliable_size
        self.received = 0  # the number of the last piece received; the sidecar keeps the one after it
        self._read_out = False
        self._write_ended = self._stopped = False
        self._receiving = asyncio.Lock()
        self._sending = asyncio.Lock()

    @property
    def stream_id(self) -> int:
        """The number of the stream: odd if the client opened it, even if the server did."""
        return self._id

    @property
    def priority(self) -> int:
        """The priority of what this side sends; higher is served first."""
        return self._priority

    @property
    def max_unreliable_size(self) -> int:
        """The largest unreliable send, in bytes."""
        return self._max_unreliable

    # --- sending ------------------------------------------------------------------------------------------------------

    async def send_reliable(self, data: BytesLike, timeout: float | None = None) -> None:
        """Queues bytes and returns; waits while too much is queued. Errors as those of :class:`PhantomStream`."""
        payload = data if type(data) is bytes else own(data)
        await self._send(payload, timeout, unreliable=False)

    async def send_unreliable(self, data: BytesLike, timeout: float | None = None) -> None:
        """Sends one piece that may be lost; ValidationError above :attr:`max_unreliable_size`."""
        payload = data if type(data) is bytes else own(data)
        if len(payload) > self._max_unreliable:
            raise ValidationError(
                f"an unreliable send has at most {self._max_unreliable} bytes here, not {len(payload)}"
            )
        await self._send(payload, timeout, unreliable=True)

    async def _send(self, payload: bytes, timeout: float | None, *, unreliable: bool) -> None:
        try:
            async with time_limit(timeout, "the sidecar did not confirm the bytes"), self._sending:
                for at in range(0, len(payload) or 1, SIDECAR_MESSAGE_CAP):
                    if self._write_ended:
                        raise StreamClosedError(_ENDED)
                    piece = payload[at : at + SIDECAR_MESSAGE_CAP]
                    request = stream_pb2.StreamServiceSendRequest(stream=self.ref, data=piece, unreliable=unreliable)
                    await self._call(self._client.stream.Send, request)
        except PhantomTimeoutError:
            await self._session.overtaken()
            raise

    async def set_priority(self, priority: int) -> None:
        """From the next packet on this stream has ``priority`` (0 to 2^32 - 1, higher first)."""
        request = stream_pb2.StreamServiceSetPriorityRequest(stream=self.ref, priority=check_priority(priority))
        await self._call(self._client.stream.SetPriority, request)
        self._priority = priority

    async def finish(self) -> None:
        """Ends the sending half after everything that was sent. Again: nothing."""
        await self._call(self._client.stream.Finish, stream_pb2.StreamServiceFinishRequest(stream=self.ref))

    def reset(self, code: int = 0) -> None:
        """Abandons the sending half; the peer gets StreamResetError with ``code`` (0 to 65535)."""
        self._check(code)
        self._write_ended = True
        self._later(self._client.stream.Reset, stream_pb2.StreamServiceResetRequest(stream=self.ref, code=code))

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def recv(self, timeout: float | None = None) -> bytes | None:
        """The next bytes, at most 256 KiB; None once the peer has finished and everything was read.

        A call that is cancelled or out of time loses nothing.
        """
        async with time_limit(timeout, "nothing arrived"), self._receiving:
            if self._stopped:
                raise StreamClosedError(_STOPPED)
            if self._read_out:
                return None
            request = stream_pb2.StreamServiceRecvRequest(stream=self.ref, ack=self.received)
            piece = (await self._call(self._client.stream.Recv, request)).piece
            self.received = piece.seq
            self._read_out = piece.end_of_stream
            return None if piece.end_of_stream else piece.data

    def stop(self, code: int = 0) -> None:
        """Asks the peer to abandon its half, which nobody reads any more; ``code`` (0 to 65535) is for the peer."""
        self._check(code)
        if not self._read_out:
            self._stopped = True
            self._later(self._client.stream.Stop, stream_pb2.StreamServiceStopRequest(stream=self.ref, code=code))

    # --- the end ------------------------------------------------------------------------------------------------------

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(PhantomError):
            if kind is None:
                await self.finish()
            else:
                self.stop()
                self.reset()

    def __del__(self) -> None:
        """Frees the handle, which the sidecar ends as it ends a stream that nobody has any more."""
        ref = getattr(self, "ref", None)
        if ref is not None:
            request = stream_pb2.StreamServiceReleaseRequest(stream=ref)
            with suppress(RuntimeError):  # the loop is closed, and the lease with it
                self._loop.call_soon_threadsafe(self._client.release, request)

    def __repr__(self) -> str:
        return f"<SidecarStream {self._id}>"

    def _check(self, code: int) -> None:
        if not 0 <= code <= 0xFFFF:
            raise ValidationError("a stream code is a whole number from 0 to 65535")
        if self._session.negotiated.version == VERSION_1:
            raise UnsupportedError("a session of version 1 has no reset and no stop")

    def _later(self, method: Any, request: Any) -> None:
        if self._client.is_open:
            self._client.spawn(self._call(method, request))

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await self._client.call(method, request)
        except PhantomError as error:
            raise await self._session.reason(error) from None
