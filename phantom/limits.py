"""Every cap, timeout and threshold of the protocol, with its unit (wire-native §25: names and values of its table).

Wire values are part of the protocol; the others are defaults that may be configured, or lowered in tests.
"""

from __future__ import annotations

from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB

# --- wire images (bytes) --------------------------------------------------------------------------------------------
VERSION_1: Final = 1
VERSION_2: Final = 2
VERSION_3: Final = 3
V1_HEADER_LEN: Final = 42
V2_HEADER_LEN: Final = 45
AEAD_TAG_LEN: Final = 16
AEAD_NONCE_LEN: Final = 12
AEAD_KEY_LEN: Final = 32
NONCE_PREFIX_LEN: Final = 4
SESSION_ID_LEN: Final = 32
MAX_EXTENSIONS: Final = 1024
X25519_LEN: Final = 32
ML_KEM_EK_LEN: Final = 1184
ML_KEM_CT_LEN: Final = 1088
ML_KEM_SEED_LEN: Final = 64
ED25519_PK_LEN: Final = 32
ED25519_SIG_LEN: Final = 64
ML_DSA_PK_LEN: Final = 1952
ML_DSA_SIG_LEN: Final = 3309
KEY_PACKAGE_LEN: Final = 1220
CIPHERTEXT_LEN: Final = 1124
VERIFYING_KEY_LEN: Final = 1984  # flat form; 1988 encoded
SIGNATURE_LEN: Final = 3373  # flat form; 3377 encoded
SIGNING_SEED_LEN: Final = 64
EARLY_DATA_MAX_LEN: Final = 16384

# --- handshake ------------------------------------------------------------------------------------------------------
COOKIE_LEN: Final = 32
COOKIE_BUCKET: Final = 300  # s
SECRET_ROTATION: Final = 3600  # s
POW_FRESHNESS: Final = 120  # s
POW_MIN_TIER: Final = 4  # leading zero bits of the lowest positive tier
MAX_CLIENT_POW_DIFFICULTY: Final = 24
MAX_SOLVE_ITERATIONS: Final = 2**32
LOAD_TIERS: Final = (
    (500, 4),
    (2000, 8),
    (6000, 12),
    (15000, 16),
)  # (counted hellos a minute from which on, difficulty)
LOAD_WINDOW: Final = 60.0  # s
REPUTATION_BASE: Final = 8
REPUTATION_MAX: Final = 16
REPUTATION_WINDOW: Final = 60.0  # s
REPUTATION_MAX_ENTRIES: Final = 100_000
COOKIE_TIER: Final = 4  # load tier from which on cookie = auto demands one
COOKIE_INFLIGHT_SHARE: Final = 0.25  # of MAX_INFLIGHT_HANDSHAKES
SPENT_POW_MAX: Final = 65536
MAX_RETRY_ROUNDS: Final = 3
HANDSHAKE_READ_TIMEOUT: Final = 5.0  # s
HANDSHAKE_DEADLINE: Final = 10.0  # s
CONNECT_TIMEOUT: Final = 20.0  # s, the whole of connect()
TCP_CONNECT_TIMEOUT: Final = 10.0  # s
MAX_INFLIGHT_HANDSHAKES: Final = 1024
MAX_INFLIGHT_PER_SOURCE: Final = 32
OPTIONAL_AUTH_WAIT: Final = 1.0  # s
PRE_HANDSHAKE_QUEUE_CAP: Final = 1 * MiB

# --- frames on byte pipes -------------------------------------------------------------------------------------------
LENGTH_PREFIX: Final = 4
HANDSHAKE_FRAME_CAP: Final = 64 * KiB
ESTABLISHED_FRAME_CAP: Final = 4 * MiB
ABSOLUTE_FRAME_CAP: Final = 16 * MiB
MAX_EMPTY_FRAMES: Final = 64  # in a row
MAX_WEBSOCKET_TEXTS: Final = 64  # text messages in a row
UPGRADE_CAP: Final = 8192  # bytes of an HTTP request or answer that begins a WebSocket
UPGRADE_HEADERS: Final = 64  # lines in it
FAKETLS_CHUNK: Final = 16384  # bytes of the framed stream in one record
FAKETLS_MAX_RECORD: Final = 16640  # bytes of a record behind its header
FAKETLS_MAX_EMPTY: Final = 64  # records without content, in a row
FAKETLS_MAX_RECORDS: Final = 1 << 48  # in one direction
FAKETLS_HELLO_TIMEOUT: Final = 5.0  # s

# --- packet protection ----------------------------------------------------------------------------------------------
SEQ_REKEY_WATERMARK: Final = 2**31
REKEY_SOFT_LIMIT: Final = 2**32  # seals
REKEY_SOFT_BYTES: Final = 2**40
AEAD_MAX_INVOCATIONS: Final = 2**48
AEAD_MAX_FORGERIES: Final = 2**36
MAX_REKEY_CATCHUP: Final = 16  # epochs
CATCHUP_RATE: Final = 10  # candidates of more than one step, a second
MAX_EPOCH: Final = 255
REKEY_GRACE_MIN: Final = 0.2  # s; grace = clamp(3 SRTT, min, max)
REKEY_GRACE_MAX: Final = 2.0  # s
REPLAY_WINDOW_BITS: Final = 1024
MAX_REPLAY_STREAMS: Final = 1024
MAX_REPLAY_WINDOWS: Final = 4096
V1_MAX_CONSECUTIVE_FAILURES: Final = 32

