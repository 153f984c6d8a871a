"""Each call of the services, by generated stubs alone, as a client in another language makes it (surface §15)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

import phantom
from phantom.limits import SIDECAR_MESSAGE_CAP
from phantom.sidecar._generated.v1 import common_pb2, identity_pb2, listener_pb2, session_pb2, sidecar_pb2
from phantom.sidecar.handles import SessionHandle
from tests.sidecar.conftest import Raw, Start, detail_of, raw, until

Peer = Callable[..., phantom.Binding]


@asynccontextmanager
async def fails(status: str, code: int, text: str = "") -> AsyncIterator[None]:
    """The block's call fails with this status, and a trailer with this code and text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code().name == status, caught.value.details()
    detail = detail_of(caught.value)
    assert detail.code == code, detail
    assert text in detail.message


class Client(Raw):
    """Stubs with the token in, and a lease."""

    lease_id: int

    async def do(self, method: object, request: object, timeout: float | None = None) -> object:
        return await method(request, metadata=self.metadata, timeout=timeout)  # type: ignore[operator]

    async def connect(self, listener: phantom.PhantomListener) -> session_pb2.SessionRef:
        reply = await self.do(
            self.session.Connect, session_pb2.ConnectRequest(lease_id=self.lease_id, target=listener.urls[0])
        )
        return reply.session.ref  # type: ignore[attr-defined]


@asynccontextmanager
async def opened(running: object) -> AsyncIterator[Client]:
    """A client with a lease that it keeps."""
    async with raw(running) as plain:  # type: ignore[arg-type]
        client = Client(plain.channel, plain.token)
        lease = await client.do(client.sidecar.OpenLease, sidecar_pb2.OpenLeaseRequest(grace=Duration()))
        client.lease_id = lease.lease.id  # type: ignore[attr-defined]
        keeping = client.sidecar.KeepLease(metadata=client.metadata)
        await keeping.write(sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=client.lease_id)))
        await keeping.read()
        yield client
        keeping.cancel()


# --- SidecarService ---------------------------------------------------------------------------------------------------


async def test_info(start: Start) -> None:
    async with start() as running, raw(running) as client:
        request = sidecar_pb2.GetInfoRequest(contract_version=sidecar_pb2.CONTRACT_VERSION_CURRENT)
        info = (await client.sidecar.GetInfo(request, metadata=client.metadata)).info
    assert info.contract_version == running.ready.contract_version == sidecar_pb2.CONTRACT_VERSION_CURRENT
    assert info.package_version == phantom.__version__
    assert list(info.wire_versions) == [2, 1]
    assert "sidecar" in info.extras
    assert info.provider in ("openssl", "pqcrypto")
    assert info.suite in ("aes-256-gcm", "chacha20-poly1305")
    assert (info.max_grpc_message, info.pid) == (1 << 20, os.getpid())


async def test_other_contract_version(start: Start) -> None:
    async with start() as running, raw(running) as client:
        request = sidecar_pb2.GetInfoRequest(contract_version=99)
        async with fails("FAILED_PRECONDITION", 40, "contract version 99"):
            await client.sidecar.GetInfo(request, metadata=client.metadata)


async def test_health(start: Start) -> None:
    async with start() as running, raw(running) as client:
        status = (await client.sidecar.Health(sidecar_pb2.HealthRequest(), metadata=client.metadata)).status
        assert (status.live, status.ready, list(status.missing)) == (True, True, [])
        running.core.missing.append("a leg")
        status = (await client.sidecar.Health(sidecar_pb2.HealthRequest(), metadata=client.metadata)).status
        assert (status.live, status.ready, list(status.missing)) == (True, False, ["a leg"])


async def test_self_tests(start: Start) -> None:
    async with start() as running, raw(running) as client:
        request = sidecar_pb2.RunSelfTestsRequest()
        report = (await client.sidecar.RunSelfTests(request, metadata=client.metadata)).report
        assert report.provider in ("openssl", "pqcrypto")
        assert "hybrid-kem" in report.tests
        async with fails("INVALID_ARGUMENT", 4, "unknown crypto provider"):
            await client.sidecar.RunSelfTests(
                sidecar_pb2.RunSelfTestsRequest(provider="none"), metadata=client.metadata
            )


