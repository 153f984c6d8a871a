"""Windows and batch buffers shared by all legs of a process: an idle session owns none (architecture §5).

Lists are used as stacks; their single operations are atomic, so legs of several event loops may share them.
"""

from __future__ import annotations

from phantom import limits

__all__ = ["BATCH", "STEP", "WINDOW", "Buffer", "BufferPool", "private", "read_window"]

Buffer = tuple[bytearray, memoryview]

STEP = 64 * limits.KiB  # by which what outgrows the window grows
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


def private(size: int) -> Buffer:
    """A buffer that belongs to no pool."""
    buf = bytearray(size)
    return buf, memoryview(buf)


def read_window(rest: bytearray | None, room: int) -> tuple[Buffer, int, int]:
    """A window with ``rest``, the unfinished frame, at its start; that frame's size, and how much fits behind it.

    At most ``room`` bytes are to be read. A frame that outgrows the window grows in steps.
    """
    size = 0 if rest is None else len(rest)
    if size + STEP > limits.READ_WINDOW:
        room = STEP
        window = private(size + room)
    else:
        window = WINDOW.take()
        room = min(room, limits.READ_WINDOW - size)
    if rest is not None:
        window[1][:size] = rest
    return window, size, room
