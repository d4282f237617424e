"""
How likely each token of a prompt is after those before it.

The prompt is computed as any other, in chunks; the head runs on every position of a chunk, a slice at a time,
so that no more than `SLICE_BYTES` of logits exist at once, whatever the vocabulary and the chunk. The work
on them takes about four times that besides (a vocabulary of 152,000, Linux CPU). Of each slice only the
numbers that were asked for come to the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from wicketgate.engine.mlx import caches
from wicketgate.engine.mlx.logprobs import Logprobs
from wicketgate.engine.mlx.scoring import LOGIT_BYTES, SLICE_BYTES
from wicketgate.engine.wire import Assessed

if TYPE_CHECKING:
    from wicketgate.engine.kv.store import Prefix
    from wicketgate.engine.mlx.network import Network
    from wicketgate.engine.wire import Assess, Part, Token


class MlxAssessing:
    """One Assess being computed; each `advance` is one chunk of its prompt."""

    def __init__(
        self, network: Network, message: Assess, *, vocabulary_size: int, slice_bytes: int = SLICE_BYTES
    ) -> None:
        self._network = network
        self._id = message.id
        self._prompt = message.prompt
        self._top = message.top
        self._most_places = max(1, slice_bytes // (LOGIT_BYTES * vocabulary_size))
        self._cache = network.new_cache()
        self._computed = 0
        self._tokens: list[Token] = []

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed; what comes after the last one is not asked for."""
        return len(self._prompt) - 1 - self._computed

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""
        begin, end = self._computed, self._computed + min(chunk_tokens, self.remaining_tokens)
        if begin == end:
            return
        with self._network.computing():
            chunk = mx.array([self._prompt[begin:end]])
            for logits in self._network.logit_slices(chunk, self._cache, places=self._most_places):
                self._read(logits)
            mx.eval([part.state for part in self._cache])

    def _read(self, logits: mx.array) -> None:
        places = logits.shape[0]
        said = self._prompt[self._computed + 1 : self._computed + 1 + places]
        found = Logprobs.of(logits, mx.array(said), dict.fromkeys(range(places), self._top))
        mx.eval(found.arrays)
        self._tokens += [found.news(self._id, token, place) for place, token in enumerate(said)]
        self._computed += places

    def parts(self) -> list[Part]:
        """Return the tokens that were assessed since the last call."""
        tokens, self._tokens = self._tokens, []
        if not tokens:
            return []
        logprobs = [token.logprob for token in tokens if token.logprob is not None]
        return [Assessed(self._id, logprobs, [token.top or [] for token in tokens])]

    def kept(self) -> Prefix | None:
        """Return the KV: who asks for this mostly goes on to generate behind the same prompt."""
        if not self._computed:
            return None
        with self._network.computing():
            return caches.kept([self._prompt[: self._computed]], [self._cache])[0]
