"""Pins the share that is in force and the cause that is given for it."""

from __future__ import annotations

import pytest

from rollout.shares import Cause, Share, effective_shares
from rollout.spec import Feature, Mode, Spec
from rollout.stages import Phase, State


def share_of(feature: Feature, state: State | None = None, **other) -> Share:
    """Work out the share of one feature alone."""
    spec = Spec(features={feature.name: feature})
    return effective_shares(spec, {} if state is None else {feature.name: state}, **other)[feature.name]


def staged(percentage: float = 100) -> Feature:
    """Declare a staged feature."""
    return Feature(name="f", mode=Mode.STAGED, rollout_percentage=percentage)


def running(share_millipercent: int) -> State:
    """Make a state at some stage."""
    return State(feature="f", phase=Phase.RUNNING, stage="s", share_millipercent=share_millipercent)


ROLLED_BACK = State(feature="f", phase=Phase.ROLLED_BACK)


def test_a_direct_feature_has_its_percentage():
    assert share_of(Feature(name="f", rollout_percentage=12.5)) == Share(12_500, Cause.DIRECT)


def test_a_direct_feature_does_not_look_at_a_stage():
    assert share_of(Feature(name="f", rollout_percentage=12.5), running(1)) == (12_500, Cause.DIRECT)


def test_a_staged_feature_without_a_row_is_off():
    assert share_of(staged()) == (0, Cause.NOT_STARTED)


def test_a_stopped_feature_is_off():
    assert share_of(staged(), State(feature="f")) == (0, Cause.NOT_STARTED)


def test_a_staged_feature_has_the_share_of_its_stage():
    assert share_of(staged(), running(10_000)) == (10_000, Cause.STAGE)


def test_the_ceiling_caps_a_stage():
    assert share_of(staged(5), running(10_000)) == (5_000, Cause.CEILING)


@pytest.mark.parametrize("feature", [staged(), Feature(name="f")])
def test_a_rollback_is_0_percent_in_both_modes(feature):
    assert share_of(feature, ROLLED_BACK) == (0, Cause.ROLLED_BACK)


def test_a_disabled_feature_is_off():
    assert share_of(Feature(name="f", enabled=False), running(10_000)) == (0, Cause.DISABLED)


def test_the_declared_kill_switch_puts_everything_off():
    spec = Spec(features={"f": Feature(name="f"), "g": Feature(name="g")}, kill_switch=True)

    assert set(effective_shares(spec, {}).values()) == {(0, Cause.KILLED)}


def test_the_ledgers_kill_switch_puts_everything_off():
    assert share_of(Feature(name="f"), killed=True) == (0, Cause.KILLED)


def test_a_staged_feature_is_off_while_the_ledger_cannot_be_read():
    assert share_of(staged(), running(10_000), readable=False) == (0, Cause.UNREADABLE)


def test_a_direct_feature_stays_while_the_ledger_cannot_be_read():
    assert share_of(Feature(name="f"), readable=False) == (100_000, Cause.DIRECT)


def test_a_rollback_that_was_known_holds_while_the_ledger_cannot_be_read():
    assert share_of(Feature(name="f"), ROLLED_BACK, readable=False) == (0, Cause.ROLLED_BACK)


def test_a_feature_is_off_when_a_prerequisite_is():
    spec = Spec(
        features={
            "child": Feature(name="child", requires=("middle",)),
            "middle": Feature(name="middle", requires=("root",)),
            "root": Feature(name="root", enabled=False),
        }
    )

    shares = effective_shares(spec, {})

    assert list(shares) == ["child", "middle", "root"]
    assert shares["child"] == shares["middle"] == (0, Cause.PREREQUISITE)


def test_a_share_speaks_percent():
    assert Share(33_333, Cause.STAGE).percentage == 33.333
