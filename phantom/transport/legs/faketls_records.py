"""Records and hellos of the FakeTLS leg, without I/O (wire-native §21.6).

Obfuscation only: the keys derive from public values, so anybody may open, alter and make records. What protects a
session lies inside. Everything here comes from an unauthenticated peer, and is bounded before it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from phantom import limits
from phantom.crypto.aead import AEAD_FAILURE, CipherSuite, new_aead
from phantom.crypto.kdf import faketls_keys, faketls_seed
from phantom.crypto.providers import Provider
from phantom.crypto.rng import RngProvider
from phantom.crypto.wipe import BytesLike
from phantom.errors import NetworkError

__all__ = [
    "CHANGE_CIPHER_SPEC",
    "HEADER_LEN",
    "OVERHEAD",
    "ClientHello",
    "RecordOpener",
    "RecordSealer",
    "client_hello",
    "parse_client_hello",
    "parse_server_hello",
    "record_length",
    "record_pair",
    "server_hello",
]

HEADER_LEN: Final = 5
OVERHEAD: Final = HEADER_LEN + 1 + 16  # bytes that a record is longer than its chunk: header, inner type, tag
CHANGE_CIPHER_SPEC: Final = bytes.fromhex("140303000101")
APPLICATION_DATA: Final = 0x17

_CCS, _ALERT, _HANDSHAKE = 0x14, 0x15, 0x16
_HEADER = Struct(">BHH")
_U64 = Struct(">Q")
_LEGACY: Final = b"\x03\x03"
_TLS13: Final = b"\x03\x04"
_TLS13_SUITES: Final = (0x1301, 0x1302, 0x1303)
_SUITES: Final = (*_TLS13_SUITES, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA9, 0xCCA8)
_SIGNATURES: Final = bytes.fromhex("04030804040105030805050108060601")
_X25519, _SECP256R1 = b"\x00\x1d", b"\x00\x17"
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _GROUPS, _POINTS, _ALGORITHMS, _PADDING, _VERSIONS, _KEY_SHARE = 0, 10, 11, 13, 21, 43, 51


def _failed(why: str) -> NetworkError:
    return NetworkError(f"the FakeTLS connection failed: {why}")


# --- records ----------------------------------------------------------------------------------------------------------


class RecordSealer:
    """Makes the records of one direction; ``counter`` is that of the next."""

    __slots__ = ("_aead", "_head", "_nonce", "counter")

    def __init__(self, key: BytesLike, prefix: bytes, version: int, provider: Provider, counter: int = 0) -> None:
        self._aead = new_aead(CipherSuite.AES_256_GCM, key, provider)
        self._nonce = bytearray(prefix) + bytearray(8)
        self._head = APPLICATION_DATA, version
        self.counter = counter

    def seal(self, source: memoryview, start: int, end: int, out: memoryview, at: int) -> int:
        """A record with ``source[start:end]``, at most FAKETLS_CHUNK bytes, at ``out[at:]``; returns its end.

        ``source[end]`` must exist and is left as it was. NetworkError when the counter is spent.
        """
        if self.counter >= limits.FAKETLS_MAX_RECORDS:
            raise _failed("it has carried all the records that it may")
        length = end - start + 17
        _HEADER.pack_into(out, at, *self._head, length)
        at += HEADER_LEN
        _U64.pack_into(self._nonce, 4, self.counter)
        self.counter += 1
        kept, source[end] = source[end], APPLICATION_DATA  # the inner type, without copying the chunk to its side
        self._aead.encrypt_into(self._nonce, source[start : end + 1], None, out[at : at + length])
        source[end] = kept
        return at + length


class RecordOpener:
    """Opens the records of one direction in their order; every failure is a NetworkError and final."""

    __slots__ = ("_aead", "_empty", "_nonce", "_skipped", "counter")

    def __init__(self, key: BytesLike, prefix: bytes, provider: Provider, counter: int = 0) -> None:
        self._aead = new_aead(CipherSuite.AES_256_GCM, key, provider)
        self._nonce = bytearray(prefix) + bytearray(8)
        self._empty = 0  # records without content, in a row
        self._skipped = False  # change_cipher_spec was seen
        self.counter = counter

    def length(self, buf: BytesLike, at: int, end: int) -> int:
        """Bytes of the record at ``buf[at:end]``; 0: its header is not complete. Refuses what no record may be."""
        if end - at < HEADER_LEN:
            return 0
        kind, _, length = _HEADER.unpack_from(buf, at)
        if kind == APPLICATION_DATA:
            if not 17 <= length <= limits.FAKETLS_MAX_RECORD:
                raise _failed(f"a record of {length} bytes came")
        elif kind == _CCS:
            if length != 1 or self._skipped:
                raise _failed("a change_cipher_spec came that is not TLS 1.3's")
        else:
            raise _failed("the peer sent an alert" if kind == _ALERT else f"a record of type {kind} came")
        return HEADER_LEN + int(length)

    def open(self, view: memoryview, at: int, stop: int, out: memoryview, to: int) -> int:
        """Opens the whole record ``view[at:stop]`` into ``out[to:]``; returns the end of its chunk.

        ``out`` needs one byte more than the chunk has.
        """
        if view[at] == _CCS:
            if view[at + HEADER_LEN] != 1:
                raise _failed("a change_cipher_spec came that is not TLS 1.3's")
            self._skipped = True
            return to
        if self.counter >= limits.FAKETLS_MAX_RECORDS:
            raise _failed("it has carried all the records that it may")
        _U64.pack_into(self._nonce, 4, self.counter)
        self.counter += 1
        last = to + stop - at - HEADER_LEN - 17
        try:
            self._aead.decrypt_into(self._nonce, view[at + HEADER_LEN : stop], None, out[to : last + 1])
        except AEAD_FAILURE:
            raise _failed("a record does not open; do both ends have the same faketls_sni and version?") from None
        if out[last] != APPLICATION_DATA:
            raise _failed("a record has another inner type than data")
        self._empty = 0 if last > to else self._empty + 1
        if self._empty >= limits.FAKETLS_MAX_EMPTY:
            raise _failed(f"{self._empty} records in a row were empty")
        return last


def record_pair(sni: str, version: int, provider: Provider, *, client: bool) -> tuple[RecordSealer, RecordOpener]:
    """What one end seals and opens with."""
    c2s, s2c, prefix = faketls_keys(faketls_seed(sni, version))
    mine, theirs = (c2s, s2c) if client else (s2c, c2s)
    return RecordSealer(mine, prefix, version, provider), RecordOpener(theirs, prefix, provider)


# --- hellos -----------------------------------------------------------------------------------------------------------


class ClientHello(NamedTuple):
    """What a server needs of a client's hello: its session id to echo, the TLS 1.3 suites that it offers."""

    session_id: bytes
    suites: tuple[int, ...]


