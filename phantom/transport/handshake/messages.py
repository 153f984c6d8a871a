"""Every handshake message and its codec (wire-native §§4, 5, 8.6).

Key packages, ciphertexts, keys and signatures stay in their encoded form from the frame to the primitive that takes
them: a message is parsed once and copied once. Client frames carry an envelope byte, server frames a kind byte before
it; ``encode`` and ``decode`` speak whole frames. Decoders raise ``SerializationError`` and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from phantom.errors import SerializationError
from phantom.limits import (
    CIPHERTEXT_LEN,
    COOKIE_LEN,
    ED25519_PK_LEN,
    ED25519_SIG_LEN,
    KEY_PACKAGE_LEN,
    ML_DSA_PK_LEN,
    ML_DSA_SIG_LEN,
    ML_KEM_CT_LEN,
    ML_KEM_EK_LEN,
    SESSION_ID_LEN,
    VERSION_2,
    VERSION_3,
    X25519_LEN,
)
from phantom.transport.handshake.borsh import Reader, option, vec

__all__ = [
    "ENVELOPE_V3",
    "ENVELOPE_V12",
    "REJECT_BUSY",
    "REJECT_VERSION",
    "UNSUPPORTED_FRAME",
    "ClientHello",
    "HelloRetryRequest",
    "PowChallenge",
    "PowSolution",
    "Reply",
    "ServerHello",
    "ServerReject",
    "Unsupported",
    "decode_reply",
    "walk_client_hello",
]

ENVELOPE_V12: Final = 0
ENVELOPE_V3: Final = 1
ENVELOPE_UNSUPPORTED: Final = 2
KIND_HELLO: Final = 0
KIND_RETRY: Final = 1
KIND_REJECT: Final = 2
REJECT_MAGIC: Final = b"PRJ1"
REJECT_VERSION: Final = 1
REJECT_BUSY: Final = 2

NONCE_LEN: Final = 32
POW_NONCE_LEN: Final = 32
ENCODED_VERIFYING_KEY_LEN: Final = ED25519_PK_LEN + 4 + ML_DSA_PK_LEN
ENCODED_SIGNATURE_LEN: Final = ED25519_SIG_LEN + 4 + ML_DSA_SIG_LEN

# Offsets in a client frame; fixed, because every field before the options has one length (§4.2).
_VERIFY_KEY_AT: Final = 1 + KEY_PACKAGE_LEN
_NONCE_AT: Final = _VERIFY_KEY_AT + ENCODED_VERIFYING_KEY_LEN
VERSION_AT: Final = _NONCE_AT + NONCE_LEN
_OPTIONS_AT: Final = VERSION_AT + 1

# Offsets in a ServerHello frame, kind and envelope byte included.
_CIPHERTEXT_AT: Final = 2 + KEY_PACKAGE_LEN
_SERVER_KEY_AT: Final = _CIPHERTEXT_AT + CIPHERTEXT_LEN
SIGNATURE_AT: Final = _SERVER_KEY_AT + ENCODED_VERIFYING_KEY_LEN
SESSION_ID_AT: Final = SIGNATURE_AT + ENCODED_SIGNATURE_LEN

_SOLUTION: Final = struct.Struct(f"<{POW_NONCE_LEN}sQ")
_U32: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class PowChallenge:
    """A demand for proof of work (33 B): 32 opaque bytes and the leading zero bits wanted (wire-native §4.1)."""

    nonce: bytes
    difficulty: int

    def encode(self) -> bytes:
        """nonce || difficulty."""
        return self.nonce + bytes((self.difficulty,))


@dataclass(frozen=True, slots=True)
class PowSolution:
    """The challenge's nonce and a u64 that meets its difficulty (40 B, wire-native §4.1)."""

    nonce: bytes
    solution: int

    def encode(self) -> bytes:
        """nonce || solution u64le."""
        return _SOLUTION.pack(self.nonce, self.solution)


