"""What a client can open: sessions and their streams, listeners and signing keys."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from phantom import limits
from phantom.api.listener import PhantomListener
from phantom.api.session import PhantomSession
from phantom.api.stream import PhantomStream
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.wipe import wipe
from phantom.errors import PhantomError, SessionNotFoundError, UnsupportedError
from phantom.sidecar.inbox import Inbox
from phantom.sidecar.leases import Handle
from phantom.sidecar.waits import Turn, Waits

__all__ = ["KeyHandle", "ListenerHandle", "SessionHandle", "StreamHandle"]


class SessionHandle(Handle):
    """A session, and its messages until the client has them."""

    kind = "session"
    most = limits.MAX_LEASE_SESSIONS

    def __init__(self, session: PhantomSession, config: PhantomConfig, waits: Waits) -> None:
        self.session = session
        self.max_message = max(limits.MAX_MESSAGE, config.max_message)
        self.inbox: Inbox[bytes] = Inbox(session.recv)
        self.receiving = Turn(waits, "a newer call receives from this session")
        self.watching = Turn(waits, "a newer call watches this session")
        self.accepting = Turn(waits, "a newer call accepts streams of this session")
        self.given = 0  # streams that the peer opened
        self.unacknowledged: StreamHandle | None = None
        self.streams: set[StreamHandle] = set()
        self._given_up: deque[int] = deque(maxlen=limits.MAX_STREAMS)  # numbers of Opens whose answers never came

    def opened(self, number: int, handle: StreamHandle) -> bool:
        """A stream is open under the client's ``number``; False if the client has given it up before."""
        handle.opening = number
        return not number or number not in self._given_up

    def unopened(self, number: int) -> StreamHandle | None:
        """The client never got the stream of this number: it, or None if it is not open, and then nobody gets it."""
        for handle in self.streams:
            if handle.opening == number:
                return handle
        self._given_up.append(number)
        return None

    async def close(self, code: int) -> None:
        """Closes the session; what it owes has a few seconds to leave."""
        await self.session.disconnect(code, timeout=limits.LEASE_CLOSE_TIMEOUT)


class StreamHandle(Handle):
    """A stream, and its bytes until the client has them."""

    kind = "stream"
    most = limits.MAX_LEASE_STREAMS

    def __init__(self, stream: PhantomStream, session: SessionHandle, waits: Waits) -> None:
        self.stream = stream
        self.session = session
        self.opening = 0
        self.inbox: Inbox[bytes | None] = Inbox(self._receive, limits.SIDECAR_STREAM_WINDOW)
        self.receiving = Turn(waits, "a newer call receives from this stream")
        self._finished = False
        self._read_out = False

    async def _receive(self) -> bytes | None:
        piece = await self.stream.recv()
        self._read_out = piece is None
        return piece

    async def finish(self) -> None:
        """Ends the own half."""
        await self.stream.finish()
        self._finished = True

    async def release(self) -> None:
        """Finishes a stream that was received to its end; else stops it, and resets what was not finished."""
        self.receiving.end(SessionNotFoundError("the stream was released"))
        with suppress(PhantomError):  # the session is over, or the half is
            if self._read_out:
                await self.stream.finish()
                return
            try:
                self.stream.stop()
                if not self._finished:
                    self.stream.reset()
            except UnsupportedError:
                await self.stream.finish()

    async def close(self, _code: int) -> None:
        """Nothing: its session is of the same lease, and ends with it."""


class ListenerHandle(Handle):
    """A listener, and the session that it gave last until the client has it."""

    kind = "listener"
    most = limits.MAX_LEASE_LISTENERS

    def __init__(
        self, listener: PhantomListener, key: HybridSigningKey | None, config: PhantomConfig, waits: Waits
    ) -> None:
        self.listener = listener
        self.config = config
        self._key = key
        self.accepting = Turn(waits, "a newer call accepts at this listener")
        self.given = 0
        self.unacknowledged: SessionHandle | None = None

    async def close(self, _code: int) -> None:
        """Frees the addresses and wipes the listener's copy of the key; established sessions go on."""
        self.listener.shutdown()
        if self._key is not None:
            self._key.close()


class KeyHandle(Handle):
    """A signing key."""

    kind = "signing key"
    most = limits.MAX_LEASE_KEYS

    def __init__(self, key: HybridSigningKey) -> None:
        self.key = key

    def copy(self) -> HybridSigningKey:
        """The same key for a listener, which outlives this handle."""
        seed = self.key.to_bytes()
        try:
            return HybridSigningKey.from_bytes(seed)
        finally:
            wipe(seed)

    async def close(self, _code: int) -> None:
        """Wipes the key."""
        self.key.close()
