"""Pins what becomes of a request whatever its API: the model, the key, the salt, the seeds, the ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.api_fakes import CARD
from wicketgate.api.requests import Arrival, build_request, check_max_tokens, drawn_seed, find_model
from wicketgate.errors import InvalidRequestError, NotFoundError
from wicketgate.inference import OutputForm, Sampling, TextPrompt

ID = "req_" + "0" * 31 + "a"
ARRIVAL = Arrival(id=ID, arrived_s=7.0, session=None, client=None, connection=None)
OTHER = replace(CARD, id="other")


def build(arrival=ARRIVAL, names=None, **more):
    fields = {"prompt": TextPrompt(text="hi"), "sampling": Sampling(max_tokens=4, seed=1), "api": "chat"}
    return build_request(card=CARD, arrival=arrival, names=names or {}, **fields | more)


def test_a_model_is_found_by_its_name():
    assert find_model([CARD, OTHER], "other") is OTHER


def test_no_name_means_the_only_model():
    assert find_model([CARD], None) is CARD


@pytest.mark.parametrize("cards", [[], [CARD, OTHER]])
def test_no_name_means_nothing_where_there_is_a_choice(cards):
    with pytest.raises(InvalidRequestError) as caught:
        find_model(cards, None)

    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")


def test_an_unknown_name_is_not_found():
    with pytest.raises(NotFoundError) as caught:
        find_model([CARD], "nope")

    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_an_answer_may_be_as_long_as_the_context_and_no_longer():
    check_max_tokens(64, param="max_tokens", card=CARD)

    with pytest.raises(InvalidRequestError, match="max_tokens must be at most 64") as caught:
        check_max_tokens(65, param="max_tokens", card=CARD)

    assert caught.value.code == "integer_above_max_value"


@pytest.mark.parametrize(
    ("names", "session", "key", "source"),
    [
        ({"user": "u", "session_id": "s"}, "h", "h", "x-session-id"),
        ({"user": "u", "session_id": "s", "prompt_cache_key": "p"}, None, "s", "session_id"),
        ({"user": "u", "safety_identifier": "i", "prompt_cache_key": "p"}, None, "p", "prompt_cache_key"),
        ({"user": "u", "safety_identifier": "i", "session_id": None}, None, "i", "safety_identifier"),
        ({"user": "u", "session_id": ""}, None, "u", "user"),
        ({}, None, ID, "request"),
    ],
)
def test_a_request_is_decided_by_its_session_its_user_or_itself(names, session, key, source):
    request = build(replace(ARRIVAL, session=session), names)

    assert (request.key, request.key_source) == (key, source)


@pytest.mark.parametrize(
    ("names", "session"),
    [
        ({"session_id": "s"}, "s"),
        ({"prompt_cache_key": "p"}, "p"),
        ({"user": "u"}, ""),
        ({}, ""),
        ({"session_id": "x" * 200}, "x" * 128),
    ],
)
def test_a_conversation_is_named_by_its_session_only(names, session):
    assert build(names=names).session == session


def test_kv_is_not_shared_between_clients_nor_between_salts():
    one, other = replace(ARRIVAL, client="a"), replace(ARRIVAL, client="b")
    requests = [build(arrival, cache_salt=salt) for arrival in (ARRIVAL, one, other) for salt in ("", "s")]

    assert len({request.salt for request in requests}) == 6


def test_each_choice_is_a_request_with_an_id_of_its_own_and_the_same_key():
    requests = [build(choice=choice) for choice in range(3)]

    assert [request.id for request in requests] == [ID, f"{ID}-1", f"{ID}-2"]
    assert {request.key for request in requests} == {ID}
    assert [request.choice for request in requests] == [0, 1, 2]


def test_what_an_api_says_reaches_the_request():
    output = OutputForm(is_raw=True)
    request = build(stop=["a"], stream=True, priority=3, output=output)

    assert (request.stop, request.stream, request.priority, request.output) == (("a",), True, 3, output)
    assert (request.model, request.api, request.arrived_s) == ("demo", "chat", 7.0)


def test_a_seed_is_taken_as_it_is_for_the_first_answer():
    assert [drawn_seed(seed, arrival=ARRIVAL) for seed in (7, -1)] == [7, 2**64 - 1]


def test_without_a_seed_the_requests_own_id_is_one():
    assert drawn_seed(None, arrival=ARRIVAL) == 10


def test_no_two_samples_have_a_seed_in_common_nor_with_those_that_people_count_up():
    seeds = {drawn_seed(seed, arrival=ARRIVAL, sample=sample) for seed in range(100) for sample in range(128)}

    assert len(seeds) == 100 * 128
