"""Pins the rollouts' shell: who is in which arm, rollback in the deciding call, the rest written first."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from rollout.guards import Arm, Guard, GuardParams
from rollout.spec import Feature, Key, Mode, Spec, Stage, Trouble
from rollout.stages import Input, Phase, apply, state_from
from tests.fakes import Clock, request
from wicketgate.ending import Ending
from wicketgate.flags import FlagBoard
from wicketgate.ledger import NO_ROW, Ledger
from wicketgate.metrics import Metrics
from wicketgate.rollouts import SAVE_S, TICK_S, Rollouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wicketgate.inference import InferenceRequest

UNIX_S = 1_700_000_000.0
STAGES = (
    Stage(name="half", percentage=50, hold_s=1.0, promote_below_percent=20.0),
    Stage(name="most", percentage=90, hold_s=3600.0),
    Stage(name="full", percentage=100),
)
NEW = Feature(name="new", mode=Mode.STAGED, expects=())
SPEC = Spec(
    features={
        "new": NEW,
        "child": Feature(name="child", rollout_percentage=50, requires=("new",)),
        "wire": Feature(name="wire", rollout_percentage=50, key=Key.CONNECTION),
        "all": Feature(name="all"),
        "off": Feature(name="off", enabled=False),
    },
    stages=STAGES,
)


class Desk:
    """Rollouts over a real board and ledger; what blocks waits until it is told to go on."""

    def __init__(self, folder: Path, *, spec: Spec = SPEC, params: GuardParams | None = None) -> None:
        self.clock = Clock()
        self.ledger = Ledger(folder / "ledger.db", unix_clock=lambda: UNIX_S, timeout_s=0.05)
        self.board = FlagBoard(spec, self.ledger, clock=self.clock, unix_clock=lambda: UNIX_S)
        self.metrics = Metrics(CollectorRegistry(), models=("demo",), features=tuple(spec.features))
        self.works: list[Callable[[], None]] = []
        self.rollouts = Rollouts(
            self.board,
            self.ledger,
            params=params or GuardParams(),
            metrics=self.metrics,
            offload=self.works.append,
            clock=self.clock,
            unix_clock=lambda: UNIX_S,
        )

    def change(self, given: Input, *, feature: str = "new", **other: object) -> None:
        """Do to the ledger what the command line does, and let the board see it."""
        state = state_from(feature, *self.ledger.read().rows.get(feature, NO_ROW))
        after = apply(state, given, spec=SPEC, now_unix_s=UNIX_S, actor="ann@mill", **other)
        self.ledger.change([feature], lambda *_: after.document(), action=given, actor="ann@mill", reason="")
        self.board.refresh()

    def request(self, number: int, **other: object) -> InferenceRequest:
        return replace(request(f"r{number}"), key=f"k{number}", connection="127.0.0.1:9", **other)

    def requests(self, arm: Arm, count: int, *, feature: str = "new") -> list[InferenceRequest]:
        """Return requests that are on one side of a feature."""
        found = []
        for number in range(10_000):
            asked = self.request(number)
            on = self.board.assign(asked.key, connection=asked.connection).on
            if (feature in on) == (arm is Arm.CANARY):
                found.append(asked)
            if len(found) == count:
                break
        return found

    def serve(self, asked: InferenceRequest, ending: Ending = Ending.OK) -> None:
        """Let a request arrive and end."""
        assigned = self.rollouts.assign(asked)
        self.rollouts.arrived(assigned, asked)
        if ending is Ending.OK:
            self.rollouts.first_token(assigned, ttft_s=0.1)
        self.rollouts.ended(assigned, asked, ending=ending, tpot_s=0.01)

    def arms(self, asked: InferenceRequest) -> dict[str, str]:
        return {side.controller.feature: str(side.arm) for side in self.rollouts.assign(asked).sides}

    def tick(self, seconds: float = TICK_S) -> None:
        """Let ticks pass, and do what they want done in threads."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.rollouts.tick()
            self.work()

    def work(self) -> None:
        works = list(self.works)
        self.works.clear()
        for work in works:
            work()

    @property
    def phase(self) -> Phase:
        return self.board.snapshot.states["new"].phase


