"""Pins the whole why of one decision: reason, cause, bucket, what is unmet and what is missing."""

from __future__ import annotations

import json

import pytest

from rollout.assignment import FlagSnapshot
from rollout.bucketing import VERSION, bucket, threshold
from rollout.evaluation import Reason, evaluate
from rollout.shares import Cause
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import Phase, State
from tests.vectors import flagd_core

KEYS = [f"sess-{number}" for number in range(200)]


def snapshot_of(*features: Feature, **about) -> FlagSnapshot:
    return FlagSnapshot(Spec(features={feature.name: feature for feature in features}), {}, **about)


def test_a_split_shows_the_bucket_and_where_it_would_be_on():
    snapshot = snapshot_of(Feature(name="f", rollout_percentage=10), revision=18)

    evaluation = evaluate(snapshot, "f", "sess-81")

    assert evaluation.bucket == bucket("f", "sess-81")
    assert evaluation.threshold == threshold(10_000)
    assert evaluation.on == (evaluation.bucket < evaluation.threshold)
    assert (evaluation.reason, evaluation.cause, evaluation.revision) == (Reason.SPLIT, Cause.DIRECT, 18)
    assert (evaluation.unmet, evaluation.missing, evaluation.stage) == ((), None, None)


def test_a_feature_at_a_stage_names_it():
    staged = Spec(features={"f": Feature(name="f", mode=Mode.STAGED)})
    state = State(feature="f", revision=3, phase=Phase.RUNNING, stage="early", share_millipercent=10_000)

    evaluation = evaluate(FlagSnapshot(staged, {"f": state}, revision=3), "f", "sess-1")

    assert (evaluation.stage, evaluation.cause) == ("early", Cause.STAGE)
    assert evaluation.metadata()["stage"] == "early"


@pytest.mark.parametrize(("percentage", "on"), [(0, False), (100, True)])
@pytest.mark.parametrize("key", [None, "sess-1"])
def test_at_0_and_100_percent_no_key_is_needed(percentage, on, key):
    evaluation = evaluate(snapshot_of(Feature(name="f", rollout_percentage=percentage)), "f", key)

    assert (evaluation.on, evaluation.reason, evaluation.missing) == (on, Reason.STATIC, None)
    assert evaluation.bucket == (None if key is None else bucket("f", key))


@pytest.mark.parametrize(
    ("kind", "names"),
    [(Key.SESSION, "targetingKey"), (Key.CLIENT, "targetingKey"), (Key.CONNECTION, "connection")],
)
def test_without_its_key_a_feature_in_between_is_off_and_says_what_is_missing(kind, names):
    evaluation = evaluate(snapshot_of(Feature(name="f", key=kind, rollout_percentage=99.999)), "f", None)

    assert not evaluation.on
    assert evaluation.missing is kind
    assert evaluation.complaint == f"f is at 99.999 % and decided by {kind}: the context needs a {names}"


def test_a_child_that_everybody_has_depends_on_its_prerequisite():
    snapshot = snapshot_of(
        Feature(name="child", requires=("root",)), Feature(name="root", rollout_percentage=50)
    )

    for key in KEYS:
        root, child = evaluate(snapshot, "root", key), evaluate(snapshot, "child", key)
        assert child.on == root.on
        assert child.unmet == (() if root.on else ("root",))
        assert child.cause is (Cause.DIRECT if root.on else Cause.PREREQUISITE)
        assert child.reason is Reason.SPLIT


def test_what_a_prerequisite_misses_its_child_misses():
    snapshot = snapshot_of(
        Feature(name="child", requires=("h2",)),
        Feature(name="h2", key=Key.CONNECTION, rollout_percentage=50),
    )

    assert evaluate(snapshot, "child", "sess-1").missing is Key.CONNECTION
    assert evaluate(snapshot, "child", None, connection="127.0.0.1:1").missing is None


def test_a_child_that_is_off_by_its_own_bucket_misses_nothing():
    snapshot = snapshot_of(
        Feature(name="child", rollout_percentage=0.001, requires=("h2",)),
        Feature(name="h2", key=Key.CONNECTION, rollout_percentage=50),
    )

    evaluation = evaluate(snapshot, "child", "sess-1")

    assert (evaluation.on, evaluation.missing) == (False, None)


def test_a_prerequisite_that_everybody_has_leaves_a_child_static():
    snapshot = snapshot_of(Feature(name="child", requires=("root",)), Feature(name="root"))

    assert evaluate(snapshot, "child", None).reason is Reason.STATIC


@pytest.mark.parametrize(
    ("snapshot", "reason", "cause"),
    [
        (snapshot_of(Feature(name="f", enabled=False)), Reason.DISABLED, Cause.DISABLED),
        (snapshot_of(Feature(name="f"), killed=True), Reason.DISABLED, Cause.KILLED),
        (
            snapshot_of(Feature(name="f", mode=Mode.STAGED), readable=False),
            Reason.UNKNOWN,
            Cause.UNREADABLE,
        ),
        (snapshot_of(Feature(name="f", mode=Mode.STAGED)), Reason.STATIC, Cause.NOT_STARTED),
    ],
)
def test_what_is_off_for_everybody_says_why(snapshot, reason, cause):
    evaluation = evaluate(snapshot, "f", "sess-1")

    assert (evaluation.on, evaluation.variant) == (False, "off")
    assert (evaluation.reason, evaluation.cause) == (reason, cause)


def test_the_metadata_leave_out_what_is_not_known():
    evaluation = evaluate(snapshot_of(Feature(name="f"), revision=4), "f", None)

    assert evaluation.metadata() == {"revision": 4, "bucketing": VERSION, "cause": "direct"}


def test_a_feature_that_nobody_declared_is_an_error():
    with pytest.raises(KeyError):
        evaluate(snapshot_of(Feature(name="f")), "g", "sess-1")


@pytest.mark.parametrize("share", flagd_core.SHARES_MILLIPERCENT)
def test_decisions_are_those_recorded_from_flagd_core(share):
    recorded = json.loads(flagd_core.FILE.read_text(encoding="utf-8"))["on"][str(share)]

    snapshot = flagd_core.snapshot_at(share)
    ours = {flag: flagd_core.decisions(snapshot, flag, flagd_core.COUNT) for flag in recorded}

    assert ours == recorded
