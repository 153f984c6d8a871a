"""One exception tree; each leaf carries the stable integer code of ``phantom.v1.ErrorCode`` (surface §3).

The branch tells who is at fault: ``LocalError`` (you misused it, or this host cannot), ``RemoteError`` (the peer
refused or broke the protocol), ``TransportError`` (the network). Only leaves are raised. Messages tell a stranger
what to do next and never contain payload, key bytes or other secrets.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "BusyError",
    "CipherSuiteUnavailableError",
    "ClientAuthError",
    "ClockError",
    "ConfigError",
    "ConnectionClosedError",
    "ContractVersionError",
    "CryptoError",
    "DecryptFailedError",
    "EpochExhaustedError",
    "FrameTooLargeError",
    "HandshakeError",
    "HandshakeTimeoutError",
    "InternalError",
    "KemFailedError",
    "KeyDerivationError",
    "LocalError",
    "NetworkError",
    "NonceExhaustedError",
    "PhantomError",
    "PhantomTimeoutError",
    "PowDifficultyTooHighError",
    "PowExhaustedError",
    "ProtocolRejectedError",
    "ProtocolViolationError",
    "RemoteError",
    "ReplayDetectedError",
    "RetryLimitError",
    "RngError",
    "RuntimeInitError",
    "SelfTestFailureError",
    "SerializationError",
    "ServerBusyError",
    "ServerIdentityMismatchError",
    "SessionClosingError",
    "SessionDeadError",
    "SessionIdMismatchError",
    "SessionNotFoundError",
    "SignatureInvalidError",
    "StreamClosedError",
    "StreamError",
    "StreamLimitError",
    "StreamResetError",
    "TransportError",
    "UnsupportedError",
    "ValidationError",
    "error_class",
]


class PhantomError(Exception):
    """Root of every error that Phantom raises on purpose.

    ``code`` is the stable number shared with ``proto/`` and every binding (0 on branches, which are never raised).
    ``retryable`` says that the same call may succeed later; ``final`` that no other leg or address is tried
    (wire-native §22.3). The two are independent.
    """

    code: ClassVar[int] = 0
    retryable: ClassVar[bool] = False
    final: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        if type(self).code == 0:
            raise TypeError(f"{type(self).__name__} is a branch of the error tree; raise one of its leaves")
        super().__init__(message or type(self).__doc__ or type(self).__name__)


class LocalError(PhantomError):
    """This side misused the library, or this host cannot do what was asked."""

    final = True


class RemoteError(PhantomError):
    """The peer refused or broke the protocol."""


class TransportError(PhantomError):
    """The network failed, or a connection ended."""


# --- LocalError ----------------------------------------------------------------------------------------------------


class BusyError(LocalError):
    """a local capacity limit is reached; try again later"""

    code = 3
    retryable = True


class ConfigError(LocalError):
    """the configuration is invalid"""

    code = 4


class ValidationError(LocalError):
    """an argument is out of range"""

    code = 6


class RuntimeInitError(LocalError):
    """the runtime could not start"""

    code = 7


class RngError(LocalError):
    """the random number source failed"""

    code = 9


class InternalError(LocalError):
    """an invariant of the library was broken; this is a bug, please report it"""

    code = 10


class SessionNotFoundError(LocalError):
    """no such handle or id"""

    code = 13


class CipherSuiteUnavailableError(LocalError):
    """the cipher suite is not allowed in this mode, or the peer sends one that this side does not take"""

    code = 17


class SelfTestFailureError(LocalError):
    """a cryptographic self-test failed; the installation must not be used"""

    code = 18


class UnsupportedError(LocalError):
    """this operation is not offered by this leg, wire version or mode"""

    code = 19


class ClockError(LocalError):
    """the wall clock is before 1970"""

    code = 25


class ContractVersionError(LocalError):
    """the client and the core were built from different interface definitions"""

    code = 40


class AccessDeniedError(LocalError):
    """the sidecar's access token is missing or wrong"""

    code = 41


class StreamError(LocalError):
    """the stream was misused, or its segment indices are exhausted"""

    code = 12


class StreamLimitError(StreamError):
    """no stream id or slot is left"""

    code = 33


class StreamClosedError(StreamError):
    """this half of the stream is finished or was reset"""

    code = 34


class StreamResetError(StreamError):
    """the peer reset this stream; its code is ``reset_code``"""

    code = 42

    def __init__(self, message: str = "", reset_code: int = 0) -> None:
        super().__init__(message)
        self.reset_code = reset_code