def show_enough(desk: Desk) -> None:
    """Let a stage show all that it asks for, up to the decision to leave it."""
    for number in range(120):
        desk.serve(desk.request(number))
    desk.tick()  # saves the evidence of a stage that was just entered
    while not desk.works:
        desk.clock.advance(TICK_S)
        desk.rollouts.tick()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_request_is_canary_of_what_it_is_on_and_control_of_what_it_could_have_been_on(desk: Desk) -> None:
    desk.change(Input.START)
    (canary,), (control,) = desk.requests(Arm.CANARY, 1), desk.requests(Arm.CONTROL, 1)

    assert desk.arms(canary)["new"] == "canary"
    assert desk.arms(control)["new"] == "control"


def test_a_request_that_lacks_a_prerequisite_is_in_neither_arm(desk: Desk) -> None:
    desk.change(Input.START)
    (off_parent,) = desk.requests(Arm.CONTROL, 1)
    (on_parent,) = desk.requests(Arm.CANARY, 1)

    assert "child" not in desk.arms(off_parent)
    assert "child" in desk.arms(on_parent)


def test_a_feature_that_is_off_for_everybody_has_no_arms(desk: Desk) -> None:
    assert set(desk.arms(desk.request(1))) == {"wire", "all"}


def test_nobody_is_a_sample_of_anything_while_the_kill_switch_is_on(desk: Desk) -> None:
    desk.board.kill(actor="ann@mill", reason="r")

    assert desk.arms(desk.request(1)) == {}


def test_a_request_without_a_connection_is_no_control_of_a_feature_of_connections(desk: Desk) -> None:
    with_one = desk.arms(desk.request(1))
    without = desk.arms(replace(desk.request(1), connection=None))

    assert "wire" in with_one
    assert "wire" not in without


def test_requests_with_the_same_flags_share_what_was_worked_out(desk: Desk) -> None:
    assert desk.rollouts.assign(desk.request(1)) is desk.rollouts.assign(desk.request(1))


def test_every_decision_is_counted(desk: Desk) -> None:
    desk.rollouts.assign(desk.request(1))

    page = desk.metrics.render().decode()
    assert 'rollout_decisions_total{cause="direct",feature="all",variant="on"} 1.0' in page


def test_the_second_failing_canary_is_the_last_request_that_was_on(desk: Desk) -> None:
    desk.change(Input.START)
    first, second, third = desk.requests(Arm.CANARY, 3)

    desk.serve(first, Ending.FAILED)
    after_one = "new" in desk.rollouts.assign(third).on
    desk.serve(second, Ending.FAILED)

    assert after_one
    assert "new" not in desk.rollouts.assign(third).on
    assert desk.ledger.read().rows["new"].document["phase"] == "running"


def test_a_rollback_of_a_guard_is_saved_with_who_why_and_the_evidence(desk: Desk) -> None:
    desk.change(Input.START)
    for asked in desk.requests(Arm.CANARY, 2):
        desk.serve(asked, Ending.FAILED)

    desk.work()

    record = desk.ledger.history()[0]
    assert (record["action"], record["actor"], record["to"]["phase"]) == (
        "rollback",
        "auto:errors",
        "rolled_back",
    )
    assert "2 of 2 canary requests failed" in record["reason"]
    evidence = record["evidence"]
    assert (evidence["guard"], evidence["canary"]["failed"], evidence["control"]["failed"]) == (
        "errors",
        2,
        0,
    )
    assert evidence["readings"]["errors"]["evidence"] >= evidence["readings"]["errors"]["limit"]
    assert desk.ledger.verify() == 2


