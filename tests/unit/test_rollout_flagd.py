"""Pins the export for flagd: an evaluator written from its specification decides as we do."""

from __future__ import annotations

import json

import cbor2
import mmh3
import pytest

from rollout.assignment import FlagSnapshot
from rollout.flagd import SCHEMA, FlagdExport, flagd_export
from rollout.spec import FULL_MILLIPERCENT, Feature, Key, Mode, Spec
from tests.vectors import flagd_core

KEYS = [key for key in flagd_core.keys(500) if key]


def snapshot_of(*features: Feature, **about) -> FlagSnapshot:
    return FlagSnapshot(Spec(features={feature.name: feature for feature in features}), {}, **about)


def export_of(snapshot: FlagSnapshot) -> FlagdExport:
    return flagd_export(snapshot.spec, snapshot.shares, revision=snapshot.revision)


def evaluate(document: dict, flag: str, key: str) -> bool:
    """flagd, as its specification tells of `fractional`: weighted variants, hash * total >> 32."""
    definition = document["flags"][flag]
    assert definition["state"] == "ENABLED"
    variant = definition["defaultVariant"]
    if "targeting" in definition:
        fractions = definition["targeting"]["fractional"]
        total = sum(weight for _, weight in fractions)
        place = mmh3.hash(cbor2.dumps([flag, key]), signed=False) * total >> 32
        for variant, weight in fractions:  # noqa: B007 - the one it stops at
            place -= weight
            if place < 0:
                break
    return definition["variants"][variant]


@pytest.mark.parametrize("share", [0, 1, 999, 33_333, 50_000, 99_999, 100_000])
def test_flagd_decides_as_we_do(share):
    snapshot = snapshot_of(Feature(name="f", rollout_percentage=share / 1000))
    document = json.loads(json.dumps(export_of(snapshot).document))

    for key in KEYS:
        assert evaluate(document, "f", key) == snapshot.on("f", key)


def test_weights_add_up_to_100_percent_and_fit_flagds_bound():
    flag = export_of(snapshot_of(Feature(name="f", rollout_percentage=12.345))).document["flags"]["f"]

    assert flag["targeting"] == {"fractional": [["on", 12_345], ["off", 87_655]]}
    assert sum(weight for _, weight in flag["targeting"]["fractional"]) == FULL_MILLIPERCENT < 2**31


@pytest.mark.parametrize("feature", [Feature(name="f", enabled=False), Feature(name="f", mode=Mode.STAGED)])
def test_what_is_off_is_a_rule_that_says_off_and_not_the_clients_default(feature):
    export = export_of(snapshot_of(feature))

    assert export.document["flags"]["f"]["state"] == "ENABLED"
    assert not evaluate(export.document, "f", "sess-1")


def test_a_feature_that_requires_what_everybody_has_is_exported():
    snapshot = snapshot_of(
        Feature(name="child", rollout_percentage=30, requires=("middle",)),
        Feature(name="middle", requires=("root",)),
        Feature(name="root"),
    )
    export = export_of(snapshot)

    assert export.left_out == {}
    assert [evaluate(export.document, "child", key) for key in KEYS] == [
        snapshot.on("child", key) for key in KEYS
    ]


def test_a_feature_that_requires_what_some_have_is_left_out_with_the_reason():
    export = export_of(
        snapshot_of(
            Feature(name="child", requires=("a", "b", "c")),
            Feature(name="grandchild", requires=("child",)),
            Feature(name="a", rollout_percentage=50),
            Feature(name="b", rollout_percentage=50),
            Feature(name="c"),
        )
    )

    assert set(export.document["flags"]) == {"a", "b", "c"}
    assert export.left_out["child"].startswith("it requires a, b, which are on for some keys only")
    assert export.left_out["grandchild"].startswith("it requires child, which is on for some keys only")
    assert export.document["metadata"]["left_out"] == "child, grandchild"


def test_a_feature_whose_prerequisite_is_at_0_percent_is_exported_as_off():
    export = export_of(
        snapshot_of(Feature(name="child", requires=("root",)), Feature(name="root", rollout_percentage=0))
    )

    assert export.left_out == {}
    assert not evaluate(export.document, "child", "sess-1")


def test_the_document_tells_what_it_was_made_from():
    snapshot = snapshot_of(Feature(name="h2", key=Key.CONNECTION, rollout_percentage=5), revision=17)
    document = export_of(snapshot).document

    assert document["$schema"] == SCHEMA
    assert document["metadata"] == {"revision": 17, "bucketing": "murmur3-cbor/1"}
    assert document["flags"]["h2"]["metadata"] == {"key": "connection", "cause": "direct"}
