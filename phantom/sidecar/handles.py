"""The three things that a client can open: sessions, listeners and signing keys."""

from __future__ import annotations

from phantom import limits
from phantom.api.listener import PhantomListener
from phantom.api.session import PhantomSession
from phantom.config import PhantomConfig
from phantom.crypto.hybrid_sign import HybridSigningKey
from phantom.crypto.wipe import wipe
from phantom.sidecar.inbox import Inbox
from phantom.sidecar.leases import Handle
from phantom.sidecar.waits import Turn, Waits

__all__ = ["KeyHandle", "ListenerHandle", "SessionHandle"]


class SessionHandle(Handle):
    """A session, and its messages until the client has them."""

    kind = "session"
    most = limits.MAX_LEASE_SESSIONS

    def __init__(self, session: PhantomSession, config: PhantomConfig, waits: Waits) -> None:
        self.session = session
        self.max_message = max(limits.MAX_MESSAGE, config.max_message)
        self.inbox = Inbox(session.recv)
        self.receiving = Turn(waits, "a newer call receives from this session")
        self.watching = Turn(waits, "a newer call watches this session")

    async def close(self, code: int) -> None:
        """Closes the session; what it owes has a few seconds to leave."""
        await self.session.disconnect(code, timeout=limits.LEASE_CLOSE_TIMEOUT)


class ListenerHandle(Handle):
    """A listener, and the session that it gave last until the client has it."""

    kind = "listener"
    most = limits.MAX_LEASE_LISTENERS

    def __init__(
        self, listener: PhantomListener, key: HybridSigningKey | None, config: PhantomConfig, waits: Waits
    ) -> None:
        self.listener = listener
        self.config = config
        self._key = key
        self.accepting = Turn(waits, "a newer call accepts at this listener")
        self.given = 0
        self.unacknowledged: SessionHandle | None = None

    async def close(self, _code: int) -> None:
        """Frees the addresses and wipes the listener's copy of the key; established sessions go on."""
        self.listener.shutdown()
        if self._key is not None:
            self._key.close()


class KeyHandle(Handle):
    """A signing key."""

    kind = "signing key"
    most = limits.MAX_LEASE_KEYS

    def __init__(self, key: HybridSigningKey) -> None:
        self.key = key

    def copy(self) -> HybridSigningKey:
        """The same key for a listener, which outlives this handle."""
        seed = self.key.to_bytes()
        try:
            return HybridSigningKey.from_bytes(seed)
        finally:
            wipe(seed)

    async def close(self, _code: int) -> None:
        """Wipes the key."""
        self.key.close()
