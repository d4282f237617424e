"""
What an answer is made of, in the order in which it becomes certain (pure).

One is made for each token: a frozen dataclass takes 1 us for that, a Struct a tenth of it (Linux CPU).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from wicketgate.inference import TokenLogprob


class TextChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Visible text that became certain since the last look; never empty."""

    text: str
    tokens: int
    """Tokens that arrived for it, those without visible text included."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Those of exactly the tokens that `text` is made of, when the request asked for them."""


class ReasoningChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Text that the model thinks before it answers; never empty."""

    text: str
    tokens: int


class CallOpened(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call begins: its arguments follow as CallArguments of the same index."""

    index: int
    """0, 1, 2 in the order of the answer."""
    name: str


class CallArguments(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call's arguments. Joined, all of a call's are the text of one JSON object, `{}` at least."""

    index: int
    text: str


Piece = TextChunk | ReasoningChunk | CallOpened | CallArguments
