"""Packet protection: keys, nonces, AAD, epochs and replay windows (wire-native §11, §12 R1-R9, §13.3-13.5, §16, §17).

``ProtectionV2`` and ``ProtectionV1`` implement one protocol, ``PacketProtection``. A session owns one of them and calls
it from one task only: drawing a sequence, stamping the header and sealing are one call without suspension, which is
what §11.5 asks a lock for.

Both have a fast path for the packet that nearly always comes (current key, no extensions, in order) made of one unpack
or pack, one AEAD call and slices. Everything unusual leaves it at one test and is judged from the start by the general
decoder, which counts what §12 demands.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from phantom import limits as _limits
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.kdf import next_traffic_secret, traffic_keys
from phantom.crypto.providers import Provider
from phantom.crypto.wipe import BytesLike, wipe
from phantom.errors import (
    CipherSuiteUnavailableError,
    ConnectionClosedError,
    EpochExhaustedError,
    InternalError,
    NonceExhaustedError,
    StreamError,
    StreamLimitError,
)
from phantom.limits import AEAD_TAG_LEN, V1_HEADER_LEN, V2_HEADER_LEN, VERSION_1, VERSION_2
from phantom.security.replay import ReplayWindows
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.flags import ENCRYPTED, REKEY, RELIABLE
from phantom.transport.packet.header import LEN_FIELD, V1_IMAGE, V2_IMAGE, MalformedPacket, Packet, decode

__all__ = [
    "DROPPED",
    "PacketProtection",
    "ProtectionLimits",
    "ProtectionV1",
    "ProtectionV2",
    "nonce_v1",
    "nonce_v2",
]

DROPPED: Final = -1
ALL_SUITES: Final = (CipherSuite.AES_256_GCM, CipherSuite.CHACHA20_POLY1305)

_NONCE: Final = struct.Struct(">IQ")
_EXT_LEN: Final = struct.Struct(">I")
_V1_BODY: Final = V1_HEADER_LEN + LEN_FIELD
_V2_BODY: Final = V2_HEADER_LEN + LEN_FIELD
_V1_OVERHEAD: Final = _V1_BODY + AEAD_TAG_LEN + LEN_FIELD
_V2_OVERHEAD: Final = _V2_BODY + AEAD_TAG_LEN + LEN_FIELD
_V2_ENCRYPTED: Final = ENCRYPTED << 16
_CATCHUP_PERIOD: Final = 1.0  # s

# cryptography's encrypt_into / decrypt_into: (nonce, data, aad, out) -> bytes written
_Operation = Callable[[BytesLike, BytesLike, BytesLike, bytearray | memoryview], int]


@dataclass(frozen=True, slots=True)
class ProtectionLimits:
    """Every threshold of §11.6, §13.5, §16 and §17.3; the defaults are the protocol's, tests lower them."""

    sequence_watermark: int = _limits.SEQ_REKEY_WATERMARK
    soft_seals: int = _limits.REKEY_SOFT_LIMIT
    soft_bytes: int = _limits.REKEY_SOFT_BYTES
    max_invocations: int = _limits.AEAD_MAX_INVOCATIONS
    max_forgeries: int = _limits.AEAD_MAX_FORGERIES
    max_catchup: int = _limits.MAX_REKEY_CATCHUP
    catchup_rate: int = _limits.CATCHUP_RATE
    max_epoch: int = _limits.MAX_EPOCH
    grace_min: float = _limits.REKEY_GRACE_MIN
    grace_max: float = _limits.REKEY_GRACE_MAX
    initial_srtt: float = _limits.INITIAL_SRTT
    max_replay_streams: int = _limits.MAX_REPLAY_STREAMS
    max_replay_windows: int = _limits.MAX_REPLAY_WINDOWS
    v1_max_sequence: int = 2**32 - 1
    v1_max_consecutive_failures: int = _limits.V1_MAX_CONSECUTIVE_FAILURES


_DEFAULT_LIMITS: Final = ProtectionLimits()


