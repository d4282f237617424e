"""Pins what a stage gathers: guards fed at the right moment, the hold clock, and documents to go on from."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from rollout.evidence import Evidence
from rollout.guards import Arm, Attribution, Guard, GuardParams
from rollout.spec import Stage, Trouble

DAY_S = 86_400.0
PARAMS = GuardParams()
STAGE = Stage(name="canary", percentage=1.0, hold_s=DAY_S, promote_below_percent=0.5)
TICK_S = 0.25
CANARY, CONTROL = Arm.CANARY, Arm.CONTROL


def gather(stage: Stage = STAGE, *, share_ratio: float = 0.01, document=None, params=PARAMS) -> Evidence:
    """Begin to gather evidence."""
    return Evidence(params, stage, share_ratio=share_ratio, plan_s=DAY_S, document=document)


def end(evidence: Evidence, arm: Arm, *, passed: int = 0, failed: int = 0) -> None:
    """End requests of keys of their own."""
    for _ in range(passed):
        evidence.ended(arm, failed=False, key=0, tpot_s=None)
    for key in range(failed):
        evidence.ended(arm, failed=True, key=key, tpot_s=None)


def tick(evidence: Evidence, count: int = 1, *, from_s: float = 0.0, busy: bool = True, **other) -> float:
    """Let ticks pass, with a canary request in each if it is busy; return when the last one was."""
    now_s = from_s
    for number in range(count):
        now_s = from_s + TICK_S * number
        if busy:
            end(evidence, CANARY, passed=1)
        evidence.fold(now_s=now_s, **other)
    return now_s


def saved(evidence: Evidence) -> dict:
    """Send a document through JSON, as the ledger does."""
    return json.loads(json.dumps(evidence.document()))


def test_two_failures_at_the_start_bring_the_error_guard_to_its_limit():
    evidence = gather()

    end(evidence, CANARY, failed=2)

    assert evidence.is_tripped(Guard.ERRORS)


def test_one_failure_does_not():
    evidence = gather()

    end(evidence, CANARY, failed=1)

    assert not evidence.is_tripped(Guard.ERRORS)


def test_what_passed_before_a_failure_is_taken_in_before_it():
    healthy, broken = gather(), gather()
    end(healthy, CANARY, passed=10_000, failed=2)
    end(broken, CANARY, failed=2)

    assert healthy.evidence(Guard.ERRORS) < broken.evidence(Guard.ERRORS)


def test_failures_of_one_key_beyond_the_cap_decide_nothing():
    evidence = gather(params=replace(PARAMS, failures_per_key=1))
    for _ in range(50):
        evidence.ended(CANARY, failed=True, key=7, tpot_s=None)

    counts = evidence.findings().canary
    assert (counts.failed, counts.counted_failures) == (50, 1)
    assert not evidence.is_tripped(Guard.ERRORS)


def test_what_was_lost_with_an_engine_host_is_counted_and_decides_nothing():
    evidence = gather()
    before = evidence.findings().readings
    for arm in (CANARY, CANARY, CONTROL):
        evidence.infrastructure(arm)
    evidence.fold(now_s=0.0)

    findings = evidence.findings()
    assert (findings.canary.infrastructure, findings.control.infrastructure) == (2, 1)
    assert findings.readings == before
    assert findings.served_s == 0.0


def test_failures_shortly_after_an_engine_host_died_are_put_down_to_that():
    evidence = gather()
    tick(evidence, 2)
    evidence.infrastructure(CONTROL)
    end(evidence, CANARY, failed=1)

    assert evidence.attribution is Attribution.INFRASTRUCTURE


def test_a_minute_later_they_are_not():
    evidence = gather()
    evidence.infrastructure(CONTROL)
    tick(evidence, 2 + round(60 / TICK_S), busy=False)
    end(evidence, CANARY, failed=1)

    assert evidence.attribution is Attribution.UNKNOWN


def test_where_nothing_failed_there_is_nobody_to_blame():
    evidence = gather()
    end(evidence, CONTROL, passed=10_000)

    assert evidence.attribution is Attribution.UNKNOWN


def test_canary_failures_beside_a_clean_control_are_the_canarys():
    evidence = gather()
    end(evidence, CONTROL, passed=900)

    end(evidence, CANARY, failed=3)

    assert evidence.attribution is Attribution.CANARY
    assert evidence.evidence(Guard.RELATIVE) > 20


def test_failures_of_both_arms_are_shared():
    evidence = gather(share_ratio=0.5)
    end(evidence, CONTROL, failed=3)

    end(evidence, CANARY, failed=3)

    assert evidence.is_tripped(Guard.ERRORS)
    assert evidence.attribution is Attribution.SHARED


def test_whose_failures_they_were_is_remembered_when_control_has_recovered():
    evidence = gather(share_ratio=0.5)
    end(evidence, CONTROL, failed=3)
    end(evidence, CANARY, failed=3)
    end(evidence, CONTROL, passed=100_000)
    evidence.fold(now_s=0.0)

    assert evidence.attribution is Attribution.SHARED
    assert gather(share_ratio=0.5, document=saved(evidence)).attribution is Attribution.SHARED


def test_it_is_forgotten_when_the_canary_has_recovered_too():
    evidence = gather(share_ratio=0.5)
    end(evidence, CONTROL, failed=3)
    end(evidence, CANARY, failed=3)
    for arm in Arm:
        end(evidence, arm, passed=30_000)
    evidence.fold(now_s=0.0)

    assert not evidence.is_tripped(Guard.ERRORS)
    assert evidence.attribution is not Attribution.SHARED


def test_shared_failures_turn_out_to_be_the_canarys_when_they_go_on_in_it_alone():
    evidence = gather(share_ratio=0.5)
    end(evidence, CONTROL, failed=3)
    end(evidence, CANARY, failed=30)

    assert evidence.attribution is Attribution.CANARY


def test_refusals_are_compared_on_the_tick():
    evidence = gather()
    for _ in range(3):
        evidence.refused(CANARY)
    before = evidence.evidence(Guard.REFUSED)
    evidence.fold(now_s=0.0)

    assert before == 1.0
    assert evidence.is_tripped(Guard.REFUSED)
    assert not evidence.is_tripped(Guard.RELATIVE)


def test_refusals_of_control_are_no_evidence_against_the_canary():
    evidence = gather(share_ratio=0.5)
    for _ in range(30):
        evidence.refused(CONTROL)
    evidence.fold(now_s=0.0)

    assert evidence.evidence(Guard.REFUSED) < 1


def play(evidence: Evidence, *, slower: float, ticks: int = 100) -> None:
    """Serve requests of both arms whose first and later tokens take so much longer in the canary."""
    draw = random.Random(5)
    for number in range(ticks):
        for arm, factor in ((CANARY, slower), (CONTROL, 1.0)) * 5:
            evidence.first_token(arm, factor * draw.lognormvariate(-1, 0.5))
            evidence.ended(arm, failed=False, key=0, tpot_s=factor * draw.lognormvariate(-4, 0.5))
        evidence.fold(now_s=TICK_S * number)


def test_a_slow_canary_is_found_by_its_first_and_by_its_later_tokens():
    evidence = gather(share_ratio=0.5)
    play(evidence, slower=2.0)

    for guard in (Guard.TTFT, Guard.TTFT_FAR, Guard.ITL, Guard.ITL_FAR):
        assert evidence.is_tripped(guard)


def test_an_improvement_is_only_looked_for_where_the_stage_asks_for_it():
    asked = gather(replace(STAGE, faster_ttft=True, throughput_gain_percent=30.0), share_ratio=0.5)
    unasked = gather(share_ratio=0.5)
    for evidence in (asked, unasked):
        play(evidence, slower=0.5)

    findings = asked.findings()
    assert min(findings.faster_ttft_evidence, findings.throughput_evidence) > 100
    nothing = unasked.findings()
    assert (nothing.faster_ttft_evidence, nothing.throughput_evidence) == (1.0, 1.0)


def test_keys_that_do_not_fall_to_the_arms_as_declared_are_noticed():
    evidence = gather(share_ratio=0.5)
    for key in range(100):
        evidence.arrived(CONTROL, key)
    evidence.fold(now_s=0.0)

    assert evidence.is_tripped(Guard.SHARE)


def test_at_100_percent_only_errors_are_guarded():
    evidence = gather(share_ratio=1.0)
    evidence.arrived(CANARY, 1)
    evidence.first_token(CANARY, 0.1)
    evidence.ended(CANARY, failed=False, key=1, tpot_s=0.1)
    evidence.ended(CONTROL, failed=True, key=1, tpot_s=None)
    evidence.fold(now_s=0.0)
    evidence.resume()

    findings = evidence.findings()
    assert set(findings.readings) == {Guard.ERRORS}
    assert (findings.faster_ttft_evidence, findings.throughput_evidence) == (1.0, 1.0)
    assert evidence.evidence(Guard.RELATIVE) == 1.0


def test_the_hold_clock_counts_the_time_between_ticks():
    evidence = gather()
    tick(evidence, 41)

    assert evidence.served_s == pytest.approx(10.0)


@pytest.mark.parametrize("jump_s", [31_536_000.0, 300.0, -31_536_000.0])
@pytest.mark.parametrize("busy", [True, False])
def test_a_clock_that_jumps_counts_two_seconds_at_most(jump_s, busy):
    evidence = gather()
    tick(evidence, 5)
    tick(evidence, from_s=jump_s, busy=busy)

    assert 1.0 <= evidence.served_s <= 1.0 + 2.0


def test_the_hold_clock_stands_until_the_first_canary_request_has_ended():
    evidence = gather()
    end(evidence, CONTROL, passed=5)
    tick(evidence, 100, busy=False)

    assert evidence.served_s == 0.0
    assert not evidence.is_fresh


def test_the_hold_clock_stands_when_no_canary_request_has_ended_for_ten_minutes():
    evidence = gather()
    tick(evidence, 5)
    for now_s in range(1, 901, 2):
        evidence.fold(now_s=now_s)

    assert evidence.served_s == pytest.approx(1.0 + 600.0)
    assert not evidence.is_fresh


def test_the_hold_clock_stands_in_a_pause():
    evidence = gather()
    tick(evidence, 5, stands=True)

    assert evidence.served_s == 0.0
    assert evidence.is_fresh


def test_trouble_that_the_stage_asks_to_be_without_ends_the_quiet():
    evidence = gather(replace(STAGE, quiet=(Trouble.RESOURCE,)))
    now_s = tick(evidence, 5)
    evidence.trouble(Trouble.RESOURCE)
    tick(evidence, 3, from_s=now_s + TICK_S)

    findings = evidence.findings()
    assert (findings.served_s, findings.quiet_s) == pytest.approx((1.75, 0.75))


def test_other_trouble_does_not():
    evidence = gather(replace(STAGE, quiet=(Trouble.RESOURCE,)))
    tick(evidence, 5)
    evidence.trouble(Trouble.VIOLATION)

    assert evidence.findings().quiet_s == pytest.approx(1.0)


def test_failures_of_both_arms_are_an_incident():
    evidence = gather(replace(STAGE, quiet=(Trouble.INCIDENT,)), share_ratio=0.5)
    now_s = tick(evidence, 5)
    for arm in Arm:
        end(evidence, arm, failed=3)
    evidence.fold(now_s=now_s)

    assert evidence.findings().quiet_s == 0.0


def test_failures_of_control_alone_are_none():
    evidence = gather(replace(STAGE, quiet=(Trouble.INCIDENT,)), share_ratio=0.5)
    now_s = tick(evidence, 5)
    end(evidence, CONTROL, failed=3)
    evidence.fold(now_s=now_s)

    assert evidence.findings().quiet_s == pytest.approx(1.0)


def test_findings_tell_how_many_clean_requests_are_missing_and_how_fast_they_come():
    evidence = gather()
    end(evidence, CANARY, passed=570)
    tick(evidence, 41)

    findings = evidence.findings()
    assert findings.canary.finished == 611
    assert findings.needed_requests == 465
    assert findings.canary_per_s == pytest.approx(61.1)
    assert 0 < findings.canary_upper_ratio < 0.02
    assert 1 < findings.promotion_evidence < 100


def test_every_failure_counts_against_promotion_beyond_the_cap_too():
    evidence = gather()
    end(evidence, CANARY, passed=2000)
    for _ in range(100):
        evidence.ended(CANARY, failed=True, key=7, tpot_s=None)
    evidence.fold(now_s=0.0)

    assert evidence.findings().promotion_evidence < 1


def test_without_requests_there_is_no_evidence_and_no_rate():
    evidence = gather()
    tick(evidence, 1000, busy=False)

    findings = evidence.findings()
    assert [each.evidence for each in findings.readings.values()] == pytest.approx([1.0] * len(Guard))
    assert findings.promotion_evidence == pytest.approx(1.0)
    assert findings.canary_per_s == 0.0


def test_a_resume_lets_the_guards_that_paused_begin_anew_and_leaves_the_others():
    evidence = gather(share_ratio=0.5)
    play(evidence, slower=2.0)
    end(evidence, CANARY, failed=20)
    for _ in range(20):
        evidence.refused(CANARY)
    evidence.fold(now_s=100.0)
    pausing = (Guard.RELATIVE, Guard.REFUSED, Guard.TTFT, Guard.ITL)
    before = [evidence.is_tripped(each) for each in pausing]

    evidence.resume()

    assert before == [True] * 4
    assert [evidence.is_tripped(each) for each in pausing] == [False] * 4
    assert evidence.is_tripped(Guard.ERRORS)


def test_a_resume_takes_nothing_from_guards_below_their_limit():
    evidence = gather()
    evidence.refused(CANARY)
    evidence.fold(now_s=0.0)
    before = evidence.evidence(Guard.REFUSED)

    evidence.resume()

    assert before > 1
    assert evidence.evidence(Guard.REFUSED) == before


def full(*, share_ratio: float = 0.5) -> Evidence:
    """Gather a bit of everything."""
    evidence = gather(replace(STAGE, quiet=(Trouble.RESOURCE,)), share_ratio=share_ratio)
    play(evidence, slower=1.2)
    for key in range(20):
        evidence.arrived(CANARY, key)
    end(evidence, CANARY, failed=2)
    end(evidence, CONTROL, failed=1)
    evidence.refused(CANARY)
    evidence.infrastructure(CONTROL)
    evidence.trouble(Trouble.RESOURCE)
    tick(evidence, 5, from_s=100.0)
    return evidence


def test_a_document_is_gone_on_from():
    evidence = full()
    document = saved(evidence)

    after = gather(replace(STAGE, quiet=(Trouble.RESOURCE,)), share_ratio=0.5, document=document)

    assert after.problem is None
    assert after.findings() == replace(evidence.findings(), attribution=after.attribution)
    assert saved(after) == document


def test_what_passed_since_the_last_tick_is_in_the_document():
    evidence, ticked = gather(), gather()
    for each in (evidence, ticked):
        each.fold(now_s=0.0)
        end(each, CANARY, passed=500)
    ticked.fold(now_s=0.0)

    assert saved(evidence)["errors"] == saved(ticked)["errors"]


def test_making_a_document_between_ticks_does_not_hide_that_requests_come():
    evidence = gather()
    end(evidence, CANARY, passed=1)
    evidence.document()
    evidence.fold(now_s=0.0)

    assert evidence.is_fresh


def test_a_document_does_not_grow_with_the_requests_and_holds_no_keys():
    evidence = full()
    small = len(json.dumps(evidence.document()))
    for key in range(10**9, 10**9 + 10_000):
        evidence.arrived(CANARY, key)
        evidence.ended(CONTROL, failed=True, key=key, tpot_s=None)
    evidence.fold(now_s=0.0)

    text = json.dumps(evidence.document())
    assert len(text) < small + 500
    assert str(10**9 + 9_999) not in text


def test_after_a_restart_the_hold_clock_waits_for_a_request():
    evidence = full()
    served_s = evidence.served_s

    after = gather(replace(STAGE, quiet=(Trouble.RESOURCE,)), share_ratio=0.5, document=saved(evidence))
    tick(after, 100, busy=False)

    assert after.served_s == served_s
    assert not after.is_fresh


def test_keys_that_were_seen_before_a_restart_do_not_count_twice():
    evidence = gather(share_ratio=0.5)
    for key in range(8):
        evidence.arrived(CONTROL, key)
    evidence.fold(now_s=0.0)
    after = gather(share_ratio=0.5, document=saved(evidence))
    restored = after.evidence(Guard.SHARE)
    for key in range(8):
        after.arrived(CONTROL, key)
    after.fold(now_s=0.0)

    assert restored == evidence.evidence(Guard.SHARE) == after.evidence(Guard.SHARE)


def test_at_another_share_only_the_comparison_begins_anew():
    evidence = full()

    after = gather(share_ratio=0.25, document=saved(evidence))

    assert after.problem is None
    assert after.evidence(Guard.ERRORS) == evidence.evidence(Guard.ERRORS)
    assert after.served_s == evidence.served_s
    assert after.evidence(Guard.RELATIVE) == 1.0


def test_a_share_of_100_percent_and_back_is_another_share():
    evidence = full()
    at_100 = gather(share_ratio=1.0, document=saved(evidence))

    after = gather(share_ratio=0.5, document=saved(at_100))

    assert (at_100.problem, after.problem) == (None, None)
    assert after.evidence(Guard.RELATIVE) == 1.0


def test_evidence_under_other_rules_begins_anew_and_says_so():
    evidence = full()

    after = gather(params=replace(PARAMS, error_limit_ratio=0.01), document=saved(evidence))

    assert after.problem == "it was gathered by another version, or under other rules"
    assert after.findings() == gather(params=replace(PARAMS, error_limit_ratio=0.01)).findings()


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"canary": None},
        {"canary": {"finished": -1, "failed": 0, "counted_failures": 0, "refused": 0, "infrastructure": 0}},
        {"control": {"finished": "many"}},
        {
            "canary": {
                "finished": 1,
                "failed": 10**18,
                "counted_failures": 1,
                "refused": 0,
                "infrastructure": 0,
            }
        },
        {"clock": {"served_s": float("nan"), "quiet_s": 0.0}},
        {"clock": {"served_s": float("inf"), "quiet_s": 0.0}},
        {"clock": {"served_s": -1.0, "quiet_s": 0.0}},
        {"clock": {"served_s": "24h", "quiet_s": 0.0}},
        {"errors": {"limit_ratio": 0.001, "laid": 0.5, "wealth": [None] * 5}},
        {"promotion": {}},
        {"blamed": "the moon"},
        {"comparison": None},
        {"comparison": {}},
    ],
)
def test_a_damaged_document_begins_anew_and_says_so(damage):
    document = saved(full()) | damage

    after = gather(share_ratio=0.5, document=document)

    assert after.problem
    assert after.findings() == gather(share_ratio=0.5).findings()
