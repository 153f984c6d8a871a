"""Records and hellos of the FakeTLS leg: what they are, and that nothing else passes as one (wire-native §21.6)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.crypto.providers import get_provider
from phantom.errors import NetworkError
from phantom.transport.legs import faketls_records as records

PROVIDER = get_provider()
SNI = "www.google.com"
SUITES = {0x1301, 0x1302, 0x1303, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA9, 0xCCA8}


class Seeded:
    """Random bytes that a seed decides."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0

    def fill_bytes(self, n: int) -> bytes:
        self.count += 1
        return hashlib.shake_128(f"{self.seed}/{self.count}".encode()).digest(n)


def hello(seed: int = 0, version: int = 0x0303) -> tuple[bytes, records.ClientHello]:
    return records.client_hello(SNI, version, Seeded(seed), PROVIDER)


def answer(seed: int = 0) -> bytes:
    """The server's hello alone."""
    whole = records.server_hello(hello(seed)[1], 0x0303, Seeded(seed + 1))
    return whole[: -len(records.CHANGE_CIPHER_SPEC)]


def grease(value: int) -> bool:
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def read_hello(record: bytes) -> dict[str, Any]:
    """A reader of its own, after RFC 8446 §4."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        assert at <= len(record)
        return record[at - count : at]

    def vector(width: int) -> bytes:
        return take(int.from_bytes(take(width), "big"))

    found: dict[str, Any] = {"type": take(1)[0], "record_version": numbers(take(2))[0]}
    assert int.from_bytes(take(2), "big") == len(record) - 5
    found["kind"] = take(1)[0]
    assert int.from_bytes(take(3), "big") == len(record) - 9
    found |= {"version": take(2).hex(), "random": take(32), "session_id": vector(1), "suites": numbers(vector(2))}
    found |= {"compression": vector(1), "extensions": []}
    assert int.from_bytes(take(2), "big") == len(record) - at
    while at < len(record):
        found["extensions"].append((numbers(take(2))[0], vector(2)))
    return found


@given(st.integers(0, 1 << 64), st.integers(0x0301, 0x0304))
def test_a_client_hello_is_what_the_specification_says(seed: int, version: int) -> None:
    record, expected = hello(seed, version)
    found = read_hello(record)
    assert (found["type"], found["record_version"], found["kind"]) == (0x16, version, 1)
    assert (found["version"], found["compression"]) == ("0303", b"\0")
    assert len(found["session_id"]) == 32
    assert found["session_id"] != found["random"]
    real = [suite for suite in found["suites"] if not grease(suite)]
    assert len(real) == len(set(real)) == len(found["suites"]) - 1
    assert len(real) >= 3
    assert set(real) <= SUITES
    assert {0x1301, 0x1302, 0x1303} & set(real)
    kinds = [kind for kind, _ in found["extensions"]]
    assert kinds[0] == 0
    assert kinds[-1] == 21
    assert sorted(kinds[1:-1]) == [10, 11, 13, 43, 51]
    inside = dict(found["extensions"])
    assert inside[0] == bytes.fromhex("0011 00 000e") + SNI.encode()
    groups = numbers(inside[10])
    assert (groups[0], groups[2:]) == (6, [0x001D, 0x0017])
    assert grease(groups[1])
    assert inside[11] == b"\x01\x00"
    assert inside[13].hex() == "001004030804040105030805050108060601"
    assert inside[51][:4] == b"\x00\x29" + groups[1].to_bytes(2, "big")
    assert inside[51][4:11].hex() == "000100001d0020"
    assert len(inside[51]) == 43
    assert inside[43][0] == 6
    assert grease(numbers(inside[43][1:])[0])
    assert inside[43][3:].hex() == "03040303"
    assert 50 <= len(inside[21]) <= 199
    assert not any(inside[21])
    assert records.record_length(record, 0, len(record)) == len(record)
    assert records.parse_client_hello(record) == expected


def test_hellos_differ_in_their_order_and_in_everything_random() -> None:
    found = [read_hello(hello(seed)[0]) for seed in range(200)]
    assert len({entry["random"] for entry in found}) == 200
    assert len({tuple(kind for kind, _ in entry["extensions"]) for entry in found}) > 60
    assert len({len(dict(entry["extensions"])[21]) for entry in found}) > 60
    assert {suite for entry in found for suite in entry["suites"] if not grease(suite)} == SUITES
    assert {len(entry["suites"]) for entry in found} == set(range(4, 11))
    places = {next(i for i, suite in enumerate(entry["suites"]) if grease(suite)) for entry in found}
    assert {0, 1, 2, 3} <= places


@given(st.integers(0, 1 << 64))
def test_a_server_hello_answers(seed: int) -> None:
    _, sent = hello(seed)
    whole = records.server_hello(sent, 0x0303, Seeded(seed + 1))
    assert whole.endswith(bytes.fromhex("140303000101"))
    record = whole[:-6]
    assert record[9:11] == b"\x03\x03"
    assert record[43:76] == b"\x20" + sent.session_id
    assert numbers(record[76:78])[0] in sent.suites
    assert record[78:91].hex() == "00002e002b00020304003300" + "24"
    assert len(record) == 127
    records.parse_server_hello(record, sent)


@given(st.integers(0, 50), st.booleans(), st.data())
def test_a_damaged_hello_is_refused_or_read_and_nothing_else(seed: int, client: bool, data: st.DataObject) -> None:
    damaged = bytearray(hello(seed)[0] if client else answer(seed))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        if records.record_length(damaged, 0, len(damaged)) == len(damaged) > 0:
            records.parse_client_hello(bytes(damaged)) if client else records.parse_server_hello(
                bytes(damaged), hello(seed)[1]
            )
    except NetworkError:
        pass


def test_every_cut_of_a_hello_is_refused() -> None:
    for record, parse in (
        (hello()[0], records.parse_client_hello),
        (answer(), lambda cut: records.parse_server_hello(cut, hello()[1])),
    ):
        for size in range(5, len(record)):
            with pytest.raises(NetworkError):
                parse(record[:size])
        with pytest.raises(NetworkError, match="bytes behind its end"):
            parse(record + b"\0")


def rebuilt(record: bytes, change: Any, *, kind: int = 1) -> bytes:
    """A hello whose parts ``change`` has altered, all lengths right again."""
    parts = read_hello(record)
    change(parts)

    def vector(width: int, data: bytes) -> bytes:
        return len(data).to_bytes(width, "big") + data

    body = bytes.fromhex(parts["version"]) + parts["random"] + vector(1, parts["session_id"])
    body += vector(2, parts.get("raw_suites", b"".join(n.to_bytes(2, "big") for n in parts["suites"])))
    body += vector(1, parts["compression"])
    body += vector(2, b"".join(n.to_bytes(2, "big") + vector(2, d) for n, d in parts["extensions"]))
    message = bytes((kind,)) + vector(3, body)
    return b"\x16\x03\x03" + vector(2, message)


def without(*kinds: int) -> Any:
    return lambda parts: parts.update(extensions=[e for e in parts["extensions"] if e[0] not in kinds])


def with_extension(kind: int, data: bytes) -> Any:
    return lambda parts: parts.update(extensions=[(k, data if k == kind else d) for k, d in parts["extensions"]])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda parts: parts.update(version="0304"), "not TLS 1.3"),
        (lambda parts: parts.update(session_id=bytes(33)), "malformed"),
        (lambda parts: parts.update(compression=b"\x01"), "malformed"),
        (lambda parts: parts.update(compression=b""), "malformed"),
        (lambda parts: parts.update(suites=[]), "malformed"),
        (lambda parts: parts.update(raw_suites=b"\x13\x01\x13"), "malformed"),
        (lambda parts: parts.update(suites=[0xC02B]), "does not offer"),
        (lambda parts: parts["extensions"].append((0, b"")), "twice"),
        (without(43), "does not offer"),
        (with_extension(43, b"\x02\x03\x03"), "does not offer"),
        (with_extension(43, b"\x02\x03\x04\x00"), "behind its end"),
        (without(51), "no X25519 key"),
        (with_extension(51, b"\x00\x05\x00\x1d\x00\x01\x00"), "no X25519 key"),
        (with_extension(51, b"\x00\x05\x00\x1d\x00\x02\x00"), "past its end"),
        (with_extension(51, b"\x00\x00\x00"), "behind its end"),
    ],
    ids=range(15),
)
def test_a_client_hello_that_is_not_one_is_refused(change: Any, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        records.parse_client_hello(rebuilt(hello()[0], change))


def test_a_hello_without_session_id_and_padding_is_one() -> None:
    def bare(parts: dict[str, Any]) -> None:
        parts["session_id"] = b""
        without(0, 10, 11, 13, 21)(parts)

    assert records.parse_client_hello(rebuilt(hello()[0], bare)).session_id == b""


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (5, 1, "that of the other end"),
        (9, 2, "not TLS 1.3"),
        (44, None, "does not answer"),  # the session id
        (77, 0x2B, "does not answer"),  # the suite
        (78, 1, "does not answer"),  # compression
        (86, 3, "not TLS 1.3"),  # the version
        (92, 0x17, "not TLS 1.3"),  # the group of the key
    ],
)
def test_a_server_hello_that_does_not_answer_is_refused(at: int, value: int | None, why: str) -> None:
    record = bytearray(answer())
    assert record[at] != value
    record[at] = record[at] ^ 1 if value is None else value
    with pytest.raises(NetworkError, match=why):
        records.parse_server_hello(bytes(record), hello()[1])


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"GET / HTTP/1.1", "did not send a TLS hello"),
        (b"\x15", "an alert"),
        (b"\x17", "did not send a TLS hello"),
        (b"\x16\x03\x03\x00\x04", "hello of 4 bytes"),
        (b"\x16\x03\x03\x40\x01", "hello of 16385 bytes"),
    ],
)
def test_what_begins_no_hello_is_refused_at_once(start: bytes, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        records.record_length(start, 0, len(start))


@pytest.mark.parametrize("size", range(5))
def test_a_header_that_is_not_complete_is_waited_for(size: int) -> None:
    assert records.record_length(b"\x16\x03\x03\x00\x80", 0, size) == 0
    assert pair()[1].length(b"\x17\x03\x03\x00\x80", 0, size) == 0


# --- records ----------------------------------------------------------------------------------------------------------


def pair(counter: int = 0) -> tuple[records.RecordSealer, records.RecordOpener]:
    sealer, _ = records.record_pair(SNI, 0x0303, PROVIDER, client=True)
    _, opener = records.record_pair(SNI, 0x0303, PROVIDER, client=False)
    sealer.counter = opener.counter = counter
    return sealer, opener


def sealed(sealer: records.RecordSealer, chunk: bytes) -> bytes:
    source = bytearray(chunk + b"\xee")
    out = bytearray(len(chunk) + records.OVERHEAD)
    assert sealer.seal(memoryview(source), 0, len(chunk), memoryview(out), 0) == len(out)
    assert source == chunk + b"\xee", "the byte behind the chunk is as it was"
    return bytes(out)


def opened(opener: records.RecordOpener, record: bytes) -> bytes:
    assert opener.length(record, 0, len(record)) == len(record)
    out = bytearray(limits.FAKETLS_MAX_RECORD)
    return bytes(out[: opener.open(memoryview(record), 0, len(record), memoryview(out), 0)])


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_chunks_come_out_as_they_went_in(chunks: list[bytes]) -> None:
    sealer, opener = pair()
    for chunk in chunks:
        record = sealed(sealer, chunk)
        assert record[:3] == b"\x17\x03\x03"
        assert len(record) == 22 + len(chunk)
        assert opened(opener, record) == chunk


def test_wa43_no_nonce_repeats_and_directions_do_not_cross() -> None:
    client, _ = records.record_pair(SNI, 0x0303, PROVIDER, client=True)
    server, opener = records.record_pair(SNI, 0x0303, PROVIDER, client=False)
    seen = {sealed(end, b"the same") for end in (client, server) for _ in range(10_000)}
    assert len(seen) == 20_000
    assert (client.counter, server.counter, opener.counter) == (10_000, 10_000, 0)


def test_the_counter_ends() -> None:
    sealer, opener = pair(limits.FAKETLS_MAX_RECORDS - 1)
    assert opened(opener, sealed(sealer, b"last")) == b"last"
    with pytest.raises(NetworkError, match="all the records"):
        sealed(sealer, b"one more")
    sealer.counter = 0
    with pytest.raises(NetworkError, match="all the records"):
        opened(opener, sealed(sealer, b"one more"))


@pytest.mark.parametrize(
    "change",
    [lambda r: r[:-1] + bytes((r[-1] ^ 1,)), lambda r: r[:5] + bytes((r[5] ^ 128,)) + r[6:]],
    ids=["tag", "content"],
)
def test_an_altered_record_does_not_open(change: Any) -> None:
    sealer, opener = pair()
    with pytest.raises(NetworkError, match="does not open"):
        opened(opener, change(sealed(sealer, b"chunk")))


def test_a_record_again_or_too_early_or_of_the_other_direction_does_not_open() -> None:
    sealer, opener = pair()
    first, second = sealed(sealer, b"1"), sealed(sealer, b"2")
    with pytest.raises(NetworkError, match="does not open"):
        opened(opener, second)
    opener.counter = 0
    assert opened(opener, first) == b"1"
    with pytest.raises(NetworkError, match="does not open"):
        opened(opener, first)
    _, of_client = records.record_pair(SNI, 0x0303, PROVIDER, client=True)
    with pytest.raises(NetworkError, match="does not open"):
        opened(of_client, first)


def test_another_inner_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sealer, opener = pair()
    monkeypatch.setattr(records, "APPLICATION_DATA", 0x16)
    inner = b"\x17" + sealed(sealer, b"chunk")[1:]
    monkeypatch.undo()
    with pytest.raises(NetworkError, match="another inner type"):
        opened(opener, inner)


def test_64_empty_records_in_a_row_are_too_many() -> None:
    sealer, opener = pair()
    for _ in range(2):
        for _ in range(63):
            assert opened(opener, sealed(sealer, b"")) == b""
        assert opened(opener, sealed(sealer, b"x")) == b"x"
    for _ in range(63):
        opened(opener, sealed(sealer, b""))
    with pytest.raises(NetworkError, match="64 records in a row were empty"):
        opened(opener, sealed(sealer, b""))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("1703030010", "of 16 bytes"),
        ("1703034101", "of 16641 bytes"),
        ("1403030002", "change_cipher_spec"),
        ("1403030000", "change_cipher_spec"),
        ("1503030002", "an alert"),
        ("1603030020", "type 22"),
        ("1803030003", "type 24"),
        ("0003030020", "type 0"),
    ],
)
def test_no_other_record_is_waited_for(header: str, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        pair()[1].length(bytes.fromhex(header), 0, 5)


@pytest.mark.parametrize("size", [17, 16640])
def test_the_bounds_of_a_record_are_inclusive(size: int) -> None:
    header = b"\x17\x03\x03" + size.to_bytes(2, "big")
    assert pair()[1].length(header, 0, 5) == 5 + size


def test_change_cipher_spec_is_skipped_once() -> None:
    sealer, opener = pair()
    assert opened(opener, records.CHANGE_CIPHER_SPEC) == b""
    assert opened(opener, sealed(sealer, b"first")) == b"first"
    with pytest.raises(NetworkError, match="change_cipher_spec"):
        opened(opener, records.CHANGE_CIPHER_SPEC)
    with pytest.raises(NetworkError, match="change_cipher_spec"):
        opened(pair()[1], records.CHANGE_CIPHER_SPEC[:-1] + b"\x02")
