"""
Invariants 1 to 4 and 16 of a rollout, on compiled snapshots of any declaration.

1 who is on at a share is on at every higher one; 2 nobody at 0 %, everybody at 100 %, with any key or none;
3 one revision decides the same in every process; 4 features are decided independently of each other; 16 a
feature is on only where those that it requires are.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rollout.assignment import FlagSnapshot
from rollout.bucketing import bucket, is_on
from rollout.evaluation import Reason, evaluate
from rollout.spec import DEFAULT_SPEC, FULL_MILLIPERCENT, Feature, Key, Mode, Spec
from rollout.stages import Phase, State

keys = st.text(st.characters(), max_size=80)
"""Any text, lone surrogates too."""
maybe_keys = st.none() | keys
shares = st.integers(0, FULL_MILLIPERCENT) | st.sampled_from([0, 1, 50_000, 99_999, FULL_MILLIPERCENT])
NAMES = ("a", "b", "c", "d", "e")


@st.composite
def snapshots(draw: st.DrawFn) -> FlagSnapshot:
    """Draw up to five features of every kind, each requiring some of those before it."""
    features: dict[str, Feature] = {}
    states: dict[str, State] = {}
    for number, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        key = draw(st.sampled_from(Key))
        fit = [each for each in NAMES[:number] if key is not Key.CONNECTION or features[each].key is key]
        features[name] = Feature(
            name=name,
            enabled=draw(st.booleans() | st.just(True)),
            rollout_percentage=draw(shares) / 1000,
            mode=draw(st.sampled_from(Mode)),
            key=key,
            requires=tuple(draw(st.lists(st.sampled_from(fit), max_size=2, unique=True)) if fit else ()),
        )
        states[name] = State(
            feature=name, phase=draw(st.sampled_from(Phase)), share_millipercent=draw(shares), stage="mid"
        )
    return FlagSnapshot(
        Spec(features=features),
        states,
        revision=draw(st.integers(0, 99)),
        killed=draw(st.sampled_from([False, False, False, True])),
        readable=draw(st.sampled_from([True, True, True, False])),
    )


@given(flags=snapshots(), key=keys, client=maybe_keys, connection=maybe_keys)
def test_all_ways_to_decide_agree(flags, key, client, connection):
    who = {"client": client, "connection": connection}

    at_once = flags.assign(key, **who).on

    assert at_once == {name for name in flags.spec.features if flags.on(name, key, **who)}
    assert at_once == {name for name in flags.spec.features if evaluate(flags, name, key, **who).on}


@given(flags=snapshots(), key=maybe_keys, client=maybe_keys, connection=maybe_keys)
def test_a_feature_is_on_only_where_those_that_it_requires_are(flags, key, client, connection):
    on = {
        name
        for name in flags.spec.features
        if evaluate(flags, name, key, client=client, connection=connection).on
    }

    for name in on:
        assert set(flags.spec.features[name].requires) <= on


@given(flags=snapshots(), key=keys, client=maybe_keys, connection=maybe_keys)
def test_another_process_that_compiles_the_same_revision_decides_the_same(flags, key, client, connection):
    # Nothing but declaration, states and revision goes in: no seed, no hash of Python's, no earlier request.
    killed = any(share.cause == "killed" for share in flags.shares.values())
    again = FlagSnapshot(
        flags.spec,
        dict(reversed(flags.states.items())),
        revision=flags.revision,
        killed=killed,
        readable=flags.readable,
    )
    again.assign("another request", connection="127.0.0.1:1")

    assert again.assign(key, client=client, connection=connection) == flags.assign(
        key, client=client, connection=connection
    )


@given(key=keys, low=shares, high=shares, require=st.booleans())
def test_who_is_on_at_a_share_is_on_at_every_higher_one(key, low, high, require):
    low, high = sorted((low, high))
    root = Feature(name="root", rollout_percentage=low / 1000)
    child = Feature(name="child", rollout_percentage=low / 1000, requires=("root",) if require else ())

    before = FlagSnapshot(Spec(features={"child": child, "root": root}), {}).assign(key).on
    for raised in ({"root": root}, {"child": child}, {"root": root, "child": child}):
        up = {name: replace(each, rollout_percentage=high / 1000) for name, each in raised.items()}
        after = FlagSnapshot(Spec(features={"child": child, "root": root, **up}), {}).assign(key).on
        assert before <= after


@given(key=maybe_keys, kind=st.sampled_from(Key), share=shares)
def test_0_percent_has_nobody_and_100_percent_everybody_whatever_the_key(key, kind, share):
    feature = Feature(name="f", key=kind, rollout_percentage=share / 1000)
    flags = FlagSnapshot(Spec(features={"f": feature}), {})

    evaluation = evaluate(flags, "f", key)

    if share in (0, FULL_MILLIPERCENT):
        assert (evaluation.on, evaluation.missing) == (share > 0, None)
        assert evaluation.reason is Reason.STATIC
        assert flags.on("f", key or "") == evaluation.on
    elif key is None:
        assert (evaluation.on, evaluation.missing) == (False, kind)


def test_the_four_features_are_decided_independently_of_each_other():
    count, share = 40_000, 30_000
    ratio = share / FULL_MILLIPERCENT
    on = {
        name: [is_on(bucket(name, f"sess-{number}"), share) for number in range(count)]
        for name in DEFAULT_SPEC.features
    }

    for one, other in itertools.combinations(on, 2):
        both = sum(a and b for a, b in zip(on[one], on[other], strict=True)) / count
        assert abs(both - ratio**2) < 4 * math.sqrt(ratio**2 * (1 - ratio**2) / count), (one, other)
