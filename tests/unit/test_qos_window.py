"""Pins sliding counts and digests: what is inside, what has left, late facts and clocks that step back."""

from __future__ import annotations

import pytest

from qos.bounds import OutOfBoundsError
from qos.digest import EmptyDigestError
from qos.window import Counts, Tally, Window, WindowParams

FIVE = WindowParams(span_s=5.0, slot_s=1.0)


def test_events_stay_for_the_span_and_leave_after_it():
    counts = Counts(FIVE, now_s=0.0)
    counts.add(good=3, bad=1, now_s=0.5)
    counts.add(good=2, now_s=2.5)

    assert counts.read(now_s=4.9) == Tally(good=5, bad=1, facts=2)
    assert counts.read(now_s=5.0) == Tally(good=2, bad=0, facts=1)
    assert counts.read(now_s=7.0) == Tally()


def test_the_total_is_good_and_bad():
    assert Tally(good=3, bad=2, facts=1).total == 5


def test_a_shorter_span_sees_the_last_slots_only():
    counts = Counts(FIVE, now_s=0.0)
    for second in range(5):
        counts.add(good=10**second, now_s=second + 0.5)

    assert counts.read(now_s=4.9, span_s=1.0).good == 10_000
    assert counts.read(now_s=4.9, span_s=2.0).good == 11_000
    assert counts.read(now_s=4.9, span_s=99.0).good == 11_111
    assert counts.read(now_s=4.9, span_s=0.1).good == 10_000


def test_a_late_event_counts_in_its_own_slot():
    counts = Counts(FIVE, now_s=0.0)
    counts.add(good=1, now_s=4.5)
    counts.add(bad=1, now_s=1.5)

    assert counts.read(now_s=5.5) == Tally(good=1, bad=1, facts=2)
    assert counts.read(now_s=6.5) == Tally(good=1, bad=0, facts=1)


def test_an_event_later_than_the_window_is_dropped():
    counts = Counts(FIVE, now_s=0.0)
    counts.add(good=1, now_s=9.5)
    counts.add(bad=1, now_s=4.5)

    assert counts.read(now_s=9.5) == Tally(good=1, facts=1)


def test_reading_with_an_earlier_time_forgets_nothing():
    counts = Counts(FIVE, now_s=0.0)
    counts.add(good=1, now_s=4.5)

    assert counts.read(now_s=0.0) == Tally(good=1, facts=1)
    assert counts.read(now_s=4.5) == Tally(good=1, facts=1)


def test_a_jump_ahead_clears_the_window_once():
    counts = Counts(FIVE, now_s=0.0)
    counts.add(good=1, now_s=0.5)

    assert counts.read(now_s=1e9) == Tally()


def test_the_window_covers_what_it_has_lived_until_it_is_full():
    counts = Counts(FIVE, now_s=10.0)

    assert counts.covered_s(now_s=10.0) == 1.0
    assert counts.covered_s(now_s=12.5) == 2.5
    assert counts.covered_s(now_s=19.5) == 4.5


def test_samples_stay_for_the_span_and_leave_after_it():
    window = Window(FIVE, now_s=0.0)
    window.add(9.0, now_s=0.5)
    window.add(1.0, 3, now_s=3.5)

    assert window.count(now_s=4.9) == 4
    assert window.count(now_s=4.9, span_s=2.0) == 3
    assert window.quantile(1.0, now_s=4.9) == 9.0
    assert window.count(now_s=5.0) == 3
    assert window.quantile(1.0, now_s=5.0) == 1.0


def test_a_sample_that_comes_after_a_read_is_in_the_next_one():
    window = Window(FIVE, now_s=0.0)
    window.add(1.0, now_s=0.5)
    assert window.quantile(1.0, now_s=0.5) == 1.0

    window.add(2.0, now_s=0.6)

    assert window.quantile(1.0, now_s=0.6) == 2.0


def test_a_late_sample_counts_and_one_later_than_the_window_does_not():
    window = Window(FIVE, now_s=0.0)
    window.add(1.0, now_s=9.5)
    window.add(2.0, now_s=6.5)
    window.add(3.0, now_s=2.5)

    assert window.count(now_s=9.5) == 2
    assert window.quantile(1.0, now_s=9.5) == 2.0


def test_an_empty_window_has_no_quantiles():
    window = Window(FIVE, now_s=0.0)
    window.add(1.0, now_s=0.5)

    with pytest.raises(EmptyDigestError):
        window.quantile(0.5, now_s=60.0)


@pytest.mark.parametrize(("field", "params"), [("span_s", {"span_s": 0.5}), ("slot_s", {"slot_s": 0.0})])
def test_a_window_shorter_than_its_slot_is_refused(field, params):
    with pytest.raises(OutOfBoundsError) as caught:
        WindowParams(**params)

    assert caught.value.field == field
