# ruff: noqa: N802 - the methods are named as in proto/
"""The gRPC services over the API (surface §15): each method turns one message into one call and the result back.

Errors are those of the API; the interceptor maps them. Calls that wait for a peer end at once when the sidecar stops.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Any, Final

import grpc.aio

from phantom.api.connecting import connect
from phantom.api.listener import listen
from phantom.api.session import PhantomSession
from phantom.crypto.cpu import default_suite
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.providers import get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.errors import (
    ConnectionClosedError,
    ContractVersionError,
    FrameTooLargeError,
    PhantomError,
    UnsupportedError,
    ValidationError,
)
from phantom.limits import EXPORT_LENGTH, SIDECAR_MESSAGE_CAP, SIDECAR_WINDOW, VERSION_1, VERSION_2
from phantom.sidecar._generated.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    listener_pb2,
    listener_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    sidecar_pb2,
    sidecar_pb2_grpc,
    stream_pb2,
)
from phantom.sidecar.convert import (
    config_of,
    duration,
    metrics_message,
    pins_of,
    policy_of,
    seconds,
    session_message,
    state_value,
    verifying_key,
)
from phantom.sidecar.exchange import Exchange
from phantom.sidecar.handles import KeyHandle, ListenerHandle, SessionHandle, StreamHandle
from phantom.sidecar.info import installed_extras, package_version
from phantom.sidecar.leases import Lease, Leases
from phantom.sidecar.status import TRAILER, to_detail
from phantom.sidecar.stream_services import forget_streams
from phantom.sidecar.waits import Waits
from phantom.transport.session.events import Rekeyed, StateChanged

__all__ = [
    "CONTRACT_VERSION",
    "SERVICES",
    "Core",
    "IdentityService",
    "ListenerService",
    "SessionService",
    "SidecarService",
]

CONTRACT_VERSION: Final[int] = sidecar_pb2.CONTRACT_VERSION_CURRENT
SERVICES: Final = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (sidecar_pb2, "SidecarService"),
        (identity_pb2, "IdentityService"),
        (listener_pb2, "ListenerService"),
        (session_pb2, "SessionService"),
        (stream_pb2, "StreamService"),
    )
)
_Context = grpc.aio.ServicerContext[Any, Any]


class Core:
    """What the services of one sidecar share."""

    def __init__(self, *, allow_seed_export: bool = False) -> None:
        self.waits = Waits()
        self.leases = Leases(self.waits)
        self.allow_seed_export = allow_seed_export
        self.missing = ["the self-tests of the cryptography are under way"]  # what keeps it from serving

    def session(self, ref: session_pb2.SessionRef) -> SessionHandle:
        """The session of a handle; SessionNotFoundError."""
        return self.leases.find(ref.handle, SessionHandle)

    def listener(self, ref: listener_pb2.ListenerRef) -> ListenerHandle:
        """The listener of a handle; SessionNotFoundError."""
        return self.leases.find(ref.handle, ListenerHandle)


class SidecarService(sidecar_pb2_grpc.SidecarServiceServicer):
    """The process itself, and leases."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetInfo(self, request: sidecar_pb2.GetInfoRequest, context: _Context) -> sidecar_pb2.GetInfoResponse:
        """What this process is."""
        if request.contract_version not in (0, CONTRACT_VERSION):
            raise ContractVersionError(
                f"the client has contract version {request.contract_version} and the sidecar {CONTRACT_VERSION};"
                " install the same version of Phantom on both sides"
            )
        provider = get_provider().name
        info = sidecar_pb2.Info(
            contract_version=CONTRACT_VERSION,
            package_version=package_version(),
            wire_versions=[VERSION_2, VERSION_1],
            extras=installed_extras(),
            provider=provider,
            suite=default_suite(provider).label,
            max_grpc_message=SIDECAR_MESSAGE_CAP,
            pid=os.getpid(),
        )
        return sidecar_pb2.GetInfoResponse(info=info)

    async def Health(self, request: sidecar_pb2.HealthRequest, context: _Context) -> sidecar_pb2.HealthResponse:
        """How this process is."""
        missing = self._core.missing
        return sidecar_pb2.HealthResponse(
            status=sidecar_pb2.HealthStatus(live=True, ready=not missing, missing=missing)
        )

    async def RunSelfTests(
        self, request: sidecar_pb2.RunSelfTestsRequest, context: _Context
    ) -> sidecar_pb2.RunSelfTestsResponse:
        """Runs the self-tests anew."""
        provider = get_provider(request.provider or "auto")
        report = await asyncio.to_thread(run_self_tests, provider, fresh=True)
        message = sidecar_pb2.SelfTestReport(provider=report.provider, tests=report.tests)
        return sidecar_pb2.RunSelfTestsResponse(report=message)

    async def OpenLease(
        self, request: sidecar_pb2.OpenLeaseRequest, context: _Context
    ) -> sidecar_pb2.OpenLeaseResponse:
        """Opens a lease."""
        lease = self._core.leases.open(seconds(request.grace) if request.HasField("grace") else None)
        message = sidecar_pb2.Lease(id=lease.id, grace=duration(lease.grace), max_sessions=SessionHandle.most)
        return sidecar_pb2.OpenLeaseResponse(lease=message)

    async def KeepLease(
        self, request_iterator: AsyncIterator[sidecar_pb2.KeepLeaseRequest], context: _Context
    ) -> AsyncIterator[sidecar_pb2.KeepLeaseResponse]:
        """Keeps a lease while the stream is open."""
        request = await anext(request_iterator, None)
        if request is None:
            raise ValidationError("the first ping names the lease")
        lease = self._core.leases.get(request.ping.lease_id)
        with self._core.leases.keep(lease):
            while request is None or not request.ping.release:
                if request is None:  # the client has no more to say; the stream, and so the lease, goes on
                    await asyncio.get_running_loop().create_future()
                await context.write(_lease_state(lease))
                request = await anext(request_iterator, None)
        await self._core.leases.end(lease, code=0)
        yield _lease_state(lease)


