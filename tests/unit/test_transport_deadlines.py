"""Pins when a silent connection is looked at, and what it is ended for."""

from __future__ import annotations

from math import inf

from transport.counters import CloseReason
from transport.deadlines import Deadlines


def deadlines() -> Deadlines:
    return Deadlines(header_timeout_s=5, keep_alive_s=75, now_s=0)


def test_the_preface_is_waited_for_five_seconds():
    made = deadlines()

    assert made.next_s == 5
    assert made.passed(now_s=4.9) is None
    assert made.passed(now_s=5) is CloseReason.SLOW_PREFACE


def test_an_idle_connection_ends_when_its_time_is_up():
    made = deadlines()
    made.greeted()

    assert made.next_s == 75
    assert made.passed(now_s=75) is CloseReason.IDLE


def test_a_busy_one_has_no_deadline_until_it_is_idle_again():
    made = deadlines()
    made.greeted()
    made.busy()

    assert made.next_s == inf

    made.idle(now_s=100)

    assert made.next_s == 175


def test_a_header_block_is_timed_from_its_first_byte():
    made = deadlines()
    made.greeted()
    made.within_headers(True, is_new=True, now_s=10)
    made.within_headers(True, is_new=False, now_s=14)

    assert made.passed(now_s=15) is CloseReason.SLOW_HEADERS

    made.within_headers(False, is_new=True, now_s=14)

    assert made.passed(now_s=15) is None


def test_each_header_block_has_its_own_time():
    made = deadlines()
    made.greeted()
    made.within_headers(True, is_new=True, now_s=10)
    made.within_headers(True, is_new=True, now_s=14)

    assert made.passed(now_s=15) is None
    assert made.passed(now_s=19) is CloseReason.SLOW_HEADERS


def test_the_second_step_of_a_drain_is_a_deadline():
    made = deadlines()
    made.drain_s = 1

    assert made.next_s == 1
