"""Pins the stage machine: the whole table, what is refused, what an entry is, and the latch of a rollback."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollout.latch import ROLLBACK, ROLLED_BACK, rolled_back
from rollout.spec import Feature, Mode, Spec, Stage
from rollout.stages import (
    TRANSITIONS,
    Input,
    Phase,
    State,
    TransitionError,
    UnknownStageError,
    allowed_inputs,
    apply,
    current_stage,
    next_stage,
    roll_back,
    stage_in_force,
    state_from,
)

DAY_S = 86_400.0
SPEC = Spec(features={"f": Feature(name="f", mode=Mode.STAGED), "d": Feature(name="d")})

EXPECTED = {
    Phase.OFF: {"start": "running", "stop": "off", "rollback": "rolled_back"},
    Phase.RUNNING: {
        "promote": "running",
        "pause": "paused",
        "stop": "off",
        "rollback": "rolled_back",
        "hold": "holding",
    },
    Phase.HOLDING: {"promote": "running", "pause": "paused", "stop": "off", "rollback": "rolled_back"},
    Phase.PAUSED: {"pause": "paused", "resume": "running", "stop": "off", "rollback": "rolled_back"},
    Phase.COMPLETE: {"stop": "off", "rollback": "rolled_back"},
    Phase.ROLLED_BACK: {"start": "running", "reset": "off", "rollback": "rolled_back"},
}


def at(phase: Phase, *, feature: str = "f") -> State:
    """Make a state of a phase, at `early` where it is at a stage."""
    state = State(feature=feature, revision=4, phase=phase)
    if phase is Phase.OFF:
        return state
    if phase is Phase.ROLLED_BACK:
        return replace(state, stage="early", entered_unix_s=50.0)
    return replace(state, stage="early", share_millipercent=10_000, entered_unix_s=50.0)


def after(state: State, given: Input, *, now_unix_s: float = 0.0, **other) -> State:
    """Apply one input."""
    return apply(state, given, spec=SPEC, now_unix_s=now_unix_s, actor="ann@mill", **other)


@pytest.mark.parametrize("given", Input)
@pytest.mark.parametrize("phase", Phase)
def test_every_cell_of_the_table_is_what_the_design_says(phase, given):
    expected = EXPECTED[phase].get(given)

    assert TRANSITIONS.get((phase, given)) == expected


@pytest.mark.parametrize("given", Input)
@pytest.mark.parametrize("phase", Phase)
def test_apply_follows_the_table_for_a_staged_feature(phase, given):
    if given is Input.RESET or given not in EXPECTED[phase]:
        with pytest.raises(TransitionError) as caught:
            after(at(phase), given)
        assert (caught.value.phase, caught.value.given) == (phase, given)
        assert set(caught.value.allowed) == set(EXPECTED[phase]) - {"reset"}
    else:
        assert after(at(phase), given).phase == EXPECTED[phase][given]


@pytest.mark.parametrize("given", Input)
@pytest.mark.parametrize("phase", Phase)
def test_a_direct_feature_knows_rollback_and_reset_only(phase, given):
    possible = given is Input.ROLLBACK or (given is Input.RESET and phase is Phase.ROLLED_BACK)

    assert (given in allowed_inputs(phase, Mode.DIRECT)) == possible


def test_a_refusal_names_feature_mode_and_phase():
    with pytest.raises(TransitionError, match="start is not possible for d: it is direct and off"):
        after(at(Phase.OFF, feature="d"), Input.START)


def test_start_enters_the_first_stage():
    state = after(State(feature="f"), Input.START, now_unix_s=100.0, reason="try")

    assert state == State(
        feature="f",
        phase=Phase.RUNNING,
        stage="canary",
        share_millipercent=1000,
        entered_unix_s=100.0,
        cause=Input.START,
        actor="ann@mill",
        reason="try",
        updated_unix_s=100.0,
    )


def test_start_at_the_last_stage_is_complete_at_once():
    state = after(State(feature="f"), Input.START, at_stage="full")

    assert (state.phase, state.share_millipercent) == (Phase.COMPLETE, 100_000)


def test_start_at_an_unknown_stage_is_refused_with_the_one_that_was_meant():
    with pytest.raises(UnknownStageError) as caught:
        after(State(feature="f"), Input.START, at_stage="erly")

    assert str(caught.value) == ("no stage named erly. Did you mean early? Stages: canary, early, mid, full")


def test_a_rollout_is_promoted_through_all_stages_and_enters_each_anew():
    state = after(State(feature="f"), Input.START, now_unix_s=0.0)
    seen = [(state.stage, state.phase, state.entered_unix_s)]
    for day in (1, 3, 6):
        state = after(state, Input.PROMOTE, now_unix_s=day * DAY_S)
        seen.append((state.stage, state.phase, state.entered_unix_s))

    assert seen == [
        ("canary", Phase.RUNNING, 0.0),
        ("early", Phase.RUNNING, DAY_S),
        ("mid", Phase.RUNNING, 3 * DAY_S),
        ("full", Phase.COMPLETE, 6 * DAY_S),
    ]


@pytest.mark.parametrize("given", [Input.HOLD, Input.PAUSE])
def test_what_stays_at_its_stage_stays_the_same_entry(given):
    state = after(at(Phase.RUNNING), given, now_unix_s=600.0, reason="evidence is missing")

    assert (state.stage, state.share_millipercent, state.entered_unix_s) == ("early", 10_000, 50.0)
    assert state.reason == "evidence is missing"


def test_a_resumed_stage_is_the_entry_that_was_paused():
    assert after(at(Phase.PAUSED), Input.RESUME, now_unix_s=600.0).entered_unix_s == 50.0


def test_a_compressed_rollout_stays_so_from_stage_to_stage():
    state = after(State(feature="f"), Input.START, compress=1440.0)

    assert after(state, Input.PROMOTE).compress == 1440.0


def test_compress_shortens_hold_and_quiet_alike():
    stage = stage_in_force(replace(at(Phase.RUNNING), compress=1440.0), SPEC)

    assert stage == replace(SPEC.stages[1], hold_s=120.0, quiet_s=60.0)


def test_a_stage_without_a_hold_is_compressed_to_one_without():
    state = replace(at(Phase.COMPLETE), stage="full", compress=2.0)

    assert stage_in_force(state, SPEC).hold_s is None


def test_without_compress_the_stage_is_the_declared_one():
    assert stage_in_force(at(Phase.RUNNING), SPEC) is SPEC.stages[1]


@pytest.mark.parametrize("share", [-1, 100_001, float("nan")])
def test_a_share_is_some_part_of_all_requests(share):
    with pytest.raises(ValueError, match="share of f must be 0 to 100000"):
        State(feature="f", share_millipercent=share)


@pytest.mark.parametrize("compress", [0.99, 0.0, -1.0, float("inf"), float("nan")])
def test_holds_cannot_be_made_longer_or_nothing(compress):
    with pytest.raises(ValueError, match="compress of f must be at least 1"):
        after(State(feature="f"), Input.START, compress=compress)


def test_stop_forgets_stage_and_compress():
    state = after(replace(at(Phase.RUNNING), compress=60.0), Input.STOP, now_unix_s=9.0)

    assert state == State(feature="f", revision=4, cause=Input.STOP, actor="ann@mill", updated_unix_s=9.0)


@pytest.mark.parametrize(
    ("phase", "given"),
    [(Phase.OFF, Input.STOP), (Phase.PAUSED, Input.PAUSE), (Phase.ROLLED_BACK, Input.ROLLBACK)],
)
def test_what_changes_nothing_returns_the_same_state(phase, given):
    state = at(phase)

    assert after(state, given) is state


@pytest.mark.parametrize("phase", Phase)
def test_a_rollback_needs_no_spec_and_latches_0_percent_from_every_phase(phase):
    state = roll_back(at(phase), now_unix_s=9.0, actor="ann", reason="INC-42")

    assert (state.phase, state.share_millipercent) == (Phase.ROLLED_BACK, 0)


def test_a_rolled_back_state_remembers_the_stage_it_was_at():
    state = after(at(Phase.RUNNING), Input.ROLLBACK, now_unix_s=9.0, reason="INC-42")

    assert state == State(
        feature="f",
        revision=4,
        phase=Phase.ROLLED_BACK,
        stage="early",
        entered_unix_s=50.0,
        cause=Input.ROLLBACK,
        actor="ann@mill",
        reason="INC-42",
        updated_unix_s=9.0,
    )


def test_reset_brings_a_direct_feature_back_with_evidence_to_be_gathered_anew():
    state = after(at(Phase.ROLLED_BACK, feature="d"), Input.RESET, now_unix_s=9.0)

    assert (state.phase, state.entered_unix_s) == (Phase.OFF, 9.0)


@pytest.mark.parametrize("phase", Phase)
def test_a_state_survives_the_ledger(phase):
    state = replace(at(phase), cause=Input.START, actor="ann", reason="why", updated_unix_s=1.5, compress=2.0)

    assert state_from("f", 4, state.document()) == state


def test_a_feature_without_a_row_is_off():
    assert state_from("f", 0, {}) == State(feature="f")


def test_a_row_of_the_time_when_the_ledger_kept_the_hold_clock_is_read():
    old = {
        "phase": "holding",
        "stage": "early",
        "share_millipercent": 10_000,
        "held_s": 172_800.0,
        "running_since_unix_s": None,
        "cause": "hold_served",
        "actor": "auto:hold",
        "reason": "",
        "updated_unix_s": 1.5,
    }

    state = state_from("f", 4, old)

    assert (state.phase, state.stage, state.cause) == (Phase.HOLDING, "early", Input.HOLD)
    assert (state.compress, state.entered_unix_s) == (1.0, None)


@pytest.mark.parametrize(
    "damage",
    [{"phase": "simmering"}, {"cause": "magic"}, {"colour": "red"}, {"phase": None}, {"compress": 0.5}],
)
def test_a_row_that_cannot_be_understood_is_refused(damage):
    with pytest.raises(ValueError, match=r"simmering|magic|colour|None|compress"):
        state_from("f", 4, at(Phase.RUNNING).document() | damage)


def test_a_row_that_lacks_a_field_is_refused():
    with pytest.raises(ValueError, match="state of f at revision 4 is not readable"):
        state_from("f", 4, {"stage": None})


@pytest.mark.parametrize("phase", Phase)
def test_the_latch_on_a_document_is_the_rollback_of_the_state(phase):
    document = rolled_back(at(phase).document(), now_unix_s=9.0, actor="a", reason="r")

    after = roll_back(at(phase), now_unix_s=9.0, actor="a", reason="r")
    assert document == (None if phase is Phase.ROLLED_BACK else after.document())


def test_the_latch_spells_phase_and_input_as_the_table_does():
    assert (ROLLED_BACK, ROLLBACK) == (Phase.ROLLED_BACK, Input.ROLLBACK)


def test_the_latch_replaces_a_row_that_cannot_be_understood():
    document = rolled_back({"phase": "simmering", "colour": "red"}, now_unix_s=9.0, actor="a", reason="r")

    assert state_from("f", 4, document).phase is Phase.ROLLED_BACK


def test_the_next_stage_is_the_first_above_the_share_even_after_stages_were_edited():
    stages = (Stage(name="tiny", percentage=0.1), Stage(name="some", percentage=20), SPEC.stages[-1])
    edited = replace(SPEC, stages=stages)

    assert next_stage(at(Phase.RUNNING), edited) == stages[1]


def test_a_promotion_beyond_stages_that_were_edited_away_completes_where_it_is():
    spec = replace(SPEC, stages=(Stage(name="canary", percentage=1),))

    state = apply(at(Phase.RUNNING), Input.PROMOTE, spec=spec, now_unix_s=0.0, actor="ann")

    assert (state.phase, state.share_millipercent) == (Phase.COMPLETE, 10_000)


def test_a_phase_without_a_stage_has_none_in_force():
    assert current_stage(at(Phase.ROLLED_BACK), SPEC) is None
    assert stage_in_force(at(Phase.ROLLED_BACK), SPEC) is None
