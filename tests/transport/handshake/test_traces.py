"""Whole recorded handshakes: what is sent, what both ends derive, and how it ends when a reply was altered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from phantom.crypto.aead import CipherSuite
from phantom.crypto.hybrid_kem import HybridKemKeyPair
from phantom.crypto.hybrid_sign import HybridSigningKey, HybridVerifyingKey
from phantom.crypto.kdf import next_traffic_secret, session_key, traffic_keys
from phantom.crypto.pins import PinSet
from phantom.crypto.pow import solve
from phantom.crypto.providers import Provider, get_provider
from phantom.crypto.rng import SYSTEM_RNG
from phantom.errors import PhantomError
from phantom.transport.handshake import (
    Established,
    Gate,
    HandshakeResult,
    Initiator,
    Responder,
    Resumption,
    Send,
    SolveChallenge,
    Source,
)
from phantom.transport.handshake import responder as responder_module
from phantom.transport.handshake.messages import ClientHello, decode_reply
from phantom.transport.handshake.responder import State
from tests.transport.handshake.support import ScriptedRng, answer, drain, error_of, h, vectors

Entry = dict[str, Any]
TRACES = {str(case.id): case.values[0] for case in vectors("handshake_traces")}
PROVIDERS = pytest.mark.parametrize("name", ["openssl", "pqcrypto"])


def client_of(trace: Entry, provider: Provider, pinned: str) -> Initiator:
    client, resume = trace["client"], trace["client"]["resume"]
    return Initiator(
        PinSet.parse(h(pinned)),
        provider=provider,
        rng=SYSTEM_RNG,
        version=min(trace["version"], 2),
        resumption=None
        if resume is None
        else Resumption(h(resume["session_id"]), h(resume["resumption_secret"]), h(resume["early_plaintext"])),
        key_pair=HybridKemKeyPair.from_seeds(provider, h(client["x25519_sk"]), h(client["ml_kem_seed"])),
        verify_key=HybridSigningKey.from_bytes(h(client["verify_key_seed"])).verifying_key().encoded,
        nonce=h(client["nonce"]),
    )


def replay(client: Initiator, frames: list[Entry]) -> HandshakeResult | None:
    """Feed the server's frames and compare the client's byte for byte."""
    client.start(0.0)
    for recorded in frames:
        if recorded["direction"] == "s2c":
            client.receive(h(recorded["frame"]), 0.0)
            continue
        event = client.next_event()
        if isinstance(event, SolveChallenge):
            client.solved(solve(event.nonce, event.difficulty, 0, 1 << 20), 0.0)
            event = client.next_event()
        assert isinstance(event, Send)
        assert event.frame == h(recorded["frame"])
    events = drain(client)
    return events[0].result if events else None


@PROVIDERS
@pytest.mark.parametrize("trace", vectors("handshake_traces"))
def test_the_client_sends_and_derives_what_was_recorded(trace: Entry, name: str) -> None:
    pinned, expect = trace["server"]["pinned_key_flat"], trace["expect"]
    result = replay(client_of(trace, get_provider(name), pinned), trace["frames"])
    assert result is not None
    assert result.transcript_hash.hex() == expect["transcript_sha256"]
    assert result.shared_secret.hex() == expect["shared_secret"]
    assert result.session_id.hex() == expect["session_id"]
    assert result.resumption_secret.hex() == expect["resumption_secret"]
    assert result.early_data_accepted is expect["verdict"]
    assert result.version == trace["version"]
    assert result.peer_key == HybridVerifyingKey.from_bytes(h(pinned))
    secret = result.shared_secret
    for epoch in (key for key in ("epoch0", "epoch1") if key in expect):
        keys = expect[epoch]
        aes, cc20 = (traffic_keys(secret, suite) for suite in CipherSuite)
        assert secret.hex() == keys["traffic_secret"]
        assert (aes.send.hex(), aes.recv.hex()) == (keys["aes_send"], keys["aes_recv"])
        assert (cc20.send.hex(), cc20.recv.hex()) == (keys["cc20_send"], keys["cc20_recv"])
        assert aes.prefix.hex() == keys["nonce_prefix"]
        assert session_key(secret).hex() == keys["transport_key"]
        secret = next_traffic_secret(secret)


@PROVIDERS
@pytest.mark.parametrize("entry", vectors("handshake_traces", "negative"))
def test_an_altered_reply_ends_with_the_recorded_error(entry: Entry, name: str) -> None:
    trace = TRACES[entry["trace"]]
    client = client_of(trace, get_provider(name), entry["pinned_key_flat"])
    altered = [*trace["frames"][:-1], {"direction": "s2c", "frame": entry["server_frame"]}]
    wanted = error_of(entry["reject"])
    with pytest.raises(PhantomError) as caught:
        replay(client, altered)
    assert caught.type is wanted
    assert client.next_event() is None


def gate_of(trace: Entry) -> Gate:
    server = trace["server"]
    return Gate(
        h(server["master"]),
        cookie="always",
        load_tiers=[(0, server["difficulty"])],
        rng=ScriptedRng(h(server["pow_salt"])),
    )


@pytest.mark.parametrize("name", ["trace-v2-cookie", "trace-v2-pow", "trace-v1"])
def test_the_server_answers_what_was_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encapsulation and signing are random and their outcome is put in; every other byte is the responder's own."""
    trace = TRACES[name]
    server, expect = trace["server"], trace["expect"]
    recorded = decode_reply(h(trace["frames"][-1]["frame"]))
    signing_key = HybridSigningKey.from_bytes(h(server["signing_seed"]))
    signature = h(server["recorded_signature"])
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(message)
        return signature[:64] + signature[68:]

    monkeypatch.setattr(
        responder_module,
        "encapsulate",
        lambda *args: (h(server["recorded_ciphertext"]), bytearray(h(expect["shared_secret"]))),
    )
    responder = Responder(
        SimpleNamespace(verifying_key=signing_key.verifying_key, _sign_raw=sign),  # type: ignore[arg-type]
        gate_of(trace),
        Source(server["client_address"]),
        provider=get_provider(),
        rng=ScriptedRng(h(server["fresh_package_x25519_sk"]), h(server["fresh_package_ml_kem_seed"])),
        accept_versions={1, 2},
    )
    events: list[Any] = []
    for frame in trace["frames"]:
        if frame["direction"] == "c2s":
            events = answer(responder, h(frame["frame"]), 0.0, server["unix_seconds"])
        else:
            assert events[0].frame == h(frame["frame"])
    assert responder.state is State.ESTABLISHED
    assert isinstance(events[1], Established)
    result = events[1].result
    assert decode_reply(events[0].frame) == recorded
    assert signed == [result.transcript_hash]
    assert result.transcript_hash.hex() == expect["transcript_sha256"]
    assert result.session_id.hex() == expect["session_id"]
    assert result.resumption_secret.hex() == expect["resumption_secret"]


def test_the_cookie_of_the_stale_resumption_is_as_recorded() -> None:
    trace = TRACES["trace-v3-stale"]
    gate, source = gate_of(trace), Source(trace["server"]["client_address"])
    retry = gate.retry(
        source, gate.demand(source, 0.0), cookie_ok=False, pow_ok=True, unix_now=trace["server"]["unix_seconds"]
    )
    assert retry.encode().hex() == trace["frames"][1]["frame"]
    second = ClientHello.decode(h(trace["frames"][2]["frame"]))
    assert second.cookie is not None
    assert gate.check_cookie(source, second.cookie, trace["server"]["unix_seconds"])
