"""Phantom: post-quantum-secure sessions to a pinned peer. The public names, nothing else."""

from phantom import errors
from phantom.api.asyncio_streams import Server, open_connection, start_server
from phantom.api.clients import AuthorizedClients, ClientPolicy
from phantom.api.connecting import Connecting, connect, connect_pinned
from phantom.api.identity import (
    HybridSigningKey,
    HybridVerifyingKey,
    generate_signing_key,
    verifying_key_from_signing_key,
)
from phantom.api.listener import AcceptOutcome, Binding, PhantomListener, listen
from phantom.api.session import HandshakeInfo, Negotiated, PhantomSession
from phantom.api.stream import PhantomStream
from phantom.config import PhantomConfig
from phantom.crypto.pins import Pin, Pins
from phantom.crypto.rng import RngProvider
from phantom.errors import *  # noqa: F403 - the error tree is public as a whole
from phantom.observability.metrics import MetricsSnapshot
from phantom.runtime import Runtime
from phantom.transport.legs.base import SessionTransport
from phantom.transport.session.events import PathChanged, Rekeyed, StateChanged
from phantom.transport.session.states import ConnectionState

__version__ = "0.2.0"

__all__ = [
    "AcceptOutcome",
    "AuthorizedClients",
    "Binding",
    "ClientPolicy",
    "Connecting",
    "ConnectionState",
    "HandshakeInfo",
    "HybridSigningKey",
    "HybridVerifyingKey",
    "MetricsSnapshot",
    "Negotiated",
    "PathChanged",
    "PhantomConfig",
    "PhantomListener",
    "PhantomSession",
    "PhantomStream",
    "Pin",
    "Pins",
    "Rekeyed",
    "RngProvider",
    "Runtime",
    "Server",
    "SessionTransport",
    "StateChanged",
    "connect",
    "connect_pinned",
    "generate_signing_key",
    "listen",
    "open_connection",
    "start_server",
    "verifying_key_from_signing_key",
]
__all__ += errors.__all__
