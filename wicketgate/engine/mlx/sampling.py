"""
How the next tokens are drawn, for all rows of a group at once.

Theory of operation. Token i of a stream is drawn with noise made of (seed, i) alone, so a stream has the same
text alone, in any batch, and when it goes on after its host died. Noise belongs to token ids, not to ranks:
two candidates whose order flips by rounding keep their own noise. What a row asks for is settled when it
joins: as long as the same rows are sampled together, their settings lie on the device as the arrays of one
`_Lineup`, and a step adds only its noise. Everything is built as a graph over the logits and over tokens that
nobody has read yet; nothing is evaluated here. Where nobody asks for more than the likeliest token, it costs
one argmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import mlx.core as mx
import numpy as np

from wicketgate.engine.mlx.logprobs import Logprobs
from wicketgate.engine.mlx.penalties import History, Penalties
from wicketgate.engine.mlx.tails import beyond_nucleus, beyond_rank
from wicketgate.engine.wire import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from wicketgate.engine.mlx.masks import Mask
    from wicketgate.engine.wire import Submit

MIN_TEMPERATURE: Final = 1e-4
"""Below it sampling takes the likeliest token; the division would overflow."""

Bound = TypeVar("Bound")


@dataclass(slots=True, eq=False, kw_only=True)
class RowState:
    """How one row is sampled, and where it stands. It may join and leave any group between two steps."""

    seed: int
    position: int
    """Number of the next token to draw; may be set back where drafted tokens were not accepted."""
    scale: float
    """1 / temperature; 0 takes the likeliest token."""
    top_k: int
    """0 is off."""
    top_p: float
    """1 is off."""
    min_p: float
    """0 is off."""
    bias: Mapping[int, float]
    """What is added to the logits of some tokens."""
    min_tokens: int
    ends: tuple[int, ...]
    """Tokens that are not drawn before `min_tokens`."""
    alternatives: int | None
    """Log-probabilities asked for; None is none."""
    history: History | None
    """What penalties look at; None without any."""
    mask: Mask | None
    """What a grammar allows; None without one."""
    lineup: _Lineup | None = field(default=None, repr=False)
    """With whom it was last sampled."""
    seat: int = 0
    """Which row of that lineup it is."""

    @property
    def needs_value(self) -> bool:
        """Whether its last token must have been read, and `Mask.advance` told, before the next is drawn."""
        return self.mask is not None

    @property
    def is_bare(self) -> bool:
        """Whether nothing is asked for but the likeliest token."""
        asks = self.scale or self.bias or self.history or self.mask or (self.min_tokens and self.ends)
        return not asks and self.alternatives is None

    @property
    def is_held_open(self) -> bool:
        """Whether it may not end yet."""
        return self.position < self.min_tokens and bool(self.ends)


def row_state(message: Submit, *, ends: frozenset[int], mask: Mask | None = None) -> RowState:
    """
    Return how a validated request's row is sampled.

    Args:
        message: The request; on a resume its prompt ends with what was emitted.
        ends: Tokens that end it.
        mask: Of its grammar, where it has one, and told of what was emitted.
    """
    return RowState(
        seed=message.seed,
        position=message.position,
        scale=0.0 if message.temperature < MIN_TEMPERATURE else 1.0 / message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        bias=message.logit_bias,
        min_tokens=message.min_tokens,
        ends=tuple(sorted(ends)),
        alternatives=message.logprobs,
        history=History.of(message),
        mask=mask,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The next tokens of the rows that were sampled together, to be evaluated."""

    tokens: mx.array
    """(rows,) token ids."""
    logprobs: Logprobs | None
    """Of the rows that asked for them."""

    @property
    def arrays(self) -> list[mx.array]:
        """All that is to be evaluated."""
        return [self.tokens] if self.logprobs is None else [self.tokens, *self.logprobs.arrays]


