from __future__ import annotations

from typing import Any

import pytest

from phantom.crypto.kdf import hour_secret
from phantom.crypto.pow import leading_zero_bits, solve
from phantom.errors import ClockError, ConfigError, InternalError
from phantom.limits import LOAD_TIERS
from phantom.security.reputation import Reputation
from phantom.transport.handshake import gate as module
from phantom.transport.handshake.gate import Demand, Gate, PowVerdict, Source, client_id
from phantom.transport.handshake.messages import PowChallenge, PowSolution
from tests.transport.handshake.support import MASTER, TCP, UDP, UNIX, ScriptedRng, flip, h, vectors

OTHER = Source("192.0.2.250")


def solved(challenge: PowChallenge, bits: int | None = None) -> PowSolution:
    """The lowest solution of at least ``bits`` (default: what is asked)."""
    found = solve(challenge.nonce, challenge.difficulty if bits is None else bits, 0, 1 << 20)
    assert found is not None
    return PowSolution(challenge.nonce, found)


def exactly(challenge: PowChallenge, bits: int) -> PowSolution:
    """A solution with exactly so many leading zero bits."""
    return PowSolution(
        challenge.nonce, next(i for i in range(1 << 20) if leading_zero_bits(challenge.nonce, i) == bits)
    )


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("::", "::"),
        ("embedded", "embedded"),
        ("", "embedded"),
        ("/run/phantom.sock", "embedded"),
        ("192.0.2.1:443", "embedded"),
        ("256.0.0.1", "embedded"),
    ],
)
def test_addresses_are_normalised(address: str, text: str) -> None:
    assert client_id(address) == text
    assert client_id(text) == text


def test_a_source_says_what_it_is() -> None:
    source = Source("2001:db8::1", proves_address=False)
    assert (source.key, source.octets) == ("2001:db8::/64", b"2001:db8::1")
    assert repr(source) == "Source('2001:db8::1', proves_address=False)"


# --- cookies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", vectors("cookie_pow", op="cookie"))
def test_cookies_are_as_recorded(entry: dict[str, Any]) -> None:
    given, expect = entry["input"], entry["expect"]
    gate = Gate(h(given["master"]))
    assert client_id(given["address"]) == expect["client_id"]
    source = Source(expect["client_id"])
    cookie = gate.issue_cookie(source, given["unix_seconds"])
    assert cookie.hex() == expect["cookie"]
    for moment in expect["valid_at"]:
        assert gate.check_cookie(source, cookie, moment)
    assert (gate.counters.cookies_issued, gate.counters.cookies_ok) == (1, len(expect["valid_at"]))


@pytest.mark.parametrize("entry", vectors("cookie_pow", "negative", op="cookie"))
def test_bad_cookies_are_refused(entry: dict[str, Any]) -> None:
    given = entry["input"]
    gate = Gate(h(given["master"]))
    assert not gate.check_cookie(Source(client_id(given["address"])), h(given["cookie"]), given["unix_seconds"])
    assert gate.counters.cookies_mismatch == 1


def test_a_cookie_of_another_process_with_the_same_secret_is_good() -> None:
    assert Gate(MASTER).check_cookie(TCP, Gate(MASTER).issue_cookie(TCP, UNIX), UNIX)
    assert not Gate(bytes(32)).check_cookie(TCP, Gate(MASTER).issue_cookie(TCP, UNIX), UNIX)


def test_hour_secrets_are_derived_once_and_old_ones_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytearray] = []
    real = hour_secret

    def recorded(master: bytes, hour: int) -> bytearray:
        made.append(real(master, hour))
        return made[-1]

    monkeypatch.setattr(module, "hour_secret", recorded)
    gate = Gate(MASTER)
    for hour in range(3):
        for moment in (0, 300, 3599):
            cookie = gate.issue_cookie(TCP, hour * 3600 + moment)
            assert gate.check_cookie(TCP, cookie, hour * 3600 + moment)
    assert len(made) == 3
    assert made[0] == bytes(32)
    assert made[1] != bytes(32)
    gate.close()
    assert made == [bytearray(32)] * 3


