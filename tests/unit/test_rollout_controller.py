"""Pins what a controller decides in each phase, how often it says so, and which evidence it goes on from."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import MappingProxyType

import pytest

from rollout.assignment import FlagSnapshot
from rollout.controller import Controller
from rollout.decisions import Hold, Pause, Promote, RollBack
from rollout.guards import Arm, Attribution, Guard, GuardParams
from rollout.spec import Feature, Mode, Spec, Stage, Trouble
from rollout.stages import Input, State, apply
from rollout.standing import PERIOD_S
from rollout.verdict import Kind

PARAMS = GuardParams()
STAGES = (
    Stage(name="canary", percentage=50.0, hold_s=10.0, promote_below_percent=5.0),
    Stage(name="mid", percentage=60.0, hold_s=10.0, promote_below_percent=5.0),
    Stage(name="full", percentage=100.0),
)
CANARY, CONTROL = Arm.CANARY, Arm.CONTROL
TICK_S = 0.25


class Rig:
    """
    A controller with the flags that it follows, and a clock of its own.

    Args:
        mode: Of feature `f`.
        percentage: Its `rollout_percentage`.
        params: What the guards hold.
        promotes: Of the spec.
        stages: Of the spec.
        requires: A direct feature `g` with this percentage.
    """

    def __init__(
        self,
        *,
        mode: Mode = Mode.STAGED,
        percentage: float = 100.0,
        params: GuardParams = PARAMS,
        promotes: bool = True,
        stages: tuple[Stage, ...] = STAGES,
        requires: float | None = None,
    ) -> None:
        feature = Feature(
            name="f",
            mode=mode,
            rollout_percentage=percentage,
            requires=() if requires is None else ("g",),
            expects=(),
        )
        features = {"f": feature}
        if requires is not None:
            features["g"] = Feature(name="g", rollout_percentage=requires)
        self.spec = Spec(features=MappingProxyType(features), stages=stages, promotes=promotes)
        self.controller = Controller("f", params)
        self.state = State(feature="f")
        self.killed = False
        self.now_s = 1000.0
        self.follow()
        if mode is Mode.STAGED:
            self.give(Input.START)

    def follow(self, **spec) -> None:
        """Tell the controller where the feature stands, after changes of the declaration."""
        self.spec = replace(self.spec, **spec)
        snapshot = FlagSnapshot(
            self.spec, {"f": self.state}, revision=self.state.revision, killed=self.killed
        )
        self.controller.follow(snapshot)

    def give(self, given: Input, **other) -> None:
        """Change the feature's state, as the ledger would."""
        after = apply(self.state, given, spec=self.spec, now_unix_s=self.now_s, actor="ann", **other)
        self.state = replace(after, revision=self.state.revision + 1)
        self.follow()

    def restart(self, params: GuardParams = PARAMS, *, damage: dict | None = None) -> None:
        """Begin with a new controller and what the old one left behind."""
        saved = json.loads(json.dumps(self.controller.document()))
        self.controller = Controller("f", params, saved=saved if damage is None else saved | damage)
        self.follow()

    def serve(self, *, passed: int = 0, failed: int = 0, control_failed: int = 0) -> list[RollBack]:
        """End requests of keys of their own; control gets as many that pass as the canary."""
        decided = []
        for arm, count, fails in (
            (CONTROL, passed, False),
            (CANARY, passed, False),
            (CONTROL, control_failed, True),
            (CANARY, failed, True),
        ):
            for key in range(count):
                decided.append(self.controller.ended(arm, failed=fails, key=key))
        return [each for each in decided if each is not None]

    def tick(self, seconds: float = TICK_S, *, passed: int = 1) -> list:
        """Let time pass by ticks with so many canary requests in each, and collect the decisions."""
        decided = []
        for _ in range(round(seconds / TICK_S)):
            self.serve(passed=passed)
            self.now_s += TICK_S
            decided += self.controller.advance(now_s=self.now_s)
        return decided

    def slow_down(self, factor: float, *, ticks: int = 60) -> list:
        """Serve first tokens that take so much longer in the canary."""
        draw, decided = random.Random(3), []
        for _ in range(ticks):
            for arm, by in ((CANARY, factor), (CONTROL, 1.0)) * 5:
                self.controller.first_token(arm, by * draw.lognormvariate(-1, 0.5))
            decided += self.tick()
        return decided


SHARED = replace(PARAMS, holds_on_shared_incident=True)


