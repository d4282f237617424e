"""
Scores: how likely each of some labels is after a query and each of many items.

Theory of operation. The query is computed once. Items branch off its KV, as many side by side as fit in a
chunk; the logits after each item's last token hold the first token of every label. Labels of more tokens then
branch off their item: all but their last token are computed, all labels of all items side by side, and each
position tells how likely the next token of the label is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import numpy as np

from wicketgate.engine.mlx.branches import branch, can_branch
from wicketgate.engine.mlx.caches import copied, reuse
from wicketgate.engine.wire import Scored

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from wicketgate.engine.kv.store import Hit
    from wicketgate.engine.mlx.network import Network
    from wicketgate.engine.wire import Part, Score

SLICE_BYTES: Final = 64 * 1024 * 1024
"""
What rows that are computed side by side may copy of the query's KV, all layers together, and hold of logits.

A copy costs time too: 64 MiB took 30 to 60 ms on a CPU of the development machine.
"""
LOGIT_BYTES: Final = 4


class MlxScoring:
    """One Score being computed; each `advance` is one forward pass."""

    def __init__(
        self,
        network: Network,
        message: Score,
        hit: Hit[object] | None,
        *,
        vocabulary_size: int,
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        self._network = network
        self._id = message.id
        self._cached_tokens = hit.shared_tokens if hit else 0
        self._query = message.query
        self._labels = message.labels
        self._long = [index for index, label in enumerate(message.labels) if len(label) > 1]
        self._items = message.items
        self._distinct = sorted({tuple(item) for item in message.items}, key=len)
        """Equal items have equal scores; of similar lengths side by side they need little padding."""
        self._scores: dict[tuple[int, ...], NDArray[np.float64]] = {}
        """(labels,) natural log-probabilities of each distinct item."""
        self._kv_bytes_per_token = network.kv_bytes_per_token
        self._slice_bytes = slice_bytes
        self._most_places = max(1, slice_bytes // (LOGIT_BYTES * vocabulary_size))
        with network.computing():
            cache, self._computed_tokens = reuse(hit)
        self._cache: list[Any] = network.new_cache() if cache is None else cache
        self._branches = can_branch(self._cache)
        self._chunk_tokens = 1
        forced_tokens = sum(len(self._labels[index]) - 1 for index in self._long)
        items_tokens = sum(len(item) + forced_tokens for item in self._distinct)
        self.remaining_tokens = len(self._query) - self._computed_tokens + items_tokens if self._items else 0
        """How many tokens are still to be computed, of the query and of all items with their labels."""
        self._work = self._run()
        next(self._work, None)

    def advance(self, chunk_tokens: int) -> None:
        """Compute about that many more: a chunk of the query, or as many items as fit."""
        self._chunk_tokens = max(1, chunk_tokens)
        with self._network.computing():
            next(self._work, None)

    def logprobs(self) -> list[list[float]]:
        """Return (items, labels) log-probabilities, once nothing remains."""
        return [self._scores[tuple(item)].tolist() for item in self._items]

    def parts(self) -> list[Part]:
        """Return the answer, once nothing remains."""
        if self.remaining_tokens:
            return []
        return [Scored(self._id, self.logprobs(), self._cached_tokens)]

    def kept(self) -> None:
        """Keep nothing: the next score mostly has another query."""

    def _run(self) -> Iterator[None]:
        """Do all the work, with a stop before each forward pass."""
        yield from self._compute_query()
        at = 1 if self._distinct and not self._distinct[0] else 0
        while at < len(self._distinct):
            yield
            items = self._next_items(at)
            yield from self._compute_items(items)
            at += len(items)

    def _compute_query(self) -> Iterator[None]:
        while self._computed_tokens < len(self._query):
            yield
            chunk = self._query[self._computed_tokens : self._computed_tokens + self._chunk_tokens]
            self._computed_tokens += len(chunk)
            self.remaining_tokens -= len(chunk)
            if self._computed_tokens == len(self._query) and () in self._distinct:
                logits = self._network.last_logits(mx.array([chunk]), self._cache)
                self._scores[()] = _logprobs(logits, self._first_tokens(1))[0]
            else:
                self._network.extend(mx.array([chunk]), self._cache)
            mx.eval([part.state for part in self._cache])
        if () in self._distinct:
            yield from self._compute_labels([()], None)

    def _next_items(self, at: int) -> list[tuple[int, ...]]:
        """Return the next items that may be computed side by side, at least one."""
        count = 1
        while at + count < len(self._distinct) and self._fits(count + 1, len(self._distinct[at + count])):
            count += 1
        return self._distinct[at : at + count]

    def _fits(self, rows: int, columns: int) -> bool:
        """Tell whether so many rows of so many new tokens each may be computed side by side."""
        copied_bytes = rows * (len(self._query) + columns) * self._kv_bytes_per_token
        return (
            self._branches
            and rows * columns <= self._chunk_tokens
            and rows <= self._most_places
            and copied_bytes <= self._slice_bytes
        )

    def _compute_items(self, items: list[tuple[int, ...]]) -> Iterator[None]:
        cache: list[Any] = branch(self._cache) if self._branches else copied(self._cache)
        places = [(row, len(item) - 1) for row, item in enumerate(items)]
        firsts = yield from self._forward(items, cache, places, self._first_tokens(len(items)))
        self._scores.update(zip(items, firsts, strict=True))
        yield from self._compute_labels(items, cache)

    def _first_tokens(self, rows: int) -> NDArray[np.int64]:
        return np.tile(np.array([label[0] for label in self._labels], dtype=np.int64), (rows, 1))

    def _compute_labels(self, items: list[tuple[int, ...]], cache: list[Any] | None) -> Iterator[None]:
        """Add to the items' scores what the labels' later tokens contribute."""
        pairs = [(row, label) for row in range(len(items)) for label in self._long]
        pairs.sort(key=lambda pair: len(self._labels[pair[1]]))
        at = 0
        while at < len(pairs):
            yield
            count = 1
            while at + count < len(pairs) and self._fits_pairs(items, pairs[at : at + count + 1]):
                count += 1
            yield from self._compute_pairs(items, pairs[at : at + count], cache)
            at += count

    def _fits_pairs(self, items: list[tuple[int, ...]], pairs: list[tuple[int, int]]) -> bool:
        forced_tokens = len(self._labels[pairs[-1][1]]) - 1
        own_bytes = len(pairs) * len(items[-1]) * self._kv_bytes_per_token
        return (
            self._fits(len(pairs), forced_tokens)
            and len(pairs) * forced_tokens <= self._most_places
            and own_bytes <= self._slice_bytes
        )

    def _compute_pairs(
        self, items: list[tuple[int, ...]], pairs: list[tuple[int, int]], cache: list[Any] | None
    ) -> Iterator[None]:
        labels = [self._labels[label] for _, label in pairs]
        forced = [label[:-1] for label in labels]
        places = [(row, column) for row, label in enumerate(forced) for column in range(len(label))]
        wanted = np.array([[labels[row][column + 1]] for row, column in places], dtype=np.int64)
        forked = self._fork(cache, [row for row, _ in pairs], [len(items[row]) for row, _ in pairs])
        found = yield from self._forward(forced, forked, places, wanted)
        for (row, _), logprob in zip(places, found[:, 0], strict=True):
            item_row, label = pairs[row]
            self._scores[items[item_row]][label] += logprob

    def _fork(self, cache: list[Any] | None, rows: list[int], lengths: list[int]) -> list[Any]:
        if not self._branches:
            return copied(self._cache if cache is None else cache)
        return [part.fork(rows, lengths) for part in (branch(self._cache) if cache is None else cache)]

    def _forward(
        self,
        rows: Sequence[Sequence[int]],
        cache: list[Any],
        places: Sequence[tuple[int, int]],
        wanted: NDArray[np.int64],
    ) -> Generator[None, None, NDArray[np.float64]]:
        """
        Compute rows of tokens side by side, in chunks of columns, with a stop between two of them.

        Args:
            rows: Tokens of each row; no row is empty.
            cache: A branch for each row.
            places: (row, column) of tokens.
            wanted: (places, m) token ids.

        Returns:
            (places, m): how likely each wanted token is to come after its place.
        """
        longest = max(len(row) for row in rows)
        tokens = np.zeros((len(rows), longest), dtype=np.int32)
        for row, content in enumerate(rows):
            tokens[row, : len(content)] = content
        result = np.zeros(wanted.shape)
        at = 0
        while at < longest:
            if at:
                yield
            end = min(longest, at + max(1, self._chunk_tokens // len(rows)))
            inside = [index for index, (_, column) in enumerate(places) if at <= column < end]
            chunk = mx.array(tokens[:, at:end])
            if inside:
                chosen = [places[index] for index in inside]
                logits = self._network.logits_at(
                    chunk,
                    cache,
                    rows=[row for row, _ in chosen],
                    positions=[column - at for _, column in chosen],
                )
                result[inside] = _logprobs(logits, wanted[inside])
            else:
                self._network.extend(chunk, cache)
                mx.eval([part.state for part in cache])
            self.remaining_tokens -= sum(max(0, min(len(row), end) - at) for row in rows)
            at = end
        return result


def _logprobs(logits: mx.array, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (places, m) log-probabilities of the wanted tokens from (places, vocabulary) logits."""
    exact = logits.astype(mx.float32)
    chosen = mx.take_along_axis(exact, mx.array(wanted), axis=-1)
    return np.array(chosen - mx.logsumexp(exact, axis=-1, keepdims=True), dtype=np.float64)
