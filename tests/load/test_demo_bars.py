"""Pins how soon a fresh gateway on the demo model is of use: the bars of the first release."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.operations import Begin
    from bench.server import Server


def test_the_demo_model_is_ready_within_15_seconds_of_its_start(started: tuple[Server, Begin]):
    assert started[1].start_to_ready_s < 15


def test_its_first_request_takes_less_than_5_seconds(started: tuple[Server, Begin]):
    assert started[1].first_request_s < 5


def test_requests_one_by_one_take_less_than_2_seconds_each(started: tuple[Server, Begin]):
    assert max(started[1].sequential_request_s) < 2
