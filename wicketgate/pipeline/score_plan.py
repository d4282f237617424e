"""
From the texts or token ids of a score to what an engine is asked (pure).

Theory of operation. What is rated is the token after the last of query and item, or of item and query. Joined
as text they are tokenised together, as the model would have read them; joined as ids each is tokenised by
itself. The special tokens that a tokeniser puts in front come once, in front; ids that a client sends are
taken as they are. A label is what is left of the tokens of prompt and label behind those of the prompt: where
the two share a token there is no such label. Items whose labels have the same tokens go to the engine
together, with what all of them begin with as the query, which is computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from wicketgate.errors import EngineFailedError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CHARS: Final = 1 << 26
"""Of all texts that one request has tokenised: 64 Mi take seconds on a thread of their own (Linux CPU)."""

MAX_TEXTS: Final = 1 << 15
"""Texts that one request has tokenised: each takes about 0.1 ms, whatever its length (Linux CPU)."""

MAX_SCORES: Final = 1 << 15
"""Items times labels: an answer of so many numbers is written in 40 ms (Linux CPU)."""

MAX_TOKENS: Final = 1 << 22
"""Of all prompts together, what they share counted each time."""

Text = str | tuple[int, ...]
"""A text, or the ids of one."""


class Encode(Protocol):
    """Tokenises."""

    async def __call__(self, text: str, *, has_special_tokens: bool) -> list[int]:
        """Return the tokens of a text, with those that the tokeniser puts in front or without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What is to be rated. Query and items are all texts or all ids, and there is at least one item."""

    query: Text
    items: tuple[Text, ...]
    labels: tuple[str, ...] = ()
    """Texts; empty where `label_ids` are given."""
    label_ids: tuple[int, ...] = ()
    """Labels of one token each."""
    join: Literal["text", "ids"] = "text"
    """Whether texts are joined before they are tokenised, or after."""
    item_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One item as the model sees it."""

    prompt: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    """Tokens of each label behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreGroup:
    """Items that go to the engine together."""

    places: tuple[int, ...]
    """Which items, by their places in the request."""
    query: tuple[int, ...]
    """What all of them begin with."""
    items: tuple[tuple[int, ...], ...]
    """What follows for each."""
    labels: tuple[tuple[int, ...], ...]


async def rated_items(spec: ScoreSpec, encode: Encode, *, context_tokens: int) -> list[Rated]:
    """
    Turn every item into tokens.

    Args:
        spec: What is to be rated.
        encode: Tokenises a text.
        context_tokens: The model's bound.

    Raises:
        InvalidRequestError: an item gives no tokens or too many, a label has no tokens of its own behind
            one, or all together are too many or too long.
    """
    _check_chars(spec)
    loose = [tuple(await encode(label, has_special_tokens=False)) for label in spec.labels if _is_loose(spec)]
    shared = tuple([(token,) for token in spec.label_ids] or loose)
    query_parts = await _query_parts(spec, encode)
    rated: list[Rated] = []
    all_tokens = 0
    for place, item in enumerate(spec.items):
        prompt = await _prompt(spec, item, query_parts, encode)
        if not prompt:
            raise InvalidRequestError(
                f"query and items[{place}] must give at least one token", param="query", code="empty_string"
            )
        labels = shared or await _labels(spec, place, prompt, encode)
        tokens = len(prompt) + max(len(label) for label in labels)
        if tokens > context_tokens:
            raise InvalidRequestError(
                f"query, items[{place}] and the longest label have {tokens} tokens; the model's context is"
                f" {context_tokens}. Shorten them.",
                param=f"items[{place}]",
                code="context_length_exceeded",
            )
        all_tokens += len(prompt)
        if all_tokens > MAX_TOKENS:
            raise InvalidRequestError(
                f"items, each with the query, must give at most {MAX_TOKENS} tokens, got {all_tokens} or more"
                ": send fewer items at a time",
                param="items",
            )
        rated.append(Rated(prompt=prompt, labels=labels))
    return rated


def _check_chars(spec: ScoreSpec) -> None:
    count = len(spec.items) * (len(spec.labels) or len(spec.label_ids))
    if count > MAX_SCORES:
        raise InvalidRequestError(
            f"items times labels must be at most {MAX_SCORES}, got {count}: send fewer items at a time",
            param="items",
            code="array_above_max_length",
        )
    texts = [item for item in spec.items if isinstance(item, str)]
    query_chars = len(spec.query) if isinstance(spec.query, str) else 0
    times = 1 if _is_loose(spec) else 1 + len(spec.labels)
    if times * len(texts) > MAX_TEXTS:
        raise InvalidRequestError(
            f"items, each with each label behind it, must be at most {MAX_TEXTS} texts, got"
            f' {times * len(texts)}: send fewer items at a time, or join: "ids"',
            param="items",
        )
    chars = times * sum(query_chars + len(text) for text in texts)
    if chars > MAX_CHARS:
        raise InvalidRequestError(
            f"query and items, with each label behind each, must be at most {MAX_CHARS} characters, got"
            f" {chars}: send fewer items at a time",
            param="items",
        )


def _is_loose(spec: ScoreSpec) -> bool:
    """Tell whether labels are tokenised by themselves: where there is no joined text to be behind."""
    return spec.join == "ids" or not isinstance(spec.query, str)


async def _query_parts(spec: ScoreSpec, encode: Encode) -> tuple[int, ...]:
    """Return the tokens of a query that is joined as ids."""
    if not isinstance(spec.query, str):
        return spec.query
    return (
        tuple(await encode(spec.query, has_special_tokens=not spec.item_first)) if spec.join == "ids" else ()
    )


async def _prompt(
    spec: ScoreSpec,
    item: Text,
    query: tuple[int, ...],
    encode: Encode,
) -> tuple[int, ...]:
    if not _is_loose(spec):
        return tuple(await encode(_joined(spec, item), has_special_tokens=True))
    ids = tuple(await encode(item, has_special_tokens=spec.item_first)) if isinstance(item, str) else item
    return ids + query if spec.item_first else query + ids


def _joined(spec: ScoreSpec, item: Text) -> str:
    first, second = (item, spec.query) if spec.item_first else (spec.query, item)
    return f"{first}{second}"


async def _labels(
    spec: ScoreSpec,
    place: int,
    prompt: tuple[int, ...],
    encode: Encode,
) -> tuple[tuple[int, ...], ...]:
    found = []
    for index, label in enumerate(spec.labels):
        ids = tuple(await encode(_joined(spec, spec.items[place]) + label, has_special_tokens=True))
        if len(ids) <= len(prompt) or ids[: len(prompt)] != prompt:
            raise InvalidRequestError(
                f"labels[{index}] shares a token with the text before it (items[{place}]): let it begin where"
                ' a token does, as with a space, or send join: "ids"',
                param=f"labels[{index}]",
            )
        found.append(ids[len(prompt) :])
    return tuple(found)


def grouped(rated: Sequence[Rated]) -> list[ScoreGroup]:
    """Put items together whose labels have the same tokens."""
    places_of: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, each in enumerate(rated):
        places_of.setdefault(each.labels, []).append(place)
    groups = []
    for labels, places in places_of.items():
        prompts = [rated[place].prompt for place in places]
        shared = _shared(min(prompts), max(prompts))
        groups.append(
            ScoreGroup(
                places=tuple(places),
                query=prompts[0][:shared],
                items=tuple(prompt[shared:] for prompt in prompts),
                labels=labels,
            )
        )
    return groups


def _shared(least: tuple[int, ...], greatest: tuple[int, ...]) -> int:
    """Count what the first and the last of sorted prompts begin with: so do all between."""
    for place, (one, other) in enumerate(zip(least, greatest, strict=False)):
        if one != other:
            return place
    return min(len(least), len(greatest))


def scores(
    logprobs: Sequence[float], *, tokens: Sequence[int], takes_mean: bool, has_softmax: bool
) -> list[float]:
    """
    Turn the labels' log-probabilities into scores.

    Args:
        logprobs: Of each label, summed over its tokens.
        tokens: How many tokens each label has.
        takes_mean: Divide each sum by its number of tokens first.
        has_softmax: Share 1 among the labels; else each label's own probability.

    Raises:
        EngineFailedError: the model gave something that is no number.
    """
    if any(math.isnan(logprob) for logprob in logprobs):
        raise EngineFailedError("the model gives no numbers for this prompt")
    values = (
        [logprob / count for logprob, count in zip(logprobs, tokens, strict=True)] if takes_mean else logprobs
    )
    if not has_softmax:
        return [math.exp(value) for value in values]
    best = max(values)
    if best == -math.inf:
        return [0.0 for _ in values]
    weights = [math.exp(value - best) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
