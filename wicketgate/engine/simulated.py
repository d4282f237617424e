"""The simulated engine: the batching of the real one over a plant, for tests and scale without a device."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from wicketgate.engine.batch import SHORT_PROMPT_TOKENS, DeviceError, Emitted, MemoryUse, RowError
from wicketgate.engine.jobs import job_tokens
from wicketgate.engine.kv.store import Prefix
from wicketgate.engine.memory import cache_limit
from wicketgate.engine.plant import Plant, PlantParams, drawn_logprob, drawn_token, drawn_vector
from wicketgate.engine.wire import (
    PROTOCOL_VERSION,
    Assess,
    Assessed,
    Embed,
    Embedded,
    Ready,
    Score,
    Scored,
    Submit,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.batch import Chunk
    from wicketgate.engine.kv.store import Hit
    from wicketgate.engine.options import HostOptions
    from wicketgate.engine.wire import JobMessage, Part

DEFAULT_CONTEXT_TOKENS: Final = 32_768
VECTOR_SIZE: Final = 32
"""Of an embedding."""
LOGPROB: Final = -1.0
"""Reported for every token when asked; alternatives are the next ids, each one less likely by 1."""


def open_simulated(
    options: HostOptions, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[SimulatedBatch, Ready]:
    """Build the batch and say what it is."""
    began_s = clock()
    params = msgspec.convert(options.plant, PlantParams)
    batch = SimulatedBatch(options, params, sleep=sleep)
    ready = Ready(
        version=PROTOCOL_VERSION,
        pid=os.getpid(),
        engine="simulated",
        device="plant",
        model_type="simulated",
        vocabulary_size=batch.vocabulary_size,
        context_tokens=batch.context_tokens,
        eos_token_ids=options.eos_token_ids,
        kv_bytes_per_token=batch.kv_bytes_per_token,
        weights_bytes=int(params.weights_bytes),
        load_s=clock() - began_s,
        full_chunk_s=Plant(params, seed=0).prefill_s([(1, options.prefill_step_tokens, 0)]),
        runtime="plant",
        blas="reference",
    )
    return batch, ready


class _Meter:
    """Bytes of KV that somebody outside the batch holds."""

    size_bytes = 0


class SimulatedKv:
    """Stands for KV of these tokens; takes memory for as long as somebody refers to it."""

    def __init__(self, tokens: list[int], size_bytes: int, meter: _Meter) -> None:
        self.tokens = tokens
        self._size_bytes = size_bytes
        self._meter = meter
        meter.size_bytes += size_bytes

    def __del__(self) -> None:
        """Give the memory back."""
        self._meter.size_bytes -= self._size_bytes


@dataclass(slots=True)
class _Row:
    message: Submit
    ends: frozenset[int]
    computed_tokens: int
    """Of the prompt; the whole of it once the row decodes."""
    reused_tokens: int
    emitted: list[int] = field(default_factory=list)

    @property
    def decodes(self) -> bool:
        return bool(self.emitted)

    @property
    def kv_tokens(self) -> int:
        # A token has KV once the one after it was computed.
        return self.computed_tokens + max(0, len(self.emitted) - 1)

    def tokens(self) -> list[int]:
        if not self.emitted:
            return self.message.prompt[: self.computed_tokens]
        return [*self.message.prompt, *self.emitted[:-1]]


class SimulatedBatch:
    """Streams whose tokens take as long as the plant says."""

    def __init__(self, options: HostOptions, params: PlantParams, *, sleep: Callable[[float], None]) -> None:
        self.vocabulary_size = options.vocabulary_size
        self.context_tokens = options.context_tokens or DEFAULT_CONTEXT_TOKENS
        self.kv_bytes_per_token = int(params.kv_bytes_per_token)
        self.device_bytes = int(params.device_bytes) or None
        """Memory of the device; None is no bound."""
        self._options = options
        self._params = params
        self._plant = Plant(params, seed=options.seed)
        self._sleep = sleep
        self._rows: dict[int, _Row] = {}
        self._outside = _Meter()
        self._pool_bytes = 0
        self._active_bytes = 0

    # Memory

    def memory(self) -> MemoryUse:
        """Tell what is allocated; what was freed since the last look went to the pool, as far as it holds."""
        rows_bytes = self._rows_bytes()
        active_bytes = int(self._params.weights_bytes) + rows_bytes + self._outside.size_bytes
        freed_bytes = self._active_bytes - active_bytes
        pool_limit_bytes = cache_limit(int(self._params.weights_bytes))
        self._pool_bytes = max(0, min(pool_limit_bytes, self._pool_bytes + freed_bytes))
        self._active_bytes = active_bytes
        return MemoryUse(active_bytes=active_bytes, pool_bytes=self._pool_bytes, rows_bytes=rows_bytes)

    def _rows_bytes(self) -> int:
        padded_tokens = sum(rows * longest for rows, longest in self.groups())
        padded_tokens += sum(row.kv_tokens for row in self._rows.values() if not row.decodes)
        return padded_tokens * self.kv_bytes_per_token

    def drain_pool(self) -> None:
        """Empty the pool."""
        self._pool_bytes = 0

    def groups(self) -> list[tuple[int, int]]:
        """Return (rows, tokens of the longest) of the one group that there is."""
        lengths = [row.kv_tokens for row in self._rows.values() if row.decodes]
        return [(len(lengths), max(lengths))] if lengths else []

    def _work(self, time_s: float) -> None:
        """
        Take that long.

        Raises:
            DeviceError: more is allocated than the device has.
        """
        self._sleep(time_s)
        limit_bytes = self.device_bytes
        if limit_bytes is not None and (active_bytes := self.memory().active_bytes) > limit_bytes:
            raise DeviceError(f"out of memory: {active_bytes} bytes of {limit_bytes}")

    # Streams

    def open(self, message: Submit, hit: Hit[object] | None) -> int:
        """
        Take a stream; returns how many tokens of its prompt came from the hit.

        Raises:
            RowError: the hit holds other tokens than the prompt.
        """
        reused_tokens = self.reused(message.id, message.prompt, hit)
        eos = () if message.ignore_eos else self._options.eos_token_ids
        ends = frozenset((*eos, *message.stop_token_ids))
        self._rows[message.id] = _Row(message, ends, reused_tokens, reused_tokens)
        return reused_tokens

    def reused(self, key: int, prompt: Sequence[int], hit: Hit[object] | None) -> int:
        """Return how many leading tokens a hit serves; a wrong one must not pass for a right one."""
        if hit is None:
            return 0
        kv, shared_tokens = hit.entry.payload, hit.shared_tokens
        if not isinstance(kv, SimulatedKv) or kv.tokens[:shared_tokens] != list(prompt[:shared_tokens]):
            raise RowError(key, "the prefix store gave KV of other tokens")
        return shared_tokens

    def compute(self, chunks: Sequence[Chunk]) -> list[Emitted]:
        """Wait as long as these chunks take; whole short prompts go side by side."""
        side_by_side: list[int] = []
        passes: list[tuple[int, int, int]] = []
        for chunk in chunks:
            row = self._rows[chunk.id]
            is_whole = row.computed_tokens == 0 and chunk.tokens == len(row.message.prompt)
            if is_whole and chunk.tokens <= SHORT_PROMPT_TOKENS:
                side_by_side.append(chunk.tokens)
            else:
                passes.append((1, chunk.tokens, row.computed_tokens))
        if side_by_side:
            passes.append((len(side_by_side), max(side_by_side), 0))
        self._work(self._plant.prefill_s(passes))
        emitted = []
        for chunk in chunks:
            row = self._rows[chunk.id]
            row.computed_tokens += chunk.tokens
            if row.computed_tokens == len(row.message.prompt):
                emitted.append(self._emitted(row))
        return emitted

    def decode(self) -> list[Emitted]:
        """Wait as long as a step takes; a token for each row."""
        self._work(self._plant.decode_s(self.groups()))
        return [self._emitted(row) for row in list(self._rows.values()) if row.decodes]

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
        # As max_tokens on a resume is what is left, so is the rest of min_tokens.
        position = message.position + len(row.emitted)
        is_end = token in row.ends and position >= message.min_tokens
        reason = "stop" if is_end else "length" if len(row.emitted) >= message.max_tokens else None
        if reason is None:
            return Emitted(token=news)
        del self._rows[message.id]
        keeps = self._options.prefix_cache_bytes > 0
        prefix = self.prefix_of(row.tokens()) if keeps else None
        return Emitted(token=news, finish_reason=reason, prefix=prefix)

    def progress(self, key: int) -> Prefix | None:
        """Return the KV of a prompt in progress."""
        return self.prefix_of(self._rows[key].tokens())

    def remove(self, ids: Sequence[int], *, keep: bool) -> dict[int, Prefix]:
        """Drop streams; `keep` returns the KV that they had."""
        gone = {key: self._rows.pop(key) for key in ids if key in self._rows}
        return {key: self.prefix_of(row.tokens()) for key, row in gone.items()} if keep else {}

    def reset(self) -> None:
        """Forget all streams."""
        self._rows.clear()

    # Beside the streams

    def prefill(self, prompt: Sequence[int], hit: Hit[object] | None) -> SimulatedPrefill:
        """Begin to compute a prefix beside the streams."""
        return SimulatedPrefill(self, list(prompt), self.reused(-1, prompt, hit))

    def begin(self, message: JobMessage, hit: Hit[object] | None) -> SimulatedJob:
        """Begin a job."""
        reused_tokens = self.reused(message.id, message.query, hit) if isinstance(message, Score) else 0
        return SimulatedJob(self, message, reused_tokens, seed=self._options.seed)

    def compute_beside(self, tokens: int, *, context_tokens: int) -> None:
        """Wait as long as so many tokens take."""
        self._work(self._plant.prefill_s([(1, tokens, context_tokens)]))

    def prefix_of(self, tokens: list[int]) -> Prefix:
        """Return what the prefix store keeps for these tokens."""
        size_bytes = len(tokens) * self.kv_bytes_per_token
        kv = SimulatedKv(tokens, size_bytes, self._outside)
        return Prefix(tokens=tokens, payload=kv, size_bytes=size_bytes)


class SimulatedPrefill:
    """A prefix being computed for the prefix store."""

    def __init__(self, batch: SimulatedBatch, prompt: list[int], cached_tokens: int) -> None:
        self._batch = batch
        self._prompt = prompt
        self.remaining_tokens = len(prompt) - cached_tokens
        """How many tokens are still to be computed."""

    def advance(self, chunk_tokens: int) -> None:
        """Compute that many more."""
        computed = min(chunk_tokens, self.remaining_tokens)
        self._batch.compute_beside(computed, context_tokens=len(self._prompt) - self.remaining_tokens)
        self.remaining_tokens -= computed

    def prefix(self) -> Prefix:
        """Return what is computed so far."""
        return self._batch.prefix_of(self._prompt[: len(self._prompt) - self.remaining_tokens])


class SimulatedJob:
    """A job being computed: any token is about as likely as any other, and always as likely."""

    def __init__(self, batch: SimulatedBatch, message: JobMessage, reused_tokens: int, *, seed: int) -> None:
        self._batch = batch
        self._message = message
        self._reused_tokens = reused_tokens
        self._seed = seed
        self._assessed = 0
        # The last token of a prompt is not computed to be assessed.
        self.remaining_tokens = job_tokens(message) - reused_tokens - isinstance(message, Assess)
        """How many tokens are still to be computed."""

    def advance(self, chunk_tokens: int) -> None:
        """Compute about that many more."""
        computed = min(chunk_tokens, self.remaining_tokens)
        self._batch.compute_beside(computed, context_tokens=self._assessed)
        self.remaining_tokens -= computed

    def parts(self) -> list[Part]:
        """Return what became certain of the answer since the last call."""
        match self._message:
            case Assess() as message:
                return self._next_assessed(message)
            case Score() as message if not self.remaining_tokens:
                return [Scored(message.id, self._scores(message), self._reused_tokens)]
            case Embed() as message if not self.remaining_tokens:
                return [Embedded(message.id, [self._vector(prompt) for prompt in message.prompts])]
        return []

    def kept(self) -> Prefix | None:
        """Return the KV of an assessed prompt, all but that of its last token."""
        message = self._message
        return self._batch.prefix_of(message.prompt[:-1]) if isinstance(message, Assess) else None

    def _scores(self, message: Score) -> list[list[float]]:
        return [
            [drawn_logprob(seed=self._seed, item=item, label=label) for label in message.labels]
            for item in message.items
        ]

    def _next_assessed(self, message: Assess) -> list[Part]:
        begin, self._assessed = self._assessed, len(message.prompt) - 1 - self.remaining_tokens
        if begin == self._assessed:
            return []
        places = range(begin, self._assessed)
        said = [message.prompt[place + 1] for place in places]
        logprobs = [
            drawn_logprob(seed=self._seed, item=[message.prompt[place]], label=[token])
            for place, token in zip(places, said, strict=True)
        ]
        top = [
            [((token + rank) % self._batch.vocabulary_size, logprob - rank) for rank in range(message.top)]
            for token, logprob in zip(said, logprobs, strict=True)
        ]
        return [Assessed(message.id, logprobs, top)]

    def _vector(self, prompt: Sequence[int]) -> bytes:
        return struct.pack(
            f"<{VECTOR_SIZE}f", *drawn_vector(seed=self._seed, prompt=prompt, size=VECTOR_SIZE)
        )
