"""Client authentication on the control stream (wire-native §15.7), sans-IO, both roles.

A client proves a long-lived identity to a server that it has already authenticated: it signs the transcript and a
secret of this very session. Who is allowed is asked from outside: ``next_request`` hands out the verified key,
``verdict`` takes the answer.

Initiator:

- ANONYMOUS: it has no identity and sends data at once; a server that demands one ends the session.
- AUTHENTICATING: CLIENT_AUTH is out, and no data leaves before AUTH_RESULT.
- ADMITTED, FAILED: over.

Responder (what is *withheld* reaches no application):

- UNASKED: policy none. Whatever comes is accepted unread.
- WAITING: policy optional; withheld until the client shows what it is, one second at most.
- OPEN: policy optional; in use without an identity, which may still come.
- REQUIRED: withheld until a CLIENT_AUTH is accepted; anything else first ends the session.
- VOUCHED: as REQUIRED, but in use already on the strength of a ticket; the same identity must follow.
- JUDGING and its three kin: the signature is good, the verdict is asked; the suffix says where it came from.
- ACCEPTED, REFUSED: over; the 64 secret bytes are wiped.

A pair that the table does not name changes nothing. What no state allows (a second CLIENT_AUTH, messages of the wrong
role, unknown codes) is a protocol violation before the table is asked.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from phantom.crypto.compare import constant_time_equal
from phantom.crypto.hybrid_sign import HybridVerifyingKey
from phantom.crypto.wipe import wipe
from phantom.errors import ClientAuthError, HandshakeTimeoutError, PhantomError, ProtocolViolationError
from phantom.limits import HANDSHAKE_DEADLINE, OPTIONAL_AUTH_WAIT
from phantom.transport.session.control import AuthResult, ClientAuth, encode_auth_result, encode_client_auth

if TYPE_CHECKING:
    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.providers import Provider

__all__ = [
    "INITIATOR_TRANSITIONS",
    "RESPONDER_TRANSITIONS",
    "ClientAuthInitiator",
    "ClientAuthPolicy",
    "ClientAuthRequested",
    "ClientAuthResponder",
    "ClientAuthentication",
    "InitiatorEvent",
    "InitiatorState",
    "ResponderEvent",
    "ResponderState",
]

ACCEPTED: Final = 0
REFUSED: Final = 1
AUTHENTICATION_REQUIRED: Final = 2

_LABEL: Final = b"phantom-client-auth-v1"
_NEEDS_IDENTITY: Final = "the server requires a client identity; connect with identity="
_NOT_ALLOWED: Final = "the server refused this client's identity; ask its operator to authorise the key"


class ClientAuthPolicy(enum.Enum):
    """What a responder asks of its clients."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ClientAuthRequested:
    """The holder of ``key`` has proved itself; may it come in? Answer with ``verdict``."""

    key: HybridVerifyingKey = field(repr=False)


class ClientAuthentication(Protocol):
    """What a connection knows of either role; ``now`` and all deadlines are seconds of its clock."""

    identity: HybridVerifyingKey | None  # accepted, at the responder
    error: ClientAuthError | None  # the responder refused: answer, then CLOSE with code 43

    @property
    def admitted(self) -> bool:
        """The application may have the session: data on streams other than 0 may leave."""

    @property
    def takes_data(self) -> bool:
        """Data on streams other than 0 may be taken; while it may not it is dropped unacknowledged."""

    def take_outgoing(self) -> bytes:
        """Framed messages for the control stream, once."""

    def on_message(self, message: ClientAuth | AuthResult, now: float) -> None:
        """A message of the peer; raises the error that ends the session."""

    def on_data(self, now: float) -> None:
        """Data on a stream other than 0 has arrived although ``takes_data`` is false; ask that again afterwards."""

    def on_first_packet(self, now: float) -> None:
        """The first packet on a byte-pipe leg was no data of the control stream."""

    def on_close(self, code: int) -> PhantomError | None:
        """CLOSE has arrived; the error that it stands for here, if any."""

    def deadline(self) -> float | None:
        """When to call ``expire``."""

    def expire(self, now: float) -> None:
        """Does what has become due; may raise the error that ends the session."""

    def next_request(self) -> ClientAuthRequested | None:
        """The question to put to the policy, once."""

    def verdict(self, accepted: bool, now: float) -> None:
        """The policy's answer; ignored when it comes too late."""

    def close(self) -> None:
        """The session is over: wipes."""


