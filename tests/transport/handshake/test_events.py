"""What a finished handshake hands on: the exporter's root and what a client identity is bound to (§3.5, §15.7)."""

from __future__ import annotations

from phantom.crypto import kdf
from phantom.transport.handshake import HandshakeResult

SECRET = b"\x11" * 32
TRANSPORT_KEY = "52ea025822d0788533b436123d544d4aea4d6713797c1e158e814924ecf9fe7f"  # wire-native, Appendix B.2
AUTH_CONTEXT = "e71d18dcfe370ab3d30880ba7b34686d04237612edb6cd4d927f159f35a3ad78"


def result() -> HandshakeResult:
    return HandshakeResult(
        initiator=True,
        version=2,
        packet_version=2,
        session_id=b"\x88" * 32,
        shared_secret=bytearray(SECRET),
        resumption_secret=bytearray(32),
        transcript_hash=b"\x7a" * 32,
        peer_key=None,
        early_data_accepted=None,
        retries=0,
        client_nonce=b"\x22" * 32,
        bytes_sent=0,
        bytes_received=0,
    )


def test_the_exporter_root_is_the_first_session_key_and_outlives_the_shared_secret() -> None:
    done = result()
    root = done.exporter_root()
    done.wipe()
    assert done.shared_secret == bytearray(32)
    assert root.hex() == TRANSPORT_KEY


def test_the_binding_is_the_transcript_and_the_context_of_this_session() -> None:
    done = result()
    root = done.exporter_root()
    assert done.auth_binding(root) == b"\x7a" * 32 + bytes.fromhex(AUTH_CONTEXT)
    assert root == kdf.session_key(SECRET)  # untouched


def test_a_result_shows_no_secret() -> None:
    shown = repr(result())
    assert SECRET.hex() not in shown
    assert repr(SECRET) not in shown
