"""Pins which requests an engine host refuses, and with which words."""

from __future__ import annotations

import math

import msgspec
import pytest

from wicketgate.engine.validation import (
    MAX_GRAMMAR_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_SCORE_TOKENS,
    job_refusal,
    refusal,
    warm_refusal,
)
from wicketgate.engine.wire import Assess, Embed, Grammar, Score, Submit, Warm

BOUNDS = {"vocabulary_size": 100, "context_tokens": 20}
GOOD = Submit(id=1, prompt=[0, 99], max_tokens=8, seed=0)
WARM = Warm(id=1, prompt=[0, 99])
SCORE = Score(id=1, query=[0], items=[[1, 2], [3]], labels=[[4], [5, 99]])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_tokens": 18},
        {"seed": 2**64 - 1},
        {"temperature": 0.0},
        {"temperature": 1e300},
        {"top_k": 10**9},
        {"top_p": 0.0, "min_p": 1.0},
        {"logprobs": 0},
        {"logprobs": 20},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0, "repetition_penalty": 1.3},
        {"logit_bias": {0: -100.0, 99: 100.0}},
        {"stop_token_ids": [0, 99], "min_tokens": 8},
        {"position": 1, "prompt_tokens": 1, "min_tokens": 9},
        {"position": 1},
        {"priority": 9, "salt": "s" * MAX_NAME_CHARACTERS, "session": "t"},
        {"grammar": Grammar("json_object")},
        {"grammar": Grammar("regex", "a" * MAX_GRAMMAR_BYTES)},
    ],
)
def test_a_request_within_all_bounds_is_not_refused(change: dict[str, object]) -> None:
    message = msgspec.structs.replace(GOOD, **change)

    assert refusal(message, **BOUNDS) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": []}, "the prompt must have at least 1 token, got 0"),
        ({"prompt": [0, 100]}, "token ids of the prompt must be between 0 and 99, got one above"),
        ({"prompt": [-1, 5]}, "token ids of the prompt must be between 0 and 99, got one below"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        (
            {"max_tokens": 19},
            "prompt and max_tokens together must be at most 20 tokens, got 2 + 19: shorten the prompt or"
            " lower max_tokens",
        ),
        ({"position": -1}, "position must be between 0 and 1, got -1"),
        ({"position": 2}, "position must be between 0 and 1, got 2"),
        (
            {"position": 1, "prompt_tokens": 2},
            "prompt_tokens must be 0 or 1, the length of the prompt less position, got 2",
        ),
        ({"min_tokens": 9}, "min_tokens must be between 0 and 8, got 9"),
        ({"min_tokens": -1}, "min_tokens must be between 0 and 8, got -1"),
        ({"seed": -1}, f"seed must be between 0 and {2**64 - 1}, got -1"),
        ({"seed": 2**64}, f"seed must be between 0 and {2**64 - 1}, got {2**64}"),
        ({"temperature": -0.1}, "temperature must be at least 0 and finite, got -0.1"),
        ({"temperature": math.nan}, "temperature must be at least 0 and finite, got nan"),
        ({"temperature": math.inf}, "temperature must be at least 0 and finite, got inf"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1, got 1.5"),
        ({"top_p": math.nan}, "top_p must be between 0 and 1, got nan"),
        ({"min_p": -0.5}, "min_p must be between 0 and 1, got -0.5"),
        ({"top_k": -1}, "top_k must be at least 0, got -1: 0 keeps all candidates"),
        ({"logprobs": -1}, "logprobs must be between 0 and 20, got -1"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20, got 21"),
        ({"presence_penalty": 2.1}, "presence_penalty must be between -2 and 2, got 2.1"),
        ({"frequency_penalty": -2.1}, "frequency_penalty must be between -2 and 2, got -2.1"),
        ({"frequency_penalty": math.nan}, "frequency_penalty must be between -2 and 2, got nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be between 0.01 and 100, got 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be between 0.01 and 100, got inf"),
        ({"stop_token_ids": [1, 100]}, "stop_token_ids must be between 0 and 99, got 100"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be between 0 and 99, got -1"),
        (
            {"stop_token_ids": [1] * 1025},
            "the number of stop_token_ids must be between 0 and 1024, got 1025",
        ),
        ({"logit_bias": {100: 1.0}}, "token ids of logit_bias must be between 0 and 99, got 100"),
        ({"logit_bias": {1: 100.5}}, "values of logit_bias must be between -100 and 100, got 100.5"),
        ({"logit_bias": {1: math.nan}}, "values of logit_bias must be between -100 and 100, got nan"),
        (
            {"logit_bias": dict.fromkeys(range(1025), 0.0)},
            "the number of entries of logit_bias must be between 0 and 1024, got 1025",
        ),
        ({"priority": 10}, "priority must be between 0 and 9, got 10"),
        ({"salt": "s" * 513}, "salt must be at most 512 characters, got 513"),
        ({"session": "s" * 513}, "session must be at most 512 characters, got 513"),
        ({"grammar": Grammar("lark", " ")}, "grammar: of kind lark it must not be empty"),
        (
            {"grammar": Grammar("json_object", "", -1)},
            "grammar: starts_after must be between 0 and 99, got -1",
        ),
        (
            {"grammar": Grammar("json_object", "", 100)},
            "grammar: starts_after must be between 0 and 99, got 100",
        ),
        (
            {"grammar": Grammar("regex", "ä" * 40_000)},
            "grammar: it must be at most 65536 bytes, got 80000: simplify it",
        ),
        (
            {"grammar": Grammar("json_schema", "a" * 65_537)},
            "grammar: it must be at most 65536 bytes, got 65537: simplify it",
        ),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_the_value_and_the_bound(
    change: dict[str, object], words: str
) -> None:
    message = msgspec.structs.replace(GOOD, **change)

    assert refusal(message, **BOUNDS) == words


def test_a_grammar_of_broken_characters_is_measured_and_not_stumbled_over() -> None:
    message = msgspec.structs.replace(GOOD, grammar=Grammar("regex", "\ud800"))

    assert refusal(message, **BOUNDS) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"prompt": [1] * 20}, None),
        ({"prompt": []}, "the prompt must have at least 1 token, got 0"),
        ({"prompt": [100]}, "token ids of the prompt must be between 0 and 99, got one above"),
        ({"prompt": [1] * 21}, "the prompt must have at most 20 tokens, got 21: shorten it"),
        ({"salt": "s" * 513}, "salt must be at most 512 characters, got 513"),
    ],
)
def test_a_warm_job_is_held_to_the_bounds_of_a_prompt(change: dict[str, object], words: str | None) -> None:
    assert warm_refusal(msgspec.structs.replace(WARM, **change), **BOUNDS) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"items": [[], [3]]}, None),
        ({"query": [1] * 16}, None),
        ({"query": []}, None),
        (
            {"query": [], "items": [[1], []]},
            "query and item together must have at least 1 token, got 0",
        ),
        ({"query": [-1]}, "token ids of the query must be between 0 and 99, got one below"),
        ({"items": []}, "the number of items must be between 1 and 2048, got 0"),
        ({"items": [[1]] * 2049}, "the number of items must be between 1 and 2048, got 2049"),
        ({"items": [[1], [100]]}, "token ids of the items must be between 0 and 99, got one above"),
        ({"labels": []}, "the number of labels must be between 1 and 256, got 0"),
        ({"labels": [[1], []]}, "each label must have at least 1 token, got one of 0"),
        ({"labels": [[1], [100]]}, "token ids of the labels must be between 0 and 99, got one above"),
        (
            {"query": [1] * 17},
            "query, longest item and longest label together must be at most 20 tokens, got 21: shorten them",
        ),
        ({"priority": -1}, "priority must be between 0 and 9, got -1"),
        ({"salt": "s" * 513}, "salt must be at most 512 characters, got 513"),
    ],
)
def test_a_score_is_held_to_bounds_of_its_own(change: dict[str, object], words: str | None) -> None:
    assert job_refusal(msgspec.structs.replace(SCORE, **change), **BOUNDS) == words