def _signed_message(binding: bytearray) -> bytearray:
    return bytearray(_LABEL) + binding


# --- initiator --------------------------------------------------------------------------------------------------------


class InitiatorState(enum.Enum):
    """See the module text."""

    ANONYMOUS = "anonymous"
    AUTHENTICATING = "authenticating"
    ADMITTED = "admitted"
    FAILED = "failed"


class InitiatorEvent(enum.Enum):
    """What has happened."""

    RESULT_ACCEPTED = "AUTH_RESULT 0"
    RESULT_REFUSED = "AUTH_RESULT 1"
    RESULT_REQUIRED = "AUTH_RESULT 2"
    CLOSE = "CLOSE 43"
    DEADLINE = "deadline"


class ClientAuthInitiator:
    """The client's side. ``binding`` is ``transcript_hash || auth_context`` (64 B); it is wiped here, and ``identity``
    is used once. Without an identity there is nothing to send or to wait for, but a server may still demand one.
    """

    __slots__ = ("_deadline", "_outgoing", "_state", "error", "identity")

    def __init__(
        self,
        binding: bytearray | None,
        identity: HybridSigningKey | None,
        *,
        now: float,
        timeout: float = HANDSHAKE_DEADLINE,
    ) -> None:
        self.identity: HybridVerifyingKey | None = None
        self.error: ClientAuthError | None = None
        self._deadline = now + timeout
        self._outgoing = b""
        self._state = InitiatorState.ANONYMOUS
        if binding is None:
            return
        if identity is not None:
            signed = _signed_message(binding)
            self._outgoing = encode_client_auth(identity.verifying_key().to_bytes(), identity._sign_raw(signed))
            self._state = InitiatorState.AUTHENTICATING
            wipe(signed)
        wipe(binding)

    @property
    def state(self) -> InitiatorState:
        """Where in the table this exchange is."""
        return self._state

    @property
    def admitted(self) -> bool:
        """Data on streams other than 0 may leave."""
        return self._state in (InitiatorState.ANONYMOUS, InitiatorState.ADMITTED)

    @property
    def takes_data(self) -> bool:
        """Always: the server is authenticated, and may send before its verdict arrives."""
        return True

    def take_outgoing(self) -> bytes:
        """CLIENT_AUTH, once; the first thing that leaves on this session."""
        outgoing, self._outgoing = self._outgoing, b""
        return outgoing

    def on_message(self, message: ClientAuth | AuthResult, now: float) -> None:
        """Raises ClientAuthError for a refusal, ProtocolViolationError for what no server may send."""
        event = _RESULTS.get(message.code) if isinstance(message, AuthResult) else None
        if event is None or not self._step(event):
            raise ProtocolViolationError("the server broke the rules of client authentication")

    def on_data(self, now: float) -> None:
        """Means nothing here."""

    def on_first_packet(self, now: float) -> None:
        """Means nothing here."""

    def on_close(self, code: int) -> PhantomError | None:
        """A CLOSE with code 43 and no AUTH_RESULT before it counts as one (§15.7)."""
        if code == ClientAuthError.code:
            try:
                self._step(InitiatorEvent.CLOSE)
            except ClientAuthError as error:
                return error
        return None

    def deadline(self) -> float | None:
        """The end of the wait for AUTH_RESULT."""
        return self._deadline if self._state is InitiatorState.AUTHENTICATING else None

    def expire(self, now: float) -> None:
        """Raises HandshakeTimeoutError once the wait for AUTH_RESULT is over."""
        if now >= self._deadline:
            self._step(InitiatorEvent.DEADLINE)

    def next_request(self) -> ClientAuthRequested | None:
        """A client judges nobody."""
        return None

    def verdict(self, accepted: bool, now: float) -> None:
        """A client judges nobody."""

    def close(self) -> None:
        """Nothing secret is left."""

    def _step(self, event: InitiatorEvent) -> bool:
        transition = INITIATOR_TRANSITIONS.get((self._state, event))
        if transition is None:
            return False
        self._state, action = transition
        action(self)
        return True

    def _go_on(self) -> None:
        pass

    def _refused(self) -> NoReturn:
        raise ClientAuthError(_NOT_ALLOWED)

    def _required(self) -> NoReturn:
        raise ClientAuthError(_NEEDS_IDENTITY)

    def _timed_out(self) -> NoReturn:
        raise HandshakeTimeoutError("the server did not answer the client's identity in time")


