"""One bottleneck on a virtual clock: what a sender with congestion control and pacer gets through it."""

from __future__ import annotations

import heapq
import random
from collections import deque

from phantom.transport.session.congestion import CongestionControl, SendStamp, State
from phantom.transport.session.pacing import Pacer

SIZE = 1195


class Bottleneck:
    """A link of ``rate`` bytes/s with a tail-drop queue of ``queue`` bytes; ACKs come back for every second packet.

    ``jitter`` delays each ACK by up to so many seconds, ``loss`` drops packets at random (seeded). Losses are seen as
    on the wire: when three later packets were acknowledged, or nothing came for a second.
    """

    def __init__(
        self,
        rate: float,
        rtt: float,
        *,
        queue: float = 0.0,
        loss: float = 0.0,
        jitter: float = 0.0,
        limited: float = 0.0,
    ) -> None:
        self.rate, self.rtt, self.loss, self.jitter = rate, rtt, loss, jitter
        self.queue = queue or max(rate * rtt * 2, 64 * SIZE)
        self.limited = limited  # bytes/s that the application has, 0 = always more
        self.now = 0.0
        self.cc = CongestionControl(0.0)
        self.pacer = Pacer(0.0)
        self.random = random.Random(7)
        self.flying: deque[tuple[int, SendStamp]] = deque()
        self.acks: list[tuple[float, int, list[int]]] = []
        self.free_at = 0.0  # when the link has sent what it holds
        self.number = 0
        self.sent_by_app = 0
        self.unacked: list[int] = []
        self.delivered: list[tuple[float, int]] = []
        self.queued: list[float] = []
        self.states: list[State] = [State.STARTUP]
        self.dropped = 0

    def send(self) -> float | None:
        """Everything that may leave; when to ask again."""
        cc, pacer = self.cc, self.pacer
        while cc.room >= SIZE:
            if self.limited and self.sent_by_app >= self.limited * self.now:
                cc.on_app_limited()
                return self.sent_by_app / self.limited + 1e-6
            if pacer.available(self.now) < SIZE:
                return pacer.release_at(SIZE, self.now)
            pacer.spend(SIZE)
            self.sent_by_app += SIZE
            number = self.number
            self.number += 1
            self.flying.append((number, cc.on_sent(SIZE, self.now)))
            waiting = max(0.0, self.free_at - self.now) * self.rate
            self.queued.append(waiting)
            if waiting + SIZE > self.queue or self.random.random() < self.loss:
                self.dropped += 1
                continue
            self.free_at = max(self.free_at, self.now) + SIZE / self.rate
            self.unacked.append(number)
            if len(self.unacked) == 2 or cc.room < SIZE:
                arrives = self.free_at + self.rtt + self.jitter * self.random.random()
                heapq.heappush(self.acks, (arrives, number, self.unacked))
                self.unacked = []
        return None

    def receive(self, numbers: list[int]) -> None:
        cc, top = self.cc, numbers[-1]
        acked = [(n, stamp) for n, stamp in self.flying if n in numbers]
        self.flying = deque((n, stamp) for n, stamp in self.flying if n not in numbers)
        if acked:
            size = SIZE * len(acked)
            self.delivered.append((self.now, size))
            cc.on_ack(size, acked[-1][1], self.now, self.now - acked[-1][1].sent_at)
        while self.flying and self.flying[0][0] + 3 <= top and not self.jitter:
            cc.on_lost(SIZE, self.flying.popleft()[1], self.now)

    def run(self, seconds: float) -> Bottleneck:
        end = self.now + seconds
        while self.now < end:
            self.pacer.set_rate(self.cc.pacing_rate, self.cc.min_rtt, self.now)
            again = self.send()
            if self.states[-1] is not self.cc.state:
                self.states.append(self.cc.state)
            if not self.acks and again is None:  # everything was lost, or waits for its ACK: the timeout
                if self.unacked:
                    heapq.heappush(self.acks, (max(self.free_at, self.now) + self.rtt, self.number, self.unacked))
                    self.unacked = []
                    continue
                self.now += 1.0
                while self.flying:
                    self.cc.on_lost(SIZE, self.flying.popleft()[1], self.now)
                continue
            if again is not None and (not self.acks or again < self.acks[0][0]):
                self.now = max(again, self.now + 1e-9)
                continue
            self.now, _, numbers = heapq.heappop(self.acks)
            self.receive(numbers)
        return self

    def share(self, since: float) -> float:
        """Delivered bytes as a share of what the link could carry since then."""
        got = sum(size for at, size in self.delivered if at >= since)
        return got / (self.rate * (self.now - since))
