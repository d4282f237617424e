"""
May a stage be left upward? A verdict with reasons, from what the stage has shown.

Theory of operation: each criterion is looked at on its own and says nothing, or what is missing. One that the
evidence speaks against fails the verdict; one that merely is not met yet leaves it inconclusive. Without data
nothing is met, so that it never passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from rollout.guards import Guard
from rollout.spec import Expectation, Trouble
from rollout.wording import number, percent, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.guards import Findings, GuardParams
    from rollout.spec import Feature, Stage

SUSPICIOUS = 20.0
"""No stage is left upward while a guard's evidence is above this."""
IMPROVED = 100.0
"""Evidence from which an improvement counts as shown."""


class Kind(StrEnum):
    """How a verdict can be."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    """The evidence speaks against it."""
    INCONCLUSIVE = "inconclusive"
    """Something is missing; time or traffic may bring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a stage may be left upward, and why not."""

    kind: Kind
    reasons: tuple[str, ...] = ()
    """What is missing, in words; empty when it passes."""
    needs_requests: int = 0
    """Clean canary requests that are missing."""
    eta_s: float | None = None
    """When what is missing will have come, if nothing fails; None: cannot be told."""

    def document(self) -> dict[str, object]:
        """Return it as plain JSON."""
        return {
            "kind": str(self.kind),
            "reasons": list(self.reasons),
            "needs_requests": self.needs_requests,
            "eta_s": self.eta_s,
        }


class Judged(NamedTuple):
    """What a stage has shown, and what follows from it."""

    findings: Findings
    verdict: Verdict | None
    """None where there is no stage to be left upward."""


class _Missing(NamedTuple):
    reason: str
    fails: bool = False
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    findings: Findings
    stage: Stage
    feature: Feature
    params: GuardParams
    hold_s: float
    control_exists: bool
    prerequisites_met: bool
    fresh: bool


def verdict(
    findings: Findings,
    *,
    stage: Stage,
    feature: Feature,
    params: GuardParams,
    hold_s: float,
    control_exists: bool,
    prerequisites_met: bool,
    fresh: bool = True,
) -> Verdict:
    """
    Judge whether a stage may be left upward.

    Args:
        findings: What it has shown.
        stage: Its criteria, with the times that are in force (`rollout.stages.stage_in_force`).
        feature: What it is expected to improve.
        params: Limits and risks.
        hold_s: How long it must be watched.
        control_exists: Some requests are off the feature, to compare with.
        prerequisites_met: What it requires is complete, or at this share at least.
        fresh: A canary request ended lately.
    """
    question = _Question(
        findings=findings,
        stage=stage,
        feature=feature,
        params=params,
        hold_s=hold_s,
        control_exists=control_exists,
        prerequisites_met=prerequisites_met,
        fresh=fresh,
    )
    missing = [each for criterion in _CRITERIA for each in criterion(question)]
    if not missing:
        return Verdict(kind=Kind.PASS, eta_s=0.0)
    etas = [each.eta_s for each in missing]
    return Verdict(
        kind=Kind.FAIL if any(each.fails for each in missing) else Kind.INCONCLUSIVE,
        reasons=tuple(each.reason for each in missing),
        needs_requests=findings.needed_requests,
        eta_s=None if None in etas else max(each for each in etas if each is not None),
    )


def _data(question: _Question) -> Iterator[_Missing]:
    """Enough canary requests must have ended well to exclude the stage's failure rate."""
    findings, risk = question.findings, question.params.false_promotion_ratio
    if findings.promotion_evidence >= 1 / risk:
        return
    canary, missing = findings.canary, findings.needed_requests
    seen = canary.finished + canary.failed
    yield _Missing(
        f"{number(seen)} canary requests, {number(canary.failed)} failed; {number(seen + missing)} are "
        f"needed to exclude a failure rate of {percent(question.stage.promote_below_percent / 100)} or more "
        f"(risk {percent(risk)})",
        eta_s=missing / findings.canary_per_s if findings.canary_per_s > 0 else None,
    )


