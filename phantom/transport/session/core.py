"""What the rooms of one session share: its state, and the small steps that more than one of them takes.

``connection`` has the verbs, ``receiving`` and ``sending`` the two loops of the data path, ``timers`` the deadlines.
Each is a room of functions over this state; it belongs to one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from phantom import limits
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.crypto.wipe import wipe
from phantom.errors import BusyError, ConnectionClosedError, PhantomError, SessionClosingError
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import PacketProtection
from phantom.transport.session.client_auth import ClientAuthentication
from phantom.transport.session.control import ControlAssembler, encode_stream_reset, encode_stream_stop
from phantom.transport.session.events import Event, PathChanged, Rekeyed, SessionObserver, StateChanged
from phantom.transport.session.flow_control import ReceiveWindow
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.messages import MessageAssembler
from phantom.transport.session.path_states import PathTrigger
from phantom.transport.session.paths import Path
from phantom.transport.session.reassembly import Reassembly
from phantom.transport.session.reliability import LostSegment
from phantom.transport.session.scheduler import Scheduler
from phantom.transport.session.shaping import JitterQueue, Shaper
from phantom.transport.session.states import TRANSITIONS, Phase, Trigger
from phantom.transport.session.stream_states import StreamState, StreamTrigger
from phantom.transport.session.stream_table import StreamTable
from phantom.transport.session.streams import Channel, Stream, control_stream, session_stream

__all__ = [
    "CONTROL_STREAM",
    "SENDING",
    "SESSION_STREAM",
    "WRITABLE",
    "SessionCore",
    "SessionSettings",
    "Statistics",
    "earlier",
]

CONTROL_STREAM: Final = 0
SESSION_STREAM: Final = 1
SENDING: Final = (Phase.ESTABLISHED, Phase.CLOSING, Phase.MIGRATING)
WRITABLE: Final = (Phase.ESTABLISHED, Phase.MIGRATING)
_PACKET: Final = 73  # bytes a packet adds to its data: header, lengths, tag, stream_offset
_NO_STREAMS: Final[dict[int, Stream]] = {}  # shared by all sessions that have none


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the configuration decides for one session; sizes in bytes, times in seconds."""

    bulk_chunk: int = limits.BULK_CHUNK
    frame_cap: int = limits.ESTABLISHED_FRAME_CAP
    max_message: int = limits.MAX_MESSAGE
    recv_window: int | None = None  # None: what the leg's profile says
    session_recv_window: int = limits.SESSION_RECV_WINDOW
    send_segments: int = limits.MAX_PENDING
    recv_segments: int = limits.MAX_REORDER_SEGMENTS
    keepalive_interval: float | None = limits.KEEPALIVE_INTERVAL
    silence_floor: float = limits.SILENCE_FLOOR_PIPE_ONLY_PATH
    close_timeout: float | None = None
    confirm_timeout: float = limits.HANDSHAKE_DEADLINE
    max_streams: int = limits.MAX_STREAMS
    session_timeout: float = limits.MIGRATION_IDLE
    padding: str = "none"  # or "pade" (§15.4)
    cover_interval: float | None = None  # a COVER packet when nothing else left for so long (§15.5)
    jitter: float = 0.0  # each packet waits a random time of at most this


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


