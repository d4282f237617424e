"""KV of several rows that end in different columns, so that each can take back its own last tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

if TYPE_CHECKING:
    from collections.abc import Sequence

GROWTH_TOKENS: Final = 256
"""As mlx-lm's caches grow."""


class RaggedKVCache:
    """
    One layer's cache, as mlx-lm's models use one; begins as a BatchKVCache and takes over its arrays.

    All rows of a BatchKVCache end in the same column. To take back 1 token of one row and 3 of another, it
    has to roll rows over all of their KV: a quarter to a half of a pass with drafts (4 rows of 64 to 2,000
    tokens, 5.8 M parameters, Linux CPU). Here each row has its own end, and taking back changes a number.
    """

    def __init__(self, batch: Any) -> None:
        self.keys, self.values, _, left_padding, length = batch.state
        self._starts: mx.array = left_padding
        self._ends: list[int] = [length] * left_padding.shape[0]
        self._update_offset()

    def _update_offset(self) -> None:
        self.offset: mx.array = mx.array(self._ends) - self._starts
        """(rows,) position of each row's next token."""

    @property
    def state(self) -> tuple[mx.array, mx.array]:
        """What is to be evaluated."""
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """What is allocated."""
        return int(self.keys.nbytes + self.values.nbytes)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add (rows, heads, n, head size) after each row's end; returns all columns that are in use."""
        count = keys.shape[2]
        end = max(self._ends) + count
        if end > self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys, end), _grown(self.values, end)
        columns = (mx.array(self._ends)[:, None] + mx.arange(count))[:, None, :, None]
        self.keys = mx.put_along_axis(self.keys, mx.broadcast_to(columns, keys.shape), keys, axis=2)
        self.values = mx.put_along_axis(self.values, mx.broadcast_to(columns, values.shape), values, axis=2)
        self._ends = [each + count for each in self._ends]
        self._update_offset()
        return self.keys[..., :end, :], self.values[..., :end, :]

    def make_mask(self, count: int, /, *, window_size: int | None = None, **_options: object) -> mx.array:
        """Return what each of the next `count` tokens of each row may look at, before they are added."""
        asked = mx.arange(max(self._ends) + count)
        asking = (mx.array(self._ends)[:, None] + mx.arange(count))[:, None, :, None]
        mask = (asked <= asking) & (asked >= self._starts[:, None, None, None])
        if window_size is not None:
            mask = mask & (asking < asked + window_size)
        return mask

    def take_back(self, tokens: Sequence[int]) -> None:
        """Forget so many of each row's last tokens."""
        self._ends = [end - count for end, count in zip(self._ends, tokens, strict=True)]
        self._update_offset()

    def filter(self, rows: Sequence[int]) -> None:
        """Keep these rows, in place."""
        chosen = mx.array(list(rows))
        self.keys, self.values, self._starts = self.keys[chosen], self.values[chosen], self._starts[chosen]
        self._ends = [self._ends[row] for row in rows]
        self._update_offset()

    def extract(self, row: int) -> Any:
        """Return one row as a KVCache of its own."""
        start, end = self._starts[row].item(), self._ends[row]
        cache: Any = KVCache()  # type: ignore[no-untyped-call]  # mlx-lm has no annotations
        held = [mx.contiguous(each[row : row + 1, :, start:end]) for each in (self.keys, self.values)]
        cache.state = (*held, end - start)
        return cache

    def settled(self) -> Any:
        """Return a BatchKVCache of the same rows, rolled so that all end in the same column."""
        length = max(self._ends)
        batch: Any = BatchKVCache([0] * len(self._ends))
        batch.state = (self.keys, self.values, length - self._starts, self._starts, length)
        batch.prepare(right_padding=[length - end for end in self._ends])
        batch.finalize()
        return batch


def _grown(held: mx.array, columns: int) -> mx.array:
    rows, heads, length, size = held.shape
    more = -(-(columns - length) // GROWTH_TOKENS) * GROWTH_TOKENS
    return mx.concatenate([held, mx.zeros((rows, heads, more, size), held.dtype)], axis=2)
