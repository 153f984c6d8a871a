"""The HTTP exchange before a WebSocket: strict with machines, polite to people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.errors import NetworkError
from phantom.transport.legs import http_upgrade as http
from phantom.transport.legs.http_upgrade import BadRequest, UpgradePolicy, answer, check_response, head_of, request

POLICY = UpgradePolicy("/phantom", ("https://app.example",))
HEADERS = {
    "Host": "server.example:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def head(first: str = "GET /phantom HTTP/1.1", extra: str = "", **changed: str | None) -> bytes:
    given = {**HEADERS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [first, *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode("latin-1")


def test_the_example_of_the_rfc_is_accepted() -> None:
    said = answer(head(), False, POLICY)
    assert said.accepted
    assert said.data.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in said.data
    assert b"Sec-WebSocket-Protocol" not in said.data
    assert said.data.endswith(b"\r\n\r\n")


def test_our_request_is_accepted_by_us() -> None:
    data, key = request("server.example:8080", "/phantom", bytes(range(16)))
    assert head_of(data) == len(data)
    said = answer(data, False, POLICY)
    assert said.accepted
    assert b"\r\nSec-WebSocket-Protocol: phantom-core\r\n" in said.data
    check_response(said.data, key)


ACCEPTED = {
    "other case": head(Upgrade="WebSocket", Connection="keep-alive, upgrade"),
    "a query": head("GET /phantom?from=page HTTP/1.1"),
    "other subprotocols": head(Sec_WebSocket_Protocol="chat, phantom-core"),
    "an empty body": head(Content_Length="0"),
    "page of the same host": head(Origin="http://server.example:8080"),
    "page of the same host, other case": head(Origin="https://SERVER.example:8080"),
    "page that is allowed": head(Origin="https://app.example"),
    "unknown headers": head(extra="X-Anything: \xfc\t!\r\n"),
    "a header in two lines": head(Connection="keep-alive", extra="Connection: Upgrade\r\n"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_requests_that_are_accepted(name: str) -> None:
    assert answer(ACCEPTED[name], False, POLICY).accepted


REFUSED = {
    "for a person": (head(Upgrade=None, Connection="keep-alive"), 426, "speaks Phantom"),
    "another path": (head("GET / HTTP/1.1"), 404, "nothing at this address"),
    "a path that begins the same": (head("GET /phantom2 HTTP/1.1"), 404, "nothing"),
    "a post": (head("POST /phantom HTTP/1.1"), 405, "only GET"),
    "another version": (head(Sec_WebSocket_Version="8"), 426, "version 13"),
    "HTTP/1.0": (head("GET /phantom HTTP/1.0"), 400, "HTTP/1.1"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 400, "HTTP/1.1"),
    "absolute target": (head("GET http://server.example/phantom HTTP/1.1"), 400, "HTTP/1.1"),
    "two spaces": (head("GET  /phantom HTTP/1.1"), 400, "HTTP/1.1"),
    "no host": (head(Host=None), 400, "no host"),
    "empty host": (head(Host=""), 400, "no host"),
    "no key": (head(Sec_WebSocket_Key=None), 400, "key"),
    "short key": (head(Sec_WebSocket_Key="c2hvcnQ="), 400, "key"),
    "key with spare bits": (head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZR=="), 400, "key"),
    "foreign page": (head(Origin="https://evil.example"), 403, "origin"),
    "page whose origin is no address": (head(Origin="http://["), 403, "origin"),
    "page without a host": (head(Origin="null"), 403, "origin"),
    "page whose host only begins the same": (head(Origin="http://server.example:80800"), 403, "origin"),
    "a body": (head(Content_Length="5"), 400, "body"),
    "a chunked body": (head(Transfer_Encoding="chunked"), 400, "body"),
    "both": (head(Transfer_Encoding="identity", Content_Length="0"), 400, "body"),
    "two lengths": (head(Content_Length="0", extra="Content-Length: 5\r\n"), 400, "twice"),
    "two hosts": (head(extra="Host: other\r\n"), 400, "twice"),
    "two keys": (head(extra="sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "twice"),
    "a folded line": (head(extra="X-Long: a\r\n b\r\n"), 400, "malformed"),
    "a space before the colon": (head(extra="Content-Length : 5\r\n"), 400, "malformed"),
    "a line without a colon": (head(extra="nonsense\r\n"), 400, "malformed"),
    "an empty name": (head(extra=": x\r\n"), 400, "malformed"),
    "a bare line feed": (head(extra="X-A: b\nContent-Length: 5\r\n"), 400, "malformed"),
    "a bare carriage return": (head(extra="X-A: b\rContent-Length: 5\r\n"), 400, "malformed"),
    "a zero byte": (head(extra="X-A: \0\r\n"), 400, "malformed"),
    "a control character at the front": (head("GET /phantom\x0b HTTP/1.1"), 400, "control character"),
    "too many lines": (head(extra="A: b\r\n" * limits.UPGRADE_HEADERS), 431, "headers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_are_refused(name: str) -> None:
    data, status, words = REFUSED[name]
    said = answer(data, False, POLICY)
    assert not said.accepted
    first, _, body = said.data.decode().partition("\r\n\r\n")
    assert first.startswith(f"HTTP/1.1 {status} ")
    assert words in body
    assert f"Content-Length: {len(body)}" in first
    assert "Connection: close" in first or status == 426
    assert said.reason


def test_bytes_behind_the_request_are_refused() -> None:
    assert b"before the request was answered" in answer(head(), True, POLICY).data


def test_every_page_is_let_in_if_told_so() -> None:
    assert answer(head(Origin="https://any.example"), False, UpgradePolicy(origins=("*",))).accepted


def test_a_head_that_never_ends_is_refused() -> None:
    assert head_of(b"GET / HTTP/1.1\r\n") == 0
    assert head_of(head()) == len(head())
    with pytest.raises(BadRequest) as caught:
        head_of(b"G" * limits.UPGRADE_CAP)
    assert caught.value.status == 431


@pytest.mark.parametrize("first", [b"\x16", b"\0", b" ", b"\r", b"1", b"\xff"])
def test_what_is_no_http_is_known_by_its_first_byte(first: bytes) -> None:
    with pytest.raises(BadRequest, match="no HTTP"):
        head_of(first)


@given(st.binary(max_size=300))
def test_whatever_comes_gets_an_answer(data: bytes) -> None:
    said = answer(data + b"\r\n\r\n", False, POLICY)
    assert not said.accepted
    assert said.data.startswith(b"HTTP/1.1 4")


# --- client -----------------------------------------------------------------------------------------------------------

KEY = HEADERS["Sec-WebSocket-Key"]
GOOD = answer(head(Sec_WebSocket_Protocol="phantom-core"), False, POLICY).data


def test_an_answer_without_subprotocol_will_do() -> None:
    check_response(answer(head(), False, POLICY).data, KEY)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404.*no WebSocket is taken on this path"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502.*proxy does not reach"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "answered 200.*does not take WebSockets"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not answer as a web server"),
        (b"HTTP/1.1 1010 X\r\n\r\n", "not answer as a web server"),
        (b"HTTP/1.1 101 X\r\nno colon\r\n\r\n", "not answer as a web server.*malformed"),
        (GOOD.replace(b"s3pP", b"s3pQ"), "does not fit"),
        (GOOD.replace(b"Upgrade: websocket", b"Upgrade: h2c"), "does not fit"),
        (GOOD.replace(b"Connection: Upgrade", b"Connection: close"), "does not fit"),
        (GOOD.replace(b"phantom-core", b"chat"), "does not fit"),
        (GOOD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), "does not fit"),
    ],
)
def test_answers_that_are_no_websocket_say_what_is_there(data: bytes, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        check_response(data, KEY)


def test_accept_keys_are_those_of_an_independent_library() -> None:
    from websockets.utils import accept_key

    assert http.accept_key(KEY) == accept_key(KEY)


def test_a_host_that_is_not_ascii_is_named_as_the_resolver_knows_it() -> None:
    said, _ = request("münchen.example:443", "/phantom", bytes(16))
    assert b"\r\nHost: xn--mnchen-3ya.example:443\r\n" in said
