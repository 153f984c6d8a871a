"""A run as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

from phantom.testing.simulator import Flow, Link, Outcome, Plan, Sample, play
from phantom.testing.simulator.plot import draw, panels

LINK = Link(rate=8, latency=0.02)
PLAN = Plan("a <plan> & more", "what it is", "pipe", LINK, LINK, flows=(Flow(total=300_000),))
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_shows_goodput_window_round_trip_and_queue_over_virtual_time() -> None:
    outcome = play(PLAN, 1)
    tree = ElementTree.fromstring(draw(PLAN, outcome))
    texts = [element.text for element in tree.iter(f"{SVG}text")]
    for title in ("goodput [Mbit/s]", "window [KiB]", "round trip [ms]", "queue of the link [KiB]", "capacity"):
        assert title in texts
    assert "a <plan> & more, seed 1" in texts
    lines = [element.attrib["points"].split() for element in tree.iter(f"{SVG}polyline")]
    assert len(lines) == 5
    assert {len(line) for line in lines} == {len(outcome.samples)}
    for line in lines:
        for point in line:
            x, y = map(float, point.split(","))
            assert 84 <= x <= 945
            assert 0 <= y <= 800


def test_values_are_in_the_units_of_their_panel() -> None:
    sample = Sample(1.0, 250_000, 2048, 1024, 0.05, 512, "network")
    goodput, window, trip, queue = panels(PLAN, Outcome("p", 1, samples=[sample]))
    assert goodput.lines[0][1] == (2.0,)
    assert goodput.level == ("capacity", 8.0)
    assert [line for _, line in window.lines] == [(2.0,), (1.0,)]
    assert trip.lines[0][1] == (50.0,)
    assert queue.lines[0][1] == (0.5,)


def test_a_run_without_samples_and_without_a_rate_is_drawn_too() -> None:
    plan = Plan("empty", flows=())
    assert panels(plan, Outcome("empty", 1))[0].level is None
    ElementTree.fromstring(draw(plan, Outcome("empty", 1)))
