"""The tokens that every chat with a pinned system prompt begins with, for the engine to keep the KV of."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from wicketgate.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.pipeline.text import TextModel

log = logging.getLogger(__name__)

_USERS: Final = ("a", "\n")
"""Two questions that have no character in common; a line break joins some tokenizers' last token."""


async def pinned_prefixes(text: TextModel, prompts: Sequence[str]) -> list[list[int]]:
    """
    Render each system prompt with two different questions, and take the tokens that both begin with.

    A prompt that the model's template cannot carry is left out, and logged.
    """
    prefixes = []
    for index, prompt in enumerate(prompts):
        try:
            one, two = [await _rendered(text, prompt, user) for user in _USERS]
        except InvalidRequestError as error:
            log.warning("pinned_prompt_skipped", extra={"index": index, "reason": error.message})
            continue
        prefix = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))]
        if prefix:
            prefixes.append(prefix)
    return prefixes


async def _rendered(text: TextModel, system: str, user: str) -> list[int]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return await text.encode(text.render(messages, {}), add_special_tokens=False)
