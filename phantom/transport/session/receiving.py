"""Received windows: opening, the fast path for data in order, the dispatch of everything else (wire-native §12).

The session never raises for what a peer sends: what the protocol drops is counted, what ends the session ends it.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

from phantom import limits
from phantom.errors import FrameTooLargeError, PhantomError, ProtocolViolationError, StreamResetError
from phantom.transport.packet import flags as flag
from phantom.transport.packet import frames
from phantom.transport.packet.header import V2_IMAGE
from phantom.transport.session import admission
from phantom.transport.session.control import StreamReset, StreamStop
from phantom.transport.session.core import CONTROL_STREAM, SENDING, SESSION_STREAM, SessionCore
from phantom.transport.session.events import SessionObserver
from phantom.transport.session.path_states import PathState, PathTrigger
from phantom.transport.session.reassembly import Verdict
from phantom.transport.session.reliability import LostSegment, Segment
from phantom.transport.session.states import Phase, Trigger
from phantom.transport.session.stream_table import Claim
from phantom.transport.session.streams import Channel, Stream

__all__ = ["after_batch", "after_consumption", "consumed", "receive", "receive_watched"]

_U32 = Struct(">I")
_SESSION_FRAME: Final = flag.PATH_VALIDATION | flag.KEEPALIVE | flag.CONTROL | flag.COVER
_PACKET: Final = 73  # bytes a packet adds to its data
_MOST_PONGS: Final = 8


def receive(core: SessionCore, buf: bytearray, view: memoryview, start: int, end: int, now: float) -> int:
    """Consumes the whole frames in ``buf[start:end]``, opening each where it lies; returns how far it got.

    The window is only lent: nothing of it is referenced after the return.
    Raises FrameTooLargeError when a declared length is over the cap or empty frames flood (leg failure, §21.1).
    """
    if core.phase.over:  # nobody listens any more
        return end
    protection, path_id = core.protection, core.path.id
    cap, unpack, opened, data = core.settings.frame_cap, _U32.unpack_from, protection.open, flag.DATA
    first, assembler, streams = core.session_stream, core.assembler, core.streams
    reassembly, feed = first.reassembly, assembler.feed
    assembler.held = core.memory.used_up  # others may have used it up since the last batch
    limit = -1 if core.withheld else first.window.limit  # nothing reaches the application before admission
    packets = 0
    fresh: list[Stream] = []
    failure: FrameTooLargeError | None = None
    at = start
    over = False
    try:
        while end - at >= 4 and not over:
            length = unpack(buf, at)[0]
            stop = at + 4 + length
            if stop > end or not 0 < length <= cap:
                if length and length <= cap:
                    break
                _odd_frame(core, length, packets)
                at = stop
                continue
            word = opened(buf, view, at + 4, stop, path_id, now)
            at = stop
            if word < 0:
                continue
            packets += 1
            begin, finish = protection.plain_start + 4, protection.plain_end
            if word == data and protection.path_id == path_id and finish > begin:
                stream_id = protection.stream_id
                if stream_id == SESSION_STREAM:
                    if (
                        unpack(buf, begin - 4)[0] == reassembly.next_index
                        and reassembly.store is None
                        and reassembly.fin_index is None
                        and first.received < limit
                    ):
                        reassembly.next_index += 1
                        if not first.pending_acks:
                            first.ack_pending_since = now
                        first.pending_acks += 1
                        first.received += finish - begin
                        feed(buf, view, begin, finish)
                        continue
                elif stream_id in streams:
                    stream = streams[stream_id]
                    other = stream.reassembly
                    if (
                        unpack(buf, begin - 4)[0] == other.next_index
                        and other.store is None
                        and other.fin_index is None
                        and stream.received < stream.window.limit
                        and stream.stop_code is None
                    ):
                        other.next_index += 1
                        if not stream.pending_acks:
                            stream.ack_pending_since = now
                        stream.pending_acks += 1
                        stream.received += finish - begin
                        stream.arrived(bytes(view[begin:finish]))
                        if not stream.fresh:
                            stream.fresh = True
                            fresh.append(stream)
                        continue
            _dispatch(core, word, buf, view, fresh, now)
            over = core.phase.over
            streams = core.streams
            if limit < 0 and not core.withheld:
                limit = first.window.limit
    except FrameTooLargeError as error:
        failure = error
    except PhantomError as error:
        core.fail(error)
    _heard(core, packets, now)
    core.stats.bytes_recv += at - start
    after_batch(core, fresh, now)
    if failure is not None:
        raise failure
    return at


def receive_watched(
    core: SessionCore, observer: SessionObserver, buf: bytearray, view: memoryview, start: int, end: int, now: float
) -> int:
    """As :func:`receive`, frame by frame, telling the observer of each."""
    protection, stats = core.protection, core.stats
    at = start
    while end - at >= 4:
        stop = at + 4 + _U32.unpack_from(buf, at)[0]
        if stop > end:
            break
        packets, before = stats.packets_recv, core.counters.snapshot()
        word = _word(core, buf, at + 4, stop)
        done = receive(core, buf, view, at, stop, now)
        if stats.packets_recv != packets:
            index = size = 0
            if word & flag.RELIABLE and protection.plain_end - protection.plain_start >= 4:
                index = _U32.unpack_from(buf, protection.plain_start)[0]
                size = protection.plain_end - protection.plain_start - 4
            observer.packet_received(
                now, protection.path_id, protection.sequence, word, protection.stream_id, index, size, stop - at - 4
            )
        for name, count in core.counters.snapshot().items():
            if count != before[name]:
                observer.packet_dropped(now, name)
        at = done
    return at if at > start else receive(core, buf, view, start, end, now)


def _word(core: SessionCore, buf: bytearray, at: int, stop: int) -> int:
    """The flag word of a V2 packet."""
    return int(V2_IMAGE.unpack_from(buf, at)[3]) >> 16 if stop - at >= core.protection.overhead else 0


def _odd_frame(core: SessionCore, length: int, packets: int) -> None:
    if length:
        raise FrameTooLargeError(f"the peer sent a frame of {length} bytes; the limit is {core.settings.frame_cap}")
    packets += core.stats.packets_recv
    if packets != core.empty_after:
        core.empty_after = packets
        core.empty_frames = 0
    core.empty_frames += 1
    if core.empty_frames > limits.MAX_EMPTY_FRAMES:
        raise FrameTooLargeError("the peer floods the connection with empty frames")


def _heard(core: SessionCore, packets: int, now: float) -> None:
    if not packets:
        return
    core.stats.packets_recv += packets
    core.path.last_seen = now
    if core.path.state is PathState.SUSPENDED:
        _resume(core, now)
    if not core.confirmed:
        core.confirmed = True
        core.confirm_deadline = None
        core.progress = True
    if core.protection.epoch != core.epoch:
        core.note_epoch(True, "the peer rekeyed", now)
    if core.unconfirmed and not core.protection.unconfirmed:
        core.unconfirmed = False
        core.gated = False
        core.progress = True


def _resume(core: SessionCore, now: float) -> None:
    """A Suspended path is heard again (§18.2): what was on its way is due at once, and the silence measured nothing."""
    path = core.path
    core.move_path(PathTrigger.HEARD, "the peer is heard again")
    path.estimator.backoff = 0
    path.rto_at = now
    if core.phase is Phase.MIGRATING:
        core.move(Trigger.PATH_BACK, "the peer is heard again")
    if path.congestion is not None:
        path.congestion.on_app_limited()
    for channel in core.channels():
        core.forget_flight(channel)
        outstanding = channel.outstanding
        due = [i for i, segment in enumerate(outstanding.segments, outstanding.base) if not segment.acked]
        if due:
            core.resend(channel, due)
    core.gated = False
    core.owed = True


# --- dispatch -------------------------------------------------------------------------------------------------------


def _dispatch(core: SessionCore, word: int, buf: bytearray, view: memoryview, fresh: list[Stream], now: float) -> None:
    """R11 to R14 and the dispatch order of §12 for whatever the fast path does not take."""
    protection, counters = core.protection, core.counters
    start, end, stream_id = protection.plain_start, protection.plain_end, protection.stream_id
    if word & flag.PADDED:
        try:
            end = frames.unpad(buf, start, end)
        except frames.MalformedFrame:
            counters.malformed += 1
            return
    if word & flag.COMPRESSED:
        counters.malformed += 1
        return
    if protection.path_id != core.path.id and not (word & flag.PATH_VALIDATION):
        counters.path_gated += 1
        return
    if core.first_awaited:
        admission.first_packet(core, word, stream_id, now)
    if word & _SESSION_FRAME:
        _session_frame(core, word, buf, start, end, now)
    elif word & flag.ACK:
        _on_ack(core, stream_id, buf, start, end, now)
    elif word & flag.WINDOW_UPDATE:
        _on_window(core, stream_id, buf, start, end)
    elif word & flag.COALESCED:
        if word & (flag.RELIABLE | flag.FIN):  # COALESCED excludes both (§10.4)
            counters.protocol_violation += 1
            return
        try:
            chunks = frames.decode_coalesced(buf, start, end)
        except frames.MalformedFrame:
            counters.malformed += 1
            return
        _on_unreliable(core, stream_id, chunks, False, fresh, now)
    elif word & flag.RELIABLE:
        _on_data(core, stream_id, bytes(view[start:end]), word, fresh, now)
    else:
        chunk = [bytes(view[start:end])] if end > start else []
        _on_unreliable(core, stream_id, chunk, bool(word & flag.FIN), fresh, now)


def _session_frame(core: SessionCore, word: int, buf: bytearray, start: int, end: int, now: float) -> None:
    if word & flag.KEEPALIVE:
        if word & flag.ACK:
            core.path.pong_received(now)
            core.protection.set_srtt(core.path.estimator.srtt)
            core.settle_outstanding()
        else:
            _hurry_acks(core)
            core.pongs_owed = min(core.pongs_owed + 1, _MOST_PONGS)
            core.owed = True
    elif word & flag.CONTROL:
        code = frames.decode_control(buf, start, end)
        if code != frames.IGNORED:
            _on_close(core, code, now)
    elif word & flag.PATH_VALIDATION and not word & flag.COVER:
        _on_path_validation(core, word, buf, start, end)


def _on_path_validation(core: SessionCore, word: int, buf: bytearray, start: int, end: int) -> None:
    """Path 0, the handshake leg, is never challenged by this side, but answers any challenge (§18.4)."""
    if core.protection.path_id != core.path.id:
        core.counters.path_gated += 1
    elif end - start != limits.PATH_CHALLENGE_LEN:
        core.counters.malformed += 1
    elif not word & flag.ACK:  # a response to nothing changes nothing
        core.challenge = bytes(buf[start:end])
        core.owed = True


def _hurry_acks(core: SessionCore) -> None:
    """Everything that waits to be acknowledged is, at once."""
    if core.session_stream.pending_acks:
        core.owe_ack(core.session_stream)
    for channel in core.delayed or ():
        if channel.pending_acks:
            core.owe_ack(channel)
    core.delayed = None


def _on_close(core: SessionCore, code: int, now: float) -> None:
    if core.phase not in SENDING:
        return
    core.peer_code = code
    admission.on_close(core, code, now)
    core.drain_deadline = now + core.path.drain_time()
    core.ready.clear()  # nothing but acknowledgements is sent from now on
    core.move(Trigger.CLOSE_RECEIVED, f"the peer closed the session with code {code}")


# --- data -----------------------------------------------------------------------------------------------------------


def _on_data(core: SessionCore, stream_id: int, plaintext: bytes, word: int, fresh: list[Stream], now: float) -> None:
    """A reliable segment that is not simply the next one (§14.3)."""
    if len(plaintext) < 4:
        core.counters.malformed += 1
        return
    index = _U32.unpack_from(plaintext)[0]
    data, fin = plaintext[4:], bool(word & flag.FIN)
    channel, new = _find(core, stream_id, now, reliable=True)
    if channel is None:
        return
    if channel.id == CONTROL_STREAM and fin:
        core.counters.protocol_violation += 1
        return
    reassembly = channel.reassembly
    room = channel.window.limit - channel.received
    held = reassembly.charged
    verdict = reassembly.segment(index, data, room=room, fin=fin)
    if verdict is Verdict.VIOLATION:
        core.counters.protocol_violation += 1
    if not verdict.acknowledged:
        return
    if new and isinstance(channel, Stream):
        _admit(core, channel)
    if not channel.pending_acks:
        channel.ack_pending_since = now
        if channel.id == CONTROL_STREAM:
            _delay_ack(core, channel)
    channel.pending_acks += 1
    pieces = reassembly.take()
    if (
        verdict is not Verdict.DELIVERED
        or word & (flag.FIN | flag.REKEY)  # the sender of a rekey wants to hear that it was followed
        or reassembly.store is not None
        or len(pieces) > 1
        or not data
    ):
        core.owe_ack(channel)
    if verdict is Verdict.DUPLICATE and not data:
        core.owe_window(channel)  # a persist probe asks for the limit (§14.6)
    if isinstance(channel, Stream):
        channel.charge += reassembly.charged - held
        _take_pieces(core, channel, pieces, fresh, now)
        return
    if channel.id == SESSION_STREAM:
        for piece in pieces:
            channel.received += len(piece)
            core.assembler.feed_bytes(piece)
        if reassembly.finished:
            core.assembler.finish()
            core.progress = True
        return
    for piece in pieces:
        channel.received += len(piece)
        _on_control(core, piece, now)


def _take_pieces(core: SessionCore, stream: Stream, pieces: list[bytes], fresh: list[Stream], now: float) -> None:
    """Bytes of an application stream that are in order now."""
    for piece in pieces:
        stream.received += len(piece)
        if stream.stop_code is None:
            stream.arrived(piece)
        else:
            stream.consumed += len(piece)
    if not stream.fresh:
        stream.fresh = True
        fresh.append(stream)
    if stream.reassembly.finished:
        core.peer_half_ended(stream, now)


def _on_unreliable(
    core: SessionCore, stream_id: int, chunks: list[bytes], fin: bool, fresh: list[Stream], now: float
) -> None:
    """Unreliable data: delivered at once, within the backlog (§14.7, §14.11)."""
    if stream_id == CONTROL_STREAM:
        return
    if stream_id == SESSION_STREAM:
        core.counters.protocol_violation += 1  # it would tear the message framing (§14.1)
        return
    stream, new = _find(core, stream_id, now, reliable=False)
    if not isinstance(stream, Stream):
        return
    if new:
        _admit(core, stream)
    for chunk in chunks:
        charge = len(chunk) + limits.ITEM_OVERHEAD
        if stream.peer_ended or stream.stop_code is not None:
            continue
        if core.backlog + charge > limits.RECV_BACKLOG_CAP:
            core.counters.backlog += 1
            continue
        core.backlog += charge
        stream.arrived_unreliable(chunk)
    if not stream.fresh:
        stream.fresh = True
        fresh.append(stream)
    if fin:
        core.peer_half_ended(stream, now)


def _find(core: SessionCore, stream_id: int, now: float, *, reliable: bool) -> tuple[Channel | None, bool]:
    """The stream of a data packet, made if the peer may open it; True if it was (§14.1)."""
    if stream_id == CONTROL_STREAM:
        return core.open_control(), False
    if core.withheld and not admission.on_withheld(core, now):
        return None, False
    found = core.channel(stream_id)
    if found is not None:
        return found, False
    table = core.stream_table()
    claim = table.claim(stream_id)
    if claim is Claim.FOREIGN:
        core.counters.protocol_violation += 1
    elif claim is Claim.OVER and reliable and table.tombstone(stream_id, now):
        if core.tombstones_owed is None:
            core.tombstones_owed = set()
        core.tombstones_owed.add(stream_id)
        core.owed = True
    if claim is not Claim.NEW or core.memory.used_up:
        return None, False
    if core.accepted is not None and len(core.accepted) >= 2 * core.settings.max_streams:
        return None, False  # Closed ones wait there as well: a peer must not queue all the ids that it has
    return core.new_stream(stream_id, 0, opened_here=False, now=now), True


def _admit(core: SessionCore, stream: Stream) -> None:
    """The peer opened it: it waits to be accepted, and its window is told."""
    core.stream_table().add_peer(stream)
    if core.accepted is None:
        core.accepted = deque()
    core.accepted.append(stream)
    stream.charge += limits.ITEM_OVERHEAD
    core.recount_stream(stream)
    core.progress = True
    if stream.window.due(0, creeping=False):
        core.owe_window(stream)
    if core.observer is not None:
        core.observer.stream_changed(core.path.last_seen, stream.id, "idle", "open")


def _delay_ack(core: SessionCore, channel: Channel) -> None:
    """Its acknowledgement may wait for more, at most MAX_ACK_DELAY."""
    if core.delayed is None:
        core.delayed = {}
    core.delayed[channel] = None


# --- the control stream ---------------------------------------------------------------------------------------------


def _on_control(core: SessionCore, piece: bytes, now: float) -> None:
    """Bytes of stream 0 in order; raises what ends the session (§15.6)."""
    assembler, control = core.control_assembler, core.control
    assert assembler is not None
    assert control is not None
    for message in assembler.feed(piece):
        if isinstance(message, StreamReset):
            _on_reset(core, message, now)
        elif isinstance(message, StreamStop):
            _on_stop(core, message)
        else:
            admission.on_message(core, message, now)
    if control.window.due(assembler.consumed, creeping=False):
        core.owe_window(control)


def _on_reset(core: SessionCore, message: StreamReset, now: float) -> None:
    """The peer abandons its half; for what does not exist or has ended nothing happens."""
    stream = core.streams.get(message.stream_id)
    if stream is None or stream.peer_ended:
        return
    held = stream.reassembly.charged
    if not stream.reassembly.reset(message.final_index):
        core.counters.protocol_violation += 1
        return
    stream.reset_code = message.code
    stream.charge += stream.reassembly.charged - held
    _discard(core, stream)
    core.peer_half_ended(stream, now)


def _discard(core: SessionCore, stream: Stream) -> None:
    reorder = stream.reassembly.charged
    waiting = stream.charge - reorder if core.accepted and stream in core.accepted else 0
    core.backlog -= stream.discard_unread()
    stream.charge = reorder + (limits.ITEM_OVERHEAD if waiting else 0)
    core.recount_stream(stream)


def _on_stop(core: SessionCore, message: StreamStop) -> None:
    """The peer no longer wants this side's half: it is reset with the same code."""
    stream = core.streams.get(message.stream_id)
    if stream is None or stream.own_reset or (stream.own_ended and not stream.has_queued):
        return
    stream.failure = StreamResetError(f"the peer stopped this stream with code {message.code}", message.code)
    core.abandon(stream, message.code)
    core.touch(stream)


