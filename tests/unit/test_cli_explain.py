"""Pins how one decision is explained: on or off, why, and from which stage on it would be."""

from __future__ import annotations

import pytest

from rollout.assignment import FlagSnapshot
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import Phase, State
from wicketgate.cli.explain import explain

F = Feature(name="ttft_pipeline", mode=Mode.STAGED)
KEY = "sess-81"
"""In bucket 0.15146 of ttft_pipeline."""


def at(stage: str | None, millipercent: int, *, phase: Phase = Phase.RUNNING) -> dict[str, State]:
    """Put ttft_pipeline at a stage."""
    state = State(feature=F.name, phase=phase, stage=stage, share_millipercent=millipercent)
    return {F.name: state}


def snapshot(
    states: dict[str, State] | None = None, *others: Feature, feature: Feature = F, killed: bool = False
) -> FlagSnapshot:
    """Put the flags together."""
    spec = Spec(features={each.name: each for each in (feature, *others)})
    return FlagSnapshot(spec, states or {}, killed=killed)


def test_a_key_beyond_the_share_is_off_and_told_from_where_on_it_is_on():
    told = explain(snapshot(at("early", 10_000)), F.name, KEY)

    assert (told.on, told.why) == (False, "the key is not within 10 % of sessions at early")
    assert (round(told.bucket_ratio, 5), told.on_from_percentage) == (0.15146, 15.146)
    assert told.on_from_stage == "mid"


def test_a_key_within_the_share_is_on():
    told = explain(snapshot(at("mid", 50_000)), F.name, KEY)

    assert (told.on, told.why, told.cause) == (True, "the key is within 50 % of sessions at mid", "stage")


def test_the_share_it_names_is_the_first_that_the_key_is_on_at():
    told = explain(snapshot(), F.name, KEY)
    least = round(told.on_from_percentage * 1000)

    assert not explain(snapshot(at("mid", least - 1)), F.name, KEY).on
    assert explain(snapshot(at("mid", least)), F.name, KEY).on


@pytest.mark.parametrize(
    ("states", "killed", "why", "cause"),
    [
        (at("early", 0, phase=Phase.ROLLED_BACK), False, "ttft_pipeline is rolled back", "rolled_back"),
        (
            {},
            False,
            "ttft_pipeline is not started: wicketgate rollout start ttft_pipeline",
            "not_started",
        ),
        (at("full", 100_000), True, "ttft_pipeline is off: the kill switch is on", "killed"),
    ],
)
def test_a_feature_that_nobody_is_on_says_why(states, killed, why, cause):
    told = explain(snapshot(states, killed=killed), F.name, KEY)

    assert (told.on, told.why, told.cause) == (False, why, cause)


def test_a_ceiling_below_the_key_leaves_no_stage():
    low = Feature(name=F.name, mode=Mode.STAGED, rollout_percentage=12)

    told = explain(snapshot(at("mid", 50_000), feature=low), F.name, KEY)

    assert (told.on, told.percentage, told.on_from_stage) == (False, 12.0, None)


def test_a_direct_feature_at_0_is_told_by_its_percentage():
    off = Feature(name=F.name, rollout_percentage=0)

    assert explain(snapshot(feature=off), F.name, KEY).why == "rollout_percentage of ttft_pipeline is 0"


def test_a_prerequisite_that_is_off_for_the_key_is_named():
    child = Feature(name=F.name, requires=("gate",))
    gate = Feature(name="gate", rollout_percentage=0.001)

    told = explain(snapshot({}, gate, feature=child), F.name, KEY)

    assert (told.on, told.cause) == (False, "prerequisite")
    assert told.why == (
        "the key is within 100 % of sessions, but gate, which ttft_pipeline requires, is off for it"
    )


def test_a_feature_decided_by_connection_is_explained_by_one():
    connection = Feature(name="http2_transport", key=Key.CONNECTION, rollout_percentage=100)

    told = explain(snapshot(feature=connection), "http2_transport", "127.0.0.1:5")

    assert (told.on, told.why) == (True, "the key is within 100 % of connections")