def sample(logits: mx.array, rows: Sequence[RowState]) -> Drawn:
    """
    Draw the next token of each row and move the rows on by one position. Only builds a graph.

    Args:
        logits: (rows, vocabulary), as the model gave them; stay as they are.
        rows: Whose they are, in order.
    """
    lineup = rows[0].lineup
    if lineup is None or not lineup.is_of(rows):
        lineup = _Lineup(rows, vocabulary_size=logits.shape[-1])
    drawn = lineup.sample(logits, rows)
    for row in rows:
        row.position += 1
    return drawn


def token_news(stream: int, token: int, drawn: Drawn, index: int) -> Token:
    """Describe one token that was read; `index` is its row's among those sampled together."""
    if drawn.logprobs is None:
        return Token(stream, token)
    return drawn.logprobs.news(stream, token, index)


class _Lineup:
    """
    What stays the same while the same rows are sampled together.

    It does not hold the rows, which hold it: freed at once, its arrays do not wait for a garbage collection.
    """

    def __init__(self, rows: Sequence[RowState], *, vocabulary_size: int) -> None:
        self._size = len(rows)
        self._is_bare = all(row.is_bare for row in rows)
        for seat, row in enumerate(rows):
            row.lineup, row.seat = self, seat
        if self._is_bare:
            return
        self._bias = _Addition.of({seat: row.bias for seat, row in enumerate(rows) if row.bias})
        self._masked = [seat for seat, row in enumerate(rows) if row.mask]
        self._wanting = {
            seat: row.alternatives for seat, row in enumerate(rows) if row.alternatives is not None
        }
        is_drawn = any(row.scale for row in rows)
        self._drawing = _Drawing(rows, vocabulary_size=vocabulary_size) if is_drawn else None
        histories = {seat: row.history for seat, row in enumerate(rows) if row.history}
        self._penalties = Penalties(histories, vocabulary_size=vocabulary_size) if histories else None

    def is_of(self, rows: Sequence[RowState]) -> bool:
        """Tell whether these are its rows, in its order."""
        return len(rows) == self._size and all(
            row.lineup is self and row.seat == seat for seat, row in enumerate(rows)
        )

    def sample(self, logits: mx.array, rows: Sequence[RowState]) -> Drawn:
        """Draw the next tokens."""
        if self._is_bare:
            return Drawn(tokens=mx.argmax(logits, axis=-1), logprobs=None)
        changed = self._changed(logits.astype(mx.float32), rows)
        tokens = mx.argmax(changed, axis=-1)
        if self._drawing is not None:
            tokens = self._drawing.drawn(changed, tokens, rows)
        if self._penalties is not None:
            self._penalties.note(tokens)
        logprobs = Logprobs.of(logits, tokens, self._wanting) if self._wanting else None
        return Drawn(tokens=tokens, logprobs=logprobs)

    def _changed(self, logits: mx.array, rows: Sequence[RowState]) -> mx.array:
        """Return the logits after biases, penalties (the order of mlx-lm), and what is forbidden."""
        if self._bias is not None:
            logits = self._bias.applied(logits)
        if self._penalties is not None:
            logits = self._penalties.applied(logits)
        held = {seat: row.ends for seat, row in enumerate(rows) if row.is_held_open and not row.mask}
        forbidden = _Addition.of({seat: dict.fromkeys(ends, -math.inf) for seat, ends in held.items()})
        if forbidden is not None:
            logits = forbidden.applied(logits)
        if self._masked:
            part = mx.array(self._masked)
            words = [
                row.mask.allowed(barred=row.ends if row.is_held_open else ()) for row in rows if row.mask
            ]
            masked = mx.where(_unpacked(words, logits.shape[-1]), logits[part], -mx.inf)
            logits = logits[...]
            logits[part] = masked
        return logits