def test_a_score_of_many_items_with_many_labels_is_refused_by_its_work() -> None:
    message = Score(id=1, query=[0], items=[[1]] * 2048, labels=[[4, 5]] * 256)

    assert job_refusal(message, vocabulary_size=100, context_tokens=20) == (
        f"query, items, and labels once per item must be at most {MAX_SCORE_TOKENS} tokens, got 1050625:"
        " send fewer items at a time"
    )


ASSESS = Assess(id=1, prompt=[1] * 20, top=20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"prompt": []}, "the prompt must have at least 1 token, got 0"),
        ({"prompt": [1] * 21}, "the prompt must have at most 20 tokens, got 21: shorten it"),
        ({"prompt": [100]}, "token ids of the prompt must be between 0 and 99, got one above"),
        ({"top": 21}, "top must be between 0 and 20, got 21"),
        ({"priority": 10}, "priority must be between 0 and 9, got 10"),
        ({"salt": "s" * 513}, "salt must be at most 512 characters, got 513"),
    ],
)
def test_an_assess_is_held_to_the_bounds_of_a_prompt(change: dict[str, object], words: str | None) -> None:
    assert job_refusal(msgspec.structs.replace(ASSESS, **change), **BOUNDS) == words


EMBED = Embed(id=1, prompts=[[1] * 20] * 256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"prompts": []}, "the number of prompts must be between 1 and 256, got 0"),
        ({"prompts": [[1]] * 257}, "the number of prompts must be between 1 and 256, got 257"),
        ({"prompts": [[1], []]}, "the prompt must have at least 1 token, got 0"),
        ({"prompts": [[1], [1] * 21]}, "each prompt must have at most 20 tokens, got 21: shorten it"),
        ({"prompts": [[-1]]}, "token ids of the prompt must be between 0 and 99, got one below"),
        ({"priority": 10}, "priority must be between 0 and 9, got 10"),
    ],
)
def test_an_embed_is_held_to_the_bounds_of_each_prompt(change: dict[str, object], words: str | None) -> None:
    assert job_refusal(msgspec.structs.replace(EMBED, **change), **BOUNDS) == words


def test_no_refusal_repeats_a_token_of_a_prompt() -> None:
    vocabulary = {"vocabulary_size": 100, "context_tokens": 20}
    found = [
        refusal(msgspec.structs.replace(GOOD, prompt=[77_777]), **vocabulary),
        warm_refusal(msgspec.structs.replace(WARM, prompt=[-77_777]), **vocabulary),
        job_refusal(msgspec.structs.replace(SCORE, items=[[77_777]]), **vocabulary),
    ]

    assert all(words and "77777" not in words for words in found)