def test_the_deciding_failure_is_answered_with_a_rollback_at_once():
    rig = Rig()
    rig.serve(passed=20)

    (decision,) = rig.serve(failed=4)

    assert (decision.feature, decision.guard) == ("f", Guard.ERRORS)
    assert decision.why.startswith("3 of 23 canary requests failed; the limit is 0.1 %")
    assert decision.evidence["canary"]["failed"] == 3
    assert json.loads(json.dumps(decision.evidence)) == decision.evidence


@pytest.mark.parametrize(
    "phase", [(), (Input.HOLD,), (Input.PAUSE,), (Input.PROMOTE,), (Input.PROMOTE, Input.PROMOTE)]
)
def test_failures_roll_back_in_every_phase(phase):
    rig = Rig()
    for given in phase:
        rig.give(given)

    assert len(rig.serve(failed=4)) == 1


def test_a_rollback_that_nothing_came_of_is_given_again_after_a_minute():
    rig = Rig()
    rig.tick()
    rig.serve(failed=4)

    assert rig.tick(59.0, passed=0) == []
    assert [type(each) for each in rig.tick(2.0, passed=0)] == [RollBack]


def test_a_rolled_back_feature_decides_nothing_more_and_keeps_its_evidence_in_sight():
    rig = Rig()
    rig.serve(failed=2)
    rig.give(Input.ROLLBACK)

    assert rig.serve(failed=10) == rig.tick(10.0) == []
    judged = rig.controller.judged()
    assert (judged.findings.canary.failed, judged.verdict) == (2, None)


def test_a_rollout_that_is_started_again_has_a_clean_record():
    rig = Rig()
    rig.serve(failed=2)
    rig.give(Input.ROLLBACK)
    rig.now_s += 1
    rig.give(Input.START)

    assert rig.controller.judged().findings.canary.failed == 0
    assert rig.tick() == []


def test_what_failed_in_both_arms_is_rolled_back_by_default_and_called_shared():
    (decision,) = Rig().serve(failed=4, control_failed=4)

    assert decision.attribution is Attribution.SHARED


def test_what_failed_in_both_arms_holds_where_that_is_asked_for():
    rig = Rig(params=SHARED)

    assert rig.serve(failed=4, control_failed=4) == []
    (decision,) = rig.tick()
    assert isinstance(decision, Hold)
    assert decision.why.startswith("control fails as well; ")


def test_a_shared_incident_neither_rolls_back_nor_promotes_what_holds_already():
    rig = Rig(params=SHARED)
    rig.give(Input.HOLD)
    rig.serve(failed=4, control_failed=4)

    assert rig.tick(20.0) == []


def test_a_stage_held_by_a_shared_incident_goes_on_when_it_has_long_been_over():
    rig = Rig(params=SHARED)
    rig.serve(failed=4, control_failed=4)
    rig.tick()
    rig.give(Input.HOLD)

    decided = rig.tick(20.0, passed=400)

    assert [type(each) for each in decided] == [Promote]


def test_a_canary_that_fails_beside_a_clean_control_is_rolled_back_all_the_same():
    rig = Rig(params=SHARED)
    for key in range(6000):
        rig.controller.ended(CONTROL, failed=False, key=key)

    assert [each.attribution for each in rig.serve(failed=4)] == [Attribution.CANARY]


def test_a_canary_worse_than_control_but_within_the_limit_is_paused():
    rig = Rig(params=replace(PARAMS, error_limit_ratio=0.1))
    rig.serve(passed=3000)
    rig.tick()
    rig.serve(failed=40)

    (decision,) = rig.tick()

    assert (type(decision), decision.guard) == (Pause, Guard.RELATIVE)
    assert decision.why.startswith("40 of 3 042 canary requests failed, and 0 of 3 002 control requests")


def test_a_canary_worse_than_control_that_may_be_above_the_limit_is_rolled_back():
    rig = Rig(params=replace(PARAMS, error_limit_ratio=0.5))

    (decision,) = rig.serve(failed=40)

    assert (decision.guard, decision.attribution) == (Guard.RELATIVE, Attribution.CANARY)


def test_a_slow_canary_is_paused_and_a_very_slow_one_rolled_back():
    decided = Rig().slow_down(2.0)

    assert [(type(each), each.guard) for each in decided] == [
        (Pause, Guard.TTFT),
        (RollBack, Guard.TTFT_FAR),
    ]
    assert decided[1].attribution is Attribution.CANARY


def test_refusals_of_the_canary_pause_it():
    rig = Rig()
    for key in range(30):
        rig.controller.arrived(CANARY, key)
        rig.controller.refused(CANARY)

    (decision,) = rig.tick()

    assert (type(decision), decision.guard) == (Pause, Guard.REFUSED)


