"""What initiator and responder hand to whoever drives them, and the outcome of a handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phantom.crypto.kdf import auth_context, session_key
from phantom.crypto.wipe import wipe

if TYPE_CHECKING:
    from phantom.crypto.hybrid_sign import HybridVerifyingKey

__all__ = ["Close", "Established", "HandshakeResult", "Send", "SolveChallenge"]


@dataclass(slots=True)
class HandshakeResult:
    """A finished handshake (wire-native §7.2 C5, §6.2 S10). The secrets belong to the receiver, who wipes them.

    ``version`` is the one of the last hello (1, 2 or 3), ``packet_version`` that of the packets (1 or 2).
    ``shared_secret`` (32 B) is ``traffic_secret[0]``; ``session_id``, ``resumption_secret``, ``transcript_hash`` and
    ``client_nonce`` have 32 bytes too. ``peer_key`` is the pinned server key at the initiator, None at the responder.
    ``early_data_accepted`` is the signed verdict of a V3 reply, None when the last hello was not V3. ``retries``
    counts the extra rounds; the byte counts are those of whole handshake frames.
    """

    initiator: bool
    version: int
    packet_version: int
    session_id: bytes
    shared_secret: bytearray = field(repr=False)
    resumption_secret: bytearray = field(repr=False)
    transcript_hash: bytes
    peer_key: HybridVerifyingKey | None
    early_data_accepted: bool | None
    retries: int
    client_nonce: bytes
    bytes_sent: int
    bytes_received: int

    def exporter_root(self) -> bytearray:
        """``session_key[0]`` (32 B), which the session keeps for its exporter (§3.5) and wipes at its end."""
        return session_key(self.shared_secret)

    def auth_binding(self, root: bytearray) -> bytearray:
        """``transcript_hash || auth_context`` (64 B): what a client's signature is bound to (§15.7). Secret."""
        context = auth_context(root)
        binding = bytearray(self.transcript_hash) + context
        wipe(context)
        return binding

    def wipe(self) -> None:
        """Overwrite both secrets."""
        wipe(self.shared_secret, self.resumption_secret)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this handshake frame on the leg."""

    frame: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SolveChallenge:
    """Find a proof of work off the event loop and call ``Initiator.solved`` (wire-native §7.4d).

    ``nonce`` has 32 bytes; ``difficulty`` counts leading zero bits, at most 24; ``deadline`` is the end of the whole
    handshake on the caller's monotonic clock (seconds). Search upward from 0, at most MAX_SOLVE_ITERATIONS; after the
    first 256 tries ask ``solve_budget_exceeded`` and, if so, call ``Initiator.too_slow``.
    """

    nonce: bytes
    difficulty: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Established:
    """The handshake is complete; frames from now on are packets of the session."""

    result: HandshakeResult


@dataclass(frozen=True, slots=True)
class Close:
    """Close the leg without another word. ``violation`` says that it was counted against the source (wire-native
    §8.4); ``reason`` is for logs and names no secret."""

    violation: bool
    reason: str
