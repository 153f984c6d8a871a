"""The owner of a client's leg between the connection and the handshake: it waits for the other end to take it."""

from __future__ import annotations

import asyncio

from phantom.errors import NetworkError, PhantomError

__all__ = ["Opening"]


class Opening:
    """Takes nothing and sends nothing; ``done`` ends when the leg is open, or with why it is not.

    ``size``: bytes that one read may add, and that a batch needs, until then. ``gone`` says what it means that the
    other end left without a word.
    """

    def __init__(self, size: int, gone: str) -> None:
        self.read_size = self.batch_size = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gone = gone

    def leg_received(self, _buf: bytearray, _view: memoryview, start: int, _end: int) -> int:
        """What comes already belongs to the next owner."""
        return start

    def leg_fill(self, _buf: bytearray, _view: memoryview, at: int, _cap: int) -> int:
        """Nothing is sent yet."""
        return at

    def leg_blocked(self, blocked: bool) -> None:
        """Does not matter yet."""

    def leg_lost(self, error: PhantomError | None) -> None:
        """The other end did not take it."""
        if not self.done.done():
            self.done.set_exception(error or NetworkError(self._gone))

    def opened(self) -> None:
        """The other end took it."""
        if not self.done.done():
            self.done.set_result(None)
