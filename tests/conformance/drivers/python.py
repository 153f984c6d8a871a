"""Driver: the asyncio API in its own process. Also the peer that the runner puts at the other end of a case."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import phantom
from phantom.errors import PhantomTimeoutError, SessionNotFoundError
from phantom.transport.session.events import Rekeyed, StateChanged
from tests.conformance.content import Many, content, described
from tests.conformance.drivers import Driver
from tests.conformance.serving import Handler, NotOffered, serve

DRIVER = Driver("python", "Python (asyncio)")


class Python(Handler):
    """Sessions, listeners and keys by the names that the case gave them."""

    api: ClassVar[ModuleType | Any] = phantom

    def __init__(self) -> None:
        self.things: dict[str, Any] = {}

    # --- what differs between the Python bindings ---------------------------------------------------------------------

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        return await result if inspect.isawaitable(result) else result

    async def session_info(self, session: Any) -> dict[str, Any]:
        """What ``info`` answers."""
        negotiated = session.negotiated
        identity, cost = session.peer_identity(), session.handshake
        return {
            "id": session.id,
            "peer_addr": session.peer_addr,
            "peer_identity": identity.to_hex() if identity else "",
            "queued": session.queued_count(),
            "version": negotiated.version,
            "suite": int(negotiated.suite),
            "receive_suite": int(negotiated.receive_suite or 0),
            "leg": negotiated.leg,
            "epoch": negotiated.epoch,
            "handshake_us": int(cost.seconds * 1e6),
            "handshake_bytes_sent": cost.bytes_sent,
            "handshake_bytes_received": cost.bytes_received,
            "handshake_retries": cost.retries,
            "algorithms": " ".join(cost.algorithms),
        }

    async def last_error(self, session: Any) -> int:
        error = session.last_error()
        return error.code if error else 0

    async def metrics(self, thing: Any) -> dict[str, int]:
        snapshot = await self.call(thing.metrics_snapshot)
        counts = {name: value for name, value in snapshot.as_dict().items() if type(value) is int}
        return {**counts, "uptime_ms": int(snapshot.uptime_secs * 1000)}

    async def make_key(self) -> tuple[Any, bytes, str]:
        key = await self.call(phantom.generate_signing_key)
        public = key.verifying_key()
        return key, public.to_bytes(), public.fingerprint()

    async def seed_key(self, seed: bytes) -> tuple[Any, bytes, str]:
        key = phantom.HybridSigningKey.from_bytes(seed)
        return key, key.verifying_key().to_bytes(), key.verifying_key().fingerprint()

    async def bind(self, addresses: list[str], **named: Any) -> Any:
        return await self.call(self.api.listen, *addresses, **named)

    async def dial(self, target: str, pin: Any, **named: Any) -> Any:
        return await self.call(self.api.connect, target, pin, **named)

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def do_key(self, name: str, seed_hex: str | None = None) -> dict[str, Any]:
        made = await (self.make_key() if seed_hex is None else self.seed_key(bytes.fromhex(seed_hex)))
        self.things[name], public, fingerprint = made
        return {"verifying_key": public.hex(), "fingerprint": fingerprint}

    async def do_check_key(self, key_hex: str) -> dict[str, Any]:
        return {"fingerprint": phantom.HybridVerifyingKey.from_bytes(bytes.fromhex(key_hex)).fingerprint()}

    # --- listeners ----------------------------------------------------------------------------------------------------

    async def do_listen(
        self,
        name: str,
        address: str = "tcp://127.0.0.1:0",
        key: str | None = None,
        reuse_port: bool = False,
        clients: str = "none",
        authorized: str = "",
        authorized_file: str = "",
        **rest: Any,
    ) -> dict[str, Any]:
        named: dict[str, Any] = {"config": config_of(rest)}
        if clients != "none":
            named["clients"] = policy_of(clients, authorized, authorized_file)
        if key is not None:
            named["key"] = self._get(key)
        listener = await self.bind(address.split(" "), reuse_port=reuse_port, **named)
        self.things[name] = listener
        return listening(listener.urls, await self.verifying_key(listener))

    async def verifying_key(self, listener: Any) -> bytes:
        return listener.verifying_key_bytes()

    async def do_accept(self, name: str, listener: str, timeout_ms: int) -> dict[str, Any]:
        outcome = await self.call(self._get(listener).accept, timeout_ms / 1000)
        session = self.things[name] = getattr(outcome, "session", outcome)
        identity = getattr(outcome, "client_identity", None)
        return {
            "id": session.id,
            "peer_addr": outcome.peer_addr,
            "client_identity": identity.to_hex() if identity else "",
        }

    async def do_answer(self, name: str, listener: str, timeout_ms: int) -> dict[str, Any]:
        """Accepts a session, sends its first message back and waits until that is acknowledged."""
        await self.do_accept(name, listener, timeout_ms)
        session = self.things[name]
        message = await self.call(session.recv, timeout_ms / 1000)
        await self.call(session.send, message, timeout_ms / 1000)
        await self.flush(session, timeout_ms / 1000)
        return described(message)

    async def do_shutdown(self, listener: str) -> None:
        await self.call(self._get(listener).shutdown)

    async def do_shutting_down(self, listener: str) -> dict[str, Any]:
        return {"value": self._get(listener).is_shutting_down()}

    async def do_drain(self, listener: str, timeout_ms: int) -> None:
        await self.drain(self._get(listener), timeout_ms / 1000)

    async def drain(self, listener: Any, grace: float) -> None:
        await self.call(listener.drain, grace)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def do_connect(
        self,
        name: str,
        target: str,
        pin: str | None = None,
        pin_form: str = "text",
        identity: str | None = None,
        timeout_ms: int = 10_000,
        **rest: Any,
    ) -> dict[str, Any]:
        named: dict[str, Any] = {"config": config_of(rest), "timeout": timeout_ms / 1000}
        if identity is not None:
            named["identity"] = self._get(identity)
        session = await self.dial(target, pin_of(pin, pin_form), **named)
        self.things[name] = session
        return {"id": session.id, "peer_addr": session.peer_addr}

    async def do_echo(self, name: str, text: str, **rest: Any) -> dict[str, Any]:
        """Connects, sends one message, receives one, disconnects."""
        await self.do_connect(name, **rest)
        session, limit = self.things[name], rest["timeout_ms"] / 1000
        await self.call(session.send, text.encode(), limit)
        message = await self.call(session.recv, limit)
        await self.call(session.disconnect, 0, timeout=limit)
        return described(message)

    async def do_await_ready(self, session: str, timeout_ms: int) -> None:
        await self.call(self._get(session).await_ready, timeout_ms / 1000)

    async def do_send(self, session: str, timeout_ms: int, word: str = "", size: int = 0) -> None:
        await self.call(self._get(session).send, content(word, size), timeout_ms / 1000)

    async def do_recv(self, session: str, timeout_ms: int) -> dict[str, Any]:
        return described(await self.call(self._get(session).recv, timeout_ms / 1000))

    async def do_send_many(self, session: str, word: str, count: int, size: int, timeout_ms: int) -> None:
        there = self._get(session)
        for number in range(count):
            await self.call(there.send, content(f"{word}/{number}", size), timeout_ms / 1000)

    async def do_recv_many(self, session: str, count: int, timeout_ms: int, poll_ms: int = 0) -> dict[str, Any]:
        """``poll_ms``: limit of each recv, which is then tried again until ``timeout_ms`` are over."""
        there, several = self._get(session), Many()
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_ms / 1000
        while several.count < count:
            try:
                several.add(await self.call(there.recv, poll_ms / 1000 if poll_ms else timeout_ms / 1000))
            except PhantomTimeoutError:
                if loop.time() >= end:
                    raise
        return several.described

    async def do_flush(self, session: str, timeout_ms: int) -> dict[str, Any]:
        return {"acknowledged": await self.flush(self._get(session), timeout_ms / 1000)}

    async def flush(self, session: Any, limit: float) -> int:
        return await self.call(session.flush_queue, limit)

    async def do_info(self, session: str) -> dict[str, Any]:
        return await self.session_info(self._get(session))

    async def do_state(self, session: str) -> dict[str, Any]:
        there = self._get(session)
        return {
            "state": int(there.state),
            "last_error": await self.last_error(there),
        }

    async def do_ready(self, session: str) -> dict[str, Any]:
        there = self._get(session)
        return {"data_ready": there.is_data_ready(), "pqc_ready": there.is_pqc_ready()}

    async def do_metrics(self, of: str) -> dict[str, Any]:
        return await self.metrics(self._get(of))

    async def do_disconnect(self, session: str, code: int = 0, timeout_ms: int = 10_000) -> dict[str, Any]:
        return {"all_acknowledged": await self.call(self._get(session).disconnect, code, timeout=timeout_ms / 1000)}

    # --- streams ------------------------------------------------------------------------------------------------------

    async def do_open_stream(
        self, name: str, session: str, timeout_ms: int, priority: int = 0, wait: bool = True
    ) -> dict[str, Any]:
        opening = self._get(session).open_stream
        stream = await self.call(opening, priority=priority, wait=wait, timeout=timeout_ms / 1000)
        self.things[name] = stream
        return {"stream_id": stream.stream_id}

    async def do_accept_stream(self, name: str, session: str, timeout_ms: int) -> dict[str, Any]:
        stream = self.things[name] = await self.call(self._get(session).accept_stream, timeout_ms / 1000)
        return {"stream_id": stream.stream_id}

    async def do_stream_send(
        self, stream: str, word: str, size: int, timeout_ms: int, unreliable: bool = False
    ) -> None:
        there = self._get(stream)
        send = there.send_unreliable if unreliable else there.send_reliable
        await self.call(send, content(word, size), timeout_ms / 1000)

    async def do_stream_recv(self, stream: str, timeout_ms: int) -> dict[str, Any]:
        piece = await self.call(self._get(stream).recv, timeout_ms / 1000)
        return {**described(piece or b""), "end": piece is None}

    async def do_stream_read(self, stream: str, timeout_ms: int, size: int | None = None) -> dict[str, Any]:
        there, parts, rest = self._get(stream), [], size
        piece: bytes | None = b""
        while piece is not None and rest != 0:
            piece = await self.call(there.recv, timeout_ms / 1000)
            parts.append(piece or b"")
            rest = None if rest is None else rest - len(parts[-1])
        return {**described(b"".join(parts)), "end": piece is None}

    async def do_stream_info(self, stream: str) -> dict[str, Any]:
        there = self._get(stream)
        return {
            "stream_id": there.stream_id,
            "priority": there.priority,
            "max_unreliable_size": there.max_unreliable_size,
        }

    async def do_stream_priority(self, stream: str, priority: int) -> None:
        await self.call(self._get(stream).set_priority, priority)

    async def do_stream_finish(self, stream: str) -> None:
        await self.call(self._get(stream).finish)

    async def do_stream_reset(self, stream: str, code: int = 0) -> None:
        await self.call(self._get(stream).reset, code)

    async def do_stream_stop(self, stream: str, code: int = 0) -> None:
        await self.call(self._get(stream).stop, code)

    async def do_stream_release(self, stream: str) -> None:
        self._get(stream)
        del self.things[stream]

    async def do_open_streams(self, name: str, count: int, **rest: Any) -> dict[str, Any]:
        for number in range(count):
            await self.do_open_stream(f"{name}/{number}", **rest)
        return {"count": count}

    async def do_accept_streams(self, name: str, count: int, **rest: Any) -> dict[str, Any]:
        for number in range(count):
            await self.do_accept_stream(f"{name}/{number}", **rest)
        return {"count": count}

    async def do_fill_streams(self, streams: str, word: str, count: int, size: int, timeout_ms: int) -> None:
        for number in range(count):
            await self.do_stream_send(f"{streams}/{number}", f"{word}/{number}", size, timeout_ms)
            await self.do_stream_finish(f"{streams}/{number}")

    async def do_drain_streams(self, streams: str, count: int, timeout_ms: int) -> dict[str, Any]:
        several = Many()
        for number in range(count):
            there, parts = self._get(f"{streams}/{number}"), []
            while (piece := await self.call(there.recv, timeout_ms / 1000)) is not None:
                parts.append(piece)
            several.add(b"".join(parts))
        return several.described

    # --- keys and events of a session ---------------------------------------------------------------------------------

    async def do_rekey(self, session: str, timeout_ms: int) -> dict[str, Any]:
        return {"epoch": await self.call(self._get(session).rekey, timeout_ms / 1000)}

    async def do_export(self, session: str, label: str, length: int) -> dict[str, Any]:
        return {"material": (await self.export(self._get(session), label, length)).hex()}

    async def export(self, session: Any, label: str, length: int) -> bytes:
        return await self.call(session.export_keying_material, label, length)

    async def do_watch(self, session: str) -> None:
        self.things[f"events of {session}"] = self._get(session).events()

    async def do_event(self, session: str, kind: str, timeout_ms: int) -> dict[str, Any]:
        events = self._get(f"events of {session}")
        wanted = {"state": StateChanged, "rekeyed": Rekeyed}[kind]
        while not isinstance(event := await self.next_event(events, timeout_ms / 1000), wanted):
            pass
        if isinstance(event, Rekeyed):
            return {"epoch": event.epoch, "by_peer": event.by_peer, "reason": event.reason}
        return {"state": int(event.new), "reason": event.reason}

    async def next_event(self, events: Any, limit: float) -> Any:
        async with asyncio.timeout(limit):
            return await anext(events)

    # --- the driver ---------------------------------------------------------------------------------------------------

    async def do_hello(self) -> dict[str, Any]:
        return {"version": phantom.__version__}

    async def do_reset(self) -> None:
        """Ends what the last case left behind."""
        things, self.things = self.things, {}
        for thing in things.values():
            if hasattr(thing, "disconnect"):
                await self.call(thing.disconnect, 0, timeout=0.001)
            elif hasattr(thing, "shutdown"):
                await self.call(thing.shutdown)

    async def close(self) -> None:
        await self.do_reset()

    async def do_stale(self, session: str) -> None:
        raise NotOffered("objects, no handles")

    async def do_contract(self, version: int) -> None:
        raise NotOffered("no second process whose version could differ")

    async def do_token(self, token: str) -> None:
        raise NotOffered("no token")

    def _get(self, name: str) -> Any:
        try:
            return self.things[name]
        except KeyError:
            raise SessionNotFoundError(f"the case has nothing named {name}") from None


def listening(urls: tuple[str, ...], verifying_key: bytes) -> dict[str, Any]:
    """What ``listen`` answers."""
    scheme, _, rest = urls[0].partition("://")
    fingerprint, _, host_port = rest.partition("@")
    return {
        "url": urls[0],
        "urls": len(urls),
        "address": host_port,
        "host": host_port.rpartition(":")[0],
        "port": int(host_port.rpartition(":")[2]),
        "scheme": scheme,
        "fingerprint": fingerprint,
        "verifying_key": verifying_key.hex(),
    }


def policy_of(clients: str, authorized: str, path: str) -> phantom.ClientPolicy:
    """``clients``: ``optional``, or ``required`` and whom it lets in."""
    if clients == "optional":
        return phantom.ClientPolicy.optional()
    if path:
        return phantom.ClientPolicy.required(phantom.AuthorizedClients.from_file(path))
    return phantom.ClientPolicy.required(phantom.AuthorizedClients.from_pins(authorized.split()))


def config_of(rest: dict[str, Any]) -> phantom.PhantomConfig:
    """The arguments ``config.FIELD`` (``config.FIELD_ms`` for times) as a configuration."""
    changes: dict[str, Any] = {}
    for name, value in rest.items():
        field = name.removeprefix("config.")
        if field == name:
            raise TypeError(f"unknown argument {name}")
        if field == "accept_versions":
            value = frozenset(map(int, value.split()))
        changes |= {field.removesuffix("_ms"): value / 1000} if field.endswith("_ms") else {field: value}
    return phantom.PhantomConfig(**changes)


def pin_of(pin: str | None, form: str) -> Any:
    """``text``: as it is, several separated by a space; ``bytes``: the flat key, given in hex; ``object``: a key."""
    if pin is None:
        return None
    if form == "bytes":
        return bytes.fromhex(pin)
    if form == "object":
        return phantom.HybridVerifyingKey.from_hex(pin)
    return pin.split(" ") if " " in pin else pin


if __name__ == "__main__":
    serve(Python())
