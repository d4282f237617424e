"""Pins the monitor: what counts as bad, the states of an objective, and one event per episode."""

from __future__ import annotations

import pytest

from qos.bounds import OutOfBoundsError
from qos.objective import Objective, Signal
from qos.policy import Monitor, MonitorParams
from qos.verdict import TRANSITIONS, Reading, Recovery, State, Violation

TTFT = Objective(name="ttft", signal=Signal.TTFT, target_ratio=0.95, threshold_s=0.5)
ITL = Objective(name="itl", signal=Signal.ITL, target_ratio=0.95, threshold_s=0.1)
ERRORS = Objective(name="errors", signal=Signal.ERROR, target_ratio=0.99)
THROUGHPUT = Objective(name="tps", signal=Signal.THROUGHPUT, target_ratio=0.9, threshold_tps=100.0)


class Clinic:
    """A monitor of one objective, with a clock and what it said."""

    def __init__(self, objective: Objective, **params: float) -> None:
        self.monitor = Monitor(MonitorParams(objectives=(objective,), **params), now_s=0.0)
        self.now_s = 0.0
        self.said: list[Violation | Recovery] = []
        self._serial = 0

    def serve(self, *, ttft_s: float, for_s: float, per_s: int = 4) -> Clinic:
        """Answer so many requests a second, all with the same time to first token."""
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            for _ in range(per_s):
                self._serial += 1
                self.monitor.first_token(f"r{self._serial}", ttft_s=ttft_s, now_s=self.now_s)
            self.tick()
        return self

    def tick(self, seconds: int = 1) -> Clinic:
        """Let whole seconds pass, each with its judgement."""
        for _ in range(seconds):
            self.now_s += 1.0
            self.said += self.monitor.advance(now_s=self.now_s)
        return self

    @property
    def verdict(self):
        """The verdict on the objective."""
        (verdict,) = self.monitor.verdicts(now_s=self.now_s)
        return verdict


def test_before_any_event_there_is_no_data():
    clinic = Clinic(TTFT).tick()

    assert clinic.verdict.state is State.NO_DATA
    assert clinic.verdict.burn_rate is None
    assert clinic.verdict.why == "0 of the 20 events needed in 60 s"


def test_a_kept_promise_is_ok():
    clinic = Clinic(TTFT).serve(ttft_s=0.1, for_s=30)

    assert clinic.verdict.state is State.OK
    assert clinic.said == []
    assert clinic.verdict.burn_rate == 0.0


def test_fewer_events_than_needed_are_no_data_however_bad():
    clinic = Clinic(TTFT)
    for each in range(19):
        clinic.monitor.first_token(f"r{each}", ttft_s=9.0, now_s=0.0)
    clinic.tick(30)

    assert clinic.verdict.state is State.NO_DATA
    assert clinic.said == []


def test_a_broken_promise_is_said_once_with_its_evidence():
    clinic = Clinic(TTFT).serve(ttft_s=0.1, for_s=60).serve(ttft_s=0.9, for_s=60)

    (violation,) = clinic.said
    assert isinstance(violation, Violation)
    assert violation.objective == "ttft"
    assert 62 <= violation.at_s <= 70
    assert violation.evidence_nats >= 13.8
    assert f"{violation.bad} of {violation.total} requests waited more than 0.5 s" in violation.why
    assert clinic.verdict.state is State.VIOLATED


def test_the_short_window_convicts_only_when_the_whole_one_has_enough_events():
    clinic = Clinic(TTFT, hold_ticks=1)
    for each in range(19):
        clinic.monitor.first_token(f"r{each}", ttft_s=9.0, now_s=0.0)
    assert clinic.tick().said == []

    clinic.monitor.first_token("r20", ttft_s=9.0, now_s=clinic.now_s)

    assert len(clinic.tick().said) == 1


def test_a_break_is_explained_by_the_window_that_shows_it_best():
    clinic = Clinic(TTFT).serve(ttft_s=0.1, for_s=60).serve(ttft_s=0.9, for_s=10)

    assert "in 15 s" in clinic.verdict.why


def test_evidence_must_hold_for_three_ticks():
    clinic = Clinic(TTFT)
    for each in range(30):
        clinic.monitor.first_token(f"r{each}", ttft_s=9.0, now_s=0.0)

    assert clinic.tick(2).verdict.state is State.WARNING
    assert clinic.tick(1).verdict.state is State.VIOLATED


