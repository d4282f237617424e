"""What an answer is made of, in the order in which it becomes certain (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wicketgate.inference import TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChunk:
    """Visible text that became certain since the last look; never empty."""

    text: str
    tokens: int
    """Tokens that arrived for it, those without visible text included."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Those of exactly the tokens that `text` is made of, when the request asked for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningChunk:
    """Text that the model thinks before it answers; never empty."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOpened:
    """A tool call begins: its arguments follow as CallArguments of the same index."""

    index: int
    """0, 1, 2 in the order of the answer."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallArguments:
    """More of a call's arguments. Joined, all of a call's are the text of one JSON object, `{}` at least."""

    index: int
    text: str


Piece = TextChunk | ReasoningChunk | CallOpened | CallArguments
