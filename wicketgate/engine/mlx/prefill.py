"""
Prompts in progress: chunk by chunk on our own loop, and the first token from the last chunk's own pass.

mlx-lm's generator computes all but the last token, then that one in a pass of its own, and delivers a step
later. Here the head runs on the last position of the last chunk, so a prompt that joins running rows waits
for nothing but itself. Fresh prompts of few tokens go through the device side by side, padded on the right:
eight of 32 tokens take half as long as one after another, of 128 hardly less (5.8 M parameters, Linux CPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from wicketgate.engine.batch import SHORT_PROMPT_TOKENS
from wicketgate.engine.kv.store import MIN_REUSED_TOKENS
from wicketgate.engine.mlx import caches
from wicketgate.engine.mlx.network import begin
from wicketgate.engine.mlx.rows import Group, Pass, Row
from wicketgate.engine.mlx.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wicketgate.engine.batch import Emitted
    from wicketgate.engine.kv.store import Hit, Prefix
    from wicketgate.engine.mlx.caches import Cache
    from wicketgate.engine.mlx.network import Network


@dataclass(slots=True, eq=False)
class Prompt:
    """A stream without its first token."""

    row: Row
    cache: Cache
    computed: int
    """How many of its tokens have KV."""
    is_fresh: bool = True
    """Nothing was reused or computed yet."""

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed."""
        return len(self.row.tokens) - self.computed

    def progress(self) -> Prefix | None:
        """Return the KV computed so far, apart from what will be computed later; None for too little."""
        if self.computed < MIN_REUSED_TOKENS:
            return None
        return caches.kept([self.row.tokens[: self.computed]], [caches.copied(self.cache)])[0]


@dataclass(frozen=True, slots=True)
class _Ending:
    """Prompts whose last chunk is being computed together."""

    rows: list[Row]
    cache: Cache
    logits: Any
    """(rows, vocabulary), not evaluated yet."""


def compute(
    network: Network, chunks: Iterable[tuple[Prompt, int]], *, most_together: int
) -> tuple[list[Group], list[Emitted]]:
    """
    Compute so many tokens of each of these prompts.

    Args:
        network: The model.
        chunks: Prompts, and how many tokens of each.
        most_together: Most short prompts in one padded pass.

    Returns:
        The rows of the prompts that are done, in groups as they were computed, and their first tokens.
    """
    short: list[Prompt] = []
    endings: list[_Ending] = []
    unfinished: list[Prompt] = []
    for prompt, tokens in chunks:
        if tokens < prompt.remaining_tokens:
            _advance(network, prompt, tokens)
            unfinished.append(prompt)
        elif network.has_plain_cache and prompt.is_fresh and prompt.remaining_tokens <= SHORT_PROMPT_TOKENS:
            short.append(prompt)
        else:
            endings.append(_last_chunk(network, prompt))
    # Neighbours in length share a pass, so that little is padded.
    short.sort(key=lambda prompt: prompt.remaining_tokens)
    for first in range(0, len(short), most_together):
        endings.append(_side_by_side(network, short[first : first + most_together]))
    groups, emitted = _first_tokens(network, endings)
    mx.eval([part.state for prompt in unfinished for part in prompt.cache])
    return groups, emitted


def _advance(network: Network, prompt: Prompt, tokens: int) -> None:
    chunk = prompt.row.tokens[prompt.computed : prompt.computed + tokens]
    network.extend(mx.array([chunk]), prompt.cache)
    begin([part.state for part in prompt.cache])
    prompt.computed += len(chunk)
    prompt.is_fresh = False


def _last_chunk(network: Network, prompt: Prompt) -> _Ending:
    logits = network.last_logits(mx.array([prompt.row.tokens[prompt.computed :]]), prompt.cache)
    begin(logits)
    return _Ending([prompt.row], prompt.cache, logits)


def _side_by_side(network: Network, prompts: Sequence[Prompt]) -> _Ending:
    if len(prompts) == 1:
        return _last_chunk(network, prompts[0])
    rows = [prompt.row for prompt in prompts]
    lengths = [len(row.tokens) for row in rows]
    longest = max(lengths)
    padding = [longest - length for length in lengths]
    cache = caches.side_by_side([network.new_cache() for _ in rows])
    for part in cache:
        part.prepare(lengths=lengths, right_padding=padding)
    tokens = mx.array([row.tokens + [0] * pad for row, pad in zip(rows, padding, strict=True)])
    last = [length - 1 for length in lengths]
    logits = network.logits_at(tokens, cache, rows=range(len(rows)), positions=last)
    begin(logits)
    for part in cache:
        part.finalize()
    return _Ending(rows, cache, logits)


def _first_tokens(network: Network, endings: Sequence[_Ending]) -> tuple[list[Group], list[Emitted]]:
    if not endings:
        return [], []
    rows = [row for ending in endings for row in ending.rows]
    drawn = sample(mx.concatenate([ending.logits for ending in endings]), [row.state for row in rows])
    mx.eval(drawn.arrays)
    emitted = [each for _, each in Pass(rows, drawn, None).told()]
    groups = []
    for ending in endings:
        for row in ending.rows:
            row.computed = len(row.tokens) - 1
        groups.append(Group(network, ending.rows, ending.cache, is_wide=len(ending.rows) > 1))
    return groups, emitted


class MlxPrefill:
    """A prefix being computed for the prefix store."""

    def __init__(self, network: Network, prompt: Sequence[int], hit: Hit[object] | None) -> None:
        self._network = network
        self._prompt = list(prompt)
        with network.computing():
            cache, self._computed = caches.reuse(hit)
        self._cache = network.new_cache() if cache is None else cache

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed."""
        return len(self._prompt) - self._computed

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""
        chunk = self._prompt[self._computed : self._computed + chunk_tokens]
        with self._network.computing():
            self._network.extend(mx.array([chunk]), self._cache)
            mx.eval([part.state for part in self._cache])
        self._computed += len(chunk)

    def prefix(self) -> Prefix:
        """Return what is computed so far; what is computed later does not change it."""
        with self._network.computing():
            return caches.kept([self._prompt[: self._computed]], [caches.copied(self._cache)])[0]
