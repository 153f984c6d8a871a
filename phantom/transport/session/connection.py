"""The session engine: sans-IO, one object per session (architecture §4; wire-native §§12, 14, 15, 20).

Whoever drives it hands in windows of received bytes and buffers to fill, and a clock reading each time; it owns no
socket, task or clock. ``receive`` and ``fill`` are the two loops of the data path; everything in them that happens
once a batch instead of once a packet is meant to.

The engine never raises for what a peer sends: what the protocol drops is counted in ``counters``, what ends the
session ends it with an error in ``error``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from phantom import limits
from phantom.errors import (
    BusyError,
    ConnectionClosedError,
    FrameTooLargeError,
    HandshakeTimeoutError,
    NetworkError,
    PhantomError,
    ProtocolViolationError,
    SessionClosingError,
    SessionDeadError,
    StreamError,
)
from phantom.transport.packet import flags as flag
from phantom.transport.packet import frames
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import PacketProtection
from phantom.transport.session.events import StateChanged
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.messages import MessageAssembler
from phantom.transport.session.paths import Path
from phantom.transport.session.reassembly import Verdict
from phantom.transport.session.reliability import Segment
from phantom.transport.session.states import TRANSITIONS, Phase, Trigger
from phantom.transport.session.streams import Stream, session_stream

__all__ = ["Connection", "SessionSettings", "Statistics"]

_U32 = Struct(">I")
_GATHER_MAX = 17  # parts of a segment up to which they stay references; above, one copy joins them
_SESSION_STREAM = 1
_MAX_INDEX = 2**32 - 1
_SENDING = (Phase.ESTABLISHED, Phase.CLOSING)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the configuration decides for one session; sizes in bytes, times in seconds."""

    bulk_chunk: int = limits.BULK_CHUNK
    frame_cap: int = limits.ESTABLISHED_FRAME_CAP
    max_message: int = limits.MAX_MESSAGE
    recv_window: int = limits.MAX_RECV_WINDOW
    session_recv_window: int = limits.SESSION_RECV_WINDOW
    send_segments: int = limits.MAX_PENDING
    recv_segments: int = limits.MAX_REORDER_SEGMENTS
    keepalive_interval: float | None = limits.KEEPALIVE_INTERVAL
    silence_floor: float = limits.SILENCE_FLOOR_PIPE_ONLY_PATH
    close_timeout: float | None = None
    confirm_timeout: float = limits.HANDSHAKE_DEADLINE


class Statistics:
    """Plain counters of one session, read by the snapshot (surface §5.2)."""

    __slots__ = (
        "bytes_recv",
        "bytes_sent",
        "messages_recv",
        "messages_sent",
        "packets_recv",
        "packets_sent",
        "retransmissions",
    )

    def __init__(self) -> None:
        self.packets_sent = 0
        self.packets_recv = 0
        self.bytes_sent = 0
        self.bytes_recv = 0
        self.messages_sent = 0
        self.messages_recv = 0
        self.retransmissions = 0


