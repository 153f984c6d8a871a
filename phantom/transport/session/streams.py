"""A stream's two halves: what waits to be sent, what is outstanding, what has arrived (wire-native §14).

``Channel`` is what every stream id has: stream 0 (control), stream 1 (messages) and the application's streams, which
are ``Stream``. The send queue is a list of *part lists*: references to the application's immutable bytes with a slot
of four bytes in front for ``stream_offset``. They are gathered once, into the wire buffer, and stay the retained copy
for a retransmission.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from phantom import limits
from phantom.errors import StreamResetError
from phantom.transport.packet import flags as flag
from phantom.transport.session.flow_control import ReceiveWindow, SendLimit
from phantom.transport.session.messages import message_prefix
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.reliability import OutstandingSegments, Segment
from phantom.transport.session.stream_states import STREAM_TRANSITIONS, StreamState, StreamTrigger

__all__ = ["CONTROL_RANK", "MAX_PRIORITY", "SLOT", "Channel", "Stream", "control_stream", "session_stream"]

SLOT = b"\0\0\0\0"  # place of stream_offset at the head of each part list
MAX_PRIORITY: Final = 2**32 - 1
CONTROL_RANK: Final = MAX_PRIORITY + 1  # above every priority
_ENTRY = 2  # length field of a payload in a bundle
_READ_ALONE = 32 * limits.KiB  # a piece of at least this size is handed out as it is, without a copy


class Channel:
    """State of one stream id in one session. Not task safe; owned by one connection.

    ``budget`` is the number of application bytes in one segment (§21.2), ``slack`` how many length prefixes of stream 1
    may stand beside them.
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
        "owing",
        "pending_acks",
        "probe_at",
        "probe_owed",
        "rank",
        "ready",
        "reassembly",
        "received",
        "resend",
        "send_limit",
        "slack",
        "unreliable",
        "window",
        "window_owed",
    )

    def __init__(
        self,
        stream_id: int,
        *,
        budget: int,
        reassembly: Reassembly,
        window: ReceiveWindow,
        rank: int = 0,
        slack: int = limits.CHUNK_SLACK,
    ) -> None:
        self.id = stream_id
        self.rank = rank
        self.budget = budget
        self.slack = slack
        self._queue: deque[Segment] | None = None  # closed segments
        self._parts: list[Any] = [SLOT]  # the open one
        self._size = 0
        self._ends = 0
        self.unreliable: deque[bytes] | None = None  # chunks that wait to be sent
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
        self.window_owed = False
        self.probe_owed = False
        self.probe_at = 0.0  # when the last persist probe was asked for
        self.owing = False  # waits in the connection's list of those that owe an ACK, a window or a probe

    @property
    def has_queued(self) -> bool:
        """True if anything waits for its first transmission."""
        return bool(self._queue) or len(self._parts) > 1

    @property
    def quiet(self) -> bool:
        """True if nothing waits and everything sent is acknowledged."""
        return not (self._queue or len(self._parts) > 1 or self.outstanding.segments or self.unreliable)

    @property
    def unsent(self) -> int:
        """Reliable bytes that wait for their first transmission."""
        return self._size + (sum(segment.size for segment in self._queue) if self._queue else 0)

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
        if length <= budget - 4 or (length <= budget and self.slack):
            parts.append(data)
            self._size = taken
        else:
            self._size = 4
            view = memoryview(data)
            at = 0
            room = budget if self.slack else budget - 4
            while length - at > room:
                self._parts.append(view[at : at + room])
                self._size += room
                at += room
                room = budget
                self._close_segment()
            self._parts.append(view[at:])
            self._size += length - at
        self._ends += 1
        return size

    def add_bytes(self, data: bytes) -> None:
        """Queues plain bytes; a write that fits the budget is not cut."""
        length = len(data)
        if self._size + length > self.budget and len(self._parts) > 1:
            self._close_segment()
        if length <= self.budget:
            self._parts.append(data)
            self._size += length
            return
        view, at = memoryview(data), 0
        while length - at > self.budget:
            self._parts.append(view[at : at + self.budget])
            self._size = self.budget
            at += self.budget
            self._close_segment()
        self._parts.append(view[at:])
        self._size = length - at

    def _takes(self, taken: int) -> bool:
        """Does the open segment still keep to its budget with ``taken`` bytes, when prefixes do not count (§21.2)?"""
        return taken <= self.budget + self.slack and taken - 4 * (self._ends + 1) <= self.budget

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
        rest = Segment([SLOT, data[room:]], segment.size - room, segment.ends)
        rest.word = segment.word
        queue.appendleft(rest)
        queue.appendleft(Segment([SLOT, data[:room]], room, 0))

    def drop(self) -> None:
        """The session is over: forgets what was not acknowledged, and what waits behind a gap."""
        self._forget_unsent()
        self.unreliable = None
        self.resend = None
        self.outstanding.drop()
        self.reassembly.drop()

    def _forget_unsent(self) -> None:
        self._queue = None
        self._parts = [SLOT]
        self._size = self._ends = 0

    def _close_segment(self) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(Segment(self._parts, self._size, self._ends))
        self._parts = [SLOT]
        self._size = 0
        self._ends = 0


