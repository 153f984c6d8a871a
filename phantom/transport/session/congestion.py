"""Congestion control of one path: what may be in flight, and how fast it leaves (wire-native §19.2).

The model is the bottleneck: the largest delivery rate and the smallest round trip of the last ten seconds; their
product (BDP) is what the path holds without a queue.

- STARTUP: the rate doubles each round, until three rounds in a row brought less than 25 % more bandwidth.
- DRAIN: the queue that start-up built is worked off, until no more than the BDP is in flight.
- PROBE_BW: the steady state; a cycle of one minimum round trip a step tries more, gives it back, and cruises.
- PROBE_RTT: every ten seconds next to nothing is sent for 200 ms, so that the true round trip shows.
- FAST_RECOVERY: after a loss half the rate, until no more than the BDP is in flight.

PROBE_RTT and FAST_RECOVERY return to the state they interrupted. A pair that the table does not name changes nothing.
Everything is measured here: of what the peer says only *which* bytes arrived is believed (RFC 9002 §5).
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Final, NamedTuple

from phantom import limits

__all__ = ["GAINS", "TRANSITIONS", "CongestionControl", "Event", "Gains", "SendStamp", "State", "WindowedMax"]


class State(enum.Enum):
    """See the module text."""

    STARTUP = "Startup"
    DRAIN = "Drain"
    PROBE_BW = "ProbeBW"
    PROBE_RTT = "ProbeRTT"
    FAST_RECOVERY = "FastRecovery"


class Event(enum.Enum):
    """What an acknowledgement or a loss has shown."""

    PLATEAU = "bandwidth stopped growing"
    DRAINED = "no more than the BDP in flight"
    PROBE_DUE = "round trip not probed for 10 s"
    PROBE_OVER = "200 ms of probing"
    LOSS = "loss"


class Gains(NamedTuple):
    """Factors on the bandwidth (pacing) and on the BDP (window)."""

    pacing: float
    window: float


GAINS: Final = {
    State.STARTUP: Gains(2.0, 2.0),
    State.DRAIN: Gains(0.75, 2.0),
    State.PROBE_BW: Gains(1.0, 2.0),  # the pacing gain goes round PROBE_BW_CYCLE
    State.PROBE_RTT: Gains(1.0, 1.0),
    State.FAST_RECOVERY: Gains(0.5, 1.0),
}
PROBE_BW_CYCLE: Final = (1.25, 0.75, 1.0, 1.0)

TRANSITIONS: Final[dict[tuple[State, Event], State | None]] = {
    (State.STARTUP, Event.PLATEAU): State.DRAIN,
    (State.STARTUP, Event.LOSS): State.FAST_RECOVERY,
    (State.DRAIN, Event.DRAINED): State.PROBE_BW,
    (State.DRAIN, Event.PROBE_DUE): State.PROBE_RTT,
    (State.DRAIN, Event.LOSS): State.FAST_RECOVERY,
    (State.PROBE_BW, Event.PROBE_DUE): State.PROBE_RTT,
    (State.PROBE_BW, Event.LOSS): State.FAST_RECOVERY,
    (State.PROBE_RTT, Event.PROBE_OVER): None,
    (State.FAST_RECOVERY, Event.DRAINED): None,
}
"""State x event -> state; None is the state that was interrupted. The docs draw their diagram from it."""

_FLOOR: Final = limits.MIN_CWND


class WindowedMax:
    """The largest value of the last ``window`` seconds, to a tenth of it; at most eleven entries whatever comes.

    The last value known stays when nothing new has come for longer. Of negated values it is the minimum.
    """

    __slots__ = ("_entries", "_step")

    def __init__(self, window: float) -> None:
        self._step = window / 10
        self._entries: deque[tuple[int, float]] = deque()

    def update(self, value: float, now: float) -> float:
        """Adds a value; returns the largest."""
        entries, tenth = self._entries, int(now / self._step)
        while entries and entries[0][0] <= tenth - 10:
            entries.popleft()
        while entries and entries[-1][1] <= value:
            entries.pop()
        if not entries or entries[-1][0] != tenth:
            entries.append((tenth, value))
        return entries[0][1]


class SendStamp(NamedTuple):
    """What a segment remembers of the moment it was sent, for the delivery-rate sample that its ACK gives."""

    sent_at: float
    delivered: int  # bytes acknowledged by then
    delivered_at: float  # when the last of them was
    first_sent_at: float  # when the segment was sent whose ACK that was
    app_limited: bool


class CongestionControl:
    """Window, pacing rate and state of one path; times in seconds of the engine's clock, sizes in bytes on the wire.

    The sender calls ``on_sent`` for every transmission that is acknowledged (retransmissions too) and keeps the stamp;
    ``on_ack`` once for each ACK, ``on_lost`` for what is retransmitted, ``on_discarded`` for what nobody waits for any
    more, ``on_app_limited`` when it has nothing to send although :attr:`room` is left: no data, or no flow control
    credit.
    """

    __slots__ = (
        "_app_limited_until",
        "_bandwidths",
        "_cycle",
        "_delivered_at",
        "_first_sent_at",
        "_full_bandwidth",
        "_full_rounds",
        "_previous",
        "_probe_at",
        "_probe_over_at",
        "_recovery_at",
        "_round_at",
        "_round_delivered",
        "_round_sampled",
        "_rtts",
        "_stepped_at",
        "bandwidth",
        "delivered",
        "inflight",
        "min_rtt",
        "samples",
        "state",
    )

    def __init__(self, now: float) -> None:
        self.state = State.STARTUP
        self.bandwidth = 0.0  # bytes/s, 0 until the first sample
        self.min_rtt = limits.INITIAL_MIN_RTT
        self.samples = 0  # delivery-rate samples taken
        self.inflight = 0
        self.delivered = 0
        self._delivered_at = self._first_sent_at = now
        self._app_limited_until = 0
        self._bandwidths = WindowedMax(limits.BANDWIDTH_WINDOW)
        self._rtts = WindowedMax(limits.BANDWIDTH_WINDOW)  # negated
        self._previous = State.STARTUP
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._round_at = now
        self._round_delivered = 0
        self._round_sampled = False
        self._cycle = 0
        self._stepped_at = now
        self._probe_at = now + limits.PROBE_RTT_INTERVAL
        self._probe_over_at = 0.0
        self._recovery_at = -math.inf  # when the last loss was seen

    @property
    def bdp(self) -> float:
        """Bytes that the path holds without a queue."""
        return self.bandwidth * self.min_rtt

    @property
    def window(self) -> int:
        """The congestion window."""
        if self.state is State.PROBE_RTT:
            return _FLOOR
        return max(int(GAINS[self.state].window * self.bdp), _FLOOR)

    @property
    def room(self) -> int:
        """Bytes that may be sent now; negative while more is in flight than a shrunken window allows."""
        return self.window - self.inflight

    @property
    def pacing_rate(self) -> float | None:
        """Bytes/s for the pacer; None (unlimited) until enough delivery samples were taken (§19.3)."""
        if self.samples < limits.PACER_SAMPLES:
            return None
        gain = PROBE_BW_CYCLE[self._cycle] if self.state is State.PROBE_BW else GAINS[self.state].pacing
        return gain * self.bandwidth

    def on_sent(self, size: int, now: float) -> SendStamp:
        """``size`` bytes have left."""
        if not self.inflight:  # an idle path: no queue of ours stands on it, and its silence is no slow delivery
            self._first_sent_at = self._delivered_at = now
            self._probe_at = now + limits.PROBE_RTT_INTERVAL
        self.inflight += size
        limited = self.delivered < self._app_limited_until
        return SendStamp(now, self.delivered, self._delivered_at, self._first_sent_at, limited)

    def on_app_limited(self) -> None:
        """Samples of everything in flight now measure the application, not the path."""
        self._app_limited_until = self.delivered + max(self.inflight, 1)

    def on_ack(self, size: int, newest: SendStamp | None, now: float, rtt: float | None = None) -> None:
        """``size`` bytes were newly acknowledged, ``newest`` is the stamp of the one of them that was sent last.

        ``rtt`` is a round trip measured here without subtracting the peer's delay, from a segment sent exactly once.
        """
        if rtt is not None:
            self.min_rtt = -self._rtts.update(-rtt, now)
        self.inflight -= size
        self.delivered += size
        self._delivered_at = now
        if newest is not None:
            self._first_sent_at = newest.sent_at
            self._sample(newest, now)
            self._round(newest, now)
        if self.inflight <= max(self.bdp, _FLOOR):  # the window's floor may be more than a short path's BDP
            self._step(Event.DRAINED)
        self._probe(now)
        if self.state is State.PROBE_BW and now - self._stepped_at >= self.min_rtt:
            self._cycle = (self._cycle + 1) % len(PROBE_BW_CYCLE)
            self._stepped_at = now

    def on_lost(self, size: int, stamp: SendStamp, now: float) -> None:
        """``size`` bytes count as lost and are retransmitted. What was sent before a loss was seen is part of it."""
        self.inflight -= size
        if stamp.sent_at > self._recovery_at:
            self._recovery_at = now
            self._step(Event.LOSS)

    def on_discarded(self, size: int) -> None:
        """``size`` bytes are no longer waited for: their stream was reset, or they move to another path."""
        self.inflight -= size

    def _sample(self, stamp: SendStamp, now: float) -> None:
        """Delivery rate over the longer of the send and the ACK interval; a shorter one would believe ACK bursts."""
        interval = max(stamp.sent_at - stamp.first_sent_at, now - stamp.delivered_at)
        if stamp.app_limited or interval < 0.99 * self.min_rtt or interval <= 0.0:
            return
        self.samples += 1
        self._round_sampled = True
        self.bandwidth = self._bandwidths.update((self.delivered - stamp.delivered) / interval, now)

    def _round(self, stamp: SendStamp, now: float) -> None:
        """A round is one minimum round trip of acknowledgements, of data sent in it: what the last step of the rate
        brought must have had the time to show. Rounds that measured nothing count for nothing."""
        if now - self._round_at < self.min_rtt or stamp.delivered < self._round_delivered:
            return
        self._round_at = now
        self._round_delivered = self.delivered
        if self.state is State.STARTUP and self._round_sampled:
            if self.bandwidth >= self._full_bandwidth * limits.STARTUP_GROWTH:
                self._full_bandwidth = self.bandwidth
                self._full_rounds = 0
            else:
                self._full_rounds += 1
                if self._full_rounds >= limits.STARTUP_ROUNDS:
                    self._step(Event.PLATEAU)
        self._round_sampled = False

    def _probe(self, now: float) -> None:
        if self.state is State.PROBE_RTT:
            if now >= self._probe_over_at:
                self._probe_at = now + limits.PROBE_RTT_INTERVAL
                self._step(Event.PROBE_OVER)
        elif now >= self._probe_at:
            self._probe_over_at = now + limits.PROBE_RTT_TIME
            self._step(Event.PROBE_DUE)

    def _step(self, event: Event) -> None:
        key = (self.state, event)
        if key not in TRANSITIONS:
            return
        after = TRANSITIONS[key]
        if after is None:
            after = self._previous
        elif after in _INTERRUPTING:
            self._previous = self.state
        self.state = after


_INTERRUPTING: Final = (State.PROBE_RTT, State.FAST_RECOVERY)
