"""Client authentication inside two engines (wire-native §15.7): who waits, what is withheld, how a refusal ends."""

from __future__ import annotations

from typing import Any

import pytest

from phantom import limits
from phantom.errors import (
    ClientAuthError,
    HandshakeTimeoutError,
    PhantomError,
    ProtocolViolationError,
    UnsupportedError,
)
from phantom.transport.packet import flags
from phantom.transport.session.client_auth import ClientAuthPolicy, ClientAuthRequested
from phantom.transport.session.control import encode_auth_result
from phantom.transport.session.events import ClientAuthenticated
from phantom.transport.session.paths import DATAGRAM
from phantom.transport.session.states import Phase
from tests.transport.session.engines import Engine, Pair, Peer, client_with_peer, message, server_with_peer
from tests.transport.session.test_client_auth import identity, initiator, responder

NONE, OPTIONAL, REQUIRED = ClientAuthPolicy


def pair_of(policy: ClientAuthPolicy, *, with_identity: bool = True) -> Pair:
    key = identity() if with_identity else None
    return Pair(client={"auth": initiator(key)}, server={"auth": responder(policy)})


def answer(engine: Engine, accepted: bool, now: float = 0.0) -> None:
    """What the policy does."""
    while (event := engine.conn.next_event()) is not None:
        if isinstance(event, ClientAuthRequested):
            engine.conn.client_verdict(accepted, now)
            return
    raise AssertionError("nobody was asked")


def ended(engine: Engine, error: type[PhantomError]) -> bool:
    return engine.conn.phase.over and type(engine.conn.error) is error


def test_an_identity_comes_first_and_data_waits_for_the_verdict() -> None:
    pair = pair_of(REQUIRED)
    client, server = pair.client.conn, pair.server.conn
    client.send_message(b"secret plans")
    stream = client.open_stream(7, 0.0)
    client.write(stream, b"more of them")
    assert [client.admitted, server.admitted] == [False, False]
    first = pair.client.emit(0.0)
    assert len(first) < 6000
    assert not client.wants_to_send
    pair.server.take(first, 0.0)
    pair.run(0.0, 1.0)
    assert pair.server.got == []
    assert not server.streams
    assert server.session_stream.window.window == limits.INITIAL_STREAM_WINDOW
    answer(pair.server, True, 1.0)
    assert server.admitted
    assert server.progress
    event = server.next_event()
    assert isinstance(event, ClientAuthenticated)
    assert event.key == identity().verifying_key()
    pair.run(1.0, 1.1)
    assert client.admitted
    assert pair.server.got == [b"secret plans"]
    accepted = server.accept_stream(1.1)
    assert accepted is not None
    assert server.read(accepted, 1.1) == b"more of them"
    assert server.session_stream.window.limit >= limits.MiB
    assert not any(engine.counted() for engine in pair.ends)


def test_a_refused_client_learns_it_and_close_carries_43_when_it_knows() -> None:
    pair = pair_of(REQUIRED)
    pair.run(0.0, 0.1)
    answer(pair.server, False, 0.1)
    assert pair.server.conn.phase is Phase.CLOSING
    pair.run(0.1, 5.0)
    assert ended(pair.client, ClientAuthError)
    assert "refused" in str(pair.client.conn.error)
    assert ended(pair.server, ClientAuthError)
    assert pair.server.conn.close_code == 43


def test_data_first_ends_a_session_that_requires_an_identity() -> None:
    pair = pair_of(REQUIRED, with_identity=False)
    pair.client.conn.send_message(b"let me in")
    pair.run(0.0, 5.0)
    assert pair.server.got == []
    assert ended(pair.server, ClientAuthError)
    assert ended(pair.client, ClientAuthError)
    assert "requires" in str(pair.client.conn.error)


def test_a_deadline_without_an_identity_ends_it_too() -> None:
    engine = Engine(False, auth=responder(REQUIRED))
    peer = Peer(engine)
    peer.give(peer.ping())
    peer.see()
    assert engine.conn.next_timer() == limits.HANDSHAKE_DEADLINE
    engine.tick(10.0)
    assert engine.conn.phase is Phase.CLOSING
    assert [p.plaintext[4:] for p in peer.see(10.0) if p.word == flags.DATA] == [encode_auth_result(2)]