class HelloLayout(NamedTuple):
    """What a hello says about itself, and where its optional fields lie in its frame; 0 = absent."""

    envelope: int
    version: int
    cookie: int
    pow_solution: int
    resume_session_id: int
    early_data: int  # of the blob itself, behind its length field; it reaches to the end of the frame

    @property
    def agrees(self) -> bool:
        """Envelope V12 goes with version 1 or 2, envelope V3 with version 3 (wire-native §1.3)."""
        return self.version == VERSION_3 if self.envelope == ENVELOPE_V3 else 1 <= self.version <= VERSION_2

    def cookie_of(self, frame: bytes) -> bytes | None:
        """The cookie, 32 bytes."""
        return frame[self.cookie : self.cookie + COOKIE_LEN] if self.cookie else None

    def pow_solution_of(self, frame: bytes) -> PowSolution | None:
        """The proof of work."""
        return PowSolution(*_SOLUTION.unpack_from(frame, self.pow_solution)) if self.pow_solution else None


def walk_client_hello(frame: bytes) -> HelloLayout:
    """The bounded structural walk of an unauthenticated hello (wire-native §8.6): integer arithmetic, no copies.

    A frame that passes decodes; one that does not raises ``SerializationError``. Version and envelope need not agree.
    """
    size = len(frame)
    if size < _OPTIONS_AT or frame[0] > ENVELOPE_V3:
        raise SerializationError("not a client hello")
    if (
        _U32.unpack_from(frame, 1 + X25519_LEN)[0] != ML_KEM_EK_LEN
        or _U32.unpack_from(frame, _VERIFY_KEY_AT + ED25519_PK_LEN)[0] != ML_DSA_PK_LEN
    ):
        raise SerializationError("client hello: a key of the wrong length")
    at = _OPTIONS_AT
    found = [0, 0, 0, 0]
    for i, length in enumerate((COOKIE_LEN, _SOLUTION.size, SESSION_ID_LEN)):
        tag = frame[at] if at < size else 2
        if tag > 1:
            raise SerializationError("client hello: bad option or truncated")
        at += 1
        if tag:
            found[i] = at
            at += length
    if frame[0] == ENVELOPE_V3:
        tag = frame[at] if at < size else 2
        if tag > 1 or (tag and at + 1 + _U32.size > size):
            raise SerializationError("client hello: bad early data or truncated")
        at += 1
        if tag:
            found[3] = at + _U32.size
            at += _U32.size + _U32.unpack_from(frame, at)[0]
    if at != size:
        raise SerializationError("client hello: truncated or bytes too many")
    return HelloLayout(frame[0], frame[VERSION_AT], *found)


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The whole client frame: a ClientHello in its V12 envelope, or a ClientHelloV3 (wire-native §§4.2 to 4.4).

    Sizes: ``client_key_package`` 1220, ``client_verify_key`` 1988 (encoded), ``nonce``, ``cookie`` and
    ``resume_session_id`` 32. ``early_data`` is the sealed blob; only a V3 envelope carries it.
    """

    client_key_package: bytes = field(repr=False)
    client_verify_key: bytes = field(repr=False)
    nonce: bytes
    version: int
    cookie: bytes | None = None
    pow_solution: PowSolution | None = None
    resume_session_id: bytes | None = None
    early_data: bytes | None = field(default=None, repr=False)
    envelope: int = ENVELOPE_V12

    def encode(self) -> bytes:
        """The frame, envelope byte first."""
        solution = None if self.pow_solution is None else self.pow_solution.encode()
        parts = [
            bytes((self.envelope,)),
            self.client_key_package,
            self.client_verify_key,
            self.nonce,
            bytes((self.version,)),
            option(self.cookie),
            option(solution),
            option(self.resume_session_id),
        ]
        if self.envelope == ENVELOPE_V3:
            parts.append(option(None if self.early_data is None else vec(self.early_data)))
        return b"".join(parts)

    @classmethod
    def decode(cls, frame: bytes, layout: HelloLayout | None = None) -> ClientHello:
        """Parse a frame; ``layout`` is the result of ``walk_client_hello`` when that already ran."""
        at = layout or walk_client_hello(frame)
        return cls(
            frame[1:_VERIFY_KEY_AT],
            frame[_VERIFY_KEY_AT:_NONCE_AT],
            frame[_NONCE_AT:VERSION_AT],
            frame[VERSION_AT],
            at.cookie_of(frame),
            at.pow_solution_of(frame),
            frame[at.resume_session_id : at.resume_session_id + SESSION_ID_LEN] if at.resume_session_id else None,
            frame[at.early_data :] if at.early_data else None,
            frame[0],
        )

    @property
    def agrees(self) -> bool:
        """Envelope V12 goes with version 1 or 2, envelope V3 with version 3 (wire-native §1.3)."""
        return self.version == VERSION_3 if self.envelope == ENVELOPE_V3 else 1 <= self.version <= VERSION_2


@dataclass(frozen=True, slots=True)
class HelloRetryRequest:
    """Reply kind 1: the server wants a cookie back, proof of work, or both (wire-native §4.5)."""

    challenge: PowChallenge | None
    cookie: bytes | None

    def encode(self) -> bytes:
        """The frame, kind byte first."""
        challenge = None if self.challenge is None else self.challenge.encode()
        return b"\1\0" + option(challenge) + option(self.cookie)


@dataclass(frozen=True, slots=True)
class ServerHello:
    """Reply kind 0, V12 or V3 (wire-native §§4.6 to 4.8).

    Sizes: ``server_key_package`` 1220, ``ciphertext`` 1124, ``server_verify_key`` 1988, ``signature`` 3377 (all
    encoded), ``session_id`` 32. ``early_data_accepted`` is the verdict of a V3 reply, None in a V12 one.
    """

    server_key_package: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    server_verify_key: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    session_id: bytes
    early_data_accepted: bool | None = None

    def encode(self) -> bytes:
        """The frame, kind byte first."""
        verdict = self.early_data_accepted
        return b"".join(
            (
                b"\0\0" if verdict is None else b"\0\1",
                self.server_key_package,
                self.ciphertext,
                self.server_verify_key,
                self.signature,
                self.session_id,
                b"" if verdict is None else bytes((verdict,)),
            )
        )


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Reply kind 0 without a body: this server does not resume; go on with version 2 (wire-native §§5.3, 9.7)."""

    def encode(self) -> bytes:
        """The two bytes of the frame."""
        return UNSUPPORTED_FRAME


