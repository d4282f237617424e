"""Invariants of a rollout: subsets, 0 and 100 %, independent features, prerequisites, audit, latch."""

from __future__ import annotations

import hashlib
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.assignment import FlagSnapshot
from rollout.bucketing import BUCKETS, bucket, is_on
from rollout.shares import effective_shares
from rollout.spec import FULL_MILLIPERCENT, Feature, Mode, Spec
from rollout.stages import Input, Phase, State, TransitionError, apply, state_from

shares = st.integers(0, FULL_MILLIPERCENT)
keys = st.text(max_size=60)
SPEC = Spec(features={"f": Feature(name="f", mode=Mode.STAGED)})


@given(key=keys, low=shares, high=shares)
def test_who_is_in_at_a_share_is_in_at_every_higher_one(key, low, high):
    low, high = sorted((low, high))

    assert is_on(bucket("f", key), low) <= is_on(bucket("f", key), high)


@given(key=keys)
def test_0_percent_has_nobody_and_100_percent_everybody(key):
    assert not is_on(bucket("f", key), 0)
    assert is_on(bucket("f", key), FULL_MILLIPERCENT)


@given(share=st.integers(1, FULL_MILLIPERCENT))
def test_a_share_lets_in_its_part_of_the_buckets_rounded_up(share):
    let_in = next(edge for edge in _edges(share) if not is_on(edge, share))

    assert 0 <= let_in - share / FULL_MILLIPERCENT * BUCKETS < 1.0001


def _edges(share: int) -> range:
    near = share * BUCKETS // FULL_MILLIPERCENT
    return range(max(0, near - 2), near + 3)


def test_two_features_are_decided_independently():
    count = 40_000
    on = [(is_on(bucket("a", f"k{i}"), 30_000), is_on(bucket("b", f"k{i}"), 60_000)) for i in range(count)]

    both = sum(a and b for a, b in on) / count

    assert abs(both - 0.18) < 4 * math.sqrt(0.18 * 0.82 / count)


def test_the_share_of_many_keys_is_the_share():
    count = 100_000
    for share in (100, 1_000, 10_000, 50_000, 99_000):
        ratio = share / FULL_MILLIPERCENT
        on = sum(is_on(bucket("f", f"user-{number}"), share) for number in range(count)) / count
        assert abs(on - ratio) < 4 * math.sqrt(ratio * (1 - ratio) / count)


@given(key=keys, root=shares, child=shares)
def test_a_child_is_only_on_where_its_prerequisite_is(key, root, child):
    snapshot = FlagSnapshot(
        Spec(
            features={
                "child": Feature(name="child", rollout_percentage=child / 1000, requires=("root",)),
                "root": Feature(name="root", rollout_percentage=root / 1000),
            }
        ),
        {},
    )

    on = snapshot.assign(key).on

    assert ("child" in on) == (is_on(bucket("child", key), child) and "root" in on)
    assert ("root" in on) == is_on(bucket("root", key), root)


def test_every_process_decides_the_same():
    keys_of_all_lengths = [f"{'ключ-' * (number % 9)}{number}" for number in range(2000)]
    snapshot = FlagSnapshot(
        Spec(features={name: Feature(name=name, rollout_percentage=12.345) for name in ("a", "b", "c")}), {}
    )

    decided = json.dumps([sorted(snapshot.assign(key).on) for key in keys_of_all_lengths])

    # Recorded once: a decision that came from hash(), a set's order or the platform would change it.
    assert hashlib.sha256(decided.encode()).hexdigest()[:16] == "2d2cbee157ee9c21"


DIRECT_AND_STAGED = {"f": Feature(name="f", mode=Mode.STAGED), "d": Feature(name="d")}
moves = st.lists(
    st.tuples(
        st.sampled_from(Input),
        st.floats(-3e7, 3e7),
        st.floats(1, 1e6),
        st.sampled_from([None, "canary", "mid", "full"]),
    ),
    max_size=30,
)
ENTERS = (Input.START, Input.RESUME, Input.PROMOTE)


@given(moves=moves, name=st.sampled_from(["f", "d"]))
@settings(max_examples=300)
def test_any_history_can_be_replayed_and_only_a_person_or_a_promotion_raises(moves, name):
    spec = Spec(features=DIRECT_AND_STAGED)
    state, now_s, journal = State(feature=name), 1e9, []
    for given_input, step_s, compress, stage in moves:
        now_s += step_s
        try:
            after = apply(
                state, given_input, spec=spec, now_unix_s=now_s, actor="a", compress=compress, at_stage=stage
            )
        except TransitionError:
            continue
        if state.phase is Phase.ROLLED_BACK and after.phase is not Phase.ROLLED_BACK:
            assert given_input is (Input.RESET if name == "d" else Input.START)
        if after.share_millipercent > state.share_millipercent:
            assert given_input in (Input.START, Input.PROMOTE)
        if after is not state and after.phase in (Phase.RUNNING, Phase.COMPLETE):
            assert given_input in ENTERS
        if after.stage != state.stage and after.stage is not None:
            assert after.entered_unix_s == now_s
        if after is not state:
            journal.append(json.dumps(after.document()))
        state = after

    replayed = state_from(name, len(journal), json.loads(journal[-1])) if journal else State(feature=name)
    assert replayed.document() == state.document()


@given(
    inputs=st.lists(st.sampled_from([each for each in Input if each is not Input.START])),
    reload=st.lists(st.booleans()),
)
def test_nothing_but_a_start_ends_a_rollback_of_a_staged_feature(inputs, reload):
    state = apply(State(feature="f"), Input.ROLLBACK, spec=SPEC, now_unix_s=1.0, actor="a")
    for given_input, again in zip(inputs, [*reload, *[False] * len(inputs)], strict=False):
        try:
            state = apply(state, given_input, spec=SPEC, now_unix_s=2.0, actor="b")
        except TransitionError:
            pass
        if again:
            state = state_from("f", state.revision, state.document())

    assert (state.phase, state.actor) == (Phase.ROLLED_BACK, "a")
    assert effective_shares(SPEC, {"f": state})["f"].millipercent == 0


@given(
    ceiling=shares, share=shares, phase=st.sampled_from(Phase), readable=st.booleans(), killed=st.booleans()
)
def test_a_staged_feature_never_exceeds_ceiling_or_stage(ceiling, share, phase, readable, killed):
    spec = Spec(features={"f": Feature(name="f", mode=Mode.STAGED, rollout_percentage=ceiling / 1000)})
    state = State(feature="f", phase=phase, stage="s", share_millipercent=share)

    in_force = effective_shares(spec, {"f": state}, readable=readable, killed=killed)["f"].millipercent

    assert in_force in (0, min(ceiling, share))
    if killed or not readable or phase in (Phase.OFF, Phase.ROLLED_BACK):
        assert in_force == 0