def test_a_closed_gate_makes_no_cookies() -> None:
    gate = Gate(MASTER)
    gate.close()
    with pytest.raises(InternalError):
        gate.issue_cookie(TCP, UNIX)


def test_a_clock_before_1970_is_an_error() -> None:
    gate = Gate(MASTER)
    with pytest.raises(ClockError):
        gate.issue_cookie(TCP, -1.0)
    with pytest.raises(ClockError):
        gate.check_cookie(TCP, bytes(32), -0.5)


# --- proof of work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", vectors("cookie_pow", op="pow"))
def test_challenges_are_as_recorded(entry: dict[str, Any]) -> None:
    given, expect = entry["input"], entry["expect"]
    gate = Gate(h(given["master"]), rng=ScriptedRng(h(given["salt"])))
    source = Source(given["client_id"])
    for bits, lowest in expect["lowest_solution"].items():
        challenge = gate.issue_challenge(source, int(bits), given["ts"], h(given["salt"]))
        assert challenge == PowChallenge(h(expect["nonce"]), int(bits))
        assert solve(challenge.nonce, int(bits), 0, 1 << 18) == lowest
        for moment in expect["valid_at"]:
            work = PowSolution(challenge.nonce, lowest)
            assert gate.check_pow(source, work, int(bits), moment) is PowVerdict.ACCEPTED
    assert gate.issue_challenge(source, 4, given["ts"]).nonce == h(expect["nonce"])


@pytest.mark.parametrize("entry", vectors("cookie_pow", "negative", op="pow"))
def test_bad_solutions_are_refused_and_told_apart(entry: dict[str, Any]) -> None:
    given = entry["input"]
    gate = Gate(h(given["master"]))
    work = PowSolution(h(given["nonce"]), int(given["solution"]))
    verdict = gate.check_pow(Source(given["client_id"]), work, given["difficulty"], given["unix_seconds"])
    genuine = entry["why"] in ("expired", "future", "work")
    assert verdict is (PowVerdict.UNUSABLE if genuine else PowVerdict.FORGED)
    assert gate.counters.pow_rejected == {given["difficulty"]: 1}


def test_no_work_is_asked_of_anyone_at_difficulty_0() -> None:
    gate = Gate(MASTER)
    assert gate.check_pow(TCP, None, 0, UNIX) is PowVerdict.ACCEPTED
    assert gate.check_pow(TCP, PowSolution(bytes(32), 0), 0, UNIX) is PowVerdict.ACCEPTED
    assert gate.check_pow(TCP, None, 4, UNIX) is PowVerdict.MISSING
    assert gate.counters.pow_rejected == {}


@pytest.mark.parametrize(
    ("at", "verdict"), [(3599, "ACCEPTED"), (3600, "ACCEPTED"), (3719, "ACCEPTED"), (3720, "UNUSABLE")]
)
def test_a_challenge_outlives_the_hour_it_was_made_in(at: int, verdict: str) -> None:
    gate = Gate(MASTER)
    work = solved(gate.issue_challenge(TCP, 4, 3599))
    assert gate.check_pow(TCP, work, 4, at).name == verdict


@pytest.mark.parametrize(("made_at", "checked_at"), [(3599, 7200), (7200, 7199)])
def test_a_nonce_of_no_current_hour_is_forged(made_at: int, checked_at: int) -> None:
    gate = Gate(MASTER)
    work = solved(gate.issue_challenge(TCP, 4, made_at))
    assert gate.check_pow(TCP, work, 4, checked_at) is PowVerdict.FORGED


def test_short_work_is_a_violation_only_below_the_lowest_tier() -> None:
    gate = Gate(MASTER)
    challenge = gate.issue_challenge(TCP, 12, UNIX)
    verdicts = [gate.check_pow(TCP, exactly(challenge, bits), 12, UNIX) for bits in (0, 3, 4, 11, 12)]
    forged, genuine = PowVerdict.FORGED, PowVerdict.UNUSABLE
    assert verdicts == [forged, forged, genuine, genuine, PowVerdict.ACCEPTED]


