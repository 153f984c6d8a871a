"""The deadlines of a session: what is due next, and doing it (wire-native §14.5, §14.9, §15.2, §15.3, §20)."""

from __future__ import annotations

from phantom import limits
from phantom.errors import HandshakeTimeoutError, NetworkError, PhantomError, SessionDeadError
from phantom.transport.session import admission
from phantom.transport.session.core import SENDING, WRITABLE, SessionCore, earlier
from phantom.transport.session.path_states import PathState, PathTrigger
from phantom.transport.session.reliability import LostSegment
from phantom.transport.session.states import Phase, Trigger
from phantom.transport.session.streams import Channel

_PACKET = 73  # bytes a packet adds to its data

__all__ = ["handle_timer", "next_timer", "path_lost", "rest_at"]


def next_timer(core: SessionCore) -> float | None:
    """When :func:`handle_timer` is due, or None. Cheap; asked after every call."""
    if core.phase.over:
        return core.close_at if core.close_copies else None
    first, path = core.session_stream, core.path
    due = earlier(core.drain_deadline, core.confirm_deadline)
    if first.pending_acks and not first.ack_now:
        due = earlier(due, first.ack_pending_since + limits.MAX_ACK_DELAY)
    if core.delayed:
        due = earlier(due, next(iter(core.delayed)).ack_pending_since + limits.MAX_ACK_DELAY)
    if core.phase is Phase.CLOSING:
        due = earlier(due, core.acked_at + limits.CLOSE_FLUSH_TIMEOUT)
        due = earlier(due, core.close_deadline)
    if core.phase is Phase.MIGRATING:
        due = earlier(due, core.migrating_since + core.settings.session_timeout)
    due = earlier(due, path.silent_at())
    due = earlier(due, _ping_again_at(core))
    due = earlier(due, _retransmit_at(core))
    if path.sent is not None and path.state is PathState.VALIDATED and not path.blocked:
        due = earlier(due, path.sent.loss_at(path.estimator.patience))
    if core.stalled:
        due = earlier(due, _persist_at(core))
    due = earlier(due, _keepalive_at(core))
    if core.memory.used_up:
        due = earlier(due, core.memory.deadline())
    if core.auth is not None:
        due = earlier(due, core.auth.deadline())
    if core.gated:
        due = earlier(due, core.release_at)
    if core.held:
        due = earlier(due, min(core.held.values()))
    if core.shaper is not None and not core.cover_owed and core.phase is Phase.ESTABLISHED:
        due = earlier(due, core.shaper.cover_at(core.last_sent))
    if core.jitter is not None and not core.jitter_due:
        due = earlier(due, core.jitter.next_at())
    return earlier(due, core.protection.grace_end)