def test_a_feature_that_requires_the_one_that_failed_is_off_with_it_and_not_latched(desk: Desk) -> None:
    desk.change(Input.START)
    both = [asked for asked in desk.requests(Arm.CANARY, 20) if "child" in desk.rollouts.assign(asked).on]

    for asked in both[:2]:
        desk.serve(asked, Ending.FAILED)
    desk.work()

    assert {"new", "child"}.isdisjoint(desk.rollouts.assign(both[2]).on)
    assert set(desk.ledger.read().rows) == {"new"}


def test_a_failure_that_rolls_one_feature_back_is_not_held_against_the_others(desk: Desk) -> None:
    desk.change(Input.START)

    for asked in desk.requests(Arm.CANARY, 2):
        desk.serve(asked, Ending.FAILED)

    failed = {name: each.findings.canary.failed for name, each in desk.rollouts.judged().items()}
    assert (failed["new"], failed["all"]) == (2, 1)


def test_a_rollback_of_a_guard_is_counted_with_the_guard_and_how_long_it_took(desk: Desk) -> None:
    desk.change(Input.START)
    for asked in desk.requests(Arm.CANARY, 2):
        desk.serve(asked, Ending.FAILED)
    desk.work()

    page = desk.metrics.render().decode()
    assert 'rollout_rollbacks_total{attribution="unknown",feature="new",trigger="errors"} 1.0' in page
    for step in ("detect", "flip", "durable"):
        assert f'rollout_rollback_seconds_count{{step="{step}"}} 1.0' in page


def test_a_rollback_that_cannot_be_saved_holds_in_memory(desk: Desk) -> None:
    desk.change(Input.START)
    canary = desk.requests(Arm.CANARY, 2)
    desk.ledger.path.write_bytes(b"spoilt" * 2000)
    for asked in canary:
        desk.serve(asked, Ending.FAILED)

    desk.work()

    assert "new" not in desk.rollouts.assign(canary[0]).on
    assert desk.board.unsaved == 1


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.INFRASTRUCTURE, Ending.IGNORED])
def test_what_is_no_failure_rolls_nothing_back(desk: Desk, ending: Ending) -> None:
    desk.change(Input.START)

    for asked in desk.requests(Arm.CANARY, 30):
        desk.serve(asked, ending)
        desk.tick()

    assert desk.phase is not Phase.ROLLED_BACK


def test_failing_controls_roll_nothing_back(desk: Desk) -> None:
    desk.change(Input.START)

    for asked in desk.requests(Arm.CONTROL, 30):
        desk.serve(asked, Ending.FAILED)
        desk.tick()

    assert desk.phase is Phase.RUNNING


def test_one_key_that_fails_again_and_again_counts_twice_at_most(tmp_path: Path) -> None:
    desk = Desk(tmp_path, params=GuardParams(failures_per_key=1))
    desk.change(Input.START)
    (asked,) = desk.requests(Arm.CANARY, 1)

    for _ in range(20):
        desk.serve(asked, Ending.FAILED)

    assert desk.rollouts.judged()["new"].findings.canary.failed == 20
    assert desk.phase is Phase.RUNNING


def test_requests_of_the_stage_before_say_nothing_of_this_one(desk: Desk) -> None:
    desk.change(Input.START)
    canary = desk.requests(Arm.CANARY, 5)
    assigned = [desk.rollouts.assign(asked) for asked in canary]
    desk.change(Input.PROMOTE)
    desk.tick()

    for asked, flags in zip(canary, assigned, strict=True):
        desk.rollouts.ended(flags, asked, ending=Ending.FAILED, tpot_s=None)

    assert desk.rollouts.judged()["new"].findings.canary.failed == 0


def test_requests_that_were_drawn_at_another_ceiling_say_nothing_of_this_one(desk: Desk) -> None:
    asked = [desk.request(number) for number in range(8)]
    assigned = [desk.rollouts.assign(each) for each in asked]
    lower = replace(SPEC.features["wire"], rollout_percentage=1)
    desk.board.replace_spec(replace(SPEC, features={**SPEC.features, "wire": lower}))
    desk.tick()

    for each, flags in zip(asked, assigned, strict=True):
        desk.rollouts.ended(flags, each, ending=Ending.FAILED, tpot_s=None)

    findings = desk.rollouts.judged()["wire"].findings
    assert desk.board.snapshot.shares["wire"].millipercent == 1000
    assert (findings.canary.failed, findings.control.failed) == (0, 0)