def record_length(buf: BytesLike, at: int, end: int) -> int:
    """Bytes of the hello record at ``buf[at:end]``; 0: its header is not complete. Refuses any other record."""
    if end > at and buf[at] != _HANDSHAKE:
        raise _failed("the peer sent an alert" if buf[at] == _ALERT else "the peer did not send a TLS hello")
    if end - at < HEADER_LEN:
        return 0
    length = int(_HEADER.unpack_from(buf, at)[2])
    if not 4 < length <= limits.FAKETLS_CHUNK:
        raise _failed(f"a hello of {length} bytes came")
    return HEADER_LEN + length


def client_hello(sni: str, version: int, rng: RngProvider, provider: Provider) -> tuple[bytes, ClientHello]:
    """The record of a hello as a browser would send it, and what the answer is checked against."""
    below = _Chance(rng).below
    session_id = rng.fill_bytes(32)
    suites = [_TLS13_SUITES[below(3)]]
    others = [suite for suite in _SUITES if suite != suites[0]]
    suites += [others.pop(below(len(others))) for _ in range(2 + below(len(others) - 1))]
    _shuffle(suites, below)
    offered = tuple(suite for suite in suites if suite in _TLS13_SUITES)
    suites.insert(below(len(suites) + 1), int.from_bytes(_grease(below), "big"))
    group = _grease(below)
    public = provider.x25519_public(provider.x25519_private(rng.fill_bytes(32)))
    name = sni.encode("ascii")
    extensions = [
        _extension(_GROUPS, _vector(2, group + _X25519 + _SECP256R1)),
        _extension(_POINTS, _vector(1, b"\0")),
        _extension(_ALGORITHMS, _vector(2, _SIGNATURES)),
        _extension(_KEY_SHARE, _vector(2, group + _vector(2, b"\0") + _X25519 + _vector(2, public))),
        _extension(_VERSIONS, _vector(1, _grease(below) + _TLS13 + _LEGACY)),
    ]
    _shuffle(extensions, below)
    extensions.insert(0, _extension(_SERVER_NAME, _vector(2, b"\0" + _vector(2, name))))
    extensions.append(_extension(_PADDING, bytes(50 + below(150))))
    body = b"".join(
        (
            _LEGACY,
            rng.fill_bytes(32),
            _vector(1, session_id),
            _vector(2, b"".join(suite.to_bytes(2, "big") for suite in suites)),
            _vector(1, b"\0"),
            _vector(2, b"".join(extensions)),
        )
    )
    return _hello_record(_CLIENT_HELLO, version, body), ClientHello(session_id, offered)


