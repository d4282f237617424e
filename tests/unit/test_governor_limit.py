"""Pins the in-flight limit: when it moves and which way, when it holds, and that forcing has no bump."""

from __future__ import annotations

import math

import pytest

from governor.bounds import OutOfBoundsError
from governor.limit import Cause, Governing, Limit, LimitChanged, LimitParams
from governor.pid import PidParams

SETPOINT_S = 0.9 * 0.05


def run(
    limit: Limit, *, gap_s: float, streams: int, queued: int, from_s: float, for_s: float
) -> list[LimitChanged]:
    """Let an engine step every gap_s, and advance the limit whenever it is due."""
    events, now_s, step_s = [], from_s, from_s + gap_s
    limit.observe_load(in_flight=streams, queued=queued)
    while now_s < from_s + for_s:
        now_s = min(step_s, limit.deadline_s)
        if now_s == step_s:
            limit.observe_step(gap_s=gap_s, streams=streams, now_s=now_s)
            step_s += gap_s
        events += limit.advance(now_s=now_s)
    return events


def test_it_starts_at_the_initial_limit():
    assert Limit(LimitParams(initial=17), now_s=0.0).value == 17


def test_one_move_agrees_with_the_one_worked_by_hand():
    limit = Limit(LimitParams(), now_s=0.0)
    limit.observe_load(in_flight=16, queued=5)
    for step in range(1, 11):
        limit.observe_step(gap_s=0.02, streams=16, now_s=0.02 * step)

    events = limit.advance(now_s=0.5)

    # z = ln 0.02 + 0.8 ln(32/16); e = ln 0.045 - z = 0.2564; du = 0.3 * 0.5 * e; 32 exp(du) = 33.25.
    error = math.log(0.045) - math.log(0.02) - 0.8 * math.log(2)
    assert error == pytest.approx(0.2564, abs=1e-4)
    assert events == [LimitChanged(previous=32, limit=33, reason=Cause.FAST)]
    assert limit.value == round(32 * math.exp(0.15 * error))


def test_slow_tokens_lower_it():
    limit = Limit(LimitParams(), now_s=0.0)

    events = run(limit, gap_s=0.2, streams=32, queued=3, from_s=0.0, for_s=3.0)

    assert limit.value < 32
    assert {event.reason for event in events} == {Cause.SLOW}


def test_fast_tokens_raise_it_to_the_maximum_and_no_further():
    limit = Limit(LimitParams(max=64), now_s=0.0)

    events = run(limit, gap_s=0.005, streams=64, queued=3, from_s=0.0, for_s=30.0)

    assert limit.value == 64
    assert {event.reason for event in events} == {Cause.FAST}


def test_tokens_that_stay_slow_lower_it_to_the_minimum_and_no_further():
    limit = Limit(LimitParams(), now_s=0.0)

    run(limit, gap_s=0.5, streams=4, queued=3, from_s=0.0, for_s=60.0)

    assert limit.value == 4


def test_it_moves_only_when_a_move_is_due():
    limit = Limit(LimitParams(), now_s=0.0)
    limit.observe_load(in_flight=32, queued=3)
    for step in range(1, 11):
        limit.observe_step(gap_s=0.2, streams=32, now_s=0.04 * step)

    assert limit.deadline_s == 0.5
    assert limit.advance(now_s=0.49) == []
    assert limit.advance(now_s=0.5) != []
    assert limit.deadline_s == 1.0


def test_nothing_is_learnt_when_the_limit_does_not_bind():
    limit = Limit(LimitParams(), now_s=0.0)

    assert run(limit, gap_s=0.005, streams=15, queued=0, from_s=0.0, for_s=5.0) == []
    assert limit.state is Governing.IDLE


def test_a_queue_makes_a_small_batch_count():
    limit = Limit(LimitParams(), now_s=0.0)

    assert run(limit, gap_s=0.005, streams=15, queued=1, from_s=0.0, for_s=5.0) != []
    assert limit.state is Governing.ACTIVE


def test_nothing_in_flight_is_idle():
    limit = Limit(LimitParams(), now_s=0.0)

    assert limit.advance(now_s=60.0) == []
    assert limit.state is Governing.IDLE


def test_few_steps_that_fill_the_window_are_a_slow_engine_and_lower_it():
    limit = Limit(LimitParams(), now_s=0.0)

    run(limit, gap_s=0.9, streams=32, queued=3, from_s=0.0, for_s=4.0)

    assert limit.value < 32


def test_too_few_steps_hold():
    limit = Limit(LimitParams(), now_s=0.0)
    limit.observe_load(in_flight=32, queued=3)
    for step in range(1, 5):
        limit.observe_step(gap_s=0.1, streams=32, now_s=0.1 * step)

    assert limit.advance(now_s=0.5) == []
    assert limit.state is Governing.FEW_STEPS


