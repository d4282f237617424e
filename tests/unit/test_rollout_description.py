"""Pins the rows in which features are told to screens, to JSON and to the command line."""

from __future__ import annotations

import json

from rollout.assignment import FlagSnapshot
from rollout.controller import Controller
from rollout.description import describe
from rollout.guards import Arm, Guard, GuardParams
from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, Phase, State, apply
from rollout.verdict import Judged

SPEC = Spec(features={"f": Feature(name="f", mode=Mode.STAGED), "d": Feature(name="d")})


def snapshot_of(state: State) -> FlagSnapshot:
    """Put the staged feature in a state."""
    return FlagSnapshot(SPEC, {"f": state}, revision=state.revision)


def started(**other) -> State:
    """Start the staged feature."""
    return apply(State(feature="f"), Input.START, spec=SPEC, now_unix_s=5.0, actor="ann", **other)


def judged_at(state: State) -> Judged:
    """Judge it after one failure."""
    controller = Controller("f", GuardParams())
    controller.follow(snapshot_of(state))
    controller.ended(Arm.CANARY, failed=True, key=1)
    controller.advance(now_s=0.0)
    judged = controller.judged()
    assert judged is not None
    return judged


def test_a_row_tells_where_a_staged_feature_stands():
    row, _ = describe(snapshot_of(started()))

    assert (row["feature"], row["phase"], row["stage"], row["stage_index"]) == ("f", "running", "canary", 0)
    assert (row["percentage"], row["cause"], row["hold_s"], row["compress"]) == (1.0, "stage", 86_400.0, 1.0)


def test_without_evidence_nothing_is_found():
    row, _ = describe(snapshot_of(started()))

    assert (row["findings"], row["verdict"], row["held_s"]) == (None, None, None)


def test_a_row_tells_what_was_found_and_what_follows_from_it():
    state = started()

    row, other = describe(snapshot_of(state), judged={"f": judged_at(state)})

    assert row["findings"]["canary"]["failed"] == 1
    assert set(row["findings"]["readings"]) == set(Guard)
    assert row["findings"]["readings"]["errors"]["limit"] == 2000.0
    assert row["verdict"]["kind"] == "fail"
    assert row["held_s"] == row["findings"]["served_s"] == 0.0
    assert other["findings"] is None


def test_a_compressed_stage_tells_the_hold_that_it_serves():
    row, _ = describe(snapshot_of(started(compress=1440.0)))

    assert (row["hold_s"], row["compress"]) == (60.0, 1440.0)
    assert row["stages"][0]["hold_s"] == 86_400.0


def test_a_direct_feature_has_no_stage():
    _, row = describe(snapshot_of(started()))

    assert (row["phase"], row["stage"], row["stage_index"], row["hold_s"]) == (None, None, None, None)


def test_a_rolled_back_feature_tells_its_last_findings_and_no_hold():
    before = started()
    state = State(feature="f", phase=Phase.ROLLED_BACK, stage="canary", entered_unix_s=5.0)

    row, _ = describe(snapshot_of(state), judged={"f": Judged(judged_at(before).findings, None)})

    assert (row["phase"], row["stage"], row["held_s"], row["verdict"]) == (
        "rolled_back",
        "canary",
        None,
        None,
    )
    assert row["findings"]["canary"]["failed"] == 1


def test_rows_are_plain_json():
    state = started()
    rows = describe(snapshot_of(state), judged={"f": judged_at(state)})

    assert json.loads(json.dumps(rows, allow_nan=False))[0]["findings"] == rows[0]["findings"]
