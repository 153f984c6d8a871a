"""The handshake, sans-IO: messages, transcript, gate, initiator and responder (wire-native §§4 to 9)."""

from phantom.transport.handshake.events import Close, Established, HandshakeResult, Send, SolveChallenge
from phantom.transport.handshake.gate import Gate, GateCounters, Source, client_id
from phantom.transport.handshake.initiator import Initiator, solve_budget_exceeded
from phantom.transport.handshake.responder import Responder
from phantom.transport.handshake.resumption import Resumption

__all__ = [
    "Close",
    "Established",
    "Gate",
    "GateCounters",
    "HandshakeResult",
    "Initiator",
    "Responder",
    "Resumption",
    "Send",
    "SolveChallenge",
    "Source",
    "client_id",
    "solve_budget_exceeded",
]
