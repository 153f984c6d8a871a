from __future__ import annotations

import hashlib

import pytest

from phantom.transport.packet.frames import (
    IGNORED,
    MalformedFrame,
    decode_coalesced,
    decode_control,
    decode_sack,
    decode_window,
    encode_close,
    encode_coalesced,
    encode_sack,
    encode_window,
    pad,
    pade,
    trailer_length,
    unpad,
)


def sack(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    return decode_sack(b"??" + data + b"??", 2, 2 + len(data))


# --- SACK ------------------------------------------------------------------------------------------------------------


def test_a_sack_of_the_prefix_alone() -> None:
    assert encode_sack(1, [], 0).hex() == "0000000000000000000100000000"
    assert sack(encode_sack(7, [], 5)) == (5, [(0, 6)])


def test_a_sack_with_islands() -> None:
    data = encode_sack(3, [(5, 5), (9, 12)], 250)
    assert data.hex() == "0000000c000000fa00030000000300000003000000000000000200000002"
    assert sack(data) == (250, [(9, 12), (5, 5), (0, 2)])


def test_a_sack_without_a_prefix() -> None:
    assert sack(encode_sack(0, [(3, 2**32 - 1)], 0)) == (0, [(3, 2**32 - 1)])
    assert sack(encode_sack(0, [(1, 1), (3, 4)], 0)) == (0, [(3, 4), (1, 1)])


def test_of_more_than_32_ranges_the_lowest_and_the_31_highest_are_sent() -> None:
    islands = [(10 * i, 10 * i + 3) for i in range(1, 40)]
    _, ranges = sack(encode_sack(2, islands, 0))
    assert ranges == [*reversed(islands[-31:]), (0, 1)]
    _, ranges = sack(encode_sack(0, islands, 0))
    assert ranges == [*reversed(islands[-31:]), islands[0]]
    _, ranges = sack(encode_sack(2, islands[:31], 0))
    assert len(ranges) == 32


def test_the_delay_of_a_sack_saturates() -> None:
    assert sack(encode_sack(1, [], 2**40))[0] == 2**32 - 1


def test_a_sack_of_nothing_is_refused_locally() -> None:
    with pytest.raises(ValueError, match="nothing"):
        encode_sack(0, [], 0)


GOOD = "0000001b0000b12500030000000300000003000000000000000200000011"


@pytest.mark.parametrize(
    "data",
    [
        "",
        GOOD[:26],
        GOOD[:16] + "0000" + GOOD[20:],  # no range
        GOOD[:16] + "0021" + GOOD[20:28] + "0000000100000000" * 32,  # 33 ranges
        GOOD[:16] + "ffff" + GOOD[20:],
        GOOD[:16] + "0004" + GOOD[20:],
        GOOD[:16] + "0002" + GOOD[20:],
        GOOD + "00",
        GOOD[:28] + "00000000" + GOOD[36:],  # gap 0
        GOOD[:20] + "0000001c" + GOOD[28:],  # first range below 0
        GOOD[:-8] + "00000012",  # last range below 0
        GOOD[:28] + "ffffffff" + GOOD[36:],
    ],
)
def test_a_malformed_sack(data: str) -> None:
    with pytest.raises(MalformedFrame):
        sack(bytes.fromhex(data))


def test_the_sack_they_are_made_of_is_good() -> None:
    assert sack(bytes.fromhex(GOOD)) == (0xB125, [(24, 27), (20, 20), (0, 17)])


# --- WINDOW_UPDATE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 65536, 2**64 - 1])
def test_window_round_trip(limit: int) -> None:
    data = encode_window(limit)
    assert decode_window(b"?" + data, 1, 9) == limit


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_window_update_of_another_length(size: int) -> None:
    with pytest.raises(MalformedFrame):
        decode_window(bytes(size), 0, size)


# --- COALESCED -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[], [b""], [b"abc", b"z"], [b"", b"x", b"", b"yy"], [b"q"] * 256])
def test_coalesced_round_trip(parts: list[bytes]) -> None:
    data = encode_coalesced(parts)
    assert decode_coalesced(memoryview(b"?" + data + b"?"), 1, 1 + len(data)) == [p for p in parts if p]


def test_the_example_of_appendix_b() -> None:
    assert encode_coalesced([b"abc", b"z"]).hex() == "0002000361626300017a"


@pytest.mark.parametrize("parts", [[b""] * 257, [bytes(65536)]])
def test_a_bundle_that_is_too_large_is_refused_locally(parts: list[bytes]) -> None:
    with pytest.raises(ValueError, match="256"):
        encode_coalesced(parts)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "00",
        "0101" + "0000" * 257,
        "0003000161000162",
        "0001000161000162",
        "00010005616263",
        "000100",
        "ffff",
        "0001",
    ],
)
def test_a_malformed_bundle(data: str) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(MalformedFrame):
        decode_coalesced(raw, 0, len(raw))