@pytest.mark.parametrize("inputs", [(Input.PAUSE,), (Input.PROMOTE, Input.PROMOTE)])
def test_nothing_is_paused_that_cannot_be(inputs):
    rig = Rig(percentage=70.0)
    for given in inputs:
        rig.give(given)
    for _ in range(30):
        rig.controller.refused(CANARY)

    assert rig.tick(2.0) == []
    assert rig.controller.judged().findings.readings[Guard.REFUSED].is_tripped


def test_a_pause_is_asked_for_once_and_after_a_resume_the_guard_begins_anew():
    rig = Rig()
    for _ in range(30):
        rig.controller.refused(CANARY)
    first = rig.tick(5.0)
    rig.give(Input.PAUSE)
    paused = rig.tick(5.0)
    rig.give(Input.RESUME)
    resumed = rig.tick(3.0)
    for _ in range(30):
        rig.controller.refused(CANARY)

    assert ([type(each) for each in first], paused, resumed) == ([Pause], [], [])
    assert [type(each) for each in rig.tick()] == [Pause]


def test_nothing_but_a_resume_takes_evidence_from_a_guard():
    rig = Rig()
    for _ in range(30):
        rig.controller.refused(CANARY)
    rig.tick()
    rig.follow()

    assert rig.controller.judged().findings.readings[Guard.REFUSED].is_tripped


def test_a_resume_while_the_gateway_was_down_counts_as_one():
    rig = Rig()
    for _ in range(30):
        rig.controller.refused(CANARY)
    rig.tick()
    rig.give(Input.PAUSE)
    saved = rig.controller.document()
    rig.give(Input.RESUME)
    rig.controller = Controller("f", PARAMS, saved=saved)
    rig.follow()

    assert rig.tick() == []


def test_other_params_are_taken_up_with_what_was_gathered_and_begin_another_time():
    rig = Rig()
    rig.tick(2.0, passed=100)
    gathered = rig.controller.judged().findings.canary
    rig.controller.begin_anew(replace(PARAMS, failures_per_key=3), saved=rig.controller.document())
    rig.follow()

    assert rig.controller.begun == 2
    assert rig.controller.judged().findings.canary == gathered


def test_what_was_gathered_can_be_forgotten():
    rig = Rig()
    rig.tick(2.0, passed=100)
    rig.controller.begin_anew(PARAMS, saved=None)
    rig.follow()

    assert rig.controller.judged().findings.canary.finished == 0


def test_another_ceiling_begins_another_time_at_the_same_revision():
    rig = Rig(mode=Mode.DIRECT, percentage=50.0)
    rig.follow(features=MappingProxyType({"f": Feature(name="f", rollout_percentage=1.0)}))

    assert rig.controller.begun == 2


def test_engine_hosts_that_die_decide_nothing():
    rig = Rig()
    for _ in range(100):
        rig.controller.infrastructure(CANARY)
        rig.controller.infrastructure(CONTROL)

    assert rig.tick(5.0) == []


def test_a_stage_that_met_everything_is_left_upward_when_its_hold_is_served():
    rig = Rig()

    assert rig.tick(10.0, passed=100) == []
    (decision,) = rig.tick(passed=100)
    assert isinstance(decision, Promote)
    assert decision.why == "10 s held; 0 of 4 100 canary requests failed"


def test_a_promotion_that_nothing_came_of_is_asked_for_again_after_a_minute():
    rig = Rig()
    decided = rig.tick(60.0, passed=100)

    assert [type(each) for each in decided] == [Promote]
    assert [type(each) for each in rig.tick(15.0)] == [Promote]


def test_the_next_stage_gathers_evidence_of_its_own():
    rig = Rig()
    rig.tick(11.0, passed=100)
    rig.give(Input.PROMOTE)

    assert rig.tick(9.0, passed=100) == []
    assert rig.controller.begun == 2
    assert rig.controller.judged().findings.canary.finished == 3600


def test_a_stage_without_enough_data_holds_and_says_what_is_missing():
    rig = Rig()

    (decision,) = rig.tick(15.0)

    assert isinstance(decision, Hold)
    assert decision.why.startswith(
        "41 canary requests, 0 failed; 105 are needed to exclude a failure rate of 5 %"
    )


def test_a_stage_that_holds_says_no_more_until_it_is_left_upward():
    rig = Rig()
    rig.tick(15.0)
    rig.give(Input.HOLD)

    assert [type(each) for each in rig.tick(60.0)] == [Promote]


def test_without_traffic_nothing_is_decided_for_ever():
    rig = Rig()
    rig.now_s += 3e7

    assert rig.tick(100.0, passed=0) == []
    found = rig.controller.judged().verdict
    assert (found.kind, found.eta_s) == (Kind.INCONCLUSIVE, None)


