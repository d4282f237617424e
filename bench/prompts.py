"""Prompts as token ids, all different, cut from the text that the demo model was trained on."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Final, Protocol

from tokenizers import Tokenizer

from wicketgate import demo
from wicketgate.demo.corpus import read_topics

DEMO: Final = Path(demo.__path__[0])
MODEL: Final = DEMO / "model"
"""The model that ships."""
TEXT: Final = DEMO / "text" / "python_topics.txt"
_STEP: Final = 127
"""Between the beginnings of two prompts; any number that shares no factor with the number of places."""


class Supply(Protocol):
    """Gives out prompts, each once."""

    def take(self, length: int) -> list[int]:
        """Return the next one, of so many tokens."""


class RandomPrompts:
    """
    Made prompts for a made model: no two in a row share their first token, so no prefix is ever shared.

    Args:
        lowest: Least token id to use.
        highest: Largest token id to use.
        seed: Another seed gives other prompts.
    """

    def __init__(self, *, lowest: int, highest: int, seed: int = 1) -> None:
        self._lowest, self._highest = lowest, highest
        self._chance = random.Random(seed)
        self._given = 0

    def take(self, length: int) -> list[int]:
        """Return the next one."""
        places = self._highest - self._lowest + 1
        first = self._lowest + self._given % places
        self._given += 1
        return [first, *(self._chance.randint(self._lowest, self._highest) for _ in range(length - 1))]


class Prompts:
    """A supply of prompts; each is given out once."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self._given = 0

    def take(self, length: int) -> list[int]:
        """
        Return the next one.

        Raises:
            IndexError: all have been given out.
        """
        places = len(self._ids) - length
        step = next(step for step in range(_STEP, _STEP + places) if math.gcd(step, places) == 1)
        if self._given >= places:
            raise IndexError(f"the text has no more than {places} prompts of {length} tokens")
        start = self._given * step % places
        self._given += 1
        return self._ids[start : start + length]


def training_prompts() -> Prompts:
    """Return the prompts of the training text."""
    text = "\n\n".join(topic.text for topic in read_topics(TEXT.read_text(encoding="utf-8")))
    return Prompts(tokenizer().encode(text, add_special_tokens=False).ids)


def tokenizer() -> Tokenizer:
    """Return the demo model's."""
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def completion(prompt: list[int], *, max_tokens: int, stream: bool = True, ignore_eos: bool = True) -> bytes:
    """Return the body of a greedy /v1/completions request."""
    body: dict[str, object] = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": ignore_eos,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body, separators=(",", ":")).encode()