def _unpacked(words: Sequence[npt.NDArray[np.uint32]], vocabulary_size: int) -> mx.array:
    """Return (rows, vocabulary) bool of bits packed by 32, the lowest first."""
    bits = (mx.array(np.stack(words))[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(len(words), -1)[:, :vocabulary_size].astype(mx.bool_)


@dataclass(frozen=True, slots=True)
class _Addition:
    """What is added to some logits of some rows."""

    rows: mx.array
    tokens: mx.array
    values: mx.array

    @classmethod
    def of(cls, entries: Mapping[int, Mapping[int, float]]) -> _Addition | None:
        """Build it from values by row and token; None where there are none."""
        if not entries:
            return None
        rows = np.repeat(np.array(list(entries)), [len(values) for values in entries.values()])
        tokens = [token for values in entries.values() for token in values]
        values = [value for values in entries.values() for value in values.values()]
        return cls(mx.array(rows), mx.array(tokens), mx.array(values, dtype=mx.float32))

    def applied(self, logits: mx.array) -> mx.array:
        """Return (rows, vocabulary) logits with it."""
        return logits.at[self.rows, self.tokens].add(self.values)


class _Drawing:
    """The rows of a lineup that are drawn with noise, and their settings on the device."""

    def __init__(self, rows: Sequence[RowState], *, vocabulary_size: int) -> None:
        self._seats = [seat for seat, row in enumerate(rows) if row.scale]
        self._part = None if len(self._seats) == len(rows) else mx.array(self._seats)
        drawn = [rows[seat] for seat in self._seats]
        self._scales = mx.array([[row.scale] for row in drawn])
        shares = [[math.log(row.min_p) if row.min_p else -math.inf] for row in drawn]
        self._min_shares = mx.array(shares) if any(row.min_p for row in drawn) else None
        self._ranks: dict[int, tuple[int, float]] = {}
        """top_k and top_p of the rows that have a top_k."""
        self._nuclei: dict[int, float] = {}
        """top_p of the others that have one."""
        for index, row in enumerate(drawn):
            if 0 < row.top_k < vocabulary_size:
                self._ranks[index] = (row.top_k, row.top_p)
            elif row.top_p < 1.0:
                self._nuclei[index] = row.top_p

    def drawn(self, logits: mx.array, likeliest: mx.array, rows: Sequence[RowState]) -> mx.array:
        """Return (rows,) tokens: drawn where the row asks for it, elsewhere the likeliest."""
        keys = [noise_key(rows[seat].seed, rows[seat].position) for seat in self._seats]
        if self._part is None:
            return self._draw(logits, keys)
        tokens = likeliest[...]
        tokens[self._part] = self._draw(logits[self._part], keys)
        return tokens

    def _draw(self, logits: mx.array, keys: list[tuple[int, int]]) -> mx.array:
        """
        Draw one token of each row from its (rows, vocabulary) logits.

        Temperature comes first, then top_k, top_p within what is left, and min_p (the order of vLLM). The
        likeliest token always stays. Adding Gumbel noise and taking the largest draws from the softmax.
        """
        scores = logits * self._scales
        scores = _cut(scores, self._ranks, beyond_rank)
        scores = _cut(scores, self._nuclei, beyond_nucleus)
        if self._min_shares is not None:
            floors = mx.max(scores, axis=-1, keepdims=True) + self._min_shares
            scores = mx.where(scores < floors, -mx.inf, scores)
        gumbel = mx.vmap(lambda key: mx.random.gumbel(scores.shape[1:], key=key))
        return mx.argmax(scores + gumbel(mx.array(keys, dtype=mx.uint32)), axis=-1)


def _cut(
    scores: mx.array, bounds: Mapping[int, Bound], beyond: Callable[[mx.array, Sequence[Bound]], mx.array]
) -> mx.array:
    """Take what is beyond its bound out of the rows that have one."""
    if not bounds:
        return scores
    if len(bounds) == scores.shape[0]:
        return mx.where(beyond(scores, list(bounds.values())), -mx.inf, scores)
    part = mx.array(list(bounds))
    bounded = scores[part]
    scores = scores[...]
    scores[part] = mx.where(beyond(bounded, list(bounds.values())), -mx.inf, bounded)
    return scores


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
