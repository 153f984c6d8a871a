"""Windows and batch buffers shared by all legs of a process: an idle session owns none (architecture §5).

Lists are used as stacks; their single operations are atomic, so legs of several event loops may share them.
"""

from __future__ import annotations

from phantom import limits

__all__ = ["BATCH", "WINDOW", "Buffer", "BufferPool"]

Buffer = tuple[bytearray, memoryview]

_KEEP = 8  # buffers kept for reuse, each size

# Freeing one large block raises glibc's mmap and trim thresholds for good, so that message-sized blocks are recycled
# instead of being mapped and faulted in anew each time. Harmless elsewhere.
bytes(16 * limits.MiB)


class BufferPool:
    """Buffers of one size."""

    __slots__ = ("_free", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[Buffer] = []

    def take(self) -> Buffer:
        """A buffer of ``size`` bytes, its content undefined."""
        try:
            return self._free.pop()
        except IndexError:
            buf = bytearray(self.size)
            return buf, memoryview(buf)

    def give(self, buffer: Buffer) -> None:
        """Returns a buffer; no view of it may be in use any more. Buffers of other sizes are dropped."""
        if len(buffer[0]) == self.size and len(self._free) < _KEEP:
            self._free.append(buffer)


WINDOW = BufferPool(limits.READ_WINDOW)
BATCH = BufferPool(limits.SEND_BATCH + 2 * limits.BULK_CHUNK)
