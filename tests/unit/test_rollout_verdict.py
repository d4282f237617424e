"""Pins what it takes to leave a stage upward, the words for what is missing, and when it will have come."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from rollout.alarm import alarm
from rollout.guards import ArmCounts, Findings, Guard, GuardParams, Reading
from rollout.spec import Expectation, Feature, Stage, Trouble
from rollout.verdict import Kind, Verdict, verdict
from rollout.wording import number, percent, span

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
PARAMS = GuardParams()
STAGE = Stage(name="canary", percentage=1.0, hold_s=DAY_S, promote_below_percent=0.5)
FEATURE = Feature(name="f", requires=("g",))


def readings(**evidence: float) -> MappingProxyType[Guard, Reading]:
    """Make readings of all guards, at 1 where nothing else is said."""
    all_of_them = {
        each: Reading(guard=each, evidence=evidence.get(each, 1.0), limit=PARAMS.limit(each))
        for each in Guard
    }
    return MappingProxyType(all_of_them)


GOOD = Findings(
    readings=readings(),
    canary=ArmCounts(finished=8637, failed=3, counted_failures=3),
    control=ArmCounts(finished=800_000),
    promotion_evidence=100.0,
    faster_ttft_evidence=100.0,
    throughput_evidence=100.0,
    served_s=DAY_S,
    quiet_s=DAY_S,
    canary_per_s=0.1,
)


def judge(
    findings: Findings,
    *,
    stage: Stage = STAGE,
    feature: Feature = FEATURE,
    control_exists: bool = True,
    prerequisites_met: bool = True,
    fresh: bool = True,
) -> Verdict:
    """Judge a stage."""
    return verdict(
        findings,
        stage=stage,
        feature=feature,
        params=PARAMS,
        hold_s=stage.hold_s,
        control_exists=control_exists,
        prerequisites_met=prerequisites_met,
        fresh=fresh,
    )


def test_a_stage_that_has_everything_passes():
    assert judge(GOOD) == Verdict(kind=Kind.PASS, eta_s=0.0)


def test_missing_evidence_is_told_with_figures_and_when_it_will_be_there():
    few = replace(
        GOOD,
        canary=ArmCounts(finished=611),
        promotion_evidence=8.0,
        needed_requests=465,
        canary_per_s=26 / HOUR_S,
    )

    assert judge(few) == Verdict(
        kind=Kind.INCONCLUSIVE,
        reasons=(
            "611 canary requests, 0 failed; 1 076 are needed to exclude a failure rate of 0.5 % or more "
            "(risk 1 %)",
        ),
        needs_requests=465,
        eta_s=pytest.approx(465 / 26 * HOUR_S),
    )


def test_without_any_data_it_is_inconclusive_and_nobody_knows_how_long():
    nothing = Findings(readings=readings(), needed_requests=1076, served_s=DAY_S, quiet_s=DAY_S)

    found = judge(nothing, fresh=False)

    assert (found.kind, found.needs_requests, found.eta_s) == (Kind.INCONCLUSIVE, 1076, None)
    assert "no canary request has ended for 10 min or longer" in found.reasons


def test_a_failure_rate_above_the_limit_fails():
    bad = replace(GOOD, canary=ArmCounts(finished=1997, failed=3))

    found = judge(bad)

    assert found.kind is Kind.FAIL
    assert found.reasons == ("3 of 2 000 canary requests failed, 0.15 %; the limit is 0.1 %",)


def test_one_failure_among_few_requests_is_above_the_limit_and_says_little():
    found = judge(replace(GOOD, canary=ArmCounts(finished=499, failed=1)))

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == ("1 of 500 canary requests failed, 0.2 %; the limit is 0.1 %",)


def test_a_failure_rate_at_the_limit_is_allowed():
    assert judge(replace(GOOD, canary=ArmCounts(finished=2997, failed=3))).kind is Kind.PASS


@pytest.mark.parametrize("guard", [each for each in Guard if each is not Guard.SHARE])
def test_no_stage_is_left_while_a_guard_is_suspicious(guard):
    found = judge(replace(GOOD, readings=readings(**{guard: 34.0})))

    assert found.kind is Kind.FAIL
    assert found.reasons == (f"guard {guard} is at an evidence of 34; it must not be above 20",)


@pytest.mark.parametrize("guard", Guard)
def test_evidence_up_to_20_is_no_suspicion(guard):
    assert judge(replace(GOOD, readings=readings(**{guard: 20.0}))).kind is Kind.PASS


def test_arms_that_are_not_drawn_as_declared_leave_it_inconclusive():
    found = judge(replace(GOOD, readings=readings(share=1000.0)))

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == (
        "the canary's part of the keys is not its share, so that nothing can be compared (evidence 1 000)",
    )


def test_a_hold_that_is_not_served_is_told_with_what_is_left():
    found = judge(replace(GOOD, served_s=3 * HOUR_S))

    assert found == Verdict(
        kind=Kind.INCONCLUSIVE, reasons=("3 h of 24 h are held",), eta_s=pytest.approx(21 * HOUR_S)
    )


def test_a_hold_that_stands_has_no_end():
    found = judge(replace(GOOD, served_s=3 * HOUR_S), fresh=False)

    assert found.eta_s is None


def test_data_must_still_come():
    found = judge(GOOD, fresh=False)

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == ("no canary request has ended for 10 min or longer",)


QUIET = replace(STAGE, quiet=(Trouble.VIOLATION, Trouble.RESOURCE), quiet_s=12 * HOUR_S)


def test_quiet_that_is_missing_is_told_with_what_it_is_about():
    found = judge(replace(GOOD, quiet_s=3 * HOUR_S), stage=QUIET)

    assert found == Verdict(
        kind=Kind.INCONCLUSIVE,
        reasons=("3 h of 12 h are without a violated objective or a shortage of memory",),
        eta_s=pytest.approx(9 * HOUR_S),
    )


def test_quiet_that_stands_has_no_end():
    assert judge(replace(GOOD, quiet_s=3 * HOUR_S), stage=QUIET, fresh=False).eta_s is None


def test_a_stage_that_asks_for_no_quiet_needs_none():
    assert judge(replace(GOOD, quiet_s=0.0)).kind is Kind.PASS


def test_a_hold_shorter_than_its_quiet_must_be_quiet_throughout():
    short = replace(QUIET, hold_s=HOUR_S)

    assert judge(replace(GOOD, served_s=HOUR_S, quiet_s=HOUR_S), stage=short).kind is Kind.PASS
    assert judge(replace(GOOD, served_s=HOUR_S, quiet_s=HOUR_S / 2), stage=short).kind is not Kind.PASS


BETTER = replace(STAGE, faster_ttft=True, throughput_gain_percent=30.0)


def test_an_improvement_that_is_not_shown_is_told_with_its_evidence():
    found = judge(replace(GOOD, faster_ttft_evidence=3.14, throughput_evidence=99.0), stage=BETTER)

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == (
        "that first tokens come sooner than in control has an evidence of 3.1; 100 is needed",
        "that tokens come 30 % faster than in control has an evidence of 99; 100 is needed",
    )
    assert found.eta_s is None


def test_an_improvement_that_is_shown_passes():
    assert judge(GOOD, stage=BETTER).kind is Kind.PASS


def test_a_feature_need_not_improve_what_it_is_not_there_for():
    nothing = replace(GOOD, faster_ttft_evidence=1.0, throughput_evidence=1.0)

    assert judge(nothing, stage=BETTER, feature=Feature(name="f", expects=())).kind is Kind.PASS
    some = judge(nothing, stage=BETTER, feature=Feature(name="f", expects=(Expectation.TTFT,)))
    assert len(some.reasons) == 1


def test_without_a_control_an_improvement_cannot_be_shown():
    found = judge(replace(GOOD, faster_ttft_evidence=1.0), stage=BETTER, control_exists=False)

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == ("that first tokens come sooner than in control has no control to compare with",)


def test_what_it_requires_must_be_ahead_of_it():
    found = judge(GOOD, prerequisites_met=False)

    assert found.kind is Kind.INCONCLUSIVE
    assert found.reasons == ("it requires g at this share at least",)


def test_what_speaks_against_it_decides_and_is_told_first():
    found = judge(replace(GOOD, served_s=0.0, readings=readings(ttft=50.0)))

    assert found.kind is Kind.FAIL
    assert found.reasons == (
        "guard ttft is at an evidence of 50; it must not be above 20",
        "0 s of 24 h are held",
    )


def test_the_last_thing_to_come_says_when():
    found = judge(
        replace(GOOD, served_s=23 * HOUR_S, promotion_evidence=1.0, needed_requests=36, canary_per_s=0.1)
    )

    assert found.eta_s == pytest.approx(HOUR_S)


def test_a_verdict_is_plain_json():
    found = Verdict(kind=Kind.FAIL, reasons=("it is bad",), needs_requests=5)

    assert found.document() == {
        "kind": "fail",
        "reasons": ["it is bad"],
        "needs_requests": 5,
        "eta_s": None,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (3.14, "3.1"),
        (9.97, "10"),
        (20.4, "20"),
        (1076, "1 076"),
        (2_000_000.0, "2 000 000"),
    ],
)
def test_a_number_is_grouped_by_threes(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.005, "0.5 %"), (0.0015, "0.15 %"), (0.01, "1 %"), (0.5, "50 %"), (1 / 3, "33.33 %"), (1.0, "100 %")],
)
def test_a_ratio_is_written_in_percent(ratio, text):
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.5, "0.5 s"),
        (59.9, "59 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (600.0, "10 min"),
        (7200.0, "2 h"),
        (DAY_S, "24 h"),
        (3 * DAY_S, "3 d"),
    ],
)
def test_a_time_span_has_one_unit(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("guard", "text"),
    [
        (Guard.ERRORS, "3 of 8 640 canary requests failed; the limit is 0.1 %"),
        (Guard.RELATIVE, "3 of 8 640 canary requests failed, and 0 of 800 000 control requests"),
        (Guard.REFUSED, "7 canary and 0 control requests were refused"),
        (Guard.TTFT, "first tokens take over 5 % longer than in control"),
        (Guard.TTFT_FAR, "first tokens take over 50 % longer than in control"),
        (Guard.ITL, "tokens take over 5 % longer than in control"),
        (Guard.ITL_FAR, "tokens take over 50 % longer than in control"),
        (Guard.SHARE, "the canary's part of the keys is not its share"),
    ],
)
def test_an_alarm_tells_what_happened_with_its_evidence_and_limit(guard, text):
    seen = replace(GOOD, canary=replace(GOOD.canary, refused=7), readings=readings(**{guard: 12_345.6}))

    limit = number(PARAMS.limit(guard))
    assert alarm(guard, seen, PARAMS) == f"{text} (evidence 12 346, limit {limit})"
