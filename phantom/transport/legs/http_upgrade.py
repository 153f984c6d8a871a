"""The HTTP/1.1 exchange that begins a WebSocket, sans-IO (RFC 6455 §4, RFC 9112; wire-native §21.7).

Strict where a proxy and a server could read one request in two ways: a request with a body, a folded line, a bare CR or
LF, a space before a colon, or a header twice that must be there once is refused, and so are bytes behind the request,
since a client waits for the answer. Whoever opens the address in a browser gets a page that says what is there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from phantom import limits
from phantom.crypto.compare import constant_time_equal
from phantom.errors import NetworkError

__all__ = [
    "PATH",
    "SUBPROTOCOL",
    "Answer",
    "BadRequest",
    "UpgradePolicy",
    "accept_key",
    "answer",
    "check_response",
    "head_of",
    "refusal",
    "request",
]

SUBPROTOCOL: Final = "phantom-core"
PATH: Final = "/phantom"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END: Final = b"\r\n\r\n"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(r"/[!-~]*")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_ONCE: Final = frozenset(
    ("host", "origin", "content-length", "transfer-encoding", "sec-websocket-key", "sec-websocket-version")
)
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
}


class BadRequest(ValueError):  # noqa: N818 - becomes an answer, not an error of ours
    """A request that is refused; ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, text: str, *headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class UpgradePolicy:
    """Where a server takes WebSockets: on ``path``, from pages of its own host and of ``origins`` (scheme://host[:port]).

    ``"*"`` among the origins lets in every page. Programs, which send no Origin, are always let in: the session's pin
    and the server's client policy decide about them.
    """

    path: str = PATH
    origins: Collection[str] = field(default=())

    def admits(self, origin: str, host: str) -> bool:
        """Is a page of ``origin`` let in by a server that was addressed as ``host``?"""
        if "*" in self.origins or origin in self.origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower() != ""
        except ValueError:  # brackets that hold no address
            return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says; with ``accepted`` frames follow, else the connection ends. ``reason`` is for the log."""

    data: bytes
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Head:
    start: str
    headers: dict[str, str]

    def tokens(self, name: str) -> list[str]:
        """The elements of a comma-separated header, in lower case."""
        return [token.strip().lower() for token in self.headers.get(name, "").split(",")]


def head_of(data: bytes | bytearray) -> int:
    """Length of the head at the start of ``data``, its empty line included; 0 if it is not complete.

    Raises BadRequest when it is longer than UPGRADE_CAP (431), and at its first byte when it is no HTTP (400).
    """
    if not data[:1].isalpha():
        raise BadRequest(400, "this is no HTTP")
    end = data.find(_END, 0, limits.UPGRADE_CAP)
    if end >= 0:
        return end + len(_END)
    if len(data) >= limits.UPGRADE_CAP:
        raise BadRequest(431, f"the head is longer than {limits.UPGRADE_CAP} bytes")
    return 0


def _parse(head: bytes) -> _Head:
    text = head[: -len(_END)].decode("latin-1")
    start, *lines = text.split("\r\n")
    if len(lines) > limits.UPGRADE_HEADERS:
        raise BadRequest(431, f"there are more than {limits.UPGRADE_HEADERS} headers")
    if not _VALUE.fullmatch(start):
        raise BadRequest(400, "the first line has a control character")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequest(400, "a header line is malformed")
        if name in headers:
            if name in _ONCE:
                raise BadRequest(400, f"the header {name} is there twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return _Head(start, headers)


# --- server -----------------------------------------------------------------------------------------------------------


def answer(head: bytes, more: bool, policy: UpgradePolicy) -> Answer:
    """The answer to a request whose head is ``head``; ``more``: bytes came behind it. Never raises."""
    try:
        return _upgrade(_parse(head), more, policy)
    except BadRequest as bad:
        return refusal(bad)


def refusal(bad: BadRequest) -> Answer:
    """The answer that ends the connection, with a text for the person who reads it."""
    body = f"{bad}\n".encode()
    lines = [
        f"HTTP/1.1 {bad.status} {_REASONS[bad.status]}",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        *bad.headers,
    ]
    return Answer("\r\n".join(lines).encode("ascii") + _END + body, False, str(bad))


def _upgrade(head: _Head, more: bool, policy: UpgradePolicy) -> Answer:
    method, _, rest = head.start.partition(" ")
    target, _, version = rest.partition(" ")
    if version != "HTTP/1.1" or not _TARGET.fullmatch(target):
        raise BadRequest(400, "this is no HTTP/1.1 request")
    headers = head.headers
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise BadRequest(400, "the request has a body")
    if not headers.get("host"):
        raise BadRequest(400, "the request names no host")
    if method != "GET":
        raise BadRequest(405, "only GET is answered here", "Allow: GET")
    if target.partition("?")[0] != policy.path:
        raise BadRequest(404, "there is nothing at this address")
    if "websocket" not in head.tokens("upgrade") or "upgrade" not in head.tokens("connection"):
        raise BadRequest(426, _FOR_PEOPLE, "Upgrade: websocket", "Connection: Upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise BadRequest(426, "only version 13 of WebSocket is spoken here", "Sec-WebSocket-Version: 13")
    key = headers.get("sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise BadRequest(400, "the WebSocket key is missing or malformed")
    if "origin" in headers and not policy.admits(headers["origin"], headers["host"]):
        raise BadRequest(403, "pages of this origin are not let in")
    if more:
        raise BadRequest(400, "bytes came before the request was answered")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
    ]
    if SUBPROTOCOL in head.tokens("sec-websocket-protocol"):
        lines.append(f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
    return Answer("\r\n".join(lines).encode("ascii") + _END, True)


_FOR_PEOPLE: Final = (
    "This address speaks Phantom, a post-quantum-secure session protocol, over WebSocket.\n"
    "A web page reaches it with the package phantom-browser, a program with a library of\n"
    "Phantom; both need the server's fingerprint. A browser alone has nothing to show here."
)


def accept_key(key: str) -> str:
    """What a server makes of the client's key (RFC 6455 §4.2.2); no secret, it shows that the server understood."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode("ascii")