def test_a_stage_that_has_shown_enough_is_left_upward_in_the_ledger_first(desk: Desk) -> None:
    desk.change(Input.START)
    show_enough(desk)
    in_memory = desk.board.snapshot.states["new"].stage

    desk.work()

    record = desk.ledger.history()[0]
    assert in_memory == "half"
    assert desk.board.snapshot.states["new"].stage == "most"
    assert (record["action"], record["actor"], record["to"]["stage"]) == ("promote", "auto:promotion", "most")
    assert record["evidence"]["canary"]["failed"] == 0


def test_a_promotion_that_somebody_forestalled_is_dropped(desk: Desk) -> None:
    desk.change(Input.START)
    show_enough(desk)
    desk.change(Input.PAUSE)

    desk.work()

    assert desk.ledger.history()[0]["action"] == "pause"
    assert (desk.phase, desk.board.snapshot.states["new"].stage) == (Phase.PAUSED, "half")


def test_a_stage_without_data_is_held_and_says_what_is_missing(desk: Desk) -> None:
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0])

    desk.tick(3.0)

    record = desk.ledger.history()[0]
    assert (desk.phase, record["actor"]) == (Phase.HOLDING, "auto:promotion")
    assert "needed to exclude a failure rate of 20 %" in record["reason"]


def test_a_change_that_cannot_be_written_is_logged_and_changes_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0])
    desk.tick(0.5)
    desk.works.clear()
    desk.ledger.path.write_bytes(b"spoilt" * 2000)

    desk.tick(3.0)

    assert "rollout_not_moved" in [record.message for record in caplog.records]
    assert "new" not in desk.board.assign("any").on


def test_evidence_is_saved_once_a_minute_and_gone_on_from_after_a_restart(desk: Desk, tmp_path: Path) -> None:
    desk.change(Input.START)
    (canary, *_) = desk.requests(Arm.CANARY, 1)
    desk.serve(canary, Ending.FAILED)
    desk.tick(SAVE_S + TICK_S)

    again = Desk(tmp_path)

    assert again.rollouts.judged()["new"].findings.canary.failed == 1


def test_evidence_is_saved_at_the_end(desk: Desk, tmp_path: Path) -> None:
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0], Ending.FAILED)

    desk.rollouts.save()

    assert Desk(tmp_path).rollouts.judged()["new"].findings.canary.failed == 1


def test_evidence_of_another_entry_to_the_stage_is_not_gone_on_from(desk: Desk, tmp_path: Path) -> None:
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0], Ending.FAILED)
    desk.rollouts.save()
    desk.change(Input.STOP)
    state = state_from("new", *desk.ledger.read().rows["new"])
    after = apply(state, Input.START, spec=SPEC, now_unix_s=UNIX_S + 60, actor="ann@mill")
    desk.ledger.change(["new"], lambda *_: after.document(), action="start", actor="a", reason="")

    again = Desk(tmp_path)

    assert again.rollouts.judged()["new"].findings.canary.failed == 0


def test_evidence_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, params=GuardParams(fresh_within_s=1.0))
    desk.serve(desk.request(1))
    desk.tick(SAVE_S)
    desk.clock.advance(SAVE_S)

    desk.rollouts.tick()
    idle = list(desk.works)
    desk.serve(desk.request(1))
    desk.clock.advance(SAVE_S)
    desk.rollouts.tick()

    assert idle == []
    assert len(desk.works) == 1


def test_a_gateway_that_served_nobody_writes_nothing(desk: Desk) -> None:
    desk.tick(SAVE_S + TICK_S)
    desk.rollouts.save()

    assert not desk.ledger.path.exists()


