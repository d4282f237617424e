"""Pins the flags of one request: keys, prerequisites, and what needs no key at all."""

from __future__ import annotations

import pytest

from rollout.assignment import FlagSnapshot
from rollout.bucketing import bucket, is_on
from rollout.spec import DEFAULT_SPEC, Feature, Key, Spec

KEYS = [f"sess-{number}" for number in range(400)]


def snapshot_of(*features: Feature, revision: int = 7) -> FlagSnapshot:
    """Compile direct features."""
    return FlagSnapshot(Spec(features={feature.name: feature for feature in features}), {}, revision=revision)


def test_by_default_every_request_has_all_four_features():
    assignment = FlagSnapshot(DEFAULT_SPEC, {}).assign("anything")

    assert assignment.on == frozenset(DEFAULT_SPEC.features)
    assert assignment.revision == 0


def test_at_0_and_100_percent_all_keys_share_one_assignment():
    snapshot = snapshot_of(Feature(name="a"), Feature(name="b", rollout_percentage=0))

    assert snapshot.assign("x") is snapshot.assign("y", client="z", connection="127.0.0.1:5")
    assert snapshot.assign("x").on == {"a"}


@pytest.mark.parametrize("percentage", [0.001, 1, 50, 99.999])
def test_a_share_decides_by_the_bucket(percentage):
    feature = Feature(name="f", rollout_percentage=percentage)
    snapshot = snapshot_of(feature)

    decided = [("f" in snapshot.assign(key).on) for key in KEYS]

    assert decided == [is_on(bucket("f", key), feature.ceiling_millipercent) for key in KEYS]


def test_one_key_gets_one_answer():
    snapshot = snapshot_of(Feature(name="f", rollout_percentage=50))

    assert snapshot.assign("sess-1") == snapshot.assign("sess-1")


def test_a_feature_decided_by_connection_looks_at_the_connection():
    snapshot = snapshot_of(Feature(name="h2", key=Key.CONNECTION, rollout_percentage=50))

    on = {"h2" in snapshot.assign("sess-1", connection=f"127.0.0.1:{port}").on for port in range(50)}

    assert on == {True, False}


def test_a_feature_decided_by_connection_is_off_where_the_connection_is_not_known():
    snapshot = snapshot_of(Feature(name="h2", key=Key.CONNECTION, rollout_percentage=99.999))

    assert {snapshot.assign(key).on for key in KEYS} == {frozenset()}


def test_a_feature_decided_by_client_looks_at_the_client_and_else_at_the_requests_key():
    snapshot = snapshot_of(Feature(name="f", key=Key.CLIENT, rollout_percentage=50))

    assert {snapshot.assign(key, client="team-a") for key in KEYS} == {snapshot.assign("team-a")}
    assert len({snapshot.assign(key) for key in KEYS}) == 2


def test_a_feature_is_off_for_the_keys_whose_prerequisite_is():
    snapshot = snapshot_of(
        Feature(name="child", requires=("root",)), Feature(name="root", rollout_percentage=50)
    )

    assert {snapshot.assign(key).on for key in KEYS} == {frozenset(), frozenset({"child", "root"})}


def test_a_feature_at_0_percent_takes_those_that_require_it_along():
    snapshot = snapshot_of(
        Feature(name="child", requires=("root",)), Feature(name="root", rollout_percentage=0)
    )

    assert snapshot.assign("sess-1").on == frozenset()


def test_a_key_with_a_lone_surrogate_is_decided_like_any_other():
    assert snapshot_of(Feature(name="f", rollout_percentage=50)).assign("\udcff").revision == 7


def test_with_many_features_the_assignments_stay_right_when_they_are_no_longer_kept():
    features = [Feature(name=f"f{number}", rollout_percentage=50) for number in range(12)]
    snapshot = snapshot_of(*features)

    for number in range(3000):
        key = f"key-{number}"
        expected = {each.name for each in features if is_on(bucket(each.name, key), 50_000)}
        assert snapshot.assign(key).on == expected


def test_one_feature_is_decided_as_all_of_them_are():
    snapshot = snapshot_of(
        Feature(name="none", rollout_percentage=0),
        Feature(name="all"),
        Feature(name="half", rollout_percentage=50),
        Feature(name="child", requires=("half",)),
        Feature(name="client", key=Key.CLIENT, rollout_percentage=50),
        Feature(name="h2", key=Key.CONNECTION, rollout_percentage=50),
    )

    for number, key in enumerate(KEYS):
        keys = {"client": f"team-{number}", "connection": f"127.0.0.1:{number}"} if number % 2 else {}
        one_by_one = {name for name in snapshot.spec.features if snapshot.on(name, key, **keys)}
        assert one_by_one == snapshot.assign(key, **keys).on


def test_a_feature_that_nobody_declared_is_off():
    assert not snapshot_of(Feature(name="f")).on("g", "sess-1")
