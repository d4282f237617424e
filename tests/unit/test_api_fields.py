"""Pins how near two names are, and which unknown name is a misspelling."""

from __future__ import annotations

import pytest

from wicketgate.api.fields import Arguments, distance, path_of, unknown_names
from wicketgate.api.value_count import MORE_VALUES
from wicketgate.errors import InvalidRequestError

KNOWN = {"temperature", "messages", "stop", "top_k"}


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [
        ("", "", 0),
        ("a", "", 1),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("top_p", "top_p", 0),
        ("abc", "bc", 1),
    ],
)
def test_the_distance_counts_insertions_deletions_and_replacements(one, other, letters):
    assert distance(one, other) == distance(other, one) == letters


@pytest.mark.parametrize("name", ["temprature", "temperatur", "mesages", "Messages"])
def test_a_name_within_two_letters_of_a_known_one_is_a_misspelling(name):
    with pytest.raises(InvalidRequestError, match="Did you mean"):
        unknown_names({name: 1}, KNOWN, refuses=False)


@pytest.mark.parametrize("name", ["stopp", "temper", "top_p", "temperature" * 9])
def test_a_short_or_distant_name_is_only_unknown(name):
    assert unknown_names({name: 1, "stop": 2}, KNOWN, refuses=False) == (name[:40],)


def test_a_place_is_written_as_clients_write_it_without_the_names_of_alternatives():
    assert path_of(("messages", 0, "content", "<parts>", 1, "type")) == "messages[0].content[1].type"


def test_the_arguments_of_all_calls_together_have_the_bounds_of_a_body():
    given = Arguments()
    half = MORE_VALUES // 2
    text = '{"a":[' + "{}," * (half - 1) + "{}]}"
    given.read(text, param="first")
    given.read(text, param="second")

    with pytest.raises(InvalidRequestError, match=f"third must have at most {MORE_VALUES} values") as refusal:
        given.read('{"a":[1]}', param="third")

    assert "those of such fields before it counted" in refusal.value.message
    assert (refusal.value.param, refusal.value.code) == ("third", "array_above_max_length")