async def test_lease_tells_what_it_holds(start: Start) -> None:
    async with start() as running, raw(running) as client:
        lease = (await client.sidecar.OpenLease(sidecar_pb2.OpenLeaseRequest(), metadata=client.metadata)).lease
        assert (lease.grace.seconds, lease.max_sessions) == (10, 256)
        key = identity_pb2.GenerateSigningKeyRequest(lease_id=lease.id)
        await client.identity.GenerateSigningKey(key, metadata=client.metadata)
        call = client.sidecar.KeepLease(metadata=client.metadata)
        await call.write(sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=lease.id)))
        assert (await call.read()).state == sidecar_pb2.LeaseState(signing_keys=1)
        await call.write(sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(release=True)))
        assert (await call.read()).state == sidecar_pb2.LeaseState()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(("pings", "code"), [([], 6), ([sidecar_pb2.LeasePing(lease_id=7)], 13)])
async def test_first_ping_names_the_lease(start: Start, pings: list[sidecar_pb2.LeasePing], code: int) -> None:
    async with start() as running, raw(running) as client:
        call = client.sidecar.KeepLease(
            iter([sidecar_pb2.KeepLeaseRequest(ping=ping) for ping in pings]), metadata=client.metadata
        )
        async with fails("INVALID_ARGUMENT" if code == 6 else "NOT_FOUND", code):
            await call.read()


async def test_client_that_says_no_more_keeps_its_lease(start: Start) -> None:
    async with start() as running, raw(running) as client:
        request = sidecar_pb2.OpenLeaseRequest(grace=Duration())
        async with asyncio.timeout(30):
            lease = (await client.sidecar.OpenLease(request, metadata=client.metadata)).lease
            call = client.sidecar.KeepLease(
                iter([sidecar_pb2.KeepLeaseRequest(ping=sidecar_pb2.LeasePing(lease_id=lease.id))]),
                metadata=client.metadata,
            )
            await call.read()
            held = running.core.leases.get(lease.id)
            key = identity_pb2.GenerateSigningKeyRequest(lease_id=lease.id)
            await client.identity.GenerateSigningKey(key, metadata=client.metadata)
            assert not held.ended
            call.cancel()
            await until(lambda: held.ended)


async def test_leases_need_a_sensible_grace(start: Start) -> None:
    async with start() as running, raw(running) as client:
        for grace in (Duration(seconds=61), Duration(seconds=-1)):
            async with fails("INVALID_ARGUMENT", 6):
                await client.sidecar.OpenLease(sidecar_pb2.OpenLeaseRequest(grace=grace), metadata=client.metadata)


# --- IdentityService --------------------------------------------------------------------------------------------------


async def test_signing_keys(start: Start, home: Path) -> None:
    key = phantom.generate_signing_key()
    expected = common_pb2.VerifyingKey(
        key=key.verifying_key().to_bytes(), fingerprint=key.verifying_key().fingerprint()
    )
    key.write_file(home / "key")
    async with start() as running, opened(running) as client:
        for source in (
            identity_pb2.SigningKeySource(seed=bytes(key.to_bytes())),
            identity_pb2.SigningKeySource(path=str(home / "key")),
        ):
            request = identity_pb2.ImportSigningKeyRequest(lease_id=client.lease_id, source=source)
            reply = await client.do(client.identity.ImportSigningKey, request)
            assert reply.verifying_key == expected  # type: ignore[attr-defined]
            for again in (source, identity_pb2.SigningKeySource(key=reply.key)):  # type: ignore[attr-defined]
                public = identity_pb2.VerifyingKeyFromSigningKeyRequest(source=again)
                answer = await client.do(client.identity.VerifyingKeyFromSigningKey, public)
                assert answer.verifying_key == expected  # type: ignore[attr-defined]
            drop = identity_pb2.DropSigningKeyRequest(key=reply.key)  # type: ignore[attr-defined]
            await client.do(client.identity.DropSigningKey, drop)
            async with fails("NOT_FOUND", 13, "no such signing key"):
                await client.do(client.identity.DropSigningKey, drop)
    key.close()


