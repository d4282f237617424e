"""Pins what a declaration may say: each fault is refused with its place, its value and its cure."""

from __future__ import annotations

import pytest

from rollout.spec import (
    DEFAULT_SPEC,
    DEFAULT_STAGES,
    Feature,
    Key,
    Mode,
    Spec,
    SpecError,
    Stage,
    did_you_mean,
)


def spec_of(*features: Feature, **other: object) -> Spec:
    """Declare some features."""
    return Spec(features={feature.name: feature for feature in features}, **other)


def refusal(make) -> SpecError:
    """Return the error that a declaration meets."""
    with pytest.raises(SpecError) as caught:
        make()
    return caught.value


def test_the_default_stages_are_the_requirements():
    assert [(stage.name, stage.percentage, stage.hold_s) for stage in DEFAULT_STAGES] == [
        ("canary", 1, 86_400),
        ("early", 10, 172_800),
        ("mid", 50, 259_200),
        ("full", 100, None),
    ]


def test_by_default_all_four_features_are_enabled_direct_and_at_100_percent():
    assert list(DEFAULT_SPEC.features) == [
        "adaptive_governor",
        "http2_transport",
        "ttft_pipeline",
        "qos_monitoring",
    ]
    assert all(
        feature.enabled and feature.mode is Mode.DIRECT and feature.rollout_percentage == 100
        for feature in DEFAULT_SPEC.features.values()
    )
    assert not DEFAULT_SPEC.kill_switch


def test_by_default_only_http2_transport_is_decided_by_connection():
    keys = {name: feature.key for name, feature in DEFAULT_SPEC.features.items()}

    assert keys.pop("http2_transport") is Key.CONNECTION
    assert set(keys.values()) == {Key.SESSION}


@pytest.mark.parametrize("value", [-0.001, 100.001, 101, float("nan"), float("inf"), True])
def test_a_percentage_outside_0_to_100_is_refused(value):
    error = refusal(lambda: Feature(name="f", rollout_percentage=value))

    assert error.path == "f.rollout_percentage"
    assert error.value is value
    assert error.message == f"is {value}; it must be between 0 and 100."


def test_a_percentage_has_three_decimals_at_most():
    assert Feature(name="f", rollout_percentage=33.333).ceiling_millipercent == 33_333

    error = refusal(lambda: Feature(name="f", rollout_percentage=33.3333))
    assert str(error) == "f.rollout_percentage is 33.3333; it may have three decimals at most."


def test_stages_must_rise():
    stages = (Stage(name="mid", percentage=50, hold_s=1), Stage(name="early", percentage=10))

    error = refusal(lambda: spec_of(stages=stages))

    assert error.path == "stages.1.percentage"
    assert error.value == 10
    assert error.message == (
        "is 10: stage early (10 %) comes after mid (50 %); percentages must rise from stage to stage."
    )


@pytest.mark.parametrize(
    ("stages", "path"),
    [
        ((), "stages"),
        ((Stage(name="a", percentage=0),), "stages.0.percentage"),
        ((Stage(name="a", percentage=120),), "stages.0.percentage"),
        ((Stage(name="a", percentage=1, hold_s=-1),), "stages.0.hold_s"),
        ((Stage(name="a", percentage=1, hold_s=float("nan")),), "stages.0.hold_s"),
        ((Stage(name="a", percentage=1), Stage(name="a", percentage=2)), "stages.1.name"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused_where_it_stands(stages, path):
    assert refusal(lambda: spec_of(stages=stages)).path == path


def test_an_unknown_prerequisite_is_refused_with_the_name_that_was_meant():
    error = refusal(
        lambda: spec_of(Feature(name="adaptive_governor"), Feature(name="f", requires=("adaptive_governer",)))
    )

    assert error.path == "f.requires"
    assert error.message == "names adaptive_governer, which is not defined. Did you mean adaptive_governor?"


def test_an_unknown_prerequisite_that_resembles_nothing_gets_no_suggestion():
    error = refusal(lambda: spec_of(Feature(name="f", requires=("zzz",))))

    assert error.message == "names zzz, which is not defined."


def test_circular_prerequisites_are_refused_with_the_whole_circle():
    error = refusal(
        lambda: spec_of(
            Feature(name="a", requires=("b",)),
            Feature(name="b", requires=("c", "d")),
            Feature(name="c", requires=("d",)),
            Feature(name="d", requires=("a",)),
        )
    )

    assert error.path == "a.requires"
    assert error.value == ("a", "b", "d", "a")
    assert "a -> b -> d -> a. Remove one of them." in error.message


def test_a_feature_that_requires_itself_is_a_circle():
    assert refusal(lambda: spec_of(Feature(name="a", requires=("a",)))).value == ("a", "a")


def test_two_ways_to_one_prerequisite_are_no_circle():
    spec = spec_of(
        Feature(name="a", requires=("b", "c")),
        Feature(name="b", requires=("d",)),
        Feature(name="c", requires=("d",)),
        Feature(name="d"),
    )

    assert [feature.name for feature in spec.in_order()] == ["d", "b", "c", "a"]


def test_a_feature_decided_by_connection_cannot_require_one_decided_by_session():
    error = refusal(
        lambda: spec_of(Feature(name="h2", key=Key.CONNECTION, requires=("a",)), Feature(name="a"))
    )

    assert error.path == "h2.requires"
    assert "decided by session" in error.message


def test_a_feature_decided_by_connection_may_require_another_one():
    spec = spec_of(
        Feature(name="h2", key=Key.CONNECTION, requires=("tls",)), Feature(name="tls", key=Key.CONNECTION)
    )

    assert spec.features["h2"].requires == ("tls",)


def test_a_suggestion_names_the_nearest_word():
    assert did_you_mean("stat", ["start", "status", "stop"]) == " Did you mean start?"
    assert did_you_mean("xyz", ["start"]) == ""


@pytest.mark.parametrize("percent", [0.0, 100.5, float("nan")])
def test_a_stage_must_exclude_a_failure_rate_that_there_can_be(percent):
    stage = Stage(name="canary", percentage=1.0, promote_below_percent=percent)

    with pytest.raises(SpecError, match="it must be above 0 and at most 100") as refused:
        Spec(features={}, stages=(stage,))

    assert refused.value.path == "stages.0.promote_below_percent"