_RESULTS: Final = {
    ACCEPTED: InitiatorEvent.RESULT_ACCEPTED,
    REFUSED: InitiatorEvent.RESULT_REFUSED,
    AUTHENTICATION_REQUIRED: InitiatorEvent.RESULT_REQUIRED,
}

_I, _IE = InitiatorState, InitiatorEvent
INITIATOR_TRANSITIONS: Final[
    dict[tuple[InitiatorState, InitiatorEvent], tuple[InitiatorState, Callable[[ClientAuthInitiator], None]]]
] = {
    (_I.ANONYMOUS, _IE.RESULT_REQUIRED): (_I.FAILED, ClientAuthInitiator._required),
    (_I.ANONYMOUS, _IE.CLOSE): (_I.FAILED, ClientAuthInitiator._required),
    (_I.AUTHENTICATING, _IE.RESULT_ACCEPTED): (_I.ADMITTED, ClientAuthInitiator._go_on),
    (_I.AUTHENTICATING, _IE.RESULT_REFUSED): (_I.FAILED, ClientAuthInitiator._refused),
    (_I.AUTHENTICATING, _IE.RESULT_REQUIRED): (_I.FAILED, ClientAuthInitiator._required),
    (_I.AUTHENTICATING, _IE.CLOSE): (_I.FAILED, ClientAuthInitiator._refused),
    (_I.AUTHENTICATING, _IE.DEADLINE): (_I.FAILED, ClientAuthInitiator._timed_out),
}
"""State x event -> state, action."""


# --- responder --------------------------------------------------------------------------------------------------------


class ResponderState(enum.Enum):
    """See the module text."""

    UNASKED = "unasked"
    WAITING = "waiting"
    OPEN = "open"
    REQUIRED = "required"
    VOUCHED = "vouched"
    JUDGING = "judging"
    JUDGING_OPEN = "judging, open"
    JUDGING_REQUIRED = "judging, required"
    JUDGING_VOUCHED = "judging, vouched"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class ResponderEvent(enum.Enum):
    """What has happened."""

    UNREAD = "CLIENT_AUTH, not read"
    GOOD = "CLIENT_AUTH, good"
    BAD = "CLIENT_AUTH, bad"
    DATA = "data"
    OTHER = "other packet first"
    WAIT_OVER = "OPTIONAL_AUTH_WAIT"
    DEADLINE = "deadline"
    YES = "verdict yes"
    NO = "verdict no"


