"""Handshakes over simulated datagram links, by the retransmission rules of the UDP leg (wire-native §21.5).

The fragments here are a model of that leg, not the leg: 1200 payload bytes and a header of 29 each, the client repeats
its whole message every 250 ms until it is answered, the server repeats a reply when it is asked again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import Struct
from typing import Final

from phantom import limits
from phantom.api.identity import HybridSigningKey
from phantom.crypto.pins import PinSet
from phantom.crypto.providers import Provider
from phantom.crypto.rng import RngProvider
from phantom.errors import PhantomError, UnsupportedError
from phantom.testing.simulator.links import DatagramLink
from phantom.testing.virtual_time import VirtualTime
from phantom.transport.handshake.events import Close, Established, HandshakeResult, Send, SolveChallenge
from phantom.transport.handshake.gate import Gate, Source
from phantom.transport.handshake.initiator import Initiator
from phantom.transport.handshake.responder import Responder

__all__ = ["HandshakeClient", "HandshakeServer", "SeededRng"]

_HEAD: Final = Struct("<B16sIHHI")  # kind, token, packet_id, chunk_index, total_chunks, length
_CHUNK: Final = 1200
_RESEND: Final = 0.250  # s, UDP_HELLO_RESEND
_REPEAT: Final = 0.200  # s, UDP_REPLY_REPEAT
_KEEP: Final = 10.0  # s, UDP_REPLY_KEEP
_MOST_CHUNKS: Final = 16


class SeededRng:
    """Random bytes that a seed decides: for simulations and nothing else."""

    __slots__ = ("_random",)

    def __init__(self, generator: random.Random) -> None:
        self._random = generator

    def fill_bytes(self, n: int) -> bytes:
        """``n`` bytes."""
        return self._random.randbytes(n)


def fragments(token: bytes, packet_id: int, frame: bytes) -> list[bytes]:
    """The datagrams of one handshake frame."""
    chunks = [frame[at : at + _CHUNK] for at in range(0, len(frame), _CHUNK)]
    return [
        _HEAD.pack(1, token, packet_id, index, len(chunks), len(chunk)) + chunk for index, chunk in enumerate(chunks)
    ]


class Assembly:
    """Puts fragments together; a repeated index never overwrites, what does not fit is dropped."""

    __slots__ = ("_parts", "_total", "packet_id", "token")

    def __init__(self) -> None:
        self.token = b""
        self.packet_id = -1
        self._total = 0
        self._parts: dict[int, bytes] = {}

    def take(self, datagram: bytes, wanted: Callable[[bytes, int], bool]) -> tuple[bytes | None, int]:
        """One datagram: (the frame, if it is whole now; the index of the chunk, -1 if it was dropped).

        ``wanted(token, packet_id)`` says whether the message is of interest.
        """
        if len(datagram) < _HEAD.size or datagram[0] != 1:
            return None, -1
        _, token, packet_id, index, total, length = _HEAD.unpack_from(datagram)
        payload = datagram[_HEAD.size :]
        if length != len(payload) or length > _CHUNK or not 0 < total <= _MOST_CHUNKS or index >= total:
            return None, -1
        if index < total - 1 and length != _CHUNK:
            return None, -1
        if not wanted(token, packet_id):
            return None, -1
        if (token, packet_id) != (self.token, self.packet_id):
            self.token, self.packet_id, self._total, self._parts = token, packet_id, total, {}
        if total != self._total:
            return None, -1
        self._parts.setdefault(index, payload)
        if len(self._parts) < total:
            return None, index
        return b"".join(self._parts[place] for place in range(total)), index


class HandshakeClient:
    """An initiator on a datagram link. ``result`` or ``error`` is set when it is over, ``seconds`` with it."""

    def __init__(
        self,
        clock: VirtualTime,
        link: DatagramLink,
        pins: PinSet,
        provider: Provider,
        rng: RngProvider,
        deadline: float = limits.HANDSHAKE_DEADLINE,
    ) -> None:
        self._clock = clock
        self._link = link
        self._token = rng.fill_bytes(16)
        self._assembly = Assembly()
        self._packet_id = -1
        self._datagrams: list[bytes] = []
        self._initiator = Initiator(
            pins, provider=provider, rng=rng, read_timeout=deadline, handshake_deadline=deadline
        )
        self._begun = 0.0
        self.result: HandshakeResult | None = None
        self.error: PhantomError | None = None
        self.seconds = 0.0
        self.datagrams = 0

    @property
    def over(self) -> bool:
        """True once it has succeeded or failed."""
        return self.result is not None or self.error is not None

    def start(self) -> None:
        """Sends the hello."""
        self._begun = self._clock.now
        self._initiator.start(self._clock.now)
        self._clock.at(self._initiator.deadline(self._clock.now), self._expire)
        self._pump()

    def receive(self, datagram: bytes) -> None:
        """A datagram of the server."""
        if self.over:
            return
        frame, _ = self._assembly.take(
            datagram, lambda token, packet_id: token == self._token and packet_id == self._packet_id
        )
        if frame is None:
            return
        try:
            self._initiator.receive(frame, self._clock.now)
        except PhantomError as error:
            self._fail(error)
            return
        self._pump()

    def _pump(self) -> None:
        while (event := self._initiator.next_event()) is not None:
            if isinstance(event, Send):
                self._packet_id += 1
                self._datagrams = fragments(self._token, self._packet_id, event.frame)
                self._send(self._packet_id)
            elif isinstance(event, Established):
                self.result = event.result
                self.seconds = self._clock.now - self._begun
            elif isinstance(event, SolveChallenge):
                self._fail(UnsupportedError("a simulated client does no proof of work"))

    def _send(self, packet_id: int) -> None:
        """The whole message, and again every 250 ms until it is answered."""
        if self.over or packet_id != self._packet_id:
            return
        for datagram in self._datagrams:
            self.datagrams += 1
            self._link.send(datagram)
        self._clock.after(_RESEND, lambda: self._send(packet_id))

    def _expire(self) -> None:
        if not self.over:
            try:
                self._initiator.expire(self._clock.now)
            except PhantomError as error:
                self._fail(error)

    def _fail(self, error: PhantomError) -> None:
        self._initiator.abort()
        self.error = error
        self.seconds = self._clock.now - self._begun


class HandshakeServer:
    """A responder for one client on a datagram link that proves no address: a cookie first, then the answer.

    It never makes a second session of one hello: what it answered is kept, and repeated when the client asks again.
    """

    def __init__(
        self,
        clock: VirtualTime,
        link: DatagramLink,
        key: HybridSigningKey,
        gate: Gate,
        source: Source,
        provider: Provider,
        rng: RngProvider,
    ) -> None:
        self._clock = clock
        self._link = link
        self._assembly = Assembly()
        self._answered = -1
        self._reply: list[bytes] = []
        self._replied_at = -1.0
        self._keep_until = 0.0
        self._responder = Responder(
            key,
            gate,
            source,
            provider=provider,
            rng=rng,
            read_timeout=limits.HANDSHAKE_DEADLINE,
            handshake_deadline=limits.HANDSHAKE_DEADLINE,
        )
        self._responder.start(clock.now)
        self.result: HandshakeResult | None = None
        self.sessions = 0
        self.repeats = 0
        self.closed = ""

    def receive(self, datagram: bytes) -> None:
        """A datagram of the client."""
        frame, index = self._assembly.take(datagram, lambda _, packet_id: packet_id >= self._answered)
        now = self._clock.now
        if index == 0 and self._assembly.packet_id == self._answered:
            if now - self._replied_at >= _REPEAT and now < self._keep_until:
                self.repeats += 1
                self._send_reply()
            return
        if frame is None or self._assembly.packet_id <= self._answered:
            return
        packet_id = self._assembly.packet_id
        self._responder.receive(frame, now, 1_800_000_000.0 + now)
        while (event := self._responder.next_event()) is not None:
            if isinstance(event, Send):
                self._answered = packet_id
                self._reply = fragments(self._assembly.token, packet_id, event.frame)
                self._keep_until = now + _KEEP
                self._send_reply()
            elif isinstance(event, Established):
                self.sessions += 1
                self.result = event.result
            elif isinstance(event, Close):
                self.closed = event.reason

    def _send_reply(self) -> None:
        self._replied_at = self._clock.now
        for datagram in self._reply:
            self._link.send(datagram)