# --- client -----------------------------------------------------------------------------------------------------------


def request(host: str, path: str, nonce: bytes) -> tuple[bytes, str]:
    """The request for ``path`` at ``host`` (HOST:PORT), and the key in it, made of ``nonce`` (16 bytes)."""
    if not host.isascii():  # as the resolver has asked for it
        host = host.encode("idna").decode("ascii")
    key = base64.b64encode(nonce).decode("ascii")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    ]
    return "\r\n".join(lines).encode("ascii") + _END, key


def check_response(head: bytes, key: str) -> None:
    """Raises NetworkError unless ``head`` accepts the request with ``key``; the text says what is there instead."""
    try:
        found = _parse(head)
    except BadRequest as bad:
        raise NetworkError(f"the server did not answer as a web server does: {bad}") from None
    version, _, rest = found.start.partition(" ")
    status = rest.partition(" ")[0]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not re.fullmatch(r"[1-5][0-9][0-9]", status):
        raise NetworkError("the server did not answer as a web server does; is this the port of a ws:// address?")
    if status != "101":
        hint = _HINTS.get(status, "the address, or a proxy in front of it, does not take WebSockets")
        raise NetworkError(f"the web server answered {status} in place of the WebSocket: {hint}")
    headers = found.headers
    protocol = headers.get("sec-websocket-protocol", SUBPROTOCOL)
    if (
        "websocket" not in found.tokens("upgrade")
        or "upgrade" not in found.tokens("connection")
        or not constant_time_equal(headers.get("sec-websocket-accept", "").encode("latin-1"), accept_key(key).encode())
        or protocol != SUBPROTOCOL
        or "sec-websocket-extensions" in headers
    ):
        raise NetworkError("the web server's answer does not fit the request; something in between changed it")


_HINTS: Final = {
    "400": "it found the request malformed",
    "401": "it asks for a login that this client does not have",
    "403": "it lets in no client from here",
    "404": "no WebSocket is taken on this path",
    "426": "it wants another protocol on this path",
    "429": "it is being asked too often",
    "502": "the proxy does not reach the server behind it",
    "503": "it is overloaded, or the server behind it is down",
    "504": "the proxy waited in vain for the server behind it",
}
