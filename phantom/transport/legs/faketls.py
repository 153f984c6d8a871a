"""The FakeTLS leg, both ends: a byte pipe that looks like TLS 1.3 (wire-native §21.6).

Obfuscation only. Its keys derive from public values; who the peer is and what nobody may read, the session decides.
The hellos run inside the leg: the owner hears nothing before they are over, and its first frames leave behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from phantom import limits
from phantom.crypto.providers import Provider
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.errors import NetworkError, PhantomError
from phantom.transport.legs.base import Leg, LegOwner, LegRuntime, Timer
from phantom.transport.legs.buffers import BATCH, WINDOW, private, read_window
from phantom.transport.legs.faketls_records import (
    CHANGE_CIPHER_SPEC,
    HEADER_LEN,
    OVERHEAD,
    ClientHello,
    client_hello,
    parse_client_hello,
    parse_server_hello,
    record_length,
    record_pair,
    server_hello,
)
from phantom.transport.legs.layered import LayeredLeg

__all__ = ["Disguise", "FakeTlsLeg"]

_RECORD = HEADER_LEN + limits.FAKETLS_MAX_RECORD
_HELLO = 1024  # bytes, more than a hello and what follows it has


@dataclass(frozen=True, slots=True)
class Disguise:
    """What both ends must agree on, and what they compute with."""

    sni: str
    version: int
    provider: Provider
    rng: RngProvider = SYSTEM_RNG


class FakeTlsLeg(LayeredLeg):
    """Frames in what looks like TLS records over the connection ``lower``. All calls in the thread of its loop."""

    __slots__ = ("_disguise", "_open", "_opener", "_runtime", "_said", "_sealer", "_sent", "_timer")

    def __init__(self, lower: Leg, disguise: Disguise, runtime: LegRuntime, *, client: bool) -> None:
        super().__init__(lower, "faketls")
        self._disguise = disguise
        self._runtime = runtime
        self._sealer, self._opener = record_pair(disguise.sni, disguise.version, disguise.provider, client=client)
        self._sent: ClientHello | None = None  # of a client
        self._said = b""  # of a hello, to be sent first
        if client:
            self._said, self._sent = client_hello(disguise.sni, disguise.version, disguise.rng, disguise.provider)
        self._open = False  # the hellos are over
        self._timer: Timer | None = None

    def start(self, owner: LegOwner) -> None:
        """Begins to read; a client sends its hello."""
        deadline = self._runtime.monotonic() + limits.FAKETLS_HELLO_TIMEOUT
        self._timer = self._runtime.call_at(deadline, self._late)
        super().start(owner)
        self._lower.flush()

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` what the owner has to say leaves first."""
        self._forget_timer()
        if linger and not self._lost:
            self._lower.flush()
        super().close(linger=linger)

    def _late(self) -> None:
        self._timer = None
        self._fail(
            NetworkError(f"no TLS hello came within {limits.FAKETLS_HELLO_TIMEOUT:g} s; is this a faketls:// port?")
        )

    def _forget_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _fail(self, error: PhantomError, *, linger: bool = False) -> None:
        self._forget_timer()
        super()._fail(error, linger=linger)

    def leg_lost(self, error: PhantomError | None) -> None:
        """The connection below is gone (LegOwner)."""
        self._forget_timer()
        if not self._open and error is None:
            error = NetworkError(
                "the connection ended during the FakeTLS hellos; is this the port of a faketls:// address?"
            )
        super().leg_lost(error)

    # --- receiving --------------------------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        """Records are read as the owner reads, and at least one (LegOwner)."""
        return max(_RECORD, super().read_size)

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """A hello, then whole records; what is not complete stays below (LegOwner)."""
        at = start
        try:
            if not self._open:
                length = record_length(buf, at, end)
                if not length or end - at < length:
                    return at
                self._greeted(bytes(view[at : at + length]))
                at += length
            while not self._lost and not self._paused:
                reached = self._open_records(buf, view, at, end)
                if reached == at:
                    break
                at = reached
        except NetworkError as error:
            self._fail(error)
        return end if self._lost else at

    def _greeted(self, record: bytes) -> None:
        if self._sent is None:
            disguise = self._disguise
            self._said = server_hello(parse_client_hello(record), disguise.version, disguise.rng)
        else:
            parse_server_hello(record, self._sent)
            self._said = CHANGE_CIPHER_SPEC
        self._open = True
        self._forget_timer()
        self._lower.flush()

    def _open_records(self, buf: bytearray, view: memoryview, at: int, end: int) -> int:
        """Opens as many whole records as a window holds and hands them on; returns how far it got."""
        length = self._opener.length(buf, at, end)
        if not length or end - at < length:
            return at
        rest, self._rest = self._rest, None
        window, size, room = read_window(rest, self.read_size)
        to, stop = size, size + room
        failure: NetworkError | None = None
        try:
            while length and end - at >= length and stop - to >= length - HEADER_LEN - 16:
                to = self._opener.open(view, at, at + length, window[1], to)
                at += length
                length = self._opener.length(buf, at, end)
        except NetworkError as error:
            failure = error  # what came before it is the owner's all the same
        if to > size:
            self._hand(window[0], window[1], 0, to)
        elif rest is not None:
            self._rest = rest
        WINDOW.give(window)
        if failure is not None:
            raise failure
        return at

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Room for the owner's largest packet in records, and for a hello (LegOwner)."""
        owner = self.owner.batch_size if self.owner is not None else 0
        return owner + OVERHEAD * (owner // limits.FAKETLS_CHUNK + 2) + _HELLO

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """What the hellos have to say, then the owner's bytes in records (LegOwner)."""
        said = self._said
        if said:
            if cap - at < len(said):
                return at
            self._said = b""
            view[at : at + len(said)] = said
            at += len(said)
        while self._open and self.owner is not None:
            room = cap - at
            room -= OVERHEAD * (room // limits.FAKETLS_CHUNK + 1)
            if room < self.owner.batch_size:
                break
            buffer = BATCH.take() if room < BATCH.size else private(room + 1)
            end = self.owner.leg_fill(buffer[0], buffer[1], 0, room)
            try:
                for chunk in range(0, end, limits.FAKETLS_CHUNK):
                    at = self._sealer.seal(buffer[1], chunk, min(end, chunk + limits.FAKETLS_CHUNK), view, at)
            except NetworkError as error:
                self._open = False  # nothing may follow; the leg ends when this fill is over
                self._runtime.call_at(self._runtime.monotonic(), partial(self._fail, error))
            BATCH.give(buffer)
            if not end:
                break
        return at
