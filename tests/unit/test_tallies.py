"""Counts on plain integers: decisions under the snapshot that made them, ends by arm, changes of phase."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from rollout.assignment import FlagSnapshot
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import TRANSITIONS, Input, Phase, State, apply
from wicketgate.api.requests import KEY_FIELDS
from wicketgate.tallies import (
    LEVELS,
    Decisions,
    EndedRequests,
    TimeHistogram,
    Transitions,
    possible_changes,
)

NOBODY: frozenset[str] = frozenset()
STAGED = Feature(name="ttft_pipeline", mode=Mode.STAGED)
ON = frozenset({"ttft_pipeline"})
FEATURES = ("ttft_pipeline", "qos_monitoring")


def spec(*features: Feature) -> Spec:
    return Spec(features=MappingProxyType({each.name: each for each in features}))


def state(phase: Phase = Phase.RUNNING, **more: object) -> State:
    return State(**{"feature": "ttft_pipeline", "phase": phase, "stage": "canary", "revision": 1, **more})


def snapshot(percentage: float = 10.0, *, key: Key = Key.SESSION, killed: bool = False) -> FlagSnapshot:
    features = (replace(STAGED, key=key), Feature(name="qos_monitoring"))
    running = state(share_millipercent=round(1000 * percentage))
    return FlagSnapshot(spec(*features), {"ttft_pipeline": running}, killed=killed)


def test_a_time_counts_in_every_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = TimeHistogram((0.005, 0.01))

    histogram.observe(0.005)
    histogram.observe(0.007, count=3)
    histogram.observe(1.0)

    assert histogram.buckets() == [("0.005", 1.0), ("0.01", 4.0), ("+Inf", 5.0)]
    assert histogram.sum_s == pytest.approx(1.026)


def test_a_decision_counts_for_every_feature_with_the_cause_of_its_share() -> None:
    decisions = Decisions(FEATURES)
    decided = snapshot()

    decisions.count(decided, frozenset(FEATURES), "x-session-id")
    decisions.count(decided, frozenset({"qos_monitoring"}), "x-session-id")

    counts = decisions.spelt().decisions
    assert counts["ttft_pipeline", "on", "stage"] == 1
    assert counts["ttft_pipeline", "off", "stage"] == 1
    assert counts["qos_monitoring", "on", "direct"] == 2


def test_a_decision_keeps_the_cause_of_the_snapshot_that_made_it() -> None:
    decisions = Decisions(FEATURES)

    decisions.count(snapshot(), frozenset(FEATURES), "request")
    decisions.count(snapshot(killed=True), NOBODY, "request")
    decisions.count(snapshot(), frozenset(FEATURES), "request")

    counts = decisions.spelt().decisions
    assert counts["ttft_pipeline", "on", "stage"] == 2
    assert counts["ttft_pipeline", "off", "killed"] == 1
    assert sum(counts.values()) == 6


def test_to_ask_twice_counts_once() -> None:
    decisions = Decisions(FEATURES)
    decisions.count(snapshot(), NOBODY, "request")

    first, second = decisions.spelt(), decisions.spelt()

    assert first.decisions == second.decisions
    assert first.fallbacks == second.fallbacks


def test_every_label_of_a_decision_is_there_before_any() -> None:
    spelt = Decisions(FEATURES).spelt()

    assert set(spelt.decisions.values()) == set(spelt.fallbacks.values()) == {0}
    assert ("ttft_pipeline", "off", "rolled_back") in spelt.decisions
    assert ("ttft_pipeline", "on", "rolled_back") not in spelt.decisions
    assert ("ttft_pipeline", "request") in spelt.fallbacks


@pytest.mark.parametrize(
    ("key", "source", "level"),
    [
        (Key.SESSION, "x-session-id", None),
        (Key.SESSION, "prompt_cache_key", None),
        (Key.SESSION, "user", "user"),
        (Key.SESSION, "request", "request"),
        (Key.USER, "safety_identifier", None),
        (Key.USER, "session_id", "session"),
        (Key.REQUEST, "request", None),
        (Key.REQUEST, "x-session-id", None),
        (Key.CLIENT, "request", None),
    ],
)
def test_a_fallback_is_another_kind_of_key_than_the_feature_asks_for(
    key: Key, source: str, level: str | None
) -> None:
    decisions = Decisions(FEATURES)

    decisions.count(snapshot(key=key), NOBODY, source)

    counted = {found for (feature, found), count in decisions.spelt().fallbacks.items() if count}
    assert counted == ({level} if level else set())


def test_every_source_of_a_key_has_its_level() -> None:
    assert set(LEVELS) == {"x-session-id", *KEY_FIELDS, "request"}


@pytest.mark.parametrize("percentage", [0.0, 100.0])
def test_where_no_key_is_looked_at_none_is_missing(percentage: float) -> None:
    decisions = Decisions(FEATURES)

    decisions.count(snapshot(percentage), NOBODY, "request")

    assert decisions.spelt().fallbacks.total() == 0


def test_an_end_counts_in_one_arm_of_every_feature() -> None:
    ended = EndedRequests(FEATURES, ("ok", "error"))

    ended.count(ON, "ok")
    ended.count(ON, "error")
    ended.count(NOBODY, "ok")

    counts = ended.spelt()
    assert counts["ttft_pipeline", "canary", "ok"] == 1
    assert counts["ttft_pipeline", "canary", "error"] == 1
    assert counts["ttft_pipeline", "control", "ok"] == 1
    assert counts["qos_monitoring", "control", "ok"] == 2
    assert counts["qos_monitoring", "canary", "ok"] == 0


def test_what_is_there_at_the_start_is_no_change() -> None:
    transitions = Transitions(FEATURES)

    transitions.follow({"ttft_pipeline": state(Phase.ROLLED_BACK)})

    assert transitions.counts.total() == 0


def test_a_first_row_is_a_change_from_off() -> None:
    transitions = Transitions(FEATURES)
    transitions.follow({})

    transitions.follow({"ttft_pipeline": state(actor="somebody@host")})

    assert transitions.counts["ttft_pipeline", "off", "running", "manual"] == 1
    assert transitions.counts.total() == 1


def test_a_change_of_stage_counts_and_the_same_state_again_does_not() -> None:
    transitions = Transitions(FEATURES)
    transitions.follow({"ttft_pipeline": state()})

    early = state(stage="early", actor="auto:promotion", revision=2)
    transitions.follow({"ttft_pipeline": early})
    transitions.follow({"ttft_pipeline": replace(early, revision=3)})

    assert transitions.counts["ttft_pipeline", "running", "running", "automatic"] == 1
    assert transitions.counts.total() == 1


def test_two_changes_between_two_looks_make_no_new_label() -> None:
    transitions = Transitions(FEATURES)
    transitions.follow({"ttft_pipeline": state(Phase.PAUSED)})
    before = set(transitions.counts)

    transitions.follow({"ttft_pipeline": state(Phase.COMPLETE)})

    assert set(transitions.counts) == before
    assert transitions.counts.total() == 0


def test_every_change_that_an_input_makes_has_its_label() -> None:
    whole = spec(STAGED)
    missing = []
    for phase, given in TRANSITIONS:
        for stage in ("canary", "mid", "full"):
            before = state(phase, stage=stage, share_millipercent=1)
            try:
                after = apply(before, given, spec=whole, now_unix_s=1.0, actor="a", reason="r")
            except ValueError:
                continue
            change = (str(before.phase), str(after.phase), "manual")
            if (after.phase, after.stage) != (
                before.phase,
                before.stage,
            ) and change not in possible_changes():
                missing.append((given, change))

    assert missing == []


def test_only_a_person_starts_and_only_a_person_ends_a_rollback() -> None:
    automatic = {(before, after) for before, after, trigger in possible_changes() if trigger == "automatic"}

    assert not {(Phase.OFF, Phase.RUNNING), (Phase.ROLLED_BACK, Phase.OFF)} & automatic
    assert (Phase.RUNNING, Phase.ROLLED_BACK) in automatic
    assert (Phase.HOLDING, TRANSITIONS[Phase.HOLDING, Input.PROMOTE]) in automatic
