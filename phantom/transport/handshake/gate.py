"""The gate in front of the expensive part of a handshake: cookies, proof of work, limits (wire-native §8).

Nothing here costs more than a few microseconds or keeps state for a source that has shown nothing: cookies and
challenges are MACs that the server recomputes. What is kept is bounded: the load count of the current minute,
violations (``security.reputation``), the nonces of accepted solutions, and the handshakes in flight.

One ``Gate`` serves all legs of a listener, or of a process. ``now`` is monotonic seconds, ``unix_now`` wall-clock
seconds; one event loop or thread at a time.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from phantom.crypto.compare import constant_time_equal
from phantom.crypto.digests import keyed_hmac
from phantom.crypto.kdf import blake3_keyed, hour_secret
from phantom.crypto.pow import leading_zero_bits
from phantom.crypto.rng import SYSTEM_RNG
from phantom.crypto.wipe import wipe
from phantom.errors import ClockError, ConfigError, InternalError
from phantom.limits import (
    COOKIE_BUCKET,
    COOKIE_INFLIGHT_SHARE,
    COOKIE_TIER,
    LOAD_TIERS,
    LOAD_WINDOW,
    MAX_CLIENT_POW_DIFFICULTY,
    MAX_INFLIGHT_HANDSHAKES,
    MAX_INFLIGHT_PER_SOURCE,
    POW_FRESHNESS,
    POW_MIN_TIER,
    SECRET_ROTATION,
    SPENT_POW_MAX,
)
from phantom.security.reputation import Reputation, source_key
from phantom.transport.handshake.messages import HelloRetryRequest, PowChallenge, PowSolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phantom.crypto.rng import RngProvider

__all__ = ["NO_ADDRESS", "Demand", "Gate", "GateCounters", "PowVerdict", "Source", "client_id"]

NO_ADDRESS: Final = "embedded"
MASTER_SECRET_LEN: Final = 32
_COOKIE_MAC_LEN: Final = 24
_SALT_LEN: Final = 8
_POW_MAC_LEN: Final = 16
_BUCKETS_PER_HOUR: Final = SECRET_ROTATION // COOKIE_BUCKET
_HOURS_KEPT: Final = 2  # the current one and the one before: every cookie and challenge that can be valid
_U64BE: Final = struct.Struct(">Q")
_U64LE: Final = struct.Struct("<Q")


def client_id(address: str) -> str:
    """The text that stands for a source address in every MAC and limit (wire-native §8.2).

    Dotted quad for IPv4 and for IPv4-mapped IPv6, RFC 5952 for the rest of IPv6, without zone and port. Whatever is
    no IP address (embedded, in-memory and unix-socket legs) is ``embedded``.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return NO_ADDRESS
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return str(ip)


class Source:
    """Where a leg comes from. ``client_id`` is normalised (see ``client_id``); ``proves_address`` is False on UDP and
    KCP, whose source addresses anyone can forge; ``key`` names the source in limits per source. Immutable by custom.
    """

    __slots__ = ("client_id", "key", "octets", "proves_address")

    def __init__(self, client_id: str, proves_address: bool = True) -> None:
        self.client_id = client_id
        self.proves_address = proves_address
        self.key = source_key(client_id)
        self.octets = client_id.encode()

    def __repr__(self) -> str:
        return f"Source({self.client_id!r}, proves_address={self.proves_address})"


class Demand(NamedTuple):
    """What a hello must show, by the counts before it: leading zero bits of work (0 = none), and whether a cookie."""

    difficulty: int
    cookie: bool


class PowVerdict(enum.Enum):
    """What became of a proof of work (wire-native §8.5)."""

    ACCEPTED = enum.auto()  # or none is demanded
    MISSING = enum.auto()
    UNUSABLE = enum.auto()  # genuine, but stale, spent, or short of a difficulty raised since: no violation
    FORGED = enum.auto()  # a nonce that this server never gave out, or no work at all: a violation


class GateCounters:
    """Plain counts for metrics. The two of proof of work are by demanded difficulty."""

    __slots__ = ("cookies_issued", "cookies_mismatch", "cookies_ok", "pow_rejected", "pow_solved")

    def __init__(self) -> None:
        self.cookies_issued = 0
        self.cookies_ok = 0
        self.cookies_mismatch = 0
        self.pow_solved: dict[int, int] = {}
        self.pow_rejected: dict[int, int] = {}


class _Hour:
    """The secret of one hour, and HMAC-SHA-256 already keyed with it: a cookie check copies that state."""

    __slots__ = ("mac", "secret")

    def __init__(self, master: bytes | bytearray, hour: int) -> None:
        self.secret = hour_secret(master, hour)
        self.mac = keyed_hmac(self.secret)


