"""One packet through ``ProtectionV2``, sealed and opened, against the bare AEAD call on the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import TO_ANCHOR, KiB, Options, Row, announce, run_alone

GROUP = "records"
SIZES = (64, 256, 1 * KiB, 4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB)
SEAL, OPEN = "seal", "open"
BARE = "bare AEAD"
_BATCH = 256 * KiB


class Batch:
    """As the data path has it: packets back to back in a batch that fits the cache, sealed into it, opened in place."""

    def __init__(self, size: int) -> None:
        from phantom.crypto.aead import CipherSuite
        from phantom.crypto.providers import get_provider
        from phantom.transport.packet import flags
        from phantom.transport.packet.counters import DropCounters
        from phantom.transport.packet.protection import ProtectionV2

        self._sender, self._receiver = (
            ProtectionV2(
                initiator,
                bytes(32),
                bytearray(32),
                send_suite=CipherSuite.AES_256_GCM,
                provider=get_provider("openssl"),
                counters=DropCounters(),
            )
            for initiator in (True, False)
        )
        self.count = max(1, min(256, _BATCH // size))
        self._word = flags.DATA
        self._payload = os.urandom(size)
        self._size = size
        self._length = size + self._sender.overhead
        self._buf = bytearray(self.count * self._length)
        self._view = memoryview(self._buf)
        self._starts = [number * self._length for number in range(self.count)]
        head = self._sender.header_len + 4
        self._sealed = [self._view[at + head : at + head + size + 16] for at in self._starts]
        self._opened = [sealed[:size] for sealed in self._sealed]
        self._cipher, self._nonce, self._aad = AESGCM(bytes(32)), bytes(12), bytes(45)

    def nothing(self) -> None:
        """What sealing needs first."""

    def seal(self) -> None:
        seal, buf, view, payload, size, word = (
            self._sender.seal, self._buf, self._view, self._payload, self._size, self._word,
        )  # fmt: skip
        for at in self._starts:
            seal(buf, view, at, 1, word, 0, payload, size)

    def open(self) -> None:
        opened, buf, view, length = self._receiver.open, self._buf, self._view, self._length
        for at in self._starts:
            if opened(buf, view, at, at + length, 0, 0.0) < 0:
                raise RuntimeError("a packet did not open")

    def bare_seal(self) -> None:
        encrypt, nonce, payload, aad = self._cipher.encrypt_into, self._nonce, self._payload, self._aad
        for sealed in self._sealed:
            encrypt(nonce, payload, aad, sealed)

    def bare_open(self) -> None:
        decrypt, nonce, aad = self._cipher.decrypt_into, self._nonce, self._aad
        for sealed, opened in zip(self._sealed, self._opened, strict=True):
            decrypt(nonce, sealed, aad, opened)

    def cost(self, prepare: Callable[[], None], work: Callable[[], None], seconds: float) -> float:
        """CPU microseconds of one packet; a packet opens once, so each batch is made anew outside of the clock."""
        used, batches = 0.0, 0
        while used < seconds:
            prepare()
            begun = time.process_time()
            work()
            used += time.process_time() - begun
            batches += 1
        return used / batches / self.count * 1e6


def one_round(seconds: float) -> dict[str, Any]:
    """CPU microseconds by size, operation, and whether it is the bare call."""
    found: dict[str, Any] = {}
    for size in SIZES:
        batch = Batch(size)
        found[f"{size} {SEAL}"] = batch.cost(batch.nothing, batch.seal, seconds)
        found[f"{size} {SEAL} {BARE}"] = batch.cost(batch.nothing, batch.bare_seal, seconds)
        found[f"{size} {OPEN}"] = batch.cost(batch.seal, batch.open, seconds)
        found[f"{size} {OPEN} {BARE}"] = batch.cost(batch.bare_seal, batch.bare_open, seconds)
    return found


def measure(options: Options) -> list[Row]:
    """Round after round in a process of its own."""
    rows = [
        Row(GROUP, f"{size} B" if size < KiB else f"{size // KiB} KiB", operation)
        for size in SIZES
        for operation in (SEAL, OPEN)
    ]
    for _ in range(options.rounds):
        found = run_alone("records:one_round", seconds=options.seconds / 40)
        places = [(size, operation) for size in SIZES for operation in (SEAL, OPEN)]
        for row, (size, operation) in zip(rows, places, strict=True):
            ours, bare = found[f"{size} {operation}"], found[f"{size} {operation} {BARE}"]
            for name, value in ((f"µs {BARE}", bare), ("µs", ours), ("µs" + TO_ANCHOR, ours / bare)):
                row.values.setdefault(name, []).append(value)
    for row in rows:
        announce(row)
    return rows
