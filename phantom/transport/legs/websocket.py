"""The WebSocket leg, both ends, on TCP or TLS (wire-native §21.7; RFC 6455).

The HTTP exchange runs inside the leg: the owner hears nothing before it is over, and its first frames leave behind it.
Flow control is that of the connection below: nothing is read while the owner takes nothing, and nothing is filled while
the connection is full.
"""

from __future__ import annotations

from collections.abc import Callable

from phantom import limits
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.errors import FrameTooLargeError, NetworkError, PhantomError, ProtocolViolationError
from phantom.transport.legs import websocket_frames as frames
from phantom.transport.legs.base import Leg
from phantom.transport.legs.buffers import BATCH, private
from phantom.transport.legs.http_upgrade import (
    PATH,
    Answer,
    BadRequest,
    UpgradePolicy,
    answer,
    check_response,
    head_of,
    refusal,
    request,
)
from phantom.transport.legs.layered import LayeredLeg
from phantom.transport.legs.opening import Opening

__all__ = ["WebSocketLeg", "closing_error", "open_websocket"]

_GROWTH = frames.MASK_OVERHEAD - limits.LENGTH_PREFIX  # bytes by which one frame becomes longer at most
_LAST_WORDS = 256  # bytes for a PONG and a CLOSE

# Codes that end a WebSocket without fault (RFC 6455 §7.4.1): normal, going away, none given.
_CALM = (frames.NORMAL, 1001, frames.NO_STATUS)
_MEANING = {
    1002: "protocol error",
    1003: "it does not take such data",
    1007: "malformed data",
    1008: "its policy forbids it",
    1009: "a message was too big",
    1010: "an extension is missing",
    1011: "an internal error at its side",
    1012: "it restarts",
    1013: "it is overloaded, try later",
    1014: "a proxy had no answer from the server behind it",
}


def closing_error(code: int) -> PhantomError | None:
    """What a CLOSE of the peer with ``code`` means for the session; None: an end without fault."""
    if code == frames.TOO_BIG:
        return FrameTooLargeError("the peer closed the WebSocket: a message was too big for it")
    if code in _CALM:
        return None
    meaning = _MEANING.get(code, "of its own reasons")
    return NetworkError(f"the peer closed the WebSocket with code {code}: {meaning}")