# --- padding ---------------------------------------------------------------------------------------------------------


def test_pade_table() -> None:
    values = [63, 72, 100, 129, 1000, 1201, 4097, 16457]
    assert [pade(n) for n in values] == [64, 72, 104, 144, 1024, 1216, 4352, 17408]
    assert [pade(n) for n in range(6)] == [0, 1, 2, 3, 4, 5]
    table = b"".join(pade(n).to_bytes(4, "big") for n in range(4097))
    assert hashlib.sha256(table).hexdigest() == "93fc9f6b8e37788d0d8711407c142e5b19f35a459915cc48db8f4629e209e70e"


@pytest.mark.parametrize("shaped", [1184, 65536])
def test_the_wire_length_is_a_bucket_or_the_cap(shaped: int) -> None:
    for size in (0, 1, 2, 3, 57, 500, 1111, 1112, 1113):
        inner = b"i" * size
        padded = pad(inner, shaped)
        assert padded is not None
        wire = len(padded) + 69
        assert wire == min(pade(size + 71), shaped)
        assert bytes(padded[unpad(padded, 0, len(padded)) :]) == bytes(len(padded) - size - 2) + (
            len(padded) - size - 2
        ).to_bytes(2, "big")
        assert padded[: unpad(padded, 0, len(padded))] == inner


def test_what_does_not_fit_under_the_cap_is_sent_unpadded() -> None:
    assert pad(bytes(1114), 1184) is None
    assert trailer_length(1114, 1184) == 0
    assert trailer_length(1113, 1184) == 2
    assert pad(bytes(70000), 65536) is None


def test_the_fill_is_not_checked() -> None:
    assert unpad(bytes.fromhex("696eaabbcc0003"), 0, 7) == 2


@pytest.mark.parametrize("data", ["", "00", "6162630004", "00" * 100 + "ffff"])
def test_a_trailer_longer_than_the_plaintext(data: str) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(MalformedFrame):
        unpad(b"\0\0" + raw, 2, 2 + len(raw))


# --- CONTROL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "data"), [(0, "01"), (3, "010003"), (43, "01002b"), (65535, "01ffff")])
def test_close_round_trip(code: int, data: str) -> None:
    raw = encode_close(code)
    assert raw.hex() == data
    assert decode_control(b"?" + raw, 1, 1 + len(raw)) == code


@pytest.mark.parametrize("data", ["0127", "0178797a", "01" + "ff" * 40])
def test_a_close_with_a_body_of_another_length_counts_with_code_0(data: str) -> None:
    raw = bytes.fromhex(data)
    assert decode_control(raw, 0, len(raw)) == 0


@pytest.mark.parametrize("data", ["", "00", "02", "020007", "ff01"])
def test_another_subtype_is_ignored(data: str) -> None:
    raw = bytes.fromhex(data)
    assert decode_control(raw, 0, len(raw)) == IGNORED
