"""`wicketgate rollout explain F --key K`: whether a key is on, why, and from which stage on it would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rollout.bucketing import BUCKETS
from rollout.evaluation import evaluate
from rollout.shares import Cause
from rollout.spec import FULL_MILLIPERCENT, MILLIPERCENT, Mode
from rollout.stages import State
from wicketgate.cli.features import UNITS, WHY
from wicketgate.cli.output import Screen, print_json, share
from wicketgate.cli.place import find
from wicketgate.cli.standing import check_known, standing
from wicketgate.errors import ExitCode

if TYPE_CHECKING:
    from argparse import Namespace

    from rollout.assignment import FlagSnapshot
    from rollout.evaluation import Evaluation
    from rollout.spec import Feature


class Explanation(NamedTuple):
    """How a key is decided under a feature."""

    on: bool
    cause: str
    """Why, as `rollout.shares.Cause` spells it."""
    why: str
    """The same in words."""
    stage: str | None
    percentage: float
    """The share that is in force."""
    bucket_ratio: float
    """Where the key stands, 0 to 1: the same in every process and on every machine."""
    on_from_percentage: float
    """The smallest share that the key is within."""
    on_from_stage: str | None
    """The first stage that the key is on at; None: the ceiling is below it, or a direct feature."""


def run(args: Namespace) -> int:
    """Print it."""
    screen = Screen.of(args)
    stand = standing(find(args, note=screen.note))
    check_known(args.feature, stand.spec.features)
    told = explain(stand.snapshot(), args.feature, args.key)
    state = stand.states.get(args.feature, State(feature=args.feature))
    if args.json:
        who = {"revision": state.revision, "actor": state.actor or None, "reason": state.reason or None}
        head = {"schema": "wicketgate.explain/1", "ok": True, "feature": args.feature, "key": args.key}
        print_json({**head, **told._asdict(), **who})
        return ExitCode.DONE
    glyph, role = ("✓ on", "ok") if told.on else ("✗ off", "bad")
    screen.out(f"{screen.paint(glyph, role)}  {told.why}")
    if state.revision:
        because = f": {state.reason}" if state.reason else ""
        screen.out(f"  revision {state.revision} by {state.actor}{because}")
    from_where = _from(told, stand.spec.features[args.feature])
    screen.out(f"  bucket {told.bucket_ratio:.5f} of 1; {from_where}")
    return ExitCode.DONE


def explain(snapshot: FlagSnapshot, name: str, key: str) -> Explanation:
    """
    Explain one decision: pure.

    Args:
        snapshot: All flags at one moment.
        name: Which feature.
        key: What it is decided by; taken for the features that it requires as well.
    """
    feature = snapshot.spec.features[name]
    evaluation = evaluate(snapshot, name, key, client=key, connection=key)
    bucket = evaluation.bucket or 0
    # The first share whose threshold, ceil(share * BUCKETS / FULL), is above the bucket.
    from_millipercent = bucket * FULL_MILLIPERCENT // BUCKETS + 1
    return Explanation(
        on=evaluation.on,
        cause=str(evaluation.cause),
        why=_why(evaluation, feature, inside=bucket < evaluation.threshold),
        stage=evaluation.stage,
        percentage=evaluation.share_millipercent / MILLIPERCENT,
        bucket_ratio=bucket / BUCKETS,
        on_from_percentage=from_millipercent / MILLIPERCENT,
        on_from_stage=_stage(snapshot, feature, from_millipercent),
    )


def _why(evaluation: Evaluation, feature: Feature, *, inside: bool) -> str:
    if not evaluation.share_millipercent:
        return _nobody(evaluation.cause, feature)
    at = f" at {evaluation.stage}" if evaluation.stage else ""
    part = f"{share(evaluation.share_millipercent / MILLIPERCENT)} of {UNITS[str(feature.key)]}{at}"
    if not inside:
        return f"the key is not within {part}"
    if evaluation.unmet:
        names = " and ".join(evaluation.unmet)
        return f"the key is within {part}, but {names}, which {feature.name} requires, is off for it"
    return f"the key is within {part}"


def _nobody(cause: Cause, feature: Feature) -> str:
    """Say why nobody is on."""
    match cause:
        case Cause.ROLLED_BACK:
            return f"{feature.name} is rolled back"
        case Cause.NOT_STARTED:
            return f"{feature.name} is not started: wicketgate rollout start {feature.name}"
        case Cause.DIRECT | Cause.CEILING | Cause.STAGE:
            return f"rollout_percentage of {feature.name} is 0"
        case _:
            return f"{feature.name} is off: {WHY[str(cause)]}"


def _stage(snapshot: FlagSnapshot, feature: Feature, from_millipercent: int) -> str | None:
    """Name the first stage that is wide enough, and not cut off by the ceiling."""
    if feature.mode is Mode.DIRECT or feature.ceiling_millipercent < from_millipercent:
        return None
    stages = snapshot.spec.stages
    return next((each.name for each in stages if each.share_millipercent >= from_millipercent), None)


def _from(told: Explanation, feature: Feature) -> str:
    """Say from which share, and which stage, the key is on."""
    verb = "on" if told.on else "would be on"
    least = f"{verb} at {share(told.on_from_percentage)} or more"
    if told.on_from_stage:
        return f"{least}: from {told.on_from_stage} on"
    if feature.rollout_percentage < told.on_from_percentage:
        return f"{least}; rollout_percentage is {share(feature.rollout_percentage)}"
    return least