def test_a_configured_tier_below_4_lowers_that_line() -> None:
    gate = Gate(MASTER, load_tiers=[(0, 0), (1, 2), (5, 8)])
    challenge = gate.issue_challenge(TCP, 8, UNIX)
    assert gate.check_pow(TCP, exactly(challenge, 2), 8, UNIX) is PowVerdict.UNUSABLE
    assert gate.check_pow(TCP, exactly(challenge, 1), 8, UNIX) is PowVerdict.FORGED


def test_a_nonce_is_good_once_and_forgotten_when_it_is_stale_anyway() -> None:
    gate = Gate(MASTER)
    work = solved(gate.issue_challenge(TCP, 4, UNIX))
    gate.spend(work, 4, UNIX + 100)
    assert gate.check_pow(TCP, work, 4, UNIX + 120) is PowVerdict.UNUSABLE
    for later in (UNIX + 220, UNIX + 221):
        gate.spend(solved(gate.issue_challenge(TCP, 4, later)), 4, later)
    assert work.nonce not in gate._spent
    assert len(gate._spent) == 2
    assert gate.counters.pow_solved == {4: 3}


def test_spent_nonces_are_bounded_oldest_out() -> None:
    gate = Gate(MASTER, spent_pow_max=3)
    works = [solved(gate.issue_challenge(TCP, 4, UNIX)) for _ in range(5)]
    for work in works:
        gate.spend(work, 4, UNIX)
    verdicts = [gate.check_pow(TCP, work, 4, UNIX).name for work in works]
    assert verdicts == ["ACCEPTED"] * 2 + ["UNUSABLE"] * 3


def test_two_clients_behind_one_address_get_different_nonces() -> None:
    gate = Gate(MASTER)
    assert gate.issue_challenge(TCP, 4, UNIX).nonce != gate.issue_challenge(TCP, 4, UNIX).nonce


# --- load, reputation, demand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hellos", "tier"),
    [(0, 0), (499, 0), (500, 4), (1999, 4), (2000, 8), (5999, 8), (6000, 12), (14999, 12), (15000, 16), (20000, 16)],
)
def test_the_load_tiers_of_8_4(hellos: int, tier: int) -> None:
    gate = Gate(MASTER)
    for _ in range(hellos):
        gate.count_hello(0.0)
    assert gate.load_tier(59.9) == tier
    assert gate.demand(TCP, 59.9) == Demand(tier, tier > 0)
    assert gate.load_tier(60.0) == 0


def test_the_minute_starts_with_the_first_hello_after_the_last_one() -> None:
    gate = Gate(MASTER, load_tiers=[(2, 4)])
    gate.count_hello(100.0)
    gate.count_hello(159.0)
    assert gate.load_tier(159.5) == 4
    gate.count_hello(170.0)
    assert gate.load_tier(229.9) == 0
    gate.count_hello(229.9)
    assert gate.load_tier(229.9) == 4
    for moment in (230.0, 231.0):
        gate.count_hello(moment)
    assert gate.load_tier(289.9) == 4
    assert gate.load_tier(290.0) == 0


def test_the_demand_is_the_larger_of_load_and_reputation() -> None:
    gate = Gate(MASTER, load_tiers=[(0, 10)])
    assert gate.demand(TCP, 0.0).difficulty == 10
    gate.reputation.record(TCP.key, 0.0)
    assert gate.demand(TCP, 0.0).difficulty == 10
    for _ in range(3):
        gate.reputation.record(TCP.key, 0.0)
    assert gate.demand(TCP, 0.0).difficulty == 16
    assert gate.demand(OTHER, 0.0).difficulty == 10


