"""The server's side of the handshake on one leg (wire-native §6), sans-IO.

States (§24):

- AWAIT_FIRST: the leg is up. Byte 0 or 1 opens a hello, byte 2 is an attach, anything else a violation.
- GATE: a hello is being judged and, if it passes, answered: steps S1 to S10. Never left waiting.
- AWAIT_HELLO: a retry or ``Unsupported`` went out, at most three of them; only a hello may follow.
- ESTABLISHED: S11 and S12 are done; the leg belongs to the session.
- CLOSED: refused, broken or given up; frames that still arrive are ignored.

Everything up to the gate is cheap and needs no signing key. This leg takes versions 1 and 2; a V3 hello is answered
``Unsupported`` and its sender comes back with version 2. An attach names a session that this responder does not know,
so the leg closes without a word and without a violation (§8.4).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from phantom.crypto.hybrid_kem import encapsulate, fresh_public
from phantom.crypto.kdf import resumption_secret, session_id
from phantom.crypto.wipe import wipe
from phantom.errors import ConfigError, KemFailedError, SerializationError
from phantom.limits import (
    ED25519_SIG_LEN,
    HANDSHAKE_DEADLINE,
    HANDSHAKE_READ_TIMEOUT,
    MAX_RETRY_ROUNDS,
    VERSION_1,
    VERSION_2,
)
from phantom.transport.handshake.borsh import vec
from phantom.transport.handshake.events import Close, Established, HandshakeResult, Send
from phantom.transport.handshake.gate import Gate, PowVerdict, Source
from phantom.transport.handshake.messages import (
    ENCODED_SIGNATURE_LEN,
    ENVELOPE_V3,
    ENVELOPE_V12,
    REJECT_BUSY,
    REJECT_VERSION,
    SESSION_ID_AT,
    SIGNATURE_AT,
    UNSUPPORTED_FRAME,
    ClientHello,
    ServerHello,
    ServerReject,
    walk_client_hello,
)
from phantom.transport.handshake.transcript import transcript_hash

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.providers import Provider
    from phantom.crypto.rng import RngProvider

__all__ = ["TRANSITIONS", "Event", "Responder", "State"]

_ATTACH: Final = 2  # first byte of a V2 packet
_UNSIGNED: Final = bytes(ENCODED_SIGNATURE_LEN)


class State(enum.Enum):
    """See the module text."""

    AWAIT_FIRST = "await first frame"
    GATE = "gate"
    AWAIT_HELLO = "await hello"
    ESTABLISHED = "established"
    CLOSED = "closed"


class Event(enum.Enum):
    """What a frame is, what the driver reports, or what became of a hello. The text is the reason in ``Close``."""

    HELLO = "hello"
    ATTACH = "attach for an unknown session"
    OTHER = "not a hello"
    OVERSIZED = "frame too large"
    TIMEOUT = "handshake timeout"
    SILENCE = "handshake timeout without a byte"
    BUSY = "at the handshake or session limit"
    MALFORMED = "undecodable hello"
    BAD_VERSION = "version and envelope disagree"
    UNSPOKEN = "version not accepted"
    RETRY = "cookie, proof of work or another version demanded"
    EXHAUSTED = "too many retry rounds"
    PASSED = "gate passed"
    KEM_FAILED = "unusable key package"
    ANSWERED = "answered"


class Responder:
    """One handshake as a server (wire-native §6). Not for sharing between tasks.

    The constructor takes an in-flight slot of the gate, so build it when the leg is accepted (a leg that does not
    prove its address takes it with its first valid cookie); the end of the handshake or ``close`` gives it back. Then
    call ``start``, deliver every frame to ``receive``, call ``expire`` at ``deadline``, and ``oversized`` when the leg
    refuses a frame over HANDSHAKE_FRAME_CAP; after each call take events from ``next_event`` until it gives None:
    ``Send``, at last ``Established`` or ``Close``.

    Hostile input raises nothing. What ``receive`` does raise is this host's failure (``RngError``, ``ClockError``,
    ``CryptoError``), and the handshake is closed and wiped then. Whoever takes ``Established`` counts the session
    before the next responder receives, so that ``Gate.session_room`` stays true.

    ``signing_key`` is not touched before the gate passed. ``accept_versions`` must contain 2 and may contain 1
    (``ConfigError``); ``supported_version`` is what a reject names, by default the highest of them. ``read_timeout``
    and ``handshake_deadline`` in seconds (60 and 60 on the embedded leg). ``now`` is monotonic seconds, ``unix_now``
    wall-clock seconds.
    """

    __slots__ = (
        "_accept_versions",
        "_answer",
        "_cookie_shown",
        "_deadline",
        "_events",
        "_gate",
        "_handshake_deadline",
        "_hello",
        "_provider",
        "_read_deadline",
        "_read_timeout",
        "_received",
        "_result",
        "_rng",
        "_rounds",
        "_sent",
        "_signing_key",
        "_slot",
        "_source",
        "_state",
        "_supported_version",
    )

    _hello: ClientHello
    _result: HandshakeResult

    def __init__(
        self,
        signing_key: HybridSigningKey,
        gate: Gate,
        source: Source,
        *,
        provider: Provider,
        rng: RngProvider,
        accept_versions: AbstractSet[int] = frozenset({VERSION_2}),
        supported_version: int | None = None,
        read_timeout: float = HANDSHAKE_READ_TIMEOUT,
        handshake_deadline: float = HANDSHAKE_DEADLINE,
    ) -> None:
        if not {VERSION_2} <= accept_versions <= {VERSION_1, VERSION_2}:
            raise ConfigError(f"accept_versions is {sorted(accept_versions)}; it must contain 2 and may contain 1")
        self._signing_key = signing_key
        self._gate = gate
        self._source = source
        self._provider = provider
        self._rng = rng
        self._accept_versions = accept_versions
        self._supported_version = supported_version or max(accept_versions)
        self._read_timeout = read_timeout
        self._handshake_deadline = handshake_deadline
        self._state = State.AWAIT_FIRST
        self._events: deque[Send | Established | Close] = deque()
        self._deadline = self._read_deadline = float("inf")
        self._answer = b""
        self._rounds = 0
        self._sent = 0
        self._received = 0
        self._cookie_shown = False
        self._slot = source.proves_address and gate.enter(source)

    # --- verbs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The leg was accepted: the deadlines run from here."""
        self._deadline = now + self._handshake_deadline
        self._read_deadline = now + self._read_timeout

    def receive(self, frame: bytes, now: float, unix_now: float) -> None:
        """Take one frame of the client. Frames after the end are ignored."""
        self._received += len(frame)
        self._step(_classify(frame), now, unix_now, frame)

    def oversized(self, now: float) -> None:
        """The leg met a frame over the cap of a handshake."""
        self._step(Event.OVERSIZED, now)

    def expire(self, now: float, heard: bool = False) -> None:
        """The time of ``deadline`` has come. ``heard``: the leg has seen at least one byte, whole frame or not."""
        self._step(Event.TIMEOUT if heard or self._received else Event.SILENCE, now)

    def close(self) -> None:
        """End here, whatever the reason: give back the slot and wipe what nobody took. Harmless afterwards."""
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Established):
                event.result.wipe()
        self._end(State.CLOSED)

    def next_event(self) -> Send | Established | Close | None:
        """What to do next; None = wait for a frame until ``deadline``."""
        return self._events.popleft() if self._events else None

    def deadline(self, now: float) -> float:
        """When to call ``expire`` (monotonic seconds); infinity before ``start`` and once it is over."""
        return min(self._read_deadline, self._deadline)

    @property
    def state(self) -> State:
        """Where in the table this handshake is."""
        return self._state

    @property
    def in_flight(self) -> bool:
        """Whether it holds a slot. Legs without one that have sent nothing yet go first, oldest first (wire-native
        §8.7)."""
        return self._slot

    # --- the table's actions; each may name the event that follows ----------------------------------------------------

    def _step(self, event: Event | None, now: float, unix_now: float = 0.0, frame: bytes = b"") -> None:
        try:
            while event is not None:
                transition = TRANSITIONS.get((self._state, event))
                if transition is None:
                    return
                self._state, action = transition
                event = action(self, event, now, unix_now, frame)
        except BaseException:
            self.close()
            raise

    def _judge(self, event: Event, now: float, unix_now: float, frame: bytes) -> Event:
        """S1 to S5."""
        gate, source = self._gate, self._source
        demand = gate.demand(source, now)
        if source.proves_address:
            gate.count_hello(now)
            if not self._take_slot():
                return Event.BUSY
        try:
            layout = walk_client_hello(frame)
        except SerializationError:
            return Event.MALFORMED
        if not layout.agrees:
            return Event.BAD_VERSION
        if layout.envelope == ENVELOPE_V3:
            return self._again(UNSUPPORTED_FRAME)
        if layout.version not in self._accept_versions:
            return Event.UNSPOKEN
        # What a flood consists of is judged where it lies; only a hello that passes is taken apart.
        cookie, solution = layout.cookie_of(frame), layout.pow_solution_of(frame)
        cookie_ok = not demand.cookie or (cookie is not None and gate.check_cookie(source, cookie, unix_now))
        if cookie_ok and not source.proves_address:
            self._cookie_shown = True
            gate.count_hello(now)
            if not self._take_slot():
                return Event.BUSY
        if (cookie_ok or source.proves_address) and not gate.session_room(source):
            return Event.BUSY
        work = gate.check_pow(source, solution, demand.difficulty, unix_now)
        if work is PowVerdict.FORGED:
            self._count_violation(now)
        pow_ok = work is PowVerdict.ACCEPTED
        if not (cookie_ok and pow_ok):
            return self._again(
                gate.retry(source, demand, cookie_ok=cookie_ok, pow_ok=pow_ok, unix_now=unix_now).encode()
            )
        if demand.difficulty and solution is not None:
            gate.spend(solution, demand.difficulty, unix_now)
        self._hello = ClientHello.decode(frame, layout)
        return Event.PASSED

    def _again(self, answer: bytes) -> Event:
        self._rounds += 1
        self._answer = answer
        return Event.RETRY if self._rounds <= MAX_RETRY_ROUNDS else Event.EXHAUSTED

    def _ask_again(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        # After a challenge the client may need all the time there is (§8.7), and that is the only reply with a body
        # in its first option.
        self._read_deadline = self._deadline if self._answer[2:3] == b"\1" else now + self._read_timeout
        self._send(self._answer)

    def _exchange(self, event: Event, now: float, unix_now: float, frame: bytes) -> Event:
        """S7 to S10."""
        hello = self._hello
        try:
            ciphertext, shared_secret = encapsulate(self._provider, hello.client_key_package, self._rng)
        except KemFailedError:
            return Event.KEM_FAILED
        try:
            own_id = session_id(shared_secret, hello.nonce)
            package = fresh_public(self._provider, self._rng)
            own_key = self._signing_key.verifying_key().encoded
            draft = ServerHello(package, ciphertext, own_key, _UNSIGNED, own_id).encode()
            signed = transcript_hash(frame, draft)
            flat = self._signing_key._sign_raw(signed)
            signature = flat[:ED25519_SIG_LEN] + vec(flat[ED25519_SIG_LEN:])
            self._answer = b"".join((draft[:SIGNATURE_AT], signature, draft[SESSION_ID_AT:]))
            self._result = HandshakeResult(
                initiator=False,
                version=hello.version,
                packet_version=hello.version,
                session_id=own_id,
                shared_secret=shared_secret,
                resumption_secret=resumption_secret(shared_secret),
                transcript_hash=signed,
                peer_key=None,
                early_data_accepted=None,
                retries=self._rounds,
                client_nonce=hello.nonce,
                bytes_sent=self._sent + len(self._answer),
                bytes_received=self._received,
            )
        except BaseException:
            wipe(shared_secret)
            raise
        return Event.ANSWERED

    def _finish(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        """S11 and S12."""
        self._send(self._answer)
        self._gate.reputation.clear(self._source.key)
        self._end(State.ESTABLISHED)
        self._events.append(Established(self._result))

    def _refuse_version(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        self._send(ServerReject(REJECT_VERSION, self._supported_version).encode())
        if event is Event.BAD_VERSION:
            self._violate(event, now, unix_now, frame)
        else:
            self._drop(event, now, unix_now, frame)

    def _refuse_busy(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        self._send(ServerReject(REJECT_BUSY, self._supported_version).encode())
        self._drop(event, now, unix_now, frame)

    def _violate(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        self._events.append(Close(self._count_violation(now), event.value))
        self._end(State.CLOSED)

    def _drop(self, event: Event, now: float, unix_now: float, frame: bytes) -> None:
        self._events.append(Close(False, event.value))
        self._end(State.CLOSED)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        self._sent += len(frame)
        self._events.append(Send(frame))

    def _take_slot(self) -> bool:
        self._slot = self._slot or self._gate.enter(self._source)
        return self._slot

    def _count_violation(self, now: float) -> bool:
        """Only against a source that is what it says (§8.4)."""
        counts = self._source.proves_address or self._cookie_shown
        if counts:
            self._gate.reputation.record(self._source.key, now)
        return counts

    def _end(self, state: State) -> None:
        self._state = state
        self._deadline = self._read_deadline = float("inf")
        if self._slot:
            self._slot = False
            self._gate.leave(self._source)


_Action = Callable[[Responder, Event, float, float, bytes], Event | None]

TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, _Action]]] = {
    (State.AWAIT_FIRST, Event.HELLO): (State.GATE, Responder._judge),
    (State.AWAIT_FIRST, Event.ATTACH): (State.CLOSED, Responder._drop),
    (State.AWAIT_FIRST, Event.OTHER): (State.CLOSED, Responder._violate),
    (State.AWAIT_FIRST, Event.OVERSIZED): (State.CLOSED, Responder._violate),
    (State.AWAIT_FIRST, Event.TIMEOUT): (State.CLOSED, Responder._violate),
    (State.AWAIT_FIRST, Event.SILENCE): (State.CLOSED, Responder._drop),
    (State.AWAIT_HELLO, Event.HELLO): (State.GATE, Responder._judge),
    (State.AWAIT_HELLO, Event.ATTACH): (State.CLOSED, Responder._violate),
    (State.AWAIT_HELLO, Event.OTHER): (State.CLOSED, Responder._violate),
    (State.AWAIT_HELLO, Event.OVERSIZED): (State.CLOSED, Responder._violate),
    (State.AWAIT_HELLO, Event.TIMEOUT): (State.CLOSED, Responder._violate),
    (State.GATE, Event.BUSY): (State.CLOSED, Responder._refuse_busy),
    (State.GATE, Event.MALFORMED): (State.CLOSED, Responder._violate),
    (State.GATE, Event.BAD_VERSION): (State.CLOSED, Responder._refuse_version),
    (State.GATE, Event.UNSPOKEN): (State.CLOSED, Responder._refuse_version),
    (State.GATE, Event.RETRY): (State.AWAIT_HELLO, Responder._ask_again),
    (State.GATE, Event.EXHAUSTED): (State.CLOSED, Responder._violate),
    (State.GATE, Event.PASSED): (State.GATE, Responder._exchange),
    (State.GATE, Event.KEM_FAILED): (State.CLOSED, Responder._drop),
    (State.GATE, Event.ANSWERED): (State.ESTABLISHED, Responder._finish),
}
"""State x event -> state, action. A pair that is not here changes nothing. The docs draw their diagram from it."""


def _classify(frame: bytes) -> Event:
    first = frame[0] if frame else -1
    if first in (ENVELOPE_V12, ENVELOPE_V3):
        return Event.HELLO
    return Event.ATTACH if first == _ATTACH else Event.OTHER