async def test_generated_key_stays_inside(start: Start) -> None:
    async with start() as running, opened(running) as client:
        request = identity_pb2.GenerateSigningKeyRequest(lease_id=client.lease_id)
        reply = await client.do(client.identity.GenerateSigningKey, request)
        assert reply.seed == b""  # type: ignore[attr-defined]
        assert len(reply.verifying_key.key) == 1984  # type: ignore[attr-defined]
        request.export_seed = True
        async with fails("UNIMPLEMENTED", 19, "does not give away"):
            await client.do(client.identity.GenerateSigningKey, request)


async def test_seed_is_exported_where_that_is_allowed(start: Start) -> None:
    async with start(allow_seed_export=True) as running, opened(running) as client:
        request = identity_pb2.GenerateSigningKeyRequest(lease_id=client.lease_id, export_seed=True)
        reply = await client.do(client.identity.GenerateSigningKey, request)
        with phantom.HybridSigningKey.from_bytes(reply.seed) as key:  # type: ignore[attr-defined]
            assert key.verifying_key().to_bytes() == reply.verifying_key.key  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        (identity_pb2.SigningKeySource(), 6, "64 bytes"),
        (identity_pb2.SigningKeySource(key=identity_pb2.SigningKeyRef(handle=1)), 6, "64 bytes"),
        (identity_pb2.SigningKeySource(seed=b"short"), 6, "64 bytes"),
        (identity_pb2.SigningKeySource(path="key"), 6, "absolute"),
        (identity_pb2.SigningKeySource(path="/no/such/key"), 4, "/no/such/key"),
    ],
)
async def test_key_that_cannot_be_taken_in(
    start: Start, source: identity_pb2.SigningKeySource, code: int, text: str
) -> None:
    async with start() as running, opened(running) as client:
        request = identity_pb2.ImportSigningKeyRequest(lease_id=client.lease_id, source=source)
        async with fails("INVALID_ARGUMENT", code, text):
            await client.do(client.identity.ImportSigningKey, request)


# --- ListenerService --------------------------------------------------------------------------------------------------


async def _bind(client: Client, **fields: object) -> listener_pb2.Listener:
    request = listener_pb2.BindRequest(
        lease_id=client.lease_id,
        **{"addresses": ["tcp://127.0.0.1:0"], **fields},  # type: ignore[arg-type]
    )
    return (await client.do(client.listener.Bind, request)).listener  # type: ignore[attr-defined, no-any-return]


async def test_listener_with_a_held_key(start: Start) -> None:
    async with start() as running, opened(running) as client:
        request = identity_pb2.GenerateSigningKeyRequest(lease_id=client.lease_id)
        key = await client.do(client.identity.GenerateSigningKey, request)
        listener = await _bind(client, key=key.key, addresses=["127.0.0.1:0", "tcp://127.0.0.1:0"])  # type: ignore[attr-defined]
        assert listener.verifying_key == key.verifying_key  # type: ignore[attr-defined]
        assert len(listener.addresses) == len(listener.urls) == 2
        assert all(key.verifying_key.fingerprint in url for url in listener.urls)  # type: ignore[attr-defined]
        drop = identity_pb2.DropSigningKeyRequest(key=key.key)  # type: ignore[attr-defined]
        await client.do(client.identity.DropSigningKey, drop)
        async with phantom.connect(listener.urls[1]) as session:  # the listener has a copy
            assert session.peer_identity().fingerprint() == key.verifying_key.fingerprint  # type: ignore[union-attr, attr-defined]


