"""What the handshake tests share: vectors, scripted randomness, and a wire between an initiator and a responder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from phantom import errors
from phantom.crypto.hybrid_kem import encapsulate, fresh_public
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.kdf import session_id
from phantom.crypto.pins import PinSet
from phantom.crypto.pow import solve
from phantom.crypto.providers import Provider, get_provider
from phantom.crypto.rng import SYSTEM_RNG, RngProvider
from phantom.transport.handshake import (
    Close,
    Established,
    Gate,
    HandshakeResult,
    Initiator,
    Responder,
    Resumption,
    Send,
    SolveChallenge,
    Source,
)
from phantom.transport.handshake.borsh import vec
from phantom.transport.handshake.messages import ClientHello, ServerHello
from phantom.transport.handshake.transcript import transcript_hash

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "native"
PROVIDER = get_provider()
SERVER_KEY = HybridSigningKey.from_bytes(b"\1" * 32 + b"\2" * 32)
OTHER_KEY = HybridSigningKey.from_bytes(b"\3" * 32 + b"\4" * 32)
PINS = PinSet.parse(SERVER_KEY.verifying_key())
MASTER = b"\x55" * 32
UNIX = 1_728_000_150.0  # in the middle of a bucket, and of no hour boundary
TCP = Source("192.0.2.1", proves_address=True)
UDP = Source("192.0.2.1", proves_address=False)
HINT = Resumption(b"\x44" * 32, b"\x33" * 32, b"early")


def vectors(name: str, kind: str = "vectors", **want: str | None) -> list[Any]:
    """The entries of a vector file that have the wanted values (None: lack the key), as pytest parameters."""
    entries = json.loads((VECTORS / f"{name}.json").read_text())[kind]
    chosen = [entry for entry in entries if all(entry.get(key) == value for key, value in want.items())]
    assert chosen
    return [pytest.param(entry, id=entry["id"]) for entry in chosen]


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def error_of(reject: str) -> type[errors.PhantomError]:
    """The class that a vector's `reject` names."""
    found: type[errors.PhantomError] = getattr(errors, reject + "Error")
    return found


class ScriptedRng:
    """Gives the recorded strings in order, and fails when another length is asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    def fill_bytes(self, n: int) -> bytes:
        chunk = self.chunks.pop(0)
        assert len(chunk) == n
        return chunk


def initiator(**changes: Any) -> Initiator:
    arguments: dict[str, Any] = {"provider": PROVIDER, "rng": SYSTEM_RNG} | changes
    return Initiator(arguments.pop("pins", PINS), **arguments)


def responder(gate: Gate | None = None, source: Source = TCP, **changes: Any) -> Responder:
    arguments: dict[str, Any] = {"provider": PROVIDER, "rng": SYSTEM_RNG} | changes
    return Responder(arguments.pop("key", SERVER_KEY), gate or Gate(MASTER), source, **arguments)


def drain(machine: Initiator | Responder) -> list[Any]:
    return list(iter(machine.next_event, None))


def sent(machine: Initiator | Responder) -> bytes:
    """The one frame that a machine wants to send, and nothing else."""
    (event,) = drain(machine)
    assert isinstance(event, Send)
    return event.frame


def first_hello(now: float = 0.0, **changes: Any) -> bytes:
    """A client's first hello, whose client is forgotten."""
    client = initiator(**changes)
    client.start(now)
    return sent(client)


def answer(server: Responder, frame: bytes, now: float = 0.0, unix_now: float = UNIX) -> list[Any]:
    server.receive(frame, now, unix_now)
    return drain(server)


Alter = Callable[[bytes], bytes]


def same(frame: bytes) -> bytes:
    return frame


def handshake(
    client: Initiator,
    server: Responder,
    *,
    now: float = 0.0,
    unix_now: float = UNIX,
    c2s: Alter = same,
    s2c: Alter = same,
) -> tuple[HandshakeResult | None, HandshakeResult | None]:
    """Run both ends to their end over a wire that may alter frames; challenges are solved on the way."""
    client.start(now)
    server.start(now)
    at_client: HandshakeResult | None = None
    at_server: HandshakeResult | None = None
    while events := drain(client):
        for event in events:
            if isinstance(event, SolveChallenge):
                client.solved(solve(event.nonce, event.difficulty, 0, 1 << 20), now)
            elif isinstance(event, Established):
                at_client = event.result
            else:
                for reply in answer(server, c2s(event.frame), now, unix_now):
                    if isinstance(reply, Send):
                        client.receive(s2c(reply.frame), now)
                    elif isinstance(reply, Established):
                        at_server = reply.result
                    else:
                        assert isinstance(reply, Close)
    return at_client, at_server


def server_hello(
    client_frame: bytes,
    *,
    key: HybridSigningKey = SERVER_KEY,
    verdict: bool | None = None,
    own_id: bytes | None = None,
    provider: Provider = PROVIDER,
    rng: RngProvider = SYSTEM_RNG,
) -> bytes:
    """The reply of a server that answers any hello, with a verdict (V3) or an id of the caller's choice."""
    hello = ClientHello.decode(client_frame)
    ciphertext, secret = encapsulate(provider, hello.client_key_package, rng)
    draft = ServerHello(
        fresh_public(provider, rng),
        ciphertext,
        key.verifying_key().encoded,
        bytes(3377),
        own_id or session_id(secret, hello.nonce),
        verdict,
    )
    flat = key._sign_raw(transcript_hash(client_frame, draft.encode()))
    return ServerHello(
        draft.server_key_package,
        draft.ciphertext,
        draft.server_verify_key,
        flat[:64] + vec(flat[64:]),
        draft.session_id,
        verdict,
    ).encode()


def flip(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]


def prefixes(frame: bytes, step: int = 1) -> Iterable[bytes]:
    return (frame[:end] for end in range(0, len(frame), step))
