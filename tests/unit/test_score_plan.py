"""Pins how a score becomes tokens: joins, labels in context, what is computed once; and what scores are."""

from __future__ import annotations

import math
import re

import pytest

from wicketgate.errors import EngineFailedError, InvalidRequestError
from wicketgate.pipeline.score_plan import (
    MAX_CHARS,
    MAX_TEXTS,
    MAX_TOKENS,
    Rated,
    ScoreSpec,
    grouped,
    rated_items,
    scores,
)

pytestmark = pytest.mark.anyio
BEGIN = 1


async def encode(text: str, *, has_special_tokens: bool) -> list[int]:
    """Tokenise into words with the space before them, each the sum of its characters."""
    words = [sum(map(ord, word)) for word in re.findall(r" ?[^ ]+| ", text)]
    return [BEGIN, *words] if has_special_tokens else words


def word(text: str) -> int:
    return sum(map(ord, text))


async def rated(**fields: object) -> list[Rated]:
    usual: dict[str, object] = {"query": "one two", "items": (" three", " four five"), "label_ids": (7, 9)}
    return await rated_items(ScoreSpec(**usual | fields), encode, context_tokens=100)


async def test_query_and_item_are_one_text_with_special_tokens_once_in_front() -> None:
    first, second = await rated()

    assert first.prompt == (BEGIN, word("one"), word(" two"), word(" three"))
    assert second.prompt == (BEGIN, word("one"), word(" two"), word(" four"), word(" five"))
    assert first.labels == second.labels == ((7,), (9,))


async def test_joined_as_text_a_word_may_go_across_the_border_and_as_ids_it_may_not() -> None:
    (as_text,) = await rated(items=("three",))
    (as_ids,) = await rated(items=("three",), join="ids")

    assert as_text.prompt == (BEGIN, word("one"), word(" twothree"))
    assert as_ids.prompt == (BEGIN, word("one"), word(" two"), word("three"))


@pytest.mark.parametrize("join", ["text", "ids"])
async def test_an_item_that_comes_first_has_the_special_tokens_and_the_query_none(join: str) -> None:
    first, _ = await rated(item_first=True, query=" one", items=("two", "three"), join=join)

    assert first.prompt == (BEGIN, word("two"), word(" one"))


@pytest.mark.parametrize(("item_first", "prompt"), [(False, (4, 5, 6)), (True, (6, 4, 5))])
async def test_ids_are_taken_as_they_are(item_first: bool, prompt: tuple[int, ...]) -> None:
    (found,) = await rated(query=(4, 5), items=((6,),), item_first=item_first)

    assert found.prompt == prompt


async def test_a_label_is_what_is_left_behind_the_tokens_of_the_prompt() -> None:
    first, _ = await rated(label_ids=(), labels=(" yes", " no way"))

    assert first.labels == ((word(" yes"),), (word(" no"), word(" way")))


@pytest.mark.parametrize("fields", [{"join": "ids"}, {"query": (4,), "items": ((5,),)}])
async def test_without_a_joined_text_labels_are_tokenised_by_themselves(fields: dict[str, object]) -> None:
    found = await rated(label_ids=(), labels=("yes", " no"), **fields)

    assert {each.labels for each in found} == {((word("yes"),), (word(" no"),))}


async def test_a_label_that_shares_a_token_with_the_prompt_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequestError, match=r"items\[0\].*join") as caught:
        await rated(label_ids=(), labels=(" yes", "ish"))

    assert caught.value.param == "labels[1]"


async def test_a_prompt_of_no_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await rated(query=(), items=((5,), ()))

    assert (caught.value.param, caught.value.code) == ("query", "empty_string")


async def test_an_item_that_is_too_long_with_the_longest_label_is_refused() -> None:
    spec = ScoreSpec(query="a", items=(" b", " b c"), labels=(" x", " y z"))
    with pytest.raises(InvalidRequestError, match="6 tokens; the model's context is 5") as caught:
        await rated_items(spec, encode, context_tokens=5)

    assert (caught.value.param, caught.value.code) == ("items[1]", "context_length_exceeded")