def test_a_stage_that_holds_is_not_left_upward_once_its_data_is_old():
    rig = Rig(requires=10.0)
    rig.tick(11.0, passed=100)
    rig.give(Input.HOLD)
    rig.now_s += 3600
    rig.tick(1.0, passed=0)
    rig.follow(features=MappingProxyType(dict(rig.spec.features) | {"g": Feature(name="g")}))

    assert rig.tick(5.0, passed=0) == []


def test_promotion_by_hand_is_waited_for():
    rig = Rig(promotes=False)

    (decision,) = rig.tick(15.0, passed=100)

    assert isinstance(decision, Hold)
    assert decision.why == "the stage has met everything; promotion is manual"
    assert rig.controller.judged().verdict.kind is Kind.PASS


def test_a_prerequisite_behind_it_keeps_a_stage_where_it_is():
    (decision,) = Rig(requires=40.0).tick(15.0, passed=100)

    assert isinstance(decision, Hold)
    assert decision.why == "it requires g at this share at least"


def test_trouble_keeps_a_stage_that_asks_for_quiet():
    stages = (replace(STAGES[0], quiet=(Trouble.RESOURCE,)), *STAGES[1:])
    rig = Rig(stages=stages)
    rig.tick(5.0, passed=100)
    rig.controller.trouble(Trouble.RESOURCE)

    (decision,) = rig.tick(6.0, passed=100)

    assert isinstance(decision, Hold)
    assert decision.why.endswith("of 10 s are without a shortage of memory")


def test_a_stage_that_was_edited_away_waits_for_a_person():
    rig = Rig()
    rig.follow(stages=STAGES[1:])

    (decision,) = rig.tick(20.0, passed=100)

    assert isinstance(decision, Hold)
    assert decision.why == "stage canary is no longer declared; promote it by force, or stop it"
    assert rig.serve(failed=10)


@pytest.mark.parametrize(("ceiling", "decision"), [(50.0, Hold), (20.0, Hold), (55.0, Promote)])
def test_a_stage_is_left_upward_only_if_that_lets_in_more(ceiling, decision):
    rig = Rig(percentage=ceiling)

    decided = rig.tick(15.0, passed=100)

    assert [type(each) for each in decided] == [decision]


def test_a_ceiling_that_keeps_a_stage_where_it_is_is_named():
    (decision,) = Rig(percentage=50.0).tick(15.0, passed=100)

    assert decision.why == "rollout_percentage is 50; the next stage would let in nobody more"


def test_a_compressed_rollout_goes_through_the_same_stages_sooner():
    rig = Rig()
    rig.give(Input.STOP)
    rig.give(Input.START, compress=10.0)

    assert [type(each) for each in rig.tick(1.5, passed=400)] == [Promote]


def test_a_feature_that_is_off_has_no_evidence_and_takes_no_facts():
    rig = Rig()
    rig.give(Input.STOP)
    rig.controller.arrived(CANARY, 1)
    rig.controller.first_token(CANARY, 1.0)
    rig.controller.refused(CANARY)
    rig.controller.infrastructure(CANARY)
    rig.controller.trouble(Trouble.INCIDENT)

    assert rig.serve(failed=10) == rig.tick() == []
    assert rig.controller.judged() is None
    assert rig.controller.document() is None


def test_a_feature_that_is_not_declared_decides_nothing():
    rig = Rig()
    rig.follow(features=MappingProxyType({"h": Feature(name="h")}))

    assert rig.tick() == []
    assert rig.controller.judged() is None


def test_while_killed_nothing_counts_and_afterwards_the_stage_goes_on():
    rig = Rig()
    rig.tick(5.0, passed=100)
    rig.killed = True
    rig.follow()
    rig.serve(failed=10)
    rig.tick(100.0)
    rig.killed = False
    rig.follow()

    judged = rig.controller.judged()
    assert (judged.findings.canary.failed, judged.findings.served_s) == (0, 4.75)
    assert [type(each) for each in rig.tick(8.0, passed=100)] == [Promote]


def test_evidence_of_the_same_entry_outlives_a_restart():
    rig = Rig()
    rig.tick(9.0, passed=100)
    rig.restart()

    assert rig.controller.problem is None
    assert [type(each) for each in rig.tick(3.0, passed=100)] == [Promote]


def test_evidence_of_another_entry_does_not():
    rig = Rig()
    rig.tick(9.0, passed=100)
    rig.give(Input.STOP)
    saved = Rig().controller.document()
    rig.give(Input.START)
    rig.controller = Controller("f", PARAMS, saved=saved)
    rig.follow()

    assert rig.controller.judged().findings.canary.finished == 0