# --- streams, flow control, memory ----------------------------------------------------------------------------------
INITIAL_STREAM_WINDOW: Final = 64 * KiB
FIRST_WINDOW: Final = 1 * MiB
MAX_RECV_WINDOW: Final = 16 * MiB  # on byte pipes
MAX_RECV_WINDOW_DATAGRAM: Final = 32 * MiB  # in a session with a UDP or KCP path
RECV_WINDOW_CEILING: Final = 64 * MiB  # largest configurable one
SESSION_RECV_WINDOW: Final = 64 * MiB
MAX_SEND_WINDOW: Final = 64 * MiB
WINDOW_UPDATE_MIN: Final = 32 * KiB
RECV_MEMORY: Final = 256 * MiB  # per process, at most a quarter of its memory limit
RECV_MEMORY_PATIENCE: Final = 5.0  # s
ITEM_OVERHEAD: Final = 64
RECV_BACKLOG_CAP: Final = 1 * MiB
SEND_BUFFER_CAP: Final = 4 * MiB
MAX_MESSAGE: Final = 16 * MiB
MAX_MESSAGE_CEILING: Final = 1024 * MiB
MAX_PENDING: Final = 32768  # segments
MIN_PENDING: Final = 32
MAX_PENDING_BYTES: Final = 32 * MiB
MAX_REORDER_SEGMENTS: Final = 32768
MAX_REORDER_BYTES: Final = 32 * MiB
MAX_SACK_RANGES: Final = 32
MAX_COALESCED: Final = 256
MAX_STREAMS: Final = 256  # each way, per opener
STREAM_TOMBSTONE: Final = 60.0  # s
STREAM_READ_MOST: Final = 256 * KiB  # one read of a stream
CONTROL_MESSAGE_MAX: Final = 16384  # type and body
BULK_CHUNK: Final = 64 * KiB
BULK_CHUNK_MIN: Final = 1 * KiB
BULK_CHUNK_MAX: Final = 1 * MiB
CHUNK_SLACK: Final = 64  # length prefixes of stream 1 above bulk_chunk
SEGMENT_BUDGET_UDP: Final = 1126
SEGMENT_BUDGET_KCP: Final = 16384
SEGMENT_BUDGET_EMBEDDED: Final = 1024  # min(this, N - 73)
BUNDLE_UDP: Final = 1130  # plaintext of one COALESCED packet, and of the largest unreliable one
BUNDLE_KCP: Final = 1200
BUNDLE_PIPE: Final = 65536
BUNDLE_DELAY: Final = 0.0005  # s after the first entry, at the latest
EMBEDDED_BUFFER: Final = 16384  # N by default
EMBEDDED_BUFFER_MIN: Final = 8192

# --- acknowledgements and loss --------------------------------------------------------------------------------------
MAX_ACK_DELAY: Final = 0.025  # s
ACK_EVERY_PIPE: Final = 16  # segments
ACK_EVERY_DATAGRAM: Final = 2
INITIAL_SRTT: Final = 0.150  # s, placeholder until the first sample
INITIAL_SRTT_KCP: Final = 0.050
INITIAL_MIN_RTT: Final = 0.100  # s, placeholder until the first sample
RTO_INITIAL_PIPE: Final = 3.0  # s
RTO_FLOOR_PIPE: Final = 3.0  # s
RTO_INITIAL_UDP: Final = 1.0  # s
RTO_FLOOR_UDP: Final = 0.2  # s
LOSS_LATER: Final = 3  # later transmissions acknowledged
LOSS_TIME: Final = 9 / 8  # of max(SRTT, latest RTT), with one later transmission acknowledged
RTO_CEILING: Final = 60.0  # s
RTO_MAX_BACKOFF: Final = 6  # doublings
PTO_FLOOR: Final = 0.2  # s
MIN_CWND: Final = 4 * 1400
BANDWIDTH_WINDOW: Final = 10.0  # s, of the bandwidth maximum and the round-trip minimum
STARTUP_GROWTH: Final = 1.25  # a round with less growth counts as full
STARTUP_ROUNDS: Final = 3
PROBE_RTT_INTERVAL: Final = 10.0  # s
PROBE_RTT_TIME: Final = 0.2  # s
PACER_FLOOR: Final = 1024  # bytes/s
PACER_BUCKET: Final = 64 * KiB
PACER_SAMPLES: Final = 10  # delivery-rate samples before the pacer limits anything
PACER_MIN_WAIT: Final = 0.0005  # s, what a timer is worth
PACER_MAX_WAIT: Final = 0.05  # s
PACER_BURST: Final = 0.002  # s of sending that is worth a wake-up
PTO_COUNT: Final = 5
MAX_SHAPED_WIRE_UDP: Final = 1184
MAX_SHAPED_WIRE_PIPE: Final = 65536

