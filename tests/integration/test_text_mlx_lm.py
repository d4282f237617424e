"""Pins that our text is mlx_lm's on the model that ships: the same ids, the same text back."""

from __future__ import annotations

import asyncio
import random

import pytest
from mlx_lm.utils import load_tokenizer

from tests.text_models import asking
from wicketgate.inference import ChatPrompt, TextPrompt, TokenChunk
from wicketgate.pipeline.text import TextModel

CHATS = [
    [{"role": "user", "content": "What is a list?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<|im_end|> \n\n héllo 你好 🙂"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": ""},
    ],
]
TEXTS = [
    "The with statement",
    "  indented\n\n\tcode = {'a': 1}\n",
    "你好 🙂 \u2028 naïve <|im_start|>",
    "word " * 3000,
]


@pytest.fixture(scope="module")
def model(request):
    folder = request.config.rootpath / "wicketgate" / "demo" / "model"
    loaded = TextModel.load(folder)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def theirs(request):
    return load_tokenizer(request.config.rootpath / "wicketgate" / "demo" / "model", eos_token_ids=[2, 0])


def read(model: TextModel, ids: list[int]) -> str:
    stream = model.stream(asking(prompt=TextPrompt(text=""), ignore_eos=True))
    pieces = [piece for token in ids for piece in stream.feed(TokenChunk((token,)))] + stream.flush()
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("messages", CHATS)
def test_messages_become_the_same_ids(model, theirs, messages):
    prompt = ChatPrompt(messages=tuple(messages), template_kwargs={})

    ids = asyncio.run(model.encode_prompt(prompt))

    assert ids == theirs.apply_chat_template(messages, add_generation_prompt=True)


@pytest.mark.parametrize("beginning", ["Once upon a", "", "<|im_end|> \n", "im"])
def test_an_answer_that_was_begun_goes_on_from_the_same_ids(model, theirs, beginning):
    """Theirs looks for the last place that holds the text, which an empty or short one is not alone in."""
    messages = [*CHATS[0], {"role": "assistant", "content": beginning}]
    prompt = ChatPrompt(messages=tuple(messages), template_kwargs={}, continues=True)
    asked = theirs.apply_chat_template(CHATS[0], add_generation_prompt=True, tokenize=False)

    ids = asyncio.run(model.encode_prompt(prompt))

    assert ids == theirs.encode(asked + beginning)


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_the_same_ids_on_the_loop_and_off_it(model, theirs, text):
    ids = asyncio.run(model.encode_prompt(TextPrompt(text=text)))

    assert ids == theirs.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_text_comes_back(model, theirs, text):
    ids = theirs.encode(text)

    given = read(model, ids)

    assert given == theirs.decode(ids, skip_special_tokens=True)


def test_any_ids_become_the_same_text(model, theirs):
    rng = random.Random(1)

    for _ in range(500):
        ids = [rng.randrange(model.vocabulary_tokens) for _ in range(8)]
        assert read(model, ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_same_tokens_end_an_answer(model, theirs):
    assert model.eos_ids == theirs.eos_token_ids
