"""``PhantomConfig``: what may be configured, its defaults and its presets (surface §2).

Every field has an effect. Values are checked when the object is made; a bad one is a ConfigError that names the field.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from phantom import limits
from phantom.errors import ConfigError

__all__ = ["PhantomConfig"]

_SUITES: Final = ("auto", "aes-256-gcm", "chacha20-poly1305")
_PROVIDERS: Final = ("auto", "openssl", "pqcrypto", "browser")
_COOKIE: Final = ("auto", "always")
_PADDING: Final = ("none", "pade")
_VERSIONS: Final = frozenset({limits.VERSION_1, limits.VERSION_2})

# field -> (lowest, highest)
_SECONDS: Final[dict[str, tuple[float, float]]] = {
    "keepalive_interval": (1.0, 86400.0),
    "connect_timeout": (0.1, 3600.0),
    "handshake_timeout": (0.1, 3600.0),
    "close_timeout": (0.0, 86400.0),
    "silence_floor": (0.1, 3600.0),
    "jitter": (0.0, 1.0),
    "cover_interval": (0.0, 3600.0),
}
_COUNTS: Final[dict[str, tuple[int, int]]] = {
    "send_segments": (limits.MIN_PENDING, limits.MAX_PENDING),
    "recv_segments": (limits.MIN_PENDING, limits.MAX_REORDER_SEGMENTS),
    "bulk_chunk": (limits.BULK_CHUNK_MIN, limits.BULK_CHUNK_MAX),
    "frame_cap": (limits.HANDSHAKE_FRAME_CAP, limits.ABSOLUTE_FRAME_CAP),
    "max_message": (1, limits.MAX_MESSAGE_CEILING),
    "recv_window": (limits.INITIAL_STREAM_WINDOW, limits.RECV_WINDOW_CEILING),
    "session_recv_window": (limits.INITIAL_STREAM_WINDOW, 16 * limits.RECV_WINDOW_CEILING),
    "recv_memory": (limits.MiB, 1 << 40),
    "faketls_version": (0x0301, 0x0304),
    "max_sessions": (0, 1 << 20),
    "max_sessions_per_ip": (0, 1 << 20),
    "max_inflight_handshakes": (1, 1 << 16),
    "max_inflight_per_source": (1, 1 << 16),
}
_SNI: Final = re.compile(r"(?=.{1,253}\Z)LABEL(?:\.LABEL)*\Z".replace("LABEL", r"\w(?:[\w-]{0,61}\w)?"), re.ASCII)
_COVER_MIN: Final = 0.01  # s; more often it would be a flood
_MAY_BE_NONE: Final = frozenset({"keepalive_interval", "close_timeout", "recv_memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """Configuration of a client or a listener. Times in seconds, sizes in bytes; immutable, safe to share.

    Without a preset it equals wire-native §25. Raises ConfigError for a value out of its range.
    """

    keepalive_interval: float | None = limits.KEEPALIVE_INTERVAL
    """Idle time after which an encrypted ping is sent; None switches it off."""
    connect_timeout: float = limits.TCP_CONNECT_TIMEOUT
    """Opening the leg, before the handshake."""
    handshake_timeout: float = limits.HANDSHAKE_DEADLINE
    """The whole handshake, proof of work included."""
    close_timeout: float | None = None
    """Upper bound of an orderly close; None: it goes on while the peer acknowledges something every 5 s."""
    silence_floor: float = limits.SILENCE_FLOOR_PIPE_ONLY_PATH
    """Unanswered data and nothing heard for this long means that the connection is lost."""
    send_segments: int = limits.MAX_PENDING
    """Segments outstanding per stream."""
    recv_segments: int = limits.MAX_REORDER_SEGMENTS
    """Early segments kept per stream."""
    offer_version: int = limits.VERSION_2
    """Version that a client offers: 2; 1 only for servers that know no other, as it lacks most of what 2 has."""
    accept_versions: frozenset[int] = frozenset({limits.VERSION_2})
    """Versions that a listener accepts: 2 and, only by naming it, 1."""
    suite: str = "auto"
    """Cipher suite of what this side sends: auto (by CPU), aes-256-gcm, chacha20-poly1305."""
    provider: str = "auto"
    """Crypto provider: auto, openssl, pqcrypto, browser (Pyodide only)."""
    bulk_chunk: int = limits.BULK_CHUNK
    """Application bytes in one packet of a bulk write."""
    frame_cap: int = limits.ESTABLISHED_FRAME_CAP
    """Largest frame accepted from an established peer."""
    max_message: int = limits.MAX_MESSAGE
    """Largest message accepted. Peers rely on 16 MiB: set less on constrained devices only."""
    recv_window: int = limits.MAX_RECV_WINDOW
    """Ceiling of the auto-tuned receive window."""
    session_recv_window: int = limits.SESSION_RECV_WINDOW
    """What all streams of a session may hold granted and unread beyond their initial windows."""
    recv_memory: int | None = None
    """What peers can make this process hold; None: 256 MiB, at most a quarter of its memory limit."""
    padding: str = "none"
    """Sizes on the wire: none (as they are), pade (rounded up by at most 12 %)."""
    jitter: float = 0.0
    """Each packet waits a random time up to this before it leaves; 0: none does."""
    cover_interval: float = 0.0
    """A packet without content leaves when nothing else has for this long; 0: none does."""
    faketls_sni: str = "www.google.com"
    """Server name that a FakeTLS leg shows; both ends must have the same."""
    faketls_version: int = 0x0303
    """Version in the headers of its records; both ends must have the same."""
    max_sessions: int = limits.MAX_SESSIONS
    """Sessions of one listener; 0 switches the limit off."""
    max_sessions_per_ip: int = limits.MAX_SESSIONS_PER_SOURCE
    """Sessions of one source address (IPv6: /64); 0 switches the limit off."""
    max_inflight_handshakes: int = limits.MAX_INFLIGHT_HANDSHAKES
    """Handshakes in flight at one listener."""
    max_inflight_per_source: int = limits.MAX_INFLIGHT_PER_SOURCE
    """Handshakes in flight from one source."""
    cookie: str = "auto"
    """When a listener demands a cookie: auto (under load), always."""
    load_tiers: tuple[tuple[int, int], ...] = limits.LOAD_TIERS
    """(hellos a minute from which on, proof-of-work difficulty in bits), ascending."""
    qlog_dir: str | None = None
    """Folder for one event log (qlog) per session; None: PHANTOM_QLOG_DIR decides, and without it there are none."""

    def __post_init__(self) -> None:
        """Checks every field."""
        for name, bounds in _SECONDS.items():
            self._check(name, "a number of seconds", (int, float), bounds)
        for name, counts in _COUNTS.items():
            self._check(name, "a whole number", (int,), counts)
        for name, allowed in (
            ("suite", _SUITES),
            ("provider", _PROVIDERS),
            ("cookie", _COOKIE),
            ("padding", _PADDING),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.frame_cap < self.bulk_chunk + limits.CHUNK_SLACK + 73:
            raise ConfigError("frame_cap must hold a packet of bulk_chunk bytes")
        if self.qlog_dir is not None and (type(self.qlog_dir) is not str or not self.qlog_dir):
            raise ConfigError(f"qlog_dir must be the path of a folder, or None, not {self.qlog_dir!r}")
        if type(self.faketls_sni) is not str or not _SNI.match(self.faketls_sni):
            raise ConfigError(f"faketls_sni must be a host name such as www.example.org, not {self.faketls_sni!r}")
        if type(self.offer_version) is not int or self.offer_version not in _VERSIONS:
            raise ConfigError(f"offer_version must be 2, or 1 by choice, not {self.offer_version!r}")
        accepted = self.accept_versions
        if type(accepted) is not frozenset or not {limits.VERSION_2} <= accepted <= _VERSIONS:
            raise ConfigError(f"accept_versions must be a frozenset that holds 2 and may hold 1, not {accepted!r}")
        if 0.0 < self.cover_interval < _COVER_MIN:
            raise ConfigError(f"cover_interval must be 0 or at least {_COVER_MIN:g} s, not {self.cover_interval!r}")
        if not _are_tiers(self.load_tiers):
            raise ConfigError(
                "load_tiers must be (count, difficulty) pairs of whole numbers, ascending, difficulties at most 24"
            )

    def _check(self, name: str, what: str, kinds: tuple[type, ...], bounds: tuple[float, float]) -> None:
        value = getattr(self, name)
        if value is None and name in _MAY_BE_NONE:
            return
        low, high = bounds
        if type(value) not in kinds or not low <= value <= high:
            raise ConfigError(f"{name} must be {what} between {low:g} and {high:g}, not {value!r}")

    def replace(self, **changes: Any) -> PhantomConfig:
        """A copy with some fields changed; ConfigError for an unknown name or a bad value."""
        unknown = sorted(set(changes) - {field.name for field in fields(self)})
        if unknown:
            raise ConfigError(f"unknown configuration field: {', '.join(unknown)}")
        return replace(self, **changes)

    @classmethod
    def mobile(cls, **changes: Any) -> PhantomConfig:
        """Preset for phones: longer keepalive, smaller stores."""
        return cls(keepalive_interval=30.0, connect_timeout=5.0, send_segments=4096, recv_segments=8192).replace(
            **changes
        )

    @classmethod
    def server(cls, **changes: Any) -> PhantomConfig:
        """Preset of the reference server."""
        return cls(keepalive_interval=60.0, connect_timeout=2.0).replace(**changes)

    @classmethod
    def iot(cls, **changes: Any) -> PhantomConfig:
        """Preset for small devices."""
        return cls(keepalive_interval=120.0, connect_timeout=10.0, send_segments=32, recv_segments=256).replace(
            **changes
        )

    def effective_recv_memory(self) -> int:
        """``recv_memory``, or its default on this machine: min(256 MiB, a quarter of the memory limit)."""
        if self.recv_memory is not None:
            return self.recv_memory
        known = [limits.RECV_MEMORY]
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            limit = _number_in(Path(path))
            if limit is not None:
                known.append(limit // 4)
        return max(min(known), limits.MiB)

    def effective_qlog_dir(self) -> str | None:
        """``qlog_dir``, or what the environment variable PHANTOM_QLOG_DIR says; None: no event logs."""
        return self.qlog_dir or os.environ.get("PHANTOM_QLOG_DIR", "") or None


def _are_tiers(tiers: Any) -> bool:
    if not isinstance(tiers, tuple) or not all(isinstance(tier, tuple) and len(tier) == 2 for tier in tiers):
        return False
    if not all(type(number) is int and number >= 0 for tier in tiers for number in tier):
        return False
    return sorted(tiers) == list(tiers) and all(bits <= limits.MAX_CLIENT_POW_DIFFICULTY for _, bits in tiers)


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None
