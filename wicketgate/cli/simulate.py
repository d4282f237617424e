"""`wicketgate rollout simulate F --rate 1% --rps 10`: what the guards would do with one's own traffic."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rollout.simulation import SimulationParams, simulate
from wicketgate.cli.output import EN_DASH, Screen, count, duration, number, print_json, share
from wicketgate.cli.place import find
from wicketgate.cli.standing import check_known
from wicketgate.cli.wait import Progress
from wicketgate.errors import ExitCode, RefusedError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from rollout.guards import GuardParams
    from rollout.simulation import Outcomes
    from rollout.spec import Spec, Stage
    from wicketgate.cli.output import Cell

_BATCH = 50
"""Most stages that are played between two looks at the clock."""
_FAILURES = 20_000.0
"""Most failures in a batch, at some 30 microseconds each."""
_LONGEST_S = 60.0
"""Playing stops after so long; what was played by then is told."""


class Simulated(NamedTuple):
    """One stage, played many times."""

    stage: Stage
    canary_per_s: float
    requests: int
    outcomes: Outcomes


def run(args: Namespace) -> int:
    """Print what becomes of the stages of a feature whose requests fail at a rate."""
    from wicketgate.config import load

    screen = Screen.of(args)
    config = load(find(args, note=screen.note).config)
    spec, guard = config.rollout, config.phase4_rollout.guard.params()
    check_known(args.feature, spec.features)
    progress = Progress(screen)
    try:
        played = [_play(args, stage, guard, progress) for stage in _stages(spec, args.at)]
    finally:
        progress.clear()
    if args.json:
        print_json(_document(args, played))
    else:
        _print(screen, args, played, guard)
    return ExitCode.DONE


def _stages(spec: Spec, at: str | None) -> Sequence[Stage]:
    held = [stage for stage in spec.stages if stage.hold_s]
    if at is None:
        if not held:
            raise RefusedError("no stage has a hold_s, so there is nothing to simulate.")
        return held
    known = [stage.name for stage in held]
    if at not in known:
        from rollout.spec import did_you_mean

        raise UsageError(
            f"no stage named {at} has a hold.{did_you_mean(at, known)}",
            fix=f"Stages: {', '.join(known)}.",
            param="--at",
        )
    return [stage for stage in held if stage.name == at]


def _play(args: Namespace, stage: Stage, guard: GuardParams, progress: Progress) -> Simulated:
    """Play one stage until all runs are done, or a minute is over."""
    canary_per_s = args.rps * stage.percentage / 100
    params = SimulationParams(
        rate_ratio=args.rate / 100,
        canary_per_s=canary_per_s,
        hold_s=stage.hold_s or 0.0,
        promote_below_ratio=stage.promote_below_percent / 100,
        guard=guard,
        stages=1,
    )
    draw = random.Random(f"{args.seed} {stage.name}").random  # noqa: S311 - must be repeatable
    done: list[Outcomes] = []
    left, began_s = args.runs, time.monotonic()
    while left and (time.monotonic() - began_s < _LONGEST_S or not done):
        batch = min(left, _BATCH, 1 + int(_FAILURES / max(1.0, params.failures)))
        done.append(simulate(replace(params, stages=batch), draw))
        left -= batch
        progress.show(f"{stage.name}: {number(args.runs - left)} of {number(args.runs)} played")
    return Simulated(stage, canary_per_s, params.requests, _together(done))


def _together(parts: Sequence[Outcomes]) -> Outcomes:
    """Put batches together."""
    first = parts[0]
    return replace(
        first,
        rolled_back=sum(each.rolled_back for each in parts),
        promoted=sum(each.promoted for each in parts),
        held=sum(each.held for each in parts),
        early=sum(each.early for each in parts),
        delays_requests=tuple(sorted(delay for each in parts for delay in each.delays_requests)),
        delays_failed=tuple(sorted(delay for each in parts for delay in each.delays_failed)),
    )


def _print(screen: Screen, args: Namespace, played: Sequence[Simulated], guard: GuardParams) -> None:
    screen.out(
        f"{args.feature}: {share(args.rate)} of requests fail, {args.rps:g} requests/s in all; the limit is "
        f"{share(100 * guard.error_limit_ratio)}."
    )
    screen.out()
    headers = (
        "STAGE",
        ">SHARE",
        ">REQUESTS",
        ">ROLLED BACK",
        ">PROMOTED",
        ">HELD",
        ">AFTER",
        ">FAILED",
        "TIME",
    )
    screen.table(headers, [_cells(each) for each in played], optional=(("TIME",), ("REQUESTS",)))
    screen.out()
    runs = min(each.outcomes.stages for each in played)
    screen.out(
        f"{count(runs, 'run', 'runs')} of each stage. After how many canary requests, failures and what "
        "time: median of those rolled back."
    )
    if runs < args.runs:
        screen.note(f"Stopped after {duration(_LONGEST_S)} a stage: {number(args.runs)} runs were asked for.")


def _cells(each: Simulated) -> list[Cell]:
    outcomes = each.outcomes
    after, failed = _median(outcomes.delays_requests), _median(outcomes.delays_failed)
    return [
        each.stage.name,
        share(each.stage.percentage),
        number(each.requests),
        (_part(outcomes.rolled_back, outcomes.stages), "bad" if outcomes.rolled_back else "dim"),
        (_part(outcomes.promoted, outcomes.stages), "ok" if outcomes.promoted else "dim"),
        (_part(outcomes.held, outcomes.stages), "warn" if outcomes.held else "dim"),
        EN_DASH if after is None else number(after),
        EN_DASH if failed is None else number(failed),
        EN_DASH if after is None else duration(after / each.canary_per_s),
    ]


def _part(some: int, of: int) -> str:
    return f"{100 * some / of:.3g} %"


def _median(rising: Sequence[int]) -> int | None:
    return rising[(len(rising) - 1) // 2] if rising else None


def _document(args: Namespace, played: Sequence[Simulated]) -> dict[str, Any]:
    return {
        "schema": "wicketgate.simulation/1",
        "ok": True,
        "feature": args.feature,
        "rate_ratio": args.rate / 100,
        "requests_per_s": args.rps,
        "seed": args.seed,
        "stages": [
            {
                "stage": each.stage.name,
                "percentage": each.stage.percentage,
                "requests": each.requests,
                "runs": each.outcomes.stages,
                "rolled_back_ratio": each.outcomes.rolled_back / each.outcomes.stages,
                "promoted_ratio": each.outcomes.promoted / each.outcomes.stages,
                "held_ratio": each.outcomes.held / each.outcomes.stages,
                "median_requests": _median(each.outcomes.delays_requests),
                "median_failed": _median(each.outcomes.delays_failed),
            }
            for each in played
        ],
    }