class PacketProtection(Protocol):
    """What the session engine knows of packets; it asks for capabilities, never for the version."""

    version: ClassVar[int]
    header_len: ClassVar[int]
    overhead: ClassVar[int]  # bytes a packet adds to its plaintext
    supports_rekey: ClassVar[bool]
    supports_paths: ClassVar[bool]

    epoch: int
    send_suite: CipherSuite
    receive_suite: CipherSuite | None  # None until the first packet has opened
    rekeys_local: int
    rekeys_peer: int
    failed_opens: int
    forgeries_exceeded: bool  # §11.6c: the session must close
    broken: bool  # §13.5: the session must close

    # the packet opened last
    stream_id: int
    sequence: int
    path_id: int
    ack_delay: int
    plain_start: int
    plain_end: int
    fresh: bool  # False: a V1 duplicate, to be acknowledged again and not delivered

    @property
    def unconfirmed(self) -> bool:
        """The peer has not been heard at this epoch yet."""

    def seal(
        self,
        buf: bytearray,
        view: memoryview,
        at: int,
        stream_id: int,
        flags: int,
        path_id: int,
        plaintext: BytesLike,
        length: int,
        ack_delay: int = 0,
    ) -> int:
        """Seal one packet at ``buf[at:]``; the offset behind it."""

    def open(self, buf: bytearray, view: memoryview, start: int, end: int, path_of_leg: int, now: float) -> int:
        """Open the packet ``buf[start:end]`` in place; its flag word, or -1 if it was dropped and counted."""

    def must_rekey(self, stream_id: int, path_id: int) -> bool:
        """Would the next packet of this stream on this path force a rekey?"""

    def rekey(self, now: float) -> None:
        """Go to the next epoch."""

    def set_srtt(self, srtt: float) -> None:
        """The SRTT that the grace period follows."""

    @property
    def grace_end(self) -> float | None:
        """When :meth:`expire` has something to forget."""

    def expire(self, now: float) -> None:
        """Forget what has outlived its grace period."""

    @property
    def resting(self) -> bool:
        """What :meth:`rest` can drop is gone."""

    def rest(self) -> None:
        """The session is idle: drop what the next packet can make anew."""

    def close(self) -> None:
        """Overwrite secrets, drop keys."""


def nonce_v1(prefix: int, counter: int) -> bytes:
    """The 12-byte V1 nonce (§11.3)."""
    return _NONCE.pack(prefix, counter)


def nonce_v2(prefix: int, epoch: int, stream_id: int, sequence: int, path_id: int) -> bytes:
    """The 12-byte V2 nonce (§11.4)."""
    return _NONCE.pack(prefix, epoch << 56 | stream_id << 40 | sequence << 8 | path_id)


class _ReceiveState:
    """What opens the packets of one epoch: an operation for every suite not yet ruled out, and the replay windows."""

    __slots__ = ("decrypt", "epoch", "opens", "prefix", "trials", "windows")

    def __init__(self, epoch: int, prefix: int, trials: dict[CipherSuite, _Operation], windows: ReplayWindows) -> None:
        self.epoch = epoch
        self.prefix = prefix
        self.trials = trials
        self.windows = windows
        self.opens = 0
        self.decrypt: _Operation = next(iter(trials.values()))

    def lock(self, suite: CipherSuite) -> None:
        self.decrypt = self.trials[suite]
        self.trials = {}


class _Keys:
    """Derives what a role needs from a traffic secret (§3.2) and keeps no secret itself."""

    __slots__ = ("_initiator", "_limits", "_provider", "_send_suite", "trial_order")

    def __init__(
        self,
        initiator: bool,
        provider: Provider,
        send_suite: CipherSuite,
        receive_suites: tuple[CipherSuite, ...],
        limits: ProtectionLimits,
    ) -> None:
        own = send_suite if send_suite in receive_suites else receive_suites[0]
        self._initiator = initiator
        self._provider = provider
        self._send_suite = send_suite
        self._limits = limits
        # The suite that is not allowed is tried too, for diagnosis (§11.7).
        self.trial_order: tuple[CipherSuite, ...] = (own, *(s for s in ALL_SUITES if s is not own))

    def sender(self, secret: bytearray) -> tuple[_Operation, int]:
        keys = traffic_keys(secret, self._send_suite)
        encrypt: _Operation = new_aead(
            self._send_suite, keys.send if self._initiator else keys.recv, self._provider
        ).encrypt_into
        prefix = int.from_bytes(keys.prefix, "big")
        keys.wipe()
        return encrypt, prefix

    def opener(self, secret: bytearray, suite: CipherSuite) -> tuple[_Operation, int]:
        keys = traffic_keys(secret, suite)
        key = keys.recv if self._initiator else keys.send
        decrypt: _Operation = new_aead(suite, key, self._provider).decrypt_into
        prefix = int.from_bytes(keys.prefix, "big")
        keys.wipe()
        return decrypt, prefix

    def receiver(self, secret: bytearray, epoch: int, locked: CipherSuite | None) -> _ReceiveState:
        trials: dict[CipherSuite, _Operation] = {}
        prefix = 0
        for suite in self.trial_order if locked is None else (locked,):
            trials[suite], prefix = self.opener(secret, suite)
        windows = ReplayWindows(self._limits.max_replay_streams, self._limits.max_replay_windows)
        state = _ReceiveState(epoch, prefix, trials, windows)
        if locked is not None:
            state.lock(locked)
        return state


