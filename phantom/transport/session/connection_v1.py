"""Sessions of version 1 (wire-native §13): streams and messages over one byte pipe, without windows, rekey or paths.

The same verbs as ``Connection``, on another wire: a packet's plaintext is the application's bytes and nothing else,
each reliable packet is acknowledged by one of its own, delivery is in arrival order, and back-pressure is a leg that is
not read. What a V1 session lacks says so: the capabilities are False, the verbs raise UnsupportedError.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Final, NoReturn

from phantom import limits
from phantom.errors import (
    FrameTooLargeError,
    PhantomError,
    ProtocolViolationError,
    StreamError,
    StreamLimitError,
    UnsupportedError,
)
from phantom.transport.packet import flags as flag
from phantom.transport.packet import frames
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import ProtectionV1
from phantom.transport.session.connection import Connection
from phantom.transport.session.core import CONTROL_STREAM, SENDING, SESSION_STREAM, SessionSettings, earlier
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import Path
from phantom.transport.session.states import Phase, Trigger
from phantom.transport.session.stream_table import Claim
from phantom.transport.session.streams import Channel, Stream

__all__ = ["ConnectionV1"]

_U32 = Struct(">I")
_UNLIMITED: Final = 1 << 62  # V1 has no windows
_LOOK_AGAIN: Final = 0.1  # s
_MOST_ACKS: Final = 2 * limits.MAX_PENDING  # that wait to leave; an honest peer has fewer packets outstanding
_SMALL: Final = 256  # no ACK or CLOSE is larger, its length prefix included


class _Sequences:
    """The header sequences of the outstanding segments of one channel; ACKs draw from the same counter, so gaps."""

    __slots__ = ("index_of", "order")

    def __init__(self) -> None:
        self.order: deque[int] = deque()  # of OutstandingSegments.segments
        self.index_of: dict[int, int] = {}


class ConnectionV1(Connection):
    """One established V1 session on its one leg.

    ``hold`` is called with True when the leg is to be read no more and with False when it is to be read again (§13.6);
    whoever drives the session sets it.
    """

    __slots__ = ("_acks", "_ids", "_look_at", "_sequences", "_v1", "hold", "reading")

    supports_reset = False

    def __init__(
        self,
        protection: ProtectionV1,
        *,
        path: Path,
        initiator: bool,
        settings: SessionSettings,
        memory: ReceiveMemory,
        counters: DropCounters,
        now: float,
        root: bytearray | None = None,
    ) -> None:
        super(Connection, self).__init__(
            protection,
            initiator=initiator,
            path=path,
            settings=settings,
            memory=memory,
            counters=counters,
            now=now,
            root=root,
        )
        self.window_ceiling = limits.INITIAL_STREAM_WINDOW  # nothing is granted, so nothing counts as granted
        self._v1 = protection
        self._acks: deque[tuple[int, int]] | None = None  # (stream, sequence) to be acknowledged
        self._sequences: dict[int, _Sequences] = {}
        self._ids = 2  # streams that have taken a sequence counter, or a window, at either end (§17.3): 0 and 1
        self.hold: Callable[[bool], None] | None = None
        self.reading = True
        self._look_at = now  # while the leg is held: when to look whether messages were read meanwhile
        self.session_stream.send_limit.limit = _UNLIMITED
        self.confirmed = True  # there is no packet that an idle client owes (§6.4)

    # --- what is absent ---------------------------------------------------------------------------------------------

    def rekey(self, now: float) -> int | None:
        """UnsupportedError."""
        _absent("rekeying")

    def reset(self, stream: Stream, code: int) -> None:
        """UnsupportedError."""
        _absent("resetting a stream")

    def stop(self, stream: Stream, code: int) -> None:
        """UnsupportedError."""
        _absent("stopping a stream")

    # --- streams ----------------------------------------------------------------------------------------------------

    def open_stream(self, priority: int, now: float) -> Stream:
        """As Connection; a V1 session has at most 1024 stream ids in its life, both ends together (§17.3)."""
        if self._ids >= limits.MAX_REPLAY_STREAMS:
            self.check_sendable()
            raise StreamLimitError("a version-1 session has used all its streams; open another session")
        stream = super().open_stream(priority, now)
        stream.send_limit.limit = _UNLIMITED
        self._ids += 1
        return stream

    def refill(self, now: float) -> bool:
        """The reader found ``messages`` empty: splits what waits; True if there is a message now."""
        assembler = self.assembler
        assembler.held = self.memory.used_up and not self.phase.over
        try:
            assembler.refill()
        except ProtocolViolationError as error:
            self.fail(error)
        if not self.phase.over:
            self.report(now)
            self._judge_reading()
        return bool(self.messages)

    def memory_freed(self) -> None:
        """Receive memory is no longer used up: the leg is read again (§13.6)."""
        self.assembler.held = False
        self.progress = True
        self._judge_reading()
        if self.wake is not None:
            self.wake()

    def _account(self, stream: Stream, now: float) -> None:
        if self.phase.over:
            return
        self.recount_stream(stream)
        self.report(now)
        self._judge_reading()

    # --- sending ----------------------------------------------------------------------------------------------------

    def hold_bundle(self, stream: Stream, now: float) -> None:
        """There are no bundles in V1: a chunk leaves at once."""
        if not stream.ready or stream.blocked:
            self.make_ready(stream)

    def fill(self, path_id: int, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """As Connection: seals what is due into ``buf[at:cap]``; acknowledgements first."""
        jitter = self.jitter
        if jitter is None:
            return self._fill(buf, view, at, cap, now)
        self.jitter_due = False
        if not jitter.full:
            jitter.push(view, at, self._fill(buf, view, at, cap, now), now)
        at = jitter.pop_into(view, at, cap, now if not self.phase.over else math.inf)
        self.jitter_due = self.phase.over and jitter.size > 0
        return at

    def _fill(self, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        start = at
        while self._acks and cap - at >= _SMALL:
            stream_id, sequence = self._acks.popleft()
            at = self._seal(buf, view, at, stream_id, flag.ACK_WORD, _U32.pack(sequence))
        if not self._acks:
            self._acks = None
        if not self.reading and not self.phase.over:
            self._judge_reading()
        while (self.ready.top or self.ready.descend()) and self.ready.top is not None:
            after = self._fill_next(self.ready.top, buf, view, at, cap, now)
            if after < 0:
                break
            at = after
        if self.close_copies and cap - at >= _SMALL:
            at = self._seal(buf, view, at, 0, flag.CLOSE_V1, frames.encode_close(self.close_code))
            self.let_go()
        self.owed = bool(self._acks) or self.close_copies > 0
        self.stats.bytes_sent += at - start
        return at

    def _fill_next(self, ready: deque[Channel], buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """One packet of the channel in front, or one that cannot send out of the way; -1 if it does not fit."""
        channel = ready[0]
        room = cap - at - limits.LENGTH_PREFIX - self._v1.overhead
        if channel.unreliable:
            if len(channel.unreliable[0]) > room or not isinstance(channel, Stream):
                return -1
            chunk = channel.take_bundle(0)[0]
            self.queued -= len(chunk)
            ready.rotate(-1)
            return self._seal(buf, view, at, channel.id, flag.UNRELIABLE_WORD, chunk)
        if channel.resend:
            return self._fill_again(channel, buf, view, at, room, now)
        segment = channel.peek()
        outstanding = channel.outstanding
        if segment is None:
            ready.popleft()
            channel.ready = False
            return at
        if segment.size > room:
            return -1
        if (
            len(outstanding.segments) >= self.settings.send_segments
            or outstanding.bytes + segment.size > limits.MAX_PENDING_BYTES
            or self.outstanding + segment.size > limits.MAX_SEND_WINDOW
        ):
            ready.popleft()
            channel.blocked = True  # still ready, until something is acknowledged
            if self.stalled is None:
                self.stalled = {}
            self.stalled[channel] = None
            return at
        plaintext = b"".join(segment.parts[1:])
        end = self._seal(buf, view, at, channel.id, segment.word, plaintext)
        if end == at:
            return at
        channel.pop()
        ready.rotate(-1)
        segment.parts = [plaintext]
        segment.sent_at = now
        segment.sends = 1
        sequences = self._sequences.setdefault(channel.id, _Sequences())
        sequences.index_of[self._v1.sent_sequence] = outstanding.next_index
        sequences.order.append(self._v1.sent_sequence)
        outstanding.add(segment)
        if channel is not self.session_stream:
            if self.flying is None:
                self.flying = {}
            self.flying[channel] = None
        channel.send_limit.sent += segment.size
        self.outstanding += segment.size
        self.queued -= segment.size
        self.queued_messages -= segment.ends
        return end

    def _fill_again(self, channel: Channel, buf: bytearray, view: memoryview, at: int, room: int, now: float) -> int:
        """One retransmission: the old sequence, the same plaintext, the next counter (§13.3)."""
        resend, outstanding = channel.resend, channel.outstanding
        while resend:
            place = resend[0] - outstanding.base
            if place < 0 or outstanding.segments[place].acked:
                resend.popleft()
                continue
            segment = outstanding.segments[place]
            if segment.size > room:
                return -1
            resend.popleft()
            sequence = self._sequences[channel.id].order[place]
            at = self._seal(buf, view, at, channel.id, segment.word, segment.parts[0], sequence)
            segment.sent_at = now
            segment.sends += 1
            self.stats.retransmissions += 1
            break
        if not resend:
            channel.resend = None
        return at

    def _seal(
        self,
        buf: bytearray,
        view: memoryview,
        at: int,
        stream_id: int,
        word: int,
        plaintext: bytes,
        sequence: int | None = None,
    ) -> int:
        """Seals one packet behind its length prefix; ``at`` if it cannot be: its stream, or the session, has ended."""
        protection, size = self._v1, len(plaintext)
        try:
            if sequence is None:
                end = protection.seal(buf, view, at + 4, stream_id, word, 0, plaintext, size)
            else:
                end = protection.seal_again(buf, view, at + 4, stream_id, word, plaintext, size, sequence)
        except PhantomError as error:
            self._cannot_seal(stream_id, error)
            return at
        _U32.pack_into(buf, at, end - at - 4)
        self.stats.packets_sent += 1
        return end

    def _cannot_seal(self, stream_id: int, error: PhantomError) -> None:
        """A stream that has used all its sequences is dead (§13.2); without keys, or stream 1, there is no session."""
        stream = self.streams.get(stream_id)
        if stream is None or not isinstance(error, StreamError):
            self.fail(error)
            return
        held = stream.outstanding.bytes
        stream.proven = True
        waiting, lost = stream.abandon()
        self.outstanding -= held - stream.outstanding.bytes
        self.queued -= waiting
        self.acked += lost
        self._sequences.pop(stream_id, None)
        if self.flying is not None:
            self.flying.pop(stream, None)
        self.own_half_ended(stream)
        self.touch(stream)

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, path_id: int, buf: bytearray, view: memoryview, start: int, end: int, now: float) -> int:
        """As Connection; returns early, at a frame's end, when the application has to read first (§13.6)."""
        if self.phase.over:  # nobody listens any more
            return end
        protection, cap = self._v1, self.settings.frame_cap
        self.assembler.held = self.memory.used_up
        packets = 0
        failure: FrameTooLargeError | None = None
        fresh: list[Stream] = []
        at = start
        try:
            while end - at >= 4 and self._may_read():
                length = _U32.unpack_from(buf, at)[0]
                stop = at + 4 + length
                if not 0 < length <= cap:
                    self._odd_frame(length, packets)
                elif stop > end:
                    break
                else:
                    word = protection.open(buf, view, at + 4, stop, 0, now)
                    if word >= 0:
                        packets += 1
                        self._dispatch(word, buf, view, fresh, now)
                    elif protection.broken or protection.forgeries_exceeded:
                        raise ProtocolViolationError("too many packets failed to open; the session was closed")
                at = stop
        except FrameTooLargeError as error:
            failure = error
        except PhantomError as error:
            self.fail(error)
        self.stats.packets_recv += packets
        self.stats.bytes_recv += at - start
        if packets:
            self.path.last_seen = now
        self._after_batch(fresh, now)
        if failure is not None:
            raise failure
        return at

    def _odd_frame(self, length: int, packets: int) -> None:
        if length:
            raise FrameTooLargeError(f"the peer sent a frame of {length} bytes; the limit is {self.settings.frame_cap}")
        packets += self.stats.packets_recv
        if packets != self.empty_after:
            self.empty_after = packets
            self.empty_frames = 0
        self.empty_frames += 1
        if self.empty_frames > limits.MAX_EMPTY_FRAMES:
            raise FrameTooLargeError("the peer floods the connection with empty frames")

    def _dispatch(self, word: int, buf: bytearray, view: memoryview, fresh: list[Stream], now: float) -> None:
        """CONTROL, ACK, data with FIN after its bytes: the order of §12."""
        protection, counters = self._v1, self.counters
        start, end, stream_id = protection.plain_start, protection.plain_end, protection.stream_id
        if word & flag.COMPRESSED:
            counters.malformed += 1
        elif word & flag.CONTROL:
            code = frames.decode_control(buf, start, end)
            if code != frames.IGNORED:
                self._on_close(code, now)
        elif word & flag.ACK:
            if end - start == _U32.size:
                self._on_ack(stream_id, _U32.unpack_from(buf, start)[0], now)
            else:
                counters.malformed += 1
        elif stream_id == CONTROL_STREAM:
            counters.protocol_violation += 1  # there is no control stream (§13.1)
        elif word & flag.RELIABLE:
            stream = self._find(stream_id)
            if self._acks is None:
                self._acks = deque()
            self._acks.append((stream_id, protection.sequence))
            self.owed = True
            if protection.fresh:
                self._deliver(stream_id, stream, word, buf, view, fresh, now)
        elif stream_id == SESSION_STREAM:
            counters.protocol_violation += 1  # it would tear the message framing (§14.1)
        else:
            self._deliver_unreliable(self._find(stream_id), word, bytes(view[start:end]), fresh, now)

    def _find(self, stream_id: int) -> Stream | None:
        """The stream of a data packet, made if the peer may open it; None for stream 1 and for what is Closed.

        Refusing a packet would mean to deliver it out of order later: what V2 refuses ends a V1 session (§14.1).
        """
        if stream_id == SESSION_STREAM:
            return None
        found = self.streams.get(stream_id)
        if found is not None:
            return found
        table = self.stream_table()
        claim = table.claim(stream_id)
        if claim is Claim.OVER:
            return None
        if claim is not Claim.NEW:
            self.counters.protocol_violation += 1
            raise ProtocolViolationError(
                "the peer sent data on a stream that this side has not opened"
                if claim is Claim.FOREIGN
                else f"the peer opened more than {self.settings.max_streams} streams"
            )
        stream = self.new_stream(stream_id, 0, opened_here=False, now=self.path.last_seen)
        stream.send_limit.limit = _UNLIMITED
        self._ids += 1
        table.add_peer(stream)
        if self.accepted is None:
            self.accepted = deque()
        self.accepted.append(stream)
        stream.charge += limits.ITEM_OVERHEAD
        self.progress = True
        if self.observer is not None:
            self.observer.stream_changed(self.path.last_seen, stream_id, "idle", "open")
        return stream

    def _deliver(
        self,
        stream_id: int,
        stream: Stream | None,
        word: int,
        buf: bytearray,
        view: memoryview,
        fresh: list[Stream],
        now: float,
    ) -> None:
        start, end = self._v1.plain_start, self._v1.plain_end
        if stream_id == SESSION_STREAM:
            if self.assembler.finished:
                self.counters.protocol_violation += 1
                return
            if end > start:
                self.session_stream.received += end - start
                self.assembler.feed(buf, view, start, end)
            if word & flag.FIN:
                self.assembler.finish()
            return
        if stream is None or stream.peer_ended:
            self.counters.protocol_violation += 1
            return
        if end > start:
            stream.received += end - start
            stream.arrived(bytes(view[start:end]))
        self._freshen(stream, fresh)
        if word & flag.FIN:
            self.peer_half_ended(stream, now)

    def _deliver_unreliable(
        self, stream: Stream | None, word: int, chunk: bytes, fresh: list[Stream], now: float
    ) -> None:
        if stream is None or stream.peer_ended:
            return
        charge = len(chunk) + limits.ITEM_OVERHEAD
        if self.backlog + charge > limits.RECV_BACKLOG_CAP:
            self.counters.backlog += 1
        elif chunk:
            self.backlog += charge
            stream.arrived_unreliable(chunk)
        self._freshen(stream, fresh)
        if word & flag.FIN:
            self.peer_half_ended(stream, now)

    def _freshen(self, stream: Stream, fresh: list[Stream]) -> None:
        if not stream.fresh:
            stream.fresh = True
            fresh.append(stream)

    def _on_close(self, code: int, now: float) -> None:
        if self.phase not in SENDING:
            return
        self.peer_code = code
        self.drain_deadline = now + self.path.drain_time()
        self.ready.clear()  # nothing but acknowledgements is sent from now on
        self.move(Trigger.CLOSE_RECEIVED, f"the peer closed the session with code {code}")

    def _on_ack(self, stream_id: int, sequence: int, now: float) -> None:
        """One segment is acknowledged; what was never sent, or is already, is ignored (§13.3)."""
        channel, sequences = self.channel(stream_id), self._sequences.get(stream_id)
        if channel is None or sequences is None or sequence not in sequences.index_of:
            return
        outstanding, path = channel.outstanding, self.path
        index = sequences.index_of.pop(sequence)
        base = outstanding.base
        freed, sample = outstanding.acknowledge([(index, index)])
        for _ in range(outstanding.base - base):
            sequences.order.popleft()
        self.outstanding -= freed
        self.acked += freed
        self.acked_at = now
        path.estimator.backoff = 0
        self.progress = True
        if sample is not None and sample.sends == 1:
            path.estimator.sample(now - sample.sent_at)
        for stalled in list(self.stalled or ()):
            self.make_ready(stalled)
        if not outstanding.segments:
            del self._sequences[stream_id]
            if self.flying is not None:
                self.flying.pop(channel, None)
        if isinstance(channel, Stream):
            self.settle_stream(channel, now)
        if self.phase is Phase.CLOSING:
            self.check_flushed()

    def _after_batch(self, fresh: list[Stream], now: float) -> None:
        assembler = self.assembler
        assembler.settle()
        for stream in fresh:
            stream.fresh = False
            self.touch(stream)
            self.recount_stream(stream)
        if self.phase.over:
            return
        if assembler.run_bytes:
            try:
                assembler.split()
            except ProtocolViolationError as error:
                self.fail(error)
                return
        if assembler.messages:
            self.progress = True
        self.report(now)
        self._judge_reading()

    # --- back-pressure (§13.6) --------------------------------------------------------------------------------------

    def _may_read(self) -> bool:
        """An unfinished message never stops it: it could not be completed. Owing too many answers does."""
        if self.phase.over or len(self._acks or ()) >= _MOST_ACKS:
            return False
        assembler = self.assembler
        if assembler.charge + self.stream_charge > limits.RECV_BACKLOG_CAP:
            return False
        return not (self.memory.used_up and not assembler.unfinished)

    def _judge_reading(self) -> None:
        reading = self.phase.over or self._may_read()
        if not reading and self.memory.used_up:
            self.memory.tell(self)
        if reading is not self.reading:
            self.reading = reading
            self._look_at = self.path.last_seen + _LOOK_AGAIN
            if self.hold is not None:
                self.hold(not reading)

    # --- timers -----------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due, or None: the end of a flush or of draining, and retransmission."""
        if self.phase.over:
            return None
        due = self.drain_deadline
        if self.phase is Phase.CLOSING:
            due = earlier(due, self.acked_at + limits.CLOSE_FLUSH_TIMEOUT)
            due = earlier(due, self.close_deadline)
        due = earlier(due, self._retransmit_at())
        if self.memory.used_up:
            due = earlier(due, self.memory.deadline())
        if not self.reading:
            due = earlier(due, self._look_at)
        if self.jitter is not None and not self.jitter_due:
            due = earlier(due, self.jitter.next_at())
        return due

    def handle_timer(self, now: float) -> None:
        """Does what has become due. Silence ends no V1 session: who has stopped reading looks dead too (§13.1)."""
        if self.phase.over:
            return
        if self.drain_deadline is not None and now >= self.drain_deadline:
            self.move(Trigger.DRAIN_ENDED, f"the peer closed the session with code {self.peer_code}")
            self.release()
            return
        if self.phase is Phase.CLOSING:
            over = self.close_deadline is not None and now >= self.close_deadline
            if over or now >= self.acked_at + limits.CLOSE_FLUSH_TIMEOUT:
                self.flush_ended()
                return
        due = self._retransmit_at()
        if due is not None and now >= due:
            estimator = self.path.estimator
            late = now - estimator.rto
            for channel in self._flying():
                if channel.outstanding.segments[0].sent_at <= late:
                    self.resend(channel, [channel.outstanding.base])
            estimator.backoff = min(estimator.backoff + 1, limits.RTO_MAX_BACKOFF)
        patience = self.memory.deadline()
        if patience is not None and now >= patience:
            self.memory.enforce(now)
        if not self.reading and now >= self._look_at:
            # Whoever takes messages out of the queue says nothing, and may never come back to find it empty.
            self._look_at = now + _LOOK_AGAIN
            self.assembler.recount(exact=True)
            self.report(now)
            self._judge_reading()
        waiting = self.jitter.next_at() if self.jitter is not None else None
        if waiting is not None and now >= waiting:
            self.jitter_due = True

    def _flying(self) -> list[Channel]:
        first = self.session_stream
        flying: list[Channel] = [first] if first.outstanding.segments else []
        return flying + list(self.flying or ())

    def _retransmit_at(self) -> float | None:
        path = self.path
        flying = self._flying()
        if path.blocked or self.phase not in SENDING or not flying:
            return None
        oldest = min(channel.outstanding.segments[0].sent_at for channel in flying)  # the first is never acknowledged
        return max(oldest, path.drained_at) + path.estimator.rto

    def let_go(self) -> None:
        """As Connection."""
        self._acks = None
        self._sequences = {}
        super().let_go()


def _absent(what: str) -> NoReturn:
    raise UnsupportedError(f"{what} does not exist in sessions of version 1; connect with version 2")