@pytest.mark.parametrize(("labels", "is_refused"), [((" a",), True), ((), False)])
async def test_what_would_take_too_long_to_tokenise_is_refused(
    labels: tuple[str, ...],
    is_refused: bool,
) -> None:
    async def quick(text: str, *, has_special_tokens: bool) -> list[int]:
        return [5]

    items = ("x" * (MAX_CHARS // 128),) * 100
    spec = ScoreSpec(query="", items=items, labels=labels, label_ids=() if labels else (5,))
    if not is_refused:
        assert len(await rated_items(spec, quick, context_tokens=9)) == 100
        return
    with pytest.raises(InvalidRequestError, match="send fewer items"):
        await rated_items(spec, quick, context_tokens=9)


# Groups


def test_what_all_items_begin_with_is_computed_once() -> None:
    labels = ((7,), (8,))
    (group,) = grouped([Rated(prompt=prompt, labels=labels) for prompt in ((1, 2, 3), (1, 2, 4, 5), (1, 2))])

    assert group.query == (1, 2)
    assert group.items == ((3,), (4, 5), ())
    assert (group.places, group.labels) == ((0, 1, 2), labels)


def test_items_that_begin_differently_share_nothing() -> None:
    (group,) = grouped([Rated(prompt=prompt, labels=((7,),)) for prompt in ((3, 1), (2, 1))])

    assert (group.query, group.items) == ((), ((3, 1), (2, 1)))


def test_one_item_alone_is_a_query_with_nothing_behind_it() -> None:
    (group,) = grouped([Rated(prompt=(3, 1), labels=((7,),))])

    assert (group.query, group.items) == ((3, 1), ((),))


def test_items_whose_labels_have_other_tokens_are_asked_for_apart() -> None:
    rated = [
        Rated(prompt=(1, 2), labels=((7,),)),
        Rated(prompt=(1, 3), labels=((8, 9),)),
        Rated(prompt=(1, 4), labels=((7,),)),
    ]

    groups = grouped(rated)

    assert [(group.places, group.labels) for group in groups] == [((0, 2), ((7,),)), ((1,), ((8, 9),))]


# Scores


def scored(
    *logprobs: float, tokens: tuple[int, ...] = (), mean: bool = False, softmax: bool = False
) -> list[float]:
    counts = tokens or (1,) * len(logprobs)
    return scores(list(logprobs), tokens=counts, takes_mean=mean, has_softmax=softmax)


def test_a_score_is_the_probability_of_the_label() -> None:
    assert scored(math.log(0.25), math.log(0.5)) == pytest.approx([0.25, 0.5])


def test_softmax_shares_1_among_the_labels_however_unlikely_they_are() -> None:
    assert scored(math.log(0.25), math.log(0.5), softmax=True) == pytest.approx([1 / 3, 2 / 3])
    assert scored(-5000.0, -5000.0, softmax=True) == [0.5, 0.5]


def test_the_mean_divides_by_the_tokens_of_the_label() -> None:
    assert scored(math.log(0.25), math.log(0.5), tokens=(2, 1), mean=True) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("softmax", [True, False])
def test_labels_that_cannot_be_have_0_and_not_nan(softmax: bool) -> None:
    assert scored(-math.inf, -math.inf, softmax=softmax) == [0.0, 0.0]


def test_what_is_no_number_is_a_failure_of_the_engine() -> None:
    with pytest.raises(EngineFailedError):
        scored(math.nan, -1.0)


async def test_more_tokens_than_may_be_rated_at_once_are_refused() -> None:
    query = tuple(range(MAX_TOKENS // 16))
    spec = ScoreSpec(query=query, items=((1,),) * 16, label_ids=(5,))

    with pytest.raises(InvalidRequestError, match=f"at most {MAX_TOKENS} tokens") as refusal:
        await rated_items(spec, encode, context_tokens=MAX_TOKENS)

    assert refusal.value.param == "items"


async def test_too_many_texts_are_refused_before_one_is_tokenised() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        await rated(items=(" three",) * (MAX_TEXTS // 4), labels=(" a", " b", " c", " d"), label_ids=())

    assert refusal.value.param == "items"