class _Protection:
    """What both versions share: the state of the last packet, the counts, suite lock-in."""

    __slots__ = (
        "_closed",
        "_counters",
        "_encrypt",
        "_ident",
        "_keys",
        "_limits",
        "_receive_suites",
        "_receiving",
        "_send_prefix",
        "_session_id",
        "ack_delay",
        "broken",
        "epoch",
        "failed_opens",
        "forgeries_exceeded",
        "fresh",
        "path_id",
        "plain_end",
        "plain_start",
        "receive_suite",
        "rekeys_local",
        "rekeys_peer",
        "send_suite",
        "sequence",
        "stream_id",
    )

    version: ClassVar[int]
    header_len: ClassVar[int]
    overhead: ClassVar[int]
    supports_rekey: ClassVar[bool] = False
    supports_paths: ClassVar[bool] = False

    def __init__(
        self,
        initiator: bool,
        session_id: bytes,
        traffic_secret: bytearray,
        send_suite: CipherSuite,
        provider: Provider,
        receive_suites: tuple[CipherSuite, ...],
        counters: DropCounters,
        limits: ProtectionLimits,
    ) -> None:
        self._session_id = bytes(session_id)
        self._ident = bytes((self.version,)) + self._session_id
        self._counters = counters
        self._limits = limits
        self._keys = _Keys(initiator, provider, send_suite, receive_suites, limits)
        self._receive_suites = receive_suites
        self._closed = False
        self.send_suite = send_suite
        self.receive_suite: CipherSuite | None = None
        self.epoch = 0
        self.rekeys_local = 0
        self.rekeys_peer = 0
        self.failed_opens = 0
        self.forgeries_exceeded = False
        self.broken = False
        self.stream_id = 0
        self.sequence = 0
        self.path_id = 0
        self.ack_delay = 0
        self.plain_start = 0
        self.plain_end = 0
        self.fresh = True
        self._encrypt, self._send_prefix = self._keys.sender(traffic_secret)
        self._receiving: _ReceiveState = self._keys.receiver(traffic_secret, 0, None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} epoch={self.epoch} send={self.send_suite.label}>"

    def _failed(self) -> int:
        """The one opaque failure (§11.8)."""
        self._counters.decrypt_failed += 1
        self.failed_opens += 1
        if self.failed_opens >= self._limits.max_forgeries:
            self.forgeries_exceeded = True
        return DROPPED

    def _check(self, view: memoryview, start: int, end: int) -> Packet | None:
        """R1-R4 of §12; None if the packet is dropped and counted."""
        counters = self._counters
        try:
            packet = decode(view[start:end])
        except MalformedPacket:
            counters.malformed += 1
            return None
        if packet.version != self.version:
            counters.wrong_version += 1
        elif packet.session_id != self._session_id:
            counters.wrong_session += 1
        elif not packet.flags & ENCRYPTED:
            counters.unencrypted_dropped += 1
        else:
            return packet
        return None

    def _try_open(
        self, state: _ReceiveState, nonce: bytes, packet: Packet, view: memoryview, start: int
    ) -> CipherSuite | None:
        """Open in place; the suite that did it. Before lock-in each is tried, on a copy that a failure may destroy."""
        body = start + self.header_len + LEN_FIELD
        plain = view[body : body + len(packet.payload) - AEAD_TAG_LEN]
        aad = bytes(view[start : start + self.header_len]) + packet.extensions
        locked = self.receive_suite
        if locked is not None:
            return locked if self._opens(state, state.decrypt, nonce, packet.payload, aad, plain) else None
        sealed = bytes(packet.payload)
        for suite, decrypt in state.trials.items():
            if not self._opens(state, decrypt, nonce, sealed, aad, plain):
                continue
            if suite not in self._receive_suites:
                plain[:] = bytes(len(plain))
                raise CipherSuiteUnavailableError(
                    f"the peer sends with {suite.label}, which this side is configured not to take"
                )
            self.receive_suite = suite
            return suite
        return None

    def _opens(
        self, state: _ReceiveState, decrypt: _Operation, nonce: bytes, sealed: BytesLike, aad: bytes, plain: memoryview
    ) -> bool:
        if state.opens >= self._limits.max_invocations:
            raise NonceExhaustedError
        state.opens += 1
        try:
            decrypt(nonce, sealed, aad, plain)
        except AEAD_FAILURE:
            return False
        return True

    def _set_packet(self, packet: Packet, path_id: int, start: int) -> None:
        self.stream_id = packet.stream_id
        self.sequence = packet.sequence
        self.path_id = path_id
        self.ack_delay = packet.ack_delay
        self.plain_start = start + self.header_len + LEN_FIELD
        self.plain_end = self.plain_start + len(packet.payload) - AEAD_TAG_LEN


