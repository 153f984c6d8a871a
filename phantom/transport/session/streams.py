"""A stream's two halves: what waits to be sent, what is outstanding, what has arrived (wire-native §14).

The send queue is a list of *part lists*: references to the application's immutable bytes with a slot of four bytes in
front for ``stream_offset``. They are gathered once, into the wire buffer, and stay the retained copy for a
retransmission.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from phantom import limits
from phantom.transport.session.flow_control import ReceiveWindow, SendLimit
from phantom.transport.session.messages import message_prefix
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.reliability import OutstandingSegments, Segment

__all__ = ["SLOT", "Stream"]

SLOT = b"\0\0\0\0"  # place of stream_offset at the head of each part list


class Stream:
    """State of one stream id in one session. Not task safe; owned by one connection.

    ``budget`` is the number of application bytes in one segment (§21.2); the length prefixes of stream 1 do not count.
    """

    __slots__ = (
        "_ends",
        "_parts",
        "_queue",
        "_size",
        "ack_now",
        "ack_pending_since",
        "blocked",
        "budget",
        "id",
        "outstanding",
        "pending_acks",
        "ready",
        "reassembly",
        "received",
        "resend",
        "send_limit",
        "window",
    )

    def __init__(self, stream_id: int, *, budget: int, reassembly: Reassembly, window: ReceiveWindow) -> None:
        self.id = stream_id
        self.budget = budget
        self._queue: deque[Segment] | None = None  # closed segments
        self._parts: list[Any] = [SLOT]  # the open one
        self._size = 0
        self._ends = 0
        self.outstanding = OutstandingSegments()
        self.resend: deque[int] | None = None  # indices due for retransmission
        self.send_limit = SendLimit()
        self.ready = False  # has something sendable, or waits in the connection's ready list
        self.blocked = False  # by flow control: ready, but out of the list until a WINDOW_UPDATE
        self.reassembly = reassembly
        self.window = window
        self.received = 0  # reliable bytes that arrived in order
        self.pending_acks = 0
        self.ack_now = False
        self.ack_pending_since = 0.0

    @property
    def has_queued(self) -> bool:
        """True if anything waits for its first transmission."""
        return bool(self._queue) or len(self._parts) > 1

    def add_message(self, data: bytes) -> int:
        """Queues one message of stream 1; returns the stream bytes it takes. A message that fits is never cut."""
        length = len(data)
        size = length + 4
        taken, budget = self._size + size, self.budget
        if taken > budget and len(self._parts) > 1 and (length > budget or not self._takes(taken)):
            self._close_segment()
            taken = size
        parts = self._parts
        parts.append(message_prefix(length))
        if length <= budget:
            parts.append(data)
            self._size = taken
        else:
            self._size = 4
            view = memoryview(data)
            at = 0
            while length - at > budget:
                self._parts.append(view[at : at + budget])
                self._size += budget
                at += budget
                self._close_segment()
            self._parts.append(view[at:])
            self._size += length - at
        self._ends += 1
        return size

    def _takes(self, taken: int) -> bool:
        """Does the open segment still keep to its budget with ``taken`` bytes, when prefixes do not count (§21.2)?"""
        return taken <= self.budget + limits.CHUNK_SLACK and taken - 4 * (self._ends + 1) <= self.budget

    def peek(self) -> Segment | None:
        """The next new segment, unsent; it stays queued until :meth:`pop`."""
        if not self._queue:
            if len(self._parts) == 1:
                return None
            self._close_segment()
        queue = self._queue
        return queue[0] if queue else None

    def pop(self) -> Segment:
        """Takes the segment that :meth:`peek` showed."""
        queue = self._queue
        assert queue
        segment = queue.popleft()
        if not queue:
            self._queue = None  # an empty deque takes 760 bytes
        return segment

    def cut(self, room: int) -> None:
        """Splits the next segment so that its first part has ``room`` data bytes."""
        queue = self._queue
        assert queue
        segment = queue.popleft()
        data = b"".join(segment.parts)[4:]
        queue.appendleft(Segment([SLOT, data[room:]], segment.size - room, segment.ends))
        queue.appendleft(Segment([SLOT, data[:room]], room, 0))

    def drop(self) -> None:
        """The session is over: forgets what was not acknowledged, and what waits behind a gap."""
        self._queue = None
        self._parts = [SLOT]
        self._size = self._ends = 0
        self.resend = None
        self.outstanding.segments.clear()
        self.reassembly.drop()

    def _close_segment(self) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(Segment(self._parts, self._size, self._ends))
        self._parts = [SLOT]
        self._size = 0
        self._ends = 0


def session_stream(stream_id: int, *, budget: int, recv_window: int, recv_segments: int) -> Stream:
    """Stream 1, open on both sides from the start (§14.1)."""
    return Stream(
        stream_id,
        budget=budget,
        reassembly=Reassembly(max_segments=recv_segments, max_bytes=limits.MAX_REORDER_BYTES),
        window=ReceiveWindow(recv_window),
    )
