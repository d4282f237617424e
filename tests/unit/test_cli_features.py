"""Pins how a feature is told on one line: where it stands, how long it is held, what comes next."""

from __future__ import annotations

import io

import pytest

from rollout.assignment import FlagSnapshot
from rollout.spec import Feature, Mode, Spec
from rollout.stages import Input, State, apply
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
    """Describe a feature an hour after some inputs."""
    state = State(feature=feature)
    for given in inputs:
        state = apply(state, given, spec=SPEC, now_unix_s=0.0, actor="a", at_stage=at_stage, force=True)
    rows = describe(FlagSnapshot(SPEC, {feature: state}), now_unix_s=HOUR_S)
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
        ((), "f · off 0 % - 0 rollout start f"),
        ((Input.START,), "f ▸ canary 1/4 1 % 1 h of 1 d 0 rollout promote f in 23 h"),
        ((Input.START, Input.HOLD_SERVED), "f ‖ holding 1/4 1 % 0 s of 1 d 0 rollout promote f"),
        ((Input.START, Input.PAUSE), "f ‖ paused 1/4 1 % 0 s of 1 d 0 rollout resume f"),
        ((Input.START, Input.ROLLBACK), 'f ✗ rolled back 0 % - 0 rollout start f --at canary --reason "..."'),
    ],
)
def test_each_phase_has_its_glyph_and_its_next_command(inputs, line):
    assert printed(row_after(*inputs)) == line


def test_a_complete_rollout_has_nothing_next():
    assert printed(row_after(Input.START, at_stage="full")) == "f ✓ complete 100 % - 0 -"


def test_a_direct_feature_is_told_as_such():
    assert printed(row_after(feature="d")) == "d ✓ direct 30 % - 0 -"


def test_a_rolled_back_direct_feature_names_reset():
    line = printed(row_after(Input.ROLLBACK, feature="d"))

    assert line == 'd ✗ rolled back 0 % - 0 rollout reset d --reason "..."'


def test_a_share_that_is_not_the_stages_says_why():
    assert printed(row_after(feature="off")) == "off · direct 0 % - 0 enabled: false"


def test_a_row_that_lacks_everything_is_still_told():
    assert printed({"feature": "f"}) == "f · direct - - - -"


def test_a_running_stage_is_told_by_its_name():
    assert stage(row_after(Input.START, at_stage="mid")) == "mid 3/4"