def handle_timer(core: SessionCore, now: float) -> None:
    """Does what has become due; may be called early or late without harm."""
    if core.phase.over:
        if core.close_copies and core.close_at is not None and now >= core.close_at:
            core.owed = True
        return
    if core.drain_deadline is not None and now >= core.drain_deadline:
        core.move(Trigger.DRAIN_ENDED, f"the peer closed the session with code {core.peer_code}")
        core.release()
        return
    if core.confirm_deadline is not None and now >= core.confirm_deadline:
        core.error = HandshakeTimeoutError(
            "the client proved nothing within the handshake deadline; the session was dropped"
        )
        core.move(Trigger.PATH_LOST, "the client never proved that it holds the keys")
        core.release()
        return
    if core.auth is not None and admission.expire(core, now):
        return
    _delayed_acks(core, now)
    silent = core.path.silent_at()
    if silent is not None and now >= silent:
        quiet = now - core.path.last_seen
        if not core.path.profile.datagram:
            path_lost(core, NetworkError(f"nothing was heard from the peer for {quiet:.0f} s"))
            return
        _suspend(core, now, f"nothing was heard from the peer for {quiet:.1f} s")
    if core.phase is Phase.MIGRATING and now >= core.migrating_since + core.settings.session_timeout:
        quiet = now - core.path.last_seen
        core.error = SessionDeadError(f"the session was lost: nothing was heard from the peer for {quiet:.0f} s")
        core.path.live = False
        core.move(Trigger.GAVE_UP, "no path came back in time")
        core.release()
        return
    again = _ping_again_at(core)
    if again is not None and now >= again:
        core.path.suspended_pto = min(2 * core.path.suspended_pto, limits.SUSPENDED_PING_MAX)
        core.owe_ping()
    if core.phase is Phase.CLOSING:
        over = core.close_deadline is not None and now >= core.close_deadline
        if over or now >= core.acked_at + limits.CLOSE_FLUSH_TIMEOUT:
            core.flush_ended()
            return
    if core.gated and core.release_at is not None and now >= core.release_at:
        core.gated = False
    _shape(core, now)
    core.protection.expire(now)
    _rest(core, now)
    _lose(core, now)
    _retransmit(core, now)
    _persist(core, now)
    keepalive = _keepalive_at(core)
    if keepalive is not None and now >= keepalive:
        if core.table is not None:
            core.table.forget(now)
        core.owe_ping()
    patience = core.memory.deadline()
    if patience is not None and now >= patience:
        core.memory.enforce(now)


def _shape(core: SessionCore, now: float) -> None:
    """Bundles, cover traffic and jittered packets that are due."""
    if core.held:
        core.release_bundles(now)
    cover = core.shaper.cover_at(core.last_sent) if core.shaper is not None else None
    if cover is not None and now >= cover and core.phase is Phase.ESTABLISHED:
        core.cover_owed = core.owed = True
    waiting = core.jitter.next_at() if core.jitter is not None else None
    if waiting is not None and now >= waiting:
        core.jitter_due = True


def _suspend(core: SessionCore, now: float, reason: str) -> None:
    """Silence on a datagram path (§18.2): PINGs at ever longer pauses; without another path it waits."""
    path = core.path
    core.move_path(PathTrigger.SILENT, reason)
    path.suspended_pto = path.estimator.pto
    core.owe_ping()
    if core.phase is Phase.ESTABLISHED:
        core.migrating_since = now
        core.move(Trigger.PATH_SILENT, reason)


def path_lost(core: SessionCore, error: PhantomError | None) -> None:
    """The leg ended or failed (§18.7): without another path the session is Dead, a closing one Closed."""
    core.jitter = None  # what waited for its time has nothing left to leave on
    core.jitter_due = False
    if core.phase.over:
        core.let_go()
        return
    core.path.live = False
    if core.phase in WRITABLE:
        detail = str(error) if error is not None else "the peer's end of the connection is gone"
        if not core.confirmed:
            detail += "; the client left before its first packet, perhaps because it pins another key"
        core.error = SessionDeadError(f"the session lost its connection: {detail}")
        core.error.__cause__ = error
    core.move(Trigger.PATH_LOST, "the connection was lost")
    core.release()


def rest_at(core: SessionCore) -> float | None:
    """When :func:`handle_timer` could let go of ciphers that nobody has needed for REST_AFTER; None if it has.

    Not part of :func:`next_timer`: resting saves memory and changes nothing else.
    """
    if core.protection.resting or core.phase.over:
        return None
    return max(core.path.last_seen, core.rest_tried) + limits.REST_AFTER


def _rest(core: SessionCore, now: float) -> None:
    due = rest_at(core)
    if due is not None and now >= due:
        core.rest_tried = now
        if not core.owed and not core.ready:
            core.protection.rest()


def _delayed_acks(core: SessionCore, now: float) -> None:
    first = core.session_stream
    if first.pending_acks and now >= first.ack_pending_since + limits.MAX_ACK_DELAY:
        core.owe_ack(first)
    for channel in tuple(core.delayed or ()):
        if now >= channel.ack_pending_since + limits.MAX_ACK_DELAY:
            core.owe_ack(channel)
            if core.delayed is not None:
                core.delayed.pop(channel, None)  # what is owed has no deadline: the leg may be blocked