class ClientAuthResponder:
    """The server's side. ``binding`` is ``transcript_hash || auth_context`` (64 B), wiped when settled or closed.

    ``surfaced``: the session is in use already because its early data was accepted; under ``required`` only with
    ``vouched``, the fingerprint digest (32 B) of the identity behind the ticket. ``timeout`` runs from ``now`` for
    CLIENT_AUTH and from its arrival for the verdict.
    """

    __slots__ = (
        "_binding",
        "_candidate",
        "_deadline",
        "_outgoing",
        "_provider",
        "_requested",
        "_seen",
        "_state",
        "_surface_at",
        "_timeout",
        "_vouched",
        "error",
        "identity",
    )

    def __init__(
        self,
        binding: bytearray | None,
        policy: ClientAuthPolicy,
        *,
        now: float,
        timeout: float = HANDSHAKE_DEADLINE,
        surfaced: bool = False,
        vouched: bytes | None = None,
        provider: Provider | None = None,
    ) -> None:
        self.identity: HybridVerifyingKey | None = None
        self.error: ClientAuthError | None = None
        self._binding = binding
        self._vouched = vouched
        self._provider = provider
        self._timeout = timeout
        self._deadline = now + timeout
        self._surface_at = now + OPTIONAL_AUTH_WAIT
        self._outgoing = b""
        self._candidate: HybridVerifyingKey | None = None
        self._requested: HybridVerifyingKey | None = None
        self._seen = False
        self._state = _FIRST[policy, surfaced if policy is not ClientAuthPolicy.REQUIRED else vouched is not None]
        if policy is ClientAuthPolicy.NONE or binding is None:
            self.close()

    @property
    def state(self) -> ResponderState:
        """Where in the table this exchange is."""
        return self._state

    @property
    def admitted(self) -> bool:
        """Data may reach the application, and the session may be shown to it."""
        return self._state in _ADMITTED

    @property
    def takes_data(self) -> bool:
        """The same at this end."""
        return self._state in _ADMITTED

    def take_outgoing(self) -> bytes:
        """AUTH_RESULT, once."""
        outgoing, self._outgoing = self._outgoing, b""
        return outgoing

    def on_message(self, message: ClientAuth | AuthResult, now: float) -> None:
        """Verifies the first CLIENT_AUTH, if somebody wants to know. ProtocolViolationError for any other message."""
        if not isinstance(message, ClientAuth) or self._seen:
            raise ProtocolViolationError("the client broke the rules of client authentication")
        self._seen = True
        if self._state is ResponderState.UNASKED:
            self._step(ResponderEvent.UNREAD)
        elif self._state is not ResponderState.REFUSED:
            key = self._candidate = HybridVerifyingKey.from_bytes(message.verifying_key, self._provider)
            self._deadline = now + self._timeout
            self._step(ResponderEvent.GOOD if self._proves(key, message.signature) else ResponderEvent.BAD)

    def on_data(self, now: float) -> None:
        """Optional: no identity comes first, so the session is shown. Required: it ends."""
        self._step(ResponderEvent.DATA)

    def on_first_packet(self, now: float) -> None:
        """Optional: a client with an identity would have begun with it."""
        self._step(ResponderEvent.OTHER)

    def on_close(self, code: int) -> PhantomError | None:
        """A client that leaves needs no error of this exchange."""
        return None

    def deadline(self) -> float | None:
        """The end of the wait for CLIENT_AUTH, for the verdict, or for showing the session without either."""
        if self._state is ResponderState.JUDGING:
            return min(self._surface_at, self._deadline)
        if self._state is ResponderState.WAITING:
            return self._surface_at
        return self._deadline if (self._state, ResponderEvent.DEADLINE) in RESPONDER_TRANSITIONS else None

    def expire(self, now: float) -> None:
        """Shows a session of policy optional, ends one of policy required, gives up on a verdict."""
        if now >= self._surface_at:
            self._step(ResponderEvent.WAIT_OVER)
        if now >= self._deadline:
            self._step(ResponderEvent.DEADLINE)

    def next_request(self) -> ClientAuthRequested | None:
        """The question to put to the policy, once."""
        key, self._requested = self._requested, None
        return None if key is None else ClientAuthRequested(key)

    def verdict(self, accepted: bool, now: float) -> None:
        """The policy's answer; ignored when it comes too late."""
        self._step(ResponderEvent.YES if accepted else ResponderEvent.NO)

    def close(self) -> None:
        """Wipes the 64 bytes; nothing can be verified any more."""
        if self._binding is not None:
            wipe(self._binding)
            self._binding = None

    def _proves(self, key: HybridVerifyingKey, signature: bytes) -> bool:
        if self._binding is None:  # closed
            return False
        signed = _signed_message(self._binding)
        valid = key._verify_raw(signed, signature)
        wipe(signed)
        same = self._vouched is None or constant_time_equal(key.fingerprint_digest(), self._vouched)
        return valid and same

    def _step(self, event: ResponderEvent) -> None:
        transition = RESPONDER_TRANSITIONS.get((self._state, event))
        if transition is not None:
            self._state, action = transition
            action(self)

    def _show(self) -> None:
        pass

    def _ask(self) -> None:
        self._requested = self._candidate

    def _accept(self) -> None:
        if self._candidate is not None:  # anew: what verifying has parsed takes kilobytes of every session
            self.identity = HybridVerifyingKey.from_bytes(self._candidate.to_bytes(), self._provider)
        self._settle(ACCEPTED)

    def _refuse(self) -> None:
        self.error = ClientAuthError("this server refused the client's identity")
        self._settle(REFUSED)

    def _demand(self) -> None:
        self.error = ClientAuthError("the client showed no identity, which this server requires")
        self._settle(AUTHENTICATION_REQUIRED)

    def _settle(self, code: int) -> None:
        self._outgoing = encode_auth_result(code)
        self._candidate = self._requested = None
        self.close()


