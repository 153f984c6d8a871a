"""The client's side of the handshake (wire-native §7), sans-IO.

States (§24; the version that the last hello offered is part of the state, because the replies allowed after it are):

- IDLE: nothing sent.
- HELLO_SENT: a V12 hello is out. A V12 ServerHello ends the handshake, a retry repeats it, a reject fails it.
- RESUME_SENT: a V3 hello is out. As before with a V3 ServerHello; ``Unsupported`` falls back to a version-2 hello
  with a fresh nonce (§9.7). That is the only way down there is, and it leads to 2, never to 1.
- SOLVING, RESUME_SOLVING: a retry brought a challenge and the caller is solving it; no frame may come in between.
- ESTABLISHED, FAILED: over; the ephemeral keys are wiped.

A pair that the table does not name is a reply that §5.2 forbids: fatal.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from phantom.crypto.compare import constant_time_equal
from phantom.crypto.hybrid_kem import HybridKemKeyPair
from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.kdf import resumption_secret, session_id
from phantom.crypto.wipe import wipe
from phantom.errors import (
    ConfigError,
    HandshakeError,
    HandshakeTimeoutError,
    PowDifficultyTooHighError,
    PowExhaustedError,
    ProtocolRejectedError,
    RetryLimitError,
    SerializationError,
    ServerBusyError,
    ServerIdentityMismatchError,
    SessionIdMismatchError,
    SignatureInvalidError,
)
from phantom.limits import (
    ED25519_PK_LEN,
    ED25519_SIG_LEN,
    HANDSHAKE_DEADLINE,
    HANDSHAKE_READ_TIMEOUT,
    MAX_CLIENT_POW_DIFFICULTY,
    MAX_RETRY_ROUNDS,
    VERSION_1,
    VERSION_2,
    VERSION_3,
)
from phantom.transport.handshake.borsh import vec
from phantom.transport.handshake.events import Established, HandshakeResult, Send, SolveChallenge
from phantom.transport.handshake.messages import (
    ENVELOPE_V3,
    ENVELOPE_V12,
    NONCE_LEN,
    REJECT_BUSY,
    REJECT_VERSION,
    ClientHello,
    HelloRetryRequest,
    PowSolution,
    Reply,
    ServerHello,
    ServerReject,
    Unsupported,
    decode_reply,
)
from phantom.transport.handshake.resumption import Resumption, seal_early_data
from phantom.transport.handshake.transcript import transcript_hash

if TYPE_CHECKING:
    from phantom.crypto.pins import PinSet
    from phantom.crypto.providers import Provider
    from phantom.crypto.rng import RngProvider

__all__ = ["TRANSITIONS", "Event", "Initiator", "State", "solve_budget_exceeded"]

_SEED_LEN: Final = 32  # of either half of a signing key


class State(enum.Enum):
    """See the module text."""

    IDLE = "idle"
    HELLO_SENT = "hello sent"
    RESUME_SENT = "resume hello sent"
    SOLVING = "solving"
    RESUME_SOLVING = "resume solving"
    ESTABLISHED = "established"
    FAILED = "failed"


class Event(enum.Enum):
    """A call of the driver, or what a frame turned out to be."""

    START = "start"
    START_RESUMING = "start with a resumption hint"
    HELLO_V12 = "kind 0, V12"
    HELLO_V3 = "kind 0, V3"
    UNSUPPORTED = "kind 0, Unsupported"
    RETRY = "kind 1 without challenge"
    CHALLENGE = "kind 1 with challenge"
    REJECT = "kind 2"
    SOLVED = "challenge solved"


def solve_budget_exceeded(difficulty: int, seconds_per_hash: float, seconds_left: float) -> bool:
    """Whether a challenge cannot be solved in time with good certainty: 3 * 2^difficulty hashes take longer than what
    is left of the deadline (wire-native §7.4b). Measure ``seconds_per_hash`` over the first 256 tries."""
    return 3 * seconds_per_hash * 2.0**difficulty > seconds_left


class Initiator:
    """One handshake as a client (wire-native §7). Not for sharing between tasks; ``now`` is monotonic seconds.

    The constructor makes the ephemeral keys, so build it while the leg connects. Then call ``start``, deliver every
    frame of the server to ``receive``, and after each call take events from ``next_event`` until it gives None:
    ``Send``, ``SolveChallenge`` (answer with ``solved`` or ``too_slow``), at last ``Established``. A verb that raises
    has ended the handshake and wiped its keys; close the leg. ``abort`` does the same at any time.

    ``pins``: what the server key must match. ``version``: 1 or 2, what a hello without resumption offers
    (``ConfigError``). ``resumption``: offer version 3 with this hint and early data; falls back to 2.
    ``read_timeout`` and ``handshake_deadline``: seconds for one reply and for everything (60 and 60 on the embedded
    leg; on UDP only the latter bounds, so pass it for both). ``key_pair``, ``verify_key`` (1988 bytes, encoded) and
    ``nonce`` (32 bytes) may be made ahead, each for one use; the key pair is wiped at the end.
    """

    __slots__ = (
        "_challenge",
        "_deadline",
        "_events",
        "_frame",
        "_handshake_deadline",
        "_hello",
        "_key_pair",
        "_pins",
        "_provider",
        "_read_deadline",
        "_read_timeout",
        "_received",
        "_rng",
        "_rounds",
        "_sent",
        "_sent_hellos",
        "_state",
    )

    def __init__(
        self,
        pins: PinSet,
        *,
        provider: Provider,
        rng: RngProvider,
        version: int = VERSION_2,
        resumption: Resumption | None = None,
        read_timeout: float = HANDSHAKE_READ_TIMEOUT,
        handshake_deadline: float = HANDSHAKE_DEADLINE,
        key_pair: HybridKemKeyPair | None = None,
        verify_key: bytes | None = None,
        nonce: bytes | None = None,
    ) -> None:
        if version not in (VERSION_1, VERSION_2):
            raise ConfigError(f"offer_version is {version}; it must be 2, or 1 by choice (3 comes with resumption)")
        if resumption is not None and version == VERSION_1:
            raise ConfigError("offer_version is 1, which cannot resume a session")
        self._pins = pins
        self._provider = provider
        self._rng = rng
        self._read_timeout = read_timeout
        self._handshake_deadline = handshake_deadline
        self._key_pair = key_pair or HybridKemKeyPair.generate(provider, rng)
        package = self._key_pair.public
        verify_key = verify_key or _fresh_verify_key(provider, rng)
        nonce = nonce or rng.fill_bytes(NONCE_LEN)
        if resumption is None:
            self._hello = ClientHello(package, verify_key, nonce, version)
        else:
            blob = seal_early_data(provider, resumption, nonce, package, verify_key)
            self._hello = ClientHello(
                package,
                verify_key,
                nonce,
                VERSION_3,
                resume_session_id=resumption.session_id,
                early_data=blob,
                envelope=ENVELOPE_V3,
            )
        self._frame = b""
        self._challenge = b""
        self._state = State.IDLE
        self._events: deque[Send | SolveChallenge | Established] = deque()
        self._rounds = 0
        self._sent_hellos = 0
        self._sent = 0
        self._received = 0
        self._deadline = self._read_deadline = float("inf")

    # --- verbs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Send the first hello (wire-native §7.1). The deadline runs from here."""
        self._deadline = now + self._handshake_deadline
        self._step(Event.START if self._hello.envelope == ENVELOPE_V12 else Event.START_RESUMING, now)

    def receive(self, frame: bytes, now: float) -> None:
        """Take one frame of the server (wire-native §§5.2, 7.2, 7.4).

        Raises ``SerializationError`` (does not decode), ``ServerIdentityMismatchError``, ``SignatureInvalidError``,
        ``KemFailedError``, ``SessionIdMismatchError``, ``RetryLimitError``, ``PowDifficultyTooHighError``,
        ``ProtocolRejectedError``, ``ServerBusyError``, or ``HandshakeError`` for a reply that is not allowed now.
        """
        self._received += len(frame)
        try:
            reply = decode_reply(frame)
        except SerializationError:
            self.abort()
            raise
        self._step(_classify(reply), now, reply, frame)

    def solved(self, solution: int | None, now: float) -> None:
        """Answer ``SolveChallenge``: a u64 that meets the difficulty, or None when MAX_SOLVE_ITERATIONS tries found
        none (``PowExhaustedError``)."""
        if solution is None:
            self.abort()
            raise PowExhaustedError
        self._hello = replace(self._hello, pow_solution=PowSolution(self._challenge, solution))
        self._step(Event.SOLVED, now)

    def too_slow(self, now: float) -> NoReturn:
        """Refuse the challenge because it cannot be solved before the deadline (wire-native §7.4b)."""
        left = max(0.0, self._deadline - now)
        self.abort()
        raise PowDifficultyTooHighError(f"the server's proof of work cannot be done in the {left:.1f} s that are left")

    def expire(self, now: float) -> NoReturn:
        """The time of ``deadline`` has come: fail with ``HandshakeTimeoutError``."""
        whole = now >= self._deadline
        self.abort()
        raise HandshakeTimeoutError(
            "the handshake did not finish in time" if whole else "the server did not answer the handshake in time"
        )

    def abort(self) -> None:
        """End here, whatever the reason, and wipe every secret. Harmless when it is over already."""
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Established):
                event.result.wipe()
        self._end(State.FAILED)

    def next_event(self) -> Send | SolveChallenge | Established | None:
        """What to do next; None = wait for a frame until ``deadline``."""
        return self._events.popleft() if self._events else None

    def deadline(self, now: float) -> float:
        """When to call ``expire`` (monotonic seconds): the end of the wait for a reply, or of the whole handshake while
        a challenge is being solved; infinity before ``start`` and once it is over."""
        return min(self._read_deadline, self._deadline)

    @property
    def state(self) -> State:
        """Where in the table this handshake is."""
        return self._state

    # --- the table's actions ------------------------------------------------------------------------------------------

    def _step(self, event: Event, now: float, *what: object) -> None:
        try:
            transition = TRANSITIONS.get((self._state, event))
            if transition is None:
                raise HandshakeError(f"not allowed while {self._state.value}: {event.value}")
            self._state, action = transition
            action(self, now, *what)
        except BaseException:
            self.abort()
            raise

    def _send_hello(self, now: float) -> None:
        self._frame = self._hello.encode()
        self._sent_hellos += 1
        self._sent += len(self._frame)
        self._read_deadline = now + self._read_timeout
        self._events.append(Send(self._frame))

    def _retry(self, now: float, reply: HelloRetryRequest, frame: bytes) -> None:
        """§7.4: rounds first, difficulty before any hashing; what the reply does not bring is kept."""
        challenge = reply.challenge
        self._rounds += 1
        if self._rounds > MAX_RETRY_ROUNDS:
            raise RetryLimitError(f"the server asked for more than {MAX_RETRY_ROUNDS} retries")
        if challenge is not None and challenge.difficulty > MAX_CLIENT_POW_DIFFICULTY:
            raise PowDifficultyTooHighError(
                f"the server asks for {challenge.difficulty} bits of proof of work; "
                f"this client does at most {MAX_CLIENT_POW_DIFFICULTY}"
            )
        if reply.cookie is not None:
            self._hello = replace(self._hello, cookie=reply.cookie)
        if challenge is not None:
            self._challenge = challenge.nonce
            self._read_deadline = self._deadline
            self._events.append(SolveChallenge(challenge.nonce, challenge.difficulty, self._deadline))
        elif reply.cookie is not None:
            self._send_hello(now)
        else:
            raise HandshakeError("the server asked for a retry without saying what for")

    def _fall_back(self, now: float, reply: Unsupported, frame: bytes) -> None:
        """§9.7: version 2 under a fresh nonce; what the gate was shown stays valid."""
        self._hello = ClientHello(
            self._hello.client_key_package,
            self._hello.client_verify_key,
            self._rng.fill_bytes(NONCE_LEN),
            VERSION_2,
            self._hello.cookie,
            self._hello.pow_solution,
        )
        self._send_hello(now)

    def _rejected(self, now: float, reply: ServerReject, frame: bytes) -> None:
        offered, supported = self._hello.version, reply.supported_version
        if reply.code == REJECT_BUSY:
            raise ServerBusyError
        if reply.code == REJECT_VERSION:
            what = f"protocol version {offered}; the highest it names is {supported}: upgrade the older side"
        else:
            what = f"the connection (code {reply.code})"
        raise ProtocolRejectedError(f"the server refused {what}", reply.code, supported)

    def _process(self, now: float, reply: ServerHello, frame: bytes) -> None:
        """§7.2, C1 to C5."""
        hello, encoded_key = self._hello, reply.server_verify_key
        flat_key = encoded_key[:ED25519_PK_LEN] + encoded_key[ED25519_PK_LEN + 4 :]
        peer_key = HybridVerifyingKey.from_bytes(flat_key, self._provider)
        if not self._pins.matches(flat_key):
            raise ServerIdentityMismatchError(
                f"the server's key is {peer_key.fingerprint()}, pinned is {' or '.join(self._pins.fingerprints())}; "
                "do not connect until you know why"
            )
        signed = transcript_hash(self._frame, frame)
        signature = reply.signature[:ED25519_SIG_LEN] + reply.signature[ED25519_SIG_LEN + 4 :]
        if not peer_key._verify_raw(signed, signature):
            raise SignatureInvalidError
        shared_secret = self._key_pair.decapsulate(reply.ciphertext)
        if not constant_time_equal(session_id(shared_secret, hello.nonce), reply.session_id):
            wipe(shared_secret)
            raise SessionIdMismatchError
        self._end(State.ESTABLISHED)
        self._events.append(
            Established(
                HandshakeResult(
                    initiator=True,
                    version=hello.version,
                    packet_version=VERSION_1 if hello.version == VERSION_1 else VERSION_2,
                    session_id=reply.session_id,
                    shared_secret=shared_secret,
                    resumption_secret=resumption_secret(shared_secret),
                    transcript_hash=signed,
                    # anew: what verifying has parsed and kept in the other one takes 9 KiB of every session
                    peer_key=HybridVerifyingKey.from_bytes(flat_key, self._provider),
                    early_data_accepted=reply.early_data_accepted,
                    retries=self._sent_hellos - 1,
                    client_nonce=hello.nonce,
                    bytes_sent=self._sent,
                    bytes_received=self._received,
                )
            )
        )

    def _end(self, state: State) -> None:
        self._key_pair.wipe()
        self._deadline = self._read_deadline = float("inf")
        self._state = state


TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, Callable[..., None]]]] = {
    (State.IDLE, Event.START): (State.HELLO_SENT, Initiator._send_hello),
    (State.IDLE, Event.START_RESUMING): (State.RESUME_SENT, Initiator._send_hello),
    (State.HELLO_SENT, Event.HELLO_V12): (State.ESTABLISHED, Initiator._process),
    (State.HELLO_SENT, Event.RETRY): (State.HELLO_SENT, Initiator._retry),
    (State.HELLO_SENT, Event.CHALLENGE): (State.SOLVING, Initiator._retry),
    (State.HELLO_SENT, Event.REJECT): (State.FAILED, Initiator._rejected),
    (State.SOLVING, Event.SOLVED): (State.HELLO_SENT, Initiator._send_hello),
    (State.RESUME_SENT, Event.HELLO_V3): (State.ESTABLISHED, Initiator._process),
    (State.RESUME_SENT, Event.UNSUPPORTED): (State.HELLO_SENT, Initiator._fall_back),
    (State.RESUME_SENT, Event.RETRY): (State.RESUME_SENT, Initiator._retry),
    (State.RESUME_SENT, Event.CHALLENGE): (State.RESUME_SOLVING, Initiator._retry),
    (State.RESUME_SENT, Event.REJECT): (State.FAILED, Initiator._rejected),
    (State.RESUME_SOLVING, Event.SOLVED): (State.RESUME_SENT, Initiator._send_hello),
}
"""State x event -> state, action. The docs draw their diagram from it."""


def _classify(reply: Reply) -> Event:
    if isinstance(reply, ServerHello):
        return Event.HELLO_V12 if reply.early_data_accepted is None else Event.HELLO_V3
    if isinstance(reply, HelloRetryRequest):
        return Event.RETRY if reply.challenge is None else Event.CHALLENGE
    return Event.REJECT if isinstance(reply, ServerReject) else Event.UNSUPPORTED


def _fresh_verify_key(provider: Provider, rng: RngProvider) -> bytes:
    """A verifying key for one hello (§4.6). It signs nothing, so its private half goes at once."""
    ed25519 = provider.ed25519_private(rng.fill_bytes(_SEED_LEN))
    ml_dsa = provider.ml_dsa_private(rng.fill_bytes(_SEED_LEN)) if provider.seeded else provider.ml_dsa_generate()
    return provider.ed25519_public(ed25519) + vec(provider.ml_dsa_public(ml_dsa))