UNSUPPORTED_FRAME: Final = bytes((KIND_HELLO, ENVELOPE_UNSUPPORTED))


@dataclass(frozen=True, slots=True)
class ServerReject:
    """Reply kind 2, unauthenticated: a refusal, and the highest version accepted on this leg (wire-native §5.4)."""

    code: int
    supported_version: int

    def encode(self) -> bytes:
        """The frame, kind byte first."""
        return bytes((KIND_REJECT,)) + REJECT_MAGIC + bytes((self.code, self.supported_version))


Reply = ServerHello | Unsupported | HelloRetryRequest | ServerReject


def decode_reply(frame: bytes) -> Reply:
    """Parse a server frame by its kind byte (wire-native §5.1); ``SerializationError`` on anything unexpected."""
    reader = Reader(frame)
    kind = reader.u8()
    reply: Reply
    if kind == KIND_HELLO:
        reply = _decode_hello(reader)
    elif kind == KIND_RETRY:
        if reader.u8() != ENVELOPE_V12:
            raise SerializationError("server reply: unknown retry envelope")
        challenge = PowChallenge(reader.take(POW_NONCE_LEN), reader.u8()) if reader.flag() else None
        reply = HelloRetryRequest(challenge, reader.optional(COOKIE_LEN))
    elif kind == KIND_REJECT and reader.take(len(REJECT_MAGIC)) == REJECT_MAGIC:
        reply = ServerReject(reader.u8(), reader.u8())
    else:
        raise SerializationError("the peer's answer is no Phantom reply; is it a Phantom server?")
    reader.end()
    return reply


def _decode_hello(reader: Reader) -> ServerHello | Unsupported:
    envelope = reader.u8()
    if envelope == ENVELOPE_UNSUPPORTED:
        return Unsupported()
    if envelope > ENVELOPE_UNSUPPORTED:
        raise SerializationError("server reply: unknown hello envelope")
    return ServerHello(
        reader.sized(X25519_LEN, ML_KEM_EK_LEN),
        reader.sized(X25519_LEN, ML_KEM_CT_LEN),
        reader.sized(ED25519_PK_LEN, ML_DSA_PK_LEN),
        reader.sized(ED25519_SIG_LEN, ML_DSA_SIG_LEN),
        reader.take(SESSION_ID_LEN),
        reader.flag() if envelope == ENVELOPE_V3 else None,
    )
