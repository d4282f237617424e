"""Pinned prompts: the tokens that every chat with that system prompt begins with."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wicketgate import demo
from wicketgate.errors import InvalidRequestError
from wicketgate.inference import ChatPrompt
from wicketgate.pipeline.pins import pinned_prefixes
from wicketgate.pipeline.text import TextModel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SYSTEM = "You answer in one short sentence."


@pytest.fixture
def text() -> Iterator[TextModel]:
    with closing(TextModel.load(Path(demo.__path__[0]) / "model")) as loaded:
        yield loaded


@pytest.mark.parametrize("question", ["What is rain?", " leading", "\n\nlines", "a", "1"])
async def test_every_chat_with_the_system_prompt_begins_with_its_pin(text: TextModel, question: str) -> None:
    messages = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": question})

    (pin,) = await pinned_prefixes(text, [SYSTEM])

    ids = await text.encode_prompt(ChatPrompt(messages=messages, template_kwargs={}))
    assert ids[: len(pin)] == pin
    assert len(pin) >= len(await text.encode(SYSTEM, add_special_tokens=False))


async def test_each_prompt_has_a_pin_of_its_own(text: TextModel) -> None:
    one, two = await pinned_prefixes(text, [SYSTEM, "Be brief."])

    assert one != two


async def test_without_prompts_there_are_no_pins(text: TextModel) -> None:
    assert await pinned_prefixes(text, []) == []


class Refusing:
    """A model whose template takes no system prompt."""

    encode = None

    def render(self, *_: object) -> str:
        raise InvalidRequestError("system messages are not allowed")


async def test_a_prompt_that_the_template_refuses_is_left_out_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        pins = await pinned_prefixes(Refusing(), [SYSTEM])

    assert pins == []
    (record,) = caplog.records
    assert (record.message, record.index) == ("pinned_prompt_skipped", 0)
    assert SYSTEM not in str(record.__dict__)
