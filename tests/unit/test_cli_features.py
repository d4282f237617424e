"""Pins how a feature is told on one line: where it stands, what was seen, what comes next."""

from __future__ import annotations

import io

import pytest

from rollout.assignment import FlagSnapshot
from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, State, apply
from tests.rollout_rows import row_with
from wicketgate.cli.features import print_features, stage
from wicketgate.cli.output import EN_DASH, Screen
from wicketgate.flags import describe

SPEC = Spec(
    features={
        "f": Feature(name="f", mode=Mode.STAGED),
        "d": Feature(name="d", rollout_percentage=30),
        "off": Feature(name="off", enabled=False),
    }
)
HOUR_S = 3600.0


def row_after(*inputs: Input, feature: str = "f", at_stage: str | None = None) -> dict:
    """Describe a feature after some inputs, without a gateway."""
    state = State(feature=feature)
    for given in inputs:
        state = apply(state, given, spec=SPEC, now_unix_s=0.0, actor="a", at_stage=at_stage)
    rows = describe(FlagSnapshot(SPEC, {feature: state}))
    return next(row for row in rows if row["feature"] == feature)


def printed(row: dict) -> str:
    """Print one row without colour, spaces folded, a hyphen for no data."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    print_features(Screen(stdout=stdout, stderr=stdout, env={}), [row])
    stdout.seek(0)
    return " ".join(stdout.read().splitlines()[1].replace(EN_DASH, "-").split())


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ((), "f · off 0 % - - - - - rollout start f"),
        ((Input.START,), "f ▸ canary 1/4 1 % - of 1 d - - - - early in 1 d"),
        ((Input.START, Input.HOLD), "f ‖ holding 1/4 1 % - of 1 d - - - - rollout promote f"),
        ((Input.START, Input.PAUSE), "f ‖ paused 1/4 1 % - of 1 d - - - - rollout resume f"),
        (
            (Input.START, Input.ROLLBACK),
            'f ✗ rolled back 0 % - - - - - rollout start f --at canary --reason "..."',
        ),
    ],
)
def test_each_phase_has_its_glyph_and_its_next_command(inputs, line):
    assert printed(row_after(*inputs)) == line


def test_a_complete_rollout_has_nothing_next():
    assert printed(row_after(Input.START, at_stage="full")) == "f ✓ complete 100 % - - - - - -"


def test_a_direct_feature_is_told_as_such():
    assert printed(row_after(feature="d")) == "d ✓ direct 30 % - - - - - -"


def test_a_rolled_back_direct_feature_names_reset():
    line = printed(row_after(Input.ROLLBACK, feature="d"))

    assert line == 'd ✗ rolled back 0 % - - - - - rollout reset d --reason "..."'


def test_a_share_that_is_not_the_stages_says_why():
    assert printed(row_after(feature="off")) == "off · direct 0 % - - - - - enabled: false"


def test_a_row_that_lacks_everything_is_still_told():
    assert printed({"feature": "f"}) == "f · direct - - - - - - -"


def test_a_running_stage_is_told_by_its_name():
    assert stage(row_after(Input.START, at_stage="mid")) == "mid 3/4"


def test_what_a_gateway_saw_stands_beside_it():
    row = row_with(phase="running", held_s=41 * HOUR_S, hold_s=72 * HOUR_S, finished=738_089, failed=112)

    assert printed(row) == (
        "http2_transport ▸ canary 1/4 1 % 1 d 17 h of 3 d 738 201 112 0.75 % clear early in 1 d 7 h"
    )


def test_what_a_holding_stage_waits_for_is_counted_with_the_time_it_takes():
    row = row_with(phase="holding", needs_requests=465, eta_s=18 * HOUR_S)

    assert printed(row).endswith("clear 465 more requests, about 18 h")


def test_one_missing_request_is_singular():
    assert printed(row_with(phase="holding", needs_requests=1)).endswith("clear 1 more request")


def test_a_stage_that_waits_for_something_else_says_what():
    row = row_with(phase="holding", reasons=("2 h of 24 h are without an incident",))

    assert printed(row).endswith("clear 2 h of 24 h are without an incident")


def test_a_stage_that_passed_and_is_promoted_by_hand_names_the_command():
    row = row_with(phase="holding", kind="pass", promotes=False)

    assert printed(row).endswith("rollout promote http2_transport")


def test_a_running_stage_whose_hold_is_over_names_the_next_one():
    assert printed(row_with(phase="running", kind="pass")).endswith("clear early")


def test_a_running_stage_tells_when_it_goes_on_with_the_traffic_that_it_has():
    row = row_with(phase="running", held_s=20 * HOUR_S, needs_requests=465, eta_s=18 * HOUR_S)

    assert printed(row).endswith("clear early in 18 h")


def test_a_running_stage_without_traffic_tells_what_it_needs():
    row = row_with(phase="running", needs_requests=1076, reasons=("0 canary requests",))

    assert printed(row).endswith("clear 1 076 more requests")


def test_a_stage_that_is_promoted_by_hand_tells_when_it_may_be():
    row = row_with(phase="running", held_s=20 * HOUR_S, promotes=False)

    assert printed(row).endswith("clear rollout promote http2_transport in 4 h")


@pytest.mark.parametrize(
    ("evidence", "word"), [(19.9, "clear"), (20.0, "warming"), (1999.0, "warming"), (2000.0, "TRIPPED")]
)
def test_a_guard_is_amber_from_an_evidence_of_20_and_red_at_its_limit(evidence, word):
    assert f" {word} " in printed(row_with(phase="running", errors=evidence))


def test_a_feature_that_a_guard_rolled_back_says_so_and_one_that_a_person_did_not():
    by_guard = row_with(phase="rolled_back", actor="auto:errors")
    by_hand = row_with(phase="rolled_back", actor="ann@host")

    assert " TRIPPED " in printed(by_guard)
    assert " TRIPPED " not in printed(by_hand)