async def test_accepted_session(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        async with phantom.connect(listener.urls[0]) as session:
            accepted = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            assert (accepted.seq, accepted.session.id) == (1, session.id)
            assert not accepted.session.HasField("peer_identity")
            ready = session_pb2.AwaitReadyRequest(session=accepted.session.ref)
            reply = await client.do(client.session.AwaitReady, ready)
            assert reply.session.negotiated.receive_suite in (1, 2)  # type: ignore[attr-defined]
            metrics = listener_pb2.ListenerServiceGetMetricsRequest(listener=listener.ref)
            snapshot = (await client.do(client.listener.GetMetrics, metrics)).metrics  # type: ignore[attr-defined]
            assert (snapshot.handshakes_success, snapshot.active_sessions) == (1, 1)


async def test_accept_loses_nothing_to_a_lost_answer(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        async with phantom.connect(listener.urls[0]) as one, phantom.connect(listener.urls[0]) as two:
            first = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            again = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            assert (first.seq, first.session.ref) == (again.seq, again.session.ref)
            accept.ack = 1
            second = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            assert second.seq == 2
            assert {first.session.id, second.session.id} == {one.id, two.id}
            accept.ack = 3
            async with fails("INVALID_ARGUMENT", 6, "session 3 is acknowledged, but 2"):
                await client.do(client.listener.Accept, accept)


async def test_session_that_was_closed_is_not_given_again(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        async with phantom.connect(listener.urls[0]) as one:
            first = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            gone = session_pb2.DisconnectRequest(session=first.session.ref)
            await client.do(client.session.Disconnect, gone)
            assert one.id == first.session.id
        async with phantom.connect(listener.urls[0]) as two:
            second = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            assert second.session.id == two.id


async def test_cancelled_accept_loses_no_session(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        async with fails_bare("DEADLINE_EXCEEDED"):
            await client.do(client.listener.Accept, accept, 0.05)
        async with phantom.connect(listener.urls[0]) as session:
            accepted = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            assert accepted.session.id == session.id


async def test_newer_accept_ends_the_older(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        older = asyncio.ensure_future(client.do(client.listener.Accept, accept))
        handle = running.core.listener(listener.ref)
        await until(lambda: bool(handle.listener._acceptors))
        newer = asyncio.ensure_future(client.do(client.listener.Accept, accept))
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call"):
            await older
        async with phantom.connect(listener.urls[0]) as session:
            assert (await newer).accepted.session.id == session.id  # type: ignore[attr-defined]


async def test_shutdown_wakes_who_waits_and_leaves_sessions_alone(start: Start) -> None:
    async with start() as running, opened(running) as client:
        listener = await _bind(client)
        accept = listener_pb2.AcceptRequest(listener=listener.ref)
        async with phantom.connect(listener.urls[0]) as session:
            accepted = (await client.do(client.listener.Accept, accept)).accepted  # type: ignore[attr-defined]
            accept.ack = 1
            waiting = asyncio.ensure_future(client.do(client.listener.Accept, accept))
            handle = running.core.listener(listener.ref)
            await until(lambda: bool(handle.listener._acceptors))
            await client.do(client.listener.Shutdown, listener_pb2.ShutdownRequest(listener=listener.ref))
            async with fails("FAILED_PRECONDITION", 14):
                await waiting
            async with fails("NOT_FOUND", 13, "no such listener"):
                await client.do(client.listener.Shutdown, listener_pb2.ShutdownRequest(listener=listener.ref))
            send = session_pb2.SendRequest(session=accepted.session.ref, data=b"still here")
            await client.do(client.session.Send, send)
            assert await session.recv() == b"still here"


@pytest.mark.parametrize(
    ("addresses", "status", "code"),
    [
        ([], "INVALID_ARGUMENT", 4),
        (["nonsense"], "INVALID_ARGUMENT", 6),
        (["udp://127.0.0.1:0"], "UNIMPLEMENTED", 19),
    ],
)
async def test_address_that_cannot_be_bound(start: Start, addresses: list[str], status: str, code: int) -> None:
    async with start() as running, opened(running) as client:
        async with fails(status, code):
            await _bind(client, addresses=addresses)


async def test_port_in_use(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        async with fails("UNAVAILABLE", 1):
            await _bind(client, addresses=[listener.local_addr])
        async with fails("NOT_FOUND", 13):
            await _bind(client, key=identity_pb2.SigningKeyRef(handle=5))


# --- SessionService ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def fails_bare(status: str) -> AsyncIterator[None]:
    """The block's call fails with this status, by gRPC itself."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code().name == status, caught.value.details()


async def test_connect_tells_what_was_agreed(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        pin = common_pb2.Pin(key=listener.verifying_key_bytes())
        request = session_pb2.ConnectRequest(
            lease_id=client.lease_id,
            target=listener.local_addr,
            pins=[pin],
            config=common_pb2.PhantomConfig(suite=common_pb2.CIPHER_SUITE_CHACHA20_POLY1305),
            timeout=Duration(seconds=20),
        )
        session = (await client.do(client.session.Connect, request)).session  # type: ignore[attr-defined]
        theirs = (await listener.accept()).session
        assert session.id == theirs.id
        assert session.peer_addr == listener.local_addr
        assert session.state == common_pb2.CONNECTION_STATE_CONNECTED
        assert session.peer_identity.key == listener.verifying_key_bytes()
        negotiated = session.negotiated
        assert (negotiated.version, negotiated.suite) == (2, common_pb2.CIPHER_SUITE_CHACHA20_POLY1305)
        assert (negotiated.leg, negotiated.epoch) == (common_pb2.LEG_TCP, 0)
        assert list(session.handshake.algorithms) == ["X25519", "ML-KEM-768", "Ed25519", "ML-DSA-65"]
        assert session.handshake.bytes_sent > 3000
        assert session.handshake.duration.ToTimedelta().total_seconds() > 0
        await client.do(client.session.Send, session_pb2.SendRequest(session=session.ref, data=b"hello"))
        assert await theirs.recv() == b"hello"
        metrics = session_pb2.SessionServiceGetMetricsRequest(session=session.ref)
        assert (await client.do(client.session.GetMetrics, metrics)).metrics.messages_sent == 1  # type: ignore[attr-defined]


async def test_wrong_pin(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        with phantom.generate_signing_key() as other:
            pin = common_pb2.Pin(fingerprint=other.verifying_key().fingerprint())
        request = session_pb2.ConnectRequest(lease_id=client.lease_id, target=listener.local_addr, pins=[pin])
        async with fails("FAILED_PRECONDITION", 20, "pinned"):
            await client.do(client.session.Connect, request)
        assert running.core.leases.get(client.lease_id).counts[SessionHandle.kind] == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"target": "127.0.0.1:9"}, "INVALID_ARGUMENT", 4),  # no pin
        ({"target": "127.0.0.1:9", "pins": [common_pb2.Pin(fingerprint="phantom1:x")]}, "INVALID_ARGUMENT", 6),
        ({"target": "127.0.0.1:9", "pins": [common_pb2.Pin()]}, "INVALID_ARGUMENT", 4),
        ({"target": "127.0.0.1:9", "pins": [common_pb2.Pin(key=bytes(3))]}, "INVALID_ARGUMENT", 6),
        ({"target": "///", "pins": [common_pb2.Pin(key=bytes(1984))]}, "INVALID_ARGUMENT", 6),
        ({"target": "udp://h:1", "pins": [common_pb2.Pin(key=bytes(1984))]}, "UNIMPLEMENTED", 19),
        ({"target": "h:1", "pins": [common_pb2.Pin(key=bytes(1984))], "timeout": Duration()}, "INVALID_ARGUMENT", 6),
        ({"target": "h:1", "config": common_pb2.PhantomConfig(bulk_chunk=1)}, "INVALID_ARGUMENT", 4),
        ({"lease_id": 7, "target": "h:1", "pins": [common_pb2.Pin(key=bytes(1984))]}, "NOT_FOUND", 13),
    ],
)
async def test_connect_that_cannot_begin(start: Start, fields: dict[str, object], status: str, code: int) -> None:
    async with start() as running, opened(running) as client:
        request = session_pb2.ConnectRequest(**{"lease_id": client.lease_id, **fields})  # type: ignore[arg-type]
        async with fails(status, code):
            await client.do(client.session.Connect, request)


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accepts connections and says nothing."""
    server = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname())
        for writer in writers:
            writer.close()


async def test_handshake_out_of_time(start: Start) -> None:
    async with start() as running, opened(running) as client, silent_server() as address:
        pin = common_pb2.Pin(key=bytes(1984))
        request = session_pb2.ConnectRequest(
            lease_id=client.lease_id, target=address, pins=[pin], timeout=Duration(nanos=50_000_000)
        )
        async with fails("DEADLINE_EXCEEDED", 15):
            await client.do(client.session.Connect, request)
        request.ClearField("timeout")
        request.config.handshake_timeout.nanos = 100_000_000
        async with fails("DEADLINE_EXCEEDED", 35):
            await client.do(client.session.Connect, request)


async def test_deadline_of_the_call_ends_a_connect(start: Start) -> None:
    async with start() as running, opened(running) as client, silent_server() as address:
        pin = common_pb2.Pin(key=bytes(1984))
        request = session_pb2.ConnectRequest(lease_id=client.lease_id, target=address, pins=[pin])
        async with fails_bare("DEADLINE_EXCEEDED"):
            await client.do(client.session.Connect, request, 0.05)
        lease = running.core.leases.get(client.lease_id)
        await until(lambda: lease.counts[SessionHandle.kind] == 0)  # the half-made session is gone


async def test_nobody_listens(start: Start, peer: Peer) -> None:
    async with peer() as listener:
        url = listener.urls[0]
    async with start() as running, opened(running) as client:
        async with fails("UNAVAILABLE", 1):
            request = session_pb2.ConnectRequest(lease_id=client.lease_id, target=url)
            await client.do(client.session.Connect, request)


async def test_recv_gives_a_message_again_until_it_is_acknowledged(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        for message in (b"", b"one", b"two"):
            await theirs.send(message)
        request = session_pb2.RecvRequest(session=ref)
        got = []
        for ack in (0, 0, 1, 2, 2, 1):
            request.ack = ack
            message = (await client.do(client.session.Recv, request)).message  # type: ignore[attr-defined]
            got.append((message.seq, message.data))
        assert got == [(1, b""), (1, b""), (2, b"one"), (3, b"two"), (3, b"two"), (3, b"two")]
        request.ack = 9
        async with fails("INVALID_ARGUMENT", 6, "number 9 is acknowledged, but 3"):
            await client.do(client.session.Recv, request)


async def test_recv_cancelled_at_any_moment_loses_nothing(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        request = session_pb2.RecvRequest(session=ref)
        got: list[bytes] = []
        count = 60

        async def send() -> None:
            for number in range(count):
                await theirs.send(number.to_bytes(2, "big"))
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        turn = 0
        while len(got) < count:
            turn += 1
            call = client.session.Recv(request, metadata=client.metadata)
            receiving = asyncio.ensure_future(_await(call))
            if turn % 3:
                for _ in range(turn % 17):
                    await asyncio.sleep(0)
                call.cancel()
            try:
                message = (await receiving).message
            except (asyncio.CancelledError, grpc.aio.AioRpcError):
                continue
            assert message.seq == request.ack + 1
            request.ack = message.seq
            got.append(message.data)
        assert got == [number.to_bytes(2, "big") for number in range(count)]
        await sending


async def _await(
    call: grpc.aio.UnaryUnaryCall[session_pb2.RecvRequest, session_pb2.RecvResponse],
) -> session_pb2.RecvResponse:
    return await call


async def test_newer_recv_ends_the_older(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        request = session_pb2.RecvRequest(session=ref)
        older = asyncio.ensure_future(client.do(client.session.Recv, request))
        handle = running.core.session(ref)
        await until(lambda: handle.receiving._current is not None)
        newer = asyncio.ensure_future(client.do(client.session.Recv, request))
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call"):
            await older
        await theirs.send(b"x")
        assert (await newer).message.data == b"x"  # type: ignore[attr-defined]


async def test_message_too_large_for_recv_stays_where_it_is(start: Start, peer: Peer) -> None:
    big = os.urandom(SIDECAR_MESSAGE_CAP + 1)
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        await theirs.send(big)
        await theirs.send(bytes(SIDECAR_MESSAGE_CAP))
        request = session_pb2.RecvRequest(session=ref)
        for _ in range(2):
            async with fails("RESOURCE_EXHAUSTED", 38, f"{len(big)} bytes"):
                await client.do(client.session.Recv, request)
        exchange = client.session.Exchange(metadata=client.metadata)
        opening = session_pb2.ExchangeOpen(session=ref)
        await exchange.write(session_pb2.ExchangeRequest(frame=session_pb2.ClientFrame(open=opening)))
        digest, more = hashlib.sha256(), True
        assert (await exchange.read()).frame.opened.window == 4 << 20
        while more:
            chunk = (await exchange.read()).frame.chunk
            digest.update(chunk.data)
            more = chunk.more
        assert digest.digest() == hashlib.sha256(big).digest()
        exchange.cancel()
        request.ack = 1
        message = (await client.do(client.session.Recv, request)).message  # type: ignore[attr-defined]
        assert (message.seq, len(message.data)) == (2, SIDECAR_MESSAGE_CAP)


async def test_send_over_the_limit_of_a_call(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        request = session_pb2.SendRequest(session=ref, data=bytes(SIDECAR_MESSAGE_CAP + 1))
        async with fails("RESOURCE_EXHAUSTED", 38, "use Exchange"):
            await client.do(client.session.Send, request)
        request.data = bytes(SIDECAR_MESSAGE_CAP + (1 << 16))
        async with fails_bare("RESOURCE_EXHAUSTED"):  # over what the sidecar reads at all
            await client.do(client.session.Send, request)
        theirs = (await listener.accept()).session
        request.data = b"the session goes on"
        reply = await client.do(client.session.Send, request)
        assert reply.queued in (0, 1)  # type: ignore[attr-defined]
        assert await theirs.recv() == b"the session goes on"


async def test_disconnect_tells_whether_everything_arrived(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        for number in range(100):
            await client.do(client.session.Send, session_pb2.SendRequest(session=ref, data=bytes([number])))
        await client.do(client.session.Flush, session_pb2.FlushRequest(session=ref))
        request = session_pb2.DisconnectRequest(session=ref, code=777, timeout=Duration(seconds=20))
        reply = await client.do(client.session.Disconnect, request)
        assert reply.all_acknowledged  # type: ignore[attr-defined]
        assert [await theirs.recv() for _ in range(100)] == [bytes([number]) for number in range(100)]
        with pytest.raises(phantom.ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 777
        async with fails("NOT_FOUND", 13):
            await client.do(client.session.Disconnect, request)
        assert running.core.leases.get(client.lease_id).counts[SessionHandle.kind] == 0


async def test_disconnect_that_could_not_deliver(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, silent_reader() as (address, key):
        request = session_pb2.ConnectRequest(lease_id=client.lease_id, target=address, pins=[common_pb2.Pin(key=key)])
        ref = (await client.do(client.session.Connect, request)).session.ref  # type: ignore[attr-defined]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            for _ in range(64):
                send = session_pb2.SendRequest(session=ref, data=bytes(SIDECAR_MESSAGE_CAP))
                await client.do(client.session.Send, send, 0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        close = session_pb2.DisconnectRequest(session=ref, timeout=Duration(nanos=100_000_000))
        reply = await client.do(client.session.Disconnect, close)
        assert not reply.all_acknowledged  # type: ignore[attr-defined]


@asynccontextmanager
async def silent_reader() -> AsyncIterator[tuple[str, bytes]]:
    """A server that accepts a session and reads no message."""
    async with phantom.listen("127.0.0.1:0") as listener:
        yield listener.local_addr, listener.verifying_key_bytes()
        await listener.drain(0.0)


async def test_disconnect_code_out_of_range(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        async with fails("INVALID_ARGUMENT", 6):
            await client.do(client.session.Disconnect, session_pb2.DisconnectRequest(session=ref, code=65536))
        await client.do(client.session.Disconnect, session_pb2.DisconnectRequest(session=ref))


async def test_peer_that_closes(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        await theirs.send(b"last words")
        await theirs.disconnect(5)
        request = session_pb2.RecvRequest(session=ref)
        message = (await client.do(client.session.Recv, request)).message  # type: ignore[attr-defined]
        assert message.data == b"last words"
        request.ack = message.seq
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.do(client.session.Recv, request)
        detail = detail_of(caught.value)
        assert (detail.code, detail.peer_code, detail.retryable) == (14, 5, False)
        session = (await client.do(client.session.Get, session_pb2.GetRequest(session=ref))).session  # type: ignore[attr-defined]
        assert session.state == common_pb2.CONNECTION_STATE_CLOSED
        async with fails("FAILED_PRECONDITION", 14):
            await client.do(client.session.Send, session_pb2.SendRequest(session=ref, data=b"x"))


async def test_peer_that_dies(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        assert theirs._leg is not None
        theirs._leg.close(linger=False)
        async with fails("UNAVAILABLE", 37):
            await client.do(client.session.Recv, session_pb2.RecvRequest(session=ref))
        session = (await client.do(client.session.Get, session_pb2.GetRequest(session=ref))).session  # type: ignore[attr-defined]
        assert (session.state, session.last_error.code) == (common_pb2.CONNECTION_STATE_DEAD, 37)


async def test_events_begin_with_the_state_as_it_is(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        theirs = (await listener.accept()).session
        call = client.session.WatchEvents(session_pb2.WatchEventsRequest(session=ref), metadata=client.metadata)
        first = (await call.read()).event.state_changed
        assert (first.state, first.reason) == (common_pb2.CONNECTION_STATE_CONNECTED, "")
        await theirs.disconnect()
        rest = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            rest.append(answer.event.state_changed)  # type: ignore[union-attr]
        assert [change.state for change in rest] == [
            common_pb2.CONNECTION_STATE_DRAINING,
            common_pb2.CONNECTION_STATE_CLOSED,
        ]
        assert all(change.reason for change in rest)


async def test_newer_watch_ends_the_older(start: Start, peer: Peer) -> None:
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        request = session_pb2.WatchEventsRequest(session=ref)
        older = client.session.WatchEvents(request, metadata=client.metadata)
        await older.read()
        handle = running.core.session(ref)
        await until(lambda: handle.watching._current is not None)
        newer = client.session.WatchEvents(request, metadata=client.metadata)
        await newer.read()
        async with fails("RESOURCE_EXHAUSTED", 3, "newer call"):
            await older.read()
        newer.cancel()


async def test_sessions_of_a_lease_are_limited(start: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionHandle, "most", 1)
    async with start() as running, opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        async with fails("RESOURCE_EXHAUSTED", 3, "limit of 1 sessions"):
            await client.connect(listener)
        bound = await _bind(client)
        async with phantom.connect(bound.urls[0]):
            accept = listener_pb2.AcceptRequest(listener=bound.ref)
            async with fails("RESOURCE_EXHAUSTED", 3, "limit of 1 sessions"):
                await client.do(client.listener.Accept, accept)
            await client.do(client.session.Disconnect, session_pb2.DisconnectRequest(session=ref))
            await client.do(client.listener.Accept, accept)  # it waited in the listener


async def test_stopping_ends_what_waits_for_a_peer(start: Start, peer: Peer) -> None:
    running = start()
    await running.start()
    async with opened(running) as client, peer() as listener:
        ref = await client.connect(listener)
        bound = await _bind(client)
        watch = client.session.WatchEvents(session_pb2.WatchEventsRequest(session=ref), metadata=client.metadata)
        await watch.read()
        waiting = [
            asyncio.ensure_future(client.do(client.session.Recv, session_pb2.RecvRequest(session=ref))),
            asyncio.ensure_future(client.do(client.listener.Accept, listener_pb2.AcceptRequest(listener=bound.ref))),
            asyncio.ensure_future(watch.read()),
        ]
        await until(lambda: len(running.core.waits._waits) == 4)  # these and KeepLease
        await running.stop()
        for call in waiting:
            async with fails("UNAVAILABLE", 1, "shutting down"):
                await call
        theirs = (await listener.accept()).session
        with pytest.raises(phantom.ConnectionClosedError) as caught:
            await theirs.recv()
        assert caught.value.peer_code == 14
