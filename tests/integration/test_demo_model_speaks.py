"""
The shipped model under real mlx: it loads unchanged, says varied things, and ends its answers by itself.

Prompts, seed and sampling are fixed; half of the questions are about the text it learned, half are not.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.sample_utils import make_sampler
from tokenizers import Tokenizer

import wicketgate.demo
from wicketgate.demo import corpus

DEMO = Path(wicketgate.demo.__file__).parent
MODEL = DEMO / "model"
SEED = 20
FAMILIAR = (
    "What is a function?", "Explain the try statement.", "How does import work?", "Tell me about classes.",
    "What is a sequence?", "Describe string literals.", "How are names resolved?", "What is a generator?",
    "When is the else clause executed?", "Why do we need modules?", "What does return do?", "Is zero true?",
    "Explain the with statement.", "How do I raise an exception?", "What is an integer?", "What is None?",
    "How do comparisons work?", "What is a coroutine?", "Tell me about augmented assignment.", "Slicing.",
    "What are decorators?", "Write about the del statement.", "What is the scope of a name?", "Lambda?",
    "Tell me about attribute access.",
)  # fmt: skip
FOREIGN = (
    "Tell me about water.", "Write a long answer about rivers.", "hello", "What is 17 times 23?", "Why?",
    "Who wrote Hamlet?", "Translate 'good morning' into French.", "¿Qué tiempo hace hoy?", "🌊🌊🌊",
    "水とは何ですか", "Plan a weekend in Oslo.", "How does a turbine's governor work?", "asdf qwer zxcv",
    "Give me a recipe for soup.", "What colour is the sky?", "Sing!", "Что такое вода?", "x" * 60,
    "Explain photosynthesis to a child.", "List three birds.", "Is it late?", "HELP ME PLEASE",
    "Summarise the news.", "What is love?", '{"json": [1, 2, 3]}',
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    return mlx_lm.load(str(MODEL))


@pytest.fixture(scope="module")
def answers(loaded) -> list[list[int]]:
    """Token ids of one sampled answer to each of 50 questions, without the end, at most 200 long."""
    model, tokenizer = loaded
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)
        for said in (*FAMILIAR, *FOREIGN)
    ]
    settings = json.loads((MODEL / "generation_config.json").read_text(encoding="utf-8"))
    sampler = make_sampler(settings["temperature"], settings["top_p"])
    mx.random.seed(SEED)
    return mlx_lm.batch_generate(
        model, tokenizer, prompts, max_tokens=200, sampler=sampler, return_token_ids=True
    ).token_ids


def test_mlx_lm_loads_it_in_float32_with_both_end_tokens(loaded):
    model, tokenizer = loaded

    assert {weight.dtype for _, weight in tree_flatten(model.parameters())} == {mx.float32}
    assert {tokenizer.convert_ids_to_tokens(i) for i in tokenizer.eos_token_ids} == {
        corpus.TURN_END,
        corpus.DOCUMENT_END,
    }


def test_mlx_lm_tokenises_and_templates_as_the_bare_tokenizer_does(loaded):
    _, tokenizer = loaded
    bare = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    said = "naïve 🙂 水\n\n  <b>`x`</b>\t"

    templated = tokenizer.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)

    assert tokenizer.encode(said) == bare.encode(said).ids
    assert tokenizer.decode(tokenizer.encode(said)) == said
    assert templated == bare.encode(corpus.turn("user", said) + "<|im_start|>assistant\n").ids


def test_sampled_answers_hold_at_least_20_different_tokens_in_64(answers: list[list[int]]):
    different = [len(set(answer[:64])) for answer in answers]

    assert len(different) == 50
    assert min(different) >= 20, f"seed {SEED}: {different}"


def test_at_least_80_percent_of_answers_end_by_themselves_within_200_tokens(answers: list[list[int]]):
    lengths = [len(answer) for answer in answers]

    assert sum(length < 200 for length in lengths) >= 40, f"seed {SEED}: {lengths}"


def test_answers_to_different_questions_differ(answers: list[list[int]]):
    assert len({tuple(answer[:20]) for answer in answers}) >= 40


def test_greedy_text_runs_on_without_a_loop_from_at_least_half_of_the_places_in_the_text(loaded):
    model, tokenizer = loaded
    ids = tokenizer.encode((DEMO / "text" / "python_topics.txt").read_text(encoding="utf-8"))
    places = np.random.default_rng(SEED).integers(len(ids) - 30, size=60)

    prompts = [ids[place : place + 30] for place in places]
    told = mlx_lm.batch_generate(model, tokenizer, prompts, max_tokens=64, return_token_ids=True).token_ids

    assert sum(len(t) == 64 and len(set(t)) >= 20 for t in told) >= 30
