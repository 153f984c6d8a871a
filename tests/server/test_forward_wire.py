"""Places, names and the opening message of phantom-forward/1."""

from __future__ import annotations

from typing import Any

import pytest

from phantom import NetworkError, ValidationError
from phantom.server.forward_wire import Place, Reset, check_name, opening, read_opening, reset_of


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:80", Place("127.0.0.1", 80)),
        ("[::1]:80", Place("::1", 80)),
        ("db.example:5432", Place("db.example", 5432)),
        ("unix:/run/x=y.sock", Place(path="/run/x=y.sock")),
    ],
)
def test_a_place_is_read_and_written(text: str, place: Place) -> None:
    assert Place.parse(text) == place
    assert str(place) == text


@pytest.mark.parametrize(
    "text", ["", "80", "host:0", ":80", "tcp://host:80", "unix:", "unix:" + 108 * "a", "host:80/x"]
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValidationError):
        Place.parse(text)


def test_listening_may_leave_the_host_and_the_port_open() -> None:
    assert Place.parse(":0", listening=True) == Place("", 0)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", 64 * "x"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", 65 * "x"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        check_name(name)


class Chunks:
    """A stream that has these chunks and then ends."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def recv(self, timeout: float | None = None) -> bytes | None:
        return self._chunks.pop(0) if self._chunks else None


async def read(*chunks: bytes) -> tuple[str, bytes]:
    stream: Any = Chunks(*chunks)
    return await read_opening(stream)


async def test_the_bytes_of_the_opening_message() -> None:
    assert opening("") == b"\x01\x01"
    assert opening("db") == b"\x03\x01db"
    assert await read(b"\x03\x01db") == ("db", b"")
    assert await read(b"\x01\x01GET /") == ("", b"GET /")


async def test_it_may_come_byte_by_byte() -> None:
    assert await read(*(bytes([byte]) for byte in opening("db")), b"rest") == ("db", b"")
    assert await read(b"\x03", b"\x01db" + b"rest") == ("db", b"rest")


@pytest.mark.parametrize("data", [b"", b"\x03\x01d", b"\x00", b"\x00\x01", b"\x01\x02", b"\x02\x01 ", b"\x02\x01\xff"])
async def test_what_is_no_opening_message(data: bytes) -> None:
    with pytest.raises(ValidationError):
        await read(*([data] if data else []))


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValidationError):
        check_name("x" * 254)


def test_why_an_end_goes() -> None:
    assert reset_of(ConnectionResetError()) is Reset.CONNECTION_RESET
    assert reset_of(NetworkError("x")) is Reset.CONNECTION_RESET
    assert reset_of(KeyboardInterrupt()) is Reset.ENDING
