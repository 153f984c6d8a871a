"""The 32 bytes that the server signs (wire-native §4.9)."""

from __future__ import annotations

import hashlib
from typing import Final

from phantom.transport.handshake.messages import SESSION_ID_AT, SIGNATURE_AT

__all__ = ["transcript_hash"]

_REPLY_BODY_AT: Final = 2  # behind kind and envelope byte


def transcript_hash(client_frame: bytes, server_frame: bytes | bytearray) -> bytes:
    """SHA-256 over the last hello without its envelope byte, and over the ServerHello frame without kind, envelope and
    signature; the verdict byte of a V3 reply ends it. 32 bytes.

    Both frames must have been decoded, or be about to be sent: the layout is taken as given. What the signature field
    holds does not matter, so the server hashes the frame it is building.
    """
    digest = hashlib.sha256(memoryview(client_frame)[1:])
    reply = memoryview(server_frame)
    digest.update(reply[_REPLY_BODY_AT:SIGNATURE_AT])
    digest.update(reply[SESSION_ID_AT:])
    return digest.digest()
