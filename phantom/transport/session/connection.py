"""The session engine: sans-IO, one object per session (architecture §4; wire-native §§12, 14, 15, 20).

Whoever drives it hands in windows of received bytes and buffers to fill, and a clock reading each time; it owns no
socket, task or clock. ``receive`` and ``fill`` are the two loops of the data path; everything in them that happens
once a batch instead of once a packet is meant to.

The engine never raises for what a peer sends: what the protocol drops is counted in ``counters``, what ends the
session ends it with an error in ``error``.
"""

from __future__ import annotations

from dataclasses import dataclass

from phantom import limits
from phantom.crypto import kdf
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.errors import (
    PhantomError,
    ProtocolViolationError,
    StreamClosedError,
    StreamResetError,
    UnsupportedError,
    ValidationError,
)
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import PacketProtection
from phantom.transport.session import admission, receiving, sending, timers
from phantom.transport.session.client_auth import ClientAuthentication
from phantom.transport.session.core import SENDING, WRITABLE, SessionCore, SessionSettings, Statistics, earlier
from phantom.transport.session.events import Event
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import Path
from phantom.transport.session.states import Phase, Trigger
from phantom.transport.session.stream_states import StreamState
from phantom.transport.session.streams import MAX_PRIORITY, Channel, Stream

__all__ = ["Connection", "FlushMark", "SessionSettings", "Statistics"]

_MAX_CODE = 65535


@dataclass(frozen=True, slots=True)
class FlushMark:
    """What was queued and not acknowledged at one moment; ``waiting`` is its size in bytes."""

    waiting: int
    ends: tuple[tuple[Channel, int], ...]  # reliable bytes of a stream that must be acknowledged