# --- acknowledgements and windows -----------------------------------------------------------------------------------


def _on_ack(core: SessionCore, stream_id: int, buf: bytearray, start: int, end: int, now: float) -> None:
    channel = core.channel(stream_id)
    if channel is None:
        return
    try:
        ack_delay_us, ranges = frames.decode_sack(buf, start, end)
    except frames.MalformedFrame:
        core.counters.malformed += 1
        return
    outstanding, path = channel.outstanding, core.path
    largest = ranges[0][1]
    if largest >= outstanding.next_index:
        core.counters.protocol_violation += 1
        return
    base = outstanding.base
    newly: list[Segment] | None = [] if path.congestion is not None else None
    freed, sample = outstanding.acknowledge(ranges, newly)
    if freed or sample is not None or outstanding.base != base:
        core.outstanding -= freed
        if channel.id != CONTROL_STREAM:
            core.acked += freed
        core.acked_at = now
        path.estimator.backoff = 0
        core.progress = True
        if channel.id != SESSION_STREAM:
            _landed(core, channel, now)
    rtt = None
    if sample is not None and sample.sends == 1:
        rtt = now - sample.sent_at
        path.estimator.sample(rtt, ack_delay_us / 1e6)
        core.protection.set_srtt(path.estimator.srtt)
    if newly:
        _delivered(core, newly, rtt, now)
    if not path.profile.datagram:
        refused = outstanding.refused(largest)
        if refused:
            segments, first = outstanding.segments, outstanding.base
            core.lose([LostSegment(channel, i, segments[i - first], "refused") for i in refused], now)
    if core.observer is not None:
        _observe(core, channel, ranges, ack_delay_us, now)
    if channel.blocked:
        core.make_ready(channel)
    if core.session_full:
        core.session_full = False
        for stalled in list(core.stalled or ()):
            core.make_ready(stalled)
    core.settle_outstanding()
    if core.phase is Phase.CLOSING:
        core.check_flushed()


