"""Pins what --wait waits for: which end of a stage is a success, which is not, and what it is told as."""

from __future__ import annotations

import pytest

from tests.rollout_rows import row_with
from wicketgate.cli.wait import outcome
from wicketgate.errors import ExitCode


@pytest.mark.parametrize(
    ("row", "word", "code"),
    [
        (row_with(phase="running", stage="early"), "promoted", ExitCode.DONE),
        (row_with(phase="complete", stage="full"), "complete", ExitCode.DONE),
        (row_with(phase="rolled_back"), "rolled_back", ExitCode.CHECK_FAILED),
        (row_with(phase="paused"), "paused", ExitCode.CHECK_FAILED),
        (row_with(phase="holding"), "holding", ExitCode.CHECK_FAILED),
        (row_with(phase="off"), "stopped", ExitCode.CHECK_FAILED),
    ],
    ids=["promoted", "complete", "rolled-back", "paused", "holding", "stopped"],
)
def test_the_end_of_a_stage_is_a_success_or_not(row, word, code):
    done = outcome(row, from_index=0)

    assert done is not None
    assert (done.word, done.code) == (word, code)


def test_a_stage_that_is_still_watched_has_no_outcome():
    assert outcome(row_with(phase="running"), from_index=0) is None


def test_a_stage_that_was_reached_and_holds_was_left_upward_all_the_same():
    done = outcome(row_with(phase="holding", stage="early"), from_index=0)

    assert done is not None
    assert done.word == "promoted"


def test_who_took_it_back_and_why_is_told():
    done = outcome(row_with(phase="rolled_back", actor="auto:errors", reason="3 of 9 failed"), from_index=0)

    assert done is not None
    assert done.why == "by auto:errors: 3 of 9 failed"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (row_with(phase="holding", reasons=("a is missing", "b is")), "a is missing; b is"),
        (row_with(phase="holding", needs_requests=2), "2 more requests"),
        (row_with(phase="holding", reason="control fails as well"), "control fails as well"),
        (row_with(phase="holding"), "evidence is missing"),
        (
            row_with(phase="holding", kind="pass"),
            "it may go on: wicketgate rollout promote http2_transport",
        ),
    ],
)
def test_a_stage_that_holds_says_what_is_missing(row, why):
    done = outcome(row, from_index=0)

    assert done is not None
    assert done.why == why


def test_the_outcome_is_told_as_an_object():
    row = row_with(phase="rolled_back", actor="ann", reason="INC-1")
    done = outcome(row, from_index=0)

    assert done is not None
    assert done.document(row, waited_s=1.23456) == {
        "outcome": "rolled_back",
        "why": "by ann: INC-1",
        "phase": "rolled_back",
        "stage": "canary",
        "percentage": 0.0,
        "revision": 8,
        "waited_s": 1.235,
    }
