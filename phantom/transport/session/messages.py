"""Messages on stream 1: ``length u32be || bytes``, back to back (wire-native §14.2, §14.11).

The assembler is lazy: bytes of in-order segments wait as unread runs until a reader waits or too much is unsplit.
It takes the bytes of a message it has begun as they come, and begins none while more than ``RECV_BACKLOG_CAP`` of
complete messages wait or the process-wide receive memory is used up; what it does not take stays unconsumed, so the
peer's window closes.
"""

from __future__ import annotations

from collections import deque
from struct import Struct

from phantom import limits
from phantom.errors import ProtocolViolationError

__all__ = ["MessageAssembler", "message_prefix"]

_U32 = Struct(">I")
_WHOLE_OVERHEAD = limits.ITEM_OVERHEAD - 4  # of a message counted with its prefix
_SMALL_PART = 16384  # an object each for the tiny pieces of a large message would outweigh what is charged
_SMALL = 2048  # below this, one copy of the run and slices of it beat one view per message

message_prefix = _U32.pack


class MessageAssembler:
    """Turns the ordered bytes of stream 1 into messages.

    ``messages`` is the queue that the API pops (bytes objects, oldest first). ``consumed`` counts the stream bytes
    taken, for flow control. Not task safe; owned by one connection.
    """

    __slots__ = (
        "_head",
        "_max_message",
        "_need",
        "_parts",
        "_parts_size",
        "_runs",
        "_views",
        "charge",
        "consumed",
        "finished",
        "held",
        "messages",
        "run_bytes",
    )

    def __init__(self, max_message: int = limits.MAX_MESSAGE) -> None:
        self.messages: deque[bytes] = deque()
        self.charge = 0  # of complete messages, given back when the queue ran empty
        self.consumed = 0
        self.run_bytes = 0
        self.held = False  # receive memory is used up: begin no message
        self.finished = False
        self._max_message = max_message
        self._runs: deque[bytes] | None = None
        self._need = 0  # bytes missing of the message that was begun
        self._parts: list[bytes | memoryview] = []
        self._parts_size = 0
        self._views = False  # the last parts are views of the leg's window
        self._head = b""  # fewer than four bytes of a length prefix

    @property
    def charged(self) -> int:
        """Bytes charged to receive memory (§14.11): complete messages, unread runs, the message being assembled."""
        runs = self.run_bytes + limits.ITEM_OVERHEAD * len(self._runs) if self._runs else 0
        begun = self._parts_size + limits.ITEM_OVERHEAD if self._parts or self._need or self._head else 0
        return self.charge + runs + begun

    @property
    def unfinished(self) -> bool:
        """True while a message has begun and not ended."""
        return bool(self._need or self._head)

    @property
    def blocked(self) -> bool:
        """True while no new message may be begun."""
        return self.charge > limits.RECV_BACKLOG_CAP or self.held

    def feed(self, buf: bytearray, view: memoryview, start: int, end: int) -> None:
        """In-order bytes ``buf[start:end]`` of a window that is only lent until :meth:`settle`.

        Raises ProtocolViolationError for a declared length above the limit, before any of its bytes is kept.
        """
        if self._runs or (not self._need and self.blocked):
            self._append_run(bytes(view[start:end]))
            return
        size = end - start
        if (
            not self._need
            and not self._head
            and size >= 4
            and _U32.unpack_from(buf, start)[0] == size - 4 <= self._max_message
        ):
            self.messages.append(bytes(view[start + 4 : end]))  # exactly one message: the one copy
            self.charge += size + _WHOLE_OVERHEAD
            self.consumed += size
            return
        self._take(buf, view, start, end)

    def feed_bytes(self, data: bytes) -> None:
        """In-order bytes that the caller gives away (out of the reorder store)."""
        self._append_run(data)

    def settle(self) -> None:
        """The window is given up: keeps what still lies in it. Called once a batch."""
        if not self._views:
            return
        parts = self._parts
        first = len(parts)
        while first and type(parts[first - 1]) is memoryview:
            first -= 1
        if first and len(parts[first - 1]) < _SMALL_PART:
            first -= 1
        parts[first:] = [b"".join(parts[first:])]
        self._views = False

    def split(self) -> bool:
        """Splits waiting runs into messages as far as the backlog allows; True if a message is ready."""
        runs = self._runs
        while runs and (self._need or not self.blocked):
            run = runs.popleft()
            self.run_bytes -= len(run)
            rest = self._split_run(run)
            if rest < len(run):
                left = run[rest:]
                runs.appendleft(left)
                self.run_bytes += len(left)
                break
        if runs is not None and not runs:
            self._runs = None
        if self.finished and not runs:
            self._discard_unfinished()
        return bool(self.messages)

    def refill(self) -> bool:
        """The reader found the queue empty: gives its charge back, splits what waits; True if a message is ready."""
        if not self.messages:
            self.charge = 0
        return self.split()

    def recount(self, *, exact: bool) -> int:
        """What is charged, without the messages that were read since the queue last ran empty; O(messages) if exact."""
        if not self.messages:
            self.charge = 0
        elif exact:
            self.charge = sum(map(len, self.messages)) + limits.ITEM_OVERHEAD * len(self.messages)
        return self.charged

    def drop(self) -> None:
        """Forgets everything that is unread."""
        self.messages.clear()
        self._runs = None
        self.charge = self.run_bytes = 0
        self._discard_unfinished()

    def finish(self) -> None:
        """The peer ended its messages: an unfinished one is discarded, once those before it are split."""
        self.finished = True
        self.split()

    def _discard_unfinished(self) -> None:
        self._parts = []
        self._parts_size = self._need = 0
        self._head = b""
        self._views = False

    def _append_run(self, data: bytes) -> None:
        if self._runs is None:
            self._runs = deque()
        self._runs.append(data)
        self.run_bytes += len(data)

    def _check(self, length: int) -> None:
        if length > self._max_message:
            if self._runs:  # nothing behind it is a message
                self._runs.clear()
                self.run_bytes = 0
            raise ProtocolViolationError(
                f"the peer announced a message of {length} bytes; the limit is {self._max_message}"
            )

    def _take(self, buf: bytearray, view: memoryview, at: int, end: int) -> None:
        """Straight from the window: parts of a large message stay views until it is whole or the window goes."""
        while at < end:
            need = self._need
            if need:
                piece = min(need, end - at)
                self._parts.append(view[at : at + piece])
                self._parts_size += piece
                self._views = True
                at += piece
                self.consumed += piece
                self._need = need - piece
                if self._need == 0:
                    self._complete()
                continue
            length = _U32.unpack_from(buf, at)[0] if end - at >= 4 and not self._head else 0
            if length < _SMALL or self.blocked:
                self._append_run(bytes(view[at:end]))
                return
            self._check(length)
            at += 4
            stop = at + length
            if stop <= end:
                self.messages.append(bytes(view[at:stop]))
                self.charge += length + limits.ITEM_OVERHEAD
                self.consumed += length + 4
                at = stop
                continue
            self.consumed += 4
            self._need = length

    def _split_run(self, run: bytes) -> int:
        """Consumes ``run`` from its start; the offset it came to (short of the end only when blocked)."""
        at, size = 0, len(run)
        if self._head:
            missing = 4 - len(self._head)
            self._head += run[:missing]
            at = min(missing, size)
            self.consumed += at
            if len(self._head) < 4:
                return size
            head, self._head = self._head, b""
            self._begin(_U32.unpack(head)[0])
        if self._need:
            piece = min(self._need, size - at)
            if self._parts and len(self._parts[-1]) < _SMALL_PART:
                self._parts[-1] = b"".join((self._parts[-1], run[at : at + piece]))
            else:
                self._parts.append(run[at : at + piece])
            self._parts_size += piece
            self.consumed += piece
            at += piece
            self._need -= piece
            if self._need:
                return size
            self._complete()
        add, unpack, overhead = self.messages.append, _U32.unpack_from, limits.ITEM_OVERHEAD
        cap = -1 if self.held else limits.RECV_BACKLOG_CAP
        charge, start, last, most = self.charge, at, size - 4, self._max_message
        while at <= last and charge <= cap:
            length = unpack(run, at)[0]
            stop = at + 4 + length
            if stop > size or length > most:
                break
            add(run[at + 4 : stop])
            charge += length + overhead
            at = stop
        self.charge = charge
        self.consumed += at - start
        if at == size or charge > cap:
            return at
        if size - at < 4:
            self._head = run[at:]
        else:
            self._begin(unpack(run, at)[0])
            self._parts.append(run[at + 4 :])
            self._parts_size = size - at - 4
            self._need -= size - at - 4
        self.consumed += size - at
        return size

    def _begin(self, length: int) -> None:
        self._check(length)
        self._need = length
        if length == 0:
            self._complete()

    def _complete(self) -> None:
        message = b"".join(self._parts)
        self._parts = []
        self._parts_size = 0
        self._views = False
        self.messages.append(message)
        self.charge += len(message) + limits.ITEM_OVERHEAD
