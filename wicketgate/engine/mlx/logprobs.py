"""Log-probabilities that clients asked for: of the raw logits, a few numbers per row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from wicketgate.engine.wire import Token

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, kw_only=True)
class Logprobs:
    """What the rows that asked for it want to know, on the device; only these numbers cross to the CPU."""

    wanted: Mapping[int, int]
    """By row: how many alternatives."""
    chosen: mx.array
    """(wanting rows,) log-probability of the drawn token."""
    ids: mx.array
    """(wanting rows, alternatives) token ids of the likeliest, in no order."""
    values: mx.array
    """(wanting rows, alternatives) their log-probabilities."""
    _read: dict[int, tuple[float, list[tuple[int, float]]]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, logits: mx.array, tokens: mx.array, wanted: Mapping[int, int]) -> Logprobs:
        """
        Build the graph of them.

        Args:
            logits: (rows, vocabulary), before temperature, penalties and masks.
            tokens: (rows,) what was drawn.
            wanted: By row, how many alternatives; at least one row.
        """
        part = mx.array(list(wanted))
        raw = logits[part].astype(mx.float32)
        total = mx.logsumexp(raw, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(raw, tokens[part][:, None], axis=-1) - total
        most = min(max(wanted.values()), raw.shape[-1])
        ids = mx.argpartition(-raw, max(most, 1) - 1, axis=-1)[:, :most]
        values = mx.take_along_axis(raw, ids, axis=-1) - total
        return cls(wanted=wanted, chosen=chosen[:, 0], ids=ids, values=values)

    @property
    def arrays(self) -> list[mx.array]:
        """All that is to be evaluated."""
        return [self.chosen, self.ids, self.values]

    def news(self, stream: int, token: int, row: int) -> Token:
        """Describe one token of a row, with what that row asked for."""
        if row not in self.wanted:
            return Token(stream, token)
        if self._read is None:
            self._read = self._values()
        chosen, top = self._read[row]
        return Token(stream, token, chosen, top)

    def _values(self) -> dict[int, tuple[float, list[tuple[int, float]]]]:
        found = {}
        # One way to the CPU for all rows of the step.
        chosen, ids, values = (np.array(array) for array in self.arrays)
        for slot, (row, count) in enumerate(self.wanted.items()):
            best = np.lexsort((ids[slot], -values[slot]))[:count]
            top = [(int(ids[slot, at]), float(values[slot, at])) for at in best]
            found[row] = (float(chosen[slot]), top)
        return found
