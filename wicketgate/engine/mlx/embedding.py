"""
Vectors of prompts: the last hidden states of each, pooled and brought to length 1.

Prompts of similar lengths are computed side by side, padded on the right: a causal model's states do not
depend on what comes after them, so that neither padding nor company changes a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from wicketgate.engine.mlx.scoring import SLICE_BYTES
from wicketgate.engine.wire import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wicketgate.engine.mlx.network import Network
    from wicketgate.engine.wire import Embed, Part


class MlxEmbedding:
    """One Embed being computed; each `advance` is one forward pass."""

    def __init__(self, network: Network, message: Embed, *, slice_bytes: int = SLICE_BYTES) -> None:
        self._network = network
        self._id = message.id
        self._prompts = message.prompts
        self._is_mean = message.pooling == "mean"
        self._slice_bytes = slice_bytes
        self._order = sorted(range(len(message.prompts)), key=lambda index: len(message.prompts[index]))
        self._vectors: dict[int, bytes] = {}
        self._chunk_tokens = 1
        self._is_told = False
        self.remaining_tokens = sum(len(prompt) for prompt in message.prompts)
        """How many tokens are still to be computed, of all prompts."""
        self._work = self._run()

    def advance(self, chunk_tokens: int) -> None:
        """Compute about that many more: a chunk of one prompt, or as many prompts as fit."""
        self._chunk_tokens = max(1, chunk_tokens)
        with self._network.computing():
            next(self._work, None)

    def parts(self) -> list[Part]:
        """Return the answer, once nothing remains."""
        if self.remaining_tokens or self._is_told:
            return []
        self._is_told = True
        return [Embedded(self._id, [self._vectors[index] for index in range(len(self._prompts))])]

    def kept(self) -> None:
        """Keep nothing: nobody generates behind what is embedded."""

    def _run(self) -> Iterator[None]:
        """Do all the work, with a stop after each forward pass."""
        at = 0
        while at < len(self._order):
            count = 1
            while at + count < len(self._order) and self._fits(count + 1, self._order[at + count]):
                count += 1
            yield from self._compute(self._order[at : at + count])
            at += count

    def _fits(self, rows: int, longest: int) -> bool:
        padded_tokens = rows * len(self._prompts[longest])
        kv_bytes = padded_tokens * self._network.kv_bytes_per_token
        return padded_tokens <= self._chunk_tokens and kv_bytes <= self._slice_bytes

    def _compute(self, indices: Sequence[int]) -> Iterator[None]:
        """Compute prompts side by side, in chunks of columns."""
        lengths = np.array([len(self._prompts[index]) for index in indices])
        longest = int(lengths.max())
        tokens = np.zeros((len(indices), longest), dtype=np.int32)
        for row, index in enumerate(indices):
            tokens[row, : lengths[row]] = self._prompts[index]
        cache = self._network.new_cache()
        pooled: NDArray[np.float32] | float = 0.0
        at = 0
        while at < longest:
            end = min(longest, at + max(1, self._chunk_tokens // len(indices)))
            states = self._network.states(mx.array(tokens[:, at:end]), cache)
            pooled = pooled + self._pooled(states, lengths, at, end)
            mx.eval([part.state for part in cache])
            if end == longest:
                for index, vector in zip(indices, _unit(np.asarray(pooled)), strict=True):
                    self._vectors[index] = vector.astype("<f4").tobytes()
            self.remaining_tokens -= int(np.clip(lengths, at, end).sum()) - at * len(indices)
            at = end
            yield

    def _pooled(self, states: Any, lengths: NDArray[np.int64], at: int, end: int) -> NDArray[np.float32]:
        """Return what (rows, n, size) states of the columns from `at` to `end` add to each row's sum."""
        columns = np.arange(at, end)
        counts = columns < lengths[:, None] if self._is_mean else columns == lengths[:, None] - 1
        weights = mx.array(counts.astype(np.float32))[..., None]
        return np.array((states.astype(mx.float32) * weights).sum(axis=1))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring (rows, size) vectors to length 1; the mean needs no division, as only its direction is left."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