class ProtectionV2(_Protection):
    """V2 packets: header-derived nonces, rekey epochs, replay windows per path.

    ``traffic_secret`` (32 bytes) is copied; the copy is overwritten at every rekey and by ``close``. ``receive_suites``
    with one entry pins the suite that the peer may send with. Not synchronised; see the module.
    """

    __slots__ = (
        "_byte_check",
        "_bytes",
        "_candidates",
        "_fast_epoch",
        "_grace_end",
        "_pairs",
        "_previous",
        "_rekey_bit",
        "_seal_check",
        "_seals",
        "_secret",
        "_sequences",
        "_srtt",
        "_table",
        "_transition",
    )

    version = VERSION_2
    header_len = V2_HEADER_LEN
    overhead = _V2_OVERHEAD
    supports_rekey = True
    supports_paths = True

    def __init__(
        self,
        initiator: bool,
        session_id: bytes,
        traffic_secret: bytearray,
        *,
        send_suite: CipherSuite,
        provider: Provider,
        receive_suites: tuple[CipherSuite, ...] = ALL_SUITES,
        counters: DropCounters,
        limits: ProtectionLimits = _DEFAULT_LIMITS,
    ) -> None:
        super().__init__(initiator, session_id, traffic_secret, send_suite, provider, receive_suites, counters, limits)
        self._secret = bytearray(traffic_secret)
        self._srtt = limits.initial_srtt
        # No stream's sequence can exceed the number of seals, so one compare covers watermark and both key limits.
        self._seal_check = min(limits.sequence_watermark, limits.soft_seals, limits.max_invocations)
        self._byte_check = limits.soft_bytes
        self._seals = 0
        self._bytes = 0
        self._sequences: dict[int, int] = {}
        self._pairs: set[int] = set()
        self._previous: _ReceiveState | None = None
        self._grace_end: float | None = None
        self._rekey_bit = 0
        self._transition = False
        self._candidates: list[float] = []  # when the last candidates of several steps were derived, newest last
        # Epoch that the fast path of open() takes: none before suite lock-in and after close.
        self._fast_epoch = DROPPED
        self._table = self._receiving.windows.table

    @property
    def unconfirmed(self) -> bool:
        """No packet of the peer at the current epoch has opened since the last local rekey (§16.3)."""
        return self._rekey_bit != 0

    # --- sealing ----------------------------------------------------------------------------------------------------

    def seal(
        self,
        buf: bytearray,
        view: memoryview,
        at: int,
        stream_id: int,
        flags: int,
        path_id: int,
        plaintext: BytesLike,
        length: int,
        ack_delay: int = 0,
    ) -> int:
        """Seal ``plaintext`` (``length`` bytes) as one packet at ``buf[at:]``; the offset behind it.

        ``view`` is a memoryview of ``buf``; ``plaintext`` may be exactly ``view[at + 49 : at + 49 + length]`` or any
        other buffer. ``ack_delay`` is in µs and saturates (§10.5). Rekeys by itself where §11.6 demands it. Raises
        EpochExhaustedError or NonceExhaustedError when no key is left; then nothing has been written or drawn.
        """
        seals = self._seals
        if seals >= self._seal_check or self._bytes >= self._byte_check or stream_id << 8 | path_id not in self._pairs:
            self._guard(stream_id, path_id)
            seals = self._seals
        sequences = self._sequences
        sequence = sequences[stream_id]
        sequences[stream_id] = sequence + 1
        self._seals = seals + 1
        self._bytes += length
        if ack_delay > 0xFFFF:
            ack_delay = 0xFFFF
        body = at + _V2_BODY
        tail = body + length + AEAD_TAG_LEN
        end = tail + LEN_FIELD
        epoch = self.epoch
        word = (flags | self._rekey_bit) << 16 | ack_delay
        V2_IMAGE.pack_into(buf, at, self._ident, stream_id, sequence, word, epoch << 8 | path_id, length + AEAD_TAG_LEN)
        nonce = _NONCE.pack(self._send_prefix, epoch << 56 | stream_id << 40 | sequence << 8 | path_id)
        self._encrypt(nonce, plaintext, view[at : at + V2_HEADER_LEN], view[body:tail])
        _EXT_LEN.pack_into(buf, tail, 0)
        return end

    def _guard(self, stream_id: int, path_id: int) -> None:
        """§11.6a and b, and the first packet of a (stream, path) in an epoch."""
        if self._closed:
            raise ConnectionClosedError
        limits = self._limits
        if self._encrypt is _resting:
            self._encrypt, self._send_prefix = self._keys.sender(self._secret)
            self._byte_check = limits.soft_bytes
        if self._seals >= limits.max_invocations:
            raise NonceExhaustedError
        pair = stream_id << 8 | path_id
        forced = self.must_rekey(stream_id, path_id)
        soft = self._seals >= limits.soft_seals or self._bytes >= limits.soft_bytes
        # A voluntary rekey waits for confirmation; at the last epoch there is nothing left to wait for.
        if forced or (soft and (not self._rekey_bit or self.epoch >= limits.max_epoch)):
            self._advance()
        self._sequences.setdefault(stream_id, 0)
        self._pairs.add(pair)

    def must_rekey(self, stream_id: int, path_id: int) -> bool:
        """The next packet of this stream on this path would force a rekey (§11.6a)."""
        limits = self._limits
        sequence = self._sequences.get(stream_id)
        if sequence is None:
            if len(self._sequences) >= limits.max_replay_streams:
                return True
        elif sequence >= limits.sequence_watermark:
            return True
        return stream_id << 8 | path_id not in self._pairs and len(self._pairs) >= limits.max_replay_windows

    # --- opening ----------------------------------------------------------------------------------------------------

    def open(self, buf: bytearray, view: memoryview, start: int, end: int, path_of_leg: int, now: float) -> int:
        """R1-R9 of §12 for the packet in ``buf[start:end]``: its flag word, or -1 if it was dropped and counted.

        On success the plaintext lies at ``buf[plain_start:plain_end]`` and the header fields in the attributes of this
        object. ``path_id`` is the one of the header: whether it is bound to the leg is the path gate's question (R13).
        ``now`` is in seconds on any monotonic clock. Raises NonceExhaustedError at the limit of the key, and
        CipherSuiteUnavailableError if a pinned receive suite is not the peer's (§11.7); both end the session.
        """
        if end - start < _V2_OVERHEAD:
            return self._open_general(view, start, end, now)
        stream_id: int
        sequence: int
        word: int
        place: int
        sealed: int
        ident, stream_id, sequence, word, place, sealed = V2_IMAGE.unpack_from(buf, start)
        body = start + _V2_BODY
        tail = body + sealed
        if (
            ident != self._ident
            or place >> 8 != self._fast_epoch
            or tail + LEN_FIELD != end
            or not word & _V2_ENCRYPTED
            or _EXT_LEN.unpack_from(buf, tail)[0]
        ):
            return self._open_general(view, start, end, now)
        state = self._receiving
        if state.opens >= self._limits.max_invocations:
            raise NonceExhaustedError
        state.opens += 1
        plain_end = tail - AEAD_TAG_LEN
        path_id = place & 0xFF
        nonce = _NONCE.pack(state.prefix, (place & 0xFF00) << 48 | stream_id << 40 | sequence << 8 | path_id)
        try:
            state.decrypt(nonce, view[body:tail], view[start : start + V2_HEADER_LEN], view[body:plain_end])
        except AEAD_FAILURE:
            return self._failed()
        window = self._table.get(stream_id << 8 | path_id)
        if window is not None and sequence == window.high + 1 and not window.gaps:
            window.high = sequence
        elif not state.windows.accept(stream_id, path_id, sequence):
            self._counters.replay_rejected += 1
            return DROPPED
        if self._transition:
            self._settle(now)
        self.stream_id = stream_id
        self.sequence = sequence
        self.path_id = path_id
        self.ack_delay = word & 0xFFFF
        self.plain_start = body
        self.plain_end = plain_end
        return word >> 16

    def _open_general(self, view: memoryview, start: int, end: int, now: float) -> int:
        if self._closed:
            return DROPPED
        packet = self._check(view, start, end)
        if packet is None:
            return DROPPED
        if len(packet.payload) < AEAD_TAG_LEN:
            return self._failed()
        self.expire(now)
        epoch = packet.epoch
        candidate: bytearray | None = None
        self._wake_receiver()
        if epoch == self.epoch:
            state = self._receiving
        elif epoch > self.epoch:
            candidate = self._candidate(packet, now)
            if candidate is None:
                return self._failed()
            state = self._keys.receiver(candidate, epoch, self.receive_suite)
        elif self._previous is not None and epoch == self._previous.epoch:
            state = self._previous
        else:
            return self._failed()
        nonce = nonce_v2(state.prefix, epoch, packet.stream_id, packet.sequence, packet.path_id)
        locked = self.receive_suite is not None
        suite = None
        try:
            suite = self._try_open(state, nonce, packet, view, start)
        finally:
            if suite is None and candidate is not None:
                wipe(candidate)
        if suite is None:
            return self._failed()
        if candidate is not None:
            self._install(candidate, state)
            self.rekeys_peer += 1
            self._transition = True
        if not locked:
            self._lock(suite)
        if not state.windows.accept(packet.stream_id, packet.path_id, packet.sequence):
            self._counters.replay_rejected += 1
            return DROPPED
        if self._transition and state is self._receiving:
            self._settle(now)
        self._set_packet(packet, packet.path_id, start)
        return packet.flags

    def _candidate(self, packet: Packet, now: float) -> bytearray | None:
        """The traffic secret of a forward epoch, if §16.4 allows to derive it."""
        steps = packet.epoch - self.epoch
        if steps > self._limits.max_catchup or not packet.flags & REKEY:
            return None
        if steps > 1:
            recent = [when for when in self._candidates if now - when < _CATCHUP_PERIOD]
            if len(recent) >= self._limits.catchup_rate:
                return None
            self._candidates = [*recent, now]
        secret = next_traffic_secret(self._secret)
        for _ in range(steps - 1):
            previous, secret = secret, next_traffic_secret(secret)
            wipe(previous)
        return secret

    def _lock(self, suite: CipherSuite) -> None:
        """After the first success of the session: one suite is left in every state, the fast path is open."""
        self._receiving.lock(suite)
        if self._previous is not None:
            self._previous.lock(suite)
        self._fast_epoch = self.epoch

    # --- rekey ------------------------------------------------------------------------------------------------------

    def rekey(self, now: float) -> None:
        """Go to the next epoch (§16.2); does nothing while the last step is unconfirmed.

        Raises EpochExhaustedError at epoch 255. The caller sees to it that a packet leaves soon.
        """
        if self._closed:
            raise ConnectionClosedError
        self.expire(now)
        if not self._rekey_bit or self.epoch >= self._limits.max_epoch:
            self._advance()

    def set_srtt(self, srtt: float) -> None:
        """The largest SRTT among Validated paths, in seconds; the next grace period is 3 times that (§16.5)."""
        self._srtt = srtt

    @property
    def grace_end(self) -> float | None:
        """When the previous receive state is forgotten (§16.5)."""
        return self._grace_end

    def expire(self, now: float) -> None:
        """Forget the previous receive state once its grace is over. Call it on any coarse tick."""
        if self._grace_end is not None and now >= self._grace_end:
            self._previous = None
            self._grace_end = None
            self._transition = self._rekey_bit != 0

    @property
    def resting(self) -> bool:
        """The cipher objects are gone until the next packet."""
        return self._encrypt is _resting and self._receiving.decrypt is _resting

    def rest(self) -> None:
        """The session is idle: drop the cipher objects, 5 KiB of it, until the next packet needs one.

        Making one anew takes microseconds. Does nothing before suite lock-in and during a rekey.
        """
        if self._closed or self.receive_suite is None or self._rekey_bit or self._previous is not None:
            return
        self._encrypt = self._receiving.decrypt = _resting
        # Both directions find out where they look for what is rare.
        self._byte_check = DROPPED
        self._fast_epoch = DROPPED

    def _wake_receiver(self) -> None:
        state = self._receiving
        if state.decrypt is _resting and self.receive_suite is not None:
            state.decrypt, state.prefix = self._keys.opener(self._secret, self.receive_suite)
            self._fast_epoch = self.epoch

    def close(self) -> None:
        """Overwrite the traffic secret and drop all keys; sealing raises ConnectionClosedError from now on."""
        self._closed = True
        wipe(self._secret)
        self._encrypt = _refuse
        self._receiving.decrypt = _refuse
        self._receiving.trials = {}
        self._previous = None
        self._grace_end = None
        self._fast_epoch = DROPPED
        self._byte_check = DROPPED

    def _advance(self) -> None:
        """One local step, whether confirmed or not."""
        if self.epoch >= self._limits.max_epoch:
            raise EpochExhaustedError
        secret = next_traffic_secret(self._secret)
        self._install(secret, self._keys.receiver(secret, self.epoch + 1, self.receive_suite))
        self._rekey_bit = REKEY
        self._transition = True
        self.rekeys_local += 1

    def _install(self, secret: bytearray, state: _ReceiveState) -> None:
        self._wake_receiver()  # it becomes the previous one, whose secret is wiped now
        self._encrypt, self._send_prefix = self._keys.sender(secret)
        old, self._secret = self._secret, secret
        wipe(old)
        self._previous, self._receiving = self._receiving, state
        self._table = state.windows.table
        self._grace_end = None
        self._rekey_bit = 0
        self.epoch = state.epoch
        if self.receive_suite is not None:
            self._fast_epoch = state.epoch
        self._seals = 0
        self._bytes = 0
        self._sequences = {}
        self._pairs = set()

    def _settle(self, now: float) -> None:
        """An authentic packet at the current epoch: the peer has followed, the grace of the previous state runs."""
        self._rekey_bit = 0
        if self._grace_end is None:
            self._grace_end = now + min(max(3 * self._srtt, self._limits.grace_min), self._limits.grace_max)
        self.expire(now)