class Connection(SessionCore):
    """One established V2 session on one path.

    ``messages`` is the queue of complete messages that the API pops. After each call the driver looks at
    :attr:`wants_to_send`, :meth:`next_timer`, :meth:`next_event` and, if ``progress`` is set, wakes its waiters and
    clears it. Not thread safe; all calls come from one event loop.
    """

    __slots__ = ()

    supports_streams = True
    supports_reset = True

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
        root: bytearray | None = None,
        auth: ClientAuthentication | None = None,
        rng: RngProvider = SYSTEM_RNG,
    ) -> None:
        super().__init__(
            protection,
            initiator=initiator,
            path=path,
            settings=settings,
            memory=memory,
            counters=counters,
            now=now,
            root=root,
            auth=auth,
            rng=rng,
        )
        admission.begin(self, now)
        if self.admitted:
            self.open_session_window(now)
            if initiator and not self.owed:  # the server waits for the proof that this side holds the keys (§6.4)
                self.owe_ping()

    @property
    def supports_rekey(self) -> bool:
        """True: V2 sessions rekey."""
        return self.protection.supports_rekey

    @property
    def supports_paths(self) -> bool:
        """True: V2 sessions can have several paths."""
        return self.protection.supports_paths

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def flushed(self) -> int:
        """Stream bytes acknowledged and not beyond a gap of stream 1; see :meth:`flush_mark` for all streams."""
        return self.acked - self.session_stream.outstanding.ahead

    def flush_mark(self) -> FlushMark:
        """What is to be acknowledged until everything queued up to now is."""
        ends = [
            (channel, channel.send_limit.sent + channel.unsent)
            for channel in (self.session_stream, *self.streams.values())
            if not channel.quiet
        ]
        return FlushMark(self.unacknowledged, tuple(ends))

    def flush_done(self, mark: FlushMark) -> bool:
        """True once everything that was queued at the mark is acknowledged, or given up by a reset."""
        over = self.phase.over  # what is dropped then is quiet, and was not acknowledged
        return all(
            _landed(channel) >= end or _given_up(channel) or (channel.quiet and not over) for channel, end in mark.ends
        )

    @property
    def has_room(self) -> bool:
        """True while the send buffer takes another message or write (§14.10)."""
        return self.queued <= limits.SEND_BUFFER_CAP

    @property
    def wants_to_send(self) -> bool:
        """True if :meth:`fill` would write something, were there room."""
        if self.jitter is not None:
            return self.jitter_due or (not self.jitter.full and (self.owed or (not self.gated and bool(self.ready))))
        return self.owed or (not self.gated and bool(self.ready))

    @property
    def urgent(self) -> bool:
        """True while a deadline may be nearer than MAX_ACK_DELAY: ask :meth:`next_timer` after every call."""
        return self.held is not None or (self.gated and self.release_at is not None) or self.jitter is not None

    @property
    def lingering(self) -> bool:
        """True while the session is over and copies of its CLOSE are still to leave: the leg stays open."""
        return self.close_copies > 0

    @property
    def messages_ended(self) -> bool:
        """True once the peer's FIN on stream 1 has passed and every message before it was read (§14.2)."""
        return self.assembler.finished and not self.messages and not self.assembler.run_bytes

    @property
    def accepts_writes(self) -> bool:
        """True while the application may send."""
        return self.phase in WRITABLE

    @property
    def has_events(self) -> bool:
        """True if :meth:`next_event` has something."""
        return bool(self.events)

    @property
    def batch_size(self) -> int:
        """Bytes of buffer that :meth:`fill` needs to make progress with the largest packet."""
        return max(self.budget + limits.CHUNK_SLACK, self.bundle) + 8192

    @property
    def active_streams(self) -> int:
        """The application's streams that are not Closed."""
        return len(self.streams)

    # --- messages ---------------------------------------------------------------------------------------------------

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
            self.make_ready(stream)

    def refill(self, now: float) -> bool:
        """The reader found ``messages`` empty: splits what waits; True if there is a message now."""
        assembler = self.assembler
        if not assembler.run_bytes and not self.messages and not self.phase.over:
            if assembler.charge:  # nothing to split, and so nothing was consumed: only the charge is given back
                assembler.charge = 0
                self.report(now)
            return False
        # Once the session is over, what has arrived is no longer charged, and is still delivered.
        assembler.held = self.memory.used_up and not self.phase.over
        try:
            assembler.refill()
        except ProtocolViolationError as error:
            self.fail(error)
        if not self.phase.over:
            receiving.after_consumption(self, now)
        return bool(self.messages)

    # --- streams ----------------------------------------------------------------------------------------------------

    @property
    def may_open(self) -> bool:
        """False while the limit of open streams is reached; once the ids have run out :meth:`open_stream` says so."""
        return self.table is None or self.table.may_open

    def open_stream(self, priority: int, now: float) -> Stream:
        """Opens a stream; the peer hears of it at the next flush (§14.3).

        Raises StreamLimitError if there is no slot or id, ValidationError for a priority that is no u32, or what
        :meth:`check_sendable` raises.
        """
        self.check_sendable()
        _check_priority(priority)
        table = self.stream_table()
        stream = self.new_stream(table.next_id(), priority, opened_here=True, now=now)
        table.add_own(stream)
        self.recount_stream(stream)
        self.make_ready(stream)
        if self.observer is not None:
            self.observer.stream_changed(now, stream.id, "idle", "open")
        return stream

    def accept_stream(self, now: float) -> Stream | None:
        """The oldest stream that the peer opened and nobody took yet, or None."""
        if not self.accepted:
            return None
        stream = self.accepted.popleft()
        if not self.accepted:
            self.accepted = None
        stream.charge -= limits.ITEM_OVERHEAD
        self._account(stream, now)
        return stream

    def write(self, stream: Stream, data: bytes) -> None:
        """Queues one write whole; ``data`` is kept by reference and must not change. An empty one does nothing.

        Raises StreamClosedError after :meth:`finish` or :meth:`reset`, StreamResetError after the peer's stop, or what
        :meth:`check_sendable` raises. The caller waits while :attr:`has_room` is false.
        """
        self.check_writable(stream)
        if not data:
            return
        stream.add_bytes(data)
        self.queued += len(data)
        self.written += len(data)
        if not stream.ready:
            self.make_ready(stream)

    def write_unreliable(self, stream: Stream, data: bytes, now: float) -> None:
        """Queues one unreliable chunk; it leaves with others of its stream, at the latest after 500 µs (§14.7).

        Raises ValidationError above ``stream.max_unreliable_size``, and as :meth:`write`.
        """
        self.check_writable(stream)
        if len(data) > stream.max_unreliable_size:
            raise ValidationError(
                f"an unreliable chunk has at most {stream.max_unreliable_size} bytes on this connection; "
                f"this one has {len(data)}"
            )
        if not data:
            return
        stream.add_unreliable(data)
        self.queued += len(data)
        self.hold_bundle(stream, now)

    def read(self, stream: Stream, now: float) -> bytes | None:
        """The next bytes: one unreliable chunk, or reliable bytes up to 256 KiB; b"" if there is nothing yet, None
        after the peer's end.

        Raises StreamResetError once after the peer's reset, StreamClosedError after :meth:`stop`, and
        :meth:`end_error` if the session ended first.
        """
        if stream.chunks:
            data, unreliable = stream.take()
            if unreliable:
                self.backlog -= len(data) + limits.ITEM_OVERHEAD
            self._account(stream, now)
            return data
        if stream.reset_code is not None and not stream.reset_raised:
            stream.reset_raised = True
            raise StreamResetError(f"the peer reset this stream with code {stream.reset_code}", stream.reset_code)
        if stream.peer_ended:
            return None
        if stream.stop_code is not None:
            raise StreamClosedError("this side stopped the stream; nothing more is read from it")
        if self.phase.over:
            raise self.end_error()
        return b""

    def finish(self, stream: Stream) -> None:
        """Ends the writing half after everything written; the second time nothing happens.

        Raises StreamClosedError after :meth:`reset`, StreamResetError after the peer's stop.
        """
        if stream.failure is not None:
            raise stream.failure
        if stream.own_reset:
            raise StreamClosedError("this side has reset the stream")
        if stream.own_ended or self.phase.over:
            return
        stream.finish()
        self.own_half_ended(stream)
        if not stream.ready:
            self.make_ready(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """Abandons the writing half: what is not acknowledged is dropped. ``code`` is a u16 for the peer."""
        _check_code(code)
        if self.phase.over or stream.state is StreamState.CLOSED:
            return
        if stream.opened_here and stream.never_sent:
            self._forget(stream)
            return
        self.abandon(stream, code)

    def stop(self, stream: Stream, code: int) -> None:
        """The peer's half is no longer wanted: it is asked to reset it; what comes meanwhile is discarded."""
        _check_code(code)
        if self.phase.over or stream.stop_code is not None:
            return
        reorder = stream.reassembly.charged
        unread = sum(
            (len(c[0]) if isinstance(c, tuple) else len(c)) + limits.ITEM_OVERHEAD for c in stream.chunks or ()
        )
        waiting = stream.charge - reorder - unread  # of a stream that nobody has accepted yet
        self.backlog -= stream.discard_unread()
        stream.charge = reorder + waiting
        if not stream.peer_ended:
            stream.stop_code = code
            self.send_stop(stream)
        self._account(stream, self.path.last_seen)

    def set_priority(self, stream: Stream, priority: int) -> None:
        """From the next segment on; higher goes first, a u32."""
        _check_priority(priority)
        if stream.ready and not stream.blocked and self.phase in SENDING:
            self.ready.move(stream, priority)
        else:
            stream.rank = priority

    def check_writable(self, stream: Stream) -> None:
        """Raises what :meth:`write` would raise now."""
        if self.phase not in WRITABLE:
            self.check_sendable()
        if stream.own_ended:
            if stream.failure is not None:
                raise stream.failure
            raise StreamClosedError("this side has finished or reset the stream")

    def _account(self, stream: Stream, now: float) -> None:
        """Something was read, discarded or accepted."""
        if self.phase.over:
            return
        receiving.consumed(self, stream, now)
        self.report(now)

    def _forget(self, stream: Stream) -> None:
        """Nothing was ever sent on it: it ends here, and the peer never hears of it (§15.6)."""
        waiting, lost = stream.abandon()
        self.queued -= waiting
        self.acked += lost
        self.own_half_ended(stream)
        stream.peer_ended = True
        self.close_stream(stream, self.path.last_seen)
        self.recount_stream(stream)

    # --- keys -------------------------------------------------------------------------------------------------------

    def rekey(self, now: float) -> int | None:
        """Goes to the next epoch and returns it (§16.2); None while the step before is unconfirmed.

        Raises EpochExhaustedError at epoch 255, or what :meth:`check_sendable` raises.
        """
        self.check_sendable()
        protection = self.protection
        if protection.unconfirmed and protection.epoch < limits.MAX_EPOCH:
            return None
        protection.rekey(now)
        self.note_epoch(False, "this side rekeyed", now)
        if not self.wants_to_send:  # the peer follows only when it hears of it
            self.owe_ping()
        return self.epoch

    def export(self, name: bytes, length: int) -> bytes:
        """Keying material for the application (§3.5), the same at both ends and constant over rekeys.

        ``name`` has at most 255 bytes, ``length`` is 1 to 8160, else ValidationError; after the end, its error.
        """
        if self.root is None:
            if self.phase.over:
                raise self.end_error()
            raise UnsupportedError("this session was made without keying material to export")
        return kdf.export(self.root, name, length)

    def client_verdict(self, accepted: bool, now: float) -> None:
        """Answers a ClientAuthRequested (§15.7)."""
        if self.auth is not None:
            self.auth.verdict(accepted, now)
            admission.settle(self, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, code: int, now: float, timeout: float | None = None) -> None:
        """Begins an orderly close: flush, then CLOSE with ``code`` (§15.2). A later call can only shorten the flush."""
        if self.phase is Phase.CLOSING and timeout is not None:
            self.close_deadline = earlier(self.close_deadline, now + timeout)
        if self.phase not in WRITABLE:
            return
        self.close_code = code
        self.acked_at = now
        patience = timeout if timeout is not None else self.settings.close_timeout
        self.close_deadline = None if patience is None else now + patience
        self.move(Trigger.LOCAL_CLOSE, "closed by this side")
        self.ping_asked = True
        self.check_flushed()

    def abort(self, error: PhantomError) -> None:
        """Ends the session at once with ``error``: CLOSE with its code, no flush."""
        self.fail(error)

    # --- the driver's side ------------------------------------------------------------------------------------------

    def receive(self, path_id: int, buf: bytearray, view: memoryview, start: int, end: int, now: float) -> int:
        """Consumes the whole frames in ``buf[start:end]``, opening each where it lies; returns how far it got.

        The window is only lent: nothing of it is referenced after the return.
        Raises FrameTooLargeError when a declared length is over the cap or empty frames flood (leg failure, §21.1).
        """
        if self.observer is not None:
            return receiving.receive_watched(self, self.observer, buf, view, start, end, now)
        return receiving.receive(self, buf, view, start, end, now)

    def fill(self, path_id: int, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
        """Seals as many packets as are due and fit into ``buf[at:cap]``; returns the end offset (``at`` = nothing).

        Each packet has its length prefix in front (§21.1); a message leg cuts the batch at the prefixes. ``buf`` must
        have room for at least :attr:`batch_size` bytes.
        """
        return sending.fill(self, buf, view, at, cap, now)

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due, or None. Cheap; asked after every call."""
        return timers.next_timer(self)

    def handle_timer(self, now: float) -> None:
        """Does what has become due; may be called early or late without harm."""
        timers.handle_timer(self, now)

    def rest_at(self) -> float | None:
        """When :meth:`handle_timer` could let go of ciphers that nobody has needed for REST_AFTER; None if it has.

        Not part of :meth:`next_timer`: resting saves memory and changes nothing else.
        """
        return timers.rest_at(self)

    def next_event(self) -> Event | None:
        """The oldest unread event, or None."""
        return self.events.popleft() if self.events else None

    def path_lost(self, now: float, error: PhantomError | None = None) -> None:
        """The leg ended or failed (§18.7): without another path the session is Dead, a closing one Closed."""
        timers.path_lost(self, error)

    def path_blocked(self, blocked: bool, now: float) -> None:
        """The leg's write queue is not empty, or empty again; retransmission timers wait for it (§14.9)."""
        self.path.blocked = blocked
        if not blocked:
            self.path.drained_at = now


def _landed(channel: Channel) -> int:
    """Bytes that the peer acknowledged from the first on, without a gap."""
    outstanding = channel.outstanding
    return channel.send_limit.sent - outstanding.bytes - outstanding.ahead


def _given_up(channel: Channel) -> bool:
    return isinstance(channel, Stream) and channel.own_reset


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= MAX_PRIORITY:
        raise ValidationError(f"a priority is 0 to {MAX_PRIORITY}, not {priority}")


def _check_code(code: int) -> None:
    if not 0 <= code <= _MAX_CODE:
        raise ValidationError(f"a stream's code is 0 to {_MAX_CODE}, not {code}")
