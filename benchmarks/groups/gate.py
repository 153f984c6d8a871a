"""The gate in front of a handshake: what one packet of a flood costs before anything expensive happens."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Options, Row, announce, run_alone

GROUP = "gate"
CASE = "one core, no I/O"
VALID, FORGED = "hello with a valid cookie, judged", "hello with a forged cookie, judged"
JUNK, DISGUISED = "junk", "junk with the first byte of a hello"
COOKIE = "cookie check alone (one HMAC-SHA-256)"


def one_round(seconds: float) -> dict[str, Any]:
    """CPU microseconds of each verdict."""
    from benchmarks.harness import cpu_per_call
    from phantom.crypto.hybrid_kem import HybridKemKeyPair
    from phantom.crypto.providers import get_provider
    from phantom.crypto.rng import SYSTEM_RNG
    from phantom.errors import SerializationError
    from phantom.transport.handshake.gate import Gate, Source
    from phantom.transport.handshake.messages import ClientHello, walk_client_hello

    provider, now, wall = get_provider("openssl"), 0.0, 1e9
    gate = Gate(bytes(32), cookie="always", load_tiers=())
    source = Source("192.0.2.1")
    package = HybridKemKeyPair.generate(provider, SYSTEM_RNG).public
    key = bytes(32) + (1952).to_bytes(4, "little") + bytes(1952)
    cookie = gate.issue_cookie(source, wall)
    forged = cookie[:-1] + bytes((cookie[-1] ^ 1,))
    junk = b"\x7f" + SYSTEM_RNG.fill_bytes(3300)  # no hello by its first byte
    disguised = b"\x00" + SYSTEM_RNG.fill_bytes(3300)

    def judged(frame: bytes) -> bool:  # what the responder does before it takes a hello apart
        demand = gate.demand(source, now)
        gate.count_hello(now)
        shown = walk_client_hello(frame).cookie_of(frame)
        return shown is not None and demand.cookie and gate.check_cookie(source, shown, wall)

    def refused(frame: bytes) -> bool:
        try:
            walk_client_hello(frame)
        except SerializationError:
            return True
        return False

    assert refused(disguised)
    frames = [ClientHello(package, key, bytes(32), 2, shown).encode() for shown in (cookie, forged)]
    assert judged(frames[0])
    assert not judged(frames[1])
    return {
        COOKIE: cpu_per_call(lambda: gate.check_cookie(source, cookie, wall), seconds),
        VALID: cpu_per_call(lambda: judged(frames[0]), seconds),
        FORGED: cpu_per_call(lambda: judged(frames[1]), seconds),
        JUNK: cpu_per_call(lambda: refused(junk), seconds),
        DISGUISED: cpu_per_call(lambda: refused(disguised), seconds),
    }


def measure(options: Options) -> list[Row]:
    """Round after round in a process of its own."""
    rows: dict[str, Row] = {}
    for _ in range(options.rounds):
        for name, value in run_alone("gate:one_round", seconds=options.seconds / 10).items():
            row = rows.setdefault(name, Row(GROUP, CASE, name))
            row.values.setdefault("µs", []).append(value)
            row.values.setdefault("k/s", []).append(1e3 / value)
    for row in rows.values():
        announce(row)
    return list(rows.values())