class Connection:
    """One established V2 session on one path.

    ``messages`` is the queue of complete messages that the API pops. After each call the driver looks at
    :attr:`wants_to_send`, :meth:`next_timer`, :meth:`next_event` and, if ``progress`` is set, wakes its waiters and
    clears it. Not thread safe; all calls come from one event loop.
    """

    __slots__ = (
        "_acked_at",
        "_close_copies",
        "_close_deadline",
        "_confirm_deadline",
        "_drain_deadline",
        "_empty_after",
        "_empty_frames",
        "_events",
        "_initiator",
        "_memory",
        "_owed",
        "_ping_asked",
        "_pings_owed",
        "_pongs_owed",
        "_probe_at",
        "_probe_owed",
        "_protection",
        "_ready",
        "_rest_tried",
        "_rtt_asked",
        "_settings",
        "_window_owed",
        "acked",
        "assembler",
        "close_code",
        "confirmed",
        "counters",
        "error",
        "messages",
        "path",
        "peer_code",
        "phase",
        "progress",
        "queued",
        "queued_messages",
        "reader_waits",
        "session_stream",
        "stats",
        "wake",
        "written",
    )

    def __init__(
        self,
        protection: PacketProtection,
        *,
        initiator: bool,
        path: Path,
        settings: SessionSettings,
        memory: ReceiveMemory,
        counters: DropCounters,
        now: float,
    ) -> None:
        self._protection = protection
        self._initiator = initiator
        self._settings = settings
        self._memory = memory
        self.counters = counters
        self.path = path
        self.phase = Phase.ESTABLISHED
        self.error: PhantomError | None = None
        self.peer_code: int | None = None
        self.close_code = 0
        self.stats = Statistics()
        # Called when something other than the driver changed this session: the process-wide receive memory.
        self.wake: Callable[[], None] | None = None

        self.session_stream = session_stream(
            _SESSION_STREAM,
            budget=settings.bulk_chunk,
            recv_window=settings.recv_window,
            recv_segments=settings.recv_segments,
        )
        self.assembler = MessageAssembler(settings.max_message)
        self.messages = self.assembler.messages
        self.reader_waits = False

        self.queued = 0  # stream bytes not sent for the first time yet
        self.written = 0  # stream bytes accepted from the application, ever
        self.acked = 0  # of those, acknowledged in order or not
        self.queued_messages = 0
        self._ready: deque[Stream] | None = None
        self._owed = False  # some session frame, ACK or WINDOW_UPDATE is due
        self._window_owed = False
        self._ping_asked = False
        self._pings_owed = 0
        self._pongs_owed = 0
        self._close_copies = 0
        self._events: deque[StateChanged] | None = None
        self.progress = False  # waiters may have become satisfied

        self.confirmed = initiator  # the peer proved that it holds the keys (§6.4)
        self._confirm_deadline = None if initiator else now + settings.confirm_timeout
        self._drain_deadline: float | None = None
        self._close_deadline: float | None = None
        self._acked_at = now  # last newly acknowledged byte, or start of the flush
        self._probe_at = now
        self._rest_tried = now
        self._probe_owed = False
        self._rtt_asked = False
        self._empty_frames = 0  # in a row, the last ones
        self._empty_after = 0  # packets received before them

        window = self.session_stream.window
        window.open_first(self._free(), now)
        self._window_owed = window.due(0, creeping=memory.used_up)
        if initiator and not self._window_owed:
            self._pings_owed = 1
        self._owed = self._window_owed or self._pings_owed > 0

    # --- local verbs ------------------------------------------------------------------------------------------------

    @property
    def protection(self) -> PacketProtection:
        """The packet protection of this session (suites, epoch)."""
        return self._protection

    @property
    def unacknowledged(self) -> int:
        """Stream bytes accepted from the application and not acknowledged by the peer."""
        return self.written - self.acked

    @property
    def flushed(self) -> int:
        """Stream bytes that the peer acknowledged from the first on, without a gap."""
        return self.acked - self.session_stream.outstanding.ahead

    @property
    def has_room(self) -> bool:
        """True while the send buffer takes another message (§14.10)."""
        return self.queued <= limits.SEND_BUFFER_CAP

    @property
    def wants_to_send(self) -> bool:
        """True if :meth:`fill` would write something, were there room."""
        return self._owed or bool(self._ready)

    @property
    def accepts_writes(self) -> bool:
        """True while the application may send."""
        return self.phase is Phase.ESTABLISHED

    @property
    def has_events(self) -> bool:
        """True if :meth:`next_event` has something."""
        return bool(self._events)

    def check_sendable(self) -> None:
        """Raises the error with which a write is refused now, if any: SessionClosingError or :meth:`end_error`."""
        if self.phase is Phase.ESTABLISHED:
            return
        if not self.phase.over:
            raise SessionClosingError(peer_code=self.peer_code)
        raise self.end_error()

    def end_error(self) -> PhantomError:
        """The error that readers and writers get once the session is over."""
        if self.error is not None:
            return self.error
        by = "the peer" if self.peer_code is not None else "this side"
        detail = f" with code {self.peer_code}" if self.peer_code else ""
        return ConnectionClosedError(
            f"the session is closed: {by} closed it{detail}", self.peer_code, self.unacknowledged
        )

    def send_message(self, data: bytes) -> None:
        """Queues one message of stream 1 whole; ``data`` is kept by reference and must not change.

        The caller has asked :meth:`check_sendable` and waits while :attr:`has_room` is false.
        """
        stream = self.session_stream
        size = stream.add_message(data)
        self.queued += size
        self.written += size
        self.queued_messages += 1
        self.stats.messages_sent += 1
        if not stream.ready:
            self._make_ready(stream)

    def refill(self, now: float) -> bool:
        """The reader found ``messages`` empty: splits what waits; True if there is a message now."""
        assembler = self.assembler
        if not assembler.run_bytes and not self.messages and not self.phase.over:
            if assembler.charge:  # nothing to split, and so nothing was consumed: only the charge is given back
                assembler.charge = 0
                self._report(now)
            return False
        # Once the session is over, what has arrived is no longer charged, and is still delivered.
        assembler.held = self._memory.used_up and not self.phase.over
        try:
            assembler.refill()
        except ProtocolViolationError as error:
            self._fail(error)
        if not self.phase.over:
            self._after_consumption(now)
        return bool(self.messages)

    def close(self, code: int, now: float, timeout: float | None = None) -> None:
        """Begins an orderly close: flush, then CLOSE with ``code`` (§15.2). A later call can only shorten the flush."""
        if self.phase is Phase.CLOSING and timeout is not None:
            self._close_deadline = _earlier(self._close_deadline, now + timeout)
        if self.phase is not Phase.ESTABLISHED:
            return
        self.close_code = code
        self._acked_at = now
        patience = timeout if timeout is not None else self._settings.close_timeout
        self._close_deadline = None if patience is None else now + patience
        self._move(Trigger.LOCAL_CLOSE, "closed by this side")
        self._ping_asked = True
        self._check_flushed(now)

    def abort(self, error: PhantomError) -> None:
        """Ends the session at once with ``error``: CLOSE with its code, no flush."""
        self._fail(error)

    def recount(self, *, exact: bool) -> int:
        """What this session is charged now (§14.11)."""
        return self.assembler.recount(exact=exact) + self.session_stream.reassembly.charged

    def end_busy(self) -> None:
        """Receive memory is overrun and this session is charged most (§14.11): what it holds goes, read or not."""
        self._fail(BusyError("receive memory is used up; the session that held most of it was closed"))
        self.assembler.drop()
        self.session_stream.reassembly.drop()
        self.session_stream.pending_acks = 0
        self.session_stream.ack_now = False
        if self.wake is not None:
            self.wake()

    def memory_freed(self) -> None:
        """Receive memory is no longer used up: messages may be begun again, and the window opens (§14.11)."""
        self.assembler.held = False
        if self.session_stream.window.due(self.assembler.consumed, creeping=False):
            self._window_owed = self._owed = True
        self.progress = True
        if self.wake is not None:
            self.wake()

    def path_lost(self, now: float, error: PhantomError | None = None) -> None:
        """The leg ended or failed (§18.7): without another path the session is Dead, a closing one Closed."""
        if self.phase.over:
            self._let_go()
            return
        self.path.live = False
        if self.phase is Phase.ESTABLISHED:
            detail = str(error) if error is not None else "the peer's end of the connection is gone"
            if not self.confirmed:
                detail += "; the client left before its first packet, perhaps because it pins another key"
            self.error = SessionDeadError(f"the session lost its connection: {detail}")
            self.error.__cause__ = error
        self._move(Trigger.PATH_LOST, "the connection was lost")
        self._release()

    def path_blocked(self, blocked: bool, now: float) -> None:
        """The leg's write queue is not empty, or empty again; retransmission timers wait for it (§14.9)."""
        self.path.blocked = blocked
        if not blocked:
            self.path.drained_at = now

    def next_event(self) -> StateChanged | None:
        """The oldest unread event, or None."""
        return self._events.popleft() if self._events else None

    # --- sending ----------------------------------------------------------------------------------------------------

    def fill(self, path_id: int, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """Seals as many packets as are due and fit into ``buf[at:cap]``; returns the end offset (``at`` = nothing).

        Each packet has its length prefix in front (§21.1); a message leg cuts the batch at the prefixes. ``buf`` must
        have room for at least one packet of the largest segment (budget + 141 bytes).
        """
        start = at
        try:
            if self._owed:
                at = self._fill_owed(buf, view, at, cap, now)
            if self._ready:
                at = self._fill_streams(buf, view, at, cap, now)
                if self._owed and not self._close_copies:  # the PING behind the last segment
                    at = self._fill_owed(buf, view, at, cap, now)
        except PhantomError as error:  # nonces or epochs are exhausted
            self._fail(error)
        if self._close_copies:
            at = self._fill_close(buf, view, at, cap, now)
        if at != start:
            self.stats.bytes_sent += at - start
        return at

    def _fill_streams(self, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        ready = self._ready
        assert ready is not None
        path, protection = self.path, self._protection
        seal, pack, path_id, data = protection.seal, _U32.pack_into, path.id, flag.DATA
        overhead = limits.LENGTH_PREFIX + protection.overhead + 4
        lead = limits.LENGTH_PREFIX + protection.header_len + 4
        most_segments, most_bytes = self._settings.send_segments, limits.MAX_PENDING_BYTES
        sent = 0
        try:
            while ready:
                stream = ready[0]
                if stream.resend:
                    after = self._fill_resend(stream, buf, view, at, cap, now)
                    if after == at and stream.resend:
                        break
                    at = after
                    continue
                segment = stream.peek()
                if segment is None:
                    ready.popleft()
                    stream.ready = False
                    continue
                size = segment.size
                end = at + overhead + size
                if end > cap:
                    break
                outstanding, credit = stream.outstanding, stream.send_limit
                room = credit.limit - credit.sent
                if size > room or len(outstanding.segments) >= most_segments or outstanding.bytes + size > most_bytes:
                    if size > room and credit.may_cut(size, outstanding=bool(outstanding.segments)):
                        stream.cut(room)
                        continue
                    ready.popleft()
                    stream.blocked = True  # still ready: writes must not try again until something changes
                    continue
                index = outstanding.base + len(outstanding.segments)
                if index > _MAX_INDEX:
                    raise StreamError("the stream's segment indices are exhausted; reconnect")
                plain = at + lead
                parts = segment.parts
                if len(parts) <= _GATHER_MAX:
                    pack(buf, plain, index)
                    x = plain + 4
                    for part in parts[1:]:
                        y = x + len(part)
                        view[x:y] = part
                        x = y
                    end = seal(buf, view, at + 4, stream.id, data, path_id, view[plain:x], size + 4)
                else:
                    parts[0] = _U32.pack(index)
                    joined = b"".join(parts)
                    segment.parts = [joined]
                    end = seal(buf, view, at + 4, stream.id, data, path_id, joined, size + 4)
                pack(buf, at, end - at - 4)
                at = end
                stream.pop()
                segment.sent_at = now
                segment.sends = 1
                outstanding.add(segment)
                credit.sent += size
                self.queued -= size
                self.queued_messages -= segment.ends
                sent += 1
                if len(ready) > 1:
                    ready.rotate(-1)
        except PhantomError as error:  # no nonce, epoch or segment index is left; what is sealed still leaves
            self._fail(error)
        if not ready:
            self._ready = None  # an empty deque takes 760 bytes
        if sent:
            self.stats.packets_sent += sent
            path.mark_outstanding(now)
            if self._ping_asked and not self.queued:
                self._owe_ping()
        return at

    def _fill_resend(self, stream: Stream, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """Re-seals one due segment under a fresh sequence; ignores flow control (§14.9)."""
        resend, outstanding = stream.resend, stream.outstanding
        assert resend
        while resend:
            index = resend[0]
            position = index - outstanding.base
            if position < 0 or outstanding.segments[position].acked:
                resend.popleft()
                continue
            segment = outstanding.segments[position]
            if at + limits.LENGTH_PREFIX + self._protection.overhead + 4 + segment.size > cap:
                return at
            resend.popleft()
            at = self._seal_segment(stream, segment, index, buf, view, at)
            segment.sent_at = now
            segment.sends += 1
            self.stats.retransmissions += 1
            self.path.mark_outstanding(now)
            break
        if not resend:
            stream.resend = None
        return at

    def _seal_segment(
        self, stream: Stream, segment: Segment, index: int, buf: bytearray, view: memoryview, at: int
    ) -> int:
        plaintext = segment.parts[0] if len(segment.parts) == 1 else _U32.pack(index) + b"".join(segment.parts[1:])
        return self._control(buf, view, at, stream.id, flag.DATA, plaintext)

    def _fill_owed(self, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """Session frames, ACK and WINDOW_UPDATE go first (§19.1); they are small, so room is asked for once."""
        if cap - at < 4096:
            return at
        stream = self.session_stream
        if stream.ack_now:
            at = self._fill_ack(stream, buf, view, at, now)
        if self._window_owed and self.phase in _SENDING:
            limit = stream.window.advertise(self.assembler.consumed, creeping=self._memory.used_up)
            at = self._control(buf, view, at, stream.id, flag.WINDOW_WORD, frames.encode_window(limit))
            self._window_owed = False
            self._report(now)
        if self._probe_owed and self.phase in _SENDING:
            at = self._control(buf, view, at, stream.id, flag.DATA, _U32.pack(stream.outstanding.base - 1))
            self._probe_owed = False
        while self._pongs_owed and self.phase in _SENDING:
            at = self._control(buf, view, at, 0, flag.PONG, b"")
            self._pongs_owed -= 1
        while self._pings_owed and self.phase in _SENDING:
            at = self._control(buf, view, at, 0, flag.PING, b"")
            self.path.ping_sent(now)
            self._pings_owed -= 1
        self._owed = self._close_copies > 0
        return at

    def _fill_close(self, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """The last packets of the session, if there is still a key to seal them with."""
        if cap - at < 4096:
            return at
        close = frames.pad(frames.encode_close(self.close_code), limits.MAX_SHAPED_WIRE_PIPE)
        assert close is not None  # a CLOSE is far below the largest shaped packet
        try:
            if self.session_stream.pending_acks:
                at = self._fill_ack(self.session_stream, buf, view, at, now)
            for _ in range(self._close_copies):
                at = self._control(buf, view, at, 0, flag.CLOSE, close)
        except PhantomError:  # no key is left; the end of the leg says it
            pass
        self._let_go()
        return at

    def _fill_ack(self, stream: Stream, buf: bytearray, view: memoryview, at: int, now: float) -> int:
        delay = min(int((now - stream.ack_pending_since) * 1e6), _MAX_INDEX) if stream.pending_acks else 0
        at = self._control(buf, view, at, stream.id, flag.ACK_WORD, stream.reassembly.sack(delay), min(delay, 0xFFFF))
        stream.ack_now = False
        stream.pending_acks = 0
        return at

    def _control(
        self, buf: bytearray, view: memoryview, at: int, stream_id: int, word: int, plaintext: bytes, ack_delay: int = 0
    ) -> int:
        end = self._protection.seal(
            buf, view, at + 4, stream_id, word, self.path.id, plaintext, len(plaintext), ack_delay
        )
        _U32.pack_into(buf, at, end - at - 4)
        self.stats.packets_sent += 1
        return end

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, path_id: int, buf: bytearray, view: memoryview, start: int, end: int, now: float) -> int:
        """Consumes the whole frames in ``buf[start:end]``, opening each where it lies; returns how far it got.

        The window is only lent: nothing of it is referenced after the return.
        Raises FrameTooLargeError when a declared length is over the cap or empty frames flood (leg failure, §21.1).
        """
        protection, path_id = self._protection, self.path.id
        cap, unpack, opened, data = self._settings.frame_cap, _U32.unpack_from, protection.open, flag.DATA
        stream, assembler = self.session_stream, self.assembler
        reassembly, feed = stream.reassembly, assembler.feed
        assembler.held = self._memory.used_up  # others may have used it up since the last batch
        limit = stream.window.limit
        packets = 0
        failure: FrameTooLargeError | None = None
        at = start
        over = self.phase.over
        try:
            while end - at >= 4 and not over:
                length = unpack(buf, at)[0]
                stop = at + 4 + length
                if stop > end or not 0 < length <= cap:
                    if length and length <= cap:
                        break
                    self._odd_frame(length, packets)
                    at = stop
                    continue
                word = opened(buf, view, at + 4, stop, path_id, now)
                at = stop
                if word < 0:
                    continue
                packets += 1
                begin, finish = protection.plain_start + 4, protection.plain_end
                if (
                    word == data
                    and protection.stream_id == _SESSION_STREAM
                    and protection.path_id == path_id
                    and finish > begin
                    and unpack(buf, begin - 4)[0] == reassembly.next_index
                    and reassembly.store is None
                    and reassembly.fin_index is None
                    and stream.received < limit
                ):
                    reassembly.next_index += 1
                    if not stream.pending_acks:
                        stream.ack_pending_since = now
                    stream.pending_acks += 1
                    stream.received += finish - begin
                    feed(buf, view, begin, finish)
                else:
                    self._dispatch(word, buf, view, now)
                    over = self.phase.over
        except FrameTooLargeError as error:
            failure = error
        except PhantomError as error:
            self._fail(error)
        self._heard(packets, now)
        self.stats.bytes_recv += at - start
        self._after_batch(now)
        if failure is not None:
            raise failure
        return at

    def _odd_frame(self, length: int, packets: int) -> None:
        if length:
            raise FrameTooLargeError(
                f"the peer sent a frame of {length} bytes; the limit is {self._settings.frame_cap}"
            )
        packets += self.stats.packets_recv
        if packets != self._empty_after:
            self._empty_after = packets
            self._empty_frames = 0
        self._empty_frames += 1
        if self._empty_frames > limits.MAX_EMPTY_FRAMES:
            raise FrameTooLargeError("the peer floods the connection with empty frames")

    def _heard(self, packets: int, now: float) -> None:
        if not packets:
            return
        self.stats.packets_recv += packets
        self.path.last_seen = now
        if not self.confirmed:
            self.confirmed = True
            self._confirm_deadline = None
            self.progress = True

    def _dispatch(self, word: int, buf: bytearray, view: memoryview, now: float) -> None:
        """R11 to R14 and the dispatch order of §12 for whatever the fast path does not take."""
        protection = self._protection
        start, end = protection.plain_start, protection.plain_end
        if word & flag.PADDED:
            try:
                end = frames.unpad(buf, start, end)
            except frames.MalformedFrame:
                self.counters.malformed += 1
                return
        if word & flag.COMPRESSED:
            self.counters.malformed += 1
            return
        session_frame = word & (flag.PATH_VALIDATION | flag.KEEPALIVE | flag.CONTROL | flag.COVER)
        if protection.path_id != self.path.id and not (word & flag.PATH_VALIDATION):
            self.counters.path_gated += 1
            return
        if session_frame:
            self._session_frame(word, buf, start, end, now)
        elif word & flag.ACK:
            self._on_ack(protection.stream_id, buf, start, end, now)
        elif word & flag.WINDOW_UPDATE:
            self._on_window(protection.stream_id, buf, start, end)
        elif word & flag.COALESCED or not word & flag.RELIABLE:
            self.counters.protocol_violation += 1  # stream 1 carries reliable data only, and there is no other (§14.1)
        else:
            self._on_data(protection.stream_id, bytes(view[start:end]), bool(word & flag.FIN), now)

    def _session_frame(self, word: int, buf: bytearray, start: int, end: int, now: float) -> None:
        if word & flag.KEEPALIVE:
            if word & flag.ACK:
                self.path.pong_received(now)
                self._protection.set_srtt(self.path.estimator.srtt)
                self._settle_outstanding()
            else:
                if self.session_stream.pending_acks:
                    self.session_stream.ack_now = True
                self._pongs_owed = min(self._pongs_owed + 1, 8)
                self._owed = True
        elif word & flag.CONTROL:
            code = frames.decode_control(buf, start, end)
            if code != frames.IGNORED:
                self._on_close(code, now)
        elif word & flag.PATH_VALIDATION and not word & flag.COVER:
            # One path, the handshake leg: never challenged (§18.1), and nothing is registered beside it.
            self.counters.path_gated += 1

    def _on_data(self, stream_id: int, plaintext: bytes, fin: bool, now: float) -> None:
        if len(plaintext) < 4:
            self.counters.malformed += 1
            return
        if stream_id != _SESSION_STREAM:
            self.counters.protocol_violation += 1  # creates nothing, stays unacknowledged (§14.1)
            return
        stream = self.session_stream
        index = _U32.unpack_from(plaintext)[0]
        data = plaintext[4:]
        verdict = stream.reassembly.segment(index, data, room=stream.window.limit - stream.received, fin=fin)
        if verdict is Verdict.VIOLATION:
            self.counters.protocol_violation += 1
        if not verdict.acknowledged:
            return
        if not stream.pending_acks:
            stream.ack_pending_since = now
        stream.pending_acks += 1
        if verdict is not Verdict.DELIVERED or fin or stream.reassembly.store is not None or not data:
            stream.ack_now = self._owed = True
        if verdict is Verdict.DUPLICATE and not data:
            self._window_owed = True  # a persist probe asks for the limit (§14.6)
        for piece in stream.reassembly.take():
            stream.received += len(piece)
            self.assembler.feed_bytes(piece)
            stream.ack_now = self._owed = True
        if stream.reassembly.finished:
            self.assembler.finish()

    def _on_ack(self, stream_id: int, buf: bytearray, start: int, end: int, now: float) -> None:
        stream = self.session_stream
        if stream_id != stream.id:
            return
        try:
            ack_delay_us, ranges = frames.decode_sack(buf, start, end)
        except frames.MalformedFrame:
            self.counters.malformed += 1
            return
        outstanding = stream.outstanding
        largest = ranges[0][1]
        if largest >= outstanding.next_index:
            self.counters.protocol_violation += 1
            return
        freed, sample = outstanding.acknowledge(ranges)
        if freed or sample is not None:
            self.acked += freed
            self._acked_at = now
            self.path.estimator.backoff = 0
            self.progress = True
        if sample is not None and sample.sends == 1:
            self.path.estimator.sample(now - sample.sent_at, ack_delay_us / 1e6)
            self._protection.set_srtt(self.path.estimator.srtt)
        refused = outstanding.refused(largest)
        if refused:
            self._resend(stream, refused)
        if stream.blocked:
            self._make_ready(stream)
        self._settle_outstanding()
        if self.phase is Phase.CLOSING:
            self._check_flushed(now)

    def _on_window(self, stream_id: int, buf: bytearray, start: int, end: int) -> None:
        stream = self.session_stream
        if stream_id != stream.id:
            return
        try:
            limit = frames.decode_window(buf, start, end)
        except frames.MalformedFrame:
            self.counters.malformed += 1
            return
        if stream.send_limit.raise_to(limit) and stream.blocked:
            self._make_ready(stream)

    def _on_close(self, code: int, now: float) -> None:
        if self.phase not in _SENDING:
            return
        self.peer_code = code
        self._drain_deadline = now + self.path.drain_time()
        self._ready = None  # nothing but acknowledgements is sent from now on
        self._move(Trigger.CLOSE_RECEIVED, f"the peer closed the session with code {code}")

    # --- timers -----------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due, or None. Cheap; asked after every call."""
        if self.phase.over:
            return None
        stream, path = self.session_stream, self.path
        due = _earlier(self._drain_deadline, self._confirm_deadline)
        if stream.pending_acks and not stream.ack_now:
            due = _earlier(due, stream.ack_pending_since + limits.MAX_ACK_DELAY)
        if self.phase is Phase.CLOSING:
            due = _earlier(due, self._acked_at + limits.CLOSE_FLUSH_TIMEOUT)
            due = _earlier(due, self._close_deadline)
        due = _earlier(due, path.silent_at())
        due = _earlier(due, self._retransmit_at())
        due = _earlier(due, self._persist_at())
        due = _earlier(due, self._keepalive_at())
        if self._memory.used_up:
            due = _earlier(due, self._memory.deadline())
        return due

    def handle_timer(self, now: float) -> None:
        """Does what has become due; may be called early or late without harm."""
        if self.phase.over:
            return
        if self._drain_deadline is not None and now >= self._drain_deadline:
            self._move(Trigger.DRAIN_ENDED, f"the peer closed the session with code {self.peer_code}")
            self._release()
            return
        if self._confirm_deadline is not None and now >= self._confirm_deadline:
            self.error = HandshakeTimeoutError(
                "the client proved nothing within the handshake deadline; the session was dropped"
            )
            self._move(Trigger.PATH_LOST, "the client never proved that it holds the keys")
            self._release()
            return
        stream = self.session_stream
        if stream.pending_acks and now >= stream.ack_pending_since + limits.MAX_ACK_DELAY:
            stream.ack_now = self._owed = True
        silent = self.path.silent_at()
        if silent is not None and now >= silent:
            quiet = now - self.path.last_seen
            self.path_lost(now, NetworkError(f"nothing was heard from the peer for {quiet:.0f} s"))
            return
        if self.phase is Phase.CLOSING:
            over = self._close_deadline is not None and now >= self._close_deadline
            if over or now >= self._acked_at + limits.CLOSE_FLUSH_TIMEOUT:
                self._flush_ended()
                return
        self._protection.expire(now)
        self._rest(now)
        self._retransmit(now)
        self._persist(now)
        keepalive = self._keepalive_at()
        if keepalive is not None and now >= keepalive:
            self._owe_ping()
        patience = self._memory.deadline()
        if patience is not None and now >= patience:
            self._memory.enforce(now)

    def rest_at(self) -> float | None:
        """When :meth:`handle_timer` could let go of ciphers that nobody has needed for REST_AFTER; None if it has.

        Not part of :meth:`next_timer`: resting saves memory and changes nothing else.
        """
        if self._protection.resting or self.phase.over:
            return None
        return max(self.path.last_seen, self._rest_tried) + limits.REST_AFTER

    def _rest(self, now: float) -> None:
        due = self.rest_at()
        if due is not None and now >= due:
            self._rest_tried = now
            if not self.wants_to_send:
                self._protection.rest()

    def _retransmit_at(self) -> float | None:
        segments, path = self.session_stream.outstanding.segments, self.path
        if not segments or path.blocked or self.phase not in _SENDING:
            return None
        return max(segments[0].sent_at, path.drained_at) + path.estimator.rto  # the first is never acknowledged

    def _retransmit(self, now: float) -> None:
        due = self._retransmit_at()
        if due is None or now < due:
            return
        estimator = self.path.estimator
        estimator.backoff = min(estimator.backoff + 1, limits.RTO_MAX_BACKOFF)
        self._resend(self.session_stream, [self.session_stream.outstanding.base])

    def _persist_at(self) -> float | None:
        stream = self.session_stream
        outstanding = stream.outstanding
        if not stream.blocked or outstanding.segments or outstanding.base == 0 or self.path.blocked:
            return None
        if self.phase not in _SENDING:
            return None
        return max(self._probe_at, self._acked_at) + self.path.estimator.rto

    def _persist(self, now: float) -> None:
        """Data queued, no room, nothing outstanding: asks for the limit, at most once per RTO (§14.6)."""
        due = self._persist_at()
        if due is None or now < due:
            return
        self._probe_at = now
        self._probe_owed = self._owed = True

    def _keepalive_at(self) -> float | None:
        interval = self._settings.keepalive_interval
        if (
            interval is None
            or self.phase is not Phase.ESTABLISHED
            or self.path.outstanding_since is not None
            or self._pings_owed
        ):
            return None
        return max(self.path.last_seen, self.path.last_ping_at) + interval

    # --- shared small steps -----------------------------------------------------------------------------------------

    def _after_batch(self, now: float) -> None:
        """What is decided once a batch: the lent window, splitting, windows, memory, delayed acknowledgements."""
        assembler, stream = self.assembler, self.session_stream
        assembler.settle()
        if self._protection.forgeries_exceeded:
            self._fail(ProtocolViolationError("too many packets failed to open; the session was closed"))
        if self.phase is not Phase.ESTABLISHED and self.phase.over:
            return
        unsplit = assembler.run_bytes
        if unsplit and (self.reader_waits or unsplit > stream.window.window >> 2) and not self._split_now():
            return
        if assembler.messages:
            self.progress = True
        if stream.pending_acks >= limits.ACK_EVERY_PIPE:
            stream.ack_now = self._owed = True
        self._after_consumption(now)

    def _after_consumption(self, now: float) -> None:
        assembler, window = self.assembler, self.session_stream.window
        estimator = self.path.estimator
        if not estimator.sampled and not self._rtt_asked and assembler.consumed >= 256 * limits.KiB:
            self._rtt_asked = True
            self._owe_ping()
        consumed = assembler.consumed
        if consumed >= window.epoch_at:
            window.observe(consumed, self._free(), estimator.srtt, now)
        if window.due(consumed, creeping=assembler.held):
            self._window_owed = self._owed = True
        self._report(now)

    def _split_now(self) -> bool:
        try:
            self.assembler.split()
        except ProtocolViolationError as error:
            self._fail(error)
            return False
        return True

    def _report(self, now: float) -> None:
        stream, memory = self.session_stream, self._memory
        charge = self.assembler.charged
        if stream.reassembly.store is not None:
            charge += stream.reassembly.charged
        credit = stream.window.limit - stream.received - limits.INITIAL_STREAM_WINDOW
        memory.report(self, charge, credit if credit > 0 else 0, now)
        self.assembler.held = memory.used_up

    def _free(self) -> int:
        return min(self._settings.session_recv_window, self._memory.free_for(self))

    def _make_ready(self, stream: Stream) -> None:
        if self.phase not in _SENDING:
            return
        stream.ready = True
        stream.blocked = False
        if self._ready is None:
            self._ready = deque()
        self._ready.append(stream)

    def _resend(self, stream: Stream, indices: list[int]) -> None:
        waiting = set(stream.resend or ())
        stream.resend = deque(sorted(waiting.union(indices)))
        if not stream.ready or stream.blocked:
            self._make_ready(stream)

    def _owe_ping(self) -> None:
        self._ping_asked = False
        self._pings_owed = 1
        self._owed = True

    def _settle_outstanding(self) -> None:
        if not self.session_stream.outstanding.segments and not self.path.unanswered_pings:
            self.path.outstanding_since = None

    def _check_flushed(self, now: float) -> None:
        if not self.unacknowledged:
            self._flush_ended()
        elif self._ping_asked and not self.queued:
            self._owe_ping()

    def _flush_ended(self) -> None:
        self._close_copies = limits.CLOSE_COPIES
        self._owed = True
        self._move(Trigger.FLUSH_ENDED, "closed by this side")
        self._release()

    def _fail(self, error: PhantomError) -> None:
        if self.phase.over:
            return
        self.error = error
        self.close_code = error.code
        self._close_copies = limits.CLOSE_COPIES
        self._owed = True
        self._move(Trigger.ERROR, str(error))
        self._release()

    def _release(self) -> None:
        """Nothing more is sent or received: gives memory back; keys go once the last packet is sealed."""
        self._memory.release(self)
        self._ready = None
        if not self._close_copies:
            self._let_go()

    def _let_go(self) -> None:
        """The last packet is sealed, or can no longer leave: keys and buffers go, only what can be read stays."""
        self._close_copies = 0
        self._owed = self.session_stream.ack_now = False
        self._protection.close()
        self.session_stream.drop()

    def _move(self, trigger: Trigger, reason: str) -> None:
        old = self.phase
        self.phase = TRANSITIONS[old, trigger]
        self.progress = True
        if old.public is not self.phase.public:
            if self._events is None:
                self._events = deque(maxlen=limits.EVENT_QUEUE)
            self._events.append(StateChanged(old.public, self.phase.public, reason))


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None:
        return other
    return one if other is None or one <= other else other