class WebSocketLeg(LayeredLeg):
    """One WebSocket. All calls in the thread of its loop. Made by :meth:`client` and :meth:`server`."""

    __slots__ = ("_close", "_key", "_mask", "_open", "_policy", "_reader", "_said", "on_open")

    def __init__(self, lower: Leg, *, policy: UpgradePolicy | None, mask: Callable[[int], bytes] | None) -> None:
        super().__init__(lower, "websocket")
        self._reader = frames.FrameReader(masked=policy is not None)
        self._policy = policy  # of a server
        self._mask = mask  # of a client
        self._key = ""
        self._said: bytes = b""  # of HTTP, to be sent first
        self._open = False
        self._close: int | None = None  # a CLOSE with this code is still to be sent
        self.on_open: Callable[[], None] | None = None

    @classmethod
    def client(
        cls, lower: Leg, host: str, path: str, *, rng: RngProvider = SYSTEM_RNG, zero_mask: bool = False
    ) -> WebSocketLeg:
        """A client that asks for ``path`` at ``host`` (HOST:PORT).

        ``zero_mask`` leaves the data as they are under a key of zeros: cheaper, legal on the wire, and against the
        advice of RFC 6455 §5.3, which protects proxies from what a page could make them see.
        """
        leg = cls(lower, policy=None, mask=(lambda _: b"\0\0\0\0") if zero_mask else rng.fill_bytes)
        leg._said, leg._key = request(host, path or PATH, rng.fill_bytes(16))
        return leg

    @classmethod
    def server(cls, lower: Leg, policy: UpgradePolicy) -> WebSocketLeg:
        """A server that takes the WebSocket as ``policy`` says, and answers anything else in plain HTTP."""
        return cls(lower, policy=policy, mask=None)

    def start(self, owner: object) -> None:
        """Begins to read; a client sends its request."""
        super().start(owner)  # type: ignore[arg-type]
        self._lower.flush()

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` a CLOSE leaves behind what the owner has to say."""
        if linger and self._close is None and self._open and not self._lost:
            self._close = frames.NORMAL
            self._lower.flush()
        super().close(linger=linger)

    # --- receiving --------------------------------------------------------------------------------------------------

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """HTTP first, then frames (LegOwner)."""
        if self._open:
            return self._read(buf, view, start, end)
        length = self._upgrade(buf, start, end)
        if length is None:
            return end
        return self._read(buf, view, start + length, end) if length else start

    def _read(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        if not self._again():
            return end if self._lost else start
        try:
            at = self._reader.read(buf, view, start, end, self._hand, self._announce)
        except frames.FrameError as error:
            self._close = error.code
            self._fail(ProtocolViolationError(f"the peer's WebSocket frames break the rules: {error}"), linger=True)
            return end
        if self._reader.closed is not None:
            self._closed_by_peer(self._reader.closed)
            return end
        if self._reader.ping is not None:
            self._lower.flush()
        return end if self._lost else at

    def _announce(self, size: int) -> bool:
        prefix = bytearray(min(size, 0xFFFF_FFFF).to_bytes(limits.LENGTH_PREFIX, "big"))
        if self.owner is not None and not self._lost:
            self.owner.leg_received(prefix, memoryview(prefix), 0, len(prefix))
        return not self._lost

    def _closed_by_peer(self, code: int) -> None:
        error = closing_error(code)
        self._close = frames.NORMAL if code == frames.NO_STATUS else code
        if error is not None:
            self._fail(error, linger=True)
        else:
            self._lower.flush()
            self.leg_lost(None)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def _upgrade(self, buf: bytearray, start: int, end: int) -> int | None:
        """Length of the HTTP head that began the WebSocket; 0: it is not complete, None: there will be no WebSocket."""
        try:
            length = head_of(buf[start : min(end, start + limits.UPGRADE_CAP)])
        except BadRequest as bad:
            self._refuse(refusal(bad))
            return None
        if not length:
            return 0
        head = bytes(buf[start : start + length])
        if self._policy is None:
            try:
                check_response(head, self._key)
            except NetworkError as error:
                self._fail(error)
                return None
        else:
            said = answer(head, start + length < end, self._policy)
            if not said.accepted:
                self._refuse(said)
                return None
            self._said = said.data
        self._open = True
        if self.on_open is not None:
            self.on_open()
        self._lower.flush()
        return length

    def _refuse(self, said: Answer) -> None:
        if self._policy is None:
            self._fail(NetworkError("the server did not answer as a web server does: its answer is too long"))
            return
        self._said = said.data
        self._fail(NetworkError(f"no WebSocket was begun: {said.reason.splitlines()[0]}"), linger=True)

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Room for the owner's largest packet as a message, and for what this layer says (LegOwner)."""
        owner = self.owner.batch_size if self.owner is not None else 0
        return owner + owner // 4 + limits.UPGRADE_CAP

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """HTTP, then a PONG, then the owner's frames as messages, at the end a CLOSE (LegOwner)."""
        if self._said:
            if cap - at < len(self._said):
                return at
            said, self._said = self._said, b""
            view[at : at + len(said)] = said
            at += len(said)
        if not self._open:
            return at
        if self._reader.ping is not None and cap - at > _LAST_WORDS:
            payload, self._reader.ping = self._reader.ping, None
            at = _put(view, at, frames.control_frame(frames.PONG, payload, self._mask))
        drained = self.owner is None or self._reader.closed is not None
        if not drained:
            at, drained = self._fill_messages(buf, view, at, cap - _LAST_WORDS)
        if self._close is not None and drained and cap - at > _LAST_WORDS:
            code, self._close = self._close, None
            at = _put(view, at, frames.close_frame(code, self._mask))
            self._open = False  # nothing follows a CLOSE
        return at

    def _fill_messages(self, buf: bytearray, view: memoryview, at: int, cap: int) -> tuple[int, bool]:
        """The end of what was written, and whether the owner has no more."""
        owner = self.owner
        assert owner is not None
        size = owner.batch_size
        while True:
            # no packet is shorter than SHORTEST, and none becomes longer by more than _GROWTH
            room = (cap - at) * frames.SHORTEST // (frames.SHORTEST + _GROWTH)
            if room < size:
                return at, False
            buffer = BATCH.take() if room <= BATCH.size else private(room)
            end = owner.leg_fill(buffer[0], buffer[1], 0, room)
            if end:
                at = frames.write_frames(buffer[1], end, buf, view, at, self._mask)
            BATCH.give(buffer)
            if not end:
                return at, True


async def open_websocket(leg: WebSocketLeg) -> WebSocketLeg:
    """Returns the client's ``leg`` when the server has taken the WebSocket, or raises NetworkError; closed then."""
    opening = Opening(limits.UPGRADE_CAP, "the web server closed the connection without an answer")
    leg.on_open = opening.opened
    try:
        leg.start(opening)
        await opening.done
    except BaseException:
        leg.close(linger=False)
        raise
    finally:
        leg.on_open = None
    return leg


def _put(view: memoryview, at: int, data: bytes) -> int:
    view[at : at + len(data)] = data
    return at + len(data)