def _flying(core: SessionCore) -> list[Channel]:
    """Channels with outstanding segments."""
    first = core.session_stream
    flying = [first] if first.outstanding.segments else []
    if core.flying:
        flying += core.flying
    return flying


def _retransmit_at(core: SessionCore) -> float | None:
    path = core.path
    if path.blocked or core.phase not in SENDING or path.state is not PathState.VALIDATED:
        return None
    if path.sent is not None:  # one segment a timeout, the oldest
        first = path.sent.oldest()
        return None if first is None else max(first[2].sent_at, path.rto_at, path.drained_at) + path.estimator.rto
    segments = core.session_stream.outstanding.segments
    oldest = segments[0].sent_at if segments else None  # the first is never acknowledged
    if core.flying:
        oldest = earlier(oldest, min(channel.outstanding.segments[0].sent_at for channel in core.flying))
    return None if oldest is None else max(oldest, path.drained_at) + path.estimator.rto


def _lose(core: SessionCore, now: float) -> None:
    """Early loss by time (§14.9)."""
    path = core.path
    if path.sent is not None and path.state is PathState.VALIDATED:
        due = path.sent.loss_at(path.estimator.patience)
        if due is not None and now >= due:
            core.lose(path.sent.lost(now, path.estimator.patience), now)


def _retransmit(core: SessionCore, now: float) -> None:
    due = _retransmit_at(core)
    if due is None or now < due:
        return
    path = core.path
    if path.sent is not None:
        oldest = path.sent.oldest()
        assert oldest is not None
        path.rto_at = now
        channel, index, segment = oldest
        core.probe = (channel, index)
        core.owed = True
        if path.congestion is not None and segment.stamp is not None:
            path.congestion.on_lost(segment.size + _PACKET, segment.stamp, now)
            segment.stamp = None
        if core.observer is not None:
            core.observer.packet_lost(now, channel.id, index, "pto_expired")
    else:
        rto = path.estimator.rto
        core.lose(
            [
                LostSegment(channel, channel.outstanding.base, channel.outstanding.segments[0], "pto_expired")
                for channel in _flying(core)
                if max(channel.outstanding.segments[0].sent_at, path.drained_at) + rto <= now
            ],
            now,
        )
    path.estimator.backoff = min(path.estimator.backoff + 1, limits.RTO_MAX_BACKOFF)


def _persist_at(core: SessionCore) -> float | None:
    """Data queued, no room, nothing outstanding: asks for the limit, at most once per RTO (§14.6)."""
    if core.path.blocked or core.phase not in SENDING or core.path.state is not PathState.VALIDATED:
        return None
    starved = [c.probe_at for c in core.stalled or () if not c.outstanding.segments and c.outstanding.base]
    if not starved:
        return None
    return max(min(starved), core.acked_at) + core.path.estimator.rto


def _persist(core: SessionCore, now: float) -> None:
    due = _persist_at(core)
    if due is None or now < due:
        return
    for channel in core.stalled or ():
        outstanding = channel.outstanding
        if outstanding.base and not outstanding.segments and channel.probe_at + core.path.estimator.rto <= now:
            channel.probe_at = now
            channel.probe_owed = True
            core.owe(channel)


def _ping_again_at(core: SessionCore) -> float | None:
    """When an unanswered PING is repeated; not while one is owed, which may have to wait for the leg."""
    return core.path.ping_again_at() if core.phase in SENDING and not core.pings_owed else None


def _keepalive_at(core: SessionCore) -> float | None:
    interval = core.settings.keepalive_interval
    path = core.path
    if interval is None or core.phase is not Phase.ESTABLISHED or path.outstanding_since is not None or core.pings_owed:
        return None
    most = path.profile.keepalive_max
    if most is not None and most < interval:
        interval = most
    return max(path.last_seen, path.last_ping_at) + interval