class Stream(Channel):
    """An application stream: bytes each way, unreliable chunks beside them, FIN, reset and stop.

    ``max_unreliable_size`` is the largest unreliable chunk in bytes; ``user`` is a slot for the API's own object.
    """

    __slots__ = (
        "_announce",
        "charge",
        "chunks",
        "consumed",
        "credit",
        "excess",
        "failure",
        "fresh",
        "held",
        "max_unreliable_size",
        "noted",
        "opened_here",
        "own_ended",
        "own_reset",
        "peer_ended",
        "pending_reset",
        "proven",
        "reset_code",
        "reset_raised",
        "state",
        "stop_code",
        "stop_sent",
        "unreliable_bytes",
        "user",
    )

    def __init__(
        self,
        stream_id: int,
        *,
        budget: int,
        reassembly: Reassembly,
        window: ReceiveWindow,
        rank: int = 0,
        opened_here: bool,
        max_unreliable_size: int = limits.BUNDLE_PIPE,
    ) -> None:
        super().__init__(stream_id, budget=budget, reassembly=reassembly, window=window, rank=rank, slack=0)
        self.opened_here = opened_here
        self.max_unreliable_size = max_unreliable_size
        self.user: object | None = None
        self.state = StreamState.OPEN
        self._announce = opened_here  # by an empty segment at index 0, if nothing is written before the flush (§14.3)
        self.proven = not opened_here  # the stream exists at the peer: resets and stops may be sent (§15.6)
        # sending
        self.own_ended = False  # FIN queued or half reset
        self.own_reset = False
        self.failure: StreamResetError | None = None  # what writers get after the peer's stop
        self.pending_reset: int | None = None  # code of a reset that waits for the proof
        self.unreliable_bytes = 0  # of the bundle that waits, with its length fields
        self.held = False  # the bundle waits for company (§14.7)
        # receiving
        self.chunks: deque[bytes | tuple[bytes]] | None = None  # unread: reliable bytes, unreliable chunks as tuples
        self.consumed = 0  # reliable bytes read or discarded
        self.peer_ended = False
        self.reset_code: int | None = None  # of the peer's reset
        self.reset_raised = False
        self.stop_code: int | None = None  # this side no longer wants the peer's half
        self.stop_sent = False
        self.fresh = False  # something arrived in the batch that is being received
        self.charge = 0  # bytes charged to receive memory (§14.11)
        self.noted = 0  # the part of it that the session's sum has; so with what bounds windows (§14.6):
        self.credit = 0
        self.excess = 0

    @property
    def priority(self) -> int:
        """Strict: streams of a higher one go first."""
        return self.rank

    @property
    def write_ended(self) -> bool:
        """True once nothing more can be written: FIN queued, half reset, or stopped by the peer."""
        return self.own_ended

    @property
    def readable(self) -> bool:
        """True if a read would give something: bytes, the end, or the peer's reset."""
        return bool(self.chunks) or self.peer_ended

    @property
    def unread(self) -> int:
        """What the chunks that wait for the reader are charged."""
        return sum((len(c[0]) if isinstance(c, tuple) else len(c)) + limits.ITEM_OVERHEAD for c in self.chunks or ())

    def move(self, trigger: StreamTrigger) -> bool:
        """Takes a transition if the table has it; True if the state changed."""
        new = STREAM_TRANSITIONS.get((self.state, trigger))
        if new is None:
            return False
        self.state = new
        return True

    @property
    def settled(self) -> bool:
        """Both halves ended and nothing of this side is unacknowledged; a reset is judged by the connection."""
        return self.own_ended and self.peer_ended and self.quiet

    def peek(self) -> Segment | None:
        """As Channel; the announcement counts while it is due."""
        if self._announce:
            self._announce = False
            if not self._queue and len(self._parts) == 1 and not self.outstanding.next_index:
                self._close_segment()
        return super().peek()

    @property
    def has_queued(self) -> bool:
        """As Channel; the announcement counts while it is due."""
        return self._announce or super().has_queued

    @property
    def quiet(self) -> bool:
        """As Channel; the announcement counts while it is due."""
        return not self._announce and super().quiet

    @property
    def never_sent(self) -> bool:
        """True while the peer cannot have heard of anything that this side sent on the stream."""
        return not self.outstanding.next_index

    def finish(self) -> None:
        """Puts the FIN on the last segment that waits, or on one of its own."""
        self._announce = False
        if len(self._parts) > 1 or not self._queue:
            self._close_segment()
        queue = self._queue
        assert queue
        queue[-1].word = flag.DATA_FIN
        self.own_ended = True

    def abandon(self) -> tuple[int, int]:
        """Own half reset: drops what waits and what is outstanding; returns (unsent, unacknowledged) bytes dropped.

        Until the stream is proven to exist at the peer, segment 0 is kept and goes on being repeated (§15.6).
        """
        unsent = self.unsent
        unreliable, self.unreliable = self.unreliable, None
        waiting = sum(map(len, unreliable)) if unreliable else 0
        self.unreliable_bytes = 0
        self._forget_unsent()
        self._announce = False
        if self.proven:
            self.resend = None
        lost = self.outstanding.abandon(keep_first=not self.proven)
        self.own_ended = self.own_reset = True
        return unsent + waiting, unsent + lost

    def add_unreliable(self, data: bytes) -> None:
        """One chunk of its own."""
        if self.unreliable is None:
            self.unreliable = deque()
        self.unreliable.append(data)
        self.unreliable_bytes += len(data) + _ENTRY

    def take_bundle(self, most: int) -> list[bytes]:
        """The chunks of the next packet, whose plaintext has at most ``most`` bytes."""
        waiting = self.unreliable
        assert waiting
        bundle = [waiting.popleft()]
        size = 2 + _ENTRY + len(bundle[0])
        while waiting and len(bundle) < limits.MAX_COALESCED and size + _ENTRY + len(waiting[0]) <= most:
            bundle.append(waiting.popleft())
            size += _ENTRY + len(bundle[-1])
        self.unreliable_bytes -= size - 2
        if not waiting:
            self.unreliable = None
        return bundle

    def arrived(self, piece: bytes) -> None:
        """Reliable bytes, in order."""
        if self.chunks is None:
            self.chunks = deque()
        self.chunks.append(piece)
        self.charge += len(piece) + limits.ITEM_OVERHEAD

    def arrived_unreliable(self, chunk: bytes) -> None:
        """One unreliable chunk."""
        if self.chunks is None:
            self.chunks = deque()
        self.chunks.append((chunk,))
        self.charge += len(chunk) + limits.ITEM_OVERHEAD

    def take(self) -> tuple[bytes, bool]:
        """What one read gets, and whether it is an unreliable chunk: those stay whole, reliable bytes are joined up to
        STREAM_READ_MOST. There must be something."""
        chunks = self.chunks
        assert chunks
        first = chunks.popleft()
        if type(first) is tuple:
            data = first[0]
            self.charge -= len(data) + limits.ITEM_OVERHEAD
            if not chunks:
                self.chunks = None
            return data, True
        assert isinstance(first, bytes)
        size, pieces = len(first), [first]
        if size < _READ_ALONE:
            while chunks and type(chunks[0]) is bytes and size + len(chunks[0]) <= limits.STREAM_READ_MOST:
                piece = chunks.popleft()
                assert isinstance(piece, bytes)
                pieces.append(piece)
                size += len(piece)
        if not chunks:
            self.chunks = None
        self.charge -= size + limits.ITEM_OVERHEAD * len(pieces)
        self.consumed += size
        return (first if len(pieces) == 1 else b"".join(pieces)), False

    def discard_unread(self) -> int:
        """Forgets what was not read; returns the unreliable part of the charge."""
        unreliable = 0
        for piece in self.chunks or ():
            if isinstance(piece, tuple):
                unreliable += len(piece[0]) + limits.ITEM_OVERHEAD
            else:
                self.consumed += len(piece)
        self.chunks = None
        self.charge = 0
        return unreliable

    def drop(self) -> None:
        """As Channel; what can be read stays."""
        super().drop()
        self._announce = False
        self.unreliable_bytes = 0


def session_stream(
    stream_id: int, *, budget: int, recv_window: int, recv_segments: int, slack: int = limits.CHUNK_SLACK
) -> Channel:
    """Stream 1, open on both sides from the start (§14.1)."""
    return Channel(
        stream_id,
        budget=budget,
        reassembly=Reassembly(max_segments=recv_segments, max_bytes=limits.MAX_REORDER_BYTES),
        window=ReceiveWindow(recv_window),
        slack=slack,
    )


def control_stream(*, budget: int, recv_segments: int) -> Channel:
    """Stream 0: its window never grows (§15.6)."""
    return Channel(
        0,
        budget=budget,
        reassembly=Reassembly(max_segments=recv_segments, max_bytes=limits.MAX_REORDER_BYTES),
        window=ReceiveWindow(limits.INITIAL_STREAM_WINDOW),
        rank=CONTROL_RANK,
        slack=0,
    )