def _lease_state(lease: Lease) -> sidecar_pb2.KeepLeaseResponse:
    return sidecar_pb2.KeepLeaseResponse(
        state=sidecar_pb2.LeaseState(
            sessions=lease.counts[SessionHandle.kind],
            listeners=lease.counts[ListenerHandle.kind],
            signing_keys=lease.counts[KeyHandle.kind],
            streams=lease.counts[StreamHandle.kind],
        )
    )


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Signing keys that stay inside."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def GenerateSigningKey(
        self, request: identity_pb2.GenerateSigningKeyRequest, context: _Context
    ) -> identity_pb2.GenerateSigningKeyResponse:
        """A new key."""
        if request.export_seed and not self._core.allow_seed_export:
            raise UnsupportedError("this sidecar does not give away the seeds of signing keys")
        with self._core.leases.slot(request.lease_id, KeyHandle) as slot:
            handle = slot.fill(KeyHandle(HybridSigningKey.generate()))
        return identity_pb2.GenerateSigningKeyResponse(
            key=identity_pb2.SigningKeyRef(handle=handle.number),
            verifying_key=verifying_key(handle.key.verifying_key()),
            seed=bytes(handle.key.to_bytes()) if request.export_seed else b"",
        )

    async def ImportSigningKey(
        self, request: identity_pb2.ImportSigningKeyRequest, context: _Context
    ) -> identity_pb2.ImportSigningKeyResponse:
        """A key of the client, or of a file."""
        with self._core.leases.slot(request.lease_id, KeyHandle) as slot:
            handle = slot.fill(KeyHandle(await _load(request.source)))
        return identity_pb2.ImportSigningKeyResponse(
            key=identity_pb2.SigningKeyRef(handle=handle.number),
            verifying_key=verifying_key(handle.key.verifying_key()),
        )

    async def VerifyingKeyFromSigningKey(
        self, request: identity_pb2.VerifyingKeyFromSigningKeyRequest, context: _Context
    ) -> identity_pb2.VerifyingKeyFromSigningKeyResponse:
        """The public half of a key."""
        if request.source.WhichOneof("source") == "key":
            key = self._core.leases.find(request.source.key.handle, KeyHandle).key.verifying_key()
        else:
            with await _load(request.source) as signing_key:
                key = signing_key.verifying_key()
        return identity_pb2.VerifyingKeyFromSigningKeyResponse(verifying_key=verifying_key(key))

    async def DropSigningKey(
        self, request: identity_pb2.DropSigningKeyRequest, context: _Context
    ) -> identity_pb2.DropSigningKeyResponse:
        """Wipes a key."""
        handle = self._core.leases.find(request.key.handle, KeyHandle)
        self._core.leases.forget(handle)
        await handle.close(0)
        return identity_pb2.DropSigningKeyResponse()


async def _load(source: identity_pb2.SigningKeySource) -> HybridSigningKey:
    match source.WhichOneof("source"):
        case "seed":
            return HybridSigningKey.from_bytes(source.seed)
        case "path" if PurePath(source.path).is_absolute():
            return await asyncio.to_thread(HybridSigningKey.from_file, source.path)
        case "path":
            raise ValidationError("the path of a key file must be absolute")
        case _:
            raise ValidationError("a signing key comes from a seed of 64 bytes or from the absolute path of a key file")