_R, _RE = ResponderState, ResponderEvent
_FIRST: Final = {  # (policy, in use already)
    (ClientAuthPolicy.NONE, False): _R.UNASKED,
    (ClientAuthPolicy.NONE, True): _R.UNASKED,
    (ClientAuthPolicy.OPTIONAL, False): _R.WAITING,
    (ClientAuthPolicy.OPTIONAL, True): _R.OPEN,
    (ClientAuthPolicy.REQUIRED, False): _R.REQUIRED,
    (ClientAuthPolicy.REQUIRED, True): _R.VOUCHED,
}
_ADMITTED: Final = (_R.UNASKED, _R.OPEN, _R.JUDGING_OPEN, _R.VOUCHED, _R.JUDGING_VOUCHED, _R.ACCEPTED)

RESPONDER_TRANSITIONS: Final[
    dict[tuple[ResponderState, ResponderEvent], tuple[ResponderState, Callable[[ClientAuthResponder], None]]]
] = {
    (_R.UNASKED, _RE.UNREAD): (_R.ACCEPTED, ClientAuthResponder._accept),
    (_R.WAITING, _RE.GOOD): (_R.JUDGING, ClientAuthResponder._ask),
    (_R.WAITING, _RE.BAD): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.WAITING, _RE.DATA): (_R.OPEN, ClientAuthResponder._show),
    (_R.WAITING, _RE.OTHER): (_R.OPEN, ClientAuthResponder._show),
    (_R.WAITING, _RE.WAIT_OVER): (_R.OPEN, ClientAuthResponder._show),
    (_R.OPEN, _RE.GOOD): (_R.JUDGING_OPEN, ClientAuthResponder._ask),
    (_R.OPEN, _RE.BAD): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.REQUIRED, _RE.GOOD): (_R.JUDGING_REQUIRED, ClientAuthResponder._ask),
    (_R.REQUIRED, _RE.BAD): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.REQUIRED, _RE.DATA): (_R.REFUSED, ClientAuthResponder._demand),
    (_R.REQUIRED, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._demand),
    (_R.VOUCHED, _RE.GOOD): (_R.JUDGING_VOUCHED, ClientAuthResponder._ask),
    (_R.VOUCHED, _RE.BAD): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.VOUCHED, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._demand),
    (_R.JUDGING, _RE.YES): (_R.ACCEPTED, ClientAuthResponder._accept),
    (_R.JUDGING, _RE.NO): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING, _RE.DATA): (_R.JUDGING_OPEN, ClientAuthResponder._show),
    (_R.JUDGING, _RE.WAIT_OVER): (_R.JUDGING_OPEN, ClientAuthResponder._show),
    (_R.JUDGING, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_OPEN, _RE.YES): (_R.ACCEPTED, ClientAuthResponder._accept),
    (_R.JUDGING_OPEN, _RE.NO): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_OPEN, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_REQUIRED, _RE.YES): (_R.ACCEPTED, ClientAuthResponder._accept),
    (_R.JUDGING_REQUIRED, _RE.NO): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_REQUIRED, _RE.DATA): (_R.REFUSED, ClientAuthResponder._demand),
    (_R.JUDGING_REQUIRED, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_VOUCHED, _RE.YES): (_R.ACCEPTED, ClientAuthResponder._accept),
    (_R.JUDGING_VOUCHED, _RE.NO): (_R.REFUSED, ClientAuthResponder._refuse),
    (_R.JUDGING_VOUCHED, _RE.DEADLINE): (_R.REFUSED, ClientAuthResponder._refuse),
}
"""State x event -> state, action."""
