"""Continuous batching with mlx-lm's BatchGenerator, through its public calls only."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from wicketgate.engine.mlx.sampling import (
    BatchSampler,
    RawLogprobs,
    RowSampling,
    make_processors,
    row_sampling,
    token_news,
)
from wicketgate.engine.stepper import DeviceError, Emitted, Prefix, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wicketgate.engine.kv_store import Hit
    from wicketgate.engine.wire import HostOptions, Submit

METAL_FAILED: Final = "[METAL]"
"""How mlx's messages about a failed command buffer begin."""


@dataclass(slots=True)
class _Row:
    id: int
    sampling: RowSampling
    alternatives: int | None
    """Log-probabilities asked for; None is none."""
    raw: RawLogprobs | None


class MlxBatch:
    """
    The rows of one model on one device. All calls come from one thread.

    The generator must never hold more prompts than its prefill batch, nor more rows in all than its
    completion batch: then each prompt with one token left joins the rows in the next step, and it is known
    beforehand which rows each forward pass will sample.
    """

    def __init__(
        self,
        model: Any,
        options: HostOptions,
        *,
        vocabulary_size: int,
        context_tokens: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self.vocabulary_size = vocabulary_size
        self.context_tokens = context_tokens
        self._model = model
        self._options = options
        self._eos_token_ids = tuple(eos_token_ids)
        self._sampler = BatchSampler()
        self._rows: dict[int, _Row] = {}
        """By the generator's ids, as the next three."""
        self._prompts: dict[int, int] = {}
        """Tokens still to compute of the prompts in progress, in the order of their insertion."""
        self._decoding: list[int] = []
        """In the order in which their tokens come."""
        self._uids: dict[int, int] = {}
        self._generator: Any = self._new_generator()

    def _new_generator(self) -> BatchGenerator:
        options = self._options
        return BatchGenerator(
            self._model,
            sampler=self._sampler,
            completion_batch_size=options.max_batch_size,
            prefill_batch_size=min(options.prefill_batch_size, options.max_batch_size),
            prefill_step_size=options.prefill_step_tokens,
        )

    @property
    def kv_bytes(self) -> int:
        """KV of all rows, padding included."""
        return int(self._generator.prompt_cache_nbytes)

    @property
    def memory_bytes(self) -> int:
        """What mlx holds, its pool of freed buffers included."""
        return mx.get_active_memory() + mx.get_cache_memory()

    def insert(self, message: Submit, hit: Hit[object] | None) -> int:
        """Add a row; returns how many tokens of its prompt came from the hit."""
        cache, cached_tokens = reuse(hit)
        # What the processors do to a row is no part of the log-probabilities that a client sees.
        raw = RawLogprobs() if message.logprobs is not None and message.repetition_penalty != 1.0 else None
        (uid,) = self._generator.insert(
            [message.prompt[cached_tokens:]],
            max_tokens=[message.max_tokens],
            caches=[cache],
            all_tokens=[message.prompt[:cached_tokens]],
            logits_processors=[make_processors(message, raw)],
            stop_sequences=[self._stop_sequences(message)],
        )
        self._rows[uid] = _Row(message.id, row_sampling(message), message.logprobs, raw)
        self._prompts[uid] = len(message.prompt) - cached_tokens
        self._uids[message.id] = uid
        return cached_tokens

    def _stop_sequences(self, message: Submit) -> StopSequences:
        ends = {*message.stop_token_ids, *(() if message.ignore_eos else self._eos_token_ids)}
        return StopSequences([[token] for token in sorted(ends)])

    def remove(self, ids: Sequence[int]) -> None:
        """Drop rows, in whatever state they are."""
        uids = [self._uids.pop(key) for key in ids if key in self._uids]
        for uid in uids:
            self._forget(uid)
        with mx.stream(self._generator.stream):
            self._generator.remove(uids)

    def next(self, chunk_tokens: int) -> tuple[list[Progress], list[Emitted]]:
        """
        Compute a token for each row that decodes and a chunk of each prompt in progress.

        Raises:
            DeviceError: the device failed.
        """
        self._generator.prefill_step_size = chunk_tokens
        joining = [uid for uid, remaining_tokens in self._prompts.items() if remaining_tokens == 1]
        passes = [[self._rows[uid].sampling for uid in uids] for uids in (self._decoding, joining) if uids]
        self._sampler.expect(passes)
        try:
            prompts, tokens = self._generator.next()
        except RuntimeError as error:
            if str(error).startswith(METAL_FAILED):
                raise DeviceError(str(error)) from error
            raise
        joined = [part.uid for part in prompts if part.end_of_prompt]
        if [part.uid for part in tokens] != self._decoding or joined != joining:
            raise RuntimeError("the generator served other rows than was expected")
        progress = [self._progress(part) for part in prompts]
        return progress, [self._emitted(part) for part in tokens]

    def _progress(self, response: Any) -> Progress:
        uid = response.uid
        if response.end_of_prompt:
            del self._prompts[uid]
            self._decoding.append(uid)
            return Progress(id=self._rows[uid].id, remaining_tokens=0)
        done, total = response.progress
        self._prompts[uid] = total - done
        return Progress(id=self._rows[uid].id, remaining_tokens=total - done)

    def _emitted(self, response: Any) -> Emitted:
        row = self._rows[response.uid]
        logprobs = None
        if row.alternatives is not None:
            logprobs = response.logprobs if row.raw is None else row.raw.pop()
        token = token_news(row.id, response.token, logprobs, row.alternatives or 0)
        if response.finish_reason is None:
            return Emitted(token=token)
        del self._uids[row.id]
        self._forget(response.uid)
        keep = self._options.prefix_cache_bytes > 0
        prefix = made_prefix(response.all_tokens, response.prompt_cache) if keep else None
        return Emitted(token=token, finish_reason=response.finish_reason, prefix=prefix)

    def _forget(self, uid: int) -> None:
        del self._rows[uid]
        if self._prompts.pop(uid, None) is None:
            self._decoding.remove(uid)

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> MlxPrefill:
        """Begin to compute a prefix outside of the batch."""
        return MlxPrefill(self._model, prompt, hit, stream=self._generator.stream)

    def reset(self) -> None:
        """Forget all rows; what a failed step left behind goes with the generator."""
        self._generator.close()
        self._rows.clear()
        self._prompts.clear()
        self._decoding.clear()
        self._uids.clear()
        self._generator = self._new_generator()


class MlxPrefill:
    """A prefix being computed for the prefix store."""

    def __init__(self, model: Any, prompt: Sequence[int], hit: Hit[object] | None, *, stream: Any) -> None:
        self._model = model
        self._prompt = list(prompt)
        cache, self._computed_tokens = reuse(hit)
        self._cache = make_prompt_cache(model) if cache is None else cache
        self._stream = stream

    @property
    def remaining_tokens(self) -> int:
        """How many tokens are still to be computed."""
        return len(self._prompt) - self._computed_tokens

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""
        chunk = self._prompt[self._computed_tokens : self._computed_tokens + chunk_tokens]
        with mx.stream(self._stream):
            self._model(mx.array([chunk]), cache=self._cache)
            mx.eval([part.state for part in self._cache])
        self._computed_tokens += len(chunk)

    def prefix(self) -> Prefix:
        """Return the result, once nothing remains."""
        return made_prefix(self._prompt, self._cache)


def made_prefix(tokens: Sequence[int], cache: list[Any]) -> Prefix:
    """Compute what of the caches is still lazy, so that they hold on to no graph."""
    mx.eval([part.state for part in cache])
    return Prefix(tokens=tokens, payload=cache, size_bytes=sum(part.nbytes for part in cache))


def reuse(hit: Hit[object] | None) -> tuple[list[Any] | None, int]:
    """Return a cache that holds the shared tokens of a hit, and how many; the stored one stays as it is."""
    if hit is None:
        return None, 0
    payload: Any = hit.entry.payload
    cache = [copy.copy(part) for part in payload]
    surplus = len(hit.entry.tokens) - hit.shared_tokens
    if surplus and not can_trim_prompt_cache(cache):
        # Sliding windows and recurrent states cannot go back.
        return None, 0
    trim_prompt_cache(cache, surplus)
    for part in cache:
        part.state = tree_map(_detached, part.state)
    return cache, hit.shared_tokens


def _detached(array: Any) -> Any:
    """Return another handle on the same values: caches write in place, into whatever handle they hold."""
    return array[...] if isinstance(array, mx.array) else array
