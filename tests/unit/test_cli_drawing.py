"""Pins the screen of one feature: golden texts, no line too long, nothing lost without colour or UTF-8."""

from __future__ import annotations

import io

import pytest

from tests.rollout_rows import DAY_S, row_with
from wicketgate.cli import meters
from wicketgate.cli.drawing import NARROWEST, draw, fitted, text
from wicketgate.cli.output import EN_DASH, Screen

HOLDING = row_with(
    phase="holding",
    reasons=("611 canary requests, 0 failed; 1 076 are needed to exclude a failure rate of 0.5 % or more",),
    needs_requests=465,
    eta_s=18 * 3600.0,
)
GOLDEN_HOLDING = """\
http2_transport  ‖ holding 1/4  revision 8                              14:02:14

 canary             early              mid                full
 ██████████████████ ░░░░░░░░░░░░░░░░░░ ░░░░░░░░░░░░░░░░░░ ░░░░░░░░░░░░░░░░░░
 1 %                10 %               50 %               100 %

 share       1 % of connections; 1 request in flight has it
 hold        ████████████████████  1 d of 1 d with fresh data
 requests    611 canary, 0 failed; failure rate is below 0.75 % (95 %)

 guards      nothing         acts
 errors      ░░░░░░░░░░░░░░░░░░░░  clear    rolls back
 vs control  ░░░░░░░░░░░░░░░░░░░░  clear    rolls back
 TTFT, ITL   █░░░░░░░░░░░░░░░░░░░  clear    pauses

 to promote  ███████████░░░░░░░░░  611 of 1 076 clean requests
 next        465 more requests, about 18 h
             611 canary requests, 0 failed; 1 076 are needed to exclude a
             failure rate of 0.5 % or more

 take back   wicketgate rollback http2_transport"""
TRIPPED = row_with(
    phase="rolled_back",
    stage="early",
    finished=6,
    failed=3,
    errors=2140.0,
    attribution="canary",
    actor="auto:errors",
    reason="3 of 9 canary requests failed",
    in_flight_on=14,
)
GOLDEN_TRIPPED = """\
http2_transport  ✗ rolled back  revision 8

 canary        early         mid           full
 ░░░░░░░░░░░░░ ░░░░░░░░░░░░░ ░░░░░░░░░░░░░ ░░░░░░░░░░░░░
 1 %           10 %          50 %          100 %

 share       0 % of connections; 14 requests in flight have
             it
 requests    9 canary, 3 failed; failure rate is below 0.75
             % (95 %)

 guards      nothing         acts
 errors      ████████████████████  TRIPPED  rolls back
   why       3 of 9 failed; evidence 2 140 to 1; only the
             canary failed
 vs control  ░░░░░░░░░░░░░░░░░░░░  clear    rolls back
 TTFT, ITL   █░░░░░░░░░░░░░░░░░░░  clear    pauses

 changed     2026-01-01T00:00:00Z by auto:errors: 3 of 9
             canary requests failed

 go on       wicketgate rollout start http2_transport --at
             early --reason "...\""""
ROWS = [
    HOLDING,
    TRIPPED,
    row_with(phase="paused", ttft=7000.0, actor="auto:ttft", reason="slower"),
    row_with(phase="complete", stage="full", finished=4_120_882),
    row_with(findings=None, verdict=None, held_s=None, in_flight_on=None),
    {**row_with(), "mode": "direct", "phase": None, "cause": "killed", "percentage": 0.0},
    row_with(stages=[{"name": f"step-{n}", "percentage": n + 1.0} for n in range(20)]),
]
CALLED = ["holding", "tripped", "paused", "complete", "no-gateway", "direct", "many-stages"]


def test_a_stage_that_waits_for_evidence():
    assert "\n".join(text(draw(HOLDING, clock="14:02:14", width=80))) == GOLDEN_HOLDING


def test_a_feature_that_a_guard_rolled_back_on_a_narrow_terminal():
    assert "\n".join(text(draw(TRIPPED, clock="", width=NARROWEST))) == GOLDEN_TRIPPED


@pytest.mark.parametrize("width", [60, 72, 80, 100, 126, 160])
@pytest.mark.parametrize("row", ROWS, ids=CALLED)
def test_no_line_is_longer_than_the_terminal(row, width):
    lines = text(draw(row, clock="14:02:14", width=width))

    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("row", ROWS, ids=CALLED)