def test_a_refusal_while_the_path_is_suspended_still_ends_the_session() -> None:
    engine, peer = server_with_peer(profile=DATAGRAM, auth=responder(REQUIRED))
    peer.give(peer.ping())
    engine.conn.owe_ping()
    peer.see()
    engine.conn.handle_timer(limits.SILENCE_FLOOR_DATAGRAM)
    assert engine.conn.phase is Phase.MIGRATING
    engine.conn.handle_timer(limits.HANDSHAKE_DEADLINE)
    assert engine.conn.phase is Phase.CLOSING
    peer.give(peer.pong(), now=limits.HANDSHAKE_DEADLINE + 1)
    engine.conn.handle_timer(limits.HANDSHAKE_DEADLINE + limits.CLOSE_FLUSH_TIMEOUT)
    assert ended(engine, ClientAuthError)


def test_an_initiator_waits_for_the_verdict_as_long_as_a_handshake_may_take() -> None:
    engine = Engine(True, auth=initiator(identity()))
    assert engine.conn.next_timer() == limits.HANDSHAKE_DEADLINE
    Peer(engine).see()
    engine.conn.handle_timer(10.0)
    assert ended(engine, HandshakeTimeoutError)


def test_optional_shows_the_session_when_data_comes_first() -> None:
    pair = pair_of(OPTIONAL, with_identity=False)
    pair.client.conn.send_message(b"hello")
    pair.run(0.0, 0.1)
    assert pair.server.conn.admitted
    assert pair.server.got == [b"hello"]


def test_optional_shows_the_session_after_a_second_of_nothing_but_control() -> None:
    engine = Engine(False, auth=responder(OPTIONAL))
    peer = Peer(engine)
    peer.give(peer.data(0, b"\0\0", stream_id=0))
    peer.see()
    assert not engine.conn.admitted
    engine.tick(limits.OPTIONAL_AUTH_WAIT)
    assert engine.conn.admitted


@pytest.mark.parametrize("auth", [True, False])
def test_policy_none_accepts_unread_with_and_without_an_exchange(auth: bool) -> None:
    server: dict[str, Any] = {"auth": responder(NONE)} if auth else {}
    pair = Pair(client={"auth": initiator(identity())}, server=server)
    assert pair.server.conn.admitted
    pair.client.conn.send_message(b"hello")
    pair.run(0.0, 0.1)
    assert pair.client.conn.admitted
    assert pair.server.got == [b"hello"]
    assert pair.server.conn.auth is not None
    assert pair.server.conn.auth.identity is None


def test_a_client_without_an_exchange_understands_that_one_is_required() -> None:
    engine, peer = client_with_peer()
    peer.give(peer.data(0, encode_auth_result(2), stream_id=0))
    assert ended(engine, ClientAuthError)
    engine, peer = client_with_peer()
    peer.give(peer.close(43))
    assert isinstance(engine.conn.error, ClientAuthError)


def test_messages_of_the_wrong_role_end_the_session() -> None:
    engine, peer = server_with_peer()
    peer.give(peer.data(0, encode_auth_result(0), stream_id=0))
    assert ended(engine, ProtocolViolationError)


def test_what_is_withheld_is_not_acknowledged_and_comes_again() -> None:
    engine = Engine(False, auth=responder(REQUIRED))
    peer = Peer(engine)
    peer.see()
    peer.give(peer.data(0, message(b"early")), now=0.0)
    assert engine.conn.session_stream.reassembly.next_index == 0
    assert [p for p in peer.see() if p.word == flags.ACK_WORD and p.stream_id == 1] == []


def test_exported_keys_are_the_same_at_both_ends_and_end_with_the_session() -> None:
    pair = Pair(root=b"\x55" * 32)
    client, server = pair.client.conn, pair.server.conn
    assert client.export(b"label", 48) == server.export(b"label", 48)
    assert client.export(b"label", 48) != client.export(b"other", 48)
    pair.move(0.0)
    assert client.rekey(0.0) == 1
    pair.move(0.0)
    assert client.export(b"label", 48) == server.export(b"label", 48)
    client.close(0, 0.0)
    pair.run(0.0, 2.0)
    for conn in (client, server):
        with pytest.raises(type(conn.end_error())):
            conn.export(b"label", 48)
    with pytest.raises(UnsupportedError):
        Engine(True).conn.export(b"label", 32)