class CryptoError(LocalError):
    """a cryptographic primitive failed, or key bytes are invalid"""

    code = 5


class KeyDerivationError(CryptoError):
    """a key could not be derived"""

    code = 8


class NonceExhaustedError(CryptoError):
    """the limit of sealed packets under one key is reached; reconnect"""

    code = 26


class EpochExhaustedError(CryptoError):
    """the last key epoch is used up; reconnect"""

    code = 27


# --- RemoteError ---------------------------------------------------------------------------------------------------


class SerializationError(RemoteError):
    """a handshake message of the peer does not decode; is it a Phantom server?"""

    code = 2


class ProtocolViolationError(RemoteError):
    """an authenticated peer broke a rule that ends the session"""

    code = 39


class ReplayDetectedError(RemoteError):
    """replay detected"""

    code = 16


class DecryptFailedError(RemoteError):
    """decrypt failed"""

    code = 32


class HandshakeError(RemoteError):
    """the peer sent a reply that the handshake does not allow"""

    code = 11


class ServerIdentityMismatchError(HandshakeError):
    """the server's key matches none of the pinned keys; do not connect until you know why"""

    code = 20
    final = True


class ProtocolRejectedError(HandshakeError):
    """the server does not speak this version of the protocol"""

    code = 21
    final = True

    def __init__(self, message: str = "", reject_code: int = 0, supported_version: int = 0) -> None:
        super().__init__(message)
        self.reject_code = reject_code
        self.supported_version = supported_version


class SignatureInvalidError(HandshakeError):
    """the server's signature over the handshake is invalid; someone may be interfering"""

    code = 22
    final = True


class KemFailedError(HandshakeError):
    """the key exchange failed; someone may be interfering"""

    code = 23
    final = True


class RetryLimitError(HandshakeError):
    """the server asked for too many retries"""

    code = 24


class ServerBusyError(HandshakeError):
    """the server is at its handshake or session limit; try again later"""

    code = 28
    retryable = True


class SessionIdMismatchError(HandshakeError):
    """the server's session id does not follow from the key exchange; someone may be interfering"""

    code = 29
    final = True


class PowDifficultyTooHighError(HandshakeError):
    """the server asks for more proof of work than this client does, or than it can do in time"""

    code = 30


class PowExhaustedError(HandshakeError):
    """no proof of work was found"""

    code = 31


class ClientAuthError(HandshakeError):
    """the server refused this client's identity"""

    code = 43
    final = True


# --- TransportError ------------------------------------------------------------------------------------------------


class NetworkError(TransportError):
    """the connection failed"""

    code = 1
    retryable = True


class FrameTooLargeError(NetworkError):
    """a frame is larger than the limit of this connection"""

    code = 38
    retryable = False


class ConnectionClosedError(TransportError):
    """the connection is closed

    ``peer_code`` is the code of the peer's CLOSE (0 normal, None if none came); ``unacknowledged`` the number of
    bytes of this side that the peer did not acknowledge.
    """

    code = 14

    def __init__(self, message: str = "", peer_code: int | None = None, unacknowledged: int = 0) -> None:
        super().__init__(message or "the connection is closed")
        self.peer_code = peer_code
        self.unacknowledged = unacknowledged


class SessionClosingError(ConnectionClosedError):
    """the session is closing; nothing more can be sent"""

    code = 36

    def __init__(self, message: str = "", peer_code: int | None = None, unacknowledged: int = 0) -> None:
        super().__init__(message or "the session is closing; nothing more can be sent", peer_code, unacknowledged)


class PhantomTimeoutError(TransportError, TimeoutError):
    """the operation did not finish in time"""

    code = 15
    retryable = True


class HandshakeTimeoutError(PhantomTimeoutError):
    """the handshake did not finish in time"""

    code = 35


class SessionDeadError(TransportError):
    """the session lost its connection and could not recover; reconnect"""

    code = 37
    retryable = True


def _leaves(cls: type[PhantomError]) -> dict[int, type[PhantomError]]:
    found = {cls.code: cls} if cls.code else {}
    for sub in cls.__subclasses__():
        found |= _leaves(sub)
    return found


_BY_CODE = _leaves(PhantomError)


def error_class(code: int) -> type[PhantomError]:
    """The leaf for a stable code, ``InternalError`` for an unknown one."""
    return _BY_CODE.get(code, InternalError)
