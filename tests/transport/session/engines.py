"""Session engines on a workbench: two of them back to back, or one against a peer made by hand.

Bytes are moved by the test, the clock is an argument. Every engine records the nonces it seals under and fails when one
comes back; every window it is lent is scribbled over afterwards, so nothing may keep a reference to it.
"""

from __future__ import annotations

import functools
from struct import unpack_from
from typing import Any, NamedTuple

from phantom import limits
from phantom.crypto.aead import CipherSuite
from phantom.crypto.providers import get_provider
from phantom.transport.packet import flags, frames
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.protection import ALL_SUITES, ProtectionLimits, ProtectionV2
from phantom.transport.session.client_auth import ClientAuthentication
from phantom.transport.session.connection import Connection, SessionSettings
from phantom.transport.session.memory import ReceiveMemory
from phantom.transport.session.paths import BYTE_PIPE, LegProfile, Path

AES, CHACHA = CipherSuite.AES_256_GCM, CipherSuite.CHACHA20_POLY1305
SECRET = b"\x11" * 32
SESSION = b"\x88" * 32
HUGE = 1 << 40


class RecordingProtection(ProtectionV2):
    """Fails when a nonce is used twice under one key."""

    __slots__ = ("nonces",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.nonces: set[bytes] = set()

    def seal(self, buf: bytearray, view: memoryview, at: int, *packet: Any) -> int:
        end = super().seal(buf, view, at, *packet)
        nonce = bytes(buf[at + 43 : at + 45] + buf[at + 33 : at + 39])  # epoch, path, stream, sequence
        assert nonce not in self.nonces
        self.nonces.add(nonce)
        return end


def protection(
    initiator: bool,
    *,
    suite: CipherSuite = AES,
    receive: tuple[CipherSuite, ...] = ALL_SUITES,
    secret: bytes = SECRET,
    counters: DropCounters | None = None,
    **guards: Any,
) -> RecordingProtection:
    return RecordingProtection(
        initiator,
        SESSION,
        bytearray(secret),
        send_suite=suite,
        provider=get_provider(),
        receive_suites=receive,
        counters=counters or DropCounters(),
        limits=ProtectionLimits(**guards),
    )


def framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


def split_frames(data: bytes) -> list[bytes]:
    """The frames behind their length prefixes."""
    found = []
    at = 0
    while at < len(data):
        length = unpack_from(">I", data, at)[0]
        found.append(data[at + 4 : at + 4 + length])
        assert len(found[-1]) == length
        at += 4 + length
    return found


class Engine:
    """One connection with what a driver would do around it. Settings and guards by keyword."""

    def __init__(
        self,
        initiator: bool,
        *,
        now: float = 0.0,
        memory: ReceiveMemory | None = None,
        suite: CipherSuite = AES,
        receive: tuple[CipherSuite, ...] = ALL_SUITES,
        secret: bytes = SECRET,
        guards: dict[str, Any] | None = None,
        profile: LegProfile = BYTE_PIPE,
        root: bytes | None = None,
        auth: ClientAuthentication | None = None,
        **settings: Any,
    ) -> None:
        self.counters = DropCounters()
        self.memory = memory if memory is not None else ReceiveMemory(limits.RECV_MEMORY)
        self.settings = SessionSettings(**settings)
        self.protection = protection(
            initiator, suite=suite, receive=receive, secret=secret, counters=self.counters, **(guards or {})
        )
        self.conn = Connection(
            self.protection,
            initiator=initiator,
            path=Path(
                0,
                "memory",
                now=now,
                profile=profile,
                silence_floor=None if profile.datagram else self.settings.silence_floor,
            ),
            settings=self.settings,
            memory=self.memory,
            counters=self.counters,
            now=now,
            root=None if root is None else bytearray(root),
            auth=auth,
        )
        self.rest = b""
        self.got: list[bytes] = []

    def emit(self, now: float, size: int = limits.SEND_BATCH) -> bytes:
        """Everything that may leave now, in batches of ``size``."""
        out = []
        while data := self.batch(now, size):
            out.append(data)
        return b"".join(out)

    def batch(self, now: float, size: int) -> bytes:
        """One batch, b"" when nothing is due."""
        size = max(size, self.conn.session_stream.budget + limits.CHUNK_SLACK + 8192)
        buf = bytearray(b"\xee" * size)
        end = self.conn.fill(0, buf, memoryview(buf), 0, size, now)
        if not self.conn.phase.over and self.conn.jitter is None:  # a batch whose key ran out is not taken back
            assert buf[end : end + 16] == b"\xee" * len(buf[end : end + 16])
        return bytes(buf[:end])

    def take(self, data: bytes, now: float) -> None:
        """Bytes off the wire; whole frames are consumed, the rest is kept."""
        buf = bytearray(self.rest + data)
        self.rest = b""
        at = self.conn.receive(0, buf, memoryview(buf), 0, len(buf), now)
        self.rest = bytes(buf[at:])
        buf[:] = b"\xdd" * len(buf)

    def read(self, now: float, most: int = HUGE) -> list[bytes]:
        """Up to ``most`` messages, as a reader that never waits takes them."""
        conn, found = self.conn, []
        while len(found) < most and (conn.messages or conn.refill(now)):
            found.append(conn.messages.popleft())
        self.got += found
        return found

    def counted(self) -> dict[str, int]:
        """The drop counters that are not 0."""
        return {name: count for name, count in self.counters.snapshot().items() if count}

    def tick(self, now: float) -> None:
        """As a driver's timer."""
        due = self.conn.next_timer()
        if due is not None and due <= now:
            self.conn.handle_timer(now)


class Pair:
    """Client and server with an ideal pipe in between."""

    def __init__(self, *, client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **both: Any):
        self.client = Engine(True, **both, **(client or {}))
        self.server = Engine(False, **both, **(server or {}))
        self.wire: list[bytes] = []  # what the client sent, then what the server sent, by turns

    @property
    def ends(self) -> tuple[Engine, Engine]:
        return self.client, self.server

    def move(self, now: float, *, reading: bool = True) -> None:
        """Exchanges bytes until both are quiet."""
        quiet = False
        while not quiet:
            quiet = True
            for one, other in (self.ends, self.ends[::-1]):
                data = one.emit(now)
                self.wire.append(data)
                if data:
                    quiet = False
                    other.take(data, now)
                if reading:
                    other.read(now)

    def run(self, now: float, until: float, *, reading: bool = True) -> float:
        """Moves and fires timers until ``until``; returns it."""
        while True:
            self.move(now, reading=reading)
            due = min((d for e in self.ends if (d := e.conn.next_timer()) is not None), default=HUGE)
            if due > until:
                return until
            now = max(now, due)
            for engine in self.ends:
                engine.tick(now)


class Seen(NamedTuple):
    """A packet that an engine sent, opened."""

    word: int
    stream_id: int
    plaintext: bytes


class Peer:
    """The other end by hand: seals what it is told to, opens what the engine sends, keeps no state of a session."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.initiator = not engine.conn.confirmed
        self.protection = protection(self.initiator, **options)

    def seal(self, word: int, plaintext: bytes = b"", *, stream_id: int = 1, path_id: int = 0) -> bytes:
        """A frame with its prefix."""
        p = self.protection
        buf = bytearray(len(plaintext) + p.overhead)
        end = p.seal(buf, memoryview(buf), 0, stream_id, word, path_id, plaintext, len(plaintext))
        return framed(bytes(buf[:end]))

    def data(self, index: int, data: bytes = b"", word: int = flags.DATA, **where: int) -> bytes:
        return self.seal(word, index.to_bytes(4, "big") + data, **where)

    def sack(self, *ranges: tuple[int, int], delay_us: int = 0, stream_id: int = 1) -> bytes:
        """Acknowledges inclusive ranges, descending."""
        (low, high), *more = ranges
        out = [high, delay_us]
        body = b"".join(x.to_bytes(4, "big") for x in out) + len(ranges).to_bytes(2, "big")
        body += (high - low).to_bytes(4, "big")
        for below, top in more:
            body += (low - 1 - top).to_bytes(4, "big") + (top - below).to_bytes(4, "big")
            low = below
        return self.seal(flags.ACK_WORD, body, stream_id=stream_id)

    def window(self, limit: int, stream_id: int = 1) -> bytes:
        return self.seal(flags.WINDOW_WORD, limit.to_bytes(8, "big"), stream_id=stream_id)

    def ping(self) -> bytes:
        return self.seal(flags.PING, stream_id=0)

    def pong(self) -> bytes:
        return self.seal(flags.PONG, stream_id=0)

    def close(self, code: int = 0, *, padded: bool = True) -> bytes:
        body = frames.encode_close(code)
        if not padded:
            return self.seal(flags.CLOSE_V1, body, stream_id=0)
        plaintext = frames.pad(body, limits.MAX_SHAPED_WIRE_PIPE)
        assert plaintext is not None
        return self.seal(flags.CLOSE, plaintext, stream_id=0)

    def give(self, *data: bytes, now: float = 0.0) -> None:
        self.engine.take(b"".join(data), now)

    def see(self, now: float = 0.0) -> list[Seen]:
        """What the engine sends now."""
        return self.open(self.engine.emit(now), now)

    def open(self, data: bytes, now: float = 0.0) -> list[Seen]:
        p, found = self.protection, []
        for frame in split_frames(data):
            buf = bytearray(frame)
            word = p.open(buf, memoryview(buf), 0, len(buf), 0, now)
            assert word >= 0, "the engine sent what does not open"
            found.append(Seen(word, p.stream_id, bytes(buf[p.plain_start : p.plain_end])))
        return found


def words(seen: list[Seen]) -> list[int]:
    """Flag words without REKEY."""
    return [packet.word & ~flags.REKEY for packet in seen]


def indices(seen: list[Seen]) -> list[int]:
    """Segment indices of the data packets."""
    return [int.from_bytes(p.plaintext[:4], "big") for p in seen if p.word & flags.RELIABLE]


def sacked(packet: Seen) -> tuple[int, list[tuple[int, int]]]:
    """Ack delay and ranges of an ACK packet."""
    assert packet.word & flags.ACK
    return frames.decode_sack(packet.plaintext, 0, len(packet.plaintext))


def message(data: bytes) -> bytes:
    """A message as it stands in the byte stream."""
    return len(data).to_bytes(4, "big") + data


def server_with_peer(**options: Any) -> tuple[Engine, Peer]:
    """A responder engine whose client is made by hand; what establishment owes has been taken off the wire."""
    engine = Engine(False, **options)
    peer = Peer(engine)
    peer.see()
    return engine, peer


def client_with_peer(**options: Any) -> tuple[Engine, Peer]:
    """An initiator engine whose server is made by hand."""
    engine = Engine(True, **options)
    peer = Peer(engine)
    peer.see()
    return engine, peer


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes in which every slice differs from its neighbours."""
    block = _block(salt & 0xFF)
    return (block * (size // len(block) + 1))[:size]


@functools.cache
def _block(salt: int) -> bytes:
    return bytes((i * 7 + (i >> 8) * 13 + salt) & 0xFF for i in range(8192))