@pytest.mark.parametrize("evidence", [None, [], {}, {"version": 1}])
def test_damaged_evidence_begins_anew_and_says_so(evidence):
    rig = Rig()
    rig.tick(9.0, passed=100)
    rig.restart(damage={"evidence": evidence})

    assert rig.controller.problem
    assert rig.controller.judged().findings.canary.finished == 0


def test_other_limits_begin_anew_and_other_risks_do_not():
    rig = Rig()
    rig.tick(9.0, passed=100)
    rig.restart(replace(PARAMS, false_rollback_ratio=0.01))
    kept = rig.controller.judged().findings.canary.finished
    rig.restart(replace(PARAMS, error_limit_ratio=0.01))

    assert (kept, rig.controller.judged().findings.canary.finished) == (3600, 0)
    assert rig.controller.problem == "it was gathered by another version, or under other rules"


def test_what_was_saved_is_kept_until_the_feature_is_on_again():
    rig = Rig()
    rig.tick(5.0)
    before = rig.controller.document()
    rig.killed = True
    rig.restart()

    assert rig.controller.judged() is None
    assert rig.controller.document() == before


def test_a_stage_that_is_edited_goes_on_with_its_evidence():
    rig = Rig()
    rig.tick(5.0, passed=100)
    rig.follow(stages=(replace(STAGES[0], hold_s=6.0), *STAGES[1:]))

    assert [type(each) for each in rig.tick(2.0, passed=100)] == [Promote]


def test_another_ceiling_compares_anew_and_keeps_the_hold():
    rig = Rig()
    rig.tick(5.0, passed=100)
    rig.serve(failed=1)
    lower = replace(rig.spec.features["f"], rollout_percentage=20.0)
    rig.follow(features=MappingProxyType({"f": lower}))

    findings = rig.controller.judged().findings
    assert (findings.served_s, findings.canary.failed) == (4.75, 1)
    assert findings.readings[Guard.RELATIVE].evidence == 1.0
    assert findings.readings[Guard.ERRORS].evidence > 1.0


def test_what_a_gateway_left_behind_is_judged_without_fresh_data():
    rig = Rig()
    rig.tick(11.0, passed=100)
    rig.restart()

    assert rig.controller.judged().verdict.kind is Kind.INCONCLUSIVE
    assert rig.controller.judged(needs_fresh=False).verdict.kind is Kind.PASS


def test_a_direct_feature_below_100_percent_is_rolled_back():
    assert len(Rig(mode=Mode.DIRECT, percentage=10.0).serve(failed=4)) == 1


def test_a_direct_feature_at_100_percent_only_shows_that_it_is_beyond_the_limit():
    rig = Rig(mode=Mode.DIRECT)

    assert rig.serve(failed=10) == rig.tick() == []
    judged = rig.controller.judged()
    assert judged.findings.readings[Guard.ERRORS].is_tripped
    assert judged.verdict is None


def test_a_direct_feature_at_100_percent_is_rolled_back_where_that_is_asked_for():
    rig = Rig(mode=Mode.DIRECT, params=replace(PARAMS, rolls_back_direct=True))

    assert len(rig.serve(failed=4)) == 1


def test_a_direct_feature_is_never_paused_held_or_promoted():
    rig = Rig(mode=Mode.DIRECT, percentage=50.0)
    for _ in range(30):
        rig.controller.refused(CANARY)

    assert rig.tick(20.0, passed=100) == []


def test_a_direct_feature_that_is_reset_has_a_clean_record():
    rig = Rig(mode=Mode.DIRECT, percentage=50.0)
    rig.serve(failed=4)
    rig.give(Input.ROLLBACK)
    rig.give(Input.RESET)

    assert rig.controller.judged().findings.canary.failed == 0


@pytest.mark.parametrize("mode", Mode)
def test_what_is_watched_for_good_begins_anew_after_thirty_days(mode):
    rig = Rig(mode=mode)
    if mode is Mode.STAGED:
        rig.give(Input.PROMOTE)
        rig.give(Input.PROMOTE)
    rig.serve(failed=1)
    document = rig.controller.document()
    document["evidence"]["clock"]["served_s"] = PERIOD_S - 0.1
    rig.controller = Controller("f", PARAMS, saved=document)
    rig.follow()
    before = rig.controller.judged().findings.canary.failed

    rig.tick(1.0)

    after = rig.controller.judged().findings
    assert (before, after.canary.failed) == (1, 0)
    assert after.served_s < 1.0
