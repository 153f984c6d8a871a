"""The queue of a simulation."""

from __future__ import annotations

from phantom.testing.virtual_time import VirtualTime


def test_actions_come_by_time_and_then_by_the_order_in_which_they_were_planned() -> None:
    clock, seen = VirtualTime(), []
    clock.at(2.0, lambda: seen.append(("c", clock.now)))
    clock.at(1.0, lambda: seen.append(("a", clock.now)))
    clock.at(1.0, lambda: seen.append(("b", clock.now)))
    assert not clock.run(5.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0)]
    assert (clock.now, clock.steps, clock.idle) == (5.0, 3, True)


def test_what_is_planned_for_the_past_happens_now() -> None:
    clock, seen = VirtualTime(), []
    clock.run(3.0)
    clock.at(1.0, lambda: seen.append(clock.now))
    clock.after(0.5, lambda: seen.append(clock.now))
    clock.run(3.2)
    assert seen == [3.0]
    assert not clock.idle


def test_every_step_is_looked_at_and_a_run_can_be_stopped() -> None:
    clock, looked = VirtualTime(), []
    clock.after_step = lambda: looked.append(clock.now)
    for when in (1.0, 2.0, 3.0):
        clock.at(when, lambda: None)
    assert clock.run(9.0, lambda: len(looked) == 2)
    assert (clock.now, looked) == (2.0, [1.0, 2.0])