class SessionCore:
    """State of one established V2 session. Names without underscore are for its rooms and, where said, for the API."""

    __slots__ = (
        "__weakref__",
        "accepted",
        "acked",
        "acked_at",
        "admitted",
        "assembler",
        "auth",
        "authenticated",
        "backlog",
        "budget",
        "bundle",
        "challenge",
        "close_at",
        "close_code",
        "close_copies",
        "close_deadline",
        "confirm_deadline",
        "confirmed",
        "control",
        "control_assembler",
        "counters",
        "cover_owed",
        "credit",
        "delayed",
        "drain_deadline",
        "empty_after",
        "empty_frames",
        "epoch",
        "error",
        "events",
        "excess",
        "first_awaited",
        "flying",
        "gated",
        "held",
        "initiator",
        "jitter",
        "jitter_due",
        "last_sent",
        "memory",
        "messages",
        "migrating_since",
        "observer",
        "outstanding",
        "owed",
        "owing",
        "path",
        "peer_code",
        "phase",
        "ping_asked",
        "pings_owed",
        "pongs_owed",
        "probe",
        "progress",
        "protection",
        "queued",
        "queued_messages",
        "reader_waits",
        "ready",
        "rekeyed_at",
        "release_at",
        "resets",
        "root",
        "rest_tried",
        "rtt_asked",
        "session_full",
        "session_stream",
        "settings",
        "shaper",
        "stalled",
        "stats",
        "stream_charge",
        "streams",
        "table",
        "tombstones_owed",
        "touched",
        "trace",
        "unconfirmed",
        "wake",
        "window_ceiling",
        "withheld",
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
        root: bytearray | None = None,
        auth: ClientAuthentication | None = None,
        rng: RngProvider = SYSTEM_RNG,
    ) -> None:
        self.protection = protection
        self.initiator = initiator
        self.settings = settings
        self.memory = memory
        self.counters = counters
        self.path = path
        self.phase = Phase.ESTABLISHED
        self.error: PhantomError | None = None
        self.peer_code: int | None = None
        self.close_code = 0
        self.stats = Statistics()
        # Per packet of a batch that is watched: where it lies -> segment index, stream bytes, transmissions.
        self.trace: dict[int, tuple[int, int, int]] | None = None
        self.observer: SessionObserver | None = None
        # Called when something other than the driver changed this session: the process-wide receive memory.
        self.wake: Callable[[], None] | None = None

        profile = path.profile
        self.budget = min(settings.bulk_chunk, profile.budget)
        self.bundle = min(profile.bundle, settings.frame_cap - 69)
        # A sender reads a refusal as loss: the window holds no more segments than the store takes (§14.3).
        ceiling = profile.recv_window if settings.recv_window is None else settings.recv_window
        self.window_ceiling = max(limits.INITIAL_STREAM_WINDOW, min(ceiling, settings.recv_segments * self.budget))
        self.session_stream = session_stream(
            SESSION_STREAM,
            budget=self.budget,
            recv_window=self.window_ceiling,
            recv_segments=settings.recv_segments,
            slack=profile.slack,
        )
        self.assembler = MessageAssembler(settings.max_message)
        self.messages = self.assembler.messages
        self.reader_waits = False
        self.control: Channel | None = None  # stream 0, on first use
        self.control_assembler: ControlAssembler | None = None
        self.table: StreamTable | None = None  # of the application's streams, on first use
        self.streams = _NO_STREAMS  # its streams by id
        self.accepted: deque[Stream] | None = None  # opened by the peer, not taken by the API yet
        self.touched: list[Stream] | None = None  # became readable, writable or ended since the driver looked

        self.queued = 0  # bytes not sent for the first time yet
        self.written = 0  # reliable bytes accepted from the application, ever
        self.acked = 0  # of those, acknowledged in order or not, or given up by a reset
        self.queued_messages = 0
        self.outstanding = 0  # reliable bytes sent and not acknowledged, of all streams
        self.ready = Scheduler()
        self.gated = False  # streams are ready, but nothing may leave now
        self.release_at: float | None = None  # when that ends by itself
        self.flying: dict[Channel, None] | None = None  # channels with outstanding segments, besides stream 1
        self.stalled: dict[Channel, None] | None = None  # channels blocked by flow control or a bound
        self.session_full = False  # one of them by MAX_SEND_WINDOW of the session
        self.owing: list[Channel] | None = None  # channels that owe an ACK, a WINDOW_UPDATE or a probe
        self.delayed: dict[Channel, None] | None = None  # whose ACKs may wait, besides stream 1; oldest first
        self.tombstones_owed: set[int] | None = None  # ids of Closed streams whose segments came again
        self.resets: deque[tuple[int, Stream]] | None = None  # STREAM_RESETs by where they end in the control stream
        self.owed = False  # some session frame, ACK or WINDOW_UPDATE is due
        self.probe: tuple[Channel, int] | None = None  # a segment that leaves whatever the window says (§14.9)
        self.migrating_since = now
        self.ping_asked = False
        self.pings_owed = 0
        self.pongs_owed = 0
        self.close_copies = 0
        self.close_at: float | None = None  # when the next copy is due, where they are spaced
        self.events: deque[Event] | None = None
        self.progress = False  # waiters may have become satisfied

        self.held: dict[Stream, float] | None = None  # bundles that wait for company, and until when (§14.7)
        self.shaper: Shaper | None = None
        if settings.padding != "none" or settings.cover_interval:
            self.shaper = Shaper(
                pade=settings.padding == "pade",
                cover_interval=settings.cover_interval,
                shaped_wire=profile.shaped_wire,
            )
        self.jitter = JitterQueue(settings.jitter, rng) if settings.jitter else None
        self.jitter_due = False
        self.cover_owed = False
        self.last_sent = now

        self.stream_charge = 0  # of the application's streams (§14.11)
        self.backlog = 0  # of it, unreliable chunks
        self.credit = 0  # given and not filled, of the application's streams
        self.excess = 0  # of their windows (§14.6)

        self.root = root  # session_key[0], for the exporter (§3.5)
        self.auth = auth
        self.admitted = True  # the application may have the session (§15.7)
        self.authenticated = False  # the client's identity is told
        self.withheld = False  # data on streams other than 0 is not taken
        self.first_awaited = False  # the peer's first packet will tell whether it has an identity to show
        self.epoch = protection.epoch
        self.unconfirmed = False  # a local rekey that the peer has not followed yet
        self.rekeyed_at = now  # when the last one was
        self.challenge: bytes | None = None  # of the peer, to be answered
        self.confirmed = initiator  # the peer proved that it holds the keys (§6.4)
        self.confirm_deadline = None if initiator else now + settings.confirm_timeout
        self.drain_deadline: float | None = None
        self.close_deadline: float | None = None
        self.acked_at = now  # last newly acknowledged byte, or start of the flush
        self.rest_tried = now
        self.rtt_asked = False
        self.empty_frames = 0  # in a row, the last ones
        self.empty_after = 0  # packets received before them

    # --- what the API asks ------------------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        """Stream bytes accepted from the application and not acknowledged by the peer."""
        return self.written - self.acked

    def end_error(self) -> PhantomError:
        """The error that readers and writers get once the session is over."""
        if self.error is not None:
            return self.error
        by = "the peer" if self.peer_code is not None else "this side"
        detail = f" with code {self.peer_code}" if self.peer_code else ""
        return ConnectionClosedError(
            f"the session is closed: {by} closed it{detail}", self.peer_code, self.unacknowledged
        )

    def check_sendable(self) -> None:
        """Raises the error with which a write is refused now, if any: SessionClosingError or :meth:`end_error`."""
        if self.phase in WRITABLE:
            return
        if not self.phase.over:
            raise SessionClosingError(peer_code=self.peer_code)
        raise self.end_error()

    # --- channels ---------------------------------------------------------------------------------------------------

    def channel(self, stream_id: int) -> Channel | None:
        """The stream of an id, if this end has it."""
        if stream_id == SESSION_STREAM:
            return self.session_stream
        if stream_id == CONTROL_STREAM:
            return self.control
        return self.streams.get(stream_id)

    def channels(self) -> Iterator[Channel]:
        """Every stream that is not Closed."""
        if self.control is not None:
            yield self.control
        yield self.session_stream
        yield from self.streams.values()

    def open_control(self) -> Channel:
        """Stream 0, which is open from the start and made when first needed."""
        if self.control is None:
            self.control = control_stream(budget=self.budget, recv_segments=self.settings.recv_segments)
            self.control_assembler = ControlAssembler(self.counters)
        return self.control

    def stream_table(self) -> StreamTable:
        """The application's streams."""
        if self.table is None:
            self.table = StreamTable(initiator=self.initiator, most=self.settings.max_streams)
            self.streams = self.table.streams
        return self.table

    def new_stream(self, stream_id: int, rank: int, *, opened_here: bool, now: float) -> Stream:
        """A stream with its first window; it is not in the table yet."""
        stream = Stream(
            stream_id,
            budget=self.budget,
            reassembly=Reassembly(
                announcements=not opened_here,
                max_segments=self.settings.recv_segments,
                max_bytes=limits.MAX_REORDER_BYTES,
            ),
            window=ReceiveWindow(self.window_ceiling),
            rank=rank,
            opened_here=opened_here,
            max_unreliable_size=self.bundle,
        )
        stream.window.open_first(self.free_for(stream), now)
        return stream

    # --- small steps: sending ---------------------------------------------------------------------------------------

    def make_ready(self, channel: Channel) -> None:
        """It has something that may be sendable."""
        if self.phase not in SENDING:
            return
        channel.ready = True
        if channel.blocked:
            channel.blocked = False
            if self.stalled is not None:
                self.stalled.pop(channel, None)
        self.gated = False
        self.ready.add(channel)

    def resend(self, channel: Channel, indices: list[int]) -> None:
        """These segments are due again."""
        waiting = set(channel.resend or ())
        channel.resend = deque(sorted(waiting.union(indices)))
        if not channel.ready or channel.blocked:
            self.make_ready(channel)

    def lose(self, lost: Iterable[LostSegment], now: float) -> None:
        """These segments are due again, and congestion control hears of it."""
        congestion = self.path.congestion
        due: dict[Channel, list[int]] = {}
        for one in lost:
            channel, index, segment = one.channel, one.index, one.segment
            due.setdefault(channel, []).append(index)
            if congestion is not None and segment.stamp is not None:
                congestion.on_lost(segment.size + _PACKET, segment.stamp, now)
                segment.stamp = None
            if self.observer is not None:
                self.observer.packet_lost(now, channel.id, index, one.trigger)
        for channel, indices in due.items():
            self.resend(channel, indices)

    def forget_flight(self, channel: Channel) -> None:
        """What is outstanding of a channel no longer counts as in flight: nobody waits for it on this path."""
        congestion = self.path.congestion
        if congestion is None:
            return
        for segment in channel.outstanding.segments:
            if segment.stamp is not None:
                congestion.on_discarded(segment.size + _PACKET)
                segment.stamp = None

    def send_control(self, message: bytes) -> None:
        """Queues one message of the control stream."""
        control = self.open_control()
        control.add_bytes(message)
        self.queued += len(message)
        if not control.ready:
            self.make_ready(control)

    def owe(self, channel: Channel) -> None:
        """The channel owes an ACK, a WINDOW_UPDATE or a probe."""
        self.owed = True
        if not channel.owing:
            channel.owing = True
            if self.owing is None:
                self.owing = []
            self.owing.append(channel)

    def owe_ack(self, channel: Channel) -> None:
        """Its acknowledgement leaves at once."""
        channel.ack_now = True
        self.owe(channel)

    def owe_window(self, channel: Channel) -> None:
        """Its limit is to be told."""
        channel.window_owed = True
        self.owe(channel)

    def owe_ping(self) -> None:
        """A PING leaves at once."""
        self.ping_asked = False
        self.pings_owed = 1
        self.owed = True

    def settle_outstanding(self) -> None:
        """Nothing that the peer must answer is on its way any more?"""
        if not self.flying and not self.session_stream.outstanding.segments and not self.path.unanswered_pings:
            self.path.outstanding_since = None
            if self.held:
                self.release_bundles(None)

    # --- small steps: unreliable bundles ----------------------------------------------------------------------------

    def hold_bundle(self, stream: Stream, now: float) -> None:
        """A chunk was queued: alone it waits for company while something is in flight, 500 µs at most (§14.7)."""
        if stream.ready and not stream.blocked:
            return
        full = stream.unreliable_bytes + 2 >= self.bundle or len(stream.unreliable or ()) >= limits.MAX_COALESCED
        if full or self.path.outstanding_since is None:
            if self.held is not None:
                self.held.pop(stream, None)
            self.make_ready(stream)
            return
        if self.held is None:
            self.held = {}
        self.held.setdefault(stream, now + limits.BUNDLE_DELAY)

    def release_bundles(self, now: float | None) -> None:
        """Bundles that have waited until ``now`` (None: all) may leave."""
        held = self.held or {}
        for stream, due in list(held.items()):
            if now is not None and now < due:
                break
            del held[stream]
            if stream.unreliable and (not stream.ready or stream.blocked):
                self.make_ready(stream)
        if not held:
            self.held = None

    def open_session_window(self, now: float) -> None:
        """The session is established, and admitted: stream 1's window grows (§14.6)."""
        window = self.session_stream.window
        window.open_first(self.free_for(self.session_stream), now)
        if window.due(self.assembler.consumed, creeping=self.memory.used_up):
            self.owe_window(self.session_stream)

    # --- small steps: receiving -------------------------------------------------------------------------------------

    def touch(self, stream: Stream) -> None:
        """The API looks at this stream after the batch."""
        if self.touched is None:
            self.touched = []
        self.touched.append(stream)
        self.progress = True

    def free_for(self, channel: Channel) -> int:
        """Bytes of window that neither the session's other streams nor the process use (§14.6)."""
        own = self.excess
        used = self.stream_charge + self.credit
        if type(channel) is Stream:
            first = self.session_stream
            own += max(0, first.window.limit - self.assembler.consumed - limits.INITIAL_STREAM_WINDOW) - channel.excess
            used += self.assembler.charged + first.reassembly.charged + _credit(first) - channel.charge - channel.credit
        return min(self.settings.session_recv_window - own, self.memory.free_for(self) - used)

    def recount_stream(self, stream: Stream) -> None:
        """Its window, what it holds or what it has received changed: brings the session's sums up to date."""
        self.stream_charge += stream.charge - stream.noted
        stream.noted = stream.charge
        # What a window has grown to counts from then on: many streams may come to exist before the first is told.
        promised = max(stream.window.limit, stream.consumed + stream.window.window)
        over = promised - limits.INITIAL_STREAM_WINDOW
        credit = 0 if stream.peer_ended or over < stream.received else over - stream.received
        excess = 0 if stream.peer_ended or over < stream.consumed else over - stream.consumed
        self.credit += credit - stream.credit
        self.excess += excess - stream.excess
        stream.credit, stream.excess = credit, excess

    def charged(self) -> int:
        """What this session is charged (§14.11)."""
        control = self.control
        held = self.assembler.charged + self.session_stream.reassembly.charged + self.stream_charge
        if control is not None and self.control_assembler is not None:
            held += control.reassembly.charged + self.control_assembler.charged
        return held

    def report(self, now: float) -> None:
        """Tells the process-wide memory what this session holds and may still be sent."""
        self.memory.report(self, self.charged(), _credit(self.session_stream) + self.credit, now)
        self.assembler.held = self.memory.used_up

    def recount(self, *, exact: bool) -> int:
        """What this session is charged now (§14.11)."""
        self.assembler.recount(exact=exact)
        return self.charged()

    def end_busy(self) -> None:
        """Receive memory is overrun and this session is charged most (§14.11): what it holds goes, read or not."""
        self.fail(BusyError("receive memory is used up; the session that held most of it was closed"))
        self.assembler.drop()
        for channel in self.channels():
            channel.reassembly.drop()
            channel.pending_acks = 0
            channel.ack_now = False
        for stream in self.streams.values():
            stream.discard_unread()
            stream.noted = 0
        self.accepted = None
        self.stream_charge = self.backlog = 0
        if self.wake is not None:
            self.wake()

    def memory_freed(self) -> None:
        """Receive memory is no longer used up: messages may be begun again, and windows open (§14.11)."""
        self.assembler.held = False
        if self.session_stream.window.due(self.assembler.consumed, creeping=False):
            self.owe_window(self.session_stream)
        for stream in self.streams.values():
            if not stream.peer_ended and stream.window.due(stream.consumed, creeping=False):
                self.owe_window(stream)
        self.progress = True
        if self.wake is not None:
            self.wake()

    # --- small steps: the ends of streams ---------------------------------------------------------------------------

    def peer_half_ended(self, stream: Stream, now: float) -> None:
        """The peer's FIN has passed, or it reset its half."""
        if stream.peer_ended:
            return
        stream.peer_ended = True
        self.stream_table().peer_half_ended(stream)
        self.recount_stream(stream)
        self.move_stream(stream, StreamTrigger.PEER_ENDED)
        self.touch(stream)
        self.settle_stream(stream, now)

    def own_half_ended(self, stream: Stream) -> None:
        """The FIN is queued, or the half is reset."""
        self.move_stream(stream, StreamTrigger.OWN_ENDED)

    def settle_stream(self, stream: Stream, now: float) -> None:
        """Closes the stream if both halves have ended and nothing of this side is unacknowledged (§14.8)."""
        if not stream.settled or stream.pending_reset is not None or stream.state is StreamState.CLOSED:
            return
        if self.resets and any(waiting is stream for _, waiting in self.resets):
            return
        self.close_stream(stream, now)

    def close_stream(self, stream: Stream, now: float) -> None:
        """Closed: only what can still be read, and a tombstone, stay."""
        self.move_stream(stream, StreamTrigger.SETTLED)
        stream.charge -= stream.reassembly.charged
        stream.reassembly.drop()  # after a reset over gaps it still says which indices came
        self.recount_stream(stream)
        self.stream_table().close(stream, now)
        if self.flying is not None:
            self.flying.pop(stream, None)
        self.touch(stream)

    def move_stream(self, stream: Stream, trigger: StreamTrigger) -> None:
        """A transition of the table of stream_states, if it has one."""
        old = stream.state
        if stream.move(trigger) and self.observer is not None:
            self.observer.stream_changed(self.acked_at, stream.id, old.name.lower(), stream.state.name.lower())

    def send_reset(self, stream: Stream, code: int) -> None:
        """STREAM_RESET leaves, or waits until the stream is known to exist at the peer (§15.6)."""
        if not stream.proven:
            stream.pending_reset = code
            return
        stream.pending_reset = None
        self.send_control(encode_stream_reset(stream.id, stream.outstanding.next_index, code))
        control = self.open_control()
        if self.resets is None:
            self.resets = deque()
        self.resets.append((control.send_limit.sent + control.unsent, stream))

    def send_stop(self, stream: Stream) -> None:
        """STREAM_STOP leaves once, as soon as the stream is known to exist at the peer."""
        if stream.proven and not stream.stop_sent and stream.stop_code is not None:
            stream.stop_sent = True
            self.send_control(encode_stream_stop(stream.id, stream.stop_code))

    def abandon(self, stream: Stream, code: int) -> None:
        """Resets this side's half."""
        if stream.own_reset or (stream.own_ended and stream.quiet):
            return
        held = stream.outstanding.bytes
        self.forget_flight(stream)
        waiting, lost = stream.abandon()
        self.outstanding -= held - stream.outstanding.bytes
        self.queued -= waiting
        self.acked += lost
        self.own_half_ended(stream)
        if not stream.outstanding.segments and self.flying is not None:
            self.flying.pop(stream, None)
            self.settle_outstanding()
        if stream.blocked:  # nothing waits for the peer's window any more
            self.make_ready(stream)
        self.progress = True
        self.send_reset(stream, code)

    # --- small steps: the session's life ----------------------------------------------------------------------------

    def note_epoch(self, by_peer: bool, reason: str, now: float) -> None:
        """The protection went to another epoch, in whatever way."""
        self.epoch = self.protection.epoch
        self.unconfirmed = self.protection.unconfirmed
        self.rekeyed_at = now
        self.add_event(Rekeyed(self.epoch, by_peer, reason))
        self.progress = True
        if self.observer is not None:
            self.observer.key_updated(now, self.epoch, by_peer)

    def add_event(self, event: Event) -> None:
        """Queues one event; the oldest goes when nobody reads them."""
        if self.events is None:
            self.events = deque(maxlen=limits.EVENT_QUEUE)
        self.events.append(event)

    def move_path(self, trigger: PathTrigger, reason: str) -> bool:
        """A transition of the table of path_states; True if there is one."""
        old = self.path.state
        if not self.path.move(trigger):
            return False
        self.add_event(PathChanged(self.path.id, self.path.leg, old, self.path.state, reason))
        self.progress = True
        return True

    def check_flushed(self) -> None:
        """A session that closes is done when everything is acknowledged (§15.2)."""
        if not self.unacknowledged and all(channel.quiet for channel in self.channels()):
            self.flush_ended()
        elif self.ping_asked and not self.queued and not self.ready:
            self.owe_ping()

    def flush_ended(self) -> None:
        """CLOSE leaves."""
        self.close_copies = limits.CLOSE_COPIES
        self.owed = True
        self.move(Trigger.FLUSH_ENDED, "closed by this side")
        self.release()

    def fail(self, error: PhantomError) -> None:
        """An error ends the session: CLOSE with its code leaves."""
        if self.phase.over:
            return
        self.error = error
        self.close_code = error.code
        self.close_copies = limits.CLOSE_COPIES
        self.owed = True
        self.move(Trigger.ERROR, str(error))
        self.release()

    def release(self) -> None:
        """Nothing more is sent or received: gives memory back; keys go once the last packet is sealed."""
        self.memory.release(self)
        self.ready.clear()
        if not self.close_copies:
            self.let_go()

    def let_go(self) -> None:
        """The last packet is sealed, or can no longer leave: keys and buffers go, only what can be read stays."""
        self.close_copies = 0
        self.owed = self.session_stream.ack_now = False
        self.session_stream.pending_acks = 0
        self.held = None
        self.owing = self.delayed = self.flying = self.stalled = self.resets = self.probe = None
        if self.path.sent is not None:
            self.path.sent.drop()
        self.protection.close()
        if self.auth is not None:
            self.auth.close()
        if self.root is not None:
            wipe(self.root)
            self.root = None
        self.session_stream.drop()
        self.control = None
        if self.table is not None:
            self.table.drop()

    def move(self, trigger: Trigger, reason: str) -> None:
        """A transition of the table of states."""
        old = self.phase
        self.phase = TRANSITIONS[old, trigger]
        self.progress = True
        if self.observer is not None:
            self.observer.state_changed(self.path.last_seen, old.value, self.phase.value, reason)
        if old.public is not self.phase.public:
            self.add_event(StateChanged(old.public, self.phase.public, reason))
        if self.phase.over:
            for stream in self.streams.values():
                self.touch(stream)


def _credit(channel: Channel) -> int:
    """Window given and not filled, beyond the initial one (§14.11)."""
    credit = channel.window.limit - channel.received - limits.INITIAL_STREAM_WINDOW
    return credit if credit > 0 else 0


def earlier(one: float | None, other: float | None) -> float | None:
    """The earlier of two deadlines, None meaning never."""
    if one is None:
        return other
    return one if other is None or one <= other else other
