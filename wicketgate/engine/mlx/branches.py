"""KV of several continuations of one prefix, which is held once and shared by all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import mlx.core as mx
from mlx_lm.models.cache import KVCache

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER: Final = 2**30
"""Position of what is padding: after every token, so that none looks at it."""


def can_branch(cache: Sequence[Any]) -> bool:
    """Tell whether all layers keep plain KV; sliding windows and recurrent states are no lists of tokens."""
    return all(type(part) is KVCache for part in cache)


def branch(cache: Sequence[Any]) -> list[Branches]:
    """Return, for each layer of a cache, rows that all begin with what it holds; it stays as it is."""
    layers = []
    for part in cache:
        keys, values, length = part.state
        whole = keys is not None
        layers.append(Branches((keys[..., :length, :], values[..., :length, :]) if whole else None))
    return layers


class Branches:
    """
    One layer's cache, as mlx-lm's models use one.

    Merged copies of the prefix would take rows x prefix in every layer until the last row is done. Here a
    layer joins the prefix and the rows' own tokens while it computes, and forgets that again: the same work,
    and the memory of one layer.
    """

    def __init__(self, prefix: tuple[mx.array, mx.array] | None) -> None:
        self._prefix = prefix
        self._prefix_tokens = 0 if prefix is None else prefix[0].shape[2]
        self._own: tuple[mx.array, mx.array] | None = None
        """(rows, heads, columns, head size) each."""
        self._positions: mx.array | None = None
        """(rows, columns) int32 where the rows' lengths differ; None where column c is position prefix + c"""
        self.offset: int | mx.array = self._prefix_tokens
        """Position of the next token, of all rows or of each."""

    @property
    def state(self) -> list[mx.array]:
        """What the rows hold beside the prefix, to be evaluated."""
        return [] if self._own is None else list(self._own)

    def fork(self, rows: Sequence[int], lengths: Sequence[int]) -> Branches:
        """Return branches of which number i goes on after the first `lengths[i]` own tokens of `rows[i]`."""
        made = Branches(self._prefix)
        ends = mx.array(list(lengths), dtype=mx.int32)
        made.offset = self._prefix_tokens + ends
        columns = 0
        if self._own is not None:
            keys, values = self._own
            columns = keys.shape[2]
            chosen = mx.array(list(rows))
            made._own = keys[chosen], values[chosen]
        column = mx.arange(columns, dtype=mx.int32)[None]
        made._positions = mx.where(column < ends[:, None], self._prefix_tokens + column, NEVER)
        return made

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add (rows, heads, n, head size) of new tokens; returns all, the prefix first."""
        count = keys.shape[2]
        if self._positions is not None:
            new = mx.array(self.offset)[:, None] + mx.arange(count, dtype=mx.int32)
            self._positions = mx.concatenate([self._positions, new], axis=1)
        self.offset = self.offset + count
        if self._own is not None:
            keys = mx.concatenate([self._own[0], keys], axis=2)
            values = mx.concatenate([self._own[1], values], axis=2)
        self._own = keys, values
        if self._prefix is None:
            return keys, values
        return _joined(self._prefix[0], keys), _joined(self._prefix[1], values)

    def make_mask(
        self, count: int, /, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | Literal["causal"]:
        """Return what each of the next `count` tokens may look at, before they are added."""
        if self._positions is None and window_size is None and not return_array:
            return "causal"
        offset = mx.array(self.offset).reshape(-1, 1)
        asking = offset + mx.arange(count, dtype=mx.int32)
        rows = asking.shape[0]
        prefix = mx.broadcast_to(mx.arange(self._prefix_tokens, dtype=mx.int32), (rows, self._prefix_tokens))
        own = self._positions
        if own is None:
            columns = 0 if self._own is None else self._own[0].shape[2]
            own = self._prefix_tokens + mx.arange(columns, dtype=mx.int32)[None]
        asked = mx.concatenate([prefix, own, asking], axis=1)[:, None, None, :]
        asking = asking[:, None, :, None]
        mask = asked <= asking
        if window_size is not None:
            mask = mask & (asking < asked + window_size)
        return mask


def _joined(prefix: mx.array, own: mx.array) -> mx.array:
    rows = own.shape[0]
    return mx.concatenate([mx.broadcast_to(prefix, (rows, *prefix.shape[1:])), own], axis=2)
