"""
How the next token is drawn from a row of log-probabilities.

Token i of a stream is drawn with noise made of (seed, i) alone, so a stream has the same text alone, in any
batch, and when it goes on after its host died. Noise belongs to token ids, not to ranks: two candidates whose
order flips by rounding keep their own noise.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_repetition_penalty

from wicketgate.engine.wire import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wicketgate.engine.wire import Submit

    LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

MIN_TEMPERATURE: Final = 1e-4
"""Below it sampling takes the likeliest token; the division would overflow."""
PENALTY_CONTEXT_TOKENS: Final = 20


@dataclass(slots=True)
class RowSampling:
    """How one row is sampled, and where it stands."""

    seed: int
    position: int
    """Number of the next token to draw."""
    scale: float
    """1 / temperature; 0 takes the likeliest token."""
    top_k: int
    top_p: float
    min_p: float

    @property
    def ranked(self) -> bool:
        """Whether candidates are cut off by their rank."""
        return self.top_k > 0 or self.top_p < 1.0


def row_sampling(message: Submit) -> RowSampling:
    """Return how a request's row is sampled."""
    greedy = message.temperature < MIN_TEMPERATURE
    return RowSampling(
        seed=message.seed,
        position=message.position,
        scale=0.0 if greedy else 1.0 / message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
    )


class BatchSampler:
    """
    Draws the next tokens of all rows in one go.

    BatchGenerator calls a sampler that all rows share once per forward pass, but does not tell it whose rows
    they are: `expect` does, before each step. With one sampler a row it would call 32 of them in turn, which
    took a fifth of the throughput at temperature 1 (32 streams of the demo model, Linux CPU).
    """

    def __init__(self) -> None:
        self._expected: deque[Sequence[RowSampling]] = deque()

    def expect(self, passes: Iterable[Sequence[RowSampling]]) -> None:
        """Name the rows of each forward pass of the coming step."""
        self._expected = deque(passes)

    def __call__(self, logprobs: mx.array) -> mx.array:
        """
        Draw from (rows, vocabulary) log-probabilities; returns (rows,) token ids.

        Raises:
            RuntimeError: these are not the rows that were expected.
        """
        rows = self._expected.popleft() if self._expected else []
        if len(rows) != logprobs.shape[0]:
            raise RuntimeError(f"{logprobs.shape[0]} rows came to be sampled, {len(rows)} were expected")
        drawn = [index for index, row in enumerate(rows) if row.scale]
        if len(drawn) == len(rows):
            return draw(logprobs, rows)
        tokens = mx.argmax(logprobs, axis=-1)
        if drawn:
            chosen = mx.array(drawn)
            tokens[chosen] = draw(logprobs[chosen], [rows[index] for index in drawn])
        return tokens


def draw(logprobs: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """
    Draw one token of each row, shape (rows, vocabulary), and move the rows on by one position.

    Temperature comes first, then top_k, top_p within what is left, and min_p (the order of vLLM). The
    likeliest token always stays. Adding Gumbel noise and taking the largest draws from the softmax.
    """
    keys = mx.array([noise_key(row.seed, row.position) for row in rows], dtype=mx.uint32)
    for row in rows:
        row.position += 1
    vocabulary_size = logprobs.shape[-1]
    noise = mx.vmap(lambda key: mx.random.gumbel((vocabulary_size,), key=key))(keys)
    scores = logprobs.astype(mx.float32) * mx.array([[row.scale] for row in rows])
    ranked = [index for index, row in enumerate(rows) if row.ranked]
    if ranked:
        floors = mx.full((len(rows), 1), -mx.inf)
        chosen = mx.array(ranked)
        floors[chosen] = _rank_floors(scores[chosen], [rows[index] for index in ranked])
        scores = mx.where(scores < floors, -mx.inf, scores)
    if any(row.min_p for row in rows):
        shares = [[math.log(row.min_p) if row.min_p else -math.inf] for row in rows]
        floors = mx.max(scores, axis=-1, keepdims=True) + mx.array(shares)
        scores = mx.where(scores < floors, -mx.inf, scores)
    return mx.argmax(scores + noise, axis=-1)


def _rank_floors(scores: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """Return the score of the worst candidate that each row's top_k and top_p keep, shape (rows, 1)."""
    vocabulary_size = scores.shape[-1]
    best_first = -mx.sort(-scores, axis=-1)
    most = mx.array([[min(row.top_k or vocabulary_size, vocabulary_size)] for row in rows])
    within = mx.where(mx.arange(vocabulary_size) < most, best_first, -mx.inf)
    better_mass = mx.cumsum(mx.softmax(within, axis=-1), axis=-1, inclusive=False)
    # A candidate stays when the better ones have not reached top_p yet; the first one always does.
    wanted = (better_mass < mx.array([[row.top_p] for row in rows])).sum(axis=-1, keepdims=True)
    kept = mx.clip(wanted, 1, most)
    return mx.take_along_axis(best_first, kept - 1, axis=-1)


def noise_key(seed: int, position: int) -> tuple[int, int]:
    """
    Mix a seed and a position into the two 32-bit words of an mlx random key.

    Source:
        Steele, Lea & Flood, "Fast splittable pseudorandom number generators": the mixing of SplitMix64.
    """
    mask = (1 << 64) - 1
    word = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    word ^= word >> 31
    return word >> 32, word & 0xFFFFFFFF


class RawLogprobs:
    """Remembers a row's log-probabilities before anything changes them, one row per step in flight."""

    def __init__(self) -> None:
        self._rows: deque[mx.array] = deque()

    def __call__(self, _tokens: mx.array, logits: mx.array) -> mx.array:
        """Note the row, as the first of its logits processors, and pass it on."""
        self._rows.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return logits

    def pop(self) -> mx.array:
        """Return the (vocabulary,) row that the oldest token not yet asked for was drawn from."""
        return self._rows.popleft()[0]


def make_processors(message: Submit, raw: RawLogprobs | None) -> list[LogitsProcessor]:
    """Return what changes this request's logits before sampling; with none in a batch it skips that path."""
    processors: list[LogitsProcessor] = []
    if message.repetition_penalty != 1.0:
        if raw is not None:
            processors.append(raw)
        processors.append(make_repetition_penalty(message.repetition_penalty, PENALTY_CONTEXT_TOKENS))
    return processors


def token_news(stream: int, token: int, row: mx.array | None, alternatives: int) -> Token:
    """Describe one new token; `row` is its (vocabulary,) log-probabilities, None where nobody asked."""
    if row is None:
        return Token(stream, token)
    logprobs = np.asarray(row.astype(mx.float32))
    best = np.argsort(-logprobs, kind="stable")[:alternatives] if alternatives else ()
    return Token(
        stream, token, float(logprobs[token]), [(int(index), float(logprobs[index])) for index in best]
    )
