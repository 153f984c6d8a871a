"""The part of qlog 0.3 that logs of sessions use, field by field, and a checker for it.

Written down from draft-ietf-quic-qlog-main-schema-03 and draft-ietf-quic-qlog-quic-events-03. ``?`` before a name: it
may be missing. A type is a Python type, a set of texts, a list of one type (an array of it), a dict (an object with
these fields and no others), or a function that checks a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Type = Any


def uint(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def number(value: object) -> bool:
    return type(value) in (int, float) and value >= 0  # type: ignore[operator]


def hexstring(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"([0-9a-f]{2})*", value) is not None


def ack_range(value: object) -> bool:
    return isinstance(value, list) and len(value) in (1, 2) and all(map(uint, value)) and value == sorted(value)


RAW = {"?length": uint, "?payload_length": uint}  # data is hex of the packet itself: never
PACKET_TYPES = {"initial", "handshake", "0RTT", "1RTT", "retry", "version_negotiation", "stateless_reset", "unknown"}
HEADER = {"packet_type": PACKET_TYPES, "?packet_number": uint}
CONNECTION_STATES = {
    "attempted",
    "peer_validated",
    "handshake_started",
    "early_write",
    "handshake_complete",
    "handshake_confirmed",
    "closing",
    "draining",
    "closed",
}
STREAM_STATES = {"idle", "open", "half_closed_local", "half_closed_remote", "closed"}
# A frame may have more fields ($QuicFrame); ours has segment_index.
FRAMES: dict[str, Type] = {
    "padding": {"?length": uint, "payload_length": uint},
    "ping": {"?length": uint, "?payload_length": uint},
    "ack": {"?ack_delay": number, "?acked_ranges": [ack_range]},
    "stream": {"stream_id": uint, "offset": uint, "length": uint, "?fin": bool, "?segment_index": uint},
    "max_stream_data": {"stream_id": uint, "maximum": uint},
    "path_challenge": {},
    "path_response": {},
    "connection_close": {"?error_space": {"transport", "application"}, "?raw_error_code": uint},
    "unknown": {"raw_frame_type": uint, "?raw_length": uint},
}


def frame(value: Any) -> bool:
    check({name: part for name, part in value.items() if name != "frame_type"}, FRAMES[value["frame_type"]], "frame")
    return True


EVENTS: dict[str, Type] = {
    "connectivity:connection_state_updated": {"?old": CONNECTION_STATES, "new": CONNECTION_STATES},
    "transport:packet_sent": {
        "header": HEADER,
        "?frames": [frame],
        "?raw": RAW,
        "?trigger": {"retransmit_reordered", "retransmit_timeout", "pto_probe", "retransmit_crypto"},
    },
    "transport:packet_received": {"header": HEADER, "?frames": [frame], "?raw": RAW, "?trigger": {"keys_available"}},
    "transport:packet_dropped": {
        "?header": HEADER,
        "?raw": RAW,
        "?trigger": {
            "key_unavailable",
            "unknown_connection_id",
            "header_parse_error",
            "payload_decrypt_error",
            "protocol_violation",
            "dos_prevention",
            "unsupported_version",
            "unexpected_packet",
            "unexpected_source_connection_id",
            "unexpected_version",
            "duplicate",
            "invalid_initial",
        },
    },
    "transport:stream_state_updated": {
        "stream_id": uint,
        "?stream_type": {"unidirectional", "bidirectional"},
        "?old": STREAM_STATES,
        "new": STREAM_STATES,
        "?stream_side": {"sending", "receiving"},
    },
    "security:key_updated": {
        "key_type": {"server_1rtt_secret", "client_1rtt_secret"},
        "?old": hexstring,
        "new": hexstring,
        "?generation": uint,
        "?trigger": {"tls", "remote_update", "local_update"},
    },
    "recovery:metrics_updated": {
        "?min_rtt": number,
        "?smoothed_rtt": number,
        "?latest_rtt": number,
        "?rtt_variance": number,
        "?pto_count": uint,
        "?congestion_window": uint,
        "?bytes_in_flight": uint,
        "?ssthresh": uint,
        "?packets_in_flight": uint,
        "?pacing_rate": uint,
    },
    "recovery:congestion_state_updated": {
        "?old": str,
        "new": str,
        "?trigger": {"persistent_congestion", "ECN"},
    },
    "recovery:packet_lost": {
        "?header": HEADER,
        "?frames": [frame],
        "?is_mtu_probe_packet": bool,
        "?trigger": {"reordering_threshold", "time_threshold", "pto_expired"},
    },
    "generic:info": {"message": str},
    "generic:warning": {"?code": uint, "?message": str},
}
HEAD: Type = {
    "qlog_version": {"0.3"},
    "qlog_format": {"JSON-SEQ"},
    "?title": str,
    "trace": {
        "?title": str,
        "vantage_point": {"?name": str, "type": {"client", "server"}},
        "common_fields": {
            "time_format": {"relative"},
            "reference_time": number,
            "protocol_type": [str],
            "group_id": str,
        },
    },
}


def check(value: Any, wanted: Type, where: str) -> None:
    """AssertionError, saying where ``value`` is not of the type ``wanted``."""
    if isinstance(wanted, dict):
        assert isinstance(value, dict), where
        known = {name.removeprefix("?") for name in wanted}
        assert set(value) <= known, f"{where}: {set(value) - known}"
        for name, part in wanted.items():
            bare = name.removeprefix("?")
            assert bare in value or name != bare, f"{where}: {bare} is missing"
            if bare in value:
                check(value[bare], part, f"{where}.{bare}")
    elif isinstance(wanted, list):
        assert isinstance(value, list), where
        for item in value:
            check(item, wanted[0], f"{where}[]")
    elif isinstance(wanted, set):
        assert value in wanted, f"{where}: {value!r}"
    elif isinstance(wanted, type):
        assert type(value) is wanted, f"{where}: {value!r}"
    else:
        test: Callable[[object], bool] = wanted
        assert test(value), f"{where}: {value!r}"


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON text sequence (RFC 7464): each between a separator and a line feed."""
    text = path.read_text("ascii")
    assert text.startswith("\x1e")
    assert text.endswith("\n")
    parts = text[1:].split("\x1e")
    assert all(part.endswith("\n") and part.count("\n") == 1 for part in parts)
    return [json.loads(part) for part in parts]


def read(path: Path) -> list[dict[str, Any]]:
    """The events of a file, after all of it was checked: header, field names, types, and times that only grow."""
    head, *events = records(path)
    check(head, HEAD, "head")
    assert path.read_text("ascii").find("qlog_format") < 256
    before = 0.0
    for event in events:
        assert {"time", "name", "data"} <= set(event) <= {"time", "name", "data", "path_id", "sequence"}, event
        assert number(event["time"])
        assert event["time"] >= before, "times only grow"
        before = event["time"]
        check(event["data"], EVENTS[event["name"]], event["name"])
    return events
