"""TLS below a leg, by the standard library's ``ssl`` (``wss://``; wire-native §21.7).

It protects nothing that the session does not protect better; it is there because web servers and browsers want it. The
certificate is checked as the context says, the session's pin decides who the peer is.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import cast

from phantom import limits
from phantom.errors import NetworkError, PhantomError
from phantom.transport.legs.base import Leg, LegOwner
from phantom.transport.legs.buffers import BATCH, WINDOW, private, read_window
from phantom.transport.legs.layered import LayeredLeg

__all__ = ["TlsLeg"]

_RECORD = 16 * limits.KiB + 256  # bytes of one record, and what is left of it after decryption at most


class TlsLeg(LayeredLeg):
    """TLS over the connection ``lower``. All calls in the thread of its loop.

    ``host`` is the name that a client asks for and checks; None makes it a server.
    """

    __slots__ = ("_incoming", "_outgoing", "_pending", "_ready", "_tls")

    def __init__(self, lower: Leg, context: ssl.SSLContext, host: str | None) -> None:
        super().__init__(lower, lower.name)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=host is None, server_hostname=host)
        self._ready = False  # the TLS handshake is over
        self._pending = memoryview(b"")  # records that did not fit into the last batch

    def start(self, owner: LegOwner) -> None:
        """Begins to read; a client sends its hello."""
        super().start(owner)
        if not self._ready:
            self._shake()

    def close(self, *, linger: bool) -> None:
        """Ends the leg; with ``linger`` a close_notify leaves behind what the owner has to say."""
        if linger and self._ready and not self._lost:
            self._lower.flush()
            self._say_goodbye()
        super().close(linger=linger)

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's, which nobody needs
            self._tls.unwrap()
        self._lower.flush()

    def resume(self) -> None:
        """Hands the owner what was left and decrypts what has arrived, then reads again."""
        self._paused = False
        self._again()
        if self._ready:
            self._decrypt()
        if not self._paused:
            self._lower.resume()

    # --- handshake --------------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._lower.flush()
            return
        except ssl.SSLError as error:
            self._fail(NetworkError(f"the TLS handshake failed: {_why(error)}"), linger=True)
            return
        self._ready = True
        self._lower.flush()
        self._decrypt()

    # --- receiving --------------------------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        """Records are read as the owner reads, and at least one (LegOwner)."""
        return max(_RECORD, super().read_size)

    def leg_received(self, buf: bytearray, view: memoryview, start: int, end: int) -> int:
        """Records, whole or not: OpenSSL keeps what is incomplete (LegOwner)."""
        self._incoming.write(view[start:end])
        if self._ready:
            self._decrypt()
        else:
            self._shake()
        return end

    def _decrypt(self) -> None:
        while not self._lost and not self._paused:
            rest, self._rest = self._rest, None
            owner = self.owner
            window, size, room = read_window(rest, owner.read_size if owner is not None else _RECORD)
            buf, view = window
            end = size
            failure: PhantomError | None = None
            over = False
            try:
                while end - size < room:
                    count = cast(int, self._tls.read(size + room - end, view[end : size + room]))  # typeshed says bytes
                    if not count:
                        over = True
                        break
                    end += count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                over = True
            except ssl.SSLError as error:
                failure = NetworkError(f"the TLS connection failed: {_why(error)}")
            more = end - size == room
            if end > size:
                self._hand(buf, view, 0, end)
            elif rest is not None:
                self._rest = rest
            WINDOW.give(window)
            if failure is not None:
                self._fail(failure)
            elif over:
                self.leg_lost(None)
            if not more:
                return

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Room for the owner's largest packet in records (LegOwner)."""
        return (self.owner.batch_size if self.owner is not None else 0) + 2 * _RECORD

    def leg_fill(self, buf: bytearray, view: memoryview, at: int, cap: int) -> int:
        """What TLS has to say, then the owner's bytes in records (LegOwner)."""
        at = self._take(view, at, cap)
        while self._ready and self.owner is not None and not self._pending:
            size = self.owner.batch_size
            room = cap - at - _RECORD  # the headers and tags of a batch are shorter than one record
            if room < size:
                break
            buffer = BATCH.take() if room <= BATCH.size else private(room)
            end = self.owner.leg_fill(buffer[0], buffer[1], 0, room)
            if end:
                with contextlib.suppress(ssl.SSLError):  # the peer has ended TLS; its end of the connection says so too
                    self._tls.write(buffer[1][:end])
            BATCH.give(buffer)
            if not end:
                break
            at = self._take(view, at, cap)
        return at

    def _take(self, view: memoryview, at: int, cap: int) -> int:
        if not self._pending and self._outgoing.pending:
            self._pending = memoryview(self._outgoing.read())
        out = self._pending[: cap - at]
        self._pending = self._pending[len(out) :]
        view[at : at + len(out)] = out
        return at + len(out)

    def leg_lost(self, error: PhantomError | None) -> None:
        """The connection below is gone (LegOwner)."""
        if not self._ready and error is None:
            error = NetworkError("the connection ended during the TLS handshake; is this the port of a wss:// address?")
        super().leg_lost(error)


def _why(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    return (error.reason or "it broke the protocol").replace("_", " ").lower()
