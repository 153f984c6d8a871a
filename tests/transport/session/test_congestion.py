"""Congestion control (wire-native §19.2): the five states, the filters, the samples, and what comes out at a link."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom import limits
from phantom.transport.session.congestion import (
    GAINS,
    TRANSITIONS,
    CongestionControl,
    Event,
    SendStamp,
    State,
    WindowedMax,
)
from tests.transport.session.bottleneck import SIZE, Bottleneck

FLOOR = 4 * 1400
MBIT = 125_000  # bytes/s
RTT = 0.125  # s, exact in binary


def at(control: CongestionControl) -> State:
    return control.state


def rounds(control: CongestionControl, now: float, count: int, size: int, rtt: float = RTT) -> float:
    """So many round trips in each of which ``size`` bytes go out together and are acknowledged together."""
    for _ in range(count):
        stamp = control.on_sent(size, now)
        now += rtt
        control.on_ack(size, stamp, now, rtt)
    return now


def steady(size: int = 100_000) -> tuple[CongestionControl, float]:
    """A controller in ProbeBW: 100 kB every 125 ms."""
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, 12, size)
    assert at(control) is State.PROBE_BW
    return control, now


# --- the windowed filter ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 1e9)), min_size=1, max_size=200))
def test_the_filter_holds_the_largest_value_of_its_window(steps: list[tuple[float, float]]) -> None:
    window, now = WindowedMax(10.0), 0.0
    seen: list[tuple[float, float]] = []
    for gap, value in steps:
        now += gap
        seen.append((now, value))
        best = window.update(value, now)
        assert best >= max(v for when, v in seen if when > now - 8.999)
        assert best <= max(v for when, v in seen if when > now - 10.001)
        assert len(window._entries) <= 11


def test_the_filter_takes_the_last_value_when_all_others_are_too_old() -> None:
    window = WindowedMax(10.0)
    assert window.update(5.0, 0.0) == 5.0
    assert window.update(1.0, 9.9) == 5.0
    assert window.update(1.0, 10.0) == 1.0
    assert window.update(0.5, 30.0) == 0.5


# --- samples ----------------------------------------------------------------------------------------------------------


def test_before_the_first_sample_the_window_is_the_floor_and_the_placeholder_stands_in() -> None:
    control = CongestionControl(0.0)
    assert (control.window, control.room, control.min_rtt, control.bandwidth) == (FLOOR, FLOOR, 0.1, 0.0)
    assert control.pacing_rate is None


def test_the_first_round_trip_replaces_the_placeholder_even_when_it_is_longer() -> None:
    control = CongestionControl(0.0)
    control.on_ack(1000, control.on_sent(1000, 0.0), 0.7, 0.7)
    assert control.min_rtt == 0.7
    control.on_ack(1000, control.on_sent(1000, 1.0), 1.3, 0.3)
    assert control.min_rtt == 0.3
    control.on_ack(1000, control.on_sent(1000, 2.0), 2.5, None)  # retransmitted: no round trip (Karn)
    assert control.min_rtt == 0.3


def test_a_sample_is_what_was_delivered_meanwhile_and_not_one_packet_a_round_trip() -> None:
    control = CongestionControl(0.0)
    stamps = [control.on_sent(1000, 0.0) for _ in range(10)]
    control.on_ack(10_000, stamps[-1], 0.1, 0.1)
    assert control.bandwidth == pytest.approx(100_000)  # one packet by its round trip would be 10 000
    assert control.samples == 1
    assert control.window == 20_000


def test_a_burst_of_acks_is_not_believed() -> None:
    control = CongestionControl(0.0)
    first = [control.on_sent(1000, 0.1 * i) for i in range(10)]  # 10 kB/s
    for stamp in first:  # all acknowledged at once, a second after the first was sent
        control.on_ack(1000, stamp, 1.0)
    assert control.bandwidth <= 10_000 * 1.2


def test_acks_that_were_held_up_and_come_together_are_not_believed() -> None:
    control = CongestionControl(0.0)
    slowly = [control.on_sent(1000, i / 10) for i in range(10)]  # 10 kB/s
    control.on_ack(1000, slowly[0], 0.95, 0.1)
    last = control.on_sent(1000, 0.96)
    control.on_ack(10_000, last, 1.06)
    assert control.bandwidth <= 10_000 * 1.2


def test_samples_of_an_application_that_has_nothing_to_send_are_ignored() -> None:
    control, now = steady()
    samples, bandwidth = control.samples, control.bandwidth
    stamp = control.on_sent(1000, now)
    assert not stamp.app_limited
    control.on_app_limited()
    control.on_ack(1000, stamp, now + RTT, RTT)  # sent before it ran dry: still a sample
    assert control.samples == samples + 1
    control.on_app_limited()
    late = control.on_sent(500, now + 0.2)
    assert late.app_limited
    control.on_ack(500, late, now + 0.3, 0.1)
    assert (control.samples, control.bandwidth) == (samples + 1, bandwidth)
    fresh = control.on_sent(1000, now + 0.4)
    assert not fresh.app_limited  # what was in flight then has been delivered


def test_an_ack_that_names_nothing_new_to_measure_still_frees_the_window() -> None:
    control = CongestionControl(0.0)
    control.on_sent(1000, 0.0)
    control.on_ack(1000, None, 0.1)
    assert (control.inflight, control.samples) == (0, 0)


def test_an_interval_shorter_than_any_round_trip_is_no_sample() -> None:
    control, now = steady()
    samples = control.samples
    stamp = SendStamp(now - 0.01, 0, now - 0.01, now - 0.01, False)
    control.on_sent(1000, now)
    control.on_ack(1000, stamp, now)
    assert control.samples == samples
    local = CongestionControl(0.0)
    local.on_ack(1000, local.on_sent(1000, 0.0), 0.0, 0.0)  # no time at all between two ends of one program
    assert local.samples == 0


def test_silence_of_an_idle_path_is_not_slow_delivery() -> None:
    control, now = steady()
    bandwidth = control.bandwidth
    stamps = [control.on_sent(10_000, now + 3600.0) for _ in range(10)]
    control.on_ack(100_000, stamps[-1], now + 3600.0 + RTT, RTT)
    assert control.bandwidth == pytest.approx(bandwidth)


def test_discarded_bytes_leave_the_flight_without_a_verdict() -> None:
    control = CongestionControl(0.0)
    control.on_sent(3000, 0.0)
    control.on_discarded(1000)
    assert (control.inflight, control.delivered, at(control)) == (2000, 0, State.STARTUP)


# --- states -----------------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_specification() -> None:
    assert {state: tuple(gains) for state, gains in GAINS.items()} == {
        State.STARTUP: (2.0, 2.0),
        State.DRAIN: (0.75, 2.0),
        State.PROBE_BW: (1.0, 2.0),
        State.PROBE_RTT: (1.0, 1.0),
        State.FAST_RECOVERY: (0.5, 1.0),
    }
    entered = {state for state, event in TRANSITIONS if event is Event.LOSS}
    assert entered == {State.STARTUP, State.DRAIN, State.PROBE_BW}
    probing = {state for state, event in TRANSITIONS if event is Event.PROBE_DUE}
    assert probing == {State.DRAIN, State.PROBE_BW}


def test_startup_ends_after_three_rounds_without_growth_and_drain_when_the_queue_is_gone() -> None:
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, 1, 10_000)
    now = rounds(control, now, 1, 20_000)
    assert at(control) is State.STARTUP
    for _ in range(2):
        now = rounds(control, now, 1, 20_000)
        assert at(control) is State.STARTUP
    stamp = control.on_sent(20_000, now)
    extra = control.on_sent(40_000, now)
    control.on_ack(20_000, stamp, now + RTT, RTT)
    assert at(control) is State.DRAIN  # 40 000 are still in flight, the path holds half of that
    assert control.window == 40_000
    control.on_ack(19_000, None, now + RTT)
    assert at(control) is State.DRAIN
    control.on_ack(1_000, None, now + RTT)
    assert at(control) is State.PROBE_BW
    control.on_ack(20_000, extra, now + 2 * RTT, 2 * RTT)


def test_a_round_has_to_carry_data_that_was_sent_in_it() -> None:
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, 2, 10_000)
    flight = [control.on_sent(2_000, now) for _ in range(12)]
    for i, stamp in enumerate(flight, 1):  # one flight, acknowledged over twelve minimum round trips
        control.on_ack(2_000, stamp, now + RTT * i, RTT)
    assert at(control) is State.STARTUP


def test_growth_of_less_than_a_quarter_ends_startup() -> None:
    control = CongestionControl(0.0)
    now, size = rounds(control, 0.0, 1, 100_000), 100_000
    for _ in range(3):
        assert at(control) is State.STARTUP
        size = int(size * 1.05)
        now = rounds(control, now, 1, size)
    assert at(control) is State.PROBE_BW


def test_rounds_that_measured_nothing_do_not_end_startup() -> None:
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, 2, 10_000)
    for _ in range(10):
        control.on_app_limited()
        now = rounds(control, now, 1, 100)
    assert at(control) is State.STARTUP


def test_growth_of_a_quarter_keeps_startup_going() -> None:
    control = CongestionControl(0.0)
    now, size = 0.0, 1000
    for _ in range(20):
        now = rounds(control, now, 1, size)
        size = int(size * 1.26) + 1
        assert at(control) is State.STARTUP


def test_probe_bw_goes_round_its_cycle_one_step_a_round_trip() -> None:
    control, now = steady()
    gains = []
    for _ in range(8):
        now = rounds(control, now, 1, 100_000)
        assert control.pacing_rate is not None
        gains.append(round(control.pacing_rate / control.bandwidth, 2))
    start = gains.index(1.25)
    assert gains[start : start + 4] == [1.25, 0.75, 1.0, 1.0]
    assert sorted(gains[:4]) == sorted(gains[4:]) == [0.75, 1.0, 1.0, 1.25]
    assert control.window == pytest.approx(2 * control.bdp, abs=1)


def test_probe_rtt_comes_every_ten_seconds_takes_200_ms_and_gives_the_state_back() -> None:
    control, now = steady()
    began = now
    overlapping = control.on_sent(100, now)  # something is always in flight, so no idleness restarts the timer
    while at(control) is State.PROBE_BW:
        now = rounds(control, now, 1, 100_000)
        assert now < began + 11
    assert now >= 10.0
    assert control.window == FLOOR
    assert control.pacing_rate == control.bandwidth
    entered = now
    while at(control) is State.PROBE_RTT:
        now = rounds(control, now, 1, 1000, rtt=0.0625)
    assert 0.2 <= now - entered <= 0.25
    assert at(control) is State.PROBE_BW
    control.on_ack(100, overlapping, now)


def test_a_path_that_was_idle_has_probed_its_round_trip_by_that() -> None:
    control, now = steady()
    control.on_ack(100, control.on_sent(100, now + 60.0), now + 60.1, 0.1)
    assert at(control) is State.PROBE_BW


@pytest.mark.parametrize("state", [State.STARTUP, State.PROBE_BW])
def test_a_loss_halves_the_rate_until_the_bdp_is_reached_and_gives_the_state_back(state: State) -> None:
    control, now = steady() if state is State.PROBE_BW else (CongestionControl(0.0), 0.0)
    if state is State.STARTUP:
        now = rounds(control, now, 2, 100_000)
    stamps = [control.on_sent(20_000, now) for _ in range(10)]
    control.on_lost(20_000, stamps[0], now + 0.1)
    assert at(control) is State.FAST_RECOVERY
    assert control.inflight == 180_000
    assert control.window == max(int(control.bdp), FLOOR)
    if state is State.PROBE_BW:
        assert control.pacing_rate == 0.5 * control.bandwidth
    control.on_ack(20_000, stamps[1], now + 0.1)
    assert at(control) is State.FAST_RECOVERY  # 160 000 is more than the BDP
    control.on_ack(160_000, stamps[-1], now + 0.11)
    assert at(control) is state


def test_on_a_path_that_holds_less_than_the_floor_recovery_ends_at_the_floor() -> None:
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, 2, 1000)
    stamps = [control.on_sent(1000, now) for _ in range(5)]
    control.on_lost(1000, stamps[0], now + RTT)
    assert at(control) is State.FAST_RECOVERY
    control.on_ack(1000, stamps[1], now + RTT)
    assert at(control) is State.STARTUP  # 3000 are in flight, the path holds 1000


def test_losses_of_one_flight_are_one_event() -> None:
    control, now = steady()
    stamps = [control.on_sent(10_000, now) for _ in range(4)]
    control.on_lost(10_000, stamps[0], now + 0.1)
    control.on_ack(10_000, stamps[3], now + 0.1)
    assert at(control) is State.PROBE_BW
    control.on_lost(10_000, stamps[1], now + 0.15)  # sent before the loss was seen
    assert at(control) is State.PROBE_BW
    later = control.on_sent(10_000, now + 0.2)
    control.on_lost(10_000, later, now + 0.3)
    assert at(control) is State.FAST_RECOVERY


def test_a_loss_while_probing_the_round_trip_is_no_event() -> None:
    control, now = steady()
    keep = control.on_sent(100, now)
    while at(control) is State.PROBE_BW:
        now = rounds(control, now, 1, 100_000)
    control.on_lost(1000, control.on_sent(1000, now), now)
    assert at(control) is State.PROBE_RTT
    control.on_ack(100, keep, now)


def test_the_rate_is_unlimited_until_ten_samples_were_taken() -> None:
    control = CongestionControl(0.0)
    now = rounds(control, 0.0, limits.PACER_SAMPLES - 1, 10_000)
    assert control.pacing_rate is None
    rounds(control, now, 1, 10_000)
    assert control.pacing_rate is not None


@given(st.lists(st.tuples(st.sampled_from(("send", "ack", "lose", "drop", "dry")), st.floats(0, 0.3)), max_size=120))
def test_whatever_happens_the_window_has_a_floor_and_the_flight_adds_up(steps: list[tuple[str, float]]) -> None:
    control, now = CongestionControl(0.0), 0.0
    flying: list[SendStamp] = []
    for what, gap in steps:
        now += gap
        if what == "send":
            flying.append(control.on_sent(1000, now))
        elif what == "dry":
            control.on_app_limited()
        elif flying and what == "ack":
            stamp = flying.pop(0)
            control.on_ack(1000, stamp, now, now - stamp.sent_at)
        elif flying and what == "lose":
            control.on_lost(1000, flying.pop(0), now)
        elif flying:
            flying.pop()
            control.on_discarded(1000)
        assert control.inflight == 1000 * len(flying)
        assert control.window >= FLOOR
        assert control.pacing_rate is None or control.pacing_rate >= 0
        assert control.min_rtt >= 0


# --- at a link --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "rtt"),
    [(10 * MBIT, 0.0004), (10 * MBIT, 0.02), (10 * MBIT, 0.21), (1 * MBIT, 0.05), (1 * MBIT, 0.21)],
    ids=lambda value: f"{value:g}",
)
def test_a_clean_link_is_filled_and_its_queue_stays_short(rate: float, rtt: float) -> None:
    link = Bottleneck(rate, rtt).run(15.0)
    assert link.share(3.0) >= 0.9
    assert link.dropped == 0
    tail = sorted(link.queued[len(link.queued) // 2 :])
    assert tail[len(tail) // 2] <= max(rate * rtt, 2 * FLOOR)
    assert State.PROBE_RTT in link.states
    if rtt > 0.001:  # with less the window's floor is more than the BDP, and there is nothing to drain
        assert link.states[:3] == [State.STARTUP, State.DRAIN, State.PROBE_BW]


@pytest.mark.parametrize(("loss", "goal"), [(0.01, 0.8), (0.05, 0.6)])
@pytest.mark.parametrize("rtt", [0.05, 0.21])
def test_random_loss_does_not_stop_it(loss: float, goal: float, rtt: float) -> None:
    assert Bottleneck(10 * MBIT, rtt, loss=loss).run(12.0).share(3.0) >= goal


def test_a_shallow_queue_and_one_of_seconds_are_both_lived_with() -> None:
    assert Bottleneck(10 * MBIT, 0.05, queue=5 * SIZE).run(12.0).share(3.0) >= 0.8
    bloated = Bottleneck(10 * MBIT, 0.05, queue=4e6).run(12.0)
    assert bloated.share(3.0) >= 0.9
    assert max(bloated.queued[len(bloated.queued) // 2 :]) <= 3 * 10 * MBIT * 0.05


def test_acks_that_come_late_and_together_are_lived_with() -> None:
    assert Bottleneck(10 * MBIT, 0.05, jitter=0.03).run(12.0).share(3.0) >= 0.9


def test_an_application_slower_than_the_link_does_not_shrink_it() -> None:
    link = Bottleneck(10 * MBIT, 0.05, limited=2 * MBIT).run(10.0)
    assert link.share(1.0) == pytest.approx(0.2, abs=0.02)
    assert link.cc.window >= FLOOR


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = (Bottleneck(1 * MBIT, 0.05, loss=0.02).run(3.0) for _ in range(2))
    assert one.delivered == other.delivered
    assert all(a <= b for a, b in itertools.pairwise(t for t, _ in one.delivered))
