"""How models mark what they think before they answer (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkPair:
    """The texts around reasoning."""

    start: str
    end: str
    tokens: tuple[str, ...]
    """Names of the tokens that the two are written with."""
    is_anywhere: bool = True
    """
    Reasoning may begin after visible text. Not so with plain tags, which an answer may explain: there it
    begins in front of all visible text or not at all.
    """


def _tags(start: str, end: str) -> ThinkPair:
    return ThinkPair(start=start, end=end, tokens=(start, end), is_anywhere=False)


THINK_PAIRS: Final = (
    _tags("<think>", "</think>"),
    _tags("<longcat_think>", "</longcat_think>"),
    ThinkPair(start="<|think:start|>", end="<|think:end|>", tokens=("<|think:start|>", "<|think:end|>")),
    ThinkPair(start="<|channel>thought", end="<channel|>", tokens=("<|channel>", "<channel|>")),
    ThinkPair(
        start="<|open|>think<|sep|>",
        end="<|close|>think<|sep|>",
        tokens=("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    ),
)
"""The first whose tokens are all in the vocabulary is the model's."""

XTML_TOKENS: Final = THINK_PAIRS[-1].tokens
XTML_FRAME: Final = ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>")
"""What XTML puts around the visible text of an answer; never part of it."""


def think_pair(vocabulary: Container[str]) -> ThinkPair | None:
    """Return how a model with this vocabulary marks reasoning; None: it does not."""
    for pair in THINK_PAIRS:
        if all(token in vocabulary for token in pair.tokens):
            return pair
    return None


def is_open(text: str, pair: ThinkPair) -> bool:
    """Whether reasoning has begun in a text and not ended."""
    return text.rfind(pair.start) > text.rfind(pair.end)
