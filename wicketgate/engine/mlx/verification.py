"""
One forward pass that computes what was drafted for several rows, and draws what they really say.

Token i of a stream is drawn with noise of its own (sampling.py), so what a stream says at a place does not
depend on whether it was drafted: drafts are right as long as they are what is drawn. Rows whose next draw
depends on a token that is not read yet (grammars, penalties) take part without drafts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from wicketgate.engine.drafts import agreement
from wicketgate.engine.mlx.ragged import RaggedKVCache
from wicketgate.engine.mlx.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.mlx.network import Network
    from wicketgate.engine.mlx.sampling import Drawn, RowState


def can_draft(state: RowState) -> bool:
    """Tell whether later tokens of this row can be drawn before its next one is read."""
    return state.mask is None and state.history is None


@dataclass(frozen=True, slots=True)
class Verification:
    """Tokens drawn at the places of each row's last token and of its drafts, in that order, row by row."""

    drawn: Drawn
    drafts: Sequence[Sequence[int]]
    """Of each row."""

    @property
    def width(self) -> int:
        """How many tokens of each row the pass added to the cache."""
        return 1 + max(len(drafted) for drafted in self.drafts)

    def said(self) -> list[list[tuple[int, int]]]:
        """Return, for each row, what it says next: tokens, each with its number among those drawn."""
        tokens: Any = self.drawn.tokens.tolist()
        result = []
        first = 0
        for drafted in self.drafts:
            places = range(first, first + len(drafted) + 1)
            count = 1 + agreement(drafted, tokens[places.start : places.stop])
            result.append([(tokens[place], place) for place in places[:count]])
            first = places.stop
        return result


def verify(
    network: Network,
    feed: mx.array,
    cache: list[Any],
    *,
    drafts: Sequence[Sequence[int]],
    states: Sequence[RowState],
) -> Verification:
    """
    Begin a pass over each row's last token and what was drafted for it.

    A row without drafts moves on by one position, as in any pass; the others stay where they are, until what
    they say is known.

    Args:
        network: The model.
        feed: (rows,) the last tokens.
        cache: Of these rows.
        drafts: Of each row, empty where nothing was drafted.
        states: How each row is sampled.
    """
    longest = max(len(drafted) for drafted in drafts)
    padded = mx.array([[*drafted, *[0] * (longest - len(drafted))] for drafted in drafts], dtype=feed.dtype)
    rows = [row for row, drafted in enumerate(drafts) for _ in range(len(drafted) + 1)]
    columns = [column for drafted in drafts for column in range(len(drafted) + 1)]
    logits = network.logits_at(
        mx.concatenate([feed[:, None], padded], axis=1), cache, rows=rows, positions=columns
    )
    places = [
        _at(states[row], column) if drafts[row] else states[row]
        for row, column in zip(rows, columns, strict=True)
    ]
    return Verification(sample(logits, places), drafts)


def _at(state: RowState, ahead: int) -> RowState:
    return replace(state, position=state.position + ahead, lineup=None, seat=0)


def take_back(cache: list[Any], tokens: Sequence[int]) -> None:
    """Forget so many of each row's last tokens: of a RaggedKVCache, or of a single row's KVCache."""
    for part in cache:
        if isinstance(part, RaggedKVCache):
            part.take_back(tokens)
        else:
            part.trim(tokens[0])
