"""The error tree of surface §3: codes, branches, flags, and texts that tell a stranger what to do."""

from __future__ import annotations

import inspect
import pickle

import pytest

import phantom
from phantom import errors
from phantom.errors import (
    LocalError,
    PhantomError,
    RemoteError,
    TransportError,
    error_class,
)

CODES = {
    1: "NetworkError",
    2: "SerializationError",
    3: "BusyError",
    4: "ConfigError",
    5: "CryptoError",
    6: "ValidationError",
    7: "RuntimeInitError",
    8: "KeyDerivationError",
    9: "RngError",
    10: "InternalError",
    11: "HandshakeError",
    12: "StreamError",
    13: "SessionNotFoundError",
    14: "ConnectionClosedError",
    15: "PhantomTimeoutError",
    16: "ReplayDetectedError",
    17: "CipherSuiteUnavailableError",
    18: "SelfTestFailureError",
    19: "UnsupportedError",
    20: "ServerIdentityMismatchError",
    21: "ProtocolRejectedError",
    22: "SignatureInvalidError",
    23: "KemFailedError",
    24: "RetryLimitError",
    25: "ClockError",
    26: "NonceExhaustedError",
    27: "EpochExhaustedError",
    28: "ServerBusyError",
    29: "SessionIdMismatchError",
    30: "PowDifficultyTooHighError",
    31: "PowExhaustedError",
    32: "DecryptFailedError",
    33: "StreamLimitError",
    34: "StreamClosedError",
    35: "HandshakeTimeoutError",
    36: "SessionClosingError",
    37: "SessionDeadError",
    38: "FrameTooLargeError",
    39: "ProtocolViolationError",
    40: "ContractVersionError",
    41: "AccessDeniedError",
    42: "StreamResetError",
    43: "ClientAuthError",
}
LOCAL = {3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 17, 18, 19, 25, 26, 27, 33, 34, 40, 41, 42}
REMOTE = {2, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31, 32, 39, 43}
RETRYABLE = {1, 3, 15, 28, 35, 37}
FINAL = {20, 21, 22, 23, 29, 43}
BASES = {
    33: 12,
    34: 12,
    42: 12,
    8: 5,
    26: 5,
    27: 5,
    20: 11,
    21: 11,
    22: 11,
    23: 11,
    24: 11,
    28: 11,
    29: 11,
    30: 11,
    31: 11,
    43: 11,
    38: 1,
    36: 14,
    35: 15,
}
EXPECTED = {code: getattr(errors, name) for code, name in CODES.items()}


def test_every_leaf_has_its_code_and_there_are_no_others() -> None:
    found = {
        cls.code: cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, PhantomError) and cls.code
    }
    assert found == EXPECTED


@pytest.mark.parametrize("code", CODES)
def test_branch_flags_and_base(code: int) -> None:
    cls = EXPECTED[code]
    branch = LocalError if code in LOCAL else RemoteError if code in REMOTE else TransportError
    assert issubclass(cls, branch)
    assert cls.retryable is (code in RETRYABLE)
    assert cls.final is (code in FINAL or code in LOCAL)
    if code in BASES:
        assert issubclass(cls, EXPECTED[BASES[code]])
    assert error_class(code) is cls


@pytest.mark.parametrize("code", CODES)
def test_a_leaf_without_a_message_still_says_something(code: int) -> None:
    cls = EXPECTED[code]
    text = str(cls())
    assert text
    assert text[0].islower() or text[0] in "0123456789"
    assert "\n" not in text
    assert str(cls("what happened")) == "what happened"
    assert isinstance(cls(), Exception)


@pytest.mark.parametrize("code", CODES)
def test_errors_survive_a_process_boundary(code: int) -> None:
    error = EXPECTED[code]("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "what happened"


@pytest.mark.parametrize("branch", [PhantomError, LocalError, RemoteError, TransportError])
def test_a_branch_is_never_raised(branch: type[PhantomError]) -> None:
    with pytest.raises(TypeError, match="branch"):
        branch("x")


@pytest.mark.parametrize("code", [0, -1, 44, 99, 2**31])
def test_an_unknown_code_is_an_internal_error(code: int) -> None:
    assert error_class(code) is errors.InternalError


def test_the_fields_that_some_carry() -> None:
    closed = errors.ConnectionClosedError("x", 7, 100)
    assert (closed.peer_code, closed.unacknowledged) == (7, 100)
    assert (errors.ConnectionClosedError().peer_code, errors.ConnectionClosedError().unacknowledged) == (None, 0)
    closing = errors.SessionClosingError(peer_code=3)
    assert (closing.peer_code, str(closing)) == (3, "the session is closing; nothing more can be sent")
    rejected = errors.ProtocolRejectedError("x", 1, 2)
    assert (rejected.reject_code, rejected.supported_version) == (1, 2)
    assert errors.StreamResetError("x", 9).reset_code == 9


@pytest.mark.parametrize("name", ["peer_code", "unacknowledged"])
def test_fields_survive_a_process_boundary(name: str) -> None:
    error = errors.ConnectionClosedError("x", 7, 100)
    assert getattr(pickle.loads(pickle.dumps(error)), name) == getattr(error, name)


def test_timeouts_are_timeouts_to_everyone() -> None:
    assert issubclass(errors.PhantomTimeoutError, TimeoutError)
    assert isinstance(errors.HandshakeTimeoutError(), TimeoutError)


def test_the_one_opaque_text() -> None:
    assert str(errors.DecryptFailedError()) == "decrypt failed"


def test_all_are_public() -> None:
    for cls in (*EXPECTED.values(), LocalError, RemoteError, TransportError, PhantomError):
        assert getattr(phantom, cls.__name__) is cls
        assert cls.__name__ in errors.__all__