def _delivered(core: SessionCore, newly: list[Segment], rtt: float | None, now: float) -> None:
    """Segments have arrived on a path with congestion control: its model, and what counts as lost now."""
    path = core.path
    congestion, pacer, sent = path.congestion, path.pacer, path.sent
    assert congestion is not None
    assert pacer is not None
    size, newest = 0, None
    for segment in newly:
        segment.acked = True
        if sent is not None and (segment.sends == 1 or now - segment.sent_at >= path.estimator.min_rtt):
            sent.acknowledged(segment)  # else an earlier copy of it has arrived, and says nothing of what followed
        stamp = segment.stamp
        if stamp is not None:
            size += segment.size + _PACKET
            segment.stamp = None
            if newest is None or stamp.sent_at >= newest.sent_at:
                newest = stamp
    before = congestion.state
    congestion.on_ack(size, newest, now, rtt)
    pacer.set_rate(congestion.pacing_rate, congestion.min_rtt, now)
    core.gated = False
    if sent is not None:
        core.lose(sent.lost(now, path.estimator.patience), now)
    if core.observer is not None and congestion.state is not before:
        core.observer.congestion_state_updated(now, before.value, congestion.state.value)


def _observe(core: SessionCore, channel: Channel, ranges: list[tuple[int, int]], ack_delay_us: int, now: float) -> None:
    observer, path = core.observer, core.path
    assert observer is not None
    estimator, congestion = path.estimator, path.congestion
    observer.packets_acked(now, channel.id, ranges, ack_delay_us)
    segments = sum(len(one.outstanding.segments) for one in core.channels())
    observer.metrics_updated(
        now,
        estimator.min_rtt,
        estimator.srtt,
        estimator.latest,
        estimator.rttvar,
        congestion.window if congestion is not None else 0,
        congestion.inflight if congestion is not None else core.outstanding,
        segments,
        (congestion.pacing_rate or 0.0) if congestion is not None else 0.0,
    )


