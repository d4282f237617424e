"""Pins how long an answer may be silent, stuck or unread, and what is due then."""

from __future__ import annotations

import math

import pytest

from wicketgate.api.patience import Due, Patience, PatienceParams

PARAMS = PatienceParams(heartbeat_s=10.0, no_progress_timeout_s=25.0, slow_reader_timeout_s=30.0)


def run(patience: Patience, *, until_s: float) -> list[tuple[float, Due]]:
    """Do what a timer does: look whenever something may be due."""
    seen = []
    while (at_s := patience.deadline_s) <= until_s:
        due = patience.advance(now_s=at_s)
        seen += [(at_s, each) for each in due]
        if due and due[0] is not Due.HEARTBEAT:
            break
    return seen


def test_before_anything_was_written_nobody_hears_a_heartbeat_and_only_the_engine_is_waited_for() -> None:
    assert run(Patience(PARAMS, now_s=0.0), until_s=100.0) == [(25.0, Due.STUCK)]


def test_a_silent_stream_beats_until_it_is_stuck() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.written_s = 0.0

    assert run(patience, until_s=100.0) == [(10.0, Due.HEARTBEAT), (20.0, Due.HEARTBEAT), (25.0, Due.STUCK)]


def test_tokens_without_text_are_progress_and_no_sign_of_life_for_the_client() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.written_s = 0.0
    patience.progress_s = 9.0

    assert run(patience, until_s=33.9) == [
        (10.0, Due.HEARTBEAT),
        (20.0, Due.HEARTBEAT),
        (30.0, Due.HEARTBEAT),
    ]


def test_what_is_written_takes_the_place_of_a_heartbeat() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.written_s = 0.0
    patience.written_s = 9.0

    assert patience.advance(now_s=10.0) == []
    assert patience.deadline_s == 19.0


def test_a_client_that_does_not_read_counts_from_when_it_stopped_and_nothing_else_counts() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.written_s = 0.0
    patience.unread(now_s=5.0, unsent_bytes=9)
    patience.unread(now_s=20.0, unsent_bytes=9)

    assert run(patience, until_s=100.0) == [(35.0, Due.UNREAD)]


def test_a_client_that_reads_slowly_has_its_time_anew_with_all_that_it_reads() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.unread(now_s=5.0, unsent_bytes=9)
    patience.unread(now_s=20.0, unsent_bytes=8)
    patience.unread(now_s=30.0, unsent_bytes=8)

    assert run(patience, until_s=100.0) == [(50.0, Due.UNREAD)]


def test_a_client_that_reads_again_is_forgiven_and_so_is_the_engine() -> None:
    patience = Patience(PARAMS, now_s=0.0)
    patience.unread(now_s=5.0, unsent_bytes=9)
    patience.read(now_s=34.0)

    assert run(patience, until_s=100.0) == [(59.0, Due.STUCK)]


@pytest.mark.parametrize("name", ["heartbeat_s", "no_progress_timeout_s", "slow_reader_timeout_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_time_that_would_end_everything_at_once_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        PatienceParams(**{name: value})