def test_stale_telemetry_holds():
    limit = Limit(LimitParams(), now_s=0.0)
    run(limit, gap_s=0.05, streams=32, queued=3, from_s=0.0, for_s=3.0)
    held = limit.value

    assert limit.advance(now_s=3.0 + 5.1) == []
    assert limit.state is Governing.STALE
    assert limit.value == held


@pytest.mark.parametrize(
    ("gap_s", "streams"), [(0.0001, 32), (-1.0, 32), (math.nan, 32), (math.inf, 32), (0.05, 0)]
)
def test_a_step_that_cannot_be_true_is_ignored(gap_s, streams):
    limit = Limit(LimitParams(), now_s=0.0)
    limit.observe_load(in_flight=32, queued=3)
    for step in range(1, 11):
        limit.observe_step(gap_s=gap_s, streams=streams, now_s=0.04 * step)

    assert limit.advance(now_s=0.5) == []
    assert limit.state is Governing.FEW_STEPS


def test_one_long_stall_moves_it_no_further_than_twelve_usual_gaps():
    stalled, twelve = Limit(LimitParams(), now_s=0.0), Limit(LimitParams(), now_s=0.0)
    for limit, last_gap_s in ((stalled, 100.0), (twelve, 12 * 0.02 * 1.05)):
        limit.observe_load(in_flight=32, queued=3)
        for step in range(1, 12):
            limit.observe_step(gap_s=0.02 if step < 11 else last_gap_s, streams=32, now_s=0.04 * step)
        limit.advance(now_s=0.5)

    assert stalled.value == pytest.approx(twelve.value, abs=1)


def test_steps_older_than_the_window_are_forgotten():
    limit = Limit(LimitParams(), now_s=0.0)
    run(limit, gap_s=0.2, streams=32, queued=3, from_s=0.0, for_s=5.0)
    lowered = limit.value

    run(limit, gap_s=0.01, streams=32, queued=3, from_s=8.0, for_s=5.0)

    assert limit.value > lowered


def test_steps_older_than_the_window_do_not_count_as_enough():
    limit = Limit(LimitParams(), now_s=0.0)
    run(limit, gap_s=0.05, streams=32, queued=3, from_s=0.0, for_s=3.0)

    assert limit.advance(now_s=3.0 + 4.0) == []
    assert limit.state is Governing.FEW_STEPS


def test_a_forced_limit_is_no_change_of_the_error_to_the_proportional_part():
    limit = Limit(LimitParams(pid=PidParams(kp=1.0, ki_per_s=0.0)), now_s=0.0)
    run(limit, gap_s=0.04, streams=32, queued=3, from_s=0.0, for_s=5.0)

    limit.force(96)

    assert run(limit, gap_s=0.04, streams=32, queued=3, from_s=5.0, for_s=3.0) == []


def test_forcing_stands_at_the_limit_within_the_bounds():
    limit = Limit(LimitParams(min=4, max=128), now_s=0.0)

    for wanted, stands in ((96, 96), (1, 4), (1000, 128)):
        limit.force(wanted)
        assert limit.value == stands


def test_governing_goes_on_from_a_forced_limit_without_a_bump():
    limit = Limit(LimitParams(), now_s=0.0)
    for tick in range(20):
        run(limit, gap_s=SETPOINT_S, streams=96, queued=3, from_s=0.5 * tick, for_s=0.5)
        limit.force(96)

    run(limit, gap_s=SETPOINT_S, streams=96, queued=3, from_s=10.0, for_s=5.0)

    assert limit.state is Governing.ACTIVE
    assert limit.value == pytest.approx(96, abs=1)


def test_other_parameters_go_on_from_the_limit_in_force():
    limit = Limit(LimitParams(initial=32), now_s=0.0)
    run(limit, gap_s=0.02, streams=32, queued=3, from_s=0.0, for_s=5.0)
    governed = limit.value

    limit.reconfigure(LimitParams(initial=16, tpot_objective_s=0.01, period_s=1.0))

    assert limit.value == governed
    assert limit.deadline_s == pytest.approx(5.0, abs=1.0)
    run(limit, gap_s=0.02, streams=governed, queued=3, from_s=5.0, for_s=5.0)
    assert limit.value < governed


def test_other_bounds_apply_at_once():
    limit = Limit(LimitParams(initial=32), now_s=0.0)

    limit.reconfigure(LimitParams(max=20, initial=20))

    assert limit.value == 20


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("max", {"min": 8, "max": 4}),
        ("initial", {"initial": 200}),
        ("window_s", {"window_s": 0.1}),
        ("setpoint_ratio", {"setpoint_ratio": 1.5}),
        ("tpot_objective_s", {"tpot_objective_s": 0.0}),
    ],
)
def test_contradicting_parameters_are_refused_by_name(field, params):
    with pytest.raises(OutOfBoundsError) as caught:
        LimitParams(**params)

    assert caught.value.field == field