def _landed(core: SessionCore, channel: Channel, now: float) -> None:
    """Something of a stream other than 1 was acknowledged."""
    if not channel.outstanding.segments and core.flying is not None:
        core.flying.pop(channel, None)
    if isinstance(channel, Stream):
        if not channel.proven:
            channel.proven = True
            _proven(core, channel)
        core.settle_stream(channel, now)
    elif core.resets:
        outstanding = channel.outstanding
        landed = channel.send_limit.sent - outstanding.bytes - outstanding.ahead
        while core.resets and core.resets[0][0] <= landed:
            stream = core.resets.popleft()[1]
            core.settle_stream(stream, now)
        if not core.resets:
            core.resets = None


def _proven(core: SessionCore, stream: Stream) -> None:
    """The stream exists at the peer: what had to wait for that leaves (§15.6)."""
    if core.path.profile.datagram:
        core.owe_window(stream)  # the one behind the first segment may have come too early
    if stream.pending_reset is not None:
        core.forget_flight(stream)
        stream.outstanding.abandon(keep_first=False)
        stream.resend = None
        if core.flying is not None:
            core.flying.pop(stream, None)
        core.send_reset(stream, stream.pending_reset)
    core.send_stop(stream)


def _on_window(core: SessionCore, stream_id: int, buf: bytearray, start: int, end: int) -> None:
    channel = core.channel(stream_id)
    if channel is None:
        return
    try:
        limit = frames.decode_window(buf, start, end)
    except frames.MalformedFrame:
        core.counters.malformed += 1
        return
    if channel.send_limit.raise_to(limit) and channel.blocked:
        core.make_ready(channel)


