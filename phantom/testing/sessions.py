"""Connected sessions in memory, for tests of programs that use Phantom."""

from __future__ import annotations

from dataclasses import dataclass

from phantom.api.clients import ClientPolicy
from phantom.api.connecting import connect_with_transport
from phantom.api.identity import HybridSigningKey
from phantom.api.listener import PhantomListener
from phantom.api.session import PhantomSession
from phantom.config import PhantomConfig
from phantom.crypto.rng import SYSTEM_RNG
from phantom.runtime import AsyncioRuntime, Runtime
from phantom.testing.memory_leg import MemoryLeg, memory_leg_pair
from phantom.transport.handshake.gate import Source

__all__ = ["SessionPair", "memory_listener", "session_pair"]


@dataclass(frozen=True, slots=True)
class SessionPair:
    """Both ends of an established session, their legs, and the listener that made the server's end."""

    client: PhantomSession
    server: PhantomSession
    client_leg: MemoryLeg
    server_leg: MemoryLeg
    listener: PhantomListener

    async def close(self) -> None:
        """Closes both ends and the listener."""
        await self.client.disconnect()
        await self.server.disconnect()
        self.listener.shutdown()


def memory_listener(
    key: HybridSigningKey | None = None,
    config: PhantomConfig | None = None,
    runtime: Runtime | None = None,
    clients: ClientPolicy | None = None,
) -> PhantomListener:
    """A listener without sockets; legs come in by ``serve_leg``."""
    return PhantomListener(
        key or HybridSigningKey.generate(),
        config or PhantomConfig(),
        runtime or AsyncioRuntime(),
        SYSTEM_RNG,
        clients or ClientPolicy.none(),
    )


async def session_pair(
    *,
    key: HybridSigningKey | None = None,
    identity: HybridSigningKey | None = None,
    clients: ClientPolicy | None = None,
    client_config: PhantomConfig | None = None,
    server_config: PhantomConfig | None = None,
    runtime: Runtime | None = None,
    latency: float = 0.0,
    timeout: float | None = 20.0,
) -> SessionPair:
    """Establishes a session over a memory leg pair; works on a real and on a virtual clock.

    The client proves ``identity``, and the listener asks as ``clients`` says; ClientAuthError if that does not fit.
    """
    runtime = runtime or AsyncioRuntime()
    key = key or HybridSigningKey.generate()
    listener = memory_listener(key, server_config, runtime, clients)
    client_leg, server_leg = memory_leg_pair(runtime, latency=latency)
    listener.serve_leg(server_leg, Source("127.0.0.1"), server_leg.peer_addr)
    client = connect_with_transport(
        client_leg.peer_addr,
        client_leg,
        key.verifying_key(),
        identity=identity,
        config=client_config,
        runtime=runtime,
    )
    await client.await_ready(timeout)
    outcome = await listener.accept(timeout)
    await outcome.session.await_ready(timeout)
    return SessionPair(client, outcome.session, client_leg, server_leg, listener)
