"""The constants of wire-native §25, as far as they are built: the numbers of its table, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from phantom import limits

MiB = 1024 * 1024
TABLE: dict[str, Any] = {
    "V1_HEADER_LEN": 42,
    "V2_HEADER_LEN": 45,
    "AEAD_TAG_LEN": 16,
    "MAX_EXTENSIONS": 1024,
    "EARLY_DATA_MAX_LEN": 16384,
    "COOKIE_BUCKET": 300,
    "SECRET_ROTATION": 3600,
    "POW_FRESHNESS": 120,
    "MAX_CLIENT_POW_DIFFICULTY": 24,
    "MAX_SOLVE_ITERATIONS": 4294967296,
    "LOAD_TIERS": ((500, 4), (2000, 8), (6000, 12), (15000, 16)),
    "REPUTATION_BASE": 8,
    "REPUTATION_MAX": 16,
    "REPUTATION_WINDOW": 60,
    "REPUTATION_MAX_ENTRIES": 100000,
    "COOKIE_TIER": 4,
    "COOKIE_INFLIGHT_SHARE": 0.25,
    "SPENT_POW_MAX": 65536,
    "MAX_RETRY_ROUNDS": 3,
    "HANDSHAKE_READ_TIMEOUT": 5,
    "HANDSHAKE_DEADLINE": 10,
    "CONNECT_TIMEOUT": 20,
    "OPTIONAL_AUTH_WAIT": 1,
    "MIN_CWND": 5600,
    "STARTUP_GROWTH": 1.25,
    "STARTUP_ROUNDS": 3,
    "PROBE_RTT_INTERVAL": 10,
    "PROBE_RTT_TIME": 0.2,
    "BANDWIDTH_WINDOW": 10,
    "PACER_FLOOR": 1024,
    "PACER_BUCKET": 65536,
    "PACER_SAMPLES": 10,
    "PACER_MAX_WAIT": 0.05,
    "CONTROL_MESSAGE_MAX": 16384,
    "MAX_INFLIGHT_HANDSHAKES": 1024,
    "MAX_INFLIGHT_PER_SOURCE": 32,
    "HANDSHAKE_FRAME_CAP": 65536,
    "ESTABLISHED_FRAME_CAP": 4 * MiB,
    "ABSOLUTE_FRAME_CAP": 16 * MiB,
    "SEQ_REKEY_WATERMARK": 2147483648,
    "REKEY_SOFT_LIMIT": 4294967296,
    "REKEY_SOFT_BYTES": 1099511627776,
    "AEAD_MAX_INVOCATIONS": 281474976710656,
    "AEAD_MAX_FORGERIES": 68719476736,
    "MAX_REKEY_CATCHUP": 16,
    "CATCHUP_RATE": 10,
    "MAX_EPOCH": 255,
    "REKEY_GRACE_MIN": 0.2,
    "REKEY_GRACE_MAX": 2.0,
    "REPLAY_WINDOW_BITS": 1024,
    "MAX_REPLAY_STREAMS": 1024,
    "MAX_REPLAY_WINDOWS": 4096,
    "V1_MAX_CONSECUTIVE_FAILURES": 32,
    "INITIAL_STREAM_WINDOW": 65536,
    "MAX_SEND_WINDOW": 64 * MiB,
    "FIRST_WINDOW": MiB,
    "MAX_RECV_WINDOW": 16 * MiB,
    "RECV_WINDOW_CEILING": 64 * MiB,
    "SESSION_RECV_WINDOW": 64 * MiB,
    "RECV_MEMORY": 256 * MiB,
    "RECV_MEMORY_PATIENCE": 5,
    "ITEM_OVERHEAD": 64,
    "SEND_BUFFER_CAP": 4 * MiB,
    "WINDOW_UPDATE_MIN": 32768,
    "MAX_MESSAGE": 16 * MiB,
    "MAX_MESSAGE_CEILING": 1024 * MiB,
    "MAX_STREAMS": 256,
    "MAX_PENDING": 32768,
    "MIN_PENDING": 32,
    "MAX_PENDING_BYTES": 32 * MiB,
    "MAX_REORDER_SEGMENTS": 32768,
    "MAX_REORDER_BYTES": 32 * MiB,
    "MAX_SACK_RANGES": 32,
    "MAX_COALESCED": 256,
    "MAX_ACK_DELAY": 0.025,
    "ACK_EVERY_PIPE": 16,
    "RTO_INITIAL_PIPE": 3,
    "RTO_FLOOR_PIPE": 3,
    "RTO_CEILING": 60,
    "RTO_MAX_BACKOFF": 6,
    "INITIAL_SRTT": 0.15,
    "INITIAL_MIN_RTT": 0.1,
    "CLOSE_COPIES": 3,
    "DRAIN_MIN": 0.2,
    "DRAIN_MAX": 0.6,
    "CLOSE_FLUSH_TIMEOUT": 5,
    "MAX_SHAPED_WIRE_UDP": 1184,
    "MAX_SHAPED_WIRE_PIPE": 65536,
    "KEEPALIVE_INTERVAL": 15,
    "PTO_FLOOR": 0.2,
    "PTO_COUNT": 5,
    "SILENCE_FLOOR_PIPE_ONLY_PATH": 30,
    "WRITE_STALL_TIMEOUT": 30,
    "PRE_HANDSHAKE_QUEUE_CAP": MiB,
    "RECV_BACKLOG_CAP": MiB,
    "BULK_CHUNK": 65536,
    "BULK_CHUNK_MIN": 1024,
    "BULK_CHUNK_MAX": MiB,
    "LEG_QUEUE_CAP": 512 * 1024,
    "TCP_NOTSENT_LOWAT": 256 * 1024,
}
ELSEWHERE: dict[str, Any] = {  # sizes and limits that §§2 to 4, 15, 21 and surface §4 give in their text
    "VERSION_1": 1,
    "VERSION_2": 2,
    "VERSION_3": 3,
    "AEAD_NONCE_LEN": 12,
    "AEAD_KEY_LEN": 32,
    "NONCE_PREFIX_LEN": 4,
    "SESSION_ID_LEN": 32,
    "X25519_LEN": 32,
    "ML_KEM_EK_LEN": 1184,
    "ML_KEM_CT_LEN": 1088,
    "ML_KEM_SEED_LEN": 64,
    "ED25519_PK_LEN": 32,
    "ED25519_SIG_LEN": 64,
    "ML_DSA_PK_LEN": 1952,
    "ML_DSA_SIG_LEN": 3309,
    "KEY_PACKAGE_LEN": 1220,
    "CIPHERTEXT_LEN": 1124,
    "VERIFYING_KEY_LEN": 1984,
    "SIGNATURE_LEN": 3373,
    "SIGNING_SEED_LEN": 64,
    "COOKIE_LEN": 32,
    "LOAD_WINDOW": 60,
    "POW_MIN_TIER": 4,
    "TCP_CONNECT_TIMEOUT": 10,
    "LENGTH_PREFIX": 4,
    "MAX_EMPTY_FRAMES": 64,
    "CHUNK_SLACK": 64,
    "LINGER": 0.6,
    "TCP_BACKLOG": 1024,
    "SEND_BATCH": 256 * 1024,
    "ACCEPT_QUEUE": 1024,
    "MAX_SESSIONS": 1024,
    "MAX_SESSIONS_PER_SOURCE": 64,
    "EVENT_QUEUE": 256,
}


@pytest.mark.parametrize(("name", "value"), [*TABLE.items(), *ELSEWHERE.items()])
def test_a_constant_has_the_value_of_the_specification(name: str, value: Any) -> None:
    assert getattr(limits, name) == value


def test_sizes_that_follow_from_others() -> None:
    assert limits.KEY_PACKAGE_LEN == limits.X25519_LEN + 4 + limits.ML_KEM_EK_LEN
    assert limits.CIPHERTEXT_LEN == limits.X25519_LEN + 4 + limits.ML_KEM_CT_LEN
    assert limits.VERIFYING_KEY_LEN == limits.ED25519_PK_LEN + limits.ML_DSA_PK_LEN
    assert limits.SIGNATURE_LEN == limits.ED25519_SIG_LEN + limits.ML_DSA_SIG_LEN
    assert limits.READ_WINDOW > limits.SEND_BATCH


def test_every_constant_is_a_plain_value() -> None:
    for name in dir(limits):
        if name.isupper():
            assert isinstance(getattr(limits, name), (int, float, tuple)), name
