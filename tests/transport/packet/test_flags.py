from __future__ import annotations

from phantom.transport.packet import flags


def test_the_words_of_section_10_4() -> None:
    words = {
        "DATA": 0x0021,
        "DATA_FIN": 0x0025,
        "UNRELIABLE_WORD": 0x0028,
        "ACK_WORD": 0x0022,
        "WINDOW_WORD": 0x0820,
        "COALESCED_WORD": 0x0428,
        "PING": 0x1020,
        "PONG": 0x1022,
        "CHALLENGE": 0x0220,
        "ATTACH_UDP": 0x2220,
        "RESPONSE": 0x0222,
        "CLOSE": 0x20A0,
        "CLOSE_V1": 0x00A0,
        "COVER_WORD": 0x6020,
    }
    assert {name: getattr(flags, name) for name in words} == words


def test_the_bits_are_distinct_and_the_reserved_one_is_none_of_them() -> None:
    bits = [
        flags.RELIABLE,
        flags.ACK,
        flags.FIN,
        flags.UNRELIABLE,
        flags.PRIORITY,
        flags.ENCRYPTED,
        flags.COMPRESSED,
        flags.CONTROL,
        flags.REKEY,
        flags.PATH_VALIDATION,
        flags.COALESCED,
        flags.WINDOW_UPDATE,
        flags.KEEPALIVE,
        flags.PADDED,
        flags.COVER,
    ]
    assert bits == [1 << i for i in range(15)]
