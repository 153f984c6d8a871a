"""A whole handshake: CPU of each side against the sum of its primitives, and connects through the API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Contestant, Options, Row, Sample, announce, interleave, missing, run_alone

if TYPE_CHECKING:
    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.pins import PinSet
    from phantom.transport.handshake.gate import Gate

GROUP = "handshake"
ENGINE, API = "protocol only", "over TCP"
CLIENT, SERVER, BOTH = "client", "server", "both"
# What a handshake does by wire-native §§6 and 7: how often each operation of `primitives.asymmetric` on each side.
CLIENT_WORK = {
    "X25519 key pair": 1,
    "ML-KEM-768 key pair": 1,
    "Ed25519 key pair": 1,  # the verifying key that every hello carries
    "ML-DSA-65 key pair": 1,
    "Ed25519 verify": 1,
    "ML-DSA-65 verify": 1,
    "X25519 exchange": 1,
    "ML-KEM-768 decapsulate": 1,
}
SERVER_WORK = {
    "X25519 key pair": 2,  # its ephemeral one, and the one in the key package of the hello
    "X25519 exchange": 1,
    "ML-KEM-768 encapsulate": 1,
    "ML-KEM-768 key pair": 1,
    "Ed25519 sign": 1,
    "ML-DSA-65 sign": 1,
}


def once(key: HybridSigningKey, gate: Gate, pins: PinSet) -> tuple[float, float]:
    """One handshake without I/O; CPU seconds of the client and of the server."""
    from phantom.crypto.providers import get_provider
    from phantom.crypto.rng import SYSTEM_RNG
    from phantom.transport.handshake.events import Established, Send
    from phantom.transport.handshake.gate import Source
    from phantom.transport.handshake.initiator import Initiator
    from phantom.transport.handshake.responder import Responder

    provider, clock = get_provider("openssl"), time.process_time
    source = Source("127.0.0.1")
    begun = clock()
    initiator = Initiator(pins, provider=provider, rng=SYSTEM_RNG)
    initiator.start(0.0)
    hello = initiator.next_event()
    client = clock() - begun
    assert isinstance(hello, Send)
    begun = clock()
    responder = Responder(key, gate, source, provider=provider, rng=SYSTEM_RNG)
    responder.start(0.0)
    responder.receive(hello.frame, 0.0, 1e9)
    answer, established = responder.next_event(), responder.next_event()
    server = clock() - begun
    assert isinstance(answer, Send)
    assert isinstance(established, Established)
    begun = clock()
    initiator.receive(answer.frame, 0.0)
    done = initiator.next_event()
    client += clock() - begun
    assert isinstance(done, Established)
    return client, server


def engine_round(count: int, seconds: float) -> dict[str, Any]:
    """``count`` handshakes without I/O, and the primitives, in this process: CPU microseconds of each."""
    from benchmarks.groups.primitives import Keys, asymmetric
    from benchmarks.harness import cpu_per_call
    from phantom.crypto.hybrid_sign import HybridSigningKey
    from phantom.crypto.pins import PinSet
    from phantom.crypto.providers import get_provider
    from phantom.transport.handshake.gate import Gate

    key = HybridSigningKey.generate(provider=get_provider("openssl"))
    gate = Gate(bytes(32), load_tiers=())
    pins = PinSet.parse(key.verifying_key().fingerprint())
    client = server = 0.0
    work = asymmetric(Keys())
    part = max(1, count // 4)
    primitives: dict[str, list[float]] = {name: [] for name in work}
    for number in range(count):
        at_client, at_server = once(key, gate, pins)
        client += at_client
        server += at_server
        if number % part == part - 1:  # in between, so that both see the same machine
            for name, call in work.items():
                share = seconds if name == "ML-DSA-65 sign" else seconds / 16
                primitives[name].append(cpu_per_call(call, share))
    mean = {name: sum(found) / len(found) for name, found in primitives.items()}
    return {
        CLIENT: client / count * 1e6,
        SERVER: server / count * 1e6,
        "client primitives": sum(mean[name] * times for name, times in CLIENT_WORK.items()),
        "server primitives": sum(mean[name] * times for name, times in SERVER_WORK.items()),
    }


def api(received: Sample, sent: Sample) -> dict[str, float]:
    """Connects a second, one after the other, and CPU milliseconds of each side: TCP, event loops and all."""
    return {
        "connects/s": sent["messages"] / sent["seconds"],
        "client CPU ms": sent["cpu"] / sent["messages"] * 1e3,
        "server CPU ms": received["cpu"] / received["messages"] * 1e3,
    }


def measure(options: Options) -> list[Row]:
    """First without I/O, then through ``connect`` and ``listen``."""
    rows = {side: Row(GROUP, ENGINE, side) for side in (CLIENT, SERVER, BOTH)}
    count = 20 if options.quick else 100
    for _ in range(options.rounds):
        found = run_alone("handshake:engine_round", count=count, seconds=options.seconds / 4)
        found[BOTH] = found[CLIENT] + found[SERVER]
        found["both primitives"] = found["client primitives"] + found["server primitives"]
        for side, row in rows.items():
            whole, parts = found[side], found[f"{side} primitives"]
            for name, value in (("µs", whole), ("µs of its primitives", parts), ("ratio", whole / parts)):
                row.values.setdefault(name, []).append(value)
    for row in rows.values():
        announce(row)
    ends = ("session:handshake_server", "session:handshake_client")
    contestants = [
        Contestant("Phantom, asyncio", *ends),
        Contestant("Phantom, uvloop", *ends, {"loop": "uvloop"}, missing("uvloop")),
        Contestant(
            "TLS 1.3 (X25519, P-256, no post-quantum), asyncio streams",
            "sockets:handshake_server",
            "sockets:handshake_client",
        ),
    ]
    connections = 20 if options.quick else 60
    return [*rows.values(), *interleave(GROUP, API, contestants, options, api, connections=connections)]
