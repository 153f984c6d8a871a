"""WebSocket frames, sans-IO (RFC 6455 §5; wire-native §21.7): one binary message is one frame of ours.

The rest of the engine sees frames behind a length prefix of four bytes. Reading puts that prefix over the WebSocket
header, in the window in which the message lies; writing puts the header in the place of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from phantom import limits
from phantom.crypto.wipe import BytesLike

__all__ = [
    "NORMAL",
    "NO_STATUS",
    "FrameError",
    "FrameReader",
    "apply_mask",
    "close_frame",
    "control_frame",
    "pure_mask",
    "write_frames",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA, NO_STATUS, INVALID_PAYLOAD, TOO_BIG = 1000, 1002, 1003, 1005, 1007, 1009
MASK_OVERHEAD: Final = 14  # bytes of the longest header
SHORTEST: Final = 64  # bytes no packet of ours is shorter than

_WHOLE_BINARY: Final = 0x82  # FIN, no reserved bit
_U16, _U32, _U64 = Struct(">H"), Struct(">I"), Struct(">Q")
_PREFIX: Final = 4
_MASKED: Final = 0x80
_NO_MASK: Final = b"\0\0\0\0"
_CONTROL_MAX: Final = 125

# Takes ``buf[start:end]``, whole frames behind their prefixes; False: stop, nothing more can be taken now.
Hand = Callable[[bytearray, memoryview, int, int], bool]
# Hears how long a message that is not there yet will be at least; False: too long, the receiver has ended.
Announce = Callable[[int], bool]


def pure_mask(data: BytesLike, mask: bytes) -> bytes:
    """``data`` exclusive-or ``mask`` (4 bytes), repeated."""
    size = len(data)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


apply_mask: Callable[[BytesLike, bytes], bytes]
try:
    from websockets.speedups import apply_mask  # C; extra "websocket"
except ImportError:
    apply_mask = pure_mask


class FrameError(ValueError):
    """The peer broke RFC 6455; ``code`` is the close code that says so."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameReader:
    """What one peer sends. ``masked``: it is a client, whose frames must be masked (§5.1).

    After each :meth:`read`, ``ping`` is the payload of the latest unanswered PING (None: there is none) and ``closed``
    the code of the peer's CLOSE (1005 if it gave none; None: not closed). Nothing is read after a CLOSE.
    """

    __slots__ = ("_held", "_message", "_run", "_skipping", "closed", "masked", "ping", "texts")

    def __init__(self, *, masked: bool) -> None:
        self.masked = masked
        self.ping: bytes | None = None
        self.closed: int | None = None
        self.texts = 0  # text messages in a row, the last ones
        self._message: bytearray | None = None  # prefix and fragments of a binary message
        self._skipping = False  # a fragmented text message
        self._held = 0  # bytes of the fragmented message so far
        self._run = -1  # where the frames begin that were not handed on yet

    def read(self, buf: bytearray, view: memoryview, start: int, end: int, hand: Hand, announce: Announce) -> int:
        """Takes whole WebSocket frames from ``buf[start:end]``, hands on what they carry, returns how far it got.

        ``buf`` is overwritten up to there. A length over what a handshake may send is announced before the body is
        there, so that whoever has a cap for it can end the leg first (wire-native §21.1). Raises FrameError.
        """
        at, write, masked = start, 0, self.masked
        self._run = -1
        while end - at >= 2 and self.closed is None:
            first, second = buf[at], buf[at + 1]
            size, body = second & 127, at + 2
            if size >= 126:
                body = at + 4 if size == 126 else at + 10
                if body > end:
                    break
                size = _long(buf, at + 2, size)
            if (second & _MASKED != 0) is not masked:
                raise FrameError(
                    PROTOCOL_ERROR, "a client must mask its frames" if masked else "a server must not mask"
                )
            mask = _NO_MASK
            if masked:
                body += 4
                if body > end:
                    break
                mask = bytes(view[body - 4 : body])
            stop = body + size
            if first != _WHOLE_BINARY or self._message is not None or self._skipping:
                self._check(first, size)
                if not self._flush(buf, view, write, hand):
                    return at
                whole = self._held + size if first & 0x0F < CLOSE else 0  # of the message that it is a part of
                if (whole > limits.HANDSHAKE_FRAME_CAP and not announce(whole)) or stop > end:
                    return at
                self._held = whole or self._held
                more = self._rare(first, apply_mask(view[body:stop], mask), hand)
                at = stop
                if not more:
                    return at
                continue
            if stop > end:
                if size > limits.HANDSHAKE_FRAME_CAP and self._flush(buf, view, write, hand):
                    announce(size)
                break
            self.texts = 0
            if self._run < 0 or write + _PREFIX > body:
                if not self._flush(buf, view, write, hand):
                    return at
                self._run = write = max(start, body - _PREFIX)
                if body < start + _PREFIX:  # the first bytes there are: no room for the prefix in front
                    self._run = -1
                    if not _hand_copy(apply_mask(view[body:stop], mask), hand):
                        return stop
                    at = stop
                    continue
            data = write + _PREFIX
            if mask != _NO_MASK:
                view[data : data + size] = apply_mask(view[body:stop], mask)
            elif data != body:
                view[data : data + size] = view[body:stop]
            _U32.pack_into(buf, write, size)
            write = data + size
            at = stop
        self._flush(buf, view, write, hand)
        return at

    def _flush(self, buf: bytearray, view: memoryview, end: int, hand: Hand) -> bool:
        start, self._run = self._run, -1
        return start < 0 or hand(buf, view, start, end)

    def _rare(self, first: int, payload: bytes, hand: Hand) -> bool:
        """Control frames, text, fragments, empty messages; False if nothing more can be taken now."""
        final, code = bool(first & 0x80), first & 0x0F
        if code >= CLOSE:
            self._control(code, payload)
            return True
        if code == TEXT or self._skipping:
            self._text(final=final, begins=code == TEXT)
            return True
        if self._message is None:
            self._message = bytearray(_PREFIX)
        self._message += payload
        if not final:
            return True
        message, self._message = self._message, None
        self._held = self.texts = 0
        _U32.pack_into(message, 0, len(message) - _PREFIX)
        return hand(message, memoryview(message), 0, len(message))

    def _check(self, first: int, size: int) -> None:
        """What must not come here, judged by the header alone (RFC 6455 §5.4, §5.5)."""
        final, code = first & 0x80, first & 0x0F
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        if code >= CLOSE:
            if not final or size > _CONTROL_MAX:
                raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
            if code > PONG:
                raise FrameError(PROTOCOL_ERROR, f"there is no control frame {code}")
        elif code > BINARY or (self._message is not None or self._skipping) is not (code == CONTINUATION):
            raise FrameError(PROTOCOL_ERROR, f"a frame with opcode {code} cannot come here")

    def _text(self, *, final: bool, begins: bool) -> None:
        """Text is ignored and counted (wire-native §21.7)."""
        self._skipping = not final
        self._held = 0 if final else self._held
        if begins:
            self.texts += 1
        if self.texts > limits.MAX_WEBSOCKET_TEXTS:
            raise FrameError(UNSUPPORTED_DATA, "text messages only; this endpoint speaks binary messages")

    def _control(self, code: int, payload: bytes) -> None:
        if code == PING:
            self.ping = payload
        elif code == CLOSE:
            self.closed = _close_code(payload)


