"""The simulated engine: the batching of the real one over a plant, for tests and scale without a device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from wicketgate.engine.plant import Plant, PlantParams, drawn_token
from wicketgate.engine.stepper import Emitted, Prefix, Progress
from wicketgate.engine.wire import PROTOCOL_VERSION, HostOptions, Ready, Submit, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.kv_store import Hit

DEFAULT_CONTEXT_TOKENS: Final = 32_768
LOGPROB: Final = -1.0
"""Reported for every token when asked; alternatives are the next ids, each one less likely by 1."""


def open_simulated(
    options: HostOptions, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[SimulatedBatch, Ready]:
    """Build the batch and say what it is."""
    began_s = clock()
    params = msgspec.convert(options.plant, PlantParams)
    batch = SimulatedBatch(options, params, sleep=sleep)
    plant = Plant(params, seed=0)
    ready = Ready(
        version=PROTOCOL_VERSION,
        pid=os.getpid(),
        engine="simulated",
        device="plant",
        model_type="simulated",
        vocabulary_size=batch.vocabulary_size,
        context_tokens=batch.context_tokens,
        eos_token_ids=options.eos_token_ids,
        kv_bytes_per_token=int(params.kv_bytes_per_token),
        weights_bytes=0,
        load_s=clock() - began_s,
        full_chunk_s=plant.step_s(
            rows=0, longest_tokens=0, prompts=1, chunk_tokens=options.prefill_step_tokens
        ),
        runtime="plant",
        blas="reference",
    )
    return batch, ready


@dataclass(slots=True)
class _Row:
    message: Submit
    ends: frozenset[int]
    computed_tokens: int
    """Of the prompt; the whole of it once the row decodes."""
    emitted: list[int]

    @property
    def decoding(self) -> bool:
        return self.computed_tokens == len(self.message.prompt)

    @property
    def kv_tokens(self) -> int:
        return self.computed_tokens + len(self.emitted)


class SimulatedBatch:
    """Rows that take as long as the plant says."""

    def __init__(self, options: HostOptions, params: PlantParams, *, sleep: Callable[[float], None]) -> None:
        self.vocabulary_size = options.vocabulary_size
        self.context_tokens = options.context_tokens or DEFAULT_CONTEXT_TOKENS
        self._options = options
        self._params = params
        self._plant = Plant(params, seed=options.seed)
        self._sleep = sleep
        self._rows: dict[int, _Row] = {}

    @property
    def kv_bytes(self) -> int:
        """KV of all rows, padded to the longest."""
        longest_tokens = max((row.kv_tokens for row in self._rows.values()), default=0)
        return int(len(self._rows) * longest_tokens * self._params.kv_bytes_per_token)

    @property
    def memory_bytes(self) -> int:
        """The same: a plant has no weights."""
        return self.kv_bytes

    def insert(self, message: Submit, hit: Hit[object] | None) -> int:
        """Add a row; returns how many tokens of its prompt came from the hit."""
        cached_tokens = hit.shared_tokens if hit else 0
        eos = () if message.ignore_eos else self._options.eos_token_ids
        self._rows[message.id] = _Row(message, frozenset((*eos, *message.stop_token_ids)), cached_tokens, [])
        return cached_tokens

    def remove(self, ids: Sequence[int]) -> None:
        """Drop rows."""
        for key in ids:
            self._rows.pop(key, None)

    def next(self, chunk_tokens: int) -> tuple[list[Progress], list[Emitted]]:
        """Wait as long as the step takes; a token for each row that decodes, a chunk of each prompt."""
        decoding = [row for row in self._rows.values() if row.decoding]
        prompts = [row for row in self._rows.values() if not row.decoding]
        remaining = [len(row.message.prompt) - row.computed_tokens for row in prompts]
        self._sleep(
            self._plant.step_s(
                rows=len(decoding),
                longest_tokens=max((row.kv_tokens for row in decoding), default=0),
                prompts=len(prompts),
                chunk_tokens=min(chunk_tokens, max(remaining, default=0)),
            )
        )
        emitted = [self._emitted(row) for row in decoding]
        for row in prompts:
            row.computed_tokens = min(len(row.message.prompt), row.computed_tokens + chunk_tokens)
        progress = [
            Progress(id=row.message.id, remaining_tokens=len(row.message.prompt) - row.computed_tokens)
            for row in prompts
        ]
        return progress, emitted

    def _emitted(self, row: _Row) -> Emitted:
        message = row.message
        token = drawn_token(
            seed=self._options.seed,
            stream_seed=message.seed,
            position=message.position + len(row.emitted),
            vocabulary_size=self.vocabulary_size,
        )
        row.emitted.append(token)
        news = Token(message.id, token)
        if message.logprobs is not None:
            top = [
                ((token + rank) % self.vocabulary_size, LOGPROB - rank) for rank in range(message.logprobs)
            ]
            news = Token(message.id, token, LOGPROB, top)
        reason = "stop" if token in row.ends else "length" if len(row.emitted) >= message.max_tokens else None
        if reason is None:
            return Emitted(token=news)
        del self._rows[message.id]
        return Emitted(
            token=news, finish_reason=reason, prefix=self.finished_prefix([*message.prompt, *row.emitted])
        )

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> SimulatedPrefill:
        """Begin to compute a prefix outside of the batch."""
        return SimulatedPrefill(self, list(prompt), hit.shared_tokens if hit else 0)

    def reset(self) -> None:
        """Forget all rows."""
        self._rows.clear()

    def wait_for_chunk(self, chunk_tokens: int) -> None:
        """Wait as long as one prompt's chunk takes when nothing else is done."""
        self._sleep(self._plant.step_s(rows=0, longest_tokens=0, prompts=1, chunk_tokens=chunk_tokens))

    def finished_prefix(self, tokens: list[int]) -> Prefix:
        """Return what the prefix store keeps for these tokens."""
        size_bytes = int(len(tokens) * self._params.kv_bytes_per_token)
        return Prefix(tokens=tokens, payload=None, size_bytes=size_bytes)


class SimulatedPrefill:
    """A prefix being computed for the prefix store."""

    def __init__(self, batch: SimulatedBatch, prompt: list[int], cached_tokens: int) -> None:
        self._batch = batch
        self._prompt = prompt
        self.remaining_tokens = len(prompt) - cached_tokens

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""
        computed = min(chunk_tokens, self.remaining_tokens)
        self._batch.wait_for_chunk(computed)
        self.remaining_tokens -= computed

    def prefix(self) -> Prefix:
        """Return the result, once nothing remains."""
        return self._batch.finished_prefix(self._prompt)
