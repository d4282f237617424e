"""
KV as mlx-lm's cache classes hold it: of one row, of rows side by side, and as the prefix store keeps it.

A row's cache is a list of parts, one per layer. Caches write in place into the arrays that they hold, so no
two may share a handle on an array: what is kept or reused gets handles of its own.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import BatchKVCache, KVCache, can_trim_prompt_cache, trim_prompt_cache

from wicketgate.engine.kv.store import Prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.kv.store import Hit
    from wicketgate.engine.mlx.network import Network

Cache = list[Any]
"""A part per layer."""


def reuse(hit: Hit[object] | None) -> tuple[Cache | None, int]:
    """Return a cache that holds the shared tokens of a hit, and how many; the stored one stays as it is."""
    if hit is None:
        return None, 0
    payload: Any = hit.entry.payload
    cache = copied(payload)
    surplus = len(hit.entry.tokens) - hit.shared_tokens
    if surplus and not can_trim_prompt_cache(cache):
        # Sliding windows and recurrent states cannot go back.
        return None, 0
    trim_prompt_cache(cache, surplus)
    return cache, hit.shared_tokens


def copied(cache: Cache) -> Cache:
    """Return a cache of the same values; what is written to one is not seen in the other."""
    parts = [copy.copy(part) for part in cache]
    for part in parts:
        part.state = tree_map(_detached, part.state)
    return parts


def _detached(value: Any) -> Any:
    return value[...] if isinstance(value, mx.array) else value


def kept(tokens: Sequence[Sequence[int]], rows: Sequence[Cache]) -> list[Prefix]:
    """Return rows' KV as the prefix store keeps it: without spare room, evaluated, holding on to no graph."""
    compact = [[_compact(part) for part in cache] for cache in rows]
    mx.eval([part.state for cache in compact for part in cache])
    return [
        Prefix(tokens=held, payload=cache, size_bytes=size_bytes(cache))
        for held, cache in zip(tokens, compact, strict=True)
    ]


def _compact(part: Any) -> Any:
    if type(part) is not KVCache:
        return part
    # Room for the next 256 tokens is what a row needs and a kept prefix does not.
    keys, values, length = part.state
    kind: Any = KVCache
    compact = kind()
    compact.state = (mx.contiguous(keys[..., :length, :]), mx.contiguous(values[..., :length, :]), length)
    return compact


def size_bytes(cache: Cache) -> int:
    """Return how much a cache has allocated."""
    return sum(part.nbytes for part in cache)


def side_by_side(caches: Sequence[Cache]) -> Cache:
    """Merge the caches of single rows into one cache of all of them, in that order."""
    if len(caches) == 1:
        return [_widened(part) for part in caches[0]]
    return [parts[0].merge(list(parts)) for parts in zip(*caches, strict=True)]


def _widened(part: Any) -> Any:
    if type(part) is not KVCache or part.keys is None:
        return part.merge([part])
    # `merge` would copy; a batch of one row needs no padding.
    wide = BatchKVCache([0])
    wide.state = (part.keys, part.values, mx.array([part.offset]), mx.array([0]), part.offset)
    return wide


def zeros(network: Network, *, rows: int, tokens: int) -> Cache:
    """Return a cache of so many rows with so many tokens of made-up KV, for a model of plain caches."""
    parts = network.new_cache()
    network.extend(mx.zeros((1, 1), dtype=mx.int32), parts)
    wide = [BatchKVCache([0] * rows) for _ in parts]
    for part, like in zip(wide, parts, strict=True):
        shapes = [(rows, array.shape[1], tokens, array.shape[3]) for array in (like.keys, like.values)]
        keys, values = (mx.zeros(shape, like.keys.dtype) for shape in shapes)
        part.state = (keys, values, mx.array([tokens] * rows), mx.array([0] * rows), tokens)
    mx.eval([part.state for part in wide])
    return wide


def row_of(cache: Cache, index: int) -> Cache:
    """Return one row of a cache of several, as a cache of its own."""
    return [part.extract(index) for part in cache]


def narrow(cache: Cache, keep: Sequence[int]) -> None:
    """Keep these rows of a cache of several, in place."""
    for part in cache:
        part.filter(list(keep))


def append(cache: Cache, other: Cache) -> None:
    """Add the rows of another cache of several to this one, in place; the other is used up."""
    for part, more in zip(cache, other, strict=True):
        part.extend(more)