def _failure_rate(question: _Question) -> Iterator[_Missing]:
    """No more canary requests may have failed than the limit allows."""
    canary, limit = question.findings.canary, question.params.error_limit_ratio
    seen = canary.finished + canary.failed
    if canary.failed > limit * seen:
        # Before so many requests a single failure is above the limit; that says nothing.
        yield _Missing(
            f"{number(canary.failed)} of {number(seen)} canary requests failed, "
            f"{percent(canary.failed / seen)}; the limit is {percent(limit)}",
            fails=seen * limit >= 1,
        )


def _guards(question: _Question) -> Iterator[_Missing]:
    """No guard may be suspicious, and the arms must be drawn as declared."""
    for guard, reading in question.findings.readings.items():
        if guard is Guard.SHARE:
            if reading.is_tripped:
                yield _Missing(
                    "the canary's part of the keys is not its share, so that nothing can be compared "
                    f"(evidence {number(reading.evidence)})"
                )
        elif reading.evidence > SUSPICIOUS:
            yield _Missing(
                f"guard {guard} is at an evidence of {number(reading.evidence)}; it must not be "
                f"above {number(SUSPICIOUS)}",
                fails=True,
            )


def _hold(question: _Question) -> Iterator[_Missing]:
    """The stage must have been watched long enough, and be watched still."""
    served_s, hold_s = question.findings.served_s, question.hold_s
    if not question.fresh:
        yield _Missing(f"no canary request has ended for {span(question.params.fresh_within_s)} or longer")
    if served_s < hold_s:
        eta_s = hold_s - served_s if question.fresh else None
        yield _Missing(f"{span(served_s)} of {span(hold_s)} are held", eta_s=eta_s)


def _quiet(question: _Question) -> Iterator[_Missing]:
    """What the stage asks to be without must not have happened at the end of the hold."""
    stage, quiet_s = question.stage, question.findings.quiet_s
    wanted_s = min(stage.quiet_s, question.hold_s)
    if stage.quiet and quiet_s < wanted_s:
        troubles = " or ".join(_TROUBLES[each] for each in stage.quiet)
        yield _Missing(
            f"{span(quiet_s)} of {span(wanted_s)} are without {troubles}",
            eta_s=wanted_s - quiet_s if question.fresh else None,
        )


def _improvement(question: _Question) -> Iterator[_Missing]:
    """The feature must be better than control in what it is expected to improve."""
    findings, gain = question.findings, question.stage.throughput_gain_percent
    asked = (
        (
            Expectation.TTFT,
            question.stage.faster_ttft,
            findings.faster_ttft_evidence,
            "first tokens come sooner",
        ),
        (Expectation.THROUGHPUT, gain > 0, findings.throughput_evidence, f"tokens come {gain:g} % faster"),
    )
    for expectation, wanted, evidence, better in asked:
        if not wanted or expectation not in question.feature.expects or evidence >= IMPROVED:
            continue
        if question.control_exists:
            shown = f"an evidence of {number(evidence)}; {number(IMPROVED)} is needed"
        else:
            shown = "no control to compare with"
        yield _Missing(f"that {better} than in control has {shown}")


def _prerequisites(question: _Question) -> Iterator[_Missing]:
    """What the feature requires must be ahead of it."""
    if not question.prerequisites_met:
        names = " and ".join(question.feature.requires)
        yield _Missing(f"it requires {names} at this share at least")


_TROUBLES = {
    Trouble.VIOLATION: "a violated objective",
    Trouble.RESOURCE: "a shortage of memory",
    Trouble.INCIDENT: "an incident",
}
_CRITERIA = (_failure_rate, _guards, _data, _hold, _quiet, _improvement, _prerequisites)
"""In the order in which reasons are given: what speaks against it comes first."""
