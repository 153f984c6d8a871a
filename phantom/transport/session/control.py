"""The control stream: codec and assembler of its messages (wire-native §15.6).

The reliable data of stream 0 is a sequence of messages ``length u32be || type u8 || body`` in each direction. What a
message means is decided elsewhere: resets and stops by the streams, the two messages of client authentication by
``client_auth``.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from phantom.errors import ProtocolViolationError
from phantom.limits import CONTROL_MESSAGE_MAX, ITEM_OVERHEAD, SIGNATURE_LEN, VERIFYING_KEY_LEN

if TYPE_CHECKING:
    from phantom.crypto.wipe import BytesLike
    from phantom.transport.packet.counters import DropCounters

__all__ = [
    "AuthResult",
    "ClientAuth",
    "ControlAssembler",
    "ControlMessage",
    "StreamReset",
    "StreamStop",
    "encode_auth_result",
    "encode_client_auth",
    "encode_stream_reset",
    "encode_stream_stop",
]

STREAM_RESET: Final = 0x01
STREAM_STOP: Final = 0x02
CLIENT_AUTH: Final = 0x03
AUTH_RESULT: Final = 0x04

_LENGTH: Final = Struct(">I")
_HEAD: Final = Struct(">IB")  # length, type
_RESET: Final = Struct(">HIH")
_STOP: Final = Struct(">HH")
_RESET_MESSAGE: Final = Struct(">IBHIH")
_STOP_MESSAGE: Final = Struct(">IBHH")
_RESULT_MESSAGE: Final = Struct(">IBB")


class StreamReset(NamedTuple):
    """The sender abandons its sending half of ``stream_id``, of which it used ``final_index`` segment indices."""

    stream_id: int
    final_index: int
    code: int


class StreamStop(NamedTuple):
    """The sender no longer wants the peer's half of ``stream_id``."""

    stream_id: int
    code: int


class ClientAuth(NamedTuple):
    """A client's identity: the flat verifying key (1984 B) and its flat signature (3373 B), neither checked yet."""

    verifying_key: bytes
    signature: bytes

    def __repr__(self) -> str:
        return "ClientAuth(...)"


class AuthResult(NamedTuple):
    """The responder's verdict: 0 accepted, 1 refused, 2 authentication required; other codes are not judged here."""

    code: int


ControlMessage: TypeAlias = StreamReset | StreamStop | ClientAuth | AuthResult


def encode_stream_reset(stream_id: int, final_index: int, code: int) -> bytes:
    """STREAM_RESET, 13 bytes with its length: u16 stream id, u32 count of segment indices used, u16 code."""
    return _RESET_MESSAGE.pack(1 + _RESET.size, STREAM_RESET, stream_id, final_index, code)


def encode_stream_stop(stream_id: int, code: int) -> bytes:
    """STREAM_STOP, 9 bytes with its length: u16 stream id, u16 code."""
    return _STOP_MESSAGE.pack(1 + _STOP.size, STREAM_STOP, stream_id, code)


def encode_client_auth(verifying_key: BytesLike, signature: BytesLike) -> bytes:
    """CLIENT_AUTH, 5362 bytes with its length, of a flat key (1984 B) and a flat signature (3373 B)."""
    return b"".join((_HEAD.pack(_SIZES[CLIENT_AUTH], CLIENT_AUTH), verifying_key, signature))


def encode_auth_result(code: int) -> bytes:
    """AUTH_RESULT, 6 bytes with its length."""
    return _RESULT_MESSAGE.pack(_SIZES[AUTH_RESULT], AUTH_RESULT, code)


# type -> what ``length`` must be (type and body)
_SIZES: Final = {
    STREAM_RESET: 1 + _RESET.size,
    STREAM_STOP: 1 + _STOP.size,
    CLIENT_AUTH: 1 + VERIFYING_KEY_LEN + SIGNATURE_LEN,
    AUTH_RESULT: 2,
}


def _decode(kind: int, body: bytes) -> ControlMessage:
    """One message of an assigned type whose size has been checked."""
    if kind == STREAM_RESET:
        return StreamReset._make(_RESET.unpack(body))
    if kind == STREAM_STOP:
        return StreamStop._make(_STOP.unpack(body))
    if kind == CLIENT_AUTH:
        return ClientAuth(body[:VERIFYING_KEY_LEN], body[VERIFYING_KEY_LEN:])
    return AuthResult(body[0])


class ControlAssembler:
    """Turns the ordered bytes of stream 0 into messages; holds one unfinished message at most.

    ``consumed`` counts the bytes taken, for flow control: the assembler takes whatever comes. A message of an
    unassigned type is skipped without being kept and counted as ``unknown_control``. Owned by one connection.
    """

    __slots__ = ("_counters", "_pending", "_skip", "consumed")

    def __init__(self, counters: DropCounters) -> None:
        self._counters = counters
        self._pending = b""  # head of an unfinished message
        self._skip = 0  # bytes still to come of one that is skipped
        self.consumed = 0

    @property
    def charged(self) -> int:
        """Bytes charged to receive memory (§14.11)."""
        return len(self._pending) + ITEM_OVERHEAD if self._pending else 0

    def feed(self, data: BytesLike) -> list[ControlMessage]:
        """In-order bytes, which are not kept by reference; the messages that they complete.

        Raises ProtocolViolationError for a length that is 0, above CONTROL_MESSAGE_MAX or wrong for its type, as soon
        as it is there: the session ends, and with it whatever the same bytes completed before.
        """
        self.consumed += len(data)
        if self._skip >= len(data):
            self._skip -= len(data)
            return []
        data = b"".join((self._pending, memoryview(data)[self._skip :]))
        self._skip = 0
        messages: list[ControlMessage] = []
        at, end = 0, len(data)
        while end - at >= _HEAD.size - 1:
            length = _LENGTH.unpack_from(data, at)[0]
            if not 1 <= length <= CONTROL_MESSAGE_MAX:
                raise ProtocolViolationError(
                    f"the peer announced a control message of {length} bytes; it must have 1 to {CONTROL_MESSAGE_MAX}"
                )
            body = at + _HEAD.size
            if body > end:
                break
            kind = data[body - 1]
            stop = body + length - 1
            if kind not in _SIZES:
                self._counters.unknown_control += 1
                self._skip = max(0, stop - end)
                at = min(stop, end)
                continue
            if length != _SIZES[kind]:
                raise ProtocolViolationError(
                    f"the peer sent a control message of type {kind} with {length} bytes, not {_SIZES[kind]}"
                )
            if stop > end:
                break
            messages.append(_decode(kind, data[body:stop]))
            at = stop
        self._pending = data[at:]
        return messages

    def drop(self) -> None:
        """The session is over: forgets an unfinished message."""
        self._pending = b""
