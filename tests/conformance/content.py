"""The content of messages, made from a word and a size, so that neither cases nor results carry payloads."""

from __future__ import annotations

import functools
import hashlib

PAGE = 4096


def content(word: str, size: int) -> bytes:
    """``size`` bytes: pages of 4096, each the same 4088 bytes made from ``word`` and its number (8 bytes, big-endian).

    Those are SHA-256(word, number of the digest as 4 bytes big-endian) in a row, cut.
    """
    tail = _tail(word)
    pages = (tail + number.to_bytes(8, "big") for number in range(-(-size // PAGE)))
    return b"".join(pages)[:size]


@functools.lru_cache(maxsize=64)
def _tail(word: str) -> bytes:
    digests = (hashlib.sha256(word.encode() + number.to_bytes(4, "big")).digest() for number in range(PAGE // 32))
    return b"".join(digests)[: PAGE - 8]


def described(data: bytes) -> dict[str, int | str]:
    """What a result says of a message."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


class Many:
    """What a result says of several messages in order: how many, and SHA-256 of each one's SHA-256 in a row."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.count += 1
        self._digest.update(hashlib.sha256(data).digest())

    @property
    def described(self) -> dict[str, int | str]:
        return {"count": self.count, "sha256": self._digest.hexdigest()}


def many(word: str, count: int, size: int) -> dict[str, int | str]:
    """What a result says of the messages of ``send_many``: number i has the content of ``WORD/i``."""
    several = Many()
    for number in range(count):
        several.add(content(f"{word}/{number}", size))
    return several.described