def _header(size: int) -> int:
    """Bytes of the header of a frame, its mask aside."""
    return 2 if size < 126 else 4 if size <= 0xFFFF else 10


def _long(buf: bytearray, at: int, kind: int) -> int:
    size: int = _U16.unpack_from(buf, at)[0] if kind == 126 else _U64.unpack_from(buf, at)[0]
    if size >> 63 or _header(size) != (4 if kind == 126 else 10):
        raise FrameError(PROTOCOL_ERROR, "the length is not in its shortest form")
    return size


def _hand_copy(payload: bytes, hand: Hand) -> bool:
    framed = bytearray(_U32.pack(len(payload)) + payload)
    return hand(framed, memoryview(framed), 0, len(framed))


def _close_code(payload: bytes) -> int:
    if not payload:
        return NO_STATUS
    code: int = _U16.unpack_from(payload)[0] if len(payload) > 1 else 0
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(PROTOCOL_ERROR, "the close frame has no valid code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_PAYLOAD, "the reason of the close frame is not UTF-8") from None
    return code


# --- writing ----------------------------------------------------------------------------------------------------------


def write_frames(
    source: memoryview, end: int, out: bytearray, view: memoryview, at: int, mask: Callable[[int], bytes] | None
) -> int:
    """Writes the frames ``source[:end]``, each behind its prefix, as binary messages at ``out[at:]``; the end there.

    ``mask(4)`` gives the masking key of one message; None at a server, which does not mask. A message grows by at most
    10 bytes.
    """
    read, flag = 0, _MASKED if mask is not None else 0
    while read < end:
        size = _U32.unpack_from(source, read)[0]
        read += _PREFIX
        out[at] = _WHOLE_BINARY
        if size < 126:
            out[at + 1] = flag | size
            at += 2
        elif size <= 0xFFFF:
            out[at + 1] = flag | 126
            _U16.pack_into(out, at + 2, size)
            at += 4
        else:
            out[at + 1] = flag | 127
            _U64.pack_into(out, at + 2, size)
            at += 10
        data = source[read : read + size]
        if mask is not None:
            key = mask(4)
            view[at : at + 4] = key
            at += 4
            view[at : at + size] = apply_mask(data, key) if key != _NO_MASK else data
        else:
            view[at : at + size] = data
        at += size
        read += size
    return at


def control_frame(code: int, payload: bytes, mask: Callable[[int], bytes] | None) -> bytes:
    """A PING, PONG or CLOSE with at most 125 bytes."""
    if mask is None:
        return bytes((0x80 | code, len(payload))) + payload
    key = mask(4)
    return bytes((0x80 | code, _MASKED | len(payload))) + key + apply_mask(payload, key)


def close_frame(status: int, mask: Callable[[int], bytes] | None) -> bytes:
    """A CLOSE with a code and no reason."""
    return control_frame(CLOSE, _U16.pack(status), mask)
