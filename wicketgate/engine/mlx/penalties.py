"""
Penalties for tokens that were there before, applied on the device.

The last token of a row may not have been read yet when the next one is drawn, so what penalties look at lives
on the device too and takes in drawn tokens as arrays. Rows that are sampled together share one array; a row
that leaves takes its part along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wicketgate.engine.wire import Submit

REPETITION_TOKENS: Final = 20
"""How far back the repetition penalty looks, over prompt and answer, as mlx-lm's does."""


@dataclass(slots=True, eq=False, kw_only=True)
class History:
    """One row's penalties and what they look at."""

    repetition: float
    """Divides positive logits of the last tokens and multiplies negative ones; 1 is off."""
    presence: float
    """Taken from the logit of each token of the answer; 0 is off."""
    frequency: float
    """Taken from the logit of each token of the answer as often as it is there; 0 is off."""
    window: mx.array
    """(REPETITION_TOKENS,) int32: the last tokens; where there are fewer, the oldest is repeated."""
    answer: mx.array
    """(tokens,) int32: what was emitted before the row was opened."""
    shared: Penalties | None = None
    """Where window and counts are now, if the row was sampled."""
    index: int = 0
    """Which row of `shared` it is."""

    @classmethod
    def of(cls, message: Submit) -> History | None:
        """Return a request's history, or None where it asks for no penalty."""
        penalties = (message.repetition_penalty, message.presence_penalty, message.frequency_penalty)
        if penalties == (1.0, 0.0, 0.0):
            return None
        last = message.prompt[-REPETITION_TOKENS:]
        answer = message.prompt[len(message.prompt) - message.position :]
        return cls(
            repetition=message.repetition_penalty,
            presence=message.presence_penalty,
            frequency=message.frequency_penalty,
            window=mx.array([last[0]] * (REPETITION_TOKENS - len(last)) + last, dtype=mx.int32),
            answer=mx.array(answer, dtype=mx.int32),
        )

    def parts(self, vocabulary_size: int) -> tuple[mx.array, mx.array]:
        """Return its (REPETITION_TOKENS,) window and (vocabulary,) counts after the last token drawn."""
        if self.shared is not None:
            return self.shared.windows[self.index], self.shared.counts[self.index]
        counts = np.bincount(np.asarray(self.answer), minlength=vocabulary_size)
        return self.window, mx.array(counts.astype(np.float32))


class Penalties:
    """The penalties of rows that are sampled together."""

    def __init__(self, histories: Mapping[int, History], *, vocabulary_size: int) -> None:
        found = [history.parts(vocabulary_size) for history in histories.values()]
        self.windows = mx.stack([window for window, _ in found])
        """(penalised rows, REPETITION_TOKENS)."""
        self.counts = mx.stack([counts for _, counts in found])
        """(penalised rows, vocabulary)."""
        for index, history in enumerate(histories.values()):
            history.shared, history.index = self, index
        self._part = mx.array(list(histories))
        self._repetition = mx.array([[each.repetition] for each in histories.values()])
        self._presence = mx.array([[each.presence] for each in histories.values()])
        self._frequency = mx.array([[each.frequency] for each in histories.values()])

    def applied(self, logits: mx.array) -> mx.array:
        """Return (rows, vocabulary) logits with the penalties, in mlx-lm's order."""
        part = logits[self._part]
        seen = mx.take_along_axis(part, self.windows, axis=-1)
        seen = mx.where(seen < 0, seen * self._repetition, seen / self._repetition)
        part = mx.put_along_axis(part, self.windows, seen, axis=-1)
        part = part - self._presence * (self.counts > 0) - self._frequency * self.counts
        changed = logits[...]
        changed[self._part] = part
        return changed

    def note(self, tokens: mx.array) -> None:
        """Take in the (rows,) tokens that were drawn, read or not."""
        drawn = tokens[self._part].astype(mx.int32)
        self.windows = mx.concatenate([self.windows[:, 1:], drawn[:, None]], axis=1)
        self.counts = self.counts.at[mx.arange(drawn.shape[0]), drawn].add(1.0)