PATH_CHALLENGE_LEN: Final = 32
SUSPENDED_PING_MAX: Final = 5.0  # s between PINGs on a Suspended path
MIGRATION_IDLE: Final = 30.0  # s without a Validated path, then the session is Dead

# --- session life ---------------------------------------------------------------------------------------------------
KEEPALIVE_INTERVAL: Final = 15.0  # s
KEEPALIVE_MAX_DATAGRAM: Final = 20.0  # s on UDP and KCP, whatever is configured
REST_AFTER: Final = 1.0  # s of silence, then an idle session lets go of its cipher objects (local)
SILENCE_FLOOR_PIPE: Final = 10.0  # s, while another path is Validated
SILENCE_FLOOR_PIPE_ONLY_PATH: Final = 30.0  # s
SILENCE_FLOOR_DATAGRAM: Final = 2.0  # s on UDP and KCP
SILENCE_FLOOR_EMBEDDED: Final = 60.0  # s
WRITE_STALL_TIMEOUT: Final = 30.0  # s
CLOSE_COPIES: Final = 3
CLOSE_SPACING: Final = 0.02  # s on UDP, or a quarter of SRTT if that is less
CLOSE_FLUSH_TIMEOUT: Final = 5.0  # s without a newly acknowledged byte
DRAIN_MIN: Final = 0.2  # s; draining = clamp(3 SRTT, min, max)
DRAIN_MAX: Final = 0.6  # s
LINGER: Final = 0.6  # s, read and discard after the write side was shut down

# --- legs -----------------------------------------------------------------------------------------------------------
TCP_BACKLOG: Final = 1024
TCP_NOTSENT_LOWAT: Final = 256 * KiB
LEG_QUEUE_CAP: Final = 512 * KiB
SEND_BATCH: Final = 256 * KiB
READ_WINDOW: Final = 1 * MiB
ACCEPT_QUEUE: Final = 1024
MAX_SESSIONS: Final = 1024
MAX_SESSIONS_PER_SOURCE: Final = 64
SHUTDOWN_GRACE: Final = 10.0  # s, sessions that still owe data when a listener or server shuts down
EVENT_QUEUE: Final = 256

# --- sidecar (local; surface §15) -----------------------------------------------------------------------------------
SIDECAR_TOKEN_LEN: Final = 32
EXPORT_LENGTH: Final = 32  # bytes of keying material, unless asked otherwise
SIDECAR_MESSAGE_CAP: Final = 1 * MiB  # data in one gRPC message
SIDECAR_CHUNK: Final = 256 * KiB  # data in one frame of Exchange; fixed costs dominate below
SIDECAR_CHUNK_MIN: Final = 64 * KiB  # no smaller frame while more is queued
SIDECAR_WINDOW: Final = 4 * MiB  # credit of Exchange in each direction, and messages kept until acknowledged
SIDECAR_STREAM_WINDOW: Final = 1 * MiB  # the same of one stream: there may be hundreds
SIDECAR_STREAM_WINDOW_MIN: Final = 320 * KiB  # a piece that was read, and a little
SIDECAR_STOP_GRACE: Final = 2.0  # s, calls in flight when the sidecar stops
LEASE_GRACE: Final = 10.0  # s, from the end of its stream to the end of a lease
LEASE_GRACE_MAX: Final = 60.0  # s
LEASE_CLOSE_TIMEOUT: Final = 5.0  # s, flushing what the sessions of an ended lease owe
MAX_LEASES: Final = 64
MAX_LEASE_SESSIONS: Final = 256
MAX_LEASE_LISTENERS: Final = 16
MAX_LEASE_KEYS: Final = 64
MAX_LEASE_STREAMS: Final = 2048

# --- event log (local) ----------------------------------------------------------------------------------------------
QLOG_BUFFER: Final = 1 * MiB  # of one session's event log that waits for the disk

# --- phantom forward (docs/protocol/FORWARD.md) --------------------------------------------------------------------
FORWARD_NAME_MAX: Final = 64
FORWARD_CONNECTIONS: Final = 2048  # of one server or client, all sessions together
FORWARD_OPENING_TIMEOUT: Final = 10.0  # s until a stream has named its target
FORWARD_CONNECT_TIMEOUT: Final = 10.0  # s for the target to accept
FORWARD_ANSWER_TIMEOUT: Final = 30.0  # s until the server has answered the opening message
FORWARD_PATIENCE: Final = 15.0  # s that a connection waits for a session
FORWARD_BACKOFF_FIRST: Final = 0.25  # s before the second attempt at a session; doubles
FORWARD_BACKOFF_MOST: Final = 10.0
FORWARD_REST: Final = 5.0  # s for what an ended session had delivered to reach the sockets