def test_evidence_that_cannot_be_saved_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.ledger.path.write_bytes(b"spoilt" * 2000)
    desk.serve(desk.request(1))

    desk.rollouts.save()

    assert caplog.records[-1].message == "evidence_not_saved"


def test_damaged_evidence_is_begun_anew_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(tmp_path)
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0], Ending.FAILED)
    desk.rollouts.save()
    document = desk.ledger.read().evidence["new"]
    desk.ledger.save_evidence({"new": {**document, "evidence": {"errors": "?"}}})

    again = Desk(tmp_path)

    assert [(each.message, each.feature) for each in caplog.records] == [("evidence_lost", "new")]
    assert again.rollouts.judged()["new"].findings.canary.failed == 0


def test_other_limits_are_in_force_at_once_and_keep_what_they_can(desk: Desk) -> None:
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0])

    desk.rollouts.reconfigure(GuardParams(false_rollback_ratio=0.01))

    findings = desk.rollouts.judged()["new"].findings
    assert findings.canary.finished == 1
    assert findings.readings[Guard.ERRORS].limit == pytest.approx(200)


def test_requests_of_before_other_limits_roll_nothing_back_that_began_since(desk: Desk) -> None:
    desk.change(Input.START)
    canary = desk.requests(Arm.CANARY, 5)
    assigned = [desk.rollouts.assign(asked) for asked in canary]
    desk.rollouts.reconfigure(GuardParams(false_rollback_ratio=0.01))
    desk.change(Input.PROMOTE)
    desk.tick()

    for asked, flags in zip(canary, assigned, strict=True):
        desk.rollouts.ended(flags, asked, ending=Ending.FAILED, tpot_s=None)

    assert (desk.phase, desk.board.snapshot.states["new"].stage) == (Phase.RUNNING, "most")


def test_what_raises_while_a_feature_is_judged_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path, params=GuardParams(false_promotion_ratio=0.0))
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0])

    desk.tick(2.0)

    assert [(each.message, each.feature) for each in caplog.records if each.exc_info] == [
        ("rollout_not_judged", "new")
    ]
    assert desk.phase is Phase.RUNNING


def test_trouble_breaks_the_quiet_that_a_stage_asks_for(tmp_path: Path) -> None:
    stage = replace(STAGES[0], quiet=(Trouble.INCIDENT,), hold_s=100.0)
    desk = Desk(tmp_path, spec=replace(SPEC, stages=(stage, *STAGES[1:])))
    desk.change(Input.START)
    desk.serve(desk.requests(Arm.CANARY, 1)[0])
    desk.tick(5.0)
    before_s = desk.rollouts.judged()["new"].findings.quiet_s

    desk.rollouts.trouble(Trouble.INCIDENT)

    assert before_s > 4.0
    assert desk.rollouts.judged()["new"].findings.quiet_s == 0.0


def test_a_direct_feature_at_100_percent_is_rolled_back_only_where_that_is_wanted(tmp_path: Path) -> None:
    alerting = Desk(tmp_path / "a")
    acting = Desk(tmp_path / "b", params=GuardParams(rolls_back_direct=True))

    for desk in (alerting, acting):
        for number in range(5):
            desk.serve(desk.request(number), Ending.FAILED)

    assert "all" in alerting.rollouts.assign(alerting.request(1)).on
    assert alerting.rollouts.judged()["all"].findings.readings[Guard.ERRORS].is_tripped
    assert "all" not in acting.rollouts.assign(acting.request(1)).on


def test_what_finished_on_a_feature_at_100_percent_is_counted_before_a_failure_and_once(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    for number in range(3000):
        desk.serve(desk.request(number))
    desk.serve(desk.request(1), Ending.FAILED)

    desk.tick()

    findings = desk.rollouts.judged()["all"].findings
    assert (findings.canary.finished, findings.canary.failed) == (3000, 1)
    assert findings.readings[Guard.ERRORS].evidence < 20  # one failure of nobody else would be 123