def test_weak_evidence_is_a_warning_that_goes_away():
    clinic = Clinic(TTFT)
    for each in range(100):
        clinic.monitor.first_token(f"r{each}", ttft_s=9.0 if each < 17 else 0.1, now_s=0.0)

    assert clinic.tick(5).verdict.state is State.WARNING
    clinic.serve(ttft_s=0.1, for_s=30)
    assert clinic.verdict.state is State.OK
    assert clinic.said == []


def test_a_kept_promise_again_is_said_once_after_the_time_to_recover():
    clinic = Clinic(TTFT, recover_after_s=30.0).serve(ttft_s=0.1, for_s=60).serve(ttft_s=0.9, for_s=30)

    clinic.serve(ttft_s=0.1, for_s=70)
    assert clinic.verdict.state is State.RECOVERING
    clinic.serve(ttft_s=0.1, for_s=120)

    violation, recovery = clinic.said
    assert isinstance(recovery, Recovery)
    assert recovery.objective == "ttft"
    assert recovery.duration_s == recovery.at_s - violation.at_s
    assert clinic.verdict.state is State.OK


def test_a_relapse_while_recovering_belongs_to_the_same_episode():
    clinic = Clinic(TTFT, recover_after_s=60.0).serve(ttft_s=0.1, for_s=60).serve(ttft_s=0.9, for_s=30)
    clinic.serve(ttft_s=0.1, for_s=70)
    assert clinic.verdict.state is State.RECOVERING

    clinic.serve(ttft_s=0.9, for_s=30)

    assert clinic.verdict.state is State.VIOLATED
    assert len(clinic.said) == 1


@pytest.mark.parametrize(("one_bad_in", "state"), [(22, State.VIOLATED), (30, State.OK)])
def test_a_violation_ends_only_well_inside_the_budget(one_bad_in, state):
    clinic = Clinic(TTFT).serve(ttft_s=0.9, for_s=30)

    for _ in range(300):
        clinic.monitor.first_token("bad", ttft_s=0.9, now_s=clinic.now_s)
        clinic.serve(ttft_s=0.1, for_s=1, per_s=one_bad_in - 1)

    assert clinic.verdict.state is state


def test_silence_freezes_a_violation():
    clinic = Clinic(TTFT, recover_after_s=10.0).serve(ttft_s=0.9, for_s=60)

    clinic.tick(3600)

    assert clinic.verdict.state is State.VIOLATED
    assert len(clinic.said) == 1


def test_silence_while_recovering_is_no_recovery():
    clinic = Clinic(TTFT, recover_after_s=90.0).serve(ttft_s=0.9, for_s=30).serve(ttft_s=0.1, for_s=70)
    assert clinic.verdict.state is State.RECOVERING

    clinic.tick(3600)

    assert clinic.verdict.state is State.VIOLATED
    assert len(clinic.said) == 1


def test_a_request_that_waits_past_the_threshold_is_bad_before_it_is_answered():
    clinic = Clinic(TTFT)
    clinic.monitor.arrived("slow", now_s=0.0)
    clinic.monitor.arrived("young", now_s=0.8)

    assert clinic.tick().verdict.bad == 1
    clinic.monitor.first_token("slow", ttft_s=1.0, now_s=1.0)
    clinic.monitor.first_token("young", ttft_s=0.2, now_s=1.0)
    assert (clinic.verdict.bad, clinic.verdict.total) == (1, 2)


def test_a_cancelled_request_counts_only_if_it_waited_too_long_first():
    clinic = Clinic(TTFT)
    clinic.monitor.arrived("patient", now_s=0.0)
    clinic.monitor.arrived("hasty", now_s=0.9)
    clinic.monitor.left("patient", now_s=1.0)
    clinic.monitor.left("hasty", now_s=1.0)
    clinic.monitor.left("unknown", now_s=1.0)

    assert (clinic.verdict.bad, clinic.verdict.total) == (1, 1)


def test_a_failure_without_a_first_token_is_bad_for_ttft_and_one_after_it_is_not():
    clinic = Clinic(TTFT)
    for request_id in ("before", "after", "empty"):
        clinic.monitor.arrived(request_id, now_s=0.0)
    clinic.monitor.first_token("after", ttft_s=0.1, now_s=0.1)
    clinic.monitor.finished("before", failed=True, now_s=0.2)
    clinic.monitor.finished("after", failed=True, now_s=0.2)
    clinic.monitor.finished("empty", failed=False, now_s=0.2)

    assert (clinic.verdict.bad, clinic.verdict.total) == (1, 2)