class Gate:
    """Cookies, proof of work, load, reputation and in-flight limits of a listener (wire-native §§8.1 to 8.7).

    ``master_secret``: 32 bytes; processes that share it accept each other's cookies. ``cookie``: ``auto`` demands one
    on address-proving legs only under load, after a violation or when many handshakes are in flight; ``always``
    always. UDP and KCP always do. ``load_tiers``: pairs (counted hellos a minute from which on, difficulty), rising.
    ``session_room(source)`` says whether one more session fits under the listener's caps. ``ConfigError`` on anything
    out of range. ``counters`` may be read at any time.
    """

    def __init__(
        self,
        master_secret: bytes | bytearray,
        *,
        cookie: Literal["auto", "always"] = "auto",
        load_tiers: Sequence[tuple[int, int]] = LOAD_TIERS,
        load_window: float = LOAD_WINDOW,
        cookie_tier: int = COOKIE_TIER,
        cookie_inflight_share: float = COOKIE_INFLIGHT_SHARE,
        max_inflight: int = MAX_INFLIGHT_HANDSHAKES,
        max_inflight_per_source: int = MAX_INFLIGHT_PER_SOURCE,
        spent_pow_max: int = SPENT_POW_MAX,
        reputation: Reputation | None = None,
        session_room: Callable[[Source], bool] = lambda source: True,
        rng: RngProvider = SYSTEM_RNG,
    ) -> None:
        if len(master_secret) != MASTER_SECRET_LEN:
            raise ConfigError(f"the cookie secret has {len(master_secret)} bytes; it must have {MASTER_SECRET_LEN}")
        if cookie not in ("auto", "always"):
            raise ConfigError(f"cookie is {cookie!r}; it must be 'auto' or 'always'")
        tiers = tuple(load_tiers)
        if list(tiers) != sorted(tiers) or any(not 0 <= bits <= MAX_CLIENT_POW_DIFFICULTY for _, bits in tiers):
            raise ConfigError(f"load_tiers must rise and demand at most {MAX_CLIENT_POW_DIFFICULTY} bits")
        self.counters = GateCounters()
        self.reputation = reputation if reputation is not None else Reputation()
        self.session_room = session_room
        self._master = bytearray(master_secret)
        self._rng = rng
        self._cookie_always = cookie == "always"
        self._cookie_tier = cookie_tier
        self._cookie_inflight = cookie_inflight_share * max_inflight
        self._tiers = tiers
        # Who worked for any challenge of this server has at least the bits of its lowest tier.
        self._pow_min = min([POW_MIN_TIER, *(bits for _, bits in tiers if bits)])
        self._load_window = load_window
        self._load_start = float("-inf")
        self._load_count = 0
        self._hours: dict[int, _Hour] = {}
        self._spent: dict[bytes, int] = {}
        self._spent_max = spent_pow_max
        self._inflight = 0
        self._inflight_by_source: dict[str, int] = {}
        self._max_inflight = max_inflight
        self._max_inflight_per_source = max_inflight_per_source

    # --- load and demand (§8.3, §8.4) ---------------------------------------------------------------------------------

    def count_hello(self, now: float) -> None:
        """Count one hello of the current minute; the first one after a minute has passed starts the next."""
        if now - self._load_start >= self._load_window:
            self._load_start = now
            self._load_count = 0
        self._load_count += 1

    def load_tier(self, now: float) -> int:
        """The difficulty that the load of the current minute demands of everyone."""
        count = self._load_count if now - self._load_start < self._load_window else 0
        tier = 0
        for threshold, bits in self._tiers:
            if count < threshold:
                break
            tier = bits
        return tier

    def demand(self, source: Source, now: float) -> Demand:
        """What the next hello of a source must show. Ask before counting that hello."""
        tier = self.load_tier(now)
        term = self.reputation.difficulty(source.key, now)
        cookie = (
            not source.proves_address
            or self._cookie_always
            or tier >= self._cookie_tier
            or term > 0
            or self._inflight > self._cookie_inflight
        )
        return Demand(max(tier, term), cookie)

    # --- cookies (§8.2) -----------------------------------------------------------------------------------------------

    def issue_cookie(self, source: Source, unix_now: float) -> bytes:
        """A fresh cookie, 32 bytes: bucket u64be and 24 bytes of MAC."""
        self.counters.cookies_issued += 1
        bucket = _U64BE.pack(_seconds(unix_now) // COOKIE_BUCKET)
        return bucket + self._cookie_mac(source, bucket)

    def check_cookie(self, source: Source, cookie: bytes, unix_now: float) -> bool:
        """Whether a presented cookie (32 bytes) belongs to the source and to this bucket or the one before: one MAC."""
        bucket = cookie[: _U64BE.size]
        age = _seconds(unix_now) // COOKIE_BUCKET - _U64BE.unpack(bucket)[0]
        valid = 0 <= age <= 1 and constant_time_equal(self._cookie_mac(source, bucket), cookie[_U64BE.size :])
        if valid:
            self.counters.cookies_ok += 1
        else:
            self.counters.cookies_mismatch += 1
        return valid

    def _cookie_mac(self, source: Source, bucket: bytes) -> bytes:
        mac = self._hour(_U64BE.unpack(bucket)[0] // _BUCKETS_PER_HOUR).mac.copy()
        mac.update(source.octets + bucket)
        return mac.finalize()[:_COOKIE_MAC_LEN]

    def _hour(self, hour: int) -> _Hour:
        found = self._hours.get(hour)
        if found is None:
            if not self._master:
                raise InternalError("the gate is closed")
            if len(self._hours) == _HOURS_KEPT:
                wipe(self._hours.pop(min(self._hours)).secret)
            found = self._hours[hour] = _Hour(self._master, hour)
        return found

    # --- proof of work (§8.5) -----------------------------------------------------------------------------------------

    def issue_challenge(
        self, source: Source, difficulty: int, unix_now: float, salt: bytes | None = None
    ) -> PowChallenge:
        """A fresh challenge; its nonce is ts u64le, 8 bytes of salt and 16 bytes of MAC."""
        seconds = _seconds(unix_now)
        head = _U64LE.pack(seconds) + (salt if salt is not None else self._rng.fill_bytes(_SALT_LEN))
        return PowChallenge(head + self._pow_mac(source, head, seconds // SECRET_ROTATION), difficulty)

    def check_pow(self, source: Source, solution: PowSolution | None, difficulty: int, unix_now: float) -> PowVerdict:
        """Judge a solution by the currently demanded difficulty. It stays unspent until ``spend``."""
        if not difficulty:
            return PowVerdict.ACCEPTED
        if solution is None:
            return PowVerdict.MISSING
        verdict = self._judge(source, solution, difficulty, _seconds(unix_now))
        if verdict is not PowVerdict.ACCEPTED:
            rejected = self.counters.pow_rejected
            rejected[difficulty] = rejected.get(difficulty, 0) + 1
        return verdict

    def spend(self, solution: PowSolution, difficulty: int, unix_now: float) -> None:
        """Remember the nonce of a solution with which a hello passed the whole gate: it is good once."""
        solved = self.counters.pow_solved
        solved[difficulty] = solved.get(difficulty, 0) + 1
        seconds = _seconds(unix_now)
        spent = self._spent
        while spent:
            oldest = next(iter(spent))
            if len(spent) < self._spent_max and spent[oldest] >= seconds:
                break
            del spent[oldest]
        spent[solution.nonce] = seconds + POW_FRESHNESS

    def _judge(self, source: Source, solution: PowSolution, difficulty: int, seconds: int) -> PowVerdict:
        nonce = solution.nonce
        head = nonce[:-_POW_MAC_LEN]
        (ts,) = _U64LE.unpack_from(nonce)
        # The hour of the time stamp names the secret: one MAC, as with the bucket of a cookie.
        hours = seconds // SECRET_ROTATION - ts // SECRET_ROTATION
        if not 0 <= hours <= 1:
            return PowVerdict.FORGED
        if not constant_time_equal(self._pow_mac(source, head, ts // SECRET_ROTATION), nonce[-_POW_MAC_LEN:]):
            return PowVerdict.FORGED
        bits = leading_zero_bits(nonce, solution.solution)
        if bits < min(self._pow_min, difficulty):
            return PowVerdict.FORGED
        fresh = seconds - POW_FRESHNESS <= ts <= seconds
        return PowVerdict.ACCEPTED if fresh and bits >= difficulty and nonce not in self._spent else PowVerdict.UNUSABLE

    def _pow_mac(self, source: Source, head: bytes, hour: int) -> bytes:
        return blake3_keyed(self._hour(hour).secret, head + source.octets)[:_POW_MAC_LEN]

    # --- the answer (§8.3) --------------------------------------------------------------------------------------------

    def retry(
        self, source: Source, demand: Demand, *, cookie_ok: bool, pow_ok: bool, unix_now: float
    ) -> HelloRetryRequest:
        """The reply to a hello that did not pass: what it lacks, each part fresh."""
        return HelloRetryRequest(
            None if pow_ok else self.issue_challenge(source, demand.difficulty, unix_now),
            None if cookie_ok else self.issue_cookie(source, unix_now),
        )

    # --- handshakes in flight (§8.7) ----------------------------------------------------------------------------------

    @property
    def inflight(self) -> int:
        """Handshakes that hold a slot."""
        return self._inflight

    def enter(self, source: Source) -> bool:
        """Take a slot for a handshake; False when the listener or the source is at its limit."""
        mine = self._inflight_by_source.get(source.key, 0)
        if self._inflight >= self._max_inflight or mine >= self._max_inflight_per_source:
            return False
        self._inflight += 1
        self._inflight_by_source[source.key] = mine + 1
        return True

    def leave(self, source: Source) -> None:
        """Give back a slot that ``enter`` granted."""
        self._inflight -= 1
        mine = self._inflight_by_source.pop(source.key) - 1
        if mine:
            self._inflight_by_source[source.key] = mine

    def close(self) -> None:
        """Wipe the secrets. The gate is unusable afterwards."""
        wipe(self._master, *(hour.secret for hour in self._hours.values()))
        self._master.clear()
        self._hours.clear()


def _seconds(unix_now: float) -> int:
    if unix_now < 0:
        raise ClockError
    return int(unix_now)
