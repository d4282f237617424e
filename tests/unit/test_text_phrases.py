"""Pins where a stop text cuts an answer, and that nothing is held back longer than it must be."""

from __future__ import annotations

import pytest

from wicketgate.pipeline.phrases import Phrases, PhraseSearch


def fed(stops: list[str], *pieces: str) -> tuple[list[str], PhraseSearch]:
    stop = PhraseSearch(Phrases(stops))
    return [stop.feed(piece) for piece in pieces], stop


def test_without_stops_all_text_passes_at_once():
    given, stop = fed([], "any", "thing")

    assert given == ["any", "thing"]
    assert stop.found is None
    assert stop.flush() == ""


def test_the_text_ends_before_the_stop_and_nothing_comes_after_it():
    given, stop = fed(["END"], "go EN", "D more", "still more")

    assert given == ["go ", "", ""]
    assert (stop.found, stop.rest) == ("END", " more")
    assert stop.flush() == ""


def test_what_might_have_been_a_stop_comes_out_when_it_is_none():
    given, stop = fed(["END"], "EN", "ENx")

    assert given == ["", "ENENx"]
    assert stop.found is None


def test_what_is_held_back_at_the_end_is_flushed_once():
    given, stop = fed(["END"], "the EN")

    assert given == ["the "]
    assert stop.flush() == "EN"
    assert stop.flush() == ""


def test_no_more_is_held_back_than_begins_a_stop():
    given, _ = fed(["aab"], "a" * 1000)

    assert given == ["a" * 998]


def test_the_stop_that_completes_first_wins():
    given, _ = fed(["cdef", "de"], "abcdef")

    assert given == ["abc"]


def test_of_stops_that_complete_together_the_longest_wins():
    given, stop = fed(["c", "bc", "abc"], "xabc")

    assert given == ["x"]
    assert stop.found == "abc"


def test_a_stop_inside_the_beginning_of_a_longer_one_is_found():
    given, _ = fed(["abcd", "bc"], "abc")

    assert given == ["a"]


def test_a_stop_may_overlap_the_failed_beginning_of_itself():
    given, stop = fed(["aab"], "aaab")

    assert given == ["a"]
    assert stop.found == "aab"


@pytest.mark.parametrize("stop", ["]", "^", "\\", "-", "."])
def test_characters_that_mean_something_in_patterns_are_only_characters(stop):
    given, _ = fed([stop], f"x{stop}y")

    assert given == ["x"]


def test_a_stop_that_does_not_count_yet_is_passed_over():
    stop = PhraseSearch(Phrases(["ab", "bc"]))

    assert stop.feed("ab", may_end=False) == "a"
    assert stop.feed("c") == "a"[:0]
    assert stop.found == "bc"


def test_nothing_of_a_stop_that_did_not_count_is_held_back_where_no_other_can_begin_in_it():
    stop = PhraseSearch(Phrases(["ab"]))

    assert stop.feed("ab", may_end=False) == "ab"