def test_without_utf8_nothing_outside_ascii_is_left_and_no_width_changes(row):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(stdout=out, stderr=out, env={})
    lines = text(draw(row, clock="14:02:14", width=80))

    for line in lines:
        screen.out(line)
    out.seek(0)

    assert [len(line) for line in out.read().splitlines()] == [len(line) for line in lines]


@pytest.mark.parametrize("row", ROWS, ids=CALLED)
def test_colour_adds_nothing_that_is_not_said_in_words(row):
    words = "\n".join(text(draw(row, clock="", width=160)))
    roles = {role for line in draw(row, clock="", width=160) for _, role in line}

    assert ("bad" in roles) == ("TRIPPED" in words or "rolled back" in words)
    assert ("warn" in roles) == any(word in words for word in ("holding", "paused", "warming", "kill switch"))


def test_a_rehearsal_says_so():
    lines = text(draw(row_with(compress=1440.0), clock="", width=80))

    assert "             a rehearsal: every hold is divided by 1440" in lines


def test_what_was_refused_or_lost_is_counted_apart():
    lines = text(draw(row_with(finished=0, refused=2, lost=1), clock="", width=80))

    assert " requests    0 canary, 0 failed, 2 refused, 1 lost with the engine" in lines


@pytest.mark.parametrize(
    ("attribution", "said"),
    [
        ("canary", "; only the canary failed"),
        ("shared", "; control failed as well"),
        ("infrastructure", "; the engine host was lost"),
        ("unknown", ""),
    ],
)
def test_a_tripped_guard_says_whose_failures_they_were(attribution, said):
    row = row_with(finished=6, failed=3, errors=2140.0, attribution=attribution)

    assert meters.why(row["findings"], "errors") == f"3 of 9 failed; evidence 2 140 to 1{said}"


@pytest.mark.parametrize(
    ("ratio", "drawn"),
    [(0.0, "░░░░░"), (0.05, "░░░░░"), (0.5, "██░░░"), (0.99, "████░"), (1.0, "█████"), (7.0, "█████")],
)
def test_a_meter_is_full_only_at_its_end(ratio, drawn):
    assert meters.bar(ratio, 5) == drawn


def test_a_meter_is_logarithmic():
    reading = {"evidence": 20.0, "limit": 1000.0}

    assert round(meters.meter_ratio(reading), 2) == 0.43


def test_evidence_below_one_is_an_empty_meter():
    assert meters.meter_ratio({"evidence": 0.01, "limit": 1000.0}) == 0


@pytest.mark.parametrize(
    ("value", "written"), [(1.0, "1.0"), (9.94, "9.9"), (27.4, "27"), (2140, "2 140"), (3e12, "10^12")]
)
def test_evidence_is_written_to_be_read(value, written):
    assert meters.evidence(value) == written


@pytest.mark.parametrize(
    ("ratio", "written"),
    [(0.00019, "0.019 %"), (0.0075, "0.75 %"), (0.5, "50 %"), (1.0, "100 %"), (0.0, "0.001 %")],
)
def test_a_bound_has_two_figures_and_is_never_0(ratio, written):
    assert meters.bound(ratio) == written


def test_a_hold_that_nobody_watches_is_a_dash_and_one_just_begun_is_0():
    unknown = text(draw(row_with(held_s=None), clock="", width=80))
    begun = text(draw(row_with(held_s=0.0, hold_s=DAY_S), clock="", width=80))

    assert any(f"{EN_DASH} of 1 d" in line for line in unknown)
    assert any("0 s of 1 d" in line for line in begun)


def test_a_hold_that_went_on_after_its_end_is_served_and_no_more():
    longer = text(draw(row_with(held_s=3 * DAY_S, hold_s=DAY_S), clock="", width=80))

    assert any("1 d of 1 d" in line for line in longer)


def test_a_hold_is_not_rounded_up_to_its_end():
    nearly = text(draw(row_with(held_s=4.7, hold_s=5.0), clock="", width=80))

    assert any("4 s of 5 s" in line for line in nearly)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("height", [8, 15, 23])
def test_a_low_terminal_keeps_the_title_and_the_way_back(row, height):
    lines = draw(row, clock="", width=NARROWEST)

    shown = text(fitted(lines, height))

    assert len(shown) <= height
    assert shown[0] == text(lines)[0]
    assert shown[-1] == text(lines)[-1]
    assert any(line.startswith((" take back", " go on")) for line in shown)


def test_a_high_one_shows_all_of_it():
    lines = draw(HOLDING, clock="", width=80)

    assert fitted(lines, len(lines)) == lines