class ListenerService(listener_pb2_grpc.ListenerServiceServicer):
    """Being called."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Bind(self, request: listener_pb2.BindRequest, context: _Context) -> listener_pb2.BindResponse:
        """Binds a listener."""
        config = config_of(request.config)
        key = None
        if request.HasField("key"):
            key = self._core.leases.find(request.key.handle, KeyHandle).copy()
        with self._core.leases.slot(request.lease_id, ListenerHandle) as slot:
            clients = await asyncio.to_thread(policy_of, request.clients)
            listener = await listen(
                *request.addresses, key=key, clients=clients, reuse_port=request.reuse_port, config=config
            )
            handle = slot.fill(ListenerHandle(listener, key, config, self._core.waits))
        return listener_pb2.BindResponse(
            listener=listener_pb2.Listener(
                ref=listener_pb2.ListenerRef(handle=handle.number),
                addresses=listener.local_addrs,
                urls=listener.urls,
                verifying_key=verifying_key(HybridVerifyingKey.from_bytes(listener.verifying_key_bytes())),
            )
        )

    async def Accept(self, request: listener_pb2.AcceptRequest, context: _Context) -> listener_pb2.AcceptResponse:
        """The next session, or the last one if the client does not have it yet."""
        handle = self._core.listener(request.listener)
        if request.ack > handle.given:
            raise ValidationError(f"session {request.ack} is acknowledged, but {handle.given} was the last one")
        with handle.accepting.take():
            session = handle.unacknowledged
            if session is None or request.ack == handle.given or not self._core.leases.holds(session):
                with self._core.leases.slot(handle.lease.id, SessionHandle) as slot:
                    outcome = await handle.listener.accept()
                    session = slot.fill(SessionHandle(outcome.session, handle.config, self._core.waits))
                handle.unacknowledged = session
                handle.given += 1
        accepted = listener_pb2.Accepted(seq=handle.given, session=session_message(session))
        identity = session.session.peer_identity()
        if identity is not None:
            accepted.client_identity.CopyFrom(verifying_key(identity))
        return listener_pb2.AcceptResponse(accepted=accepted)

    async def Shutdown(self, request: listener_pb2.ShutdownRequest, context: _Context) -> listener_pb2.ShutdownResponse:
        """Stops a listener."""
        handle = self._core.listener(request.listener)
        self._core.leases.forget(handle)
        await handle.close(0)
        return listener_pb2.ShutdownResponse()

    async def GetMetrics(
        self, request: listener_pb2.ListenerServiceGetMetricsRequest, context: _Context
    ) -> listener_pb2.ListenerServiceGetMetricsResponse:
        """What went through a listener."""
        snapshot = self._core.listener(request.listener).listener.metrics_snapshot()
        return listener_pb2.ListenerServiceGetMetricsResponse(metrics=metrics_message(snapshot))


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Sessions and the messages on them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Connect(self, request: session_pb2.ConnectRequest, context: _Context) -> session_pb2.ConnectResponse:
        """Connects to a server."""
        config = config_of(request.config)
        timeout = seconds(request.timeout) if request.HasField("timeout") else None
        identity = None
        if request.HasField("identity"):
            identity = self._core.leases.find(request.identity.handle, KeyHandle).copy()
        try:
            connecting = connect(
                request.target, pins_of(request.pins), identity=identity, config=config, timeout=timeout
            )
            with self._core.leases.slot(request.lease_id, SessionHandle) as slot, self._core.waits.scope():
                session = await connecting
                handle = slot.fill(SessionHandle(session, config, self._core.waits))
        finally:
            if identity is not None:
                identity.close()
        return session_pb2.ConnectResponse(session=session_message(handle))

    async def AwaitReady(
        self, request: session_pb2.AwaitReadyRequest, context: _Context
    ) -> session_pb2.AwaitReadyResponse:
        """Waits for the peer."""
        handle = self._core.session(request.session)
        with self._core.waits.scope():
            await handle.session.await_ready()
        return session_pb2.AwaitReadyResponse(session=session_message(handle))

    async def Get(self, request: session_pb2.GetRequest, context: _Context) -> session_pb2.GetResponse:
        """A session as it is now."""
        return session_pb2.GetResponse(session=session_message(self._core.session(request.session)))

    async def WatchEvents(
        self, request: session_pb2.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[session_pb2.WatchEventsResponse]:
        """The state and its changes."""
        handle = self._core.session(request.session)
        events = handle.session.events()
        yield _state_event(handle.session.state, "")
        with handle.watching.take():
            async for event in events:
                if isinstance(event, StateChanged):
                    await context.write(_state_event(event.new, event.reason))
                elif isinstance(event, Rekeyed):
                    rekeyed = session_pb2.Rekeyed(epoch=event.epoch, by_peer=event.by_peer, reason=event.reason)
                    answer = session_pb2.WatchEventsResponse(event=session_pb2.SessionEvent(rekeyed=rekeyed))
                    await context.write(answer)

    async def Send(self, request: session_pb2.SendRequest, context: _Context) -> session_pb2.SendResponse:
        """Queues a message."""
        handle = self._core.session(request.session)
        if len(request.data) > SIDECAR_MESSAGE_CAP:
            raise FrameTooLargeError(f"Send carries at most {SIDECAR_MESSAGE_CAP} bytes; use Exchange")
        await handle.session.send(request.data)
        return session_pb2.SendResponse(queued=handle.session.queued_count())

    async def Recv(self, request: session_pb2.RecvRequest, context: _Context) -> session_pb2.RecvResponse:
        """The next message, which is kept until a later call acknowledges it."""
        handle = self._core.session(request.session)
        with handle.receiving.take():
            after = handle.inbox.ack(request.ack)
            data = await handle.inbox.get(after)
        if len(data) > SIDECAR_MESSAGE_CAP:
            raise FrameTooLargeError(
                f"the message has {len(data)} bytes and Recv carries at most {SIDECAR_MESSAGE_CAP}; use Exchange"
            )
        return session_pb2.RecvResponse(message=session_pb2.Message(seq=after + 1, data=data))

    async def Exchange(
        self, request_iterator: AsyncIterator[session_pb2.ExchangeRequest], context: _Context
    ) -> AsyncIterator[session_pb2.ExchangeResponse]:
        """Messages of any size both ways."""
        exchange = None
        try:
            request = await anext(request_iterator, None)
            if request is None or request.frame.WhichOneof("frame") != "open":
                raise ValidationError("the first frame of an exchange opens it")
            opening = request.frame.open
            handle = self._core.session(opening.session)
            exchange = Exchange(handle, opening, context.write)
            yield _server_frame(opened=session_pb2.ExchangeOpened(window=SIDECAR_WINDOW))
            with self._core.waits.scope() if opening.send_only else handle.receiving.take():
                await exchange.run(request_iterator)
        except PhantomError as error:
            if exchange is None or exchange.whole:
                yield _server_frame(failed=to_detail(error))
            raise

    async def Flush(self, request: session_pb2.FlushRequest, context: _Context) -> session_pb2.FlushResponse:
        """Waits until everything is acknowledged."""
        acknowledged = await self._core.session(request.session).session.flush_queue()
        return session_pb2.FlushResponse(acknowledged=acknowledged)

    async def Rekey(self, request: session_pb2.RekeyRequest, context: _Context) -> session_pb2.RekeyResponse:
        """Changes the keys."""
        handle = self._core.session(request.session)
        with self._core.waits.scope():
            epoch = await handle.session.rekey()
        return session_pb2.RekeyResponse(epoch=epoch)

    async def ExportKeyingMaterial(
        self, request: session_pb2.ExportKeyingMaterialRequest, context: _Context
    ) -> session_pb2.ExportKeyingMaterialResponse:
        """Bytes that only the two ends can derive."""
        session = self._core.session(request.session).session
        material = session.export_keying_material(request.label, request.length or EXPORT_LENGTH)
        return session_pb2.ExportKeyingMaterialResponse(keying_material=material)

    async def GetMetrics(
        self, request: session_pb2.SessionServiceGetMetricsRequest, context: _Context
    ) -> session_pb2.SessionServiceGetMetricsResponse:
        """What went over a session."""
        snapshot = self._core.session(request.session).session.metrics_snapshot()
        return session_pb2.SessionServiceGetMetricsResponse(metrics=metrics_message(snapshot))

    async def Disconnect(
        self, request: session_pb2.DisconnectRequest, context: _Context
    ) -> session_pb2.DisconnectResponse:
        """Closes a session."""
        handle = self._core.session(request.session)
        timeout = seconds(request.timeout) if request.HasField("timeout") else None
        acknowledged = await handle.session.disconnect(request.code, timeout)
        self._core.leases.forget(handle)
        forget_streams(self._core, handle)
        if not acknowledged:
            await _tell_what_was_lost(handle.session, context)
        return session_pb2.DisconnectResponse(all_acknowledged=acknowledged)


async def _tell_what_was_lost(session: PhantomSession, context: _Context) -> None:
    """Puts into the trailer how much the peer did not acknowledge; the call succeeds all the same."""
    try:
        await session.__aexit__(None, None, None)
    except ConnectionClosedError as lost:
        context.set_trailing_metadata(((TRAILER, to_detail(lost).SerializeToString()),))


def _server_frame(**frame: Any) -> session_pb2.ExchangeResponse:
    return session_pb2.ExchangeResponse(frame=session_pb2.ServerFrame(**frame))


def _state_event(state: Any, reason: str) -> session_pb2.WatchEventsResponse:
    changed = session_pb2.StateChanged(state=state_value(state), reason=reason)
    return session_pb2.WatchEventsResponse(event=session_pb2.SessionEvent(state_changed=changed))