def test_a_failure_is_bad_for_the_error_objective():
    clinic = Clinic(ERRORS)
    clinic.monitor.finished("a", failed=True, now_s=0.0)
    clinic.monitor.finished("b", failed=False, now_s=0.0)

    assert (clinic.verdict.bad, clinic.verdict.total) == (1, 2)


def test_the_tokens_of_one_step_are_one_event_in_the_evidence():
    clinic = Clinic(ITL)
    for each in range(40):
        clinic.monitor.step(gap_s=0.2 if each < 4 else 0.02, streams=32, now_s=0.0)

    assert (clinic.verdict.bad, clinic.verdict.total) == (128, 1280)
    assert clinic.verdict.evidence_nats < 1.0


def test_one_step_of_many_streams_is_no_data():
    clinic = Clinic(ITL)
    clinic.monitor.step(gap_s=9.0, streams=500, now_s=0.0)

    assert clinic.tick(10).verdict.state is State.NO_DATA


def test_low_throughput_is_bad_only_while_somebody_waits():
    clinic = Clinic(THROUGHPUT).tick(30)
    assert clinic.verdict.total == 0

    clinic.monitor.arrived("a", now_s=clinic.now_s)
    for _ in range(30):
        clinic.monitor.generated(tokens=99)
        clinic.tick()

    assert (clinic.verdict.bad, clinic.verdict.total) == (30, 30)
    assert clinic.verdict.state is State.VIOLATED


def test_enough_throughput_is_good_while_somebody_waits():
    clinic = Clinic(THROUGHPUT)
    clinic.monitor.arrived("a", now_s=0.0)
    for _ in range(30):
        clinic.monitor.generated(tokens=100)
        clinic.tick()

    assert (clinic.verdict.bad, clinic.verdict.total) == (0, 30)


def test_it_judges_only_when_a_judgement_is_due():
    monitor = Monitor(MonitorParams(objectives=(TTFT,), hold_ticks=1), now_s=0.0)
    for each in range(30):
        monitor.first_token(f"r{each}", ttft_s=9.0, now_s=0.0)

    assert monitor.deadline_s == 1.0
    assert monitor.advance(now_s=0.9) == []
    assert len(monitor.advance(now_s=1.0)) == 1
    assert monitor.deadline_s == 2.0


def test_without_objectives_there_is_nothing_to_judge():
    monitor = Monitor(MonitorParams(), now_s=0.0)

    assert monitor.deadline_s is None
    assert monitor.advance(now_s=60.0) == []
    assert monitor.verdicts(now_s=60.0) == ()


def test_asking_for_verdicts_changes_nothing():
    asked, silent = Clinic(TTFT), Clinic(TTFT)
    for clinic in (asked, silent):
        for second in range(90):
            clinic.serve(ttft_s=0.1 if second < 60 else 0.9, for_s=1)
            for _ in range(5 if clinic is asked else 0):
                clinic.monitor.verdicts(now_s=clinic.now_s)

    assert asked.said == silent.said
    assert asked.verdict == silent.verdict


def test_every_state_has_a_way_for_every_reading_of_a_tick():
    readings = set(Reading) - {Reading.RECOVERED}

    assert set(TRANSITIONS) == {(state, reading) for state in State for reading in readings} | {
        (State.RECOVERING, Reading.RECOVERED)
    }


def test_no_data_never_leads_out_of_a_violation():
    assert TRANSITIONS[State.VIOLATED, Reading.MISSING] is State.VIOLATED
    assert TRANSITIONS[State.RECOVERING, Reading.MISSING] is State.VIOLATED


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("window_s", {"window_s": 10.0}),
        ("act_nats", {"act_nats": 1.0}),
        ("hold_ticks", {"hold_ticks": 0}),
        ("objectives", {"objectives": (TTFT, TTFT)}),
    ],
)
def test_contradicting_parameters_are_refused_by_name(field, params):
    with pytest.raises(OutOfBoundsError) as caught:
        MonitorParams(**params)

    assert caught.value.field == field