def test_a_cookie_is_demanded_of_a_tcp_source_only_for_a_reason() -> None:
    assert Gate(MASTER).demand(TCP, 0.0) == Demand(0, False)
    assert Gate(MASTER, cookie="always").demand(TCP, 0.0) == Demand(0, True)
    assert Gate(MASTER).demand(UDP, 0.0) == Demand(0, True)
    assert Gate(MASTER, load_tiers=[(0, 3)]).demand(TCP, 0.0) == Demand(3, False)
    assert Gate(MASTER, load_tiers=[(0, 4)]).demand(TCP, 0.0) == Demand(4, True)
    assert Gate(MASTER, load_tiers=[(0, 4)], cookie_tier=5).demand(TCP, 0.0) == Demand(4, False)
    offended = Gate(MASTER)
    offended.reputation.record(TCP.key, 0.0)
    assert offended.demand(TCP, 0.0) == Demand(9, True)
    assert offended.demand(OTHER, 0.0) == Demand(0, False)


def test_a_cookie_is_demanded_when_many_handshakes_are_in_flight() -> None:
    gate = Gate(MASTER, max_inflight=8, cookie_inflight_share=0.25)
    for _ in range(2):
        assert gate.enter(OTHER)
    assert not gate.demand(TCP, 0.0).cookie
    assert gate.enter(OTHER)
    assert gate.demand(TCP, 0.0).cookie
    gate.leave(OTHER)
    assert not gate.demand(TCP, 0.0).cookie


def test_a_retry_brings_what_is_missing_and_nothing_else() -> None:
    gate = Gate(MASTER)
    demand = Demand(4, True)
    both = gate.retry(TCP, demand, cookie_ok=False, pow_ok=False, unix_now=UNIX)
    assert both.cookie is not None
    assert gate.check_cookie(TCP, both.cookie, UNIX)
    assert both.challenge is not None
    assert both.challenge.difficulty == 4
    assert gate.retry(TCP, demand, cookie_ok=False, pow_ok=True, unix_now=UNIX).challenge is None
    assert gate.retry(TCP, demand, cookie_ok=True, pow_ok=False, unix_now=UNIX).cookie is None


# --- handshakes in flight ---------------------------------------------------------------------------------------------


def test_slots_are_bounded_overall_and_per_source() -> None:
    gate = Gate(MASTER, max_inflight=3, max_inflight_per_source=2)
    assert [gate.enter(TCP) for _ in range(3)] == [True, True, False]
    assert [gate.enter(OTHER) for _ in range(2)] == [True, False]
    assert gate.inflight == 3
    gate.leave(TCP)
    assert gate.enter(OTHER)
    assert not gate.enter(TCP)
    for source in (TCP, OTHER, OTHER):
        gate.leave(source)
    assert gate.inflight == 0
    assert gate._inflight_by_source == {}


def test_ipv6_sources_share_the_slots_of_their_64() -> None:
    gate = Gate(MASTER, max_inflight_per_source=1)
    assert gate.enter(Source("2001:db8::1"))
    assert not gate.enter(Source("2001:db8::ffff:2"))
    assert gate.enter(Source("2001:db8:0:1::1"))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"master_secret": bytes(31)},
        {"master_secret": b""},
        {"cookie": "never"},
        {"load_tiers": [(500, 8), (100, 4)]},
        {"load_tiers": [(500, 25)]},
        {"load_tiers": [(500, -1)]},
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Gate(**({"master_secret": MASTER} | changes))


def test_the_master_secret_is_copied_and_wiped() -> None:
    master = bytearray(MASTER)
    gate = Gate(master, reputation=Reputation(max_entries=1), load_tiers=LOAD_TIERS)
    gate.close()
    assert master == MASTER
    assert gate._master == b""


def test_every_bit_of_a_cookie_and_of_a_nonce_counts() -> None:
    gate = Gate(MASTER)
    cookie = gate.issue_cookie(TCP, UNIX)
    work = solved(gate.issue_challenge(TCP, 4, UNIX))
    for at in range(32):
        assert not gate.check_cookie(TCP, flip(cookie, at), UNIX)
        forged = PowSolution(flip(work.nonce, at), work.solution)
        assert gate.check_pow(TCP, forged, 4, UNIX) is PowVerdict.FORGED