# --- after a batch --------------------------------------------------------------------------------------------------


def after_batch(core: SessionCore, fresh: list[Stream], now: float) -> None:
    """What is decided once a batch: the lent window, splitting, windows, memory, delayed acknowledgements."""
    assembler, first = core.assembler, core.session_stream
    assembler.settle()
    if core.protection.forgeries_exceeded:
        core.fail(ProtocolViolationError("too many packets failed to open; the session was closed"))
    for stream in fresh:
        stream.fresh = False
        core.touch(stream)
        core.recount_stream(stream)
        if stream.pending_acks >= core.path.profile.ack_every:
            core.owe_ack(stream)
        elif stream.pending_acks and not stream.ack_now:
            _delay_ack(core, stream)
        if stream.stop_code is not None:
            consumed(core, stream, now)
    if core.phase.over:
        return
    unsplit = assembler.run_bytes
    if unsplit and (core.reader_waits or unsplit > first.window.window >> 2) and not _split_now(core):
        return
    if assembler.messages:
        core.progress = True
    if first.pending_acks >= core.path.profile.ack_every:
        core.owe_ack(first)
    after_consumption(core, now)


def after_consumption(core: SessionCore, now: float) -> None:
    """Bytes of stream 1 were taken: its window, and the account of receive memory."""
    assembler, window = core.assembler, core.session_stream.window
    estimator = core.path.estimator
    if not estimator.sampled and not core.rtt_asked and assembler.consumed >= 256 * limits.KiB:
        core.rtt_asked = True
        core.owe_ping()
    consumed = assembler.consumed
    if consumed >= window.epoch_at:
        window.observe(consumed, core.free_for(core.session_stream), estimator.srtt, now)
    if window.due(consumed, creeping=assembler.held):
        core.owe_window(core.session_stream)
    core.report(now)


def consumed(core: SessionCore, stream: Stream, now: float) -> None:
    """Bytes of an application stream were read or discarded: its window may open."""
    core.recount_stream(stream)
    if stream.peer_ended or core.phase.over:
        return
    estimator, window = core.path.estimator, stream.window
    if not estimator.sampled and not core.rtt_asked and stream.consumed >= 256 * limits.KiB:
        core.rtt_asked = True
        core.owe_ping()
    if stream.consumed >= window.epoch_at:
        window.observe(stream.consumed, core.free_for(stream), estimator.srtt, now)
    if window.due(stream.consumed, creeping=core.memory.used_up):
        core.owe_window(stream)


def _split_now(core: SessionCore) -> bool:
    try:
        core.assembler.split()
    except ProtocolViolationError as error:
        core.fail(error)
        return False
    return True