def server_hello(hello: ClientHello, version: int, rng: RngProvider) -> bytes:
    """The record of the answer to ``hello``, with the change_cipher_spec behind it."""
    suite = hello.suites[_Chance(rng).below(len(hello.suites))]
    extensions = _extension(_VERSIONS, _TLS13) + _extension(_KEY_SHARE, _X25519 + _vector(2, rng.fill_bytes(32)))
    body = b"".join(
        (
            _LEGACY,
            rng.fill_bytes(32),
            _vector(1, hello.session_id),
            suite.to_bytes(2, "big"),
            b"\0",
            _vector(2, extensions),
        )
    )
    return _hello_record(_SERVER_HELLO, version, body) + CHANGE_CIPHER_SPEC


def parse_client_hello(record: bytes) -> ClientHello:
    """Reads a whole hello record of a client; NetworkError unless it is TLS 1.3's to the last byte."""
    hello = _body(record, _CLIENT_HELLO)
    session_id = hello.vector(1)
    suites = hello.vector(2)
    compression = hello.vector(1)
    extensions = _extensions(hello)
    if len(session_id) > 32 or compression != b"\0" or not suites or len(suites) % 2:
        raise _failed("the client's hello is malformed")
    versions = _Reader(extensions.get(_VERSIONS, b"\0"))
    offered = versions.vector(1)
    versions.end()
    numbers = [int.from_bytes(suites[at : at + 2], "big") for at in range(0, len(suites), 2)]
    known = tuple(number for number in numbers if number in _TLS13_SUITES)
    if not known or _TLS13 not in [offered[at : at + 2] for at in range(0, len(offered), 2)]:
        raise _failed("the client does not offer TLS 1.3")
    shares = _Reader(extensions.get(_KEY_SHARE, b"\0\0"))
    entries = _Reader(shares.vector(2))
    shares.end()
    found = False
    while entries.left:
        group, share = entries.take(2), entries.vector(2)
        found = found or (group == _X25519 and len(share) == 32)
    if not found:
        raise _failed("the client's hello has no X25519 key")
    return ClientHello(session_id, known)


def parse_server_hello(record: bytes, sent: ClientHello) -> None:
    """Reads a whole hello record of a server; NetworkError unless it answers ``sent`` with TLS 1.3."""
    hello = _body(record, _SERVER_HELLO)
    session_id = hello.vector(1)
    suite = int.from_bytes(hello.take(2), "big")
    compression = hello.take(1)
    extensions = _extensions(hello)
    if session_id != sent.session_id or suite not in sent.suites or compression != b"\0":
        raise _failed("the server's hello does not answer this client's")
    share = extensions.get(_KEY_SHARE, b"")
    if extensions.get(_VERSIONS) != _TLS13 or share[:4] != _X25519 + b"\0\x20" or len(share) != 36:
        raise _failed("the server's hello is not TLS 1.3's")


def _body(record: bytes, kind: int) -> _Reader:
    reader = _Reader(record[HEADER_LEN:])
    if reader.take(1) != bytes((kind,)):
        raise _failed("the peer's hello is that of the other end")
    hello = _Reader(reader.vector(3))
    reader.end()
    if hello.take(2) != _LEGACY:
        raise _failed("the peer's hello is not TLS 1.3's")
    hello.take(32)
    return hello


def _extensions(hello: _Reader) -> dict[int, bytes]:
    reader = _Reader(hello.vector(2))
    hello.end()
    found: dict[int, bytes] = {}
    while reader.left:
        kind = int.from_bytes(reader.take(2), "big")
        if kind in found:
            raise _failed("the peer's hello has an extension twice")
        found[kind] = reader.vector(2)
    return found


class _Reader:
    """Takes TLS vectors from bytes; NetworkError when a length leads past the end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _failed("a length in the peer's hello leads past its end")
        self._at += count
        return self._data[self._at - count : self._at]

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width), "big"))

    def end(self) -> None:
        if self.left:
            raise _failed("the peer's hello has bytes behind its end")


class _Chance:
    """Small random numbers."""

    __slots__ = ("_rng",)

    def __init__(self, rng: RngProvider) -> None:
        self._rng = rng

    def below(self, limit: int) -> int:
        return int.from_bytes(self._rng.fill_bytes(4), "big") % limit  # the bias is far below what anybody can see


def _shuffle(items: list[Any], below: Callable[[int], int]) -> None:
    for last in range(len(items) - 1, 0, -1):
        other = below(last + 1)
        items[last], items[other] = items[other], items[last]


def _grease(below: Callable[[int], int]) -> bytes:
    return bytes((below(16) << 4 | 0x0A,)) * 2


def _vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _vector(2, data)


def _hello_record(kind: int, version: int, body: bytes) -> bytes:
    message = bytes((kind,)) + _vector(3, body)
    return _HEADER.pack(_HANDSHAKE, version, len(message)) + message
