"""Filling the leg's buffer: what leaves now, in which order (wire-native §14, §19.1).

Session frames, acknowledgements and windows first, then the streams by rank. A packet is gathered and sealed once,
straight into the buffer; each has its length prefix in front (§21.1).
"""

from __future__ import annotations

import math
from struct import Struct
from typing import Final

from phantom import limits
from phantom.errors import PhantomError, ProtocolViolationError, StreamError
from phantom.transport.packet import flags as flag
from phantom.transport.packet import frames
from phantom.transport.packet.header import V2_IMAGE
from phantom.transport.session.core import SENDING, SESSION_STREAM, SessionCore
from phantom.transport.session.events import SessionObserver
from phantom.transport.session.path_states import PathState
from phantom.transport.session.reliability import Segment
from phantom.transport.session.streams import CONTROL_RANK, Channel, Stream

__all__ = ["fill"]

_U32 = Struct(">I")
_GATHER_MAX: Final = 17  # parts of a segment up to which they stay references; above, one copy joins them
_MAX_INDEX: Final = 2**32 - 1
_PACKET: Final = 73  # bytes a packet adds to its data: header, lengths, tag, stream_offset
_FRAME_ROOM: Final = 1024  # no session frame is larger, padding included


def fill(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    """Seals as many packets as are due and fit into ``buf[at:cap]``; returns the end offset."""
    if core.jitter is None:
        return _fill(core, buf, view, at, cap, now)
    jitter = core.jitter
    core.jitter_due = False
    if not jitter.full:
        jitter.push(view, at, _fill(core, buf, view, at, cap, now), now)
    at = jitter.pop_into(view, at, cap, now if not core.phase.over else math.inf)
    core.jitter_due = core.phase.over and jitter.size > 0
    return at


def _fill(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    start = at
    if core.observer is not None:
        core.trace = {}
    if core.path.state is not PathState.VALIDATED:
        return _fill_suspended(core, buf, view, at, cap, now)
    if core.owed:
        at = _fill_owed(core, buf, view, at, cap, now)
    if core.ready:
        at = _fill_streams(core, buf, view, at, cap, now)
        if core.owed and not core.close_copies:  # the window of a new stream, the PING behind the last segment
            at = _fill_owed(core, buf, view, at, cap, now)
    if core.close_copies and (core.close_at is None or now >= core.close_at):
        at = _fill_close(core, buf, view, at, cap, now)
    if at != start:
        core.stats.bytes_sent += at - start
        core.last_sent = now
        if core.observer is not None:
            _watch(core, core.observer, buf, start, at, now)
        if core.protection.epoch != core.epoch:
            core.note_epoch(False, "a limit of the old keys was reached", now)
    return at


def _watch(core: SessionCore, observer: SessionObserver, buf: bytearray, at: int, end: int, now: float) -> None:
    """Tells the observer of every packet of the batch."""
    trace, core.trace = core.trace or {}, None
    while at < end:
        length = _U32.unpack_from(buf, at)[0]
        _, stream_id, sequence, word, place, _ = V2_IMAGE.unpack_from(buf, at + 4)
        index, size, sends = trace.get(at, (0, 0, 1))
        observer.packet_sent(now, place & 0xFF, sequence, word >> 16, stream_id, index, size, length, sends)
        at += 4 + length


def _fill_suspended(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    """The only path is Suspended: what is gated (§18.5) waits, PINGs and the last words leave."""
    start = at
    if core.pings_owed and cap - at >= _FRAME_ROOM:
        core.pings_owed = 0
        try:
            at = control(core, buf, view, at, 0, flag.PING, b"")
        except PhantomError as error:
            core.fail(error)
        core.path.ping_sent(now)
    core.owed = False
    if core.close_copies and (core.close_at is None or now >= core.close_at):
        at = _fill_close(core, buf, view, at, cap, now)
    core.gated = True
    core.release_at = None
    core.stats.bytes_sent += at - start
    return at


# --- streams --------------------------------------------------------------------------------------------------------


def _fill_streams(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    scheduler, path, protection = core.ready, core.path, core.protection
    seal, pack, path_id = protection.seal, _U32.pack_into, path.id
    overhead = limits.LENGTH_PREFIX + protection.overhead + 4
    lead = limits.LENGTH_PREFIX + protection.header_len + 4
    most_segments, most_bytes = core.settings.send_segments, limits.MAX_PENDING_BYTES
    session_room = limits.MAX_SEND_WINDOW - core.outstanding
    congestion, trace = path.congestion, core.trace
    shaper = core.shaper if core.shaper is not None and core.shaper.pade else None
    lowest = 0 if core.admitted else CONTROL_RANK  # no data before AUTH_RESULT (§15.7)
    sent = 0
    try:
        while scheduler.top or scheduler.descend():
            ready = scheduler.top
            assert ready is not None
            stream = ready[0]
            if stream.rank < lowest:
                core.gated = True
                break
            if stream.unreliable:
                after = _fill_bundle(core, stream, buf, view, at, cap, now)
                if after == at:
                    break
                at = after
                if len(ready) > 1:
                    ready.rotate(-1)
                continue
            if stream.resend:
                after = _fill_resend(core, stream, buf, view, at, cap, now)
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
            if shaper is not None:
                end += shaper.trailer(size + 4)
            if end > cap:
                break
            outstanding, credit = stream.outstanding, stream.send_limit
            room = credit.limit - credit.sent
            if (
                size > room
                or len(outstanding.segments) >= most_segments
                or outstanding.bytes + size > most_bytes
                or size > session_room
            ):
                if size > room and credit.may_cut(size, outstanding=bool(outstanding.segments)):
                    stream.cut(room)
                    continue
                core.session_full = core.session_full or size > session_room
                _block(core, stream)
                continue
            index = outstanding.base + len(outstanding.segments)
            if index >= _MAX_INDEX and _exhausted(core, stream, index):
                continue
            if core.unconfirmed and _holds_back(core, stream, now):
                break
            if congestion is not None and _gated(core, size + _PACKET, now):
                break
            plain = at + lead
            parts = segment.parts
            if trace is not None:
                trace[at] = (index, size, 1)
            if shaper is not None:
                end = control(core, buf, view, at, stream.id, segment.word, _plaintext(segment, index))
                core.stats.packets_sent -= 1
            elif len(parts) <= _GATHER_MAX:
                pack(buf, plain, index)
                x = plain + 4
                for part in parts[1:]:
                    y = x + len(part)
                    view[x:y] = part
                    x = y
                end = seal(buf, view, at + 4, stream.id, segment.word, path_id, view[plain:x], size + 4)
            else:
                parts[0] = _U32.pack(index)
                joined = b"".join(parts)
                segment.parts = [joined]
                end = seal(buf, view, at + 4, stream.id, segment.word, path_id, joined, size + 4)
            pack(buf, at, end - at - 4)
            at = end
            stream.pop()
            segment.sent_at = now
            segment.sends = 1
            if not index or (not outstanding.segments and stream.id != SESSION_STREAM):
                _takes_off(core, stream, index)
            outstanding.add(segment)
            if congestion is not None:
                _transmitted(core, stream, index, segment, now)
            credit.sent += size
            core.queued -= size
            core.queued_messages -= segment.ends
            session_room -= size
            sent += 1
            if len(ready) > 1:
                ready.rotate(-1)
    except PhantomError as error:  # no nonce or epoch is left; what is sealed still leaves
        core.fail(error)
    if not scheduler.top:
        scheduler.top = None  # an empty deque takes 760 bytes
    if sent:
        core.outstanding = limits.MAX_SEND_WINDOW - session_room
        core.stats.packets_sent += sent
        path.mark_outstanding(now)
        if core.ping_asked and not core.queued and not scheduler:
            core.owe_ping()
    if congestion is not None and not scheduler and congestion.room > 0:
        congestion.on_app_limited()
    return at


def _gated(core: SessionCore, wire: int, now: float) -> bool:
    """Congestion window or pacer say no: nothing leaves before an acknowledgement, or before the burst is due."""
    may, release_at = core.path.may_send(wire, now)
    if not may:
        core.gated = True
        core.release_at = release_at
    return not may


def _transmitted(core: SessionCore, stream: Channel, index: int, segment: Segment, now: float) -> None:
    """A reliable packet has left on a path with congestion control."""
    path = core.path
    if path.congestion is not None and path.pacer is not None:
        wire = segment.size + _PACKET
        if core.shaper is not None:  # padding counts for pacing, not for the congestion window (§15.4)
            path.pacer.spend(core.shaper.trailer(segment.size + 4))
        if segment.stamp is not None:  # sent again while the first is still waited for
            path.congestion.on_discarded(wire)
        segment.stamp = path.congestion.on_sent(wire, now)
        path.pacer.spend(wire)
    if path.sent is not None:
        path.sent.add(stream, index, segment)


def _block(core: SessionCore, stream: Channel) -> None:
    """Out of the ready list, but still ready: writes must not try again until something changes."""
    ready = core.ready.top
    assert ready is not None
    ready.popleft()
    stream.blocked = True
    if core.stalled is None:
        core.stalled = {}
    core.stalled[stream] = None


def _holds_back(core: SessionCore, stream: Channel, now: float) -> bool:
    """Two steps ahead of the peer everything it has in flight is unreadable: waits up to one RTO for it (§11.6)."""
    until = core.rekeyed_at + core.path.estimator.rto
    if now >= until or not core.protection.must_rekey(stream.id, core.path.id):
        return False
    core.gated = True
    core.release_at = until
    return True


def _takes_off(core: SessionCore, stream: Channel, index: int) -> None:
    """The first segment of all, or the first that is outstanding."""
    if stream.id != SESSION_STREAM:
        if core.flying is None:
            core.flying = {}
        core.flying[stream] = None
    if not index and isinstance(stream, Stream) and stream.opened_here:
        core.owe_window(stream)  # behind the segment that opens it: before, there is nothing it could apply to


def _exhausted(core: SessionCore, stream: Channel, index: int) -> bool:
    """2^32 segments: the stream fails; without control or session stream there is no session (§14.3, §15.6).

    An application stream fails one earlier: the count in its STREAM_RESET is a u32.
    """
    if index == _MAX_INDEX and not isinstance(stream, Stream):
        return False
    error = StreamError("the stream's segment indices are exhausted; open another one")
    if isinstance(stream, Stream):
        core.abandon(stream, error.code)
    else:
        core.fail(error if stream.id == SESSION_STREAM else ProtocolViolationError("the control stream is used up"))
    return True


def _fill_resend(
    core: SessionCore, stream: Channel, buf: bytearray, view: memoryview, at: int, cap: int, now: float
) -> int:
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
        if at + _wire(core, segment) > cap:
            return at
        if _gated(core, segment.size + _PACKET, now):
            return at
        resend.popleft()
        at = _seal_again(core, stream, index, segment, buf, view, at, now)
        break
    if not resend:
        stream.resend = None
    return at


def _seal_again(
    core: SessionCore,
    stream: Channel,
    index: int,
    segment: Segment,
    buf: bytearray,
    view: memoryview,
    at: int,
    now: float,
) -> int:
    start = at
    at = control(core, buf, view, at, stream.id, segment.word, _plaintext(segment, index))
    segment.sent_at = now
    segment.sends += 1
    if core.trace is not None:
        core.trace[start] = (index, segment.size, segment.sends)
    _transmitted(core, stream, index, segment, now)
    core.stats.retransmissions += 1
    core.path.mark_outstanding(now)
    return at


def _fill_probe(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    """One segment in an RTO leaves whatever congestion window and pacer say."""
    assert core.probe is not None
    stream, index = core.probe
    outstanding = stream.outstanding
    position = index - outstanding.base
    segment = outstanding.segments[position] if 0 <= position < len(outstanding.segments) else None
    if segment is not None and not segment.acked:
        if at + _wire(core, segment) > cap:
            return at
        at = _seal_again(core, stream, index, segment, buf, view, at, now)
    core.probe = None
    return at


def _wire(core: SessionCore, segment: Segment) -> int:
    """Room that its packet takes in the buffer."""
    size = limits.LENGTH_PREFIX + core.protection.overhead + 4 + segment.size
    return size if core.shaper is None else size + core.shaper.trailer(segment.size + 4)


def _plaintext(segment: Segment, index: int) -> bytes:
    if len(segment.parts) == 1 and segment.size:
        whole: bytes = segment.parts[0]
        return whole
    return _U32.pack(index) + b"".join(segment.parts[1:])


def _fill_bundle(
    core: SessionCore, stream: Channel, buf: bytearray, view: memoryview, at: int, cap: int, now: float
) -> int:
    """One packet of unreliable chunks: a lone one as it is, several as COALESCED (§14.7)."""
    room = limits.LENGTH_PREFIX + core.protection.overhead + core.bundle
    if core.shaper is not None:
        room += room >> 3  # PADÉ adds less
    if at + room > cap:
        return at
    if _gated(core, core.bundle + _PACKET - 4, now):
        return at
    assert isinstance(stream, Stream)
    chunks = stream.take_bundle(core.bundle)
    size = sum(map(len, chunks))
    core.queued -= size
    if core.path.pacer is not None:
        core.path.pacer.spend(size + _PACKET)
    if len(chunks) == 1:
        return control(core, buf, view, at, stream.id, flag.UNRELIABLE_WORD, chunks[0])
    return control(core, buf, view, at, stream.id, flag.COALESCED_WORD, frames.encode_coalesced(chunks))


# --- session frames, ACK, WINDOW_UPDATE -----------------------------------------------------------------------------


def _fill_owed(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    """What is owed; a failure on the way loses nothing of what was sealed before it."""
    done = _Progress(at)
    try:
        left = _seal_owed(core, buf, view, done, cap, now)
    except PhantomError as error:  # nonces or epochs are exhausted
        core.fail(error)
        return done.at
    core.owed = left or (core.close_copies > 0 and core.close_at is None)
    return done.at


class _Progress:
    """How far a buffer is filled, also when filling it fails."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at


def _seal_owed(core: SessionCore, buf: bytearray, view: memoryview, done: _Progress, cap: int, now: float) -> bool:
    """True if something is left for want of room."""
    sending = core.phase in SENDING
    owing, core.owing = core.owing, None
    for place, channel in enumerate(owing or ()):
        if cap - done.at < 4 * _FRAME_ROOM:
            assert owing is not None
            core.owing = owing[place:]
            return True
        channel.owing = False
        if channel.ack_now:
            done.at = _fill_ack(core, channel, buf, view, done.at, now)
        if channel.window_owed and sending:
            done.at = _fill_window(core, channel, buf, view, done.at, now)
        if channel.probe_owed and sending:
            probe = _U32.pack(channel.outstanding.base - 1)
            done.at = control(core, buf, view, done.at, channel.id, flag.DATA, probe)
            channel.probe_owed = False
    while core.tombstones_owed:
        if cap - done.at < _FRAME_ROOM:
            return True
        stream_id = core.tombstones_owed.pop()
        final = core.table.tombstone(stream_id, now) if core.table is not None else None
        if final:
            plaintext = frames.encode_sack(final, (), 0)
            done.at = control(core, buf, view, done.at, stream_id, flag.ACK_WORD, plaintext)
    core.tombstones_owed = None
    if core.probe is not None and sending:
        done.at = _fill_probe(core, buf, view, done.at, cap, now)
    if cap - done.at < 4 * _FRAME_ROOM:
        return core.pongs_owed > 0 or core.pings_owed > 0 or core.probe is not None
    if core.cover_owed and sending:
        cover = frames.pad(b"", core.path.profile.shaped_wire)
        assert cover is not None  # an empty packet is far below the largest shaped one
        done.at = control(core, buf, view, done.at, 0, flag.COVER_WORD, cover)
        core.cover_owed = False
    if core.challenge is not None and sending:
        done.at = control(core, buf, view, done.at, 0, flag.RESPONSE, core.challenge)
        core.challenge = None
    while core.pongs_owed and sending:
        done.at = control(core, buf, view, done.at, 0, flag.PONG, b"")
        core.pongs_owed -= 1
    while core.pings_owed and sending:
        done.at = control(core, buf, view, done.at, 0, flag.PING, b"")
        core.path.ping_sent(now)
        core.pings_owed -= 1
    return False


def _fill_ack(core: SessionCore, channel: Channel, buf: bytearray, view: memoryview, at: int, now: float) -> int:
    delay = min(int((now - channel.ack_pending_since) * 1e6), _MAX_INDEX) if channel.pending_acks else 0
    sack = channel.reassembly.sack(delay)
    at = control(core, buf, view, at, channel.id, flag.ACK_WORD, sack, min(delay, 0xFFFF))
    channel.ack_now = False
    channel.pending_acks = 0
    if core.delayed is not None:
        core.delayed.pop(channel, None)
    return at


def _fill_window(core: SessionCore, channel: Channel, buf: bytearray, view: memoryview, at: int, now: float) -> int:
    channel.window_owed = False
    if isinstance(channel, Stream):
        if channel.peer_ended:
            return at
        consumed = channel.consumed
    elif channel.id == SESSION_STREAM:
        consumed = core.assembler.consumed
    else:
        assert core.control_assembler is not None
        consumed = core.control_assembler.consumed
    limit = channel.window.advertise(consumed, creeping=core.memory.used_up)
    at = control(core, buf, view, at, channel.id, flag.WINDOW_WORD, frames.encode_window(limit))
    if isinstance(channel, Stream):
        core.recount_stream(channel)
    core.report(now)
    return at


def _fill_close(core: SessionCore, buf: bytearray, view: memoryview, at: int, cap: int, now: float) -> int:
    """The last packets of the session, if there is still a key to seal them with."""
    if cap - at < 4 * _FRAME_ROOM:
        return at
    close = frames.pad(frames.encode_close(core.close_code), core.path.profile.shaped_wire)
    assert close is not None  # a CLOSE is far below the largest shaped packet
    try:
        for channel in core.channels():
            if channel.pending_acks and cap - at >= 4 * _FRAME_ROOM:
                at = _fill_ack(core, channel, buf, view, at, now)
        if core.path.profile.close_spacing:  # one burst of loss does not take them all (§15.2)
            at = control(core, buf, view, at, 0, flag.CLOSE, close)
            core.close_copies -= 1
            if core.close_copies:
                core.close_at = now + min(core.path.estimator.srtt / 4, limits.CLOSE_SPACING)
                core.owed = False
                return at
        for _ in range(core.close_copies):
            at = control(core, buf, view, at, 0, flag.CLOSE, close)
    except PhantomError:  # no key is left; the end of the leg says it
        pass
    core.let_go()
    return at


def control(
    core: SessionCore,
    buf: bytearray,
    view: memoryview,
    at: int,
    stream_id: int,
    word: int,
    plaintext: bytes,
    ack_delay: int = 0,
) -> int:
    """Seals one packet that is already put together, with its length prefix; padded if the policy says so."""
    if core.shaper is not None and core.shaper.pade and not word & flag.PADDED:
        padded = frames.pad(plaintext, core.shaper.shaped_wire)
        if padded is not None:
            plaintext, word = padded, word | flag.PADDED
    end = core.protection.seal(buf, view, at + 4, stream_id, word, core.path.id, plaintext, len(plaintext), ack_delay)
    _U32.pack_into(buf, at, end - at - 4)
    core.stats.packets_sent += 1
    return end
