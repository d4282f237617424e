"""Pins what jobs ask of an engine, and that only what computes needs a ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.job_fakes import FakeDesk, logprob
from tests.text_models import CHATML, asking, byte_level, chat, write_model
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import TextPrompt, TokenPrompt
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    folder = write_model(tmp_path, byte_level(), tokenizer_config={"chat_template": CHATML})
    text = TextModel.load(folder)
    yield FakeDesk(text)
    text.close()


async def test_every_token_of_a_prompt_but_the_first_has_a_log_probability(desk: FakeDesk) -> None:
    request = asking(prompt=TextPrompt(text='!"'))

    first, *rest = await desk.jobs().prompt_logprobs(request, top=2)

    assert first is None
    assert [(each.token, each.logprob) for each in rest] == [(2, logprob([1], [2])), (3, logprob([2], [3]))]
    assert {len(each.top) for each in rest} == {2}
    assert desk.requests == [request]


async def test_a_prompt_of_one_token_has_none(desk: FakeDesk) -> None:
    assert await desk.jobs().prompt_logprobs(asking(prompt=TokenPrompt(ids=(5,))), top=0) == [None]


async def test_messages_and_text_are_tokenised_without_a_ticket(desk: FakeDesk) -> None:
    jobs = desk.jobs()

    as_chat = await jobs.tokenize("demo", chat("hi"))
    as_text = await jobs.tokenize("demo", TextPrompt(text="!"))
    bare = await jobs.tokenize("demo", TextPrompt(text="!"), add_special_tokens=False)
    long = await jobs.encode("demo", "!")

    assert jobs.detokenize("demo", as_chat) == "<s>user:hi>"
    assert (as_text, bare, long) == ([1, 2], [2], [1, 2])
    assert desk.requests == []


async def test_a_text_of_no_tokens_is_refused_where_a_prompt_is_wanted(desk: FakeDesk) -> None:
    with pytest.raises(InvalidRequestError):
        await desk.jobs().tokenize("demo", TokenPrompt(ids=()))