def _resting(nonce: BytesLike, data: BytesLike, aad: BytesLike, out: bytearray | memoryview) -> int:
    raise InternalError("a packet met ciphers that rest")


def _refuse(nonce: BytesLike, data: BytesLike, aad: BytesLike, out: bytearray | memoryview) -> int:
    raise ConnectionClosedError


class ProtectionV1(_Protection):
    """V1 packets: strict counter nonces, one epoch, one path (wire-native §11.3, §13.3-13.5).

    New packets draw a sequence per stream (``seal``, then ``sent_sequence``); a retransmission keeps its sequence
    (``seal_again``). ``traffic_secret`` (32 bytes) is not kept. Not synchronised; see the module.
    """

    __slots__ = (
        "_bytes",
        "_failures",
        "_open_counter",
        "_opened_bytes",
        "_seal_counter",
        "_sequences",
        "sent_sequence",
    )

    version = VERSION_1
    header_len = V1_HEADER_LEN
    overhead = _V1_OVERHEAD

    def __init__(
        self,
        initiator: bool,
        session_id: bytes,
        traffic_secret: bytearray,
        *,
        send_suite: CipherSuite,
        provider: Provider,
        receive_suites: tuple[CipherSuite, ...] = ALL_SUITES,
        counters: DropCounters,
        limits: ProtectionLimits = _DEFAULT_LIMITS,
    ) -> None:
        super().__init__(initiator, session_id, traffic_secret, send_suite, provider, receive_suites, counters, limits)
        self._seal_counter = 0
        self._open_counter = 0
        self._bytes = 0
        self._opened_bytes = 0
        self._failures = 0
        self._sequences: dict[int, int] = {}
        self.sent_sequence = 0

    @property
    def unconfirmed(self) -> bool:
        """Always False: V1 has one epoch."""
        return False

    def seal(
        self,
        buf: bytearray,
        view: memoryview,
        at: int,
        stream_id: int,
        flags: int,
        path_id: int,
        plaintext: BytesLike,
        length: int,
        ack_delay: int = 0,
    ) -> int:
        """Seal a new packet under the stream's next sequence, which is in ``sent_sequence`` afterwards.

        As ``ProtectionV2.seal``; ``path_id`` is not on the wire. Raises NonceExhaustedError at 2^48 packets or 2^40
        bytes (the session ends), StreamError when the stream has used all its sequences, StreamLimitError for the
        1025th stream (§17.3).
        """
        sequence = self._sequences.get(stream_id, 0)
        if sequence > self._limits.v1_max_sequence:
            raise StreamError("this stream has used all its sequence numbers")
        if not sequence and len(self._sequences) >= self._limits.max_replay_streams:
            raise StreamLimitError("a V1 session has at most 1024 streams")
        end = self.seal_again(buf, view, at, stream_id, flags, plaintext, length, sequence, ack_delay)
        self._sequences[stream_id] = sequence + 1
        self.sent_sequence = sequence
        return end

    def seal_again(
        self,
        buf: bytearray,
        view: memoryview,
        at: int,
        stream_id: int,
        flags: int,
        plaintext: BytesLike,
        length: int,
        sequence: int,
        ack_delay: int = 0,
    ) -> int:
        """Seal a retransmission: the old ``sequence``, the same plaintext, the next counter (§13.3)."""
        if self._closed:
            raise ConnectionClosedError
        counter = self._seal_counter
        if counter >= self._limits.max_invocations or self._bytes >= self._limits.soft_bytes:
            raise NonceExhaustedError
        self._seal_counter = counter + 1
        self._bytes += length
        body = at + _V1_BODY
        tail = body + length + AEAD_TAG_LEN
        end = tail + LEN_FIELD
        V1_IMAGE.pack_into(
            buf, at, self._ident, stream_id, sequence, flags, min(ack_delay, 0xFFFF), length + AEAD_TAG_LEN
        )
        nonce = _NONCE.pack(self._send_prefix, counter)
        self._encrypt(nonce, plaintext, view[at : at + V1_HEADER_LEN], view[body:tail])
        _EXT_LEN.pack_into(buf, tail, 0)
        return end

    def open(self, buf: bytearray, view: memoryview, start: int, end: int, path_of_leg: int, now: float) -> int:
        """As ``ProtectionV2.open``; ``path_id`` becomes ``path_of_leg``.

        A RELIABLE packet that the window refuses is reported with ``fresh`` False: it is acknowledged again and not
        delivered (§13.4). ``broken`` is set by the 32nd failed open in a row (§13.5).
        """
        if self._closed:
            return DROPPED
        packet = self._check(view, start, end)
        if packet is None:
            return DROPPED
        if len(packet.payload) < AEAD_TAG_LEN:
            return self._failed()
        if self._opened_bytes >= self._limits.soft_bytes:
            raise NonceExhaustedError
        state = self._receiving
        locked = self.receive_suite is not None
        suite = self._try_open(state, nonce_v1(state.prefix, self._open_counter), packet, view, start)
        if suite is None:
            return self._failed()
        if not locked:
            state.lock(suite)
        self._open_counter += 1
        self._opened_bytes += len(packet.payload) - AEAD_TAG_LEN
        self._failures = 0
        known = packet.stream_id << 8 in state.windows.table
        self.fresh = state.windows.accept(packet.stream_id, 0, packet.sequence)
        if not self.fresh:
            self._counters.replay_rejected += 1
            if not (known and packet.flags & RELIABLE):
                return DROPPED
        self._set_packet(packet, path_of_leg, start)
        return packet.flags

    def must_rekey(self, stream_id: int, path_id: int) -> bool:
        """Never: V1 has one epoch."""
        return False

    def rekey(self, now: float) -> None:
        """Does nothing; ask ``supports_rekey`` first."""

    def set_srtt(self, srtt: float) -> None:
        """Does nothing: there is no grace period."""

    @property
    def grace_end(self) -> float | None:
        """Always None: there is no previous state."""
        return None

    def expire(self, now: float) -> None:
        """Does nothing: there is no previous state."""

    @property
    def resting(self) -> bool:
        """Always true: a V1 session keeps its keys, for it does not keep what they come from."""
        return True

    def rest(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Drop all keys; sealing raises ConnectionClosedError from now on."""
        self._closed = True
        self._encrypt = _refuse
        self._receiving.decrypt = _refuse
        self._receiving.trials = {}

    def _failed(self) -> int:
        self._failures += 1
        if self._failures >= self._limits.v1_max_consecutive_failures:
            self.broken = True
        return super()._failed()
