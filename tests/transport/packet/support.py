"""Two ends of one session, and what one must be able to say about their state."""

from __future__ import annotations

from typing import Any

from phantom.crypto.aead import CipherSuite
from phantom.crypto.providers import get_provider
from phantom.transport.packet.counters import DropCounters
from phantom.transport.packet.flags import DATA
from phantom.transport.packet.protection import (
    ALL_SUITES,
    PacketProtection,
    ProtectionLimits,
    ProtectionV1,
    ProtectionV2,
)

SECRET = b"\x11" * 32
SESSION = b"\x88" * 32
AES, CHACHA = CipherSuite.AES_256_GCM, CipherSuite.CHACHA20_POLY1305


def make(
    version: int,
    initiator: bool,
    *,
    suite: CipherSuite = AES,
    receive: tuple[CipherSuite, ...] = ALL_SUITES,
    secret: bytes = SECRET,
    session_id: bytes = SESSION,
    **limits: Any,
) -> Any:
    cls = ProtectionV2 if version == 2 else ProtectionV1
    return cls(
        initiator,
        session_id,
        bytearray(secret),
        send_suite=suite,
        provider=get_provider(),
        receive_suites=receive,
        counters=DropCounters(),
        limits=ProtectionLimits(**limits),
    )


def pair(version: int = 2, **options: Any) -> tuple[Any, Any]:
    """Initiator and responder."""
    return make(version, True, **options), make(version, False, **options)


def seal(
    p: PacketProtection,
    plaintext: bytes = b"\0\0\0\0data",
    *,
    stream_id: int = 1,
    flags: int = DATA,
    path_id: int = 0,
    ack_delay: int = 0,
) -> bytes:
    size = len(plaintext) + p.overhead
    buf = bytearray(b"\xee" * (size + 12))
    view = memoryview(buf)
    end = p.seal(buf, view, 5, stream_id, flags, path_id, plaintext, len(plaintext), ack_delay)
    assert end == 5 + size
    assert bytes(buf[:5]) == b"\xee" * 5
    assert bytes(buf[end:]) == b"\xee" * 7
    return bytes(buf[5:end])


def feed(p: PacketProtection, frame: bytes, now: float = 0.0, path_of_leg: int = 0) -> bytes | None:
    """The plaintext, None if the packet was dropped."""
    buf = bytearray(b"\xdd" * 3 + frame + b"\xdd" * 3)
    if p.open(buf, memoryview(buf), 3, 3 + len(frame), path_of_leg, now) < 0:
        return None
    return bytes(buf[p.plain_start : p.plain_end])


def counts(p: Any) -> dict[str, int]:
    """The drop counters that are not 0."""
    return {name: n for name, n in p._counters.snapshot().items() if n}


def state(p: Any) -> dict[str, Any]:
    """Everything that a dropped packet must leave alone."""

    def receiving(s: Any) -> Any:
        return s and (s.epoch, set(s.trials), {key: (w.high, w.gaps) for key, w in s.windows.table.items()})

    names = (
        "epoch receive_suite rekeys_local rekeys_peer stream_id sequence path_id ack_delay plain_start plain_end "
        "_secret _rekey_bit _sequences _pairs _seals _bytes _grace_end _fast_epoch "
        "_seal_counter _open_counter _opened_bytes sent_sequence"
    )
    values = {name: getattr(p, name) for name in names.split() if hasattr(p, name)}
    copies = {
        k: bytes(v) if k == "_secret" else type(v)(v) if isinstance(v, dict | set) else v for k, v in values.items()
    }
    return copies | {"current": receiving(p._receiving), "previous": receiving(getattr(p, "_previous", None))}
